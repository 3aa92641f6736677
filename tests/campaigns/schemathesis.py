"""schemathesis: requests made from the API's description, right ones and wrong ones (tests/api/fuzz.py)."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from chatserver.accounts import new_user
from chatserver.auth.passwords import Passwords
from chatserver.clock import SystemClock
from chatserver.config import Settings
from chatserver.store.sql import open_accounts
from tests.api.fuzz import PASSWORD, Fuzz
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
    limits = dict.fromkeys(("login_attempts_per_minute", "login_attempts_per_address_per_minute"), 1_000_000)
    more = {"password_memory_kib": 64, "password_rounds": 1, "ping_interval_seconds": 0.05}
    async with ServerProcess(folder / "data", settings=limits | more) as server:
        operator = {"tenant": "acme", "username": "operator", "password": PASSWORD}
        settings = Settings(data_dir=folder / "data")
        passwords = Passwords(memory_kib=64, rounds=1, waiting=1)
        async with open_accounts(settings) as store:
            await new_user(settings, store, passwords, SystemClock(), **operator, scopes=frozenset({"admin"}))
        await passwords.close()
        fuzz = await asyncio.to_thread(Fuzz, server.base_url, ("acme", "operator"))

        async def one(_number: int, chance: random.Random) -> Counter[str]:
            counted: Counter[str] = Counter()
            for operation in fuzz.operations:
                seed = chance.randrange(2**32)
                asked = await asyncio.to_thread(fuzz.run, operation, cases, seed)
                counted += asked + Counter(cases=sum(n for name, n in asked.items() if name.startswith("as_")))
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
    promise="schemathesis asks every operation of the API's description, rightly and wrongly, as a visitor, as a user "
    "by token and by cookie, and as an operator: none is answered with a 500, and every answer and every event of a "
    "stream is as described.",
    rounds=12,
    open=opened,
)
