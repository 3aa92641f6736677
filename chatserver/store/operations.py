"""What each method of the store does, as functions of a transaction.

Invariants: an operation may run again from its start after a rollback, so it changes nothing but the database. One
that finds before its first write that it cannot go on returns the error instead of raising it: the transaction that it
shares with others then stays whole (writer.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from chatserver.errors import ChatServerError, Conflict, NotFound, StoreUnavailable, TooLarge
from chatserver.message import Message
from chatserver.store import search
from chatserver.store.base import (
    Chunk,
    Duplicate,
    FinishTurn,
    SessionKey,
    SessionRecord,
    Started,
    StartTurn,
    StoredSession,
    StoredTurn,
)
from chatserver.store.removal import still_there
from chatserver.store.rows import (
    Row,
    change_params,
    fence_of,
    held_bytes,
    key_params,
    listed_record_of,
    message_of,
    message_params,
    metadata_param,
    new_session_params,
    number_of,
    queued_turn_of,
    queued_turn_params,
    record_of,
    sibling_of,
    stored_record_of,
)
from chatserver.store.statements import MESSAGE_COLUMNS
from chatserver.store.transaction import Transaction
from chatserver.store.usage import add_usage

# Of a branch that is looked through for its system messages: some 100 ms of a reader's time.
MAX_WALK = 50_000

# A change of these changes what a search finds.
_SEARCHED = frozenset({"title", "owner"})


def _no_session(key: SessionKey) -> NotFound:
    return NotFound(f"there is no session {key.session_id!r}")


# --- reading ---


def read_record(tx: Transaction, *, key: SessionKey) -> SessionRecord | None:
    row = tx.one(tx.sql.record, key_params(key))
    return stored_record_of(row) if row is not None else None


def read_listed_record(tx: Transaction, *, key: SessionKey) -> SessionRecord | None:
    row = tx.one(tx.sql.record, key_params(key))
    return listed_record_of(row) if row is not None else None


def load(tx: Transaction, *, key: SessionKey, limit: int, max_bytes: int | None = None) -> StoredSession | None:
    record = read_record(tx, key=key)
    if record is None:
        return None
    branch = _branch(tx, key, record.leaf_id, limit, max_bytes)
    queue = tuple(map(queued_turn_of, tx.all(tx.sql.queue, key_params(key))))
    has_more = (branch[0].parent_id if branch else record.leaf_id) is not None
    return StoredSession(record, tuple(branch), has_more, queue)


def _branch(tx: Transaction, key: SessionKey, leaf_id: str | None, count: int, max_bytes: int | None) -> list[Message]:
    """Up to `count` messages that end at `leaf_id`, oldest first, of up to `max_bytes`."""
    if leaf_id is None or count < 1:
        return []
    ids = tx.all(tx.sql.branch, {**key_params(key), "leaf_id": leaf_id, "count": count})
    return _with_siblings(tx, key, reversed(_fitting(tx, key, ids, max_bytes)))


def _fitting(tx: Transaction, key: SessionKey, ids: Iterable[Row], max_bytes: int | None) -> list[Row]:
    """The rows of the first of these messages that have `max_bytes` together, of one at least.

    Each is read when its turn comes: what does not fit is neither read nor held.
    """
    rows: list[Row] = []
    held = 0
    for (message_id,) in ids:
        row = tx.one(tx.sql.message, {**key_params(key), "message_id": message_id})
        if row is None:  # a damaged database
            break
        if max_bytes is not None:
            held += held_bytes(row)
            if held > max_bytes and rows:
                break
        rows.append(row)
    return rows


def _with_siblings(tx: Transaction, key: SessionKey, rows: Iterable[Row]) -> list[Message]:
    return [message_of(row, _siblings(tx, key, group) if (group := sibling_of(row)) else ()) for row in rows]


def _siblings(tx: Transaction, key: SessionKey, group: str) -> tuple[str, ...]:
    return tuple(message_id for (message_id,) in tx.all(tx.sql.siblings, {**key_params(key), "sibling_of": group}))


def read_messages(
    tx: Transaction, *, key: SessionKey, leaf_id: str | None, limit: int, max_bytes: int | None = None
) -> tuple[Message, ...] | NotFound:
    if leaf_id is not None:
        branch = _branch(tx, key, leaf_id, limit, max_bytes)
        return tuple(branch) if branch else NotFound(f"there is no message {leaf_id!r} in this session")
    record = read_record(tx, key=key)
    return tuple(_branch(tx, key, record.leaf_id, limit, max_bytes)) if record is not None else _no_session(key)


def read_message(tx: Transaction, *, key: SessionKey, message_id: str) -> Message | None:
    row = tx.one(tx.sql.message, {**key_params(key), "message_id": message_id})
    return _with_siblings(tx, key, [row])[0] if row is not None else None


def read_system_messages(tx: Transaction, *, key: SessionKey, leaf_id: str, limit: int) -> tuple[Message, ...]:
    params = {**key_params(key), "leaf_id": leaf_id, "count": MAX_WALK, "limit": limit}
    return tuple(_with_siblings(tx, key, reversed(tx.all(tx.sql.system_messages, params))))


def leaf_behind(tx: Transaction, *, key: SessionKey, message_id: str) -> str | None:
    row = tx.one(tx.sql.message, {**key_params(key), "message_id": message_id})
    record = read_record(tx, key=key)
    if row is None or record is None:
        return None
    # Children come after their parents in `seq`, so one pass finds everything behind it, and the last is a leaf.
    behind, newest = {message_id}, message_id
    seq = row[MESSAGE_COLUMNS.index("seq")]
    for child, parent in tx.all(tx.sql.messages_behind, {**key_params(key), "seq": seq}):
        if parent in behind:
            behind.add(child)
            newest = child
    return record.leaf_id if record.leaf_id in behind else newest


def read_message_page(
    tx: Transaction, *, key: SessionKey, offset: int, limit: int, max_bytes: int | None = None
) -> tuple[Message, ...] | NotFound:
    record = read_record(tx, key=key)
    if record is None:
        return _no_session(key)
    if record.leaf_id is None:
        return ()
    page = {"leaf_id": record.leaf_id, "count": record.message_count, "offset": offset, "limit": limit}
    ids = tx.all(tx.sql.branch_page, {**key_params(key), **page})
    return tuple(_with_siblings(tx, key, _fitting(tx, key, ids, max_bytes)))


def find_turn(tx: Transaction, *, key: SessionKey, client_message_id: str) -> str | None:
    row = tx.one(tx.sql.turn_of_client_message, {**key_params(key), "client_message_id": client_message_id})
    return row[0] if row is not None else None


def probe_reading(tx: Transaction) -> None:
    tx.one(tx.sql.any_session, {})


# --- sessions ---


def insert_session(tx: Transaction, params: Mapping[str, Any]) -> Row | None:
    """The row of the new session, or None where there is one already."""
    row = tx.one(tx.sql.insert_session, params)
    if row is not None:
        tx.run(tx.sql.take_number, {"number": number_of(row)})
    return row


def create_session(tx: Transaction, *, record: SessionRecord) -> SessionRecord | StoreUnavailable:
    row = insert_session(tx, new_session_params(record)) or tx.one(tx.sql.record, key_params(record.key))
    if row is None:
        buried = still_there(tx, record.key)
        assert buried is not None  # noqa: S101 - it was inserted, or it was there, deleted or not
        return buried
    return record_of(row)


def update_session(
    tx: Transaction, *, key: SessionKey, changes: Mapping[str, Any], new_fence: bool, now: float
) -> SessionRecord | NotFound:
    if not changes and not new_fence:
        return read_record(tx, key=key) or _no_session(key)
    if not _SEARCHED.isdisjoint(changes) and (before := tx.one(tx.sql.record, key_params(key))) is not None:
        if "owner" in changes:
            _take_out(tx, before)
        else:
            search.rename(tx, before, changes["title"])
    row = tx.one(
        tx.sql.update_session(frozenset(changes)),
        {**key_params(key), **change_params(changes), "fences": int(new_fence), "now": now},
    )
    return record_of(row) if row is not None else _no_session(key)


def name_session(
    tx: Transaction, *, key: SessionKey, title: str, new_fence: bool, now: float
) -> SessionRecord | NotFound | None:
    before = tx.one(tx.sql.record, key_params(key))
    if before is None:
        return _no_session(key)
    row = tx.one(tx.sql.name_session, {**key_params(key), "title": title, "fences": int(new_fence), "now": now})
    if row is None:
        return None
    search.rename(tx, before, title)
    return record_of(row)


def _take_out(tx: Transaction, row: Row) -> None:
    """Out of the index with what is left there: where much is, the store took it out before (sql.py)."""
    while search.remove(tx, row, search.TOGETHER_CHARS) < 0:
        row = tx.one(tx.sql.record, {"tenant": row[0], "session_id": row[1]}) or row


def delete_whole(tx: Transaction, *, key: SessionKey) -> None:
    """In one transaction, however much it holds: for an import, which replaces a session at once or not at all."""
    row = tx.one(tx.sql.record, key_params(key))
    if row is not None:
        _take_out(tx, row)
        tx.run(tx.sql.remember_fence, {**key_params(key), "fence": fence_of(row) + 1, "found_at": None})
        tx.run(tx.sql.remove_session, key_params(key))  # messages, turns and chunks go with it


def add_message(
    tx: Transaction,
    *,
    key: SessionKey,
    message: Message,
    create: SessionRecord | None,
    new_fence: bool,
    expires_at: float,
    now: float,
) -> SessionRecord | NotFound | StoreUnavailable:
    row = None
    if create is not None:
        row = insert_session(
            tx,
            new_session_params(create, message_count=1, leaf_id=message.id, updated_at=now, expires_at=expires_at),
        )
    if row is None:
        row = tx.one(
            tx.sql.add_to_session,
            {
                **key_params(key),
                "fences": int(new_fence),
                "leaf_id": message.id,
                "now": now,
                "expires_at": expires_at,
            },
        )
        if row is None:
            return (still_there(tx, key) if create is not None else None) or _no_session(key)
    record = record_of(row)
    tx.run(tx.sql.insert_message, message_params(key, record.message_count, message))
    return record


def annotate_message(
    tx: Transaction, *, key: SessionKey, message_id: str, metadata: Mapping[str, Any], new_fence: bool
) -> SessionRecord | NotFound:
    params = {**key_params(key), "message_id": message_id, "metadata": metadata_param(metadata)}
    if not tx.run(tx.sql.annotate_message, params):
        return NotFound(f"there is no message {message_id!r} in this session")
    return update_session(tx, key=key, changes={}, new_fence=new_fence, now=0.0)


# --- branches ---


def choose_leaf(tx: Transaction, *, key: SessionKey, leaf_id: str) -> SessionRecord | NotFound | Conflict:
    params = {**key_params(key), "leaf_id": leaf_id}
    if tx.one(tx.sql.message, {**params, "message_id": leaf_id}) is None:
        return NotFound(f"there is no message {leaf_id!r} in this session")
    row = tx.one(tx.sql.choose_leaf, params)
    return record_of(row) if row is not None else Conflict("a turn is running in this session", code="busy")


def fork_session(
    tx: Transaction, *, key: SessionKey, message_id: str, create: SessionRecord, limit: int, max_bytes: int
) -> SessionRecord | ChatServerError:
    params = {**key_params(key), "leaf_id": message_id, "count": limit + 1, "copy_id": create.key.session_id}
    measured = tx.one(tx.sql.measure_branch, {**params, "max_bytes": max_bytes})
    count, running, held = measured if measured is not None else (0, 0, 0)
    if not count:
        return NotFound(f"there is no message {message_id!r} in this session")
    if running:
        return Conflict("an answer of this branch is still running", code="busy")
    if count > limit:
        return TooLarge(f"a branch of more than {limit} messages cannot be copied", code="branch_too_long")
    if held > max_bytes:
        return TooLarge(f"a branch of more than {max_bytes} bytes of text cannot be copied", code="branch_too_long")
    row = insert_session(tx, new_session_params(create, message_count=count, leaf_id=message_id))
    if row is None:
        return still_there(tx, create.key) or Conflict(f"there is a session {create.key.session_id!r} already")
    tx.run(tx.sql.copy_branch, params | {"count": count})
    return record_of(row)


# --- turns ---


def start_turn(tx: Transaction, *, start: StartTurn) -> Started | Duplicate | ChatServerError:
    sql, key, answer = tx.sql, start.key, start.answer
    sibling = start.edits or start.regenerates
    if sibling is not None and tx.one(sql.message, {**key_params(key), "message_id": sibling}) is None:
        return NotFound(f"there is no message {sibling!r} in this session")
    params = {
        "tenant": key[0],
        "session_id": key[1],
        "turn_id": start.turn_id,
        "client_message_id": start.client_message_id,
        "leaf_id": answer.id,
        "expires_at": start.expires_at,
        "now": start.now,
    }
    row = None
    if start.create is not None and not start.queued:
        row = insert_session(
            tx,
            new_session_params(
                start.create, message_count=2, leaf_id=answer.id, updated_at=start.now, expires_at=start.expires_at
            ),
        )
    if row is None:
        if start.regenerates is not None:
            statement = sql.start_queued_answer if start.queued else sql.start_answer
        else:
            statement = sql.start_queued_session if start.queued else sql.start_session
        row = tx.one(statement, params)
        if row is None:
            return _why_not(tx, start)
    record = record_of(row)
    count = record.message_count
    group = None
    if sibling is not None:
        named = tx.one(sql.begin_siblings, {**key_params(key), "message_id": sibling})
        group = named[0] if named is not None else None
    if start.regenerates is not None:
        tx.run(sql.insert_message, message_params(key, count, answer, group))
    else:
        tx.run_each(
            sql.insert_message,
            (message_params(key, count - 1, start.user_message, group), message_params(key, count, answer)),
        )
    params["answer_id"] = answer.id
    params["fence"] = record.fence
    params["started_at"] = start.now
    if start.queued:
        tx.run(sql.run_queued_turn, params)
    else:
        params["place"] = params["message"] = params["options"] = params["ended_at"] = None
        tx.run(sql.insert_running_turn, params)
    for message in start.carried:
        added = add_message(
            tx, key=key, message=message, create=None, new_fence=False, expires_at=start.expires_at, now=start.now
        )
        if not isinstance(added, SessionRecord):
            raise added  # cannot be, its row was changed just above; nothing of the turn is to stay then
        record = added
    return Started(record.fence, record)


def _why_not(tx: Transaction, start: StartTurn) -> Duplicate | ChatServerError:
    """Why a session could not take a turn; nothing has been written."""
    key = start.key
    if not start.queued and start.client_message_id is not None:
        known = find_turn(tx, key=key, client_message_id=start.client_message_id)
        if known is not None:
            return Duplicate(known)
    if read_record(tx, key=key) is None:
        return (still_there(tx, key) if start.create is not None else None) or _no_session(key)
    if tx.one(tx.sql.running_turn, key_params(key)) is not None:
        return Conflict("a turn is running in this session", code="busy")
    return NotFound(f"no turn {start.turn_id!r} is queued in this session")


def enqueue_turn(
    tx: Transaction, *, key: SessionKey, turn: StoredTurn, first: bool, expires_at: float, now: float
) -> Duplicate | NotFound | None:
    changed = tx.run(
        tx.sql.enqueue_session,
        {
            **key_params(key),
            "client_message_id": turn.client_message_id,
            "expires_at": expires_at,
            "now": now,
        },
    )
    if not changed:
        known = turn.client_message_id and find_turn(tx, key=key, client_message_id=turn.client_message_id)
        return Duplicate(known) if known else _no_session(key)
    insert = tx.sql.insert_queued_turn_first if first else tx.sql.insert_queued_turn
    tx.run(insert, queued_turn_params(key, turn))
    return None


def withdraw_turn(tx: Transaction, *, key: SessionKey, turn_id: str) -> bool:
    return tx.run(tx.sql.withdraw_turn, {**key_params(key), "turn_id": turn_id}) > 0


def checkpoint(tx: Transaction, *, chunks: Sequence[Chunk]) -> None:
    tx.run_each(
        tx.sql.insert_chunk,
        ({**key_params(c.key), "turn_id": c.turn_id, "seq": c.seq, "body": c.body} for c in chunks),
    )


def finish_turn(tx: Transaction, *, finish: FinishTurn) -> NotFound | None:
    sql, key, answer = tx.sql, finish.key, finish.answer
    params = message_params(key, 0, answer)
    params["turn_id"] = finish.turn_id
    params["outcome"] = finish.outcome
    params["ended_at"] = finish.now
    if not tx.run(sql.end_turn, params):
        return None if tx.one(sql.turn_exists, params) is not None else _no_session(key)
    tx.run(sql.settle_message, params)
    tx.run(sql.drop_chunks, params)
    if finish.usage is not None:
        add_usage(tx, key=key, model=answer.model, usage=finish.usage, now=finish.now)
    return None


def probe_writing(tx: Transaction) -> None:
    tx.run(tx.sql.count_up, {})
