"""Server-Sent Events as a client reads them (HTML standard §9.2.6): bytes in, payloads out.

Invariants: no I/O and no waiting; the same bytes give the same payloads however they are cut into chunks; memory is
bounded by `MAX_EVENT_BYTES`, whatever comes. Each byte is copied a constant number of times: an unfinished line is
kept in parts until its end arrives.

Only `data` matters here. What a payload means is chunks.py's.
"""

from __future__ import annotations

# One event of a chat completion is a few hundred bytes; the largest honest ones carry a tool call's whole arguments.
# An endpoint that sends more without an end of line is broken or hostile.
MAX_EVENT_BYTES = 1 << 20

_BOM = b"\xef\xbb\xbf"


class SSEParser:
    """Incremental. An event that the end of the stream cuts is never given out, as the standard says.

    `overflow` turns true when an event or a line goes over `MAX_EVENT_BYTES`; nothing comes out after that.
    """

    __slots__ = ("_after_cr", "_data", "_data_size", "_line", "_line_size", "_start", "overflow")

    def __init__(self) -> None:
        self.overflow = False
        self._line: list[bytes] = []  # the unfinished line, in parts
        self._data: list[bytes] = []  # data lines of the unfinished event
        self._line_size = 0
        self._data_size = 0  # of the lines that `_data` came from, so that a million empty ones count too
        self._after_cr = False  # the last chunk ended in CR: an LF at the start of the next belongs to it
        self._start: bytes | None = b""  # the first bytes, until they can't be a byte order mark any more

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes of the stream.

        Returns:
            The payloads of the events that `chunk` completes, oldest first.
        """
        if self.overflow:
            return []
        if self._start is not None:
            chunk = self._skip_bom(chunk)
        if b"\r" in chunk or self._after_cr:
            chunk = self._line_feeds_only(chunk)
        if b"\n" not in chunk:
            self._hold(chunk)
            return []
        lines = chunk.split(b"\n")
        roomy = self._line_size + len(chunk) > MAX_EVENT_BYTES  # else no line can be too long
        if self._line:
            self._line.append(lines[0])
            lines[0] = b"".join(self._line)
            self._line.clear()
            self._line_size = 0
        rest = lines.pop()
        data = self._data
        out: list[bytes] = []
        for line in lines:
            if roomy and len(line) > MAX_EVENT_BYTES:
                self._overflow()
                return out
            if not line:
                if data:
                    out.append(data[0] if len(data) == 1 else b"\n".join(data))
                    data.clear()
                    self._data_size = 0
                continue
            if line[:6] == b"data: ":
                data.append(line[6:])
            elif line[:5] == b"data:":
                data.append(line[5:])
            elif line == b"data":
                data.append(b"")
            else:
                continue
            self._data_size += len(line)
            if self._data_size > MAX_EVENT_BYTES:
                self._overflow()
                return out
        if rest:
            self._hold(rest)
        return out

    def _hold(self, part: bytes) -> None:
        self._line.append(part)
        self._line_size += len(part)
        if self._line_size > MAX_EVENT_BYTES:
            self._overflow()

    def _overflow(self) -> None:
        self.overflow = True
        self._line.clear()
        self._data.clear()

    def _line_feeds_only(self, chunk: bytes) -> bytes:
        """CR and CRLF end a line like LF does; a CRLF may be cut in its middle."""
        if not chunk:
            return chunk
        if self._after_cr and chunk[:1] == b"\n":
            chunk = chunk[1:]
        self._after_cr = chunk[-1:] == b"\r"
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _skip_bom(self, chunk: bytes) -> bytes:
        start = (self._start or b"") + chunk
        if len(start) < len(_BOM) and _BOM.startswith(start):
            self._start = start
            return b""
        self._start = None
        return start.removeprefix(_BOM)
