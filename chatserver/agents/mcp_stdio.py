"""A stdio MCP server: its messages, its stderr, and how its end is noticed.

Invariants:
- No line from the child is held beyond `message_bytes`; stderr is always read, so a chatty child never blocks.
- What is no message is skipped and told, a few times in a row; then the child counts as lost.

The SDK's own stdio transport joins chunks without a limit and searches the whole again with each: 50 MB without a
newline would take the memory and stop the loop. It also sends stderr to ours.

Does not own: the process (mcp_child), when to start and stop (mcp_connection), what is done with stderr's lines.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import anyio
import mcp_types as types
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage

from chatserver.agents import json_border
from chatserver.agents.mcp_child import Child, running_child

# The end of the pipes and the exit of the process are seen in any order; this long the one waits for the other.
LAST_WORDS_SECONDS = 0.2
# Servers that greet on stdout by mistake print a few lines; one that prints more speaks something else.
GARBAGE_LINES = 20
# stderr is read in pieces of this size; a line longer than that is told in pieces.
STDERR_CHUNK_BYTES = 4096

Lost = Callable[[str], None]
Line = Callable[[str], None]
Streams = tuple[MemoryObjectReceiveStream[SessionMessage | Exception], MemoryObjectSendStream[SessionMessage]]


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
    async with running_child(command, environment, message_bytes) as running, AsyncExitStack() as stack:
        incoming, read_stream = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        write_stream, outgoing = anyio.create_memory_object_stream[SessionMessage](0)
        for stream in (incoming, read_stream, write_stream, outgoing):
            stack.callback(stream.close)
        async with anyio.create_task_group() as group:
            group.start_soon(_read, running, incoming, on_lost, on_garbage)
            group.start_soon(_write, running, outgoing, on_lost)
            group.start_soon(_read_stderr, running, on_stderr)
            group.start_soon(_watch, running, on_lost)
            try:
                yield read_stream, write_stream
            finally:
                with anyio.CancelScope(shield=True):
                    read_stream.close()
                    await running.stop()
                group.cancel_scope.cancel()


async def _read(
    child: Child,
    incoming: MemoryObjectSendStream[SessionMessage | Exception],
    on_lost: Lost,
    on_garbage: Line,
) -> None:
    try:
        await _pass_on(child.stdout, incoming, on_garbage)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass  # nobody listens any more
    except asyncio.IncompleteReadError:
        on_lost(await _how_it_ended(child))
    except asyncio.LimitOverrunError:
        on_lost("it sent a message over the size limit")
    except OSError as error:
        on_lost(f"reading from it failed: {error.strerror}")
    except _GarbageError:
        on_lost("it prints something other than MCP on its standard output")
    # A child that still writes must not block on a full pipe instead of seeing that it should end.
    with suppress(OSError):
        while await child.stdout.read(1 << 16):
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


async def _watch(child: Child, on_lost: Lost) -> None:
    """A dead child's pipes stay open while a process that it started lives."""
    await child.exited.wait()
    await anyio.sleep(LAST_WORDS_SECONDS)
    on_lost(await _how_it_ended(child))


async def _how_it_ended(child: Child, otherwise: str = "it closed its standard output") -> str:
    await child.exits(LAST_WORDS_SECONDS)
    code = child.returncode
    if code is None:
        return otherwise
    return f"it was killed by signal {-code}" if code < 0 else f"it exited with code {code}"


async def _write(child: Child, outgoing: MemoryObjectReceiveStream[SessionMessage], on_lost: Lost) -> None:
    async for item in outgoing:
        data = json_border.dumps(item.message.model_dump(by_alias=True, mode="json", exclude_unset=True))
        try:
            await child.stdin.write(data + b"\n")
        except OSError:
            on_lost(await _how_it_ended(child, "it no longer reads its standard input"))
            return


async def _read_stderr(child: Child, on_line: Line) -> None:
    rest = b""
    with suppress(OSError):
        while chunk := await child.stderr.read(STDERR_CHUNK_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) >= STDERR_CHUNK_BYTES:
                lines.append(rest)
                rest = b""
            for line in lines:
                on_line(line.decode("utf-8", "replace").rstrip())
    if rest:
        on_line(rest.decode("utf-8", "replace"))
