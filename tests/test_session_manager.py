"""SessionManager: one live session a key, pins, and what leaves memory when (spec S4, L10)."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import random
from dataclasses import replace

import orjson
import pytest

from chatserver import session_manager
from chatserver.errors import StoreUnavailable
from chatserver.events import END_OF_FENCE, Position, SessionUpdated
from chatserver.live_session import LiveSession
from chatserver.store.base import SessionKey, SessionRecord
from tests.core.virtual import EPOCH, advance, settle, virtual
from tests.core.world import NOBODY, World, state_of, world


def record(session_id: str = "s", tenant: str = "public") -> SessionRecord:
    return SessionRecord(
        SessionKey(tenant, session_id), "default", None, "New Chat", None, EPOCH, EPOCH, EPOCH + 86400.0
    )


async def stored_session(w: World, session_id: str = "s") -> SessionKey:
    """A session with one exchange, in the store only."""
    await w.chat(session_id, "one")
    await settle()
    w.puppet.last.say("1")
    w.puppet.last.end()
    await settle()
    live = w.manager.peek(w.key(session_id))
    assert live is not None
    w.manager.remove(live)
    return w.key(session_id)


# --- one a key ---


@virtual
async def test_concurrent_loads_give_one_session_and_read_the_store_once() -> None:
    """A page with ten tabs comes back after an eviction."""
    async with world() as w:
        key = await stored_session(w)
        w.store.calls.clear()
        lives = await asyncio.gather(*(w.manager.pin(key) for _ in range(10)))
        assert len({id(live) for live in lives}) == 1
        assert w.store.calls.count("load") == 1
        assert lives[0] is not None
        assert lives[0].pins == 10
        for live in lives:
            assert live is not None
            w.manager.unpin(live)


@virtual
async def test_concurrent_creations_give_one_session() -> None:
    """Two first requests of one browser; the second finds what the first made."""
    async with world() as w:

        async def create() -> LiveSession:
            live = await w.manager.pin(SessionKey("public", "s"))
            return live if live is not None else w.manager.pin_new(record())

        lives = await asyncio.gather(*(create() for _ in range(5)))
        assert len({id(live) for live in lives}) == 1
        assert lives[0].pins == 5
        assert len(w.manager) == 1
        for live in lives:
            w.manager.unpin(live)


@virtual
async def test_a_session_that_does_not_exist_is_none_for_all_who_wait() -> None:
    """And nothing of the asking stays."""
    async with world() as w:
        key = SessionKey("public", "nothing")
        assert await asyncio.gather(*(w.manager.pin(key) for _ in range(5))) == [None] * 5
        assert not w.manager._loading
        assert len(w.manager) == 0


@virtual
async def test_a_failed_load_fails_each_who_asked_and_leaves_nothing() -> None:
    """Everybody is told; the next one tries anew."""
    async with world() as w:
        key = await stored_session(w)
        w.store.break_("load")
        results = await asyncio.gather(*(w.manager.pin(key) for _ in range(3)), return_exceptions=True)
        assert [type(r) for r in results] == [StoreUnavailable] * 3
        assert not w.manager._loading
        w.store.mend()
        live = await w.manager.pin(key)
        assert live is not None
        w.manager.unpin(live)


@pytest.mark.parametrize("who", ["loader", "waiter", "both"])
def test_a_cancelled_load_leaves_the_others_theirs(who: str) -> None:
    """The client whose request does the loading goes away; those who waited for it load for themselves."""

    @virtual
    async def test() -> None:
        async with world() as w:
            key = await stored_session(w)
            gate = w.store.gate("load")
            tasks = [asyncio.get_running_loop().create_task(w.manager.pin(key)) for _ in range(3)]
            await gate.reached.wait()
            await settle()
            for at in {"loader": [0], "waiter": [1], "both": [0, 1]}[who]:
                tasks[at].cancel()
            await settle()
            gate.open()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            lives = [live for live in done if isinstance(live, LiveSession)]
            assert len(lives) == 3 - sum(isinstance(r, asyncio.CancelledError) for r in done)
            assert len({id(live) for live in lives}) == 1
            assert lives[0].pins == len(lives)
            assert not w.manager._loading
            for live in lives:
                w.manager.unpin(live)

    test()


@virtual
async def test_ids_live_inside_their_tenants() -> None:
    """The same id in two tenants: two sessions, in memory and in the store."""
    async with world() as w:
        for tenant in ("a", "b"):
            live = w.manager.pin_new(record(tenant=tenant))
            await w.turns.add_message(live, "user", tenant, EPOCH + 10, {})
            w.manager.unpin(live)
        await w.kill()
        await w.start()
        for tenant in ("a", "b"):
            loaded = await w.manager.pin(SessionKey(tenant, "s"))
            assert loaded is not None
            assert [m.content for m in loaded.state.messages] == [tenant]
            w.manager.unpin(loaded)


# --- coming back ---


@virtual
async def test_what_comes_back_is_what_left() -> None:
    """State for state: messages with all their fields, queue, settings; only the position is the end of its fence."""
    async with world() as w:
        await w.chat("s", "one")
        await settle()
        strings = w.puppet.last
        strings.say("Let me see. ")
        strings.call("srv", "echo", {"text": "12", "deep": [1, {"a": None}]})
        strings.say("It is 12.")
        strings.spend(10, 20)
        strings.end()
        await settle()
        await w.chat("s", "two")
        await settle()
        w.puppet.last.fail(ValueError())
        await settle()
        await w.system("s", "look")
        await w.chat("s", "three")
        await w.chat("s", "four")
        await w.chat("s", "five", on_busy="interrupt")
        await settle()
        async with w.service.open(NOBODY, "s", create="no") as live:
            await w.service.switch_model(NOBODY, live, "puppet")
            before = state_of(live)
        await w.kill()
        await w.start()
        w.turns._under_way.draining = True  # the queue stays as it is
        async with w.service.open(NOBODY, "s", create="no") as live:
            after = state_of(live)
        running = before["messages"][-1]
        assert running["status"] == "streaming"
        before |= {"is_processing": False, "active_turn_id": None}
        running["status"] = "interrupted"
        assert after["position"].endswith(f"-{END_OF_FENCE}")
        assert Position.parse(after["position"]).fence > Position.parse(before["position"]).fence
        assert {**after, "position": None} == {**before, "position": None}
        assert [q["message"]["content"] for q in after["queue"]] == ["four"]


@virtual
async def test_a_long_session_comes_back_with_its_newest_messages() -> None:
    """Two hundred of them, `has_more`, and the right count; the next message's parent is the newest."""
    async with world() as w:
        for n in range(205):
            await w.system("s", str(n))
        before = await w.state("s")
        live = w.manager.peek(w.key("s"))
        assert live is not None
        w.manager.remove(live)
        after = await w.state("s")
        assert {**after, "position": None} == {**before, "position": None}
        assert [m["content"] for m in after["messages"]] == [str(n) for n in range(5, 205)]
        assert (after["has_more"], after["message_count"]) == (True, 205)


# --- leaving memory ---


@pytest.mark.parametrize("why", ["pinned", "followed", "running", "queued", "unsaved"])
def test_what_is_used_is_never_evicted(why: str) -> None:
    """By none of the ways out, however long ago it was touched and however tight memory is."""

    @virtual
    async def test() -> None:
        async with world(
            max_live_sessions=1,
            memory_budget_bytes=1,
            idle_eviction_seconds=60,
            eviction_interval_seconds=20,
        ) as w:
            await w.system("s", "hello")
            live = w.manager.peek(w.key("s"))
            assert live is not None
            match why:
                case "pinned":
                    await w.manager.pin(live.key)
                case "followed":
                    reader = await w.reader("s")
                case "running":
                    await w.chat("s", "one")
                case "queued":
                    await w.chat("s", "one")
                    await w.chat("s", "two")
                    w.store.break_("start_turn")
                    await settle()
                    w.puppet.last.end()
                case "unsaved":
                    await w.chat("s", "one")
                    await settle()
                    w.store.break_("finish_turn")
                    w.puppet.last.end()
            await advance(100)
            live.last_used = -1e9
            await w.manager.sweep_idle()
            await w.manager.sweep_budget()
            await w.manager.sweep_provisional()
            assert w.manager.peek(live.key) is live
            match why:
                case "pinned":
                    w.manager.unpin(live)
                case "followed":
                    await reader.close()
                case "running":
                    w.puppet.last.end()
                case "queued":
                    w.store.mend()
                    await advance(1)
                    w.puppet.last.end()
                case "unsaved":
                    w.store.mend()
                    await advance(1)
            await settle()
            live.last_used = -1e9
            await w.manager.sweep_idle()
            assert w.manager.peek(live.key) is None
            assert w.tools.closed_sessions[-1] == live.key

    test()


@virtual
async def test_an_idle_session_leaves_after_its_time_and_comes_back_at_a_touch() -> None:
    """30 minutes, looked for every 5 (the defaults)."""
    async with world(checkpoint_interval_seconds=60) as w:
        await w.system("s", "hello")
        before = await w.state("s")
        await advance(1795)
        assert w.manager.peek(w.key("s")) is not None
        await advance(310)
        assert w.manager.peek(w.key("s")) is None
        assert {**await w.state("s"), "position": ""} == {**before, "position": ""}


@virtual
async def test_a_touch_puts_eviction_off() -> None:
    """Reading the state counts as use."""
    async with world(idle_eviction_seconds=100, eviction_interval_seconds=10) as w:
        await w.system("s", "hello")
        live = w.manager.peek(w.key("s"))
        for _ in range(5):
            await advance(80)
            await w.state("s")
        assert w.manager.peek(w.key("s")) is live
        await advance(120)
        assert w.manager.peek(w.key("s")) is None


@virtual
async def test_a_provisional_session_is_gone_a_minute_after_its_last_use() -> None:
    """It was never stored, and nothing of it stays."""
    async with world() as w:
        await w.state("s")
        await advance(58)
        assert w.manager.peek(w.key("s")) is not None
        await advance(8)
        assert w.manager.peek(w.key("s")) is None
        assert not w.manager._provisional
        assert await w.stored("s") is None
        assert w.manager.total_bytes == 0


@virtual
async def test_a_followed_provisional_session_stays_until_a_minute_after_its_last_follower() -> None:
    """An open tab in which nobody has written yet; multiplexed streams hold no pin."""
    async with world(checkpoint_interval_seconds=60) as w:
        reader = await w.reader("s")
        await advance(600)
        live = w.manager.peek(w.key("s"))
        assert live is not None
        assert live.pins == 0
        await reader.close()
        await advance(58)
        assert w.manager.peek(w.key("s")) is live
        await advance(8)
        assert w.manager.peek(w.key("s")) is None


@virtual
async def test_a_session_that_was_written_is_not_provisional_any_more() -> None:
    """A minute without use does not take it out of memory."""
    async with world() as w:
        await w.state("s")
        await w.system("s", "hello")
        await advance(120)
        assert w.manager.peek(w.key("s")) is not None
        assert not w.manager._provisional


@virtual
async def test_too_many_sessions_push_out_the_least_recently_used() -> None:
    """Pinned ones are passed over, even when they are the oldest."""
    async with world(max_live_sessions=3) as w:
        for n in range(6):
            await w.system(f"s{n}", "hello")
            await advance(0.1)
        await w.state("s1")
        oldest = await w.manager.pin(w.key("s0"))
        assert oldest is not None
        oldest.last_used = -1.0
        assert await w.manager.sweep_budget() == 3
        left = {live.key.session_id for live in w.manager.live()}
        assert left == {"s0", "s1", "s5"}
        w.manager.unpin(oldest)


@virtual
async def test_too_many_bytes_push_out_the_least_recently_used() -> None:
    """Counted by what sessions weigh, not by their number; within the budget nothing leaves."""
    async with world(memory_budget_bytes=100_000) as w:
        for n in range(8):
            await w.system(f"s{n}", "x" * 20_000)
            await advance(0.1)
        assert w.manager.total_bytes > 100_000
        await advance(6)
        assert w.manager.total_bytes <= 100_000
        left = [live.key.session_id for live in w.manager.live()]
        assert left == [f"s{n}" for n in range(8 - len(left), 8)]
        evictions = w.manager.evictions
        await advance(60)
        assert w.manager.evictions == evictions


@virtual
async def test_the_bytes_counted_are_the_sum_of_the_sessions() -> None:
    """Whatever comes, grows, goes idle and leaves."""
    async with world(log_idle_seconds=60) as w:
        chance = random.Random(3)
        for _ in range(60):
            name = f"s{chance.randrange(6)}"
            match chance.randrange(5):
                case 0:
                    await w.state(name)
                case 1:
                    await w.system(name, "x" * chance.randrange(1, 2000))
                case 2:
                    await w.chat(name, "y" * chance.randrange(1, 2000), on_busy="interrupt")
                    await settle()
                    w.puppet.last.say("z" * chance.randrange(2000))
                    w.puppet.last.end()
                    await settle()
                case 3:
                    await advance(chance.randrange(80))
                case 4:
                    live = w.manager.peek(w.key(name))
                    if live is not None:
                        await w.delete(name)
            assert w.manager.total_bytes == sum(live.size for live in w.manager.live())
        for live in w.manager.live():
            w.manager.remove(live)
        assert w.manager.total_bytes == 0


@virtual
async def test_an_idle_log_is_dropped_and_its_end_stays_resumable() -> None:
    """Most sessions only hold still; a client that is up to date misses nothing by it."""
    async with world(log_idle_seconds=60) as w:
        await w.chat("s", "one")
        await settle()
        w.puppet.last.end()
        await settle()
        live = w.manager.peek(w.key("s"))
        assert live is not None
        end, size = live.position, live.size
        assert live.log.held_bytes
        await advance(70)
        assert live.log.held_bytes == 0
        assert live.size < size
        assert live.frames_after(end) == []
        assert live.frames_after(Position(1, 0)) is None


@virtual
async def test_the_log_of_a_followed_or_running_session_is_kept() -> None:
    """Its followers may lose their connections and want to resume."""
    async with world(log_idle_seconds=60) as w:
        await w.reader("a")
        await w.system("a", "hello")
        await w.chat("b", "one")
        await advance(300)
        for name in "ab":
            live = w.manager.peek(w.key(name))
            assert live is not None
            assert live.log.held_bytes


@virtual
async def test_frames_of_a_change_without_a_turn_are_dropped_too() -> None:
    """A log that nobody accounts for would stay until the session leaves."""
    async with world(log_idle_seconds=60) as w:
        await w.system("s", "hello")
        await advance(70)
        async with w.service.open(NOBODY, "s", create="no") as live:
            assert live.log.held_bytes == 0
            await w.service.extend_session(NOBODY, live)
            assert live.log.held_bytes
        await advance(70)
        assert live.log.held_bytes == 0


@virtual
async def test_eviction_between_the_look_and_the_removal_cannot_happen() -> None:
    """Closing one session's tools takes its time; another that is touched meanwhile is looked at again."""
    async with world() as w:
        for name in "ab":
            await w.system(name, "hello")
        closing = asyncio.Event()

        async def slow_close(_key: tuple[str, str]) -> None:
            await closing.wait()

        w.manager._on_evict = slow_close  # type: ignore[assignment]
        for live in w.manager.live():
            live.last_used = -1e9
        sweeping = asyncio.get_running_loop().create_task(w.manager.sweep_idle())
        await settle()
        (left,) = w.manager.live()
        pinned = await w.manager.pin(left.key)
        closing.set()
        assert await sweeping == 1
        assert pinned is not None
        assert w.manager.peek(left.key) is left
        w.manager.unpin(pinned)


@virtual
async def test_tools_that_fail_to_close_do_not_stop_maintenance() -> None:
    """The failure is logged; the other sessions leave memory, then and later."""
    async with world(idle_eviction_seconds=60, eviction_interval_seconds=10) as w:
        for name in "ab":
            await w.system(name, "hello")

        async def broken_close(_key: tuple[str, str]) -> None:
            raise OSError("no such process")

        w.manager._on_evict = broken_close  # type: ignore[assignment]
        await advance(80)
        assert w.manager.live() == []
        assert w.log.events().count("tools_not_closed") == 2
        await w.system("c", "hello")
        await advance(80)
        assert w.manager.live() == []


@virtual
async def test_a_removed_session_ends_its_followers_and_is_not_removed_twice() -> None:
    """Idempotent; a new one of the same key is not touched by it."""
    async with world() as w:
        reader = await w.reader("s")
        live = w.manager.peek(w.key("s"))
        assert live is not None
        w.manager.remove(live)
        await settle()
        assert reader.served
        again = w.manager.pin_new(record())
        w.manager.remove(live)
        assert w.manager.peek(w.key("s")) is again
        assert w.manager.total_bytes == again.size
        w.manager.unpin(again)
        w.histories.clear()


# --- numbering ---


@virtual
async def test_an_event_that_cannot_be_encoded_takes_no_number() -> None:
    """Alone or among others: the next one follows without a gap, and the state is as before."""
    from chatserver import events as ev

    async with world() as w:
        reader = await w.reader("s")
        await w.system("s", "hello")
        live = w.manager.peek(w.key("s"))
        assert live is not None
        before = orjson.dumps(live.state.wire())
        bad = ev.SessionUpdated("s", {"title": "\ud800"})
        with pytest.raises(TypeError):
            live.append(bad)
        with pytest.raises(TypeError):
            live.append_together(ev.SessionUpdated("s", {"title": "fine"}), bad)
        assert orjson.dumps(live.state.wire()) == before
        live.append(ev.SessionUpdated("s", {"title": "next"}))
        assert reader.state == json.loads(orjson.dumps(live.state.wire()))
        live.append(ev.SessionUpdated("s", {"title": "New Chat"}))


@pytest.mark.parametrize("why", ["idle", "expired", "too many", "idle logs"])
def test_what_is_freed_at_once_is_freed_in_portions(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quiet hour ends for thousands of sessions together; everything else has its turn in between, and what has left
    is not held until the last has."""
    monkeypatch.setattr(session_manager, "FREED_TOGETHER", 10)

    @virtual
    async def test() -> None:
        limits = {"max_live_sessions": 1} if why == "too many" else {}
        w = World(**limits)
        await w.start(maintenance=False)
        manager = w.manager
        for number in range(101):
            live = manager.pin_new(replace(record(f"s{number}"), expires_at=EPOCH + 5))
            manager.made_durable(live)
            live.append(SessionUpdated(live.key.session_id, {"title": "t"}))
            manager.remeasure(live)
            manager.unpin(live)
        del live
        await advance(10_000)
        sweeps = {
            "idle": manager.sweep_idle,
            "expired": manager.sweep_expired,
            "too many": manager.sweep_budget,
            "idle logs": manager.drop_idle_logs,
        }

        def left() -> int:
            if why == "idle logs":
                return sum(live.log.held_bytes > 0 for live in manager.live())
            there = (thing for thing in gc.get_objects() if isinstance(thing, LiveSession))
            # Those of other tests, which the collector has not come to yet, may have a clock that is a function.
            return sum(getattr(live._monotonic, "__self__", None) is w.clock for live in there)

        before = left()
        sweep = asyncio.get_running_loop().create_task(sweeps[why]())
        seen = []
        while not sweep.done():
            await asyncio.sleep(0)
            seen.append(before - left())
        assert seen[-1] >= 100
        steps = [after - before for before, after in itertools.pairwise([0, *seen])]
        assert max(steps) <= 11, "the last one looked at is held by a variable"
        await w.close()

    test()


# --- what has expired ---


@virtual
async def test_an_expired_session_lets_go_of_its_tools() -> None:
    """Child processes among them: nobody else would end those."""
    async with world() as w:
        await w.system("s", "hello")
        live = w.manager.peek(w.key("s"))
        assert live is not None
        live.record = replace(live.record, expires_at=EPOCH - 1)
        assert await w.manager.sweep_expired() == 1
        assert w.tools.closed_sessions == [live.key]


@virtual
async def test_a_long_absence_is_purged_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two portions the rest of maintenance has its turn; in the end everything has gone."""
    monkeypatch.setattr(session_manager, "PURGE_BATCH", 2)
    monkeypatch.setattr(session_manager, "PURGE_BATCHES", 3)
    async with world(expired_keep_seconds=10, eviction_interval_seconds=100) as w:
        keys = [SessionKey("public", f"s-{number}") for number in range(15)]
        for key in keys:
            await w.store.create_session(replace(record(key.session_id), expires_at=EPOCH + 1))

        async def left() -> int:
            return sum([await w.store.record(key) is not None for key in keys])

        counts = []
        for _ in range(5):
            await advance(5)
            counts.append(await left())
        assert counts == [15] * 5, "not before the interval is over"
        await advance(71)
        for _ in range(4):
            await advance(5)
            counts.append(await left())
    assert counts[5:] == [9, 3, 0, 0]
