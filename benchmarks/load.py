"""The load generator: raw asyncio protocols that count bytes, so that the server is what is measured.

Invariants: an open stream costs one callback per read and no task; nothing of an event is parsed. Tokens are counted by
the byte that each of them holds once (fake_agent.MARK), so the count is exact whatever was coalesced and wherever reads
cut; a run whose count is not what was asked for raises. Whether the events are right is for tests/checker to say.
"""

from __future__ import annotations

import asyncio
import json
import time
from array import array
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.fake_agent import MARK
from benchmarks.servers import Server

T = TypeVar("T")

_MARK = MARK.encode()
_EVENT = b"data: "
_ENDED = b'"turn.ended"'
_HEAD_END = b"\r\n\r\n"
# Above this, connecting is a storm of its own (listen backlogs), and no part of any question here.
AT_ONCE = 64
TIMEOUT_SECONDS = 180.0


class LoadError(RuntimeError):
    """A server did not do what was asked of it, so there is nothing to measure."""


class StreamReader(asyncio.Protocol):
    """One open event stream, counted.

    Attributes:
        tokens, events, size_bytes: since the last `reset`.
        first_token_at: `time.perf_counter()` of the first token since the last `reset`, 0.0 before it.
        gaps: seconds between reads that held tokens, collected while it is not None.
    """

    def __init__(self, head: bytes, on_end: Callable[[], None]) -> None:
        self._head = head
        self._on_end = on_end
        self._begin = b""
        self._tail = b""
        self._last_at = 0.0
        self._transport: asyncio.Transport | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lost = False
        self.gaps: array[float] | None = None
        self.reset()

    def reset(self) -> None:
        """Count from zero again."""
        self.tokens = self.events = self.size_bytes = 0
        self.first_token_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # always the stream transport here
        self._transport.write(self._head)  # type: ignore[union-attr]  # set the line before

    def data_received(self, data: bytes) -> None:
        if not self.ready.done():
            self._opening(data)
            return
        tokens = data.count(_MARK)
        if tokens:
            self.tokens += tokens
            if self.gaps is not None:
                now = time.perf_counter()
                if self._last_at:
                    self.gaps.append(now - self._last_at)
                self._last_at = now
            elif not self.first_token_at:
                self.first_token_at = time.perf_counter()
        self.size_bytes += len(data)
        seam = self._tail + data[:11]
        self.events += data.count(_EVENT) + seam.count(_EVENT) - self._tail.count(_EVENT) - data[:11].count(_EVENT)
        if _ENDED in data or _ENDED in seam:
            self._on_end()
        # As long as the longest thing looked for, less one byte: what is found in it was whole in this read.
        self._tail = data[-11:] if len(data) >= 11 else (self._tail + data)[-11:]

    def _opening(self, data: bytes) -> None:
        """Wait for the head and the first event, which is the snapshot."""
        self._begin += data
        if _HEAD_END in self._begin and _EVENT in self._begin and self._begin.endswith(b"\n"):
            status = self._begin[:15]
            if status.startswith(b"HTTP/1.1 200"):
                self.ready.set_result(None)
            else:
                self.ready.set_exception(LoadError(f"a stream was refused: {self._begin[:300]!r}"))
            self._begin = b""
        elif _HEAD_END in self._begin and not self._begin.startswith(b"HTTP/1.1 200"):
            self.ready.set_exception(LoadError(f"a stream was refused: {self._begin[:600]!r}"))

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        if not self.ready.done():
            self.ready.set_exception(LoadError(f"a stream was cut before it began: {error!r}"))

    def start_gaps(self) -> None:
        """Collect the times between tokens from now on."""
        self.gaps, self._last_at = array("d"), 0.0

    def close(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()


class Caller(asyncio.Protocol):
    """One kept connection for calls, one at a time."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._expected = -1
        self._answer: asyncio.Future[bytes] | None = None
        self.lost = False

    @classmethod
    async def open(cls, server: Server) -> Caller:
        """Connect."""
        _, caller = await asyncio.get_running_loop().create_connection(lambda: cls(server), server.host, server.port)
        return caller

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # always the stream transport here

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._expected < 0:
            end = self._buffer.find(_HEAD_END)
            if end < 0:
                return
            head = self._buffer[:end].lower()
            at = head.find(b"content-length:")
            if at < 0:
                self._fail(f"an answer without a length: {self._buffer[:300]!r}")
                return
            self._expected = end + 4 + int(head[at + 15 :].partition(b"\r")[0])
        if len(self._buffer) >= self._expected:
            answer, self._buffer, self._expected = self._buffer[: self._expected], b"", -1
            future, self._answer = self._answer, None
            if future is not None and not future.done():
                future.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self._fail(f"the server closed the connection: {error!r}")

    def _fail(self, why: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(LoadError(why))

    async def call(self, head: str, body: bytes = b"") -> bytes:
        """One request; gives head and body of a 2xx answer.

        Args:
            head: request line and headers, without Host and Content-Length, lines ending in `\\r\\n`.
        Raises:
            LoadError: any other answer, or none.
        """
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        request = f"{head}Host: {self._server.host}\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(request.encode() + body)
        answer = await self._answer
        if not answer.startswith(b"HTTP/1.1 2"):
            raise LoadError(f"{head.partition(chr(13))[0]}: {answer[:600]!r}")
        return answer

    async def chat(self, session_id: str, message: str) -> bytes:
        """`POST /api/chat`, asking for an answer without the messages, which is all that the baseline gives."""
        body = json.dumps({"message": message, "session_id": session_id}).encode()
        head = "POST /api/chat HTTP/1.1\r\nContent-Type: application/json\r\nPrefer: return=minimal\r\n"
        return await self.call(head, body)

    def close(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run took and gave.

    `cpu_seconds` is the server's; `load_share` the part of a core that the load generator itself used.
    """

    tokens: int
    events: int
    size_bytes: int
    wall_seconds: float
    cpu_seconds: float
    load_share: float

    @property
    def tokens_per_cpu_second(self) -> float:
        return self.tokens / self.cpu_seconds

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.wall_seconds

    @property
    def cpu_share(self) -> float:
        """The part of its core that the server used."""
        return self.cpu_seconds / self.wall_seconds


class Load:
    """Connections to one server, and the rounds of turns driven over them."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.streams: list[StreamReader] = []
        self.callers: list[Caller] = []
        self._to_end = 0
        self._all_ended: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Load:
        self.callers = list(await in_batches([lambda: Caller.open(self.server)] * AT_ONCE))
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in (*self.streams, *self.callers):
            connection.close()
        self.streams.clear()
        self.callers.clear()
        await asyncio.sleep(0.05)  # lets the transports close before the loop does

    async def open_streams(self, session_ids: Iterable[str]) -> list[StreamReader]:
        """Open one stream per id (an id may come several times) and wait for their snapshots."""

        async def open_one(session_id: str) -> StreamReader:
            head = (
                f"GET /api/chat/stream?session_id={session_id} HTTP/1.1\r\nHost: {self.server.host}\r\n"
                "Accept: text/event-stream\r\n\r\n"
            ).encode()
            loop = asyncio.get_running_loop()
            _, stream = await loop.create_connection(
                lambda: StreamReader(head, self._ended), self.server.host, self.server.port
            )
            self.streams.append(stream)
            await asyncio.wait_for(stream.ready, TIMEOUT_SECONDS)
            return stream

        return await in_batches([lambda s=s: open_one(s) for s in session_ids])

    def _ended(self) -> None:
        self._to_end -= 1
        if self._to_end == 0 and self._all_ended is not None and not self._all_ended.done():
            self._all_ended.set_result(None)

    async def chat_all(self, session_ids: Sequence[str], message: str) -> None:
        """Send a message to each session, over all callers at once."""
        await self._mend_callers()
        waiting = iter(session_ids)

        async def drive(caller: Caller) -> None:
            for session_id in waiting:
                await caller.chat(session_id, message)

        await asyncio.gather(*(drive(caller) for caller in self.callers[: len(session_ids)]))

    async def _mend_callers(self) -> None:
        """Open those anew that the server has closed: it waits neither for ever for a first request nor for a next."""
        lost = [n for n, caller in enumerate(self.callers) if caller.lost]
        fresh = await in_batches([lambda: Caller.open(self.server)] * len(lost))
        for n, caller in zip(lost, fresh, strict=True):
            self.callers[n] = caller

    async def round(self, session_ids: Sequence[str], message: str) -> None:
        """One turn in each session; returns when every open stream has seen its end.

        Raises:
            LoadError: a stream was cut, or not all ended in time.
        """
        self._to_end = len(self.streams)
        self._all_ended = asyncio.get_running_loop().create_future()
        await self.chat_all(session_ids, message)
        try:
            await asyncio.wait_for(self._all_ended, TIMEOUT_SECONDS)
        except TimeoutError:
            lost = sum(stream.lost for stream in self.streams)
            raise LoadError(f"{self._to_end} streams did not see their turn end, {lost} were cut") from None

    async def measure(
        self, session_ids: Sequence[str], message: str, *, at_least_seconds: float, expected_tokens: int
    ) -> Measured:
        """Drive rounds for some time and measure them together.

        Args:
            expected_tokens: what each stream must get per round.
        """
        for stream in self.streams:
            stream.reset()
        rounds = 0
        cpu, own, started = self.server.cpu_seconds(), time.process_time(), time.perf_counter()
        while not rounds or time.perf_counter() - started < at_least_seconds:
            await self.round(session_ids, message)
            rounds += 1
        wall = time.perf_counter() - started
        cpu, own = self.server.cpu_seconds() - cpu, time.process_time() - own
        tokens = sum(stream.tokens for stream in self.streams)
        if tokens != expected_tokens * rounds * len(self.streams):
            raise LoadError(f"{tokens} tokens came, {expected_tokens * rounds * len(self.streams)} were asked for")
        return Measured(
            tokens=tokens,
            events=sum(stream.events for stream in self.streams),
            size_bytes=sum(stream.size_bytes for stream in self.streams),
            wall_seconds=wall,
            cpu_seconds=cpu,
            load_share=own / wall,
        )


async def in_batches(calls: Sequence[Callable[[], Awaitable[T]]], at_once: int = AT_ONCE) -> list[T]:
    """Run calls, `at_once` of them at the same time; their results in order."""
    results: list[T] = []
    for start in range(0, len(calls), at_once):
        results += await asyncio.gather(*(call() for call in calls[start : start + at_once]))
    return results
