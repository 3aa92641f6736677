"""Brings a database to the schema of this code.

Invariants: a current database costs one SELECT, and Alembic is not even imported. A migration is one transaction: it
is whole or did not happen. A database of a revision that this code does not know (a newer version's) is refused.
"""

from __future__ import annotations

import sqlite3
import threading
from typing import TYPE_CHECKING

from chatserver.errors import StartupError
from chatserver.store.schema import REVISION

# Alembic keeps its context in module globals: two stores of one process must not be migrated at the same time.
_alembic = threading.Lock()

if TYPE_CHECKING:
    from alembic.config import Config


def is_current(connection: sqlite3.Connection) -> bool:
    """Whether `migrate` has nothing to do. Only reads.

    Raises:
        StartupError: the database is another program's, or a newer chatserver's. sqlite3.Error.
    """
    present = _revision(connection)
    if present == REVISION:
        return True
    if present is None:
        return False
    from alembic.script import ScriptDirectory

    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if present not in known:
        raise StartupError(
            f"its schema {present!r} is not known to this version of chatserver: a newer one has used it",
            code="newer_database",
        )
    return False


def migrate(connection: sqlite3.Connection) -> None:
    """Run what is missing, in one transaction.

    Args:
        connection: in autocommit mode.
    Raises:
        StartupError, sqlite3.Error: nothing has changed.
    """
    import sqlalchemy
    from alembic import command
    from sqlalchemy.pool import StaticPool

    engine = sqlalchemy.create_engine(
        "sqlite://", creator=lambda: connection, poolclass=StaticPool, isolation_level="AUTOCOMMIT"
    )
    config = _config()
    # A table that is rebuilt would otherwise take its children along; it can't be switched inside a transaction.
    connection.execute("PRAGMA foreign_keys = OFF")
    # Inside a transaction that SQLAlchemy knows of, Alembic begins and commits none of its own. SQLAlchemy's `begin`
    # sends nothing to SQLite; its end commits or rolls back.
    with _alembic, engine.connect() as alembics, alembics.begin():
        connection.execute("BEGIN IMMEDIATE")
        config.attributes["connection"] = alembics
        command.upgrade(config, "head")
        broken = connection.execute("PRAGMA foreign_key_check").fetchone()
        if broken is not None:
            raise StartupError(f"the migration would leave rows of {broken[0]!r} without what they belong to")
    connection.execute("PRAGMA foreign_keys = ON")


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "chatserver.store:migrations")
    return config


def _revision(connection: sqlite3.Connection) -> str | None:
    """The database's revision; None where it is new."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if not tables:
        return None
    if "alembic_version" not in tables:
        raise StartupError("it holds tables of another program")
    rows = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    if len(rows) != 1:
        raise StartupError("it does not tell its schema's version")
    return str(rows[0][0])
