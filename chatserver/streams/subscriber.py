"""Subscribers: how a session's events reach one connection, whatever the speed of its reader.

Invariants:

- Subscribing and the first snapshot (or replay) are one step without an await, so that nothing is missed and nothing
  comes twice.
- A producer never waits. `push` writes bytes that are already encoded; a connection whose transport is full is
  marked lagging and skipped, and its own task catches it up from the log by cursor. What the log no longer holds, or
  more than `backlog_bytes`, becomes one snapshot (spec T5).
- A connection that takes nothing for `stall_seconds` is cut.
- One that is ended gives its reader what it lacked at that moment, its last words, and a bounded time to take them.

It knows no HTTP: a Sink is what a transport looks like from here.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Protocol

from chatserver.counts import StreamCounts
from chatserver.events import Frame, Position, encode_plain

# Asked again and again while a stream is open: the reason for which it must end, or None.
Lease = Callable[[], str | None] | None

# For the last words of a stream. A logout ends streams within five seconds (spec A1), of which a second passes until
# the leases are looked at; and a server that stops leaves its requests 1.5 s (app.CLOSE_SECONDS).
LAST_WORDS_SECONDS = 1.25


class Sink(Protocol):
    """Where bytes go."""

    def write(self, data: bytes) -> None:
        """Hand bytes to the transport; never waits, ignored once it closes."""

    @property
    def full(self) -> bool:
        """Whether the transport is above its high-water mark."""

    @property
    def pending_bytes(self) -> int:
        """Bytes the kernel has not taken yet."""

    @property
    def closing(self) -> bool: ...

    async def drain(self) -> None:
        """Wait until the transport is below its low-water mark, or raise ConnectionError. Cancelling is safe."""

    async def flush(self) -> None:
        """Wait until the kernel has taken everything, or raise ConnectionError. Cancelling is safe."""

    def abort(self) -> None:
        """Drop the connection and what it still holds."""


class Source(Protocol):
    """A live session, as far as a subscriber needs it."""

    @property
    def position(self) -> Position: ...

    def frames_after(self, position: Position) -> list[bytes] | None: ...

    def snapshot_frame(self) -> bytes: ...

    def state_frame(self) -> bytes: ...

    def add_subscriber(self, subscriber: Subscriber) -> None: ...

    def remove_subscriber(self, subscriber: Subscriber) -> None: ...


class Subscriber(Protocol):
    """One view of one session."""

    def push(self, frame: Frame) -> None:
        """Take the newest frame, which may be several in one; must not wait and must not raise."""

    def catch_up(self) -> None:
        """Send what was missed while the connection lagged, or the newest state where that is too much or gone."""

    def missing(self) -> list[bytes]:
        """What its reader lacks now; nothing where that is more than a backlog, since it comes back to the state."""

    def end(self) -> None:
        """The session has left memory (deleted, expired): end, with what was said last."""

    def cancel(self) -> None:
        """Stop following; idempotent."""


class Connection:
    """One stream connection with one or more subscriptions.

    Args:
        sink: the transport.
        stall_seconds: without a byte taken for this long, it is cut.
        backlog_bytes: missed bytes above which a snapshot is sent instead.
        counts: of the streams of this process.
        holder: who opened it; None where that is nobody in particular.
        lease: tells why what let its holder open it is over.
    """

    __slots__ = (
        "_last_words",
        "_patience",
        "_stall_seconds",
        "_wake",
        "backlog_bytes",
        "counts",
        "ended",
        "holder",
        "lagging",
        "lease",
        "sink",
        "subscriptions",
    )

    def __init__(
        self,
        sink: Sink,
        *,
        stall_seconds: float,
        backlog_bytes: int,
        counts: StreamCounts,
        holder: str | None = None,
        lease: Lease = None,
    ) -> None:
        self.sink = sink
        self.lagging = False
        self.ended = False
        self.subscriptions: dict[str, Subscriber] = {}
        self._last_words: list[bytes] | None = None
        self._wake: asyncio.Future[None] | None = None
        self._patience: asyncio.Timeout | None = None
        self._stall_seconds = stall_seconds
        self.backlog_bytes = backlog_bytes
        self.counts = counts
        self.holder = holder
        self.lease = lease

    def send(self, data: bytes) -> None:
        """Write outside the numbering (a ping, a state); skipped while lagging, when the reader has enough to read."""
        if not self.lagging and not self.ended and not self.sink.closing:
            self.sink.write(data)
            if self.sink.full:
                self.mark_lagging()

    def mark_lagging(self) -> None:
        self.lagging = True
        self.counts.lagged += 1
        self.rouse()

    def end(self, last: bytes | None = None) -> None:
        """Say nothing more than what the reader lacks now, and `last`; then let who serves it return. Idempotent."""
        if self.ended:
            return
        self.ended = True
        words = [piece for subscription in self.subscriptions.values() for piece in subscription.missing()]
        if last is not None:
            words.append(last)
        if self.lagging:  # written as the reader makes room: not held twice for everybody who is behind
            self._last_words = words
        elif not self.sink.closing:
            for piece in words:
                self.sink.write(piece)
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(0)  # it waits for room, with more time than is left now
        self.rouse()

    def cut(self) -> None:
        """Drop it, and what it still holds: its client comes back and begins anew."""
        self.counts.cut += 1
        self.sink.abort()
        self.ended = True
        self.rouse()

    def rouse(self) -> None:
        """Wake who serves it."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def roused(self) -> None:
        """Wait until `rouse`. For the one task that serves the connection; what it waits for it looks at before."""
        self._wake = asyncio.get_running_loop().create_future()
        try:
            await self._wake
        finally:
            self._wake = None

    async def serve(self) -> None:
        """Live until the connection ends; catches up whenever it lagged.

        Cancelling is safe: it is how a client's disconnect arrives.
        """
        while not self.ended and not self.sink.closing:
            if not self.lagging:
                await self.roused()
            elif not await self._drained():
                self.cut()
            elif not self.ended:
                self._catch_up()
        if not self.sink.closing:
            await self._say_last_words()

    async def _say_last_words(self) -> None:
        sink = self.sink
        try:
            async with asyncio.timeout(LAST_WORDS_SECONDS):
                for piece in self._last_words or ():
                    if sink.full:
                        await sink.drain()
                    sink.write(piece)
                await sink.flush()
        except (TimeoutError, ConnectionError):
            self.cut()

    async def _drained(self) -> bool:
        """Wait for room, or for the connection's end; False when the reader has taken nothing for too long."""
        loop = asyncio.get_running_loop()
        pending, since = self.sink.pending_bytes, loop.time()
        while not self.ended:
            try:
                # Looked at often enough that a stall is cut within a fifth of its limit.
                async with asyncio.timeout(self._stall_seconds / 5) as self._patience:
                    await self.sink.drain()
                break
            except TimeoutError:
                now_pending, now = self.sink.pending_bytes, loop.time()
                if now_pending < pending:
                    since = now
                elif now - since >= self._stall_seconds:
                    return False
                pending = now_pending
            except ConnectionError:
                return False
            finally:
                self._patience = None
        return True

    def _catch_up(self) -> None:
        self.lagging = False
        for session_id, subscription in list(self.subscriptions.items()):
            # To the end: the next round begins with those that this one does not come to, or a busy session would
            # keep the others of a slow connection waiting for ever.
            del self.subscriptions[session_id]
            self.subscriptions[session_id] = subscription
            subscription.catch_up()
            if self.sink.full:
                self.lagging = True
                return

    def close(self) -> None:
        """Unsubscribe from everything; idempotent."""
        self.ended = True
        for subscription in list(self.subscriptions.values()):
            subscription.cancel()


class Subscription:
    """One session on one connection, by cursor.

    Args:
        session_id: the name under which the connection holds it.
        after: the last event the client has; None for a snapshot.
        ends_connection: whether the session's end ends the connection (it does not on a multiplexed one).
    """

    __slots__ = ("_ends_connection", "_source", "connection", "cursor", "session_id")

    def __init__(
        self,
        source: Source,
        connection: Connection,
        session_id: str,
        after: Position | None,
        *,
        ends_connection: bool,
    ) -> None:
        self._source = source
        self._ends_connection = ends_connection
        self.connection = connection
        self.session_id = session_id
        # None stands for nothing sent yet, which only a snapshot ends.
        self.cursor: Position | None = None
        source.add_subscriber(self)
        connection.subscriptions[session_id] = self
        frames = source.frames_after(after) if after is not None else None
        if connection.lagging:  # a full connection is not written to: `catch_up` begins what is added to it
            self.cursor = after if frames is not None else None
            return
        if frames is None:
            connection.sink.write(source.snapshot_frame())
        elif frames:
            connection.sink.write(b"".join(frames))
        self.cursor = source.position
        if connection.sink.full:
            connection.mark_lagging()

    def push(self, frame: Frame) -> None:
        connection = self.connection
        if connection.lagging or connection.ended:
            return
        sink = connection.sink
        if sink.closing:
            return
        sink.write(frame.data)
        self.cursor = frame.position
        if sink.full:
            connection.mark_lagging()

    def catch_up(self) -> None:
        """Send what was missed while lagging: the frames, or one snapshot where they are too many or gone."""
        if self.cursor == self._source.position:
            return
        missed = self._missed()
        if missed is None:
            self.connection.counts.skipped += 1
            self.connection.sink.write(self._source.snapshot_frame())
        else:
            self.connection.sink.write(b"".join(missed))
        self.cursor = self._source.position

    def _missed(self) -> list[bytes] | None:
        """The frames behind the cursor; None where they are too many or gone."""
        frames = self._source.frames_after(self.cursor) if self.cursor is not None else None
        if frames is None or sum(map(len, frames)) > self.connection.backlog_bytes:
            return None
        return frames

    def missing(self) -> list[bytes]:
        return self._missed() or []

    def end(self) -> None:
        connection = self.connection
        if connection.lagging and not connection.ended and self.cursor != self._source.position:
            # The session's last events, how it ended among them, can't be had later. A snapshot would not tell the end.
            missed = self._missed()
            if missed is None:
                connection.cut()
            else:
                connection.sink.write(b"".join(missed))
        self.cancel()
        if self._ends_connection:
            self.connection.end()

    def cancel(self) -> None:
        self._source.remove_subscriber(self)
        if self.connection.subscriptions.get(self.session_id) is self:
            del self.connection.subscriptions[self.session_id]


class StateView:
    """Seed 3's view (spec T7): the whole state as one message whenever it changed, never more often than asked.

    Args:
        session_id: the name under which the connection holds it.
        interval_seconds: least time between two messages.
    """

    __slots__ = ("_connection", "_interval_seconds", "_pause", "_source", "_unsaid", "session_id")

    def __init__(self, source: Source, connection: Connection, session_id: str, *, interval_seconds: float) -> None:
        self._source = source
        self._connection = connection
        self._interval_seconds = interval_seconds
        self._unsaid = True
        self._pause: asyncio.Handle | None = None
        self.session_id = session_id
        source.add_subscriber(self)
        connection.subscriptions[session_id] = self
        self.catch_up()

    def push(self, frame: Frame) -> None:
        self._unsaid = True
        if self._pause is None:  # what else happens in this moment goes with it
            self._pause = asyncio.get_running_loop().call_soon(self._over)

    def _over(self) -> None:
        self._pause = None
        self.catch_up()

    def catch_up(self) -> None:
        connection = self._connection
        if self._unsaid and self._pause is None and not connection.lagging and not connection.ended:
            connection.send(self._said())
            # All viewers at the same moments, at which the state is encoded once. A timer may be a little late.
            loop, interval = asyncio.get_running_loop(), self._interval_seconds
            self._pause = loop.call_at(math.ceil(loop.time() / interval + 0.9) * interval, self._over)

    def _said(self) -> bytes:
        self._unsaid = False
        return self._source.state_frame()

    def missing(self) -> list[bytes]:
        return [self._said()] if self._unsaid else []

    def end(self) -> None:
        self._connection.end()

    def cancel(self) -> None:
        self._source.remove_subscriber(self)
        if self._pause is not None:
            self._pause.cancel()
        if self._connection.subscriptions.get(self.session_id) is self:
            del self._connection.subscriptions[self.session_id]


def ping_frame(*, degraded: bool = False) -> bytes:
    """A heartbeat as data, since a page can't see comments (spec T6)."""
    return encode_plain({"type": "ping", "degraded": True} if degraded else {"type": "ping"})


def goodbye_frame(reason: str, retry_ms: int) -> bytes:
    """The last words of a draining server: come back after `retry_ms` milliseconds."""
    return encode_plain({"type": "goodbye", "reason": reason, "retry_ms": retry_ms})
