"""TurnLife: one turn from its committed start to its end, in a task of its own.

Invariants: the user's message and the empty answer are committed before anything is told; at most one turn runs per
session; the next one is looked for after the end of the one before. A turn belongs to the server's supervisor, never to
a request.

When a turn starts is turn_queue.py's to say; it iterates no agent (pump.py) and commits no end (turn_ends.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from structlog.typing import FilteringBoundLogger

from chatserver import events as ev
from chatserver.agents.base import ToolServers
from chatserver.branches import Branches, carried_copy
from chatserver.checkpoints import Checkpoints
from chatserver.clock import Clock
from chatserver.config import Settings
from chatserver.errors import QuotaExceeded, Unavailable
from chatserver.flush_pace import FlushPace
from chatserver.history import full_history
from chatserver.live_session import LiveSession
from chatserver.message import Message, TurnError
from chatserver.principal import Principal
from chatserver.pump import Entry, pump
from chatserver.quotas import Refused
from chatserver.run import Run
from chatserver.session_changes import activity_of, new_message, settings_of
from chatserver.session_manager import SessionManager
from chatserver.store.base import Duplicate, StartTurn, Store, StoredTurn
from chatserver.tasks import Supervisor
from chatserver.turn_ends import TurnEnds
from chatserver.turn_tools import TurnTools
from chatserver.under_way import UnderWay

# Of a tenant's session: the model it names, or its default.
ResolveModel = Callable[[str, str | None], Entry]


class TurnLife:
    """See the module.

    Args:
        on_end: called with the lock held when a turn has ended.
        on_ended: told afterwards; must neither wait nor raise.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        store: Store,
        manager: SessionManager,
        resolve_model: ResolveModel,
        servers: ToolServers,
        supervisor: Supervisor,
        log: FilteringBoundLogger,
        under_way: UnderWay,
        ends: TurnEnds,
        branches: Branches,
        checkpoints: Checkpoints,
        pace: FlushPace,
        on_end: Callable[[LiveSession], Awaitable[None]],
        on_ended: Callable[[Run], None],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._store = store
        self._manager = manager
        self._resolve_model = resolve_model
        self._servers = servers
        self._supervisor = supervisor
        self._log = log
        self._under_way = under_way
        self._ends = ends
        self._branches = branches
        self._checkpoints = checkpoints
        self._pace = pace
        self._on_end = on_end
        self._on_ended = on_ended

    async def start(
        self,
        live: LiveSession,
        turn: StoredTurn,
        principal: Principal,
        expires_at: float,
        *,
        queued: bool,
        refusal: QuotaExceeded | None = None,
    ) -> str:
        """Commit the start of a turn and run it; the lock is held. Returns its id, or that of an earlier turn with the
        same `client_message_id`.

        Args:
            expires_at: of the session, in seconds since the epoch.
            queued: the turn stands in the queue.
            refusal: why it may not run; it starts, and fails with that.
        """
        await self._ends.settle(live)
        entry = self._resolve_model(live.key.tenant, live.record.model)
        if refusal is not None:
            entry = Refused(entry.settings, refusal)
        place = await self._branches.place_of(live, turn)
        user_message = place.user_message
        answer = new_message(self._clock, "assistant", "", parent_id=user_message.id, model=entry.settings.id)
        if place.beside:
            answer = replace(answer, siblings=(*place.beside, answer.id))
        # Behind the answer, as if they were told while it runs: before it, it would be no sibling of the first.
        carried: list[Message] = []
        for message in place.left:
            carried.append(carried_copy(message, self._clock.new_id(), (carried or [answer])[-1].id))
        started = await self._store.start_turn(
            StartTurn(
                key=live.key,
                turn_id=turn.turn_id,
                user_message=user_message,
                answer=answer,
                client_message_id=turn.client_message_id,
                expires_at=expires_at,
                now=self._clock.now(),
                create=live.record if live.provisional else None,
                queued=queued,
                edits=place.edits,
                regenerates=place.regenerates,
                carried=tuple(carried),
            )
        )
        if isinstance(started, Duplicate):
            return started.turn_id
        told = activity_of(started.record) | settings_of(live)
        self._manager.made_durable(live)
        live.queued.pop(turn.turn_id, None)
        live.begin_fence(started.fence)
        live.record = started.record
        if place.branch is not None:
            live.change_branch(place.branch.messages, place.branch.has_more)
        else:
            self._manager.lighten(live)
        history = tuple(live.state.current_messages())
        sid = live.key.session_id
        told_first: list[ev.Event] = [ev.MessageCreated(sid, user_message, turn.turn_id)]
        if place.regenerates is not None:  # the message stands there already
            history, told_first = history[:-1], []
        older_id = history[0].parent_id if history else user_message.parent_id
        history += tuple(carried)
        live.append_together(
            *told_first,
            ev.MessageCreated(sid, answer, turn.turn_id),
            *(ev.MessageCreated(sid, message) for message in carried),
            ev.SessionUpdated(sid, told),
            ev.TurnStarted(sid, turn.turn_id, answer.id),
        )

        checkpoints = self._checkpoints
        counts = self._ends.counts
        counts.started += 1
        on_first = counts.first_token_of(entry.settings.id).observe
        run = Run(
            live, turn.turn_id, user_message, answer, principal, checkpoints.flush_soon, checkpoints.commit, on_first
        )
        run.tools = TurnTools(run, self._servers, self._settings, self._clock)
        self._under_way.began(run)
        if self._under_way.closing:  # the drain looked for runs while this one was being committed
            run.finish("interrupted")
        # One task runs the agent and nearly always ends the turn too; where something else decides the outcome, or the
        # agent does not come to its end after it, another one has to.
        run.pump = self._supervisor.spawn(self._run(run, entry, history, older_id), f"turn/{turn.turn_id}")
        run.outcome.add_done_callback(lambda _: self._decided(run))
        return turn.turn_id

    async def _run(self, run: Run, entry: Entry, recent: tuple[Message, ...], older_id: str | None) -> None:
        """Run the agent, and end the turn where that is still to be done.

        Args:
            recent: the newest messages before the turn's.
            older_id: the message before those; None where there is none.
        """

        async def history() -> tuple[Message, ...]:
            return await full_history(self._store, run.live, recent, older_id, entry.settings)

        timeout = asyncio.get_running_loop().call_later(
            self._settings.turn_timeout_seconds,
            run.finish,
            "failed",
            TurnError(code="turn_timeout", title="The answer took too long"),
        )
        try:
            await pump(run, entry, history, self._settings, self._pace, self._log)
        finally:
            timeout.cancel()
        if not run.closed:
            run.close()
            await self._end(run)

    def _decided(self, run: Run) -> None:
        if run.closed:
            return
        try:
            self._supervisor.start(self._stop(run), f"end/{run.turn_id}")
        except Unavailable:  # the supervisor closed, and cancelled the agent; the store's sweep ends the turn
            self._forget(run)

    async def _stop(self, run: Run) -> None:
        """End the turn whatever its agent does, and then see the agent to its end."""
        agent = run.pump
        if run.closed or agent is None:
            return
        run.close()
        if not agent.done() and not run.agent_closing:
            agent.cancel()
        await self._end(run)
        if not agent.done():
            await asyncio.wait({agent}, timeout=self._settings.agent_cancel_grace_seconds)
            if not agent.done():
                agent.cancel()  # one that cleans up had its time; one that swallowed a cancel gets another
                self._log.warning("agent_ignores_cancellation", model=run.answer.model)

    async def _end(self, run: Run) -> None:
        """Commit and tell the end of a run that is closed. Only the supervisor's close cancels it; the store's sweep
        ends the turn then."""
        live = run.live
        try:
            async with live.lock:
                try:
                    await self._ends.end(run, run.outcome.result())
                finally:
                    self._forget(run)
                await self._on_end(live)
        finally:
            self._forget(run)
        self._on_ended(run)

    def _forget(self, run: Run) -> None:
        self._checkpoints.forget(run)
        self._under_way.ended(run)
