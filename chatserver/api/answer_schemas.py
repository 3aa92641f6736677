"""The shapes of answers and of what streams carry, for the API's description (openapi.py).

Nothing is validated against them when an answer is made: handlers build it from the same records, and the tests hold
every answer that they get to these shapes. A field is required unless it is marked.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypeAliasType, TypedDict

from chatserver.events import Event
from chatserver.message import Approval, Message, Role, Status, ToolCall, Usage
from chatserver.state import QueuedTurn


class FieldProblem(TypedDict):
    """A wrong field: where it stands, and what is wrong with it."""

    loc: list[str | int]
    msg: str


class Problem(TypedDict):
    """An error, as RFC 9457 has it; `code` is what programs look at."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: NotRequired[list[FieldProblem]]
    resets_at: NotRequired[str]
    success: NotRequired[Literal[False]]


# --- operations ---


class Health(TypedDict):
    """The process answers."""

    status: Literal["ok"]
    version: str


class Ready(TypedDict):
    """The server takes work."""

    status: Literal["ready"]


class AdminMetrics(TypedDict):
    """What is so now, with totals since the start, and a list of samples for each column of the last hour."""

    time: float
    version: str
    interval_seconds: float
    now: dict[str, float]
    history: dict[str, list[float | None]]


class UsageTotal(TypedDict):
    """Tokens of turns together. `total_tokens` is prompts and answers; `estimated` where any part of them is."""

    turns: int
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    cached_tokens: int
    total_tokens: int
    estimated: bool


class ModelUsage(UsageTotal):
    """Of one model."""

    model: str


class ProjectUsage(UsageTotal):
    """Of one project."""

    project_id: str


class QuotaLeft(TypedDict):
    """A quota, and what is left of it."""

    of: Literal["user", "visitor", "tenant"]
    period: Literal["day", "month"]
    limit_tokens: int
    used_tokens: int
    left_tokens: int
    resets_at: str


class UsageReport(TypedDict):
    """The caller's own use of a day or a month. While `exhausted_until` is set, no turn starts."""

    period: Literal["day", "month"]
    since: str
    until: str
    total: UsageTotal
    by_model: list[ModelUsage]
    by_project: list[ProjectUsage]
    quotas: list[QuotaLeft]
    exhausted_until: str | None


class SessionUsage(TypedDict):
    """What the messages of one session have used, over all its branches."""

    session_id: str
    total: UsageTotal
    by_model: list[ModelUsage]


class Model(TypedDict):
    """An entry of the catalogue."""

    id: str
    name: str | None
    kind: str
    default: bool
    context_tokens: int | None
    max_output_tokens: int | None
    tools: bool
    fallback: str | None
    missing_api_key: bool


class Models(TypedDict):
    """The catalogue, and what a message may be."""

    models: list[Model]
    default_model: str | None
    max_message_chars: int


class OpenApi(TypedDict):
    """A description of the API, as https://spec.openapis.org/oas/v3.1.1 has it."""

    openapi: str
    info: dict[str, Any]
    paths: dict[str, Any]
    components: dict[str, Any]
    security: list[dict[str, Any]]


# --- live sessions ---


class StateWithoutMessages(TypedDict):
    """A session as its tabs see it, but for what was said in it."""

    session_id: str
    position: str
    project_id: str
    title: str
    model: str | None
    is_processing: bool
    active_turn_id: str | None
    is_connecting_mcp: bool
    missing_api_key: bool
    queue: list[QueuedTurn]
    pending_approvals: list[Approval]
    message_count: int
    expires_at: str | None


class ChatState(StateWithoutMessages):
    """A session as its tabs see it, with the newest messages; `has_more` says that there are older ones."""

    messages: list[Message]
    has_more: bool


class State(StateWithoutMessages):
    """A session as its tabs see it; `messages` and `has_more` stay away with `Prefer: return=minimal`."""

    messages: NotRequired[list[Message]]
    has_more: NotRequired[bool]


class StateAfterChat(State):
    """The state, and the turn that the message started or queued."""

    turn_id: str


class MessagePage(TypedDict):
    """Messages of a branch, oldest first; `has_more` says that there are older ones."""

    session_id: str
    messages: list[Message]
    has_more: bool


class RatedMessage(TypedDict):
    """The answer with what was said about it as `feedback` of its metadata."""

    session_id: str
    message: Message


class CommandDone(TypedDict):
    """What a command did; `data` depends on the command."""

    success: bool
    message: str
    data: Any
    session_id: str


class StreamChanged(TypedDict):
    """What a multiplexed stream follows now."""

    stream: str
    sessions: list[str]


# --- streams ---


class Snapshot(TypedDict):
    """The whole state; what came before it does not matter any more."""

    type: Literal["snapshot"]
    session_id: str
    state: ChatState


class Ping(TypedDict):
    """A sign of life every few seconds."""

    type: Literal["ping"]
    degraded: NotRequired[bool]


class Goodbye(TypedDict):
    """The server closes the stream; come back after `retry_ms`."""

    type: Literal["goodbye"]
    reason: str
    retry_ms: int


# The data of an event, on either stream: what has an id and changes the state, and what tells of the connection.
# Aliases with names, so that the description and the page's types have them by these.
NumberedEvent = TypeAliasType("NumberedEvent", Snapshot | Event)
ConnectionEvent = TypeAliasType("ConnectionEvent", Ping | Goodbye)
StreamEvent = TypeAliasType("StreamEvent", NumberedEvent | ConnectionEvent)


# --- records ---


class Session(TypedDict):
    """A session's record."""

    id: str
    project_id: str
    title: str
    description: str
    metadata: dict[str, Any]
    model: str | None
    is_active: bool
    message_count: int
    created_at: str
    updated_at: str
    last_message_at: str | None
    expires_at: str


class CurrentSession(Session):
    """A session's record, as the caller's current one."""

    session_id: str


class SessionValidity(TypedDict):
    """Whether the caller can use a session; `reason` is an error's code where not."""

    valid: bool
    reason: str | None
    session_id: str | None
    expires_at: str | None


class SessionModel(TypedDict):
    """The model that answers next; `chosen` is what the session names."""

    session_id: str
    model: str
    chosen: str | None
    missing_api_key: bool


class SessionDeletion(TypedDict):
    """`deleted` is false where there was nothing to delete."""

    session_id: str
    deleted: bool


class Listed(TypedDict):
    """What a line of a list has besides the record: the beginning of the newest message, and what goes on there now."""

    last_message_preview: str | None
    is_processing: bool
    pending_approvals: int


class ListedSession(Session, Listed):
    """A line of a project's list."""


class Project(TypedDict):
    """A project that holds sessions of the caller."""

    project_id: str
    sessions: int
    messages: int
    updated_at: str


class ProjectStats(TypedDict):
    """The caller's sessions of a project in numbers."""

    project_id: str
    total_sessions: int
    active_sessions: int
    total_messages: int
    average_messages_per_session: float
    sessions_by_project: dict[str, int]
    tokens: UsageTotal
    updated_at: str | None


class ProjectSessionDeletion(TypedDict):
    """It is deleted."""

    message: str
    session_id: str


class StoredMessage(TypedDict):
    """A message, and where it belongs."""

    session_id: str
    project_id: str
    id: str
    parent_id: str | None
    role: Role
    content: str
    status: Status
    model: str | None
    created_at: str
    reasoning: str
    tool_calls: list[ToolCall]
    usage: Usage | None
    metadata: dict[str, Any]
    siblings: list[str]


class FullSession(TypedDict):
    """A session's record with all messages of the active branch."""

    session: Session
    messages: list[StoredMessage]


class ExportedTurn(TypedDict):
    """A message that was accepted and waited for its turn."""

    turn_id: str
    message: Message
    client_message_id: str | None
    options: dict[str, str | None]


class ExportedSession(TypedDict):
    """All there is of a session: every message of every branch, each after its parent."""

    format: Literal["chatserver-session/1"]
    id: str
    tenant: str
    project_id: str
    owner: str | None
    title: str
    description: str
    metadata: dict[str, Any]
    model: str | None
    is_active: bool
    is_named: bool
    message_count: int
    created_at: str
    updated_at: str
    last_message_at: str | None
    expires_at: str
    leaf_id: str | None
    queue: list[ExportedTurn]
    messages: list[Message]


class LlmSession(TypedDict):
    """A session's record as the user's sessions show it."""

    id: str
    session_id: str
    thread_id: str
    session_name: str
    is_archived: bool
    message_count: int
    created_at: str
    updated_at: str
    last_message_at: str | None
    expires_at: str
    project_id: str
    model: str | None


class ListedLlmSession(LlmSession, Listed):
    """A line of the list."""


class LlmCreated(TypedDict):
    """The session that was made, or was there."""

    success: Literal[True]
    data: LlmSession
    session_id: str
    thread_id: str


class LlmList(TypedDict):
    """A page of the user's sessions."""

    success: Literal[True]
    data: list[ListedLlmSession]
    count: int
    limit: int
    offset: int


class LlmGot(TypedDict):
    """The session, with its messages where they were asked for."""

    success: Literal[True]
    data: LlmSession
    messages: NotRequired[list[StoredMessage]]
    has_more: NotRequired[bool]


class LlmChanged(TypedDict):
    """The session as it is now."""

    success: Literal[True]
    data: LlmSession


class LlmDeletion(SessionDeletion):
    """`deleted` is false where there was nothing to delete."""

    success: Literal[True]
