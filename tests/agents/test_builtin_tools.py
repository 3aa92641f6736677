"""Built-in tools beside MCP servers, as one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from chatserver.agents import builtin_tools
from chatserver.agents.base import ProgressHandler, ServerStatus, ToolSpec, unknown_tool
from chatserver.agents.builtin_tools import BuiltinTools
from chatserver.errors import ToolError
from chatserver.message import ToolResult

KEY = ("public", "s")
SPEC = ToolSpec("docs", "search", "Searches.", {"type": "object"}, read_only=True)


class Others:
    """Stands for the MCP servers: one, named `time`; notes what reached it."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def servers(self, key: tuple[str, str]) -> Sequence[ServerStatus]:
        return [ServerStatus("time", "session", "stdio", "idle")]

    async def list_tools(self, key: tuple[str, str], server: str | None = None) -> Sequence[ToolSpec]:
        if server not in (None, "time"):
            raise ToolError("there is no tool server", code="unknown_server")
        return [ToolSpec("time", "now", "Tells.", {})]

    async def call_tool(
        self,
        key: tuple[str, str],
        server: str,
        name: str,
        arguments: Mapping[str, Any],
        on_progress: ProgressHandler | None = None,
    ) -> ToolResult:
        self.calls.append(f"{server}.{name}")
        return ToolResult("noon", is_error=False)

    async def list_resources(self, key: tuple[str, str], server: str) -> Sequence[Mapping[str, Any]]:
        return [{"uri": "time://now"}]

    async def read_resource(self, key: tuple[str, str], server: str, uri: str) -> Mapping[str, Any]:
        return {"contents": [uri]}

    async def list_prompts(self, key: tuple[str, str], server: str) -> Sequence[Mapping[str, Any]]:
        return [{"name": "ask"}]

    async def get_prompt(
        self, key: tuple[str, str], server: str, name: str, arguments: Mapping[str, str]
    ) -> Mapping[str, Any]:
        return {"messages": [name]}

    async def connect(self, key: tuple[str, str], server: str) -> None:
        self.calls.append("connect")

    async def disconnect(self, key: tuple[str, str], server: str) -> None:
        self.calls.append("disconnect")

    async def close_session(self, key: tuple[str, str]) -> None:
        self.calls.append("close_session")

    async def close(self) -> None:
        self.calls.append("close")


async def _search(arguments: Mapping[str, Any]) -> str:
    return f"found {arguments['query']}"


async def test_both_kinds_are_listed_and_called() -> None:
    """A caller does not see the difference."""
    others = Others()
    tools = BuiltinTools(others, [(SPEC, _search)], output_chars=100)

    assert [(s.name, s.transport) for s in await tools.servers(KEY)] == [("docs", "builtin"), ("time", "stdio")]
    assert [spec.name for spec in await tools.list_tools(KEY)] == ["search", "now"]
    assert [spec.name for spec in await tools.list_tools(KEY, "docs")] == ["search"]
    assert [spec.name for spec in await tools.list_tools(KEY, "time")] == ["now"]
    assert (await tools.call_tool(KEY, "docs", "search", {"query": "x"})).content == "found x"
    assert (await tools.call_tool(KEY, "time", "now", {})).content == "noon"
    assert others.calls == ["time.now"]


async def test_a_built_in_server_has_neither_resources_nor_a_connection() -> None:
    """Listing none is no error; asking for one is."""
    tools = BuiltinTools(Others(), [(SPEC, _search)], output_chars=100)

    assert await tools.list_resources(KEY, "docs") == []
    assert await tools.list_prompts(KEY, "docs") == []
    await tools.connect(KEY, "docs")
    for ask in (
        tools.read_resource(KEY, "docs", "x"),
        tools.get_prompt(KEY, "docs", "x", {}),
        tools.disconnect(KEY, "docs"),
    ):
        with pytest.raises(ToolError) as refused:
            await ask
        assert refused.value.narrow_code == "not_supported"


async def test_the_others_get_what_is_theirs() -> None:
    """Everything but the built-in names is passed on."""
    others = Others()
    tools = BuiltinTools(others, [(SPEC, _search)], output_chars=100)

    assert await tools.list_resources(KEY, "time") == [{"uri": "time://now"}]
    assert await tools.read_resource(KEY, "time", "u") == {"contents": ["u"]}
    assert await tools.list_prompts(KEY, "time") == [{"name": "ask"}]
    assert await tools.get_prompt(KEY, "time", "p", {}) == {"messages": ["p"]}
    await tools.connect(KEY, "time")
    await tools.disconnect(KEY, "time")
    await tools.close_session(KEY)
    await tools.close()
    assert others.calls == ["connect", "disconnect", "close_session", "close"]


async def test_an_unknown_server_is_told_with_all_the_names_there_are() -> None:
    """The built-in ones among them, whatever is asked of it."""
    others = Others()
    tools = BuiltinTools(others, [(SPEC, _search)], output_chars=100)

    for ask in (
        tools.call_tool(KEY, "nowhere", "now", {}),
        tools.list_tools(KEY, "nowhere"),
        tools.list_resources(KEY, "nowhere"),
        tools.get_prompt(KEY, "nowhere", "p", {}),
        tools.connect(KEY, "nowhere"),
        tools.disconnect(KEY, "nowhere"),
    ):
        with pytest.raises(ToolError, match=r"no tool server 'nowhere'; known: docs, time$") as unknown:
            await ask
        assert unknown.value.narrow_code == "unknown_server"
    assert others.calls == []


def test_of_many_tools_an_error_names_a_few() -> None:
    """A server may have hundreds, and give them names of any length."""
    told = unknown_tool("s", "sing", [f"{n:03}" + "x" * 5000 for n in range(256)]).detail

    assert "000xx" in told
    assert told.endswith("and 236 more")
    assert len(told) < 2500


async def test_without_mcp_servers_the_built_in_ones_remain() -> None:
    """An unknown server lists what there is."""
    tools = BuiltinTools(None, [(SPEC, _search)], output_chars=100)

    assert [spec.name for spec in await tools.list_tools(KEY)] == ["search"]
    for ask in (tools.call_tool(KEY, "time", "now", {}), tools.list_tools(KEY, "time"), tools.connect(KEY, "time")):
        with pytest.raises(ToolError, match="known: docs") as unknown:
            await ask
        assert unknown.value.narrow_code == "unknown_server"
    with pytest.raises(ToolError, match="known: search") as missing:
        await tools.call_tool(KEY, "docs", "sing", {})
    assert missing.value.narrow_code == "unknown_tool"
    await tools.close_session(KEY)
    await tools.close()


async def test_a_function_that_says_too_much_is_cut_and_one_that_hangs_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Like any other tool's output and time."""
    monkeypatch.setattr(builtin_tools, "CALL_SECONDS", 0.05)

    async def talk(arguments: Mapping[str, Any]) -> str:
        return "x" * 1000

    async def hang(arguments: Mapping[str, Any]) -> str:
        await asyncio.Event().wait()
        return ""

    hanging = ToolSpec("docs", "hang", "Hangs.", {})
    tools = BuiltinTools(None, [(SPEC, talk), (hanging, hang)], output_chars=100)

    assert len((await tools.call_tool(KEY, "docs", "search", {})).content) == 100
    with pytest.raises(ToolError) as late:
        await tools.call_tool(KEY, "docs", "hang", {})
    assert late.value.narrow_code == "tool_timeout"
