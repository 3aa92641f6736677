"""Liveness and readiness (spec L1)."""

from __future__ import annotations

from aiohttp import web

import chatserver
from chatserver.api.answers import json_response
from chatserver.api.services import services
from chatserver.errors import ChatServerError, Draining


async def health(request: web.Request) -> web.Response:
    """`GET /health`: whether the process answers."""
    return json_response({"status": "ok", "version": chatserver.__version__})


async def ready(request: web.Request) -> web.Response:
    """`GET /health/ready`: whether it can take work: the store reads and writes, the data folder is there, no drain."""
    app = services(request)
    if app.turns.draining:
        raise Draining()
    try:
        await app.store.ready()
    except ChatServerError as error:
        app.log.warning("not_ready", code=error.narrow_code)
        raise
    return json_response({"status": "ready"})
