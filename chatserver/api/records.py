"""Sessions and messages as the record routes show them (spec §5, §7, §8), and what those routes have in common."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import orjson
from aiohttp import web

from chatserver.api.reading import SESSION_COOKIE, is_secure
from chatserver.clock import rfc3339
from chatserver.errors import FieldError, InvalidFields
from chatserver.message import Message
from chatserver.session_lists import SessionLists
from chatserver.store.base import SessionRecord, SessionSummary


def session_wire(record: SessionRecord) -> dict[str, Any]:
    """A session's record as spec P1 shows it."""
    return {
        "id": record.key.session_id,
        "project_id": record.project_id,
        "title": record.title,
        "description": record.description,
        "metadata": record.metadata,
        "model": record.model,
        "is_active": record.is_active,
        "message_count": record.message_count,
        "created_at": rfc3339(record.created_at),
        "updated_at": rfc3339(record.updated_at),
        "last_message_at": None if record.last_message_at is None else rfc3339(record.last_message_at),
        "expires_at": rfc3339(record.expires_at),
    }


def listed_wire(lists: SessionLists, summary: SessionSummary) -> dict[str, Any]:
    """What a line of a list has besides the record: the beginning of the newest message (spec P2), and what goes on."""
    is_processing, pending_approvals = lists.activity(summary.record.key)
    return {
        "last_message_preview": summary.last_message_preview,
        "is_processing": is_processing,
        "pending_approvals": pending_approvals,
    }


def message_wire(message: Message, record: SessionRecord) -> dict[str, Any]:
    """A message that says where it belongs (spec P5)."""
    return {"session_id": record.key.session_id, "project_id": record.project_id, **message.wire()}


def cursor_of(record: SessionRecord) -> str:
    """Where a list goes on after this session; opaque to clients."""
    place = orjson.dumps([record.updated_at, record.key.session_id])
    return base64.urlsafe_b64encode(place).rstrip(b"=").decode()


def place_of(cursor: str) -> tuple[float, str]:
    """The inverse of `cursor_of`. Raises: InvalidFields (`invalid_cursor`)."""
    try:
        match orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))):
            case [float() | int() as updated_at, str() as session_id]:
                return float(updated_at), session_id
    except (binascii.Error, ValueError):
        pass
    raise InvalidFields([FieldError(("cursor",), "not one that a list has given")], code="invalid_cursor")


def set_session_cookie(request: web.Request, response: web.Response, session_id: str, seconds: float) -> None:
    """Let the browser name this session wherever a request names none (spec S2).

    Args:
        seconds: how long the session lives.
    """
    response.set_cookie(
        SESSION_COOKIE,
        session_id,
        max_age=max(int(seconds), 1),
        httponly=True,
        samesite="Lax",
        secure=is_secure(request),
        path="/",
    )
