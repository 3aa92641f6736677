"""What handlers and middleware leave in a request for each other."""

from __future__ import annotations

from aiohttp import web

from chatserver.clock import random_hex
from chatserver.session_service import Caller

REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
# Set by handlers as soon as they know it; told in every answer (spec S1).
SESSION_ID: web.RequestKey[str] = web.RequestKey("session_id", str)
# Whoever asks for it first finds out; reading a cookie or a token costs.
CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)
# The answer is a stream whose head is out.
STREAM: web.RequestKey[bool] = web.RequestKey("stream", bool)


def new_request_id() -> str:
    """What a request is called in its answer and in the log: 64 random bits."""
    return random_hex()[:16]
