"""The curl commands that the design was tested with by hand, as they were written (the port aside)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.campaigns.crowd import story_server
from tests.checker import Checker

pytestmark = pytest.mark.chaos


async def _curl(*arguments: str) -> bytes:
    process = await asyncio.create_subprocess_exec("curl", "--silent", *arguments, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    return output


async def _until_ended(url: str) -> bytes:
    """What a stream says until the end of its first turn."""
    process = await asyncio.create_subprocess_exec(
        *("curl", "--silent", "--no-buffer", "--max-time", "60", url), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    seen = b""
    while b"turn.ended" not in seen and (some := await process.stdout.read(1 << 16)):
        seen += some
    process.terminate()
    await process.communicate()
    return seen


async def test_two_sessions_by_curl_are_isolated(tmp_path: Path) -> None:
    """Two messages to two sessions, two streams: each stream has its own session's words and not the other's."""
    async with story_server(tmp_path / "data") as server, Checker(server.base_url) as checker:
        streams = [
            asyncio.create_task(_until_ended(f"{server.base_url}/api/chat/stream?session_id=session-{n}"))
            for n in (1, 2)
        ]
        for n in (1, 2):
            answer = json.loads(
                await _curl(
                    *("-X", "POST", f"{server.base_url}/api/chat", "-H", "Content-Type: application/json"),
                    *("-d", f'{{"message":"Hello from session {n}","session_id":"session-{n}"}}'),
                )
            )
            assert answer["session_id"] == f"session-{n}"
        await checker.verify("session-1", "session-2")
        seen = await asyncio.gather(*streams)
    for n, output in enumerate(seen, 1):
        assert b"Hello from session %d" % n in output
        assert b"turn.ended" in output
        assert b"Hello from session %d" % (3 - n) not in output
