"""Middleware: request ids, errors as problems, same-origin rule for cookies, CORS by list, headers of every answer."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from urllib.parse import urlsplit

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from chatserver.api import problems
from chatserver.api.access_log import route_of
from chatserver.api.identity import identify
from chatserver.api.reading import SESSION_HEADER, is_secure
from chatserver.api.request_keys import REQUEST_ID, SESSION_ID, new_request_id
from chatserver.api.services import services
from chatserver.errors import ChatServerError, Forbidden, Misdirected, RateLimited, StoreFull, Unavailable

# What pages of other origins may read of an answer (Fetch standard, §3.2.3).
_EXPOSED = "X-Session-ID, X-Request-ID, Retry-After, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, Link"
# Refusals that an operator should see growing: this caller has too much, or everybody together.
_LIMITS = (RateLimited, Unavailable, StoreFull)
# Resources that answer whoever asks; the URL table says which.
OPEN: web.AppKey[frozenset[web.AbstractResource | None]] = web.AppKey("open")

# Of an origin and a host that are told back: names have up to 253, and who sends more knows what it sent.
_SHOWN_CHARS = 300
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error into a problem, and tell the access log. The first of the three places where any exception ends:
    the request's border. One function for both: its frame stands behind every open stream."""
    app = services(request)
    began = app.clock.monotonic()
    request_id = request[REQUEST_ID] = new_request_id()
    response: web.StreamResponse | None = None
    try:
        refuse_foreign_host(request)
        refuse_cross_site(request)
        if request.match_info.route.resource not in request.app[OPEN] and request.method != "OPTIONS":
            await identify(request)
        response = await handler(request)
    except ChatServerError as error:
        if isinstance(error, _LIMITS):
            app.metrics.http.refusals[error.narrow_code] += 1
        response = _refusal(request, problems.response(error, request_id))
    except web.HTTPMethodNotAllowed as error:
        allow = ", ".join(sorted(error.allowed_methods))
        response = _refusal(request, problems.http_response(405, request_id, allow=allow))
    except web.HTTPException as error:
        if error.status < 400:
            response = error
            raise
        response = _refusal(request, problems.http_response(error.status, request_id))
    except ConnectionError:
        raise  # the client has gone; there is nobody to answer
    except Exception as error:
        app.log.error(
            "request_failed", request_id=request_id, route=route_of(request), method=request.method, exc_info=error
        )
        response = _refusal(request, problems.internal(request_id))
    finally:
        app.access_log.ended(request, response, app.clock.monotonic() - began)
    return response


def _refusal(request: web.Request, problem: web.Response) -> web.Response:
    """The problem, in the envelope of those routes that have one (spec §8).

    Where an answer has begun, a second head would be read as part of it: the connection is closed.

    Raises: ConnectionError.
    """
    if request.writer.output_size > 0:
        raise ConnectionError("the answer has begun already")
    if request.path.startswith("/api/llm/") and isinstance(problem.body, bytes):
        problem.body = orjson.dumps({"success": False, **orjson.loads(problem.body)})
    return problem


def refuse_foreign_host(request: web.Request) -> None:
    """Refuse names that are not ours, so that a page cannot reach a server on loopback by a name of its own that it
    points there (DNS rebinding).

    Raises: Misdirected.
    """
    host = request.headers.get("Host")
    if host is None:
        return  # HTTP/1.0 by hand; every browser sends one
    settings = services(request).settings
    name = _name_of(host)
    if settings.allowed_hosts:
        ours = name in settings.allowed_hosts
    elif _is_loopback(settings.host) and (request.remote or "") not in settings.trusted_proxies:
        ours = name == "localhost" or name.endswith(".localhost") or _is_address(name)
    else:
        ours = True  # under which names a public server is reached is its proxy's to say
    if not ours:
        raise Misdirected(f"{name[:255]!r} is not a name of this server; see allowed_hosts")


@lru_cache(maxsize=256)
def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=256)  # every request asks, nearly always of the same few
def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def refuse_cross_site(request: web.Request) -> None:
    """A3: a change that a browser asks for must come from our own page or a listed origin, with cookies or without:
    without any it would still run tools and stop turns on a server that only this browser can reach.

    Raises: Forbidden (`cross_site`).
    """
    if request.method in _SAFE:
        return
    origin = request.headers.get("Origin")
    if origin is not None:
        # Of an unencrypted page of our own name, whoever sits on the line can be the author.
        ours = _host_of(origin) == request.host and not (origin.startswith("http:") and is_secure(request))
        if ours or origin in services(request).settings.cors_origins:
            return
    elif request.headers.get("Sec-Fetch-Site", "same-origin") in ("same-origin", "none"):
        return
    site = "another site" if origin is None else repr(origin[:_SHOWN_CHARS])
    raise Forbidden(
        f"a page of {site} may not do this: the request came to {request.host[:_SHOWN_CHARS]!r}", code="cross_site"
    )


@lru_cache(maxsize=256)
def _name_of(host: str) -> str:
    """A `Host` header's name without its port; empty where it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _host_of(origin: str) -> str | None:
    """Host and port of an origin; None where it is not one."""
    try:
        return urlsplit(origin).netloc
    except ValueError:  # e.g. an unclosed bracket
        return None


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """`on_response_prepare`: headers of every answer, streams included."""
    headers = response.headers
    headers["Server"] = "chatserver"  # aiohttp's own names the versions of what runs here
    headers["X-Content-Type-Options"] = "nosniff"
    if (request_id := request.get(REQUEST_ID)) is not None:
        headers["X-Request-ID"] = request_id
    if (session_id := request.get(SESSION_ID)) is not None:
        headers[SESSION_HEADER] = session_id
    if "Cache-Control" not in headers:
        headers["Cache-Control"] = "no-store"
    origin = request.headers.get("Origin")
    if origin is not None and origin in services(request).settings.cors_origins:
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Allow-Credentials"] = "true"
        headers["Access-Control-Expose-Headers"] = _EXPOSED
        headers.add("Vary", "Origin")


async def preflight(request: web.Request) -> web.Response:
    """CORS preflight (Fetch standard §3.2.2): listed origins only, 403 for others."""
    origin = request.headers.get("Origin", "")
    if origin not in services(request).settings.cors_origins:
        raise Forbidden("this origin may not call", code="cross_site")
    return web.Response(
        status=204,
        headers={
            "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE",
            "Access-Control-Allow-Headers": "Content-Type, Last-Event-ID, Prefer, X-Session-ID, Authorization",
            "Access-Control-Max-Age": "600",
        },
    )
