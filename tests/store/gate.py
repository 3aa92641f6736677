"""Gate: an operation that holds the writer until it is let go, so that others gather behind it."""

from __future__ import annotations

import asyncio
import threading

from chatserver.store.transaction import Transaction

DEADLINE = 60.0


class Gate:
    """See the module."""

    def __init__(self) -> None:
        self._entered = threading.Event()
        self._let_go = threading.Event()

    def __call__(self, _tx: Transaction) -> None:
        self._entered.set()
        assert self._let_go.wait(DEADLINE)

    async def entered(self) -> None:
        assert await asyncio.to_thread(self._entered.wait, DEADLINE)

    def open(self) -> None:
        self._let_go.set()
