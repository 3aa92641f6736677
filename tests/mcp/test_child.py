"""Child processes and their pipes, on both loops."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress

import pytest

from chatserver.agents.mcp_child import Child, running_child
from chatserver.agents.mcp_pipes import Sink, Source
from tests.mcp.conftest import children, gone, until

pytestmark = pytest.mark.both_loops

ENVIRONMENT = {"PATH": os.environ["PATH"]}
ECHO = (sys.executable, "-S", "-c", "import sys, shutil; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)")


async def test_a_child_gets_and_gives_more_than_a_pipe_holds() -> None:
    """A megabyte each way: writing waits for the child, reading is fed as it comes."""
    line = b"x" * (1 << 20) + b"\n"

    async with running_child(ECHO, ENVIRONMENT, 2 << 20) as child:
        writing = asyncio.ensure_future(child.stdin.write(line))
        received = await child.stdout.readexactly(1 << 19)
        await writing
        child.stdin.close()
        received += await child.stdout.read()

    assert received == line


async def test_a_child_that_cannot_be_started_says_why() -> None:
    """The error is the system's own."""
    with pytest.raises(FileNotFoundError):
        async with running_child(("no-such-command-anywhere",), ENVIRONMENT, 100):
            pass


async def test_exit_is_seen_although_a_grandchild_holds_the_pipes() -> None:
    """The pipes' end would come with the grandchild's; and that one is killed with the rest of the group."""
    async with running_child(("sh", "-c", "sleep 1000 & echo $!; exit 7"), ENVIRONMENT, 100) as child:
        grandchild = int(await child.stdout.readuntil(b"\n"))
        assert await child.exits(60)
        assert child.returncode == 7
        assert not await gone_within(child)

    assert await gone(grandchild)


async def gone_within(child: Child) -> bool:
    """Whether the child's stdout has ended."""
    with suppress(TimeoutError):
        async with asyncio.timeout(0.05):
            return await child.stdout.read() == b""
    return False


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
async def test_cancelling_a_start_leaves_no_process(steps: int) -> None:
    """Wherever the cancellation strikes, also while a thread starts the process."""

    async def run() -> None:
        async with running_child(("sleep", "1000"), ENVIRONMENT, 100):
            await asyncio.Event().wait()

    task = asyncio.ensure_future(run())
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    await until(lambda: children() == [])


async def test_a_reader_that_is_full_stops_the_writer() -> None:
    """Twice the limit and a piece are held, not what the other side would send."""
    read_end, write_end = os.pipe()
    source, sink = Source(read_end, 1000), Sink(write_end)
    writing = asyncio.ensure_future(sink.write(b"x" * 1_000_000))

    with pytest.raises(asyncio.LimitOverrunError):
        await source.reader.readuntil(b"\n")
    await asyncio.sleep(0.01)
    assert not writing.done()

    assert len(await source.reader.readexactly(1_000_000)) == 1_000_000
    await writing
    sink.close()
    assert await source.reader.read() == b""
    source.close()


async def test_closing_ends_whoever_waits_and_closes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second close of the same number would close somebody else's file."""
    closed: list[int] = []
    close = os.close
    monkeypatch.setattr(os, "close", lambda number: (closed.append(number), close(number))[1])
    read_end, write_end = os.pipe()
    source, sink = Source(read_end, 1000), Sink(write_end)
    writing = asyncio.ensure_future(sink.write(b"x" * 1_000_000))
    await until(lambda: sink._waiting is not None)

    for _ in range(2):
        sink.close()
        source.close()

    with pytest.raises(BrokenPipeError):
        await writing
    await source.reader.read()
    assert sorted(closed) == sorted([read_end, write_end])


async def test_writing_to_nobody_fails() -> None:
    """The other end is closed: an error, and no signal that ends us."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    sink = Sink(write_end)

    with pytest.raises(BrokenPipeError):
        await sink.write(b"x")
    sink.close()
