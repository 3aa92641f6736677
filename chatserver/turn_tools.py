"""TurnTools: a turn's tools, as its agent calls them.

A call is told to the tabs, approved where its policy asks, run, capped, told again; it is checkpointed before it runs,
so that a crash never hides that a tool was called. Limits are per turn. Refusals and failures are results with
`is_error`: the model is to read them.

It owns no connection (agents/mcp_tools.py) and numbers no event (the run does).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import orjson

from chatserver import events as ev
from chatserver.agents.base import ToolServers, ToolSpec, unknown_tool
from chatserver.agents.json_border import clean_text
from chatserver.clock import Clock, rfc3339
from chatserver.config import Settings
from chatserver.errors import AgentError, ToolError
from chatserver.message import Approval, Decision, ToolCall, ToolResult

# Of a progress report's text: a line under a bar, sent to every tab as often as the tool likes.
PROGRESS_CHARS = 500


class ToolRun(Protocol):
    """What a running turn offers its tools."""

    session_id: str
    turn_id: str
    answer_id: str
    closed: bool

    @property
    def key(self) -> tuple[str, str]: ...

    def emit(self, event: ev.Event) -> None:
        """Append an event of this turn, behind everything said so far; dropped once the turn has ended.

        A call's `offset` is filled in here: only now is it certain which text stands before it.
        """

    async def checkpoint(self) -> None:
        """Commit what the answer has now."""


class TurnTools:
    """Implements agents.base.Tools for one run."""

    def __init__(self, run: ToolRun, servers: ToolServers, settings: Settings, clock: Clock) -> None:
        self._run = run
        self._servers = servers
        self._settings = settings
        self._clock = clock
        self._calls = 0
        self._waiting: dict[str, asyncio.Future[Decision]] = {}

    async def list(self) -> Sequence[ToolSpec]:
        return await self._servers.list_tools(self._run.key)

    def resolve(self, approval_id: str, decision: Decision) -> bool:
        """A person's answer to an approval; False where it does not wait (any more)."""
        future = self._waiting.get(approval_id)
        if future is None or future.done():
            return False
        future.set_result(decision)
        return True

    async def call(
        self, server: str, name: str, arguments: Mapping[str, Any], *, call_id: str | None = None
    ) -> ToolResult:
        if self._run.closed:  # an agent that has swallowed its cancellation: a stop has to stop what it does, too
            raise asyncio.CancelledError
        self._calls += 1
        if self._calls > self._settings.tool_calls_per_turn:
            raise AgentError(f"the turn called more than {self._settings.tool_calls_per_turn} tools", code="tool_limit")
        run = self._run
        # The model's ids need not be unique within a turn; ours must be, since results find their call by it.
        try:
            shown = clean_arguments(arguments, self._settings.mcp_args_bytes)
        except ToolError as error:
            return ToolResult(error.detail, is_error=True)
        call = ToolCall(self._clock.new_id(), clean_text(server), clean_text(name), shown)
        run.emit(ev.ToolCalled(run.session_id, run.turn_id, run.answer_id, call))
        await run.checkpoint()
        result = await self._outcome(call)
        run.emit(ev.ToolReturned(run.session_id, run.turn_id, run.answer_id, call.id, result))
        return result

    async def _outcome(self, call: ToolCall) -> ToolResult:
        try:
            spec = await self._spec(call)
            if self._needs_approval(spec):
                decision = await self._ask(call)
                if decision != "approved":
                    why = "was denied by the user" if decision == "denied" else "was not approved in time"
                    return ToolResult(f"The call of {call.name} {why}.", is_error=True)
            run = self._run

            def on_progress(progress: float, total: float | None, text: str | None) -> None:
                if not math.isfinite(progress) or (total is not None and not math.isfinite(total)):
                    return  # JSON has no such number, and a tab could show none
                if text is not None:
                    text = clean_text(text[:PROGRESS_CHARS])
                run.emit(ev.ToolProgress(run.session_id, run.turn_id, run.answer_id, call.id, progress, total, text))

            result = await self._servers.call_tool(run.key, call.server, call.name, call.arguments, on_progress)
            return ToolResult(clean_text(result.content), result.is_error)
        except ToolError as error:
            return ToolResult(error.detail, is_error=True)

    async def _spec(self, call: ToolCall) -> ToolSpec:
        specs = await self._servers.list_tools(self._run.key, call.server)
        for spec in specs:
            if spec.name == call.name:
                return spec
        raise unknown_tool(call.server, call.name, (spec.name for spec in specs))

    @staticmethod
    def _needs_approval(spec: ToolSpec) -> bool:
        return spec.approval == "always" or (spec.approval == "writes" and not spec.read_only)

    async def _ask(self, call: ToolCall) -> Decision:
        """Ask a person and wait; an approval that the turn's end overtakes is told as expired."""
        run = self._run
        seconds = self._settings.approval_timeout_seconds
        approval = Approval(
            self._clock.new_id(),
            run.answer_id,
            call.id,
            call.server,
            call.name,
            call.arguments,
            rfc3339(self._clock.now() + seconds),
        )
        future: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self._waiting[approval.id] = future
        run.emit(ev.ApprovalRequested(run.session_id, run.turn_id, approval))
        decision: Decision = "expired"
        try:
            async with asyncio.timeout(seconds):
                decision = await future
        except TimeoutError:
            pass
        finally:
            del self._waiting[approval.id]
            run.emit(ev.ApprovalResolved(run.session_id, run.turn_id, approval.id, decision))
        return decision

    def open_approvals(self) -> tuple[str, ...]:
        """Ids of approvals that still wait."""
        return tuple(self._waiting)


def clean_arguments(arguments: Mapping[str, Any], max_bytes: int) -> dict[str, Any]:
    """Arguments as they can be shown and stored.

    Raises: ToolError, code `bad_arguments`, where they are no JSON object or a larger one than `max_bytes`.
    """
    try:
        encoded = orjson.dumps(dict(arguments))
        if len(encoded) <= max_bytes:
            return dict(orjson.loads(encoded))
    except (orjson.JSONEncodeError, orjson.JSONDecodeError, TypeError, ValueError) as error:
        raise ToolError("the arguments are not a JSON object", code="bad_arguments") from error
    raise ToolError(f"the arguments have more than {max_bytes} bytes", code="bad_arguments")
