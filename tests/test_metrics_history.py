"""The last hour, kept in memory."""

from __future__ import annotations

from chatserver.metrics import Metrics
from chatserver.metrics_history import COLUMNS, SAMPLE_SECONDS, SAMPLES, MetricsHistory
from chatserver.streams.hub import StreamHub
from tests.core.virtual import advance, virtual, virtual_loop
from tests.core.world import World, world


def history_of(w: World) -> MetricsHistory:
    """Of a world's parts; it samples by itself from now on."""
    metrics = Metrics(w.turns, StreamHub(w.settings, w.clock), w.manager, w.real_store, _NoModels(), {})  # type: ignore[arg-type]
    history = MetricsHistory(metrics, w.clock)
    w.supervisor.start(history.run(), "metrics")
    return history


class _NoModels:
    def load(self) -> list[tuple[str, int, int]]:
        return []


@virtual
async def test_samples_tell_what_happened_between_them() -> None:
    """A turn that starts, writes and ends: in the samples of its time, and nowhere else."""
    async with world() as w:
        history = history_of(w)
        await advance(SAMPLE_SECONDS)
        await w.chat("s", "hello")
        await advance(2)
        w.puppet.last.say("x" * 300)
        await advance(SAMPLE_SECONDS)
        w.puppet.last.say("x" * 600)
        w.puppet.last.end()
        await advance(SAMPLE_SECONDS)
        await advance(SAMPLE_SECONDS)

        kept = history.since(0)
        assert kept["turns_started"] == [0, 1, 0, 0]
        assert kept["turns_running"] == [0, 1, 0, 0]
        assert kept["turns_completed"] == [0, 0, 1, 0]
        # An answer counts while it is written: 300 and 600 characters in ten seconds each.
        assert kept["tokens_per_second"] == [0, 10.0, 20.0, 0]
        assert kept["first_token_p50_seconds"][0] is None
        assert 1 < (kept["first_token_p50_seconds"][1] or 0) <= 2.5


@virtual
async def test_no_more_than_an_hour_is_kept() -> None:
    """And a reader may ask for what is new to him alone."""
    async with world() as w:
        history = history_of(w)
        await advance(SAMPLE_SECONDS * (SAMPLES + 20))

        kept = history.since(0)
        assert {len(column) for column in kept.values()} == {SAMPLES}
        assert tuple(kept) == COLUMNS
        times = [at for at in kept["time"] if at is not None]
        assert history.since(times[-4])["time"] == times[-3:]
        assert history.since(times[-1])["time"] == []


@virtual
async def test_a_loop_that_was_held_shows_as_lag() -> None:
    """Work that does not let go of the loop is what nobody else sees."""
    async with world() as w:
        history = history_of(w)
        await advance(3)
        virtual_loop().now += 0.95  # the time goes on, and the timer of a quarter of a second comes 0.7 s late
        await advance(SAMPLE_SECONDS)
        await advance(SAMPLE_SECONDS)

        lag = history.since(0)["event_loop_lag_seconds"]
        assert [round(seconds or 0.0, 3) for seconds in lag] == [0.7, 0.0]
