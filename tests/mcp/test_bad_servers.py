"""Servers that do everything wrong: a clear error to the one concerned, nothing lost, nobody else affected."""

from __future__ import annotations

import asyncio
import time

import psutil
import pytest

from chatserver.agents import mcp_operations, mcp_tools
from chatserver.config import McpServerConfig
from chatserver.errors import ToolError
from tests.mcp.conftest import ANNA, BERT, OpenHub, children, plain, until
from tests.timing import least


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (McpServerConfig(name="bad", command=("no-such-command-anywhere",)), "command was not found"),
        (McpServerConfig(name="bad", command=("/dev/null",)), "may not be executed"),
        (plain("bad", "exit"), "exited with code 1"),
        (plain("bad", "garbage"), "something other than MCP"),
        (plain("bad", "silent", start_timeout_seconds=0.5), "did not start"),
        (plain("bad", "mute", start_timeout_seconds=5), "did not answer within"),
        (McpServerConfig(name="bad", url="http://127.0.0.1:1/mcp"), "cannot be reached"),
    ],
    ids=["missing", "not executable", "exits", "garbage", "silent", "mute", "unreachable"],
)
async def test_a_server_that_does_not_start_is_told_and_left_out(
    open_hub: OpenHub, config: McpServerConfig, why: str
) -> None:
    """Asked for by name it is an error; a listing of all goes on without it, and the good server works throughout."""
    hub = open_hub(config, plain())

    with pytest.raises(ToolError, match=why) as failed:
        await hub.servers.list_tools(ANNA, "bad")
    assert failed.value.narrow_code in ("server_failed", "tool_timeout")

    tools = await hub.servers.list_tools(BERT)
    assert {tool.server for tool in tools} == {"plain"}
    assert await hub.text("echo", {"text": "fine"}) == "fine"
    assert len(children()) <= 4


async def test_a_hanging_server_holds_up_a_listing_once(open_hub: OpenHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first listing waits the start timeout, as a slow start deserves; later ones, of any session, do not."""
    monkeypatch.setattr(mcp_tools, "FAILING_PATIENCE_SECONDS", 0.1)
    hub = open_hub(plain("bad", "silent", start_timeout_seconds=1.5), plain())
    await hub.servers.connect(BERT, "plain")

    async def listing(key: tuple[str, str]) -> float:
        began = time.monotonic()
        tools = await hub.servers.list_tools(key)
        took = time.monotonic() - began
        assert {tool.server for tool in tools} == {"plain"}
        return took

    assert await listing(ANNA) >= 1.4
    assert await least(lambda: listing(BERT), 0.7) < 0.7


@pytest.mark.both_loops
async def test_a_server_that_dies_in_a_call_fails_that_call_and_comes_back(open_hub: OpenHub) -> None:
    """All calls under way are told why; the next one has a new process."""
    hub = open_hub(plain())
    await hub.servers.connect(ANNA, "plain")
    other = asyncio.ensure_future(hub.text("hold"))

    with pytest.raises(ToolError, match="exited with code 3") as failed:
        await hub.text("exit")
    with pytest.raises(ToolError, match="exited with code 3"):
        await other

    assert failed.value.narrow_code == "server_failed"
    assert await hub.text("echo", {"text": "back"}) == "back"


@pytest.mark.both_loops
async def test_a_line_of_garbage_is_skipped_and_a_stream_of_it_is_not(open_hub: OpenHub) -> None:
    """A server that greets on stdout works; one that prints something else altogether is given up."""
    hub = open_hub(plain())

    assert await hub.text("greet") == "greeted"
    assert hub.lines("mcp_garbage") == ["Welcome to the server!"]

    with pytest.raises(ToolError, match="something other than MCP") as failed:
        await hub.text("garbage")
    assert failed.value.narrow_code == "server_failed"
    assert len(hub.lines("mcp_garbage")) <= 60


@pytest.mark.both_loops
async def test_a_message_of_50_mb_ends_the_server_and_takes_no_memory(open_hub: OpenHub) -> None:
    """The limit holds while reading: memory grows by the limit, not by what is sent; others do not notice."""
    hub = open_hub(plain(), tool_message_bytes=1 << 20)
    other = await hub.pid(BERT)
    before = psutil.Process().memory_info().rss

    with pytest.raises(ToolError, match="over the size limit") as failed:
        await hub.text("huge", {"bytes": 50_000_000})

    assert failed.value.narrow_code == "server_failed"
    assert psutil.Process().memory_info().rss - before < 12 << 20
    assert await hub.pid(BERT) == other
    assert await hub.text("echo", {"text": "back"}) == "back"


async def test_a_large_message_below_the_limit_arrives_cut(open_hub: OpenHub) -> None:
    """The text is cut to the characters that are set, and says so."""
    hub = open_hub(plain(), tool_output_chars=1000)

    text = await hub.text("huge", {"bytes": 3_000_000})

    assert len(text) == 1000
    assert text.endswith("[cut: this is the beginning of 3000000 characters]")


@pytest.mark.parametrize(
    ("tool", "code"), [("wrong_shape", "server_failed"), ("refuse", "bad_arguments"), ("deep", "tool_timeout")]
)
async def test_an_answer_that_cannot_be_used_is_that_calls_error(open_hub: OpenHub, tool: str, code: str) -> None:
    """The connection stays, and the server's own words are kept short."""
    hub = open_hub(plain(call_timeout_seconds=4))
    process = await hub.pid()

    with pytest.raises(ToolError) as failed:
        await hub.text(tool)

    assert failed.value.narrow_code == code
    assert len(failed.value.detail) < 1200
    assert await hub.pid() == process


async def test_what_no_client_could_read_is_mended(open_hub: OpenHub) -> None:
    """A text cut inside a character, and a number that is none."""
    hub = open_hub(plain())

    assert await hub.text("surrogate") == "cut in half: \N{REPLACEMENT CHARACTER}"
    assert await hub.text("nan") == '{"value":null}'


async def test_arguments_that_cannot_be_sent_are_refused_or_mended(open_hub: OpenHub) -> None:
    """A lone surrogate is mended; 10,000 levels are refused before the server sees them."""
    hub = open_hub(plain())
    deep: dict[str, object] = {}
    for _ in range(10_000):
        deep = {"a": deep}

    assert await hub.text("echo", {"text": "\ud83d"}) == "\N{REPLACEMENT CHARACTER}"
    with pytest.raises(ToolError) as refused:
        await hub.servers.call_tool(ANNA, "plain", "echo", deep)
    assert refused.value.narrow_code == "bad_arguments"


async def test_a_listing_without_end_ends(open_hub: OpenHub) -> None:
    """A server that always has a next page is asked for so many and no more."""
    hub = open_hub(plain(mode="endless"))

    tools = await hub.servers.list_tools(ANNA, "plain")

    assert 1 < len(tools) <= 256


async def test_absurd_tools_are_left_out_or_cut(open_hub: OpenHub) -> None:
    """Names and schemas that no model could take, and a description that would fill its window."""
    hub = open_hub(plain(mode="absurd"))

    tools = {tool.name: tool for tool in await hub.servers.list_tools(ANNA, "plain")}

    assert "vast" not in tools
    assert max(map(len, tools)) <= 128
    assert len(tools["echo"].description) <= 4000


async def test_progress_is_passed_on_but_not_as_a_flood(open_hub: OpenHub) -> None:
    """Two thousand notifications become a few, their texts short, and none comes after the result."""
    hub = open_hub(plain())
    seen: list[tuple[float, float | None, str | None]] = []

    await hub.servers.connect(ANNA, "plain")

    began = time.monotonic()
    result = await hub.servers.call_tool(ANNA, "plain", "progress", {"steps": 2_000}, lambda *p: seen.append(p))
    count, took = len(seen), time.monotonic() - began
    await hub.text("echo")

    assert result.content == "done"
    assert 1 <= count <= 1 + took / mcp_operations.PROGRESS_SECONDS
    assert len(seen) == count
    assert all(total == 10 and text is not None and len(text) <= 500 for _, total, text in seen)


async def test_a_server_that_asks_us_is_told_that_we_do_not_answer(open_hub: OpenHub) -> None:
    """Sampling is not offered: the request is refused and the call goes on."""
    hub = open_hub(plain())

    answer = await hub.text("ask")

    assert "not supported" in answer.lower() or "-32" in answer


@pytest.mark.both_loops
async def test_one_sessions_broken_server_is_nobody_elses(open_hub: OpenHub) -> None:
    """Twenty good calls of others run while one session's servers die, flood and hang."""
    hub = open_hub(plain(call_timeout_seconds=6), tool_message_bytes=1 << 20)
    await hub.servers.connect(BERT, "plain")

    async def wreck(number: int, tool: str) -> str:
        key = ("public", f"bad-{number}")
        try:
            return await hub.text(tool, {"bytes": 5_000_000}, key=key)
        except ToolError as error:
            return error.narrow_code

    wrecks = [asyncio.ensure_future(wreck(n, tool)) for n, tool in enumerate(["exit", "garbage", "huge", "hang"])]
    texts = [await hub.text("echo", {"text": str(n)}, key=BERT) for n in range(20)]

    assert texts == [str(n) for n in range(20)]
    assert await asyncio.gather(*wrecks) == ["server_failed", "server_failed", "server_failed", "tool_timeout"]
    await until(lambda: hub.servers.open_connections <= 2)
