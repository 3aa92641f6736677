"""The EventLog protocol's promises (chatserver/streams/log.py), on every implementation.

An implementation joins by a factory in `LOGS`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatserver.events import END_OF_FENCE, START, Frame, Position
from chatserver.streams.log import EventLog
from chatserver.streams.memory import FRAME_OVERHEAD_BYTES, MemoryLog

OpenLog = Callable[[Position, int, int], EventLog]


def _memory(top: Position, max_events: int, max_bytes: int) -> EventLog:
    return MemoryLog(top, max_events=max_events, max_bytes=max_bytes)


LOGS: dict[str, OpenLog] = {"memory": _memory}
PLENTY = 10_000_000


def frame(fence: int, n: int, size: int = 20) -> Frame:
    return Frame(Position(fence, n), b"id: %d-%d\n%b\n\n" % (fence, n, b"x" * size))


def filled(open_log: OpenLog, frames: list[Frame], *, top: Position = START, max_events: int = 1000) -> EventLog:
    log = open_log(top, max_events, PLENTY)
    for each in frames:
        log.append(each)
    return log


def sent(*frames: Frame) -> list[bytes]:
    return [each.data for each in frames]


@pytest.fixture(params=LOGS)
def open_log(request: pytest.FixtureRequest) -> OpenLog:
    return LOGS[request.param]


FRAMES = [frame(1, 0), frame(1, 1), frame(1, 2), frame(4, 0), frame(4, 1)]


@pytest.mark.parametrize("cut", range(6))
def test_after_a_position_comes_everything_behind_it_in_order(open_log: OpenLog, cut: int) -> None:
    """The same objects, so the same bytes; over the border of a fence too."""
    log = filled(open_log, FRAMES)
    at = FRAMES[cut - 1].position if cut else START
    assert log.after(at) == sent(*FRAMES[cut:])


@pytest.mark.parametrize(
    "position",
    [Position(0, 1), Position(1, 3), Position(2, 0), Position(3, 7), Position(4, 2), Position(9, 0), Position(1, 99)],
    ids=str,
)
def test_a_position_that_was_never_given_out_cannot_be_continued(open_log: OpenLog, position: Position) -> None:
    """Before, between and behind: never some of the frames."""
    assert filled(open_log, FRAMES).after(position) is None


def test_an_empty_log_continues_only_where_it_starts(open_log: OpenLog) -> None:
    """A session from the store stands at the end of its fence; whoever is there has missed nothing."""
    top = Position(5, END_OF_FENCE)
    log = open_log(top, 10, PLENTY)
    assert log.after(top) == []
    assert log.after(Position(5, 3)) is None
    assert log.after(START) is None
    log.append(frame(6, 0))
    assert log.after(top) == sent(frame(6, 0))


def test_the_oldest_events_go_first_and_take_their_positions_along(open_log: OpenLog) -> None:
    """What was dropped can't be continued; the position right before what is held can."""
    log = filled(open_log, FRAMES, max_events=3)
    assert log.after(Position(1, 1)) == sent(*FRAMES[2:])
    assert log.after(Position(1, 0)) is None
    assert log.after(START) is None


def test_it_is_bounded_by_bytes_with_their_bookkeeping(open_log: OpenLog) -> None:
    """Ten thousand one-letter deltas must not weigh ten times what the setting says."""
    bound = 20 * (FRAME_OVERHEAD_BYTES + 40)
    log = open_log(START, 100_000, bound)
    for n in range(1000):
        log.append(frame(1, n, size=10))
        assert log.held_bytes <= bound
    kept = log.after(Position(1, 999))
    assert kept == []
    assert log.after(Position(1, 985)) == sent(*(frame(1, n, size=10) for n in range(986, 1000)))


def test_the_newest_event_stays_however_large_it_is(open_log: OpenLog) -> None:
    """A client that is one event behind can always be served."""
    log = open_log(START, 10, 100)
    log.append(frame(1, 0))
    log.append(frame(1, 1, size=5000))
    assert log.after(Position(1, 0)) == sent(frame(1, 1, size=5000))
    log.append(frame(1, 2))
    assert log.after(Position(1, 1)) == sent(frame(1, 2))


def test_a_cleared_log_continues_at_its_end_only(open_log: OpenLog) -> None:
    """And holds no bytes."""
    log = filled(open_log, FRAMES)
    log.clear()
    assert log.held_bytes == 0
    assert log.after(Position(4, 1)) == []
    assert log.after(Position(4, 0)) is None
    log.append(frame(4, 2))
    assert log.after(Position(4, 1)) == sent(frame(4, 2))
    log.clear()
    log.clear()
    assert log.after(Position(4, 2)) == []


def test_clearing_an_empty_log_changes_nothing(open_log: OpenLog) -> None:
    """Its start stays resumable."""
    log = open_log(Position(5, 7), 10, PLENTY)
    log.clear()
    assert log.after(Position(5, 7)) == []


def test_a_restarted_log_begins_at_its_new_position(open_log: OpenLog) -> None:
    """What was before can't be continued from any more, not even its newest position; the new one can."""
    log = filled(open_log, FRAMES)
    log.restart(Position(5, 0))
    assert log.held_bytes == 0
    assert log.after(Position(5, 0)) == []
    assert [log.after(f.position) for f in FRAMES] == [None] * len(FRAMES)
    log.append(frame(5, 1))
    assert log.after(Position(5, 0)) == sent(frame(5, 1))
    assert log.after(Position(4, 1)) is None


@pytest.mark.parametrize("name", LOGS)
@settings(derandomize=True)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(0, 3), st.integers(0, 300)),
            st.sampled_from([("clear", 0, 0), ("restart", 1, 0), ("restart", 0, 0)]),
        ),
        max_size=60,
    ),
    max_events=st.integers(1, 12),
    max_bytes=st.integers(1, 4000),
)
def test_any_sequence_keeps_all_promises(
    name: str, steps: list[tuple[str, int, int]], max_events: int, max_bytes: int
) -> None:
    """Against the plainest log there is: a list. What is held is a tail of it, and every cut gives all or nothing."""
    log = LOGS[name](START, max_events, max_bytes)
    everything: list[Frame] = []
    least = 0
    fence, n = 1, -1
    for what, fences, size in steps:
        if what == "clear":
            log.clear()
            least = len(everything)
            assert log.held_bytes == 0
        elif what == "restart":
            fence, n = (fence + fences, 0) if fences else (fence, n + 1)
            # Stands for the event that is not kept: whoever is behind it begins anew.
            everything.append(frame(fence, n))
            log.restart(Position(fence, n))
            least = len(everything)
            assert log.held_bytes == 0
        else:
            fence, n = (fence + fences, 0) if fences else (fence, n + 1)
            everything.append(frame(fence, n, size))
            log.append(everything[-1])
        positions = [START, *(f.position for f in everything)]
        given_back = [log.after(position) for position in positions]
        held = [at for at, frames in enumerate(given_back) if frames is not None]
        assert held == list(range(held[0], len(positions))), "what can be continued is one tail"
        assert held[0] >= least
        for at in held:
            assert given_back[at] == sent(*everything[at:])
        count = len(everything) - held[0]
        assert count <= max_events
        if count > 1:
            assert sum(len(f.data) + FRAME_OVERHEAD_BYTES for f in everything[held[0] :]) <= max_bytes
        assert log.after(Position(fence, n + 1)) is None
        assert log.after(Position(fence + 9, 0)) is None
