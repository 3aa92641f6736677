"""What does a token cost on its way in: chatserver's own client of OpenAI-compatible endpoints, against the openai SDK?

Both read the same answers of the same local endpoint (`serve` below), in a process of their own on the server's core;
the endpoint runs on the other. Nothing else is in the path, so the numbers are the client's alone. One number is for
tokens that arrive each by itself, as a model makes them; one for an endpoint that is faster than its reader, where
several come in one read.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version

import uvloop

from benchmarks.fake_agent import TOKEN
from benchmarks.report import Plan, Report, ratio, spread
from benchmarks.servers import LOAD_CORE, ROOT, SERVER_CORE

NAME = "upstream"
AIM = 6.0
TOKENS = 200
STREAMS = 50
# Milliseconds between two tokens: a model of 50 tokens a second, and one that makes them as fast as it can.
PACES = {"one by one": 20, "as fast as read": 0}
CLIENTS = ("chatserver", "openai SDK")

# --- the endpoint ---

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
# The fields of a real endpoint's chunk: a reader has to get past them.
_CHUNK = {
    "id": "chatcmpl-9XbVdqjFZzTqHk2yM4oCGrTpWm5n7",
    "object": "chat.completion.chunk",
    "created": 1_767_225_600,
    "model": "tiny",
    "system_fingerprint": "fp_0123456789",
}


def _event(**fields: object) -> bytes:
    data = b"data: %b\n\n" % json.dumps({**_CHUNK, **fields}).encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


_TOKEN = _event(choices=[{"index": 0, "delta": {"content": TOKEN}, "logprobs": None, "finish_reason": None}])
_END = (
    _event(choices=[{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}])
    + _event(choices=[], usage={"prompt_tokens": 9, "completion_tokens": TOKENS, "total_tokens": TOKENS + 9})
    + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
)


class _Endpoint(asyncio.Protocol):
    """Answers each request with `TOKENS` tokens, a write each; the request's model says how many ms apart."""

    def __init__(self) -> None:
        self._got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, found, body = self._got.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        if len(body) >= length:
            self._got = b""
            self._write(_HEAD)
            self._next(TOKENS, int(json.loads(body)["model"]) / 1000)

    def _next(self, left: int, pause_seconds: float) -> None:
        if self._transport.is_closing():
            return
        if not left:
            self._write(_END)
            return
        self._write(_TOKEN)
        asyncio.get_running_loop().call_later(pause_seconds, self._next, left - 1, pause_seconds)

    def _write(self, data: bytes) -> None:
        self._transport.write(data)  # type: ignore[attr-defined]  # a stream's transport


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Endpoint, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


# --- the clients ---


async def _chatserver(base_url: str, pace: int, answers: int) -> int:
    """Characters that `STREAMS` readers get from `answers` answers each."""
    import structlog

    from chatserver.agents.base import AgentTurn, ModelSettings
    from chatserver.agents.endpoints import Endpoints
    from chatserver.agents.openai_compatible import OpenAICompatibleAgent
    from chatserver.clock import SystemClock
    from chatserver.config import ModelConfig
    from chatserver.principal import ANONYMOUS
    from tests.agents.plain_turn import TableTools

    endpoints = Endpoints()
    config = ModelConfig(id="tiny", base_url=base_url, model=str(pace))
    agent = OpenAICompatibleAgent(
        config, "key", endpoints, tool_rounds=8, clock=SystemClock(), log=structlog.get_logger()
    )
    settings = ModelSettings("tiny", "tiny", 8192, 2048)
    turn = AgentTurn("public", "s", "t", "Say 200 words.", (), settings, ANONYMOUS, TableTools())

    async def reader() -> int:
        return sum([len(e) for _ in range(answers) async for e in agent.run(turn) if isinstance(e, str)])

    found = await asyncio.gather(*(reader() for _ in range(STREAMS)))
    await endpoints.close()
    return sum(found)


async def _sdk(base_url: str, pace: int, answers: int) -> int:
    """The same through the SDK."""
    import openai

    async with openai.AsyncOpenAI(base_url=base_url, api_key="key", max_retries=0) as client:

        async def reader() -> int:
            characters = 0
            for _ in range(answers):
                stream = await client.chat.completions.create(
                    model=str(pace),
                    messages=[{"role": "user", "content": "Say 200 words."}],
                    stream=True,
                    stream_options={"include_usage": True},
                    max_tokens=2048,
                )
                async for chunk in stream:
                    if chunk.choices:
                        characters += len(chunk.choices[0].delta.content or "")
            return characters

        return sum(await asyncio.gather(*(reader() for _ in range(STREAMS))))


async def _client(name: str, base_url: str, pace: int, answers: int) -> None:
    """Warm up with one answer each, then measure; print CPU microseconds per token."""
    read = _chatserver if name == CLIENTS[0] else _sdk
    await read(base_url, 0, 1)
    started = time.process_time()
    characters = await read(base_url, pace, answers)
    used = time.process_time() - started
    expected = STREAMS * answers * TOKENS
    if characters != expected * len(TOKEN):
        raise SystemExit(f"{name} got {characters} characters instead of {expected * len(TOKEN)}")
    print(used / expected * 1e6)


# --- the question ---


@asynccontextmanager
async def _child(core: int, *arguments: str) -> AsyncIterator[asyncio.StreamReader]:
    env = {n: v for n, v in os.environ.items() if not n.startswith(("OPENAI_", "PYTHON"))}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.upstream", *arguments), stdout=asyncio.subprocess.PIPE, env=env, cwd=ROOT
    )
    os.sched_setaffinity(process.pid, {core})
    try:
        assert process.stdout is not None
        yield process.stdout
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@asynccontextmanager
async def serving() -> AsyncIterator[str]:
    """The endpoint as a process on the load generator's core, while the block runs; gives its base URL."""
    async with _child(LOAD_CORE, "serve") as output:
        yield f"http://127.0.0.1:{int(await output.readline())}/v1"


async def _microseconds(name: str, pace: int, answers: int) -> float:
    async with (
        serving() as base_url,
        _child(SERVER_CORE, "client", name, base_url, str(pace), str(answers)) as measured,
    ):
        return float(await measured.readline())


async def run(plan: Plan) -> Report:
    """Measure both clients in turn."""
    report = Report(
        NAME,
        f"CPU of reading a token from an OpenAI-compatible endpoint, in microseconds, {STREAMS} answers at once",
        ("tokens arrive", *CLIENTS, "ratio"),
    )
    for how, pace in PACES.items():
        answers = 1 if plan.quick else max(1, round(plan.seconds * 1000 / (TOKENS * max(pace, 2))))
        found: dict[str, list[float]] = {name: [] for name in CLIENTS}
        for _ in range(plan.repetitions):
            for name in CLIENTS:
                found[name].append(await _microseconds(name, pace, answers))
        ours, theirs = (found[name] for name in CLIENTS)
        times = ratio(theirs, ours)
        report.row(how, spread(ours, 1), spread(theirs, 1), f"{times:.1f}×")
        report.aim(f"{times:.1f}× less CPU than the SDK where tokens arrive {how}, ≥ {AIM:g}×", met=times >= AIM)
    report.notes.append(
        "The whole client is measured: the request, the socket, HTTP, JSON, and giving the text to whoever iterates. "
        f"Where tokens arrive one by one each costs a turn of the loop in both. openai {version('openai')}."
    )
    return report


def main(arguments: Sequence[str]) -> None:
    """A child process of the benchmark."""
    if arguments[0] == "serve":
        uvloop.run(_serve())
    else:
        _, name, base_url, pace, answers = arguments
        uvloop.run(_client(name, base_url, int(pace), int(answers)))


if __name__ == "__main__":
    main(sys.argv[1:])
