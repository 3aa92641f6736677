"""AutoNaming: who names a session, when, and who wins (spec U5)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chatserver.agents.base import AgentTurn, Spent
from chatserver.errors import AgentError
from chatserver.message import Usage
from chatserver.session_rules import NewSession
from chatserver.usage import day_of, estimate_tokens
from tests.core.puppets import Play
from tests.core.virtual import advance, settle, virtual
from tests.core.world import NOBODY, World, visitor, world


class Titler:
    """A language model that answers everybody with "An answer." and questions for a title with the next of these."""

    def __init__(self, *titles: str | Exception) -> None:
        self.titles = list(titles)
        self.asked: list[AgentTurn] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def run(self, turn: AgentTurn) -> AsyncIterator[str]:
        if "title of three to five words" not in turn.message:
            yield "An answer."
            return
        self.asked.append(turn)
        await self.gate.wait()
        title = self.titles.pop(0)
        if isinstance(title, Exception):
            raise title
        yield title


@asynccontextmanager
async def naming(*titles: str | Exception, **settings: Any) -> AsyncIterator[tuple[World, Titler]]:
    """A world whose one model also makes titles."""
    titler = Titler(*titles)
    async with world(agents={"model": Play(titler.run)}, **({"auto_titles": "model"} | settings)) as w:
        w.models.titlers.add("model")
        yield w, titler


async def title_of(w: World, session_id: str = "s") -> str:
    """The session's title, in memory and in the store alike."""
    shown, stored = await w.state(session_id), await w.stored(session_id)
    assert stored is not None
    assert shown["title"] == stored["title"]
    return str(shown["title"])


@virtual
async def test_the_model_names_a_session_after_its_first_exchange_and_tabs_see_it() -> None:
    """Once: later turns ask nobody. The model reads both sides, and is given no tools."""
    async with naming("Greeting a stranger") as (w, titler):
        reader = await w.reader("s")
        await w.chat("s", "hello there")
        await settle()
        assert reader.types[-2:] == ["turn.ended", "session.updated"]
        assert reader.state["title"] == "Greeting a stranger" == await title_of(w)
        await w.chat("s", "again")
        await settle()
        (asked,) = titler.asked
        assert "hello there" in asked.message
        assert "An answer." in asked.message
        assert await asked.tools.list() == ()


@virtual
async def test_a_model_that_talks_gets_two_more_tries_and_then_the_words_decide() -> None:
    """A sentence is no title, nor is a failure."""
    async with naming(
        "This is not a title but a whole long sentence.", AgentError("busy", code="model_busy"), "Trains", "No"
    ) as (w, titler):
        await w.chat("s", "please compare trains and planes")
        await settle()
        assert await title_of(w) == "Compare trains and planes"
        assert len(titler.asked) == 3


@virtual
async def test_a_model_that_takes_too_long_is_not_waited_for() -> None:
    """The words make the title then, and the session can leave memory."""
    async with naming("Too late", title_timeout_seconds=30) as (w, titler):
        titler.gate.clear()
        await w.chat("s", "compare trains and planes")
        await advance(31)
        assert await title_of(w) == "Compare trains and planes"
        assert (await w.touch("s")).pins == 0


@virtual
async def test_a_persons_rename_wins() -> None:
    """Also when it comes while the model is thinking about its own."""
    async with naming("The model's own") as (w, titler):
        titler.gate.clear()
        await w.chat("s", "hello")
        await settle()
        assert titler.asked
        async with w.service.open(NOBODY, "s", create="no") as live:
            await w.service.change_session(NOBODY, live, {"title": "Mine"})
        titler.gate.set()
        await settle()
        assert await title_of(w) == "Mine"
        await w.chat("s", "and more")
        await settle()
        assert (await title_of(w), len(titler.asked)) == ("Mine", 1)


async def rename(w: World, title: str) -> None:
    async with w.service.open(NOBODY, "s", create="no") as live:
        await w.service.change_session(NOBODY, live, {"title": title})


@virtual
async def test_a_person_may_call_a_session_what_nobody_has_called_it() -> None:
    """The default title, and one like auto-naming's, are a person's when a person gives them."""
    for given in ("New Chat", "The model's own"):
        async with naming("The model's own", "Another of its own") as (w, titler):
            titler.gate.clear()
            await w.chat("s", "hello")
            await settle()
            await rename(w, given)
            titler.gate.set()
            await settle()
            assert await title_of(w) == given
            await w.chat("s", "and more")
            await settle()
            assert (await title_of(w), len(titler.asked)) == (given, 1)


@virtual
async def test_a_persons_default_title_outlives_the_process() -> None:
    """It stands in the store that it is a person's."""
    async with naming("The model's own") as (w, titler):
        await w.touch("s")
        await w.system("s", "a beginning")
        await rename(w, "New Chat")
        await w.kill()
        await w.start()
        await w.chat("s", "hello")
        await settle()
        assert (await title_of(w), titler.asked) == ("New Chat", [])


@virtual
async def test_a_session_that_was_made_with_the_default_title_is_named() -> None:
    """Programs that have to send a title send that one."""
    async with naming("The model's own") as (w, _):
        async with w.service.create_session(NOBODY, "s", NewSession(title="New Chat")):
            pass
        await w.chat("s", "hello")
        await settle()
        assert await title_of(w) == "The model's own"


@virtual
async def test_a_fork_takes_over_whether_it_is_named() -> None:
    """One of a session that nobody has named is named after its own next exchange."""
    async with naming("By the model", auto_titles="off") as (w, titler):
        await w.chat("s", "hello")
        await settle()
        answer = (await w.state("s"))["messages"][-1]["id"]
        w.naming._settings = w.settings.model_copy(update={"auto_titles": "model"})
        nameless = await w.fork("s", answer)
        await rename(w, "New Chat")
        named = await w.fork("s", answer)
        for fork in (named, nameless):
            await w.chat(fork["session_id"], "go on")
            await settle()
        assert await title_of(w, named["session_id"]) == "New Chat"
        assert await title_of(w, nameless["session_id"]) == "By the model"
        assert len(titler.asked) == 1


@pytest.mark.parametrize("given", ["Mine", "New Chat", "The model's own"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("held", ["update_session", "name_session"])
@virtual
async def test_of_a_rename_and_a_name_in_flight_at_once_the_rename_stays(held: str, after: bool, given: str) -> None:
    """Either of the two stands at the store, before or behind its commit, while the other one comes."""
    async with naming("The model's own") as (w, titler):
        reader = await w.reader("s")
        titler.gate.clear()
        await w.chat("s", "hello")
        await settle()
        gate = w.store.gate(held, after=after)
        if held == "update_session":
            renaming = asyncio.ensure_future(rename(w, given))
            await gate.reached.wait()
            titler.gate.set()
            await settle()
        else:
            titler.gate.set()
            await gate.reached.wait()
            renaming = asyncio.ensure_future(rename(w, given))
            await settle()
        w.store.ungate(held)
        await renaming
        await settle()
        assert await title_of(w) == given == reader.state["title"]
        await w.chat("s", "and more")
        await settle()
        assert (await title_of(w), len(titler.asked)) == (given, 1)


async def used_by(w: World) -> tuple[int, ...]:
    """Turns, prompt and completion tokens of a visitor."""
    day = day_of(w.clock.now())
    rows = await w.real_store.usage("public", "visitor:v", day, day)
    return tuple(sum(getattr(row, name) for row in rows) for name in ("turns", "prompt_tokens", "completion_tokens"))


@virtual
async def test_what_a_title_takes_counts_as_its_owners() -> None:
    """What the model tells, of every try, and an estimate where it tells nothing or fails; in the metrics too."""

    async def play(turn: AgentTurn) -> AsyncIterator[Any]:
        if "title of three to five words" not in turn.message:
            yield Spent(Usage(1000, 1))
            return
        asked.append(turn)
        if len(asked) == 1:
            yield Spent(Usage(200, 3))
            yield "No"
            raise AgentError("no", code="no")
        if len(asked) == 2:
            yield "x" * 30
            raise AgentError("no", code="no")
        yield "A title of words"
        yield Spent(Usage(300, 5))

    asked: list[AgentTurn] = []
    async with world(agents={"model": Play(play)}, auto_titles="model") as w:
        w.models.titlers.add("model")
        await w.chat("s", "hello", visitor("v"))
        await settle()
        assert await w.record("s", visitor("v")) is not None
        # Of a turn without text nothing is named, and nothing is asked.
        assert (asked, await used_by(w)) == ([], (1, 1000, 1))

        async def with_text(turn: AgentTurn) -> AsyncIterator[Any]:
            if "title of three to five words" not in turn.message:
                yield "Yes"
            async for item in play(turn):
                yield item

        w.models.entries["model"].agent = Play(with_text)
        await w.chat("s", "hello", visitor("v"))
        await settle()
        estimated = estimate_tokens(asked[1].message)
        assert await used_by(w) == (2, 2000 + 200 + estimated + 300, 2 + 3 + estimate_tokens("No") + 10 + 5)
        assert w.turns.counts.tokens["model", "completion"] == 2 + 3 + estimate_tokens("No") + 10 + 5


@virtual
async def test_no_model_is_asked_for_a_title_when_the_quota_is_used_up() -> None:
    """The words of the message make it, and nothing more is counted."""
    async with naming("By the model", quota_visitor_day_tokens=1) as (w, titler):
        caller = visitor("v")
        await w.chat("s", "compare trains and planes", caller)
        await settle()
        record = await w.record("s", caller)
        assert record is not None
        assert (record.title, titler.asked) == ("Compare trains and planes", [])


@virtual
async def test_what_a_title_took_counts_when_it_came_too_late() -> None:
    """The model has worked for it all the same."""

    async def play(turn: AgentTurn) -> AsyncIterator[Any]:
        if "title of three to five words" not in turn.message:
            yield "Yes"
            return
        yield Spent(Usage(7000, 1))
        await asyncio.sleep(1000)

    async with world(agents={"model": Play(play)}, auto_titles="model") as w:
        w.models.titlers.add("model")
        await w.chat("s", "compare trains and planes", visitor("v"))
        await advance(31)
        assert (await used_by(w))[1] >= 7000


@virtual
async def test_a_session_that_is_deleted_meanwhile_stays_deleted() -> None:
    """Its title has nowhere to go, and nothing crashes over it."""
    async with naming("Nowhere to go") as (w, titler):
        titler.gate.clear()
        await w.chat("s", "hello")
        await settle()
        await w.delete("s")
        titler.gate.set()
        await settle()
        assert await w.stored("s") is None


@virtual
async def test_an_answer_without_text_names_nothing_yet() -> None:
    """A failed first turn is no exchange; the next one is."""

    async def play(turn: AgentTurn) -> AsyncIterator[str]:
        if turn.message == "fail":
            raise AgentError("no", code="no")
        yield "yes"

    async with world(agents={"other": Play(play)}, auto_titles="model") as w:
        await w.chat("s", "fail")
        await settle()
        assert await title_of(w) == "New Chat"
        await w.chat("s", "summarise chapter two")
        await settle()
        assert await title_of(w) == "Summarise chapter two"


@virtual
async def test_more_sessions_than_may_wait_are_named_by_their_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow model must not keep every session of the server in memory."""
    monkeypatch.setattr("chatserver.auto_naming.WAITING", 3)
    async with naming(*["By the model"] * 3) as (w, titler):
        titler.gate.clear()
        for n in range(5):
            await w.chat(f"s{n}", "compare trains and planes")
        await settle()
        assert [await title_of(w, f"s{n}") for n in (3, 4)] == ["Compare trains and planes"] * 2
        titler.gate.set()
        await settle()
        assert [await title_of(w, f"s{n}") for n in range(3)] == ["By the model"] * 3


@virtual
async def test_naming_can_be_switched_off() -> None:
    """Then nothing is asked, and every session is called the same until a person names it."""
    async with naming("Unused", auto_titles="off") as (w, titler):
        await w.chat("s", "hello")
        await settle()
        assert (await title_of(w), titler.asked) == ("New Chat", [])
