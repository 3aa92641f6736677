"""StreamHub: every open stream of this process: caps, heartbeats, farewell.

Invariants: a stream is counted from before its headers are sent until it is closed; over a cap it is refused, never
left hanging (spec V7). One task pings all streams: each is in one of as many buckets as the ping interval has
seconds, so a second's work is a fifteenth of the streams and no stream has a timer of its own.
"""

from __future__ import annotations

import math
import random

from chatserver.clock import Clock
from chatserver.config import Settings
from chatserver.counts import StreamCounts
from chatserver.errors import Draining, RateLimited, Unavailable
from chatserver.streams.subscriber import Connection, goodbye_frame, ping_frame


class Place:
    """One of the places for streams. A class, since a generator's frame weighs four times as much, for each stream."""

    __slots__ = ("_address", "_caller", "_hub")

    def __init__(self, hub: StreamHub, caller: str, address: str | None) -> None:
        self._hub = hub
        self._caller = caller
        self._address = address

    def __enter__(self) -> None:
        self._hub._take(self._caller, self._address)

    def __exit__(self, *_: object) -> None:
        self._hub._free(self._caller, self._address)


class Joined:
    """One connection's time among those that are pinged."""

    __slots__ = ("_bucket", "_connection", "_hub", "_name")

    _bucket: set[Connection]

    def __init__(self, hub: StreamHub, connection: Connection, name: tuple[str, str] | None) -> None:
        self._hub = hub
        self._connection = connection
        self._name = name

    def __enter__(self) -> None:
        self._bucket = self._hub._join(self._connection, self._name)

    def __exit__(self, *_: object) -> None:
        self._bucket.discard(self._connection)
        self._hub._leave(self._connection, self._name)


class StreamHub:
    """See the module. `degraded` is told in pings (architecture §5)."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._buckets: list[set[Connection]] = [set() for _ in range(max(1, math.ceil(settings.ping_interval_seconds)))]
        self._next_bucket = 0
        self._by_caller: dict[str, int] = {}
        self._by_address: dict[str, int] = {}
        self._leased: set[Connection] = set()
        self._named: dict[tuple[str, str], Connection] = {}
        self._count = 0
        self._farewell: str | None = None
        self.counts = StreamCounts()
        self.degraded = False

    def __len__(self) -> int:
        return self._count

    def place(self, caller: str, address: str | None = None) -> Place:
        """Hold one of the places for streams, from entering until leaving.

        Args:
            caller: who counts: a principal or an address.
            address: what counts too.
        Raises (entering): Unavailable (`too_many_streams`), RateLimited (`too_many_streams`), Draining.
        """
        return Place(self, caller, address)

    def _take(self, caller: str, address: str | None) -> None:
        if self._farewell is not None:
            raise Draining()
        if self._count >= self._settings.max_streams:
            raise Unavailable("this server has all the streams it can hold", code="too_many_streams")
        mine = self._by_caller.get(caller, 0)
        if mine >= (limit := self._settings.max_streams_per_principal):
            raise RateLimited(
                f"{mine} streams are open for you already", limit=limit, code="too_many_streams", retry_after_seconds=5
            )
        if address is not None:
            near = self._by_address.get(address, 0)
            if near >= (limit := self._settings.max_streams_per_address):
                raise RateLimited(
                    f"{near} streams of visitors are open from your address already",
                    limit=limit,
                    code="too_many_streams",
                    retry_after_seconds=5,
                )
            self._by_address[address] = near + 1
        self._count += 1
        self.counts.opened += 1
        self._by_caller[caller] = mine + 1

    def _free(self, caller: str, address: str | None) -> None:
        self._count -= 1
        _count_down(self._by_caller, caller)
        if address is not None:
            _count_down(self._by_address, address)

    def joined(self, connection: Connection, name: tuple[str, str] | None = None) -> Joined:
        """Ping this connection and say goodbye to it, from entering until leaving, which closes it.

        Args:
            name: owner and client-chosen id of a multiplexed stream; an older one of that name is ended.
        """
        return Joined(self, connection, name)

    def _join(self, connection: Connection, name: tuple[str, str] | None) -> set[Connection]:
        bucket = self._buckets[self._next_bucket % len(self._buckets)]
        self._next_bucket += 1
        bucket.add(connection)
        if name is not None:
            if (older := self._named.get(name)) is not None:
                older.end()
            self._named[name] = connection
        if connection.lease is not None:
            self._leased.add(connection)
        if self._farewell is not None:  # the drain began while the headers went out
            self._say_goodbye(connection, self._farewell)
        return bucket

    def _leave(self, connection: Connection, name: tuple[str, str] | None) -> None:
        if name is not None and self._named.get(name) is connection:
            del self._named[name]
        self._leased.discard(connection)
        connection.close()

    def named(self, name: tuple[str, str]) -> Connection | None:
        """The multiplexed stream of that owner and id."""
        return self._named.get(name)

    def retry_milliseconds(self) -> int:
        """What to tell in `retry:`, jittered by half so that clients of a restarted server do not come all at once."""
        base = self._settings.retry_milliseconds
        return base + random.randrange(base // 2 + 1)  # noqa: S311 - spreads load, guards nothing

    async def run(self) -> None:
        """Ping for ever; owned by the application. Cancelling is safe."""
        pause = self._settings.ping_interval_seconds / len(self._buckets)
        at = 0
        while True:
            await self._clock.sleep(pause)
            frame = ping_frame(degraded=self.degraded)
            for connection in tuple(self._buckets[at % len(self._buckets)]):
                connection.send(frame)
            self.relieve()
            at += 1

    def relieve(self) -> int:
        """While the streams together hold more unsent bytes than `max_unsent_bytes`, cut those that hold the most; how
        many. Each alone is bounded by what it follows, all of them by this."""
        held = [(c.sink.pending_bytes, c) for bucket in self._buckets for c in bucket if not c.sink.closing]
        excess = sum([pending for pending, _ in held]) - self._settings.max_unsent_bytes
        if excess <= 0:
            return 0
        cut = 0
        for pending, connection in sorted(held, key=lambda item: item[0], reverse=True):
            if excess <= 0:
                break
            self.counts.cut += 1
            connection.sink.abort()
            excess -= pending
            cut += 1
        return cut

    def look_at_leases(self) -> None:
        """End the streams whose holders may not have them any more, each with the reason."""
        for connection in tuple(self._leased):
            if connection.lease is not None and (reason := connection.lease()) is not None:
                self._say_goodbye(connection, reason)

    def dismiss(self, holder: str, reason: str) -> None:
        """End every stream of that holder."""
        for bucket in self._buckets:
            for connection in tuple(bucket):
                if connection.holder == holder:
                    self._say_goodbye(connection, reason)

    def _say_goodbye(self, connection: Connection, reason: str) -> None:
        if not connection.ended:  # its handler comes to its end only when its reader has taken what it was told
            connection.end(goodbye_frame(reason, self.retry_milliseconds()))

    def backlog(self) -> tuple[int, int]:
        """Streams that are behind now, and the unsent bytes of all; looks at each of them."""
        behind = unsent = 0
        for bucket in self._buckets:
            for connection in bucket:
                behind += connection.lagging
                if not connection.sink.closing:
                    unsent += connection.sink.pending_bytes
        return behind, unsent

    def goodbye(self, reason: str) -> None:
        """Tell every stream to come back later, end it, and refuse new ones; idempotent."""
        self._farewell = reason
        for bucket in self._buckets:
            for connection in tuple(bucket):
                self._say_goodbye(connection, reason)


def _count_down(counts: dict[str, int], key: str) -> None:
    if counts[key] > 1:
        counts[key] -= 1
    else:
        del counts[key]
