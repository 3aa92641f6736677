"""The store in trouble: nothing acknowledged is lost, nothing is acknowledged that is not stored, no turn hangs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from types import NoneType
from typing import Any

import pytest

from chatserver.agents.base import AgentTurn
from chatserver.errors import Draining, NotFound, StoreCorrupt, StoreFull, StoreUnavailable
from tests.core.puppets import Play
from tests.core.tampered_store import WRITES
from tests.core.virtual import advance, outside, settle, virtual
from tests.core.world import NOBODY, World, world

TROUBLES = [StoreUnavailable, StoreFull, StoreCorrupt]


async def same_as_stored(w: World, session_id: str = "s") -> dict[str, Any]:
    """The live state, after checking that a fresh process would show the same (positions apart)."""
    live, stored = await w.state(session_id), await w.stored(session_id)
    assert stored is not None
    assert {**stored, "position": ""} == {**live, "position": ""}
    return live


@pytest.mark.parametrize("error", TROUBLES)
def test_a_message_that_cannot_be_committed_is_refused_and_leaves_nothing(error: Any) -> None:
    """The caller gets the store's error; tabs see nothing; the session is as it was."""

    @virtual
    async def test() -> None:
        async with world() as w:
            reader = await w.reader("s")
            w.store.break_("start_turn", error=error)
            with pytest.raises(error):
                await w.chat("s", "one", client_message_id="c")
            assert reader.types == []
            assert await w.stored("s") is None
            w.store.mend()
            await w.chat("s", "one", client_message_id="c")
            await settle()
            assert [m["content"] for m in reader.state["messages"]] == ["one", ""]

    test()


@pytest.mark.parametrize("method", ["enqueue_turn", "add_message", "update_session", "withdraw_turn", "find_turn"])
def test_a_change_that_cannot_be_committed_is_told_to_nobody(method: str) -> None:
    """While a turn runs, which goes on."""

    @virtual
    async def test() -> None:
        async with world() as w:
            reader = await w.reader("s")
            await w.chat("s", "one")
            queued = await w.chat("s", "two")
            await settle()
            before = reader.state
            w.store.break_(method)
            async with w.service.open(NOBODY, "s", create="no") as live:
                with pytest.raises(StoreUnavailable):
                    match method:
                        case "enqueue_turn":
                            await w.chat("s", "three")
                        case "find_turn":
                            await w.chat("s", "three", client_message_id="c")
                        case "add_message":
                            await w.system("s", "look")
                        case "update_session":
                            await w.service.extend_session(NOBODY, live)
                        case "withdraw_turn":
                            await w.withdraw("s", queued)
            await settle()
            assert reader.state == before
            w.puppet.last.end()
            await settle()
            assert reader.types[-1] == "turn.started"

    test()


@pytest.mark.parametrize("error", TROUBLES)
def test_an_end_that_the_store_takes_late_is_told_when_it_is_stored(error: Any) -> None:
    """A hiccup of seconds costs a wait, not an answer."""

    @virtual
    async def test() -> None:
        async with world() as w:
            reader = await w.reader("s")
            await w.chat("s", "one")
            await settle()
            w.store.break_("finish_turn", error=error)
            w.puppet.last.say("answer")
            w.puppet.last.end()
            await advance(3)
            assert reader.state["is_processing"]
            w.store.mend()
            await advance(2)
            assert reader.types[-1] == "turn.ended"
            assert reader.events[-1]["outcome"] == "completed"
            await same_as_stored(w)

    test()


@pytest.mark.parametrize("outcome", ["completed", "interrupted", "failed"])
def test_an_end_that_the_store_never_takes_is_told_as_failed_and_saved_later(outcome: str) -> None:
    """The tab does not say "generating" for ever; the text stays in memory until it is committed, by itself."""

    @virtual
    async def test() -> None:
        async with world(idle_eviction_seconds=60, eviction_interval_seconds=10) as w:
            reader = await w.reader("s")
            await w.chat("s", "one")
            await settle()
            w.puppet.last.say("answer")
            await settle()
            w.store.fill()
            match outcome:
                case "completed":
                    w.puppet.last.end()
                case "failed":
                    w.puppet.last.fail(ValueError())
                case "interrupted":
                    stopping = asyncio.get_running_loop().create_task(w.interrupt("s"))
            await advance(7)
            if outcome == "interrupted":
                await stopping
            assert reader.events[-1]["outcome"] == "failed"
            assert reader.events[-1]["error"]["code"] == "store_unavailable"
            answer = reader.state["messages"][-1]
            assert (answer["content"], answer["status"]) == ("answer", "failed")
            live = w.manager.peek(w.key("s"))
            assert live is not None
            await reader.close()
            await advance(200)
            assert w.manager.peek(w.key("s")) is live, "the only copy must not be evicted"
            w.store.mend()
            await advance(1)
            stored = await w.stored("s")
            assert stored is not None
            assert stored["messages"][-1] == answer
            assert live.unsaved is None

    test()


@virtual
async def test_an_end_that_a_damaged_database_never_takes_holds_up_no_other_session() -> None:
    """A damaged page is one session's; the ends and the queues of the others go on when the store is back."""
    async with world() as w:
        names = [f"s{n}" for n in range(4)]
        for name in names:
            await w.chat(name, "one")
            await w.chat(name, "two")
        await settle()
        w.store.fill()
        for strings in list(w.puppet.turns):
            strings.end()
        await advance(7)
        w.store.mend()
        w.damaged = "s1"
        await advance(1)
        running = {strings.turn.session_id for strings in w.puppet.turns if strings.turn.message == "two"}
        assert running == {"s0", "s2", "s3"}
        w.damaged = None
        await advance(1)
        assert {strings.turn.session_id for strings in w.puppet.turns if strings.turn.message == "two"} == set(names)


@virtual
async def test_usage_that_an_agent_has_told_outlives_a_crash() -> None:
    """It is checkpointed like the answer, also where nothing is written meanwhile."""
    async with world() as w:
        await w.chat("s", "hello")
        await settle()
        w.puppet.last.spend(1, 1)
        w.puppet.last.spend(5000, 70)
        await advance(1)
        await w.kill()
        await w.start()
        (_, answer) = (await w.state("s"))["messages"]
        assert answer["status"] == "interrupted"
        assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (5000, 70)
        assert answer["usage"]["estimated"] is False


@virtual
async def test_what_a_deleted_session_held_is_removed_when_the_store_is_back() -> None:
    """The session is gone for its tabs all the same; maintenance goes on with the rest."""
    async with world() as w:
        reader = await w.reader("s")
        await w.system("s", "x")
        w.store.break_("clear_deleted")
        assert await w.delete("s") is True
        await settle()
        assert reader.types[-1] == "session.deleted"
        assert await w.record("s") is None
        w.store.mend()
        w.store.calls.clear()
        await advance(10)
        assert "clear_deleted" in w.store.calls


@virtual
async def test_a_message_after_an_unsaved_end_commits_that_first() -> None:
    """Or is refused; the session never goes on over a hole."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        await settle()
        w.store.break_("finish_turn")
        w.puppet.last.say("answer")
        w.puppet.last.end()
        await advance(7)
        with pytest.raises(StoreUnavailable):
            await w.chat("s", "two")
        assert [m["content"] for m in reader.state["messages"]] == ["one", "answer"]
        w.store.mend()
        await w.chat("s", "two")
        await settle()
        assert [m.content for m in w.puppet.last.turn.history] == ["one", "answer"]
        w.puppet.last.end()
        await settle()
        await same_as_stored(w)


@pytest.mark.parametrize("change", ["choose", "fork", "rate"])
def test_a_change_of_branches_after_an_unsaved_end_commits_that_first(change: str) -> None:
    """The store would take the answer for one that still runs, and its late end would undo the rating."""

    @virtual
    async def test() -> None:
        async with world() as w:
            reader = await w.reader("s")
            await w.chat("s", "one")
            await settle()
            w.puppet.last.end()
            await settle()
            first_id = reader.state["messages"][-1]["id"]
            await w.regenerate("s", first_id)
            await settle()
            w.store.break_("finish_turn")
            w.puppet.last.say("answer")
            w.puppet.last.end()
            await advance(7)
            answer_id = reader.state["messages"][-1]["id"]
            w.store.mend()
            match change:
                case "choose":
                    await w.choose_branch("s", first_id)
                case "fork":
                    forked = await w.fork("s", answer_id)
                    assert forked["messages"][-1]["status"] == "failed"
                case "rate":
                    await w.rate("s", answer_id, "up")
            await advance(1)
            stored = await w.stored("s")
            assert stored is not None
            assert stored["messages"] == reader.state["messages"]
            assert ("feedback" in stored["messages"][-1]["metadata"]) == (change == "rate")

    test()


@virtual
async def test_an_unsaved_end_of_a_session_that_the_store_has_lost_holds_up_no_other() -> None:
    """There is nothing left to end; what the others have is committed."""
    async with world() as w:
        readers = {name: await w.reader(name) for name in ("a", "b", "c")}
        for name in readers:
            await w.chat(name, "one")
        await settle()
        w.store.break_("finish_turn")
        for strings in w.puppet.turns:
            strings.say("answer")
            strings.end()
        await advance(7)
        w.store.mend()
        for name in ("a", "b"):
            with outside():
                await w.real_store.delete_session(w.key(name))
        await advance(2)
        assert (await w.stored("c"))["messages"] == readers["c"].state["messages"]  # type: ignore[index]
        assert not w.turns._ends.unsaved


@virtual
async def test_a_turn_whose_session_the_store_has_lost_ends_and_takes_no_other() -> None:
    """What was said has no place any more, which no retry changes; and a message does not make the session anew."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        await settle()
        with outside():
            await w.real_store.delete_session(w.key("s"))
        w.puppet.last.end()
        await settle()
        assert [e["outcome"] for e in reader.events if e["type"] == "turn.ended"] == ["completed"]
        with pytest.raises(NotFound):
            await w.chat("s", "two")
        assert await w.stored("s") is None


@virtual
async def test_an_unsaved_end_of_a_deleted_session_is_forgotten() -> None:
    """There is nothing left to commit it to."""
    async with world() as w:
        await w.chat("s", "one")
        await settle()
        w.store.break_("finish_turn")
        w.puppet.last.end()
        await advance(7)
        await w.delete("s")
        w.store.mend()
        await advance(2)
        assert await w.stored("s") is None
        assert w.crashes == []


@virtual
async def test_an_error_of_the_store_that_nobody_planned_leaves_no_turn_without_an_end() -> None:
    """The turn's border holds for the store's bugs, too."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        await w.chat("s", "two")
        await settle()
        w.store.break_("finish_turn", error=lambda: RuntimeError("a bug"))
        w.puppet.last.end()
        await advance(1)
        assert reader.types[-1] == "turn.ended"
        assert reader.events[-1]["outcome"] == "failed"
        w.store.mend()
        await advance(1)
        assert [m["content"] for m in reader.state["messages"] if m["role"] == "user"] == ["one", "two"]


@virtual
async def test_checkpoints_that_fail_are_made_up_for() -> None:
    """What a crash then loses is what was said since the last one that worked, and nothing before it."""
    async with world() as w:
        await w.chat("s", "one")
        await settle()
        w.puppet.last.say("a")
        await advance(1)
        w.store.break_("checkpoint")
        w.puppet.last.say("b")
        await advance(1)
        w.puppet.last.say("c")
        await advance(1)
        assert "checkpoint_failed" in w.log.events()
        w.store.mend()
        w.puppet.last.say("d")
        await advance(1)
        w.store.break_("checkpoint")
        w.puppet.last.say("lost")
        await advance(1)
        await w.kill()
        await w.start()
        answer = (await w.state("s"))["messages"][-1]
        assert (answer["content"], answer["status"]) == ("abcd", "interrupted")


@virtual
async def test_a_deleted_session_does_not_stop_the_checkpoints_of_others() -> None:
    """One turn's chunks that come too late are no reason to lose another's."""
    async with world() as w:
        await w.chat("a", "one")
        await settle()
        doomed = w.puppet.last
        await w.chat("b", "one")
        await settle()
        gate = w.store.gate("delete_session", after=True)
        deleting = asyncio.get_running_loop().create_task(w.delete("a"))
        await gate.reached.wait()
        doomed.say("late")
        w.puppet.last.say("kept")
        await advance(1)
        gate.open()
        await deleting
        await advance(1)
        await w.kill()
        await w.start()
        assert (await w.state("b"))["messages"][-1]["content"] == "kept"


@virtual
async def test_a_checkpoint_that_fails_for_a_reason_nobody_planned_is_not_the_last() -> None:
    """One bug of the store's must not leave every later answer unsaved."""
    async with world() as w:
        await w.chat("s", "one")
        await settle()
        w.store.break_("checkpoint", error=lambda: RuntimeError("a bug"))
        w.puppet.last.say("a")
        await advance(2)
        w.store.mend()
        w.puppet.last.say("b")
        await advance(1)
        await w.kill()
        await w.start()
        assert (await w.state("s"))["messages"][-1]["content"] == "ab"


@virtual
async def test_a_checkpoint_that_was_given_up_is_made_up_for() -> None:
    """An agent that waits for a tool only so long cancels the checkpoint before it; the text in it is not lost."""

    async def impatient(turn: AgentTurn) -> AsyncIterator[str]:
        yield "before "
        with suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await turn.tools.call("srv", "echo", {})
        yield "after"
        await asyncio.sleep(1000)

    async with world(agents={"m": Play(impatient)}) as w:
        gate = w.store.gate("checkpoint")
        await w.chat("s", "one")
        await gate.reached.wait()
        await advance(0.2)
        w.store.ungate("checkpoint")
        await advance(1)
        await w.kill()
        await w.start()
        answer = (await w.state("s"))["messages"][-1]
        assert (answer["content"], [c["offset"] for c in answer["tool_calls"]]) == ("before after", [7])


@virtual
async def test_checkpoints_of_others_do_not_wait_for_a_session_that_waits_for_the_store() -> None:
    """A session whose end can't be committed holds its lock for seconds; every other answer is saved meanwhile."""
    async with world() as w:
        await w.chat("a", "one")
        await w.chat("a", "two")
        await w.chat("b", "one")
        await settle()
        slow, other = w.puppet.turns
        w.store.break_("finish_turn")
        slow.end()
        other.say("kept")
        await advance(0.6)
        await w.kill()
        await w.start()
        assert (await w.state("b"))["messages"][-1]["content"] == "kept"


@virtual
async def test_no_answer_is_acknowledged_twice_whatever_fails_and_is_retried() -> None:
    """A client that retries with its `client_message_id` through every kind of failure asks once."""
    async with world() as w:
        reader = await w.reader("s")
        for method in (*WRITES, "find_turn", "load"):
            w.store.break_(method)
            for on_busy in ("queue", "interrupt"):
                for _ in range(2):
                    try:
                        await w.chat("s", method, client_message_id=f"{method}/{on_busy}", on_busy=on_busy)
                    except StoreUnavailable:
                        w.store.mend()
            await advance(1)
            w.store.mend()
            for strings in w.puppet.turns:
                strings.end()
            await advance(8)
        while (await w.state("s"))["is_processing"]:
            w.puppet.last.end()
            await advance(1)
        asked = [m["content"] for m in reader.state["messages"] if m["role"] == "user"]
        assert sorted(asked) == sorted(m for m in (*WRITES, "find_turn", "load") for _ in range(2))
        await same_as_stored(w)


# --- crashes ---


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("method", ["start_turn", "enqueue_turn", "finish_turn", "withdraw_turn", "add_message"])
def test_a_crash_on_either_side_of_a_commit_loses_nothing_acknowledged(method: str, side: str) -> None:
    """What was acknowledged is there; what was not may be, and then it is whole."""

    @virtual
    async def test() -> None:
        async with world() as w:
            if method != "start_turn":
                await w.chat("s", "one", client_message_id="c1")
                await settle()
                w.puppet.last.say("answer")
            if method == "withdraw_turn":
                queued = await w.chat("s", "two", client_message_id="c2")
            gate = w.store.gate(method, after=side == "after")
            match method:
                case "start_turn" | "enqueue_turn":
                    work = w.chat("s", "last", client_message_id="last")
                case "withdraw_turn":
                    work = w.withdraw("s", queued)  # type: ignore[assignment]
                case "add_message":
                    work = w.system("s", "last")  # type: ignore[assignment]
                case "finish_turn":
                    w.puppet.last.end()
                    work = asyncio.sleep(0)  # type: ignore[assignment]
            doing = asyncio.get_running_loop().create_task(work)
            await gate.reached.wait()
            await settle()
            await w.kill()
            await asyncio.wait({doing})
            assert isinstance(doing.exception(), NoneType if method == "finish_turn" else Draining)
            await w.start()
            await settle()
            if method == "start_turn" and side == "before":
                assert await w.stored("s") is None
                return
            state = await w.state("s")
            asked = [m["content"] for m in state["messages"] if m["role"] == "user"]
            answers = [(m["content"], m["status"]) for m in state["messages"] if m["role"] == "assistant"]
            match method, side:
                case "start_turn", "after":
                    assert (asked, answers) == (["last"], [("", "interrupted")])
                case "enqueue_turn", "before":
                    assert asked == ["one"]
                case "enqueue_turn", "after":
                    assert asked == ["one", "last"]
                case "withdraw_turn", "before":
                    assert asked == ["one", "two"]
                case "withdraw_turn", "after":
                    assert asked == ["one"]
                    assert state["queue"] == []
                case "finish_turn", "before":
                    assert answers[0][1] == "interrupted"
                case "finish_turn", "after":
                    assert answers == [("answer", "completed")]
                case "add_message", _:
                    assert ("last" in [m["content"] for m in state["messages"]]) == (side == "after")
            if method in ("start_turn", "enqueue_turn"):
                before = len([m for m in (await w.state("s"))["messages"] if m["content"] == "last"])
                await w.chat("s", "last", client_message_id="last")
                await settle()
                for strings in w.puppet.turns:
                    strings.end()
                await advance(1)
                after = len([m for m in (await w.state("s"))["messages"] if m["content"] == "last"])
                assert after == 1, f"{before} before the retry, {after} after"

    test()


@virtual
async def test_sessions_that_cannot_be_loaded_are_refused_and_come_back() -> None:
    """A failed load leaves nothing behind that would keep the next one waiting."""
    async with world() as w:
        await w.chat("s", "one")
        await settle()
        w.puppet.last.end()
        await settle()
        await w.kill()
        await w.start()
        w.store.break_("load")
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await w.state("s")
        w.store.mend()
        assert [m["content"] for m in (await w.state("s"))["messages"]] == ["one", ""]
        with pytest.raises(NotFound):
            await w.withdraw("s", "nothing")
