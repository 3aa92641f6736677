"""A stdio MCP server as a child process: its messages, its stderr, its end.

Invariants:
- The child leads a process group of its own, and no member of the group outlives the transport, however it ends.
- No line from the child is held beyond `message_bytes`; stderr is always read, so a chatty child never blocks.
- What is no message is skipped and told, a few times in a row; then the child counts as lost.

The SDK's own stdio transport joins chunks without a limit and searches the whole again with each: 50 MB without a
newline would take the memory and stop the loop. It also sends stderr to ours.

Does not own: when to start and stop (mcp_connection), what is done with stderr's lines.
"""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import PIPE, SubprocessStreamProtocol
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import anyio
import mcp_types as types
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage

from chatserver.agents import json_border

# After its stdin closed, and after SIGTERM. Well-behaved servers take 20 to 350 ms; both together, and the kill, stay
# below what a stop of the whole server leaves to connections (spec D3).
EXIT_SECONDS = 1.0
TERMINATE_SECONDS = 1.0
KILL_SECONDS = 1.0
# Servers that greet on stdout by mistake print a few lines; one that prints more speaks something else.
GARBAGE_LINES = 20
# stderr is read in pieces of this size; a line longer than that is told in pieces.
STDERR_CHUNK_BYTES = 4096

P = TypeVar("P")
Lost = Callable[[str], None]
Line = Callable[[str], None]
Streams = tuple[MemoryObjectReceiveStream[SessionMessage | Exception], MemoryObjectSendStream[SessionMessage]]


class _Child(SubprocessStreamProtocol):
    """Tells the exit at once: `Process.wait()` also waits for pipes that grandchildren may hold open."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit=limit, loop=asyncio.get_running_loop())
        self.exited = asyncio.Event()

    def process_exited(self) -> None:
        super().process_exited()
        self.exited.set()


@asynccontextmanager
async def stdio_transport(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    message_bytes: int,
    on_lost: Lost,
    on_garbage: Line,
    on_stderr: Line,
) -> AsyncIterator[Streams]:
    """Start `command` and exchange MCP messages with it while the block runs.

    Args:
        environment: the child's whole environment.
        message_bytes: of one message from the child.
        on_lost: called once with the reason when the child can no longer be talked to; the owner then leaves the block.
        on_garbage, on_stderr: called with each line (without its end) that is no message, or came on stderr.
    Raises:
        OSError: the command cannot be started.
    Leaving the block ends the child: stdin closes, then SIGTERM, then SIGKILL; cancelling does not shorten that.
    """
    transport, child = await asyncio.get_running_loop().subprocess_exec(
        lambda: _Child(message_bytes),
        *command,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env=dict(environment),
        start_new_session=True,
    )
    incoming, read_stream = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    write_stream, outgoing = anyio.create_memory_object_stream[SessionMessage](0)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_read, child, transport, incoming, on_lost, on_garbage)
            group.start_soon(_write, child, outgoing, on_lost)
            group.start_soon(_read_stderr, child, on_stderr)
            try:
                yield read_stream, write_stream
            finally:
                with anyio.CancelScope(shield=True):
                    read_stream.close()
                    await _stop(child, transport.get_pid())
                group.cancel_scope.cancel()
    finally:
        # Whatever happened above, cancelled or not: this cannot be interrupted.
        _kill_group(transport.get_pid(), signal.SIGKILL)
        transport.close()
        for stream in (incoming, read_stream, write_stream, outgoing):
            stream.close()


async def _read(
    child: _Child,
    transport: asyncio.SubprocessTransport,
    incoming: MemoryObjectSendStream[SessionMessage | Exception],
    on_lost: Lost,
    on_garbage: Line,
) -> None:
    stdout = _pipe(child.stdout)
    try:
        await _pass_on(stdout, incoming, on_garbage)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass  # nobody listens any more
    except asyncio.IncompleteReadError:
        on_lost(await _how_it_ended(child, transport))
    except asyncio.LimitOverrunError:
        on_lost("it sent a message over the size limit")
    except OSError as error:
        on_lost(f"reading from it failed: {error.strerror}")
    except _GarbageError:
        on_lost("it prints something other than MCP on its standard output")
    # A child that still writes must not block on a full pipe instead of seeing that it should end.
    with suppress(OSError):
        while await stdout.read(1 << 16):
            pass


class _GarbageError(Exception):
    pass


async def _pass_on(
    stdout: asyncio.StreamReader, incoming: MemoryObjectSendStream[SessionMessage | Exception], on_garbage: Line
) -> None:
    garbage = 0
    while True:
        line = await stdout.readuntil(b"\n")
        try:
            message = types.jsonrpc_message_adapter.validate_python(json_border.loads(line), by_name=False)
        except ValueError:
            on_garbage(line[:STDERR_CHUNK_BYTES].decode("utf-8", "replace").rstrip())
            garbage += 1
            if garbage > GARBAGE_LINES:
                raise _GarbageError from None
        else:
            garbage = 0
            await incoming.send(SessionMessage(message))


async def _how_it_ended(child: _Child, transport: asyncio.SubprocessTransport) -> str:
    with anyio.move_on_after(0.2):  # the end of the pipe is usually seen before the exit
        await child.exited.wait()
    code = transport.get_returncode()
    if code is None:
        return "it closed its standard output"
    return f"it was killed by signal {-code}" if code < 0 else f"it exited with code {code}"


async def _write(child: _Child, outgoing: MemoryObjectReceiveStream[SessionMessage], on_lost: Lost) -> None:
    stdin = _pipe(child.stdin)
    async for item in outgoing:
        try:
            stdin.write(json_border.dumps(item.message.model_dump(by_alias=True, mode="json", exclude_unset=True)))
            stdin.write(b"\n")
            await stdin.drain()
        except OSError:
            on_lost("it no longer reads its standard input")
            return


async def _read_stderr(child: _Child, on_line: Line) -> None:
    stderr = _pipe(child.stderr)
    rest = b""
    with suppress(OSError):
        while chunk := await stderr.read(STDERR_CHUNK_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) >= STDERR_CHUNK_BYTES:
                lines.append(rest)
                rest = b""
            for line in lines:
                on_line(line.decode("utf-8", "replace").rstrip())
    if rest:
        on_line(rest.decode("utf-8", "replace"))


async def _stop(child: _Child, pid: int) -> None:
    """End the child and its group; the order is the MCP specification's (lifecycle, shutdown, stdio)."""
    if child.stdin is not None:
        child.stdin.close()
    if not await _exits(child, EXIT_SECONDS):
        _kill_group(pid, signal.SIGTERM)
        await _exits(child, TERMINATE_SECONDS)
    # Those it started go with it, also where it has gone by itself.
    _kill_group(pid, signal.SIGKILL)
    await _exits(child, KILL_SECONDS)


async def _exits(child: _Child, seconds: float) -> bool:
    with anyio.move_on_after(seconds):
        await child.exited.wait()
    return child.exited.is_set()


def _kill_group(pid: int, number: signal.Signals) -> None:
    # The group's id is its leader's, and stays taken while any member lives.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _pipe(pipe: P | None) -> P:
    if pipe is None:
        raise OSError("the child has no pipes, though they were asked for")
    return pipe
