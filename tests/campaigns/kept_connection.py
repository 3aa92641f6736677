"""Connections of a client that asks a million times: one request after another on one socket, as little work as can be.

An answer is its bytes, head and body, with the framing of chunks taken out: a word that a chunk's border cut in two
would not be found. What comes on a stream is handed on as it comes. Neither understands what it reads; whether the
server keeps to HTTP and to the stream's format is looked at elsewhere, by tests/checker.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Self
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
ANSWER_SECONDS = 60.0  # a server that does not answer for so long has stopped


def _address(base_url: str) -> tuple[str, int]:
    parts = urlsplit(base_url)
    return parts.hostname or "", parts.port or 80


class KeptConnection(asyncio.Protocol):
    """One socket; one request at a time on it."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._got = b""
        self._answer: asyncio.Future[bytes] | None = None

    @classmethod
    async def open(cls, base_url: str) -> Self:
        """Connect to `http://host:port`."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, *_address(base_url))
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what writes."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    async def ask(self, request: bytes) -> tuple[int, bytes, bytes]:
        """Send a request and wait for its answer: status, head, body.

        Raises: AssertionError, where none comes.
        """
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        answer = self._answer = loop.create_future()
        self._got = b""
        late = loop.call_later(ANSWER_SECONDS, self._give_up, f"no answer in {ANSWER_SECONDS:g} s")
        self._transport.write(request)
        try:
            whole = await answer
        finally:
            late.cancel()
        head, _, body = whole.partition(b"\r\n\r\n")
        return int(head[9:12]), head, body

    def data_received(self, data: bytes) -> None:
        """Take more of the answer."""
        self._got = got = self._got + data if self._got else data
        end = got.find(b"\r\n\r\n") + 4
        if end < 4 or self._answer is None:
            return
        length = _LENGTH.search(got, 0, end)
        whole = (got if len(got) >= end + int(length[1]) else None) if length is not None else _dechunked(got, end)
        if whole is not None and not self._answer.done():
            self._answer.set_result(whole)

    def connection_lost(self, exc: Exception | None) -> None:
        """The server, or we, closed it."""
        self._give_up(f"the connection ended: {exc!r}")

    def _give_up(self, why: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(AssertionError(why))

    def close(self) -> None:
        """Close it; idempotent."""
        if self._transport is not None:
            self._transport.abort()


def _dechunked(got: bytes, at: int) -> bytes | None:
    """The answer with its chunks joined (RFC 9112 §7.1); None while it is not all there."""
    parts = [got[:at]]
    while (line := got.find(b"\r\n", at)) >= 0:
        size = int(got[at:line], 16)
        if len(got) < line + 2 + size + 2:
            return None
        if size == 0:
            return b"".join(parts)
        parts.append(got[line + 2 : line + 2 + size])
        at = line + 2 + size + 2
    return None


class OpenStream(asyncio.Protocol):
    """A stream that stays open: whatever comes is handed on, with the end of what came before it.

    Args:
        request: that opens it.
        seen: is called with each piece.
        overlap: bytes of the piece before that are in front of the next one again, for words that are cut.
    """

    def __init__(self, request: bytes, seen: Callable[[bytes], None], overlap: int) -> None:
        self._request = request
        self._seen = seen
        self._overlap = overlap
        self._rest = b""
        self._transport: asyncio.Transport | None = None
        self.begun: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(cls, base_url: str, request: bytes, seen: Callable[[bytes], None], overlap: int) -> Self:
        """Connect and wait for the head."""
        loop = asyncio.get_running_loop()
        _, stream = await loop.create_connection(lambda: cls(request, seen, overlap), *_address(base_url))
        async with asyncio.timeout(ANSWER_SECONDS):
            await stream.begun
        return stream

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask at once."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Hand it on."""
        if not self.begun.done():
            self.begun.set_result(int(data[9:12]))
        self._seen(self._rest + data)
        self._rest = data[-self._overlap :]

    def connection_lost(self, exc: Exception | None) -> None:
        """The server, or we, closed it."""
        if not self.begun.done():
            self.begun.set_exception(AssertionError(f"the stream ended before its head: {exc!r}"))

    def close(self) -> None:
        """Close it; idempotent."""
        if self._transport is not None:
            self._transport.abort()
