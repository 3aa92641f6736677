"""Streamed: an answer that is sent as it is read, and needs little memory however long it is or slowly it is taken.

Invariants: it holds one of the places for streams (StreamHub) until it is over; a reader that takes nothing for
`stall_timeout_seconds` is cut; a `HEAD` gets no body, which would be read as the next answer.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import aclosing

from aiohttp import web

from chatserver.api.services import services

# Unsent bytes that the kernel takes for one stream: more than a burst of tokens, less than a backlog.
KERNEL_UNSENT_BYTES = 128 << 10
# Bytes that are written together: so few that a slow reader takes them in time, and is not held for one that has left.
PIECE_BYTES = 16 << 10


def bound_kernel_backlog(request: web.Request) -> None:
    """Let the kernel take no more than it can send soon: what it holds is neither seen nor dropped by the stall guard.

    Without it one reader that has stopped keeps up to tcp_wmem's maximum (4 MiB) of the machine's memory, and is found
    to lag only when that is full.
    """
    sock = request.transport.get_extra_info("socket") if request.transport is not None else None
    if sock is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):  # Linux and macOS
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, KERNEL_UNSENT_BYTES)


async def send(request: web.Request, response: web.StreamResponse, body: AsyncGenerator[bytes, None]) -> None:
    """Send the whole answer, within a place of the StreamHub that the caller holds. Cancelling ends it.

    Args:
        response: not prepared yet.
        body: closed in any case; read only as fast as it is taken.
    Raises: ConnectionError where the reader has gone or was cut; what `body` raises.
    """
    app = services(request)
    seconds = app.settings.stall_timeout_seconds
    bound_kernel_backlog(request)
    async with aclosing(body) as parts:
        await response.prepare(request)
        try:
            if request.method != "HEAD":
                async for part in parts:
                    for at in range(0, len(part), PIECE_BYTES):
                        async with asyncio.timeout(seconds):
                            await response.write(part[at : at + PIECE_BYTES])
            async with asyncio.timeout(seconds):
                await response.write_eof()
        except TimeoutError as error:
            app.hub.counts.cut += 1
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("the reader takes nothing") from error
