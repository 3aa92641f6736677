"""The statements about many sessions at once: lists, sums, adoption, and what has expired.

Invariants: each begins in an index, at the sessions of one owner or at those that are due, and what it looks at of them
stands in that index; the rows themselves are read only of what it gives.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    ClauseElement,
    ColumnElement,
    Double,
    Integer,
    Text,
    bindparam,
    case,
    delete,
    func,
    literal_column,
    or_,
    select,
    table,
    tuple_,
)

from chatserver.store.expressions import ONE, ZERO, p
from chatserver.store.schema import ROW_COLUMNS, SEQ_BITS, deleted_sessions, messages, sessions

# Of the beginning of a message, from which white space is folded away (PREVIEW_CHARS remain).
_PREVIEW_SOURCE = literal_column("400", Integer)

# Of damaged counts a sum of whole numbers might overflow, which is an error.
_AS_FLOAT = literal_column("1.0", Double)

_LIMIT = bindparam("limit", type_=Integer)
_OFFSET = bindparam("offset", type_=Integer)
# Where no offset is given, SQLAlchemy would bind one of 0 by itself (`.offset(ZERO)`).


def _of_owner() -> tuple[ColumnElement[bool], ...]:
    c = sessions.c
    # Said again beside the equation: SQLite takes a partial index only where its condition is repeated.
    return (c.tenant == p(c.tenant), c.owner == p(c.owner), c.owner.is_not(None))


def _owned() -> tuple[ColumnElement[bool], ...]:
    """An owner's sessions that have not expired at `now`."""
    return (*_of_owner(), sessions.c.expires_at > p(sessions.c.expires_at, "now"))


def _place() -> ColumnElement[Any]:
    return tuple_(sessions.c.updated_at, sessions.c.session_id)


def page(in_project: bool, words: int) -> Any:
    """Up to `limit` sessions behind (`after_at`, `after_id`), skipping `offset`, newest first, with the beginnings of
    the newest message and of the one before it.

    Args:
        words: how many FTS5 queries, `word_0` and on, a session must have a document for.
    """
    c = sessions.c
    conditions = [
        *_owned(),
        or_(c.is_active, bindparam("include_inactive", type_=Boolean)),
        _place() < tuple_(p(c.updated_at, "after_at"), p(c.session_id, "after_id")),
    ]
    if in_project:
        conditions.append(c.project_id == p(c.project_id))
    conditions += [
        # Plus 0, so that SQLite goes through the owner's sessions in order and asks of each: it stops when the page is
        # full.
        (c.number + ZERO).in_(
            select(literal_column(f"rowid >> {SEQ_BITS}", BigInteger))
            .select_from(table("search"))
            .where(literal_column("search").op("MATCH")(bindparam(f"word_{at}", type_=Text)))
        )
        for at in range(words)
    ]
    keys = (
        select(c.tenant, c.session_id, c.updated_at)
        .where(*conditions)
        .order_by(c.updated_at.desc(), c.session_id.desc())
        .limit(_LIMIT)
        .offset(_OFFSET)
        .subquery("page")
    )
    return with_previews(keys).order_by(keys.c.updated_at.desc(), keys.c.session_id.desc())


def with_previews(keys: Any) -> Any:
    """The records of these keys, each with the beginnings of its newest message and of the one before it."""
    c = sessions.c
    leaf, before = messages.alias("leaf"), messages.alias("before_leaf")
    return (
        select(
            *(c[name] for name in ROW_COLUMNS),
            func.substr(leaf.c.content, ONE, _PREVIEW_SOURCE),
            func.substr(before.c.content, ONE, _PREVIEW_SOURCE),
        )
        .select_from(keys)
        .join(sessions, (c.tenant == keys.c.tenant) & (c.session_id == keys.c.session_id))
        .outerjoin(
            leaf,
            (leaf.c.tenant == c.tenant) & (leaf.c.session_id == c.session_id) & (leaf.c.message_id == c.leaf_id),
        )
        .outerjoin(
            before,
            (before.c.tenant == leaf.c.tenant)
            & (before.c.session_id == leaf.c.session_id)
            & (before.c.message_id == leaf.c.parent_id),
        )
    )


def projects() -> ClauseElement:
    """`(project_id, sessions, messages, updated_at)` of up to `limit` projects, used last first."""
    c = sessions.c
    newest = func.max(c.updated_at)
    return (
        select(c.project_id, func.count(), func.sum(c.message_count), newest)
        .where(*_owned())
        .group_by(c.project_id)
        .order_by(newest.desc(), c.project_id)
        .limit(_LIMIT)
        .offset(ZERO)
    )


def stats() -> ClauseElement:
    """`(project_id, sessions, active ones, messages, newest updated_at)` of each of an owner's projects, or of
    `project_id` alone where it is not null."""
    c = sessions.c
    only: ColumnElement[Any] = p(c.project_id)
    return (
        select(
            c.project_id,
            func.count(),
            func.sum(case((c.is_active, ONE), else_=ZERO)),
            func.sum(c.message_count),
            func.max(c.updated_at),
        )
        .where(*_owned(), or_(c.project_id == only, only.is_(None)))
        .group_by(c.project_id)
    )


def to_adopt() -> ClauseElement:
    """Up to `limit` of an owner's sessions."""
    c = sessions.c
    return select(*(c[name] for name in ROW_COLUMNS)).where(*_owned()).limit(_LIMIT).offset(ZERO)


def unindexed() -> ClauseElement:
    """Up to `limit` of an owner's sessions behind (`after_at`, `after_id`), oldest first, of which something is not in
    the full-text index: `(updated_at, session_id, title, number, indexed_seq)`."""
    c = sessions.c
    keys = (
        select(c.tenant, c.session_id, c.updated_at)
        .where(
            *_owned(),
            c.message_count > c.indexed_seq,
            _place() > tuple_(p(c.updated_at, "after_at"), p(c.session_id, "after_id")),
        )
        .order_by(c.updated_at, c.session_id)
        .limit(_LIMIT)
        .offset(ZERO)
        .subquery("page")
    )
    return (
        select(keys.c.updated_at, c.session_id, c.title, c.number, c.indexed_seq)
        .select_from(keys)
        .join(sessions, (c.tenant == keys.c.tenant) & (c.session_id == keys.c.session_id))
        .order_by(keys.c.updated_at, keys.c.session_id)
    )


def owners_behind() -> ClauseElement:
    """`(tenant, owner, texts)` of up to `limit` owners behind (`tenant`, `owner`), and how many of each one's texts are
    not in the full-text index."""
    c = sessions.c
    is_behind = (c.expires_at > p(c.expires_at, "now")) & (c.message_count > c.indexed_seq)
    texts = case((is_behind, (c.message_count - c.indexed_seq) * _AS_FLOAT), else_=ZERO)
    return (
        select(c.tenant, c.owner, func.sum(texts))
        .where(c.owner.is_not(None), tuple_(c.tenant, c.owner) > tuple_(p(c.tenant), p(c.owner)))
        .group_by(c.tenant, c.owner)
        .order_by(c.tenant, c.owner)
        .limit(_LIMIT)
        .offset(ZERO)
    )


def due() -> ClauseElement:
    """Up to `limit` sessions to be looked at `before`: `(tenant, session_id, expires_at)`, longest due first."""
    c = sessions.c
    return (
        select(c.tenant, c.session_id, c.expires_at)
        .where(c.look_at < p(c.look_at, "before"), c.buried_owner.is_(None))
        .order_by(c.look_at)
        .limit(_LIMIT)
        .offset(ZERO)
    )


def buried() -> Any:
    """One session that is deleted and not removed yet, with the owner that it had."""
    c = sessions.c
    owner = func.nullif(c.buried_owner, literal_column("''", Text)).label("owner")
    columns = (owner if name == "owner" else c[name] for name in ROW_COLUMNS)
    return select(*columns).where(c.buried_owner.is_not(None)).limit(ONE).offset(ZERO)


def forget_deleted() -> ClauseElement:
    """Drop up to `limit` of what was remembered of deleted sessions since `before`."""
    d = deleted_sessions.c
    some = select(d.tenant, d.session_id).where(d.found_at < p(d.found_at, "before")).limit(_LIMIT).offset(ZERO)
    return delete(deleted_sessions).where(tuple_(d.tenant, d.session_id).in_(some))


def sessions_behind() -> Any:
    """Up to `limit` sessions of a tenant with greater ids than `session_id`, by rising id."""
    c = sessions.c
    return (
        select(*(c[name] for name in ROW_COLUMNS))
        .where(c.tenant == p(c.tenant), c.session_id > p(c.session_id), c.buried_owner.is_(None))
        .order_by(c.session_id)
        .limit(_LIMIT)
        .offset(ZERO)
    )
