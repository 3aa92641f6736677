"""A damaged row is the trouble of its own session: lists, searches, purges, starts, exports and imports go on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from chatserver.config import Settings
from chatserver.errors import SessionDamaged
from chatserver.message import ToolCall
from chatserver.store.base import Chunk, SessionFilter, SessionKey
from chatserver.store.sql import SqlStore, open_store
from tests.conformance.test_store_whole import a_tree
from tests.store.build import EXPIRES, NOW, finish, message, record, start

OWNER = "user:1"
DAMAGED, SOUND = SessionKey("t", "damaged"), SessionKey("t", "sound")
NO_JSON = ["{", "\x00", ""]
ANOTHER = ["[1]", '{"id": 1}', "1"]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    opened = await open_store(Settings(data_dir=tmp_path / "data"))
    yield opened
    await opened.close()


async def damage(store: SqlStore, table: str, column: str, value: str | bytes) -> None:
    """As a disk that went bad, or a person with a shell."""
    await store._writer.submit(
        lambda tx: tx.connection.execute(f"UPDATE {table} SET {column} = ? WHERE session_id = 'damaged'", (value,))
    )


async def make_both(store: SqlStore) -> None:
    for key in (DAMAGED, SOUND):
        await store.create_session(record(key, owner=OWNER, title="found", metadata={"a": 1}))
        said = message("words", metadata={"b": 2}, tool_calls=(ToolCall("1", "s", "t", {}),))
        await store.add_message(key, said, create=None, new_fence=True, expires_at=EXPIRES, now=NOW)


async def test_lists_and_searches_show_a_session_whose_metadata_is_damaged(store: SqlStore) -> None:
    """Without its metadata; who opens it is told, and who opens another is not."""
    await make_both(store)
    await damage(store, "sessions", "metadata", "{")

    for query in (None, "found", "words"):
        listed = await store.list_sessions(SessionFilter("t", OWNER, NOW, query=query), limit=9)
        assert {s.record.key: dict(s.record.metadata) for s in listed} == {DAMAGED: {}, SOUND: {"a": 1}}
    assert len(await store.session_page("t", limit=9)) == 2
    for read in (store.record(DAMAGED), store.load(DAMAGED, 9)):
        with pytest.raises(SessionDamaged):
            await read
    assert await store.record(SOUND) is not None


@pytest.mark.parametrize(
    ("column", "value"),
    [(column, value) for column in ("tool_calls", "usage", "metadata") for value in NO_JSON]
    + [(column, value) for column in ("tool_calls", "usage") for value in ANOTHER],
)
async def test_a_damaged_message_is_told_as_its_sessions(store: SqlStore, column: str, value: str) -> None:
    """Whatever stands there in place of what should."""
    await make_both(store)
    await damage(store, "messages", column, value)

    with pytest.raises(SessionDamaged):
        await store.load(DAMAGED, 9)
    assert await store.load(SOUND, 9) is not None


async def test_a_damaged_session_is_deleted_purged_and_replaced(store: SqlStore) -> None:
    """Whoever cannot read it can be rid of it."""
    whole = a_tree(DAMAGED)
    for get_rid in (
        store.delete_session(DAMAGED),
        store.purge_expired(EXPIRES + 1, 9, spare=[SOUND]),
        store.import_session(replace(whole, record=replace(whole.record, key=DAMAGED)), replace=True),
    ):
        await make_both_again(store)
        await damage(store, "sessions", "metadata", "{")
        assert await get_rid
    assert (await store.load(DAMAGED, 9)) is not None


async def make_both_again(store: SqlStore) -> None:
    await store.delete_session(SOUND)
    await make_both(store)


async def test_a_start_does_not_fail_for_a_damaged_answer(store: SqlStore) -> None:
    """Nor for a damaged checkpoint: the other turns are ended as ever."""
    for key in (DAMAGED, SOUND):
        turn = replace(start(key), create=record(key, owner=OWNER))
        await store.start_turn(turn)
        await store.checkpoint([Chunk(key, turn.turn_id, 0, orjson.dumps([["text", "partial"]]))])
    await damage(store, "turn_chunks", "body", b"[[")

    found = await store.recover(NOW)

    assert found.interrupted == 2
    sound = await store.load(SOUND, 9)
    assert sound is not None
    assert (sound.messages[-1].content, sound.messages[-1].status) == ("partial", "interrupted")
    again = start(DAMAGED)
    await store.start_turn(again)
    await store.finish_turn(finish(again))
