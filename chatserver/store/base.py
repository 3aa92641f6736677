"""The Store protocol: what is durable, and when.

Promises, for every implementation (the conformance suite in tests/conformance/ is their executable form):

- A method that writes returns after its commit is durable (spec D1), or raises and nothing of it happened.
- Each method is one transaction; writes of one process take effect in the order they were called. A read that begins
  after a write has returned sees it.
- `SessionKey` (tenant and id) is part of every key. Nothing reaches from one tenant into another.
- `message_count` and `last_message_at` of a session are changed in the transaction that changes its messages.
- A new fence is larger than every earlier one of that session, those before a restart included, and those of a deleted
  session of the same key.
- `updated_at` changes when a message or a turn comes in and when columns of the record are set; the end of a turn, a
  fence alone and a new owner leave it as it is.
- Lists hold an owner's own sessions and nothing else; a session without an owner is in none.

Errors: StoreUnavailable (locked, too many operations waiting, closed), StoreFull (disk full), StoreCorrupt. NotFound
where the session has gone; Conflict where what is to be added is there already. Reads go on where they can when writes
fail (spec D4).

Cancelling a write is safe but decides nothing: it may still be committed.

Times are seconds since the epoch; message times are the RFC 3339 strings of the record.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from chatserver.message import Message, Usage
from chatserver.store.records import (
    Chunk,
    Duplicate,
    FinishTurn,
    Imported,
    ProjectSummary,
    Recovered,
    SessionFilter,
    SessionKey,
    SessionRecord,
    SessionStats,
    SessionSummary,
    Started,
    StartTurn,
    StoreCounts,
    StoredSession,
    StoredTurn,
    WholeSession,
)
from chatserver.store.usage_records import QuotaUse, UsageRow

__all__ = [
    "Chunk",
    "Duplicate",
    "FinishTurn",
    "Imported",
    "ProjectSummary",
    "QuotaUse",
    "Recovered",
    "SessionFilter",
    "SessionKey",
    "SessionRecord",
    "SessionStats",
    "SessionSummary",
    "StartTurn",
    "Started",
    "Store",
    "StoreCounts",
    "StoredSession",
    "StoredTurn",
    "UsageRow",
    "WholeSession",
]

# What a preview of a message shows (spec P2).
PREVIEW_CHARS = 100
# Sessions that one transaction of `adopt_sessions` takes: everybody else's writes wait for it.
ADOPTED_TOGETHER = 20
# Projects that one list holds, the ones used last: a person has a handful, a program may have made thousands.
LISTED_PROJECTS = 1000


class Store(Protocol):
    """See the module's promises."""

    def counts(self) -> StoreCounts:
        """How busy it is; never waits."""

    async def ready(self) -> None:
        """Raise if a read or a write would fail now (readiness, spec L1)."""

    async def load(self, key: SessionKey, limit: int, *, max_bytes: int | None = None) -> StoredSession | None:
        """The session with its newest `limit` messages of the active branch, or None.

        Record, messages and queue are of one moment. A running answer is as its row stands, like in `messages`.

        Args:
            max_bytes: as in `messages`.
        """

    async def record(self, key: SessionKey) -> SessionRecord | None:
        """The record alone, or None."""

    async def listed_record(self, key: SessionKey) -> SessionRecord | None:
        """The record as lists show it: of a damaged session, what can be read of it."""

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
        """Set columns of the record (`title`, `is_named`, `model`, `expires_at`, `project_id`, `description`,
        `metadata`, `is_active`, `owner`); an empty `changes` just takes a fence. Returns the record after it.

        Raises:
            NotFound. ValueError: another column.
        """

    async def name_session(self, key: SessionKey, title: str, *, new_fence: bool, now: float) -> SessionRecord | None:
        """Title a session that has no title of its own yet (compare and set); returns the record after it, or None
        where it has one. Raises NotFound."""

    async def delete_session(self, key: SessionKey) -> bool:
        """Delete it with its messages, turns and chunks; False where there was none.

        It is gone for everybody when this returns. Of a long one, what it held is removed by `clear_deleted`; until
        then whoever would make a session of that key gets StoreUnavailable.
        """

    async def clear_deleted(self) -> bool:
        """Remove what deleted sessions held, in one transaction of bounded size; whether more may be left.

        To be repeated until it is False: after a deletion, and after a start, for what the process before did not get
        done. It costs nothing where nothing is left.
        """

    async def messages(
        self, key: SessionKey, *, leaf_id: str | None, limit: int, max_bytes: int | None = None
    ) -> tuple[Message, ...]:
        """Up to `limit` messages of the branch that ends at `leaf_id` (the active one where None), oldest first.

        A running answer is as its row stands: what streams now is in the live session. Raises NotFound where the
        session or that leaf is not stored.

        Args:
            max_bytes: of their texts, tool calls and metadata together, in UTF-8; only as many of the newest are given
                as fit, and one at least.
        """

    async def message(self, key: SessionKey, message_id: str) -> Message | None:
        """One message on whichever branch, or None. A running answer is as its row stands."""

    async def system_messages(self, key: SessionKey, *, leaf_id: str, limit: int) -> tuple[Message, ...]:
        """The newest `limit` system messages of the branch that ends at `leaf_id`, oldest first."""

    async def leaf_behind(self, key: SessionKey, message_id: str) -> str | None:
        """Where the branch through that message ends: the active leaf where it is on the active branch, else the newest
        message behind it (itself where there is none). None where it is not stored."""

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

    async def fork_session(
        self, key: SessionKey, message_id: str, create: SessionRecord, limit: int, max_bytes: int
    ) -> SessionRecord:
        """Insert `create` with a copy of the branch that ends at a message of `key`; returns its record.

        The copies keep ids, parents and all else but their siblings.

        Args:
            limit: messages that the branch may have.
            max_bytes: of their contents, reasoning and tool calls together.
        Raises:
            NotFound: no such message. Conflict: `create` exists already; `busy` where the branch holds a running
                answer. TooLarge: over `limit` or `max_bytes`.
        """

    async def message_page(
        self, key: SessionKey, *, offset: int, limit: int, max_bytes: int | None = None
    ) -> tuple[Message, ...]:
        """Up to `limit` messages of the active branch from the `offset`-th on, oldest first.

        It walks the whole branch; `messages` with a leaf is the way upwards from a message. Raises NotFound.

        Args:
            max_bytes: as in `messages`, but of the oldest.
        """

    # --- many sessions ---

    async def list_sessions(
        self, where: SessionFilter, *, limit: int, offset: int = 0, after: tuple[float, str] | None = None
    ) -> tuple[SessionSummary, ...]:
        """Sessions newest `updated_at` first, ties by falling session id.

        Args:
            after: the `updated_at` and id of a session: only what comes behind it. Unlike `offset` it costs the same
                on every page, and what changes meanwhile neither repeats a session nor hides one that stood still.
        """

    async def list_projects(
        self, tenant: str, owner: str | None, now: float, *, limit: int = LISTED_PROJECTS
    ) -> tuple[ProjectSummary, ...]:
        """The projects of an owner's unexpired sessions, newest `updated_at` first, ties by name."""

    async def session_stats(self, tenant: str, owner: str | None, project_id: str | None, now: float) -> SessionStats:
        """An owner's unexpired sessions in numbers: of one project, or of all where it is None."""

    async def adopt_sessions(self, tenant: str, from_owner: str, to_owner: str, now: float) -> tuple[SessionKey, ...]:
        """Give the unexpired sessions of one owner to another (spec S6), each under a new fence; which ones.

        In transactions of up to ADOPTED_TOGETHER sessions each, until none is left. Of two calls at once each session
        goes to one. Repeating it after a failure goes on where that one stopped.
        """

    async def purge_expired(
        self, now: float, limit: int, *, kept_seconds: float = 0.0, spare: Collection[SessionKey] = ()
    ) -> tuple[SessionKey, ...]:
        """Delete up to `limit` sessions that expired more than `kept_seconds` ago, except those in `spare`; which ones.

        It is repeated until it gives none: then nothing is left. What is remembered of deleted sessions (their fences)
        is dropped here too, a month later.
        """

    async def index_ahead(self, now: float) -> bool:
        """Do a little, in one transaction of bounded size, of what the next search of somebody who wrote much would
        have to do first; False where a walk through all owners has come to its end.

        It changes nothing that a search finds. Calling it again begins the next walk, or goes on where a failure was.
        """

    # --- tokens used ---

    async def usage(
        self, tenant: str, owner: str | None, first_day: int, last_day: int, *, project_id: str | None = None
    ) -> tuple[UsageRow, ...]:
        """What an owner's turns have used in these days (chatserver.usage), by project and model, in that order.

        It is counted in the transaction that ends a turn, once, for the owner and the project that its session has
        then, and stays when the session goes. None is everybody without identity together.
        """

    async def add_usage(self, key: SessionKey, model: str, usage: Usage, now: float) -> None:
        """Count what was used in a session beside its turns (for its title), for its owner and project; nothing where
        it is not stored."""

    async def session_usage(self, key: SessionKey) -> tuple[tuple[str, Usage], ...]:
        """Model and usage of each message of a session that has one, in no order."""

    async def quota_use(self, tenant: str, owner: str | None, first_day: int, day: int) -> QuotaUse:
        """Tokens of an owner and of the whole tenant: of that day, and from `first_day` to it."""

    async def forget_usage(self, before_day: int, limit: int) -> int:
        """Drop up to `limit` rows of days before that one; how many."""

    # --- whole sessions ---

    async def count_sessions(self, tenant: str) -> int:
        """All sessions of a tenant, expired and archived ones too."""

    async def session_page(self, tenant: str, *, after: str = "", limit: int) -> tuple[SessionRecord, ...]:
        """Up to `limit` of all sessions of a tenant, expired and archived ones too, by rising id.

        Args:
            after: only ids behind this one.
        """

    async def message_links(self, key: SessionKey) -> tuple[tuple[str, str | None], ...]:
        """Id and parent of every message of a session, of all branches, in the order they were added; none where it is
        not stored."""

    async def messages_by_id(self, key: SessionKey, ids: Sequence[str]) -> tuple[Message, ...]:
        """These messages, in this order, without their siblings; what is not stored is left out. A running answer has
        what its checkpoints give."""

    async def import_session(self, whole: WholeSession, *, replace: bool) -> Imported:
        """Insert a session with all that belongs to it, as it is but for its fence; its counts are what stands beside
        it.

        Where there is one of that key: `same` where it is the same but for `expires_at`, and nothing is written; one
        that differs is replaced where `replace` says so. Raises Conflict where not.
        """

    # --- start and end ---

    async def recover(self, now: float) -> Recovered:
        """Once, at start: every turn left running becomes `interrupted`, its answer what its chunks give, under a new
        fence. Repeating it changes nothing."""

    async def close(self) -> None:
        """Finish accepted writes, then close; idempotent. Everything else raises StoreUnavailable from then on."""
