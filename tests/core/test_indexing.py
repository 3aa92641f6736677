"""When texts are indexed ahead of a search: while the store is quiet, and never while people write."""

from __future__ import annotations

import io
from collections import deque
from typing import Any

import structlog

from chatserver.errors import StoreFull
from chatserver.indexing import LOOK_SECONDS, OTHERS_COMMITS, QUIET_COMMITS, REST, ROUND_SECONDS, TOGETHER, index_ahead
from chatserver.store.base import StoreCounts


class Stop(Exception):
    """The clock has no more time to give."""


class Plan:
    """A store, and a clock that does to it what the test says while it is waited for."""

    def __init__(self, *, work: int, writes: list[int], error: Exception | None = None) -> None:
        self.slept: list[float] = []
        self.indexed = 0
        self.busy_at = 0
        self._work = work
        self._writes = deque(writes)
        self._error = error
        self._commits = 0
        self._time = 0.0

    def counts(self) -> StoreCounts:
        return StoreCounts(self._commits, 0)

    async def index_ahead(self, now: float) -> bool:
        if self._error is not None:
            raise self._error
        self._time += 0.25
        self._commits += 1
        self._work -= 1
        self.indexed += 1
        return self._work > 0

    def now(self) -> float:
        return self._time

    monotonic = now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if seconds == REST * 0.25 and self.indexed == self.busy_at:
            self._commits += OTHERS_COMMITS + 1
        if seconds == LOOK_SECONDS:
            if not self._writes:
                raise Stop
            self._commits += self._writes.popleft()


async def run(plan: Any) -> str:
    log = io.StringIO()
    try:
        await index_ahead(plan, plan, structlog.wrap_logger(structlog.PrintLogger(log)))
    except Stop:
        return log.getvalue()


async def test_nothing_is_indexed_ahead_while_people_write() -> None:
    """It looks again and again, and goes on in the first pause."""
    plan = Plan(work=1, writes=[QUIET_COMMITS + 1, 1000, QUIET_COMMITS])
    await run(plan)
    assert plan.indexed == 1
    assert plan.slept == [LOOK_SECONDS] * 3 + [ROUND_SECONDS, LOOK_SECONDS]


async def test_indexing_ahead_leaves_most_of_the_time_to_others() -> None:
    """It rests longer after each transaction than that took, and looks again after some of them."""
    plan = Plan(work=TOGETHER + 2, writes=[0, 0])
    await run(plan)
    assert plan.indexed == TOGETHER + 2
    rests = [REST * 0.25] * TOGETHER
    assert plan.slept == [LOOK_SECONDS, *rests, LOOK_SECONDS, rests[0], ROUND_SECONDS, LOOK_SECONDS]


async def test_indexing_ahead_gives_way_at_once_when_people_write() -> None:
    """Not only at the next look."""
    plan = Plan(work=9, writes=[0, 1000, 0])
    plan.busy_at = 3
    await run(plan)
    assert plan.slept[:6] == [LOOK_SECONDS, *[REST * 0.25] * 3, LOOK_SECONDS, LOOK_SECONDS]
    assert plan.indexed == 9


async def test_a_store_in_trouble_is_left_alone_for_a_while() -> None:
    """It is said once, and tried again in the next round."""
    plan = Plan(work=9, writes=[0, 0], error=StoreFull())
    told = await run(plan)
    assert told.count("not_indexed_ahead") == 2
    assert plan.slept == [LOOK_SECONDS, ROUND_SECONDS] * 2 + [LOOK_SECONDS]
