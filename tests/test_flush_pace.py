"""FlushPace: what makes text wait longer for its neighbours, and what makes it wait no longer."""

from __future__ import annotations

import pytest

from chatserver.flush_pace import LOOK_SECONDS, FlushPace

IDLE, BUSY = 0.005, 0.03


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The CPU time of the loop's thread, to be set by the test."""
    used = [0.0]
    monkeypatch.setattr("chatserver.flush_pace.time.thread_time", lambda: used[0])
    return used


@pytest.fixture
def pace(core: list[float]) -> FlushPace:
    """One that has just found the core idle, at 0 s."""
    pace = FlushPace(IDLE, BUSY)
    pace.look(0.0, 0.0)
    assert pace.interval_seconds == IDLE
    return pace


def test_a_core_that_is_used_up_makes_the_interval_longer_until_it_is_not(pace: FlushPace, core: list[float]) -> None:
    """Looked at over a tenth of a second: one burst says nothing."""
    core[0] = 0.05
    pace.look(LOOK_SECONDS / 2, 0.0)
    assert pace.interval_seconds == IDLE
    core[0] = 0.095
    pace.look(LOOK_SECONDS, 0.0)
    assert pace.interval_seconds == BUSY
    core[0] = 0.100
    pace.look(2 * LOOK_SECONDS, 0.0)
    assert pace.interval_seconds == IDLE


def test_a_loop_that_comes_late_makes_the_interval_longer(pace: FlushPace) -> None:
    """Starved by others, it never has a core's worth of CPU time itself."""
    pace.look(LOOK_SECONDS, IDLE * 1.5)
    assert pace.interval_seconds == BUSY


def test_much_writing_makes_the_interval_longer_at_once(pace: FlushPace) -> None:
    """Hundreds of answers that begin together are known after their first flush."""
    pace.wrote(IDLE * 0.1)
    assert pace.interval_seconds == IDLE
    pace.wrote(IDLE * 0.5)
    assert pace.interval_seconds == BUSY
    pace.look(LOOK_SECONDS, 0.0)
    assert pace.interval_seconds == IDLE


def test_who_wants_each_piece_alone_gets_it_at_any_load(core: list[float]) -> None:
    """`flush_interval_seconds = 0`."""
    pace = FlushPace(0.0, BUSY)
    core[0] = 1.0
    pace.look(1.0, 1.0)
    pace.wrote(1.0)
    assert pace.interval_seconds == 0.0
