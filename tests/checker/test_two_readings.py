"""The checker's reducer and the server's `ChatState`, written apart from the same table, agree on every state."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from chatserver import events as ev
from chatserver.events import Position, encode
from chatserver.message import Approval, Message, Outcome, ToolCall, ToolResult, Usage, memory_of
from chatserver.state import ChatState
from tests.checker import reducer
from tests.checker.history import data_of

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def _message(message_id: str, role: str, content: str, status: str = "completed") -> Message:
    return Message(
        id=message_id,
        parent_id=None,
        role=role,  # type: ignore[arg-type]  # drawn from the literal's values
        content=content,
        status=status,  # type: ignore[arg-type]
        model="m",
        created_at="2026-01-01T00:00:00.000Z",
    )


@dataclass
class _Script:
    """Writes event sequences that a server could send, from random choices."""

    draw: Callable[[st.SearchStrategy[object]], object]
    events: list[ev.Event] = field(default_factory=list)
    count: int = 0
    running: tuple[str, str] | None = None
    calls: list[str] = field(default_factory=list)
    approvals: list[str] = field(default_factory=list)
    queue: list[tuple[str, Message]] = field(default_factory=list)

    def new(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    def text(self) -> str:
        return str(self.draw(TEXTS))

    def step(self) -> None:
        choices = [self.say, self.rename, self.enqueue, self.end_or_start]
        if self.running is not None:
            choices += [self.delta, self.delta, self.think, self.call, self.progress, self.ask, self.amend]
        chosen = self.draw(st.sampled_from(choices))
        chosen()  # type: ignore[operator]  # one of the methods above

    def end_or_start(self) -> None:
        if self.running is None:
            self.start()
        elif self.queue and self.draw(st.booleans()):
            turn_id, message = self.queue.pop(self.draw(st.integers(0, len(self.queue) - 1)))  # type: ignore[call-overload]
            self.events.append(ev.TurnEnded("s", turn_id, message.id, "interrupted"))
        else:
            self.end()

    def start(self) -> None:
        turn_id, user = (
            self.queue.pop(0) if self.queue else (self.new("t"), _message(self.new("u"), "user", self.text()))
        )
        answer = _message(self.new("a"), "assistant", "", "streaming")
        self.running = (turn_id, answer.id)
        self.events += [
            ev.MessageCreated("s", user, turn_id),
            ev.MessageCreated("s", answer, turn_id),
            ev.SessionUpdated("s", {"message_count": self.count, "expires_at": "2026-02-01T00:00:00.000Z"}),
            ev.TurnStarted("s", turn_id, answer.id),
        ]

    def end(self) -> None:
        assert self.running is not None
        for approval_id in self.approvals:
            self.events.append(ev.ApprovalResolved("s", self.running[0], approval_id, "expired"))
        outcome: Outcome = self.draw(st.sampled_from(["completed", "interrupted", "failed"]))  # type: ignore[assignment]
        usage = Usage(3, 4) if self.draw(st.booleans()) else None
        error = {"code": "agent_error", "title": "x"} if outcome == "failed" else None
        self.events.append(ev.TurnEnded("s", *self.running, outcome, usage, error))
        self.running, self.calls, self.approvals = None, [], []

    def enqueue(self) -> None:
        message = _message(self.new("u"), "user", self.text())
        turn_id = self.new("t")
        self.queue.append((turn_id, message))
        self.events.append(ev.TurnQueued("s", turn_id, message.id, len(self.queue), message))

    def say(self) -> None:
        self.events.append(ev.MessageCreated("s", _message(self.new("s"), "system", self.text())))

    def rename(self) -> None:
        self.events.append(ev.SessionUpdated("s", {"title": self.text(), "description": "not in the state"}))

    def delta(self) -> None:
        assert self.running is not None
        self.events.append(ev.TextDelta("s", *self.running, self.text()))

    def think(self) -> None:
        assert self.running is not None
        self.events.append(ev.ReasoningDelta("s", *self.running, self.text()))

    def call(self) -> None:
        assert self.running is not None
        if self.calls and self.draw(st.booleans()):
            result = ToolResult(self.text(), is_error=False)
            self.events.append(ev.ToolReturned("s", *self.running, self.calls[-1], result))
        else:
            self.calls.append(self.new("c"))
            self.events.append(ev.ToolCalled("s", *self.running, ToolCall(self.calls[-1], "time", "now", {"a": [1]})))

    def progress(self) -> None:
        assert self.running is not None
        if self.calls:
            self.events.append(ev.ToolProgress("s", *self.running, self.calls[-1], 0.5))

    def ask(self) -> None:
        assert self.running is not None
        if self.approvals:
            self.events.append(ev.ApprovalResolved("s", self.running[0], self.approvals.pop(), "approved"))
        else:
            approval = Approval(self.new("p"), self.running[1], "c", "time", "now", {}, "2026-02-01T00:00:00.000Z")
            self.approvals.append(approval.id)
            self.events.append(ev.ApprovalRequested("s", self.running[0], approval))

    def amend(self) -> None:
        assert self.running is not None
        turn_id, message_id = self.running
        self.calls = []
        message = _message(message_id, "assistant", self.text(), "streaming")
        self.events.append(ev.MessageUpdated("s", message, turn_id))


@settings(max_examples=150)
@given(st.data(), st.integers(1, 60))
def test_both_readings_of_the_event_table_give_the_same_states(data: st.DataObject, steps: int) -> None:
    """Step by step, over the bytes as they go out; a snapshot taken anywhere is the same too."""
    script = _Script(data.draw)
    for _ in range(steps):
        script.step()
    ours = ChatState("s", project_id="default", title="New Chat", model=None, expires_at=None)
    theirs = json.loads(orjson.dumps(ours.wire()))
    for n, event in enumerate(script.events):
        position = Position(1, n)
        frame = encode(event, position)
        ours.apply(event, position)
        reducer.apply(theirs, str(position), json.loads(data_of(frame.data)))
        assert theirs == json.loads(orjson.dumps(ours.wire()))
        assert ours.memory_bytes == memory_of(ours.messages)


def test_the_window_slides_in_both_readings() -> None:
    """The 201st message pushes the first one out and says that there are more."""
    ours = ChatState("s", project_id="default", title="New Chat", model=None, expires_at=None)
    theirs = json.loads(orjson.dumps(ours.wire()))
    for n in range(203):
        event = ev.MessageCreated("s", _message(f"u{n}", "user", str(n)))
        frame = encode(event, Position(1, n))
        ours.apply(event, Position(1, n))
        reducer.apply(theirs, f"1-{n}", json.loads(data_of(frame.data)))
    assert theirs == json.loads(orjson.dumps(ours.wire()))
    assert theirs["has_more"]
    assert ours.memory_bytes == memory_of(ours.messages)
    assert [m["id"] for m in theirs["messages"]] == [f"u{n}" for n in range(3, 203)]
