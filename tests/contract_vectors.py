"""The vectors in tests/contract/: what every reader of the stream makes of its events, state by state.

`python -m tests.contract_vectors` writes them anew from chatserver's own `ChatState` and `encode`; a test holds that
the committed files are what this writes. The page's reducer and the checker's read them too, so a change here is a
change of the protocol (docs/stream.md).

A file is `{"name", "initial": state, "steps": [{"id", "event", "state": state after it}]}`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from chatserver import events as ev
from chatserver.events import END_OF_FENCE, Event, Position, encode
from chatserver.message import Approval, Message, Role, Status, ToolCall, ToolResult, TurnError, Usage
from chatserver.state import WINDOW_MESSAGES, ChatState, QueuedTurn

FOLDER = Path(__file__).parent / "contract"
CREATED = "2026-01-02T03:04:05.678Z"
EXPIRES = "2026-02-01T00:00:00.000Z"
LATER = "2026-02-02T00:00:00.000Z"
SID = "s"

Json = dict[str, Any]


def message(message_id: str, role: Role, content: str = "", *, status: Status = "completed", **fields: Any) -> Message:
    """A message with a fixed time."""
    model = "tiny" if role == "assistant" else None
    return Message(message_id, fields.pop("parent_id", None), role, content, status, model, CREATED, **fields)


def new_state(**fields: Any) -> ChatState:
    """A session's state before anything happened, changed by `fields`."""
    given: dict[str, Any] = {"project_id": "default", "title": "New Chat", "model": None, "expires_at": EXPIRES}
    return ChatState(SID, **given | fields)


def as_json(state: ChatState) -> Json:
    """A state as clients get it."""
    decoded: Json = json.loads(orjson.dumps(state.wire()))
    return decoded


@dataclass
class Writer:
    """Applies events to a state and writes down what happens."""

    name: str
    state: ChatState
    fence: int = 0
    n: int = -1
    steps: list[Json] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.initial = as_json(self.state)

    def tell(self, *events: Event, new_fence: bool = False) -> None:
        """One step each."""
        if new_fence:
            self.fence, self.n = self.fence + 1, -1
        for event in events:
            self.n += 1
            position = Position(self.fence, self.n)
            frame = encode(event, position)
            self.state.apply(event, position)
            told = json.loads(frame.data.decode().split("\n")[1].removeprefix("data: "))
            self.steps.append({"id": str(position), "event": told, "state": as_json(self.state)})

    def snapshot(self, state: ChatState) -> None:
        """A snapshot takes the place of everything before it."""
        self.state, (self.fence, self.n) = state, state.position
        shown = as_json(state)
        event = {"type": "snapshot", "session_id": SID, "state": shown}
        self.steps.append({"id": str(state.position), "event": event, "state": shown})

    def change_branch(self, *messages: Message, has_more: bool = False) -> None:
        """Another branch becomes the active one: a snapshot, numbered as the first event of a fence."""
        self.fence, self.n = self.fence + 1, 0
        position = Position(self.fence, self.n)
        self.state.change_branch(messages, has_more, position)
        shown = as_json(self.state)
        event = {"type": "snapshot", "session_id": SID, "state": shown}
        self.steps.append({"id": str(position), "event": event, "state": shown})

    def start(self, turn_id: str, user: Message, answer_id: str, count: int) -> str:
        """The events that begin a turn."""
        answer = message(answer_id, "assistant", status="streaming", parent_id=user.id)
        self.tell(
            ev.MessageCreated(SID, replace(user, parent_id=self.state.leaf_id()), turn_id),
            ev.MessageCreated(SID, answer, turn_id),
            ev.SessionUpdated(SID, {"message_count": count, "expires_at": EXPIRES, "updated_at": CREATED}),
            ev.TurnStarted(SID, turn_id, answer_id),
            new_fence=True,
        )
        return answer_id

    def vector(self) -> Json:
        return {"name": self.name, "initial": self.initial, "steps": self.steps}


def a_whole_turn() -> Writer:
    """Reasoning, text with characters outside the BMP, two tool calls, usage."""
    w = Writer("a turn with reasoning, text and tools", new_state())
    a = w.start("t1", message("u1", "user", "What time is it?"), "a1", 2)
    w.tell(
        ev.ReasoningDelta(SID, "t1", a, "I should "),
        ev.ReasoningDelta(SID, "t1", a, "look."),
        ev.TextDelta(SID, "t1", a, "Let me look \U0001f552"),
        ev.TextDelta(SID, "t1", a, "\n"),
        ev.ToolCalled(SID, "t1", a, ToolCall("c1", "time", "now", {"zone": "UTC", "options": [1, None]}, 14)),
        ev.ToolCalled(SID, "t1", a, ToolCall("c2", "time", "offset", {}, 14)),
        ev.ToolProgress(SID, "t1", a, "c1", 0.5, 1.0, "half"),
        ev.ToolProgress(SID, "t1", a, "c1", 1.0),
        ev.ToolReturned(SID, "t1", a, "c2", ToolResult("no such tool", is_error=True)),
        ev.ToolReturned(SID, "t1", a, "c1", ToolResult("12:00", is_error=False)),
        ev.TextDelta(SID, "t1", a, "It is 12:00, caf\u00e9 time."),
        ev.TurnEnded(SID, "t1", a, "completed", Usage(10, 20, 5, 3, estimated=True)),
    )
    w.start("t2", message("u2", "user", "Thanks"), "a2", 4)
    w.tell(ev.TurnEnded(SID, "t2", "a2", "completed"))
    return w


def queue() -> Writer:
    """Messages that wait: behind, before, withdrawn from the middle, started."""
    w = Writer("a queue with withdrawal and renumbering", new_state())
    w.start("t1", message("u1", "user", "one"), "a1", 2)

    def queued(turn_id: str, message_id: str, place: int) -> ev.TurnQueued:
        return ev.TurnQueued(SID, turn_id, message_id, place, message(message_id, "user", f"asked by {turn_id}"))

    w.tell(
        queued("t2", "u2", 1),
        queued("t3", "u3", 2),
        queued("t4", "u4", 3),
        queued("t5", "u5", 1),
        ev.TurnEnded(SID, "t3", "u3", "interrupted"),
        ev.TextDelta(SID, "t1", "a1", "still running"),
        ev.TurnEnded(SID, "t1", "a1", "interrupted"),
    )
    w.start("t5", message("u5", "user", "asked by t5"), "a5", 4)
    w.tell(ev.TurnEnded(SID, "t5", "a5", "completed"))
    w.tell(ev.TurnEnded(SID, "t2", "u2", "interrupted"), new_fence=True)
    return w


def approvals() -> Writer:
    """Approved, denied, and overtaken by the end of the turn."""
    w = Writer("approvals", new_state())
    a = w.start("t1", message("u1", "user", "Tidy up"), "a1", 2)
    for n, decision in enumerate(("approved", "denied"), 1):
        w.tell(
            ev.ToolCalled(SID, "t1", a, ToolCall(f"c{n}", "files", "remove", {"path": f"/{n}"})),
            ev.ApprovalRequested(
                SID, "t1", Approval(f"p{n}", a, f"c{n}", "files", "remove", {"path": f"/{n}"}, EXPIRES)
            ),
            ev.ApprovalResolved(SID, "t1", f"p{n}", decision),  # type: ignore[arg-type]  # both are decisions
        )
    w.tell(
        ev.ToolReturned(SID, "t1", a, "c1", ToolResult("removed", is_error=False)),
        ev.ApprovalRequested(SID, "t1", Approval("p3", a, "c3", "files", "remove", {}, EXPIRES)),
        ev.ApprovalRequested(SID, "t1", Approval("p4", a, "c4", "files", "remove", {}, EXPIRES)),
        ev.ApprovalResolved(SID, "t1", "p3", "expired"),
        ev.ApprovalResolved(SID, "t1", "p4", "expired"),
        ev.TurnEnded(SID, "t1", a, "interrupted"),
    )
    return w


def bad_ends() -> Writer:
    """A turn that failed half-way, one that was stopped, one that failed before its first word."""
    w = Writer("failed and interrupted turns", new_state())
    a = w.start("t1", message("u1", "user", "one"), "a1", 2)
    error: TurnError = {"code": "upstream_timeout", "title": "The model did not answer in time"}
    w.tell(ev.TextDelta(SID, "t1", a, "Half an ans"))
    current = w.state.message(a)
    assert current is not None
    w.tell(
        ev.MessageUpdated(SID, replace(current, metadata={"error": error}), "t1"),
        ev.TurnEnded(SID, "t1", a, "failed", Usage(7, 3), error),
    )
    w.start("t2", message("u2", "user", "two"), "a2", 4)
    w.tell(ev.TextDelta(SID, "t2", "a2", "Sto"), ev.TurnEnded(SID, "t2", "a2", "interrupted"))
    w.start("t3", message("u3", "user", "three"), "a3", 6)
    current = w.state.message("a3")
    assert current is not None
    w.tell(
        ev.MessageUpdated(SID, replace(current, metadata={"error": error}), "t3"),
        ev.TurnEnded(SID, "t3", "a3", "failed", None, error),
    )
    return w


def outside_turns() -> Writer:
    """System messages idle and during a turn, every field of the session, a snapshot in between, deletion."""
    w = Writer("messages and changes outside turns", new_state())
    w.tell(ev.MessageCreated(SID, message("m1", "system", "The network is test.")), new_fence=True)
    a = w.start("t1", message("u1", "user", "Hello"), "a1", 3)
    w.tell(
        ev.TextDelta(SID, "t1", a, "Hel"),
        ev.MessageCreated(SID, message("m2", "system", "The transaction was signed.", parent_id="a1")),
        ev.TextDelta(SID, "t1", a, "lo"),
        ev.TurnEnded(SID, "t1", a, "completed"),
    )
    for changes in (
        {"title": "Greetings"},
        {"model": "tiny", "missing_api_key": True},
        {"model": None, "missing_api_key": False},
        {"project_id": "garden"},
        {"expires_at": LATER},
        {"expires_at": None, "message_count": 4},
        {"is_connecting_mcp": True},
        {"is_connecting_mcp": False},
        {"description": "of the record, not of the state", "is_active": True, "updated_at": LATER},
    ):
        w.tell(ev.SessionUpdated(SID, dict(changes)), new_fence=True)
    w.tell(ev.MessageUpdated(SID, message("m1", "system", "The network is main.")), new_fence=True)
    w.tell(ev.MessageUpdated(SID, message("m0", "system", "not in the window")), new_fence=True)
    waiting = message("u9", "user", "still waiting")
    w.snapshot(
        new_state(
            title="From the store",
            messages=[message("m8", "assistant", "an older answer")],
            has_more=True,
            message_count=300,
            position=Position(30, END_OF_FENCE),
            queue=[QueuedTurn("t9", "u9", 1, waiting)],
        )
    )
    w.fence = 30
    w.start("t9", waiting, "a9", 302)
    w.tell(ev.TurnEnded(SID, "t9", "a9", "completed"))
    w.tell(ev.SessionDeleted(SID), new_fence=True)
    return w


def branches() -> Writer:
    """An answer made anew, a message edited, another branch chosen; ratings here and on another branch; a regeneration
    that waits and is withdrawn."""
    w = Writer("branches of the tree of messages", new_state())
    w.start("t1", message("u1", "user", "one"), "a1", 2)
    w.tell(ev.TextDelta(SID, "t1", "a1", "first"), ev.TurnEnded(SID, "t1", "a1", "completed", Usage(1, 1)))
    question, first = w.state.current_messages()
    w.tell(ev.MessageUpdated(SID, replace(first, metadata={"feedback": {"rating": "down"}})), new_fence=True)
    # Made anew: the answer goes, and its sibling comes.
    w.change_branch(question)
    both = ("a1", "a2")
    again = message("a2", "assistant", status="streaming", parent_id="u1", siblings=both)
    w.tell(
        ev.MessageCreated(SID, again, "t2"),
        ev.SessionUpdated(SID, {"message_count": 3}),
        ev.TurnStarted(SID, "t2", "a2"),
        ev.TextDelta(SID, "t2", "a2", "sec"),
        # The same message again, and taken back: it is no new one, and stays.
        ev.TurnQueued(SID, "t3", "u1", 1, question),
        ev.TurnEnded(SID, "t3", "u1", "interrupted"),
        # Of the other branch.
        ev.MessageUpdated(SID, replace(first, metadata={"feedback": {"rating": "up"}}, siblings=both)),
        ev.TextDelta(SID, "t2", "a2", "ond"),
        ev.TurnEnded(SID, "t2", "a2", "interrupted"),
    )
    # Edited: the branch begins with nothing.
    w.change_branch()
    edited = message("u2", "user", "two", siblings=("u1", "u2"))
    w.tell(
        ev.MessageCreated(SID, edited, "t4"),
        ev.MessageCreated(SID, message("a4", "assistant", status="streaming", parent_id="u2"), "t4"),
        ev.SessionUpdated(SID, {"message_count": 5}),
        ev.TurnStarted(SID, "t4", "a4"),
        ev.TurnEnded(SID, "t4", "a4", "completed"),
    )
    w.change_branch(
        replace(question, siblings=("u1", "u2")),
        replace(first, metadata={"feedback": {"rating": "up"}}, siblings=both),
        has_more=True,
    )
    w.start("t5", message("u5", "user", "and on"), "a5", 7)
    w.tell(ev.TurnEnded(SID, "t5", "a5", "completed"))
    return w


def window() -> Writer:
    """The newest 200 messages: the first leaves, here a running answer, whose later events change only what is left."""
    answer = message("a0", "assistant", "", status="streaming")
    others = [message(f"m{n}", "system", str(n)) for n in range(1, WINDOW_MESSAGES)]
    state = new_state(messages=[answer, *others], message_count=200)
    state.apply(ev.TurnStarted(SID, "t1", "a0"), Position(1, 3))
    w = Writer("the window of 200 messages", state, fence=1, n=3)
    w.tell(
        ev.MessageCreated(SID, message("m200", "system", "one more")),
        ev.TextDelta(SID, "t1", "a0", "out of sight"),
        ev.TurnEnded(SID, "t1", "a0", "completed", Usage(1, 1)),
    )
    return w


VECTORS: dict[str, Callable[[], Writer]] = {
    "turn": a_whole_turn,
    "queue": queue,
    "approvals": approvals,
    "bad-ends": bad_ends,
    "outside-turns": outside_turns,
    "window": window,
    "branches": branches,
}


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "))


def _state_text(state: Json, indent: str) -> str:
    """A state: the short fields in one line, lists of objects with an object a line."""
    lists = {name: value for name, value in state.items() if isinstance(value, list)}
    short = {name: value for name, value in state.items() if name not in lists}
    parts = [_line(short)[1:-1]]
    for name, items in lists.items():
        if items:
            inner = f",\n{indent}   ".join(_line(item) for item in items)
            parts.append(f'"{name}": [\n{indent}   {inner}\n{indent} ]')
        else:
            parts.append(f'"{name}": []')
    return "{" + f",\n{indent} ".join(parts) + "}"


def rendered(vector: Json) -> str:
    """A vector as its file's text."""
    steps = [
        f'  {{"id": "{step["id"]}",\n   "event": {_event_text(step["event"])},\n'
        f'   "state": {_state_text(step["state"], "   ")}}}'
        for step in vector["steps"]
    ]
    return (
        f'{{"name": {_line(vector["name"])},\n "initial": {_state_text(vector["initial"], " ")},\n'
        ' "steps": [\n' + ",\n".join(steps) + "\n ]}\n"
    )


def _event_text(event: Json) -> str:
    if event["type"] == "snapshot":
        return f'{{"type": "snapshot", "session_id": "{SID}",\n    "state": {_state_text(event["state"], "    ")}}}'
    return _line(event)


def main() -> None:
    """Write the files."""
    FOLDER.mkdir(exist_ok=True)
    for name, write in VECTORS.items():
        (FOLDER / f"{name}.json").write_text(rendered(write().vector()), encoding="utf-8")


if __name__ == "__main__":
    main()
