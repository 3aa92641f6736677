"""Owned tasks: the only place that starts one.

Invariants: every task has a name and an owner (a Supervisor), is cancelled and awaited when its owner closes, and a
crash is reported once, with its name, never lost. asyncio keeps only weak references to tasks; the set here is the
strong one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from chatserver.errors import Unavailable

T = TypeVar("T")
CrashHandler = Callable[[str, BaseException], None]


class Supervisor:
    """Owns tasks until they end or it closes.

    Args:
        name: shown in the names of its tasks.
        on_crash: called with the task's name and its exception when one ends by an exception.
    """

    def __init__(self, name: str, on_crash: CrashHandler) -> None:
        self._name = name
        self._on_crash = on_crash
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, coro: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Start `coro` as an owned task.

        Raises:
            Unavailable: the supervisor is closed; `coro` is closed unrun.
        """
        if self._closed:
            coro.close()
            raise Unavailable(f"{self._name} is closed")
        task = asyncio.get_running_loop().create_task(coro, name=f"{self._name}/{name}")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def start(self, coro: Coroutine[Any, Any, None], name: str) -> None:
        """`spawn` for a task that nobody awaits: its owner is this supervisor alone."""
        _ = self.spawn(coro, name)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_crash(task.get_name(), error)

    async def close(self, grace_seconds: float = 5.0) -> None:
        """Cancel everything owned and wait for it; idempotent.

        Args:
            grace_seconds: how long tasks may take to end after the cancel. One that ignores it longer is
                reported through `on_crash` and left: waiting for ever would turn a bad agent into a server that
                never exits.
        """
        self._closed = True
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            _, stuck = await asyncio.wait(tasks, timeout=grace_seconds)
            for task in stuck:
                self._on_crash(task.get_name(), TimeoutError(f"ignored its cancellation for {grace_seconds} s"))
