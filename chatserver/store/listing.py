"""What the store does with many sessions at once, as functions of a transaction like those of operations.py."""

from __future__ import annotations

import math
from collections.abc import Collection

from chatserver.preview import preview_of
from chatserver.store import search
from chatserver.store.base import (
    ADOPTED_TOGETHER,
    PREVIEW_CHARS,
    ProjectSummary,
    SessionFilter,
    SessionKey,
    SessionStats,
    SessionSummary,
)
from chatserver.store.recovery import forget_some_deleted
from chatserver.store.removal import Room, delete_session
from chatserver.store.rows import Row, key_params, listed_record_of
from chatserver.store.search import matches
from chatserver.store.soundness import text_of, time_of
from chatserver.store.transaction import Transaction

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
    words: tuple[str, ...] = ()
    if where.query is not None:
        if where.owner is None or not (words := matches(where.tenant, where.owner, where.query)):
            return ()
        params.update((f"word_{at}", word) for at, word in enumerate(words))
    statement = tx.sql.list_sessions(in_project=where.project_id is not None, words=len(words))
    return tuple(map(_summary_of, tx.all(statement, params)))


def _summary_of(row: Row) -> SessionSummary:
    *record, newest, before = row
    texts = map(text_of, (newest, before))
    return SessionSummary(
        listed_record_of(record), next((said for text in texts if (said := preview_of(text, PREVIEW_CHARS))), None)
    )


def list_projects(
    tx: Transaction, *, tenant: str, owner: str | None, now: float, limit: int
) -> tuple[ProjectSummary, ...]:
    rows = tx.all(tx.sql.list_projects, {"tenant": tenant, "owner": owner, "now": now, "limit": limit})
    return tuple(ProjectSummary(text_of(row[0]), row[1], _sum_of(row[2]), time_of(row[3])) for row in rows)


def _sum_of(value: float) -> int:
    return int(value)  # SQLite's sum over what is no number is 0.0


def session_stats(
    tx: Transaction, *, tenant: str, owner: str | None, project_id: str | None, now: float
) -> SessionStats:
    params = {"tenant": tenant, "owner": owner, "project_id": project_id, "now": now}
    rows = tx.all(tx.sql.session_stats, params)
    return SessionStats(
        total_sessions=sum(row[1] for row in rows),
        active_sessions=sum(row[2] for row in rows),
        total_messages=sum(_sum_of(row[3]) for row in rows),
        sessions_by_project={text_of(row[0]): row[1] for row in rows},
        updated_at=max((time_of(row[4]) for row in rows), default=None),
    )


def adopt_some(
    tx: Transaction, *, tenant: str, from_owner: str, to_owner: str, now: float
) -> tuple[tuple[SessionKey, ...], bool]:
    """One transaction of `Store.adopt_sessions`; also whether more is left."""
    if from_owner == to_owner:
        return (), False
    params = {"tenant": tenant, "owner": from_owner, "now": now, "limit": ADOPTED_TOGETHER}
    adopted: list[SessionKey] = []
    room = search.TOGETHER_CHARS
    rows = tx.all(tx.sql.sessions_to_adopt, params)
    for row in rows:
        key = SessionKey(row[0], row[1])
        if (room := search.remove(tx, row, room)) < 0:
            return tuple(adopted), True
        tx.run(tx.sql.adopt_session, {**key_params(key), "to_owner": to_owner})
        adopted.append(key)
    return tuple(adopted), len(rows) == ADOPTED_TOGETHER


def purge_some(
    tx: Transaction, *, now: float, limit: int, kept_seconds: float, spare: Collection[SessionKey]
) -> tuple[tuple[SessionKey, ...], bool]:
    """One transaction of `Store.purge_expired`; also whether more is due."""
    forget_some_deleted(tx, now=now)
    before = now - kept_seconds
    due = tx.all(tx.sql.due_sessions, {"before": before, "limit": limit})
    purged: list[SessionKey] = []
    room = Room()
    for tenant, session_id, expires_at in due:
        key = SessionKey(tenant, session_id)
        if expires_at < before and key not in spare:
            if not room.is_left:
                return tuple(purged), True
            delete_session(tx, key=key, room=room)
            purged.append(key)
        else:  # it was extended, or is in use
            look_at = before + _SPARED_SECONDS if expires_at < before else expires_at
            tx.run(tx.sql.look_later, {**key_params(key), "look_at": look_at})
    return tuple(purged), len(due) == limit
