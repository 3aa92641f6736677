"""FlushPace: how long text may wait for its neighbours.

Longer while the loop is busy, by its own thread's CPU time, because it comes late, or because the writing itself takes
much of the time: writes are most of what a busy server does, and each is shared by all the text in it
(benchmarks/throughput.py). It decides nothing about one piece (run.py).
"""

from __future__ import annotations

import time

# Above this share of its core the loop counts as busy.
BUSY_SHARE = 0.8
# Above this share of the short interval, writing out what waited is too much to do that often. It is known after one
# flush: where hundreds of answers begin together, the core's share would be known only when half of them are over.
WRITING_SHARE = 0.4
# Long enough for the share to mean something, short enough to follow a burst.
LOOK_SECONDS = 0.1


class FlushPace:
    """See the module.

    Args:
        idle_seconds, busy_seconds: the two intervals; an `idle_seconds` of 0 sends each piece alone at any load.
    """

    __slots__ = ("_busy", "_cpu", "_idle", "_looked_at", "interval_seconds")

    def __init__(self, idle_seconds: float, busy_seconds: float) -> None:
        self._idle = idle_seconds
        self._busy = max(idle_seconds, busy_seconds) if idle_seconds else 0.0
        self._looked_at = float("-inf")
        self._cpu = 0.0
        self.interval_seconds = idle_seconds

    def wrote(self, seconds: float) -> None:
        """Adapt to how long it took to write out everything that waited."""
        if seconds > WRITING_SHARE * self._idle:
            self.interval_seconds = self._busy

    def look(self, now: float, late_seconds: float) -> None:
        """Adapt to the loop, now and then; called from its thread.

        Args:
            now: the loop's time in seconds.
            late_seconds: how late a timer of the loop just fired; on a shared core a loop can be starved without ever
                having a core's worth of CPU time.
        """
        passed = now - self._looked_at
        if passed >= LOOK_SECONDS:
            cpu = time.thread_time()
            busy = cpu - self._cpu > BUSY_SHARE * passed or late_seconds > self._idle
            self.interval_seconds = self._busy if busy else self._idle
            self._looked_at, self._cpu = now, cpu
