"""Sessions are deleted a little in each transaction, by functions of a transaction like those of operations.py.

Invariants: a session is gone for everybody with the first transaction. What it held beyond the share of one transaction
is removed by the next ones (`clear_some`); everybody else's writes come in between. Until then the session is *buried*:
its row stands under its key, so that no other session gets that and takes what is left for its own. What a crash leaves
buried is found by an index and removed after the next start.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from chatserver.errors import StoreUnavailable
from chatserver.store import search
from chatserver.store.records import SessionKey
from chatserver.store.rows import Row, fence_of, key_params
from chatserver.store.transaction import Transaction

# Rows, and bytes of text in them, that one transaction removes: measured, 5 ms of CPU for as many messages of 800
# characters, and 4 for as many bytes in long ones.
ROWS_TOGETHER = 500
BYTES_TOGETHER = 4 << 20

# What became of a session that was to be deleted.
Deleted = Literal["absent", "removed", "buried"]


@dataclass(slots=True)
class Room:
    """What a transaction may still remove: characters of the full-text index, rows, bytes of text."""

    chars: int = search.TOGETHER_CHARS
    rows: int = field(default_factory=lambda: ROWS_TOGETHER)
    bytes: int = field(default_factory=lambda: BYTES_TOGETHER)

    @property
    def is_left(self) -> bool:
        return self.chars >= 0 and self.rows > 0 and self.bytes > 0


def delete_session(tx: Transaction, *, key: SessionKey, room: Room | None = None) -> Deleted:
    """Delete a session; it is buried where it does not fit."""
    row = tx.one(tx.sql.record, key_params(key))
    if row is None:
        return "absent"
    # One more than the last: the deletion's own event is numbered with a fence that nobody commits.
    tx.run(tx.sql.remember_fence, {**key_params(key), "fence": fence_of(row) + 1, "found_at": None})
    if _remove(tx, row, room or Room()):
        return "removed"
    tx.run(tx.sql.bury_session, key_params(key))
    return "buried"


def clear_some(tx: Transaction) -> bool:
    """One transaction's share of what is buried; whether there was something."""
    row = tx.one(tx.sql.buried_session, {})
    if row is not None:
        _remove(tx, row, Room())
    return row is not None


def still_there(tx: Transaction, key: SessionKey) -> StoreUnavailable | None:
    """Why no session can be made under that key, though there is none: the last one is buried."""
    if tx.one(tx.sql.is_buried, key_params(key)) is None:
        return None
    return StoreUnavailable(f"what a deleted session {key.session_id!r} held is still being removed")


def _remove(tx: Transaction, row: Row, room: Room) -> bool:
    """Remove as much of a session as there is room for; whether that is all of it.

    Its words leave the index first: they are told by its texts.
    """
    sql, key = tx.sql, {"tenant": row[0], "session_id": row[1]}
    room.chars = search.remove(tx, row, room.chars)
    if room.chars < 0:
        return False
    for some, remove, name in (
        (sql.some_messages, sql.remove_message, "message_id"),
        (sql.some_turns, sql.remove_turn, "turn_id"),
    ):
        for (identifier,) in tx.all(some, {**key, "limit": max(room.rows, 0) + 1}):
            if not room.is_left:
                return False
            held = tx.one(remove, {**key, name: identifier})
            room.rows -= 1
            room.bytes -= held[0] if held is not None else 0
    tx.run(sql.remove_session, key)
    return True
