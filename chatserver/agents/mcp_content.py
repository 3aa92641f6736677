"""What an MCP server answers, as the text and JSON that the rest of chatserver takes.

Invariants: nothing that leaves here is larger than the limit it was given, or holds a lone surrogate or a NaN; what was
cut says so. Pictures and sound are described, not carried: a session's messages are text.

Does not own: reading from the wire (mcp_stdio, mcp_http), the calls (mcp_connection).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mcp_types as types
from mcp import MCPError
from pydantic import BaseModel, ValidationError

from chatserver.agents import json_border
from chatserver.agents.base import ApprovalPolicy, ToolSpec
from chatserver.agents.tool_output import cut
from chatserver.errors import ToolError
from chatserver.message import ToolResult

# A listing larger than this is no use to a model, whose window it would fill; a server that pages for ever ends here.
MAX_ITEMS = 256
MAX_PAGES = 16
# Of one tool: every turn sends all of them to the model.
MAX_DESCRIPTION_CHARS = 4_000
MAX_SCHEMA_BYTES = 64 << 10
MAX_NAME_CHARS = 128  # the MCP specification's own advice
# Of one entry of a listing of resources or prompts.
MAX_ENTRY_CHARS = 4_000
# A server's own words about a failure.
MAX_ERROR_CHARS = 1_000


def tool_result(result: types.CallToolResult, limit: int) -> ToolResult:
    """A call's result as text: text as it is, other content described, structured content as JSON if there is no text.

    Args:
        limit: characters of the text.
    """
    parts = [_described(block) for block in result.content]
    if result.structured_content is not None and not any(isinstance(b, types.TextContent) for b in result.content):
        parts.append(_as_json(result.structured_content))
    return ToolResult(cut(json_border.clean_text("\n".join(parts)), limit), result.is_error)


def _described(block: types.ContentBlock) -> str:
    match block:
        case types.TextContent():
            return block.text
        case types.ImageContent():
            return f"[image {block.mime_type}, {_base64_size(block.data)}]"
        case types.AudioContent():
            return f"[audio {block.mime_type}, {_base64_size(block.data)}]"
        case types.ResourceLink():
            return f"[resource {block.name}: {block.uri}{_type(block.mime_type)}]"
        case types.EmbeddedResource(resource=types.TextResourceContents() as resource):
            return f"[resource {resource.uri}{_type(resource.mime_type)}]\n{resource.text}"
        case types.EmbeddedResource(resource=types.BlobResourceContents() as resource):
            return f"[resource {resource.uri}{_type(resource.mime_type)}, {_base64_size(resource.blob)}]"
    return "[content of an unknown kind]"


def _type(mime_type: str | None) -> str:
    return f", {mime_type}" if mime_type else ""


def _base64_size(data: str) -> str:
    size = len(data) * 3 // 4
    if size < 1000:
        return f"{size} bytes"
    return f"{size / 1000:.0f} kB" if size < 1_000_000 else f"{size / 1_000_000:.1f} MB"


def _as_json(value: Any) -> str:
    try:
        return json_border.dumps(value).decode()
    except ValueError:
        return "[structured content that is nested too deep]"


def tool_specs(tools: Sequence[types.Tool], server: str, approval: ApprovalPolicy) -> tuple[ToolSpec, ...]:
    """The usable ones of a server's tools; one with an absurd name or schema is left out."""
    specs = []
    for tool in tools[:MAX_ITEMS]:
        try:
            schema = json_border.clean(tool.input_schema)
            usable = 0 < len(tool.name) <= MAX_NAME_CHARS and len(json_border.dumps(schema)) <= MAX_SCHEMA_BYTES
        except ValueError:
            continue
        if usable:
            specs.append(
                ToolSpec(
                    server=server,
                    name=json_border.clean_text(tool.name),
                    description=cut(
                        json_border.clean_text(tool.description or tool.title or ""), MAX_DESCRIPTION_CHARS
                    ),
                    input_schema=schema,
                    approval=approval,
                    read_only=bool(tool.annotations and tool.annotations.read_only_hint),
                )
            )
    return tuple(specs)


def as_mapping(model: BaseModel, limit: int) -> Mapping[str, Any]:
    """A record of the protocol as plain JSON with at most `limit` characters of text in it.

    Binary data that does not fit is replaced by its description: half of it would be none of it.
    """
    budget = _Budget(limit)
    mapping: dict[str, Any] = budget.fit(model.model_dump(by_alias=True, mode="json", exclude_none=True))
    if budget.cut:
        mapping["truncated"] = True
    return mapping


class _Budget:
    """Hands out characters while a JSON value is copied."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self.cut = False

    def fit(self, value: Any, depth: int = 0) -> Any:
        match value:
            case str():
                return self._text(value)
            case dict():
                self._room(depth)
                return {
                    json_border.clean_text(str(k)): self._blob(v) if k in ("blob", "data") else self.fit(v, depth + 1)
                    for k, v in value.items()
                    if self._entry()
                }
            case list():
                self._room(depth)
                return [self.fit(v, depth + 1) for v in value if self._entry()]
        return json_border.clean(value)

    @staticmethod
    def _room(depth: int) -> None:
        if depth > json_border.MAX_DEPTH:
            raise ToolError("the server's answer is nested too deep", code="server_failed")

    def _entry(self) -> bool:
        """Entries cost too: a million empty ones are large without any text."""
        self._left -= 1
        self.cut = self.cut or self._left < 0
        return self._left >= 0

    def _text(self, text: str) -> str:
        text = json_border.clean_text(text)
        if len(text) > self._left:
            self.cut = True
            text = cut(text, max(0, self._left))
        self._left -= len(text)
        return text

    def _blob(self, value: Any) -> Any:
        if isinstance(value, str) and len(value) > self._left:
            self.cut = True
            return f"[{_base64_size(value)}, left out]"
        return self.fit(value)


def tool_error(error: Exception, server: str) -> ToolError:
    """What a failed request means, as the caller is told it."""
    match error:
        case ToolError():
            return error
        case MCPError(code=types.CONNECTION_CLOSED, message="Connection closed"):
            return ToolError(f"the tool server {server!r} ended", code="server_failed")
        case MCPError(code=types.REQUEST_TIMEOUT):
            return ToolError(f"the tool server {server!r} did not answer in time", code="tool_timeout")
        case MCPError():
            said = cut(json_border.clean_text(str(error.message)), MAX_ERROR_CHARS)
            return ToolError(f"the tool server {server!r} answers: {said}", code=_CODES.get(error.code, "tool_error"))
        case ValidationError():
            return ToolError(f"the tool server {server!r} answered what MCP does not allow", code="server_failed")
    return ToolError(f"the tool server {server!r} failed", code="server_failed")


# How mcp_http tells its own findings through the SDK: a JSON-RPC error of the one request they concern.
BROKEN_ANSWER = -32099

_CODES = {
    types.CONNECTION_CLOSED: "server_failed",
    types.INVALID_PARAMS: "bad_arguments",
    types.METHOD_NOT_FOUND: "not_supported",
    types.PARSE_ERROR: "server_failed",
    BROKEN_ANSWER: "server_failed",
}
