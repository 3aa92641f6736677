"""Virtual time: a loop on which an hour costs nothing, and a clock that reads it.

Invariants: time passes only when nothing else is left to do, and then straight to the next timer; so a test is as exact
as its program and never sleeps to synchronise. A test whose every task waits for something that nobody will do fails at
once with `NothingWillHappen` instead of hanging. While work outside the loop is under way (the store's threads, counted
by `outside`), time stands still and the loop waits for it in earnest.

Does not own: what runs on it. Sockets and subprocesses do not belong on this loop; nothing counts them as outside work.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
import uuid
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

# 2026-01-01T00:00:00Z.
EPOCH = 1767225600.0
# Work of the store's threads is over in milliseconds; this long, the test hangs.
OUTSIDE_SECONDS = 30.0
# What a busy test may do without time passing; more is a loop that spins.
SPINS = 1_000_000


class NothingWillHappen(AssertionError):
    """Every task waits, and nothing is left that could wake one."""


class _Selector:
    """Real descriptors (the loop's own wake-up pipe), virtual waiting."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._real = selectors.DefaultSelector()
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def select(self, timeout: float | None = None) -> list[Any]:
        events = self._real.select(0)
        if events or timeout == 0:
            return events
        loop = self._loop
        if loop.outside_count:
            events = self._real.select(OUTSIDE_SECONDS)
            if not events:
                raise NothingWillHappen("work outside the loop does not come back")
            return events
        if loop.idlers:
            for waiter in loop.idlers:
                if not waiter.done():
                    waiter.set_result(None)
            loop.idlers.clear()
        elif timeout is None:
            raise NothingWillHappen("\n".join(sorted(repr(t) for t in asyncio.all_tasks(loop))))
        else:
            loop.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        self.now = 0.0
        self.outside_count = 0
        self.idlers: list[asyncio.Future[None]] = []
        self.complaints: list[str] = []
        super().__init__(_Selector(self))  # type: ignore[arg-type]  # all of a selector that asyncio uses
        self._clock_resolution = 1e-6
        self.set_exception_handler(self._complain)

    def _complain(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.complaints.append(f"{context.get('message')}: {context.get('exception')!r}")

    def time(self) -> float:
        return self.now

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Time stands still while the block waits for a thread."""
        self.outside_count += 1
        try:
            yield
        finally:
            self.outside_count -= 1

    async def idle(self) -> None:
        """Return when nothing more happens unless time passes."""
        waiter = self.create_future()
        self.idlers.append(waiter)
        await waiter


def virtual_loop() -> VirtualLoop:
    """The loop that runs now."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop), "this runs on virtual time only"
    return loop


def outside() -> AbstractContextManager[None]:
    """Around what waits for a thread: virtual time stands still meanwhile. Nothing on a loop of another kind."""
    loop = asyncio.get_running_loop()
    return loop.outside() if isinstance(loop, VirtualLoop) else nullcontext()


async def settle() -> None:
    """Let everything happen that needs no time."""
    await virtual_loop().idle()


async def advance(seconds: float) -> None:
    """Let `seconds` pass, and everything that they bring about happen."""
    await settle()
    await asyncio.sleep(seconds)
    await settle()


def run(work: Coroutine[Any, Any, Any], loop: VirtualLoop | None = None) -> Any:
    """Run a test on a loop of its own; it fails for tasks that it leaves and for errors that only the loop saw."""
    with asyncio.Runner(debug=True, loop_factory=(lambda: loop) if loop else VirtualLoop) as runner:
        result = runner.run(work)
        own: VirtualLoop = runner.get_loop()  # type: ignore[assignment]  # as made above
        left = [repr(task) for task in asyncio.all_tasks(own)]
        assert not left, "tasks left running:\n" + "\n".join(left)
        assert not own.complaints, "\n".join(own.complaints)
    return result


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on virtual time. Its fixtures must not be async."""

    @functools.wraps(test)
    def on_virtual_time(*args: Any, **kwargs: Any) -> None:
        run(test(*args, **kwargs))

    return on_virtual_time


class FakeClock:
    """Implements chatserver.clock.Clock over the loop's virtual time; ids come in order."""

    def __init__(self) -> None:
        self._ids = 0

    def now(self) -> float:
        return EPOCH + asyncio.get_running_loop().time()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def new_id(self) -> str:
        self._ids += 1
        return str(uuid.UUID(int=self._ids, version=4))
