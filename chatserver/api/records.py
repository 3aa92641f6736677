"""Sessions and messages as the record routes show them (spec §5, §7, §8), and what those routes have in common."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from chatserver.api.reading import SESSION_COOKIE, is_secure
from chatserver.clock import rfc3339
from chatserver.store.base import SessionRecord


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
