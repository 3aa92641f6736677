"""What the protocol cannot show: that nothing is left behind in the tables."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from chatserver.config import Settings
from chatserver.store.base import Chunk, SessionFilter, SessionKey, StartTurn
from chatserver.store.sql import SqlStore, open_store
from chatserver.store.transaction import Transaction
from tests.store.build import EXPIRES, KEY, NOW, finish, queued, record, start

TABLES = ("sessions", "messages", "turns", "turn_chunks")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    opened = await open_store(Settings(data_dir=tmp_path / "data"))
    yield opened
    await opened.close()


async def rows(store: SqlStore, *tables: str) -> list[int]:
    return await store._reader.submit(
        lambda tx: [tx.connection.execute(f"SELECT count(*) FROM {table}", ()).fetchone()[0] for table in tables]
    )


async def running(store: SqlStore) -> StartTurn:
    """A turn with a checkpoint."""
    turn = start(create=True)
    await store.start_turn(turn)
    await store.checkpoint([chunk_of(turn)])
    assert await rows(store, "turn_chunks") == [1]
    return turn


def chunk_of(turn: StartTurn) -> Chunk:
    return Chunk(turn.key, turn.turn_id, 0, orjson.dumps([["text", "partial"]]))


async def test_an_ended_turn_leaves_no_chunks(store: SqlStore) -> None:
    """Not even a checkpoint that comes after the end."""
    turn = await running(store)

    await store.finish_turn(finish(turn))
    assert await rows(store, "turn_chunks") == [0]
    await store.checkpoint([chunk_of(turn)])

    assert await rows(store, "turn_chunks") == [0]


async def test_recovery_leaves_no_chunks(store: SqlStore) -> None:
    """What they held is in the answer now."""
    await running(store)

    await store.recover(NOW)

    assert await rows(store, "turn_chunks") == [0]


async def test_a_deleted_session_leaves_no_rows(store: SqlStore) -> None:
    """Only its last fence is remembered."""
    await running(store)
    await store.enqueue_turn(KEY, queued("waits", "c-1"), first=False, expires_at=EXPIRES, now=NOW)

    await store.delete_session(KEY)

    assert await rows(store, *TABLES) == [0, 0, 0, 0]
    assert await rows(store, "deleted_sessions") == [1]


async def test_what_is_remembered_of_deleted_sessions_goes_in_portions(store: SqlStore) -> None:
    """A month after millions expired, neither a start nor a purge takes them all at once, and none stays for good."""

    def remember(tx: Transaction) -> None:
        tx.connection.executemany(
            "INSERT INTO deleted_sessions VALUES ('t', ?, 1, ?)", ((f"s-{n}", NOW) for n in range(2500))
        )

    await store._writer.submit(remember)
    left = [await rows(store, "deleted_sessions")]
    month_later = NOW + 31 * 86_400
    for forget in (
        store.recover(month_later),
        store.purge_expired(month_later, 1),
        store.purge_expired(month_later, 1),
    ):
        await forget
        left.append(await rows(store, "deleted_sessions"))

    assert left == [[2500], [1500], [500], [0]]


async def test_deleted_text_is_overwritten_in_the_file(tmp_path: Path) -> None:
    """Not only unlinked, to be found by whoever reads the file."""
    path = tmp_path / "data" / "chatserver.db"
    secret = "pa55word-" * 300
    for delete in (False, True):
        store = await open_store(Settings(data_dir=tmp_path / "data"))
        if delete:
            await store.delete_session(KEY)
        else:
            await store.start_turn(start(text=secret, create=True))
        await store.close()
        assert (secret[:100].encode() in path.read_bytes()) is not delete


async def test_a_withdrawn_message_leaves_no_text(store: SqlStore) -> None:
    """Who takes a message back does not want it kept; only its turn's id stays, for its client_message_id."""
    await running(store)
    turn = queued("a secret that was pasted by mistake", "c-1")
    await store.enqueue_turn(KEY, turn, first=False, expires_at=EXPIRES, now=NOW)

    await store.withdraw_turn(KEY, turn.turn_id)

    left = await store._reader.submit(
        lambda tx: tx.connection.execute(
            "SELECT message, state FROM turns WHERE turn_id = ?", (turn.turn_id,)
        ).fetchall()
    )
    assert left == [(None, "withdrawn")]


async def test_a_vacuumed_database_finds_the_same(tmp_path: Path) -> None:
    """VACUUM gives rows new rowids; nothing here relies on them."""
    where = SessionFilter(KEY.tenant, "user:1", NOW, query="needle")
    found = []
    for vacuum in (True, False):
        store = await open_store(Settings(data_dir=tmp_path / "data"))
        if vacuum:
            for number, text in enumerate(("hay", "needle", "hay", "needle")):
                key = SessionKey(KEY.tenant, f"s-{number}")
                create = replace(record(key), owner="user:1")
                await store.start_turn(replace(start(key, text), create=create))
            await store.delete_session(SessionKey(KEY.tenant, "s-0"))
        found.append([s.record.key.session_id for s in await store.list_sessions(where, limit=9)])
        await store.close()
        if vacuum:
            with closing(sqlite3.connect(tmp_path / "data" / "chatserver.db")) as connection:
                connection.execute("VACUUM")

    assert found == [["s-3", "s-1"]] * 2
