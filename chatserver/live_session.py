"""LiveSession: one session in memory.

Invariants: an event is numbered, encoded, applied, kept and fanned out in one step, with no await in it; numbers have
no gaps within a fence. What `snapshot_frame` gives belongs to `position`, so that subscribing and the first snapshot
are one step too.

It commits nothing (session_changes.py, turns.py), and does not know when it leaves memory (session_manager.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from chatserver.events import Event, Frame, Position, encode
from chatserver.message import Message
from chatserver.state import ChatState
from chatserver.store.base import SessionRecord, StoredTurn
from chatserver.streams.log import EventLog
from chatserver.streams.subscriber import Subscriber

# What an empty live session weighs (measured, benchmarks/memory.py).
SESSION_BYTES = 2500


@dataclass(frozen=True, slots=True)
class Past:
    """What an agent was given of a branch that is longer than the live window, kept for the next turn (history.py).

    `older` of `messages` stood before the window, and weigh `size_bytes`; `read_for` is the window of the model that
    they were read for, in tokens, and `grown` how many came to stand there since.
    """

    messages: tuple[Message, ...]
    older: int
    size_bytes: int
    read_for: int
    grown: int = 0


class LiveSession:
    """One session in memory: state, log, subscribers, and what its turn needs.

    `lock` serialises admissions and other changes with their commit; it is never held over a model, a tool or a
    client (docs/decisions/0002). `run` is TurnRunner's, None while idle.
    """

    __slots__ = (
        "_lock",
        "_monotonic",
        "_snapshot",
        "_states",
        "deletions",
        "fence",
        "key",
        "last_used",
        "log",
        "n",
        "past",
        "pins",
        "provisional",
        "queued",
        "record",
        "removed",
        "run",
        "size",
        "state",
        "subscribers",
        "unsaved",
    )

    def __init__(
        self,
        record: SessionRecord,
        state: ChatState,
        log: EventLog,
        *,
        provisional: bool,
        monotonic: Callable[[], float],
    ) -> None:
        self._monotonic = monotonic
        self.key = record.key
        self.record = record
        self.state = state
        self.log = log
        self.provisional = provisional
        self.fence, self.n = state.position
        self.subscribers: tuple[Subscriber, ...] = ()
        self.queued: dict[str, StoredTurn] = {}
        self.run: Any = None
        self.unsaved: Any = None
        self.past: Past | None = None
        self.pins = 0
        self.last_used = monotonic()
        self.size = 0
        self.removed = False
        self.deletions = 0  # under way; nothing new begins meanwhile
        self._lock: asyncio.Lock | None = None
        self._snapshot: tuple[Position, bytes] | None = None
        self._states: tuple[Position, bytes] | None = None

    @property
    def lock(self) -> asyncio.Lock:
        """Made on first use: most live sessions only hold still."""
        if self._lock is None:
            self._lock = asyncio.Lock()
        return self._lock

    @property
    def position(self) -> Position:
        return self.state.position

    @property
    def evictable(self) -> bool:
        return not (self.pins or self.subscribers or self.run or self.queued or self.unsaved)

    def begin_fence(self, fence: int) -> None:
        """Number what follows under a new fence, taken from the store."""
        self.fence = fence
        self.n = -1

    def append(self, event: Event) -> None:
        """Number, encode, apply, keep and fan out one event; no await anywhere in it."""
        position = Position(self.fence, self.n + 1)
        frame = encode(event, position)
        self.n += 1  # taken only now: an event that cannot be encoded must not leave a gap
        self.state.apply(event, position)
        self.log.append(frame)
        for subscriber in self.subscribers:
            subscriber.push(frame)

    def append_together(self, *events: Event) -> None:
        """`append` for events that happen at once: each subscriber gets them in one write, which is what costs."""
        frames = [encode(e, Position(self.fence, self.n + at)) for at, e in enumerate(events, 1)]
        for event, frame in zip(events, frames, strict=True):
            self.n += 1
            self.state.apply(event, frame.position)
            self.log.append(frame)
        together = Frame(frames[-1].position, b"".join([f.data for f in frames]))
        for subscriber in self.subscribers:
            subscriber.push(together)

    def change_branch(self, messages: Iterable[Message], has_more: bool) -> None:
        """Make another branch the active one: a `snapshot`, numbered like an event, tells it.

        Nothing older is replayed from here on: who comes back from before gets the newest snapshot, which is shorter.
        """
        position = Position(self.fence, self.n + 1)
        self.n += 1
        self.state.change_branch(messages, has_more, position)
        self.past = None
        self.log.restart(position)
        if self.subscribers:
            frame = Frame(position, self.snapshot_frame())
            for subscriber in self.subscribers:
                subscriber.push(frame)

    # --- streams.subscriber.Source ---

    def frames_after(self, position: Position) -> list[bytes] | None:
        return self.log.after(position)

    def snapshot_frame(self) -> bytes:
        # Kept while several follow and nothing changes: readers that take nothing then share one copy of it. For one
        # reader it would double what the session weighs, as long as its tab is open.
        if self._snapshot is not None and self._snapshot[0] == self.state.position:
            return self._snapshot[1]
        frame = self.state.snapshot_frame()
        self._snapshot = (self.state.position, frame) if len(self.subscribers) > 1 else None
        return frame

    def state_frame(self) -> bytes:
        """The state as a message of its own, kept as a snapshot is."""
        if self._states is not None and self._states[0] == self.state.position:
            return self._states[1]
        frame = b"data: %b\n\n" % self.state.encode()
        self._states = (self.state.position, frame) if len(self.subscribers) > 1 else None
        return frame

    def add_subscriber(self, subscriber: Subscriber) -> None:
        self.subscribers = (*self.subscribers, subscriber)

    def remove_subscriber(self, subscriber: Subscriber) -> None:
        self.last_used = self._monotonic()  # following is using, and needs no pin
        self.subscribers = tuple(s for s in self.subscribers if s is not subscriber)
        if not self.subscribers:
            self._snapshot = self._states = None

    def measure(self) -> int:
        """Estimated bytes in memory."""
        past = self.past.size_bytes if self.past is not None else 0
        return SESSION_BYTES + self.state.memory_bytes + self.log.held_bytes + past
