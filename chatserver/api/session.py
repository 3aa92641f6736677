"""The caller's current session, as a singular resource (spec §5): the one that the request names, however it does."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from chatserver.api.answers import json_response, tell_session, tell_session_id
from chatserver.api.reading import SESSION_COOKIE, caller_of, cookie_of, explicit_session_id, read_body, session_id_of
from chatserver.api.record_schemas import CreateBody, ModelBody
from chatserver.api.records import session_wire, set_session_cookie
from chatserver.api.schemas import SessionBody
from chatserver.api.services import services
from chatserver.clock import rfc3339
from chatserver.errors import Expired, Forbidden, InvalidFields, NotFound
from chatserver.live_session import LiveSession


def _current(request: web.Request, in_body: str | None = None) -> str:
    session_id = session_id_of(request, in_body)
    if session_id is None:
        raise NotFound("the request names no session", code="session_not_found")
    return session_id


def _wire(live: LiveSession) -> dict[str, Any]:
    return {"session_id": live.key.session_id, **session_wire(live.record)}


async def create(request: web.Request) -> web.Response:
    """`POST /api/session/create`: make it (201), or find it there (200); sets the cookie."""
    body = await read_body(request, CreateBody)
    app = services(request)
    # A cookie names the session of before: whoever asks for a session without an id wants another.
    named = explicit_session_id(request, body.session_id)
    async with app.sessions.create_session(caller_of(request), named, body.new_session()) as (live, made):
        tell_session(request, live)
        response = json_response(_wire(live), status=201 if made else 200)
        set_session_cookie(request, response, live.key.session_id, live.record.expires_at - app.clock.now())
        return response


async def get(request: web.Request) -> web.Response:
    """`GET /api/session`: its record."""
    async with services(request).sessions.open(caller_of(request), _current(request), create="no") as live:
        tell_session(request, live)
        return json_response(_wire(live))


async def validate(request: web.Request) -> web.Response:
    """`GET /api/session/validate`: whether the caller can use the session, and why not; never a refusal."""
    session_id = session_id_of(request)
    reason = expires_at = None
    try:
        async with services(request).sessions.open(caller_of(request), _current(request), create="no") as live:
            tell_session(request, live)
            expires_at = rfc3339(live.record.expires_at)
    except (NotFound, Expired, Forbidden, InvalidFields) as error:
        reason = error.narrow_code
    return json_response(
        {"valid": reason is None, "reason": reason, "session_id": session_id, "expires_at": expires_at}
    )


async def refresh(request: web.Request) -> web.Response:
    """`POST /api/session/refresh`: push the expiry as activity does."""
    body = await read_body(request, SessionBody)
    caller, app = caller_of(request), services(request)
    async with app.sessions.open(caller, _current(request, body.session_id), create="no") as live:
        tell_session(request, live)
        await app.sessions.extend_session(caller, live)
        response = json_response(_wire(live))
        if cookie_of(request, SESSION_COOKIE) == live.key.session_id:
            set_session_cookie(request, response, live.key.session_id, live.record.expires_at - app.clock.now())
        return response


def _model(request: web.Request, live: LiveSession) -> web.Response:
    app = services(request)
    return json_response(
        {
            "session_id": live.key.session_id,
            "model": app.sessions.get_current_model(live),
            "chosen": live.record.model,
            "missing_api_key": live.state.missing_api_key,
        }
    )


async def get_model(request: web.Request) -> web.Response:
    """`GET /api/session/model`: the model that answers next."""
    async with services(request).sessions.open(caller_of(request), _current(request), create="no") as live:
        tell_session(request, live)
        return _model(request, live)


async def put_model(request: web.Request) -> web.Response:
    """`PUT /api/session/model`: choose the model, from the next turn on."""
    body = await read_body(request, ModelBody)
    caller, sessions = caller_of(request), services(request).sessions
    async with sessions.open(caller, _current(request, body.session_id), create="no") as live:
        tell_session(request, live)
        await sessions.switch_model(caller, live, body.model)
        return _model(request, live)


async def delete(request: web.Request) -> web.Response:
    """`DELETE /api/session`: delete it with everything in it; one that has gone is deleted already."""
    body = await read_body(request, SessionBody)
    session_id = _current(request, body.session_id)
    deleted = await services(request).sessions.delete_session(
        caller_of(request), session_id, force=True, missing_ok=True
    )
    tell_session_id(request, session_id)
    response = json_response({"session_id": session_id, "deleted": deleted})
    if cookie_of(request, SESSION_COOKIE) == session_id:
        response.del_cookie(SESSION_COOKIE, path="/")
    return response
