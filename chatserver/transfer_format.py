"""A session as two JSON files: `metadata.json` and `messages.json` (docs/backup.md shows them).

Invariants: writing a session and reading it again gives the same session, to the last digit of its times. What is read
is checked through and through: types, ids, times, and that the messages are a tree. Files of other programs, which lack
`format`, are read as far as they say something: what they say beyond that is kept in the metadata, under `imported`.

It opens no files and no store.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from chatserver.agents import json_border
from chatserver.clock import rfc3339
from chatserver.message import Message
from chatserver.principal import PUBLIC_TENANT
from chatserver.store.base import SessionKey, SessionRecord, StoredTurn, WholeSession
from chatserver.usage import MAX_TOKENS

FORMAT = "chatserver-session/1"
ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
# Spec P1.
_TITLE_CHARS = 200
_DESCRIPTION_CHARS = 1000
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d{1,30}))?(Z|[+-]\d\d:\d\d)?", re.ASCII)
# The year 9999 is the last that RFC 3339 can write.
_LAST_SECOND = 253_402_300_799
# Names messages that came without an id, so that importing them again finds the same ones.
_NAMESPACE = uuid.UUID("6f1d1f3e-3a0c-4a53-9a3b-0a9c1c6d6e5b")


class Unreadable(Exception):
    """What is wrong with a session's files, as one line."""


# --- times ---


def exact(seconds: float) -> str:
    """`seconds` since the epoch as RFC 3339 in UTC, with all the digits that a reader needs for the same number."""
    whole, _, fraction = format(Decimal(repr(seconds)), "f").partition(".")
    digits = fraction.rstrip("0").ljust(3, "0")
    return f"{rfc3339(int(whole))[:-5]}.{digits}Z"


def seconds_of(value: str | float) -> float:
    """The inverse of `exact`; also of a number of seconds, and of a time without an offset, which is taken for UTC.

    Raises: Unreadable.
    """
    if isinstance(value, str):
        found = _TIME.fullmatch(value)
        if found is None:
            raise Unreadable(f"{value[:40]!a} is not a time of RFC 3339")
        date, time, fraction, offset = found.groups()
        try:
            whole = datetime.fromisoformat(f"{date}T{time}{offset or 'Z'}").timestamp()
        except ValueError as error:
            raise Unreadable(f"{value[:40]!a} is not a time: {error}") from None
        value = float(Decimal(int(whole)) + Decimal(f"0.{fraction or 0}"))
    if not 0 <= value <= _LAST_SECOND:
        raise Unreadable(f"{value!a} is not a time between 1970 and 9999")
    return float(value)


# --- writing ---


def metadata_json(record: SessionRecord, queue: Sequence[StoredTurn]) -> bytes:
    """The bytes of `metadata.json`."""
    return orjson.dumps(_fields(record, queue), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def session_json(record: SessionRecord, queue: Sequence[StoredTurn]) -> bytes:
    """The same as one line."""
    return orjson.dumps(_fields(record, queue))


def _fields(record: SessionRecord, queue: Sequence[StoredTurn]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "id": record.key.session_id,
        "tenant": record.key.tenant,
        "project_id": record.project_id,
        "owner": record.owner,
        "title": record.title,
        "description": record.description,
        "metadata": record.metadata,
        "model": record.model,
        "is_active": record.is_active,
        "is_named": record.is_named,
        "message_count": record.message_count,
        "created_at": exact(record.created_at),
        "updated_at": exact(record.updated_at),
        "last_message_at": None if record.last_message_at is None else exact(record.last_message_at),
        "expires_at": exact(record.expires_at),
        "leaf_id": record.leaf_id,
        "queue": queue,
    }


def message_json(message: Message) -> bytes:
    """A message as a line of `messages.json`. An answer that was running is over for whoever reads the file."""
    settled = replace(message, status="interrupted") if message.status == "streaming" else message
    return orjson.dumps(settled)


# --- reading ---


class _Given(BaseModel):
    """What a `metadata.json` may say. All of it is optional, because other programs' say less."""

    model_config = ConfigDict(strict=True, extra="allow")

    format: Literal["chatserver-session/1"] | None = None
    id: str | None = None
    tenant: str | None = Field(None, min_length=1, max_length=128)
    project_id: str | None = None
    owner: str | None = Field(None, min_length=1, max_length=300)
    title: str | None = Field(None, max_length=_TITLE_CHARS)
    description: str | None = Field(None, max_length=_DESCRIPTION_CHARS)
    metadata: dict[str, Any] | None = None
    model: str | None = Field(None, max_length=128)
    is_active: bool = True
    is_named: bool | None = None
    message_count: int | None = None
    created_at: str | float | None = None
    updated_at: str | float | None = None
    last_message_at: str | float | None = None
    expires_at: str | float | None = None
    leaf_id: str | None = None
    queue: list[Any] = Field(default_factory=list)


class _GivenMessage(BaseModel):
    """What a message of another program may say."""

    model_config = ConfigDict(strict=True, extra="allow")

    id: str | None = None
    session_id: str | None = None
    project_id: str | None = None
    role: Literal["user", "assistant", "system", "tool"]
    content: str
    model: str | None = None
    created_at: str | float | None = None
    metadata: dict[str, Any] | None = None


_MESSAGES = TypeAdapter(tuple[Message, ...])
_QUEUE = TypeAdapter(tuple[StoredTurn, ...])


@dataclass(frozen=True, slots=True)
class Place:
    """Where a session's files lie: what the folders are called, and when `metadata.json` was written (seconds)."""

    project: str
    session: str
    written_at: float


def read(metadata: bytes, messages: bytes, place: Place, *, expires_at: float) -> WholeSession:
    """The session of two files.

    Args:
        expires_at: of a session of another program, which says none; seconds since the epoch.
    Raises: Unreadable.
    """
    given = _validate(_Given, _renamed(_load(metadata, "metadata.json"), session_id="id"), "metadata.json")
    listed = _load(messages, "messages.json")
    if isinstance(listed, dict) and given.format is None:
        listed = listed.get("messages")
    if not isinstance(listed, list):
        raise Unreadable("messages.json: not a list of messages")
    project = _id(given.project_id or place.project, "project_id")
    session = _id(given.id or place.session, "id")
    if given.format is None:
        whole = _foreign(given, listed, project, session, place.written_at, expires_at)
    else:
        whole = _own(given, listed, project, session)
    _check_tree(whole)
    return whole


def _own(given: _Given, listed: list[Any], project: str, session: str) -> WholeSession:
    if given.model_extra:
        unknown = next(iter(given.model_extra))
        raise Unreadable(f"metadata.json: there is no field {unknown[:40]!a}; is it of a newer version?")
    if given.created_at is None or given.updated_at is None or given.expires_at is None or given.title is None:
        raise Unreadable("metadata.json: created_at, updated_at, expires_at or title is missing")
    messages: tuple[Message, ...] = _validate_all(_MESSAGES, listed, "messages.json")
    queue: tuple[StoredTurn, ...] = _validate_all(_QUEUE, given.queue, "metadata.json: queue")
    for message in (*messages, *(turn.message for turn in queue)):
        seconds_of(message.created_at)
    for message in messages:
        _check_tokens(message)
    for turn in queue:
        _id(turn.turn_id, "turn_id")
        if any(not isinstance(value, str | None) for value in turn.options.values()):
            raise Unreadable("metadata.json: options of a queued turn are texts")
    if len({turn.turn_id for turn in queue}) < len(queue):
        raise Unreadable("metadata.json: a turn stands twice in the queue")
    used = [turn.client_message_id for turn in queue if turn.client_message_id is not None]
    if len(set(used)) < len(used):
        raise Unreadable("metadata.json: a client_message_id stands twice in the queue")
    record = SessionRecord(
        key=SessionKey(given.tenant or PUBLIC_TENANT, session),
        project_id=project,
        owner=given.owner,
        title=given.title,
        model=given.model,
        created_at=seconds_of(given.created_at),
        updated_at=seconds_of(given.updated_at),
        expires_at=seconds_of(given.expires_at),
        description=given.description or "",
        metadata=given.metadata or {},
        is_active=given.is_active,
        message_count=len(messages),
        last_message_at=None if given.last_message_at is None else seconds_of(given.last_message_at),
        leaf_id=given.leaf_id,
        is_named=_is_named(given),
    )
    # Whatever a file says, nothing runs in a session that was just read.
    settled = (replace(m, status="interrupted") if m.status == "streaming" else m for m in messages)
    return WholeSession(record, tuple(replace(m, siblings=()) for m in settled), queue)


def _check_tokens(message: Message) -> None:
    """What the sums of a session can hold, and JSON show. Raises: Unreadable."""
    used = message.usage
    numbers = () if used is None else (used.prompt_tokens, used.completion_tokens, used.reasoning_tokens)
    if used is not None and not all(0 <= n <= MAX_TOKENS for n in (*numbers, used.cached_tokens)):
        raise Unreadable(f"messages.json: the usage of {message.id[:40]!a} is not from 0 to {MAX_TOKENS}")


def _foreign(
    given: _Given, listed: list[Any], project: str, session: str, written_at: float, expires_at: float
) -> WholeSession:
    created_at = written_at if given.created_at is None else seconds_of(given.created_at)
    messages: list[Message] = []
    for number, item in enumerate(listed):
        item = _renamed(item, message_id="id", timestamp="created_at")
        said = _validate(_GivenMessage, item, f"messages.json: message {number}")
        _agree(said.session_id, session, "session_id")
        messages.append(
            Message(
                id=said.id or str(uuid.uuid5(_NAMESPACE, f"{project}/{session}/{number}")),
                parent_id=messages[-1].id if messages else None,
                role=said.role,
                content=said.content,
                status="completed",
                model=said.model,
                created_at=rfc3339(created_at if said.created_at is None else seconds_of(said.created_at)),
                metadata=_with_extra(said.metadata, said.model_extra),
            )
        )
    updated_at = created_at if given.updated_at is None else seconds_of(given.updated_at)
    record = SessionRecord(
        key=SessionKey(given.tenant or PUBLIC_TENANT, session),
        project_id=project,
        owner=given.owner,
        title=given.title or session,
        model=given.model,
        created_at=created_at,
        updated_at=updated_at,
        expires_at=expires_at if given.expires_at is None else seconds_of(given.expires_at),
        description=given.description or "",
        metadata=_with_extra(given.metadata, given.model_extra),
        is_active=given.is_active,
        message_count=len(messages),
        last_message_at=seconds_of(messages[-1].created_at) if messages else None,
        leaf_id=messages[-1].id if messages else None,
        is_named=_is_named(given),
    )
    return WholeSession(record, tuple(messages))


def _is_named(given: _Given) -> bool:
    """Files of before do not say it: then the default title is nobody's."""
    return given.title != "New Chat" if given.is_named is None else given.is_named


def _renamed(value: Any, **names: str) -> Any:
    """Fields under the names that they have here, where those are free."""
    if not isinstance(value, dict):
        return value
    return {name if (name := names.get(key, key)) not in value else key: v for key, v in value.items()}


def _with_extra(metadata: Mapping[str, Any] | None, extra: Mapping[str, Any] | None) -> dict[str, Any]:
    """Metadata, and beside it what the file says that has no place of its own here."""
    return {**(metadata or {}), **({"imported": dict(extra)} if extra else {})}


def _check_tree(whole: WholeSession) -> None:
    """Every id is one and stands once, every parent stands before its children, and the leaf is a message."""
    known: set[str] = set()
    for message in whole.messages:
        _id(message.id, "a message's id")
        if message.id in known:
            raise Unreadable(f"messages.json: {message.id!a} stands there twice")
        if message.parent_id is not None and message.parent_id not in known:
            raise Unreadable(f"messages.json: the parent of {message.id!a} does not stand before it")
        known.add(message.id)
    leaf_id = whole.record.leaf_id
    if (leaf_id is None) != (not known) or (leaf_id is not None and leaf_id not in known):
        raise Unreadable("metadata.json: leaf_id is not a message of messages.json")
    for turn in whole.queue:
        _id(turn.message.id, "a queued message's id")
        if turn.message.id in known:
            raise Unreadable(f"metadata.json: the queued message {turn.message.id!a} is in messages.json already")


def _id(value: str, name: str) -> str:
    if not ID.fullmatch(value):
        raise Unreadable(f"{name}: {value[:40]!a} is not 1 to 128 of A-Z a-z 0-9 . _ : -")
    return value


def _agree(value: str | None, expected: str, name: str) -> None:
    if value is not None and value != expected:
        raise Unreadable(f"{name}: {value[:40]!a} is not {expected!a}")


def _load(raw: bytes, name: str) -> Any:
    """JSON that can be written again, also inside of an answer: orjson reads deeper than it writes."""
    try:
        value = json_border.shallow(orjson.loads(raw), raw)
    except ValueError as error:  # also what orjson raises
        raise Unreadable(f"{name}: {str(error)[:100]}") from None
    return value


def _validate(model: type[Any], value: Any, name: str) -> Any:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise Unreadable(f"{name}: {_first(error)}") from None


def _validate_all(adapter: TypeAdapter[Any], value: list[Any], name: str) -> Any:
    try:
        # As JSON, in which a list is a tuple: strict about all else.
        return adapter.validate_json(orjson.dumps(value), strict=True, extra="forbid")
    except ValidationError as error:
        raise Unreadable(f"{name}: {_first(error)}") from None


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part)[:40] for part in first["loc"][:6])
    return f"{place}: {first['msg']}"[:200].encode("ascii", "backslashreplace").decode()
