"""World: the core composed as app.py composes it, without HTTP: store, manager, turns, service, agents on strings.

A world outlives its processes: `kill` ends one as `kill -9` would, `start` begins the next on the same store. Closing
one checks that nothing crashed and that what all readers saw of a session fits together.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson

from chatserver.auto_naming import AutoNaming
from chatserver.config import Settings
from chatserver.errors import StoreCorrupt, StoreUnavailable
from chatserver.live_session import LiveSession
from chatserver.principal import ANONYMOUS, Principal
from chatserver.quotas import Quotas
from chatserver.session_manager import SessionManager
from chatserver.session_service import Caller, SessionService
from chatserver.store.base import SessionKey, SessionRecord, Store
from chatserver.store.sql import open_store
from chatserver.tasks import Supervisor
from chatserver.turns import TurnRunner
from tests.checker.history import History
from tests.core.plain_store import PlainStore
from tests.core.puppets import FakeModels, FakeTools, Puppet
from tests.core.readers import FakeSink, Reader
from tests.core.tampered_store import TamperedStore
from tests.core.virtual import FakeClock, outside, settle

NOBODY = Caller(ANONYMOUS, "192.0.2.1")


def visitor(name: str, tenant: str = "public") -> Caller:
    """A browser with a cookie."""
    return Caller(Principal(tenant, "visitor", name), "192.0.2.2")


class RecordingLog:
    """Takes the calls of a structlog logger."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Any:
        return lambda event, **fields: self.entries.append((level, event, fields))

    def events(self) -> list[str]:
        """What was logged, by name."""
        return [event for _, event, _ in self.entries]


def test_settings(**changes: Any) -> Settings:
    """Defaults, whatever stands in the environment; the flush interval does not follow the machine's load, and rates
    that people never reach are not in the way."""
    changes = {
        "flush_interval_busy_seconds": changes.get("flush_interval_seconds", 0.005),
        "messages_per_minute": 1_000_000,
        "model_switches_per_minute": 1_000_000,
        "auto_titles": "off",  # its own tests switch it on
        **changes,
    }
    return Settings.model_validate({**{n: f.default for n, f in Settings.model_fields.items()}, **changes})


test_settings.__test__ = False  # type: ignore[attr-defined]  # not a test for all its name


async def plain_store() -> Any:
    """An empty one of the fast kind."""
    return PlainStore()


async def sqlite_store() -> Any:
    """An empty one of the real kind, in memory."""
    with outside():
        return await open_store(Settings.model_construct(**{**vars(test_settings()), "database_url": ":memory:"}))


# What a world without a store of its own begins with: tests/core/conftest.py runs tests on each.
STORES: dict[str, Callable[[], Awaitable[Any]]] = {"plain": plain_store, "sqlite": sqlite_store}
new_store: list[Callable[[], Awaitable[Any]]] = [plain_store]


class World:
    """See the module.

    Args:
        store: what is durable; a new one of the present kind where None.
        agents: models by name, the default first; one Puppet named `puppet` where none is given.
        settings: changes to the defaults.
    """

    def __init__(self, store: Store | None = None, agents: dict[str, Any] | None = None, **settings: Any) -> None:
        self.settings = test_settings(**settings)
        self.clock = FakeClock()
        self.puppet = Puppet()
        self.models = FakeModels(**(agents or {"puppet": self.puppet}))
        self.tools = FakeTools()
        self.log = RecordingLog()
        self.crashes: list[str] = []
        self.histories: dict[str, History] = {}
        self.readers: list[Reader] = []
        self.real_store: Any = store
        self.store: TamperedStore
        self.supervisor: Supervisor
        self.manager: SessionManager
        self.turns: TurnRunner
        self.quotas: Quotas
        self.service: SessionService
        self.recovered = 0
        self.refuse_load_of: str | None = None
        self.damaged: str | None = None  # the session whose turns the database cannot end

    def _on_crash(self, task: str, error: BaseException) -> None:
        self.crashes.append(f"{task}: {error!r}")

    async def start(self, *, maintenance: bool = True) -> None:
        """Begin a process on the store."""
        if self.real_store is None:
            self.real_store = await new_store[0]()
        self.store = TamperedStore(self.real_store, self._refuse)
        self.supervisor = Supervisor("world", self._on_crash)
        self.manager = SessionManager(
            self.settings,
            self.clock,
            self.store,
            missing_api_key=self.models.missing_api_key,
            on_evict=self.tools.close_session,
            log=self.log,  # type: ignore[arg-type]  # takes the same calls
        )
        self.quotas = Quotas(self.settings, self.clock, self.store)
        self.turns = TurnRunner(
            self.settings,
            self.clock,
            self.store,
            self.manager,
            self.models.resolve,
            self.tools,
            self.supervisor,
            self.log,  # type: ignore[arg-type]  # takes the same calls
            on_ended=lambda run: self.naming.turn_ended(run),
            quotas=self.quotas,
        )
        self.naming = AutoNaming(
            self.settings,
            self.clock,
            self.store,
            self.turns.changes,
            self.models,
            self.quotas,
            self.turns.counts,
            self.manager.unpin,
            self.supervisor,
            self.log,  # type: ignore[arg-type]
        )
        self.service = SessionService(self.settings, self.clock, self.store, self.manager, self.turns, self.models)
        self.recovered = await self.turns.recover()
        if maintenance:
            self.supervisor.start(self.manager.run(), "maintenance")
            self.supervisor.start(self.turns.checkpoints(), "checkpoints")

    def _refuse(self, method: str, arguments: tuple[Any, ...]) -> None:
        if method == "load" and arguments[0].session_id == self.refuse_load_of:
            raise StoreUnavailable
        if method == "finish_turn" and arguments[0].key.session_id == self.damaged:
            raise StoreCorrupt

    async def kill(self) -> None:
        """End the process as `kill -9` does: no call reaches the store any more, readers lose their connections."""
        self.store.dead = True
        for reader in self.readers:
            await reader.close()
            reader.read()
        self.readers.clear()
        await self.supervisor.close()

    async def close(self) -> None:
        """Drain, end everything, and check what was seen."""
        await self.turns.drain(0)
        await settle()
        for reader in self.readers:
            await reader.close()
            reader.read()
        await self.supervisor.close()
        await self.close_store()
        assert not self.crashes, self.crashes
        for history in self.histories.values():
            assert not history.problems(), history.problems()

    async def close_store(self) -> None:
        """Let go of the store; idempotent."""
        with outside():
            await self.real_store.close()

    # --- what tests do ---

    def key(self, session_id: str, caller: Caller = NOBODY) -> SessionKey:
        return SessionKey(caller.principal.tenant, session_id)

    async def chat(self, session_id: str, text: str, caller: Caller = NOBODY, **options: Any) -> str:
        """Send a message; returns the turn's id."""
        async with self.service.open(caller, session_id, create="durable") as live:
            return await self.service.chat(caller, live, text, **options)

    async def edit(self, session_id: str, message_id: str, text: str, caller: Caller = NOBODY, **options: Any) -> str:
        async with self.service.open(caller, session_id, create="no") as live:
            return await self.service.edit(caller, live, message_id, text, **options)

    async def regenerate(self, session_id: str, message_id: str, caller: Caller = NOBODY, **options: Any) -> str:
        async with self.service.open(caller, session_id, create="no") as live:
            return await self.service.regenerate(caller, live, message_id, **options)

    async def choose_branch(self, session_id: str, message_id: str, caller: Caller = NOBODY) -> None:
        async with self.service.open(caller, session_id, create="no") as live:
            await self.service.choose_branch(live, message_id)

    async def fork(
        self, session_id: str, message_id: str, caller: Caller = NOBODY, *, title: str | None = None
    ) -> dict[str, Any]:
        """Fork; the new session's state."""
        async with (
            self.service.open(caller, session_id, create="no") as live,
            self.service.fork(caller, live, message_id, title) as forked,
        ):
            return state_of(forked)

    async def rate(
        self, session_id: str, message_id: str, rating: Any, comment: str | None = None, caller: Caller = NOBODY
    ) -> None:
        async with self.service.open(caller, session_id, create="no") as live:
            await self.service.rate(live, message_id, rating, comment)

    async def page(
        self, session_id: str, before: str | None, limit: int, caller: Caller = NOBODY
    ) -> tuple[list[str], bool]:
        """The texts of a page of messages, and whether there are older ones."""
        async with self.service.open(caller, session_id, create="no") as live:
            found = await self.service.page(live, before, limit)
            return [m.content for m in found.messages], found.has_more

    async def system(self, session_id: str, text: str, caller: Caller = NOBODY) -> None:
        async with self.service.open(caller, session_id, create="durable") as live:
            await self.service.add_system_message(caller, live, text)

    async def interrupt(
        self, session_id: str, turn_id: str | None = None, *, clear_queue: bool = False, caller: Caller = NOBODY
    ) -> None:
        async with self.service.open(caller, session_id, create="no") as live:
            await self.service.interrupt(live, turn_id, clear_queue=clear_queue)

    async def withdraw(self, session_id: str, turn_id: str, caller: Caller = NOBODY) -> None:
        async with self.service.open(caller, session_id, create="no") as live:
            await self.service.withdraw(live, turn_id)

    async def delete(self, session_id: str, caller: Caller = NOBODY) -> bool:
        async with self.service.open(caller, session_id, create="no") as live:
            return await self.turns.delete(live)

    async def touch(self, session_id: str, caller: Caller = NOBODY) -> LiveSession:
        """Read the session's state, as `GET /api/state` does."""
        async with self.service.open(caller, session_id, create="provisional") as live:
            return live

    async def state(self, session_id: str, caller: Caller = NOBODY) -> dict[str, Any]:
        return state_of(await self.touch(session_id, caller))

    async def reader(self, session_id: str, caller: Caller = NOBODY, sink: FakeSink | None = None) -> Reader:
        """A client that follows the session from a snapshot on."""
        reader = Reader(
            sink,
            self.histories,
            stall_seconds=self.settings.stall_timeout_seconds,
            backlog_bytes=self.settings.subscriber_backlog_bytes,
        )
        async with self.service.open(caller, session_id, create="provisional") as live:
            reader.follow(live, session_id)
        self.readers.append(reader)
        return reader

    async def stored(self, session_id: str, caller: Caller = NOBODY) -> dict[str, Any] | None:
        """The state that a fresh process would show, read beside everything that lives."""
        fresh = SessionManager(
            self.settings,
            self.clock,
            TamperedStore(self.real_store),
            missing_api_key=self.models.missing_api_key,
            on_evict=self.tools.close_session,
            log=self.log,  # type: ignore[arg-type]  # takes the same calls
        )
        live = await fresh.pin(self.key(session_id, caller))
        return None if live is None else state_of(live)

    async def record(self, session_id: str, caller: Caller = NOBODY) -> SessionRecord | None:
        """The stored record."""
        found: SessionRecord | None = await TamperedStore(self.real_store).record(self.key(session_id, caller))
        return found


def state_of(live: LiveSession) -> dict[str, Any]:
    """The live state as JSON values."""
    state: dict[str, Any] = json.loads(orjson.dumps(live.state.wire()))
    return state


@asynccontextmanager
async def world(
    store: Store | None = None, agents: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[World]:
    """A world with a running process; checked when the block ends."""
    made = World(store, agents, **settings)
    await made.start()
    try:
        yield made
    except BaseException:
        await made.close_store()
        raise
    await made.close()
    await asyncio.sleep(0)
