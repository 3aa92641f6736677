"""Answers that are sent as they are read: what a client that takes nothing costs."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack, suppress

import pytest

from tests.api.conftest import Api, Serve

PATHS = (
    "/api/projects/default/sessions/big/full",
    "/api/export?session_id=big",
    "/api/export?session_id=big&format=markdown",
)


async def _a_large_session(api: Api) -> None:
    """Far more than sockets and buffers take: 16 MB."""
    for _ in range(16):
        status, _, _ = await api.post("/api/system", session_id="big", message="x" * 1_000_000)
        assert status == 200


async def _ask(api: Api, path: str) -> socket.socket:
    """A client that asks, and takes nothing."""
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, (api.server.host, api.server.port))
    await loop.sock_sendall(sock, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return sock


@pytest.mark.both_loops
async def test_clients_that_take_nothing_are_cut(serve: Serve) -> None:
    """Each holds a place for streams until then; whoever reads gets all of it."""
    api = await serve(stall_timeout_seconds=6, max_message_chars=1_000_000, max_body_bytes=2_000_000)
    await _a_large_session(api)
    hub, loop = api.server.services.hub, asyncio.get_running_loop()
    with ExitStack() as stack:
        silent = [stack.enter_context(await _ask(api, path)) for path in PATHS]
        async with asyncio.timeout(60):
            while len(hub) < len(PATHS):
                await asyncio.sleep(0.01)
            while len(hub):
                await asyncio.sleep(0.01)
            assert hub.counts.cut == len(PATHS)
            for sock in silent:
                taken = 0
                with suppress(ConnectionResetError):
                    while some := await loop.sock_recv(sock, 1 << 20):
                        taken += len(some)
                assert taken < 1_000_000
    for path in PATHS:
        status, body, _ = await api.get(path)
        assert status == 200
        assert str(body).count("x" * 1_000_000) == 16


async def test_downloads_count_among_the_streams_of_a_caller(serve: Serve) -> None:
    """One more than a caller may have is refused, and refusals leave no place behind."""
    api = await serve(max_streams_per_principal=2, max_message_chars=1_000_000, max_body_bytes=2_000_000)
    await _a_large_session(api)
    hub = api.server.services.hub
    for path in PATHS:
        with ExitStack() as stack:
            for _ in range(2):
                stack.enter_context(await _ask(api, path))
            async with asyncio.timeout(60):
                while len(hub) < 2:
                    await asyncio.sleep(0.01)
                status, problem, _ = await api.get(path)
        assert (status, problem["code"]) == (429, "too_many_streams")
        async with asyncio.timeout(60):
            while len(hub):
                await asyncio.sleep(0.01)
        assert (await api.get(path))[0] == 200
