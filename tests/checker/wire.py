"""HTTP/1.1 and Server-Sent Events read from raw sockets, by the letter of RFC 9112 and HTML standard §9.2.

Nothing of the server, and no HTTP library, is used: a client that shares code with what it checks shares its mistakes.
JSON is read by orjson, which refuses NaN and lone surrogates (RFC 8259); the standard library's reader takes both.
Anything not allowed on the wire raises `ProtocolViolation` at once: a carriage return in a stream, a broken chunk, a
status line of another protocol. It does not know what the events mean (reducer.py) nor what order they must have
(checker.py).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson

# Head of a response; far above any real one.
MAX_HEAD_BYTES = 64 << 10
# One event; a snapshot of 200 long messages stays below.
MAX_EVENT_BYTES = 64 << 20
READ_BYTES = 256 << 10


class ProtocolViolation(AssertionError):
    """The bytes received are not what HTTP or the event stream format allow."""


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response. `headers` has lower-cased names; of a repeated one the values are joined by newlines."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return orjson.loads(self.body)


@dataclass(frozen=True, slots=True)
class Block:
    """One block of an event stream: what stands between two blank lines, its bytes included."""

    id: str | None
    event: str | None
    data: str | None
    retry: str | None
    raw: bytes


class BlockParser:
    """Event stream bytes in, blocks out; fed with pieces cut anywhere."""

    def __init__(self) -> None:
        self._rest = b""
        self._scanned = 0  # bytes of the rest that are known to hold no blank line

    def feed(self, data: bytes) -> list[Block]:
        """Take the next bytes; give the blocks they complete.

        Raises:
            ProtocolViolation: a carriage return (spec T1 allows `\\n` only), invalid UTF-8, or a block that never ends.
        """
        if b"\r" in data:
            raise ProtocolViolation("a carriage return in the stream")
        buffer = self._rest + data if self._rest else data
        blocks: list[Block] = []
        start, search = 0, max(0, self._scanned - 1)
        while (end := buffer.find(b"\n\n", search)) >= 0:
            blocks.append(_block(buffer[start : end + 2]))
            start = search = end + 2
        self._rest = buffer[start:]
        self._scanned = len(self._rest)
        if self._scanned > MAX_EVENT_BYTES:
            raise ProtocolViolation(f"a block of more than {MAX_EVENT_BYTES} bytes")
        return blocks

    @property
    def unfinished(self) -> bytes:
        """Bytes of a block whose blank line has not come."""
        return self._rest


def _block(raw: bytes) -> Block:
    fields: dict[str, str] = {}
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise ProtocolViolation(f"a block that is not UTF-8: {raw[:200]!r}") from error
    for line in text.split("\n"):
        if not line or line.startswith(":"):
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data" and "data" in fields:
            value = f"{fields['data']}\n{value}"
        elif name not in ("data", "id", "event", "retry"):
            raise ProtocolViolation(f"an unknown field {name!r} in the stream")
        fields[name] = value
    return Block(fields.get("id"), fields.get("event"), fields.get("data"), fields.get("retry"), raw)


class Connection:
    """One TCP connection; one request at a time on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._host = host
        self._reader = reader
        self._writer = writer
        self._buffer = b""
        self._chunked = False
        self._between_chunks = False
        self._left: int | None = None  # bytes of the body, or of the chunk, still to come; None: until the end
        self._ended = True
        self.reusable = True

    @classmethod
    async def open(cls, base_url: str, *, receive_buffer_bytes: int | None = None) -> Connection:
        """Connect.

        Args:
            base_url: `http://host:port`.
            receive_buffer_bytes: makes a slow reader: what the kernel and this process together hold of what nobody
                reads (the kernel doubles it and has a floor of its own).
        """
        parts = urlsplit(base_url)
        host, port = parts.hostname or "127.0.0.1", parts.port or 80
        if receive_buffer_bytes is None:
            return cls(*await asyncio.open_connection(host, port, limit=READ_BYTES), parts.netloc)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
            await asyncio.get_running_loop().sock_connect(sock, (host, port))
            return cls(*await asyncio.open_connection(sock=sock, limit=receive_buffer_bytes), parts.netloc)
        except BaseException:
            sock.close()
            raise

    @property
    def closed_by_peer(self) -> bool:
        """The server has closed its side, or the connection is broken."""
        return self._reader.at_eof() or self._reader.exception() is not None or self._writer.is_closing()

    def send(self, data: bytes) -> None:
        """Put raw bytes on the wire, whatever they are."""
        self._writer.write(data)

    def send_request(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> None:
        """Put one request on the wire."""
        lines = [f"{method} {target} HTTP/1.1"]
        if not any(name.lower() == "host" for name in headers):
            lines.append(f"Host: {self._host}")
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body is not None and not any(name.lower() == "content-length" for name in headers):
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join(lines) + "\r\n\r\n"
        self._writer.write(head.encode("utf-8", "surrogateescape") + (body or b""))

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the next response; a 1xx is passed over."""
        while True:
            while (end := self._buffer.find(b"\r\n\r\n")) < 0:
                if len(self._buffer) > MAX_HEAD_BYTES:
                    raise ProtocolViolation("a response's head that never ends")
                await self._more("a response's head")
            head, self._buffer = self._buffer[:end], self._buffer[end + 4 :]
            status_line, *lines = head.decode("latin-1").split("\r\n")
            version, _, rest = status_line.partition(" ")
            status_text = rest.partition(" ")[0]
            if version not in ("HTTP/1.1", "HTTP/1.0") or not status_text.isdigit() or len(status_text) != 3:
                raise ProtocolViolation(f"a status line {status_line!r}")
            headers: dict[str, str] = {}
            for line in lines:
                name, colon, value = line.partition(":")
                if not colon or not name or name != name.strip():
                    raise ProtocolViolation(f"a header line {line!r}")
                name, value = name.lower(), value.strip()
                headers[name] = f"{headers[name]}\n{value}" if name in headers else value
            if int(status_text) >= 200:
                if headers.get("connection", "").lower() == "close" or version == "HTTP/1.0":
                    self.reusable = False
                return int(status_text), headers

    def begin_body(self, headers: Mapping[str, str], *, method: str = "GET", status: int = 200) -> None:
        """Say how the body of the response whose head was read is delimited (RFC 9112 §6.3)."""
        self._chunked, self._left, self._ended = False, None, False
        if method == "HEAD" or status in (204, 304):
            self._ended = True
        elif headers.get("transfer-encoding", "").lower() == "chunked":
            self._chunked, self._left = True, 0
        elif "content-length" in headers:
            self._left = int(headers["content-length"])
            self._ended = self._left == 0
        else:
            self.reusable = False

    async def piece(self) -> bytes:
        """The next bytes of the body, empty at its end. Cancelling loses nothing: the next call goes on."""
        if self._ended:
            return b""
        if self._chunked and not self._left:
            await self._chunk()
            if self._ended:
                return b""
        if not self._buffer:
            if self._left is None:
                self._buffer = await self._reader.read(READ_BYTES)
                self._ended = not self._buffer
            else:
                await self._more("a chunk" if self._chunked else "a body")
        if self._left is None:
            piece, self._buffer = self._buffer, b""
            return piece
        piece, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
        self._left -= len(piece)
        if not self._left:
            self._between_chunks = self._chunked
            self._ended = not self._chunked
        return piece

    async def _chunk(self) -> None:
        """Read the head of the next chunk, and the end of the one before it."""
        if self._between_chunks:
            if await self._line():
                raise ProtocolViolation("a chunk longer than its size")
            self._between_chunks = False
        line = await self._line()
        try:
            self._left = int(line.partition(b";")[0].strip(), 16)
        except ValueError:
            raise ProtocolViolation(f"a chunk size {line[:40]!r}") from None
        if self._left == 0:
            while await self._line():
                pass  # trailers
            self._ended = True

    async def request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Response:
        """One request and its whole response."""
        self.send_request(method, target, headers, body)
        status, found = await self.head()
        self.begin_body(found, method=method, status=status)
        return Response(status, found, await self.rest())

    async def rest(self) -> bytes:
        """All of the body that is left."""
        pieces = []
        while piece := await self.piece():
            pieces.append(piece)
        return b"".join(pieces)

    async def _more(self, what: str) -> None:
        data = await self._reader.read(READ_BYTES)
        if not data:
            self.reusable = False
            raise ConnectionResetError(f"the server closed the connection inside {what}")
        self._buffer += data

    async def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise ProtocolViolation("a line of the chunked coding that never ends")
            await self._more("the chunked coding")
        line, self._buffer = self._buffer[:end], self._buffer[end + 2 :]
        return line

    def abort(self) -> None:
        """Drop the connection at once, without a word: what a tab that is closed does. Idempotent."""
        self.reusable = False
        self._writer.transport.abort()
