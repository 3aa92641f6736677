"""What callers have used: `GET /api/usage`."""

from __future__ import annotations

from aiohttp import web

from chatserver.api.answers import json_response, tell_session
from chatserver.api.ops import ADMIN
from chatserver.api.reading import caller_of, explicit_session_id, read_query
from chatserver.api.schemas import UsageQuery
from chatserver.api.services import services


async def usage(request: web.Request) -> web.Response:
    """`GET /api/usage?period=day|month`: the caller's own tokens and quotas; with `session_id` that session's."""
    asked = read_query(request, UsageQuery)
    app, caller = services(request), caller_of(request)
    session_id = explicit_session_id(request)
    if session_id is not None:
        async with app.sessions.open(caller, session_id, create="no") as live:
            tell_session(request, live)
            return json_response({"session_id": session_id} | await app.quotas.session_total(live.key))
    principal = caller.principal
    report = await app.quotas.report(
        principal.tenant, principal.owner, asked.period, operator=ADMIN in principal.scopes
    )
    return json_response(report)
