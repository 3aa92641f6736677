"""An agent whose pieces say when they were made, so that a reader on the same machine can tell how late they are.

A message is `tick BURST COUNT PAUSE_MS`: BURST kilobytes as fast as events go, then COUNT pieces, PAUSE_MS milliseconds
apart, each with `@microseconds@` of the system's monotonic clock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

PIECE_KB = 8
# More than the server's flush interval, so that a burst is many events and not one.
BURST_PAUSE_SECONDS = 0.006


async def reply(turn: Any) -> AsyncIterator[str]:
    """Answer a turn."""
    burst_kb, count, pause_ms = (int(word) for word in turn.message.split()[1:])
    for _ in range(burst_kb // PIECE_KB):
        yield "x" * PIECE_KB * 1024
        await asyncio.sleep(BURST_PAUSE_SECONDS)
    for _ in range(count):
        await asyncio.sleep(pause_ms / 1000)
        yield f"@{time.monotonic_ns() // 1000}@"
