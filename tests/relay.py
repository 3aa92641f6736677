"""A TCP relay: passes bytes both ways, slows the answers down or holds them, and remembers when a side went away.

It stands between the server and a real upstream, where a test has to see from outside that a connection was lost; or
between a browser and the server, as a network that is slow or breaks.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field


@dataclass(slots=True)
class Relay:
    """A listening relay.

    `pace_bytes` are passed to the client every `pace_seconds`; `lost_at` are the times (seconds since the epoch) at
    which a client went away before the upstream had said everything. While it is `away`, new connections are closed at
    once.
    """

    port: int
    pace_bytes: int
    pace_seconds: float
    lost_at: list[float] = field(default_factory=list)
    open: int = 0
    away: bool = False
    # What in the upstream's answers is replaced by what, of the same length: they tell their own.
    instead: tuple[bytes, bytes] | None = None
    reads: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def hold(self) -> None:
        """Take no more of what the upstream says, but for what has been read already, until `go_on`."""
        self.reads.clear()

    def go_on(self) -> None:
        self.reads.set()

    def cut(self) -> None:
        """Break every connection there is; new ones are let through."""
        for task in self.tasks:
            task.cancel()

    @contextmanager
    def broken(self) -> Iterator[None]:
        """Break every connection and let none through in the block, so that its state can be seen however short it is
        otherwise."""
        self.away = True
        try:
            self.cut()
            yield
        finally:
            self.away = False


@asynccontextmanager
async def relay(
    host: str, port: int, *, pace_bytes: int = 1 << 16, pace_seconds: float = 0.0, room_bytes: int | None = None
) -> AsyncIterator[Relay]:
    """Relay to `host:port` while the block runs; with `room_bytes`, little more than that is on its way unread."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if made.away:
            writer.transport.abort()
            return
        made.tasks.add(task)
        made.open += 1
        up = socket.socket()
        up.setblocking(False)
        if room_bytes is not None:  # before it connects, or a larger window is already offered
            up.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room_bytes)
        await asyncio.get_running_loop().sock_connect(up, (host, port))
        up_reader, up_writer = await asyncio.open_connection(sock=up, limit=room_bytes or 1 << 16)
        client_gone = asyncio.create_task(_pass_on(reader, up_writer))
        upstream_done = asyncio.create_task(_pace(up_reader, writer, made))
        try:
            done, _ = await asyncio.wait({client_gone, upstream_done}, return_when=asyncio.FIRST_COMPLETED)
            if client_gone in done and not upstream_done.done():
                made.lost_at.append(time.time())
        finally:
            made.open -= 1
            for half in (client_gone, upstream_done):
                half.cancel()
            await asyncio.gather(client_gone, upstream_done, return_exceptions=True)
            for end in (writer, up_writer):
                end.close()
                with suppress(OSError):
                    await end.wait_closed()
            made.tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    made = Relay(server.sockets[0].getsockname()[1], pace_bytes, pace_seconds)
    made.go_on()
    try:
        yield made
    finally:
        server.close()
        made.cut()
        await asyncio.gather(*made.tasks, return_exceptions=True)
        await server.wait_closed()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the sending side ends, by a close or a reset."""
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()


async def _pace(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, made: Relay) -> None:
    with suppress(OSError):
        while data := await reader.read(made.pace_bytes):
            await made.reads.wait()
            writer.write(data if made.instead is None else data.replace(*made.instead))
            await writer.drain()
            if made.pace_seconds:
                await asyncio.sleep(made.pace_seconds)
