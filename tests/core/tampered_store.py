"""TamperedStore: a real store behind a wall that can be made to fail, to hold still, or to die.

A call that fails or dies here never reaches the store, so "raises and nothing of it happened" stays true; `fail_after`
is the exception that crashes make: committed, and nobody was told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from chatserver.errors import StoreFull, StoreUnavailable
from tests.core.virtual import outside

WRITES = (
    "create_session",
    "start_turn",
    "enqueue_turn",
    "withdraw_turn",
    "checkpoint",
    "finish_turn",
    "add_usage",
    "add_message",
    "update_session",
    "name_session",
    "delete_session",
    "clear_deleted",
    "annotate_message",
    "choose_leaf",
    "fork_session",
    "adopt_sessions",
    "purge_expired",
)


class Gate:
    """Holds calls of a method until it is opened; `reached` tells that one stands before it (or, `after`, behind)."""

    def __init__(self, *, after: bool = False) -> None:
        self.after = after
        self.reached = asyncio.Event()
        self._open = asyncio.Event()

    def open(self) -> None:
        self._open.set()

    async def pass_through(self) -> None:
        self.reached.set()
        await self._open.wait()


class TamperedStore:
    """Implements Store around `store`.

    Args:
        refuse: looks at each call (method and arguments), and raises where it is to fail.
    """

    def __init__(self, store: Any, refuse: Callable[[str, tuple[Any, ...]], None] = lambda *_: None) -> None:
        self.real = store
        self._refuse = refuse
        self.calls: list[str] = []
        self.dead = False
        self._broken: dict[str, Callable[[], Exception]] = {}
        self._gates: dict[str, Gate] = {}

    def break_(self, *methods: str, error: Callable[[], Exception] = StoreUnavailable) -> None:
        """These methods (every write where none is named) raise from now on."""
        for method in methods or WRITES:
            self._broken[method] = error

    def fill(self) -> None:
        """The disk is full."""
        self.break_(error=StoreFull)

    def mend(self) -> None:
        """Everything works again."""
        self._broken.clear()

    def gate(self, method: str, *, after: bool = False) -> Gate:
        """Hold the next calls of `method`, before they reach the store or (`after`) before they return."""
        gate = self._gates[method] = Gate(after=after)
        return gate

    def ungate(self, method: str) -> None:
        self._gates.pop(method).open()

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.real, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            gate = self._gates.get(name)
            if gate is not None and not gate.after:
                await gate.pass_through()
            if self.dead:
                await asyncio.get_running_loop().create_future()  # its process has gone
            if name in self._broken:
                await asyncio.sleep(0)
                raise self._broken[name]()
            self._refuse(name, args)
            with outside():
                result = await real(*args, **kwargs)
            if gate is not None and gate.after:
                await gate.pass_through()
            if self.dead:
                await asyncio.get_running_loop().create_future()
            return result

        return call
