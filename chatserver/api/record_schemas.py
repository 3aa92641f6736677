"""Bodies and queries of the record routes (spec §5, §7, §8). What is policy in them is SessionService's to check."""

from __future__ import annotations

from typing import Any, cast

from pydantic import Field

from chatserver.api.schemas import Body, Query, SessionBody
from chatserver.session_rules import MAX_DESCRIPTION_CHARS, MAX_TITLE_CHARS, NewSession, StoredRole, Wanted

# A page of a list or of messages: more would be a long answer, and a long read of the store.
MAX_PAGE = 1000
# How far a list is walked by counting; a cursor goes further at the same price.
MAX_OFFSET = 1_000_000
MAX_SEARCH_CHARS = 200

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

    def new_session(self, project_id: str) -> NewSession:
        """What is asked for, in that project."""
        return NewSession(project_id, self.title, self.description, self.metadata, self.model)


class SessionUpdateBody(Body):
    """`PUT /api/projects/{project_id}/sessions/{session_id}`: what is given is changed; a null model is the default."""

    title: str = Field("", min_length=1, max_length=MAX_TITLE_CHARS)
    description: str = Field("", max_length=MAX_DESCRIPTION_CHARS)
    metadata: dict[str, Any] = Field(default_factory=dict)
    is_active: bool = True
    model: str | None = Field(None, max_length=128)

    def wanted(self) -> Wanted:
        """The fields that were given."""
        return cast(Wanted, self.model_dump(exclude_unset=True))


class MessageBody(Body):
    """`POST …/messages`: a message that starts no turn."""

    role: StoredRole
    content: str
    metadata: dict[str, Any] = Field(default_factory=dict)


class ListQuery(Query):
    """`GET …/sessions`."""

    include_inactive: bool = False
    q: str | None = Field(None, max_length=MAX_SEARCH_CHARS)
    limit: int = Field(100, ge=1, le=MAX_PAGE)
    offset: int = Field(0, ge=0, le=MAX_OFFSET)
    cursor: str | None = Field(None, max_length=400)


class MessagesQuery(Query):
    """`GET …/messages`."""

    limit: int = Field(100, ge=1, le=MAX_PAGE)
    offset: int = Field(0, ge=0, le=MAX_OFFSET)


class DeleteQuery(Query):
    """`DELETE …/sessions/{session_id}`."""

    force: bool = False


# --- the user's sessions ---


class LlmCreateBody(SessionBody):
    """`POST /api/llm/sessions`."""

    session_name: str | None = Field(None, min_length=1, max_length=MAX_TITLE_CHARS)


class LlmUpdateBody(Body):
    """`PUT /api/llm/sessions/{session_id}`: what is given is changed; a message count is only compared."""

    session_name: str = Field("", min_length=1, max_length=MAX_TITLE_CHARS)
    is_archived: bool = False
    message_count: int | None = Field(None, ge=0)

    def wanted(self) -> Wanted:
        """The fields that were given and can be changed, by their names in the record."""
        wanted: Wanted = {}
        if "session_name" in self.model_fields_set:
            wanted["title"] = self.session_name
        if "is_archived" in self.model_fields_set:
            wanted["is_active"] = not self.is_archived
        return wanted


class LlmListQuery(Query):
    """`GET /api/llm/sessions`."""

    include_archived: bool = False
    q: str | None = Field(None, max_length=MAX_SEARCH_CHARS)
    limit: int = Field(50, ge=1, le=MAX_PAGE)
    offset: int = Field(0, ge=0, le=MAX_OFFSET)


class LlmGetQuery(Query):
    """`GET /api/llm/sessions/{session_id}`."""

    include_messages: bool = False
