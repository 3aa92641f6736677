"""TurnRunner: from an accepted message to its one terminal event.

Invariants:

- A turn belongs to this runner's supervisor, never to a request: admissions run in tasks of their own, so a client
  that goes away in the middle of a commit leaves nothing half done (spec L9).
- The user's message is committed before anything is answered or told; the terminal state is committed before its
  event is appended; the next turn starts after that. Each turn has exactly one `turn.ended`, whatever fails.
- At most one turn runs per session. Changes that commit hold the session's lock; `interrupt` needs none, so it never
  queues behind anything.
- A store that can't take a terminal state is tried for `TERMINAL_RETRY_SECONDS`; then the turn ends as failed, its
  text stays in memory (`unsaved`) and must be committed before the session goes on.
- A queue that can't go on (the store is away) rests: it stays stored, and every checkpoint tries it again.

It iterates no agent (pump.py), and knows no HTTP, no ownership and no catalogue rules (session_service.py).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, cast

from structlog.typing import FilteringBoundLogger

from chatserver import events as ev
from chatserver.agents.base import ToolServers
from chatserver.clock import Clock, rfc3339
from chatserver.config import Settings
from chatserver.errors import (
    ChatServerError,
    Conflict,
    Draining,
    NotFound,
    RateLimited,
    StoreCorrupt,
    StoreFull,
    Unavailable,
)
from chatserver.flush_pace import FlushPace
from chatserver.message import Message
from chatserver.principal import Kind, Principal
from chatserver.pump import Entry, pump
from chatserver.run import Run
from chatserver.session_manager import LiveSession, SessionManager
from chatserver.store.base import Duplicate, FinishTurn, SessionKey, StartTurn, Store, StoredTurn
from chatserver.tasks import Supervisor
from chatserver.turn_tools import TurnTools

OnBusy = Literal["queue", "reject", "interrupt"]
T = TypeVar("T")

# A disk that is full for longer than this is not waited for with the tab still saying "generating".
TERMINAL_RETRY_SECONDS = 5.0
# How long a queued turn that finds the server full, or the store away, waits before it is tried again.
RESUME_SECONDS = 0.5

ResolveModel = Callable[[str | None], Entry]


@dataclass(frozen=True, slots=True)
class NewTurn:
    """An accepted message.

    `expires_at` (seconds since the epoch) is the session's expiry after this activity. `switch` is what tabs are told
    of a model that comes with the message: the session gets it when the message is accepted, not before.
    """

    text: str
    principal: Principal
    client_message_id: str | None
    on_busy: OnBusy
    expires_at: float
    metadata: Mapping[str, Any]
    switch: Mapping[str, Any] | None = None


class TurnRunner:
    """See the module."""

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
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._store = store
        self._manager = manager
        self._resolve_model = resolve_model
        self._servers = servers
        self._supervisor = supervisor
        self._log = log
        self._runs: set[Run] = set()
        self._dirty: set[Run] = set()
        self._unsaved: set[LiveSession] = set()
        self._resting: set[LiveSession] = set()
        self._withdrawing: set[str] = set()  # queued turns that must not start any more
        self._changes = 0
        self._flush_timer: asyncio.TimerHandle | None = None
        self._flush_due = 0.0
        self._pace = FlushPace(settings.flush_interval_seconds, settings.flush_interval_busy_seconds)
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False
        self.draining = False

    @property
    def running(self) -> int:
        """Turns running now."""
        return len(self._runs)

    # --- admission ---

    async def protect(self, live: LiveSession, work: Coroutine[Any, Any, T], name: str) -> T:
        """Run a change of a session to its end even if the caller goes away.

        Cancelling the caller is safe: the change goes on, pinned, in a task of its own.
        """
        try:
            task = self._supervisor.spawn(_refusable(work), name)
        except Unavailable:
            work.close()
            raise Draining() from None
        live.pins += 1
        self._changes += 1
        self._idle.clear()
        task.add_done_callback(lambda _: self._changed(live))
        try:
            result = await asyncio.shield(task)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if task.cancelled() and caller is not None and not caller.cancelling():
                raise Draining() from None  # the supervisor closed under it; nobody cancelled the caller
            raise
        if isinstance(result, _Refused):
            raise result.error
        return result

    def _changed(self, live: LiveSession) -> None:
        self._manager.unpin(live)
        self._changes -= 1
        self._check_idle()

    def _check_idle(self) -> None:
        if not self._runs and not self._changes:
            self._idle.set()

    @staticmethod
    def _check_there(live: LiveSession) -> None:
        if live.removed or live.deletions:
            raise NotFound("the session was deleted", code="session_not_found")

    async def send(self, live: LiveSession, new: NewTurn) -> str:
        """Commit a message and start or queue its turn; returns the turn's id.

        Raises:
            Draining, Unavailable (`too_many_turns`), Conflict (`busy`), RateLimited (`queue_full`), and what the
            store raises; nothing is accepted then.
        """
        if self.draining:
            raise Draining()
        return await self.protect(live, self._send(live, new), "send")

    async def _send(self, live: LiveSession, new: NewTurn) -> str:
        async with live.lock:
            self._check_there(live)
            if self.draining:  # since this began to wait
                raise Draining()
            turn_id = self._clock.new_id()
            message = self._message("user", new.text, metadata=new.metadata)
            idle = live.run is None and not live.queued
            switch = new.switch if new.switch is not None and new.switch["model"] != live.record.model else None
            # An idle session's start finds a repetition by itself, in the statement that commits it.
            if new.client_message_id is not None and not (idle and switch is None):
                known = await self._store.find_turn(live.key, new.client_message_id)
                if known is not None:
                    return known
            self._check_room(live, new.on_busy, idle=idle)
            if switch is not None:
                await self._change(live, {"model": switch["model"]}, switch)
            if idle:
                return await self._start(live, turn_id, message, new.client_message_id, new.principal, new.expires_at)
            if live.run is None:  # a queue that rests; the fence first, so that nothing is queued when there is none
                await self._new_fence(live, {})
            first = new.on_busy == "interrupt"
            turn = StoredTurn(turn_id, message, new.client_message_id, _principal_options(new.principal))
            duplicate = await self._store.enqueue_turn(
                live.key, turn, first=first, expires_at=new.expires_at, now=self._clock.now()
            )
            if duplicate is not None:
                return duplicate.turn_id
            live.record = replace(live.record, expires_at=new.expires_at)
            live.append(ev.SessionUpdated(live.key.session_id, {"expires_at": rfc3339(new.expires_at)}))
            live.queued = {turn_id: turn, **live.queued} if first else {**live.queued, turn_id: turn}
            place = 1 if first else len(live.queued)
            live.append(ev.TurnQueued(live.key.session_id, turn_id, message.id, place, message))
            if live.run is None:
                await self._start_next(live)
            elif first:
                live.run.finish("interrupted")
            return turn_id

    def _check_room(self, live: LiveSession, on_busy: OnBusy, *, idle: bool) -> None:
        if idle:
            if len(self._runs) >= self._settings.max_running_turns:
                raise Unavailable("too many turns are running on this server", code="too_many_turns")
        elif on_busy == "reject" and live.run is not None:
            raise Conflict("a turn is running in this session", code="busy")
        elif len(live.queued) >= self._settings.queue_limit:
            raise RateLimited(
                f"{self._settings.queue_limit} messages are waiting in this session already", code="queue_full"
            )

    def _message(self, role: Literal["user", "system", "assistant"], text: str, **fields: Any) -> Message:
        """A fresh message behind everything said so far; its parent is set when it enters the branch."""
        status: Literal["streaming", "completed"] = "streaming" if role == "assistant" else "completed"
        return Message(
            id=self._clock.new_id(),
            parent_id=fields.pop("parent_id", None),
            role=role,
            content=text,
            status=status,
            model=fields.pop("model", None),
            created_at=rfc3339(self._clock.now()),
            **fields,
        )

    async def _start(
        self,
        live: LiveSession,
        turn_id: str,
        user_message: Message,
        client_message_id: str | None,
        principal: Principal,
        expires_at: float,
        *,
        queued: bool = False,
    ) -> str:
        """Commit the start of a turn and run it; the lock is held."""
        await self._settle_unsaved(live)
        entry = self._resolve_model(live.record.model)
        user_message = replace(user_message, parent_id=live.state.leaf_id())
        answer = self._message("assistant", "", parent_id=user_message.id, model=entry.settings.id)
        started = await self._store.start_turn(
            StartTurn(
                key=live.key,
                turn_id=turn_id,
                user_message=user_message,
                answer=answer,
                client_message_id=client_message_id,
                expires_at=expires_at,
                now=self._clock.now(),
                create=live.record if live.provisional else None,
                queued=queued,
            )
        )
        if isinstance(started, Duplicate):
            return started.turn_id
        told = _activity(started.record) | _settings_of(live)
        self._manager.made_durable(live)
        live.queued.pop(turn_id, None)
        history = tuple(live.state.current_messages())
        live.begin_fence(started.fence)
        sid = live.key.session_id
        live.record = started.record
        live.append_together(
            ev.MessageCreated(sid, user_message, turn_id),
            ev.MessageCreated(sid, answer, turn_id),
            ev.SessionUpdated(sid, told),
            ev.TurnStarted(sid, turn_id, answer.id),
        )

        run = Run(live, turn_id, user_message, answer, principal, self._flush_soon, self._checkpoint_one)
        run.tools = TurnTools(run, self._servers, self._settings, self._clock)
        live.run = run
        live.pins += 1
        self._runs.add(run)
        self._idle.clear()
        if self._closing:  # the drain looked for runs while this one was being committed
            run.finish("interrupted")
        self._supervisor.start(self._drive(run, entry, history), f"turn/{turn_id}")
        return turn_id

    # --- a turn's life ---

    async def _drive(self, run: Run, entry: Entry, history: tuple[Message, ...]) -> None:
        """See a turn to its end; the one place that ends it."""
        live = run.live
        agent = pump(run, entry, history, self._settings, self._pace, self._log)
        run.pump = self._supervisor.spawn(agent, f"agent/{run.turn_id}")
        timeout = asyncio.get_running_loop().call_later(
            self._settings.turn_timeout_seconds,
            run.finish,
            "failed",
            {"code": "turn_timeout", "title": "The answer took too long"},
        )
        try:
            outcome = await asyncio.shield(run.outcome)
        except asyncio.CancelledError:  # only the supervisor's close does this; the store's sweep ends the turn
            self._forget(run)
            raise
        finally:
            timeout.cancel()
        run.close()
        if not run.pump.done() and not run.agent_closing:
            run.pump.cancel()
        async with live.lock:
            try:
                await self._end(run, outcome)
            finally:
                self._forget(run)
            await self._start_next(live)
        if not run.pump.done():
            await asyncio.wait({run.pump}, timeout=self._settings.agent_cancel_grace_seconds)
            if not run.pump.done():
                run.pump.cancel()  # one that cleans up had its time; one that swallowed a cancel gets another
                self._log.warning("agent_ignores_cancellation", model=entry.settings.id)

    async def _end(self, run: Run, outcome: Literal["completed", "interrupted", "failed"]) -> None:
        """Commit the terminal state, then tell it."""
        live, error = run.live, run.error
        if live.removed:
            return
        current = live.state.message(run.answer_id) or run.answer
        answer = replace(current, status=outcome, usage=run.usage)
        if error is not None:
            answer = replace(answer, metadata={**answer.metadata, "error": error})
        finish = FinishTurn(live.key, run.turn_id, answer, outcome, run.usage, self._clock.now())
        if not await self._commit_end(finish):
            outcome = "failed"
            error = {"code": "store_unavailable", "title": "The answer could not be saved"}
            answer = replace(answer, status="failed", metadata={**answer.metadata, "error": error})
            live.unsaved = replace(finish, answer=answer, outcome=outcome)
            self._unsaved.add(live)
        if error is not None:
            live.append(ev.MessageUpdated(run.session_id, replace(answer, status="streaming", usage=None), run.turn_id))
        live.append(ev.TurnEnded(run.session_id, run.turn_id, run.answer_id, outcome, run.usage, error))
        self._manager.remeasure(live)

    async def _commit_end(self, finish: FinishTurn) -> bool:
        """Commit a terminal state, trying again while the store is away; False when it stays away."""
        delay, deadline = 0.05, self._clock.monotonic() + TERMINAL_RETRY_SECONDS
        while True:
            try:
                await self._store.finish_turn(finish)
                return True
            except NotFound:
                return True  # deleted under it: there is nothing to end
            except (Unavailable, StoreFull, StoreCorrupt) as error:
                if self._clock.monotonic() + delay > deadline:
                    self._log.error("turn_end_not_saved", code=error.narrow_code, turn_id=finish.turn_id)
                    return False
                await self._clock.sleep(delay)
                delay = min(delay * 2, 1.0)
            except Exception as error:  # the turn's border: a store's bug must not leave a turn that never ends
                self._log.error("turn_end_not_saved", turn_id=finish.turn_id, exc_info=error)
                return False

    async def _settle_unsaved(self, live: LiveSession) -> None:
        """Commit a terminal state that could not be committed before; raises what the store raises."""
        if live.unsaved is not None:
            if not live.removed:
                await self._store.finish_turn(live.unsaved)
            self._forget_unsaved(live)

    def _forget_unsaved(self, live: LiveSession) -> None:
        live.unsaved = None
        self._unsaved.discard(live)

    def _forget(self, run: Run) -> None:
        if run in self._runs:
            self._runs.discard(run)
            self._dirty.discard(run)
            run.live.run = None
            self._manager.unpin(run.live)
        if not run.ended.done():
            run.ended.set_result(None)
        self._check_idle()

    async def _start_next(self, live: LiveSession) -> None:
        """Start the session's next queued turn; the lock is held. One that can't be started rests, and is logged once
        however often it is tried."""
        turn = next((t for t in live.queued.values() if t.turn_id not in self._withdrawing), None)
        if turn is None or live.run is not None or live.removed or live.deletions or self.draining:
            self._resting.discard(live)
            return
        try:
            await self._start(
                live,
                turn.turn_id,
                turn.message,
                turn.client_message_id,
                _principal_of(live.key, turn.options),
                live.record.expires_at,
                queued=True,
            )
            self._resting.discard(live)
        except Exception as error:  # the turn's border too: nobody waits for this who could be told
            if live not in self._resting:
                expected = isinstance(error, ChatServerError)
                self._log.error("queued_turn_not_started", turn_id=turn.turn_id, exc_info=None if expected else error)
            self._resting.add(live)

    # --- flushing and checkpoints ---

    def _flush_soon(self, run: Run) -> None:
        self._dirty.add(run)
        if self._flush_timer is None:
            loop = asyncio.get_running_loop()
            self._flush_due = loop.time() + self._pace.interval_seconds
            self._flush_timer = loop.call_at(self._flush_due, self._flush)

    def _flush(self) -> None:
        self._flush_timer = None
        now = asyncio.get_running_loop().time()
        self._pace.look(now, now - self._flush_due)
        dirty, self._dirty = self._dirty, set()
        for run in dirty:
            run.flush(now)

    async def _checkpoint(self, runs: list[Run]) -> None:
        """Commit what these runs gained, in one transaction; kept for the next time where the store is away."""
        taken = [(run, chunk) for run in runs for chunk in run.take_chunks()]
        if not taken:
            return
        try:
            await self._store.checkpoint([chunk for _, chunk in taken])
        except BaseException as error:
            # After a cancel too, which decides nothing: an agent may have given up on a tool call and go on without it.
            for run, chunk in taken:
                run.unsent.append(chunk)
            if not isinstance(error, Exception):
                raise
            # The turn's border: one failure must not end the checkpoints of all turns.
            expected = isinstance(error, ChatServerError)
            self._log.warning("checkpoint_failed", chunks=len(taken), exc_info=None if expected else error)

    async def _checkpoint_one(self, run: Run) -> None:
        await self._checkpoint([run])

    async def checkpoints(self) -> None:
        """Checkpoint all running turns for ever; owned by the application. Cancelling is safe."""
        while True:
            await self._clock.sleep(self._settings.checkpoint_interval_seconds)
            await self._checkpoint(list(self._runs))
            await self._catch_up()

    async def _catch_up(self) -> None:
        """Do what failed before: commit the ends of turns that are told but not saved, start queues that rest."""
        for live in {*self._unsaved, *self._resting}:
            if live.lock.locked():
                continue  # whoever holds it may wait long for the store; the other turns' checkpoints must not
            async with live.lock:
                try:
                    await self._settle_unsaved(live)
                except ChatServerError:
                    return  # one that fails tells for all
                except Exception as error:  # the turn's border: what can't be saved must not stop the checkpoints
                    self._log.error("turn_end_not_saved", turn_id=live.unsaved.turn_id, exc_info=error)
                    continue
                await self._start_next(live)

    # --- other changes of a session ---

    async def interrupt(self, live: LiveSession, turn_id: str | None, *, clear_queue: bool) -> None:
        """Stop the running turn and wait until it has ended; idle: nothing. Idempotent.

        Args:
            turn_id: only that turn; None for whichever runs.
        Cancelling the caller does not take the stop back.
        """
        run: Run | None = live.run
        # Marked before the turn is stopped, since its end starts the next.
        doomed = list(live.queued) if clear_queue else []
        self._withdrawing.update(doomed)
        if run is not None and (turn_id is None or run.turn_id == turn_id):
            run.finish("interrupted")
        if doomed:
            await self.protect(live, self._clear_queue(live, doomed), "clear-queue")
        if run is not None and run.outcome.done():
            await asyncio.wait({run.ended}, timeout=TERMINAL_RETRY_SECONDS + 1)

    async def withdraw(self, live: LiveSession, turn_id: str) -> bool:
        """Take a queued message back; False where it is not queued (any more)."""
        return await self.protect(live, self._withdraw(live, turn_id), "withdraw")

    async def _withdraw(self, live: LiveSession, turn_id: str) -> bool:
        async with live.lock:
            return await self._take_back(live, turn_id)

    async def _clear_queue(self, live: LiveSession, doomed: list[str]) -> None:
        async with live.lock:
            try:
                for turn_id in doomed:
                    await self._take_back(live, turn_id)
            finally:
                self._withdrawing.difference_update(doomed)
                await self._start_next(live)  # what was queued meanwhile, or could not be taken back

    async def _take_back(self, live: LiveSession, turn_id: str) -> bool:
        """Withdraw one queued turn; the lock is held."""
        turn = live.queued.get(turn_id)
        if turn is None:
            return False
        if live.run is None:  # a queue that rests; the fence first, so that what is withdrawn can be told
            await self._new_fence(live, {})
        await self._store.withdraw_turn(live.key, turn_id)
        del live.queued[turn_id]
        live.append(ev.TurnEnded(live.key.session_id, turn_id, turn.message.id, "interrupted"))
        return True

    async def add_message(
        self,
        live: LiveSession,
        role: Literal["user", "assistant", "system"],
        text: str,
        expires_at: float,
        metadata: Mapping[str, Any],
    ) -> Message:
        """Commit a message outside a turn and tell it; works during a turn."""
        return await self.protect(live, self._add_message(live, role, text, expires_at, metadata), "add_message")

    async def _add_message(
        self,
        live: LiveSession,
        role: Literal["user", "assistant", "system"],
        text: str,
        expires_at: float,
        metadata: Mapping[str, Any],
    ) -> Message:
        async with live.lock:
            self._check_there(live)
            message = replace(
                self._message(role, text, metadata=metadata), status="completed", parent_id=live.state.leaf_id()
            )
            running = live.run is not None
            record = await self._store.add_message(
                live.key,
                message,
                create=live.record if live.provisional else None,
                new_fence=not running,
                expires_at=expires_at,
                now=self._clock.now(),
            )
            told = _activity(record) | _settings_of(live)
            self._manager.made_durable(live)
            live.record = record
            if live.run is None:
                live.begin_fence(record.fence)
            sid = live.key.session_id
            live.append_together(ev.MessageCreated(sid, message), ev.SessionUpdated(sid, told))
            self._manager.remeasure(live)
            return message

    async def update(self, live: LiveSession, changes: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        """Change the session's record and tell it.

        Args:
            changes: columns of the record; empty for a change that only tabs see, which is none where they see it.
            told: the fields of `session.updated`.
        """
        await self.protect(live, self._update(live, changes, told), "update")

    async def _update(self, live: LiveSession, changes: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        async with live.lock:
            self._check_there(live)
            # Looked at only now: what waited for the lock may have been asked for to undo what is told just before.
            if not changes and all(getattr(live.state, name) == value for name, value in told.items()):
                return
            await self._change(live, changes, told)

    async def _change(self, live: LiveSession, changes: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        """Commit changes of the record and tell them; the lock is held."""
        settings = _settings_of(live)
        await self._new_fence(live, changes)
        live.append(ev.SessionUpdated(live.key.session_id, settings | dict(told)))
        self._manager.remeasure(live)

    async def _new_fence(self, live: LiveSession, changes: Mapping[str, Any]) -> None:
        """Commit changes, under a fence of their own while no turn runs; the lock is held."""
        running = live.run is not None
        if running and not changes:
            return
        if live.provisional:
            await self._store.create_session(live.record)
            self._manager.made_durable(live)
        record = await self._store.update_session(live.key, changes, new_fence=not running, now=self._clock.now())
        live.record = record
        if live.run is None:
            live.begin_fence(record.fence)

    async def delete(self, live: LiveSession) -> bool:
        """Remove the session everywhere: stops its turn, ends its streams with `session.deleted`. Idempotent."""
        return await self.protect(live, self._delete(live), "delete")

    async def _delete(self, live: LiveSession) -> bool:
        live.deletions += 1
        try:
            while True:
                run: Run | None = live.run
                if run is not None:
                    run.finish("interrupted")
                    await asyncio.wait({run.ended}, timeout=self._settings.delete_grace_seconds)
                async with live.lock:
                    if live.removed:
                        return False
                    if live.run is not None and live.run is not run:
                        continue  # its start was being committed when this began
                    existed = await self._delete_now(live)
                    break
        finally:
            live.deletions -= 1
            if not live.removed and live.queued:
                self._resting.add(live)  # the store is away; what was held back may go on
        await self._servers.close_session(live.key)
        return existed

    async def _delete_now(self, live: LiveSession) -> bool:
        """Remove it from the store, tell it, remove it from memory; the lock is held."""
        existed = await self._store.delete_session(live.key)
        run: Run | None = live.run
        if run is not None:  # its end could not be committed in time, and need not be any more
            run.close()
            live.append(ev.TurnEnded(run.session_id, run.turn_id, run.answer_id, "interrupted", run.usage))
        live.queued.clear()
        self._forget_unsaved(live)
        self._resting.discard(live)
        if not live.provisional:
            live.begin_fence(live.fence + 1)  # the store leaves this one out, should the session be made anew
        live.append(ev.SessionDeleted(live.key.session_id))
        self._manager.remove(live)
        return existed

    def resolve_approval(self, live: LiveSession, approval_id: str, decision: Literal["approved", "denied"]) -> bool:
        """A person's answer; False where no such approval waits (any more)."""
        run: Run | None = live.run
        return run is not None and run.tools.resolve(approval_id, decision)

    # --- start and stop ---

    async def recover(self) -> int:
        """Once, at start: end what a crash left running and take up what it left queued; how many were ended."""
        found = await self._store.recover(self._clock.now())
        if found.queued:
            self._supervisor.start(self._resume_queues(found.queued), "resume-queues")
        return found.interrupted

    async def _resume_queues(self, keys: tuple[SessionKey, ...]) -> None:
        waiting = deque(keys)
        while waiting and not self.draining:
            if len(self._runs) >= self._settings.max_running_turns:
                await self._clock.sleep(RESUME_SECONDS)
                continue
            key = waiting.popleft()
            try:
                live = await self._manager.pin(key)
            except ChatServerError as error:  # one that can't be read now must not hold up the others
                self._log.error("queue_not_resumed", code=error.narrow_code)
                waiting.append(key)
                await self._clock.sleep(RESUME_SECONDS)
                continue
            if live is None:
                continue
            try:
                async with live.lock:
                    await self._start_next(live)
            finally:
                self._manager.unpin(live)

    async def drain(self, seconds: float) -> None:
        """Accept nothing new, give running turns `seconds`, then interrupt and commit them. Idempotent."""
        self.draining = True
        if not await self._until_idle(seconds):
            self._log.info("drain_interrupts", turns=len(self._runs))
        self._closing = True
        for run in list(self._runs):
            run.finish("interrupted")
        await self._until_idle(TERMINAL_RETRY_SECONDS + 1)
        await self._catch_up()
        if self._unsaved:
            self._log.error("turn_ends_lost", turns=len(self._unsaved))

    async def _until_idle(self, seconds: float) -> bool:
        """Wait until no turn runs and no change is under way; False where that takes longer."""
        try:
            async with asyncio.timeout(max(seconds, 0)):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class _Refused:
    """What a change raises on purpose, as its task's result: a refusal is an answer, not a crash of that task."""

    error: ChatServerError


async def _refusable(work: Coroutine[Any, Any, T]) -> T | _Refused:
    try:
        return await work
    except ChatServerError as error:
        return _Refused(error)


def _activity(record: Any) -> dict[str, Any]:
    """What a message changes of the record, as tabs and lists see it."""
    return {
        "message_count": record.message_count,
        "expires_at": rfc3339(record.expires_at),
        "updated_at": rfc3339(record.updated_at),
    }


def _settings_of(live: LiveSession) -> dict[str, Any]:
    """What a session's first durable event tells besides: a tab may know an earlier provisional one of that name, at
    the same position, whose settings were others. Empty for a durable one."""
    if not live.provisional:
        return {}
    state = live.state
    return {
        "title": state.title,
        "project_id": state.project_id,
        "model": state.model,
        "missing_api_key": state.missing_api_key,
    }


def _principal_options(principal: Principal) -> dict[str, Any]:
    return {"kind": principal.kind, "user_id": principal.user_id}


def _principal_of(key: SessionKey, options: Mapping[str, Any]) -> Principal:
    return Principal(key.tenant, cast(Kind, options.get("kind", "none")), options.get("user_id"))
