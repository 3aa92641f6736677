"""A clock that tests set; ids and sleeping are the real ones'."""

from __future__ import annotations

from chatserver.clock import SystemClock

NOW = 1_800_000_000.0


class SetClock(SystemClock):
    """Stands at `NOW` until it is moved."""

    __slots__ = ("at",)

    def __init__(self, at: float = NOW) -> None:
        self.at = at

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at - NOW + 1000

    def move(self, seconds: float) -> None:
        """Let so many seconds pass."""
        self.at += seconds
