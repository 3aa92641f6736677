"""RateLimiter: at most so many events in a period, a caller each.

Generic cell rate algorithm (ITU-T I.371): one number a key, exact spacing, exact time of the next success. Keys are
forgotten when they have no effect any more, and the table is bounded: when it is full the keys closest to being
forgotten go first. docs/decisions/0004 says why this and not a library.
"""

from __future__ import annotations

import math
from collections.abc import Callable

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

    def hit(self, key: str) -> int:
        """Count one event of `key`.

        Returns: how many more would be allowed right now.
        Raises: RateLimited, with the whole seconds to wait; nothing is counted then.
        """
        now = self._monotonic()
        if len(self._full_at) >= MAX_KEYS:
            self._forget(now)
        due = max(self._full_at.pop(key, now), now) + self._spacing
        if due - now > self._period + 1e-9:
            self._full_at[key] = due - self._spacing
            wait = due - now - self._period
            raise RateLimited(
                f"{self._what}: {self._limit} in {self._period:g} s",
                code=self._code,
                retry_after_seconds=max(1, math.ceil(wait)),
                limit=self._limit,
                remaining=0,
            )
        self._full_at[key] = due
        return int((self._period - (due - now)) / self._spacing + 1e-9)

    def _forget(self, now: float) -> None:
        self._full_at = {k: v for k, v in self._full_at.items() if v > now}
        if len(self._full_at) >= MAX_KEYS * 3 // 4:  # room for many, or a flood would pay for this with every hit
            keep = sorted(self._full_at.items(), key=lambda item: item[1])[-(MAX_KEYS // 2) :]
            self._full_at = dict(keep)
