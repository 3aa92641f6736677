"""Catalog: the models that sessions can name (spec V6), and which one answers.

Invariants: never empty, and its default always exists; a key is read here once, handed to its agent and never shown; a
model falls back to another only while nothing of its answer was given out, and only to one that the tenant may use.
Made once at start, immutable then.

Concrete agents come in through `Factories`; this module knows only what an agent is.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Literal

from structlog.typing import FilteringBoundLogger

from chatserver.agents.base import Agent, AgentEvent, AgentTurn, ModelSettings
from chatserver.agents.slots import Slots
from chatserver.config import ModelConfig, Settings
from chatserver.errors import AgentError, StartupError

Kind = Literal["openai", "python", "docs", "scripted", "none"]

# Ids of the models that are not configured one by one.
DOCS = "docs"
SCRIPTED = "scripted"
NOTHING = "none"
# What agents without a window of their own are told: ModelConfig's defaults.
CONTEXT_TOKENS = 8192
MAX_OUTPUT_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Factories:
    """How the composition root makes agents; each is called at most once for a model.

    `openai` gets an entry and its key (None where it has none); `python` the `package.module:name`, and gives the
    model's id with the agent; `docs`, whether a language model stands beside it. None where there is no such agent.
    """

    openai: Callable[[ModelConfig, str | None], Agent]
    python: Callable[[str], tuple[str, Agent]]
    scripted: Callable[[], Agent]
    docs: Callable[[bool], Agent] | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A model as turns use it. `agent` includes the fallback, which is `then`."""

    settings: ModelSettings
    kind: Kind
    agent: Agent
    offers_tools: bool = True
    missing_api_key: bool = False
    fallback: str | None = None
    then: Entry | None = None
    slots: Slots | None = None
    tenants: frozenset[str] = frozenset()

    def serves(self, tenant: str) -> bool:
        """Whether that tenant may name it; without a list everybody may."""
        return not self.tenants or tenant in self.tenants

    def next_for(self, tenant: str) -> Entry | None:
        """The model that answers for this one: the first one down the chain that the tenant may use."""
        then = self.then
        while then is not None and not then.serves(tenant):
            then = then.then
        return then

    def slot(self, tenant: str) -> AbstractAsyncContextManager[Entry]:
        """A place among the model's concurrent turns; waits for one. Where too many wait already, one at the model that
        answers for it.

        Gives (entering): the model at which the place is.
        Raises (entering): AgentError (`model_busy`). Cancelling while it waits is safe.
        """
        return _Place(self, tenant)


class _Place:
    """One turn's place, from entering until leaving. A class: a generator's frame costs three times as much."""

    __slots__ = ("_entry", "_tenant")

    def __init__(self, entry: Entry, tenant: str) -> None:
        self._entry = entry
        self._tenant = tenant

    async def __aenter__(self) -> Entry:
        while True:
            entry = self._entry
            if entry.slots is None:
                return entry
            try:
                await entry.slots.take(self._tenant)
                return entry
            except AgentError:
                then = entry.next_for(self._tenant)
                if then is None:
                    raise
                self._entry = then

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._entry.slots is not None:
            self._entry.slots.give()


class Catalog:
    """See the module; made by `build_catalog`."""

    def __init__(self, entries: Sequence[Entry], default_id: str, agents: Sequence[Agent]) -> None:
        self._entries = {entry.settings.id: entry for entry in entries}
        self._default_id = default_id
        self._agents = tuple(agents)

    def default_id(self, tenant: str) -> str:
        """The model of that tenant's sessions that name none."""
        return self._default(tenant).settings.id

    def ids(self, tenant: str) -> tuple[str, ...]:
        """Models that a session of that tenant may name, the default first."""
        default = self.default_id(tenant)
        return (default, *(i for i, entry in self._entries.items() if i != default and entry.serves(tenant)))

    def resolve(self, tenant: str, model_id: str | None) -> Entry:
        """The model a session means: the default where it names none, or one that has gone (spec V5)."""
        entry = self._entries.get(model_id or "")
        return entry if entry is not None and entry.serves(tenant) else self._default(tenant)

    def _default(self, tenant: str) -> Entry:
        default = self._entries[self._default_id]
        if default.serves(tenant):
            return default
        return next((entry for entry in self._entries.values() if entry.serves(tenant)), _NOTHING)

    def titling(self, tenant: str, model_id: str | None) -> Entry | None:
        """The language model that a session's turns use, without those that answer for it; None where an agent of
        another kind answers it, which would take the question for a title as a user's message."""
        entry = self.resolve(tenant, model_id)
        if entry.kind != "openai" or entry.missing_api_key:
            return None
        agent = entry.agent.first if isinstance(entry.agent, _WithFallback) else entry.agent
        return replace(entry, agent=agent, then=None)

    def missing_api_key(self, tenant: str, model_id: str | None) -> bool:
        """Whether turns of this model would fail for want of a key."""
        return self.resolve(tenant, model_id).missing_api_key

    def load(self) -> list[tuple[str, int, int]]:
        """Of each model with places: its id, the turns that run and those that wait for a place."""
        slotted = ((entry.settings.id, entry.slots) for entry in self._entries.values())
        return [(model, slots.running, slots.waiting) for model, slots in slotted if slots is not None]

    def models(self, tenant: str) -> list[dict[str, Any]]:
        """The public list for that tenant, its default first; no key, no address, no tenants."""
        entries = [self.resolve(tenant, i) for i in self.ids(tenant)]
        return [
            {
                "id": entry.settings.id,
                "name": entry.settings.name,
                "kind": entry.kind,
                "default": entry is entries[0],
                "context_tokens": entry.settings.context_tokens,
                "max_output_tokens": entry.settings.max_output_tokens,
                "tools": entry.offers_tools,
                "fallback": then.settings.id if (then := entry.next_for(tenant)) is not None else None,
                "missing_api_key": entry.missing_api_key,
            }
            for entry in entries
        ]

    async def close(self) -> None:
        """Close every agent, each whatever becomes of the others; idempotent as they are."""
        async with AsyncExitStack() as stack:
            for agent in self._agents:
                stack.push_async_callback(agent.close)


def build_catalog(
    settings: Settings,
    discovered: Sequence[ModelConfig],
    factories: Factories,
    environ: Mapping[str, str],
    log: FilteringBoundLogger,
) -> Catalog:
    """The catalogue of configured, discovered and embedded models.

    Args:
        discovered: what discovery.py found; used where none is configured.
        environ: where keys are read.
    Raises:
        StartupError: two models want one id, a fallback or the default names no model, fallbacks go in a circle.
    """
    configs = settings.models or tuple(discovered)
    entries: dict[str, Entry] = {}

    def add(entry: Entry) -> None:
        model_id = entry.settings.id
        if model_id in entries:
            raise StartupError(f"two models have the id {model_id!r}; give the one in the configuration another")
        entries[model_id] = entry

    if settings.agent is not None:
        model_id, agent = factories.python(settings.agent)
        add(_plain(model_id, model_id, "python", agent))
    for config in configs:
        add(_configured(config, factories, environ))
    if factories.docs is not None:
        add(_plain(DOCS, "Documentation", "docs", factories.docs(bool(entries))))
    if settings.scripted:
        add(_plain(SCRIPTED, "Scripted", "scripted", factories.scripted()))
    if not entries:
        add(_NOTHING)

    default_id = settings.default_model or next(iter(entries))
    if default_id not in entries:
        raise StartupError(f"default_model {default_id!r} is not among the models: {', '.join(entries)}")
    agents = [entry.agent for entry in entries.values()]
    return Catalog(_with_fallbacks(entries, log), default_id, agents)


def _configured(config: ModelConfig, factories: Factories, environ: Mapping[str, str]) -> Entry:
    key = environ.get(config.api_key_env, "").strip() if config.api_key_env else ""
    # llama.cpp names a model by its file: the public list has no use for somebody's folders.
    name = config.model.rpartition("/")[2] if config.model.startswith("/") else config.model
    return Entry(
        settings=ModelSettings(config.id, name, config.context_tokens, config.max_output_tokens),
        kind="openai",
        agent=factories.openai(config, key or None),
        offers_tools=config.tools,
        missing_api_key=config.api_key_env is not None and not key,
        fallback=config.fallback,
        slots=Slots(config.max_concurrent_turns, config.max_waiting_turns),
        tenants=frozenset(config.tenants),
    )


def _plain(model_id: str, name: str, kind: Kind, agent: Agent) -> Entry:
    return Entry(ModelSettings(model_id, name, CONTEXT_TOKENS, MAX_OUTPUT_TOKENS), kind, agent)


def _with_fallbacks(entries: Mapping[str, Entry], log: FilteringBoundLogger) -> list[Entry]:
    """The entries with each agent followed by its fallbacks. A chain that leads back would hold a place at one model
    while it waits for a place at another, for ever."""
    finished: dict[str, Entry] = {}

    def finish(model_id: str, seen: tuple[str, ...]) -> Entry:
        if model_id in seen:
            raise StartupError(f"fallbacks go in a circle: {' -> '.join((*seen, model_id))}")
        if model_id not in finished:
            entry = entries[model_id]
            if entry.fallback is not None:
                if entry.fallback not in entries:
                    raise StartupError(f"model {model_id!r} falls back to {entry.fallback!r}, which is no model")
                then = finish(entry.fallback, (*seen, model_id))
                entry = replace(entry, then=then)
                entry = replace(entry, agent=_WithFallback(entry, log))
            finished[model_id] = entry
        return finished[model_id]

    return [finish(model_id, ()) for model_id in entries]


class _WithFallback:
    """A model's agent, `first`, and the models that answer where it fails before it has begun.

    Args:
        entry: the model, its agent still alone.
    """

    def __init__(self, entry: Entry, log: FilteringBoundLogger) -> None:
        self.first = entry.agent
        self._entry = entry
        self._log = log

    async def run(self, turn: AgentTurn) -> AsyncGenerator[AgentEvent, None]:
        begun = False
        try:
            async with _closing(self.first.run(turn)) as events:
                async for event in events:
                    begun = True
                    yield event
            return
        except AgentError as error:
            then = self._entry.next_for(turn.tenant)
            if begun or then is None:
                raise
            self._log.warning("model_falls_back", model=turn.model.id, to=then.settings.id, code=error.narrow_code)
        async with (
            then.slot(turn.tenant) as there,
            _closing(there.agent.run(replace(turn, model=there.settings))) as events,
        ):
            async for event in events:
                yield event

    async def close(self) -> None:
        """Nothing of its own: the catalogue closes both."""


class _Nothing:
    """Stands where there is no model at all, so that everything else works and a turn says what is missing."""

    def run(self, turn: AgentTurn) -> AsyncIterator[AgentEvent]:
        return self

    def __aiter__(self) -> AsyncIterator[AgentEvent]:
        return self

    async def __anext__(self) -> AgentEvent:
        raise AgentError(
            "There is no model for you here: none is configured, or none for your tenant.", code="no_model"
        )

    async def close(self) -> None:
        """Nothing to close."""


_NOTHING = _plain(NOTHING, "No model", "none", _Nothing())


@asynccontextmanager
async def _closing(events: AsyncIterator[AgentEvent]) -> AsyncIterator[AsyncIterator[AgentEvent]]:
    """Close a generator that is left half-way now, in this task: it may hold an endpoint's connection."""
    try:
        yield events
    finally:
        if (aclose := getattr(events, "aclose", None)) is not None:
            await aclose()
