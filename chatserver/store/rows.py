"""Rows to records and back; JSON columns are orjson's text, NULL where there is nothing.

Rows come in the order of ROW_COLUMNS and MESSAGE_COLUMNS (statements.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import orjson

from chatserver.errors import SessionDamaged
from chatserver.message import NO_METADATA, Message, ToolCall, ToolResult, Usage
from chatserver.store.base import SessionKey, SessionRecord, StoredTurn
from chatserver.store.schema import ROW_COLUMNS, messages, sessions
from chatserver.store.soundness import count_of, fits, is_time, kinds_of, text_of, time_of

Row = Sequence[Any]

_ROW_KINDS = kinds_of([sessions.c[name] for name in ROW_COLUMNS])
_MESSAGE_KINDS = kinds_of(list(messages.c))


def key_params(key: SessionKey) -> dict[str, Any]:
    """A session's key as parameters, to which a statement's others are added."""
    return {"tenant": key[0], "session_id": key[1]}


def _json(value: Mapping[str, Any]) -> str | None:
    return orjson.dumps(dict(value)).decode() if value else None


def _metadata(text: str | None) -> Mapping[str, Any]:
    return orjson.loads(text) if text is not None else NO_METADATA


@contextmanager
def _readable(row: Row) -> Iterator[None]:
    """JSON that is none, or holds something else, is told as this session's damage and no other's."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged(row) from error


def _damaged(row: Row) -> SessionDamaged:
    return SessionDamaged(f"what is stored of session {row[1]!r} cannot be read")


# --- sessions ---


def listed_record_of(row: Row) -> SessionRecord:
    """A stored row of `sessions` for a list, which one damaged session must not break: with what can be read of it."""
    try:
        return stored_record_of(row)
    except SessionDamaged:
        mended = (_MENDED.get(name, _text)(value) for name, value in zip(ROW_COLUMNS, row, strict=True))
        return record_of(tuple(mended))


def _text(value: object) -> str | None:
    return None if value is None else text_of(value)  # an owner that cannot be read is not nobody


_MENDED: dict[str, Callable[[object], Any]] = {
    **dict.fromkeys(("created_at", "updated_at", "expires_at"), time_of),
    "last_message_at": lambda value: value if is_time(value) else None,
    **dict.fromkeys(("is_active", "is_named", "message_count", "fence", "number", "indexed_seq"), count_of),
    "metadata": lambda _: None,
}


def stored_record_of(row: Row) -> SessionRecord:
    """A row of `sessions` that was read, and may hold anything, as a record. Raises: SessionDamaged."""
    record = record_of(row) if fits(row, _ROW_KINDS) else None
    if record is None or not (
        is_time(record.created_at)
        and is_time(record.updated_at)
        and is_time(record.expires_at)
        and (record.last_message_at is None or is_time(record.last_message_at))
    ):
        raise _damaged(row)
    return record


def record_of(row: Row) -> SessionRecord:
    """A row of `sessions` that was just written as a record. Raises: SessionDamaged."""
    (
        tenant,
        session_id,
        project_id,
        owner,
        title,
        model,
        created_at,
        updated_at,
        expires_at,
        description,
        metadata,
        is_active,
        message_count,
        last_message_at,
        leaf_id,
        fence,
        _number,
        _indexed_seq,
        is_named,
    ) = row
    return SessionRecord(
        key=SessionKey(tenant, session_id),
        project_id=project_id,
        owner=owner,
        title=title,
        model=model,
        created_at=created_at,
        updated_at=updated_at,
        expires_at=expires_at,
        description=description,
        metadata=_record_metadata(row, metadata),
        is_active=bool(is_active),
        message_count=message_count,
        last_message_at=last_message_at,
        leaf_id=leaf_id,
        fence=fence,
        is_named=bool(is_named),
    )


def _record_metadata(row: Row, text: str | None) -> Mapping[str, Any]:
    if text is None:  # nearly always
        return NO_METADATA
    with _readable(row):
        return dict(orjson.loads(text))


def fence_of(row: Row) -> int:
    """The last fence of the session of a row, damaged or not."""
    return count_of(row[15])


def number_of(row: Row) -> int:
    """What the full-text index calls the session of a row."""
    number: int = row[16]
    return number


def indexed_of(row: Row) -> tuple[str, str, str | None, str, int, int]:
    """What the full-text index needs of a session's row: tenant, id, owner, title, number, how far it is indexed."""
    seq = row[17]
    return row[0], row[1], row[3], text_of(row[4]), count_of(row[16]), seq if isinstance(seq, int) else -1


def new_session_params(
    record: SessionRecord,
    *,
    message_count: int = 0,
    leaf_id: str | None = None,
    updated_at: float | None = None,
    expires_at: float | None = None,
) -> dict[str, Any]:
    """Parameters to insert a record; its counts and leaf are what stands beside it, never what it claims.

    Args:
        updated_at: seconds since the epoch; also the time of the newest message where there is one.
        expires_at: seconds since the epoch, instead of the record's.
    """
    when = record.updated_at if updated_at is None else updated_at
    return {
        **key_params(record.key),
        "project_id": record.project_id,
        "owner": record.owner,
        "title": record.title,
        "model": record.model,
        "created_at": record.created_at,
        "updated_at": when,
        "expires_at": record.expires_at if expires_at is None else expires_at,
        "description": record.description,
        "metadata": _json(record.metadata),
        "is_active": record.is_active,
        "is_named": record.is_named,
        "message_count": message_count,
        "last_message_at": when if message_count else None,
        "leaf_id": leaf_id,
    }


def change_params(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changed columns of a record as parameters."""
    if "metadata" in changes:
        return {**changes, "metadata": _json(changes["metadata"])}
    return dict(changes)


# --- messages ---


def message_of(row: Row, siblings: tuple[str, ...] = ()) -> Message:
    """A row of `messages` as a message. Raises: SessionDamaged."""
    if not fits(row, _MESSAGE_KINDS):
        raise _damaged(row)
    (
        _tenant,
        _session_id,
        message_id,
        parent_id,
        _seq,
        role,
        content,
        status,
        model,
        created_at,
        reasoning,
        tool_calls,
        usage,
        metadata,
        _sibling_of,
    ) = row
    calls: tuple[ToolCall, ...] = ()
    used: Usage | None = None
    noted = NO_METADATA
    if tool_calls is not None or usage is not None or metadata is not None:
        with _readable(row):
            calls = tuple(map(tool_call_of, orjson.loads(tool_calls))) if tool_calls is not None else ()
            used = Usage(**orjson.loads(usage)) if usage is not None else None
            noted = _metadata(metadata)
    return Message(
        message_id, parent_id, role, content, status, model, created_at, reasoning, calls, used, noted, siblings
    )


def held_bytes(row: Row) -> int:
    """The bytes in UTF-8 of what a row of `messages` says: contents, reasoning, tool calls and metadata."""
    return sum(len(t) if t.isascii() else len(t.encode()) for at in (6, 10, 11, 13) if type(t := row[at]) is str)


def sibling_of(row: Row) -> str | None:
    """The group of siblings that a row of `messages` belongs to, named by the oldest of them."""
    group: str | None = row[-1]
    return group


def message_params(key: SessionKey, seq: int, message: Message, sibling_of: str | None = None) -> dict[str, Any]:
    """Parameters to insert a message as the session's `seq`-th.

    Args:
        sibling_of: the oldest of its siblings.
    """
    return {
        "tenant": key[0],
        "session_id": key[1],
        "message_id": message.id,
        "parent_id": message.parent_id,
        "seq": seq,
        "role": message.role,
        "content": message.content,
        "status": message.status,
        "model": message.model,
        "created_at": message.created_at,
        "reasoning": message.reasoning,
        "tool_calls": orjson.dumps(message.tool_calls).decode() if message.tool_calls else None,
        "usage": orjson.dumps(message.usage).decode() if message.usage is not None else None,
        "metadata": _json(message.metadata),
        "sibling_of": sibling_of,
    }


def metadata_param(metadata: Mapping[str, Any]) -> str | None:
    """A message's metadata as its column holds it."""
    return _json(metadata)


def tool_call_of(fields: Mapping[str, Any]) -> ToolCall:
    """A stored tool call as a record."""
    result = fields["result"]
    return ToolCall(
        fields["id"],
        fields["server"],
        fields["name"],
        fields["arguments"],
        fields["offset"],
        ToolResult(**result) if result is not None else None,
    )


def message_json(message: Message) -> str:
    """A whole message as JSON, as a queued turn keeps it."""
    return orjson.dumps(message.wire()).decode()


def message_from_json(text: str) -> Message:
    """The inverse of `message_json`."""
    fields = orjson.loads(text)
    usage = fields["usage"]
    return Message(
        **{
            **fields,
            "tool_calls": tuple(map(tool_call_of, fields["tool_calls"])),
            "usage": Usage(**usage) if usage is not None else None,
            "metadata": fields["metadata"] or NO_METADATA,
            "siblings": tuple(fields.get("siblings", ())),
        }
    )


# --- turns ---


def queued_turn_of(row: Row) -> StoredTurn:
    """`(turn_id, message, client_message_id, options)` of a queued turn as a record. Raises: SessionDamaged."""
    turn_id, message, client_message_id, options = row
    try:
        return StoredTurn(turn_id, message_from_json(message), client_message_id, _metadata(options))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SessionDamaged("a message that waits in the session cannot be read") from error


def queued_turn_params(key: SessionKey, turn: StoredTurn) -> dict[str, Any]:
    """Parameters to insert a queued turn; its place is the statement's to find."""
    return {
        **key_params(key),
        "turn_id": turn.turn_id,
        "client_message_id": turn.client_message_id,
        "message": message_json(turn.message),
        "options": _json(turn.options),
        "answer_id": None,
        "fence": None,
        "started_at": None,
        "ended_at": None,
    }
