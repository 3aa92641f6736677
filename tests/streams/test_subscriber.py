"""How events reach one connection, whatever the speed of its reader (spec T3, T5)."""

from __future__ import annotations

import asyncio
import json
import random

import orjson
import pytest

from chatserver import events as ev
from chatserver.counts import StreamCounts
from chatserver.events import Position
from chatserver.live_session import LiveSession
from chatserver.state import ChatState
from chatserver.streams.subscriber import Connection, StateView, goodbye_frame, ping_frame
from tests.core.readers import BACKLOG_BYTES, STALL_SECONDS, FakeSink, Reader
from tests.core.virtual import advance, settle, virtual
from tests.streams.live import SID, Script, live_session

FULL = 1000  # high-water mark of a slow reader's transport, in bytes


def state_of(live: LiveSession) -> dict[str, object]:
    state: dict[str, object] = json.loads(orjson.dumps(live.state.wire()))
    return state


def talking(live: LiveSession, seed: int = 1) -> Script:
    """A session in the middle of a turn."""
    script = Script(live, random.Random(seed).randrange)
    script.start()
    return script


def slow() -> Reader:
    return Reader(FakeSink(fast=False, high_water=FULL))


# --- joining ---


@virtual
async def test_a_stream_begins_with_one_snapshot_and_goes_on_live() -> None:
    """Nothing is missed between the two, since nothing can happen between them."""
    live = live_session()
    script = talking(live)
    reader = Reader()
    reader.follow(live, SID)
    assert reader.snapshots == 1
    assert reader.state == state_of(live)
    for _ in range(50):
        script.step()
        assert reader.state == state_of(live)
    assert reader.snapshots == 1
    await reader.close()


@virtual
async def test_resuming_gives_what_was_missed_and_no_snapshot() -> None:
    """From every position that the log holds, to the byte."""
    live = live_session()
    script = talking(live)
    first = Reader()
    first.follow(live, SID)
    at = live.position
    for _ in range(30):
        script.step()
    positions = [at, *(Position.parse(id_) for id_, _ in first.frames)]
    for cut, position in enumerate(positions):
        reader = Reader()
        reader.follow(live, SID, position)
        assert bytes(reader.sink.taken) == b"".join(raw for _, raw in first.frames[cut:])
        await reader.close()
    await first.close()


@pytest.mark.parametrize("position", ["0-1", "1-9999", "77-0", "1-4294967295"])
def test_resuming_where_nobody_can_be_gives_a_snapshot(position: str) -> None:
    """A forged or foreign id is no error and shows nothing but the state."""

    @virtual
    async def test() -> None:
        live = live_session()
        talking(live)
        reader = Reader()
        reader.follow(live, SID, Position.parse(position))
        assert reader.state == state_of(live)
        assert reader.snapshots == 1
        await reader.close()

    test()


@virtual
async def test_a_snapshot_is_kept_for_several_readers_and_not_for_one() -> None:
    """Most sessions have one open tab: each would weigh twice as much for as long as it is open."""
    live = live_session()
    talking(live)
    readers = [Reader(), Reader()]
    readers[0].follow(live, SID)
    assert live.snapshot_frame() is not live.snapshot_frame()
    assert live.state_frame() is not live.state_frame()
    readers[1].follow(live, SID)
    assert live.snapshot_frame() is live.snapshot_frame()
    assert live.state_frame() is live.state_frame()
    for reader in readers:
        await reader.close()
    assert live.snapshot_frame() is not live.snapshot_frame()


# --- slow and stalled readers ---


@virtual
async def test_a_slow_reader_gets_the_frames_it_missed() -> None:
    """When its transport has room again; the ids stay consecutive and no snapshot is needed."""
    live = live_session()
    script = talking(live)
    reader = slow()
    reader.follow(live, SID)
    reader.sink.take()
    await settle()
    while not reader.connection.lagging:
        script.delta()
    for _ in range(20):
        script.delta()
    reader.sink.take()
    await settle()
    reader.sink.take()
    assert reader.state == state_of(live)
    assert reader.snapshots == 1
    await reader.close()


@pytest.mark.parametrize("why", ["too many bytes", "dropped by the log", "log cleared"])
def test_a_reader_that_missed_too_much_gets_one_snapshot(why: str) -> None:
    """Its backlog is dropped; the snapshot stands at the state's present position."""

    @virtual
    async def test() -> None:
        live = live_session(log_events=8 if why == "dropped by the log" else 100_000)
        script = talking(live)
        reader = Reader(FakeSink(fast=False, high_water=FULL), backlog_bytes=5000)
        reader.follow(live, SID)
        reader.sink.take()
        while not reader.connection.lagging:
            script.delta()
        for _ in range(9 if why != "too many bytes" else 100):
            script.delta()
        if why == "log cleared":
            live.log.clear()
        reader.sink.take()
        await settle()
        reader.sink.speed_up()
        assert reader.state == state_of(live)
        assert reader.snapshots == 2
        script.delta()
        await settle()
        assert reader.state == state_of(live)
        await reader.close()

    test()


@virtual
async def test_a_slow_reader_costs_the_others_nothing() -> None:
    """They get every frame at once, each in one write, while it is skipped."""
    live = live_session()
    script = talking(live)
    fast, late = Reader(), slow()
    for reader in (fast, late):
        reader.follow(live, SID)
    for _ in range(500):
        script.delta()
        assert fast.state["position"] == str(live.position)
    assert late.sink.most_pending < FULL + 5000
    assert fast.snapshots == 1
    for reader in (fast, late):
        await reader.close()


@virtual
async def test_what_waits_for_a_reader_is_bounded() -> None:
    """However long it lags: the transport's own buffer, and one snapshot or backlog at a time."""
    live = live_session()
    script = talking(live)
    reader = Reader(FakeSink(fast=False, high_water=FULL), backlog_bytes=3000)
    reader.follow(live, SID)
    for n in range(3000):
        script.delta()
        if n % 7 == 0:
            reader.sink.take(200)
            await settle()
    snapshot = len(live.snapshot_frame())
    assert reader.sink.most_pending <= FULL + max(snapshot, 3000) + 500
    reader.sink.speed_up()
    await settle()
    assert reader.state == state_of(live)
    await reader.close()


@virtual
async def test_a_reader_that_takes_nothing_is_cut() -> None:
    """After the stall limit and within a fifth of it more; its session goes on."""
    live = live_session()
    script = talking(live)
    reader = slow()
    reader.follow(live, SID)
    while not reader.connection.lagging:
        script.delta()
    await advance(STALL_SECONDS - 1)
    assert not reader.sink.aborted
    await advance(STALL_SECONDS / 5 + 1)
    assert reader.sink.aborted
    assert reader.served
    reader.connection.close()
    assert live.subscribers == ()


@virtual
async def test_a_reader_that_takes_a_little_is_not_cut() -> None:
    """A phone in a tunnel: a byte within every stall limit is enough."""
    live = live_session()
    script = talking(live)
    reader = slow()
    reader.follow(live, SID)
    while not reader.connection.lagging:
        script.delta()
    for _ in range(20):
        reader.sink.take(1)
        await advance(STALL_SECONDS * 0.9)
    assert not reader.sink.aborted
    reader.sink.speed_up()
    await settle()
    assert reader.state == state_of(live)
    await reader.close()


@virtual
async def test_a_reader_that_leaves_is_unsubscribed() -> None:
    """Whether its transport closes while it waits, while it lags, or its handler is cancelled."""
    live = live_session()
    script = talking(live)
    waiting, lagging = Reader(), slow()
    for reader in (waiting, lagging):
        reader.follow(live, SID)
    while not lagging.connection.lagging:
        script.delta()
    await settle()
    lagging.sink.close()
    await settle()
    assert lagging.served
    await waiting.close()
    await lagging.close()
    assert live.subscribers == ()
    script.delta()


@virtual
async def test_nothing_is_written_to_a_closing_transport() -> None:
    """It would only be buffered, or warn."""
    live = live_session()
    script = talking(live)
    reader = Reader()
    reader.follow(live, SID)
    written = reader.sink.written
    reader.sink.close()
    script.delta()
    reader.connection.send(ping_frame())
    assert reader.sink.written == written
    await reader.close()


@virtual
async def test_an_ended_connection_gets_no_more_events() -> None:
    """After its goodbye comes nothing, though its handler may take a moment to leave."""
    live = live_session()
    script = talking(live)
    reader = Reader()
    reader.follow(live, SID)
    await settle()
    reader.connection.end(goodbye_frame("shutdown", 2000))
    reader.connection.end(goodbye_frame("signed_out", 2000))
    reader.connection.send(ping_frame())
    script.delta()
    await settle()
    assert reader.served
    assert reader.types == []
    assert reader.plain == [{"type": "goodbye", "reason": "shutdown", "retry_ms": 2000}]
    await reader.close()


# --- last words ---


def lagging(live: LiveSession, script: Script, **more: object) -> Reader:
    """One whose transport is full, with a few events missed."""
    reader = Reader(FakeSink(fast=False, high_water=FULL), **more)  # type: ignore[arg-type]  # Reader's own
    reader.follow(live, SID)
    while not reader.connection.lagging:
        script.delta()
    script.delta()
    return reader


GOODBYE = {"type": "goodbye", "reason": "shutdown", "retry_ms": 2000}


@virtual
async def test_a_lagging_reader_is_given_what_it_missed_and_then_the_goodbye() -> None:
    """The end of its turn among it; nothing that happens afterwards, and no ping, which would only be more to read."""
    live = live_session()
    script = talking(live)
    reader = lagging(live, script)
    await settle()
    reader.connection.send(ping_frame())
    script.end()
    told = state_of(live)
    reader.connection.end(goodbye_frame("shutdown", 2000))
    script.say()
    await settle()
    assert not reader.served, "its reader has not taken it yet"
    while reader.sink.pending_bytes:
        reader.sink.take(300)
        await settle()
    assert reader.state == told
    assert reader.types[-1] == "turn.ended"
    assert reader.plain == [GOODBYE]
    assert reader.served
    assert not reader.sink.aborted
    assert reader.sink.most_pending < FULL + 5000
    await reader.close()


@pytest.mark.parametrize("multiplexed", [False, True])
def test_a_reader_that_is_too_far_behind_is_told_goodbye_at_least(multiplexed: bool) -> None:
    """It comes back, and gets a snapshot then."""

    @virtual
    async def test() -> None:
        live, other = live_session(), live_session("other")
        script = talking(live)
        reader = lagging(live, script, backlog_bytes=1000)
        if multiplexed:
            reader.follow(other, "other", ends_connection=False)
        for _ in range(50):
            script.delta()
        reader.connection.end(goodbye_frame("shutdown", 2000))
        reader.sink.speed_up()
        await settle()
        reader.read()
        assert reader.plain == [GOODBYE]
        assert reader.served
        assert not reader.sink.aborted
        await reader.close()

    test()


@pytest.mark.parametrize("behind", ["lagging", "a few bytes"])
def test_a_reader_that_does_not_take_its_last_words_is_cut(behind: str) -> None:
    """Soon: a logout ends streams within five seconds, and a server that stops cannot wait for a stall to be one."""

    @virtual
    async def test() -> None:
        live = live_session()
        script = talking(live)
        if behind == "lagging":
            reader = lagging(live, script)
        else:
            reader = slow()
            reader.follow(live, SID)
            assert reader.sink.pending_bytes
            assert not reader.connection.lagging
        await advance(1)
        reader.connection.end(goodbye_frame("shutdown", 2000))
        await advance(1)
        assert not reader.served
        reader.connection.end(goodbye_frame("shutdown", 2000))
        await advance(0.3)
        assert reader.served
        assert reader.sink.aborted
        await reader.close()
        assert live.subscribers == ()

    test()


@virtual
async def test_a_reader_that_leaves_instead_of_taking_its_last_words_is_let_go() -> None:
    """Its handler is cancelled, or finds the transport closed."""
    live = live_session()
    script = talking(live)
    for leave in ("closes", "cancelled"):
        reader = lagging(live, script)
        reader.connection.end(goodbye_frame("shutdown", 2000))
        await settle()
        if leave == "closes":
            reader.sink.close()
            await settle()
            assert reader.served
        await reader.close()
    assert live.subscribers == ()


# --- the end of a session ---


def delete(live: LiveSession) -> None:
    """What TurnRunner.delete and SessionManager.remove do to a session's streams."""
    live.begin_fence(live.fence + 1)
    live.append(ev.SessionDeleted(live.key.session_id))
    for subscriber in live.subscribers:
        subscriber.end()


@virtual
async def test_a_deleted_session_ends_its_streams() -> None:
    """`session.deleted` is the last thing they say."""
    live = live_session()
    talking(live)
    reader = Reader()
    reader.follow(live, SID)
    await settle()
    delete(live)
    await settle()
    assert reader.types == ["session.deleted"]
    assert reader.served
    assert live.subscribers == ()
    await reader.close()


@pytest.mark.parametrize("multiplexed", [False, True])
def test_a_lagging_reader_is_told_of_the_deletion_too(multiplexed: bool) -> None:
    """With the frames before it: once the session has gone nobody could tell it later."""

    @virtual
    async def test() -> None:
        live = live_session()
        script = talking(live)
        reader = slow()
        reader.follow(live, SID, ends_connection=not multiplexed)
        while not reader.connection.lagging:
            script.delta()
        script.delta()
        delete(live)
        reader.sink.speed_up()
        await settle()
        assert reader.types[-2:] == ["text.delta", "session.deleted"]
        assert reader.served is not multiplexed
        assert reader.connection.subscriptions == {}
        await reader.close()

    test()


@pytest.mark.parametrize("multiplexed", [False, True])
def test_a_reader_that_lags_too_far_behind_a_deletion_is_cut(multiplexed: bool) -> None:
    """A snapshot of what is gone would not tell that it is gone: the client comes back and asks."""

    @virtual
    async def test() -> None:
        live = live_session()
        script = talking(live)
        reader = Reader(FakeSink(fast=False, high_water=FULL), backlog_bytes=1000)
        reader.follow(live, SID, ends_connection=not multiplexed)
        while not reader.connection.lagging:
            script.delta()
        for _ in range(50):
            script.delta()
        delete(live)
        await settle()
        assert reader.sink.aborted
        assert reader.served
        await reader.close()

    test()


# --- several sessions on one connection ---


@virtual
async def test_a_multiplexed_connection_follows_several_sessions_and_outlives_them() -> None:
    """Each with its own ids; dropping or deleting one leaves the others."""
    lives = {name: live_session(name) for name in "abc"}
    scripts = {name: talking(live, ord(name)) for name, live in lives.items()}
    reader = Reader()
    subscriptions = {name: reader.follow(live, name, ends_connection=False) for name, live in lives.items()}
    chance = random.Random(5)
    for _ in range(100):
        scripts[chance.choice("abc")].step()
    reader.read()
    assert reader.states == {name: state_of(live) for name, live in lives.items()}
    subscriptions["a"].cancel()
    subscriptions["a"].cancel()
    delete(lives["b"])
    for script in (scripts["a"], scripts["c"]):
        script.say()
    await settle()
    reader.read()
    assert not reader.served
    assert reader.states["c"] == state_of(lives["c"])
    assert reader.states["a"] != state_of(lives["a"])
    assert reader.deleted == {"b"}
    await reader.close()
    assert all(live.subscribers == () for live in lives.values())


@virtual
async def test_a_busy_session_does_not_keep_the_others_of_a_slow_connection_waiting() -> None:
    """Whoever was not reached in one round comes first in the next."""
    lives = {name: live_session(name) for name in ("busy", "b", "c")}
    scripts = {name: talking(live) for name, live in lives.items()}
    reader = slow()
    for name, live in lives.items():
        reader.follow(live, name, ends_connection=False)
    scripts["b"].say()
    scripts["c"].say()
    for _ in range(6):
        for _ in range(30):
            scripts["busy"].delta()  # more than the transport holds, in every round
        reader.sink.take()
        await settle()
    reader.sink.take()
    reader.read()
    assert reader.states["b"] == state_of(lives["b"])
    assert reader.states["c"] == state_of(lives["c"])
    await reader.close()


@virtual
async def test_sessions_added_to_a_full_connection_wait_for_room() -> None:
    """A client that adds two hundred sessions and reads nothing must not cost two hundred snapshots of memory."""
    lives = {f"s{n}": live_session(f"s{n}") for n in range(50)}
    for live in lives.values():
        script = talking(live)
        for _ in range(50):
            script.delta()
    reader = slow()
    largest = max(len(live.snapshot_frame()) for live in lives.values())
    for n, (name, live) in enumerate(lives.items()):
        # Every other one comes back with a position.
        reader.follow(live, name, ev.START if n % 2 else None, ends_connection=False)
    backlog = sum(map(len, lives["s1"].frames_after(ev.START) or ()))
    assert reader.sink.most_pending <= FULL + max(largest, backlog)
    for name in lives:
        reader.states.setdefault(name, state_of(live_session(name)))
        reader.resume_from(name, state_of(live_session(name)), ev.START)
    while reader.sink.pending_bytes:
        reader.sink.take()
        await settle()
    reader.read()
    assert reader.states == {name: state_of(live) for name, live in lives.items()}
    assert reader.snapshots == 25
    await reader.close()


# --- the whole state, again and again ---


def states_in(sink: FakeSink) -> list[dict[str, object]]:
    return [json.loads(frame.removeprefix(b"data: ")) for frame in bytes(sink.taken).split(b"\n\n") if frame]


class Viewer:
    """A client of `?format=state`."""

    def __init__(self, live: LiveSession, sink: FakeSink) -> None:
        self.sink = sink
        self.counts = StreamCounts()
        self.connection = Connection(sink, stall_seconds=STALL_SECONDS, backlog_bytes=BACKLOG_BYTES, counts=self.counts)
        StateView(live, self.connection, SID, interval_seconds=0.1)
        self.task = asyncio.get_running_loop().create_task(self.connection.serve())

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})
        self.connection.close()


@virtual
async def test_the_state_comes_at_once_and_then_no_more_often_than_asked() -> None:
    """A hundred changes in the interval are one message, and the last state always comes."""
    live = live_session()
    script = talking(live)
    sink = FakeSink()
    viewer = Viewer(live, sink)
    await settle()
    assert states_in(sink) == [state_of(live)]
    for _ in range(100):
        script.delta()
    await settle()
    assert len(states_in(sink)) == 1
    await advance(0.11)
    assert states_in(sink)[1:] == [state_of(live)]
    await advance(5)
    assert len(states_in(sink)) == 2, "nothing changed"
    script.delta()
    await settle()
    assert states_in(sink)[2:] == [state_of(live)]
    await viewer.close()
    assert live.subscribers == ()


@virtual
async def test_many_viewers_cost_the_encoding_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever they came, they are shown the state at the same moments: a long one takes milliseconds to encode."""
    encoded = 0
    encode = ChatState.encode

    def counted(state: ChatState) -> bytes:
        nonlocal encoded
        encoded += 1
        return encode(state)

    monkeypatch.setattr(ChatState, "encode", counted)
    live = live_session()
    script = talking(live)
    viewers = []
    for _ in range(30):
        viewers.append(Viewer(live, FakeSink()))
        await advance(0.013)
    encoded = 0
    before = [len(states_in(viewer.sink)) for viewer in viewers]
    for _ in range(300):
        script.delta()
        await advance(0.007)
    assert encoded <= 2.1 / 0.1 + 2
    await advance(1)
    for viewer, had in zip(viewers, before, strict=True):
        said = states_in(viewer.sink)
        assert 18 <= len(said) - had <= 23
        assert said[-1] == state_of(live)
        await viewer.close()


@virtual
async def test_a_slow_viewer_gets_the_newest_state_when_it_has_room() -> None:
    """Also where a ping was what filled its transport: the state that waited is not forgotten."""
    live = live_session()
    script = talking(live)
    sink = FakeSink(fast=False, high_water=10)
    viewer = Viewer(live, sink)
    await advance(1)
    sink.take()
    await advance(1)
    viewer.connection.send(ping_frame())
    assert viewer.connection.lagging
    script.delta()
    await advance(5)
    sink.speed_up()
    await advance(1)
    assert states_in(sink)[-1] == state_of(live)
    await viewer.close()


@virtual
async def test_a_stalled_viewer_is_cut() -> None:
    """By the same rule as every other reader."""
    live = live_session()
    talking(live)
    sink = FakeSink(fast=False, high_water=10)
    viewer = Viewer(live, sink)
    await advance(STALL_SECONDS * 1.3)
    assert sink.aborted
    assert viewer.task.done()
    await viewer.close()


@pytest.mark.parametrize("how", ["goodbye", "deletion"])
def test_a_viewer_that_waits_is_let_go(how: str) -> None:
    """Nothing changes in its session, and still it ends with the server or the session."""

    @virtual
    async def test() -> None:
        live = live_session()
        talking(live)
        sink = FakeSink()
        viewer = Viewer(live, sink)
        await advance(1)
        if how == "goodbye":
            viewer.connection.end(goodbye_frame("shutdown", 1))
        else:
            delete(live)
        await advance(1)
        assert viewer.task.done()
        await viewer.close()

    test()


@pytest.mark.parametrize("how", ["goodbye", "deletion"])
@pytest.mark.parametrize("speed", ["fast", "slow"])
def test_a_viewer_is_shown_the_last_state_before_the_end(how: str, speed: str) -> None:
    """Also where it changed within the interval, or while the viewer's transport was full."""

    @virtual
    async def test() -> None:
        live = live_session()
        script = talking(live)
        sink = FakeSink(fast=speed == "fast", high_water=10)
        viewer = Viewer(live, sink)
        await advance(0.05)
        script.end()
        told = state_of(live)
        if how == "goodbye":
            viewer.connection.end(goodbye_frame("shutdown", 1))
            script.say()
        else:
            for subscriber in live.subscribers:
                subscriber.end()
        await settle()
        sink.speed_up()
        await settle()
        said = states_in(sink)
        if how == "goodbye":
            assert said.pop()["type"] == "goodbye"
        assert said[-1] == told
        assert len(said) == 2
        assert viewer.task.done()
        await viewer.close()
        assert live.subscribers == ()

    test()
