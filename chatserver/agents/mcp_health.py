"""Whether a tool server may be tried again now: a backoff that opens by itself.

Invariants: the first retry is free, so that one death costs a user nothing; a server that keeps failing is left alone
for longer and longer, up to a bound, and whoever asks meanwhile is told at once instead of waiting.
"""

from __future__ import annotations

from chatserver.clock import Clock
from chatserver.errors import ToolError

# Seconds of rest after the first, second, … failure in a row; the last one repeats.
RESTS = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
# A connection that held this long was healthy: its loss starts the row anew.
STABLE_SECONDS = 60.0


class Health:
    """The failures in a row of one server, or of one session's connection to it."""

    def __init__(self, server: str, clock: Clock) -> None:
        self._server = server
        self._clock = clock
        self._failures = 0
        self._retry_at = 0.0
        self.error: str | None = None

    @property
    def failing(self) -> bool:
        return self._failures > 0

    def check(self) -> None:
        """Raises: ToolError, code `server_failed`, while the server is left alone."""
        wait = self._retry_at - self._clock.monotonic()
        if wait > 0:
            raise ToolError(
                f"the tool server {self._server!r} failed ({self.error}); it is tried again in {wait:.0f} s",
                code="server_failed",
            )

    def failed(self, why: str, after_seconds: float = 0.0) -> None:
        """Note a failure, `after_seconds` of good service."""
        self._failures = 1 if after_seconds >= STABLE_SECONDS else self._failures + 1
        self.error = why
        rest = RESTS[min(self._failures, len(RESTS)) - 1]
        self._retry_at = self._clock.monotonic() + rest

    def fine(self) -> None:
        """Forget the failures."""
        self._failures = 0
        self._retry_at = 0.0
        self.error = None
