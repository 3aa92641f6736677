"""What a session's fields may be, and what callers may ask of one: rules without state, I/O or time.

They are SessionService's (session_service.py), which is the only door to sessions; they stand here because the door is
long enough without them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol, TypedDict

import orjson

from chatserver.config import Settings
from chatserver.errors import Conflict, FieldError, InvalidFields, InvalidRequest, NotFound, TooLarge
from chatserver.live_session import LiveSession
from chatserver.store.base import SessionRecord

SESSION_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
PROJECT_ID = SESSION_ID
DEFAULT_PROJECT = "default"
NEW_TITLE = "New Chat"
# Spec P1.
MAX_TITLE_CHARS = 200
MAX_DESCRIPTION_CHARS = 1000

# Roles of messages that are stored without a turn (spec P4).
StoredRole = Literal["user", "assistant", "system"]


class Models(Protocol):
    """The catalogue, as far as rules about sessions need it."""

    def ids(self, tenant: str) -> tuple[str, ...]:
        """Models a session of that tenant may name, the default first."""

    def default_id(self, tenant: str) -> str: ...

    def missing_api_key(self, tenant: str, model_id: str | None) -> bool: ...


@dataclass(frozen=True, slots=True)
class NewSession:
    """What a session shall be made as; None leaves a field to its default."""

    project_id: str | None = None
    title: str | None = None
    description: str | None = None
    metadata: Mapping[str, Any] | None = None
    model: str | None = None

    def named(self) -> dict[str, Any]:
        """The fields that are given, as columns of the record."""
        return {name: value for name in _COLUMNS if (value := getattr(self, name)) is not None}

    @property
    def is_named(self) -> bool:
        """Whether it has a title of its own: clients that must send one send the default one (seed of U1)."""
        return self.title not in (None, NEW_TITLE)


# Looked up once: every request that may make a session asks for them.
_COLUMNS = tuple(f.name for f in fields(NewSession))


class Wanted(TypedDict, total=False):
    """What a person may change of a session (spec P3, U3); a `model` of None is the catalogue's default."""

    title: str
    description: str
    metadata: Mapping[str, Any]
    is_active: bool
    model: str | None


def check_session_id(session_id: str) -> None:
    """S3. Raises: InvalidFields (`invalid_session_id`)."""
    if not SESSION_ID.fullmatch(session_id):
        raise InvalidFields([FieldError(("session_id",), "1 to 128 of A-Z a-z 0-9 . _ : -")], code="invalid_session_id")


def check_project_id(project_id: str) -> None:
    """Raises: InvalidRequest (`missing_project_id`) where it is empty, InvalidFields (`invalid_project_id`)."""
    if not project_id:
        raise InvalidRequest("the address names no project", code="missing_project_id")
    if not PROJECT_ID.fullmatch(project_id):
        raise InvalidFields([FieldError(("project_id",), "1 to 128 of A-Z a-z 0-9 . _ : -")], code="invalid_project_id")


def check_project(live: LiveSession, project_id: str | None) -> None:
    """P5: a session is in one project, and under another it is not found. One that was only read is in none yet.

    Raises: NotFound (`session_not_in_project`).
    """
    if not live.provisional:
        check_in_project(live.record, project_id)


def check_in_project(record: SessionRecord, project_id: str | None) -> None:
    """The same of a session that is stored."""
    if project_id is not None and project_id != record.project_id:
        raise NotFound(
            f"session {record.key.session_id!r} is not in project {project_id!r}", code="session_not_in_project"
        )


def check_agreement(live: LiveSession, new: NewSession) -> None:
    """A session that is there already is what was asked for. Raises: Conflict (`session_exists`)."""
    differing = [name for name, value in new.named().items() if getattr(live.record, name) != value]
    if differing:
        raise Conflict(
            f"session {live.key.session_id!r} exists, with another {' and '.join(differing)}", code="session_exists"
        )


def check_text(settings: Settings, text: str, *, field: str = "message") -> None:
    """L2. Raises: InvalidFields (`blank_message`), TooLarge (`message_too_long`)."""
    if not text.strip():
        raise InvalidFields([FieldError((field,), "must not be blank")], code="blank_message")
    allowed = settings.max_message_chars
    if len(text) > allowed:
        raise TooLarge(f"the message has {len(text)} characters; {allowed} are allowed", code="message_too_long")


def check_model(models: Models, tenant: str, model: str) -> None:
    """V4. Raises: InvalidFields (`unknown_model`), which lists the catalogue."""
    known = models.ids(tenant)
    if model not in known:
        raise InvalidFields(
            [FieldError(("model",), f"not in the catalogue; known: {', '.join(known)}")], code="unknown_model"
        )


def check_texts(settings: Settings, given: Mapping[str, Any]) -> None:
    """P1: a title of 1 to 200 characters, a description of at most 1000, metadata of some size.

    Args:
        given: columns of a record; those that are not there are not looked at.
    Raises: InvalidFields, TooLarge (`metadata_too_large`).
    """
    title, description, metadata = given.get("title"), given.get("description"), given.get("metadata")
    wrong = []
    if title is not None and (not title.strip() or len(title) > MAX_TITLE_CHARS):
        wrong.append(FieldError(("title",), f"1 to {MAX_TITLE_CHARS} characters, not all blank"))
    if description is not None and len(description) > MAX_DESCRIPTION_CHARS:
        wrong.append(FieldError(("description",), f"at most {MAX_DESCRIPTION_CHARS} characters"))
    if wrong:
        raise InvalidFields(wrong)
    if metadata:
        check_metadata(settings, metadata)


def check_metadata(settings: Settings, metadata: Mapping[str, Any]) -> None:
    """Raises: TooLarge (`metadata_too_large`)."""
    size = len(orjson.dumps(dict(metadata)))
    if size > settings.max_metadata_bytes:
        raise TooLarge(
            f"the metadata has {size} bytes as JSON; {settings.max_metadata_bytes} are allowed",
            code="metadata_too_large",
        )
