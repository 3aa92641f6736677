"""The promise of the stream under chance: whatever the moment of joining, lagging, leaving and coming back, snapshot
and events give what a fresh snapshot gives, every id once and in order, to everybody the same bytes (spec T3-T5)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from chatserver.events import Position
from tests.checker.history import History
from tests.core.readers import STALL_SECONDS, FakeSink, Reader
from tests.core.virtual import advance, run, settle
from tests.streams.live import SID, Script, live_session

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
STEPS = st.lists(st.tuples(st.integers(0, 99), st.integers(0, 1000)), min_size=5, max_size=80)


@dataclass
class _Known:
    """What a client had when it lost its connection."""

    state: dict[str, Any]
    position: str


@dataclass
class _Crowd:
    data: st.DataObject
    log_events: int
    log_bytes: int
    backlog_bytes: int
    high_water: int
    histories: dict[str, History] = field(default_factory=dict)
    readers: list[Reader] = field(default_factory=list)
    known: list[_Known] = field(default_factory=list)

    async def live_through(self, steps: list[tuple[int, int]]) -> None:
        live = live_session(log_events=self.log_events, log_bytes=self.log_bytes)
        draws = iter(number for _, number in steps * 20)

        def choose(below: int) -> int:
            return next(draws, 0) % below

        script = Script(live, choose, lambda: self.data.draw(TEXTS))

        def join(reader: Reader, after: Position | None) -> None:
            reader.follow(live, SID, after)
            self.readers.append(reader)

        def new(fast: bool) -> Reader:
            sink = FakeSink(fast=fast, high_water=self.high_water)
            return Reader(sink, self.histories, stall_seconds=STALL_SECONDS, backlog_bytes=self.backlog_bytes)

        def fresh() -> dict[str, Any]:
            state: dict[str, Any] = json.loads(orjson.dumps(live.state.wire()))
            return state

        for kind, number in steps:
            reader = self.readers[number % len(self.readers)] if self.readers else None
            if kind < 55:
                script.step()
            elif kind < 65:
                join(new(fast=number % 2 == 0), None)
            elif kind < 72 and self.known:
                known = self.known[number % len(self.known)]
                resumed = new(fast=number % 3 == 0)
                resumed.resume_from(SID, json.loads(json.dumps(known.state)), Position.parse(known.position))
                join(resumed, Position.parse(known.position))
            elif kind < 85 and reader is not None:
                reader.sink.take(number)
            elif kind < 92 and reader is not None:
                await reader.close()
                reader.read()
                self.readers.remove(reader)
                if SID in reader.states:
                    self.known.append(_Known(reader.states[SID], reader.states[SID]["position"]))
            elif kind < 94:
                await advance(number % 7)
            elif kind < 96:
                live.log.clear()
            else:
                await settle()
            for each in self.readers:
                each.read()
                if each.sink.fast and not each.connection.lagging:
                    assert each.state == fresh(), "a reader that keeps up is never behind"
        await settle()
        for each in list(self.readers):
            while each.sink.pending_bytes:
                each.sink.take()
                await settle()
            if each.sink.aborted:
                await each.close()
                self.readers.remove(each)
                continue
            assert each.state == fresh()
        last = new(fast=True)
        join(last, None)
        assert last.state == fresh()
        for each in self.readers:
            await each.close()
        assert live.subscribers == ()
        for history in self.histories.values():
            assert not history.problems(), history.problems()


@settings(max_examples=150, derandomize=True)
@given(
    data=st.data(),
    steps=STEPS,
    log_events=st.sampled_from([1, 3, 10, 4096]),
    log_bytes=st.sampled_from([300, 3000, 1 << 20]),
    backlog_bytes=st.sampled_from([200, 2000, 256 << 10]),
    high_water=st.sampled_from([50, 1000, 64 << 10]),
)
def test_every_client_has_at_every_moment_what_a_fresh_snapshot_gives(
    data: st.DataObject,
    steps: list[tuple[int, int]],
    log_events: int,
    log_bytes: int,
    backlog_bytes: int,
    high_water: int,
) -> None:
    """Fast, slow, stalled and returning readers of one session, over logs and backlogs of every size."""
    run(_Crowd(data, log_events, log_bytes, backlog_bytes, high_water).live_through(steps))
