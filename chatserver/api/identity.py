"""Who asks: tokens and cookies of a request become its Caller, once, before its handler runs.

Invariants: every route needs an identity check except those that the URL table marks as open, so a new route is guarded
by default. A token that is not good is refused and never taken for nobody: a page must not show a stranger's empty list
where its user's login has ended. A token never stands in an address.

This and chatserver.api.reading are the only places that know the cookies' names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from aiohttp import web

from chatserver.api.reading import SESSION_COOKIE, VISITOR_COOKIE, cookie_of, is_secure, network_of
from chatserver.api.request_keys import CALLER
from chatserver.api.services import services
from chatserver.auth.tokens import Token
from chatserver.errors import Forbidden, Unauthorized, UnsupportedMedia
from chatserver.principal import ANONYMOUS, PUBLIC_TENANT, Principal
from chatserver.session_service import Caller

TOKEN_COOKIE = "chatserver_token"  # noqa: S105 - its name

# The token that came with the request and is good; absent where there is none.
TOKEN: web.RequestKey[Token] = web.RequestKey("token", Token)

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


async def identify(request: web.Request) -> None:
    """Put the request's Caller into it.

    Raises: Unauthorized, where its token is not good or it has none and needs one; what `token_of` raises.
    """
    app = services(request)
    token = await token_of(request)
    if token is not None:
        request[TOKEN] = token
        principal = token.principal
    elif app.settings.auth == "required":
        raise Unauthorized("this server is for people who are logged in")
    else:
        principal = visitor_of(request)
    request[CALLER] = as_caller(request, principal)


def as_caller(request: web.Request, principal: Principal) -> Caller:
    """The principal as the one who makes this request."""
    open_to_all = services(request).settings.registration == "open" and principal.tenant == PUBLIC_TENANT
    return Caller(principal, network_of(request), self_made=open_to_all and principal.kind == "user")


async def token_of(request: web.Request) -> Token | None:
    """The token that the request brings; None where it brings none.

    `Authorization: Bearer` goes before the cookie: who writes a header means it.
    Raises: Unauthorized, Unavailable (`issuer_unavailable`); Forbidden and UnsupportedMedia, where a change with the
    cookie might come from another site (spec A3).
    """
    scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return await services(request).accounts.authenticate(bearer.strip())
    cookie = cookie_of(request, TOKEN_COOKIE)
    if cookie is None:
        return None
    _check_cookie_change(request)
    return await services(request).accounts.authenticate(cookie)


def _check_cookie_change(request: web.Request) -> None:
    """A3. That what the headers say is good was looked at before; here they must say it: every browser does."""
    if request.method in _SAFE:
        return
    if "Origin" not in request.headers and "Sec-Fetch-Site" not in request.headers:
        raise Forbidden("a change with the cookie needs the header Origin; programs send a token", code="cross_site")
    if request.body_exists and request.content_type != "application/json":
        raise UnsupportedMedia()


def visitor_of(request: web.Request) -> Principal:
    """The visitor of the request's signed cookie, or nobody."""
    cookie = cookie_of(request, VISITOR_COOKIE)
    visitor_id = services(request).visitors.read(cookie) if cookie is not None else None
    return ANONYMOUS if visitor_id is None else Principal(PUBLIC_TENANT, "visitor", visitor_id)


def lease_of(request: web.Request) -> Callable[[], str | None] | None:
    """What tells why the request's token is over; None where it came without one."""
    token = request.get(TOKEN)
    return None if token is None else partial(services(request).accounts.over, token)


def set_token_cookie(request: web.Request, response: web.Response, text: str) -> None:
    """Give the browser its token."""
    response.set_cookie(
        TOKEN_COOKIE,
        text,
        max_age=int(services(request).settings.token_lifetime_seconds),
        httponly=True,
        samesite="Lax",
        secure=is_secure(request),
        path="/",
    )


def drop_token_cookie(request: web.Request, response: web.Response) -> None:
    """Take the browser's token away, and with it the session that its user was in: to whoever comes next, every request
    that names no session would be refused."""
    if cookie_of(request, TOKEN_COOKIE) is not None:
        for name in (TOKEN_COOKIE, SESSION_COOKIE):
            response.del_cookie(name, httponly=True, samesite="Lax", secure=is_secure(request), path="/")
