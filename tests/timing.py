"""Measured times on a machine that may stall: anything that runs can be stopped for a second at any moment.

A stall makes a measurement longer, never shorter. So a promise about time is held against the least of several
measurements: a defect makes all of them too long.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

TRIES = 5


async def least(measure: Callable[[], Awaitable[float]], wanted_seconds: float) -> float:
    """The least of up to `TRIES` measurements, in seconds; no more are made after one below `wanted_seconds`."""
    taken: list[float] = []
    while len(taken) < TRIES and min(taken, default=wanted_seconds) >= wanted_seconds:
        taken.append(await measure())
    return min(taken)
