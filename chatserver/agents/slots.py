"""Slots: a model's places for concurrent turns, and the room where further turns wait.

Invariants: never more than `limit` hold a place; who waits gets one in the order of arrival; a place is lost neither
when a waiter is cancelled nor when that happens at the moment of its turn; the room is bounded.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from chatserver.errors import AgentError


class Slots:
    """See the module.

    Args:
        limit: turns at once.
        room: turns that may wait for a place.
    """

    def __init__(self, limit: int, room: int) -> None:
        self._limit = limit
        self._room = room
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def running(self) -> int:
        """Places taken now."""
        return self._taken

    @property
    def waiting(self) -> int:
        """Turns in the room now."""
        return len(self._waiting)

    @asynccontextmanager
    async def held(self, tenant: str) -> AsyncIterator[None]:
        """A place, for as long as the context lasts; waits for one.

        Args:
            tenant: whose turn it is. One queue serves all for now.
        Raises:
            AgentError: `model_busy`, the room is full.
        Cancelling while it waits is safe.
        """
        await self._take()
        try:
            yield
        finally:
            self._give()

    async def _take(self) -> None:
        if self._taken < self._limit:
            self._taken += 1
            return
        if len(self._waiting) >= self._room:
            raise AgentError("Too many turns are waiting for this model.", code="model_busy")
        ticket: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(ticket)
        try:
            await ticket
        except asyncio.CancelledError:
            if ticket.cancelled():
                with suppress(ValueError):  # not there any more where `_give` came past it first
                    self._waiting.remove(ticket)
            else:
                self._give()  # the place was handed over in the same turn of the loop: hand it on
            raise

    def _give(self) -> None:
        """Hand the place to the next in the room; `_taken` stays as it is then."""
        while self._waiting:
            ticket = self._waiting.popleft()
            if not ticket.done():  # else its turn was cancelled and has not run since
                ticket.set_result(None)
                return
        self._taken -= 1
