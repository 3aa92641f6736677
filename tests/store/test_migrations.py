"""The schema: migrations give exactly it, in one transaction, and every statement finds its rows by an index."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from chatserver.config import Settings
from chatserver.store.base import SessionFilter, SessionKey, SessionRecord
from chatserver.store.listing import list_sessions, purge_some
from chatserver.store.migrate import is_current, migrate
from chatserver.store.operations import name_session
from chatserver.store.schema import METADATA, REVISION
from chatserver.store.search import FIRST, index_some
from chatserver.store.sql import open_store
from chatserver.store.statement import Statement
from chatserver.store.statements import CHANGEABLE, sqlite_statements
from chatserver.store.transaction import Transaction


def _connect() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None)


def _migrate_to(connection: sqlite3.Connection, revision: str) -> None:
    """As an earlier version would have left it."""
    config = Config()
    config.set_main_option("script_location", "chatserver.store:migrations")
    engine = sqlalchemy.create_engine("sqlite://", creator=lambda: connection, poolclass=sqlalchemy.pool.StaticPool)
    with engine.begin() as alembics:
        config.attributes["connection"] = alembics
        command.upgrade(config, revision)


def _schema(connection: sqlite3.Connection) -> dict[str, str]:
    rows = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL")
    return {name: re.sub(r"\s+", " ", sql) for name, sql in rows}


def test_the_revision_in_the_code_is_the_newest_migration() -> None:
    """The quick way to open compares with it."""
    config = Config()
    config.set_main_option("script_location", "chatserver.store:migrations")

    assert ScriptDirectory.from_config(config).get_heads() == [REVISION]


def test_migrating_nothing_gives_the_schema_of_the_code() -> None:
    """Table for table and index for index, as SQLite understood them."""
    engine = sqlalchemy.create_engine("sqlite://")
    with engine.connect() as from_code:
        METADATA.create_all(from_code)
        raw = from_code.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        expected = _schema(raw)
    engine.dispose()

    with closing(_connect()) as migrated:
        assert not is_current(migrated)
        migrate(migrated)
        assert is_current(migrated)
        found = _schema(migrated)

    assert found.pop("alembic_version")
    assert found == expected


def test_a_migration_that_fails_leaves_nothing() -> None:
    """It fails at its last table; the next start finds what the last one found."""
    with closing(_connect()) as connection:

        def authorize(action: int, name: str | None, *_: object) -> int:
            refused = action == sqlite3.SQLITE_CREATE_TABLE and name == "readiness"
            return sqlite3.SQLITE_DENY if refused else sqlite3.SQLITE_OK

        connection.set_authorizer(authorize)
        with pytest.raises(sqlalchemy.exc.DatabaseError, match="not authorized"):
            migrate(connection)
        connection.set_authorizer(None)

        assert _schema(connection) == {}
        migrate(connection)
        assert is_current(connection)


def test_data_of_the_first_revision_is_kept() -> None:
    """And is in the lists and due when it expires, like what is made later."""
    with closing(_connect()) as connection:
        _migrate_to(connection, "0001")
        connection.execute(
            "INSERT INTO sessions VALUES ('t', 's', 'p', 'user:1', 'T', NULL, 1, 2, 9, '', NULL, 1, 1, 2, 'm', 4)"
        )
        connection.execute(
            "INSERT INTO messages VALUES"
            " ('t', 's', 'm', NULL, 1, 'user', 'Hi', 'completed', NULL, '', '', NULL, NULL, NULL)"
        )
        assert not is_current(connection)

        migrate(connection)

        tx = Transaction(connection, sqlite_statements())
        where = SessionFilter("t", "user:1", now=3)
        assert index_some(tx, tenant="t", owner="user:1", now=3, after=FIRST) is None
        (listed,) = list_sessions(tx, where=replace(where, query="hi"), limit=9, offset=0, after=None)
        assert (listed.record.title, listed.record.fence, listed.last_message_preview) == ("T", 4, "Hi")
        assert purge_some(tx, now=9, limit=9, kept_seconds=0, spare=()) == ((), False)
        assert purge_some(tx, now=10, limit=9, kept_seconds=0, spare=()) == ((listed.record.key,), False)


def test_titles_of_the_second_revision_stay_what_they_are() -> None:
    """Auto-naming takes the default title for nobody's, and every other one for somebody's."""
    with closing(_connect()) as connection:
        _migrate_to(connection, "0002")
        for title in ("New Chat", "Mine"):
            connection.execute(
                "INSERT INTO sessions VALUES"
                " ('t', ?, 'p', 'user:1', ?, NULL, 1, 2, 9, '', NULL, 1, 0, NULL, NULL, 4, 9, 1, -1)",
                (title, title),
            )

        migrate(connection)

        tx = Transaction(connection, sqlite_statements())
        named = {
            title: name_session(tx, key=SessionKey("t", title), title="Auto", new_fence=True, now=3)
            for title in (
                "New Chat",
                "Mine",
            )
        }
        assert named["Mine"] is None
        assert isinstance(named["New Chat"], SessionRecord)
        assert (named["New Chat"].title, named["New Chat"].fence) == ("Auto", 5)


def test_what_was_indexed_by_the_second_revision_is_indexed_anew() -> None:
    """Its words were split in another way: what is found afterwards is what a search looks for now."""
    with closing(_connect()) as connection:
        _migrate_to(connection, "0002")
        connection.execute(
            "INSERT INTO sessions VALUES"
            " ('t', 's', 'p', 'user:1', 'हिन्दी', NULL, 1, 2, 9, '', NULL, 1, 0, NULL, NULL, 4, 9, 1, 0)"
        )
        connection.execute("INSERT INTO search (rowid, words) VALUES (?, 'an old way')", (1 << 24,))

        migrate(connection)

        tx = Transaction(connection, sqlite_statements())
        where = SessionFilter("t", "user:1", now=3, query="हिन्दी")
        assert index_some(tx, tenant="t", owner="user:1", now=3, after=FIRST) is None
        assert len(list_sessions(tx, where=where, limit=9, offset=0, after=None)) == 1
        connection.execute("CREATE VIRTUAL TABLE temp.terms USING fts5vocab('main', 'search', 'row')")
        assert len(connection.execute("SELECT term FROM temp.terms").fetchall()) == 1


async def test_stores_of_one_process_may_be_made_at_the_same_time(tmp_path: Path) -> None:
    """Alembic alone could not."""
    stores = await asyncio.gather(*(open_store(Settings(data_dir=tmp_path / str(n))) for n in range(4)))

    await asyncio.gather(*(store.ready() for store in stores))

    await asyncio.gather(*(store.close() for store in stores))


def _statements() -> dict[str, Statement]:
    built = sqlite_statements()
    both = (vars(built) | vars(built.accounts)).items()
    named = {name: value for name, value in both if isinstance(value, Statement)}
    lists = {
        f"list_sessions{'_of_project' * in_project}_{words}": built.list_sessions(in_project=in_project, words=words)
        for in_project in (False, True)
        for words in (0, 1, 3)
    }
    return {**named, **lists, "update_session": built.update_session(CHANGEABLE)}


# What a start reads whole, because it holds only what runs and what waits; the row that readiness counts; what was
# deleted lately; what a part of the statement has chosen.
ALLOWED = (
    "turns_running",
    "turns_queued",
    "SCAN CONSTANT ROW",
    "SCAN branch",
    "SCAN page",
    "deleted_sessions_by_found",
    "sessions_buried",
    "VIRTUAL TABLE INDEX 0:M",  # a full-text match
)


@pytest.mark.parametrize("name", sorted(_statements()))
def test_no_statement_reads_a_whole_table(name: str) -> None:
    """With a million sessions, one that does would be seconds."""
    statement = _statements()[name]
    with closing(_connect()) as connection:
        migrate(connection)
        parameters = [None] * statement.sql.count("?")
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement.sql}", parameters)]

    scans = [step for step in plan if step.startswith("SCAN") and not any(word in step for word in ALLOWED)]
    if name == "any_session":
        scans = []  # stops at the first row
    assert scans == [], plan


@pytest.mark.parametrize("name", sorted(_statements()))
def test_every_parameter_is_bound_by_its_name(name: str) -> None:
    """As many as the text has, none of them a value that SQLAlchemy would have had to add."""
    statement = _statements()[name]
    names: set[str] = set()

    class Asked(dict[str, None]):
        def __missing__(self, key: str) -> None:
            names.add(key)

    bound = statement.bind(Asked())

    assert len(bound) == statement.sql.count("?")
    assert not [n for n in names if n.startswith("param_")]
