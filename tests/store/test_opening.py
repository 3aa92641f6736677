"""Opening a SQLite store: who may, what is made, and what is refused with its path and reason, never replaced."""

# ruff: noqa: ASYNC240 - nothing else runs on these loops that a small file could hold up

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from chatserver.config import Settings
from chatserver.errors import StartupError
from chatserver.store import sqlite
from chatserver.store.sql import SqlStore, location, open_store
from tests import leaks
from tests.store.build import KEY, conversation, record, texts_of
from tests.store.child import NOBODY
from tests.store.processes import child, line, said


async def open_in(folder: Path, **settings: object) -> SqlStore:
    return await open_store(Settings(data_dir=folder, **{"store_busy_seconds": 0.2, **settings}))  # type: ignore[arg-type] # by name


@pytest.fixture
async def made(tmp_path: Path) -> Path:
    """A database with a conversation, closed."""
    store = await open_in(tmp_path / "data")
    await conversation(store, KEY, 10)
    await store.close()
    return tmp_path / "data" / "chatserver.db"


async def refusal(folder: Path) -> StartupError:
    with pytest.raises(StartupError) as refused:
        await open_in(folder)
    return refused.value


# --- what is made ---


async def test_a_new_store_is_its_owners_alone(tmp_path: Path) -> None:
    """Folder 0700, and nothing in it that another user could read, while open and after."""
    store = await open_in(tmp_path / "a" / "data")
    await store.create_session(record())

    folder = tmp_path / "a" / "data"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [(f.name, oct(f.stat().st_mode)) for f in folder.iterdir() if f.stat().st_mode & 0o077] == []
    await store.close()
    assert sorted(f.name for f in folder.iterdir()) == ["chatserver.db", "chatserver.db.lock"]


async def test_what_was_committed_is_there_after_a_restart(made: Path) -> None:
    """Closed and opened again."""
    store = await open_in(made.parent)

    texts = await texts_of(store, KEY)

    await store.close()
    assert texts[0] == "question 0"
    assert len(texts) == 20


async def test_every_commit_is_synced_to_disk(tmp_path: Path) -> None:
    """WAL alone does not sync at a commit; with synchronous=FULL (2) it does."""
    store = await open_in(tmp_path)

    def pragmas(tx: object) -> list[object]:
        connection = tx.connection  # type: ignore[attr-defined]  # a Transaction
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        return [connection.execute(f"PRAGMA {name}", ()).fetchone()[0] for name in names]

    found = await store._writer.submit(pragmas)

    await store.close()
    assert found == ["wal", 2, 1, 200]


async def test_a_start_that_died_while_making_the_database_is_made_good(tmp_path: Path) -> None:
    """Its half-made file has another name and is thrown away."""
    tmp_path.joinpath("chatserver.db.new").write_bytes(b"half")
    tmp_path.joinpath("chatserver.db.new-wal").write_bytes(b"half")

    store = await open_in(tmp_path)

    await store.close()
    assert sorted(f.name for f in tmp_path.iterdir()) == ["chatserver.db", "chatserver.db.lock"]


async def test_opening_a_current_database_is_quick_and_does_not_load_alembic(made: Path) -> None:
    """Every start pays for it; only a migration needs Alembic."""
    milliseconds, loaded = (await said("timed", made.parent)).split()

    assert loaded == "lean"
    assert float(milliseconds) < 50


async def test_opening_and_closing_leaves_no_descriptor(made: Path) -> None:
    """Refused openings included."""
    await (await open_in(made.parent)).close()
    before = leaks.open_descriptors()

    for _ in range(5):
        store = await open_in(made.parent)
        await refusal(made.parent)
        await store.close()

    assert leaks.new_since(before, leaks.open_descriptors) == []


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (None, "/d/chatserver.db"),
        ("sqlite:////x/y z%.db", "/x/y z%.db"),
        (":memory:", None),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
    ],
)
def test_the_url_names_the_database(url: str | None, expected: str | None) -> None:
    """A file, the one in the data directory, or memory."""
    found = location(url, Path("/d"))

    assert found == (None if expected is None else Path(expected))


async def test_a_path_with_url_characters_is_a_path(tmp_path: Path) -> None:
    """`?`, `#` and `%` reach SQLite inside a URI."""
    odd = tmp_path / "a?mode=ro#b%41"

    store = await open_in(odd)

    await store.create_session(record())
    await store.close()
    assert (odd / "chatserver.db").stat().st_size > 0


@pytest.mark.parametrize("url", ["postgresql://u:hunter2@h/db", "file.db", "sqlite:file", "sqlite:///", ""])
def test_an_unknown_url_is_refused_without_showing_its_password(url: str) -> None:
    """What follows the scheme may hold one."""
    with pytest.raises(StartupError) as refused:
        location(url, Path("/d"))

    assert "hunter2" not in refused.value.detail


# --- who may ---


async def test_a_second_process_is_refused_and_told_who_has_it(made: Path) -> None:
    """And gets it when the first one has gone, by -9 too."""
    async with child("hold", made.parent) as holder:
        assert await line(holder) == "open"

        refused = await refusal(made.parent)

        assert f"already used by process {holder.pid}" in refused.detail
        assert str(made) in refused.detail
        assert refused.narrow_code == "already_running"
        holder.kill()
        await holder.wait()
    await (await open_in(made.parent)).close()


async def test_the_same_database_by_another_path_is_refused_too(made: Path, tmp_path: Path) -> None:
    """The lock goes with the file, not with the name it was called by."""
    link = tmp_path / "link"
    link.symlink_to(made.parent)
    store = await open_in(made.parent)

    refused = await refusal(link)

    await store.close()
    assert f"process {os.getpid()}" in refused.detail


async def test_a_database_locked_by_another_program_is_refused_after_the_busy_time(made: Path) -> None:
    """Somebody's `sqlite3` shell in a transaction: the start says so instead of hanging."""
    with closing(sqlite3.connect(made, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        async with asyncio.timeout(60):
            refused = await refusal(made.parent)

    assert str(made) in refused.detail
    assert "locked by another process" in refused.detail
    await (await open_in(made.parent)).close()


# --- what is refused ---


def _garbage(path: Path) -> None:
    path.write_bytes(b"This is not a database.\n" * 500)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 + 100)


def _cut_after_the_first_page(path: Path) -> None:
    os.truncate(path, 4096)


def _damaged_schema(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 200)


def _damaged_page(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        (page,) = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'messages'").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 64)


def _anothers(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE recipes (name TEXT)")


def _newer(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")


def _without_version(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("DELETE FROM alembic_version")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_garbage, "not a SQLite database"),
        (_empty, "empty"),
        (_cut_in_half, "damaged"),
        (_cut_after_the_first_page, "damaged"),
        (_damaged_schema, "damaged"),
        (_damaged_page, "damaged"),
        (_anothers, "another program"),
        (_newer, "newer"),
        (_without_version, "version"),
    ],
)
async def test_a_file_that_is_not_a_whole_database_of_ours_is_refused_and_left_as_it_is(
    made: Path, damage: Callable[[Path], None], reason: str
) -> None:
    """With path and reason; the file may be all that somebody has."""
    damage(made)
    before = made.read_bytes()

    refused = await refusal(made.parent)

    assert str(made) in refused.detail
    assert reason in refused.detail
    assert made.read_bytes() == before


async def test_a_log_without_its_database_is_refused(made: Path) -> None:
    """SQLite would delete the log, and with it what was committed."""
    made.rename(made.with_name("moved-away"))
    log = made.with_name("chatserver.db-wal")
    log.write_bytes(b"committed")

    refused = await refusal(made.parent)

    assert str(log.name) in refused.detail
    assert log.read_bytes() == b"committed"
    assert not made.exists()


async def test_a_file_where_the_folder_should_be_is_refused(tmp_path: Path) -> None:
    """With its path."""
    (tmp_path / "data").write_text("x")

    assert str(tmp_path / "data") in (await refusal(tmp_path / "data")).detail


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that another user can reach, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
async def shared(shared_folder: Path) -> Path:
    """A database in it, closed."""
    await (await open_in(shared_folder / "data")).close()
    return shared_folder / "data" / "chatserver.db"


def _give_away(*paths: Path) -> None:
    """Make them the user's who opens; as root, that user is another."""
    if os.geteuid() == 0:
        for path in paths:
            os.chown(path, NOBODY, NOBODY)


async def test_a_folder_that_cannot_be_made_is_refused(shared_folder: Path) -> None:
    """Its parent may not be written."""
    shared_folder.chmod(0o555)

    told = await said("refused", shared_folder / "data")

    shared_folder.chmod(0o755)
    assert told == f"the folder {shared_folder / 'data'} cannot be made: Permission denied"


async def test_a_file_in_the_place_of_the_folder_is_told(tmp_path: Path) -> None:
    """--data-dir takes the folder, not the database in it."""
    (tmp_path / "data").write_text("a file")

    told = (await refusal(tmp_path / "data")).detail

    assert told == f"the folder {tmp_path / 'data'} cannot be made: there is a file of that name"


async def test_a_start_on_a_full_disk_says_so(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite calls it an I/O error, which sounds like a broken disk."""

    def fails(*_: object) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
        raise error

    monkeypatch.setattr(sqlite, "_configure", fails)
    assert (await refusal(made.parent)).detail == f"{made} cannot be opened: disk I/O error"

    monkeypatch.setattr(sqlite, "ROOM_BYTES", shutil.disk_usage(made.parent).total + 1)
    assert (await refusal(made.parent)).detail == f"{made} cannot be opened: the disk is full"


async def test_a_folder_that_cannot_be_written_is_refused(shared: Path) -> None:
    """The lock is the first thing that needs it."""
    shared.with_name("chatserver.db.lock").unlink()
    shared.parent.chmod(0o555)

    told = await said("refused", shared.parent)

    shared.parent.chmod(0o700)
    assert told == f"{shared}.lock cannot be written: Permission denied"


@pytest.mark.parametrize("mode", [0o000, 0o444])
async def test_a_database_that_may_not_be_read_or_written_is_refused(shared: Path, mode: int) -> None:
    """Somebody copied it as another user. SQLite alone would write the log of one that may only be read."""
    _give_away(shared.parent, shared.with_name("chatserver.db.lock"))
    shared.chmod(mode)

    told = await said("refused", shared.parent)

    assert told == f"{shared} cannot be opened: Permission denied"


async def test_a_large_database_is_not_read_whole_at_its_start(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a check of every page would cost grows with the data; the start of the server must not."""
    _damaged_page(made)
    monkeypatch.setattr(sqlite, "CHECKED_BYTES", 0)

    store = await open_in(made.parent)

    await store.close()
