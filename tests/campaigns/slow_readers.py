"""Two hundred readers that stop reading, among a thousand: the others hardly notice, the slow are cut (spec T5).

Two servers are measured one after the other, one with readers that all read, one where every fifth has stopped. Each
session bursts first, which fills every buffer of those that do not read, and then ticks.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import socket
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.campaigns.campaign import Campaign, Round
from tests.checker import Checker, Violation
from tests.server import ServerProcess

READERS = 1_000
SESSIONS = 50
# Every so many readers one is slow.
SLOW_EVERY = 5
# Far above what the kernel and the server together hold for a connection that nobody reads.
BURST_KB = 512
PAUSE_MS = 100
SLOW_BUFFER_BYTES = 4096
STALL_SECONDS = 15.0
CUT_SECONDS = 20.0
MEMORY_BYTES = 50_000_000
P99_FACTOR = 2.0
# Servers without and with slow readers are measured in turn, so often; the medians are compared.
PAIRS = 3

_STAMP = re.compile(rb"@(\d+)@")
# More than a stamp has, so that one that comes in two reads is found.
_STAMP_BYTES = 32


class Reader(asyncio.Protocol):
    """A tab that reads everything at once, and notes how late each tick is."""

    def __init__(self, head: bytes) -> None:
        self._head = head
        self.opened = asyncio.get_running_loop().create_future()
        self.burst = asyncio.get_running_loop().create_future()
        self.latencies_ms: list[float] = []
        # Ticks made after this moment count; by then every reader has its burst. None: not yet.
        self.from_us: int | None = None
        self._rest = b""
        self.received = 0
        self.lost = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._head)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if not self.opened.done():
            if b"data: " in data:
                self.opened.set_result(None)
            return
        if self.received > BURST_KB * 1024 and not self.burst.done():
            self.burst.set_result(None)
        if self.from_us is None:
            return
        now, data, end = time.monotonic_ns() // 1000, self._rest + data, 0
        for found in _STAMP.finditer(data):
            stamp, end = int(found[1]), found.end()
            if stamp > self.from_us:  # a snapshot tells of earlier ticks again
                self.latencies_ms.append((now - stamp) / 1000)
                self.from_us = stamp
        self._rest = data[max(end, len(data) - _STAMP_BYTES) :]

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        for waiting in (self.opened, self.burst):
            if not waiting.done():
                waiting.set_exception(ConnectionResetError("a stream was cut"))
                waiting.exception()  # whoever waits sees it; nobody has to


@dataclass(frozen=True, slots=True)
class Seen:
    """What one server showed."""

    p99_ms: float
    memory_bytes: int
    cut_seconds: float
    ticks: int


async def observe(folder: Path, *, readers: int, slow: bool, stall_seconds: float, ticking_seconds: float) -> Seen:
    """Run a server with that many readers.

    Args:
        slow: whether every fifth reads nothing after it connected.
        ticking_seconds: how long the sessions tick after their burst.
    Raises:
        Violation: a reader that reads was cut, or one that does not was not, in time.
    """
    server = ServerProcess(
        folder,
        settings={"scripted": None, "default_model": None, "stall_timeout_seconds": stall_seconds},
        flags=("--agent", "tests.campaigns.ticking_agent:reply"),
    )
    sessions = [f"ticking-{n}" for n in range(min(SESSIONS, readers // SLOW_EVERY))]
    tabs: list[Reader] = []
    stopped: list[socket.socket] = []
    async with server, Checker(server.base_url) as checker:
        try:
            for n in range(readers):
                session_id = sessions[n % len(sessions)]
                # By rows, so that every session has its share of slow ones.
                if slow and (n // len(sessions)) % SLOW_EVERY == 0:
                    stopped.append(await _stopped_reader(server.base_url, session_id))
                else:
                    tabs.append(await _reader(server.base_url, session_id))
            await asyncio.gather(*(tab.opened for tab in tabs))
            await checker.state(sessions[0])  # opens the connection that the checker keeps
            before = _descriptors(server.pid)
            count = int(ticking_seconds * 1000 / PAUSE_MS)
            for session_id in sessions:
                await checker.send(session_id, f"tick {BURST_KB} {count} {PAUSE_MS}")
            async with asyncio.timeout(60):
                await asyncio.gather(*(tab.burst for tab in tabs))
            burst_over = time.monotonic()
            for tab in tabs:
                tab.from_us = time.monotonic_ns() // 1000
            memory, cut = server.memory_bytes(), 0.0
            while time.monotonic() - burst_over < ticking_seconds:
                await asyncio.sleep(0.25)
                memory = max(memory, server.memory_bytes())
                if not cut and _descriptors(server.pid) <= before - len(stopped):
                    cut = time.monotonic() - burst_over
            if any(tab.lost for tab in tabs):
                raise Violation(f"{sum(tab.lost for tab in tabs)} readers that read everything were cut")
            if slow and not cut:
                left = _descriptors(server.pid) - (before - len(stopped))
                raise Violation(f"{left} of {len(stopped)} stopped readers were still there after {ticking_seconds} s")
        finally:
            for sock in stopped:
                sock.close()
            for tab in tabs:
                if tab.transport is not None:
                    tab.transport.abort()
            await asyncio.sleep(0.1)
    latencies = [latency for tab in tabs for latency in tab.latencies_ms]
    return Seen(statistics.quantiles(latencies, n=100)[98], memory, cut, len(latencies))


def _head(session_id: str) -> bytes:
    return f"GET /api/chat/stream?session_id={session_id} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


async def _reader(base_url: str, session_id: str) -> Reader:
    parts = urlsplit(base_url)
    loop = asyncio.get_running_loop()
    _, reader = await loop.create_connection(lambda: Reader(_head(session_id)), parts.hostname, parts.port)
    return reader


async def _stopped_reader(base_url: str, session_id: str) -> socket.socket:
    """A connection that asks for a stream, reads its beginning, and then nothing more."""
    parts = urlsplit(base_url)
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BUFFER_BYTES)
    await loop.sock_connect(sock, (parts.hostname, parts.port))
    await loop.sock_sendall(sock, _head(session_id))
    data = b""
    while b"data: " not in data:
        data += await loop.sock_recv(sock, 4096)
    return sock


def _descriptors(pid: int) -> int:
    # The kernel keeps a dropped connection's unsent bytes for a while; the server's own side of it is what counts.
    return len(os.listdir(f"/proc/{pid}/fd"))


async def compare(
    folder: Path, *, readers: int, stall_seconds: float, cut_seconds: float, pairs: int = PAIRS, p99_floor_ms: float = 0
) -> Counter[str]:
    """Observe without and with slow readers.

    Args:
        pairs: how often; the median of each counts.
        p99_floor_ms: a 99th percentile below it passes whatever it is without slow readers.
    Raises:
        Violation: the others' 99th percentile, the memory, or the time until all were cut is over its limit.
    """
    seen: dict[bool, list[Seen]] = {False: [], True: []}
    for number in range(pairs):
        for slow, others in seen.items():
            others.append(
                await observe(
                    folder / f"{number}-{slow}",
                    readers=readers,
                    slow=slow,
                    stall_seconds=stall_seconds,
                    ticking_seconds=cut_seconds + 2,
                )
            )
    calm_ms, slow_ms = (statistics.median(each.p99_ms for each in seen[slow]) for slow in (False, True))
    more_bytes = max(s.memory_bytes - c.memory_bytes for c, s in zip(seen[False], seen[True], strict=True))
    cut_seconds_most = max(each.cut_seconds for each in seen[True])
    if more_bytes > MEMORY_BYTES:
        raise Violation(f"{more_bytes / 1e6:.0f} MB more beside slow readers")
    if cut_seconds_most > cut_seconds:
        raise Violation(f"it took {cut_seconds_most:.1f} s until all slow readers were cut")
    if slow_ms > max(P99_FACTOR * calm_ms, p99_floor_ms):
        each = {slow: [round(s.p99_ms, 1) for s in others] for slow, others in seen.items()}
        raise Violation(f"99 of 100 ticks within {each[True]} ms beside slow readers, within {each[False]} ms without")
    return Counter(
        readers=readers,
        slow_readers=readers // SLOW_EVERY,
        ticks=sum(each.ticks for others in seen.values() for each in others),
        p99_us_without=int(calm_ms * 1000),
        p99_us_beside=int(slow_ms * 1000),
        p99_percent_of_without=round(100 * slow_ms / calm_ms),
        memory_kib_more=max(0, more_bytes) >> 10,
        cut_after_ms=int(cut_seconds_most * 1000),
    )


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Round]:
    """Each round has servers of its own."""

    async def one(number: int, random_: random.Random) -> Counter[str]:
        return await compare(
            folder / str(number), readers=READERS, stall_seconds=STALL_SECONDS, cut_seconds=CUT_SECONDS
        )

    yield one


CAMPAIGN = Campaign(
    name="slow-readers",
    promise="200 readers that stop reading, among 1,000: the others' 99th percentile stays under twice what it is "
    "without them, memory grows by less than 50 MB, and all of them are cut within 20 s.",
    rounds=1,
    open=opened,
)
