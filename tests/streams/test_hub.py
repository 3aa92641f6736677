"""StreamHub: how many streams there may be, their heartbeats and their farewell (spec T6, V7)."""

from __future__ import annotations

import pytest

from chatserver.counts import StreamCounts
from chatserver.errors import Draining, RateLimited, Unavailable
from chatserver.streams.hub import StreamHub
from chatserver.streams.subscriber import Connection
from chatserver.tasks import Supervisor
from tests.core.readers import FakeSink, Reader
from tests.core.virtual import FakeClock, advance, settle, virtual
from tests.core.world import test_settings as settings_for


def make(**settings: object) -> StreamHub:
    return StreamHub(settings_for(**settings), FakeClock())


def connection() -> Connection:
    return Connection(FakeSink(), stall_seconds=15, backlog_bytes=1000, counts=StreamCounts())


def said(connection: Connection) -> bytes:
    sink = connection.sink
    assert isinstance(sink, FakeSink)
    return bytes(sink.taken)


@virtual
async def test_streams_over_a_cap_are_refused_and_not_counted() -> None:
    """503 for the server's, 429 for the caller's; a place given back can be taken again."""
    hub = make(max_streams=3, max_streams_per_principal=2)
    with hub.place("a"), hub.place("a"):
        with pytest.raises(RateLimited) as mine, hub.place("a"):
            pass
        assert mine.value.narrow_code == "too_many_streams"
        with hub.place("b"):
            with pytest.raises(Unavailable) as all_, hub.place("c"):
                pass
            assert all_.value.narrow_code == "too_many_streams"
            assert len(hub) == 3
        with hub.place("c"):
            pass
    assert len(hub) == 0
    with hub.place("a"):
        assert len(hub) == 1


@virtual
async def test_a_place_is_given_back_when_its_stream_fails() -> None:
    """An error on the way out, a cancel: whatever ends the block."""
    hub = make(max_streams=1)
    for _ in range(3):
        with pytest.raises(ConnectionError), hub.place("a"):
            raise ConnectionError
    assert len(hub) == 0


@virtual
async def test_every_stream_is_pinged_once_an_interval() -> None:
    """Spread over the interval, so that twenty thousand are not written to in the same moment."""
    hub = make(ping_interval_seconds=15)
    supervisor = Supervisor("test", lambda *_: None)
    supervisor.start(hub.run(), "pings")
    connections = [connection() for _ in range(30)]
    contexts = [hub.joined(c) for c in connections]
    for context in contexts:
        context.__enter__()
    seen = []
    for _ in range(15):
        await advance(1)
        seen.append(sum(said(c).count(b"ping") for c in connections))
    assert seen[-1] == 30
    assert max(b - a for a, b in zip([0, *seen], seen, strict=False)) <= 2
    await advance(30)
    assert {said(c).count(b"ping") for c in connections} == {3}
    assert b'data: {"type":"ping"}\n\n' in said(connections[0])
    hub.degraded = True
    await advance(15)
    assert said(connections[0]).endswith(b'data: {"type":"ping","degraded":true}\n\n')
    for context in contexts:
        context.__exit__(None, None, None)
    before = said(connections[0])
    await advance(30)
    assert said(connections[0]) == before
    await supervisor.close()


@virtual
async def test_the_farewell_reaches_every_stream_and_ends_it() -> None:
    """`goodbye` with a reason and a jittered pause; new streams are refused; saying it twice says it once."""
    hub = make(retry_milliseconds=1000)
    readers = [Reader() for _ in range(20)]
    contexts = [hub.joined(reader.connection) for reader in readers]
    for context in contexts:
        context.__enter__()
    hub.goodbye("shutdown")
    hub.goodbye("shutdown")
    await settle()
    pauses = set()
    for reader in readers:
        reader.read()
        assert [p["type"] for p in reader.plain] == ["goodbye"]
        assert reader.plain[0]["reason"] == "shutdown"
        pauses.add(reader.plain[0]["retry_ms"])
        assert reader.connection.ended
    assert all(1000 <= pause <= 1500 for pause in pauses)
    assert len(pauses) > 1
    with pytest.raises(Draining), hub.place("a"):
        pass
    for context in contexts:
        context.__exit__(None, None, None)


@virtual
async def test_a_stream_whose_headers_went_out_during_the_drain_says_goodbye_too() -> None:
    """It had its place before the drain began."""
    hub = make()
    late = connection()
    with hub.place("a"):
        hub.goodbye("shutdown")
        with hub.joined(late):
            assert b"goodbye" in said(late)
            assert late.ended


@virtual
async def test_a_newer_stream_of_the_same_name_ends_the_older() -> None:
    """A page that reconnected must not be changed through its dead connection; leaving late does not unname the new."""
    hub = make()
    older, newer = connection(), connection()
    first, second = hub.joined(older, ("me", "x")), hub.joined(newer, ("me", "x"))
    first.__enter__()
    assert hub.named(("me", "x")) is older
    second.__enter__()
    assert older.ended
    assert not newer.ended
    first.__exit__(None, None, None)
    assert hub.named(("me", "x")) is newer
    assert hub.named(("you", "x")) is None
    second.__exit__(None, None, None)
    assert hub.named(("me", "x")) is None
