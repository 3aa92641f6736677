"""The servers that people really use: time, everything, memory, filesystem."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from chatserver.agents import mcp_operations
from chatserver.config import McpServerConfig
from chatserver.errors import ToolError
from tests.mcp.conftest import ANNA, BERT, Hub, Npm, OpenHub, children, until
from tests.server import free_port

Progress = tuple[float, float | None, str | None]

TIME = McpServerConfig(name="time", command=(sys.executable, "-m", "mcp_server_time"))
npm_servers = pytest.mark.mcp_npm


async def test_the_time_server_lists_and_answers(open_hub: OpenHub) -> None:
    """PyPI's mcp-server-time, which speaks the newest protocol."""
    hub = open_hub(TIME)

    tools = {tool.name: tool for tool in await hub.servers.list_tools(ANNA)}
    assert set(tools) == {"get_current_time", "convert_time"}
    assert tools["get_current_time"].input_schema["required"] == ["timezone"]

    answer = json.loads(await hub.text("get_current_time", {"timezone": "Asia/Tokyo"}, at="time"))
    assert answer["timezone"] == "Asia/Tokyo"

    wrong = await hub.servers.call_tool(ANNA, "time", "get_current_time", {"timezone": "Moon/Crater"})
    assert wrong.is_error
    assert "Moon/Crater" in wrong.content
    with pytest.raises(ToolError) as unknown:
        await hub.text("get_moon_phase", at="time")
    assert unknown.value.narrow_code == "unknown_tool"


async def test_the_time_server_is_found_beside_our_python(open_hub: OpenHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """`command = ["mcp-server-time"]` works where the environment is not activated."""
    monkeypatch.setenv("PATH", os.defpath)
    hub = open_hub(McpServerConfig(name="time", command=("mcp-server-time",)))

    assert "UTC" in await hub.text("get_current_time", {"timezone": "UTC"}, at="time")


# --- everything -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def over_stdio(open_hub: OpenHub, npm: Npm) -> Hub:
    """server-everything as a child."""
    return open_hub(McpServerConfig(name="all", command=npm.command("everything")))


@pytest.fixture
async def everything_url(npm: Npm) -> AsyncIterator[str]:
    """server-everything over streamable HTTP, on a free port."""
    port = free_port()
    async with _at_port(*npm.command("everything", "streamableHttp"), port=port, ready=b"listening"):
        yield f"http://127.0.0.1:{port}/mcp"


@asynccontextmanager
async def _at_port(*command: str, port: int, ready: bytes) -> AsyncIterator[None]:
    """A server process that has said on stderr that it is ready; killed at the end."""
    server = await asyncio.create_subprocess_exec(
        *command,
        env={"PORT": str(port), "PATH": os.defpath},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert server.stderr is not None
        async with asyncio.timeout(60):
            while ready not in (line := await server.stderr.readline()):
                assert line, "it ended before it was ready"
        yield
    finally:
        server.kill()
        await server.communicate()


@pytest.fixture
async def over_http(open_hub: OpenHub, everything_url: str) -> Hub:
    """server-everything at an address."""
    return open_hub(McpServerConfig(name="all", url=everything_url))


@pytest.fixture(params=["over_stdio", "over_http"])
def everything(request: pytest.FixtureRequest) -> Hub:
    """server-everything, either way."""
    hub: Hub = request.getfixturevalue(request.param)
    return hub


@npm_servers
async def test_everything_lists_calls_and_describes(everything: Hub) -> None:
    """Text, a picture, structured content, links and embedded resources, and a refusal."""
    tools = {tool.name: tool for tool in await everything.servers.list_tools(ANNA, "all")}
    assert {"echo", "get-sum", "get-tiny-image"} <= set(tools)
    assert tools["echo"].read_only

    assert await everything.text("echo", {"message": "Grüße 🦆"}, at="all") == "Echo: Grüße 🦆"
    assert "5" in await everything.text("get-sum", {"a": 2, "b": 3}, at="all")
    assert "[image image/png, 4 kB]" in await everything.text("get-tiny-image", at="all")
    weather = await everything.text("get-structured-content", {"location": "New York"}, at="all")
    assert json.loads(weather)["conditions"]
    assert "[resource " in await everything.text("get-resource-links", {"count": 2}, at="all")
    embedded = {"resourceType": "Text", "resourceId": 1}
    assert "[resource demo://" in await everything.text("get-resource-reference", embedded, at="all")
    refused = await everything.servers.call_tool(ANNA, "all", "echo", {})
    assert refused.is_error


@npm_servers
async def test_everything_tells_progress(everything: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step reaches the handler, in order, before the result; also those that a stall brings at once."""
    monkeypatch.setattr(mcp_operations, "PROGRESS_SECONDS", 0)
    seen: list[Progress] = []
    arguments = {"duration": 0.6, "steps": 4}

    result = await everything.servers.call_tool(
        ANNA, "all", "trigger-long-running-operation", arguments, lambda *p: seen.append(p)
    )

    assert "completed" in result.content
    assert [progress for progress, _, _ in seen] == [1, 2, 3, 4]
    assert {total for _, total, _ in seen} == {4}


@npm_servers
async def test_everything_can_be_cancelled(everything: Hub) -> None:
    """A caller who has enough is free at once, and the connection serves on."""
    started = asyncio.Event()
    arguments = {"duration": 30, "steps": 300}
    call = asyncio.ensure_future(
        everything.servers.call_tool(ANNA, "all", "trigger-long-running-operation", arguments, lambda *_: started.set())
    )
    async with asyncio.timeout(60):
        await started.wait()

    call.cancel()
    async with asyncio.timeout(60):
        with pytest.raises(asyncio.CancelledError):
            await call

    assert await everything.text("echo", {"message": "still here"}, at="all") == "Echo: still here"
    assert await everything.status("all") == "connected"


@npm_servers
async def test_everything_has_resources_and_prompts(everything: Hub) -> None:
    """Listed, read and filled."""
    resources = await everything.servers.list_resources(ANNA, "all")
    assert resources
    read = await everything.servers.read_resource(ANNA, "all", str(resources[0]["uri"]))
    assert read["contents"][0]["text"]

    prompts = await everything.servers.list_prompts(ANNA, "all")
    assert "args-prompt" in {prompt["name"] for prompt in prompts}
    prompt = await everything.servers.get_prompt(ANNA, "all", "args-prompt", {"city": "Ghent"})
    assert "Ghent" in prompt["messages"][0]["content"]["text"]

    with pytest.raises(ToolError):
        await everything.servers.read_resource(ANNA, "all", "demo://no/such/thing")


@npm_servers
async def test_everything_over_http_comes_back_after_its_restart(open_hub: OpenHub, npm: Npm) -> None:
    """The server is killed and started again at its address: one call fails, and those after it work."""
    port = free_port()
    command = npm.command("everything", "streamableHttp")
    hub = open_hub(McpServerConfig(name="all", url=f"http://127.0.0.1:{port}/mcp"))

    async with _at_port(*command, port=port, ready=b"listening"):
        assert await hub.text("echo", {"message": "one"}, at="all") == "Echo: one"
    with pytest.raises(ToolError) as failed:
        await hub.text("echo", {"message": "two"}, at="all")
    assert failed.value.narrow_code == "server_failed"
    assert await hub.status("all") == "failed"

    async with _at_port(*command, port=port, ready=b"listening"):
        assert await hub.text("echo", {"message": "three"}, at="all") == "Echo: three"
        await hub.servers.close()


# --- the newest protocol ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["stdio", "http"])
async def test_the_newest_protocol_tells_of_changes_and_is_cancelled(open_hub: OpenHub, way: str) -> None:
    """2026-07-28: changes come to those who listen, and a cancelled call ends at the server."""
    port = free_port()
    async with AsyncExitStack() as stack:
        command = (sys.executable, str(Path(__file__).with_name("modern_server.py")))
        if way == "http":
            await stack.enter_async_context(_at_port(*command, str(port), port=port, ready=b"running on"))
            config = McpServerConfig(name="modern", url=f"http://127.0.0.1:{port}/mcp", scope="shared")
        else:
            config = McpServerConfig(name="modern", command=command)
        hub = open_hub(config)
        assert {tool.name for tool in await hub.servers.list_tools(ANNA)} == {"change", "hang", "seen"}

        await hub.text("change", at="modern")
        async with asyncio.timeout(60):
            while "brand_new" not in {tool.name for tool in await hub.servers.list_tools(ANNA)}:
                await asyncio.sleep(0.005)
        assert "new" in await hub.text("brand_new", at="modern")

        started = asyncio.Event()
        call = asyncio.ensure_future(hub.servers.call_tool(ANNA, "modern", "hang", {}, lambda *_: started.set()))
        async with asyncio.timeout(60):
            await started.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        async with asyncio.timeout(60):
            while "hang" not in await hub.text("seen", at="modern"):
                pass
        await hub.servers.close()


# --- memory, filesystem -----------------------------------------------------------------------------------------------


@npm_servers
async def test_sessions_do_not_see_each_others_memories(open_hub: OpenHub, npm: Npm, tmp_path: Path) -> None:
    """`scope = session`: a process and, by `{session}`, a file each; memories outlive the connection and a kill -9."""
    memory = {"MEMORY_FILE_PATH": f"{tmp_path}/{{session}}.jsonl"}
    hub = open_hub(McpServerConfig(name="memory", command=npm.command("memory"), env=memory))

    async def remember(who: tuple[str, str], secret: str) -> None:
        entity = {"name": secret, "entityType": "secret", "observations": [f"{secret} is known"]}
        await hub.text("create_entities", {"entities": [entity]}, key=who, at="memory")

    async def recall(who: tuple[str, str]) -> str:
        return await hub.text("read_graph", key=who, at="memory")

    await asyncio.gather(remember(ANNA, "aardvark"), remember(BERT, "badger"))
    assert "aardvark" in await recall(ANNA)
    assert "badger" not in await recall(ANNA)
    assert "badger" in await recall(BERT)
    assert "aardvark" not in await recall(BERT)

    for child in children():
        os.kill(child.pid, signal.SIGKILL)
    await until(lambda: hub.servers.open_connections == 0)
    assert "aardvark" in await recall(ANNA)
    await hub.servers.close_session(BERT)
    assert "aardvark" not in await recall(BERT)
    assert "badger" in await recall(BERT)


@npm_servers
async def test_the_filesystem_server_stays_in_its_folder(open_hub: OpenHub, npm: Npm, tmp_path: Path) -> None:
    """Reading, writing, refusing; what writes is what a person approves under `approval = writes`."""
    (tmp_path / "open").mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    hub = open_hub(
        McpServerConfig(name="files", command=npm.command("filesystem", str(tmp_path / "open")), approval="writes")
    )
    path = str(tmp_path / "open" / "note.txt")

    await hub.text("write_file", {"path": path, "content": "remember the milk"}, at="files")
    assert "milk" in await hub.text("read_text_file", {"path": path}, at="files")
    outside = await hub.servers.call_tool(ANNA, "files", "read_text_file", {"path": str(tmp_path / "secret.txt")})
    assert outside.is_error

    tools = {tool.name: tool for tool in await hub.servers.list_tools(ANNA, "files")}
    assert {tool.approval for tool in tools.values()} == {"writes"}
    assert tools["read_text_file"].read_only
    assert not tools["write_file"].read_only
    assert await hub.servers.list_resources(ANNA, "files") == []
    assert await hub.servers.list_prompts(ANNA, "files") == []
    with pytest.raises(ToolError) as none:
        await hub.servers.read_resource(ANNA, "files", "file:///x")
    assert none.value.narrow_code == "not_supported"


@npm_servers
async def test_four_servers_at_once_one_killed(open_hub: OpenHub, npm: Npm, tmp_path: Path) -> None:
    """All four in one listing; the end of one is nothing to the others, and it comes back."""
    hub = open_hub(
        TIME,
        McpServerConfig(name="all", command=npm.command("everything")),
        McpServerConfig(name="memory", command=npm.command("memory"), env={"MEMORY_FILE_PATH": f"{tmp_path}/m.jsonl"}),
        McpServerConfig(name="files", command=npm.command("filesystem", str(tmp_path))),
    )
    tools = await hub.servers.list_tools(ANNA)
    assert {tool.server for tool in tools} == {"time", "all", "memory", "files"}
    assert hub.connecting == [(ANNA, True), (ANNA, False)]

    (victim,) = [c for c in children() if "server-everything" in " ".join(c.cmdline())]
    os.kill(victim.pid, signal.SIGKILL)
    await until(lambda: hub.servers.open_connections == 3)

    assert "UTC" in await hub.text("get_current_time", {"timezone": "UTC"}, at="time")
    assert await hub.text("read_graph", at="memory")
    assert await hub.text("echo", {"message": "back"}, at="all") == "Echo: back"
