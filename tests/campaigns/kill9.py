"""kill -9 at a random moment, again and again on the same data: nothing acknowledged is ever lost (spec D2)."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from pathlib import Path

from tests.campaigns.campaign import Campaign, Round
from tests.campaigns.crowd import TREES, Crowd, story_server
from tests.checker import Checker, Violation

CLIENTS = 10
# Sessions that go on in the next round, so that what one crash left behind meets the next one; not for ever, since a
# state shows the newest 200 messages only.
KEPT = 3
KEPT_ROUNDS = 4
# A checkpoint every 500 ms (spec D2), the time its commit takes, and the delay until the client has read an event.
CHECKPOINT_SECONDS = 1.5


@asynccontextmanager
async def opened(folder: Path, *, checkpoint_seconds: float = CHECKPOINT_SECONDS) -> AsyncIterator[Round]:
    """Rounds on one data directory; the server lives only inside them.

    Args:
        checkpoint_seconds: what was read so long before the crash has to be stored.
    """
    server = story_server(folder / "data")
    checker = Checker("")
    kept: list[str] = []
    cut_earlier: set[str] = set()

    async def one(number: int, random_: random.Random) -> Counter[str]:
        checker.base_url = await server.start()
        sessions = [f"kill-{number}-{n}" for n in range(CLIENTS - len(kept))] + kept
        async with Crowd(
            checker, sessions, seed=str(random_.random()), pause_ms=random_.choice((0, 5, 25)), weights=TREES
        ) as crowd:
            await crowd.until_turns(random_.randint(1, 4 * CLIENTS))
            await asyncio.sleep(random_.random() * 0.4)
            crowd.expect_the_end()
            killed_at = time.monotonic()
            await server.kill9()
        checker.close()
        checker.base_url = await server.start()
        cut = await after_the_crash(checker, sessions, killed_at, cut_earlier, checkpoint_seconds=checkpoint_seconds)
        cut_earlier.update(cut)
        await server.kill9()
        checker.close()
        acknowledged = crowd.turns
        kept[:] = sessions[:KEPT] if (number + 1) % KEPT_ROUNDS else []
        for session_id in set(sessions) - set(kept):
            checker.forget(session_id)
        return Counter(kills=1, acknowledged_turns=acknowledged, answers_cut=len(cut))

    try:
        yield one
    finally:
        checker.close()
        await server.kill9()


async def after_the_crash(
    checker: Checker,
    sessions: Sequence[str],
    killed_at: float,
    cut_earlier: AbstractSet[str] = frozenset(),
    *,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> set[str]:
    """Hold the sessions against what was promised before the crash; gives the answers that it cut.

    Args:
        killed_at: when, by `time.monotonic`.
        cut_earlier: answers that an earlier crash cut.
        checkpoint_seconds: what was read so long before the crash has to be stored.
    Raises:
        Violation: something is lost, or more of an answer than the last checkpoint may cost.
    """
    await checker.verify(*sessions)
    cut: set[str] = set()
    for session_id in sessions:
        messages = {m["id"]: m for m in (await checker.state(session_id))["messages"]}
        for message_id, answer in checker.history(session_id).answers().items():
            stored = messages.get(message_id)
            if answer.ended or stored is None or message_id in cut_earlier:
                continue
            cut.add(message_id)
            safe = answer.characters_at(killed_at - checkpoint_seconds)
            if len(stored["content"]) < safe:
                raise Violation(
                    f"session {session_id!r}, answer {message_id}: {safe} characters were there "
                    f"{checkpoint_seconds} s before the crash, {len(stored['content'])} are stored"
                )
    return cut


CAMPAIGN = Campaign(
    name="kill9",
    promise="A server killed at a random moment, with ten clients at work, loses no acknowledged message; each "
    "acknowledged turn ends in exactly one terminal state.",
    rounds=100,
    open=opened,
)
