"""What the store does with many sessions at once, as functions of a transaction like those of operations.py."""

from __future__ import annotations

import math
from collections.abc import Collection
from itertools import islice

from chatserver.store.base import (
    ADOPTED_TOGETHER,
    PREVIEW_CHARS,
    ProjectSummary,
    SessionFilter,
    SessionKey,
    SessionRecord,
    SessionStats,
    SessionSummary,
)
from chatserver.store.operations import delete_session
from chatserver.store.recovery import REMEMBER_DELETED_SECONDS
from chatserver.store.rows import Row, key_params, record_of
from chatserver.store.transaction import Transaction
from chatserver.store.words import query_words, words_of

# Before the first place of every list.
_FIRST = (math.inf, "")
# A session that has expired and is still in use is looked at again after this.
_SPARED_SECONDS = 600.0


def list_sessions(
    tx: Transaction, *, where: SessionFilter, limit: int, offset: int, after: tuple[float, str] | None
) -> tuple[SessionSummary, ...]:
    after_at, after_id = after or _FIRST
    params = {
        "tenant": where.tenant,
        "owner": where.owner,
        "now": where.now,
        "project_id": where.project_id,
        "include_inactive": where.include_inactive,
        "after_at": after_at,
        "after_id": after_id,
        "limit": limit,
        "offset": offset,
    }
    statement = tx.sql.list_sessions if where.project_id is None else tx.sql.list_project_sessions
    if where.query is None:
        return tuple(map(_summary_of, tx.all(statement, params)))
    words = query_words(where.query)
    every = map(_summary_of, tx.all(statement, {**params, "limit": -1, "offset": 0}))
    found = (s for s in every if words and _holds(tx, s.record, words))
    return tuple(islice(found, offset, offset + limit))


def _holds(tx: Transaction, record: SessionRecord, words: tuple[str, ...]) -> bool:
    texts = [record.title, *(text for (text,) in tx.all(tx.sql.settled_contents, key_params(record.key)))]
    held = {word for text in texts for word in words_of(text)}
    *whole, beginning = words
    return held.issuperset(whole) and any(word.startswith(beginning) for word in held)


def _summary_of(row: Row) -> SessionSummary:
    *record, newest, before = row
    return SessionSummary(record_of(record), _preview(newest) or _preview(before))


def _preview(text: str | None) -> str | None:
    return " ".join(text.split())[:PREVIEW_CHARS] or None if text else None


def list_projects(
    tx: Transaction, *, tenant: str, owner: str | None, now: float, limit: int
) -> tuple[ProjectSummary, ...]:
    rows = tx.all(tx.sql.list_projects, {"tenant": tenant, "owner": owner, "now": now, "limit": limit})
    return tuple(ProjectSummary(*row) for row in rows)


def session_stats(
    tx: Transaction, *, tenant: str, owner: str | None, project_id: str | None, now: float
) -> SessionStats:
    params = {"tenant": tenant, "owner": owner, "project_id": project_id, "now": now}
    rows = tx.all(tx.sql.session_stats, params)
    return SessionStats(
        total_sessions=sum(row[1] for row in rows),
        active_sessions=sum(row[2] for row in rows),
        total_messages=sum(row[3] for row in rows),
        sessions_by_project={row[0]: row[1] for row in rows},
        updated_at=max((row[4] for row in rows), default=None),
    )


def adopt_some(tx: Transaction, *, tenant: str, from_owner: str, to_owner: str, now: float) -> tuple[SessionKey, ...]:
    """One transaction of `Store.adopt_sessions`."""
    if from_owner == to_owner:
        return ()
    params = {"tenant": tenant, "owner": from_owner, "to_owner": to_owner, "now": now, "limit": ADOPTED_TOGETHER}
    return tuple(SessionKey(*row) for row in tx.all(tx.sql.adopt_sessions, params))


def purge_expired(
    tx: Transaction, *, now: float, limit: int, kept_seconds: float, spare: Collection[SessionKey]
) -> tuple[SessionKey, ...]:
    tx.run(tx.sql.mark_deleted, {"now": now})
    tx.run(tx.sql.forget_some_deleted, {"before": now - REMEMBER_DELETED_SECONDS, "limit": limit})
    before = now - kept_seconds
    purged = []
    for tenant, session_id, expires_at in tx.all(tx.sql.due_sessions, {"before": before, "limit": limit}):
        key = SessionKey(tenant, session_id)
        if expires_at < before and key not in spare:
            delete_session(tx, key=key)
            purged.append(key)
        else:  # it was extended, or is in use
            look_at = before + _SPARED_SECONDS if expires_at < before else expires_at
            tx.run(tx.sql.look_later, {**key_params(key), "look_at": look_at})
    return tuple(purged)
