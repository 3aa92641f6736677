"""Messages and what hangs on them, as immutable records.

They are what stands in a session's state, in events and in the store. JSON of them is what orjson makes of the
dataclass, so field names and their order are the wire format (docs/stream.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
from typing_extensions import TypedDict

# What a message weighs in memory beside its text (measured, benchmarks/memory.py), and a tool call beside its result.
MESSAGE_BYTES = 450
CALL_BYTES = 1000

Role = Literal["user", "assistant", "system", "tool"]
Status = Literal["completed", "streaming", "interrupted", "failed"]
Outcome = Literal["completed", "interrupted", "failed"]
Decision = Literal["approved", "denied", "expired"]

# Shared by the many messages that have none: a dict each would be the largest part of a short message. A plain dict,
# since orjson encodes no other mapping by itself; its type keeps it from being written to.
NO_METADATA: Mapping[str, Any] = {}


def no_metadata() -> Mapping[str, Any]:
    """The shared empty one, as a dataclass default."""
    return NO_METADATA


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool call gave: text already capped in size, and whether it is an error."""

    content: str
    is_error: bool


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool inside an answer.

    `offset` is the number of code points of the answer's content before the call, so that a reader can put it where
    it happened.
    """

    id: str
    server: str
    name: str
    arguments: dict[str, Any]
    offset: int = 0
    result: ToolResult | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a turn; `estimated` where the upstream told none."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cached_tokens: int = 0
    estimated: bool = False


class TurnError(TypedDict):
    """Why a turn failed: `code` for programs, `title` for people."""

    code: str
    title: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `created_at` is RFC 3339; `parent_id` is the message it follows on its branch.

    `siblings` are the ids of the messages that follow the same one, oldest first, its own among them; empty where it is
    the only one.
    """

    id: str
    parent_id: str | None
    role: Role
    content: str
    status: Status
    model: str | None
    created_at: str
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage | None = None
    metadata: Mapping[str, Any] = field(default_factory=no_metadata)
    siblings: tuple[str, ...] = ()

    def memory_bytes(self) -> int:
        """About what it weighs in memory, in bytes."""
        size = MESSAGE_BYTES + len(self.content) + len(self.reasoning)
        for call in self.tool_calls:
            size += CALL_BYTES + (len(call.result.content) if call.result else 0)
        return size

    def held_bytes(self) -> int:
        """The bytes in UTF-8 of what it says: contents, reasoning, tool calls and metadata."""
        texts = sum(len(t) if t.isascii() else len(t.encode()) for t in (self.content, self.reasoning))
        return texts + sum(len(orjson.dumps(part)) for part in (self.tool_calls, self.metadata) if part)

    def wire(self) -> dict[str, Any]:
        """As JSON-ready fields; orjson makes the same of the record itself, four times faster."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Approval:
    """A tool call that waits for a person; `expires_at` is RFC 3339."""

    id: str
    message_id: str
    call_id: str
    server: str
    name: str
    arguments: dict[str, Any]
    expires_at: str


def memory_of(messages: Iterable[Message]) -> int:
    """About what they weigh in memory, in bytes."""
    return sum(message.memory_bytes() for message in messages)
