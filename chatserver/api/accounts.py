"""Accounts: register, log in, log out, a new password, who am I (spec A1)."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from chatserver.accounts import Login
from chatserver.api.account_schemas import LoginBody, PasswordBody, RegisterBody
from chatserver.api.answers import json_response
from chatserver.api.identity import TOKEN, as_caller, drop_token_cookie, set_token_cookie, token_of, visitor_of
from chatserver.api.reading import network_of, read_body, session_id_of
from chatserver.api.records import set_session_cookie
from chatserver.api.request_keys import SESSION_ID
from chatserver.api.services import services
from chatserver.auth.tokens import Token
from chatserver.clock import rfc3339
from chatserver.errors import ChatServerError, Unauthorized
from chatserver.principal import ANONYMOUS, Principal


async def register(request: web.Request) -> web.Response:
    """`POST /api/auth/register`: a new user, logged in; the browser's visitor becomes that user."""
    body = await read_body(request, RegisterBody)
    session_id = session_id_of(request)  # refused before anything is done
    login = await services(request).accounts.register(body.username, body.password, network_of(request))
    return await _logged_in(request, login, session_id, 201)


async def login(request: web.Request) -> web.Response:
    """`POST /api/auth/login`: a token; the browser's visitor becomes the user."""
    body = await read_body(request, LoginBody)
    session_id = session_id_of(request)
    login = await services(request).accounts.login(body.tenant, body.username, body.password, network_of(request))
    return await _logged_in(request, login, session_id, 200)


async def _logged_in(request: web.Request, login: Login, wanted: str | None, status: int) -> web.Response:
    app, token = services(request), login.token
    try:
        before = await token_of(request)
    except ChatServerError:
        before = None  # a login must work whatever the browser still holds
    if before is not None and before.principal != token.principal:
        # Tabs of the person who sat here before must not go on showing their words.
        await app.accounts.logout(before)
        app.hub.look_at_leases()
    visitor = visitor_of(request)
    adopted = await app.sessions.adopt(visitor, token.principal)
    if visitor.counted_as is not None:
        app.hub.dismiss(visitor.counted_as, "signed_in")
    caller = as_caller(request, token.principal)
    session_id = await app.sessions.session_at_login(caller, wanted)
    response = json_response(_fresh(login) | {"sessions_adopted": adopted, "session_id": session_id}, status)
    set_token_cookie(request, response, login.text)
    if session_id is not None:
        request[SESSION_ID] = session_id
        set_session_cookie(request, response, session_id, app.settings.user_session_ttl_seconds)
    return response


async def password(request: web.Request) -> web.Response:
    """`POST /api/auth/password`: a new password; all logins of the user end, and this one goes on with a new token."""
    body = await read_body(request, PasswordBody)
    app, token = services(request), request.get(TOKEN)
    if token is None:
        raise Unauthorized("only who is logged in has a password")
    login = await app.accounts.change_password(token, body.current_password, body.new_password, network_of(request))
    app.hub.look_at_leases()
    response = json_response(_fresh(login))
    if "Authorization" not in request.headers:  # else the browser's cookie, if any, may be somebody else's
        set_token_cookie(request, response, login.text)
    return response


async def logout(request: web.Request) -> web.Response:
    """`POST /api/auth/logout`: end the request's token, and its streams. Without a good token: nothing to do."""
    app = services(request)
    try:
        token = await token_of(request)
    except Unauthorized:
        token = None
    if token is not None:
        await app.accounts.logout(token)
        app.hub.look_at_leases()
    response = json_response({"logged_out": token is not None})
    drop_token_cookie(request, response)
    return response


async def me(request: web.Request) -> web.Response:
    """`GET /api/auth/me`: who the server takes the caller for, and what it offers; never refused."""
    settings = services(request).settings
    token, problem = None, None
    try:
        token = await token_of(request)
    except ChatServerError as error:
        problem = error.narrow_code
    if token is not None:
        shown = _shown(token)
    else:
        # Where a login is required, being a visitor is good for nothing.
        nobody = settings.auth == "required"
        shown = _principal(ANONYMOUS if nobody else visitor_of(request))
    offered = {
        "auth": settings.auth,
        "registration": settings.registration == "open",
        "password_min_chars": settings.password_min_chars,
    }
    return json_response(shown | offered | {"token_problem": problem})


def _fresh(login: Login) -> dict[str, Any]:
    return {"token": login.text, "token_type": "Bearer"} | _shown(login.token)


def _shown(token: Token) -> dict[str, Any]:
    return _principal(token.principal) | {"username": token.username, "expires_at": rfc3339(token.expires_at)}


def _principal(principal: Principal) -> dict[str, Any]:
    return {
        "kind": principal.kind,
        "user_id": principal.user_id,
        "username": None,
        "tenant": principal.tenant,
        "scopes": sorted(principal.scopes),
        "expires_at": None,
    }
