"""Metrics: what the server's parts have counted, for Prometheus and for the operations page.

Invariants: everything is read when it is asked for; nothing on the way of a token knows of it. No label holds a
session, a person or a tenant: labels are models, routes, statuses and codes, which are bounded. The registry is this
object's own.

What is kept over time is metrics_history.py's. docs/operations.md has every metric; a test holds that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from chatserver import __version__
from chatserver.agents.catalog import Catalog
from chatserver.counts import Histogram, HttpCounts
from chatserver.message import Outcome
from chatserver.session_manager import SessionManager
from chatserver.store.base import Store
from chatserver.streams.hub import StreamHub
from chatserver.turns import TurnRunner
from chatserver.usage import BYTES_PER_TOKEN

OUTCOMES: tuple[Outcome, ...] = ("completed", "interrupted", "failed")


@dataclass(frozen=True, slots=True)
class Gauges:
    """What is so now. Bytes and seconds are in the names; the others are numbers of what they name."""

    streams_open: int
    streams_behind: int
    streams_unsent_bytes: int
    streams_degraded: int
    sessions_live: int
    sessions_bytes: int
    turns_running: int
    turns_queued: int
    store_waiting: int
    event_loop_lag_seconds: float


@dataclass(frozen=True, slots=True)
class Totals:
    """What has happened since the start."""

    turns_started: int
    turns_completed: int
    turns_interrupted: int
    turns_failed: int
    # About: by the length of the text, so that an answer counts while it is written and not when it ends.
    tokens_written: float
    upstream_errors: int
    streams_opened: int
    streams_fell_behind: int
    streams_resynced: int
    streams_cut: int
    evictions: int
    store_commits: int
    requests: int
    server_errors: int
    refusals: int


class Metrics:
    """See the module. `http` is counted up by the HTTP layer.

    Args:
        upstream_failures: by (model, code).
    """

    def __init__(
        self,
        turns: TurnRunner,
        hub: StreamHub,
        manager: SessionManager,
        store: Store,
        catalog: Catalog,
        upstream_failures: Mapping[tuple[str, str], int],
    ) -> None:
        self._turns = turns
        self._hub = hub
        self._manager = manager
        self._store = store
        self._catalog = catalog
        self._upstream_failures = upstream_failures
        self.http = HttpCounts()
        self.event_loop_lag_seconds = 0.0
        self._registry = CollectorRegistry()
        self._registry.register(_Families(self))
        ProcessCollector(registry=self._registry)

    def gauges(self) -> Gauges:
        """What is so now; looks at every open stream."""
        behind, unsent_bytes = self._hub.backlog()
        return Gauges(
            streams_open=len(self._hub),
            streams_behind=behind,
            streams_unsent_bytes=unsent_bytes,
            streams_degraded=int(self._hub.degraded),
            sessions_live=len(self._manager),
            sessions_bytes=self._manager.total_bytes,
            turns_running=self._turns.running,
            turns_queued=self._turns.waiting,
            store_waiting=self._store.counts().waiting,
            event_loop_lag_seconds=self.event_loop_lag_seconds,
        )

    def totals(self) -> Totals:
        """What has happened since the start."""
        turns, streams, requests = self._turns.counts, self._hub.counts, self.http.requests
        return Totals(
            turns_started=turns.started,
            turns_completed=turns.ended["completed"],
            turns_interrupted=turns.ended["interrupted"],
            turns_failed=turns.ended["failed"],
            tokens_written=(turns.written + self._turns.written) / BYTES_PER_TOKEN,
            upstream_errors=sum(self._upstream_failures.values()),
            streams_opened=streams.opened,
            streams_fell_behind=streams.lagged,
            streams_resynced=streams.skipped,
            streams_cut=streams.cut,
            evictions=self._manager.evictions,
            store_commits=self._store.counts().commits,
            requests=requests.total(),
            server_errors=sum(n for (_, _, status), n in requests.items() if status >= 500),
            refusals=self.http.refusals.total(),
        )

    def first_token(self) -> Histogram:
        """Time to the first piece of an answer over all models."""
        return Histogram.sum(self._turns.counts.first_token.values())

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Everything in Prometheus's text format or OpenMetrics, and its content type.

        Args:
            accept: the request's Accept header.
        """
        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type

    def families(self) -> Iterator[Metric]:
        """Every metric but the process's own."""
        info = GaugeMetricFamily("chatserver_info", "The version that runs.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        for name, value in asdict(self.gauges()).items():
            yield GaugeMetricFamily(f"chatserver_{name}", _HELP[name], value)
        turns, streams = self._turns.counts, self._hub.counts
        plain: dict[str, int] = {
            "turns_started": turns.started,
            "streams_opened": streams.opened,
            "streams_fell_behind": streams.lagged,
            "streams_resynced": streams.skipped,
            "streams_cut": streams.cut,
            "evictions": self._manager.evictions,
            "store_commits": self._store.counts().commits,
        }
        for name, count in plain.items():
            yield CounterMetricFamily(f"chatserver_{name}", _HELP[name], count)
        labelled: dict[str, tuple[list[str], Iterable[tuple[Sequence[str], int]]]] = {
            "turns_ended": (["outcome"], [([k], turns.ended[k]) for k in OUTCOMES]),
            "turn_failures": (["code"], [([k], n) for k, n in turns.failures.seen.items()]),
            "tokens": (["model", "kind"], turns.tokens.items()),
            "upstream_errors": (["model", "code"], self._upstream_failures.items()),
            "http_requests": (
                ["method", "route", "status"],
                [((method, route, str(status)), n) for (method, route, status), n in self.http.requests.items()],
            ),
            "refusals": (["code"], [([k], n) for k, n in self.http.refusals.items()]),
        }
        for name, (labels, counts) in labelled.items():
            counter = CounterMetricFamily(f"chatserver_{name}", _HELP[name], labels=labels)
            for values, count in counts:
                counter.add_metric(values, count)
            yield counter
        running = GaugeMetricFamily("chatserver_model_turns_running", _HELP["model_turns_running"], labels=["model"])
        waiting = GaugeMetricFamily("chatserver_model_turns_waiting", _HELP["model_turns_waiting"], labels=["model"])
        for model, at_work, in_line in self._catalog.load():
            running.add_metric([model], at_work)
            waiting.add_metric([model], in_line)
        yield running
        yield waiting
        times = HistogramMetricFamily("chatserver_first_token_seconds", _HELP["first_token_seconds"], labels=["model"])
        for model, histogram in turns.first_token.items():
            edges = (*map(str, histogram.edges), "+Inf")
            times.add_metric([model], list(zip(edges, accumulate(histogram.counts), strict=True)), histogram.total)
        yield times


class _Families(Collector):
    """The registry asks this one."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return self._metrics.families()


_HELP = {
    "streams_open": "Streams that are open.",
    "streams_behind": "Open streams whose reader is behind.",
    "streams_unsent_bytes": "Bytes that the readers of all streams have not taken yet.",
    "streams_degraded": "1 while events reach the readers of this process only, else 0.",
    "streams_opened": "Streams opened.",
    "streams_fell_behind": "Times a reader fell behind.",
    "streams_resynced": "Times a reader that was too far behind got a snapshot for what it had missed.",
    "streams_cut": "Streams cut because their reader took nothing, or because all together held too much.",
    "sessions_live": "Sessions in memory.",
    "sessions_bytes": "Estimated bytes of the sessions in memory.",
    "evictions": "Sessions that left memory because nobody used them, or for want of room.",
    "turns_running": "Turns that run.",
    "turns_queued": "Messages that wait for their turn in sessions in memory.",
    "turns_started": "Turns that began.",
    "turns_ended": "Turns that ended, by outcome.",
    "turn_failures": "Turns that failed, by code.",
    "tokens": "Tokens of ended turns, by model and kind; reasoning is a part of completion, cached of prompt.",
    "first_token_seconds": "From the start of a turn to the first piece of its answer, by model.",
    "model_turns_running": "Turns that hold a place at the model.",
    "model_turns_waiting": "Turns that wait for a place at the model.",
    "upstream_errors": "Errors of models' endpoints, those included that another try or a fallback mended.",
    "store_commits": "Transactions committed; many writes share one.",
    "store_waiting": "Reads and writes that wait for the store.",
    "http_requests": "Requests answered, by method, route and status; streams when they end.",
    "refusals": "Requests refused at a limit, by code.",
    "event_loop_lag_seconds": "The longest that the event loop kept a timer waiting in the last ten seconds.",
}
