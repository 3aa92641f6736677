"""RateLimiter: at most so many events in a period, a caller each; and what callers without a name count as.

Generic cell rate algorithm (ITU-T I.371): one number a key, exact spacing, exact time of the next success. Keys are
forgotten when they have no effect any more, and the table is bounded: when it is full the keys closest to being
forgotten go first. docs/decisions/0004 says why this and not a library.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable
from functools import lru_cache

from chatserver.errors import RateLimited

# A key is about 150 bytes: 15 MB at the most.
MAX_KEYS = 100_000


class RateLimiter:
    """Allows bursts up to `limit`, and `limit` in any `period_seconds` on the long run.

    Args:
        what: names the limit in the error.
        limit: events a period.
        period_seconds: the period.
        monotonic: the clock, in seconds.
        code: of the error, where a narrower one than `rate_limited` says more.
    """

    def __init__(
        self,
        what: str,
        limit: int,
        period_seconds: float,
        monotonic: Callable[[], float],
        *,
        code: str | None = None,
    ) -> None:
        self._what = what
        self._limit = limit
        self._period = period_seconds
        self._spacing = period_seconds / limit
        self._monotonic = monotonic
        self._code = code
        self._full_at: dict[str, float] = {}

    def check(self, key: str) -> None:
        """Whether one more event of `key` is allowed right now; counts nothing.

        Raises: RateLimited, with the whole seconds to wait.
        """
        now = self._monotonic()
        wait = self._due(key, now) - now - self._period
        if wait > 1e-9:
            raise RateLimited(
                f"{self._what}: {self._limit} in {self._period:g} s",
                limit=self._limit,
                code=self._code,
                retry_after_seconds=max(1, math.ceil(wait)),
            )

    def hit(self, key: str) -> int:
        """Count one event of `key`.

        Returns: how many more would be allowed right now.
        Raises: RateLimited, as `check` does; nothing is counted then.
        """
        self.check(key)
        now = self._monotonic()
        if len(self._full_at) >= MAX_KEYS:
            self._forget(now)
        due = self._full_at[key] = self._due(key, now)
        return int((self._period - (due - now)) / self._spacing + 1e-9)

    def take_back(self, key: str) -> None:
        """Uncount one event of `key`: it was hit, and what it was hit for did not come about."""
        if key in self._full_at:
            self._full_at[key] -= self._spacing

    def _due(self, key: str, now: float) -> float:
        return max(self._full_at.get(key, now), now) + self._spacing

    def _forget(self, now: float) -> None:
        self._full_at = {k: v for k, v in self._full_at.items() if v > now}
        if len(self._full_at) >= MAX_KEYS * 3 // 4:  # room for many, or a flood would pay for this with every hit
            keep = sorted(self._full_at.items(), key=lambda item: item[1])[-(MAX_KEYS // 2) :]
            self._full_at = dict(keep)


Hits = list[tuple[RateLimiter, str]]


def hit_all(hits: Hits) -> None:
    """Count one event at each of these limiters, or at none: who is refused by one has used nothing up at the others.

    Raises: RateLimited, of the first that refuses.
    """
    for limiter, key in hits:
        limiter.check(key)
    for limiter, key in hits:
        limiter.hit(key)


@lru_cache(maxsize=4096)  # every request asks
def counted_address(address: str) -> str:
    """What limits count an address as: of IPv6, one household or server has 2^64 at its will (RFC 6177), which are one;
    an IPv4 address in the clothes of IPv6 (RFC 4291 §2.5.5.2) is what it was. Anything else counts as it stands."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed), 64), strict=False))
