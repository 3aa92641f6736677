"""Transactions: one commit for all that wait, and one failure for the one that failed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import pytest

from chatserver.errors import Conflict, NotFound, StartupError, StoreUnavailable
from chatserver.store import sqlite
from chatserver.store.sqlite import Database, Location
from chatserver.store.transaction import Transaction
from chatserver.store.writer import Operation, Transactions
from tests.store.gate import DEADLINE, Gate


def memory() -> AbstractContextManager[Database]:
    return sqlite.writing(Location(None, 1.0))


@asynccontextmanager
async def writer(
    *, limit: int = 1000, batch: int = 256, threads: int = 1, connect: Callable[[], Any] = memory
) -> AsyncIterator[Transactions]:
    """An open writer on a table `n (value)` that refuses the same value twice."""
    transactions = Transactions("test", connect, limit=limit, batch=batch, threads=threads)
    await transactions.open()
    if threads == 1:
        await transactions.submit(
            lambda tx: tx.connection.execute("CREATE TABLE n (value INTEGER UNIQUE)", ()) and None
        )
    try:
        yield transactions
    finally:
        await transactions.close()


def _make_table(tx: Transaction) -> None:
    tx.connection.execute("CREATE TABLE n (value INTEGER UNIQUE)", ())


def insert(value: int) -> Operation[int]:
    return lambda tx: tx.connection.execute("INSERT INTO n VALUES (?)", (value,)).rowcount


def _values(tx: Transaction) -> list[int]:
    return [value for (value,) in tx.connection.execute("SELECT value FROM n ORDER BY rowid", ()).fetchall()]


async def gathered(transactions: Transactions, operations: list[Operation[Any]]) -> list[Any]:
    """The outcomes of operations that waited together."""
    gate = Gate()
    held = transactions.submit(gate)
    await gate.entered()
    futures = [transactions.submit(operation) for operation in operations]
    await asyncio.sleep(0)  # they are handed over at the end of this round
    gate.open()
    await held
    return await asyncio.gather(*futures, return_exceptions=True)


async def test_all_that_wait_share_one_commit() -> None:
    """A hundred waiting writes cost one sync to disk."""
    async with writer() as transactions:
        before = transactions.commits

        outcomes = await gathered(transactions, [insert(n) for n in range(100)])

        assert outcomes == [1] * 100
        assert transactions.commits - before == 2, "the one that was held, and the group"


async def test_a_group_is_bounded() -> None:
    """The first of a group must not wait for ever longer ones."""
    async with writer(batch=10) as transactions:
        before = transactions.commits

        await gathered(transactions, [insert(n) for n in range(95)])

        assert transactions.commits - before == 1 + 10


async def test_operations_take_effect_in_the_order_they_were_submitted() -> None:
    """Over groups, and through a group that had to be run again."""
    async with writer(batch=7) as transactions:
        operations = [insert(n) for n in range(50)]
        operations.insert(25, insert(3))

        outcomes = await gathered(transactions, operations)

        assert await transactions.submit(_values) == list(range(50))
        assert isinstance(outcomes[25], Conflict)


async def test_only_the_operation_that_raises_fails() -> None:
    """Its neighbours run again without it; what it wrote before it raised is gone."""

    def guilty(tx: Transaction) -> None:
        tx.connection.execute("INSERT INTO n VALUES (99)", ())
        raise LookupError("mine")

    async with writer() as transactions:
        outcomes = await gathered(transactions, [insert(1), guilty, insert(2), insert(1), insert(3)])

        assert [type(o) for o in outcomes] == [int, LookupError, int, Conflict, int]
        assert await transactions.submit(_values) == [1, 2, 3]


async def test_an_error_that_is_returned_costs_the_others_nothing() -> None:
    """It is raised to its caller; nobody runs twice."""
    runs: list[int] = []

    def counting(value: int) -> Operation[int]:
        def run(tx: Transaction) -> int:
            runs.append(value)
            return insert(value)(tx)  # type: ignore[return-value]  # an int: insert returns no error

        return run

    async with writer() as transactions:
        outcomes = await gathered(transactions, [counting(1), lambda _: NotFound("gone"), counting(2)])

        assert outcomes[0] == outcomes[2] == 1
        assert isinstance(outcomes[1], NotFound)
        assert runs == [1, 2]


async def test_a_full_queue_refuses() -> None:
    """And takes again when it has room; what it had accepted is done."""
    async with writer(limit=5) as transactions:
        gate = Gate()
        accepted = [transactions.submit(gate)]
        await gate.entered()
        accepted += [transactions.submit(insert(n)) for n in range(4)]

        with pytest.raises(StoreUnavailable):
            transactions.submit(insert(4))

        gate.open()
        await asyncio.gather(*accepted)
        await transactions.submit(insert(4))
        assert await transactions.submit(_values) == [0, 1, 2, 3, 4]


async def test_a_cancelled_caller_leaves_no_trace_but_its_write(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is logged, the thread goes on, the neighbours get their results; failures included."""
    async with writer() as transactions:
        gate = Gate()
        held = transactions.submit(gate)
        await gate.entered()
        futures = [transactions.submit(insert(n % 3)) for n in range(6)]
        for future in futures[::2]:
            future.cancel()

        gate.open()
        await held
        outcomes = await asyncio.gather(*futures, return_exceptions=True)

        assert [type(o) for o in outcomes[1::2]] == [int, Conflict, Conflict]
        assert await transactions.submit(_values) == [0, 1, 2]
        assert [r for r in caplog.records if r.levelname == "ERROR"] == []


async def test_closing_runs_what_was_submitted_in_the_same_moment() -> None:
    """It waits for the end of the round to be handed over, which comes after the close began."""
    async with writer() as transactions:
        futures = [transactions.submit(insert(n)) for n in range(3)]
        await transactions.close()
        assert [future.result() for future in futures] == [1, 1, 1]


async def test_closing_runs_what_was_accepted_and_refuses_the_rest() -> None:
    """Cancelling the one who closes does not stop the closing."""
    async with writer() as transactions:
        gate = Gate()
        futures = [transactions.submit(gate)]
        await gate.entered()
        futures += [transactions.submit(insert(n)) for n in range(3)]
        closing = asyncio.create_task(transactions.close())
        await asyncio.sleep(0)
        closing.cancel()

        with pytest.raises(StoreUnavailable):
            transactions.submit(insert(9))
        gate.open()

        assert await asyncio.gather(*futures) == [None, 1, 1, 1]
        await transactions.close()
        assert closing.cancelled()


async def test_what_fails_at_opening_is_raised_and_nothing_stays_open() -> None:
    """One of several connections fails: the others are closed."""
    opened: list[str] = []
    numbers = iter(range(3))

    @contextmanager
    def connect() -> Iterator[Database]:
        if next(numbers) == 1:
            raise StartupError("no")
        with memory() as database:
            opened.append("open")
            yield database
            opened.append("closed")

    transactions = Transactions("test", connect, limit=1, batch=1, threads=3)
    with pytest.raises(StartupError, match="no"):
        await transactions.open()

    assert sorted(opened) == ["closed", "closed", "open", "open"]
    with pytest.raises(StoreUnavailable):
        transactions.submit(_values)
    await transactions.close()


async def test_cancelling_the_opening_closes_what_was_opened() -> None:
    """The connection that comes up too late is closed too."""
    gate = Gate()
    closed = threading.Event()

    @contextmanager
    def connect() -> Iterator[Database]:
        with memory() as database:
            gate(database.transaction)
            yield database
        closed.set()

    transactions = Transactions("test", connect, limit=1, batch=1)
    opening = asyncio.create_task(transactions.open())
    await gate.entered()
    opening.cancel()
    await asyncio.sleep(0)
    gate.open()
    with pytest.raises(asyncio.CancelledError):
        await opening

    assert closed.is_set()


async def test_several_threads_work_at_once() -> None:
    """A slow read does not hold up another."""
    both = threading.Barrier(2, timeout=DEADLINE)
    async with writer(threads=2, batch=1) as transactions:
        places = await asyncio.gather(*(transactions.submit(lambda _: both.wait()) for _ in range(2)))

    assert sorted(places) == [0, 1]


async def test_a_store_that_was_not_opened_refuses() -> None:
    """Rather than waiting for a thread that never comes."""
    transactions = Transactions("test", partial(memory), limit=1, batch=1)

    with pytest.raises(StoreUnavailable):
        transactions.submit(_values)
    await transactions.close()
