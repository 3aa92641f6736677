"""A live session without a server, and scripts of events that a server could append to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from chatserver import events as ev
from chatserver.events import Position
from chatserver.live_session import LiveSession
from chatserver.message import Approval, Message, Outcome, Role, Status, ToolCall, ToolResult, TurnError, Usage
from chatserver.state import ChatState
from chatserver.store.base import SessionKey, SessionRecord
from chatserver.streams.memory import MemoryLog

CREATED = "2026-01-01T00:00:00.000Z"
SID = "s"


def live_session(
    session_id: str = SID, *, log_events: int = 4096, log_bytes: int = 1 << 20, at: Position = ev.START
) -> LiveSession:
    """An empty one."""
    key = SessionKey("public", session_id)
    record = SessionRecord(key, "default", None, "New Chat", None, 0.0, 0.0, 86400.0)
    state = ChatState(
        session_id,
        project_id="default",
        title="New Chat",
        model=None,
        expires_at="1970-01-02T00:00:00.000Z",
        position=at,
    )
    log = MemoryLog(at, max_events=log_events, max_bytes=log_bytes)
    return LiveSession(record, state, log, provisional=False, monotonic=lambda: 0.0)


def message(message_id: str, role: Role, content: str = "", status: Status = "completed") -> Message:
    return Message(message_id, None, role, content, status, "m" if role == "assistant" else None, CREATED)


@dataclass
class Script:
    """Appends to a live session what its turns would, one small step at a time.

    Args:
        choose: a number below its argument; where every decision comes from.
        text: the text of a delta.
    """

    live: LiveSession
    choose: Callable[[int], int]
    text: Callable[[], str] = lambda: "word "
    count: int = 0
    fence: int = 0
    turn: tuple[str, str] | None = None
    queue: list[tuple[str, Message]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    approvals: list[str] = field(default_factory=list)

    @property
    def sid(self) -> str:
        return self.live.key.session_id

    def new(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    def next_fence(self) -> None:
        """Sometimes more than one on: fences of other sessions' work are not told."""
        self.fence += 1 + self.choose(2)
        self.live.begin_fence(self.fence)

    def step(self) -> None:
        """One change of the session."""
        if self.turn is None:
            (self.start, self.say, self.rename, self.start)[self.choose(4)]()
        else:
            steps = (
                self.delta,
                self.delta,
                self.delta,
                self.think,
                self.call,
                self.ask,
                self.enqueue,
                self.say,
                self.end,
            )
            steps[self.choose(len(steps))]()

    def start(self) -> None:
        self.next_fence()
        turn_id, user = (
            self.queue.pop(0) if self.queue else (self.new("t"), message(self.new("u"), "user", self.text()))
        )
        answer = message(self.new("a"), "assistant", status="streaming")
        self.turn = (turn_id, answer.id)
        self.live.append_together(
            ev.MessageCreated(self.sid, user, turn_id),
            ev.MessageCreated(self.sid, answer, turn_id),
            ev.SessionUpdated(self.sid, {"message_count": self.count, "expires_at": CREATED}),
            ev.TurnStarted(self.sid, turn_id, answer.id),
        )

    def delta(self) -> None:
        assert self.turn is not None
        self.live.append(ev.TextDelta(self.sid, *self.turn, self.text()))

    def think(self) -> None:
        assert self.turn is not None
        self.live.append(ev.ReasoningDelta(self.sid, *self.turn, self.text()))

    def call(self) -> None:
        assert self.turn is not None
        if self.calls:
            call_id = self.calls.pop()
            self.live.append(ev.ToolProgress(self.sid, *self.turn, call_id, 0.5, 1.0))
            self.live.append(ev.ToolReturned(self.sid, *self.turn, call_id, ToolResult(self.text(), False)))
        else:
            self.calls.append(self.new("c"))
            self.live.append(ev.ToolCalled(self.sid, *self.turn, ToolCall(self.calls[-1], "srv", "echo", {"n": [1]})))

    def ask(self) -> None:
        assert self.turn is not None
        if self.approvals:
            self.live.append(ev.ApprovalResolved(self.sid, self.turn[0], self.approvals.pop(), "approved"))
        else:
            self.approvals.append(self.new("p"))
            approval = Approval(self.approvals[-1], self.turn[1], "c", "srv", "echo", {}, CREATED)
            self.live.append(ev.ApprovalRequested(self.sid, self.turn[0], approval))

    def enqueue(self) -> None:
        turn_id, user = self.new("t"), message(self.new("u"), "user", self.text())
        place = self.choose(len(self.queue) + 1)
        self.queue.insert(place, (turn_id, user))
        self.live.append(ev.TurnQueued(self.sid, turn_id, user.id, place + 1, user))
        if self.choose(4) == 0:
            gone, user = self.queue.pop(self.choose(len(self.queue)))
            self.live.append(ev.TurnEnded(self.sid, gone, user.id, "interrupted"))

    def say(self) -> None:
        if self.turn is None:
            self.next_fence()
        self.live.append(ev.MessageCreated(self.sid, message(self.new("s"), "system", self.text())))

    def rename(self) -> None:
        self.next_fence()
        self.live.append(ev.SessionUpdated(self.sid, {"title": self.text(), "description": "not in the state"}))

    def end(self) -> None:
        assert self.turn is not None
        for approval_id in self.approvals:
            self.live.append(ev.ApprovalResolved(self.sid, self.turn[0], approval_id, "expired"))
        outcomes: tuple[Outcome, ...] = ("completed", "interrupted", "failed")
        outcome = outcomes[self.choose(3)]
        error: TurnError | None = None
        if outcome == "failed":
            error = {"code": "agent_error", "title": "The agent failed"}
            current = self.live.state.message(self.turn[1])
            if current is not None:
                self.live.append(ev.MessageUpdated(self.sid, current, self.turn[0]))
        usage = Usage(1, 2) if self.choose(2) else None
        self.live.append(ev.TurnEnded(self.sid, *self.turn, outcome, usage, error))
        self.turn, self.calls, self.approvals = None, [], []
