"""A model endpoint that misbehaves on command: aiohttp's real server, writing the bytes a test names.

    upstream.answers = [refuse(429, headers={"Retry-After": "0"}), stream(text("Hello"), finish(), DONE)]

Each request takes the next answer; the last one stays. `requests` holds what was asked, `lost` is set (with the moment
in `lost_at`, on the loop's clock) when a client dropped its connection in the middle of an answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
DONE = b"data: [DONE]\n\n"
SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass
class Asked:
    """One request as it arrived."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]


@dataclass
class Upstream:
    """See the module."""

    base_url: str = ""
    answers: list[Answer] = field(default_factory=list)
    requests: list[Asked] = field(default_factory=list)
    connections: set[object] = field(default_factory=set)
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    lost_at: float = 0.0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        self.requests.append(Asked(request.path_qs, request.headers, json.loads(raw) if raw else {}))
        self.connections.add(request.transport)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        try:
            return await answer(request)
        except (asyncio.CancelledError, ConnectionError):
            self.lost_at = asyncio.get_running_loop().time()
            self.lost.set()
            raise


@asynccontextmanager
async def running_upstream() -> AsyncIterator[Upstream]:
    """The server, on a free port."""
    upstream = Upstream()
    app = web.Application(client_max_size=64 << 20)
    app.router.add_route("*", "/{path:.*}", upstream.handle)
    # Without handler_cancellation aiohttp does not tell a handler that its client has gone.
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        upstream.base_url = f"http://{host}:{port}/v1"
        yield upstream
    finally:
        await runner.cleanup()


# --- events of a stream ---


def chunk(**fields: Any) -> bytes:
    """One `chat.completion.chunk` as an event."""
    return b"data: " + json.dumps({"object": "chat.completion.chunk", **fields}).encode() + b"\n\n"


def delta(finish_reason: str | None = None, **fields: Any) -> bytes:
    return chunk(choices=[{"index": 0, "delta": fields, "finish_reason": finish_reason}])


def text(content: str) -> bytes:
    return delta(content=content)


def call(index: int, call_id: str | None = None, name: str | None = None, arguments: str | None = None) -> bytes:
    """A fragment of a tool call."""
    function = {k: v for k, v in (("name", name), ("arguments", arguments)) if v is not None}
    return delta(tool_calls=[{"index": index, **({"id": call_id} if call_id else {}), "function": function}])


def finish(reason: str = "stop") -> bytes:
    return delta(finish_reason=reason)


def usage(prompt: int, completion: int, **more: Any) -> bytes:
    return chunk(choices=[], usage={"prompt_tokens": prompt, "completion_tokens": completion, **more})


# --- answers ---


def stream(*events: bytes, hold: bool = False, content_type: str = "text/event-stream") -> Answer:
    """Send each event in a write of its own; with `hold`, then nothing, the connection open."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": content_type})
        await response.prepare(request)
        for event in events:
            await response.write(event)
            await asyncio.sleep(0)
        if hold:
            await asyncio.Event().wait()
        await response.write_eof()
        return response

    return answer


def endless(event: bytes, every_seconds: float = 0.0) -> Answer:
    """The same event for ever."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while True:
            await response.write(event)
            await asyncio.sleep(every_seconds)

    return answer


def refuse(status: int, body: bytes | str | dict[str, Any] = b"", headers: Mapping[str, str] | None = None) -> Answer:
    """An answer with that status; a dict becomes JSON."""

    async def answer(request: web.Request) -> web.StreamResponse:
        head = {"Content-Type": "application/json" if isinstance(body, dict) else "text/html", **(headers or {})}
        data = json.dumps(body).encode() if isinstance(body, dict) else body.encode() if isinstance(body, str) else body
        return web.Response(status=status, body=data, headers=head)

    return answer


def raw(*parts: bytes, then: str = "close") -> Answer:
    """Bytes straight to the socket, then `close` it, `abort` it, or `hold` it open."""

    async def answer(request: web.Request) -> web.StreamResponse:
        transport = request.transport
        assert transport is not None
        for part in parts:
            transport.write(part)
            await asyncio.sleep(0)
        if then == "hold":
            await asyncio.Event().wait()
        elif then == "abort":
            await asyncio.sleep(0.02)  # else the reset overtakes the bytes
            transport.abort()
        else:
            transport.close()
        await asyncio.Event().wait()  # until the server notices; there is no answer of its own to send
        raise AssertionError

    return answer


def silent() -> Answer:
    """Take the request and say nothing."""
    return raw(then="hold")


def chunked(*events: bytes) -> bytes:
    """Bytes of a chunked body, without its end."""
    return b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in events)


Events = Sequence[bytes]
