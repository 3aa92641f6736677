"""The statements about a branch of a session's messages: walked from a leaf to the first message, measured, copied.

Invariants: a walk is bounded by a count, and carries no text; the rows themselves are read only of what it gives.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    CTE,
    ClauseElement,
    ColumnElement,
    FromClause,
    Integer,
    LargeBinary,
    bindparam,
    cast,
    func,
    literal_column,
    select,
)

from chatserver.store.expressions import ONE, ZERO, of_session, p
from chatserver.store.schema import messages


def held_bytes(of: FromClause) -> ColumnElement[Any]:
    """The bytes of text that a message holds: contents, reasoning and tool calls."""
    # As bytes: SQLite counts the characters of a text up to its first NUL.
    content, reasoning, tool_calls = (
        func.length(cast(c, LargeBinary)) for c in (of.c.content, of.c.reasoning, of.c.tool_calls)
    )
    held: ColumnElement[Any] = content + reasoning + func.coalesce(tool_calls, ZERO)
    return held


def _walk(*names: str, is_measured: bool = False) -> CTE:
    """Up to `count` messages of the branch that ends at `leaf_id`, from child to parent, with their `depth` from 1 on.

    The depth ends it, in a damaged database with a cycle of parents too.

    Args:
        names: columns that are needed; `parent_id` is there always.
        is_measured: with `held`, the bytes of text up to there; it ends where they are more than `max_bytes`.
    """
    names = ("parent_id", *(name for name in names if name != "parent_id"))
    parent = messages.alias("parent")

    def held(of: FromClause) -> list[ColumnElement[Any]]:
        return [held_bytes(of).label("held")] if is_measured else []

    leaf = (
        select(*(messages.c[name] for name in names), literal_column("1", Integer).label("depth"), *held(messages))
        .where(of_session(messages), messages.c.message_id == p(messages.c.message_id, "leaf_id"))
        .cte("branch", recursive=True)
    )
    further = [leaf.c.held + size for size in held(parent)]
    return leaf.union_all(
        select(*(parent.c[name] for name in names), leaf.c.depth + ONE, *further)
        .select_from(leaf)
        .join(parent, parent.c.message_id == leaf.c.parent_id)
        .where(
            parent.c.tenant == p(messages.c.tenant),
            parent.c.session_id == p(messages.c.session_id),
            leaf.c.depth < bindparam("count", type_=Integer),
            *([leaf.c.held <= bindparam("max_bytes", type_=Integer)] if is_measured else []),
        )
    )


def branch() -> ClauseElement:
    """The ids of the newest `count` messages of a branch, newest first. The walk carries no text."""
    walk = _walk("message_id")
    return select(walk.c.message_id).order_by(walk.c.depth)


def branch_page() -> ClauseElement:
    """The ids of up to `limit` messages of a branch, oldest first, after `offset` of them."""
    walk = _walk("message_id")
    return (
        select(walk.c.message_id)
        .order_by(walk.c.depth.desc())
        .limit(bindparam("limit", type_=Integer))
        .offset(bindparam("offset", type_=Integer))
    )


def system_messages() -> ClauseElement:
    """The newest `limit` system messages among the newest `count` messages of a branch, newest first.

    The walk carries no text: of a long branch most of it would be copied for nothing.
    """
    walk = _walk("message_id", "role")
    return (
        select(*messages.c)
        .select_from(walk)
        .join(messages, messages.c.message_id == walk.c.message_id)
        .where(of_session(messages), walk.c.role == literal_column("'system'"))
        .order_by(walk.c.depth)
        .limit(bindparam("limit", type_=Integer))
        .offset(literal_column("0", Integer))  # SQLite's dialect would bind one
    )


def measure_branch() -> ClauseElement:
    """How many messages a branch has, up to `count`, how many of them are running answers, and how many bytes of
    text they hold, up to the message that exceeds `max_bytes`: texts beyond it are not read."""
    walk = _walk("status", is_measured=True)
    running = func.count().filter(walk.c.status == literal_column("'streaming'"))
    return select(func.count(), running, func.max(walk.c.held)).select_from(walk)


def copy_branch(insert: Any) -> ClauseElement:
    """Insert a branch's messages, `count` in number, into the session `copy_id` as its first."""
    walk = _walk("message_id")
    place = bindparam("count", type_=Integer) + ONE - walk.c.depth
    given = {
        "session_id": bindparam("copy_id", type_=messages.c.session_id.type),
        "seq": place,
        "sibling_of": literal_column("NULL"),
    }
    copies = (
        select(*(given.get(c.name, c) for c in messages.c))
        .select_from(walk)
        .join(messages, messages.c.message_id == walk.c.message_id)
        .where(of_session(messages))
    )
    statement: ClauseElement = insert(messages).from_select([c.name for c in messages.c], copies)
    return statement
