"""Streams whose readers are behind, over real sockets: waited for, and told the end like everybody (T5, T6)."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chatserver.streams import subscriber
from chatserver.streams.subscriber import Connection
from tests.api.conftest import Api
from tests.api.people import Browser, bearer

pytestmark = pytest.mark.both_loops

ONE = "/api/chat/stream?session_id=s"
SEVERAL = "/api/stream?sessions=other,s"
STATES = "/api/chat/stream?session_id=s&format=state"
# Machines stall: what a reader is given in these tests is given in time, however long a pause is.
ROOMY_SECONDS = 60.0


class SlowReader:
    """A client that reads nothing until it is told to."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def rest(self) -> list[dict[str, Any]]:
        """What was said until the stream's own end, which has to come; without the snapshots' states."""
        loop, got = asyncio.get_running_loop(), b""
        async with asyncio.timeout(ROOMY_SECONDS):
            while not got.endswith(b"\r\n0\r\n\r\n"):
                more = await loop.sock_recv(self._sock, 1 << 16)
                assert more, f"closed without its end, after {got[-200:]!r}"
                got += more
        return [json.loads(line[6:]) for line in got.decode().splitlines() if line.startswith("data: ")]


@asynccontextmanager
async def behind(api: Api, path: str, headers: dict[str, str] | None = None) -> AsyncIterator[SlowReader]:
    """A reader that is behind by a few events of the session `s`."""
    who = headers or {}
    head = "".join(f"{name}: {value}\r\n" for name, value in {"Host": "127.0.0.1", **who}.items())
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, (api.server.host, api.server.port))
        await loop.sock_sendall(sock, f"GET {path} HTTP/1.1\r\n{head}\r\n".encode())
        async with asyncio.timeout(ROOMY_SECONDS):
            while not api.server.services.hub.backlog()[0]:
                await say(api, "x" * 30_000, who)
        await say(api, "the last word", who)
        yield SlowReader(sock)


async def say(api: Api, text: str, headers: dict[str, str]) -> None:
    body = {"session_id": "s", "message": text}
    assert (await api.call("POST", "/api/system", json=body, headers=headers))[0] == 200


def connection_of(api: Api) -> Connection:
    (connection,) = [c for bucket in api.server.services.hub._buckets for c in bucket]
    return connection


async def test_a_reader_that_needs_several_looks_is_waited_for(api: Api) -> None:
    """T5: a stall is fifteen seconds; each look at it, a fifth of them, must leave the stream as it was."""
    async with behind(api, ONE) as reader:
        connection = connection_of(api)
        for _ in range(3):
            async with asyncio.timeout(ROOMY_SECONDS):
                while (look := connection._patience) is None:
                    await asyncio.sleep(0)
                look.reschedule(0)
                while connection._patience is look:
                    await asyncio.sleep(0)
        assert len(api.server.services.hub) == 1
        await api.call("DELETE", "/api/session?session_id=s")
        said = await reader.rest()
    assert [event["type"] for event in said[-3:]] == ["message.created", "session.updated", "session.deleted"]
    assert said[-3]["message"]["content"] == "the last word"


@pytest.mark.parametrize("path", [ONE, SEVERAL])
async def test_a_drain_tells_readers_that_are_behind_too(api: Api, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """T6, D3: what they missed, how the turn ended, goodbye, and the end that HTTP asks for."""
    monkeypatch.setattr(subscriber, "LAST_WORDS_SECONDS", ROOMY_SECONDS)
    async with behind(api, path) as reader:
        await api.post("/api/chat", session_id="s", message="/hang")
        await api.server.drain(0)
        said = await reader.rest()
    types = [event["type"] for event in said]
    assert types[-2:] == ["turn.ended", "goodbye"]
    assert said[-2]["outcome"] == "interrupted"
    assert said[-1]["reason"] == "shutdown"
    assert "the last word" in [e["message"]["content"] for e in said if e["type"] == "message.created"]
    assert types.count("snapshot") == (2 if path == SEVERAL else 1)


async def test_a_drain_shows_the_last_state_to_viewers_that_are_behind(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T7."""
    monkeypatch.setattr(subscriber, "LAST_WORDS_SECONDS", ROOMY_SECONDS)
    async with behind(api, STATES) as reader:
        await api.server.drain(0)
        said = await reader.rest()
    assert said[-1]["type"] == "goodbye"
    assert said[-2]["messages"][-1]["content"] == "the last word"


@pytest.mark.parametrize("path", [ONE, SEVERAL, STATES])
async def test_a_logout_tells_readers_that_are_behind_too(api: Api, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """A1; and what is said after it is not for them."""
    monkeypatch.setattr(subscriber, "LAST_WORDS_SECONDS", ROOMY_SECONDS)
    await Browser(api).register("ann")
    here, there = await bearer(api, "ann"), await bearer(api, "ann")
    async with behind(api, path, here) as reader:
        await api.call("POST", "/api/auth/logout", headers=here)
        await say(api, "a secret", there)
        said = await reader.rest()
    assert (said[-1]["type"], said[-1]["reason"]) == ("goodbye", "signed_out")
    assert "the last word" in json.dumps(said)
    assert "a secret" not in json.dumps(said)


async def test_a_reader_that_takes_nothing_is_gone_soon_after_its_logout(api: Api) -> None:
    """A1: within five seconds, though a stall is fifteen."""
    await Browser(api).register("ann")
    headers = await bearer(api, "ann")
    async with behind(api, ONE, headers):
        await api.call("POST", "/api/auth/logout", headers=headers)
        assert len(api.server.services.hub) == 1
        async with asyncio.timeout(subscriber.LAST_WORDS_SECONDS + 5):  # and what a machine may stall
            while len(api.server.services.hub):
                await asyncio.sleep(0.01)
    assert api.server.services.hub.counts.cut == 1
