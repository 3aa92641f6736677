"""What is asked of an MCP server, as operations on the SDK's client (mcp_connection runs them).

Invariants: a listing ends after `MAX_PAGES` pages or `MAX_ITEMS` entries; a server is asked only for what it says it
has, so that its plain "no such method" is no failure.

Tool results are not checked against the tool's output schema, which the SDK's own `call_tool` does: a pattern or a
large result would hold the loop, and with it everybody, for as long as a server likes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import mcp_types as types
from mcp import Client
from pydantic import TypeAdapter

from chatserver.agents.base import ProgressHandler
from chatserver.agents.json_border import clean_text
from chatserver.agents.mcp_content import MAX_ITEMS, MAX_PAGES
from chatserver.agents.tool_output import cut
from chatserver.errors import ToolError

# Progress is for eyes; a server that tells it faster would only fill the stream.
PROGRESS_SECONDS = 0.05
MAX_PROGRESS_CHARS = 500

P = TypeVar("P", bound=types.PaginatedResult)
E = TypeVar("E")

_CallAnswer: TypeAdapter[types.CallToolResult | types.InputRequiredResult] = TypeAdapter(
    types.CallToolResult | types.InputRequiredResult
)


async def tools(client: Client) -> list[types.Tool]:
    """Every tool; none from a server without tools."""
    if client.server_capabilities.tools is None:
        return []
    return await _pages(lambda cursor: client.list_tools(cursor=cursor), lambda page: page.tools)


async def resources(client: Client) -> list[types.Resource]:
    """Every resource; none from a server without resources."""
    if client.server_capabilities.resources is None:
        return []
    return await _pages(lambda cursor: client.list_resources(cursor=cursor), lambda page: page.resources)


async def prompts(client: Client) -> list[types.Prompt]:
    """Every prompt; none from a server without prompts."""
    if client.server_capabilities.prompts is None:
        return []
    return await _pages(lambda cursor: client.list_prompts(cursor=cursor), lambda page: page.prompts)


async def _pages(fetch: Callable[[str | None], Awaitable[P]], items: Callable[[P], list[E]]) -> list[E]:
    found: list[E] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        page = await fetch(cursor)
        found += items(page)
        cursor = page.next_cursor
        if not cursor or len(found) >= MAX_ITEMS:
            break
    return found[:MAX_ITEMS]


async def call(
    client: Client, name: str, arguments: Mapping[str, Any], on_progress: ProgressHandler | None
) -> types.CallToolResult:
    """Call a tool.

    Raises: ToolError, code `not_supported`, where the server asks back instead of answering.
    """
    request = types.CallToolRequest(params=types.CallToolRequestParams(name=name, arguments=dict(arguments)))
    progress = None if on_progress is None else _Progress(on_progress)
    try:
        answer = await client.session.send_request(request, _CallAnswer, progress_callback=progress)
    finally:
        if progress is not None:
            progress.over = True
    if isinstance(answer, types.InputRequiredResult):
        raise ToolError(f"the tool {name!r} asks for input, which is not supported", code="not_supported")
    return answer


class _Progress:
    """Passes progress on, not too often, and none after the end."""

    def __init__(self, handler: ProgressHandler) -> None:
        self._handler = handler
        self._last = -math.inf
        self.over = False

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        now = time.monotonic()
        if self.over or now - self._last < PROGRESS_SECONDS or not math.isfinite(progress):
            return
        self._last = now
        text = None if message is None else cut(clean_text(message), MAX_PROGRESS_CHARS)
        self._handler(progress, total if total is None or math.isfinite(total) else None, text)


async def read_resource(client: Client, uri: str) -> types.ReadResourceResult:
    """The contents at `uri`. Raises: ToolError, code `not_supported`, from a server without resources."""
    if client.server_capabilities.resources is None:
        raise ToolError("the server has no resources", code="not_supported")
    return await client.read_resource(uri)


async def get_prompt(client: Client, name: str, arguments: Mapping[str, str]) -> types.GetPromptResult:
    """The prompt, filled. Raises: ToolError, code `not_supported`, from a server without prompts."""
    if client.server_capabilities.prompts is None:
        raise ToolError("the server has no prompts", code="not_supported")
    return await client.get_prompt(name, dict(arguments))
