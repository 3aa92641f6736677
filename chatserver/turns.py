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

It knows no HTTP, no ownership and no catalogue rules (session_service.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeVar, cast

from structlog.typing import FilteringBoundLogger

from chatserver import events as ev
from chatserver.agents.base import Agent, AgentTurn, ModelSettings, Reasoning, Spent, Text, ToolServers
from chatserver.clock import Clock, rfc3339
from chatserver.config import Settings
from chatserver.errors import (
    AgentError,
    ChatServerError,
    Conflict,
    Draining,
    NotFound,
    RateLimited,
    StoreCorrupt,
    StoreFull,
    Unavailable,
)
from chatserver.message import Message
from chatserver.principal import Kind, Principal
from chatserver.run import Run
from chatserver.session_manager import LiveSession, SessionManager
from chatserver.store.base import Duplicate, FinishTurn, SessionKey, StartTurn, Store, StoredTurn
from chatserver.tasks import Supervisor
from chatserver.turn_tools import TurnTools

OnBusy = Literal["queue", "reject", "interrupt"]
T = TypeVar("T")

# A disk that is full for longer than this is not waited for with the tab still saying "generating".
TERMINAL_RETRY_SECONDS = 5.0
# An agent that never waits would hold the loop for ever; it is made to wait this often. A tenth of a person's blink.
SLICE_SECONDS = 0.01


class Entry(Protocol):
    """A catalogue entry as the runner needs it."""

    @property
    def agent(self) -> Agent: ...

    @property
    def settings(self) -> ModelSettings: ...

    def slot(self, tenant: str) -> AbstractAsyncContextManager[None]:
        """A place among the model's concurrent turns; waits for one."""


ResolveModel = Callable[[str | None], Entry]


@dataclass(frozen=True, slots=True)
class NewTurn:
    """An accepted message.

    `expires_at` (seconds since the epoch) is the session's expiry after this activity; `create` whether the session
    may still have to be stored.
    """

    text: str
    principal: Principal
    client_message_id: str | None
    on_busy: OnBusy
    expires_at: float
    metadata: Mapping[str, Any]


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
        self._flush_timer: asyncio.TimerHandle | None = None
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
        task.add_done_callback(lambda _: self._manager.unpin(live))
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
            if live.removed:
                raise NotFound("the session was deleted")
            turn_id = self._clock.new_id()
            message = self._message("user", new.text, metadata=new.metadata)
            if live.run is None and not live.queued:
                return await self._start(live, turn_id, message, new.client_message_id, new.principal, new.expires_at)
            if new.client_message_id is not None and (
                known := await self._store.find_turn(live.key, new.client_message_id)
            ):
                return known
            if new.on_busy == "reject" and live.run is not None:
                raise Conflict("a turn is running in this session", code="busy")
            if len(live.queued) >= self._settings.queue_limit:
                raise RateLimited(
                    f"{self._settings.queue_limit} messages are waiting in this session already", code="queue_full"
                )
            first = new.on_busy == "interrupt"
            turn = StoredTurn(turn_id, message, new.client_message_id, _principal_options(new.principal))
            duplicate = await self._store.enqueue_turn(
                live.key, turn, first=first, expires_at=new.expires_at, now=self._clock.now()
            )
            if duplicate is not None:
                return duplicate.turn_id
            if live.run is None:  # a queue that rests after a start that failed
                await self._new_fence(live, {})
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
        if not queued and len(self._runs) >= self._settings.max_running_turns:
            raise Unavailable("too many turns are running on this server", code="too_many_turns")
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
        self._manager.made_durable(live)
        live.queued.pop(turn_id, None)
        history = tuple(live.state.current_messages())
        live.begin_fence(started.fence)
        sid = live.key.session_id
        live.append(ev.MessageCreated(sid, user_message, turn_id))
        live.append(ev.MessageCreated(sid, answer, turn_id))
        live.record = started.record
        live.append(ev.SessionUpdated(sid, _activity(started.record)))
        live.append(ev.TurnStarted(sid, turn_id, answer.id))

        run = Run(live, turn_id, user_message, answer, principal, self._flush_soon, self._checkpoint_one)
        run.tools = TurnTools(run, self._servers, self._settings, self._clock)
        live.run = run
        live.pins += 1
        self._runs.add(run)
        self._idle.clear()
        self._supervisor.start(self._drive(run, entry, history), f"turn/{turn_id}")
        return turn_id

    # --- a turn's life ---

    async def _drive(self, run: Run, entry: Entry, history: tuple[Message, ...]) -> None:
        """See a turn to its end; the one place that ends it."""
        live = run.live
        run.pump = self._supervisor.spawn(self._pump(run, entry, history), f"agent/{run.turn_id}")
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
        if not run.pump.done():
            run.pump.cancel()
        async with live.lock:
            await self._end(run, outcome)
            self._forget(run)
            if not self._closing:
                await self._start_next(live)
        if not run.pump.done():
            await asyncio.wait({run.pump}, timeout=self._settings.agent_cancel_grace_seconds)
            if not run.pump.done():
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

    async def _settle_unsaved(self, live: LiveSession) -> None:
        """Commit a terminal state that could not be committed before; raises what the store raises."""
        if live.unsaved is not None:
            if not live.removed:
                await self._store.finish_turn(live.unsaved)
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
        if not self._runs:
            self._idle.set()

    async def _start_next(self, live: LiveSession) -> None:
        """Start the session's next queued turn; the lock is held."""
        while live.queued and live.run is None and not live.removed and not self.draining:
            turn = next(iter(live.queued.values()))
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
            except ChatServerError as error:
                # It stays queued and stored; the next message, or the next start of the server, takes it up.
                self._log.error("queued_turn_not_started", code=error.narrow_code, turn_id=turn.turn_id)
                return

    async def _pump(self, run: Run, entry: Entry, history: tuple[Message, ...]) -> None:
        """Iterate the agent. The second of the three places where any exception ends: the turn's border."""
        loop = asyncio.get_running_loop()
        limit, interval = self._settings.max_answer_chars, self._settings.flush_interval_seconds
        characters = 0
        try:
            async with entry.slot(run.live.key.tenant):
                turn = AgentTurn(
                    tenant=run.live.key.tenant,
                    session_id=run.session_id,
                    turn_id=run.turn_id,
                    message=run.user_message.content,
                    history=history,
                    model=entry.settings,
                    principal=run.principal,
                    tools=run.tools,
                    metadata=run.user_message.metadata,
                )
                slice_start = loop.time()
                items = entry.agent.run(turn)
                try:
                    async for item in items:
                        now = loop.time()
                        if type(item) is str or type(item) is Text:
                            text = item if type(item) is str else cast(Text, item).text
                            if text:
                                characters += len(text)
                                run.text(text, ev.TextDelta, now, interval)
                        elif type(item) is Reasoning:
                            if item.text:
                                characters += len(item.text)
                                run.text(item.text, ev.ReasoningDelta, now, interval)
                        elif type(item) is Spent:
                            run.usage = item.usage
                        else:
                            raise AgentError(f"the agent yielded {type(item).__name__!r}", code="agent_bad_event")
                        if characters > limit:
                            raise AgentError(f"the answer is longer than {limit} characters", code="answer_too_long")
                        if run.closed:
                            return
                        if now - slice_start > SLICE_SECONDS:
                            await asyncio.sleep(0)
                            slice_start = loop.time()
                finally:
                    # Left early, a generator must be closed here and now: it holds the upstream's connection.
                    close: Callable[[], Awaitable[None]] | None = getattr(items, "aclose", None)
                    if close is not None:
                        await close()
            run.finish("completed")
        except AgentError as error:
            run.finish("failed", {"code": error.narrow_code, "title": error.detail})
        except ChatServerError as error:
            run.finish("failed", {"code": error.narrow_code, "title": error.title})
        except Exception as error:
            self._log.error("agent_raised", model=entry.settings.id, exc_info=error)
            run.finish("failed", {"code": "agent_error", "title": "The agent failed"})
        finally:
            # An agent that ends by a CancelledError of its own, which nobody asked for.
            run.finish("failed", {"code": "agent_error", "title": "The agent gave up"})

    # --- flushing and checkpoints ---

    def _flush_soon(self, run: Run) -> None:
        self._dirty.add(run)
        if self._flush_timer is None:
            loop = asyncio.get_running_loop()
            self._flush_timer = loop.call_later(self._settings.flush_interval_seconds, self._flush)

    def _flush(self) -> None:
        self._flush_timer = None
        now = asyncio.get_running_loop().time()
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
        except (Unavailable, StoreFull, StoreCorrupt) as error:
            self._log.warning("checkpoint_failed", code=error.narrow_code, chunks=len(taken))
            for run, chunk in taken:
                run.unsent.append(chunk)

    async def _checkpoint_one(self, run: Run) -> None:
        await self._checkpoint([run])

    async def checkpoints(self) -> None:
        """Checkpoint all running turns for ever; owned by the application. Cancelling is safe."""
        while True:
            await self._clock.sleep(self._settings.checkpoint_interval_seconds)
            await self._checkpoint(list(self._runs))
            for live in list(self._unsaved):
                async with live.lock:
                    try:
                        await self._settle_unsaved(live)
                    except (Unavailable, StoreFull, StoreCorrupt):
                        break  # one that fails tells for all

    # --- other changes of a session ---

    async def interrupt(self, live: LiveSession, turn_id: str | None, *, clear_queue: bool) -> None:
        """Stop the running turn and wait until it has ended; idle: nothing. Idempotent.

        Args:
            turn_id: only that turn; None for whichever runs.
        Cancelling the caller does not take the stop back.
        """
        run: Run | None = live.run
        if run is not None and (turn_id is None or run.turn_id == turn_id):
            run.finish("interrupted")
        if clear_queue:
            for queued in list(live.queued):
                await self.withdraw(live, queued)
        if run is not None and run.outcome.done():
            await asyncio.wait({run.ended}, timeout=TERMINAL_RETRY_SECONDS + 1)

    async def withdraw(self, live: LiveSession, turn_id: str) -> bool:
        """Take a queued message back; False where it is not queued (any more)."""
        return await self.protect(live, self._withdraw(live, turn_id), "withdraw")

    async def _withdraw(self, live: LiveSession, turn_id: str) -> bool:
        async with live.lock:
            turn = live.queued.get(turn_id)
            if turn is None or not await self._store.withdraw_turn(live.key, turn_id):
                return False
            live.queued.pop(turn_id, None)
            if live.run is None:  # a queue that rests after a failed start
                await self._new_fence(live, {})
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
            if live.removed:
                raise NotFound("the session was deleted")
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
            self._manager.made_durable(live)
            live.record = record
            if live.run is None:
                live.begin_fence(record.fence)
            live.append(ev.MessageCreated(live.key.session_id, message))
            live.append(ev.SessionUpdated(live.key.session_id, _activity(record)))
            self._manager.remeasure(live)
            return message

    async def update(self, live: LiveSession, changes: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        """Change the session's record and tell it.

        Args:
            changes: columns of the record; empty for a change that only tabs see.
            told: the fields of `session.updated`.
        """
        await self.protect(live, self._update(live, changes, told), "update")

    async def _update(self, live: LiveSession, changes: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        async with live.lock:
            if live.removed:
                raise NotFound("the session was deleted")
            await self._new_fence(live, changes)
            live.append(ev.SessionUpdated(live.key.session_id, dict(told)))

    async def _new_fence(self, live: LiveSession, changes: Mapping[str, Any]) -> None:
        """Commit changes, under a fence of their own while no turn runs; the lock is held."""
        if live.provisional:
            await self._store.create_session(live.record)
            self._manager.made_durable(live)
        running = live.run is not None
        record = await self._store.update_session(live.key, changes, new_fence=not running, now=self._clock.now())
        live.record = record
        if live.run is None:
            live.begin_fence(record.fence)

    async def delete(self, live: LiveSession) -> bool:
        """Remove the session everywhere: stops its turn, ends its streams with `session.deleted`. Idempotent."""
        return await self.protect(live, self._delete(live), "delete")

    async def _delete(self, live: LiveSession) -> bool:
        run: Run | None = live.run
        if run is not None:
            run.finish("interrupted")
            await asyncio.wait({run.ended}, timeout=self._settings.delete_grace_seconds)
        async with live.lock:
            if live.removed:
                return False
            live.queued.clear()
            existed = await self._store.delete_session(live.key)
            live.begin_fence(live.fence + 1)  # nobody else can number this session any more
            live.append(ev.SessionDeleted(live.key.session_id))
            self._manager.remove(live)
        await self._servers.close_session(live.key)
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
        for key in keys:
            while len(self._runs) >= self._settings.max_running_turns:
                await self._clock.sleep(0.2)
            live = await self._manager.pin(key)
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
        if not self._idle.is_set() and seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self._idle.wait()
            except TimeoutError:
                self._log.info("drain_interrupts", turns=len(self._runs))
        self._closing = True
        runs = list(self._runs)
        for run in runs:
            run.finish("interrupted")
        if runs:
            await asyncio.wait({r.ended for r in runs}, timeout=TERMINAL_RETRY_SECONDS)


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


def _principal_options(principal: Principal) -> dict[str, Any]:
    return {"kind": principal.kind, "user_id": principal.user_id}


def _principal_of(key: SessionKey, options: Mapping[str, Any]) -> Principal:
    return Principal(key.tenant, cast(Kind, options.get("kind", "none")), options.get("user_id"))
