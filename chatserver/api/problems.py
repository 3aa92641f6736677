"""Problems: errors as `application/problem+json` (RFC 9457). The only place that knows statuses.

Nothing of an unexpected exception reaches the caller: its text goes to the log, under the request's id.
"""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web

from chatserver import errors as e

CONTENT_TYPE = "application/problem+json"

# The most specific class that an error is an instance of counts; `status_of` walks its bases.
_STATUSES: dict[type[e.ChatServerError], int] = {
    e.InvalidRequest: 400,
    e.InvalidFields: 422,
    e.NotFound: 404,
    e.Expired: 410,
    e.Unauthorized: 401,
    e.Forbidden: 403,
    e.Conflict: 409,
    e.TooLarge: 413,
    e.UnsupportedMedia: 415,
    e.Misdirected: 421,
    e.SlowRequest: 408,
    e.RateLimited: 429,
    e.Unavailable: 503,
    e.StoreFull: 507,
    e.StoreCorrupt: 503,
    e.ToolError: 502,
    e.AgentError: 502,
    e.ChatServerError: 500,
}

# What answers of a status always say in their headers, and as what.
HEADERS: dict[int, dict[str, str]] = {
    401: {"WWW-Authenticate": "string"},
    429: dict.fromkeys(("Retry-After", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"), "integer"),
    503: {"Retry-After": "integer"},
}

# Errors that aiohttp itself raises or answers.
_HTTP_CODES = {
    400: ("invalid_request", "The request cannot be understood"),
    404: ("not_found", "There is nothing at this address"),
    405: ("method_not_allowed", "This address has no such method"),
    408: ("request_timeout", "The request did not arrive in time"),
    413: ("too_large", "Over the size limit"),
    431: ("too_large", "Over the size limit"),
}


def status_of(kind: type[e.ChatServerError]) -> int:
    """The status of such an error."""
    return next(_STATUSES[cls] for cls in kind.__mro__ if cls in _STATUSES)


def body(
    status: int,
    code: str,
    title: str,
    detail: str,
    request_id: str,
    errors: list[dict[str, Any]] | None = None,
    resets_at: str | None = None,
) -> bytes:
    """A problem document as bytes."""
    fields: dict[str, Any] = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
    }
    if errors is not None:
        fields["errors"] = errors
    if resets_at is not None:
        fields["resets_at"] = resets_at
    return orjson.dumps(fields)


def response(error: e.ChatServerError, request_id: str) -> web.Response:
    """The answer for an error of the tree, with its headers."""
    status = status_of(type(error))
    headers: dict[str, str] = {}
    if isinstance(error, e.RateLimited):
        headers["Retry-After"] = headers["RateLimit-Reset"] = str(error.retry_after_seconds)
        headers["RateLimit-Limit"] = str(error.limit)
        headers["RateLimit-Remaining"] = "0"
    elif status == 503:
        headers["Retry-After"] = "2"
    elif status == 401:
        # RFC 6750 §3: a reason only where something was brought that is not good.
        bad = error.narrow_code.startswith("token_")
        headers["WWW-Authenticate"] = 'Bearer realm="chatserver"' + (', error="invalid_token"' if bad else "")
    errors = [{"loc": f.loc, "msg": f.msg} for f in error.errors] if isinstance(error, e.InvalidFields) else None
    resets_at = error.resets_at if isinstance(error, e.QuotaExceeded) else None
    data = body(status, error.narrow_code, error.title, clean(error.detail), request_id, errors, resets_at)
    return web.Response(status=status, body=data, content_type=CONTENT_TYPE, headers=headers)


def http_response(status: int, request_id: str, *, allow: str | None = None, detail: str = "") -> web.Response:
    """The answer for an error of the HTTP layer (no route, wrong method, malformed request)."""
    code, title = _HTTP_CODES.get(status, ("invalid_request", "The request cannot be served"))
    data = body(status, code, title, detail or title, request_id)
    headers = {"Allow": allow} if allow else None
    return web.Response(status=status, body=data, content_type=CONTENT_TYPE, headers=headers)


def internal(request_id: str) -> web.Response:
    """The answer for what should not happen; says nothing but where to look."""
    title = "An error inside the server"
    data = body(500, "internal_error", title, f"It is logged under request id {request_id}.", request_id)
    return web.Response(status=500, body=data, content_type=CONTENT_TYPE)


def clean(text: str) -> str:
    """A detail as JSON can carry it: details quote what callers sent."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
