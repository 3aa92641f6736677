"""Transactions: threads that run operations on the database, all that wait in one commit.

One with a single thread is the writer (group commit: the sync to disk, which is most of what a write waits for, is
shared by everybody who waits for it); one with several threads and a batch of one is the readers.

Invariants:

- With one thread, operations take effect in the order they were submitted.
- A result is handed over after the commit that holds it. An operation of a group that raises takes nobody with it:
  the group is rolled back and each runs again in a transaction of its own. One that *returns* a ChatServerError has
  written nothing; its caller gets it raised and the group goes on.
- No more than `limit` operations wait. All that was accepted is run before `close` returns.
- A cancelled caller changes nothing here: what it submitted runs, and its result goes nowhere.

The event loop is woken once per commit, not once per operation. While a thread has work, what is submitted in one round
of the loop is handed over at its end: each operation by itself would stop the loop for a thread that cannot go on
before the loop lets it. It does not know SQL and opens nothing: `connect` does.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

from chatserver.errors import ChatServerError, StoreUnavailable
from chatserver.store.transaction import Transaction

T = TypeVar("T")
Operation = Callable[[Transaction], T | ChatServerError]
_Job = tuple[Operation[Any], asyncio.Future[Any]]


class Database(Protocol):
    """An open connection, used by one thread only."""

    transaction: Transaction

    def begin(self) -> None: ...

    def commit(self) -> None: ...

    def rollback(self) -> None:
        """End the transaction where there is one; never raises."""

    def reads_on(self, error: Exception) -> bool:
        """Whether it was for data that the connection could not read and can read from now on."""

    def translate(self, error: Exception) -> Exception:
        """The driver's error as one of chatserver's, chained to it; any other is returned as it is."""


class Transactions:
    """See the module. Construction does no I/O.

    Args:
        name: of its threads.
        connect: opens the database, in the thread that will use it, and closes it at the end.
        limit: operations that may wait; the next one is refused.
        batch: operations in one commit. It bounds how long the first of a group waits for the last.
        threads: how many; each has a connection of its own.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], AbstractContextManager[Database]],
        *,
        limit: int,
        batch: int,
        threads: int = 1,
    ) -> None:
        self._name = name
        self._connect = connect
        self._limit = limit
        self._batch = batch
        self._threads = threads
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._gathered: list[_Job] = []
        self._waiting = 0
        self._running: list[asyncio.Future[None]] = []  # one a thread, done when it has closed its connection
        self._closed = False
        self.commits = 0

    @property
    def waiting(self) -> int:
        """Operations that wait or run now."""
        return self._waiting

    async def open(self) -> None:
        """Start the threads; returns when each has its connection.

        Raises what `connect` raises; everything is closed again then. Cancelling closes it too.
        """
        self._loop = asyncio.get_running_loop()
        opened = [self._loop.create_future() for _ in range(self._threads)]
        self._running = [self._loop.create_future() for _ in range(self._threads)]
        for number, (up, down) in enumerate(zip(opened, self._running, strict=True)):
            # Daemons: a process that dies without closing must not hang in its exit. What they have not committed
            # was not acknowledged either.
            threading.Thread(
                target=self._run, args=(up, down), name=f"chatserver-{self._name}-{number}", daemon=True
            ).start()
        try:
            # Each is waited for, so that no thread is still opening when the first failure is raised.
            failures = [f for f in await asyncio.gather(*opened, return_exceptions=True) if f is not None]
        except asyncio.CancelledError:
            await self.close()
            raise
        if failures:
            await self.close()
            raise failures[0]

    def submit(self, operation: Operation[T]) -> asyncio.Future[T]:
        """Queue an operation; its future is done when it is committed.

        Args:
            operation: safe to run again after a rollback.
        Raises:
            StoreUnavailable: closed, or `limit` operations wait already.
        """
        if self._closed or not self._running:
            raise StoreUnavailable("the store is closed")
        if self._waiting >= self._limit:
            raise StoreUnavailable("too many operations wait for the store")
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting += 1
        if self._waiting == 1:
            self._jobs.put((operation, future))
        else:
            if not self._gathered:
                self._loop.call_soon(self._hand_over)
            self._gathered.append((operation, future))
        return future

    def _hand_over(self) -> None:
        for job in self._gathered:
            self._jobs.put(job)
        self._gathered.clear()

    async def close(self) -> None:
        """Run what was accepted, close the connections, end the threads. Idempotent; cancelling it only stops the
        waiting."""
        if not self._closed:
            self._closed = True
            self._hand_over()
            for _ in self._running:
                self._jobs.put(None)
        if self._running:
            await asyncio.wait(self._running)

    # --- in the threads ---

    def _run(self, up: asyncio.Future[None], down: asyncio.Future[None]) -> None:
        # Whatever a thread meets is handed to the loop: an exception that ended it would leave callers waiting.
        try:
            with self._connect() as database:
                self._tell(_resolve, [(up, None)])
                while batch := self._take():
                    outcomes = self._run_batch(database, [operation for operation, _ in batch])
                    self._tell(self._deliver, list(zip((f for _, f in batch), outcomes, strict=True)))
                    del batch, outcomes  # they may hold megabytes until the next one comes
        except BaseException as error:
            # Opening failed; `_run_batch` hands over every exception of an operation.
            self._tell(_resolve, [(up, error)])
        finally:
            self._tell(_resolve, [(down, None)])

    def _take(self) -> list[_Job]:
        """Wait for an operation and take along all that wait with it; empty at the end."""
        job = self._jobs.get()
        batch: list[_Job] = []
        try:
            while job is not None:
                batch.append(job)
                if len(batch) == self._batch:
                    return batch
                job = self._jobs.get_nowait()
        except Empty:
            return batch
        if batch:
            self._jobs.put(None)  # the end, which is nobody else's here: submit refuses since `close`
        return batch

    def _run_batch(self, database: Database, operations: list[Operation[Any]]) -> list[Any]:
        """The outcome of each: what it returned, or the exception to raise."""
        if len(operations) > 1:
            try:
                database.begin()
            except Exception as error:
                # Locked, or worse: it would be so for each of them alone, one waiting time after the other.
                return [database.translate(error) for _ in operations]
            try:
                outcomes = [operation(database.transaction) for operation in operations]
                database.commit()
                self.commits += 1
                return outcomes
            except Exception:
                database.rollback()
        return [self._run_alone(database, operation) for operation in operations]

    def _run_alone(self, database: Database, operation: Operation[Any]) -> Any:
        try:
            database.begin()
            outcome = operation(database.transaction)
            database.commit()
            self.commits += 1
            return outcome
        except Exception as error:
            database.rollback()
            return self._run_alone(database, operation) if database.reads_on(error) else database.translate(error)

    def _tell(self, callback: Callable[[list[Any]], None], outcomes: list[Any]) -> None:
        with suppress(RuntimeError):  # the loop was closed without closing the store: nobody is left to be told
            self._loop.call_soon_threadsafe(callback, outcomes)

    # --- on the loop ---

    def _deliver(self, outcomes: list[tuple[asyncio.Future[Any], Any]]) -> None:
        self._waiting -= len(outcomes)
        _resolve(outcomes)


def _resolve(outcomes: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, outcome in outcomes:
        if future.done():
            continue  # its caller was cancelled
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
