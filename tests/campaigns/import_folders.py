"""Hostile import folders: links, traversal, wrong types, huge files, duplicates (tests/transfer/hostile.py)."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from chatserver.config import Settings
from chatserver.store.sql import open_store
from tests.campaigns.campaign import Campaign, Round
from tests.transfer.hostile import judge

CASES_PER_ROUND = 1_000


@asynccontextmanager
async def opened(folder: Path, *, cases: int = CASES_PER_ROUND) -> AsyncIterator[Round]:
    """Rounds, each on a store of its own.

    Args:
        cases: of a round.
    """

    async def one(number: int, chance: random.Random) -> Counter[str]:
        counted: Counter[str] = Counter()
        store = await open_store(Settings(data_dir=folder / "data", database_url=":memory:"))
        try:
            for case in range(cases):
                place = folder / f"{number}-{case}"
                # Of each case its own source of chance: one that fails can be made again alone.
                counted += await judge(store, place, f"t{case}", random.Random(f"{chance.random()}/{case}"))
                shutil.rmtree(place)
        finally:
            await store.close()
        return counted

    yield one


CAMPAIGN = Campaign(
    name="import-folders",
    promise="Hostile import folders (links, traversal, wrong types, huge files, duplicate ids): nothing outside is "
    "read or written, no session is imported by half, and importing again changes nothing.",
    rounds=100,
    open=opened,
)
