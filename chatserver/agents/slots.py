"""Slots: a model's places for concurrent turns, and the room where further turns wait, fair across tenants (spec V6).

Invariants: never more than `limit` hold a place; free places go to the waiting tenants in rounds, one each, and
within a tenant in the order of arrival, so that a tenant with a thousand waiting turns delays another's first by at
most one round; a place is lost neither when a waiter is cancelled nor when that happens at the moment of its turn;
the room is bounded, and a tenant that fills it does not keep others out: its newest turn makes room for theirs.
"""

from __future__ import annotations

import asyncio
from collections import deque

from chatserver.errors import AgentError

_Ticket = asyncio.Future[None]


class Slots:
    """See the module.

    Args:
        limit: turns at once.
        room: turns that may wait for a place, of all tenants together.
    """

    def __init__(self, limit: int, room: int) -> None:
        self._limit = limit
        self._room = room
        self._taken = 0
        self._waiting = 0
        # In the order in which they get the next places. A tenant is in it while one of its turns waits.
        self._tenants: dict[str, deque[_Ticket]] = {}

    @property
    def running(self) -> int:
        """Places taken now."""
        return self._taken

    @property
    def waiting(self) -> int:
        """Turns in the room now."""
        return self._waiting

    async def take(self, tenant: str) -> None:
        """Get a place, which the caller owes a `give`; waits for one.

        Args:
            tenant: whose turn it is.
        Raises:
            AgentError: `model_busy`, the room is full, and no other tenant has more turns in it.
        Cancelling while it waits is safe.
        """
        if self._taken < self._limit:
            self._taken += 1
            return
        if self._waiting >= self._room:
            self._make_room(tenant)
        ticket: _Ticket = asyncio.get_running_loop().create_future()
        self._tenants.setdefault(tenant, deque()).append(ticket)
        self._waiting += 1
        try:
            await ticket
        except asyncio.CancelledError:
            if ticket.cancelled():
                self._forget(tenant, ticket)
            elif ticket.exception() is None:
                self.give()  # the place was handed over in the same turn of the loop: hand it on
            raise

    def give(self) -> None:
        """Hand a place to the next in the room; `running` stays as it is then."""
        while self._tenants:
            tenant, tickets = next(iter(self._tenants.items()))
            ticket = self._pop(tenant, tickets, newest=False)
            if tickets:  # behind the others: its next turn is for the next round
                self._tenants[tenant] = self._tenants.pop(tenant)
            if not ticket.done():  # else its turn was cancelled and has not run since
                ticket.set_result(None)
                return
        self._taken -= 1

    def _make_room(self, tenant: str) -> None:
        """Refuse the newest turn of the tenant with the most, where that is not the one that asks."""
        busiest = max(self._tenants, key=lambda name: len(self._tenants[name]), default=tenant)
        mine = len(self._tenants.get(tenant, ()))
        if busiest == tenant or len(self._tenants[busiest]) <= mine + 1:
            raise _busy()
        ticket = self._pop(busiest, self._tenants[busiest], newest=True)
        if not ticket.done():
            ticket.set_exception(_busy())

    def _pop(self, tenant: str, tickets: deque[_Ticket], *, newest: bool) -> _Ticket:
        ticket = tickets.pop() if newest else tickets.popleft()
        self._waiting -= 1
        if not tickets:
            del self._tenants[tenant]
        return ticket

    def _forget(self, tenant: str, ticket: _Ticket) -> None:
        tickets = self._tenants.get(tenant, deque())
        if ticket in tickets:  # not there any more where `give` came past it first
            tickets.remove(ticket)
            self._waiting -= 1
            if not tickets:
                del self._tenants[tenant]


def _busy() -> AgentError:
    return AgentError("Too many turns are waiting for this model.", code="model_busy")
