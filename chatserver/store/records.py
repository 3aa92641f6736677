"""What goes into the store and comes out of it: keys, records, and the requests of its writes.

Times are seconds since the epoch; message times are the RFC 3339 strings of the record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from chatserver.message import Message, Outcome, Usage, no_metadata


class SessionKey(NamedTuple):
    """A session's identity: ids live inside a tenant (spec S3)."""

    tenant: str
    session_id: str


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session's durable record.

    `owner` is `kind:id` or None (unowned); `leaf_id` ends the active branch; `is_named` says that a person or
    auto-naming has given it its title.
    """

    key: SessionKey
    project_id: str
    owner: str | None
    title: str
    model: str | None
    created_at: float
    updated_at: float
    expires_at: float
    description: str = ""
    metadata: Mapping[str, Any] = field(default_factory=no_metadata)
    is_active: bool = True
    message_count: int = 0
    last_message_at: float | None = None
    leaf_id: str | None = None
    fence: int = 0
    is_named: bool = False


@dataclass(frozen=True, slots=True)
class StoredTurn:
    """A queued turn as stored: the user message is kept with it until the turn starts."""

    turn_id: str
    message: Message
    client_message_id: str | None
    options: Mapping[str, Any] = field(default_factory=no_metadata)


@dataclass(frozen=True, slots=True)
class StoredSession:
    """What brings a session back: its record, the newest messages of the active branch (oldest first), its queue."""

    record: SessionRecord
    messages: tuple[Message, ...]
    has_more: bool
    queue: tuple[StoredTurn, ...]


@dataclass(frozen=True, slots=True)
class WholeSession:
    """All there is of a session: every message of every branch in the order they were added, each after its parent, and
    the turns that wait, in order."""

    record: SessionRecord
    messages: tuple[Message, ...]
    queue: tuple[StoredTurn, ...] = ()


# What became of a session that was to be imported.
Imported = Literal["added", "replaced", "same"]


@dataclass(frozen=True, slots=True)
class StartTurn:
    """Start a turn: user message and empty answer go in together, with a new fence.

    `create` is the record to insert where the session is not stored yet; where it is, its record stands. `queued` says
    that the turn is already stored as queued (its user message moves out of the queue; `create` and
    `client_message_id` are not looked at). The parents of both messages are the caller's to set; the answer becomes the
    leaf. Nothing else of the record changes but `expires_at`, `updated_at`, counts and fence.

    `edits` names the stored message that `user_message` becomes a sibling of; `regenerates` the one that `answer` does:
    then `user_message` is stored already, and only the answer goes in. At most one of them is given.

    `carried` are messages that go in behind the answer, each the next one's parent; the last becomes the leaf.
    """

    key: SessionKey
    turn_id: str
    user_message: Message
    answer: Message
    client_message_id: str | None
    expires_at: float
    now: float
    create: SessionRecord | None = None
    queued: bool = False
    edits: str | None = None
    regenerates: str | None = None
    carried: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """The turn is committed as running; `fence` numbers its events, `record` is the session after the commit."""

    fence: int
    record: SessionRecord


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The `client_message_id` was used before in this session: by this turn. Nothing was written."""

    turn_id: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a running answer gained since its last checkpoint: encoded events, applied in order of `seq`.

    `body` is a JSON array of `[kind, value]`: `["text", str]`, `["reasoning", str]`, `["call", ToolCall]`,
    `["result", {"id": str, "result": ToolResult}]`,
    `["usage", {"usage": Usage, "after": int}]` (the newest counts).
    """

    key: SessionKey
    turn_id: str
    seq: int
    body: bytes


@dataclass(frozen=True, slots=True)
class FinishTurn:
    """The terminal state of a turn: the settled answer and its outcome; drops the turn's chunks.

    Of the answer everything but its parent and its time of creation is stored.
    """

    key: SessionKey
    turn_id: str
    answer: Message
    outcome: Outcome
    usage: Usage | None
    now: float


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a start found: turns that a crash left running (now interrupted), and sessions with a queue."""

    interrupted: int
    queued: tuple[SessionKey, ...]


@dataclass(frozen=True, slots=True)
class SessionFilter:
    """Which sessions a list holds: one owner's, of one tenant, that have not expired.

    `owner` is the exact owner. Sessions without one are nobody's to list (None gives nothing): whoever knows such an
    id may use the session, so ids must not be told. `now` decides what has expired. `query`: see words.py.
    """

    tenant: str
    owner: str | None
    now: float
    project_id: str | None = None
    include_inactive: bool = False
    query: str | None = None


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """A line of a list.

    `last_message_preview` is the beginning of the newest message of the active branch, or, while that one is empty, of
    the one before it: PREVIEW_CHARS characters in plain words (chatserver.preview); None where there is no text.
    """

    record: SessionRecord
    last_message_preview: str | None


@dataclass(frozen=True, slots=True)
class ProjectSummary:
    """A project as its owner sees it: own sessions and their messages, archived ones too."""

    project_id: str
    sessions: int
    messages: int
    updated_at: float


@dataclass(frozen=True, slots=True)
class SessionStats:
    """An owner's sessions in numbers (spec P6); those that have expired are not counted."""

    total_sessions: int
    active_sessions: int
    total_messages: int
    sessions_by_project: Mapping[str, int]
    updated_at: float | None

    @property
    def average_messages_per_session(self) -> float:
        """0 where there is no session."""
        return self.total_messages / self.total_sessions if self.total_sessions else 0.0


@dataclass(frozen=True, slots=True)
class StoreCounts:
    """Transactions committed since the start (many writes share one), and operations that wait now."""

    commits: int
    waiting: int
