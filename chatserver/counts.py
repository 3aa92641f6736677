"""What has happened in this process, as plain numbers that its parts count up.

Invariants: a number only grows, so whoever reads it twice knows what happened between; nothing here grows with
sessions or people, only with models, codes and routes, which are bounded. Counting is an addition, never a call to a
library: what reads the numbers (metrics.py) makes metrics of them when somebody asks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import add, sub

from chatserver.message import Outcome, Usage

# Upper edges in seconds: from an agent on this machine to a large model that reads a long prompt.
FIRST_TOKEN_EDGES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
# Agents name their failures as they like: beyond so many different codes the rest count as `other`.
MAX_CODES = 100
OTHER = "other"


class Histogram:
    """How many values lay up to each edge, and their sum.

    Args:
        edges: upper ones, growing; a value equal to one is below it.
    """

    __slots__ = ("counts", "edges", "total")

    def __init__(self, edges: tuple[float, ...]) -> None:
        self.edges = edges
        self.counts = [0] * (len(edges) + 1)  # the last one is what lies above all edges
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.edges, value)] += 1
        self.total += value

    @classmethod
    def sum(cls, parts: Iterable[Histogram]) -> Histogram:
        """All of them together; they have the same edges."""
        whole = cls(FIRST_TOKEN_EDGES)
        for part in parts:
            whole.counts = list(map(add, whole.counts, part.counts))
            whole.total += part.total
        return whole

    def less(self, earlier: Histogram) -> Histogram:
        """What came since."""
        since = Histogram(self.edges)
        since.counts = list(map(sub, self.counts, earlier.counts))
        since.total = self.total - earlier.total
        return since

    def quantile(self, part: float) -> float | None:
        """About the value below which that part of the values lies, spread evenly within its two edges; None where
        there is none. What lies above all edges counts as the last edge."""
        rank = part * sum(self.counts)
        below, low = 0, 0.0
        for count, high in zip(self.counts, self.edges, strict=False):
            if count and below + count >= rank:
                return round(low + (high - low) * (rank - below) / count, 4)
            below += count
            low = high
        return low if self.counts[-1] else None


class Codes:
    """How often each code came; bounded, since some codes are other people's."""

    __slots__ = ("seen",)

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def count(self, code: str) -> None:
        self.seen[code if code in self.seen or len(self.seen) < MAX_CODES else OTHER] += 1


@dataclass(slots=True)
class TurnCounts:
    """Turns since the start; tokens by (model, kind), the time to the first piece of an answer by model."""

    started: int = 0
    written: int = 0  # characters of the answers of ended turns
    ended: Counter[Outcome] = field(default_factory=Counter)
    failures: Codes = field(default_factory=Codes)
    tokens: Counter[tuple[str, str]] = field(default_factory=Counter)
    first_token: dict[str, Histogram] = field(default_factory=dict)

    def first_token_of(self, model: str) -> Histogram:
        """The model's histogram, in seconds."""
        known = self.first_token.get(model)
        if known is None:
            known = self.first_token[model] = Histogram(FIRST_TOKEN_EDGES)
        return known

    def spent(self, model: str, usage: Usage) -> None:
        """A turn of that model has used so much."""
        tokens = self.tokens
        tokens[model, "prompt"] += usage.prompt_tokens
        tokens[model, "completion"] += usage.completion_tokens
        tokens[model, "reasoning"] += usage.reasoning_tokens
        tokens[model, "cached"] += usage.cached_tokens


@dataclass(slots=True)
class StreamCounts:
    """Streams since the start: opened, fallen behind, given a snapshot for what they missed, cut."""

    opened: int = 0
    lagged: int = 0
    skipped: int = 0
    cut: int = 0


@dataclass(slots=True)
class HttpCounts:
    """Requests by (method, route's pattern, status), and refusals at limits by code."""

    requests: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
