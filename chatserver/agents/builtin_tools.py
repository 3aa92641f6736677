"""BuiltinTools: tool servers written in Python beside the MCP ones, as one ToolServers.

Invariants: a built-in server's name is never an MCP server's too (agents_setup refuses to start then); what a function
says is capped like any tool's output, and its time is limited.

It owns the composition only: the MCP side keeps its connections, the built-in side has none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from chatserver.agents.base import ProgressHandler, ServerStatus, ToolServers, ToolSpec
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
        if server in self._names or self._servers is None:
            if server is not None and server not in self._names:
                raise self._unknown(server)
            return own
        return [*own, *await self._servers.list_tools(key, server)]

    async def call_tool(
        self,
        key: Key,
        server: str,
        name: str,
        arguments: Mapping[str, Any],
        on_progress: ProgressHandler | None = None,
    ) -> ToolResult:
        if server not in self._names:
            return await self._of(server).call_tool(key, server, name, arguments, on_progress)
        found = self._tools.get((server, name))
        if found is None:
            raise ToolError(f"server {server!r} has no tool {name!r}", code="unknown_tool")
        try:
            async with asyncio.timeout(CALL_SECONDS):
                text = await found[1](arguments)
        except TimeoutError:
            raise ToolError(f"{name!r} did not answer within {CALL_SECONDS:g} s", code="tool_timeout") from None
        return ToolResult(cut(text, self._output_chars), is_error=False)

    async def list_resources(self, key: Key, server: str) -> Sequence[Mapping[str, Any]]:
        return [] if server in self._names else await self._of(server).list_resources(key, server)

    async def read_resource(self, key: Key, server: str, uri: str) -> Mapping[str, Any]:
        return await self._other(server, "resources").read_resource(key, server, uri)

    async def list_prompts(self, key: Key, server: str) -> Sequence[Mapping[str, Any]]:
        return [] if server in self._names else await self._of(server).list_prompts(key, server)

    async def get_prompt(self, key: Key, server: str, name: str, arguments: Mapping[str, str]) -> Mapping[str, Any]:
        return await self._other(server, "prompts").get_prompt(key, server, name, arguments)

    async def connect(self, key: Key, server: str) -> None:
        if server not in self._names:
            await self._of(server).connect(key, server)

    async def disconnect(self, key: Key, server: str) -> None:
        await self._other(server, "a connection").disconnect(key, server)

    async def close_session(self, key: Key) -> None:
        if self._servers is not None:
            await self._servers.close_session(key)

    async def close(self) -> None:
        if self._servers is not None:
            await self._servers.close()

    def _of(self, server: str) -> ToolServers:
        if self._servers is None:
            raise self._unknown(server)
        return self._servers

    def _other(self, server: str, what: str) -> ToolServers:
        if server in self._names:
            raise ToolError(f"server {server!r} is built in and has not {what}", code="not_supported")
        return self._of(server)

    def _unknown(self, server: str) -> ToolError:
        known = ", ".join(sorted(self._names)) or "none"
        return ToolError(f"there is no tool server {server!r}; known: {known}", code="unknown_server")
