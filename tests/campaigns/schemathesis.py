"""schemathesis: requests made from the API's description, right ones and wrong ones (tests/api/fuzz.py)."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.api.fuzz import Fuzz
from tests.campaigns.campaign import Campaign, Round
from tests.server import ServerProcess

CASES_PER_OPERATION = 20
# Said by the server's log about what must never happen.
FAULTS = ("request_failed", "task_crashed", "Traceback", "Unhandled", "never retrieved")


@asynccontextmanager
async def opened(folder: Path, *, cases: int = CASES_PER_OPERATION) -> AsyncIterator[Round]:
    """Rounds on one server: each asks every operation of the description.

    Args:
        cases: of an operation in a round.
    """
    async with ServerProcess(folder / "data") as server:
        fuzz = await asyncio.to_thread(Fuzz, server.base_url)

        async def one(_number: int, chance: random.Random) -> Counter[str]:
            counted: Counter[str] = Counter()
            for operation in fuzz.operations:
                seed = chance.randrange(2**32)
                asked = await asyncio.to_thread(fuzz.run, operation, cases, seed)
                counted += asked + Counter(cases=asked.total())
            log = server.log()
            fault = next((f for f in FAULTS if f in log), None)
            assert fault is None, log[max(0, log.index(fault) - 300) :][:2300]
            assert server.running
            return counted

        try:
            yield one
        finally:
            fuzz.close()


CAMPAIGN = Campaign(
    name="schemathesis",
    promise="schemathesis asks every operation of the API's description, rightly and wrongly: none is answered with a "
    "500, and every answer is as described.",
    rounds=12,
    open=opened,
)
