"""The URL table: every route of the server, on one page."""

from __future__ import annotations

from typing import NamedTuple

from aiohttp import web
from aiohttp.typedefs import Handler

from chatserver.api import chat, middleware, models, ops, page, session, stream


class Route(NamedTuple):
    method: str
    path: str
    handler: Handler


ROUTES: tuple[Route, ...] = (
    Route("GET", "/health", ops.health),
    Route("GET", "/health/ready", ops.ready),
    Route("POST", "/api/chat", chat.chat),
    Route("GET", "/api/state", chat.state),
    Route("GET", "/api/chat/stream", stream.chat_stream),
    Route("POST", "/api/interrupt", chat.interrupt),
    Route("POST", "/api/system", chat.system),
    Route("POST", "/api/mcp-command", chat.mcp_command),
    Route("DELETE", "/api/queue/{turn_id}", chat.withdraw),
    Route("GET", "/api/stream", stream.multiplexed_stream),
    Route("POST", "/api/stream", stream.change_stream),
    Route("POST", "/api/session/create", session.create),
    Route("GET", "/api/session", session.get),
    Route("DELETE", "/api/session", session.delete),
    Route("GET", "/api/session/validate", session.validate),
    Route("POST", "/api/session/refresh", session.refresh),
    Route("GET", "/api/session/model", session.get_model),
    Route("PUT", "/api/session/model", session.put_model),
    Route("GET", "/api/models", models.models),
    Route("GET", "/", page.index),
    Route("GET", "/{path:(?!api/|health/)[^/].*}", page.asset),
)


def add_routes(app: web.Application) -> None:
    """Put the table into the application.

    `HEAD` is answered where `GET` is, but not on streams; `OPTIONS` on the API is CORS preflight.
    """
    resources: dict[str, web.Resource] = {}
    for route in ROUTES:
        resource = resources.get(route.path)
        if resource is None:
            resource = resources[route.path] = app.router.add_resource(route.path)
            if route.path.startswith("/api/"):
                resource.add_route("OPTIONS", middleware.preflight)
        resource.add_route(route.method, route.handler)
        if route.method == "GET" and not route.path.endswith("stream"):
            resource.add_route("HEAD", route.handler)
