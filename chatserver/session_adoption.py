"""SessionAdoption: a visitor's sessions pass to the user that the visitor turns out to be (spec S6).

Invariants: afterwards every session that the visitor had when it began is the user's, in the store and in memory, and
none is anybody else's: of two logins that adopt one visitor each session goes to one. A record in memory is changed
under its session's lock, so no commit that was under way puts the old owner back. What fails half-way is finished by
the next login.

Whose streams may go on is the caller's to say (api/accounts.py).
"""

from __future__ import annotations

from dataclasses import replace

from chatserver.clock import Clock
from chatserver.live_session import LiveSession
from chatserver.session_manager import SessionManager
from chatserver.store.base import Store


class SessionAdoption:
    """See the module."""

    def __init__(self, clock: Clock, store: Store, manager: SessionManager) -> None:
        self._clock = clock
        self._store = store
        self._manager = manager

    async def adopt(self, tenant: str, from_owner: str, to_owner: str) -> int:
        """Give all sessions of one owner to another; how many durable ones.

        Raises what the store raises. To be run to its end even if who asked for it goes away.
        """
        # Those in memory only first: one that is being committed meanwhile is found in the store then.
        for live in self._live_of(tenant, from_owner):
            async with live.lock:
                if live.provisional and live.record.owner == from_owner:
                    live.record = replace(live.record, owner=to_owner)
        try:
            adopted = await self._store.adopt_sessions(tenant, from_owner, to_owner, self._clock.now())
        finally:
            await self._follow(tenant, from_owner)
        return len(adopted)

    async def _follow(self, tenant: str, from_owner: str) -> None:
        """Have memory say what the store says of the owner's sessions."""
        await self._manager.loaded(tenant)  # a load that began before the commit brings the old owner
        for live in self._live_of(tenant, from_owner):
            async with live.lock:
                if live.provisional or live.removed:
                    continue
                record = await self._store.record(live.key)
                if record is not None:
                    live.record = replace(live.record, owner=record.owner)

    def _live_of(self, tenant: str, owner: str) -> list[LiveSession]:
        return [live for live in self._manager.live() if live.record.owner == owner and live.key.tenant == tenant]
