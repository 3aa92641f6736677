"""The core under chance against a plain model: 2,000 lives of 50 steps, 100 a round."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.campaigns.campaign import Campaign, Round
from tests.core import state_machine

LIVES = 100
STEPS = 50


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Round]:
    """Rounds share nothing: each life makes its own world."""

    async def one(number: int, random_: random.Random) -> Counter[str]:
        # In a thread: each life drives a loop of its own, step by step.
        await asyncio.to_thread(state_machine.run, LIVES, STEPS, random_.randrange(2**32))
        return Counter(lives=LIVES, steps_at_most=LIVES * STEPS)

    yield one


CAMPAIGN = Campaign(
    name="state-machine",
    promise="Sessions, turns and streams do what a plain model says, whatever is sent, queued, stopped, evicted, "
    "expired, restarted, followed and lost, in whatever order.",
    rounds=20,
    open=opened,
)
