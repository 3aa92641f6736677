"""Run: one running turn, from its first event to its terminal one.

Invariants: its outcome is decided once (the first `finish` wins); after `close` nothing of it reaches the session any
more, whatever its agent still yields. Text goes out at once when the last piece is older than the flush interval and
together with its neighbours when not, so that a fast upstream costs one event per interval and a slow one waits for
nothing.

It does not commit (turn_ends.py, checkpoints.py) and does not start (turn_life.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import orjson

from chatserver import events as ev
from chatserver.agents.json_border import clean_text
from chatserver.live_session import LiveSession
from chatserver.message import Message, Outcome, TurnError, Usage
from chatserver.principal import Principal
from chatserver.store.base import Chunk
from chatserver.turn_tools import TurnTools


class Run:
    """See the module.

    Args:
        live: the session; the run holds a pin on it through TurnRunner.
        answer: the assistant message as committed, still empty.
        flush_soon: asks for `flush` after the flush interval.
        commit: commits what `take_chunks` gives, for `checkpoint`.
        on_first: told how many seconds the first piece of the answer took.
    """

    __slots__ = (
        "_began",
        "_chunk_seq",
        "_commit",
        "_flush_soon",
        "_kind",
        "_last_flush",
        "_on_first",
        "_pending",
        "_reasoned_seconds",
        "_reasoning_since",
        "_spent_unsaved",
        "_unsaved",
        "agent_closing",
        "answer",
        "answer_id",
        "closed",
        "ended",
        "error",
        "live",
        "outcome",
        "principal",
        "pump",
        "session_id",
        "told_after",
        "tools",
        "turn_id",
        "unsent",
        "usage",
        "user_message",
    )

    tools: TurnTools

    def __init__(
        self,
        live: LiveSession,
        turn_id: str,
        user_message: Message,
        answer: Message,
        principal: Principal,
        flush_soon: Callable[[Run], None],
        commit: Callable[[Run], Awaitable[None]],
        on_first: Callable[[float], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self.live = live
        self.turn_id = turn_id
        self.session_id = live.key.session_id
        self.user_message = user_message
        self.answer = answer
        self.answer_id = answer.id
        self.principal = principal
        self.usage: Usage | None = None
        self.told_after = 0
        self.error: TurnError | None = None
        self.outcome: asyncio.Future[Outcome] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.pump: asyncio.Task[None] | None = None
        self.closed = False
        self.agent_closing = False  # the pump is past the agent's answer and lets it clean up
        self._chunk_seq = 0
        self.unsent: list[Chunk] = []
        self._flush_soon = flush_soon
        self._commit = commit
        self._on_first = on_first
        self._began = loop.time()
        self._pending: list[str] = []
        self._kind: type[ev.TextDelta] | type[ev.ReasoningDelta] = ev.TextDelta
        self._last_flush = float("-inf")
        self._reasoned_seconds = 0.0
        self._reasoning_since: float | None = None
        self._unsaved: list[tuple[str, Any]] = []
        self._spent_unsaved = False

    @property
    def key(self) -> tuple[str, str]:
        return self.live.key

    def finish(self, outcome: Outcome, error: TurnError | None = None) -> bool:
        """Decide the outcome; False where it was decided before."""
        if self.outcome.done():
            return False
        self.error = error
        self.outcome.set_result(outcome)
        return True

    def spent(self, usage: Usage, characters: int) -> None:
        """Take what the agent tells of its usage, after so many characters of answer and reasoning."""
        self.usage = usage
        self.told_after = characters
        self._spent_unsaved = True

    def text(self, text: str, kind: type[ev.TextDelta] | type[ev.ReasoningDelta], now: float, interval: float) -> None:
        """Take a piece of answer or reasoning.

        Args:
            now: the loop's time in seconds.
            interval: the flush interval in seconds.
        """
        if kind is not self._kind:
            self.flush(now)
            self._kind = kind
            if kind is ev.TextDelta:
                self._tell_reasoned(now)
        if kind is ev.ReasoningDelta and self._reasoning_since is None:
            self._reasoning_since = now
        pending = self._pending
        if pending:
            pending.append(text)
        elif now - self._last_flush >= interval:
            if self._last_flush < 0:
                self._on_first(now - self._began)
            self._last_flush = now
            self._say(text)
        else:
            pending.append(text)
            self._flush_soon(self)

    def flush(self, now: float) -> None:
        """Let go of what waits."""
        if self._pending:
            text = "".join(self._pending)
            self._pending.clear()
            self._last_flush = now
            self._say(text)

    def _tell_reasoned(self, now: float) -> None:
        """Where reasoning has just ended: put into the answer how long all of it took, in milliseconds.

        Events carry no times, and a tab that comes later could not measure it.
        """
        since, self._reasoning_since = self._reasoning_since, None
        if since is None or self.closed:
            return
        answer = self.live.state.message(self.answer_id) or self.answer
        self._reasoned_seconds += now - since
        told = {"reasoning_ms": round(self._reasoned_seconds * 1000)}
        answer = replace(answer, metadata={**answer.metadata, **told})
        self.live.append(ev.MessageUpdated(self.session_id, answer, self.turn_id))
        self._unsaved.append(("metadata", told))

    def _say(self, text: str) -> None:
        if self.closed:
            return
        text = clean_text(text)
        self.live.append(self._kind(self.session_id, self.turn_id, self.answer_id, text))
        self._unsaved.append(("text" if self._kind is ev.TextDelta else "reasoning", text))

    def emit(self, event: ev.Event) -> None:
        """Append an event of this turn, behind all text so far; dropped once the run is closed.

        A call gets its place in the text here, where nothing of the text waits any more.
        """
        if self.closed:
            return
        now = asyncio.get_running_loop().time()
        self.flush(now)
        if type(event) is ev.ToolCalled:
            self._tell_reasoned(now)
            event = replace(event, call=replace(event.call, offset=self.live.state.answer_characters))
            self._unsaved.append(("call", event.call))
        elif type(event) is ev.ToolReturned:
            self._unsaved.append(("result", {"id": event.call_id, "result": event.result}))
        self.live.append(event)

    async def checkpoint(self) -> None:
        """Commit what the answer has now. A store that can't be written now does not stop the turn: what is not
        saved is tried again with the next checkpoint."""
        await self._commit(self)

    def take_chunks(self) -> list[Chunk]:
        """What was not checkpointed yet, neighbours joined; with what failed to commit before, under its old number."""
        if self.closed:
            return []
        chunks, self.unsent = self.unsent, []
        if self._unsaved or self._spent_unsaved:
            joined: list[list[Any]] = []
            for kind, value in self._unsaved:
                if joined and joined[-1][0] == kind and isinstance(value, str):
                    joined[-1][1].append(value)
                else:
                    joined.append([kind, [value] if isinstance(value, str) else value])
            body = [[kind, "".join(value) if isinstance(value, list) else value] for kind, value in joined]
            if self._spent_unsaved:  # the newest alone, however often it is told
                body.append(["usage", {"usage": self.usage, "after": self.told_after}])
                self._spent_unsaved = False
            chunks.append(Chunk(self.live.key, self.turn_id, self._chunk_seq, orjson.dumps(body)))
            self._chunk_seq += 1
            self._unsaved.clear()
        return chunks

    def close(self) -> None:
        """Flush, withdraw open approvals, and let nothing more through."""
        now = asyncio.get_running_loop().time()
        self.flush(now)
        self._tell_reasoned(now)
        for approval_id in self.tools.open_approvals():
            self.live.append(ev.ApprovalResolved(self.session_id, self.turn_id, approval_id, "expired"))
        self.closed = True
