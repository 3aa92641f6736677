"""BuiltinTools: tool servers written in Python beside the MCP ones, as one ToolServers.

Invariants: a built-in server's name is never an MCP server's too (agents_setup refuses to start then); what a function
says is capped like any tool's output, and its time is limited.

It owns the composition only: the MCP side keeps its connections, the built-in side has none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from chatserver.agents.base import ProgressHandler, ServerStatus, ToolServers, ToolSpec, unknown_server, unknown_tool
from chatserver.agents.tool_output import cut
from chatserver.errors import ToolError
from chatserver.message import ToolResult

# Built-in functions look something up; one that hangs must not hold a turn until the turn's own limit.
CALL_SECONDS = 30.0

Function = Callable[[Mapping[str, Any]], Awaitable[str]]
Key = tuple[str, str]


class BuiltinTools:
    """Implements ToolServers over built-in functions and, where configured, the MCP servers.

    Args:
        servers: the MCP servers, or None.
        tools: specification and function of each built-in tool.
        output_chars: of one call's text.
    """

    def __init__(
        self, servers: ToolServers | None, tools: Sequence[tuple[ToolSpec, Function]], *, output_chars: int
    ) -> None:
        self._servers = servers
        self._output_chars = output_chars
        self._tools = {(spec.server, spec.name): (spec, function) for spec, function in tools}
        self._names = {spec.server for spec, _ in tools}

    async def servers(self, key: Key) -> Sequence[ServerStatus]:
        own = [ServerStatus(name, "shared", "builtin", "connected") for name in sorted(self._names)]
        return [*own, *(await self._servers.servers(key) if self._servers is not None else ())]

    async def list_tools(self, key: Key, server: str | None = None) -> Sequence[ToolSpec]:
        own = [spec for spec, _ in self._tools.values() if server in (None, spec.server)]
        if server is None:
            return [*own, *(await self._servers.list_tools(key) if self._servers is not None else ())]
        return own if server in self._names else await (await self._of(key, server)).list_tools(key, server)

    async def call_tool(
        self,
        key: Key,
        server: str,
        name: str,
        arguments: Mapping[str, Any],
        on_progress: ProgressHandler | None = None,
    ) -> ToolResult:
        if server not in self._names:
            return await (await self._of(key, server)).call_tool(key, server, name, arguments, on_progress)
        found = self._tools.get((server, name))
        if found is None:
            raise unknown_tool(server, name, (tool for owner, tool in self._tools if owner == server))
        try:
            async with asyncio.timeout(CALL_SECONDS):
                text = await found[1](arguments)
        except TimeoutError:
            raise ToolError(f"{name!r} did not answer within {CALL_SECONDS:g} s", code="tool_timeout") from None
        return ToolResult(cut(text, self._output_chars), is_error=False)

    async def list_resources(self, key: Key, server: str) -> Sequence[Mapping[str, Any]]:
        return [] if server in self._names else await (await self._of(key, server)).list_resources(key, server)

    async def read_resource(self, key: Key, server: str, uri: str) -> Mapping[str, Any]:
        return await (await self._other(key, server, "resources")).read_resource(key, server, uri)

    async def list_prompts(self, key: Key, server: str) -> Sequence[Mapping[str, Any]]:
        return [] if server in self._names else await (await self._of(key, server)).list_prompts(key, server)

    async def get_prompt(self, key: Key, server: str, name: str, arguments: Mapping[str, str]) -> Mapping[str, Any]:
        return await (await self._other(key, server, "prompts")).get_prompt(key, server, name, arguments)

    async def connect(self, key: Key, server: str) -> None:
        if server not in self._names:
            await (await self._of(key, server)).connect(key, server)

    async def disconnect(self, key: Key, server: str) -> None:
        await (await self._other(key, server, "a connection")).disconnect(key, server)

    async def close_session(self, key: Key) -> None:
        if self._servers is not None:
            await self._servers.close_session(key)

    async def close(self) -> None:
        if self._servers is not None:
            await self._servers.close()

    async def _of(self, key: Key, server: str) -> ToolServers:
        """Whoever has `server`; asked here, since only here all the names are known."""
        others = [status.name for status in await self._servers.servers(key)] if self._servers is not None else []
        if self._servers is None or server not in others:
            raise unknown_server(server, [*self._names, *others])
        return self._servers

    async def _other(self, key: Key, server: str, what: str) -> ToolServers:
        if server in self._names:
            raise ToolError(f"server {server!r} is built in and has not {what}", code="not_supported")
        return await self._of(key, server)
