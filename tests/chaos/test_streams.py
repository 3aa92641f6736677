"""Streams under generated load: isolation, exact resume, many and slow subscribers."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.campaigns import islands, isolation, resume, slow_readers
from tests.campaigns.campaign import chance
from tests.campaigns.crowd import story_server
from tests.campaigns.islanders import TENANTS
from tests.campaigns.story_agent import story
from tests.checker import Checker, Position, Refused, Stream
from tests.server import ServerProcess

pytestmark = pytest.mark.chaos

SEED = 20261121


async def test_fifty_sessions_never_see_each_others_words(tmp_path: Path) -> None:
    """Two hundred random operations each, every byte searched for the others' canaries."""
    async with isolation.opened(tmp_path) as one:
        counted = await one(0, chance(SEED, 0))
    assert counted["operations"] == 10_000
    assert counted["events"] > 10_000


async def test_fifty_tenants_never_see_each_others_records(tmp_path: Path) -> None:
    """Lists, searches, numbers, titles, metadata, tools, branches, exports, streams, and tries at what is another's;
    the campaign does a million."""
    async with islands.opened(tmp_path, operations=60) as one:
        for number in (0, 1):  # what a round left is gone in the next one
            counted = await one(number, chance(SEED, number))
            assert counted["operations"] == 60 * TENANTS
            assert counted["refused_403"] > 100
            assert counted["refused_404"] > 100
            assert counted["stream_bytes_searched"] > 500_000
            assert min(counted[kind] for kind in islands.OPERATIONS_BY_WEIGHT) > 10


async def test_resume_is_exact_at_every_cut_point(tmp_path: Path) -> None:
    """Generated sessions on a server that keeps everything and on one that does not; the campaign does five hundred."""
    async with resume.opened(tmp_path, sessions=4) as one:
        for number in (0, 3):
            counted = await one(number, chance(SEED, number))
            assert counted["cut_points"] > 100
            assert counted["replays"] > 50


async def test_all_tabs_of_a_session_see_the_same_bytes(tmp_path: Path) -> None:
    """Twenty tabs that come at different moments of an answer: a snapshot of their moment, then the same as all."""
    async with (
        story_server(tmp_path / "data") as server,
        Checker(server.base_url) as checker,
        AsyncExitStack() as stack,
    ):
        first = await stack.enter_async_context(checker.follow("tabs"))
        sent = await checker.send("tabs", story(2000, 3, f"{checker.canary('tabs')} é"))
        tabs: list[Stream] = []
        for _ in range(20):
            await first.until_type("text.delta")
            tabs.append(await stack.enter_async_context(checker.follow("tabs")))
        for tab in (first, *tabs):
            await tab.until_ended(sent.turn_id)
        assert len({tab.position for tab in (first, *tabs)}) == 1
        assert len({str(tab.state) for tab in (first, *tabs)}) == 1
        frames = {e.position: e.raw for e in first.events if e.type != "snapshot" and e.position is not None}
        for tab in tabs:
            assert tab.events[0].type == "snapshot"
            assert all(frames[e.position] == e.raw for e in tab.events[1:] if e.position is not None)
        await checker.verify()


async def test_a_reader_that_falls_behind_gets_a_snapshot_and_adds_up_again(tmp_path: Path) -> None:
    """Past its byte limit a backlog is dropped; the others' events go on meanwhile, and nobody waits."""
    settings = {"subscriber_backlog_bytes": 20_000, "log_bytes": 40_000}
    server = ServerProcess(
        tmp_path / "data",
        settings={"scripted": None, "default_model": None, **settings},
        flags=("--agent", "tests.campaigns.ticking_agent:reply"),
    )
    async with (
        server,
        Checker(server.base_url) as checker,
        checker.follow("s", receive_buffer_bytes=4096) as slow,
        checker.follow("s") as quick,
    ):
        await slow.until_type("snapshot")
        sent = await checker.send("s", "tick 800 3 10")
        await quick.until_ended(sent.turn_id)
        await slow.until_state(lambda state: state == quick.state)
        kinds = [event.type for event in slow.events]
        assert kinds.count("snapshot") >= 2
        assert len(slow.events) < len(quick.events)
        await checker.verify()


async def test_readers_that_stop_reading_are_cut_and_hurt_nobody(tmp_path: Path) -> None:
    """Twenty among a hundred, with a stall limit of three seconds; the campaign has two hundred among a thousand.

    A tick may be late by five seconds: what the others notice can only be measured on a quiet machine, as the
    campaign does. The stall limit holds for every reader: a machine that stalls must not make it of those that read.
    """
    counted = await slow_readers.compare(
        tmp_path, readers=100, stall_seconds=3, cut_seconds=10, pairs=1, p99_floor_ms=5_000
    )
    assert counted["slow_readers"] == 20
    assert counted["ticks"] > 1_000


async def test_several_sessions_over_one_connection_keep_their_numbers(tmp_path: Path) -> None:
    """Sessions are added and dropped while it runs; each has its own ids, and resumes by them."""
    async with story_server(tmp_path / "data") as server, Checker(server.base_url) as checker:
        async with checker.multiplex(["a", "b"], name="one-tab-of-this-test-alone") as stream:
            await stream.until(lambda e: e.body.get("session_id") == "b")
            for session_id in ("a", "b"):
                sent = await checker.send(session_id, story(20, 2, checker.canary(session_id)))
                await stream.until_ended(sent.turn_id)
            response = await checker.change(stream, "one-tab-of-this-test-alone", add=["c"], drop=["a"])
            assert response.status == 200
            silent = await checker.send("a", story(3, 0, checker.canary("a")))
            sent = await checker.send("c", story(20, 2, checker.canary("c")))
            await stream.until_ended(sent.turn_id)
            assert all(e.body.get("turn_id") != silent.turn_id for e in stream.events)
            after = {s: position for s in "bc" if (position := stream.position_of(s)) is not None}
        sent = await checker.send("b", story(5, 0, checker.canary("b")))
        await checker.settle("b")
        async with checker.multiplex(["b", "c"], after=after) as again:
            await again.until_ended(sent.turn_id)
            assert all(event.type != "snapshot" for event in again.events)
        await checker.verify()


async def test_a_malformed_id_is_refused_and_an_unknown_one_gives_a_snapshot(tmp_path: Path) -> None:
    """Resuming is exact or it is a fresh beginning, never a guess."""
    async with story_server(tmp_path / "data") as server, Checker(server.base_url) as checker:
        sent = await checker.send("s", story(3, 0, "x"))
        await checker.settle("s")
        for bad in ("abc", "1-", "-1", "1-2-3", "01-0", "9" * 20 + "-0"):
            response = await checker.request("GET", "/api/chat/stream?session_id=s", headers={"Last-Event-ID": bad})
            assert (response.status, response.json()["code"]) == (400, "bad_event_id")
        for unknown in (Position(1, 4000), Position(99, 0)):
            async with checker.follow("s", after=unknown) as stream:
                assert (await stream.next()).type == "snapshot"
        assert sent.turn_id
        await checker.verify()


async def test_the_whole_state_can_be_watched_instead_of_events(tmp_path: Path) -> None:
    """`format=state`: each message is a state that the events give too, the last one that of the end."""
    async with (
        story_server(tmp_path / "data") as server,
        Checker(server.base_url) as checker,
        checker.follow("s") as stream,
        checker.watch("s") as states,
    ):
        sent = await checker.send("s", story(200, 10, checker.canary("s")))
        await stream.until_ended(sent.turn_id)
        await states.until_state(lambda s: s == stream.state)
        assert 3 < len(states.events) < len(stream.events)
        await checker.verify()


async def test_nobody_else_may_follow_a_visitors_session(tmp_path: Path) -> None:
    """A session made by one browser is refused to another and to a caller without a cookie, on every route."""
    async with story_server(tmp_path / "data") as server, Checker(server.base_url) as nobody:
        owner, stranger = [nobody.as_somebody({"Cookie": await _visitor(nobody)}) for _ in range(2)]
        secret = nobody.canary("mine")
        await owner.send("mine", story(10, 1, secret))
        await owner.verify("mine")
        for other in (stranger, nobody):
            for call in (other.state("mine"), other.send("mine", "let me in"), other.interrupt("mine")):
                with pytest.raises(Refused) as refused:
                    await call
                assert refused.value.response.status == 403
                assert secret.encode() not in refused.value.response.body
            with pytest.raises(Refused) as refused:
                async with other.follow("mine", after=Position(1, 0)):
                    pass
            assert refused.value.response.status == 403
        owner.close()
        stranger.close()


async def _visitor(checker: Checker) -> str:
    """A fresh browser's cookie, as the page gives it."""
    response = await checker.request("GET", "/")
    return response.headers["set-cookie"].partition(";")[0]
