"""The two ends of a child's pipes that are ours.

Over `add_reader` and `add_writer`, not `connect_read_pipe`: when uvloop closes such a transport, libuv closes the
descriptor and uvloop then closes the file object, so the number is closed twice. Where a thread gets the number in
between — here one that starts another child — its file is closed under it.

Invariants: a descriptor is closed once, by its owner's `close`, after the loop has let go of it.
"""

from __future__ import annotations

import asyncio
import os

# Of one read: a pipe's usual capacity, and little enough to share the loop with others.
CHUNK_BYTES = 1 << 16


class Source(asyncio.ReadTransport):
    """Feeds `reader` from a descriptor and stops where the reader is full.

    Args:
        descriptor: becomes ours and non-blocking.
        limit: bytes that `reader.readuntil` looks through; twice as many are held at most.
    """

    def __init__(self, descriptor: int, limit: int) -> None:
        super().__init__()
        self.reader = asyncio.StreamReader(limit)
        self.reader.set_transport(self)
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self._ended = False
        os.set_blocking(descriptor, False)
        self._loop.add_reader(descriptor, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._end()
            self.reader.set_exception(error)
            return
        if data:
            self.reader.feed_data(data)
        else:
            self._end()
            self.reader.feed_eof()

    def _end(self) -> None:
        self._ended = True
        self._loop.remove_reader(self._descriptor)

    def pause_reading(self) -> None:
        """Called by the reader when it is full."""
        if not self._ended:
            self._loop.remove_reader(self._descriptor)

    def resume_reading(self) -> None:
        """Called by the reader when it has room again."""
        if not self._ended:
            self._loop.add_reader(self._descriptor, self._read)

    def is_closing(self) -> bool:
        return self._ended

    def close(self) -> None:
        """Give the descriptor back; whoever reads sees the end. Idempotent."""
        if not self._ended:
            self._end()
            self.reader.feed_eof()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Sink:
    """Writes to a descriptor, which becomes ours and non-blocking. One writer at a time."""

    def __init__(self, descriptor: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self._waiting: asyncio.Future[None] | None = None
        os.set_blocking(descriptor, False)

    async def write(self, data: bytes) -> None:
        """Write all of it; waits where the other side does not read.

        Raises: OSError where nobody will read it any more, or it is closed. Cancelling may leave a part written.
        """
        rest = memoryview(data)
        while rest:
            if self._descriptor < 0:
                raise BrokenPipeError("closed")
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                await self._writable()

    async def _writable(self) -> None:
        self._waiting = self._loop.create_future()
        self._loop.add_writer(self._descriptor, self._wake)
        try:
            await self._waiting
        finally:
            self._release()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _release(self) -> None:
        if self._waiting is not None:
            self._waiting = None
            self._loop.remove_writer(self._descriptor)

    def close(self) -> None:
        """Give the descriptor back, which the other side reads as the end. Idempotent."""
        if self._descriptor >= 0:
            self._wake()
            self._release()
            os.close(self._descriptor)
            self._descriptor = -1
