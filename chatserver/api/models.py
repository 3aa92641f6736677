"""`GET /api/models`: what sessions can name."""

from __future__ import annotations

from aiohttp import web

from chatserver.api.answers import json_response
from chatserver.api.reading import caller_of
from chatserver.api.services import services


async def models(request: web.Request) -> web.Response:
    """`GET /api/models`: the catalogue, without its keys, and what a message may be."""
    app, tenant = services(request), caller_of(request).principal.tenant
    return json_response(
        {
            "models": app.catalog.models(tenant),
            "default_model": app.catalog.default_id(tenant),
            "max_message_chars": app.settings.max_message_chars,
        }
    )
