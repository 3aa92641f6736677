"""Fifty sessions, two hundred random operations each: no word of one is ever seen in another (spec S1–S5)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.campaigns.campaign import Campaign, Round
from tests.campaigns.crowd import Crowd, story_server
from tests.checker import Checker

SESSIONS = 50
OPERATIONS = 200


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Round]:
    """Rounds on one server."""
    async with story_server(folder / "data") as server, Checker(server.base_url) as checker:

        async def one(number: int, random_: random.Random) -> Counter[str]:
            sessions = [f"island-{number}-{n}" for n in range(SESSIONS)]
            crowd = Crowd(checker, sessions, seed=str(random_.random()), operations=OPERATIONS, pause_ms=2)
            async with crowd:
                pass
            await checker.verify(*sessions)
            events = sum(len(checker.history(s).frames) for s in sessions)
            for session_id in sessions:
                checker.forget(session_id)
            return Counter(operations=SESSIONS * OPERATIONS, acknowledged_turns=crowd.turns, events=events)

        yield one


CAMPAIGN = Campaign(
    name="isolation",
    promise="Fifty sessions with two hundred random operations each: no word of one session is seen in another, and "
    "every stream adds up.",
    rounds=20,
    open=opened,
)
