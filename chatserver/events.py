"""Events: immutable facts about a session, numbered, and their one encoding.

Invariants: an event is encoded once, when it is numbered; every subscriber and every replay gets those bytes.
A `Position` is `<fence>-<n>`: the fence comes from the store once per turn (or per single change of an idle
session), `n` counts from 0 without gaps. It orders like the pair, and is a valid explicit id of a Redis stream.

This module does not apply events (state.py) and does not keep them (streams/log.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import orjson

from chatserver.errors import InvalidRequest
from chatserver.message import Approval, Decision, Message, Outcome, ToolCall, ToolResult, TurnError, Usage

_POSITION = re.compile(r"(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})", re.ASCII)


class Position(NamedTuple):
    """Where in a session's history a client is: everything up to and including this id has been seen."""

    fence: int
    n: int

    def __str__(self) -> str:
        return f"{self.fence}-{self.n}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read `<fence>-<n>`.

        Raises:
            InvalidRequest: code `bad_event_id`, where `text` is anything else.
        """
        found = _POSITION.fullmatch(text)
        if found is None:
            raise InvalidRequest(f"{text[:64]!r} is not an event id of the form <fence>-<n>", code="bad_event_id")
        return cls(int(found[1]), int(found[2]))


# Before anything happened. Redis uses the same id for "before the first entry".
START = Position(0, 0)
# `n` of a session reloaded from the store: all of that fence is in it, and no event of that fence can follow,
# since every later change takes a fence of its own.
END_OF_FENCE = 2**32 - 1


@dataclass(frozen=True, slots=True)
class TextDelta:
    type: ClassVar[str] = "text.delta"
    session_id: str
    turn_id: str
    message_id: str
    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    type: ClassVar[str] = "reasoning.delta"
    session_id: str
    turn_id: str
    message_id: str
    text: str


@dataclass(frozen=True, slots=True)
class MessageCreated:
    type: ClassVar[str] = "message.created"
    session_id: str
    message: Message
    turn_id: str | None = None


@dataclass(frozen=True, slots=True)
class MessageUpdated:
    type: ClassVar[str] = "message.updated"
    session_id: str
    message: Message
    turn_id: str | None = None


@dataclass(frozen=True, slots=True)
class TurnQueued:
    type: ClassVar[str] = "turn.queued"
    session_id: str
    turn_id: str
    message_id: str
    place: int
    message: Message


@dataclass(frozen=True, slots=True)
class TurnStarted:
    type: ClassVar[str] = "turn.started"
    session_id: str
    turn_id: str
    message_id: str


@dataclass(frozen=True, slots=True)
class ToolCalled:
    type: ClassVar[str] = "tool.called"
    session_id: str
    turn_id: str
    message_id: str
    call: ToolCall


@dataclass(frozen=True, slots=True)
class ToolProgress:
    type: ClassVar[str] = "tool.progress"
    session_id: str
    turn_id: str
    message_id: str
    call_id: str
    progress: float
    total: float | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class ToolReturned:
    type: ClassVar[str] = "tool.returned"
    session_id: str
    turn_id: str
    message_id: str
    call_id: str
    result: ToolResult


@dataclass(frozen=True, slots=True)
class ApprovalRequested:
    type: ClassVar[str] = "approval.requested"
    session_id: str
    turn_id: str
    approval: Approval


@dataclass(frozen=True, slots=True)
class ApprovalResolved:
    type: ClassVar[str] = "approval.resolved"
    session_id: str
    turn_id: str
    approval_id: str
    decision: Decision


@dataclass(frozen=True, slots=True)
class TurnEnded:
    type: ClassVar[str] = "turn.ended"
    session_id: str
    turn_id: str
    message_id: str
    outcome: Outcome
    usage: Usage | None = None
    error: TurnError | None = None


@dataclass(frozen=True, slots=True)
class SessionUpdated:
    """`session` holds the changed fields only, by their wire names."""

    type: ClassVar[str] = "session.updated"
    session_id: str
    session: dict[str, Any]


@dataclass(frozen=True, slots=True)
class SessionDeleted:
    type: ClassVar[str] = "session.deleted"
    session_id: str


Event = (
    TextDelta
    | ReasoningDelta
    | MessageCreated
    | MessageUpdated
    | TurnQueued
    | TurnStarted
    | ToolCalled
    | ToolProgress
    | ToolReturned
    | ApprovalRequested
    | ApprovalResolved
    | TurnEnded
    | SessionUpdated
    | SessionDeleted
)

_FIELDS: dict[type, tuple[str, ...]] = {
    cls: tuple(f.name for f in fields(cls))
    for cls in Event.__args__  # a union's members
}
# Left out of the JSON where there is nothing to tell.
OPTIONAL = frozenset({"usage", "error", "total", "text", "turn_id"})


def wire(event: Event) -> dict[str, Any]:
    """The event as JSON-ready fields, `type` first."""
    out: dict[str, Any] = {"type": event.type}
    for name in _FIELDS[type(event)]:
        value = getattr(event, name)
        if value is None and name in OPTIONAL:
            continue
        out[name] = value
    return out


class Frame(NamedTuple):
    """A numbered event as it goes out: `data` is a whole Server-Sent Event (HTML standard §9.2.6)."""

    position: Position
    data: bytes


def encode(event: Event, position: Position) -> Frame:
    """Number an event and encode it; the only place that does."""
    if type(event) is TextDelta:  # the hot one: spelled out, 2x the generic way
        body = orjson.dumps(
            {
                "type": "text.delta",
                "session_id": event.session_id,
                "turn_id": event.turn_id,
                "message_id": event.message_id,
                "text": event.text,
            }
        )
    else:
        body = orjson.dumps(wire(event))
    return Frame(position, b"id: %d-%d\ndata: %b\n\n" % (position[0], position[1], body))


def encode_plain(body: dict[str, Any], position: Position | None = None) -> bytes:
    """A frame outside the numbering (`snapshot`, `ping`, `goodbye`); `position` gives a snapshot its id."""
    data = orjson.dumps(body)
    if position is None:
        return b"data: %b\n\n" % data
    return b"id: %d-%d\ndata: %b\n\n" % (position[0], position[1], data)
