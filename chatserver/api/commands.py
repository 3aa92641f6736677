"""Commands of `POST /api/mcp-command` (spec L7): a table from name to arguments and action.

A command that ran and failed (a tool's own error, a server that is down) answers `success: false` with the reason; a
request that makes no sense (unknown command, wrong arguments) is a problem.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from chatserver.api import schemas as s
from chatserver.api.reading import parse
from chatserver.api.services import Services
from chatserver.errors import InvalidRequest, TooLarge, ToolError
from chatserver.live_session import LiveSession
from chatserver.session_service import Caller


@dataclass(frozen=True, slots=True)
class Done:
    """What a command answers."""

    success: bool
    message: str
    data: Any = None


A = TypeVar("A", bound=s.Body)
Action = Callable[[Services, Caller, LiveSession, Any], Awaitable[Done]]
Ready = Callable[[Services, Caller, LiveSession], Awaitable[Done]]


async def _list_servers(app: Services, caller: Caller, live: LiveSession, args: s.NoArgs) -> Done:
    servers = await app.tools.servers(live.key)
    return Done(True, f"{len(servers)} servers", servers)


async def _list_tools(app: Services, caller: Caller, live: LiveSession, args: s.MaybeServerArgs) -> Done:
    tools = await app.tools.list_tools(live.key, args.server)
    return Done(True, f"{len(tools)} tools", [_plain(t) for t in tools])


async def _call_tool(app: Services, caller: Caller, live: LiveSession, args: s.CallToolArgs) -> Done:
    # A person who names the tool and its arguments has approved them by that.
    result = await app.tools.call_tool(live.key, args.server, args.name, args.arguments)
    return Done(not result.is_error, "the tool reports an error" if result.is_error else "done", result)


async def _list_resources(app: Services, caller: Caller, live: LiveSession, args: s.ServerArgs) -> Done:
    found = await app.tools.list_resources(live.key, args.server)
    return Done(True, f"{len(found)} resources", found)


async def _read_resource(app: Services, caller: Caller, live: LiveSession, args: s.ReadResourceArgs) -> Done:
    return Done(True, "read", await app.tools.read_resource(live.key, args.server, args.uri))


async def _list_prompts(app: Services, caller: Caller, live: LiveSession, args: s.ServerArgs) -> Done:
    found = await app.tools.list_prompts(live.key, args.server)
    return Done(True, f"{len(found)} prompts", found)


async def _get_prompt(app: Services, caller: Caller, live: LiveSession, args: s.GetPromptArgs) -> Done:
    return Done(True, "done", await app.tools.get_prompt(live.key, args.server, args.name, args.arguments))


async def _connect(app: Services, caller: Caller, live: LiveSession, args: s.ServerArgs) -> Done:
    await app.tools.connect(live.key, args.server)
    return Done(True, f"connected to {args.server}")


async def _disconnect(app: Services, caller: Caller, live: LiveSession, args: s.ServerArgs) -> Done:
    await app.tools.disconnect(live.key, args.server)
    return Done(True, f"disconnected from {args.server}")


async def _approve(app: Services, caller: Caller, live: LiveSession, args: s.ApprovalArgs) -> Done:
    app.sessions.decide(live, args.approval_id, "approved")
    return Done(True, "approved")


async def _deny(app: Services, caller: Caller, live: LiveSession, args: s.ApprovalArgs) -> Done:
    app.sessions.decide(live, args.approval_id, "denied")
    return Done(True, "denied")


async def _set_network(app: Services, caller: Caller, live: LiveSession, args: s.NetworkArgs) -> Done:
    text = f"The network was switched to {args.network}."
    await app.sessions.add_system_message(caller, live, text)
    return Done(True, text, {"network": args.network})


COMMANDS: dict[str, tuple[type[s.Body], Action]] = {
    "list_servers": (s.NoArgs, _list_servers),
    "list_tools": (s.MaybeServerArgs, _list_tools),
    "call_tool": (s.CallToolArgs, _call_tool),
    "list_resources": (s.ServerArgs, _list_resources),
    "read_resource": (s.ReadResourceArgs, _read_resource),
    "list_prompts": (s.ServerArgs, _list_prompts),
    "get_prompt": (s.GetPromptArgs, _get_prompt),
    "connect": (s.ServerArgs, _connect),
    "disconnect": (s.ServerArgs, _disconnect),
    "approve": (s.ApprovalArgs, _approve),
    "deny": (s.ApprovalArgs, _deny),
    "set_network": (s.NetworkArgs, _set_network),
}


def prepare(command: str, args: dict[str, Any], max_bytes: int) -> Ready:
    """Check a command before any session is made for it.

    Raises: InvalidRequest (`unknown_command`, lists the known ones), InvalidFields, TooLarge.
    """
    found = COMMANDS.get(command)
    if found is None:
        raise InvalidRequest(f"there is no command {command!r}; known: {', '.join(COMMANDS)}", code="unknown_command")
    model, action = found
    if len(orjson.dumps(args)) > max_bytes:
        raise TooLarge(f"arguments may have {max_bytes} bytes")
    parsed = parse(model, args, ("args",))

    async def run(app: Services, caller: Caller, live: LiveSession) -> Done:
        await app.sessions.make_durable(caller, live)
        try:
            return await action(app, caller, live, parsed)
        except ToolError as error:
            return Done(False, error.detail, {"code": error.narrow_code})

    return run


def _plain(tool: Any) -> dict[str, Any]:
    """A ToolSpec as JSON-ready fields: its schema may be any mapping."""
    return {
        "server": tool.server,
        "name": tool.name,
        "description": tool.description,
        "input_schema": dict(tool.input_schema),
        "approval": tool.approval,
        "read_only": tool.read_only,
    }
