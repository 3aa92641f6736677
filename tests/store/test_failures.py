"""What a running store does when the database is locked, full or damaged (spec D4): the caller is told, reads go on,
nothing is half there, and writes go on when they can."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from chatserver.config import Settings
from chatserver.errors import StoreCorrupt, StoreFull, StoreUnavailable
from chatserver.store.base import SessionFilter, SessionKey, SessionRecord, Started
from chatserver.store.sql import SqlStore, open_store
from chatserver.store.transaction import Transaction
from tests.store.build import EXPIRES, KEY, NOW, conversation, finish, message, record, run_turn, start, texts_of
from tests.store.gate import Gate

BUSY_SECONDS = 1.5
CAP_SYS_ADMIN = 1 << 21


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    opened = await open_store(Settings(data_dir=tmp_path / "data", store_busy_seconds=BUSY_SECONDS))
    yield opened
    await opened.close()


def path_of(tmp_path: Path) -> Path:
    return tmp_path / "data" / "chatserver.db"


def consistent(path: Path) -> None:
    """Sound, and every session's count is the number of its messages."""
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
        wrong = database.execute(
            "SELECT session_id, message_count FROM sessions s WHERE message_count != (SELECT count(*) FROM messages m"
            " WHERE m.tenant = s.tenant AND m.session_id = s.session_id)"
        )
        assert wrong.fetchall() == []


# --- locked ---


async def test_a_database_locked_by_another_program_is_told_after_the_busy_time(
    store: SqlStore, tmp_path: Path
) -> None:
    """All that wait are told together, reads go on, and writes go on when the lock has gone."""
    await conversation(store, KEY, 1)
    loop = asyncio.get_running_loop()
    with closing(sqlite3.connect(path_of(tmp_path), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        begin = loop.time()
        outcomes = await asyncio.gather(
            *(store.create_session(record(SessionKey("t", f"s-{n}"))) for n in range(20)), return_exceptions=True
        )
        took = loop.time() - begin
        with pytest.raises(StoreUnavailable):
            await store.ready()
        read = await texts_of(store, KEY)
        other.execute("ROLLBACK")

    assert {type(o) for o in outcomes} == {StoreUnavailable}
    assert took >= BUSY_SECONDS * 0.9
    assert took < BUSY_SECONDS * 15, "each of the twenty must not wait for a lock of its own"
    assert read == ["question 0", "answer 0"]
    await store.ready()
    assert (await store.create_session(record(SessionKey("t", "s-1")))).fence == 1


async def test_a_lock_that_goes_away_in_time_is_only_a_delay(store: SqlStore, tmp_path: Path) -> None:
    """A backup that holds it for a moment costs nobody an error."""
    with closing(sqlite3.connect(path_of(tmp_path), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        write = asyncio.create_task(store.create_session(record()))
        done, _ = await asyncio.wait({write}, timeout=0.1)
        other.execute("ROLLBACK")

        assert done == set()
        assert (await write).fence == 1


# --- full ---


@dataclass
class Disk:
    """A store on a disk of little space."""

    store: SqlStore
    path: Path
    fill: Callable[[], None]
    free: Callable[[], None]


def _may_mount() -> bool:
    status = Path("/proc/self/status").read_text()
    [effective] = [line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")]
    return bool(int(effective, 16) & CAP_SYS_ADMIN)


# A limit on SQLite's pages stands for a full disk anywhere; a real one needs the right to mount, and is tried wherever
# that is given.
DISKS = ["page-limit", *(["tmpfs"] if _may_mount() else [])]


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """On a file system of 2 MiB for `tmpfs`."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param != "tmpfs":
        yield folder
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "chatserver-test", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
async def disk(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Disk]:
    store = await open_store(Settings(data_dir=folder / "data"))
    path = folder / "data" / "chatserver.db"
    await conversation(store, KEY, 2)

    def limit(pages: int) -> None:
        def operation(tx: Transaction) -> None:
            tx.connection.execute(f"PRAGMA max_page_count = {pages}", ()).fetchall()

        # Runs before every write that is submitted after it.
        store._writer.submit(operation)

    if "tmpfs" in request.node.callspec.id:
        ballast = folder / "ballast"

        def fill() -> None:
            with ballast.open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(b"x" * 4096)
                except OSError:
                    pass

        yield Disk(store, path, fill, ballast.unlink)
    else:
        yield Disk(store, path, lambda: limit(1), lambda: limit(1_000_000))
    await store.close()


@pytest.mark.parametrize("folder", DISKS, indirect=True)
async def test_a_full_disk_is_told_and_everything_goes_on_when_space_returns(disk: Disk) -> None:
    """No write is half there, reads go on meanwhile, and no restart is needed."""
    store = disk.store
    running = start(SessionKey("t", "running"), create=True)
    await store.start_turn(running)
    disk.fill()
    large = "x" * 400_000
    before = await store.load(KEY, 100)

    with pytest.raises(StoreFull):
        await store.start_turn(start(KEY, large))
    with pytest.raises(StoreFull):
        await store.finish_turn(finish(running, large))
    outcomes = await asyncio.gather(
        *(store.start_turn(start(SessionKey("t", f"s-{n}"), large, create=True)) for n in range(10)),
        return_exceptions=True,
    )
    read = await store.load(KEY, 100)
    disk.free()

    assert {type(o) for o in outcomes} == {StoreFull}
    assert read == before
    assert await store.record(SessionKey("t", "s-0")) is None
    await store.finish_turn(finish(running, large))
    assert isinstance(await store.start_turn(start(KEY, large)), Started)
    await store.ready()
    await store.close()
    consistent(disk.path)


@pytest.mark.parametrize("folder", DISKS, indirect=True)
async def test_on_a_full_disk_a_search_finds_what_is_indexed(disk: Disk) -> None:
    """And the rest when there is space again."""
    store, where = disk.store, SessionFilter("t", "user:1", NOW, query="needle")
    many_words = " ".join(f"word{n}" for n in range(8_000))

    async def add(session_id: str, text: str) -> None:
        key = SessionKey("t", session_id)
        create = record(key, owner="user:1")
        await store.add_message(key, message(text), create=create, new_fence=True, expires_at=EXPIRES, now=NOW)

    async def found() -> set[str]:
        return {s.record.key.session_id for s in await store.list_sessions(where, limit=9)}

    await add("first", "needle")
    assert await found() == {"first"}
    await add("second", f"needle {many_words}")
    disk.fill()

    assert await found() == {"first"}
    disk.free()
    assert await found() == {"first", "second"}
    await store.close()
    consistent(disk.path)


@pytest.mark.parametrize("folder", ["page-limit"], indirect=True)
async def test_on_a_full_disk_what_still_fits_is_committed(disk: Disk) -> None:
    """A large write that does not fit fails alone, not the small ones that shared its commit."""
    store = disk.store
    gate = Gate()
    disk.fill()
    held = store._writer.submit(gate)
    await gate.entered()
    large = message("x" * 1_000_000)
    together = asyncio.gather(
        store.update_session(KEY, {"title": "a"}, new_fence=False, now=NOW),
        store.add_message(KEY, large, create=None, new_fence=True, expires_at=EXPIRES, now=NOW),
        store.update_session(KEY, {"description": "b"}, new_fence=False, now=NOW),
        return_exceptions=True,
    )
    await asyncio.sleep(0)  # each of the three is submitted
    gate.open()
    await held

    outcomes = await together

    stored = await store.record(KEY)
    assert stored is not None
    assert [type(o) for o in outcomes] == [SessionRecord, StoreFull, SessionRecord]
    assert (stored.title, stored.description, stored.message_count) == ("a", "b", 4)


# --- damaged ---


async def test_a_damaged_page_is_told_and_the_rest_goes_on(store: SqlStore, tmp_path: Path) -> None:
    """Whoever needs that page gets StoreCorrupt; records, and whoever needs others, are served."""
    await conversation(store, KEY, 2)
    with closing(sqlite3.connect(path_of(tmp_path))) as other:
        assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
        (page,) = other.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'messages'").fetchone()
    with path_of(tmp_path).open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 64)

    with pytest.raises(StoreCorrupt):
        await store.load(KEY, 10)

    assert await store.record(KEY) is not None
    assert (await store.create_session(record(SessionKey("t", "s-1")))).fence == 1


async def test_texts_of_errors_tell_nothing_of_the_inside(store: SqlStore, tmp_path: Path) -> None:
    """They are shown to callers: no path, no statement, no library."""
    with closing(sqlite3.connect(path_of(tmp_path), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable) as refused:
            await store.create_session(record())

    for word in (str(tmp_path), "sqlite", "BEGIN", "chatserver.db"):
        assert word.lower() not in refused.value.detail.lower()
    assert refused.value.temporary


async def test_a_running_turn_outlives_an_outage(store: SqlStore, tmp_path: Path) -> None:
    """Its end is committed by a later try; a turn after it starts normally."""
    turn = start(create=True)
    await store.start_turn(turn)
    with closing(sqlite3.connect(path_of(tmp_path), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable):
            await store.finish_turn(finish(turn, "the end"))

    await store.finish_turn(finish(turn, "the end"))
    await run_turn(store, start(parent_id=turn.answer.id))

    assert await texts_of(store, KEY) == ["hello", "the end", "hello", "hi"]
