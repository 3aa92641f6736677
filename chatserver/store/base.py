"""The Store protocol: what is durable, and when.

Promises, for every implementation (the conformance suite in tests/conformance/ is their executable form):

- A method that writes returns after its commit is durable (spec D1), or raises and nothing of it happened.
- Each method is one transaction; writes of one process take effect in the order they were called. A read that begins
  after a write has returned sees it.
- `SessionKey` (tenant and id) is part of every key. Nothing reaches from one tenant into another.
- `message_count` and `last_message_at` of a session are changed in the transaction that changes its messages.
- A new fence is larger than every earlier one of that session, those before a restart included, and those of a deleted
  session of the same key.
- `updated_at` changes when a message or a turn comes in and when columns of the record are set; the end of a turn and a
  fence alone leave the record as it is.

Errors: StoreUnavailable (locked, too many operations waiting, closed), StoreFull (disk full), StoreCorrupt. NotFound
where the session has gone; Conflict where what is to be added is there already. Reads go on where they can when writes
fail (spec D4).

Cancelling a write is safe but decides nothing: it may still be committed.

Times are seconds since the epoch; message times are the RFC 3339 strings of the record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from chatserver.message import Message, Outcome, Usage, no_metadata


class SessionKey(NamedTuple):
    """A session's identity: ids live inside a tenant (spec S3)."""

    tenant: str
    session_id: str


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session's durable record. `owner` is `kind:id` or None (unowned); `leaf_id` ends the active branch."""

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
class StartTurn:
    """Start a turn: user message and empty answer go in together, with a new fence.

    `create` is the record to insert where the session is not stored yet; where it is, its record stands. `queued` says
    that the turn is already stored as queued (its user message moves out of the queue; `create` and
    `client_message_id` are not looked at). The parents of both messages are the caller's to set; the answer becomes the
    leaf. Nothing else of the record changes but `expires_at`, `updated_at`, counts and fence.

    `edits` names the stored message that `user_message` becomes a sibling of; `regenerates` the one that `answer` does:
    then `user_message` is stored already, and only the answer goes in. At most one of them is given.
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
    `["result", {"id": str, "result": ToolResult}]`.
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


class Store(Protocol):
    """See the module's promises."""

    async def ready(self) -> None:
        """Raise if a read or a write would fail now (readiness, spec L1)."""

    async def load(self, key: SessionKey, limit: int) -> StoredSession | None:
        """The session with its newest `limit` messages of the active branch, or None.

        Record, messages and queue are of one moment. A running answer is as its row stands, like in `messages`.
        """

    async def record(self, key: SessionKey) -> SessionRecord | None:
        """The record alone, or None."""

    async def create_session(self, record: SessionRecord) -> SessionRecord:
        """Insert it without messages and with its first fence; where the key exists already, return what stands
        there unchanged."""

    async def start_turn(self, start: StartTurn) -> Started | Duplicate:
        """Commit the start of a turn.

        Raises:
            NotFound: no such session and no `create`, no such queued turn, or no such message to be a sibling of.
            Conflict (`busy`): a turn is running.
        """

    async def enqueue_turn(
        self, key: SessionKey, turn: StoredTurn, *, first: bool, expires_at: float, now: float
    ) -> Duplicate | None:
        """Store a queued turn, behind the others or (`first`) before them. Raises NotFound."""

    async def find_turn(self, key: SessionKey, client_message_id: str) -> str | None:
        """The turn that used this `client_message_id` in this session, whatever became of it, or None."""

    async def withdraw_turn(self, key: SessionKey, turn_id: str) -> bool:
        """Remove a queued turn; its `client_message_id` stays used. False where it is not queued (any more)."""

    async def checkpoint(self, chunks: Sequence[Chunk]) -> None:
        """Store chunks of running turns, all in one transaction. A repeated (turn, seq) is ignored, and so are
        chunks of a turn that does not run (any more): one of them must not fail the others."""

    async def finish_turn(self, finish: FinishTurn) -> None:
        """Commit a turn's terminal state; repeating it changes nothing. Raises NotFound where the turn is not stored
        (any more)."""

    async def add_message(
        self,
        key: SessionKey,
        message: Message,
        *,
        create: SessionRecord | None,
        new_fence: bool,
        expires_at: float,
        now: float,
    ) -> SessionRecord:
        """Add a message outside a turn and make it the leaf of the active branch; returns the record after it.

        Args:
            message: its parent is the caller's to set.
            create: the record to insert where the session is not stored yet.
            new_fence: take a fence (idle session); False while a turn of this session runs here, whose fence holds.
        """

    async def update_session(
        self, key: SessionKey, changes: Mapping[str, Any], *, new_fence: bool, now: float
    ) -> SessionRecord:
        """Set columns of the record (`title`, `model`, `expires_at`, `project_id`, `description`, `metadata`,
        `is_active`, `owner`); an empty `changes` just takes a fence. Returns the record after it.

        Raises:
            NotFound. ValueError: another column.
        """

    async def delete_session(self, key: SessionKey) -> bool:
        """Remove record, messages, turns and chunks; False where there was none."""

    async def messages(self, key: SessionKey, *, leaf_id: str | None, limit: int) -> tuple[Message, ...]:
        """Up to `limit` messages of the branch that ends at `leaf_id` (the active one where None), oldest first.

        A running answer is as its row stands: what streams now is in the live session. Raises NotFound where the
        session or that leaf is not stored.
        """

    async def message(self, key: SessionKey, message_id: str) -> Message | None:
        """One message on whichever branch, or None. A running answer is as its row stands."""

    async def system_messages(self, key: SessionKey, *, leaf_id: str, limit: int) -> tuple[Message, ...]:
        """The newest `limit` system messages of the branch that ends at `leaf_id`, oldest first."""

    async def newest_leaf(self, key: SessionKey, message_id: str) -> str | None:
        """The newest message behind that one, on whichever branch; itself where none follows, None where it is not
        stored."""

    async def choose_leaf(self, key: SessionKey, leaf_id: str) -> SessionRecord:
        """Make another message the leaf of the active branch, under a new fence; returns the record after it.

        Raises:
            NotFound: no such session, or no such message in it. Conflict (`busy`): a turn is running.
        """

    async def annotate_message(
        self, key: SessionKey, message_id: str, metadata: Mapping[str, Any], *, new_fence: bool
    ) -> SessionRecord:
        """Set a message's metadata; returns the record after it.

        Args:
            new_fence: as in `add_message`.
        Raises: NotFound.
        """

    async def fork_session(self, key: SessionKey, message_id: str, create: SessionRecord, limit: int) -> SessionRecord:
        """Insert `create` with a copy of the branch that ends at a message of `key`; returns its record.

        The copies keep ids, parents and all else but their siblings.

        Args:
            limit: messages that the branch may have.
        Raises:
            NotFound: no such message. Conflict: `create` exists already; `busy` where the branch holds a running
                answer. TooLarge: over `limit`.
        """

    async def recover(self, now: float) -> Recovered:
        """Once, at start: every turn left running becomes `interrupted`, its answer what its chunks give, under a new
        fence. Repeating it changes nothing."""

    async def close(self) -> None:
        """Finish accepted writes, then close; idempotent. Everything else raises StoreUnavailable from then on."""
