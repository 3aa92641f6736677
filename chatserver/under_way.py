"""UnderWay: the turns that run and the changes being committed, which a drain waits for.

Invariants: a change runs in a task of its own, with its session pinned, so a client that goes away in the middle of a
commit leaves nothing half done (spec L9). `draining` is set once and for all, before the wait begins.

It starts and ends no turn (turn_life.py).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from chatserver.errors import ChatServerError, Draining, Unavailable
from chatserver.live_session import LiveSession
from chatserver.run import Run
from chatserver.session_manager import SessionManager
from chatserver.tasks import Supervisor

T = TypeVar("T")

# A tenant may have so many times as many turns as there are places left for others: nine tenths of all where it is
# alone, and all the same where many want more. However many turns one has waiting, another's first finds a place.
TIMES_THE_FREE = 9


class UnderWay:
    """See the module.

    Args:
        supervisor: owns the tasks of changes.
    """

    def __init__(self, supervisor: Supervisor, manager: SessionManager) -> None:
        self._supervisor = supervisor
        self._manager = manager
        self._changes = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.runs: set[Run] = set()
        self._of_tenant: Counter[str] = Counter()
        self.draining = False
        self.closing = False  # the drain's time is over: what starts now is interrupted at once

    async def protect(self, live: LiveSession | None, work: Coroutine[Any, Any, T], name: str) -> T:
        """Run a change of a session (of several where None) to its end even if the caller goes away.

        Raises: Draining where the server is closing, and what `work` raises.
        Cancelling the caller is safe: the change goes on, pinned, in a task of its own.
        """
        try:
            task = self._supervisor.spawn(_refusable(work), name)
        except Unavailable:
            work.close()
            raise Draining() from None
        if live is not None:
            live.pins += 1
        self._began_change()
        # Waited for in the task's place: a cancelled caller takes this with it, and not the task.
        done = asyncio.get_running_loop().create_future()
        task.add_done_callback(lambda _: self._changed(live, done))
        await done
        if task.cancelled():
            raise Draining()  # the supervisor closed under it; nobody cancelled the caller
        result = task.result()
        if isinstance(result, _Refused):
            raise result.error
        return result

    def _changed(self, live: LiveSession | None, done: asyncio.Future[None]) -> None:
        if live is not None:
            self._manager.unpin(live)
        self._ended_change()
        if not done.done():
            done.set_result(None)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """A drain waits for the block, too: a change in a task that is there already."""
        self._began_change()
        try:
            yield
        finally:
            self._ended_change()

    def _began_change(self) -> None:
        self._changes += 1
        self._idle.clear()

    def _ended_change(self) -> None:
        self._changes -= 1
        self._check_idle()

    def began(self, run: Run) -> None:
        """A turn runs from here on; its session is pinned by it."""
        run.live.run = run
        run.live.pins += 1
        self.runs.add(run)
        self._of_tenant[run.live.key.tenant] += 1
        self._idle.clear()

    def ended(self, run: Run) -> None:
        """The turn is over, whatever became of it; idempotent."""
        if run in self.runs:
            self.runs.discard(run)
            tenant = run.live.key.tenant
            self._of_tenant[tenant] -= 1
            if not self._of_tenant[tenant]:
                del self._of_tenant[tenant]
            run.live.run = None
            self._manager.unpin(run.live)
        if not run.ended.done():
            run.ended.set_result(None)
        self._check_idle()

    def has_room(self, tenant: str, places: int) -> bool:
        """Whether one more turn of that tenant may run, where there are so many places for the turns of all."""
        return self._of_tenant[tenant] < TIMES_THE_FREE * (places - len(self.runs))

    def _check_idle(self) -> None:
        if not self.runs and not self._changes:
            self._idle.set()

    async def until_idle(self, seconds: float) -> bool:
        """Wait until no turn runs and no change is under way; False where that takes longer."""
        try:
            async with asyncio.timeout(max(seconds, 0)):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class _Refused:
    """What a change raises on purpose, as its task's result: a refusal is an answer, not a crash of that task."""

    error: ChatServerError


async def _refusable(work: Coroutine[Any, Any, T]) -> T | _Refused:
    try:
        return await work
    except ChatServerError as error:
        return _Refused(error)
