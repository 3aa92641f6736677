"""What an agent is, and what a turn gives it.

An agent is an async iterator of agent events for one turn: it yields `str` (a piece of the answer) or one of the
events here. Tools are called through `turn.tools`, which tells the tabs, asks for approval and caps the output; an
agent yields no tool events itself.

Cancellation: an interrupt cancels the task that iterates. An agent must let `CancelledError` through and free what
it holds (the upstream's connection first) on the way; one that does not is abandoned and its later events dropped.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from chatserver.errors import ToolError
from chatserver.message import Message, ToolResult, Usage
from chatserver.principal import Principal

ApprovalPolicy = Literal["always", "never", "writes"]


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer; the same as yielding a `str`."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of the model's reasoning, shown apart from the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Spent:
    """Tokens spent so far in this turn; the last one counts."""

    usage: Usage


AgentEvent = str | Text | Reasoning | Spent


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """A catalogue entry as agents see it. No key in it: only the agent that needs one holds it.

    `context_tokens` bounds prompt and answer together, `max_output_tokens` the answer.
    """

    id: str
    name: str
    context_tokens: int
    max_output_tokens: int


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """One tool of one server. `input_schema` is JSON Schema; `read_only` is the server's own claim (MCP's hint)."""

    server: str
    name: str
    description: str
    input_schema: Mapping[str, Any]
    approval: ApprovalPolicy = "never"
    read_only: bool = False


class Tools(Protocol):
    """The turn's tools, bound to its session and principal."""

    async def list(self) -> Sequence[ToolSpec]:
        """Every tool the session may use now. A server that is down is left out."""

    async def call(
        self, server: str, name: str, arguments: Mapping[str, Any], *, call_id: str | None = None
    ) -> ToolResult:
        """Call a tool; the tabs see the call, its progress and its result.

        Args:
            call_id: the model's own id of the call; one is minted where it has none.
        Returns:
            The result; a denied, expired, failed or unknown call is a result with `is_error`, not an exception,
            since the model is to read it and go on.
        Raises:
            AgentError: the turn is over a limit (rounds, calls); it ends as failed.
        Cancelling stops the call at the server (MCP's `notifications/cancelled`).
        """


@dataclass(frozen=True, slots=True)
class AgentTurn:
    """One turn as its agent sees it.

    `history` is the branch up to, not including, the user message being answered, oldest first; `message` is that
    message's text. System messages stand in `history` where they were said.
    """

    tenant: str
    session_id: str
    turn_id: str
    message: str
    history: tuple[Message, ...]
    model: ModelSettings
    principal: Principal
    tools: Tools
    metadata: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Agent(Protocol):
    """Whatever answers."""

    def run(self, turn: AgentTurn) -> AsyncIterator[AgentEvent]:
        """Answer `turn`.

        Raises (while iterating):
            AgentError: what the user is told. Any other exception ends the turn as failed with code `agent_error`
                and is logged, not shown.
        """

    async def close(self) -> None:
        """Free what the agent holds for all turns; idempotent."""


# Names in an error: enough to find a slip, few enough to read. A tool's name is its server's word, of any length.
_NAMED = 20
_NAME_CHARS = 100

ProgressHandler = Callable[[float, float | None, str | None], None]


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """A tool server as `list_servers` tells it."""

    name: str
    scope: Literal["session", "shared"]
    transport: Literal["stdio", "http", "builtin"]
    state: Literal["idle", "connecting", "connected", "failed"]
    error: str | None = None


def unknown_server(server: str, known: Iterable[str]) -> ToolError:
    """The error of a call to a server that there is not; it tells which there are."""
    return ToolError(f"there is no tool server {server!r}; known: {_some(known)}", code="unknown_server")


def unknown_tool(server: str, name: str, known: Iterable[str]) -> ToolError:
    """The error of a call to a tool that its server has not; it tells which it has."""
    return ToolError(f"server {server!r} has no tool {name!r}; known: {_some(known)}", code="unknown_tool")


def _some(names: Iterable[str]) -> str:
    every = sorted(names)
    more = f" and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    return (", ".join(name[:_NAME_CHARS] for name in every[:_NAMED]) or "none") + more


class ToolServers(Protocol):
    """The tool servers of this process, reached by session (`key` is tenant and session id).

    Connections are opened on first use, `scope = session` ones a session each, and closed by `close_session`.
    Every method that needs a server raises ToolError (codes `unknown_server`, `server_failed`, `server_busy`,
    `tool_timeout`, `unknown_tool`, `bad_arguments`, `not_supported`, `tool_error`) and leaves the others unaffected.
    Text results are capped by the settings. Cancelling a call frees the caller at once; its server is told.
    """

    async def servers(self, key: tuple[str, str]) -> Sequence[ServerStatus]: ...

    async def list_tools(self, key: tuple[str, str], server: str | None = None) -> Sequence[ToolSpec]: ...

    async def call_tool(
        self,
        key: tuple[str, str],
        server: str,
        name: str,
        arguments: Mapping[str, Any],
        on_progress: ProgressHandler | None = None,
    ) -> ToolResult: ...

    async def list_resources(self, key: tuple[str, str], server: str) -> Sequence[Mapping[str, Any]]: ...

    async def read_resource(self, key: tuple[str, str], server: str, uri: str) -> Mapping[str, Any]: ...

    async def list_prompts(self, key: tuple[str, str], server: str) -> Sequence[Mapping[str, Any]]: ...

    async def get_prompt(
        self, key: tuple[str, str], server: str, name: str, arguments: Mapping[str, str]
    ) -> Mapping[str, Any]: ...

    async def connect(self, key: tuple[str, str], server: str) -> None: ...

    async def disconnect(self, key: tuple[str, str], server: str) -> None: ...

    async def close_session(self, key: tuple[str, str]) -> None: ...

    async def close(self) -> None: ...
