"""The streams over HTTP, spec §4, with the checker as the client."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack

import pytest

from chatserver.api import stream
from chatserver.errors import NotFound
from tests.api.conftest import Api, Serve
from tests.api.people import visitor
from tests.checker import Checker

pytestmark = pytest.mark.both_loops


async def test_headers_are_those_of_a_stream_that_proxies_leave_alone(api: Api) -> None:
    """T1."""
    async with api.http.get(
        api.url("/api/chat/stream?session_id=s"), headers={"Accept-Encoding": "gzip, br"}
    ) as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-cache, no-transform"
        assert response.headers["X-Accel-Buffering"] == "no"
        assert response.headers["X-Session-ID"] == "s"
        assert "Content-Encoding" not in response.headers
        first = await response.content.readuntil(b"\n\n")
        assert first.startswith(b"retry: ")
        snapshot = await response.content.readuntil(b"\n\n")
        assert b"\r" not in snapshot
        assert snapshot.startswith(b'id: 0-0\ndata: {"type":"snapshot"')


async def test_a_turn_is_seen_whole_by_several_tabs(api: Api) -> None:
    """T2, T4, T5: same events, same bytes, and the sum is the state."""
    async with Checker(api.server.url) as checker:
        async with checker.follow("s") as one, checker.follow("s") as two:
            sent = await checker.send("s", "/reason because\n/tokens 50\n/say the end")
            for tab in (one, two):
                ended = await tab.until_ended(sent.turn_id)
                assert ended.body["outcome"] == "completed"
            assert one.state == two.state
        await checker.verify("s")


async def test_a_stream_resumes_exactly_after_each_event(api: Api) -> None:
    """T3: at every cut point the missed events come once, in order."""
    async with Checker(api.server.url) as checker:
        async with checker.follow("s") as stream:
            sent = await checker.send("s", "/tokens 12 every 7")
            await stream.until_ended(sent.turn_id)
            positions = [e.position for e in stream.events if e.position is not None]
        assert len(positions) > 15
        for at, position in enumerate(positions[:-1]):
            async with checker.follow("s", after=position, in_query=at % 2 == 0) as resumed:
                await resumed.until_position(positions[-1])
                assert [e.position for e in resumed.events if e.position] == positions[at + 1 :]
        await checker.verify("s")


async def test_state_format_gives_whole_states(api: Api) -> None:
    """T7: seed 3's stream; the last message is the final state."""
    async with api.http.get(api.url("/api/chat/stream?session_id=s&format=state")) as response:
        await response.content.readuntil(b"\n\n")
        await api.post("/api/chat", session_id="s", message="/say hello")
        async with asyncio.timeout(60):
            while True:
                data = await response.content.readuntil(b"\n\n")
                state = json.loads(data.removeprefix(b"data: "))
                # A ping comes in between where the machine is slow.
                if state.get("messages") and state["messages"][-1]["status"] == "completed":
                    break
        assert "hello" in state["messages"][-1]["content"]


async def test_several_sessions_share_one_connection(api: Api) -> None:
    """T8: sessions are added and dropped while it runs; each event names its session."""
    async with Checker(api.server.url) as checker:
        for name in ("a", "b", "c"):
            await checker.system(name, f"hello {name}")
        async with checker.multiplex(["a", "b"], name="the-tabs-of-this-test-alone") as stream:
            sent = await checker.send("b", "/tokens 5")
            await stream.until_ended(sent.turn_id)
            assert (await checker.change(stream, "the-tabs-of-this-test-alone", add=["c"], drop=["a"])).status == 200
            late = await checker.send("c", "/tokens 5")
            await stream.until_ended(late.turn_id)
            assert stream.state_of("c") is not None
        await checker.verify("a", "b", "c")


async def test_a_stream_of_a_caller_without_identity_has_no_name_that_others_guess(api: Api) -> None:
    """They count by address: a second one there would be told the ids of the first one's sessions. Users and visitors
    name theirs as they like, since nobody else's names are theirs."""
    async with asyncio.timeout(60):
        status, problem, _ = await api.get("/api/stream?sessions=a&stream=main")
    assert (status, problem["code"]) == (422, "invalid_fields")
    assert problem["errors"][0]["loc"] == ["stream"]

    person = await visitor(api)
    async with api.http.get(api.url("/api/stream?sessions=mine&stream=main"), headers=person.headers) as response:
        await response.content.readuntil(b"\n\n")
        assert (await api.post("/api/stream", stream="main"))[0] == 404
        assert (await (await visitor(api)).post("/api/stream", stream="main"))[0] == 404
        assert (await person.post("/api/stream", stream="main"))[1]["sessions"] == ["mine"]


async def test_a_change_of_a_stream_is_made_whole_or_not_at_all(serve: Serve) -> None:
    """T8: where a session is refused, or there would be too many, what was to be dropped is followed still."""
    api = await serve(max_sessions_per_stream=3, max_streams_per_session=1)
    ann, bob = await visitor(api), await visitor(api)
    for name in ("a", "b", "c"):
        await ann.post("/api/system", session_id=name, message="hello")
    await bob.post("/api/system", session_id="bobs", message="canary-of-bob")
    async with (
        api.http.get(api.url("/api/stream?sessions=a,b&stream=tabs"), headers=ann.headers) as response,
        api.http.get(api.url("/api/chat/stream?session_id=c"), headers=ann.headers) as other,
    ):
        for opened in (response, other):
            await opened.content.readuntil(b"\n\n")
        for add, refused in (
            (["bobs"], (403, "session_forbidden")),
            (["d", "bobs"], (403, "session_forbidden")),
            (["c"], (429, "too_many_streams")),
            (["d", "e", "f"], (429, "too_many_sessions")),
            (["d@nonsense"], (400, "bad_event_id")),
        ):
            status, problem, _ = await ann.post("/api/stream", stream="tabs", add=add, drop=["a"])
            assert (status, problem["code"]) == refused
            assert (await ann.post("/api/stream", stream="tabs"))[1]["sessions"] == ["a", "b"]

        # What it follows already is sent anew, and is no stream more.
        status, changed, _ = await ann.post("/api/stream", stream="tabs", add=["b", "d"], drop=["a"])
        assert (status, changed["sessions"]) == (200, ["b", "d"])
        await ann.post("/api/system", session_id="d", message="the end")
        got = b""
        async with asyncio.timeout(60):
            while b"the end" not in got:
                got += await response.content.readany()
        assert b"canary-of-bob" not in got


async def test_an_event_id_of_another_session_gives_nothing_of_that_session(api: Api) -> None:
    """T3: ids count in each session for itself. Where this one has the same id, it goes on behind it; where not, there
    is a snapshot: of this session, whatever the id (docs/decisions/0014)."""
    async with Checker(api.server.url) as checker:
        for name in ("a", "b"):
            await checker.send(name, f"/say canary-of-{name}")
            await checker.settle(name)
        await checker.send("a", "/say more")
        await checker.settle("a")
        async with checker.follow("a", after="0-0") as stream:
            foreign = [e.position for e in stream.events if e.position is not None]
        for position in foreign:
            async with api.http.get(
                api.url("/api/chat/stream?session_id=b"), headers={"Last-Event-ID": str(position)}
            ) as response:
                assert response.status == 200
                await api.post("/api/system", session_id="b", message=f"after {position}")
                got = b""
                async with asyncio.timeout(60):
                    while f"after {position}".encode() not in got:
                        got += await response.content.readany()
            assert b"canary-of-a" not in got
            assert b'"session_id":"a"' not in got
        await checker.verify("a", "b")


async def test_streams_are_capped_and_the_place_comes_back(serve: Serve) -> None:
    """V7: 429 for one caller, 503 for all, never a hang."""
    api = await serve(max_streams_per_principal=2, max_streams=3, trusted_proxies=("127.0.0.1",))
    path = api.url("/api/chat/stream?session_id=s")
    first = await api.http.get(path)
    second = await api.http.get(path)
    status, problem, headers = await api.get("/api/chat/stream?session_id=s")
    assert (status, problem["code"]) == (429, "too_many_streams")
    assert "Retry-After" in headers
    third = await api.http.get(path, headers={"X-Forwarded-For": "10.0.0.9"})
    assert third.status == 200
    status, problem, _ = await api.get("/api/chat/stream?session_id=s", headers={"X-Forwarded-For": "10.0.0.10"})
    assert (status, problem["code"]) == (503, "too_many_streams")
    for response in (first, second, third):
        response.close()
    async with asyncio.timeout(60):
        while (again := await api.http.get(path)).status != 200:
            again.close()
    again.close()


async def test_a_multiplexed_stream_is_refused_before_it_begins(serve: Serve) -> None:
    """V7, T8: one session that has all its streams refuses the whole, with a status."""
    api = await serve(max_streams_per_session=1)
    async with api.http.get(api.url("/api/chat/stream?session_id=full")) as response:
        await response.content.readuntil(b"\n\n")
        async with asyncio.timeout(60):
            status, problem, _ = await api.get("/api/stream?sessions=free,full")
    assert (status, problem["code"]) == (429, "too_many_streams")


async def test_an_error_inside_a_stream_ends_it_without_a_second_head(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A problem cannot be told any more once the stream has begun; its bytes must not stand in the stream."""

    async def fail(*_: object) -> None:
        raise NotFound("deleted while the headers went out")

    monkeypatch.setattr(stream.Multiplex, "add", fail)
    reader, writer = await asyncio.open_connection(api.server.host, api.server.port)
    writer.write(b"GET /api/stream?sessions=a HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    async with asyncio.timeout(60):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.count(b"HTTP/1.1") == 1, answer


async def test_pings_come_as_data(serve: Serve) -> None:
    """T6."""
    api = await serve(ping_interval_seconds=0.05)
    async with api.http.get(api.url("/api/chat/stream?session_id=s")) as response:
        async with asyncio.timeout(60):
            while b'"ping"' not in (block := await response.content.readuntil(b"\n\n")):
                pass
    assert block == b'data: {"type":"ping"}\n\n'


async def test_a_drain_says_goodbye_and_closes(api: Api) -> None:
    """T6, D3: streams are told when to come back; new turns and streams are refused."""
    async with api.http.get(api.url("/api/chat/stream?session_id=s")) as response:
        await response.content.readuntil(b"\n\n")
        await api.post("/api/chat", session_id="s", message="/hang")
        await api.server.drain(0.01)
        rest = (await response.content.read()).decode()
    assert '"outcome":"interrupted"' in rest
    goodbye = json.loads(rest.rstrip().rpartition("data: ")[2])
    assert goodbye["type"] == "goodbye"
    assert goodbye["reason"] == "shutdown"
    assert goodbye["retry_ms"] >= 1000
    assert (await api.get("/health/ready"))[0] == 503
    status, problem, _ = await api.post("/api/chat", session_id="s", message="x")
    assert (status, problem["code"]) == (503, "draining")
    assert (await api.get("/api/chat/stream?session_id=s"))[0] == 503


async def test_a_client_that_leaves_cancels_nothing(api: Api) -> None:
    """L9: the turn goes on, and the stream's place is given back."""
    response = await api.http.get(api.url("/api/chat/stream?session_id=s"))
    await api.post("/api/chat", session_id="s", message="/tokens 20 every 5")
    response.close()
    async with Checker(api.server.url) as checker, checker.follow("s") as stream:
        ended = await stream.until_state(lambda s: not s["is_processing"])
        assert ended is not None
        assert stream.state is not None
        assert stream.state["messages"][-1]["status"] == "completed"
    async with asyncio.timeout(60):
        while len(api.server.services.hub):
            await asyncio.sleep(0)


async def test_http_1_0_gets_a_plain_stream(api: Api) -> None:
    """A client of HTTP/1.0 knows no chunks: the frames come bare."""
    reader, writer = await asyncio.open_connection(api.server.host, api.server.port)
    writer.write(b"GET /api/chat/stream?session_id=s HTTP/1.0\r\n\r\n")
    async with asyncio.timeout(60):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"chunked" not in head
        await reader.readuntil(b"\n\n")
        assert (await reader.readuntil(b"\n\n")).startswith(b"id: 0-0\ndata: ")
    writer.close()
    await writer.wait_closed()


async def test_readers_that_take_nothing_hold_a_bounded_amount_together(serve: Serve) -> None:
    """Many stalled readers of large sessions: those that hold the most are cut, the server's memory is not theirs."""
    api = await serve(max_unsent_bytes=300_000, stall_timeout_seconds=600, max_message_chars=1_000_000)
    await api.post("/api/system", session_id="big", message="x" * 900_000)
    hub = api.server.services.hub
    async with AsyncExitStack() as stack, Checker(api.server.url) as checker:
        for _ in range(4):
            await stack.enter_async_context(checker.follow("big", receive_buffer_bytes=4096))
        async with asyncio.timeout(60):
            while not (cut := hub.relieve()):
                await asyncio.sleep(0.01)
            while len(hub) > 4 - cut:
                await asyncio.sleep(0.01)
        assert len(hub) < 4
        assert (await api.get("/health"))[0] == 200
