"""Exactly one terminal event a turn, whatever its agent does and whenever it is stopped."""

from __future__ import annotations

import asyncio
import gc
import statistics
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from enum import StrEnum
from typing import Any

import pytest

from chatserver.agents.base import AgentTurn, Reasoning, Spent, Text
from chatserver.errors import AgentError, InvalidRequest, NotFound, Unavailable
from chatserver.message import ToolResult, Usage
from chatserver.run import Run
from tests.core.puppets import Play
from tests.core.readers import Reader
from tests.core.virtual import advance, settle, virtual
from tests.core.world import World, world


def one_end(reader: Reader) -> dict[str, Any]:
    """The terminal event of the only turn, after checking that it is one, the last, and that nothing runs on."""
    ends = [event for event in reader.events if event["type"] == "turn.ended"]
    assert len(ends) == 1, ends
    assert reader.types[-1] == "turn.ended"
    assert not reader.state["is_processing"]
    assert reader.state["active_turn_id"] is None
    assert reader.state["messages"][-1]["status"] == ends[0]["outcome"]
    return ends[0]


async def ended(play: Callable[[AgentTurn], Any], seconds: float = 10, **settings: Any) -> dict[str, Any]:
    """Run one turn of that agent; its terminal event, after checking that what is stored is what was told."""
    async with world(agents={"m": Play(play)}, **settings) as w:
        reader = await w.reader("s")
        await w.chat("s", "hello")
        await advance(seconds)
        end = one_end(reader)
        stored = await w.stored("s")
        assert stored is not None
        assert stored["messages"] == reader.state["messages"]
        if "error" in end:
            assert reader.state["messages"][-1]["metadata"]["error"] == end["error"]
            assert reader.types[-2] == "message.updated"
            assert reader.events[-2]["message"]["status"] == "streaming", "only `turn.ended` ends it"
        # The session goes on: the next turn begins.
        await w.chat("s", "again")
        await settle()
        assert reader.types.count("turn.started") == 2
    return end


# --- what agents do wrong ---


def raising(error: BaseException, *before: str) -> Callable[[AgentTurn], AsyncIterator[Any]]:
    async def play(_turn: AgentTurn) -> AsyncIterator[Any]:
        for piece in before:
            yield piece
        raise error

    return play


class Word(StrEnum):
    """A str that is not of type str."""

    HELLO = "hello"


@pytest.mark.parametrize("before", [(), ("some", "text")], ids=["at once", "after text"])
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (AgentError("the model is asleep", code="upstream_timeout"), ("upstream_timeout", "the model is asleep")),
        (AgentError("lone \ud800 surrogate", code="c\ud800"), ("c\ufffd", "lone \ufffd surrogate")),
        (Unavailable("all slots are taken", code="model_busy"), ("model_busy", "Not possible right now")),
        (ValueError("secret"), ("agent_error", "The agent failed")),
        (RecursionError(), ("agent_error", "The agent failed")),
        (MemoryError(), ("agent_error", "The agent failed")),
        (TimeoutError("secret"), ("agent_error", "The agent failed")),
        (StopIteration("secret"), ("agent_error", "The agent failed")),
        (ExceptionGroup("secret", [ValueError()]), ("agent_error", "The agent failed")),
        (SystemExit(3), ("agent_error", "The agent failed")),
        (asyncio.CancelledError("of its own"), ("agent_error", "The agent gave up")),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_agent_that_raises_ends_its_turn_as_failed(
    error: BaseException, told: tuple[str, str], before: tuple[str, ...]
) -> None:
    """Its own words are told only where it meant them for the user; the text before them stays."""

    @virtual
    async def test() -> None:
        end = await ended(raising(error, *before))
        assert (end["outcome"], end["error"]["code"], end["error"]["title"]) == ("failed", *told)

    test()


@pytest.mark.parametrize(
    ("item", "named"),
    [
        (b"bytes", "an object of type bytes"),
        (None, "None"),
        (7, "an object of type int"),
        ({"type": "text"}, "an object of type dict"),
        (Text(7), "Text of an object of type int"),  # type: ignore[arg-type]  # what a wrong agent does
        (Text(b"bytes"), "Text of an object of type bytes"),  # type: ignore[arg-type]
        (Reasoning(None), "Reasoning of None"),  # type: ignore[arg-type]
        (Spent(None), "Spent of None"),  # type: ignore[arg-type]
        (Spent({"prompt_tokens": 1}), "Spent of an object of type dict"),  # type: ignore[arg-type]
        (Spent(Usage("many")), "Spent of an object of type Usage"),  # type: ignore[arg-type]
        (Spent(Usage(-1)), "Spent of an object of type Usage"),
        (Spent(Usage(2**70)), "Spent of an object of type Usage"),
        (Spent(Usage(float("nan"))), "Spent of an object of type Usage"),  # type: ignore[arg-type]
    ],
    ids=repr,
)
def test_an_agent_that_yields_what_is_no_event_ends_its_turn_as_failed(item: object, named: str) -> None:
    """Whether it goes out at once or waits for the flush, other turns are not touched; the message names its type."""

    async def play(_turn: AgentTurn) -> AsyncIterator[Any]:
        yield "text"
        yield "that waits"
        yield item
        yield "never seen"

    @virtual
    async def test() -> None:
        end = await ended(play)
        assert (end["outcome"], end["error"]["code"]) == ("failed", "agent_bad_event")
        assert f"yielded {named};" in end["error"]["title"]

    test()


@pytest.mark.parametrize(
    "play",
    [lambda _turn: None, lambda _turn: 7, lambda _turn: ["text"], lambda turn: turn.nothing],
    ids=["None", "a number", "a list", "raises"],
)
def test_an_agent_that_is_no_iterator_ends_its_turn_as_failed(play: Callable[[AgentTurn], Any]) -> None:
    """What `run` returns is the agent's, too."""

    @virtual
    async def test() -> None:
        assert (await ended(play))["error"]["code"] == "agent_error"

    test()


@virtual
async def test_an_agents_words_about_its_failure_are_cut_to_a_sentence() -> None:
    """They go into an event and a message, whose readers did not ask for a page."""
    end = await ended(raising(AgentError("x" * 50_000, code="y" * 50_000)))
    assert (end["error"]["title"], end["error"]["code"]) == ("x" * 1000, "y" * 1000)


@virtual
async def test_an_agent_that_gives_up_before_it_begins_ends_its_turn_as_failed() -> None:
    """It raises where it should give its pieces; a library that parses arguments does it with SystemExit."""

    def play(_turn: AgentTurn) -> AsyncIterator[Any]:
        raise SystemExit(2)

    end = await ended(play)
    assert (end["outcome"], end["error"]["code"]) == ("failed", "agent_error")


@virtual
async def test_strings_of_other_types_and_empty_ones_are_text() -> None:
    """A StrEnum's word is its value; an empty piece is no event."""

    async def play(_turn: AgentTurn) -> AsyncIterator[Any]:
        yield Word.HELLO
        yield ""
        yield Text("")
        yield Reasoning("")
        yield Text(Word.HELLO)

    async with world(agents={"m": Play(play)}, flush_interval_seconds=0) as w:
        reader = await w.reader("s")
        await w.chat("s", "hi")
        await settle()
        assert [e["text"] for e in reader.events if e["type"] == "text.delta"] == ["hello", "hello"]
        assert one_end(reader)["outcome"] == "completed"


@virtual
async def test_an_answer_that_is_too_long_ends_its_turn_at_the_limit() -> None:
    """What went over it is not told, however large the piece was; reasoning counts too."""

    async def play(_turn: AgentTurn) -> AsyncIterator[Any]:
        yield "x" * 600
        yield Reasoning("y" * 400)
        yield "z" * 1_000_000

    async with world(agents={"m": Play(play)}, max_answer_chars=1000) as w:
        reader = await w.reader("s")
        await w.chat("s", "hi")
        await settle()
        assert one_end(reader)["error"]["code"] == "answer_too_long"
        answer = reader.state["messages"][-1]
        assert (len(answer["content"]), len(answer["reasoning"])) == (600, 400)


@virtual
async def test_a_turn_that_takes_too_long_is_ended() -> None:
    """Its agent is cancelled; the text so far stays."""
    async with world(turn_timeout_seconds=600) as w:
        reader = await w.reader("s")
        await w.chat("s", "hi")
        await settle()
        w.puppet.last.say("so far")
        await advance(599)
        assert reader.state["is_processing"]
        await advance(2)
        assert one_end(reader)["error"]["code"] == "turn_timeout"
        assert w.puppet.last.cancelled
        assert reader.state["messages"][-1]["content"] == "so far"


@virtual
async def test_an_agent_that_ignores_its_cancellation_is_abandoned() -> None:
    """The turn ends at once; what the agent still yields is dropped; the next turn does not wait for it."""
    seen: list[str] = []

    async def play(turn: AgentTurn) -> AsyncIterator[Any]:
        yield "first"
        for _ in range(3):
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                seen.append("cancelled")
            yield "late"

    async with world(agents={"m": Play(play)}, agent_cancel_grace_seconds=2) as w:
        reader = await w.reader("s")
        await w.chat("s", "hi")
        await settle()
        await w.chat("s", "next")
        await w.interrupt("s")
        await settle()
        assert reader.types.count("turn.ended") == 1
        assert reader.types.count("turn.started") == 2
        assert seen == ["cancelled"]
        await advance(10)
        assert "late" not in reader.state["messages"][1]["content"]
        assert w.turns.running == 1


@virtual
async def test_an_agent_that_never_lets_go_does_not_hold_its_session_or_the_drain() -> None:
    """It swallows every cancel; session and server go on without it."""
    stuck = True

    async def play(_turn: AgentTurn) -> AsyncIterator[Any]:
        yield "first"
        while stuck:
            try:
                await asyncio.sleep(0.5)
            except asyncio.CancelledError:
                continue

    made = World(agents={"m": Play(play)})
    await made.start()
    reader = await made.reader("s")
    await made.chat("s", "hi")
    await settle()
    await made.interrupt("s")
    assert one_end(reader)["outcome"] == "interrupted"
    await advance(10)
    assert "agent_ignores_cancellation" in made.log.events()
    await made.chat("s", "again")
    await settle()
    assert reader.types.count("turn.started") == 2
    await asyncio.wait_for(made.turns.drain(1), 60)
    stuck = False
    await made.close()


@pytest.mark.parametrize("how", ["fails", "is interrupted", "is too long"])
def test_a_cleanup_that_hangs_does_not_hold_the_end_of_its_turn(how: str) -> None:
    """The outcome is decided before the agent is asked to close; the cleanup then has the grace, and no more."""
    cleaned: list[str] = []

    async def play(_turn: AgentTurn) -> AsyncIterator[Any]:
        try:
            yield "text"
            if how == "fails":
                yield 7
            if how == "is too long":
                yield "x" * 2000
            await asyncio.sleep(3600)
        finally:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                cleaned.append("cut")
                raise

    @virtual
    async def test() -> None:
        async with world(agents={"m": Play(play)}, max_answer_chars=1000, agent_cancel_grace_seconds=2) as w:
            reader = await w.reader("s")
            await w.chat("s", "hi")
            await settle()
            if how == "is interrupted":
                await w.interrupt("s")
            await advance(1)
            assert one_end(reader)["outcome"] == ("interrupted" if how == "is interrupted" else "failed")
            await advance(5)
            assert cleaned == ["cut"]

    test()


@virtual
async def test_a_cleanup_gets_its_time_when_the_agent_broke_a_rule() -> None:
    """Closing an upstream's connection takes a moment; it is not cancelled for a turn that has failed by itself."""
    cleaned: list[str] = []

    async def play(_turn: AgentTurn) -> AsyncIterator[Any]:
        try:
            yield 7
        finally:
            await asyncio.sleep(0.5)
            cleaned.append("whole")

    async with world(agents={"m": Play(play)}) as w:
        reader = await w.reader("s")
        await w.chat("s", "hi")
        await advance(1)
        assert one_end(reader)["outcome"] == "failed"
        assert cleaned == ["whole"]


@pytest.mark.parametrize("how", ["ends", "fails", "is interrupted", "breaks a rule", "goes on after its end"])
def test_every_generator_is_closed_in_its_turn(how: str) -> None:
    """None is left to the garbage collector, which would close it on some later turn of the loop."""
    open_generators: set[int] = set()

    async def play(_turn: AgentTurn) -> AsyncIterator[Any]:
        me = len(open_generators)
        open_generators.add(me)
        try:
            yield "text"
            if how == "fails":
                raise ValueError
            if how == "breaks a rule":
                yield 7
            if how in ("is interrupted", "goes on after its end"):
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    if how == "is interrupted":
                        raise
                yield "more"
        finally:
            open_generators.discard(me)

    @virtual
    async def test() -> None:
        async with world(agents={"m": Play(play)}) as w:
            reader = await w.reader("s")
            await w.chat("s", "hi")
            await settle()
            await w.interrupt("s")
            await settle()
            one_end(reader)
            assert not open_generators
            gc.collect()

    test()


async def test_an_agent_that_never_waits_does_not_hold_the_loop() -> None:
    """On real time: while it yields as fast as it can, others get their turns, and it can be interrupted."""

    async def busy(_turn: AgentTurn) -> AsyncIterator[Any]:
        while True:
            yield ""
            yield Spent(Usage(1, 1))

    async with RealTime(agents={"m": Play(busy)}) as w:
        reader = await w.reader("s")
        await w.chat("s", "hi")
        loop = asyncio.get_running_loop()
        waits = []
        for _ in range(20):
            before = loop.time()
            await asyncio.sleep(0.001)
            waits.append(loop.time() - before)
        assert statistics.median(waits) < 0.1  # of a wait in which the machine stalls, it says nothing
        await w.interrupt("s")
        assert one_end(reader)["outcome"] == "interrupted"


class RealTime(World):
    """A world on the loop it finds."""

    async def __aenter__(self) -> RealTime:
        await self.start(maintenance=False)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.turns.drain(0)
        for reader in self.readers:
            await reader.close()
        await self.supervisor.close()
        await self.close_store()
        assert not self.crashes, self.crashes


# --- interrupt ---


async def slow(turn: AgentTurn) -> AsyncGenerator[Any, None]:
    """Waits at every kind of place an agent waits at."""
    await asyncio.sleep(1)
    yield "one "
    yield "two "
    yield Reasoning("hm")
    await turn.tools.call("srv", "slow", {})
    yield "three "
    await turn.tools.call("srv", "guarded", {})
    await asyncio.sleep(1)
    yield "four "


@pytest.mark.parametrize("by", ["interrupt", "on_busy", "delete"])
@pytest.mark.parametrize("tenths", range(0, 46, 3))
def test_a_turn_can_be_stopped_at_every_moment(tenths: int, by: str) -> None:
    """Before it starts, between its pieces, in a tool, waiting for a person, at its end: one end, and it is stored."""

    @virtual
    async def test() -> None:
        async with world(agents={"m": Play(slow)}) as w:

            async def slow_echo(_arguments: dict[str, Any]) -> ToolResult:
                await asyncio.sleep(1)
                return ToolResult("slept", False)

            w.tools.add("srv", "slow", slow_echo)
            reader = await w.reader("s")
            first = await w.chat("s", "hello")
            live = w.manager.peek(w.key("s"))
            assert live is not None
            await asyncio.sleep(tenths / 10)
            for approval in live.state.pending_approvals if tenths > 30 else ():
                w.service.decide(live, approval.id, "approved")
                await asyncio.sleep(0)
            match by:
                case "interrupt":
                    await w.interrupt("s")
                    end = one_end(reader)
                    assert end["turn_id"] == first
                    assert (await w.stored("s"))["messages"] == reader.state["messages"]  # type: ignore[index]
                case "on_busy":
                    second = await w.chat("s", "instead", on_busy="interrupt")
                    await settle()
                    ends = [e["turn_id"] for e in reader.events if e["type"] == "turn.ended"]
                    starts = [e["turn_id"] for e in reader.events if e["type"] == "turn.started"]
                    assert (ends, starts) == ([first], [first, second])
                case "delete":
                    await w.delete("s")
                    ends = [e["turn_id"] for e in reader.events if e["type"] == "turn.ended"]
                    assert ends == [first]
                    assert reader.types[-1] == "session.deleted"
                    assert w.turns.running == 0

    test()


@virtual
async def test_a_stopped_turn_tells_what_it_has_used_so_far() -> None:
    """What its agent told, and an estimate of what it wrote since; in the event, the state and the store alike."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "q" * 30)
        await settle()
        w.puppet.last.say("a" * 30)
        w.puppet.last.spend(50, 10)
        w.puppet.last.say("b" * 60)
        await advance(1)
        await w.interrupt("s")

        end = one_end(reader)
        assert (end["usage"]["prompt_tokens"], end["usage"]["completion_tokens"]) == (50, 30)
        assert end["usage"]["estimated"]
        stored = await w.stored("s")
        assert stored is not None
        assert stored["messages"][-1]["usage"] == end["usage"]


@virtual
async def test_an_interrupt_closes_what_the_agent_holds_before_it_waits_for_the_store() -> None:
    """The upstream's connection goes at once, however slow the commit of the end is."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "hi")
        await settle()
        gate = w.store.gate("finish_turn")
        stopping = asyncio.get_running_loop().create_task(w.interrupt("s"))
        await gate.reached.wait()
        await settle()
        assert w.puppet.last.closed
        assert not stopping.done()
        gate.open()
        await stopping
        one_end(reader)


@virtual
async def test_an_interrupt_needs_no_lock() -> None:
    """It is decided although another change of the session holds the lock."""
    async with world() as w:
        await w.chat("s", "hi")
        await settle()
        gate = w.store.gate("add_message")
        telling = asyncio.get_running_loop().create_task(w.system("s", "look"))
        await gate.reached.wait()
        stopping = asyncio.get_running_loop().create_task(w.interrupt("s"))
        await settle()
        assert w.puppet.last.closed
        gate.open()
        await stopping
        await telling


@virtual
async def test_interrupting_what_is_idle_or_another_turn_does_nothing() -> None:
    """Idempotent: again and again, and for the id of a turn that does not run."""
    async with world() as w:
        reader = await w.reader("s")
        await w.interrupt("s")
        assert reader.types == []
        first = await w.chat("s", "hi")
        await settle()
        await w.interrupt("s", "no-such-turn")
        assert reader.state["is_processing"]
        await w.interrupt("s", first)
        await w.interrupt("s", first)
        await w.interrupt("s")
        assert one_end(reader)["outcome"] == "interrupted"
        second = await w.chat("s", "again")
        await settle()
        await w.interrupt("s", first)
        assert reader.state["active_turn_id"] == second


@virtual
async def test_many_interrupts_at_once_are_one() -> None:
    """Every caller waits until the turn has ended, and there is one end."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "hi")
        await settle()
        await asyncio.gather(*(w.interrupt("s") for _ in range(10)))
        one_end(reader)


@virtual
async def test_an_interrupt_that_names_the_turn_returns_when_it_has_ended() -> None:
    """Stored and told: whoever asked for it may send the next message at once."""
    async with world() as w:
        reader = await w.reader("s")
        turn_id = await w.chat("s", "hi")
        await settle()
        gate = w.store.gate("finish_turn")
        stopping = asyncio.get_running_loop().create_task(w.interrupt("s", turn_id))
        await gate.reached.wait()
        await settle()
        assert not stopping.done()
        gate.open()
        await stopping
        assert one_end(reader)["outcome"] == "interrupted"


@virtual
async def test_nothing_holds_a_turn_that_has_ended() -> None:
    """Its timeout and what waited to be flushed go with it: they would keep every answer for ten minutes."""
    async with world() as w:
        await w.chat("s", "hi")
        await settle()
        w.puppet.last.say("one", "two", "three")
        w.puppet.last.end()
        await settle()
        live = w.manager.peek(w.key("s"))
        assert live is not None
        assert (live.run, live.pins) == (None, 0)
        w.puppet.turns.clear()
        gc.collect()
        assert not [run for run in gc.get_objects() if type(run) is Run and run.live is live]


@virtual
async def test_cancelling_who_interrupts_does_not_take_the_stop_back() -> None:
    """The client that pressed stop may go away before the turn has ended."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "hi")
        await settle()
        gate = w.store.gate("finish_turn")
        stopping = asyncio.get_running_loop().create_task(w.interrupt("s"))
        await gate.reached.wait()
        stopping.cancel()
        await asyncio.wait({stopping})
        gate.open()
        await settle()
        assert one_end(reader)["outcome"] == "interrupted"


@virtual
async def test_the_first_outcome_wins() -> None:
    """An answer that is complete when the stop comes stays completed."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "hi")
        await settle()
        gate = w.store.gate("finish_turn")
        w.puppet.last.end()
        await gate.reached.wait()
        stopping = asyncio.get_running_loop().create_task(w.interrupt("s"))
        await settle()
        gate.open()
        await stopping
        assert one_end(reader)["outcome"] == "completed"


@virtual
async def test_a_turn_that_waits_for_a_free_slot_can_be_interrupted() -> None:
    """It has not reached its model yet; the slot stays free for others."""
    async with world() as w:
        w.models.entries["puppet"].slots = asyncio.Semaphore(1)
        await w.chat("a", "one")
        reader = await w.reader("b")
        await w.chat("b", "two")
        await settle()
        assert len(w.puppet.turns) == 1
        await w.interrupt("b")
        assert one_end(reader)["outcome"] == "interrupted"
        w.puppet.turns[0].end()
        await settle()
        await w.chat("c", "three")
        await settle()
        assert len(w.puppet.turns) == 2


# --- delete ---


@virtual
async def test_deleting_ends_the_running_turn_and_starts_none_of_the_queue() -> None:
    """`turn.ended`, then `session.deleted`, then nothing; no agent goes on for a session that is gone."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        await w.chat("s", "two")
        await w.chat("s", "three")
        await settle()
        assert await w.delete("s")
        await settle()
        assert reader.types[-2:] == ["turn.ended", "session.deleted"]
        assert reader.served
        assert len(w.puppet.turns) == 1
        assert w.turns.running == 0
        assert await w.stored("s") is None
        assert w.manager.peek(w.key("s")) is None
        assert w.tools.closed_sessions == [w.key("s")]


@virtual
async def test_a_turn_that_was_being_committed_when_the_delete_came_is_ended_too() -> None:
    """The delete saw no turn, and the turn saw no delete; one of them has to look again."""
    async with world() as w:
        await w.system("s", "hello")
        reader = await w.reader("s")
        gate = w.store.gate("start_turn")
        sending = asyncio.get_running_loop().create_task(w.chat("s", "one"))
        await gate.reached.wait()
        deleting = asyncio.get_running_loop().create_task(w.delete("s"))
        await settle()
        gate.open()
        await sending
        assert await deleting
        await settle()
        assert reader.types[-2:] == ["turn.ended", "session.deleted"]
        assert w.turns.running == 0


@virtual
async def test_deleting_twice_at_once_deletes_once() -> None:
    """Idempotent: one says that there was something, the other that there was nothing."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        await settle()
        assert sorted(await asyncio.gather(w.delete("s"), w.delete("s"))) == [False, True]
        assert reader.types.count("session.deleted") == 1


@virtual
async def test_a_delete_that_is_refused_stops_nothing() -> None:
    """Without `force` a session with messages stays, and its running turn goes on."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        await settle()
        live = w.manager.peek(w.key("s"))
        assert live is not None
        with pytest.raises(InvalidRequest) as refused:
            await w.turns.delete(live, force=False)
        assert refused.value.narrow_code == "session_has_messages"
        await settle()
        assert reader.state["is_processing"]


@pytest.mark.parametrize("provisional", [True, False])
def test_a_message_that_waited_for_a_deletion_is_refused(provisional: bool) -> None:
    """It was meant for the session that is gone; no agent answers it where nobody can see."""

    @virtual
    async def test() -> None:
        async with world() as w:
            if provisional:
                await w.touch("s")
            else:
                await w.system("s", "hello")
            gate = w.store.gate("delete_session")
            deleting = asyncio.get_running_loop().create_task(w.delete("s"))
            await gate.reached.wait()
            sending = asyncio.get_running_loop().create_task(w.chat("s", "one"))
            await settle()
            gate.open()
            await deleting
            with pytest.raises(NotFound):
                await sending
            await settle()
            assert w.puppet.turns == []
            assert await w.stored("s") is None

    test()


@virtual
async def test_who_deletes_may_go_away() -> None:
    """The session goes, with its turn and its streams, although nobody waits for it any more."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        await settle()
        gate = w.store.gate("finish_turn")
        deleting = asyncio.get_running_loop().create_task(w.delete("s"))
        await gate.reached.wait()
        deleting.cancel()
        await asyncio.wait({deleting})
        gate.open()
        await settle()
        assert reader.types[-2:] == ["turn.ended", "session.deleted"]
        assert await w.stored("s") is None
        assert w.manager.peek(w.key("s")) is None


@virtual
async def test_a_delete_that_the_store_refuses_keeps_the_session_and_its_queue() -> None:
    """The running turn was stopped for it; what waited goes on."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        await w.chat("s", "two")
        await settle()
        w.store.break_("delete_session")
        with pytest.raises(Unavailable):
            await w.delete("s")
        w.store.mend()
        await advance(1)
        assert reader.types.count("turn.started") == 2
        assert reader.state["queue"] == []
        assert (await w.stored("s"))["messages"][-1]["status"] == "streaming"  # type: ignore[index]


@virtual
async def test_a_delete_does_not_wait_for_an_end_that_the_store_does_not_take() -> None:
    """The turn's end is told with the deletion; its own commit finds nothing to do."""
    async with world(delete_grace_seconds=1) as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        await settle()
        w.store.break_("finish_turn")
        assert await w.delete("s")
        await advance(30)
        assert [t for t in reader.types if t.endswith(("ended", "deleted"))] == ["turn.ended", "session.deleted"]
        assert w.turns.running == 0


@virtual
async def test_a_session_made_anew_never_reuses_an_event_id_of_the_deleted_one() -> None:
    """A tab that missed the deletion must not take the new session's events for the old one's continuation."""
    async with world() as w:
        old = await w.reader("s")
        await w.chat("s", "one")
        await settle()
        w.puppet.last.end()
        await settle()
        await w.delete("s")
        old_ids = {id_ for id_, _ in old.frames}
        del w.histories["s"]
        new = await w.reader("s")
        await w.chat("s", "two")
        await settle()
        assert not old_ids & {id_ for id_, _ in new.frames}
