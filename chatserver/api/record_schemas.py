"""Bodies and queries of the record routes (spec §5, §7, §8). What is policy in them is SessionService's to check."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from chatserver.api.schemas import Body, SessionBody
from chatserver.session_rules import MAX_DESCRIPTION_CHARS, MAX_TITLE_CHARS, NewSession

_PROJECT = r"^[A-Za-z0-9._:-]{1,128}$"


# --- the current session ---


class CreateBody(SessionBody):
    """`POST /api/session/create`."""

    project_id: str | None = Field(None, pattern=_PROJECT)
    title: str | None = Field(None, min_length=1, max_length=MAX_TITLE_CHARS)
    description: str | None = Field(None, max_length=MAX_DESCRIPTION_CHARS)
    metadata: dict[str, Any] | None = None
    model: str | None = Field(None, max_length=128)

    def new_session(self) -> NewSession:
        """What is asked for."""
        return NewSession(self.project_id, self.title, self.description, self.metadata, self.model)


class ModelBody(SessionBody):
    """`PUT /api/session/model`: null goes back to the catalogue's default."""

    model: str | None = Field(max_length=128)


# --- projects ---


class ProjectSessionBody(Body):
    """`POST /api/projects/{project_id}/sessions`."""

    title: str | None = Field(None, min_length=1, max_length=MAX_TITLE_CHARS)
    description: str | None = Field(None, max_length=MAX_DESCRIPTION_CHARS)
    metadata: dict[str, Any] | None = None
    model: str | None = Field(None, max_length=128)
