"""The fake agent that both servers run: it makes tokens, at a pace or as fast as it is asked, and nothing else.

The message says how: `"200"` is 200 tokens one after the other, `"200 50"` one every 50 ms by the clock. Each token is
five characters, of which exactly one is `MARK`: a reader counts tokens by counting that byte, however many of them
arrive in one event.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

MARK = "~"
TOKEN = f"word{MARK}"
ANSWER_TOKENS = 200


async def tokens(message: str) -> AsyncIterator[str]:
    """The answer to `message`, token by token.

    Between two tokens it gives up the loop once, as an agent that reads them from a socket does.
    """
    count, _, pace = message.partition(" ")
    interval_seconds = float(pace) / 1000 if pace else 0.0
    loop = asyncio.get_running_loop()
    due = loop.time()
    for _ in range(int(count)):
        if interval_seconds:
            # By the clock, not after the last one: a server that is late must not get fewer tokens to do.
            due += interval_seconds
            await asyncio.sleep(due - loop.time())
        else:
            await asyncio.sleep(0)
        yield TOKEN


async def reply(turn: Any) -> AsyncIterator[str]:
    """The same as a Python agent of chatserver: `--agent benchmarks.fake_agent:reply`."""
    async for token in tokens(turn.message):
        yield token
