"""`GET /api/export`: one session to take away, as JSON or as Markdown. It is sent as it is read, batch by batch."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from urllib.parse import quote

from aiohttp import web

from chatserver import transfer_markdown as markdown
from chatserver.api import streamed
from chatserver.api.answers import tell_session
from chatserver.api.reading import caller_of, read_query, session_id_of
from chatserver.api.route import JSON, MARKDOWN
from chatserver.api.schemas import ExportQuery
from chatserver.api.services import services
from chatserver.clock import rfc3339
from chatserver.errors import NotFound
from chatserver.session_service import Caller, SessionService
from chatserver.transfer_format import message_json, session_json
from chatserver.transfer_source import Export

# A file's name that every system takes, its ending included.
MAX_NAME_CHARS = 80


async def export(request: web.Request) -> web.StreamResponse:
    """`GET /api/export`: take a session away as a file: all of it as JSON, or what was said as Markdown."""
    query, app, caller = read_query(request, ExportQuery), services(request), caller_of(request)
    session_id = session_id_of(request)
    if session_id is None:
        raise NotFound("the request names no session", code="session_not_found")
    with app.hub.place(caller.counted_as, caller.counted_too):
        found = await _found(request, app.sessions, caller, session_id)
        as_json = query.format == "json"
        response = web.StreamResponse()
        response.content_type = JSON if as_json else MARKDOWN
        if not as_json:
            response.charset = "utf-8"
        response.headers["Content-Disposition"] = disposition(found.record.title, "json" if as_json else "md")
        await streamed.send(request, response, _json(found) if as_json else _markdown(found))
        return response


async def _found(request: web.Request, sessions: SessionService, caller: Caller, session_id: str) -> Export:
    """A function of its own, so that nothing holds the live session while its messages are sent."""
    async with sessions.open_stored(caller, session_id) as live:
        tell_session(request, live)
        return await sessions.lists.export(live)


async def _json(found: Export) -> AsyncGenerator[bytes, None]:
    yield session_json(found.record, found.queue)[:-1] + b',"messages":['
    separator = b""
    async with aclosing(found.every_message()) as batches:
        async for batch in batches:
            for message in batch:
                yield separator + message_json(message)
                separator = b","
    yield b"]}"


async def _markdown(found: Export) -> AsyncGenerator[bytes, None]:
    yield markdown.head(found.record, rfc3339(found.record.created_at)).encode()
    async with aclosing(found.active_branch()) as batches:
        async for batch in batches:
            for message in batch:
                yield markdown.message(message).encode()


def disposition(title: str, ending: str) -> str:
    """A `Content-Disposition` (RFC 6266) that names the file after a title, in ASCII and in the title's own letters.

    Neither name has anything but letters, digits and `._-`, so it leads into no folder and hides no other ending.
    """
    letters = re.sub(r"[^\w.-]+", "-", title)[:MAX_NAME_CHARS].strip(".-_")
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", letters).strip(".-_")
    return (
        f'attachment; filename="{plain or "session"}.{ending}"; '
        f"filename*=UTF-8''{quote(letters or 'session', safe='')}.{ending}"
    )
