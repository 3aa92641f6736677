"""The tree of messages over HTTP: edit, regenerate, choose a branch, fork, rate, and read further back."""

from __future__ import annotations

from aiohttp import web

from chatserver.api.answers import json_response, state_response, tell_session
from chatserver.api.message_schemas import BranchBody, EditBody, FeedbackBody, ForkBody, PageQuery, RegenerateBody
from chatserver.api.reading import caller_of, read_body, read_query, session_id_of
from chatserver.api.services import services


async def edit(request: web.Request) -> web.Response:
    """`POST /api/messages/{message_id}/edit`: a message in the place of another, and its turn."""
    body = await read_body(request, EditBody)
    caller, sessions = caller_of(request), services(request).sessions
    async with sessions.open(caller, session_id_of(request, body.session_id), create="no") as live:
        tell_session(request, live)
        turn_id = await sessions.edit(
            caller,
            live,
            request.match_info["message_id"],
            body.message,
            model=body.model,
            client_message_id=body.client_message_id,
            on_busy=body.on_busy,
        )
        return state_response(request, live, turn_id=turn_id)


async def regenerate(request: web.Request) -> web.Response:
    """`POST /api/messages/{message_id}/regenerate`: another answer beside that one."""
    body = await read_body(request, RegenerateBody)
    caller, sessions = caller_of(request), services(request).sessions
    async with sessions.open(caller, session_id_of(request, body.session_id), create="no") as live:
        tell_session(request, live)
        turn_id = await sessions.regenerate(
            caller, live, request.match_info["message_id"], model=body.model, on_busy=body.on_busy
        )
        return state_response(request, live, turn_id=turn_id)


async def branch(request: web.Request) -> web.Response:
    """`POST /api/branch`: the active branch becomes the one through a message."""
    body = await read_body(request, BranchBody)
    sessions = services(request).sessions
    async with sessions.open(caller_of(request), session_id_of(request, body.session_id), create="no") as live:
        tell_session(request, live)
        await sessions.choose_branch(live, body.message_id)
        return state_response(request, live)


async def fork(request: web.Request) -> web.Response:
    """`POST /api/fork`: 201 and the state of the new session, whose id the answer names."""
    body = await read_body(request, ForkBody)
    caller, sessions = caller_of(request), services(request).sessions
    async with (
        sessions.open(caller, session_id_of(request, body.session_id), create="no") as live,
        sessions.fork(caller, live, body.message_id, body.title) as forked,
    ):
        tell_session(request, forked)
        return state_response(request, forked, status=201)


async def feedback(request: web.Request) -> web.Response:
    """`PUT /api/messages/{message_id}/feedback`: keep what a person thinks of an answer."""
    body = await read_body(request, FeedbackBody)
    sessions = services(request).sessions
    async with sessions.open(caller_of(request), session_id_of(request, body.session_id), create="no") as live:
        tell_session(request, live)
        message = await sessions.rate(live, request.match_info["message_id"], body.rating, body.comment)
        return json_response({"session_id": live.key.session_id, "message": message})


async def page(request: web.Request) -> web.Response:
    """`GET /api/messages`: up to `limit` messages before one, oldest first."""
    query = read_query(request, PageQuery)
    sessions = services(request).sessions
    async with sessions.open(caller_of(request), session_id_of(request), create="no") as live:
        tell_session(request, live)
        found = await sessions.page(live, query.before, query.limit)
        return json_response(
            {"session_id": live.key.session_id, "messages": found.messages, "has_more": found.has_more}
        )
