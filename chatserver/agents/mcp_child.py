"""A child process whose start does not hold the loop, and whose group never outlives it.

Both loops fork in their own thread. uvloop's fork copies the page tables: 65 ms at 800 MB of memory, during which no
session gets a token. `Popen` in another thread costs the loop nothing (vfork: 0.4 ms alone, 20 ms on a busy machine).

Invariants: the child leads a process group of its own; when `running_child` is left, by whatever way, every member of
that group has been killed and the pipes are closed. Does not own: what travels over the pipes (mcp_stdio).
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from subprocess import PIPE, Popen
from typing import IO

import anyio

from chatserver.agents.mcp_pipes import CHUNK_BYTES, Sink, Source

# After its stdin closed, and after SIGTERM. Well-behaved servers take 20 to 350 ms; both together, and the kill, stay
# below what a stop of the whole server leaves to connections (spec D3).
EXIT_SECONDS = 1.0
TERMINATE_SECONDS = 1.0
KILL_SECONDS = 1.0
# Between looks for the end of a child that was killed while it started.
POLL_SECONDS = 0.005


class Child:
    """A running child: our ends of its pipes, and the event of its exit.

    Args:
        process: just started, with three pipes.
        limit: bytes of a line of stdout.
        stack: undoes what is set up here.
    """

    def __init__(self, process: Popen[bytes], limit: int, stack: ExitStack) -> None:
        loop = asyncio.get_running_loop()
        self.pid = process.pid
        self.exited = asyncio.Event()
        self._process = process
        self.stdin = Sink(_taken(process.stdin))
        stack.callback(self.stdin.close)
        stdout, stderr = Source(_taken(process.stdout), limit), Source(_taken(process.stderr), CHUNK_BYTES)
        stack.callback(stdout.close)
        stack.callback(stderr.close)
        self.stdout, self.stderr = stdout.reader, stderr.reader
        exit_fd = os.pidfd_open(process.pid)
        stack.callback(os.close, exit_fd)
        loop.add_reader(exit_fd, self._on_exit, exit_fd)
        stack.callback(loop.remove_reader, exit_fd)

    @property
    def returncode(self) -> int | None:
        """As subprocess has it: negative for a signal; None while it runs."""
        return self._process.returncode

    def _on_exit(self, exit_fd: int) -> None:
        asyncio.get_running_loop().remove_reader(exit_fd)  # it would stay readable
        self._process.poll()
        self.exited.set()

    async def stop(self) -> None:
        """End it and its group; the order is the MCP specification's (lifecycle, shutdown, stdio)."""
        self.stdin.close()
        if not await self.exits(EXIT_SECONDS):
            _kill_group(self.pid, signal.SIGTERM)
            await self.exits(TERMINATE_SECONDS)
        # Those it started go with it, also where it has gone by itself.
        _kill_group(self.pid, signal.SIGKILL)
        await self.exits(KILL_SECONDS)

    async def exits(self, seconds: float) -> bool:
        """Whether it is gone within `seconds`."""
        with anyio.move_on_after(seconds):
            await self.exited.wait()
        return self.exited.is_set()


@asynccontextmanager
async def running_child(command: Sequence[str], environment: Mapping[str, str], limit: int) -> AsyncIterator[Child]:
    """A child that runs `command` with `environment` alone, while the block runs.

    Args:
        limit: bytes of one line of its stdout; `readuntil` refuses a longer one.
    Raises:
        OSError: the command cannot be started.
    """
    process = await _start(command, environment)
    with ExitStack() as stack:
        # Whatever happens: this cannot be interrupted.
        stack.callback(_end, process)
        yield Child(process, limit, stack)


def _kill_group(pid: int, number: signal.Signals) -> None:
    # The group's id is its leader's, and stays taken while any member lives.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _taken(pipe: IO[bytes] | None) -> int:
    """The pipe's descriptor, which is the caller's from now on."""
    if pipe is None:
        raise OSError("the child has no pipes, though they were asked for")
    descriptor = os.dup(pipe.fileno())
    pipe.close()
    return descriptor


async def _start(command: Sequence[str], environment: Mapping[str, str]) -> Popen[bytes]:
    abandoned = threading.Event()

    def start() -> Popen[bytes]:
        process = Popen(
            list(command),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            bufsize=0,
            env=dict(environment),
            start_new_session=True,
        )
        if abandoned.is_set():
            _discard(process)
            process.wait()
        return process

    starting = asyncio.get_running_loop().run_in_executor(None, start)
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # The thread cannot be called back. Either it sees this, or it was done and its child is ours to undo.
        abandoned.set()
        with anyio.move_on_after(KILL_SECONDS, shield=True):
            await asyncio.wait([starting])
            if starting.exception() is None:
                _discard(process := starting.result())
                while process.poll() is None:  # noqa: ASYNC110 - no event tells it
                    await anyio.sleep(POLL_SECONDS)
        raise


def _discard(process: Popen[bytes]) -> None:
    """Undo a start that nobody wants any more; idempotent."""
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    _kill_group(process.pid, signal.SIGKILL)


def _end(process: Popen[bytes]) -> None:
    """Kill what is left of the group. The child is waited for in a thread of its own: the loop may be closing."""
    _kill_group(process.pid, signal.SIGKILL)
    if process.poll() is None:
        threading.Thread(target=process.wait, name=f"reap-{process.pid}", daemon=True).start()
