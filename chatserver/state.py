"""ChatState: what a session's tabs see, as the sum of its events.

Invariants: `apply` is deterministic, does no I/O and reads no clock; `snapshot + events == fresh snapshot` at every
cut (spec T4). web/src/lib/reducer.ts mirrors it; both read the vectors in tests/contract/. Applying a delta costs
the same however long the answer and the history are: text of the running answer is kept in parts and joined when
somebody reads it.

It does not number, encode or keep events.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, assert_never

import orjson

from chatserver import events as ev
from chatserver.events import START, Event, Position
from chatserver.message import Approval, Message, ToolCall, memory_of

# A snapshot's window (spec §3): enough for any screen, and bounds both memory and the bytes of a reconnect.
WINDOW_MESSAGES = 200


@dataclass(frozen=True, slots=True)
class QueuedTurn:
    """An accepted message that waits for the running turn; `place` counts from 1."""

    turn_id: str
    message_id: str
    place: int
    message: Message


class _Answer:
    """The running answer, growing in parts."""

    __slots__ = ("calls", "characters", "message", "reasoning", "text")

    def __init__(self, message: Message) -> None:
        self.message = message
        self.text: list[str] = [message.content] if message.content else []
        self.reasoning: list[str] = [message.reasoning] if message.reasoning else []
        self.calls: list[ToolCall] = list(message.tool_calls)
        self.characters = len(message.content)

    def settled(self) -> Message:
        """The message as it stands now; joins the parts so that the next reading is cheap."""
        text, reasoning = "".join(self.text), "".join(self.reasoning)
        self.text, self.reasoning = ([text] if text else []), ([reasoning] if reasoning else [])
        before, calls = self.message, tuple(self.calls)
        if (before.content, before.reasoning, before.tool_calls) != (text, reasoning, calls):
            self.message = replace(before, content=text, reasoning=reasoning, tool_calls=calls)
        return self.message


class ChatState:
    """State of one session up to `position`.

    Args:
        session_id, project_id, title, model: of the record.
        messages: newest messages of the active branch, oldest first; at most `WINDOW_MESSAGES` are kept.
        has_more: older ones exist.
        message_count: of all stored messages.
        expires_at: RFC 3339, or None.
        missing_api_key: the model's key variable is not set.
        position: everything up to here is in.

    `memory_bytes` is about what its settled messages weigh in memory, kept as they come and go.
    """

    __slots__ = (
        "_answer",
        "active_turn_id",
        "expires_at",
        "has_more",
        "is_connecting_mcp",
        "memory_bytes",
        "message_count",
        "messages",
        "missing_api_key",
        "model",
        "pending_approvals",
        "position",
        "project_id",
        "queue",
        "session_id",
        "title",
    )

    def __init__(
        self,
        session_id: str,
        *,
        project_id: str,
        title: str,
        model: str | None,
        expires_at: str | None,
        messages: Iterable[Message] = (),
        has_more: bool = False,
        message_count: int = 0,
        missing_api_key: bool = False,
        position: Position = START,
        queue: Iterable[QueuedTurn] = (),
    ) -> None:
        self.session_id = session_id
        self.project_id = project_id
        self.title = title
        self.model = model
        self.expires_at = expires_at
        self.messages: list[Message] = list(messages)
        self.memory_bytes = memory_of(self.messages)
        self.has_more = has_more
        self.message_count = message_count
        self.missing_api_key = missing_api_key
        self.is_connecting_mcp = False
        self.position = position
        self.queue: tuple[QueuedTurn, ...] = tuple(queue)
        self.pending_approvals: tuple[Approval, ...] = ()
        self.active_turn_id: str | None = None
        self._answer: _Answer | None = None

    @property
    def is_processing(self) -> bool:
        return self.active_turn_id is not None

    @property
    def answer_characters(self) -> int:
        """Code points of the running answer's text so far; 0 when none runs."""
        return self._answer.characters if self._answer is not None else 0

    def leaf_id(self) -> str | None:
        """The newest message's id, which the next one gets as its parent."""
        return self.messages[-1].id if self.messages else None

    def message(self, message_id: str) -> Message | None:
        """The message with that id, as it stands now, or None outside the window."""
        if self._answer is not None and self._answer.message.id == message_id:
            return self._answer.settled()
        at = self._index(message_id)
        return None if at is None else self.messages[at]

    def current_messages(self) -> list[Message]:
        """The window, oldest first, the running answer as it stands now."""
        if self._answer is None:
            return list(self.messages)
        settled = self._answer.settled()
        return [settled if m.id == settled.id else m for m in self.messages]

    def apply(self, event: Event, position: Position) -> None:
        """Fold one event in. Cancellation does not apply: it never waits."""
        self.position = position
        if type(event) is ev.TextDelta:
            answer = self._answer
            if answer is not None and answer.message.id == event.message_id:
                answer.text.append(event.text)
                answer.characters += len(event.text)
            return
        self._apply(event)

    def _apply(self, event: Event) -> None:
        match event:
            case ev.TextDelta():
                pass  # done in `apply`
            case ev.ReasoningDelta():
                if self._answer is not None and self._answer.message.id == event.message_id:
                    self._answer.reasoning.append(event.text)
            case ev.MessageCreated():
                self.messages.append(event.message)
                self.memory_bytes += event.message.memory_bytes()
                if event.message.status == "streaming":
                    self._answer = _Answer(event.message)
                if len(self.messages) > WINDOW_MESSAGES:
                    self.memory_bytes -= self.messages.pop(0).memory_bytes()
                    self.has_more = True
            case ev.MessageUpdated():
                self._replace(event.message)
            case ev.TurnQueued():
                entry = QueuedTurn(event.turn_id, event.message_id, event.place, event.message)
                before, after = self.queue[: event.place - 1], self.queue[event.place - 1 :]
                self.queue = _renumbered((*before, entry, *after))
            case ev.TurnStarted():
                self.active_turn_id = event.turn_id
                self._unqueue(event.turn_id)
            case ev.ToolCalled():
                if self._answer is not None and self._answer.message.id == event.message_id:
                    self._answer.calls.append(event.call)
            case ev.ToolProgress():
                pass  # transient by definition (spec T9)
            case ev.ToolReturned():
                if self._answer is not None and self._answer.message.id == event.message_id:
                    calls = self._answer.calls
                    calls[:] = [replace(c, result=event.result) if c.id == event.call_id else c for c in calls]
            case ev.ApprovalRequested():
                self.pending_approvals = (*self.pending_approvals, event.approval)
            case ev.ApprovalResolved():
                self.pending_approvals = tuple(a for a in self.pending_approvals if a.id != event.approval_id)
            case ev.TurnEnded():
                self._end_turn(event)
            case ev.SessionUpdated():
                for name in _CHANGEABLE & event.session.keys():
                    setattr(self, name, event.session[name])
            case ev.SessionDeleted():
                pass
            case _:
                assert_never(event)

    def _end_turn(self, event: ev.TurnEnded) -> None:
        self._unqueue(event.turn_id)
        if event.turn_id == self.active_turn_id:
            self.active_turn_id = None
        message = self.message(event.message_id)
        if message is not None and message.role == "assistant":
            self._answer = None
            self._replace(replace(message, status=event.outcome, usage=event.usage))

    def _unqueue(self, turn_id: str) -> None:
        if any(q.turn_id == turn_id for q in self.queue):
            self.queue = _renumbered(tuple(q for q in self.queue if q.turn_id != turn_id))

    def _replace(self, message: Message) -> None:
        at = self._index(message.id)
        if at is not None:
            self.memory_bytes += message.memory_bytes() - self.messages[at].memory_bytes()
            self.messages[at] = message
        if self._answer is not None and self._answer.message.id == message.id:
            self._answer = _Answer(message) if message.status == "streaming" else None

    def _index(self, message_id: str) -> int | None:
        for at in range(len(self.messages) - 1, -1, -1):  # nearly always among the last
            if self.messages[at].id == message_id:
                return at
        return None

    def change_branch(self, messages: Iterable[Message], has_more: bool, position: Position) -> None:
        """Another branch is the active one; told as a `snapshot` numbered `position`. No turn runs.

        Args:
            messages, has_more: as for a new state.
        """
        self.position = position
        self.messages = list(messages)
        self.memory_bytes = memory_of(self.messages)
        self.has_more = has_more
        self._answer = None

    def wire(self, *, with_messages: bool = True) -> dict[str, Any]:
        """The state as spec §3 shows it, its records left to orjson.

        Args:
            with_messages: False leaves the messages out (`Prefer: return=minimal`).
        """
        out: dict[str, Any] = {
            "session_id": self.session_id,
            "position": str(self.position),
            "project_id": self.project_id,
            "title": self.title,
            "model": self.model,
        }
        if with_messages:
            out["messages"] = self.current_messages()
            out["has_more"] = self.has_more
        out |= {
            "is_processing": self.is_processing,
            "active_turn_id": self.active_turn_id,
            "is_connecting_mcp": self.is_connecting_mcp,
            "missing_api_key": self.missing_api_key,
            "queue": self.queue,
            "pending_approvals": self.pending_approvals,
            "message_count": self.message_count,
            "expires_at": self.expires_at,
        }
        return out

    def snapshot_frame(self) -> bytes:
        """The state as a `snapshot` event with its position as id."""
        body = {"type": "snapshot", "session_id": self.session_id, "state": self.wire()}
        return ev.encode_plain(body, self.position)

    def encode(self) -> bytes:
        """The state alone as JSON."""
        return orjson.dumps(self.wire())


# Fields of the state that `session.updated` may change; others it carries concern lists, not the live state.
_CHANGEABLE = frozenset(
    {"project_id", "title", "model", "expires_at", "message_count", "is_connecting_mcp", "missing_api_key"}
)


def _renumbered(queue: tuple[QueuedTurn, ...]) -> tuple[QueuedTurn, ...]:
    return tuple(q if q.place == at else replace(q, place=at) for at, q in enumerate(queue, 1))
