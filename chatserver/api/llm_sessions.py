"""The user's sessions, whatever project they are in (spec §8), in an envelope `{success, data, …}`."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from chatserver.api.answers import json_response, tell_session, tell_session_id
from chatserver.api.reading import caller_of, explicit_session_id, read_body, read_query
from chatserver.api.record_schemas import MAX_PAGE, LlmCreateBody, LlmGetQuery, LlmListQuery, LlmUpdateBody
from chatserver.api.records import listed_wire, message_wire, session_wire
from chatserver.api.services import services
from chatserver.principal import Principal
from chatserver.session_rules import NewSession
from chatserver.store.base import SessionRecord


def _thread_id(principal: Principal, record: SessionRecord) -> str:
    return f"user_{principal.user_id or 'anonymous'}_tenant_{principal.tenant}_session_{record.key.session_id}"


def _wire(principal: Principal, record: SessionRecord) -> dict[str, Any]:
    shown = session_wire(record)
    return {
        "id": shown["id"],
        "session_id": shown["id"],
        "thread_id": _thread_id(principal, record),
        "session_name": shown["title"],
        "is_archived": not shown["is_active"],
        **{
            name: shown[name]
            for name in (
                "message_count",
                "created_at",
                "updated_at",
                "last_message_at",
                "expires_at",
                "project_id",
                "model",
            )
        },
    }


def _session(request: web.Request) -> str:
    explicit_session_id(request)  # an id in the query or a header that contradicts the path's is refused
    return request.match_info["session_id"]


async def create(request: web.Request) -> web.Response:
    """`POST /api/llm/sessions`: make one (201), or find the one that is named and agrees (200)."""
    body = await read_body(request, LlmCreateBody)
    caller, sessions = caller_of(request), services(request).sessions
    named = explicit_session_id(request, body.session_id)
    async with sessions.create_session(caller, named, NewSession(title=body.session_name)) as (live, made):
        tell_session(request, live)
        data = _wire(caller.principal, live.record)
        return json_response(
            {"success": True, "data": data, "session_id": data["session_id"], "thread_id": data["thread_id"]},
            status=201 if made else 200,
        )


async def list_sessions(request: web.Request) -> web.Response:
    """`GET /api/llm/sessions`: list or search the caller's, newest first."""
    query, caller = read_query(request, LlmListQuery), caller_of(request)
    lists = services(request).sessions.lists
    found = await lists.list_sessions(
        caller, include_inactive=query.include_archived, query=query.q, limit=query.limit, offset=query.offset
    )
    data = [{**_wire(caller.principal, s.record), **listed_wire(lists, s)} for s in found]
    return json_response(
        {"success": True, "data": data, "count": len(data), "limit": query.limit, "offset": query.offset}
    )


async def get(request: web.Request) -> web.Response:
    """`GET /api/llm/sessions/{session_id}`: its record, and its messages where they are asked for."""
    query, caller, sessions = read_query(request, LlmGetQuery), caller_of(request), services(request).sessions
    async with sessions.open_stored(caller, _session(request)) as live:
        tell_session(request, live)
        answer: dict[str, Any] = {"success": True, "data": _wire(caller.principal, live.record)}
        if query.include_messages:
            messages, has_more = await sessions.lists.newest_messages(live, MAX_PAGE)
            answer["messages"] = [message_wire(m, live.record) for m in messages]
            answer["has_more"] = has_more
        return json_response(answer)


async def put(request: web.Request) -> web.Response:
    """`PUT /api/llm/sessions/{session_id}`: rename or archive it."""
    body = await read_body(request, LlmUpdateBody)
    caller, sessions = caller_of(request), services(request).sessions
    async with sessions.open_stored(caller, _session(request)) as live:
        tell_session(request, live)
        await sessions.change_session(caller, live, body.wanted(), message_count=body.message_count)
        return json_response({"success": True, "data": _wire(caller.principal, live.record)})


async def delete(request: web.Request) -> web.Response:
    """`DELETE /api/llm/sessions/{session_id}`: delete it with everything in it; may be repeated."""
    session_id = _session(request)
    deleted = await services(request).sessions.delete_session(
        caller_of(request), session_id, force=True, missing_ok=True
    )
    tell_session_id(request, session_id)
    return json_response({"success": True, "session_id": session_id, "deleted": deleted})
