"""A thousand connections that send their requests byte by byte: the server stays quick, and cuts them."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.campaigns.campaign import Campaign, Round
from tests.campaigns.crowd import story_server
from tests.checker import Checker, Connection, Violation

CONNECTIONS = 1_000
HEALTH_SECONDS = 1.0
DRIP_SECONDS = 0.5
# Beyond the limit: aiohttp's lingering read of what is still coming, and a look at the clock.
GRACE_SECONDS = 20.0

HEAD = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: " + b"a" * 4096
BODY = (
    b"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n",
    b'{"message": "' + b"a" * 4096,
)


async def attack(
    base_url: str, *, connections: int, header_seconds: float, body_seconds: float, health_seconds: float
) -> tuple[float, float]:
    """Open slow connections and drip; gives the slowest `/health` and the time until all were cut, in seconds.

    Args:
        header_seconds, body_seconds: the server's limits; half of the connections are slow in either.
        health_seconds: how long an answer of `/health` may take.
    Raises:
        Violation: `/health` was not answered in time, or connections outlived their limit.
    """
    started = time.monotonic()
    # Longer than the limits allow, at the pace below.
    open_: list[tuple[Connection, bytes]] = []
    for n in range(connections):
        connection = await Connection.open(base_url)
        if n % 2:
            connection.send(BODY[0])
        open_.append((connection, BODY[1] if n % 2 else HEAD))
    deadline = time.monotonic() + max(header_seconds, body_seconds) + GRACE_SECONDS
    slowest, sent = 0.0, 0
    async with Checker(base_url) as checker:
        try:
            while open_:
                for connection, data in open_:
                    connection.send(data[sent : sent + 1])
                sent += 1
                dripped = time.monotonic()
                while time.monotonic() - dripped < DRIP_SECONDS:
                    asked = time.monotonic()
                    try:
                        response = await checker.request("GET", "/health", timeout_seconds=10 * health_seconds)
                    except ConnectionError:
                        # Whoever stood still between connecting and asking was rightly cut, and may ask again
                        # (RFC 9110 §9.2.2); the time runs on.
                        response = await checker.request("GET", "/health", timeout_seconds=10 * health_seconds)
                    slowest = max(slowest, time.monotonic() - asked)
                    if response.status != 200 or slowest > health_seconds:
                        raise Violation(f"/health answered {response.status}, at worst after {slowest:.2f} s")
                    await asyncio.sleep(0.05)
                open_ = [(c, data) for c, data in open_ if not _gone(c)]
                if open_ and time.monotonic() > deadline:
                    raise Violation(f"{len(open_)} slow connections outlived their limit")
        finally:
            for connection, _ in open_:
                connection.abort()
    return slowest, time.monotonic() - started


def _gone(connection: Connection) -> bool:
    if connection.closed_by_peer:
        connection.abort()
        return True
    return False


@asynccontextmanager
async def opened(
    folder: Path,
    *,
    connections: int = CONNECTIONS,
    header_seconds: float = 10,
    body_seconds: float = 20,
    health_seconds: float = HEALTH_SECONDS,
) -> AsyncIterator[Round]:
    """Rounds on one server; the limits default to the server's own defaults."""
    settings = {"header_timeout_seconds": header_seconds, "body_timeout_seconds": body_seconds}
    async with story_server(folder / "data", **settings) as server:

        async def one(number: int, random_: random.Random) -> Counter[str]:
            slowest, took = await attack(
                server.base_url,
                connections=connections,
                header_seconds=header_seconds,
                body_seconds=body_seconds,
                health_seconds=health_seconds,
            )
            return Counter(
                connections=connections, slowest_health_ms=int(slowest * 1000), all_cut_after_ms=int(took * 1000)
            )

        yield one


CAMPAIGN = Campaign(
    name="slowloris",
    promise="1,000 connections that send head or body byte by byte: /health is answered within a second, and all of "
    "them are cut.",
    rounds=3,
    open=opened,
    maxima=frozenset({"connections", "slowest_health_ms", "all_cut_after_ms"}),
)
