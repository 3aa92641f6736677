"""The catalogue: which models there are, which one answers, who waits, and who steps in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from chatserver.agents.base import Agent, AgentEvent, AgentTurn, Spent
from chatserver.agents.catalog import Catalog, Factories, build_catalog
from chatserver.agents.slots import Slots
from chatserver.config import ModelConfig, Settings
from chatserver.errors import AgentError, StartupError
from chatserver.message import Usage
from tests.agents.plain_turn import turn

LOG = structlog.wrap_logger(
    None, processors=[structlog.testing.LogCapture()], wrapper_class=structlog.make_filtering_bound_logger(0)
)


class Scripted:
    """Yields what it was given; an exception among it is raised."""

    def __init__(self, *events: AgentEvent | Exception) -> None:
        self.events = events
        self.turns: list[AgentTurn] = []
        self.open = 0
        self.closed = 0

    async def run(self, turn: AgentTurn) -> AsyncIterator[AgentEvent]:
        self.turns.append(turn)
        self.open += 1
        try:
            for event in self.events:
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.open -= 1

    async def close(self) -> None:
        self.closed += 1


def model(model_id: str, **fields: Any) -> dict[str, Any]:
    return {"id": model_id, "base_url": "http://127.0.0.1:1/v1", "model": f"{model_id}-at-endpoint", **fields}


def build(
    *models: dict[str, Any],
    agents: dict[str, Agent] | None = None,
    environ: dict[str, str] | None = None,
    discovered: Sequence[ModelConfig] = (),
    docs: bool = True,
    keys: dict[str, str | None] | None = None,
    **fields: Any,
) -> Catalog:
    """A catalogue; `keys` is filled with what the factory got."""

    def openai(config: ModelConfig, key: str | None) -> Agent:
        if keys is not None:
            keys[config.id] = key
        return (agents or {}).get(config.id) or Scripted(config.id)

    factories = Factories(
        openai=openai,
        python=lambda target: (target.rpartition(":")[2], Scripted("python")),
        scripted=lambda: Scripted("scripted"),
        docs=(lambda has_model: Scripted(f"docs {has_model}")) if docs else None,
    )
    return build_catalog(Settings(models=models, **fields), discovered, factories, environ or {}, LOG)


async def answer(catalog: Catalog, model_id: str | None = None, tenant: str = "t") -> list[AgentEvent]:
    return [event async for event in catalog.resolve(tenant, model_id).agent.run(replace(turn("hi"), tenant=tenant))]


# --- which models there are ---


@pytest.mark.parametrize(
    ("fields", "ids"),
    [
        ({}, ("docs",)),
        ({"models": [model("a"), model("b")]}, ("a", "b", "docs")),
        ({"models": [model("a"), model("b")], "default_model": "b"}, ("b", "a", "docs")),
        ({"models": [model("a")], "agent": "my.module:reply"}, ("reply", "a", "docs")),
        ({"models": [model("a")], "agent": "my.module:reply", "default_model": "a"}, ("a", "reply", "docs")),
        ({"scripted": True}, ("docs", "scripted")),
        ({"scripted": True, "docs": False}, ("scripted",)),
        ({"docs": False}, ("none",)),
        ({"discovered": [ModelConfig(**model("found"))]}, ("found", "docs")),
        ({"discovered": [ModelConfig(**model("found"))], "models": [model("a")]}, ("a", "docs")),
    ],
)
def test_the_default_stands_first(fields: dict[str, Any], ids: tuple[str, ...]) -> None:
    """A named default, else a Python agent, else the first configured or found, else the embedded one."""
    catalog = build(*fields.pop("models", ()), **fields)

    assert catalog.ids("t") == ids
    assert catalog.default_id("t") == ids[0]
    assert [m["id"] for m in catalog.models("t")] == list(ids)
    assert [m["default"] for m in catalog.models("t")] == [True] + [False] * (len(ids) - 1)


def test_a_model_that_is_unset_or_gone_means_the_default() -> None:
    """V5: a session outlives the configuration it was made under."""
    catalog = build(model("a"), model("b"))

    assert catalog.resolve("t", "b").settings.id == "b"
    assert (
        catalog.resolve("t", "gone").settings.id
        == catalog.resolve("t", None).settings.id
        == catalog.resolve("t", "").settings.id
    )
    assert catalog.resolve("t", None).settings.id == "a"


def test_keys_go_to_the_agent_and_nowhere_else() -> None:
    """Read once, by name; a missing one is told, not its value."""
    keys: dict[str, str | None] = {}
    catalog = build(
        model("a", api_key_env="A_KEY"),
        model("b", api_key_env="B_KEY"),
        model("c", api_key_env="C_KEY"),
        model("d"),
        environ={"A_KEY": " sk-secret\n", "C_KEY": " "},
        keys=keys,
    )

    assert keys == {"a": "sk-secret", "b": None, "c": None, "d": None}
    assert [catalog.missing_api_key("t", i) for i in "abcd"] == [False, True, True, False]
    assert catalog.missing_api_key("t", None) is False
    listing = str(catalog.models("t"))
    assert "sk-secret" not in listing
    assert "127.0.0.1" not in listing
    assert "_KEY" not in listing


def test_a_model_that_is_a_file_is_shown_by_the_files_name() -> None:
    """llama.cpp serves models under their paths."""
    assert build(model("a") | {"model": "/home/somebody/tiny.gguf"}).models("t")[0]["name"] == "tiny.gguf"


def test_the_listing_tells_what_a_caller_may_choose_by() -> None:
    """And nothing else."""
    listed = build(model("a", context_tokens=100, max_output_tokens=10, tools=False, fallback="docs")).models("t")[0]

    assert listed == {
        "id": "a",
        "name": "a-at-endpoint",
        "kind": "openai",
        "default": True,
        "context_tokens": 100,
        "max_output_tokens": 10,
        "tools": False,
        "fallback": "docs",
        "missing_api_key": False,
    }


@pytest.mark.parametrize(
    ("models", "fields", "says"),
    [
        ([model("docs")], {}, "'docs'"),
        ([model("reply")], {"agent": "m:reply"}, "'reply'"),
        ([model("a")], {"default_model": "b"}, "'b'"),
        ([model("a", fallback="b")], {}, "'b'"),
        ([model("a", fallback="a")], {}, "a -> a"),
        ([model("a", fallback="b"), model("b", fallback="c"), model("c", fallback="a")], {}, "a -> b -> c -> a"),
        ([model("a", fallback="docs")], {"docs": False}, "'docs'"),
    ],
)
def test_a_catalogue_that_makes_no_sense_refuses_the_start(
    models: list[dict[str, Any]], fields: dict[str, Any], says: str
) -> None:
    """At start, with the name of what is wrong, not at somebody's turn."""
    with pytest.raises(StartupError, match=says):
        build(*models, **fields)


async def test_with_no_model_at_all_a_turn_says_so() -> None:
    """Sessions, history and tools work without one."""
    with pytest.raises(AgentError) as caught:
        await answer(build(docs=False))

    assert caught.value.narrow_code == "no_model"


async def test_docs_knows_whether_a_language_model_stands_beside_it() -> None:
    """It says plainly that none is configured (spec G2)."""
    assert await answer(build(), "docs") == ["docs False"]
    assert await answer(build(model("a")), "docs") == ["docs True"]


async def test_close_closes_every_agent_whatever_becomes_of_the_others() -> None:
    """A Python agent's close may raise."""

    class Bad(Scripted):
        async def close(self) -> None:
            await super().close()
            raise RuntimeError("no")

    agents = {"a": Scripted(), "b": Bad(), "c": Scripted()}
    catalog = build(model("a", fallback="c"), model("b"), model("c"), agents=dict(agents))
    with pytest.raises(RuntimeError):
        await catalog.close()

    assert [agent.closed for agent in agents.values()] == [1, 1, 1]


# --- fallback ---

DOWN = AgentError("down", code="upstream_unavailable")


async def test_a_model_that_fails_before_its_first_event_is_answered_for() -> None:
    """Along the chain, each under its own settings."""
    agents = {"a": Scripted(DOWN), "b": Scripted(DOWN), "c": Scripted("hello")}
    catalog = build(model("a", fallback="b"), model("b", fallback="c"), model("c"), agents=dict(agents))

    assert await answer(catalog) == ["hello"]
    assert [agents[i].turns[0].model.id for i in "bc"] == ["b", "c"]
    assert [agent.open for agent in agents.values()] == [0, 0, 0]


@pytest.mark.parametrize("begun", ["half", Spent(Usage(1, 1))], ids=["text", "tools"])
async def test_after_the_first_event_nobody_steps_in(begun: AgentEvent) -> None:
    """Two halves of two answers are none; tools that ran must not run again."""
    agents = {"a": Scripted(begun, DOWN), "b": Scripted("other")}
    catalog = build(model("a", fallback="b"), model("b"), agents=dict(agents))
    got: list[AgentEvent] = []
    with pytest.raises(AgentError, match="down"):
        async for event in catalog.resolve("t", None).agent.run(turn("hi")):
            got.append(event)

    assert got == [begun]
    assert agents["b"].turns == []


async def test_a_fault_of_ours_is_not_hidden_by_a_fallback() -> None:
    """Only what an agent tells the user is answered for; a bug is to be seen."""
    agents = {"a": Scripted(ValueError("bug")), "b": Scripted("other")}
    with pytest.raises(ValueError, match="bug"):
        await answer(build(model("a", fallback="b"), model("b"), agents=dict(agents)))


async def test_the_last_failure_of_a_chain_is_told() -> None:
    """With the first one as its cause's context."""
    agents = {"a": Scripted(DOWN), "b": Scripted(AgentError("worse", code="upstream_timeout"))}
    with pytest.raises(AgentError) as caught:
        await answer(build(model("a", fallback="b"), model("b"), agents=dict(agents)))

    assert caught.value.narrow_code == "upstream_timeout"


async def test_an_interrupt_reaches_the_model_that_answers() -> None:
    """Through the chain, at once."""
    freed = asyncio.Event()

    class Hanging(Scripted):
        async def run(self, turn: AgentTurn) -> AsyncIterator[AgentEvent]:
            try:
                yield "begun"
                await asyncio.Event().wait()
            finally:
                freed.set()

    agents: dict[str, Agent] = {"a": Scripted(DOWN), "b": Hanging()}
    catalog = build(model("a", fallback="b"), model("b", max_concurrent_turns=1), agents=agents)
    running = catalog.resolve("t", "a").agent.run(turn("hi"))
    assert await anext(running) == "begun"
    slots = catalog.resolve("t", "b").slots
    assert slots is not None
    assert slots.running == 1, "the one that steps in takes a place of its own model"
    await running.aclose()  # type: ignore[attr-defined]  # a generator

    assert freed.is_set()
    assert slots.running == 0


async def test_a_full_room_is_answered_for_too() -> None:
    """V6: also where the newest turn of one tenant has to make room for another's; nobody's place is lost."""
    catalog = build(
        model("a", fallback="b", max_concurrent_turns=1, max_waiting_turns=2), model("b", max_concurrent_turns=9)
    )
    a, b = catalog.resolve("t", "a"), catalog.resolve("t", "b")
    assert a.slots is not None
    assert b.slots is not None
    go, at = asyncio.Event(), []

    async def one(tenant: str) -> None:
        async with a.slot(tenant) as there:
            at.append((tenant, there.settings.id))
            await go.wait()

    async with asyncio.TaskGroup() as group:
        for tenant in ("big", "big", "big", "big", "small"):
            group.create_task(one(tenant))
            await asyncio.sleep(0)
        while a.slots.waiting < 2 or b.slots.running < 2:
            await asyncio.sleep(0)
        assert at == [("big", "a"), ("big", "b"), ("big", "b")]
        go.set()
    assert at[3:] == [("big", "a"), ("small", "a")]
    assert (a.slots.running, b.slots.running) == (0, 0)

    last = build(model("a", fallback="b", max_concurrent_turns=1, max_waiting_turns=1), model("b", tenants=("acme",)))
    slots = last.resolve("t", "a").slots
    assert slots is not None
    async with held(slots, "t"), asyncio.TaskGroup() as group:
        waiting = group.create_task(slots.take("t"))
        await asyncio.sleep(0)
        with pytest.raises(AgentError) as caught:
            async with last.resolve("t", "a").slot("t"):
                raise AssertionError("there was no place")
        assert caught.value.narrow_code == "model_busy"
        waiting.cancel()


async def test_a_title_is_asked_of_the_model_itself() -> None:
    """What answers for it may be no language model, which would take the question for a user's message."""
    catalog = build(model("a", fallback="docs"), agents={"a": Scripted(DOWN)})
    asked = catalog.titling("t", "a")
    assert asked is not None
    assert asked.next_for("t") is None
    with pytest.raises(AgentError, match="down"):
        await anext(asked.agent.run(turn("a title, please")))


# --- tenants ---


def test_a_model_with_a_list_of_tenants_is_theirs_alone() -> None:
    """Others neither see nor use it, and where it is the default they have the next one (spec V6)."""
    catalog = build(model("a", tenants=("acme",)), model("b"), model("c", fallback="a"))

    assert catalog.ids("acme") == ("a", "b", "c", "docs")
    assert catalog.ids("other") == ("b", "c", "docs")
    assert catalog.default_id("other") == "b"
    assert catalog.resolve("other", "a").settings.id == "b"
    assert "acme" not in str(catalog.models("other"))
    assert [m["fallback"] for m in catalog.models("other")] == [None, None, None]
    assert [m["fallback"] for m in catalog.models("acme")] == [None, None, "a", None]


async def test_a_tenant_without_any_model_is_told_so() -> None:
    """Everything else of the server works for it."""
    catalog = build(model("a", tenants=("acme",)), docs=False)

    assert catalog.ids("other") == ("none",)
    with pytest.raises(AgentError) as failed:
        await anext(catalog.resolve("other", None).agent.run(turn("hi")))
    assert failed.value.narrow_code == "no_model"


async def test_a_fallback_that_the_tenant_may_not_use_is_passed_over() -> None:
    """V6: what follows it in the chain answers; where nothing does, the failure is told."""
    agents = {"a": Scripted("of acme"), "b": Scripted(DOWN), "c": Scripted(DOWN)}
    catalog = build(
        model("b", fallback="a"),
        model("c", fallback="a"),
        model("a", tenants=("acme",), fallback="docs"),
        agents=dict(agents),
    )
    assert await answer(catalog, "c", tenant="acme") == ["of acme"]
    assert await answer(catalog, "c", tenant="other") == ["docs True"]
    assert [m["fallback"] for m in catalog.models("other")] == ["docs", "docs", None]

    alone = build(model("b", fallback="a"), model("a", tenants=("acme",)), agents=dict(agents), docs=False)
    with pytest.raises(AgentError, match="down"):
        await answer(alone, "b", tenant="other")
    assert len(agents["a"].turns) == 1


# --- places ---


@asynccontextmanager
async def held(slots: Slots, tenant: str) -> AsyncIterator[None]:
    """A place while the block runs."""
    await slots.take(tenant)
    try:
        yield
    finally:
        slots.give()


async def test_turns_over_the_limit_wait_in_order() -> None:
    """One place, three turns: first come, first served."""
    slots = Slots(limit=1, room=5)
    order: list[int] = []
    release = [asyncio.Event() for _ in range(3)]

    async def one(number: int) -> None:
        async with held(slots, "t"):
            order.append(number)
            await release[number].wait()

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(one(number))
        while slots.waiting < 2:
            await asyncio.sleep(0)
        assert order == [0]
        for number in range(3):
            release[number].set()
    assert order == [0, 1, 2]
    assert (slots.running, slots.waiting) == (0, 0)


async def test_a_full_room_refuses_by_name() -> None:
    """Nothing waits in a queue that nobody bounds."""
    slots = Slots(limit=1, room=0)
    async with held(slots, "t"):
        with pytest.raises(AgentError) as caught:
            async with held(slots, "t"):
                raise AssertionError("there was no place")

    assert caught.value.narrow_code == "model_busy"
    async with held(slots, "t"):
        assert slots.running == 1


async def held_in_order(slots: Slots, tenants: Iterable[str]) -> list[str]:
    """Send in a turn of each tenant, one after the other, all behind one that holds the only place; who got it when."""
    order: list[str] = []

    async def one(tenant: str) -> None:
        try:
            async with held(slots, tenant):
                order.append(tenant)
        except AgentError as error:
            order.append(f"{tenant}: {error.narrow_code}")

    async with asyncio.TaskGroup() as group, held(slots, "first"):
        for tenant in tenants:
            group.create_task(one(tenant))
            await asyncio.sleep(0)
    return order


async def test_a_tenant_with_many_waiting_turns_delays_anothers_first_by_one_round() -> None:
    """Places go to the tenants in rounds, one each (spec V6); within a tenant first come, first served."""
    order = await held_in_order(Slots(limit=1, room=2000), ["big"] * 1000 + ["small", "other", "small"])

    assert order[:6] == ["big", "small", "other", "big", "small", "big"]
    assert len(order) == 1003


async def test_a_tenant_that_fills_the_room_does_not_keep_others_out() -> None:
    """Its newest turn makes room for theirs, until all have as many."""
    order = await held_in_order(Slots(limit=1, room=4), ["big"] * 5 + ["small"] * 3)

    refused = [each for each in order if each.endswith("model_busy")]
    assert sorted(refused) == ["big: model_busy"] * 3 + ["small: model_busy"]
    assert [each for each in order if each not in refused] == ["big", "small", "big", "small"]


STEPS = st.lists(st.tuples(st.sampled_from(["start", "end", "cancel", "turn"]), st.integers(0, 9)), max_size=40)


@settings(max_examples=200)
@given(STEPS, st.integers(1, 3))
async def test_no_place_is_ever_lost_or_given_twice(steps: list[tuple[str, int]], limit: int) -> None:
    """Whoever is cancelled, also in the moment when its turn comes."""
    slots = Slots(limit, room=4)
    inside: set[int] = set()
    leave: dict[int, asyncio.Event] = {}
    tasks: dict[int, asyncio.Task[None]] = {}

    async def one(number: int) -> None:
        async with held(slots, f"tenant-{number % 3}"):
            inside.add(number)
            try:
                await leave[number].wait()
            finally:
                inside.discard(number)

    for step, number in steps:
        match step:
            case "start" if number not in tasks:
                leave[number] = asyncio.Event()
                tasks[number] = asyncio.create_task(one(number))
            case "end" if number in leave:
                leave[number].set()
            case "cancel" if number in tasks:
                tasks[number].cancel()
            case "turn":
                await asyncio.sleep(0)
        assert len(inside) <= limit
        assert slots.waiting <= 4
    for event in leave.values():
        event.set()
    ends = await asyncio.gather(*tasks.values(), return_exceptions=True)

    assert all(end is None or isinstance(end, AgentError | asyncio.CancelledError) for end in ends)
    assert (slots.running, slots.waiting, inside) == (0, 0, set())


async def test_models_without_limits_of_their_own_have_room_for_all() -> None:
    """The embedded and the Python agents are bounded by max_running_turns alone."""
    entry = build().resolve("t", None)
    async with entry.slot("t"), entry.slot("t"):
        assert entry.slots is None
