"""MetricsHistory: the last hour of the metrics, in memory, for the operations page.

Invariants: one sample every `SAMPLE_SECONDS`, at most `SAMPLES` of them, each a row of numbers: some 300 kB in all,
whatever the server does. It also measures the event loop's lag, which nobody else sees: how late its own timer comes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import asdict
from typing import Any

from chatserver.clock import Clock
from chatserver.metrics import Gauges, Metrics, Totals

SAMPLE_SECONDS = 10.0
# An hour of them.
SAMPLES = 360
# How often the loop's lag is looked at: a stall that people notice does not fall between two looks.
LAG_SECONDS = 0.25

COLUMNS = (
    "time",
    *Gauges.__dataclass_fields__,
    "tokens_per_second",
    "first_token_p50_seconds",
    "first_token_p99_seconds",
    *(name for name in Totals.__dataclass_fields__ if name != "tokens_written"),
)


class MetricsHistory:
    """See the module."""

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._rows: deque[tuple[float | None, ...]] = deque(maxlen=SAMPLES)
        self._last_at = clock.monotonic()
        self._last_totals = metrics.totals()
        self._last_first_token = metrics.first_token()

    async def run(self) -> None:
        """Sample for ever; owned by the application. Cancelling is safe."""
        clock = self._clock
        while True:
            worst = 0.0
            for _ in range(round(SAMPLE_SECONDS / LAG_SECONDS)):
                due = clock.monotonic() + LAG_SECONDS
                await clock.sleep(LAG_SECONDS)
                worst = max(worst, clock.monotonic() - due)
            self._metrics.event_loop_lag_seconds = worst
            self.sample()

    def sample(self) -> None:
        """Add the present to the history."""
        at, totals, first_token = self._clock.monotonic(), self._metrics.totals(), self._metrics.first_token()
        before, since = self._last_totals, first_token.less(self._last_first_token)
        seconds = max(at - self._last_at, 1e-9)
        # An answer that was deleted while it was written is not counted any more.
        tokens = max(totals.tokens_written - before.tokens_written, 0.0)
        grown = (value - getattr(before, name) for name, value in asdict(totals).items() if name != "tokens_written")
        self._rows.append(
            (
                round(self._clock.now(), 3),
                *asdict(self._metrics.gauges()).values(),
                round(tokens / seconds, 2),
                since.quantile(0.5),
                since.quantile(0.99),
                *grown,
            )
        )
        self._last_at, self._last_totals, self._last_first_token = at, totals, first_token

    def since(self, seconds: float) -> dict[str, list[float | None]]:
        """The samples taken after a moment, a list for each of `COLUMNS`, oldest first.

        Args:
            seconds: since the epoch.
        """
        rows = [row for row in self._rows if (row[0] or 0.0) > seconds]
        return {name: [row[at] for row in rows] for at, name in enumerate(COLUMNS)}

    def now(self) -> dict[str, Any]:
        """The present: gauges, and totals since the start."""
        totals = asdict(self._metrics.totals())
        totals["tokens_written"] = round(totals["tokens_written"])
        return asdict(self._metrics.gauges()) | totals
