"""Bodies of requests, validated once, at the border: strict types, no unknown fields.

OpenAPI is made from these. Limits of size that are policy (characters of a message) are SessionService's.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from chatserver.session_service import SESSION_ID

# Shown to clients; SessionService checks it.
_ID: dict[str, JsonValue] = {"pattern": f"^{SESSION_ID.pattern}$"}


class Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Query(BaseModel):
    """A query string: values are text, and what is not asked about is left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class SessionBody(Body):
    session_id: str | None = Field(None, json_schema_extra=_ID)


class ChatBody(SessionBody):
    """`POST /api/chat`."""

    message: str
    model: str | None = Field(None, max_length=128)
    project_id: str | None = Field(None, pattern=r"^[A-Za-z0-9._:-]{1,128}$")
    client_message_id: str | None = Field(None, min_length=1, max_length=128)
    on_busy: Literal["queue", "reject", "interrupt"] = "queue"


class InterruptBody(SessionBody):
    """`POST /api/interrupt`."""

    turn_id: str | None = Field(None, max_length=128)
    clear_queue: bool = False


class SystemBody(SessionBody):
    """`POST /api/system`."""

    message: str


class CommandBody(SessionBody):
    """`POST /api/mcp-command`."""

    command: str = Field(max_length=64)
    args: dict[str, Any] = Field(default_factory=dict)


class StreamBody(Body):
    """`POST /api/stream`: change what a multiplexed stream follows."""

    stream: str = Field(min_length=1, max_length=128)
    add: list[str] = Field(default_factory=list, max_length=1000)
    drop: list[str] = Field(default_factory=list, max_length=1000)


# --- query strings ---


class SessionQuery(Query):
    """Which session; a new one where the request names none."""

    session_id: str | None = Field(None, json_schema_extra=_ID)


class StreamQuery(SessionQuery):
    """`GET /api/chat/stream`."""

    last_event_id: str | None = Field(None, description="As the header `Last-Event-ID`, where that cannot be set.")
    format: Literal["events", "state"] = Field("events", description="`state`: the whole state whenever it changed.")


class ExportQuery(SessionQuery):
    """`GET /api/export`."""

    format: Literal["json", "markdown"] = "json"


class MultiplexQuery(Query):
    """`GET /api/stream`."""

    sessions: str = Field(
        "", description="Ids with commas between, each perhaps with `@` and an event id to go on from."
    )
    stream: str | None = Field(
        None, json_schema_extra=_ID, description="A name of your own, to change the stream by while it runs."
    )


class UsageQuery(SessionQuery):
    """`GET /api/usage`."""

    period: Literal["day", "month"] = Field("day", description="UTC's day or month.")


class MetricsQuery(Query):
    """`GET /api/admin/metrics`."""

    since: float = Field(0, allow_inf_nan=False, description="Seconds since the epoch: samples after it only.")


# --- arguments of commands ---


class NoArgs(Body):
    pass


class ServerArgs(Body):
    server: str = Field(max_length=128)


class MaybeServerArgs(Body):
    server: str | None = Field(None, max_length=128)


class CallToolArgs(ServerArgs):
    name: str = Field(max_length=256)
    arguments: dict[str, Any] = Field(default_factory=dict)


class ReadResourceArgs(ServerArgs):
    uri: str = Field(max_length=4096)


class GetPromptArgs(ServerArgs):
    name: str = Field(max_length=256)
    arguments: dict[str, str] = Field(default_factory=dict)


class ApprovalArgs(Body):
    approval_id: str = Field(max_length=128)


class NetworkArgs(Body):
    network: str = Field(min_length=1, max_length=256)
