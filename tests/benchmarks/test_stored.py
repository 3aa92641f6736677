"""What the benchmark of records asks is answered from a database like one that years of use would leave."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from benchmarks.stored import COMMON_WORD, TENANT, Owner, build, unique_word
from chatserver.config import Settings
from chatserver.store.base import SessionFilter
from chatserver.store.sql import open_store
from tests.store.build import NOW, record, run_turn, start


async def test_the_server_reads_and_goes_on_with_what_was_made_in_bulk(tmp_path: Path) -> None:
    """Lists, searches and sums are right, keys hold, and a session made afterwards is found beside the others."""
    path = tmp_path / "chatserver.db"
    build(path, [Owner("visitor:a", 30), Owner("visitor:b", 12)], NOW)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []

    store = await open_store(Settings(data_dir=tmp_path))
    try:
        for owner, count in (("visitor:a", 30), ("visitor:b", 12)):
            where = SessionFilter(TENANT, owner, NOW)
            listed = await store.list_sessions(where, limit=100)
            assert len(listed) == count
            assert [s.record.updated_at for s in listed] == sorted((s.record.updated_at for s in listed), reverse=True)
            assert all(s.last_message_preview for s in listed)
            found = await store.list_sessions(SessionFilter(TENANT, owner, NOW, query=COMMON_WORD), limit=100)
            assert found == listed
            stats = await store.session_stats(TENANT, owner, None, NOW)
            assert (stats.total_sessions, stats.total_messages) == (count, 2 * count)
        named = [
            await store.list_sessions(SessionFilter(TENANT, owner, NOW, query=unique_word(7)), limit=100)
            for owner in ("visitor:a", "visitor:b")
        ]
        assert sorted(map(len, named)) == [0, 1]

        oldest = listed[-1].record
        await run_turn(store, start(oldest.key, "a needle", parent_id=oldest.leaf_id, now=NOW), "in the hay")
        await store.create_session(record(oldest.key._replace(session_id="new"), owner="visitor:b", title="needle"))
        found = await store.list_sessions(SessionFilter(TENANT, "visitor:b", NOW, query="needle"), limit=100)
        assert {s.record.key.session_id for s in found} == {"new", oldest.key.session_id}
    finally:
        await store.close()
