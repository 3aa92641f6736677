"""Checkpoints: what running answers gained goes to their tabs at the flush interval, and to the store.

Invariants: one timer flushes all answers that have something waiting; one transaction commits what all of them gained.
What could not be committed is kept, under its old number, for the next time. Nothing here ends a turn.
"""

from __future__ import annotations

import asyncio

from structlog.typing import FilteringBoundLogger

from chatserver.errors import ChatServerError
from chatserver.flush_pace import FlushPace
from chatserver.run import Run
from chatserver.store.base import Store


class Checkpoints:
    """See the module."""

    def __init__(self, store: Store, pace: FlushPace, log: FilteringBoundLogger) -> None:
        self._store = store
        self._pace = pace
        self._log = log
        self._dirty: set[Run] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def flush_soon(self, run: Run) -> None:
        """Flush the run after the flush interval."""
        self._dirty.add(run)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._due = loop.time() + self._pace.interval_seconds
            self._timer = loop.call_at(self._due, self._flush)

    def _flush(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._pace.look(now, now - self._due)
        dirty, self._dirty = self._dirty, set()
        for run in dirty:
            run.flush(now)
        self._pace.wrote(loop.time() - now)

    def forget(self, run: Run) -> None:
        """The run is over."""
        self._dirty.discard(run)

    async def commit(self, *runs: Run) -> None:
        """Commit what these runs gained, in one transaction; kept for the next time where the store is away."""
        taken = [(run, chunk) for run in runs for chunk in run.take_chunks()]
        if not taken:
            return
        try:
            await self._store.checkpoint([chunk for _, chunk in taken])
        except BaseException as error:
            # After a cancel too, which decides nothing: an agent may have given up on a tool call and go on without it.
            for run, chunk in taken:
                run.unsent.append(chunk)
            if not isinstance(error, Exception):
                raise
            # The turn's border: one failure must not end the checkpoints of all turns.
            expected = isinstance(error, ChatServerError)
            self._log.warning("checkpoint_failed", chunks=len(taken), exc_info=None if expected else error)
