"""Transaction: how an operation runs statements, and nothing else of the connection.

It neither begins nor ends: the thread that runs operations does (writer.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from chatserver.store.statement import Statement
from chatserver.store.statements import Statements

Params = Mapping[str, Any]


class Cursor(Protocol):
    """What is used of a DB-API cursor."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...


class Connection(Protocol):
    """What is used of a connection, as sqlite3 and psycopg have it; in autocommit mode."""

    def execute(self, sql: str, parameters: Sequence[Any], /) -> Cursor: ...

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> Cursor: ...


class Transaction:
    """Runs statements by name of parameter.

    Args:
        connection: in a transaction while an operation uses this.
        sql: the statements in the connection's dialect.
    """

    __slots__ = ("connection", "sql")

    def __init__(self, connection: Connection, sql: Statements) -> None:
        self.connection = connection
        self.sql = sql

    def one(self, statement: Statement, params: Params) -> Sequence[Any] | None:
        """The first row, or None. A statement that writes has done all of its work."""
        row: Sequence[Any] | None = self.connection.execute(statement.sql, statement.bind(params)).fetchone()
        return row

    def all(self, statement: Statement, params: Params) -> list[Any]:
        """Every row."""
        return self.connection.execute(statement.sql, statement.bind(params)).fetchall()

    def run(self, statement: Statement, params: Params) -> int:
        """Run a statement that gives no rows; how many rows it changed."""
        return self.connection.execute(statement.sql, statement.bind(params)).rowcount

    def run_each(self, statement: Statement, params: Iterable[Params]) -> None:
        """Run a statement once for each set of parameters."""
        self.connection.executemany(statement.sql, map(statement.bind, params))
