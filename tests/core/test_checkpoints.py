"""Checkpoints of running answers (spec D2): every half second, all that run in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from chatserver.agents.base import AgentTurn
from tests.core.puppets import Play
from tests.core.virtual import advance, settle, virtual, virtual_loop
from tests.core.world import world


@virtual
async def test_all_running_answers_are_checkpointed_together_every_half_second() -> None:
    """What was said half a second before a crash is there after it, however many answers run."""
    async with world() as w:
        sessions = [f"s-{n}" for n in range(20)]
        puppets = []
        for session_id in sessions:
            await w.chat(session_id, "go")
            await settle()
            puppets.append(w.puppet.last)
        await advance(1)
        made = w.store.calls.count("checkpoint")
        for puppet in puppets:
            puppet.say("said in time")
        await advance(0.5)
        assert w.store.calls.count("checkpoint") == made + 1
        for puppet in puppets:
            puppet.say(", and too late")
        await w.kill()
        await w.start()
        for session_id in sessions:
            answer = (await w.state(session_id))["messages"][-1]
            assert (answer["content"], answer["status"]) == ("said in time", "interrupted")


@virtual
async def test_an_answer_that_gains_nothing_is_not_checkpointed() -> None:
    """What it has used is saved when it is told, once; and nothing any more when its end is being committed, behind
    which a checkpoint would stay in the store for good."""
    async with world() as w:
        await w.chat("s", "go")
        await settle()
        w.puppet.last.spend(10, 5)
        await advance(5)
        assert w.store.calls.count("checkpoint") == 1
        gate = w.store.gate("finish_turn")
        w.puppet.last.say("the last words")
        w.puppet.last.end()
        await gate.reached.wait()
        await advance(5)
        assert w.store.calls.count("checkpoint") == 1
        gate.open()


@virtual
async def test_calls_that_run_at_once_are_checkpointed_each() -> None:
    """An agent may ask several tools side by side; after a crash every call stands in its answer."""

    async def play(turn: AgentTurn) -> AsyncIterator[str]:
        await asyncio.gather(*(turn.tools.call("srv", "echo", {"text": text}) for text in ("one", "two", "three")))
        await asyncio.get_running_loop().create_future()
        yield "never"

    async with world(agents={"m": Play(play)}) as w:
        await w.chat("s", "go")
        await advance(1)
        await w.kill()
        await w.start()
        calls = (await w.state("s"))["messages"][-1]["tool_calls"]
        assert [call["arguments"]["text"] for call in calls] == ["one", "two", "three"]
        assert [call["result"]["content"] for call in calls] == ["one", "two", "three"]


@virtual
async def test_closing_ends_the_checkpoints_in_the_middle_of_one() -> None:
    """At once: the store may never answer."""
    async with world() as w:
        await w.chat("s", "go")
        await settle()
        gate = w.store.gate("checkpoint")
        w.puppet.last.say("some")
        await gate.reached.wait()
        before = w.clock.monotonic()
        await w.supervisor.close()
        assert w.clock.monotonic() == before


@virtual
async def test_a_loop_that_comes_late_is_given_longer_intervals() -> None:
    """Each write is then shared by more text; when it keeps up again, so does the text."""
    async with world(flush_interval_seconds=0.05, flush_interval_busy_seconds=1) as w:
        reader = await w.reader("s")
        await w.chat("s", "go")
        await settle()
        agent = w.puppet.last
        agent.say("one ", "two ")
        await settle()
        virtual_loop().now += 3  # it was held up by something else
        await settle()
        assert reader.state["messages"][-1]["content"] == "one two "
        agent.say("three ")
        await advance(0.5)
        assert reader.state["messages"][-1]["content"] == "one two "
        await advance(0.6)
        assert reader.state["messages"][-1]["content"] == "one two three "
