"""The whole server with tool servers: what its children do when it stops or dies."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.checker import Checker
from tests.mcp.conftest import PLAIN, gone
from tests.server import ServerProcess

SERVERS = [
    {"name": "plain", "command": [sys.executable, "-S", str(PLAIN)]},
    {"name": "stubborn", "command": [sys.executable, "-S", str(PLAIN), "stubborn"], "scope": "shared"},
    {"name": "broken", "command": ["no-such-command-anywhere"]},
]


async def _command(checker: Checker, session: str, command: str, **args: Any) -> dict[str, Any]:
    response = await checker.command(session, command, args)
    assert response.status == 200, response.body
    answer: dict[str, Any] = response.json()
    return answer


@pytest.mark.parametrize("end", ["terminate", "kill9"])
async def test_no_child_outlives_the_server(tmp_path: Path, end: str) -> None:
    """SIGTERM ends even a stubborn one in the time a stop may take; after kill -9 the others end themselves."""
    settings = {"mcp_servers": json.dumps(SERVERS)}
    async with ServerProcess(tmp_path / "data", settings=settings) as server, Checker(server.base_url) as checker:
        calls = [("a", "plain"), ("b", "plain"), ("a", "stubborn")]
        pids = {}
        for session, name in calls:
            answer = await _command(checker, session, "call_tool", server=name, name="pid", arguments={})
            assert answer["success"], answer
            pids[session, name] = int(answer["data"]["content"])
        assert len(set(pids.values())) == 3
        failed = await _command(checker, "a", "call_tool", server="broken", name="x", arguments={})
        assert not failed["success"]
        assert failed["data"]["code"] == "server_failed"
        listed = await _command(checker, "a", "list_servers")
        states = {entry["name"]: entry["state"] for entry in listed["data"]}
        assert states == {"plain": "connected", "stubborn": "connected", "broken": "failed"}

        if end == "terminate":
            assert await server.terminate() < 10
        else:
            await server.kill9()

        assert await gone(pids["a", "plain"])
        assert await gone(pids["b", "plain"])
        if end == "terminate":
            assert await gone(pids["a", "stubborn"])
        else:
            # Nothing of ours is left that could end it: it ignores the end of its input, which is what it is for.
            psutil.Process(pids["a", "stubborn"]).kill()


async def test_a_tool_server_tells_the_log_and_not_the_terminal(tmp_path: Path) -> None:
    """stderr of a child becomes lines of JSON, whatever is in it."""
    settings = {"mcp_servers": json.dumps(SERVERS[:1])}
    async with ServerProcess(tmp_path / "data", settings=settings) as server, Checker(server.base_url) as checker:
        arguments = {"text": "\x1b[2J forged\r"}
        answer = await _command(checker, "a", "call_tool", server="plain", name="stderr", arguments=arguments)
        assert answer["success"], answer
        await server.terminate()

        lines = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
        told = [line for line in lines if line["event"] == "mcp_stderr"]
        assert [line["line"] for line in told] == ["\\x1b[2J forged"]
        assert told[0]["server"] == "plain"
        assert "\x1b[2J" not in server.log()
