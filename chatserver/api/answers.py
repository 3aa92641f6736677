"""Answers that several handlers give."""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web

from chatserver.api.reading import wants_minimal
from chatserver.api.request_keys import SESSION_ID
from chatserver.live_session import LiveSession


def json_response(value: Any, status: int = 200) -> web.Response:
    """`value` as JSON."""
    return web.Response(status=status, body=orjson.dumps(value), content_type="application/json")


def state_response(request: web.Request, live: LiveSession, *, status: int = 200, **extra: Any) -> web.Response:
    """The session's state (spec §3) with `extra` fields; without its messages where the client prefers so."""
    minimal = wants_minimal(request)
    response = json_response(live.state.wire(with_messages=not minimal) | extra, status)
    if minimal:
        response.headers["Preference-Applied"] = "return=minimal"
    return response


def tell_session(request: web.Request, live: LiveSession) -> None:
    """Have the answer name the session (spec S1)."""
    request[SESSION_ID] = live.key.session_id


def tell_session_id(request: web.Request, session_id: str) -> None:
    """The same, of a session that is no more; its id has been found valid."""
    request[SESSION_ID] = session_id
