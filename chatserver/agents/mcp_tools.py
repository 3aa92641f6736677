"""McpServers: the configured MCP servers, reached by session.

Invariants: a server that is slow or dead is left out of a listing of all and holds it up once, not every time; a tool
that is not listed is not called; a listing is kept no longer than the server vouches for it.

This module loads the SDK, which takes half a second: import it only where servers are configured. Does not own
approvals, turn limits and events (turn_tools), connections (mcp_pool).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from structlog.typing import FilteringBoundLogger

from chatserver.agents import json_border, mcp_operations
from chatserver.agents.base import ProgressHandler, ServerStatus, ToolSpec, unknown_server, unknown_tool
from chatserver.agents.mcp_connection import Operation
from chatserver.agents.mcp_content import MAX_ENTRY_CHARS, as_mapping, tool_result, tool_specs
from chatserver.agents.mcp_pool import ConnectingHandler, Key, Place, Pool, Server
from chatserver.clock import Clock
from chatserver.config import Settings
from chatserver.errors import ToolError
from chatserver.message import ToolResult
from chatserver.tasks import Supervisor

# A listing of all servers waits this long for one whose last start failed; for others it waits their start timeout.
FAILING_PATIENCE_SECONDS = 2.0
# A listing of tools is kept: as long as the server promises to tell of changes, and as long as it does not.
TOLD_SECONDS = 600.0
UNTOLD_SECONDS = 60.0

T = TypeVar("T")


class McpServers:
    """Implements agents.base.ToolServers over the configured servers.

    Args:
        on_connecting: called with a session and True when it begins to wait for a connection, False when no longer.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        supervisor: Supervisor,
        log: FilteringBoundLogger,
        on_connecting: ConnectingHandler,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._log = log
        self._pool = Pool(settings, clock, supervisor, log, on_connecting)

    @property
    def open_connections(self) -> int:
        """Connections that are opening, open or not yet wholly closed."""
        return len(self._pool)

    async def servers(self, key: Key) -> Sequence[ServerStatus]:
        return [self._pool.status(key, server) for server in self._pool.servers.values()]

    async def list_tools(self, key: Key, server: str | None = None) -> Sequence[ToolSpec]:
        if server is not None:
            place = self._place(key, server)
            return list((await self._tools(place, key, place.server.config.start_timeout_seconds)).values())
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._tools_if_up(key, found)) for found in self._pool.servers.values()]
        return [spec for task in tasks for spec in task.result()]

    async def call_tool(
        self,
        key: Key,
        server: str,
        name: str,
        arguments: Mapping[str, Any],
        on_progress: ProgressHandler | None = None,
    ) -> ToolResult:
        place = self._place(key, server)
        try:
            cleaned = json_border.clean(dict(arguments))
        except ValueError as error:
            raise ToolError(f"the arguments of {name!r}: {error}", code="bad_arguments") from error
        patience = place.server.config.start_timeout_seconds
        if name not in await self._tools(place, key, patience):
            place.forget_tools()  # what was kept may be old
            known = await self._tools(place, key, patience)
            if name not in known:
                raise unknown_tool(server, name, known)
        call = partial(mcp_operations.call, name=name, arguments=cleaned, on_progress=on_progress)
        return tool_result(await self._run(place, key, call), self._settings.tool_output_chars)

    async def list_resources(self, key: Key, server: str) -> Sequence[Mapping[str, Any]]:
        found = await self._run(self._place(key, server), key, mcp_operations.resources)
        return [as_mapping(resource, MAX_ENTRY_CHARS) for resource in found]

    async def read_resource(self, key: Key, server: str, uri: str) -> Mapping[str, Any]:
        read = partial(mcp_operations.read_resource, uri=json_border.clean_text(uri))
        result = await self._run(self._place(key, server), key, read)
        return as_mapping(result, self._settings.tool_output_chars)

    async def list_prompts(self, key: Key, server: str) -> Sequence[Mapping[str, Any]]:
        found = await self._run(self._place(key, server), key, mcp_operations.prompts)
        return [as_mapping(prompt, MAX_ENTRY_CHARS) for prompt in found]

    async def get_prompt(self, key: Key, server: str, name: str, arguments: Mapping[str, str]) -> Mapping[str, Any]:
        cleaned = {json_border.clean_text(k): json_border.clean_text(v) for k, v in arguments.items()}
        get = partial(mcp_operations.get_prompt, name=json_border.clean_text(name), arguments=cleaned)
        result = await self._run(self._place(key, server), key, get)
        return as_mapping(result, self._settings.tool_output_chars)

    async def connect(self, key: Key, server: str) -> None:
        """Connect and list the tools, which shows that the server answers."""
        await self.list_tools(key, server)

    async def disconnect(self, key: Key, server: str) -> None:
        """Close the session's connection; a shared server's is not one session's to close."""
        if self._server(server).config.scope == "shared":
            raise ToolError(f"server {server!r} is shared by all sessions and stays connected", code="not_supported")
        await self._pool.close_place(self._place(key, server))

    async def close_session(self, key: Key) -> None:
        await self._pool.close_session(key)

    async def close(self) -> None:
        await self._pool.close()

    def _server(self, name: str) -> Server:
        found = self._pool.servers.get(name)
        if found is None:
            raise unknown_server(name, self._pool.servers)
        return found

    def _place(self, key: Key, server: str) -> Place:
        return self._pool.place(key, self._server(server))

    async def _tools_if_up(self, key: Key, server: Server) -> Sequence[ToolSpec]:
        place = self._pool.place(key, server)
        patience = FAILING_PATIENCE_SECONDS if server.health.failing else server.config.start_timeout_seconds
        try:
            return list((await self._tools(place, key, patience)).values())
        except ToolError as error:
            self._log.info("mcp_left_out", server=server.config.name, reason=error.detail)
            return ()

    async def _tools(self, place: Place, key: Key, patience: float) -> Mapping[str, ToolSpec]:
        connection = await self._pool.connected(place, key, patience)
        if place.tools is not None and self._clock.monotonic() < place.tools_until:
            return place.tools
        config, changes = place.server.config, place.changes
        try:
            found = await connection.run(mcp_operations.tools, config.start_timeout_seconds)
        except ToolError as error:
            if error.narrow_code == "tool_timeout":
                # It would hold up every turn anew: it counts as not started.
                connection.lose("it does not list its tools")
                place.server.health.failed("it does not list its tools")
            raise
        place.server.health.fine()
        tools = {spec.name: spec for spec in tool_specs(found, config.name, config.approval)}
        if place.changes == changes and place.connection is connection:
            place.tools = tools
            kept = TOLD_SECONDS if connection.announces_tools else UNTOLD_SECONDS
            place.tools_until = self._clock.monotonic() + kept
        return tools

    async def _run(self, place: Place, key: Key, operation: Operation[T]) -> T:
        config = place.server.config
        connection = await self._pool.connected(place, key, config.start_timeout_seconds)
        result = await connection.run(operation, config.call_timeout_seconds)
        place.server.health.fine()
        return result
