"""Indexing: brings what people wrote into the full-text index while nobody needs the store (decision 0008).

Invariants: it is for those whose first search would have to wait; a search itself indexes what is left. While writes
come in it rests, so a turn costs nothing for it; when they have paused it takes a share of the time, in transactions
that are as short as those of a search. Stopping it loses nothing.
"""

from __future__ import annotations

from structlog.typing import FilteringBoundLogger

from chatserver.clock import Clock
from chatserver.errors import ChatServerError
from chatserver.store.base import Store

# The store is quiet when it makes no more commits than this in this time: somebody who reads and now and then writes.
LOOK_SECONDS = 1.0
QUIET_COMMITS = 5
# Transactions between two such looks, of 2 to 20 ms each: a few seconds. If others commit meanwhile, they are the last.
TOGETHER = 100
OTHERS_COMMITS = 2
# Rest after each transaction, in times of what it took: a quarter of a core at most, and room for everybody else.
REST = 3.0
# Between two walks through all owners, of whom a million take some seconds of a reader.
ROUND_SECONDS = 600.0


async def index_ahead(store: Store, clock: Clock, log: FilteringBoundLogger) -> None:
    """For ever; owned by the application. Cancelling is safe at any point."""
    while True:
        commits = store.counts().commits
        await clock.sleep(LOOK_SECONDS)
        if store.counts().commits - commits > QUIET_COMMITS:
            continue
        try:
            is_more = await _some(store, clock)
        except ChatServerError as error:
            log.warning("not_indexed_ahead", code=error.narrow_code)
            is_more = False
        if not is_more:
            await clock.sleep(ROUND_SECONDS)


async def _some(store: Store, clock: Clock) -> bool:
    """Up to TOGETHER transactions, fewer where somebody writes; whether the round goes on."""
    for _ in range(TOGETHER):
        begun, commits = clock.monotonic(), store.counts().commits
        if not await store.index_ahead(clock.now()):
            return False
        await clock.sleep(REST * (clock.monotonic() - begun))
        if store.counts().commits - commits > 1 + OTHERS_COMMITS:
            break
    return True
