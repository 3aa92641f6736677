"""The live endpoints L2, L3, L5–L8: parse, call the one door, answer."""

from __future__ import annotations

from aiohttp import web

from chatserver.api import commands
from chatserver.api.answers import json_response, state_response, tell_session
from chatserver.api.reading import caller_of, read_body, session_id_of
from chatserver.api.schemas import ChatBody, CommandBody, InterruptBody, SystemBody
from chatserver.api.services import services


async def chat(request: web.Request) -> web.Response:
    """`POST /api/chat`: commit the message, start or queue its turn, answer at once."""
    body = await read_body(request, ChatBody)
    caller, sessions = caller_of(request), services(request).sessions
    async with sessions.open(
        caller,
        session_id_of(request, body.session_id),
        create="durable",
        project_id=body.project_id,
        model=body.model,
    ) as live:
        tell_session(request, live)
        turn_id = await sessions.chat(
            caller,
            live,
            body.message,
            project_id=body.project_id,
            model=body.model,
            client_message_id=body.client_message_id,
            on_busy=body.on_busy,
        )
        return state_response(request, live, turn_id=turn_id)


async def state(request: web.Request) -> web.Response:
    """`GET /api/state`: the session as its tabs see it."""
    sessions = services(request).sessions
    async with sessions.open(caller_of(request), session_id_of(request), create="provisional") as live:
        tell_session(request, live)
        return state_response(request, live)


async def interrupt(request: web.Request) -> web.Response:
    """`POST /api/interrupt`: stop the running turn; answers when it has ended."""
    body = await read_body(request, InterruptBody)
    sessions = services(request).sessions
    session_id = session_id_of(request, body.session_id)
    async with sessions.open(caller_of(request), session_id, create="provisional") as live:
        tell_session(request, live)
        await sessions.interrupt(live, body.turn_id, clear_queue=body.clear_queue)
        return state_response(request, live)


async def system(request: web.Request) -> web.Response:
    """`POST /api/system`: add a system message for tabs and agent."""
    body = await read_body(request, SystemBody)
    caller, sessions = caller_of(request), services(request).sessions
    async with sessions.open(caller, session_id_of(request, body.session_id), create="durable") as live:
        tell_session(request, live)
        await sessions.add_system_message(caller, live, body.message)
        return state_response(request, live)


async def withdraw(request: web.Request) -> web.Response:
    """`DELETE /api/queue/{turn_id}`: take a queued message back."""
    sessions = services(request).sessions
    async with sessions.open(caller_of(request), session_id_of(request), create="no") as live:
        tell_session(request, live)
        await sessions.withdraw(live, request.match_info["turn_id"])
        return state_response(request, live)


async def mcp_command(request: web.Request) -> web.Response:
    """`POST /api/mcp-command`: run a command in the session."""
    body = await read_body(request, CommandBody)
    caller, app = caller_of(request), services(request)
    run = commands.prepare(body.command, body.args, app.settings.mcp_args_bytes)
    async with app.sessions.open(caller, session_id_of(request, body.session_id), create="durable") as live:
        tell_session(request, live)
        done = await run(app, caller, live)
        return json_response(
            {"success": done.success, "message": done.message, "data": done.data, "session_id": live.key.session_id}
        )
