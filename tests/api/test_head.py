"""`HEAD`: an answer without a body, wherever `GET` is answered. What came behind its head would be the next answer."""

from __future__ import annotations

import asyncio
import re

import pytest

from chatserver.api.route import EVENT_STREAM
from chatserver.api.routes import ROUTES
from tests.api.conftest import Api

GETS = [r.path for r in ROUTES if r.method == "GET" and r.content != EVENT_STREAM]
VALUES = {"project_id": "default", "session_id": "one", "path": "favicon.svg"}


def _target(path: str) -> str:
    """The path, filled in, of a session that is there."""
    return re.sub(r"\{(\w+)(:[^}]*)?\}", lambda found: VALUES[found[1]], path) + "?session_id=one"


@pytest.mark.parametrize("path", GETS)
async def test_what_follows_a_head_is_the_next_answer(api: Api, path: str) -> None:
    """On the same connection, both asked for at once: two heads, and the second's body."""
    status, _, _ = await api.post("/api/chat", session_id="one", message="/say hello")
    assert status == 200
    reader, writer = await asyncio.open_connection(api.server.host, api.server.port)
    try:
        for method, target in (("HEAD", _target(path)), ("GET", "/health")):
            writer.write(f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        async with asyncio.timeout(60):
            first, second = [(await reader.readuntil(b"\r\n\r\n")).decode() for _ in range(2)]
            length = re.search(r"\r\nContent-Length: (\d+)", second)
            assert length is not None, second
            body = await reader.readexactly(int(length[1]))
    finally:
        writer.close()
    assert first.startswith("HTTP/1.1 200"), first
    assert second.startswith("HTTP/1.1 200"), second
    assert body.startswith(b"{"), body
