"""TurnRunner: the life of a turn, its admission, its text and its tools. Endings, queue and failures: tests/core/."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from chatserver.agents.base import AgentTurn, Reasoning
from chatserver.errors import AgentError, Conflict, NotFound, RateLimited, Unavailable
from chatserver.message import ToolResult
from tests.core.puppets import Play
from tests.core.virtual import advance, settle, virtual
from tests.core.world import NOBODY, World, visitor, world


@virtual
async def test_a_turn_tells_its_events_in_one_order() -> None:
    """User message, empty answer, activity, start; then the text; then usage and outcome in one terminal event."""
    async with world() as w:
        reader = await w.reader("s")
        turn_id = await w.chat("s", "hello")
        await settle()
        assert reader.types == ["message.created", "message.created", "session.updated", "turn.started"]
        w.puppet.last.say("Hi")
        w.puppet.last.spend(3, 1)
        w.puppet.last.end()
        await settle()
        assert reader.types[4:] == ["text.delta", "turn.ended"]
        user, answer = reader.events[0]["message"], reader.events[1]["message"]
        assert (user["role"], user["content"], user["status"], user["parent_id"]) == (
            "user",
            "hello",
            "completed",
            None,
        )
        assert (answer["role"], answer["content"], answer["status"]) == ("assistant", "", "streaming")
        assert answer["parent_id"] == user["id"]
        assert answer["model"] == "puppet"
        assert reader.events[2]["session"]["message_count"] == 2
        assert reader.events[3] == {
            "type": "turn.started",
            "session_id": "s",
            "turn_id": turn_id,
            "message_id": answer["id"],
        }
        ended = reader.events[5]
        assert ended["outcome"] == "completed"
        assert ended["usage"]["prompt_tokens"] == 3
        assert "error" not in ended
        assert all(e["turn_id"] == turn_id for e in reader.events if e["type"] != "session.updated")


@virtual
async def test_a_message_is_committed_before_it_is_told() -> None:
    """While the commit waits no tab sees anything; once it is through, the stored session is what the tabs see."""
    async with world() as w:
        reader = await w.reader("s")
        gate = w.store.gate("start_turn")
        sending = asyncio.get_running_loop().create_task(w.chat("s", "hello"))
        await gate.reached.wait()
        await settle()
        assert reader.types == []
        assert await w.stored("s") is None
        gate.open()
        await sending
        assert (await w.stored("s"))["messages"] == reader.state["messages"]  # type: ignore[index]


@virtual
async def test_a_terminal_state_is_committed_before_it_is_told() -> None:
    """The answer stays `streaming` for the tabs until its end is durable."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "hello")
        gate = w.store.gate("finish_turn")
        await settle()
        w.puppet.last.say("Hi")
        w.puppet.last.end()
        await gate.reached.wait()
        await settle()
        assert reader.types[-1] == "text.delta"
        assert reader.state["is_processing"]
        gate.open()
        await settle()
        assert reader.types[-1] == "turn.ended"
        assert (await w.stored("s"))["messages"] == reader.state["messages"]  # type: ignore[index]


@virtual
async def test_the_next_turn_starts_only_after_the_end_of_the_one_before_is_told() -> None:
    """Per session one turn: the queued one's first event is behind the other's `turn.ended`, under a larger fence."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        await w.chat("s", "two")
        await settle()
        w.puppet.last.end()
        await settle()
        types = reader.types
        assert types.count("turn.started") == 2
        at = types.index("turn.ended")
        assert types[at + 1 :] == ["message.created", "message.created", "session.updated", "turn.started"]
        assert int(reader.frames[at + 1][0].split("-")[0]) > int(reader.frames[at][0].split("-")[0])
        assert reader.frames[at + 1][0].endswith("-0")


@virtual
async def test_sessions_do_not_wait_for_each_other() -> None:
    """A turn that hangs in one session lets another's begin and end."""
    async with world() as w:
        await w.chat("a", "one")
        reader = await w.reader("b")
        await w.chat("b", "two")
        await settle()
        w.puppet.last.end()
        await settle()
        assert reader.types[-1] == "turn.ended"
        assert (await w.state("a"))["is_processing"]


@virtual
async def test_the_agent_sees_the_branch_before_its_message() -> None:
    """History in order with system messages where they were said, the message itself apart."""
    async with world() as w:
        await w.chat("s", "one")
        await settle()
        w.puppet.last.say("1")
        w.puppet.last.end()
        await settle()
        await w.system("s", "the network was switched")
        await w.chat("s", "two")
        await settle()
        turn = w.puppet.last.turn
        assert turn.message == "two"
        assert [(m.role, m.content) for m in turn.history] == [
            ("user", "one"),
            ("assistant", "1"),
            ("system", "the network was switched"),
        ]
        assert turn.session_id == "s"
        assert turn.principal == NOBODY.principal
        assert turn.model.id == "puppet"


# --- text ---


@virtual
async def test_the_first_delta_goes_out_at_once() -> None:
    """A person waits for the first word: it is not held for others to join it."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "hello")
        await settle()
        w.puppet.last.say("Hi")
        await settle()
        assert reader.types[-1] == "text.delta"


@virtual
async def test_deltas_within_the_flush_interval_go_out_together() -> None:
    """A thousand tokens at once are two events: the first, and the rest after the interval."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "hello")
        await settle()
        w.puppet.last.say(*[f"{n} " for n in range(1000)])
        await settle()
        assert [e["text"] for e in reader.events[4:]] == ["0 "]
        await advance(w.settings.flush_interval_seconds)
        assert len(reader.types[4:]) == 2
        assert reader.state["messages"][-1]["content"] == "".join(f"{n} " for n in range(1000))


@virtual
async def test_deltas_further_apart_than_the_flush_interval_go_out_one_by_one() -> None:
    """A model that is slower than the interval is never held back."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "hello")
        await settle()
        for n in range(5):
            w.puppet.last.say(str(n))
            await settle()
            assert reader.events[-1]["text"] == str(n)
            await advance(w.settings.flush_interval_seconds * 1.01)


@virtual
async def test_a_flush_interval_of_zero_sends_each_piece_alone() -> None:
    """What benchmarks and tests of exact pieces use."""
    async with world(flush_interval_seconds=0) as w:
        reader = await w.reader("s")
        await w.chat("s", "hello")
        await settle()
        w.puppet.last.say("a", "b", "c")
        await settle()
        assert [e["text"] for e in reader.events if e["type"] == "text.delta"] == ["a", "b", "c"]


@virtual
async def test_text_and_reasoning_keep_their_order() -> None:
    """A change between the two flushes what waited, so that neither overtakes the other."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "hello")
        await settle()
        w.puppet.last.say(Reasoning("r1"), Reasoning("r2"), "t1", "t2", Reasoning("r3"), "t3")
        w.puppet.last.end()
        await advance(1)
        said = [(e["type"], e["text"]) for e in reader.events if e["type"].endswith("delta")]
        joined = "".join(f"<{kind[0]}>{text}" for kind, text in said)
        order = joined.replace("<r>", "").replace("<t>", "")
        assert order == "r1r2t1t2r3t3"
        answer = reader.state["messages"][-1]
        assert (answer["content"], answer["reasoning"]) == ("t1t2t3", "r1r2r3")


@virtual
async def test_an_answer_tells_how_long_it_reasoned() -> None:
    """All its reasoning together, from the first piece to what came then; told when that has ended, and stored, so that
    a tab that comes later has it too."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "hello")
        await advance(5)  # waiting for the model is no reasoning
        agent = w.puppet.last
        agent.say(Reasoning("r1"))
        await advance(1.5)
        agent.say(Reasoning("r2"))
        await advance(0.5)
        assert reader.state["messages"][-1]["metadata"] == {}
        agent.say("t1")
        await settle()
        assert reader.state["messages"][-1]["metadata"] == {"reasoning_ms": 2000}
        await advance(3)
        agent.say(Reasoning("r3"))
        await advance(1)
        late = await w.reader("s")
        assert late.state["messages"][-1]["metadata"] == {"reasoning_ms": 2000}
        agent.end()
        await settle()
        for each in (reader, late):
            answer = each.state["messages"][-1]
            assert (answer["status"], answer["metadata"]) == ("completed", {"reasoning_ms": 3000})
        await w.kill()
        await w.start()
        again = await w.reader("s")
        assert again.state["messages"][-1]["metadata"] == {"reasoning_ms": 3000}


@virtual
async def test_a_tool_that_takes_long_is_not_reasoned_about() -> None:
    """The call ends the reasoning before it, whether or not a word of the answer comes between; a failure keeps it."""
    async with world() as w:

        async def slow(_arguments: object) -> ToolResult:
            await asyncio.sleep(30)
            return ToolResult("done", False)

        w.tools.add("srv", "slow", slow)
        reader = await w.reader("s")
        await w.chat("s", "hello")
        await settle()
        agent = w.puppet.last
        agent.say(Reasoning("which one"))
        await advance(2)
        agent.call("srv", "slow")
        agent.say("so")
        await advance(60)
        assert reader.state["messages"][-1]["metadata"] == {"reasoning_ms": 2000}
        agent.fail(AgentError("asleep", code="upstream_timeout"))
        await settle()
        assert reader.state["messages"][-1]["metadata"] == {
            "reasoning_ms": 2000,
            "error": {"code": "upstream_timeout", "title": "asleep"},
        }


@virtual
async def test_fast_pieces_are_told_together_once_an_interval() -> None:
    """Again and again while the answer runs, none later than an interval; the first of them counts as the first."""
    async with world(flush_interval_seconds=0.1) as w:
        reader = await w.reader("s")
        await w.chat("s", "hello")
        await settle()
        said = ""
        for n in range(100):
            w.puppet.last.say(f"{n} ")
            await advance(0.01)
            told = reader.state["messages"][-1]["content"]
            assert len(said) - len(told) <= 10 * len("99 ")
            said += f"{n} "
        await advance(0.1)
        assert reader.state["messages"][-1]["content"] == said
        assert 10 <= reader.types.count("text.delta") <= 12
        await advance(1)
        w.puppet.last.say("and alone")
        await settle()
        assert reader.state["messages"][-1]["content"] == f"{said}and alone"
        assert sum(w.turns.counts.first_token_of("puppet").counts) == 1


@virtual
async def test_a_crash_keeps_how_long_an_answer_had_reasoned() -> None:
    """It is checkpointed with the words."""
    async with world() as w:
        await w.chat("s", "hello")
        await settle()
        w.puppet.last.say(Reasoning("hm"))
        await advance(2)
        w.puppet.last.say("so")
        await advance(2)
        await w.kill()
        await w.start()
        reader = await w.reader("s")
        answer = reader.state["messages"][-1]
        assert (answer["status"], answer["metadata"]) == ("interrupted", {"reasoning_ms": 2000})


@virtual
async def test_what_waits_for_the_flush_is_told_before_the_end() -> None:
    """The terminal event is the last of its turn, whatever was still pending."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "hello")
        await settle()
        w.puppet.last.say("a", "b", "c")
        w.puppet.last.end()
        await settle()
        assert reader.types[-1] == "turn.ended"
        assert reader.state["messages"][-1]["content"] == "abc"


@virtual
async def test_lone_surrogates_are_replaced_in_the_answer() -> None:
    """Neither UTF-8 nor JSON can carry them; the answer goes on without."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "hello")
        await settle()
        w.puppet.last.say("a\ud800b", Reasoning("c\udfff"), "\U0001f600")
        w.puppet.last.end()
        await settle()
        answer = reader.state["messages"][-1]
        assert (answer["content"], answer["reasoning"], answer["status"]) == (
            "a\ufffdb\U0001f600",
            "c\ufffd",
            "completed",
        )


# --- admission ---


@virtual
async def test_a_repeated_client_message_id_starts_nothing() -> None:
    """In every state of its turn: running, ended, queued, withdrawn, and after a restart."""
    async with world() as w:
        first = await w.chat("s", "one", client_message_id="m1")
        queued = await w.chat("s", "two", client_message_id="m2")
        gone = await w.chat("s", "three", client_message_id="m3")
        await w.withdraw("s", gone)

        async def retry_all() -> None:
            before = await w.record("s")
            for on_busy in ("queue", "reject", "interrupt"):
                assert await w.chat("s", "one", client_message_id="m1", on_busy=on_busy) == first
                assert await w.chat("s", "two", client_message_id="m2", on_busy=on_busy) == queued
                assert await w.chat("s", "three", client_message_id="m3", on_busy=on_busy) == gone
            assert await w.record("s") == before

        await retry_all()
        await settle()
        w.puppet.last.end()
        await settle()
        await retry_all()
        await settle()
        w.puppet.last.end()
        await settle()
        assert not (await w.state("s"))["is_processing"]
        await retry_all()
        await w.kill()
        await w.start()
        await retry_all()
        assert [m["content"] for m in (await w.state("s"))["messages"] if m["role"] == "user"] == ["one", "two"]


@virtual
async def test_two_retries_at_once_make_one_turn() -> None:
    """The request and its retry race; both are answered with the same turn."""
    async with world() as w:
        ids = await asyncio.gather(*(w.chat("s", "one", client_message_id="m") for _ in range(5)))
        assert len(set(ids)) == 1
        assert (await w.state("s"))["message_count"] == 2


@virtual
async def test_a_client_that_leaves_during_the_commit_leaves_a_whole_turn() -> None:
    """The request is cancelled between the commit and the start: the turn is there, and runs."""
    async with world() as w:
        gate = w.store.gate("start_turn", after=True)
        sending = asyncio.get_running_loop().create_task(w.chat("s", "hello"))
        await gate.reached.wait()
        sending.cancel()
        await asyncio.wait({sending})
        assert sending.cancelled()
        gate.open()
        await settle()
        reader = await w.reader("s")
        assert reader.state["is_processing"]
        w.puppet.last.say("Hi")
        w.puppet.last.end()
        await settle()
        assert [m["content"] for m in reader.state["messages"]] == ["hello", "Hi"]


@virtual
async def test_a_session_is_not_evicted_under_an_admission_whose_client_left() -> None:
    """The admission's own pin holds it, where the request's has gone."""
    async with world(provisional_seconds=60) as w:
        gate = w.store.gate("start_turn")
        sending = asyncio.get_running_loop().create_task(w.chat("s", "hello"))
        await gate.reached.wait()
        sending.cancel()
        await advance(200)
        live = w.manager.peek(w.key("s"))
        assert live is not None
        gate.open()
        await settle()
        assert w.manager.peek(w.key("s")) is live
        assert live.state.is_processing


@virtual
async def test_a_refusal_is_no_crash() -> None:
    """409, 429 and 503 are answers: they are not reported as crashed tasks."""
    async with world(queue_limit=1) as w:
        await w.chat("s", "one")
        with pytest.raises(Conflict):
            await w.chat("s", "two", on_busy="reject")
        await w.chat("s", "two")
        with pytest.raises(RateLimited):
            await w.chat("s", "three")
        w.store.break_("start_turn")
        with pytest.raises(Unavailable):
            await w.chat("t", "one")
        w.store.mend()
        assert w.crashes == []


@virtual
async def test_more_turns_than_allowed_are_refused() -> None:
    """503 `too_many_turns`, and nothing is stored of it."""
    async with world(max_running_turns=2) as w:
        await w.chat("a", "one")
        await w.chat("b", "one")
        with pytest.raises(Unavailable) as refused:
            await w.chat("c", "one")
        assert refused.value.narrow_code == "too_many_turns"
        assert await w.stored("c") is None
        await settle()
        w.puppet.last.end()
        await settle()
        await w.chat("c", "one")


@virtual
async def test_one_tenant_does_not_take_all_turns() -> None:
    """However many it would have, others find places; what ends is theirs first."""
    acme = visitor("ann", "acme")
    async with world(max_running_turns=40, session_creations_per_minute=1000) as w:
        for n in range(36):
            await w.chat(f"s{n}", "one", acme)
        with pytest.raises(Unavailable) as refused:
            await w.chat("more", "one", acme)
        assert refused.value.narrow_code == "too_many_turns"
        await w.chat("s", "one", visitor("bob", "other"))
        await w.chat("s", "one", visitor("eve", "third"))
        await settle()
        w.puppet.turns[0].end()
        await settle()
        with pytest.raises(Unavailable):
            await w.chat("more", "one", acme)
        for n in range(3):
            await w.chat(f"t{n}", "one", visitor("bob", "other"))
        assert w.turns.running == 40


@virtual
async def test_sending_into_a_deleted_session_is_refused() -> None:
    """A request that held the session while another deleted it does not bring it back half."""
    async with world() as w:
        await w.chat("s", "one")
        await settle()
        async with w.service.open(NOBODY, "s", create="no") as live:
            await w.delete("s")
            with pytest.raises(NotFound):
                await w.service.chat(NOBODY, live, "two")
            with pytest.raises(NotFound):
                await w.service.add_system_message(NOBODY, live, "two")
            with pytest.raises(NotFound):
                await w.service.extend_session(NOBODY, live)
        assert await w.stored("s") is None


@virtual
async def test_the_first_durable_event_tells_all_settings_of_the_session() -> None:
    """A tab that knows an earlier provisional session of that name, with another model, has the right one then."""
    puppet, other = Play(_nothing), Play(_nothing)
    async with world(agents={"puppet": puppet, "other": other}) as w:
        reader = await w.reader("s")
        stale = reader.state
        await reader.close()
        w.readers.remove(reader)
        await advance(120)
        assert w.manager.peek(w.key("s")) is None
        w.models.without_key.add("other")
        async with w.service.open(NOBODY, "s", create="durable", project_id="p", model="other") as live:
            await w.service.chat(NOBODY, live, "hello", model="other")
            again = await _resumed(w, "s", stale)
            await settle()
            assert again.state == await w.state("s")


async def _resumed(w: World, session_id: str, state: dict[str, object]) -> object:
    from chatserver.events import Position
    from tests.core.readers import Reader

    live = w.manager.peek(w.key(session_id))
    assert live is not None
    reader = Reader()
    position = Position.parse(str(state["position"]))
    reader.resume_from(session_id, state, position)  # type: ignore[arg-type]
    reader.follow(live, session_id, position)
    w.readers.append(reader)
    return reader


async def _nothing(turn: AgentTurn) -> AsyncIterator[str]:
    yield "nothing"


# --- system messages, tools, approvals ---


@virtual
async def test_a_system_message_during_a_turn_is_told_at_once_and_read_by_the_next() -> None:
    """It stands behind the running answer, which goes on growing."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        await settle()
        w.puppet.last.say("a")
        await settle()
        await w.system("s", "look")
        w.puppet.last.say("b")
        w.puppet.last.end()
        await settle()
        state = reader.state
        assert [(m["role"], m["content"]) for m in state["messages"]] == [
            ("user", "one"),
            ("assistant", "ab"),
            ("system", "look"),
        ]
        assert state["messages"][2]["parent_id"] == state["messages"][1]["id"]
        assert state["message_count"] == 3
        await w.chat("s", "two")
        await settle()
        assert [m.content for m in w.puppet.last.turn.history] == ["one", "ab", "look"]


@virtual
async def test_a_tool_call_is_told_where_it_happened_in_the_text() -> None:
    """`offset` counts the code points said before the call, those that were waiting for the flush too."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        await settle()
        strings = w.puppet.last
        strings.say("Let ", "me ", "look \U0001f600")
        strings.call("srv", "echo", {"text": "12:00"})
        strings.say(" done")
        strings.end()
        await settle()
        answer = reader.state["messages"][-1]
        (call,) = answer["tool_calls"]
        assert answer["content"] == "Let me look \U0001f600 done"
        assert call["offset"] == len("Let me look \U0001f600")
        assert call["result"] == {"content": "12:00", "is_error": False}
        types = reader.types
        assert types.index("tool.called") < types.index("tool.returned")
        assert (
            "".join(e["text"] for e in reader.events[: types.index("tool.called")] if "text" in e)
            == "Let me look \U0001f600"
        )


@virtual
async def test_all_running_answers_are_written_down_together_every_half_second() -> None:
    """D2: one commit for however many turns, half a second after the last; none where nothing was said."""
    async with world(session_creations_per_minute=1000) as w:
        await advance(0.1)
        for n in range(50):
            await w.chat(f"s{n}", "hello")
        await settle()

        def checkpoints() -> int:
            return w.store.calls.count("checkpoint")

        for at, strings in enumerate(w.puppet.turns):
            strings.say(f"word {at}")
        await advance(0.5)
        assert checkpoints() == 1
        await advance(5)
        assert checkpoints() == 1
        w.puppet.turns[0].say(", and more")
        await advance(0.5)
        assert checkpoints() == 2
        await w.kill()
        await w.start()
        written = [(await w.state(f"s{n}"))["messages"][-1]["content"] for n in range(50)]
        assert written == ["word 0, and more", *(f"word {n}" for n in range(1, 50))]


@virtual
async def test_a_tool_call_is_checkpointed_before_it_runs() -> None:
    """After a crash in the middle of a call the stored answer names it."""
    async with world() as w:
        never = asyncio.get_running_loop().create_future()

        async def hang() -> ToolResult:
            await never
            raise AssertionError

        w.tools.add("srv", "hang", lambda _: hang())
        await w.chat("s", "one")
        await settle()
        w.puppet.last.say("a", "b")
        w.puppet.last.call("srv", "hang")
        await settle()
        await w.kill()
        await w.start()
        answer = (await w.state("s"))["messages"][-1]
        assert (answer["content"], answer["status"]) == ("ab", "interrupted")
        assert [c["name"] for c in answer["tool_calls"]] == ["hang"]
        assert answer["tool_calls"][0]["result"] is None


@virtual
async def test_an_agent_that_ignores_its_stop_calls_no_more_tools() -> None:
    """Its words go nowhere; what it would do to the world must not happen either."""

    async def stubborn(turn: AgentTurn) -> AsyncIterator[str]:
        yield "working"
        with suppress(asyncio.CancelledError):
            await asyncio.get_running_loop().create_future()
        await turn.tools.call("srv", "echo", {"text": "too late"})

    async with world(agents={"stubborn": Play(stubborn)}) as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        await settle()
        await w.interrupt("s")
        await advance(10)
        assert w.tools.calls == []
        assert reader.types[-1] == "turn.ended"


@virtual
async def test_an_unknown_tool_or_server_is_a_result_that_the_agent_reads() -> None:
    """No exception: the model is told, and goes on."""
    async with world() as w:
        await w.chat("s", "one")
        await settle()
        w.puppet.last.call("srv", "nothing")
        w.puppet.last.call("nowhere", "echo")
        await settle()
        assert [r.is_error for r in w.puppet.last.results] == [True, True]
        w.puppet.last.end()
        await settle()
        assert (await w.state("s"))["messages"][-1]["status"] == "completed"


@virtual
async def test_too_many_tool_calls_end_the_turn() -> None:
    """A model in a loop is stopped by the limit of its turn."""
    async with world(tool_calls_per_turn=3) as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        await settle()
        for _ in range(5):
            w.puppet.last.call("srv", "echo")
        await settle()
        assert reader.events[-1]["error"]["code"] == "tool_limit"
        assert len(w.tools.calls) == 3


@virtual
async def test_what_a_tool_says_cannot_break_the_stream() -> None:
    """Lone surrogates and infinities in names, arguments, progress and results are cleaned or refused, never sent."""
    async with world() as w:
        reader = await w.reader("s")

        def odd(arguments: dict[str, object]) -> ToolResult:
            arguments["on_progress"](float("nan"), float("inf"), "half\ud800")  # type: ignore[operator]
            return ToolResult("x\udfff", False)

        w.tools.add("srv", "odd", odd)
        await w.chat("s", "one")
        await settle()
        w.puppet.last.call("srv", "odd")
        w.puppet.last.call("s\ud800", "n\ud800")
        w.puppet.last.call("srv", "echo", {"text": "\ud800"})
        w.puppet.last.call("srv", "echo", {"text": object()})
        w.puppet.last.end()
        await settle()
        assert reader.types[-1] == "turn.ended"
        assert reader.events[-1]["outcome"] == "completed"
        assert w.puppet.last.results[0].content == "x\ufffd"
        assert [r.is_error for r in w.puppet.last.results] == [False, True, True, True]


@virtual
async def test_arguments_of_a_call_are_bounded() -> None:
    """A model's runaway arguments are an error it reads, not a megabyte for every tab."""
    async with world(mcp_args_bytes=1000) as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        await settle()
        w.puppet.last.call("srv", "echo", {"text": "x" * 2000})
        w.puppet.last.end()
        await settle()
        assert w.puppet.last.results[0].is_error
        assert "tool.called" not in reader.types


@virtual
async def test_a_guarded_call_waits_for_a_person() -> None:
    """Told with its arguments; approved it runs, and the approval leaves the state."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        await settle()
        w.puppet.last.call("srv", "guarded", {"path": "/x"})
        await settle()
        (approval,) = reader.state["pending_approvals"]
        assert approval["arguments"] == {"path": "/x"}
        assert w.tools.calls == []
        live = w.manager.peek(w.key("s"))
        assert live is not None
        w.service.decide(live, approval["id"], "approved")
        with pytest.raises(NotFound):
            w.service.decide(live, approval["id"], "denied")
        await settle()
        assert reader.state["pending_approvals"] == []
        assert w.puppet.last.results == [ToolResult("done", False)]
        assert [e["decision"] for e in reader.events if e["type"] == "approval.resolved"] == ["approved"]


@pytest.mark.parametrize("how", ["denied", "expired"])
def test_a_call_that_is_not_approved_does_not_run(how: str) -> None:
    """The model reads why; the turn goes on."""

    @virtual
    async def test() -> None:
        async with world() as w:
            reader = await w.reader("s")
            await w.chat("s", "one")
            await settle()
            w.puppet.last.call("srv", "guarded")
            await settle()
            if how == "denied":
                live = w.manager.peek(w.key("s"))
                assert live is not None
                w.service.decide(live, reader.state["pending_approvals"][0]["id"], "denied")
                await settle()
            else:
                await advance(w.settings.approval_timeout_seconds)
            assert [e["decision"] for e in reader.events if e["type"] == "approval.resolved"] == [how]
            assert reader.state["pending_approvals"] == []
            assert w.tools.calls == []
            assert w.puppet.last.results[0].is_error
            w.puppet.last.end()
            await settle()
            assert reader.events[-1]["outcome"] == "completed"

    test()


@virtual
async def test_an_approval_that_the_end_of_its_turn_overtakes_is_expired_once() -> None:
    """It leaves the state before the terminal event, and can't be decided any more."""
    async with world() as w:
        reader = await w.reader("s")
        await w.chat("s", "one")
        await settle()
        w.puppet.last.call("srv", "guarded")
        await settle()
        approval_id = reader.state["pending_approvals"][0]["id"]
        await w.interrupt("s")
        assert reader.types[-2:] == ["approval.resolved", "turn.ended"]
        assert reader.events[-2]["decision"] == "expired"
        live = w.manager.peek(w.key("s"))
        assert live is not None
        with pytest.raises(NotFound):
            w.service.decide(live, approval_id, "approved")
        assert w.tools.calls == []
