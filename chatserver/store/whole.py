"""Whole sessions, out of the store and into it, as functions of a transaction like those of operations.py.

Whole is what export and import carry: the record, every message of every branch, and the turns that wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from chatserver.errors import Conflict, SessionDamaged, StoreUnavailable
from chatserver.message import Message
from chatserver.store.base import Imported, SessionKey, SessionRecord, WholeSession
from chatserver.store.operations import delete_whole, insert_session, load
from chatserver.store.recovery import with_chunks
from chatserver.store.removal import still_there
from chatserver.store.rows import (
    key_params,
    listed_record_of,
    message_of,
    message_params,
    new_session_params,
    queued_turn_params,
)
from chatserver.store.transaction import Transaction


def count_sessions(tx: Transaction, *, tenant: str) -> int:
    row = tx.one(tx.sql.count_sessions, {"tenant": tenant})
    return int(row[0]) if row is not None else 0


def session_page(tx: Transaction, *, tenant: str, after: str, limit: int) -> tuple[SessionRecord, ...]:
    rows = tx.all(tx.sql.sessions_behind, {"tenant": tenant, "session_id": after, "limit": limit})
    return tuple(map(listed_record_of, rows))


def message_links(tx: Transaction, *, key: SessionKey) -> tuple[tuple[str, str | None], ...]:
    return tuple(map(tuple, tx.all(tx.sql.messages_behind, {**key_params(key), "seq": 0})))


def messages_by_id(tx: Transaction, *, key: SessionKey, ids: Sequence[str]) -> tuple[Message, ...]:
    rows = (tx.one(tx.sql.message, {**key_params(key), "message_id": message_id}) for message_id in ids)
    found = [message_of(row) for row in rows if row is not None]
    return tuple(_with_checkpoints(tx, key, m) if m.status == "streaming" else m for m in found)


def _with_checkpoints(tx: Transaction, key: SessionKey, answer: Message) -> Message:
    running = tx.one(tx.sql.running_turn, key_params(key))
    if running is None:
        return answer
    bodies = (body for (body,) in tx.all(tx.sql.chunks, {**key_params(key), "turn_id": running[0]}))
    return with_chunks(answer, bodies)


def import_session(tx: Transaction, *, whole: WholeSession, do_replace: bool) -> Imported | Conflict | StoreUnavailable:
    """Insert a session with all that belongs to it, where it is not there already."""
    key = whole.record.key
    is_there = tx.one(tx.sql.record, key_params(key)) is not None
    if is_there:
        if comparable(whole) == _stored(tx, key):
            return "same"
        if not do_replace:
            return Conflict(f"there is another session {key.session_id!r} in tenant {key.tenant!r}")
        delete_whole(tx, key=key)
    elif (buried := still_there(tx, key)) is not None:
        return buried
    _insert(tx, whole)
    return "replaced" if is_there else "added"


def _stored(tx: Transaction, key: SessionKey) -> WholeSession | None:
    """What can be compared of a session that is there; None where it is damaged, and like no other."""
    try:
        there = load(tx, key=key, limit=0)
        ids = [message_id for message_id, _ in message_links(tx, key=key)]
        messages = messages_by_id(tx, key=key, ids=ids)
    except SessionDamaged:
        return None
    return comparable(WholeSession(there.record, messages, there.queue)) if there is not None else None


def comparable(whole: WholeSession) -> WholeSession:
    """What two sessions must have in common to be the same: all but what follows from the rest, and what merely looking
    at one of them changes."""
    record = replace(whole.record, fence=0, expires_at=0.0, message_count=len(whole.messages))
    return WholeSession(record, tuple(replace(m, siblings=()) for m in whole.messages), whole.queue)


def _insert(tx: Transaction, whole: WholeSession) -> None:
    record, key = whole.record, whole.record.key
    params = new_session_params(record, message_count=len(whole.messages), leaf_id=record.leaf_id)
    insert_session(tx, params | {"last_message_at": record.last_message_at})
    oldest = _oldest_siblings(whole.messages)
    tx.run_each(
        tx.sql.insert_message,
        (message_params(key, seq, m, oldest.get(m.id)) for seq, m in enumerate(whole.messages, 1)),
    )
    tx.run_each(tx.sql.insert_queued_turn, (queued_turn_params(key, turn) for turn in whole.queue))


def _oldest_siblings(messages: Sequence[Message]) -> dict[str, str]:
    """Of each message that has siblings, the oldest of them."""

    def parent(message: Message) -> str:
        return message.parent_id or ""

    groups = (list(group) for _, group in groupby(sorted(messages, key=parent), key=parent))  # sorting keeps the order
    return {m.id: group[0].id for group in groups if len(group) > 1 for m in group}
