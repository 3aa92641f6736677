"""What statements are put together from."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BindParameter, ColumnElement, FromClause, Integer, and_, bindparam, literal_column

# Written into the SQL: a statement binds nothing that its caller does not name.
ZERO = literal_column("0", Integer)
ONE = literal_column("1", Integer)
TWO = literal_column("2", Integer)


def p(column: ColumnElement[Any], name: str | None = None) -> BindParameter[Any]:
    """A parameter of a column's type, named like it."""
    return bindparam(name or str(getattr(column, "name", "")), type_=column.type)


def of_session(table: FromClause) -> ColumnElement[bool]:
    """The rows of the session `tenant`, `session_id`; none of `sessions` where it is deleted (removal.py)."""
    there = of_key(table)
    return and_(there, table.c.buried_owner.is_(None)) if "buried_owner" in table.c else there


def of_key(table: FromClause) -> ColumnElement[bool]:
    """The rows of that session, deleted or not."""
    return and_(table.c.tenant == p(table.c.tenant), table.c.session_id == p(table.c.session_id))


def of_turn(table: FromClause) -> ColumnElement[bool]:
    """The rows of the turn `turn_id` of that session."""
    return and_(of_session(table), table.c.turn_id == p(table.c.turn_id))
