"""Streamable HTTP servers that misbehave, and what is sent to them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import psutil
import pytest
from aiohttp import web

from chatserver.config import McpServerConfig
from chatserver.errors import ToolError
from tests.mcp.conftest import ANNA, BERT, Hub, OpenHub, until

Handler = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]

TOOLS = [{"name": "do", "description": "Does it.", "inputSchema": {"type": "object"}}]


def result(message: dict[str, Any], value: Any) -> web.Response:
    """A JSON answer."""
    return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": value})


class Server:
    """An MCP server whose `tools/call` is `self.on_call`; remembers what it was sent."""

    def __init__(self) -> None:
        self.on_call: Handler = self.good
        self.requests: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.session = "s1"
        self.url = ""

    async def good(self, request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        """A plain answer."""
        return result(message, {"content": [{"type": "text", "text": "done"}]})

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request of any kind."""
        message = await request.json() if request.method == "POST" else {}
        self.requests.append((request.method, message, {k.lower(): v for k, v in request.headers.items()}))
        if request.method == "GET":
            return web.Response(status=405)
        if request.method == "DELETE":
            return web.Response(status=204)
        match message.get("method"):
            case "initialize":
                capabilities = {"tools": {"listChanged": False}}
                info = {"name": "test", "version": "1"}
                answer = {"protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": info}
                response = result(message, answer)
                response.headers["Mcp-Session-Id"] = self.session
                return response
            case "tools/list":
                if request.headers.get("Mcp-Session-Id") != self.session:
                    return web.Response(status=404)
                return result(message, {"tools": TOOLS})
            case "tools/call":
                if request.headers.get("Mcp-Session-Id") != self.session:
                    return web.Response(status=404)
                return await self.on_call(request, message)
            case _ if "id" in message:
                return web.Response(status=400)
        return web.Response(status=202)

    def sent(self, method: str) -> list[dict[str, Any]]:
        """Messages of a method."""
        return [message for _, message, _ in self.requests if message.get("method") == method]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A listening Server, closed with everything that hangs on it."""
    server = Server()
    app = web.Application()
    app.router.add_route("*", "/mcp", server.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    server.url = f"http://{host}:{port}/mcp"
    yield server
    await runner.cleanup()


@pytest.fixture
def hub(server: Server, open_hub: OpenHub) -> Hub:
    """A hub that knows the server alone, for all sessions."""
    config = McpServerConfig(name="plain", url=server.url, scope="shared", call_timeout_seconds=4)
    return open_hub(config, tool_message_bytes=1 << 20)


async def stream(request: web.Request) -> web.StreamResponse:
    """The beginning of an event stream."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    return response


@pytest.mark.both_loops
async def test_a_session_is_opened_used_and_ended(hub: Hub, server: Server) -> None:
    """The handshake, a call, and the DELETE that lets the server forget us."""
    assert await hub.text("do") == "done"
    assert await hub.status() == "connected"

    await hub.servers.close()

    assert server.requests[-1][0] == "DELETE"
    assert server.requests[-1][2]["mcp-session-id"] == "s1"


async def test_headers_come_from_the_environment(
    server: Server, open_hub: OpenHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token is sent with every request, and is never in the configuration; compression is not asked for."""
    monkeypatch.setenv("TEST_TOKEN", "Bearer xyz")
    hub = open_hub(McpServerConfig(name="plain", url=server.url, headers_env={"Authorization": "TEST_TOKEN"}))

    await hub.text("do")

    assert {headers.get("authorization") for _, _, headers in server.requests} == {"Bearer xyz"}
    assert {headers.get("accept-encoding") for _, _, headers in server.requests} == {"identity"}


async def test_a_refused_token_is_told(hub: Hub, server: Server) -> None:
    """401 says what to look at, and no more."""

    async def refuse(request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        return web.Response(status=401, text="<html>secret internals</html>")

    await hub.text("do")
    server.on_call = refuse

    with pytest.raises(ToolError, match="HTTP 401") as failed:
        await hub.text("do")
    assert failed.value.narrow_code == "server_failed"
    assert "secret" not in failed.value.detail


@pytest.mark.parametrize("kind", ["json", "event", "endless line"])
async def test_an_answer_of_50_mb_fails_that_call_alone(hub: Hub, server: Server, kind: str) -> None:
    """Neither as JSON nor in a stream is it held; another session's call on the same connection goes on."""
    release = asyncio.Event()

    async def answer(request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        if message["params"]["arguments"]:
            await release.wait()
            return await server.good(request, message)
        if kind == "json":
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            await response.prepare(request)
        else:
            response = await stream(request)
        if kind == "event":
            await response.write(b"event: message\ndata: ")
        for _ in range(800):
            await response.write(b"x" * (1 << 16))
        return response

    server.on_call = answer
    other = asyncio.ensure_future(hub.text("do", {"wait": True}, key=BERT))
    await until(lambda: len(server.sent("tools/call")) == 1)
    before = psutil.Process().memory_info().rss

    with pytest.raises(ToolError) as failed:
        await hub.text("do")

    assert failed.value.narrow_code == "server_failed"
    assert psutil.Process().memory_info().rss - before < 24 << 20
    release.set()
    assert await other == "done"


@pytest.mark.parametrize("status", [500, 503, 302])
async def test_an_error_status_fails_that_call_alone(hub: Hub, server: Server, status: int) -> None:
    """The connection goes on, and no redirect leads elsewhere."""

    async def answer(request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        return web.Response(status=status, text="<html>", headers={"Location": "http://127.0.0.1:1/elsewhere"})

    await hub.text("do")
    server.on_call = answer
    with pytest.raises(ToolError):
        await hub.text("do")

    server.on_call = server.good
    assert await hub.text("do") == "done"
    assert len(server.sent("initialize")) == 1


@pytest.mark.parametrize("how", ["closes", "html", "compressed", "not json"])
async def test_a_broken_answer_fails_that_call_alone(hub: Hub, server: Server, how: str) -> None:
    """Whatever comes back instead of an answer, the caller is told soon and the connection lives."""

    async def answer(request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        match how:
            case "closes":
                assert request.transport is not None
                request.transport.close()
                return web.Response()
            case "html":
                return web.Response(text="<html>", content_type="text/html")
            case "compressed":
                return web.Response(body=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
        return web.Response(text='{"half": ', content_type="application/json")

    await hub.text("do")
    server.on_call = answer
    with pytest.raises(ToolError) as failed:
        await hub.text("do")
    assert failed.value.narrow_code != "tool_timeout"

    server.on_call = server.good
    assert await hub.text("do") == "done"
    assert len(server.sent("initialize")) == 1


async def test_silence_is_a_timeout_and_the_server_is_told(hub: Hub, server: Server) -> None:
    """The call ends in time; the server gets `notifications/cancelled`; others go on."""

    async def hang(request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        response = await stream(request)
        await asyncio.Event().wait()
        return response

    server.on_call = hang
    with pytest.raises(ToolError) as late:
        await hub.text("do")
    assert late.value.narrow_code == "tool_timeout"

    await until(lambda: bool(server.sent("notifications/cancelled")))
    server.on_call = server.good
    assert await hub.text("do") == "done"


async def test_a_forgotten_session_is_opened_anew(hub: Hub, server: Server) -> None:
    """A server that was restarted answers 404: that call fails, the next one has a new session."""
    await hub.text("do")
    server.session = "s2"

    with pytest.raises(ToolError, match="forgotten"):
        await hub.text("do")

    assert await hub.text("do") == "done"
    assert len(server.sent("initialize")) == 2


@pytest.mark.parametrize("streamed", [False, True])
async def test_half_a_character_is_mended(hub: Hub, server: Server, streamed: bool) -> None:
    """JavaScript cuts strings inside a character and writes that down; the text arrives all the same."""

    async def answer(request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        content = [{"type": "text", "text": "cut \ud83d"}]
        body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {"content": content}}).encode()
        if not streamed:
            return web.Response(body=body, content_type="application/json")
        response = await stream(request)
        await response.write(b"event: message\ndata: " + body[:40])
        await response.write(body[40:] + b"\n\n")
        return response

    server.on_call = answer

    assert await hub.text("do") == "cut \N{REPLACEMENT CHARACTER}"


async def test_progress_arrives_over_a_stream(hub: Hub, server: Server) -> None:
    """Events of the call's own stream, and then its result."""

    async def answer(request: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        response = await stream(request)
        token = message["params"]["_meta"]["progressToken"]
        progress = {"method": "notifications/progress", "params": {"progressToken": token, "progress": 1, "total": 2}}
        final = {"id": message["id"], "result": {"content": [{"type": "text", "text": "streamed"}]}}
        for event in (progress, final):
            await response.write(b"data: " + json.dumps({"jsonrpc": "2.0", **event}).encode() + b"\n\n")
        return response

    server.on_call = answer
    seen: list[float] = []

    answered = await hub.servers.call_tool(ANNA, "plain", "do", {}, lambda progress, *_: seen.append(progress))

    assert answered.content == "streamed"
    assert seen == [1]
