"""Sessions inside their projects (spec §7): parse, call the one door, answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import orjson
from aiohttp import web

from chatserver.api import streamed
from chatserver.api.answers import json_response, tell_session, tell_session_id
from chatserver.api.reading import caller_of, explicit_session_id, read_body, read_query
from chatserver.api.record_schemas import (
    DeleteQuery,
    ListQuery,
    MessageBody,
    MessagesQuery,
    ProjectSessionBody,
    SessionUpdateBody,
)
from chatserver.api.records import cursor_of, listed_wire, message_wire, place_of, session_wire
from chatserver.api.route import JSON
from chatserver.api.services import services
from chatserver.clock import rfc3339
from chatserver.message import Message
from chatserver.quotas import summed
from chatserver.session_service import Caller, SessionService
from chatserver.store.base import SessionRecord


def _project(request: web.Request) -> str:
    return request.match_info["project_id"]


def _session(request: web.Request) -> str:
    explicit_session_id(request)  # an id in the query or a header that contradicts the path's is refused
    return request.match_info["session_id"]


async def list_projects(request: web.Request) -> web.Response:
    """`GET /api/projects`: list those that hold sessions of the caller."""
    projects = await services(request).sessions.lists.list_projects(caller_of(request))
    return json_response(
        [
            {
                "project_id": p.project_id,
                "sessions": p.sessions,
                "messages": p.messages,
                "updated_at": rfc3339(p.updated_at),
            }
            for p in projects
        ]
    )


async def stats(request: web.Request) -> web.Response:
    """`GET /api/projects/{project_id}/stats`: the caller's sessions of the project in numbers."""
    caller, lists = caller_of(request), services(request).sessions.lists
    found = await lists.session_stats(caller, _project(request))
    used = await lists.project_usage(caller, _project(request))
    return json_response(
        {
            "project_id": _project(request),
            "total_sessions": found.total_sessions,
            "active_sessions": found.active_sessions,
            "total_messages": found.total_messages,
            "average_messages_per_session": found.average_messages_per_session,
            "sessions_by_project": found.sessions_by_project,
            "tokens": summed(used),
            "updated_at": None if found.updated_at is None else rfc3339(found.updated_at),
        }
    )


async def create(request: web.Request) -> web.Response:
    """`POST …/sessions`: make one (201), or find the one that is named and agrees (200)."""
    body = await read_body(request, ProjectSessionBody)
    sessions, named = services(request).sessions, explicit_session_id(request)
    new = body.new_session(_project(request))
    async with sessions.create_session(caller_of(request), named, new) as (live, made):
        tell_session(request, live)
        return json_response(session_wire(live.record), status=201 if made else 200)


async def list_sessions(request: web.Request) -> web.Response:
    """`GET …/sessions`: list or search the caller's, newest first; the header `Link` says where it goes on."""
    query = read_query(request, ListQuery)
    lists = services(request).sessions.lists
    found = await lists.list_sessions(
        caller_of(request),
        project_id=_project(request),
        include_inactive=query.include_inactive,
        query=query.q,
        limit=query.limit + 1,
        offset=query.offset,
        after=None if query.cursor is None else place_of(query.cursor),
    )
    response = json_response([{**session_wire(s.record), **listed_wire(lists, s)} for s in found[: query.limit]])
    if len(found) > query.limit:
        cursor = cursor_of(found[query.limit - 1].record)
        further = request.rel_url.update_query(cursor=cursor).without_query_params("offset")
        response.headers["Link"] = f'<{further}>; rel="next"'
    return response


async def get(request: web.Request) -> web.Response:
    """`GET …/sessions/{session_id}`: its record."""
    sessions = services(request).sessions
    async with sessions.open_stored(caller_of(request), _session(request), project_id=_project(request)) as live:
        tell_session(request, live)
        return json_response(session_wire(live.record))


async def put(request: web.Request) -> web.Response:
    """`PUT …/sessions/{session_id}`: change what is given."""
    body = await read_body(request, SessionUpdateBody)
    caller, sessions = caller_of(request), services(request).sessions
    async with sessions.open_stored(caller, _session(request), project_id=_project(request)) as live:
        tell_session(request, live)
        await sessions.change_session(caller, live, body.wanted())
        return json_response(session_wire(live.record))


async def delete(request: web.Request) -> web.Response:
    """`DELETE …/sessions/{session_id}`: delete it; one with messages only with `force=true`."""
    query, session_id = read_query(request, DeleteQuery), _session(request)
    await services(request).sessions.delete_session(
        caller_of(request), session_id, project_id=_project(request), force=query.force, missing_ok=False
    )
    tell_session_id(request, session_id)
    return json_response({"message": "Session deleted successfully", "session_id": session_id})


async def add_message(request: web.Request) -> web.Response:
    """`POST …/messages`: store one without starting a turn."""
    body = await read_body(request, MessageBody)
    caller, sessions = caller_of(request), services(request).sessions
    async with sessions.open_stored(caller, _session(request), project_id=_project(request)) as live:
        tell_session(request, live)
        message = await sessions.store_message(caller, live, body.role, body.content, body.metadata)
        return json_response(message_wire(message, live.record), status=201)


async def list_messages(request: web.Request) -> web.Response:
    """`GET …/messages`: a page of them, oldest first; the header `Link` says where it goes on."""
    query, sessions = read_query(request, MessagesQuery), services(request).sessions
    async with sessions.open_stored(caller_of(request), _session(request), project_id=_project(request)) as live:
        tell_session(request, live)
        page, has_more = await sessions.lists.messages(live, offset=query.offset, limit=query.limit)
        response = json_response([message_wire(m, live.record) for m in page])
        if has_more:
            further = request.rel_url.update_query(offset=str(query.offset + len(page)))
            response.headers["Link"] = f'<{further}>; rel="next"'
        return response


async def full(request: web.Request) -> web.StreamResponse:
    """`GET …/full`: the record and all messages.

    They are read and sent page by page, so that a long conversation needs no memory.
    """
    app, caller = services(request), caller_of(request)
    with app.hub.place(caller.counted_as, caller.counted_too):
        record, pages = await _whole(request, app.sessions, caller)
        async with aclosing(pages):
            first = await anext(pages, None)  # what can be refused is refused before the head goes out
            response = web.StreamResponse()
            response.content_type = JSON
            await streamed.send(request, response, _full_json(record, first, pages))
        return response


async def _whole(
    request: web.Request, sessions: SessionService, caller: Caller
) -> tuple[SessionRecord, AsyncGenerator[tuple[Message, ...], None]]:
    """A function of its own, so that nothing holds the live session while its messages are sent."""
    async with sessions.open_stored(caller, _session(request), project_id=_project(request)) as live:
        tell_session(request, live)
        return live.record, sessions.lists.all_messages(live)


async def _full_json(
    record: SessionRecord, page: tuple[Message, ...] | None, pages: AsyncGenerator[tuple[Message, ...], None]
) -> AsyncGenerator[bytes, None]:
    yield b'{"session":%b,"messages":[' % orjson.dumps(session_wire(record))
    separator = b""
    while page is not None:
        for message in page:
            yield separator + orjson.dumps(message_wire(message, record))
            separator = b","
        page = await anext(pages, None)
    yield b"]}"
