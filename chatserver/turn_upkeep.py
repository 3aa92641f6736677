"""TurnUpkeep: what turns need and nobody asks for: recovery at the start, checkpoints, trying again, the drain.

Invariants: what failed for want of the store (an end that is told but not saved, a queue that rests) is tried again at
every checkpoint. A drain takes nothing new, waits, and then leaves no turn running.

It starts no turn by itself (turns.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

from structlog.typing import FilteringBoundLogger

from chatserver.checkpoints import Checkpoints
from chatserver.clock import Clock
from chatserver.config import Settings
from chatserver.errors import ChatServerError, SessionDamaged
from chatserver.live_session import LiveSession
from chatserver.session_manager import SessionManager
from chatserver.store.base import SessionKey, Store
from chatserver.tasks import Supervisor
from chatserver.turn_ends import TERMINAL_RETRY_SECONDS, TurnEnds
from chatserver.turn_queue import TurnQueue
from chatserver.under_way import UnderWay

# How long a queued turn that finds the server full, or the store away, waits before it is tried again.
RESUME_SECONDS = 0.5
# A stop and a drain wait for turns to end; a turn's end waits for the store at most so long, and then ends.
END_SECONDS = TERMINAL_RETRY_SECONDS + 1


class TurnUpkeep:
    """See the module.

    Args:
        start_next: starts a session's next queued turn, with the lock held; does not raise.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        store: Store,
        manager: SessionManager,
        supervisor: Supervisor,
        log: FilteringBoundLogger,
        under_way: UnderWay,
        ends: TurnEnds,
        queue: TurnQueue,
        checkpoints: Checkpoints,
        start_next: Callable[[LiveSession], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._store = store
        self._manager = manager
        self._supervisor = supervisor
        self._log = log
        self._under_way = under_way
        self._ends = ends
        self._queue = queue
        self._checkpoints = checkpoints
        self._start_next = start_next

    async def recover(self) -> int:
        """Once, at start: end what a crash left running and take up what it left queued; how many were ended."""
        found = await self._store.recover(self._clock.now())
        if found.queued:
            self._supervisor.start(self._resume_queues(found.queued), "resume-queues")
        return found.interrupted

    async def _resume_queues(self, keys: tuple[SessionKey, ...]) -> None:
        waiting = deque(keys)
        while waiting and not self._under_way.draining:
            places = self._settings.max_running_turns
            key = next((key for key in waiting if self._under_way.has_room(key.tenant, places)), None)
            if key is None:
                await self._clock.sleep(RESUME_SECONDS)
                continue
            waiting.remove(key)
            try:
                live = await self._manager.pin(key)
            except SessionDamaged as error:  # its messages wait in the store until somebody has mended it
                self._log.error("queue_not_resumed", code=error.narrow_code)
                continue
            except ChatServerError as error:  # one that can't be read now must not hold up the others
                self._log.error("queue_not_resumed", code=error.narrow_code)
                waiting.append(key)
                await self._clock.sleep(RESUME_SECONDS)
                continue
            if live is None:
                continue
            try:
                async with live.lock:
                    await self._start_next(live)
            finally:
                self._manager.unpin(live)

    async def run(self) -> None:
        """Checkpoint all running turns for ever; owned by the application. Cancelling is safe."""
        while True:
            await self._clock.sleep(self._settings.checkpoint_interval_seconds)
            await self._checkpoints.commit(*self._under_way.runs)
            await self._catch_up()

    async def _catch_up(self) -> None:
        """Do what failed before: commit the ends of turns that are told but not saved, start queues that rest."""
        for live in {*self._ends.unsaved, *self._queue.resting}:
            if live.lock.locked():
                continue  # whoever holds it may wait long for the store; the other turns' checkpoints must not
            async with live.lock:
                try:
                    await self._ends.settle(live)
                except ChatServerError as error:
                    if error.temporary:
                        return  # one that fails tells for all
                    continue  # a damaged page of the database: it is this session's alone
                except Exception as error:  # the turn's border: what can't be saved must not stop the checkpoints
                    self._log.error("turn_end_not_saved", turn_id=live.unsaved.turn_id, exc_info=error)
                    continue
                await self._start_next(live)

    async def drain(self, seconds: float) -> None:
        """Accept nothing new, give running turns `seconds`, then interrupt and commit them. Idempotent."""
        under_way = self._under_way
        under_way.draining = True
        if not await under_way.until_idle(seconds):
            self._log.info("drain_interrupts", turns=len(self._under_way.runs))
        under_way.closing = True
        for run in list(under_way.runs):
            run.finish("interrupted")
        await under_way.until_idle(END_SECONDS)
        await self._catch_up()
        if self._ends.unsaved:
            self._log.error("turn_ends_lost", turns=len(self._ends.unsaved))
