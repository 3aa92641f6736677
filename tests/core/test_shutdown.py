"""Draining and recovering: what runs gets its time, what is cut is stored as cut, what waits goes on next time."""

from __future__ import annotations

import asyncio

import pytest

from chatserver.errors import Draining
from tests.core.virtual import advance, settle, virtual
from tests.core.world import NOBODY, world


@virtual
async def test_a_drain_lets_running_turns_finish() -> None:
    """It ends when the last one has ended, not when the time is up."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        await settle()
        draining = asyncio.get_running_loop().create_task(w.turns.drain(20))
        await advance(3)
        w.puppet.last.say("done")
        w.puppet.last.end()
        await settle()
        assert draining.done()
        assert asyncio.get_running_loop().time() < 4
        assert reader.events[-1]["outcome"] == "completed"
        assert (await w.stored("s"))["messages"] == reader.state["messages"]  # type: ignore[index]


@virtual
async def test_turns_that_outlast_the_drain_are_stored_as_interrupted() -> None:
    """With the text they had; tabs are told before the drain is over."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        await settle()
        w.puppet.last.say("so far")
        await w.turns.drain(20)
        assert reader.events[-1]["outcome"] == "interrupted"
        assert reader.state["messages"][-1]["content"] == "so far"
        assert (await w.stored("s"))["messages"] == reader.state["messages"]  # type: ignore[index]
        assert w.turns.running == 0


@virtual
async def test_a_draining_server_takes_no_message_and_starts_none_of_its_queues() -> None:
    """503; what waits stays stored, and is answered after the restart."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        await w.chat("s", "two")
        await settle()
        draining = asyncio.get_running_loop().create_task(w.turns.drain(20))
        await settle()
        with pytest.raises(Draining):
            await w.chat("s", "three")
        with pytest.raises(Draining):
            await w.chat("new", "one")
        w.puppet.last.end()
        await draining
        await advance(5)
        assert reader.types.count("turn.started") == 1
        assert len(reader.state["queue"]) == 1
        await w.kill()
        await w.start()
        await settle()
        state = await w.state("s")
        assert [m["content"] for m in state["messages"] if m["role"] == "user"] == ["one", "two"]
        assert state["is_processing"]
        assert await w.stored("new") is None


@virtual
async def test_an_interrupt_and_a_withdrawal_work_during_the_drain() -> None:
    """People may stop what still runs."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        queued = await w.chat("s", "two")
        await settle()
        draining = asyncio.get_running_loop().create_task(w.turns.drain(20))
        await settle()
        await w.withdraw("s", queued)
        await w.interrupt("s")
        await draining
        assert [e["outcome"] for e in reader.events if e["type"] == "turn.ended"] == ["interrupted", "interrupted"]
        assert reader.state["queue"] == []


@virtual
async def test_a_message_that_was_being_committed_when_the_drain_began_ends_with_it() -> None:
    """It is acknowledged, so it has its one end in the same process."""
    async with world() as w:
        reader = await w.reader("s")
        gate = w.store.gate("start_turn")
        sending = asyncio.get_running_loop().create_task(w.chat("s", "one"))
        await gate.reached.wait()
        draining = asyncio.get_running_loop().create_task(w.turns.drain(0))
        await settle()
        gate.open()
        turn_id = await sending
        await draining
        ends = [(e["turn_id"], e["outcome"]) for e in reader.events if e["type"] == "turn.ended"]
        assert ends == [(turn_id, "interrupted")]
        assert (await w.stored("s"))["messages"] == reader.state["messages"]  # type: ignore[index]


@virtual
async def test_a_queued_turn_that_was_being_started_when_the_drain_began_gets_its_time() -> None:
    """Nobody's request waits for it; the drain does, as for every turn that runs."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        await w.chat("s", "two")
        await settle()
        gate = w.store.gate("start_turn")
        w.puppet.last.end()
        await gate.reached.wait()
        draining = asyncio.get_running_loop().create_task(w.turns.drain(20))
        await settle()
        gate.open()
        await advance(3)
        w.puppet.last.say("done")
        w.puppet.last.end()
        await draining
        assert [e["outcome"] for e in reader.events if e["type"] == "turn.ended"] == ["completed", "completed"]
        assert (await w.stored("s"))["messages"] == reader.state["messages"]  # type: ignore[index]


@virtual
async def test_a_message_that_waited_for_the_session_when_the_drain_began_is_refused() -> None:
    """Its turn had no place yet."""
    async with world() as w:
        await w.system("s", "hello")
        gate = w.store.gate("update_session")
        async with w.service.open(NOBODY, "s", create="no") as live:
            extending = asyncio.get_running_loop().create_task(w.service.extend_session(NOBODY, live))
            await gate.reached.wait()
            sending = asyncio.get_running_loop().create_task(w.chat("s", "one"))
            await settle()
            draining = asyncio.get_running_loop().create_task(w.turns.drain(5))
            await settle()
            gate.open()
            await extending
            with pytest.raises(Draining):
                await sending
            await draining
        assert len((await w.stored("s"))["messages"]) == 1  # type: ignore[index]


@virtual
async def test_a_drain_commits_what_could_not_be_saved_before() -> None:
    """The last chance of an answer that only memory has."""
    async with world() as w:
        await w.chat("s", "one")
        await settle()
        w.store.break_("finish_turn", "checkpoint")
        w.puppet.last.say("answer")
        w.puppet.last.end()
        await advance(5.3)
        w.store.mend()
        await w.turns.drain(0)
        assert (await w.stored("s"))["messages"][-1]["content"] == "answer"  # type: ignore[index]


@virtual
async def test_a_drain_ends_although_the_store_is_away() -> None:
    """The process must be able to leave; what was checkpointed is what the next start finds."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        await settle()
        w.puppet.last.say("saved ")
        await advance(1)
        w.puppet.last.say("not")
        await settle()
        w.store.break_()
        before = asyncio.get_running_loop().time()
        await w.turns.drain(0)
        assert asyncio.get_running_loop().time() - before <= 6
        assert "turn_ends_lost" in w.log.events()
        assert reader.types[-1] == "turn.ended"
        await w.kill()
        await w.start()
        answer = (await w.state("s"))["messages"][-1]
        assert (answer["content"], answer["status"]) == ("saved ", "interrupted")


@virtual
async def test_draining_twice_is_draining_once() -> None:
    """A second signal, a finaliser: idempotent."""
    async with world() as w:
        await w.chat("s", "one")
        await settle()
        await asyncio.gather(w.turns.drain(1), w.turns.drain(0))
        await w.turns.drain(5)
        assert w.turns.running == 0


@virtual
async def test_a_change_under_way_when_everything_closes_is_refused_as_draining() -> None:
    """Its caller was not cancelled, and must not be told so."""
    async with world() as w:
        await w.system("s", "hello")
        gate = w.store.gate("add_message")
        telling = asyncio.get_running_loop().create_task(w.system("s", "look"))
        await gate.reached.wait()
        await w.supervisor.close()
        with pytest.raises(Draining):
            await telling
        with pytest.raises(Draining):
            await w.system("s", "look")


@pytest.mark.parametrize("where", ["in its agent", "waiting for its session"])
def test_a_turn_that_runs_when_everything_closes_is_not_waited_for(where: str) -> None:
    """No task is left that could end it, and who stopped it gets an answer; the next start ends it in the store."""

    @virtual
    async def test() -> None:
        async with world() as w:
            await w.chat("s", "one")
            await settle()
            if where == "waiting for its session":
                gate = w.store.gate("add_message")
                telling = asyncio.get_running_loop().create_task(w.system("s", "look"))
                await gate.reached.wait()
                w.puppet.last.end()
                await settle()
            assert w.turns.running == 1
            await w.supervisor.close()
            await settle()
            assert w.turns.running == 0
            if where == "waiting for its session":
                with pytest.raises(Draining):
                    await telling
            await w.kill()
            await w.start()
            assert w.recovered == 1

    test()


@virtual
async def test_a_recovered_turn_is_seen_by_who_comes_back() -> None:
    """A tab with an id of the cut turn gets a snapshot in which it is interrupted, under a later position."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        await settle()
        w.puppet.last.say("so far")
        await advance(1)
        await w.kill()
        last = reader.frames[-1][0]
        await w.start()
        assert w.recovered == 1
        again = await w.reader("s")
        assert again.state["messages"][-1]["status"] == "interrupted"
        assert again.state["messages"][-1]["content"] == "so far"
        assert not again.state["is_processing"]
        assert int(again.state["position"].split("-")[0]) > int(last.split("-")[0])
