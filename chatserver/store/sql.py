"""SqlStore: the Store protocol over a SQL database.

Invariants: every write goes through the one writer and is committed when its method returns; reads have threads and
connections of their own, so they wait for no write. A database in memory has one connection: there the writer reads
too, and everything else is the same.

What a method does is in operations.py; when it is committed, in writer.py; how the file is opened, in sqlite.py.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from chatserver.config import Settings
from chatserver.errors import StartupError, StoreFull, StoreUnavailable
from chatserver.message import Message, Usage
from chatserver.store import listing, operations, recovery, removal, search, sqlite
from chatserver.store import usage as usage_operations
from chatserver.store import whole as whole_sessions
from chatserver.store.accounts import AccountStore
from chatserver.store.base import (
    LISTED_PROJECTS,
    Chunk,
    Duplicate,
    FinishTurn,
    Imported,
    ProjectSummary,
    QuotaUse,
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
    UsageRow,
    WholeSession,
)
from chatserver.store.sql_accounts import SqlAccounts
from chatserver.store.statements import CHANGEABLE
from chatserver.store.transaction import Transaction
from chatserver.store.writer import Transactions

T = TypeVar("T")

DATABASE_NAME = "chatserver.db"
# Writes in one commit. Some 15 ms of work: beyond that a larger group saves nothing and its first waits for its last.
WRITE_BATCH = 256


async def open_store(settings: Settings) -> SqlStore:
    """The store that the settings name, open.

    Raises:
        StartupError: with the path and the reason; also where another process uses the database.
    Cancelling closes what was opened.
    """
    store = SqlStore(
        location(settings.database_url, settings.data_dir),
        busy_seconds=settings.store_busy_seconds,
        queue_limit=settings.store_queue_limit,
        reader_threads=settings.reader_threads,
    )
    await store.open()
    return store


@asynccontextmanager
async def open_accounts(settings: Settings) -> AsyncIterator[AccountStore]:
    """The accounts of the database that the settings name, whether a server is using it or not.

    Raises:
        StartupError: with the path and the reason.
    """
    path = location(settings.database_url, settings.data_dir)
    if path is None:
        raise StartupError("a database in memory has no users but those of its own server")
    try:
        store = await open_store(settings)
    except StartupError as error:
        if error.narrow_code != "already_running":
            raise
        where = sqlite.Location(path, settings.store_busy_seconds)
        guest = Transactions("guest", partial(sqlite.beside, where), limit=settings.store_queue_limit, batch=1)
        await guest.open()
        try:
            yield SqlAccounts(guest, guest)
        finally:
            await guest.close()
    else:
        try:
            yield store.accounts
        finally:
            await store.close()


async def open_reader(settings: Settings) -> SqlStore:
    """The store that the settings name, for reading only: beside a server too, which is neither waited for nor stopped.

    Raises:
        StartupError: with the path and the reason; also where there is no database.
    """
    path = location(settings.database_url, settings.data_dir)
    if path is None:
        raise StartupError("database_url: a database in memory is its server's alone")
    store = SqlStore(
        path,
        busy_seconds=settings.store_busy_seconds,
        queue_limit=settings.store_queue_limit,
        reader_threads=1,
        writable=False,
    )
    await store.open()
    return store


def location(database_url: str | None, data_dir: Path) -> Path | None:
    """Where the database is; None for one in memory.

    Args:
        database_url: `sqlite:///file` (relative), `sqlite:////file` (absolute), `:memory:`, or None for
            `chatserver.db` in `data_dir`.
    Raises:
        StartupError: any other URL.
    """
    if database_url is None:
        return (data_dir / DATABASE_NAME).resolve()
    if database_url in (":memory:", "sqlite://", "sqlite:///:memory:"):
        return None
    scheme, separator, name = database_url.partition(":///")
    if scheme != "sqlite" or not separator or not name:
        # Only the scheme is shown: what follows may hold a password.
        raise StartupError(f"database_url: {scheme.partition(':')[0]!r} is not sqlite:///file or :memory:")
    return Path(name).resolve()


class SqlStore:
    """See the module, and `Store` for what each method promises.

    Args:
        path: of the SQLite file, resolved; None for a database in memory.
        busy_seconds: how long a lock of another process is waited for.
        queue_limit: operations that may wait, writes and reads each.
        reader_threads: connections that read.
        writable: False leaves the database to whoever writes it; what would write fails.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        busy_seconds: float,
        queue_limit: int,
        reader_threads: int,
        writable: bool = True,
    ) -> None:
        self._path = path
        self._file: tuple[int, int] | None = None
        where = sqlite.Location(path, busy_seconds)
        self._writer = (
            Transactions("writer", partial(sqlite.writing, where), limit=queue_limit, batch=WRITE_BATCH)
            if writable
            else Transactions("guest", partial(sqlite.reading_alone, where), limit=queue_limit, batch=1)
        )
        self._reader = (
            self._writer
            if path is None or not writable
            else Transactions(
                "reader", partial(sqlite.reading, where), limit=queue_limit, batch=1, threads=reader_threads
            )
        )
        self._indexing = asyncio.Lock()
        # Where `index_ahead` stands: at which owner, and at which of that owner's sessions if there is work.
        self._ahead_at = search.NOBODY
        self._ahead_place: search.Place | None = None
        self._may_be_buried = writable  # by the process before; else nothing is looked for after a deletion
        # Sessions, and owners by tenant, whose texts are leaving the index.
        self._taken_out: Counter[SessionKey] = Counter()
        self._given_away: Counter[tuple[str, str]] = Counter()
        self.accounts = SqlAccounts(self._writer, self._reader)

    async def open(self) -> None:
        """Open the database, made or migrated where needed. Raises StartupError. Cancelling closes it again."""
        await self._writer.open()
        if self._reader is not self._writer:
            try:
                await self._reader.open()
            except BaseException:
                await self._writer.close()
                raise
        self._file = self._file_there()

    async def close(self) -> None:
        await self._reader.close()  # first: the last connection to close empties the log, and readers may not
        await self._writer.close()

    def counts(self) -> StoreCounts:
        waiting = self._writer.waiting + (0 if self._reader is self._writer else self._reader.waiting)
        return StoreCounts(self._writer.commits, waiting)

    async def ready(self) -> None:
        await self._reader.submit(self._probe_place)
        await self._reader.submit(operations.probe_reading)
        await self._writer.submit(operations.probe_writing)

    def _probe_place(self, _: Transaction) -> None:
        """A file that was moved away or deleted is read and written as before, until the process ends."""
        if self._file_there() != self._file:
            raise StoreUnavailable("the database is not where it was opened: its folder was moved or deleted")

    def _file_there(self) -> tuple[int, int] | None:
        """Which file has the database's name now; None for a database in memory, or where there is none."""
        if self._path is None:
            return None
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    # --- reading ---

    async def load(self, key: SessionKey, limit: int, *, max_bytes: int | None = None) -> StoredSession | None:
        return await self._reader.submit(partial(operations.load, key=key, limit=limit, max_bytes=max_bytes))

    async def record(self, key: SessionKey) -> SessionRecord | None:
        return await self._reader.submit(partial(operations.read_record, key=key))

    async def listed_record(self, key: SessionKey) -> SessionRecord | None:
        return await self._reader.submit(partial(operations.read_listed_record, key=key))

    async def find_turn(self, key: SessionKey, client_message_id: str) -> str | None:
        return await self._reader.submit(partial(operations.find_turn, key=key, client_message_id=client_message_id))

    async def messages(
        self, key: SessionKey, *, leaf_id: str | None, limit: int, max_bytes: int | None = None
    ) -> tuple[Message, ...]:
        return await self._reader.submit(
            partial(operations.read_messages, key=key, leaf_id=leaf_id, limit=limit, max_bytes=max_bytes)
        )

    async def message(self, key: SessionKey, message_id: str) -> Message | None:
        return await self._reader.submit(partial(operations.read_message, key=key, message_id=message_id))

    async def system_messages(self, key: SessionKey, *, leaf_id: str, limit: int) -> tuple[Message, ...]:
        return await self._reader.submit(
            partial(operations.read_system_messages, key=key, leaf_id=leaf_id, limit=limit)
        )

    async def leaf_behind(self, key: SessionKey, message_id: str) -> str | None:
        return await self._reader.submit(partial(operations.leaf_behind, key=key, message_id=message_id))

    async def message_page(
        self, key: SessionKey, *, offset: int, limit: int, max_bytes: int | None = None
    ) -> tuple[Message, ...]:
        return await self._reader.submit(
            partial(operations.read_message_page, key=key, offset=offset, limit=limit, max_bytes=max_bytes)
        )

    async def list_sessions(
        self, where: SessionFilter, *, limit: int, offset: int = 0, after: tuple[float, str] | None = None
    ) -> tuple[SessionSummary, ...]:
        if where.query is not None and where.owner is not None:
            await self._bring_index_up(where.tenant, where.owner, where.now)
        return await self._reader.submit(
            partial(listing.list_sessions, where=where, limit=limit, offset=offset, after=after)
        )

    async def _bring_index_up(self, tenant: str, owner: str, now: float) -> None:
        """Index what the owner wrote since the last search (search.py)."""
        with suppress(StoreUnavailable, StoreFull):  # what is indexed can be found where nothing can be written
            if await self._reader.submit(partial(search.is_behind, tenant=tenant, owner=owner, now=now)):
                place: search.Place | None = search.FIRST
                while place is not None:
                    place = await self._index_some((tenant, owner), now, place)

    async def _index_some(self, whose: search.Whose, now: float, place: search.Place) -> search.Place | None:
        """One transaction's share of an owner's texts; where to go on."""
        async with self._indexing:
            if whose in self._given_away:
                return None
            work = partial(search.index_some, tenant=whose[0], owner=whose[1], now=now, after=place)
            return await self._writer.submit(partial(work, spare=frozenset(self._taken_out)))

    async def index_ahead(self, now: float) -> bool:
        if self._ahead_place is not None:
            self._ahead_place = await self._index_some(self._ahead_at, now, self._ahead_place)
            return True
        found, after = await self._reader.submit(partial(search.find_behind, after=self._ahead_at, now=now))
        self._ahead_place = None if found is None else search.FIRST
        self._ahead_at = after or search.NOBODY
        return after is not None

    async def _index(self, work: Callable[[Transaction], T]) -> T:
        """Run what changes the index: one at a time, as all that wait would come into one commit."""
        async with self._indexing:
            return await self._writer.submit(work)

    @asynccontextmanager
    async def _out_of_index(self, key: SessionKey) -> AsyncIterator[None]:
        """Take a session out of the index, a little in each transaction; no search puts it in again meanwhile."""
        self._taken_out[key] += 1
        try:
            while await self._index(partial(search.remove_some, key=key)):
                pass
            yield
        finally:
            self._taken_out[key] -= 1
            self._taken_out += Counter()  # which drops what is 0

    async def list_projects(
        self, tenant: str, owner: str | None, now: float, *, limit: int = LISTED_PROJECTS
    ) -> tuple[ProjectSummary, ...]:
        return await self._reader.submit(
            partial(listing.list_projects, tenant=tenant, owner=owner, now=now, limit=limit)
        )

    async def session_stats(self, tenant: str, owner: str | None, project_id: str | None, now: float) -> SessionStats:
        return await self._reader.submit(
            partial(listing.session_stats, tenant=tenant, owner=owner, project_id=project_id, now=now)
        )

    async def usage(
        self, tenant: str, owner: str | None, first_day: int, last_day: int, *, project_id: str | None = None
    ) -> tuple[UsageRow, ...]:
        return await self._reader.submit(
            partial(
                usage_operations.read_usage,
                tenant=tenant,
                owner=owner,
                project_id=project_id,
                first_day=first_day,
                last_day=last_day,
            )
        )

    async def session_usage(self, key: SessionKey) -> tuple[tuple[str, Usage], ...]:
        return await self._reader.submit(partial(usage_operations.read_session_usage, key=key))

    async def quota_use(self, tenant: str, owner: str | None, first_day: int, day: int) -> QuotaUse:
        return await self._reader.submit(
            partial(usage_operations.read_quota_use, tenant=tenant, owner=owner, first_day=first_day, day=day)
        )

    async def count_sessions(self, tenant: str) -> int:
        return await self._reader.submit(partial(whole_sessions.count_sessions, tenant=tenant))

    async def session_page(self, tenant: str, *, after: str = "", limit: int) -> tuple[SessionRecord, ...]:
        return await self._reader.submit(partial(whole_sessions.session_page, tenant=tenant, after=after, limit=limit))

    async def message_links(self, key: SessionKey) -> tuple[tuple[str, str | None], ...]:
        return await self._reader.submit(partial(whole_sessions.message_links, key=key))

    async def messages_by_id(self, key: SessionKey, ids: Sequence[str]) -> tuple[Message, ...]:
        return await self._reader.submit(partial(whole_sessions.messages_by_id, key=key, ids=tuple(ids)))

    # --- writing ---

    async def add_usage(self, key: SessionKey, model: str, usage: Usage, now: float) -> None:
        await self._writer.submit(
            partial(usage_operations.add_usage, key=key, model=model, usage=usage, now=now, turns=0)
        )

    async def forget_usage(self, before_day: int, limit: int) -> int:
        return await self._writer.submit(partial(usage_operations.forget_usage, before_day=before_day, limit=limit))

    async def import_session(self, whole: WholeSession, *, replace: bool) -> Imported:
        work = partial(whole_sessions.import_session, whole=whole, do_replace=replace)
        if replace:
            async with self._out_of_index(whole.record.key):
                return await self._writer.submit(work)
        return await self._writer.submit(work)

    async def create_session(self, record: SessionRecord) -> SessionRecord:
        return await self._writer.submit(partial(operations.create_session, record=record))

    async def update_session(
        self, key: SessionKey, changes: Mapping[str, Any], *, new_fence: bool, now: float
    ) -> SessionRecord:
        if not changes.keys() <= CHANGEABLE:
            raise ValueError(f"not columns that can be set: {sorted(changes.keys() - CHANGEABLE)}")
        work = partial(operations.update_session, key=key, changes=changes, new_fence=new_fence, now=now)
        if "owner" in changes:
            async with self._out_of_index(key):
                return await self._writer.submit(work)
        return await self._writer.submit(work)

    async def name_session(self, key: SessionKey, title: str, *, new_fence: bool, now: float) -> SessionRecord | None:
        work = partial(operations.name_session, key=key, title=title, new_fence=new_fence, now=now)
        return await self._writer.submit(work)

    async def delete_session(self, key: SessionKey) -> bool:
        deleted = await self._index(partial(removal.delete_session, key=key))
        self._may_be_buried |= deleted == "buried"
        return deleted != "absent"

    async def clear_deleted(self) -> bool:
        if not self._may_be_buried:
            return False
        self._may_be_buried = False
        more = True  # where it fails or is cancelled, too
        try:
            more = await self._index(removal.clear_some)
        finally:
            self._may_be_buried |= more
        return more

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
        return await self._writer.submit(
            partial(
                operations.add_message,
                key=key,
                message=message,
                create=create,
                new_fence=new_fence,
                expires_at=expires_at,
                now=now,
            )
        )

    async def annotate_message(
        self, key: SessionKey, message_id: str, metadata: Mapping[str, Any], *, new_fence: bool
    ) -> SessionRecord:
        return await self._writer.submit(
            partial(operations.annotate_message, key=key, message_id=message_id, metadata=metadata, new_fence=new_fence)
        )

    async def choose_leaf(self, key: SessionKey, leaf_id: str) -> SessionRecord:
        return await self._writer.submit(partial(operations.choose_leaf, key=key, leaf_id=leaf_id))

    async def fork_session(
        self, key: SessionKey, message_id: str, create: SessionRecord, limit: int, max_bytes: int
    ) -> SessionRecord:
        return await self._writer.submit(
            partial(
                operations.fork_session,
                key=key,
                message_id=message_id,
                create=create,
                limit=limit,
                max_bytes=max_bytes,
            )
        )

    async def start_turn(self, start: StartTurn) -> Started | Duplicate:
        return await self._writer.submit(partial(operations.start_turn, start=start))

    async def enqueue_turn(
        self, key: SessionKey, turn: StoredTurn, *, first: bool, expires_at: float, now: float
    ) -> Duplicate | None:
        return await self._writer.submit(
            partial(operations.enqueue_turn, key=key, turn=turn, first=first, expires_at=expires_at, now=now)
        )

    async def withdraw_turn(self, key: SessionKey, turn_id: str) -> bool:
        return await self._writer.submit(partial(operations.withdraw_turn, key=key, turn_id=turn_id))

    async def checkpoint(self, chunks: Sequence[Chunk]) -> None:
        if chunks:
            await self._writer.submit(partial(operations.checkpoint, chunks=tuple(chunks)))

    async def finish_turn(self, finish: FinishTurn) -> None:
        await self._writer.submit(partial(operations.finish_turn, finish=finish))

    async def recover(self, now: float) -> Recovered:
        return await self._writer.submit(partial(recovery.recover, now=now))

    async def adopt_sessions(self, tenant: str, from_owner: str, to_owner: str, now: float) -> tuple[SessionKey, ...]:
        work = partial(listing.adopt_some, tenant=tenant, from_owner=from_owner, to_owner=to_owner, now=now)
        adopted: list[SessionKey] = []
        more = True
        self._given_away[tenant, from_owner] += 1
        try:
            while more:
                some, more = await self._index(work)
                adopted += some
        finally:
            self._given_away[tenant, from_owner] -= 1
            self._given_away += Counter()
        return tuple(adopted)

    async def purge_expired(
        self, now: float, limit: int, *, kept_seconds: float = 0.0, spare: Collection[SessionKey] = ()
    ) -> tuple[SessionKey, ...]:
        work = partial(listing.purge_some, now=now, limit=limit, kept_seconds=kept_seconds, spare=frozenset(spare))
        purged, more = await self._index(work)
        while more and not purged:
            purged, more = await self._index(work)
        self._may_be_buried |= bool(purged)
        while await self.clear_deleted():
            pass
        return purged
