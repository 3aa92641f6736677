"""SessionDeletion: removes a session from store, streams and memory at once (spec U4).

Invariants: while it is under way nothing new begins in the session. Its turn is stopped first and given
`delete_grace_seconds` to end; a turn whose end the store can't take is ended here. `session.deleted` is the last event,
told when the session is gone; what a long one held is removed from the store after that, a little at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from chatserver import events as ev
from chatserver.agents.base import ToolServers
from chatserver.config import Settings
from chatserver.errors import ChatServerError, InvalidRequest, Unavailable
from chatserver.live_session import LiveSession
from chatserver.run import Run
from chatserver.session_manager import SessionManager
from chatserver.store.base import SessionKey, SessionRecord, Store
from chatserver.turn_ends import TurnEnds
from chatserver.turn_queue import TurnQueue


class SessionDeletion:
    """See the module."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        manager: SessionManager,
        servers: ToolServers,
        ends: TurnEnds,
        queue: TurnQueue,
    ) -> None:
        self._settings = settings
        self._store = store
        self._manager = manager
        self._servers = servers
        self._ends = ends
        self._queue = queue

    async def delete(self, live: LiveSession, *, force: bool) -> bool:
        """Delete it; False where somebody else has.

        Args:
            force: also if it has messages.
        Raises: InvalidRequest (`session_has_messages`), and what the store raises; the session then stays.
        """
        if not force:
            _check_empty(live.record)  # before anything is stopped for it
        live.deletions += 1
        try:
            while True:
                run: Run | None = live.run
                if run is not None:
                    run.finish("interrupted")
                    await asyncio.wait({run.ended}, timeout=self._settings.delete_grace_seconds)
                async with live.lock:
                    if live.removed:
                        return False
                    if live.run is not None and live.run is not run:
                        continue  # its start was being committed when this began
                    if not force:
                        _check_empty(live.record)
                    existed = await self._delete_now(live)
                    break
        finally:
            live.deletions -= 1
            if not live.removed and live.queued:
                self._queue.resting.add(live)  # the store is away; what was held back may go on
        await self._servers.close_session(live.key)
        await self._clear_deleted()
        return existed

    async def delete_damaged(self, key: SessionKey, *, check: Callable[[SessionRecord], None], force: bool) -> bool:
        """Delete a session that cannot be loaded, and so has no turn and no streams; False where somebody else has.

        Args:
            check: raises where the caller may not; given what can be read of the record.
            force: also if it has messages.
        Raises: as `delete`; Unavailable where it could be loaded meanwhile.
        """
        async with self._manager.kept_out(key):
            if self._manager.peek(key) is not None:
                raise Unavailable("the session has just been mended: try again")
            record = await self._store.listed_record(key)
            if record is None:
                return False
            check(record)
            if not force:
                _check_empty(record)
            existed = await self._store.delete_session(key)
        await self._clear_deleted()
        return existed

    async def _clear_deleted(self) -> None:
        with suppress(ChatServerError):  # the store is away: maintenance goes on with it (session_manager.py)
            while await self._store.clear_deleted():
                pass

    async def _delete_now(self, live: LiveSession) -> bool:
        """Remove it from the store, tell it, remove it from memory; the lock is held."""
        existed = await self._store.delete_session(live.key)
        run: Run | None = live.run
        if run is not None:  # its end could not be committed in time, and need not be any more
            run.close()
            live.append(ev.TurnEnded(run.session_id, run.turn_id, run.answer_id, "interrupted", run.usage))
        live.queued.clear()
        self._ends.forget(live)
        self._queue.resting.discard(live)
        if not live.provisional:
            live.begin_fence(live.fence + 1)  # the store leaves this one out, should the session be made anew
        live.append(ev.SessionDeleted(live.key.session_id))
        self._manager.remove(live)
        return existed


def _check_empty(record: SessionRecord) -> None:
    if record.message_count:
        raise InvalidRequest(
            f"the session has {record.message_count} messages; force=true deletes them with it",
            code="session_has_messages",
        )
