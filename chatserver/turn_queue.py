"""TurnQueue: the messages that wait for their turn.

Invariants: what waits is stored before it is told, and starts in the order of its places. What a stop is about to take
back does not start any more.

When the next one starts is turns.py's to say.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from chatserver import events as ev
from chatserver.clock import Clock, rfc3339
from chatserver.live_session import LiveSession
from chatserver.session_changes import SessionChanges
from chatserver.store.base import Duplicate, Store, StoredTurn


class TurnQueue:
    """See the module. The session's lock is held by whoever calls, except for `doom`, `spare` and `next_of`.

    `resting` are the sessions whose next turn could not be started.
    """

    def __init__(self, clock: Clock, store: Store, changes: SessionChanges) -> None:
        self._clock = clock
        self._store = store
        self._changes = changes
        self._doomed: set[str] = set()
        self.resting: set[LiveSession] = set()

    def next_of(self, live: LiveSession) -> StoredTurn | None:
        """The turn that is to start next; None where none waits."""
        return next((turn for turn in live.queued.values() if turn.turn_id not in self._doomed), None)

    def doom(self, turn_ids: Iterable[str]) -> None:
        """These do not start any more; they are about to be taken back."""
        self._doomed.update(turn_ids)

    def spare(self, turn_ids: Iterable[str]) -> None:
        """What is left of these may start."""
        self._doomed.difference_update(turn_ids)

    async def put(self, live: LiveSession, turn: StoredTurn, *, first: bool, expires_at: float) -> Duplicate | None:
        """Store a turn behind the others, or (`first`) before them, and tell it.

        Args:
            expires_at: of the session, in seconds since the epoch.
        Returns:
            The turn that used its `client_message_id` before; nothing has changed then.
        """
        if live.run is None:  # a queue that rests; the fence first, so that nothing is queued when there is none
            await self._changes.new_fence(live, {})
        duplicate = await self._store.enqueue_turn(
            live.key, turn, first=first, expires_at=expires_at, now=self._clock.now()
        )
        if duplicate is not None:
            return duplicate
        sid, turn_id = live.key.session_id, turn.turn_id
        live.record = replace(live.record, expires_at=expires_at)
        live.append(ev.SessionUpdated(sid, {"expires_at": rfc3339(expires_at)}))
        live.queued = {turn_id: turn, **live.queued} if first else {**live.queued, turn_id: turn}
        place = 1 if first else len(live.queued)
        live.append(ev.TurnQueued(sid, turn_id, turn.message.id, place, turn.message))
        return None

    async def take_back(self, live: LiveSession, turn_id: str) -> bool:
        """Withdraw one; False where it is not queued (any more)."""
        turn = live.queued.get(turn_id)
        if turn is None:
            return False
        if live.run is None:  # a queue that rests; the fence first, so that what is withdrawn can be told
            await self._changes.new_fence(live, {})
        await self._store.withdraw_turn(live.key, turn_id)
        del live.queued[turn_id]
        live.append(ev.TurnEnded(live.key.session_id, turn_id, turn.message.id, "interrupted"))
        return True
