"""AutoNaming: who names a session, when, and who wins (spec U5)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chatserver.agents.base import AgentTurn
from chatserver.errors import AgentError
from tests.core.puppets import Play
from tests.core.virtual import advance, settle, virtual
from tests.core.world import NOBODY, World, world


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
        "This is not a title but a whole long sentence.", AgentError("busy", code="model_busy"), "", "No"
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
