"""The statements about tokens used; docs/limits.md tells what is counted.

Invariants: a turn's end is one statement, which adds to two rows found by their key: its owner's (by project, model and
day) and its tenant's (by day). A quota is read from the owner's rows of one month and the tenant's.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ColumnElement,
    Integer,
    Select,
    and_,
    bindparam,
    case,
    delete,
    func,
    literal_column,
    or_,
    select,
    tuple_,
    union_all,
)

from chatserver.store.expressions import ZERO, of_session, p
from chatserver.store.schema import WHOLE_TENANT, messages, sessions, usage_days

TOKENS = ("prompt_tokens", "completion_tokens", "reasoning_tokens", "cached_tokens")
_SUMS = ("turns", "estimated_turns", *TOKENS)
_EMPTY: ColumnElement[str] = literal_column("''")
_FIRST_DAY = bindparam("first_day", type_=Integer)


def _row(owner: ColumnElement[Any], project_id: ColumnElement[Any], model: ColumnElement[Any]) -> Select[Any]:
    c = usage_days.c
    counted = (p(c[name]) for name in _SUMS)
    return select(sessions.c.tenant, owner, p(c.day), project_id, model, *counted).where(of_session(sessions))


def add_usage(insert: Any) -> Any:
    """Add what was used in a session, by `turns` turns, to the day's rows of its owner and of its tenant.

    Args:
        insert: the dialect's own.
    """
    c = usage_days.c
    rows = union_all(
        _row(func.coalesce(sessions.c.owner, _EMPTY), sessions.c.project_id, p(c.model)),
        _row(WHOLE_TENANT, _EMPTY, _EMPTY),
    )
    statement = insert(usage_days).from_select([column.name for column in c], rows)
    return statement.on_conflict_do_update(
        index_elements=["tenant", "owner", "day", "project_id", "model"],
        set_={name: c[name] + statement.excluded[name] for name in _SUMS},
    )


def usage_by_project_and_model(in_project: bool) -> Any:
    """An owner's sums from `first_day` to `day`: project, model, then what is counted."""
    c = usage_days.c
    conditions = [c.tenant == p(c.tenant), c.owner == p(c.owner), c.day >= _FIRST_DAY, c.day <= p(c.day)]
    if in_project:
        conditions.append(c.project_id == p(c.project_id))
    return (
        select(c.project_id, c.model, *(func.sum(c[name]) for name in _SUMS))
        .where(*conditions)
        .group_by(c.project_id, c.model)
        .order_by(c.project_id, c.model)
    )


def quota_use() -> Any:
    """Tokens of an owner and of the whole tenant: of `day`, and from `first_day` to it."""
    c = usage_days.c
    tokens = c.prompt_tokens + c.completion_tokens
    days = and_(c.day >= _FIRST_DAY, c.day <= p(c.day))
    return (
        select(c.owner, func.sum(case((c.day == p(c.day), tokens), else_=ZERO)), func.sum(tokens))
        .where(c.tenant == p(c.tenant), or_(c.owner == p(c.owner), c.owner == WHOLE_TENANT), days)
        .group_by(c.owner)
    )


def session_usages() -> Any:
    """Model and usage of every message of a session that has one."""
    return select(messages.c.model, messages.c.usage).where(of_session(messages), messages.c.usage.is_not(None))


def forget_usage() -> Any:
    """Drop up to `limit` rows of days before `before`."""
    c = usage_days.c
    key = (c.tenant, c.owner, c.day, c.project_id, c.model)
    # Where no offset is given, SQLAlchemy would bind one.
    old = (
        select(*key)
        .where(c.day < bindparam("before", type_=Integer))
        .limit(bindparam("limit", type_=Integer))
        .offset(ZERO)
    )
    return delete(usage_days).where(tuple_(*key).in_(old))
