"""The connections to MCP servers: which there are, when one is opened, when one makes room.

Invariants:
- A session's connections are its own (`scope = session`); a shared server has one for all. No more than
  `mcp_connections` are open at once: an idle one makes room, a busy one never does.
- Servers do not hurt each other: each has its own starts and backoff.
- A lost connection is made anew on the next use, after a rest that grows with the failures (mcp_health).

Does not own: what is asked of a server (mcp_tools, mcp_operations), one connection's life (mcp_connection).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

from structlog.typing import FilteringBoundLogger

from chatserver.agents.base import ServerStatus, ToolSpec
from chatserver.agents.mcp_connection import Connection
from chatserver.agents.mcp_health import Health
from chatserver.agents.mcp_transport import make_transport, session_name
from chatserver.clock import Clock
from chatserver.config import McpServerConfig, Settings
from chatserver.errors import ToolError
from chatserver.tasks import Supervisor

# Connections to one server that open at once: a start is a process and half a second of CPU.
STARTS_AT_ONCE = 4

# A connection's own start timeout, which is told better, comes first.
PATIENCE_SLACK_SECONDS = 0.5

Key = tuple[str, str]
ConnectingHandler = Callable[[Key, bool], None]


@dataclass(slots=True)
class Server:
    """What all connections to one server share."""

    config: McpServerConfig
    health: Health
    starts: asyncio.Semaphore


@dataclass(slots=True)
class Place:
    """Where a session's (or everybody's) connection to a server is, has been, or will be.

    `tools` is the last listing, good until `tools_until` (monotonic); `changes` counts what made it worthless.
    """

    server: Server
    key: Key | None
    health: Health
    connection: Connection | None = None
    tools: Mapping[str, ToolSpec] | None = None
    tools_until: float = 0.0
    changes: int = 0
    closed: bool = False

    def forget_tools(self) -> None:
        """The tools have to be listed again."""
        self.tools = None
        self.changes += 1

    def status(self) -> ServerStatus:
        """As `list_servers` tells it."""
        config = self.server.config
        transport: Literal["stdio", "http"] = "stdio" if config.command else "http"
        if self.connection is not None and self.connection.state in ("connecting", "connected"):
            return ServerStatus(config.name, config.scope, transport, self.connection.state)
        error = self.health.error or self.server.health.error
        return ServerStatus(config.name, config.scope, transport, "failed" if error else "idle", error)


class Pool:
    """Every connection of this process.

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
        self._supervisor = supervisor
        self._log = log
        self._on_connecting = on_connecting
        self.servers = {
            config.name: Server(config, Health(config.name, clock), asyncio.Semaphore(STARTS_AT_ONCE))
            for config in settings.mcp_servers
        }
        self._places: dict[Key | None, dict[str, Place]] = {}
        self._open: dict[Connection, Place] = {}
        self._waiting: dict[Key, int] = {}
        self._room = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        """Connections that are opening, open or not yet wholly closed."""
        return len(self._open)

    def place(self, key: Key, server: Server) -> Place:
        """The session's place at `server`; a shared server has one for all."""
        name, owner = server.config.name, self._owner(key, server)
        places = self._places.setdefault(owner, {})
        if name not in places:
            places[name] = self._new_place(owner, server)
        return places[name]

    def status(self, key: Key, server: Server) -> ServerStatus:
        """How the session stands with `server`; makes nothing."""
        owner = self._owner(key, server)
        place = self._places.get(owner, {}).get(server.config.name) or self._new_place(owner, server)
        return place.status()

    @staticmethod
    def _owner(key: Key, server: Server) -> Key | None:
        return None if server.config.scope == "shared" else key

    def _new_place(self, owner: Key | None, server: Server) -> Place:
        return Place(server, owner, Health(server.config.name, self._clock))

    async def close_place(self, place: Place) -> None:
        """Close the place's connection and forget the place."""
        places = self._places.get(place.key, {})
        if places.get(place.server.config.name) is place:
            del places[place.server.config.name]
            if not places:
                del self._places[place.key]
        await self._close([place])

    async def close_session(self, key: Key) -> None:
        """Close the session's connections and wait for their ends, some 3 s at most; idempotent."""
        await self._close(self._places.pop(key, {}).values())

    async def close(self) -> None:
        """Close everything; idempotent. No connection is opened any more."""
        self._closed = True
        await self._close([*(p for places in self._places.values() for p in places.values()), *self._open.values()])

    @staticmethod
    async def _close(places: Iterable[Place]) -> None:
        async with asyncio.TaskGroup() as group:
            for place in places:
                place.closed = True
                if place.connection is not None:
                    group.create_task(place.connection.close())

    async def connected(self, place: Place, key: Key, patience: float) -> Connection:
        """The place's connection, opened if need be; waits `patience` seconds for it."""
        name = place.server.config.name
        if place.connection is not None and place.connection.state == "connected":
            return place.connection
        with self._telling(key):
            connection: Connection | None = None
            try:
                async with asyncio.timeout(patience + PATIENCE_SLACK_SECONDS):
                    connection = await self._opened(place)
                    await connection.ready()
                    return connection
            except TimeoutError:
                if connection is None:
                    raise ToolError("all connections to tool servers are in use", code="server_busy") from None
                raise ToolError(f"the tool server {name!r} did not start in time", code="server_failed") from None

    async def _opened(self, place: Place) -> Connection:
        """The place's connection, which may still be connecting; a new one where there is none."""
        while True:
            if self._closed or place.closed:
                raise ToolError("the session's tool servers are being closed", code="server_failed")
            if place.connection is not None and place.connection.state in ("connecting", "connected"):
                return place.connection
            if (older := self._older(place)) is not None:
                # Two processes of one session must not meet, at its files for instance.
                await older.close()
                continue
            place.server.health.check()
            place.health.check()
            if len(self._open) < self._settings.mcp_connections:
                return self._open_new(place)
            await self._make_room()

    def _older(self, place: Place) -> Connection | None:
        """What is left of the last connection of this place, or of one that was here before and was closed."""
        return next((c for c, p in self._open.items() if p.key == place.key and p.server is place.server), None)

    async def _make_room(self) -> None:
        """Close the connection that was idle for longest, or wait until one is."""
        self._room.clear()
        idle = [connection for connection in self._open if not connection.busy]
        if idle:
            await min(idle, key=lambda connection: connection.last_used).close()
        else:
            await self._room.wait()

    def _open_new(self, place: Place) -> Connection:
        config = place.server.config
        session = None if place.key is None else session_name(place.key)
        log = self._log.bind(server=config.name, session=session and session[:8])
        connection = Connection(
            config,
            partial(make_transport, config, session, self._settings.tool_message_bytes, log),
            self._supervisor,
            starts=place.server.starts,
            may_start=place.server.health.check,
            on_lost=self._lost,
            on_end=self._ended,
            on_idle=self._room.set,
            on_tools_changed=place.forget_tools,
        )
        place.connection = connection
        place.health.error = None
        place.forget_tools()
        self._open[connection] = place
        return connection

    def _ended(self, connection: Connection) -> None:
        place = self._open.pop(connection)
        if place.connection is connection:
            place.connection = None
            place.forget_tools()
        self._room.set()

    def _lost(self, connection: Connection) -> None:
        place = self._open[connection]
        error = connection.error or "it failed"
        self._log.warning("mcp_lost", server=place.server.config.name, reason=error)
        if connection.connected_at is None:
            place.server.health.failed(error)
        else:
            # What one session does to its connection is no reason to keep others from theirs.
            place.health.failed(error, connection.served_seconds)

    @contextmanager
    def _telling(self, key: Key) -> Iterator[None]:
        """Tell the session that it waits for a connection, once however many calls wait."""
        self._waiting[key] = self._waiting.get(key, 0) + 1
        if self._waiting[key] == 1:
            self._on_connecting(key, True)
        try:
            yield
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key]
                self._on_connecting(key, False)
