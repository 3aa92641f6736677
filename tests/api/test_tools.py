"""Tools and approvals over HTTP, with a real MCP server (spec L7, G3)."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from chatserver.config import McpServerConfig
from tests.api.conftest import Api, Serve
from tests.api.people import add_user, bearer
from tests.checker import Checker
from tests.mcp.conftest import PLAIN, Npm
from tests.mcp.conftest import npm as npm  # the fixture

TOOL = '/tool time.get_current_time {"timezone": "Europe/Berlin"}'


def time_server(approval: str) -> McpServerConfig:
    return McpServerConfig.model_validate(
        {"name": "time", "command": [sys.executable, "-m", "mcp_server_time"], "approval": approval}
    )


async def command(api: Api, name: str, /, **args: Any) -> Any:
    status, body, _ = await api.post("/api/mcp-command", command=name, args=args, session_id="s")
    assert status == 200, body
    return body


async def test_every_command_answers_in_one_form(serve: Serve) -> None:
    """L7: success, message, data, session_id, whatever the command and its outcome."""
    api = await serve(mcp_servers=(time_server("never"),))
    for name, args, success in (
        ("list_servers", {}, True),
        ("list_tools", {}, True),
        ("list_tools", {"server": "time"}, True),
        ("connect", {"server": "time"}, True),
        ("call_tool", {"server": "time", "name": "get_current_time", "arguments": {"timezone": "UTC"}}, True),
        ("call_tool", {"server": "time", "name": "get_current_time", "arguments": {"timezone": "Mars/Base"}}, False),
        ("call_tool", {"server": "time", "name": "nothing"}, False),
        ("list_resources", {"server": "nobody"}, False),
        ("get_prompt", {"server": "time", "name": "none"}, False),
        ("disconnect", {"server": "time"}, True),
        ("set_network", {"network": "testnet"}, True),
    ):
        body = await command(api, name, **args)
        assert body.keys() == {"success", "message", "data", "session_id"}
        assert body["success"] is success, body
    _, state, _ = await api.get("/api/state?session_id=s")
    assert "testnet" in state["messages"][-1]["content"]
    assert state["messages"][-1]["role"] == "system"


async def test_connecting_is_shown(serve: Serve) -> None:
    """The state says that tools are being connected, and that they are no longer."""
    api = await serve(mcp_servers=(time_server("never"),))
    await api.post("/api/system", session_id="s", message="made")
    async with Checker(api.server.url) as checker:
        async with checker.follow("s") as stream:
            asked = asyncio.create_task(command(api, "connect", server="time"))
            await stream.until_state(lambda s: s["is_connecting_mcp"])
            await stream.until_state(lambda s: not s["is_connecting_mcp"])
            await asked
        await checker.verify("s")


@pytest.mark.parametrize(
    ("decision", "is_error", "told"), [("approve", False, "Europe/Berlin"), ("deny", True, "denied")]
)
async def test_an_approval_survives_a_reload_and_decides(
    serve: Serve, decision: str, is_error: bool, told: str
) -> None:
    """G3: the turn waits, a fresh tab sees the approval in its snapshot, and the decision ends the wait."""
    api = await serve(mcp_servers=(time_server("always"),))
    async with Checker(api.server.url) as checker:
        sent = await checker.send("s", TOOL)
        async with checker.follow("s") as stream:
            await stream.until_state(lambda s: bool(s["pending_approvals"]))
        _, state, _ = await api.get("/api/state?session_id=s")
        approval = state["pending_approvals"][0]
        assert (approval["server"], approval["name"]) == ("time", "get_current_time")
        assert approval["arguments"] == {"timezone": "Europe/Berlin"}
        async with checker.follow("s") as reloaded:
            body = await command(api, decision, approval_id=approval["id"])
            assert body["success"]
            await reloaded.until_ended(sent.turn_id)
        _, state, _ = await api.get("/api/state?session_id=s")
        assert state["pending_approvals"] == []
        call = state["messages"][-1]["tool_calls"][0]
        assert call["result"]["is_error"] is is_error
        assert told in call["result"]["content"]
        status, problem, _ = await api.post(
            "/api/mcp-command", command=decision, args={"approval_id": approval["id"]}, session_id="s"
        )
        assert (status, problem["code"]) == (404, "approval_not_found")
        await checker.verify("s")


async def test_an_approval_expires(serve: Serve) -> None:
    """G3: nobody answers; the call is an error that the agent reads, and the turn goes on to its end."""
    api = await serve(mcp_servers=(time_server("always"),), approval_timeout_seconds=0.2)
    async with Checker(api.server.url) as checker:
        async with checker.follow("s") as stream:
            sent = await checker.send("s", TOOL)
            resolved = await stream.until_type("approval.resolved")
            assert resolved.body["decision"] == "expired"
            ended = await stream.until_ended(sent.turn_id)
            assert ended.body["outcome"] == "completed"
        await checker.verify("s")


async def test_a_reading_tool_needs_no_approval_where_only_writes_do(serve: Serve) -> None:
    """G3: `approval = "writes"` believes the server's read-only hint."""
    api = await serve(mcp_servers=(time_server("writes"),))
    async with Checker(api.server.url) as checker:
        await checker.send("s", TOOL)
        state = await checker.settle("s")
        assert "Europe/Berlin" in state["messages"][-1]["tool_calls"][0]["result"]["content"]


async def test_a_stop_withdraws_the_approval(serve: Serve) -> None:
    """L5 while a person is being asked: one terminal event, no approval left."""
    api = await serve(mcp_servers=(time_server("always"),))
    async with Checker(api.server.url) as checker:
        async with checker.follow("s") as stream:
            sent = await checker.send("s", TOOL)
            await stream.until_state(lambda s: bool(s["pending_approvals"]))
            state = await checker.interrupt("s")
            assert state["pending_approvals"] == []
            assert state["messages"][-1]["tool_calls"][0]["result"] is None
            ended = await stream.until_ended(sent.turn_id)
            assert ended.body["outcome"] == "interrupted"
        await checker.verify("s")


async def test_approvals_are_for_the_owner_only(serve: Serve) -> None:
    """Somebody who is not the session's owner can't approve in it."""
    api = await serve(mcp_servers=(time_server("always"),))
    async with api.http.get(api.url("/")) as response:
        mine = {"Cookie": f"chatserver_visitor={response.cookies['chatserver_visitor'].value}"}
    async with Checker(api.server.url, headers=mine) as checker:
        await checker.send("s", TOOL)
        async with checker.follow("s") as stream:
            await stream.until_state(lambda s: bool(s["pending_approvals"]))
            assert stream.state is not None
            args = {"approval_id": stream.state["pending_approvals"][0]["id"]}
            status, problem, _ = await api.post("/api/mcp-command", command="approve", args=args, session_id="s")
            assert (status, problem["code"]) == (403, "session_forbidden")
            await checker.interrupt("s")


@pytest.mark.mcp_npm
async def test_tenants_and_sessions_on_the_memory_server_do_not_see_each_others_memories(
    serve: Serve, npm: Npm, tmp_path: Path
) -> None:
    """The real server, whose memories are a file: `{session}` makes it a file each, also for sessions of one name."""
    memory = McpServerConfig(
        name="memory", command=npm.command("memory"), env={"MEMORY_FILE_PATH": f"{tmp_path}/{{session}}.jsonl"}
    )
    api = await serve(mcp_servers=(memory,))
    await add_user(api, "acme", "ann")
    await add_user(api, "other", "bob")
    ann, bob = await bearer(api, "ann", "acme"), await bearer(api, "bob", "other")

    async def remembered(who: dict[str, str], session_id: str, animal: str | None = None) -> str:
        async with Checker(api.server.url, headers=who) as checker:
            if animal is not None:
                entity = {"name": animal, "entityType": "secret", "observations": [f"{animal} is known"]}
                call = json.dumps({"entities": [entity]})
                await checker.send(session_id, f"/tool memory.create_entities {call}")
                await checker.settle(session_id)
            await checker.send(session_id, "/tool memory.read_graph {}")
            state = await checker.settle(session_id)
        result = state["messages"][-1]["tool_calls"][-1]["result"]
        assert not result["is_error"], result
        return str(result["content"])

    assert "aardvark" in await remembered(ann, "s", "aardvark")
    assert "badger" in await remembered(ann, "second", "badger")
    assert "aardvark" not in await remembered(ann, "second")
    of_bob = await remembered(bob, "s", "cormorant")
    assert "cormorant" in of_bob
    assert "aardvark" not in of_bob
    assert "cormorant" not in await remembered(ann, "s")
    assert "mcp_files_may_be_shared" not in api.log.getvalue()


@pytest.mark.parametrize(
    ("server", "warned"),
    [
        ({"command": ["npx", "-y", "@modelcontextprotocol/server-memory"]}, True),
        ({"command": ["x"], "env": {"MEMORY_FILE_PATH": "/var/lib/memory.jsonl"}}, True),
        ({"command": ["x"], "env": {"MEMORY_FILE_PATH": "/var/lib/{session}.jsonl"}}, False),
        ({"command": ["x"], "env": {"MEMORY_FILE_PATH": "/var/lib/memory.jsonl"}, "scope": "shared"}, False),
        ({"command": [sys.executable, str(PLAIN)], "env": {"TZ": "UTC"}}, False),
        ({"url": "http://127.0.0.1:1/mcp"}, False),
    ],
)
async def test_sessions_that_may_share_a_tool_servers_file_are_warned_about(
    serve: Serve, server: dict[str, Any], warned: bool
) -> None:
    """At start, by the server's name: what one person tells it, another could be told."""
    api = await serve(mcp_servers=(McpServerConfig.model_validate({"name": "notes", **server}),))
    assert ("mcp_files_may_be_shared" in api.log.getvalue()) is warned
