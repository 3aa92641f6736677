"""The queue: its order, its limits, `on_busy`, withdrawing, clearing, and what rests when a turn can't start."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chatserver.errors import Conflict, NotFound, RateLimited, StoreFull, StoreUnavailable
from tests.core.readers import Reader
from tests.core.virtual import advance, settle, virtual
from tests.core.world import World, visitor, world


def waiting(reader: Reader) -> list[tuple[int, str]]:
    """The queue as tabs see it."""
    return [(entry["place"], entry["message"]["content"]) for entry in reader.state["queue"]]


def asked(reader: Reader) -> list[str]:
    """The user messages of the branch, in order."""
    return [m["content"] for m in reader.state["messages"] if m["role"] == "user"]


def ends(reader: Reader) -> list[tuple[str, str]]:
    """Turns that have ended, in order, with their outcomes."""
    return [(e["turn_id"], e["outcome"]) for e in reader.events if e["type"] == "turn.ended"]


async def end_all(w: World) -> None:
    """Let every turn that runs, and every one after it, answer and end."""
    while any(not strings.closed for strings in w.puppet.turns):
        for strings in w.puppet.turns:
            strings.say("ok")
            strings.end()
        await settle()


@virtual
async def test_queued_messages_are_answered_in_the_order_of_their_acceptance() -> None:
    """Each with everything before it in its history."""
    async with world() as w:
        reader = await w.reader("s")
        ids = [await w.chat("s", f"m{n}") for n in range(4)]
        await settle()
        assert waiting(reader) == [(1, "m1"), (2, "m2"), (3, "m3")]
        assert asked(reader) == ["m0"]
        assert [e["place"] for e in reader.events if e["type"] == "turn.queued"] == [1, 2, 3]
        await end_all(w)
        assert waiting(reader) == []
        assert asked(reader) == ["m0", "m1", "m2", "m3"]
        assert ends(reader) == [(i, "completed") for i in ids]
        assert [len(s.turn.history) for s in w.puppet.turns] == [0, 2, 4, 6]
        assert [s.turn.turn_id for s in w.puppet.turns] == ids
        assert (await w.stored("s"))["messages"] == reader.state["messages"]  # type: ignore[index]


@virtual
async def test_a_queued_turn_tells_its_message_and_nothing_of_a_start() -> None:
    """`turn.queued` carries the message; `message_count` counts it only when its turn starts."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        turn_id = await w.chat("s", "two")
        assert reader.types[4:] == ["session.updated", "turn.queued"]
        queued = reader.events[-1]
        assert (queued["turn_id"], queued["place"], queued["message"]["content"]) == (turn_id, 1, "two")
        assert queued["message_id"] == queued["message"]["id"]
        assert reader.state["message_count"] == 2
        stored = await w.stored("s")
        assert stored is not None
        assert stored["queue"] == reader.state["queue"]
        assert stored["expires_at"] == reader.state["expires_at"]


@virtual
async def test_a_full_queue_refuses_and_keeps_nothing() -> None:
    """429 for `queue` and `interrupt` alike; the running turn is not stopped for a message that is not taken."""
    async with world(queue_limit=2) as w:
        reader = await w.reader("s")
        for n in range(3):
            await w.chat("s", f"m{n}")
        before = reader.state
        for on_busy in ("queue", "interrupt"):
            with pytest.raises(RateLimited) as refused:
                await w.chat("s", "more", on_busy=on_busy)
            assert refused.value.narrow_code == "queue_full"
        await settle()
        assert reader.state == before
        assert (await w.stored("s"))["queue"] == before["queue"]  # type: ignore[index]


@virtual
async def test_reject_refuses_while_a_turn_runs_and_only_then() -> None:
    """409 `busy`."""
    async with world() as w:
        await w.chat("s", "one", on_busy="reject")
        with pytest.raises(Conflict) as refused:
            await w.chat("s", "two", on_busy="reject")
        assert refused.value.narrow_code == "busy"
        await settle()
        await end_all(w)
        await w.chat("s", "three", on_busy="reject")


@virtual
async def test_on_busy_interrupt_runs_next_and_leaves_the_queue_behind_it() -> None:
    """The running answer is cut; the new message overtakes those that waited."""
    async with world() as w:
        reader = await w.reader("s")
        first = await w.chat("s", "first")
        waits = await w.chat("s", "waits")
        await settle()
        w.puppet.last.say("partial")
        urgent = await w.chat("s", "urgent", on_busy="interrupt")
        assert waiting(reader) == [(1, "urgent"), (2, "waits")]
        await settle()
        assert ends(reader) == [(first, "interrupted")]
        assert waiting(reader) == [(1, "waits")]
        await end_all(w)
        assert ends(reader) == [(first, "interrupted"), (urgent, "completed"), (waits, "completed")]
        history = [m.content for m in w.puppet.of(urgent).turn.history]
        assert history == ["first", "partial"], "what was said stays in the model's context"


@virtual
async def test_on_busy_interrupt_in_an_idle_session_just_starts() -> None:
    """There is nothing to stop."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "one", on_busy="interrupt")
        assert "turn.queued" not in reader.types
        assert reader.state["is_processing"]


@virtual
async def test_an_interrupt_leaves_the_queue_which_goes_on() -> None:
    """Stopping an answer is not taking back what was asked after it."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        await w.chat("s", "two")
        await settle()
        await w.interrupt("s")
        await settle()
        assert asked(reader) == ["one", "two"]
        assert reader.state["is_processing"]


@virtual
async def test_clearing_the_queue_with_an_interrupt_starts_none_of_it() -> None:
    """Every queued turn ends as interrupted without having started."""
    async with world() as w:
        reader = await w.reader("s")
        ids = [await w.chat("s", f"m{n}") for n in range(4)]
        await settle()
        await w.interrupt("s", clear_queue=True)
        await settle()
        assert sorted(ends(reader)) == sorted((i, "interrupted") for i in ids)
        assert reader.types.count("turn.started") == 1
        assert len(w.puppet.turns) == 1
        assert waiting(reader) == []
        assert (await w.stored("s"))["queue"] == []  # type: ignore[index]


@virtual
async def test_clearing_the_queue_while_the_turn_before_it_ends_starts_none_of_it() -> None:
    """The end was being committed already when the queue was cleared; the next turn must not slip through."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        await w.chat("s", "two")
        await settle()
        gate = w.store.gate("finish_turn")
        w.puppet.last.end()
        await gate.reached.wait()
        clearing = asyncio.get_running_loop().create_task(w.interrupt("s", clear_queue=True))
        await settle()
        gate.open()
        await clearing
        await settle()
        assert reader.types.count("turn.started") == 1
        assert asked(reader) == ["one"]
        assert waiting(reader) == []


@pytest.mark.parametrize("after", [False, True])
def test_clearing_the_queue_while_its_next_turn_is_being_committed_stops_that(after: bool) -> None:
    """It waited when the stop was pressed, on whichever side of its commit; the stop is answered when it has ended."""

    @virtual
    async def test() -> None:
        async with world() as w:
            reader = await w.reader("s")
            ids = [await w.chat("s", text) for text in ("one", "two", "three")]
            await settle()
            gate = w.store.gate("start_turn", after=after)
            w.puppet.last.end()
            await gate.reached.wait()
            clearing = asyncio.get_running_loop().create_task(w.interrupt("s", clear_queue=True))
            await settle()
            gate.open()
            await clearing
            assert not reader.state["is_processing"]
            assert sorted(ends(reader)) == sorted(zip(ids, ("completed", "interrupted", "interrupted"), strict=True))
            assert waiting(reader) == []
            assert (await w.stored("s"))["messages"] == reader.state["messages"]  # type: ignore[index]

    test()


@virtual
async def test_what_is_sent_while_the_queue_is_cleared_is_answered() -> None:
    """Clearing takes back what waited when it was asked for, not what came after."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        await w.chat("s", "two")
        await settle()
        gate = w.store.gate("withdraw_turn")
        clearing = asyncio.get_running_loop().create_task(w.interrupt("s", clear_queue=True))
        await gate.reached.wait()
        later = asyncio.get_running_loop().create_task(w.chat("s", "later"))
        await settle()
        gate.open()
        await asyncio.gather(clearing, later)
        await settle()
        assert asked(reader) == ["one", "later"]


@virtual
async def test_clearing_that_the_store_refuses_leaves_a_queue_that_goes_on() -> None:
    """The caller is told; what could not be taken back is answered."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        await w.chat("s", "two")
        await settle()
        w.store.break_("withdraw_turn")
        with pytest.raises(StoreUnavailable):
            await w.interrupt("s", clear_queue=True)
        w.store.mend()
        await advance(1)
        assert asked(reader) == ["one", "two"]
        assert reader.state["is_processing"]


@virtual
async def test_what_could_not_be_cleared_goes_on_though_the_turn_before_it_has_ended() -> None:
    """That end found nothing to start, since all that waited was about to be taken back; nobody else looks again."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        await w.chat("s", "two")
        await settle()
        gate = w.store.gate("finish_turn")
        w.puppet.last.end()
        await gate.reached.wait()
        clearing = asyncio.get_running_loop().create_task(w.interrupt("s", clear_queue=True))
        await settle()
        w.store.break_("withdraw_turn")
        w.store.ungate("finish_turn")
        with pytest.raises(StoreUnavailable):
            await clearing
        await settle()
        assert asked(reader) == ["one", "two"]
        assert reader.state["is_processing"]


@virtual
async def test_who_clears_the_queue_may_go_away() -> None:
    """The clearing goes on to its end without its caller."""
    async with world() as w:
        reader = await w.reader("s")
        for n in range(3):
            await w.chat("s", f"m{n}")
        await settle()
        gate = w.store.gate("withdraw_turn")
        clearing = asyncio.get_running_loop().create_task(w.interrupt("s", clear_queue=True))
        await gate.reached.wait()
        clearing.cancel()
        await asyncio.wait({clearing})
        gate.open()
        await settle()
        assert waiting(reader) == []
        await w.chat("s", "again")
        await settle()
        assert asked(reader) == ["m0", "again"]


@virtual
async def test_a_withdrawn_message_leaves_and_the_places_close_up() -> None:
    """It ends once, as interrupted, never enters the branch, and its `client_message_id` stays used."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "m0")
        ids = [await w.chat("s", f"m{n}", client_message_id=f"c{n}") for n in (1, 2, 3)]
        await w.withdraw("s", ids[1])
        assert waiting(reader) == [(1, "m1"), (2, "m3")]
        assert ends(reader) == [(ids[1], "interrupted")]
        assert reader.state["is_processing"]
        with pytest.raises(NotFound) as refused:
            await w.withdraw("s", ids[1])
        assert refused.value.narrow_code == "turn_not_queued"
        assert await w.chat("s", "m2", client_message_id="c2") == ids[1]
        assert (await w.stored("s"))["queue"] == reader.state["queue"]  # type: ignore[index]
        await settle()
        await end_all(w)
        assert asked(reader) == ["m0", "m1", "m3"]


@pytest.mark.parametrize("order", ["withdraw first", "start first"])
def test_a_withdrawal_that_races_with_the_start_has_one_winner(order: str) -> None:
    """Either the message never starts, or it can't be withdrawn any more."""

    @virtual
    async def test() -> None:
        async with world() as w:
            reader = await w.reader("s")
            await w.chat("s", "one")
            queued = await w.chat("s", "two")
            await settle()
            gate = w.store.gate("withdraw_turn" if order == "withdraw first" else "finish_turn")

            async def withdraw() -> bool:
                try:
                    await w.withdraw("s", queued)
                except NotFound:
                    return False
                return True

            if order == "start first":
                w.puppet.last.end()
                await gate.reached.wait()
                withdrawing = asyncio.get_running_loop().create_task(withdraw())
            else:
                withdrawing = asyncio.get_running_loop().create_task(withdraw())
                await gate.reached.wait()
                w.puppet.last.end()
            await settle()
            gate.open()
            won = await withdrawing
            await settle()
            assert won == (order == "withdraw first")
            assert ("two" in asked(reader)) == (not won)
            assert waiting(reader) == []

    test()


@virtual
async def test_withdrawing_what_runs_or_never_was_is_refused() -> None:
    """404; the running turn goes on."""
    async with world() as w:
        running = await w.chat("s", "one")
        for turn_id in (running, "no-such-turn", ""):
            with pytest.raises(NotFound):
                await w.withdraw("s", turn_id)
        assert (await w.state("s"))["active_turn_id"] == running


@virtual
async def test_a_system_message_while_messages_wait_stands_behind_the_running_answer() -> None:
    """The next turn's message follows it, in memory and in the store."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        await w.chat("s", "two")
        await settle()
        await w.system("s", "look")
        await end_all(w)
        assert [m["content"] for m in reader.state["messages"]] == ["one", "ok", "look", "two", "ok"]
        assert (await w.stored("s"))["messages"] == reader.state["messages"]  # type: ignore[index]


# --- a queue that rests ---


@pytest.mark.parametrize("error", [StoreUnavailable, StoreFull])
def test_a_queue_that_the_store_holds_up_goes_on_when_it_is_back(error: Any) -> None:
    """Nobody has to send another message for it."""

    @virtual
    async def test() -> None:
        async with world() as w:
            reader = await w.reader("s")
            await w.chat("s", "one")
            await w.chat("s", "two")
            await settle()
            w.store.break_("start_turn", error=error)
            w.puppet.last.end()
            await advance(30)
            assert waiting(reader) == [(1, "two")]
            assert not reader.state["is_processing"]
            assert w.log.events().count("queued_turn_not_started") == 1
            w.store.mend()
            await advance(1)
            assert waiting(reader) == []
            assert asked(reader) == ["one", "two"]

    test()


@pytest.mark.parametrize("then", ["queue", "reject", "interrupt", "withdraw", "clear", "delete", "kill"])
def test_a_resting_queue_takes_every_change(then: str) -> None:
    """More messages, withdrawals, deletion, a restart: ids stay consecutive and nothing is lost or doubled."""

    @virtual
    async def test() -> None:
        async with world() as w:
            reader = await w.reader("s")
            await w.chat("s", "one")
            queued = await w.chat("s", "two")
            await settle()
            w.store.break_("start_turn")
            w.puppet.last.end()
            await settle()
            assert waiting(reader) == [(1, "two")]
            match then:
                case "queue" | "reject" | "interrupt":
                    await w.chat("s", "three", on_busy=then)
                    w.store.mend()
                    await advance(1)
                    await end_all(w)
                    assert asked(reader) == (
                        ["one", "two", "three"] if then != "interrupt" else ["one", "three", "two"]
                    )
                case "withdraw":
                    await w.withdraw("s", queued)
                    assert waiting(reader) == []
                    assert ends(reader)[-1] == (queued, "interrupted")
                    w.store.mend()
                    await advance(1)
                    assert asked(reader) == ["one"]
                case "clear":
                    await w.interrupt("s", clear_queue=True)
                    assert waiting(reader) == []
                case "delete":
                    await w.delete("s")
                    w.store.mend()
                    await advance(2)
                    assert w.turns.running == 0
                case "kill":
                    await w.kill()
                    await w.start()
                    await settle()
                    reader = await w.reader("s")
                    assert asked(reader) == ["one", "two"]
            if then != "delete":
                assert (await w.stored("s"))["queue"] == reader.state["queue"]  # type: ignore[index]

    test()


@pytest.mark.parametrize("method", ["update_session", "enqueue_turn", "withdraw_turn"])
def test_a_change_of_a_resting_queue_that_the_store_refuses_changes_nothing(method: str) -> None:
    """Neither in memory nor in the store, so that what was refused is not answered later."""

    @virtual
    async def test() -> None:
        async with world() as w:
            reader = await w.reader("s")
            await w.chat("s", "one")
            queued = await w.chat("s", "two")
            await settle()
            w.store.break_("start_turn")
            w.puppet.last.end()
            await settle()
            before = reader.state["queue"]
            w.store.break_(method)
            if method != "withdraw_turn":
                with pytest.raises(StoreUnavailable):
                    await w.chat("s", "three")
            if method != "enqueue_turn":
                with pytest.raises(StoreUnavailable):
                    await w.withdraw("s", queued)
            assert reader.state["queue"] == before
            assert (await w.stored("s"))["queue"] == before  # type: ignore[index]
            w.store.mend()
            await advance(1)
            await end_all(w)
            assert asked(reader) == ["one", "two"]

    test()


@virtual
async def test_a_message_wakes_a_resting_queue() -> None:
    """The store is back: the turn that waits starts at once, and not only with the next checkpoint."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        await w.chat("s", "two")
        await settle()
        w.store.break_("start_turn")
        w.puppet.last.end()
        await settle()
        w.store.mend()
        await w.chat("s", "three")
        assert asked(reader) == ["one", "two"]
        assert waiting(reader) == [(1, "three")]


@virtual
async def test_clearing_a_resting_queue_that_the_store_refuses_leaves_it_to_go_on() -> None:
    """No turn runs whose end would start the next one: the checkpoints still do."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        await w.chat("s", "two")
        await settle()
        w.store.break_("start_turn", "withdraw_turn")
        w.puppet.last.end()
        await settle()
        with pytest.raises(StoreUnavailable):
            await w.interrupt("s", clear_queue=True)
        w.store.mend()
        await advance(1)
        assert asked(reader) == ["one", "two"]
        assert reader.state["is_processing"]


@virtual
async def test_a_queue_whose_model_cannot_be_resolved_rests_and_holds_nobody_up() -> None:
    """A bug behind it included: it is logged once, and other sessions go on."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        await w.chat("s", "two")
        await settle()
        resolve = w.models.entries.pop("puppet")
        w.models.entries["other"] = resolve
        w.turns._life._resolve_model = lambda _tenant, model: {}[model]  # type: ignore[assignment,index]
        w.puppet.last.end()
        await advance(3)
        assert waiting(reader) == [(1, "two")]
        assert w.log.events().count("queued_turn_not_started") == 1
        w.turns._life._resolve_model = w.models.resolve  # type: ignore[assignment]
        await advance(1)
        assert asked(reader) == ["one", "two"]


@virtual
async def test_after_a_crash_one_tenants_queues_do_not_hold_up_anothers() -> None:
    """Those of a tenant that has its share wait; the others' go on."""
    acme, other = visitor("ann", "acme"), visitor("bob", "other")
    async with world(max_running_turns=100, session_creations_per_minute=1000) as w:
        for n in range(20):
            await w.chat(f"a{n}", "first", acme)
            await w.chat(f"a{n}", "second", acme)
        await w.chat("z", "first", other)
        await w.chat("z", "second", other)
        await settle()
        await w.kill()
        w.settings = w.settings.model_copy(update={"max_running_turns": 10})
        await w.start()
        await advance(1)
        assert w.turns.running == 10
        assert (await w.state("z", other))["is_processing"]
        for strings in list(w.puppet.turns):
            strings.end()
        await advance(1)
        for _ in range(3):
            for strings in list(w.puppet.turns):
                strings.end()
            await advance(1)
        assert w.turns.running == 0
        for n in range(20):
            assert (await w.state(f"a{n}", acme))["queue"] == []


@virtual
async def test_after_a_crash_every_queue_goes_on_by_itself() -> None:
    """More sessions than turns may run at once: they take their places one after another."""
    async with world(max_running_turns=2) as w:
        for n in range(2):
            await w.chat(f"s{n}", "first")
        for n in range(2):
            await w.chat(f"s{n}", "second", client_message_id="c")
        await settle()
        await w.kill()
        # Sessions of a process that allowed more: their queues are longer than this one's places.
        w.settings = w.settings.model_copy(update={"max_running_turns": 1})
        await w.start()
        assert w.recovered == 2
        await advance(1)
        assert w.turns.running == 1
        w.puppet.last.end()
        await advance(1)
        assert w.turns.running == 1
        w.puppet.last.end()
        await advance(1)
        for n in range(2):
            state = await w.state(f"s{n}")
            assert [(m["content"], m["status"]) for m in state["messages"] if m["role"] == "user"] == [
                ("first", "completed"),
                ("second", "completed"),
            ]
            assert state["messages"][1]["status"] == "interrupted"
        assert [live.pins for live in w.manager.live()] == [0, 0], "nothing that took them up keeps them in memory"


@virtual
async def test_a_queue_that_cannot_be_read_at_start_holds_up_no_other() -> None:
    """It is tried again until it can be."""
    async with world() as w:
        for name in ("a", "b"):
            await w.chat(name, "first")
            await w.chat(name, "second")
        await settle()
        await w.kill()
        w.refuse_load_of = "a"
        await w.start()
        await advance(3)
        assert w.turns.running == 1
        w.refuse_load_of = None
        await advance(3)
        assert w.turns.running == 2
