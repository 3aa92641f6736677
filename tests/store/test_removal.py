"""Deleting a long session: gone at once, removed a little at a time, and finished whatever happens in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from chatserver.config import Settings
from chatserver.errors import NotFound, StoreUnavailable
from chatserver.store import removal
from chatserver.store.base import Chunk, SessionFilter, SessionKey, WholeSession
from chatserver.store.sql import SqlStore, open_store
from chatserver.store.transaction import Transaction
from tests.store.build import EXPIRES, KEY, NOW, message, queued, record, start

OWNER = "user:1"
MESSAGES = 25
WHERE = SessionFilter(KEY.tenant, OWNER, NOW)
TABLES = ("sessions", "messages", "turns", "turn_chunks")


@pytest.fixture(autouse=True)
def _small_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that two dozen messages are a long session."""
    monkeypatch.setattr(removal, "ROWS_TOGETHER", 4)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    opened = await open_store(Settings(data_dir=tmp_path / "data"))
    yield opened
    await opened.close()


async def make_long(store: SqlStore, key: SessionKey = KEY) -> None:
    """A session of many messages, indexed, with a turn that runs and one that waits."""
    turn = replace(start(key, "a needle"), create=record(key, owner=OWNER, title="Long"))
    await store.start_turn(turn)
    await store.checkpoint([Chunk(key, turn.turn_id, 0, orjson.dumps([["text", "partial"]]))])
    await store.enqueue_turn(key, queued("waits", "c-1"), first=False, expires_at=EXPIRES, now=NOW)
    parent = turn.answer.id
    for n in range(MESSAGES):
        said = message(f"needle {n}", parent, role="system")
        await store.add_message(key, said, create=None, new_fence=False, expires_at=EXPIRES, now=NOW)
        parent = said.id
    assert await found(store, "needle") == [key.session_id]


async def found(store: SqlStore, query: str | None = None) -> list[str]:
    return [s.record.key.session_id for s in await store.list_sessions(replace(WHERE, query=query), limit=9)]


async def rows(store: SqlStore, *tables: str) -> list[int]:
    return await store._reader.submit(
        lambda tx: [tx.connection.execute(f"SELECT count(*) FROM {table}", ()).fetchone()[0] for table in tables]
    )


async def clear(store: SqlStore) -> None:
    while await store.clear_deleted():
        pass


async def words_left(store: SqlStore) -> int:
    """How many words the index holds."""

    def count(tx: Transaction) -> int:
        tx.connection.execute(
            "CREATE VIRTUAL TABLE IF NOT EXISTS temp.left_terms USING fts5vocab(main, search, row)", ()
        )
        return int(tx.connection.execute("SELECT count(*) FROM temp.left_terms", ()).fetchone()[0])

    return await store._writer.submit(count)


async def test_others_write_between_the_parts_of_a_deletion(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """No transaction removes more than its share, and what was submitted meanwhile comes before the next one."""
    order: list[str] = []
    clear_some = removal.clear_some

    def clear_noted(tx: Transaction) -> bool:
        order.append("part")
        return clear_some(tx)

    monkeypatch.setattr(removal, "clear_some", clear_noted)
    await make_long(store)

    async def delete() -> None:
        await store.delete_session(KEY)
        await clear(store)

    async def write() -> None:
        for n in range(5):
            await store.create_session(record(SessionKey("t", f"other-{n}")))
            order.append("write")

    await asyncio.gather(delete(), write())

    assert order.count("part") > MESSAGES // 4
    first = order.index("part")
    last = len(order) - order[::-1].index("part")
    assert "write" in order[first:last]


async def test_a_long_session_is_gone_before_what_it_held_is_removed(store: SqlStore) -> None:
    """From every list, search, count, and from whoever knows its key."""
    await make_long(store)

    assert await store.delete_session(KEY) is True

    assert (await rows(store, "messages"))[0] > 0
    assert (await store.record(KEY), await store.load(KEY, 10)) == (None, None)
    assert (await found(store), await found(store, "needle")) == ([], [])
    assert await store.list_projects(KEY.tenant, OWNER, NOW) == ()
    assert (await store.session_stats(KEY.tenant, OWNER, None, NOW)).total_sessions == 0
    assert (await store.count_sessions(KEY.tenant), await store.session_page(KEY.tenant, limit=9)) == (0, ())
    assert await store.adopt_sessions(KEY.tenant, OWNER, "user:2", NOW) == ()
    assert await store.purge_expired(EXPIRES + 1, 9) == ()
    for refused in (
        store.messages(KEY, leaf_id=None, limit=9),
        store.message_page(KEY, offset=0, limit=9),
        store.update_session(KEY, {"title": "x"}, new_fence=True, now=NOW),
        store.add_message(KEY, message("x"), create=None, new_fence=True, expires_at=EXPIRES, now=NOW),
        store.enqueue_turn(KEY, queued("x"), first=False, expires_at=EXPIRES, now=NOW),
        store.start_turn(start()),
    ):
        with pytest.raises(NotFound):
            await refused
    assert await store.delete_session(KEY) is False


async def test_its_key_is_free_when_what_it_held_is_removed(store: SqlStore) -> None:
    """Not before: another session would find the old one's messages in it. Then it goes on from the old fence."""
    await make_long(store)
    before = await store.record(KEY)
    assert before is not None
    await store.delete_session(KEY)
    source = SessionKey(KEY.tenant, "source")
    said = message("x")
    await store.add_message(source, said, create=record(source), new_fence=True, expires_at=EXPIRES, now=NOW)
    makes: list[Any] = [
        lambda: store.create_session(record()),
        lambda: store.start_turn(start(create=True)),
        lambda: store.add_message(KEY, message("x"), create=record(), new_fence=True, expires_at=EXPIRES, now=NOW),
        lambda: store.import_session(WholeSession(record(), ()), replace=True),
        lambda: store.fork_session(source, said.id, record(), 9, 1000),
    ]
    for make in makes:
        with pytest.raises(StoreUnavailable):
            await make()

    await clear(store)

    assert await rows(store, "messages", "turns", "turn_chunks") == [1, 0, 0]  # the other session's
    made = await store.create_session(record())
    assert (made.fence, made.message_count) == (before.fence + 2, 0)
    assert await store.messages(KEY, leaf_id=None, limit=9) == ()


async def test_what_a_crash_left_is_removed_after_the_next_start(tmp_path: Path) -> None:
    """The session stays gone, its turns are nobody's, and no word stays in the index."""
    settings = Settings(data_dir=tmp_path / "data")
    store = await open_store(settings)
    await make_long(store)
    await store.delete_session(KEY)
    assert await store.clear_deleted() is True
    await store.close()

    store = await open_store(settings)
    try:
        assert (await rows(store, "messages"))[0] > 0
        assert await store.record(KEY) is None
        await store.recover(NOW)
        assert await store.usage(KEY.tenant, OWNER, 0, 10**6) == ()

        await clear(store)

        assert await rows(store, *TABLES) == [0, 0, 0, 0]
        assert await words_left(store) == 0
        assert await store.clear_deleted() is False
    finally:
        await store.close()


async def test_long_sessions_that_expired_leave_nothing(store: SqlStore) -> None:
    """However many share a transaction."""
    for n in range(3):
        await make_long_one(store, n)

    purged = []
    while some := await store.purge_expired(EXPIRES + 1, 20):
        purged += some

    assert sorted(key.session_id for key in purged) == ["s-0", "s-1", "s-2"]
    assert await rows(store, *TABLES) == [0, 0, 0, 0]


async def make_long_one(store: SqlStore, n: int) -> None:
    key = SessionKey("t", f"s-{n}")
    await store.create_session(record(key))
    parent = None
    for _ in range(9):
        said = message("words", parent)
        await store.add_message(key, said, create=None, new_fence=True, expires_at=EXPIRES, now=NOW)
        parent = said.id


async def test_large_messages_count_by_their_bytes(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of a megabyte takes as long to overwrite as hundreds of short ones."""
    monkeypatch.setattr(removal, "ROWS_TOGETHER", 1000)
    monkeypatch.setattr(removal, "BYTES_TOGETHER", 3000)
    await store.create_session(record())
    for _ in range(9):
        said = message("ü" * 500)
        await store.add_message(KEY, said, create=None, new_fence=True, expires_at=EXPIRES, now=NOW)

    await store.delete_session(KEY)
    left = [(await rows(store, "messages"))[0]]
    while await store.clear_deleted():
        left += await rows(store, "messages")

    assert left == [6, 3, 0]
