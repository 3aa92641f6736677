"""The composition root: Settings to a running server. The only place that picks concrete adapters.

Order of a stop (spec D3), tested in tests/chaos: not ready and no new turns; running turns get `drain_seconds`, then
are committed as interrupted; streams get `goodbye`; the socket closes; maintenance ends; tool servers, agents and
upstream connections close; the store finishes what it accepted, last of all.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import resource
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from structlog.typing import FilteringBoundLogger

from chatserver.accounts import Accounts
from chatserver.agents_setup import Agents, assemble
from chatserver.api import middleware
from chatserver.api.access_log import AccessLog
from chatserver.api.page import PAGE, load_page
from chatserver.api.routes import add_routes
from chatserver.api.server import GuardedRunner
from chatserver.api.services import SERVICES, Services
from chatserver.auth.issuer import ExternalIssuer
from chatserver.auth.passwords import Passwords
from chatserver.auth.tokens import TokenSigner
from chatserver.auth.visitors import KEY_BYTES, VisitorSigner, load_key
from chatserver.auto_naming import AutoNaming
from chatserver.clock import Clock, SystemClock
from chatserver.config import Settings
from chatserver.errors import StartupError
from chatserver.indexing import index_ahead
from chatserver.metrics import Metrics
from chatserver.metrics_history import MetricsHistory
from chatserver.quotas import Quotas
from chatserver.session_manager import SessionManager
from chatserver.session_service import SessionService
from chatserver.store.accounts import AccountStore
from chatserver.store.base import SessionKey
from chatserver.store.sql import open_store
from chatserver.streams.hub import StreamHub
from chatserver.tasks import Supervisor
from chatserver.turns import TurnRunner

# After the goodbyes, what is left to a request that still runs before its connection is cut.
CLOSE_SECONDS = 1.5
# spec D3: gone within 25 s. What hangs beyond the drain and this is ended the hard way; the store is safe with that.
LAST_SECONDS = 4.5
# How long a thread may keep the interpreter to itself; CPython's own default is 5 ms.
SWITCH_SECONDS = 0.0005

# File descriptors beside clients' connections: the database, tool servers' pipes, connections to models.
OWN_DESCRIPTORS = 500

_PACKAGE = Path(__file__).parent


def shipped(wheel_name: str, checkout_name: str) -> Path | None:
    """A folder that a wheel carries inside the package and a checkout beside it."""
    for folder in (_PACKAGE / wheel_name, _PACKAGE.parent / checkout_name):
        if folder.is_dir():
            return folder
    return None


@asynccontextmanager
async def compose(settings: Settings, log: FilteringBoundLogger, clock: Clock) -> AsyncIterator[Services]:
    """Everything behind the endpoints, started; stopped in order when the block ends.

    Raises: StartupError, with the reason.
    """

    def on_crash(task: str, error: BaseException) -> None:
        log.error("task_crashed", task=task, exc_info=error)

    async with AsyncExitStack() as stack:
        store = await open_store(settings)
        stack.push_async_callback(store.close)
        in_memory = settings.database_url == ":memory:"
        key = secrets.token_bytes(KEY_BYTES) if in_memory else load_key(settings.data_dir / "secret.key")

        supervisor = Supervisor("chatserver", on_crash)
        # One of its own for what turns and sessions need until the last turn has ended.
        turn_supervisor = Supervisor("turns", on_crash)
        stack.push_async_callback(supervisor.close)

        def on_connecting(session: tuple[str, str], connecting: bool) -> None:
            supervisor.start(sessions.tell_connecting(SessionKey(*session), connecting), "tell-connecting")

        docs_dir = settings.docs or shipped("_docs", "docs")
        agents: Agents = await stack.enter_async_context(
            assemble(settings, clock, supervisor, log, docs_dir=docs_dir, on_connecting=on_connecting)
        )
        catalog = agents.catalog
        manager = SessionManager(
            settings,
            clock,
            store,
            missing_api_key=catalog.missing_api_key,
            on_evict=agents.tools.close_session,
            log=log,
        )
        quotas = Quotas(settings, clock, store)
        turns = TurnRunner(
            settings,
            clock,
            store,
            manager,
            catalog.resolve,
            agents.tools,
            turn_supervisor,
            log,
            on_ended=lambda run: naming.turn_ended(run),
            quotas=quotas,
        )
        naming = AutoNaming(
            settings, clock, store, turns.changes, catalog, quotas, turns.counts, manager.unpin, supervisor, log
        )
        stack.push_async_callback(turn_supervisor.close)
        sessions = SessionService(settings, clock, store, manager, turns, catalog)
        hub = StreamHub(settings, clock)

        accounts = await stack.enter_async_context(
            _accounts(settings, clock, store.accounts, supervisor, log, in_memory=in_memory)
        )
        metrics = Metrics(turns, hub, manager, store, catalog, agents.endpoints.failures)
        history = MetricsHistory(metrics, clock)

        interrupted = await turns.recover()
        if interrupted:
            log.warning("turns_interrupted_by_crash", turns=interrupted)
        supervisor.start(manager.run(), "maintenance")
        supervisor.start(hub.run(), "pings")
        supervisor.start(accounts.run(hub.look_at_leases), "accounts")
        supervisor.start(history.run(), "metrics")
        supervisor.start(quotas.run(), "usage")
        supervisor.start(index_ahead(store, clock, log), "indexing")
        turn_supervisor.start(turns.checkpoints(), "checkpoints")
        services = Services(
            settings=settings,
            clock=clock,
            store=store,
            manager=manager,
            sessions=sessions,
            turns=turns,
            hub=hub,
            catalog=catalog,
            tools=agents.tools,
            visitors=VisitorSigner(key),
            accounts=accounts,
            log=log,
            metrics=metrics,
            history=history,
            quotas=quotas,
            access_log=AccessLog(
                log, key, metrics.http, enabled=settings.access_log and log.is_enabled_for(logging.INFO)
            ),
        )
        try:
            yield services
        finally:
            await turns.drain(0)
            hub.goodbye("shutdown")


@asynccontextmanager
async def _accounts(
    settings: Settings,
    clock: Clock,
    store: AccountStore,
    supervisor: Supervisor,
    log: FilteringBoundLogger,
    *,
    in_memory: bool,
) -> AsyncIterator[Accounts]:
    """Accounts over their store, with what was revoked; the threads for passwords end with the block."""
    key = secrets.token_bytes(KEY_BYTES) if in_memory else load_key(settings.data_dir / "token.key")
    issuer = settings.issuer
    passwords = Passwords(
        memory_kib=settings.password_memory_kib,
        rounds=settings.password_rounds,
        waiting=settings.max_waiting_logins,
    )
    try:
        accounts = Accounts(
            settings,
            clock,
            store,
            passwords,
            TokenSigner(key, clock),
            ExternalIssuer(issuer, clock, supervisor, log) if issuer is not None else None,
            log,
        )
        await accounts.load()
        yield accounts
    finally:
        await passwords.close()


def make_application(services: Services) -> web.Application:
    """The aiohttp application over composed services."""
    app = web.Application(middlewares=[middleware.errors], client_max_size=services.settings.max_body_bytes)
    app[SERVICES] = services
    app[PAGE] = load_page(shipped("_page", "web/dist"))
    app.on_response_prepare.append(middleware.add_headers)
    add_routes(app)
    return app


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A listening server: its address, and what it is made of."""

    host: str
    port: int
    services: Services

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    async def drain(self, seconds: float) -> None:
        """Refuse new turns, give running ones `seconds`, end the others, say goodbye to the streams."""
        await self.services.turns.drain(seconds)
        self.services.hub.goodbye("shutdown")


@asynccontextmanager
async def start_server(
    settings: Settings, log: FilteringBoundLogger, clock: Clock | None = None
) -> AsyncIterator[RunningServer]:
    """A server that listens while the block runs.

    Raises: StartupError, with the reason (the port is taken, the database is in use, …).
    """
    async with compose(settings, log, clock or SystemClock()) as services:
        runner = GuardedRunner(make_application(services), settings, shutdown_seconds=CLOSE_SECONDS)
        await runner.setup()
        try:
            site = web.TCPSite(runner, settings.host, settings.port, backlog=1024)
            try:
                await site.start()
            except OSError as error:
                raise StartupError(_not_listening(settings, error)) from error
            host, port = runner.addresses[0][:2]
            yield RunningServer(host, port, services)
            await services.turns.drain(0)
            services.hub.goodbye("shutdown")
        finally:
            await runner.cleanup()


def relax_garbage_collection() -> None:
    """Look for cycles less often, and never through what start made.

    A server allocates per token and frees by reference counting; the default thresholds made the collector walk every
    live session again and again: 13 % of the CPU at 200 busy sessions, 1 % so (CPython 3.11).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(25_000, 20, 20)


def _not_listening(settings: Settings, error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            reason = "another program listens there already; --port names another port, 0 takes a free one"
        case int(number) if number > 0:  # asyncio puts a sentence of its own around the system's
            reason = os.strerror(number)
        case _:  # a name that cannot be looked up has a number of another kind
            reason = str(error.strerror)
    return f"cannot listen on {settings.host}:{settings.port}: {reason}"


def raise_descriptor_limit(settings: Settings, log: FilteringBoundLogger) -> None:
    """Take all the file descriptors that the system grants: shells start a process with 1,024 of them, and each
    connection is one. Says so where they do not suffice for `max_connections`."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS has an infinite hard limit that it does not grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < settings.max_connections + OWN_DESCRIPTORS:
        log.warning("few_file_descriptors", limit=soft, max_connections=settings.max_connections)


async def run_server(settings: Settings, log: FilteringBoundLogger) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends the process at once.

    Prints one line with the address when it is ready.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    raise_descriptor_limit(settings, log)
    async with start_server(settings, log) as server:
        relax_garbage_collection()
        # The store's thread must not wait for the loop's 5 ms: with a busy loop, starting a turn went from 10 ms at the
        # median and 240 ms at p99 to 4 and 19.
        sys.setswitchinterval(SWITCH_SECONDS)
        print(f"chatserver is ready on {server.url}", flush=True)  # noqa: T201 - the one line a caller waits for
        await stop.wait()
        loop.call_later(settings.drain_seconds + LAST_SECONDS, os._exit, 1)
        await server.drain(settings.drain_seconds)
    sys.stdout.flush()
