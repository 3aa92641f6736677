"""Servers that are killed, told to stop, and started again on the same data: short forms of kill9 and sigterm."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from tests.campaigns import kill9, sigterm
from tests.campaigns.campaign import chance
from tests.campaigns.crowd import story_server
from tests.campaigns.story_agent import story
from tests.checker import Checker, Refused, StreamClosed
from tests.conftest import ON_CI

pytestmark = pytest.mark.chaos

SEED = 20261121
# Far more than the campaign allows: beside other tests, on a machine that stalls. That a checkpoint is made every half
# second is shown on virtual time (tests/core/test_checkpoints.py).
CHECKPOINT_SECONDS = 10.0


async def test_a_killed_server_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    """Twenty kills on CI, four elsewhere, at random moments on the same data; the campaign does a hundred."""
    async with kill9.opened(tmp_path, checkpoint_seconds=CHECKPOINT_SECONDS) as one:
        for number in range(20 if ON_CI else 4):
            counted = await one(number, chance(SEED, number))
            assert counted["acknowledged_turns"] > 0


async def test_a_server_killed_while_it_answers_anew_keeps_both_answers(tmp_path: Path) -> None:
    """The new one as an interrupted sibling; the first is one choice away. An edit that waited goes on."""
    async with story_server(tmp_path / "data") as server, Checker(server.base_url) as checker:
        async with checker.follow("s") as stream:
            await checker.send("s", story(1000, 20, "the first"))
            await stream.until_type("text.delta")
            question, first = (await checker.interrupt("s"))["messages"]
            again = await checker.regenerate("s", first["id"])
            waiting = await checker.edit("s", question["id"], story(3, 0, "edited"), on_busy="queue")
            await stream.until_type("text.delta")
            await server.kill9()
        checker.close()
        checker.base_url = await server.start()
        state = await checker.settle("s")
        assert [m["content"] for m in state["messages"][:1]] == [story(3, 0, "edited")]
        assert state["messages"][1]["status"] == "completed"
        messages, _ = await checker.all_messages(state)
        answers = [m for m in messages.values() if m["parent_id"] == question["id"]]
        assert [m["status"] for m in answers] == ["interrupted"] * 2
        assert {a for m in answers for a in m["siblings"]} == {m["id"] for m in answers}
        assert messages[first["id"]]["content"] == first["content"]
        assert {again.turn_id, waiting.turn_id} <= checker.history("s").acknowledged.keys()
        await checker.verify()


async def test_a_stopped_server_ends_every_turn_and_says_goodbye(tmp_path: Path) -> None:
    """SIGTERM while clients are at work, with half a second to drain; the campaign does twenty whole ones."""
    async with sigterm.opened(tmp_path, drain_seconds=0.5) as one:
        for number in range(5 if ON_CI else 3):
            counted = await one(number, chance(SEED, number))
            assert counted["acknowledged_turns"] > 0


async def test_a_draining_server_finishes_what_ends_in_time(tmp_path: Path) -> None:
    """A turn that ends within the drain is completed, not cut; new ones are refused meanwhile."""
    async with story_server(tmp_path / "data", drain_seconds=10) as server, Checker(server.base_url) as checker:
        async with checker.follow("short") as stream:
            sent = await checker.send("short", story(20, 50, "soon done"))
            await stream.until_type("text.delta")
            server.signal(signal.SIGTERM)
            with pytest.raises((Refused, ConnectionError)) as refused:
                while True:
                    await checker.send("late", "too late")
            if isinstance(refused.value, Refused):
                assert refused.value.response.status == 503
            ended = await stream.until_ended(sent.turn_id)
            assert ended.body["outcome"] == "completed"
            goodbye = await stream.until_type("goodbye")
            assert goodbye.body["retry_ms"] > 0
            with pytest.raises(StreamClosed):
                await stream.next()
        assert await server.wait() == 0
        checker.close()
        checker.base_url = await server.start()
        await checker.verify()


async def test_a_second_signal_ends_the_server_at_once(tmp_path: Path) -> None:
    """Whoever presses Ctrl-C twice does not wait for the drain; what was acknowledged is there all the same."""
    async with story_server(tmp_path / "data", drain_seconds=20) as server, Checker(server.base_url) as checker:
        async with checker.follow("endless") as stream:
            await checker.send("endless", story(10_000, 20, "on and on"))
            await stream.until_type("text.delta")
            server.signal(signal.SIGTERM)
            while (await checker.request("GET", "/health/ready")).status == 200:
                await asyncio.sleep(0)
            started = time.monotonic()
            server.signal(signal.SIGTERM)
            await server.wait()
            assert time.monotonic() - started < 10
        checker.close()
        checker.base_url = await server.start()
        await checker.verify()
        assert (await checker.state("endless"))["messages"][-1]["status"] == "interrupted"


async def test_a_running_answer_is_checkpointed(tmp_path: Path) -> None:
    """Of an answer that a kill cut, all is there that was in a checkpoint, and the context keeps it."""
    async with story_server(tmp_path / "data") as server, Checker(server.base_url) as checker:
        async with checker.follow("cut") as stream:
            await checker.send("cut", story(10_000, 10, f"{checker.canary('cut')} tick"))
            await stream.until(lambda _: server.checkpointed() != "")
            saved = server.checkpointed()
            killed_at = time.monotonic()
            await server.kill9()
        checker.close()
        checker.base_url = await server.start()
        cut = await kill9.after_the_crash(checker, ["cut"], killed_at, checkpoint_seconds=CHECKPOINT_SECONDS)
        assert len(cut) == 1
        answer = (await checker.state("cut"))["messages"][-1]
        assert answer["status"] == "interrupted"
        assert saved
        assert answer["content"].startswith(saved)


async def test_queued_messages_survive_a_kill_and_are_answered(tmp_path: Path) -> None:
    """What waits behind a running turn is durable too, and goes on after the start without anybody asking."""
    async with story_server(tmp_path / "data") as server, Checker(server.base_url) as checker:
        await checker.send("queue", story(10_000, 20, "never done"))
        waiting = [await checker.send("queue", f"number {n}") for n in range(3)]
        await server.kill9()
        checker.close()
        checker.base_url = await server.start()
        state = await checker.settle("queue")
        answered = [(m["role"], m["content"]) for m in state["messages"][2:]]
        assert answered == [(role, f"number {n}") for n in range(3) for role in ("user", "assistant")]
        assert len(waiting) == 3
        await checker.verify()
