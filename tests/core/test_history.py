"""What an agent is given of a conversation that is longer than the live window (spec G5)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chatserver import history
from chatserver.agents.base import AgentTurn, ModelSettings
from chatserver.history import MAX_SYSTEM_MESSAGES
from chatserver.message import MESSAGE_BYTES
from chatserver.state import WINDOW_MESSAGES
from chatserver.store.base import SessionKey
from tests.core.puppets import Play
from tests.core.virtual import advance, settle, virtual
from tests.core.world import NOBODY, World, world


async def told(w: World, count: int, role: str = "user", session_id: str = "s", size: int = 0) -> None:
    """Messages `role 0`, `role 1`, …, padded to a size."""
    async with w.service.open(NOBODY, session_id, create="durable") as live:
        for n in range(count):
            text = f"{role} {n}".ljust(size, ".")
            await w.turns.add_message(live, role, text, live.record.expires_at, {})  # type: ignore[arg-type]


def window_of(w: World, tokens: int) -> None:
    """Give the model a window of that many tokens."""
    entry = w.models.entries["puppet"]
    entry.settings = replace(entry.settings, context_tokens=tokens)


async def asked(w: World) -> list[str]:
    """The history that the agent gets with the next message, shortened."""
    await w.chat("s", "now")
    await settle()
    history = [m.content.rstrip(".") for m in w.puppet.last.turn.history]
    w.puppet.last.end()
    await settle()
    return history


@virtual
async def test_a_conversation_within_the_window_costs_no_reading() -> None:
    """Nearly every conversation."""
    async with world() as w:
        await told(w, WINDOW_MESSAGES - 2)
        before = len(w.store.calls)
        assert len(await asked(w)) == WINDOW_MESSAGES - 2
        assert {"messages", "system_messages"}.isdisjoint(w.store.calls[before:])


@virtual
async def test_a_large_model_gets_a_long_conversation_whole() -> None:
    """Older messages come from the store, each once and in order; the tabs see no more than before."""
    async with world() as w:
        window_of(w, 1_000_000)
        await told(w, 1500)
        assert await asked(w) == [f"user {n}" for n in range(1500)]
        assert len((await w.state("s"))["messages"]) == WINDOW_MESSAGES


@virtual
async def test_a_small_model_gets_no_more_than_it_holds_but_every_system_message() -> None:
    """What is beyond its window is not read at all, except for what the system said there."""
    async with world() as w:
        window_of(w, 1000)
        await told(w, 2, "system")
        await told(w, 300, size=100)
        before = len(w.store.calls)
        given = await asked(w)
        assert given[:2] == ["system 0", "system 1"]
        assert given[2:] == [f"user {n}" for n in range(100, 300)]
        assert "messages" not in w.store.calls[before:]


@virtual
async def test_a_middling_model_gets_the_newest_that_fill_its_window() -> None:
    """At least as much as it can hold; a page more at most."""
    async with world() as w:
        window_of(w, 40 * 400)  # of messages of 40 tokens each: 300
        await told(w, 1, "system")
        await told(w, 2000, size=108)
        given = await asked(w)
        assert given[0] == "system 0"
        assert 400 <= len(given[1:]) <= 600
        assert given[1:] == [f"user {n}" for n in range(2001 - len(given), 2000)]


@virtual
async def test_the_system_messages_that_are_kept_are_bounded() -> None:
    """The newest of them."""
    async with world() as w:
        window_of(w, 1)
        await told(w, MAX_SYSTEM_MESSAGES + 5, "system")
        await told(w, WINDOW_MESSAGES)
        given = await asked(w)
        assert given[0] == "system 5"
        assert given[MAX_SYSTEM_MESSAGES:] == [f"user {n}" for n in range(WINDOW_MESSAGES)]


@virtual
async def test_a_long_conversation_is_whole_after_an_edit_and_a_regeneration() -> None:
    """Of the branch that is the active one then."""
    async with world() as w:
        window_of(w, 1_000_000)
        await told(w, 300)
        await w.chat("s", "q")
        await settle()
        w.puppet.last.end()
        await settle()
        *_, question, answer = (await w.state("s"))["messages"]
        for work in (w.regenerate("s", answer["id"]), w.edit("s", question["id"], "better")):
            await work
            await settle()
            assert [m.content for m in w.puppet.last.turn.history] == [f"user {n}" for n in range(300)]
            w.puppet.last.end()
            await settle()


@virtual
async def test_a_long_conversation_is_read_once() -> None:
    """What one turn was given, the next continues, also with what came between; it weighs on the memory budget."""
    async with world() as w:
        window_of(w, 1_000_000)
        await told(w, 1500)
        expected = [f"user {n}" for n in range(1500)]
        assert await asked(w) == expected
        live = w.manager.peek(SessionKey("public", "s"))
        assert live is not None
        size, before = live.size, len(w.store.calls)
        for n in range(3):
            await told(w, n)
            expected += ["now", "", *(f"user {m}" for m in range(n))]
            assert await asked(w) == expected
        assert {"messages", "system_messages"}.isdisjoint(w.store.calls[before:])
        assert live.size > size > 1500 * MESSAGE_BYTES


@virtual
async def test_a_conversation_that_was_read_is_let_go() -> None:
    """When it rests, when its branch or a message of it changes, and when another model has another window."""
    async with world() as w:
        window_of(w, 1_000_000)
        await told(w, 300)
        await asked(w)
        live = w.manager.peek(SessionKey("public", "s"))
        assert live is not None
        answer = (await w.state("s"))["messages"][-1]

        async def rest() -> None:
            await advance(w.settings.log_idle_seconds + 60)

        async def rate() -> None:
            await w.turns.branches.rate(live, answer["id"], {"rating": "up"})

        async def another() -> None:
            window_of(w, 2_000_000)

        for change in (rest, rate, another):
            await change()
            before = len(w.store.calls)
            assert len(await asked(w)) >= 302
            assert "messages" in w.store.calls[before:], change


@virtual
async def test_a_rating_while_the_conversation_is_read_reaches_the_turns_after_it() -> None:
    """What is being read then holds the answer as it was, and is not kept."""
    async with world() as w:
        window_of(w, 1_000_000)
        await told(w, 300)
        await asked(w)
        answer = (await w.state("s"))["messages"][-1]
        window_of(w, 2_000_000)  # which is what has it read anew
        gate = w.store.gate("messages")
        await w.chat("s", "now")
        await gate.reached.wait()
        await w.rate("s", answer["id"], "up")
        gate.open()
        await settle()
        w.puppet.last.end()
        await settle()
        await told(w, WINDOW_MESSAGES - 2)  # beside the last turn: the answer has just left the window
        await asked(w)
        (given,) = [m for m in w.puppet.last.turn.history if m.id == answer["id"]]
        assert given.metadata["feedback"] == {"rating": "up"}


@virtual
async def test_what_is_kept_for_a_small_model_is_read_anew_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would grow for ever by what the model has no room for any more."""
    monkeypatch.setattr(history, "FIRST_PAGE", 10)
    async with world() as w:
        window_of(w, 1)
        await told(w, 1, "system")
        await told(w, WINDOW_MESSAGES)
        lengths = []
        for _ in range(12):
            given = await asked(w)
            assert given[0] == "system 0"
            lengths.append(len(given) - 1 - WINDOW_MESSAGES)
        assert lengths == [0, 2, 4, 6, 8, 10] * 2


@virtual
async def test_a_history_that_cannot_be_read_fails_the_turn() -> None:
    """Saying why; answering with half of the conversation would look as if all were well."""
    async with world() as w:
        window_of(w, 1_000_000)
        await told(w, 300)
        reader = await w.reader("s")
        w.store.break_("messages")
        await w.chat("s", "now")
        await settle()
        assert w.puppet.turns == []
        (ended,) = [e for e in reader.events if e["type"] == "turn.ended"]
        assert (ended["outcome"], ended["error"]["code"]) == ("failed", "store_unavailable")
        w.store.mend()
        assert len(await asked(w)) == 302


@virtual
async def test_a_turn_can_be_stopped_while_its_history_is_read() -> None:
    """At once, whatever the store does."""
    seen: list[AgentTurn] = []

    async def play(turn: AgentTurn) -> object:
        seen.append(turn)
        yield "never"

    async with world(agents={"puppet": Play(play)}) as w:
        w.models.entries["puppet"].settings = ModelSettings("puppet", "puppet", 1_000_000, 1000)
        await told(w, 300)
        reader = await w.reader("s")
        gate = w.store.gate("messages")
        await w.chat("s", "now")
        await gate.reached.wait()
        await w.interrupt("s")
        gate.open()
        await advance(1)
        assert reader.types[-1] == "turn.ended"
        assert reader.state["messages"][-1]["status"] == "interrupted"
        assert seen == []


@virtual
async def test_a_window_of_long_messages_is_lightened_before_the_next_turn() -> None:
    """Its tabs are told by a numbered snapshot, older messages are asked for page by page, and the agent gets all."""
    async with world(message_page_bytes=1000) as w:
        window_of(w, 1_000_000)
        reader = await w.reader("s")
        texts = []
        for n in range(12):
            texts += [f"question {n}", f"{n:a<300}"]
            await w.chat("s", f"question {n}")
            await settle()
            assert [m.content for m in w.puppet.last.turn.history] == texts[:-2]
            w.puppet.last.say(texts[-1])
            w.puppet.last.end()
            await settle()
            shown = [m["content"] for m in reader.state["messages"]]
            assert shown == texts[-len(shown) :]
            assert sum(map(len, shown)) <= 1000 + 320
        assert reader.state["has_more"] is True
        older, more, before = shown, True, reader.state["messages"][0]["id"]
        while more:
            async with w.service.open(NOBODY, "s", create="no") as live:
                page = await w.service.page(live, before, 100)
            older, more, before = [m.content for m in page.messages] + older, page.has_more, page.messages[0].id
            assert sum(len(m.content) for m in page.messages) <= 1000
        assert older == texts


@virtual
async def test_a_regenerated_answer_reads_what_its_window_has_no_room_for() -> None:
    """A question that fills a window alone has a history all the same."""
    async with world(message_page_bytes=100) as w:
        window_of(w, 1_000_000)
        await told(w, 3)
        await w.chat("s", "q" * 200)
        await settle()
        w.puppet.last.say("an answer")
        w.puppet.last.end()
        await settle()
        answer = (await w.state("s"))["messages"][-1]["id"]
        await w.regenerate("s", answer)
        await settle()
        assert [m.content for m in w.puppet.last.turn.history] == ["user 0", "user 1", "user 2"]
        assert w.puppet.last.turn.message == "q" * 200
        w.puppet.last.end()
        await settle()


@virtual
async def test_a_session_comes_back_with_a_window_of_so_many_bytes() -> None:
    """However it left memory; a message that is larger is there whole."""
    async with world(message_page_bytes=1000) as w:
        await told(w, 9, size=300)
        await told(w, 1, size=2000)
        await w.kill()
        await w.start()
        state = await w.state("s")
        assert [len(m["content"]) for m in state["messages"]] == [2000]
        assert state["has_more"] is True
        await told(w, 3, size=300)
        assert [len(m["content"]) for m in (await w.state("s"))["messages"]] == [300] * 3
