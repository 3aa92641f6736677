"""TurnRunner: takes messages in, and says when their turns start and stop.

Invariants:

- Changes that commit hold the session's lock; `interrupt` needs none, so it never queues behind anything.
- The next turn starts after the end of the one before has been committed and told.
- A queue that can't go on (the store is away) rests: it stays stored, and every checkpoint tries it again.

What a turn does between start and end is turn_life.py's; it knows no HTTP, no ownership and no catalogue rules
(session_service.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Literal

from structlog.typing import FilteringBoundLogger

from chatserver.agents.base import ToolServers
from chatserver.branches import Branches
from chatserver.checkpoints import Checkpoints
from chatserver.clock import Clock
from chatserver.config import Settings
from chatserver.counts import TurnCounts
from chatserver.errors import ChatServerError, Conflict, Draining, RateLimited, Unavailable
from chatserver.flush_pace import FlushPace
from chatserver.live_session import LiveSession
from chatserver.message import Message
from chatserver.new_turn import NewTurn, OnBusy, principal_of
from chatserver.quotas import Quotas
from chatserver.run import Run
from chatserver.session_adoption import SessionAdoption
from chatserver.session_changes import SessionChanges, check_there, new_message
from chatserver.session_deletion import SessionDeletion
from chatserver.session_manager import SessionManager
from chatserver.session_rules import check_project
from chatserver.store.base import SessionKey, SessionRecord, Store, StoredTurn
from chatserver.tasks import Supervisor
from chatserver.turn_ends import TurnEnds
from chatserver.turn_life import ResolveModel, TurnLife
from chatserver.turn_queue import TurnQueue
from chatserver.turn_upkeep import END_SECONDS, TurnUpkeep
from chatserver.under_way import UnderWay


class TurnRunner:
    """See the module.

    `changes` are those of sessions outside their turns, `branches` those of which branch is the active one.

    Args:
        on_ended: told of each turn that has ended; must neither wait nor raise.
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
        on_ended: Callable[[Run], None],
        quotas: Quotas,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._store = store
        self._log = log
        self._quotas = quotas
        self._under_way = UnderWay(supervisor, manager)
        self.changes = SessionChanges(clock, store, manager, self._under_way)
        self._queue = TurnQueue(clock, store, self.changes)
        self._ends = TurnEnds(clock, store, manager, log)
        self.branches = Branches(store, manager, self._under_way, self._ends, settings.message_page_bytes)
        self._adoption = SessionAdoption(clock, store, manager)
        self._deletion = SessionDeletion(settings, store, manager, servers, self._ends, self._queue)
        pace = FlushPace(settings.flush_interval_seconds, settings.flush_interval_busy_seconds)
        checkpoints = Checkpoints(store, pace, log)
        self._life = TurnLife(
            settings,
            clock,
            store,
            manager,
            resolve_model,
            servers,
            supervisor,
            log,
            self._under_way,
            self._ends,
            self.branches,
            checkpoints,
            pace,
            on_end=self._start_next,
            on_ended=on_ended,
        )
        self._upkeep = TurnUpkeep(
            settings,
            clock,
            store,
            manager,
            supervisor,
            log,
            self._under_way,
            self._ends,
            self._queue,
            checkpoints,
            start_next=self._start_next,
        )

    @property
    def running(self) -> int:
        """Turns running now."""
        return len(self._under_way.runs)

    @property
    def waiting(self) -> int:
        """Messages in the queues of sessions in memory."""
        lives = {run.live for run in self._under_way.runs} | self._queue.resting
        return sum(len(live.queued) for live in lives)

    @property
    def written(self) -> int:
        """Characters of running answers so far."""
        return sum(run.live.state.answer_characters for run in self._under_way.runs)

    @property
    def counts(self) -> TurnCounts:
        """Turns since the start."""
        return self._ends.counts

    @property
    def draining(self) -> bool:
        """Whether nothing new is taken any more."""
        return self._under_way.draining

    # --- taking in ---

    async def send(self, live: LiveSession, new: NewTurn) -> str:
        """Commit a message and start or queue its turn; returns the turn's id.

        Raises:
            Draining, Unavailable (`too_many_turns`), Conflict (`busy`), RateLimited (`queue_full`), QuotaExceeded, what
            `Branches.check_editable` and `question_of` raise, and what the store raises; nothing is accepted then.
        """
        if self.draining:
            raise Draining()
        return await self._under_way.protect(live, self._send(live, new), "send")

    async def _send(self, live: LiveSession, new: NewTurn) -> str:
        async with live.lock:
            check_there(live)
            check_project(live, new.project_id)
            if self.draining:  # since this began to wait
                raise Draining()
            idle = live.run is None and not live.queued
            told = new.settings_for(live.record)
            # An idle session's start finds a repetition by itself, in the statement that commits it. That of an edit
            # has to be found before it can be refused for what it did the first time.
            if new.client_message_id is not None and not (idle and not told and new.edits is None):
                known = await self._store.find_turn(live.key, new.client_message_id)
                if known is not None:
                    return known
            self._check_room(live, new.on_busy, idle=idle)
            spent = await self._quotas.exceeded(live.key.tenant, live.record.owner)
            if spent is not None:
                # A repetition is answered as the first time, when there was enough; perhaps it took the rest.
                known = new.client_message_id and await self._store.find_turn(live.key, new.client_message_id)
                if known:
                    return known
                raise spent
            message = await self._message_of(live, new)
            turn = StoredTurn(self._clock.new_id(), message, new.client_message_id, new.options())
            if told:
                await self.changes.change(live, {k: told[k] for k in ("model", "project_id") if k in told}, told)
            if idle:
                return await self._life.start(live, turn, new.principal, new.expires_at, queued=False)
            first = new.on_busy == "interrupt"
            duplicate = await self._queue.put(live, turn, first=first, expires_at=new.expires_at)
            if duplicate is not None:
                return duplicate.turn_id
            if live.run is None:
                await self._start_next(live)
            elif first:
                live.run.finish("interrupted")
            return turn.turn_id

    async def _message_of(self, live: LiveSession, new: NewTurn) -> Message:
        """What the turn is to answer. Raises: NotFound, Conflict: what it refers to does not allow it."""
        if new.regenerates is not None:
            return await self.branches.question_of(live, new.regenerates)
        if new.edits is not None:
            await self.branches.check_editable(live, new.edits)
        return new_message(self._clock, "user", new.text, metadata=new.metadata)

    def _check_room(self, live: LiveSession, on_busy: OnBusy, *, idle: bool) -> None:
        if idle:
            if not self._under_way.has_room(live.key.tenant, self._settings.max_running_turns):
                raise Unavailable("too many turns are running on this server", code="too_many_turns")
        elif on_busy == "reject" and live.run is not None:
            raise Conflict("a turn is running in this session", code="busy")
        elif len(live.queued) >= self._settings.queue_limit:
            limit = self._settings.queue_limit
            raise RateLimited(f"{limit} messages are waiting in this session already", limit=limit, code="queue_full")

    async def _start_next(self, live: LiveSession) -> None:
        """Start the session's next queued turn; the lock is held. One that can't be started rests, and is logged once
        however often it is tried."""
        turn = self._queue.next_of(live)
        if turn is None or live.run is not None or live.removed or live.deletions or self.draining:
            self._queue.resting.discard(live)
            return
        try:
            principal = principal_of(live.key, turn.options)
            with self._under_way.counted():  # a drain that begins meanwhile gives this turn its time, too
                spent = await self._quotas.exceeded(live.key.tenant, live.record.owner)
                await self._life.start(live, turn, principal, live.record.expires_at, queued=True, refusal=spent)
            self._queue.resting.discard(live)
        except Exception as error:  # the turn's border too: nobody waits for this who could be told
            if live not in self._queue.resting:
                expected = isinstance(error, ChatServerError)
                self._log.error("queued_turn_not_started", turn_id=turn.turn_id, exc_info=None if expected else error)
            self._queue.resting.add(live)

    # --- stopping and taking back ---

    async def interrupt(self, live: LiveSession, turn_id: str | None, *, clear_queue: bool) -> None:
        """Stop the running turn and wait until it has ended; idle: nothing. Idempotent.

        Args:
            turn_id: only that turn; None for whichever runs.
        Cancelling the caller does not take the stop back.
        """
        run: Run | None = live.run
        # Marked before the turn is stopped, since its end starts the next.
        doomed = list(live.queued) if clear_queue else []
        self._queue.doom(doomed)
        if run is not None and (turn_id is None or run.turn_id == turn_id):
            run.finish("interrupted")
        if doomed:
            begun = await self._under_way.protect(live, self._clear_queue(live, doomed), "clear-queue")
            run = run or begun
        if run is not None and run.outcome.done():
            await asyncio.wait({run.ended}, timeout=END_SECONDS)

    async def _clear_queue(self, live: LiveSession, doomed: list[str]) -> Run | None:
        """Take these back; one whose start was being committed is stopped, and its run returned."""
        async with live.lock:
            run: Run | None = live.run
            begun = run if run is not None and run.turn_id in doomed else None
            if begun is not None:
                begun.finish("interrupted")
            try:
                for turn_id in doomed:
                    await self._queue.take_back(live, turn_id)
            finally:
                self._queue.spare(doomed)
                await self._start_next(live)  # what was queued meanwhile, or could not be taken back
            return begun

    async def withdraw(self, live: LiveSession, turn_id: str) -> bool:
        """Take a queued message back; False where it is not queued (any more)."""
        return await self._under_way.protect(live, self._withdraw(live, turn_id), "withdraw")

    async def _withdraw(self, live: LiveSession, turn_id: str) -> bool:
        async with live.lock:
            return await self._queue.take_back(live, turn_id)

    def resolve_approval(self, live: LiveSession, approval_id: str, decision: Literal["approved", "denied"]) -> bool:
        """A person's answer; False where no such approval waits (any more)."""
        run: Run | None = live.run
        return run is not None and run.tools.resolve(approval_id, decision)

    # --- what others change in a session ---

    async def add_message(
        self,
        live: LiveSession,
        role: Literal["user", "assistant", "system"],
        text: str,
        expires_at: float,
        metadata: Mapping[str, Any],
    ) -> Message:
        """Commit a message outside a turn and tell it; works during a turn."""
        return await self.changes.add_message(live, role, text, expires_at, metadata)

    async def update(self, live: LiveSession, changes: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        """Change the session's record and tell it; see `SessionChanges.update`."""
        await self.changes.update(live, changes, told)

    async def keep(self, live: LiveSession, changes: Mapping[str, Any], told: Mapping[str, Any]) -> bool:
        """Make a provisional session durable; see `SessionChanges.keep`."""
        return await self.changes.keep(live, changes, told)

    async def delete(self, live: LiveSession, *, force: bool = True) -> bool:
        """Remove the session everywhere: stops its turn, ends its streams with `session.deleted`. Idempotent.

        Args:
            force: also if it has messages.
        Raises: InvalidRequest (`session_has_messages`), and what the store raises; the session stays then.
        """
        return await self._under_way.protect(live, self._deletion.delete(live, force=force), "delete")

    async def delete_damaged(self, key: SessionKey, *, check: Callable[[SessionRecord], None], force: bool) -> bool:
        """The same of a session that cannot be loaded; see `SessionDeletion`."""
        deletion = self._deletion.delete_damaged(key, check=check, force=force)
        return await self._under_way.protect(None, deletion, "delete")

    async def adopt(self, tenant: str, from_owner: str, to_owner: str) -> int:
        """Give all sessions of one owner to another; see `SessionAdoption`."""
        return await self._under_way.protect(None, self._adoption.adopt(tenant, from_owner, to_owner), "adopt")

    # --- start, checkpoints, stop: see TurnUpkeep ---

    async def recover(self) -> int:
        """Once, at start: end what a crash left running and take up what it left queued; how many were ended."""
        return await self._upkeep.recover()

    async def checkpoints(self) -> None:
        """Checkpoint all running turns for ever; owned by the application. Cancelling is safe."""
        await self._upkeep.run()

    async def drain(self, seconds: float) -> None:
        """Accept nothing new, give running turns `seconds`, then interrupt and commit them. Idempotent."""
        await self._upkeep.drain(seconds)
