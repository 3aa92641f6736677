"""Endpoints and tool servers that do everything wrong, behind a whole server: the turn ends once, and says why; a
neighbour's answer goes on. What each of them does to its agent alone: tests/agents, tests/mcp."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chatserver.config import McpServerConfig, ModelConfig
from tests.agents.upstream import (
    DONE,
    SSE_HEAD,
    Answer,
    call,
    chunked,
    finish,
    raw,
    refuse,
    running_upstream,
    silent,
    stream,
    text,
)
from tests.api.conftest import Api, Serve
from tests.checker import Checker, Stream
from tests.mcp.conftest import plain

# Long enough that a machine's pause is not taken for an endpoint's, short enough to wait for.
SILENCE_SECONDS = 3.0


@asynccontextmanager
async def beside_a_neighbour(api: Api, checker: Checker) -> AsyncIterator[None]:
    """An answer in another session, which has to go on while the block runs and after it; the server answers others."""
    async with checker.follow("neighbour") as neighbour:
        await checker.send("neighbour", "/tokens 1000000 every 20", model="scripted")
        await goes_on(neighbour)
        yield
        await goes_on(neighbour)
        assert (await api.get("/health"))[0] == 200
        assert (await api.get("/health/ready"))[0] == 200
        await checker.interrupt("neighbour")


async def goes_on(neighbour: Stream) -> None:
    """Wait until more of the answer has come than now."""

    def written(state: dict[str, Any]) -> int:
        return len(state["messages"][-1]["content"]) if state["is_processing"] else 0

    await neighbour.until_state(lambda state: written(state) > 0)
    assert neighbour.state is not None
    before = written(neighbour.state)
    await neighbour.until_state(lambda state: written(state) > before)


@pytest.mark.parametrize(
    ("answer", "outcome", "code"),
    [
        pytest.param(refuse(200, "<html>hello</html>"), "failed", "upstream_protocol", id="a web page"),
        pytest.param(refuse(401, {"error": {"message": "sk-secret"}}), "failed", "upstream_unauthorized", id="401"),
        pytest.param(refuse(429, {"error": {}}), "failed", "upstream_rate_limited", id="429"),
        pytest.param(refuse(500, "boom"), "failed", "upstream_unavailable", id="500"),
        pytest.param(
            raw(SSE_HEAD, chunked(text("half")), b"40\r\ndata: {", then="abort"),
            "failed",
            "upstream_unavailable",
            id="half a chunk",
        ),
        pytest.param(stream(text("whole"), finish()), "completed", None, id="no DONE"),
        pytest.param(stream(text("cut off")), "failed", "upstream_protocol", id="no end at all"),
        pytest.param(silent(), "failed", "upstream_timeout", id="silence"),
        pytest.param(stream(text("and then"), hold=True), "failed", "upstream_timeout", id="silence in the middle"),
        pytest.param(
            stream(b"data: " + b"x" * (10 << 20)), "failed", "upstream_protocol", id="10 MB without a newline"
        ),
        pytest.param(
            stream(b'data: {"choices": [{"delta": {"content": "\xff\xfe"}}]}\n\n', DONE), None, None, id="not UTF-8"
        ),
        pytest.param(
            stream(call(0, "c1", "no__such_tool", "{}"), finish("tool_calls"), DONE),
            "failed",
            "tool_rounds",
            id="no such tool",
        ),
        pytest.param(
            stream(call(0, "c1", "plain__echo", '{"text": '), finish("tool_calls"), DONE),
            "failed",
            "tool_rounds",
            id="broken JSON",
        ),
    ],
)
async def test_a_bad_endpoint_ends_its_own_turn_and_nothing_else(
    serve: Serve, answer: Answer, outcome: str | None, code: str | None
) -> None:
    """One `turn.ended`, with a code; nothing of the endpoint's own words."""
    async with running_upstream() as upstream:
        upstream.answers = [answer]
        bad = ModelConfig(
            id="bad",
            base_url=upstream.base_url,
            model="bad",
            retries=0,
            first_token_timeout_seconds=SILENCE_SECONDS,
            token_timeout_seconds=SILENCE_SECONDS,
        )
        api = await serve(models=(bad,), default_model="scripted", mcp_servers=(plain(),))
        async with Checker(api.server.url) as checker, checker.follow("s") as mine:
            async with beside_a_neighbour(api, checker):
                sent = await checker.send("s", "hello", model="bad")
                ended = await mine.until_ended(sent.turn_id)
                again = await checker.send("s", "/say fine", model="scripted")
                assert (await mine.until_ended(again.turn_id)).body["outcome"] == "completed"
            if outcome is not None:
                assert (ended.body["outcome"], ended.body.get("error", {}).get("code")) == (outcome, code)
            state = await checker.state("s")
            assert [m["content"] for m in state["messages"] if m["role"] == "user"] == ["hello", "/say fine"]
            assert "sk-secret" not in json.dumps(state)
            await checker.verify("s", "neighbour")


@pytest.mark.parametrize(
    ("server", "tool", "told"),
    [
        pytest.param(
            McpServerConfig(name="bad", command=("no-such-command",)), "echo", "not found", id="does not start"
        ),
        pytest.param(plain("bad", "exit"), "echo", "exited with code 1", id="ends at its start"),
        pytest.param(plain("bad", "garbage"), "echo", "something other than MCP", id="garbage instead of MCP"),
        pytest.param(
            plain("bad", "silent", start_timeout_seconds=SILENCE_SECONDS), "echo", "did not start", id="silent"
        ),
        pytest.param(plain("bad"), "exit", "exited with code 3", id="dies in the call"),
        pytest.param(plain("bad"), "garbage", "something other than MCP", id="garbage in the call"),
        pytest.param(plain("bad"), 'huge {"bytes": 50000000}', "size limit", id="50 MB"),
        pytest.param(plain("bad", call_timeout_seconds=SILENCE_SECONDS), "hang", "did not answer", id="never answers"),
        pytest.param(plain("bad"), "no_such_tool", "no_such_tool", id="no such tool"),
    ],
)
async def test_a_bad_tool_server_fails_its_own_call_and_nothing_else(
    serve: Serve, server: McpServerConfig, tool: str, told: str
) -> None:
    """The call's result is an error that says why, the turn goes on to its end, and the other server works."""
    api = await serve(mcp_servers=(server, plain()))
    name, _, arguments = tool.partition(" ")
    async with Checker(api.server.url) as checker, checker.follow("s") as mine:
        async with beside_a_neighbour(api, checker):
            sent = await checker.send("s", f"/tool bad.{name} {arguments or '{}'}\n/say and then")
            ended = await mine.until_ended(sent.turn_id, timeout_seconds=60)
            assert ended.body["outcome"] == "completed"
            good = await checker.send("s", '/tool plain.echo {"text": "fine"}')
            await mine.until_ended(good.turn_id)
        answers = [m for m in (await checker.state("s"))["messages"] if m["role"] == "assistant"]
        bad, fine = (answer["tool_calls"][0]["result"] for answer in answers)
        assert bad["is_error"]
        assert told in bad["content"]
        assert answers[0]["content"].endswith("and then")
        assert (fine["content"], fine["is_error"]) == ("fine", False)
        await checker.verify("s", "neighbour")
