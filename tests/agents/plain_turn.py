"""A turn for agents under test, with tools that answer from a table and remember their calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chatserver.agents.base import AgentTurn, ModelSettings, ToolSpec
from chatserver.message import Message, ToolResult
from chatserver.principal import ANONYMOUS


class TableTools:
    """Tools by `(server, name)` with the result each call gives."""

    def __init__(
        self, table: Mapping[tuple[str, str], ToolResult] | None = None, specs: Sequence[ToolSpec] = ()
    ) -> None:
        self.table = dict(table or {})
        self.specs = list(specs) or [ToolSpec(server, name, "", {}) for server, name in self.table]
        self.calls: list[tuple[str, str, Mapping[str, Any]]] = []

    async def list(self) -> Sequence[ToolSpec]:
        return self.specs

    async def call(
        self, server: str, name: str, arguments: Mapping[str, Any], *, call_id: str | None = None
    ) -> ToolResult:
        self.calls.append((server, name, arguments))
        return self.table.get((server, name), ToolResult("There is no such tool.", True))


def said(role: str, content: str) -> Message:
    """A message of the history."""
    return Message(f"m-{content[:20]}", None, role, content, "completed", None, "2026-01-02T03:04:05.678Z")  # type: ignore[arg-type]  # tests name a role in words


def turn(message: str, *, history: Sequence[Message] = (), tools: TableTools | None = None) -> AgentTurn:
    return AgentTurn(
        tenant="public",
        session_id="session-1",
        turn_id="turn-1",
        message=message,
        history=tuple(history),
        model=ModelSettings("docs", "docs", 8192, 2048),
        principal=ANONYMOUS,
        tools=tools or TableTools(),
    )
