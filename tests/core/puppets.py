"""Agents and tool servers on strings: nothing happens in a turn unless the test pulls.

`Puppet` is the agent of most tests: every turn it is given becomes a `Strings`, through which the test speaks, calls
tools, fails or ends. `Play` runs a function of the test as an agent. `FakeTools` is a ToolServers with a table.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from chatserver.agents.base import AgentEvent, AgentTurn, ModelSettings, ServerStatus, Spent, ToolSpec
from chatserver.errors import ToolError
from chatserver.message import ToolResult, Usage

_END = object()


class Strings:
    """One turn of a Puppet."""

    def __init__(self, turn: AgentTurn) -> None:
        self.turn = turn
        self.closed = False
        self.cancelled = False
        self.results: list[ToolResult] = []
        self._next: asyncio.Queue[Any] = asyncio.Queue()

    def say(self, *pieces: AgentEvent) -> None:
        """Yield these."""
        for piece in pieces:
            self._next.put_nowait(piece)

    def spend(self, prompt_tokens: int, completion_tokens: int) -> None:
        self.say(Spent(Usage(prompt_tokens, completion_tokens)))

    def call(self, server: str, name: str, arguments: Mapping[str, Any] | None = None) -> None:
        """Call a tool; its result goes to `results`."""
        self._next.put_nowait((server, name, dict(arguments or {})))

    def fail(self, error: BaseException) -> None:
        self._next.put_nowait(error)

    def end(self) -> None:
        self._next.put_nowait(_END)

    async def perform(self) -> AsyncIterator[AgentEvent]:
        try:
            while (item := await self._next.get()) is not _END:
                if isinstance(item, BaseException):
                    raise item
                if isinstance(item, tuple):
                    self.results.append(await self.turn.tools.call(*item))
                else:
                    yield item
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        finally:
            self.closed = True


class Puppet:
    """Implements Agent."""

    def __init__(self) -> None:
        self.turns: list[Strings] = []

    def run(self, turn: AgentTurn) -> AsyncIterator[AgentEvent]:
        self.turns.append(Strings(turn))
        return self.turns[-1].perform()

    @property
    def last(self) -> Strings:
        """The newest turn."""
        return self.turns[-1]

    def of(self, turn_id: str) -> Strings:
        return next(s for s in self.turns if s.turn.turn_id == turn_id)

    async def close(self) -> None:
        pass


class Play:
    """An agent that is a function: of the turn to an async iterator of events."""

    def __init__(self, play: Callable[[AgentTurn], Any]) -> None:
        self._play = play

    def run(self, turn: AgentTurn) -> AsyncIterator[AgentEvent]:
        return self._play(turn)

    async def close(self) -> None:
        pass


@dataclass
class FakeEntry:
    """A catalogue entry: agent, settings, and a slot that counts who is inside."""

    agent: Any
    settings: ModelSettings
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1000))

    @asynccontextmanager
    async def slot(self, _tenant: str) -> AsyncIterator[FakeEntry]:
        async with self.slots:
            yield self


class FakeModels:
    """A catalogue: implements session_service.Models and gives TurnRunner its entries."""

    def __init__(self, **agents: Any) -> None:
        self.entries = {name: FakeEntry(agent, ModelSettings(name, name, 8192, 2048)) for name, agent in agents.items()}
        self.without_key: set[str] = set()
        self.titlers: set[str] = set()

    def ids(self, _tenant: str) -> tuple[str, ...]:
        return tuple(self.entries)

    def default_id(self, _tenant: str) -> str:
        return next(iter(self.entries))

    def missing_api_key(self, tenant: str, model_id: str | None) -> bool:
        return (model_id or self.default_id(tenant)) in self.without_key

    def titling(self, tenant: str, model_id: str | None) -> FakeEntry | None:
        entry = self.resolve(tenant, model_id)
        return entry if entry.settings.id in self.titlers else None

    def resolve(self, tenant: str, model_id: str | None) -> FakeEntry:
        return self.entries.get(model_id or "") or self.entries[self.default_id(tenant)]


Tool = Callable[[dict[str, Any]], Any]


class FakeTools:
    """Implements ToolServers: tools by (server, name), each a function of its arguments or an async one.

    `echo` of server `srv` is there from the beginning; `guarded` asks for approval.
    """

    def __init__(self) -> None:
        self.specs: list[ToolSpec] = []
        self.tools: dict[tuple[str, str], Tool] = {}
        self.closed_sessions: list[tuple[str, str]] = []
        self.calls: list[tuple[str, str, Mapping[str, Any]]] = []
        self.add("srv", "echo", lambda args: ToolResult(str(args.get("text", "")), False))
        self.add("srv", "guarded", lambda args: ToolResult("done", False), approval="always")

    def add(self, server: str, name: str, tool: Tool, **spec: Any) -> None:
        self.specs.append(ToolSpec(server, name, "", {}, **spec))
        self.tools[server, name] = tool

    async def servers(self, key: tuple[str, str]) -> Sequence[ServerStatus]:
        return [ServerStatus(name, "session", "builtin", "connected") for name in {s.server for s in self.specs}]

    async def list_tools(self, key: tuple[str, str], server: str | None = None) -> Sequence[ToolSpec]:
        if server is not None and all(s.server != server for s in self.specs):
            raise ToolError(f"there is no server {server!r}", code="unknown_server")
        return [s for s in self.specs if server in (None, s.server)]

    async def call_tool(
        self,
        key: tuple[str, str],
        server: str,
        name: str,
        arguments: Mapping[str, Any],
        on_progress: Callable[[float, float | None, str | None], None] | None = None,
    ) -> ToolResult:
        self.calls.append((server, name, arguments))
        result = self.tools[server, name]({**arguments, "on_progress": on_progress})
        return await result if asyncio.iscoroutine(result) else result

    async def close_session(self, key: tuple[str, str]) -> None:
        self.closed_sessions.append(key)

    async def close(self) -> None:
        pass
