"""Time and fresh ids, injected so that tests decide both.

Wall time is seconds since the Unix epoch as a float; it is shown as RFC 3339 in UTC with milliseconds.
Durations are measured with `monotonic()`, never with wall time.
"""

from __future__ import annotations

import asyncio
import os
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

# So many ids' worth of random bytes are taken from the system at a time: each call lets go of the interpreter's lock,
# for which the store's thread may be waiting, and a turn takes five.
_DRAWN_AT_ONCE = 64
_drawn: list[str] = []
os.register_at_fork(after_in_child=_drawn.clear)  # or both would give out the same

# The two high bits of a UUID's variant digit are 10 (RFC 9562 §4.1), whatever was drawn for it.
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


class Clock(Protocol):
    """Where time and ids come from."""

    def now(self) -> float:
        """Wall time in seconds since the epoch."""

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""

    async def sleep(self, seconds: float) -> None:
        """Wait. Cancelling is safe."""

    def new_id(self) -> str:
        """A fresh UUID4 in its canonical form."""


class SystemClock:
    """The real one."""

    __slots__ = ()

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def new_id(self) -> str:
        # By hand: uuid.UUID costs three times as much.
        drawn = random_hex()
        return f"{drawn[:8]}-{drawn[8:12]}-4{drawn[13:16]}-{_VARIANT[drawn[16]]}{drawn[17:20]}-{drawn[20:]}"


def random_hex() -> str:
    """128 fresh bits of the system's own generator, as 32 hexadecimal digits; safe in any thread."""
    try:
        return _drawn.pop()
    except IndexError:
        digits = os.urandom(16 * _DRAWN_AT_ONCE).hex()
        _drawn.extend(digits[at : at + 32] for at in range(32, len(digits), 32))
        return digits[:32]


def rfc3339(seconds: float) -> str:
    """`seconds` since the epoch as RFC 3339 in UTC with milliseconds, e.g. `2026-01-02T03:04:05.678Z`."""
    whole, milliseconds = divmod(round(seconds * 1e6) // 1000, 1000)
    return f"{_whole_seconds(whole)}.{milliseconds:03d}Z"


@lru_cache(maxsize=64)
def _whole_seconds(seconds: int) -> str:
    """Kept: a turn writes half a dozen times, all of them of the same second or of the same distance to it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def from_rfc3339(text: str) -> float:
    """The inverse of `rfc3339`. Raises ValueError on anything else than a date and time with an offset."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no UTC offset")
    return moment.timestamp()
