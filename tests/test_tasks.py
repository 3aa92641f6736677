"""Supervisor: every task named, owned, ended with its owner; every crash reported once."""

from __future__ import annotations

import asyncio

import pytest

from chatserver.errors import Unavailable
from chatserver.tasks import Supervisor
from tests.core.virtual import settle, virtual


class Crashes(list[tuple[str, str]]):
    def __call__(self, name: str, error: BaseException) -> None:
        self.append((name, repr(error)))


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


@virtual
async def test_a_task_has_a_name_and_its_result() -> None:
    """The owner's name comes first; what ended is owned no more."""
    crashes = Crashes()
    supervisor = Supervisor("owner", crashes)

    async def work() -> int:
        return 7

    task = supervisor.spawn(work(), "work")
    assert task.get_name() == "owner/work"
    assert len(supervisor) == 1
    assert await task == 7
    await settle()
    assert len(supervisor) == 0
    assert crashes == []
    await supervisor.close()


@virtual
async def test_a_crash_is_reported_once_with_its_name() -> None:
    """Also of a task that nobody awaits; a cancelled one is no crash."""
    crashes = Crashes()
    supervisor = Supervisor("owner", crashes)

    async def crash() -> None:
        raise ValueError("boom")

    supervisor.start(crash(), "crash")
    quiet = supervisor.spawn(forever(), "quiet")
    quiet.cancel()
    await settle()
    assert crashes == [("owner/crash", "ValueError('boom')")]
    await supervisor.close()


@virtual
async def test_closing_cancels_and_awaits_everything() -> None:
    """Cleanups have run when it returns; closing twice is closing once."""
    crashes = Crashes()
    supervisor = Supervisor("owner", crashes)
    cleaned = []

    async def work(n: int) -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(1)
            cleaned.append(n)

    for n in range(5):
        supervisor.start(work(n), str(n))
    await settle()
    await asyncio.gather(supervisor.close(), supervisor.close())
    assert sorted(cleaned) == list(range(5))
    assert len(supervisor) == 0
    assert crashes == []


@virtual
async def test_a_closed_supervisor_starts_nothing() -> None:
    """And the coroutine is closed, not left to warn that nobody awaited it."""
    supervisor = Supervisor("owner", Crashes())
    await supervisor.close()
    work = forever()
    with pytest.raises(Unavailable):
        supervisor.spawn(work, "late")
    assert work.cr_frame is None


@virtual
async def test_a_task_that_ignores_its_cancellation_is_reported_and_left() -> None:
    """Waiting for it for ever would turn one bad task into a process that never exits."""
    crashes = Crashes()
    supervisor = Supervisor("owner", crashes)
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    supervisor.start(stubborn(), "stubborn")
    await settle()
    await supervisor.close(grace_seconds=2)
    assert [name for name, _ in crashes] == ["owner/stubborn"]
    assert "TimeoutError" in crashes[0][1]
    release.set()
    await settle()
    assert len(supervisor) == 0


@virtual
async def test_a_task_may_close_its_own_supervisor() -> None:
    """It is not cancelled by itself, and does not wait for itself."""
    supervisor = Supervisor("owner", Crashes())
    supervisor.start(forever(), "other")

    async def closer() -> str:
        await supervisor.close()
        return "closed"

    assert await supervisor.spawn(closer(), "closer") == "closed"
