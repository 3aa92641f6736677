"""SIGTERM under load: every stream is told, every acknowledged turn ends, and the process is gone in time (spec D3)."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.campaigns.campaign import Campaign, Round
from tests.campaigns.crowd import TREES, Crowd, story_server
from tests.campaigns.story_agent import story
from tests.checker import Checker, Stream, StreamClosed, Violation

CLIENTS = 10
EXIT_SECONDS = 25.0


@asynccontextmanager
async def opened(folder: Path, *, drain_seconds: float | None = None) -> AsyncIterator[Round]:
    """Rounds on one data directory.

    Args:
        drain_seconds: how long running turns may go on; the server's default (20 s) where None.
    """
    settings = {} if drain_seconds is None else {"drain_seconds": drain_seconds}
    server = story_server(folder / "data", **settings)
    checker = Checker("")

    async def one(number: int, random_: random.Random) -> Counter[str]:
        checker.base_url = await server.start()
        sessions = [f"term-{number}-{n}" for n in range(CLIENTS)]
        endless = f"term-{number}-endless"
        async with (
            Crowd(checker, sessions, seed=str(random_.random()), pause_ms=8, weights=TREES) as crowd,
            checker.follow(endless) as stream,
        ):
            # One turn that does not end by itself, so that the drain has something to cut.
            await checker.send(endless, story(100_000, 50, f"{checker.canary(endless)} and then"))
            await crowd.until_turns(random_.randint(5, 4 * CLIENTS))
            crowd.expect_the_end()
            telling = asyncio.create_task(_last_words(stream), name="last-words")
            try:
                began = asyncio.get_running_loop().time()
                server.signal(signal.SIGTERM)
                status = await server.wait()
                took = asyncio.get_running_loop().time() - began
                goodbye = await telling
            finally:
                telling.cancel()
        if took > EXIT_SECONDS:
            raise Violation(f"the process took {took:.1f} s to end")
        if status != 0:  # the hard way out, for what hangs
            raise Violation(f"the process ended with status {status}")
        if silent := [*([] if goodbye else [endless]), *crowd.without_goodbye]:
            raise Violation(f"streams were closed without a goodbye: {', '.join(silent)}")
        checker.close()
        checker.base_url = await server.start()
        await checker.verify(endless, *sessions)
        answer = (await checker.state(endless))["messages"][-1]
        if answer["status"] != "interrupted" or not answer["content"]:
            raise Violation(f"the turn that was cut is {answer['status']} with {len(answer['content'])} characters")
        await server.kill9()
        checker.close()
        acknowledged = crowd.turns + 1
        for session_id in (endless, *sessions):
            checker.forget(session_id)
        return Counter(terms=1, acknowledged_turns=acknowledged, slowest_exit_ms=int(took * 1000))

    try:
        yield one
    finally:
        checker.close()
        await server.kill9()


async def _last_words(stream: Stream) -> bool:
    """Read to the end; whether a goodbye was the last thing said."""
    try:
        while True:
            await stream.next(timeout_seconds=EXIT_SECONDS + 5)
    except StreamClosed:
        if stream.broken:
            raise Violation("a stream was cut without the end that HTTP asks for") from None
        return bool(stream.events) and stream.events[-1].type == "goodbye"


CAMPAIGN = Campaign(
    name="sigterm",
    promise="A server told to stop while ten clients are at work says goodbye on every stream, ends every acknowledged "
    "turn, and is gone within 25 s.",
    rounds=20,
    open=opened,
    maxima=frozenset({"slowest_exit_ms"}),
)
