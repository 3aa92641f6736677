"""SessionManager + SessionService + TurnRunner against a plain model, under every order of events that chance finds.

One example is one life of a store, with several processes one after the other on it, on virtual time: sessions of
several owners and tenants, messages, queues, stops, withdrawals, waits, evictions, crashes, a store that goes away;
readers that keep up, lag, stall, leave and come back. After every step the live state, the stored state and every
reader's own reading of its stream have to be what the model says.

`run` is the long form (a campaign); tests/core/test_state_machine.py is the short one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from chatserver.agents.base import Reasoning
from chatserver.clock import rfc3339
from chatserver.errors import StoreUnavailable
from chatserver.events import Position
from chatserver.live_session import LiveSession
from chatserver.session_service import Caller
from chatserver.store.base import SessionKey
from tests.checker.history import History
from tests.core.model import (
    MODELS,
    QUEUE_LIMIT,
    REFUSALS,
    UNOWNED_SECONDS,
    VISITOR_SECONDS,
    Model,
    ModelMessage,
    ModelSession,
    ModelTurn,
)
from tests.core.puppets import Puppet
from tests.core.readers import FakeSink, Reader
from tests.core.virtual import EPOCH, VirtualLoop, advance, settle
from tests.core.world import NOBODY, World, state_of, visitor

CALLERS = (NOBODY, visitor("alice"), visitor("bob"), visitor("alice", tenant="acme"))
IDS = ("x", "y")
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
# Sessions are few and live ones fewer, so that every sweep has something to push out.
MAX_LIVE = 3
PROVISIONAL_SECONDS = 60.0
TICK_SECONDS = 5.0
CHECKPOINT_SECONDS = 2.0

# A session by its name and by who asks; whether it is asked for by its owner, if it has one already.
who = st.tuples(st.sampled_from(IDS), st.sampled_from(CALLERS), st.sampled_from([True] * 3 + [False]))
Who = tuple[str, Caller, bool]


@dataclass
class _Known:
    """What a client had when it lost its connection, and which session of that name it was."""

    key: SessionKey
    state: dict[str, Any]
    incarnation: object


class _Speech:
    """Both agents' puppets; the catalogue has two models."""

    def __init__(self) -> None:
        self.puppets = {name: Puppet() for name in MODELS}

    def of(self, turn_id: str) -> Any:
        return next(s for p in self.puppets.values() for s in p.turns if s.turn.turn_id == turn_id)


class CoreMachine(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.speech = _Speech()
        self.model = Model()
        self.readers: list[tuple[SessionKey, Reader]] = []
        self.known: list[_Known] = []
        self.incarnations: dict[SessionKey, object] = {}
        self.histories: dict[SessionKey, dict[str, History]] = {}
        self.last_used: dict[SessionKey, float] = {}
        self.sent = 0
        self.world: World = self.do(self._begin())

    async def _begin(self) -> World:
        world = World(
            agents=dict(self.speech.puppets),
            max_live_sessions=MAX_LIVE,
            queue_limit=QUEUE_LIMIT,
            unowned_session_ttl_seconds=UNOWNED_SECONDS,
            visitor_session_ttl_seconds=VISITOR_SECONDS,
            provisional_seconds=PROVISIONAL_SECONDS,
            idle_eviction_seconds=300,
            eviction_interval_seconds=50,
            checkpoint_interval_seconds=CHECKPOINT_SECONDS,
            turn_timeout_seconds=1e9,
            session_creations_per_minute=10**6,
            session_creations_global_per_minute=10**6,
            log_events=40,
            log_bytes=20_000,
            subscriber_backlog_bytes=4_000,
        )
        await world.start()
        return world

    # --- driving ---

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    @property
    def now(self) -> float:
        return EPOCH + self.loop.now

    def ask(self, who: Who) -> tuple[SessionKey, Caller]:
        """The session that is meant, and who asks for it."""
        session_id, caller, as_owner = who
        key = SessionKey(caller.principal.tenant, session_id)
        session = self.model.sessions.get(key)
        if session is not None and as_owner:
            caller = next(c for c in CALLERS if c.principal.tenant == key.tenant and c.principal.owner == session.owner)
        return key, caller

    def both(self, key: SessionKey, expected: Any, work: Coroutine[Any, Any, Any]) -> Any:
        """Do the same in the model and in chatserver; the answer, or the same refusal from both.

        Args:
            expected: a function that changes the model.
        """
        told: Any = None
        refusal: type[Exception] | None = None
        try:
            told = expected()
        except REFUSALS as error:
            refusal = type(error)

        async def doing() -> Any:
            try:
                return await work
            finally:
                await settle()

        if refusal is None:
            answer = self.do(doing())
            assert told is None or answer == told
        else:
            with pytest.raises(refusal) as refused:
                self.do(doing())
            assert type(refused.value) is refusal
            answer = None
        self.touch(key)
        return answer

    def touch(self, key: SessionKey) -> None:
        if key in self.model.sessions:
            self.last_used[key] = self.loop.now
            self.incarnations.setdefault(key, object())

    def forget(self, key: SessionKey) -> None:
        """The session has gone; what comes under its name is another."""
        self.model.sessions.pop(key, None)
        self.last_used.pop(key, None)
        self.incarnations.pop(key, None)
        if (histories := self.histories.pop(key, None)) is not None:
            self.check_histories(histories)

    @staticmethod
    def check_histories(histories: dict[str, History]) -> None:
        for history in histories.values():
            assert not history.problems(), history.problems()

    def running(self) -> list[tuple[SessionKey, ModelSession]]:
        return [(key, s) for key, s in self.model.sessions.items() if s.running is not None]

    # --- people ---

    @rule(who=who)
    def read(self, who: Who) -> None:
        """Look at a session, which makes it where there is none."""
        key, caller = self.ask(who)

        def expected() -> None:
            self.model.open(key, caller, self.now, create=True)

        async def work() -> None:
            await self.world.touch(key.session_id, caller)

        self.both(key, expected, work())

    @rule(
        who=who,
        text=TEXTS,
        on_busy=st.sampled_from(["queue", "queue", "interrupt", "reject"]),
        retry=st.integers(0, 6),
        model=st.sampled_from([None] * 8 + ["one", "two", "three"]),
    )
    def chat(self, who: Who, text: str, on_busy: str, retry: int, model: str | None) -> None:
        """Send a message, sometimes one that was sent before."""
        self.sent += 1
        client_message_id = None if retry == 0 else f"c{retry}" if retry < 4 else f"new-{self.sent}"
        text = text.strip() or "blank"
        key, caller = self.ask(who)
        options: dict[str, Any] = {"on_busy": on_busy, "client_message_id": client_message_id, "model": model}
        self.turn(
            key,
            lambda turn_id: self.model.chat(key, caller, text, self.now, turn_id=turn_id, **options),
            lambda: self.world.chat(key.session_id, text, caller, **options),
        )

    @staticmethod
    def rename(session: ModelSession, old: str, new: str) -> None:
        session.acknowledged.discard(old)
        assert new not in session.acknowledged, "two messages got one turn"
        session.acknowledged.add(new)
        session.used = {k: new if v == old else v for k, v in session.used.items()}
        for turn in (*session.queue, *([session.running] if session.running else [])):
            if turn.turn_id == old:
                turn.turn_id = new

    @rule(who=who, text=TEXTS)
    def chat_plainly(self, who: Who, text: str) -> None:
        """Most messages have nothing special about them."""
        self.chat(who, text, "queue", 9, None)

    @precondition(lambda self: self.running())
    @rule(data=st.data(), how=st.lists(st.sampled_from(["queue", "queue", "interrupt"]), min_size=1, max_size=3))
    def write_on(self, data: st.DataObject, how: list[str]) -> None:
        """People do not wait for the answer."""
        key, _ = data.draw(st.sampled_from(self.running()))
        caller = next(c for c in CALLERS if c.principal.tenant == key.tenant)
        for on_busy in how:
            self.chat((key.session_id, caller, True), f"and {on_busy}", on_busy, 9, None)

    # --- the tree of messages ---

    def target(self, data: st.DataObject) -> tuple[SessionKey, Caller, ModelMessage]:
        """A message on whichever branch of a session, and who asks."""
        key = data.draw(st.sampled_from([k for k, s in self.model.sessions.items() if s.everything]))
        _, caller = self.ask(data.draw(who.filter(lambda w: w[1].principal.tenant == key.tenant).map(self.named(key))))
        message = data.draw(st.sampled_from(self.model.sessions[key].everything))
        return key, caller, message

    @staticmethod
    def named(key: SessionKey) -> Any:
        return lambda who: (key.session_id, *who[1:])

    def turn(self, key: SessionKey, expected: Any, work: Any) -> None:
        """Do what begins a turn, in the model under a placeholder for the id that is not known beforehand."""
        minted: list[str] = []
        placeholder = f"turn-{self.sent}"

        async def working() -> str:
            minted.append(await work())
            return minted[-1]

        self.both(key, lambda: minted.append(expected(placeholder)), working())
        if len(minted) == 2:
            told, answer = minted
            if told == placeholder:
                self.rename(self.model.sessions[key], placeholder, answer)
            else:
                assert answer == told, "a repetition gets its first turn's id"

    @precondition(lambda self: any(s.everything for s in self.model.sessions.values()))
    @rule(
        data=st.data(),
        text=TEXTS,
        on_busy=st.sampled_from(["reject", "queue", "interrupt"]),
        retry=st.integers(0, 3),
    )
    def edit(self, data: st.DataObject, text: str, on_busy: str, retry: int) -> None:
        """Put another message in the place of one, sometimes by a request that was made before."""
        self.sent += 1
        key, caller, message = self.target(data)
        text, client_message_id = text.strip() or "blank", f"c{retry}" if retry else None
        options: dict[str, Any] = {"on_busy": on_busy, "client_message_id": client_message_id}
        self.turn(
            key,
            lambda turn_id: self.model.edit(key, caller, message, text, self.now, turn_id=turn_id, **options),
            lambda: self.world.edit(key.session_id, message.message_id, text, caller, **options),
        )

    @precondition(lambda self: any(s.everything for s in self.model.sessions.values()))
    @rule(
        data=st.data(),
        on_busy=st.sampled_from(["reject", "queue", "interrupt"]),
        model=st.sampled_from([None, None, "one", "two", "three"]),
    )
    def regenerate(self, data: st.DataObject, on_busy: str, model: str | None) -> None:
        """Have an answer made anew."""
        self.sent += 1
        key, caller, message = self.target(data)
        options: dict[str, Any] = {"on_busy": on_busy, "model": model}
        self.turn(
            key,
            lambda turn_id: self.model.regenerate(key, caller, message, self.now, turn_id=turn_id, **options),
            lambda: self.world.regenerate(key.session_id, message.message_id, caller, **options),
        )

    @precondition(lambda self: any(s.everything for s in self.model.sessions.values()))
    @rule(data=st.data(), then=st.sampled_from(["nothing", "chat"]))
    def choose_branch(self, data: st.DataObject, then: str) -> None:
        """Go to another branch, and on from there."""
        key, caller, message = self.target(data)
        self.both(
            key,
            lambda: self.model.choose(key, caller, message, self.now),
            self.world.choose_branch(key.session_id, message.message_id, caller),
        )
        if then == "chat":
            self.chat((key.session_id, caller, True), "on this one", "queue", 9, None)

    @precondition(lambda self: any(s.everything for s in self.model.sessions.values()))
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        """Make a session out of a branch; it holds that branch, whatever the other one does."""
        key, caller, message = self.target(data)
        forked: list[dict[str, Any]] = []

        async def work() -> None:
            state = await self.world.fork(key.session_id, message.message_id, caller)
            forked.append(state)
            # Looked at here and gone again: sessions must not become more and more.
            assert await self.world.stored(state["session_id"], caller) is not None
            await self.world.delete(state["session_id"], caller)

        self.both(key, lambda: self.model.fork(key, caller, message, self.now), work())
        for state in forked:
            copied = [(m["id"], m["content"], m["siblings"]) for m in state["messages"]]
            assert copied == [(m.message_id, m.content, []) for m in message.branch()]
            assert state["message_count"] == len(copied)

    @precondition(lambda self: any(s.everything for s in self.model.sessions.values()))
    @rule(data=st.data(), rating=st.sampled_from(["up", "down", None]))
    def rate(self, data: st.DataObject, rating: str | None) -> None:
        """Say what one thinks of an answer."""
        key, caller, message = self.target(data)
        self.both(
            key,
            lambda: self.model.rate(key, caller, message, rating, self.now),
            self.world.rate(key.session_id, message.message_id, rating, None, caller),
        )

    @rule(who=who, text=TEXTS)
    def system(self, who: Who, text: str) -> None:
        """Tell the session something."""
        text = text.strip() or "blank"
        key, caller = self.ask(who)
        self.both(
            key,
            lambda: self.model.system(key, caller, text, self.now),
            self.world.system(key.session_id, text, caller),
        )

    @rule(who=who, model=st.sampled_from(["one", "two", "three"]))
    def switch_model(self, who: Who, model: str) -> None:
        """Choose another model."""
        key, caller = self.ask(who)

        async def work() -> None:
            async with self.world.service.open(caller, key.session_id, create="durable") as live:
                await self.world.service.switch_model(caller, live, model)

        self.both(key, lambda: self.model.switch(key, caller, model, self.now), work())

    @rule(who=who, which=st.sampled_from(["any", "any", "running", "other"]), clear=st.booleans())
    def interrupt(self, who: Who, which: str, clear: bool) -> None:
        """Press stop."""
        key, caller = self.ask(who)
        session = self.model.sessions.get(key)
        turn_id = None
        if which == "running" and session is not None and session.running is not None:
            turn_id = session.running.turn_id
        elif which == "other":
            turn_id = "no-such-turn"
        self.both(
            key,
            lambda: self.model.interrupt(key, caller, self.now, turn_id=turn_id, clear_queue=clear),
            self.world.interrupt(key.session_id, turn_id, clear_queue=clear, caller=caller),
        )

    @precondition(lambda self: self.running())
    @rule(data=st.data(), clear=st.booleans())
    def stop(self, data: st.DataObject, clear: bool) -> None:
        """Press stop where there is something to stop."""
        key, _ = data.draw(st.sampled_from(self.running()))
        caller = next(c for c in CALLERS if c.principal.tenant == key.tenant)
        self.interrupt((key.session_id, caller, True), "any", clear)

    @precondition(lambda self: any(s.queue for s in self.model.sessions.values()))
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        """Take a queued message back."""
        key = data.draw(st.sampled_from([k for k, s in self.model.sessions.items() if s.queue]))
        turn = data.draw(st.sampled_from(self.model.sessions[key].queue))
        key, caller = self.ask(data.draw(who.filter(lambda w: (w[1].principal.tenant, w[0]) == key)))
        self.both(
            key,
            lambda: self.model.withdraw(key, caller, turn.turn_id, self.now),
            self.world.withdraw(key.session_id, turn.turn_id, caller),
        )

    @rule(who=who, sure=st.integers(0, 1))
    def delete(self, who: Who, sure: int) -> None:
        """Delete a session, now and then."""
        if sure:
            return
        key, caller = self.ask(who)
        before = self.model.sessions.get(key)

        async def work() -> None:
            await self.world.delete(key.session_id, caller)

        self.both(key, lambda: self.model.delete(key, caller, self.now), work())
        if before is not None and key not in self.model.sessions:
            for reader_key, reader in self.readers:
                if reader_key == key:
                    reader.sink.speed_up()
                    self.do(settle())
                    reader.read()
                    assert key.session_id in reader.deleted or reader.sink.aborted
                    assert reader.served
            self.leave(lambda reader_key, _: reader_key == key)
            self.forget(key)

    # --- agents ---

    @precondition(lambda self: self.running())
    @rule(data=st.data(), pieces=st.lists(TEXTS, min_size=1, max_size=4), pause=st.sampled_from([0, 0.01, 3]))
    def say(self, data: st.DataObject, pieces: list[str], pause: float) -> None:
        """The agent says something; without a pause some of it still waits for the flush afterwards, after a long one
        all of it has been checkpointed."""
        _, session = data.draw(st.sampled_from(self.running()))
        assert session.running is not None
        assert session.running.answer is not None
        self.speech.of(session.running.turn_id).say(*pieces, Reasoning("hm"))
        session.running.answer.content += "".join(pieces)
        self.do(advance(pause) if pause else settle())
        if pause > CHECKPOINT_SECONDS:
            self.mark_saved()

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def call_tool(self, data: st.DataObject) -> None:
        """The agent calls a tool, around which its answer is checkpointed."""
        _, session = data.draw(st.sampled_from(self.running()))
        assert session.running is not None
        assert session.running.answer is not None
        self.speech.of(session.running.turn_id).call("srv", "echo", {"text": "x"})
        session.running.answer.calls += 1
        session.running.saved = len(session.running.answer.content)
        self.do(settle())

    @precondition(lambda self: self.running())
    @rule(data=st.data(), how=st.sampled_from(["completed", "completed", "failed"]))
    def end_turn(self, data: st.DataObject, how: str) -> None:
        """The agent comes to its end, one way or the other."""
        _, session = data.draw(st.sampled_from(self.running()))
        assert session.running is not None
        strings = self.speech.of(session.running.turn_id)
        if how == "completed":
            strings.end()
        else:
            strings.fail(ValueError("what agents do"))
        session.end(how)
        self.do(settle())

    @precondition(lambda self: self.running())
    @rule(data=st.data(), acts=st.lists(st.sampled_from(["say", "say", "wait", "tool", "end"]), min_size=2, max_size=6))
    def act(self, data: st.DataObject, acts: list[str]) -> None:
        """An answer goes on for a while."""
        for what in acts:
            if not self.running():
                return
            match what:
                case "say":
                    self.say(data, ["w\u00f6rd "], 0)
                case "tool":
                    self.call_tool(data)
                case "end":
                    self.end_turn(data, "completed")
                case _:
                    self.wait(3)

    # --- trouble ---

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def end_turn_while_the_store_is_away(self, data: st.DataObject) -> None:
        """Its end is told as failed and saved when the store is back; what waits goes on then."""
        _, session = data.draw(st.sampled_from(self.running()))
        assert session.running is not None
        self.world.store.break_()
        self.speech.of(session.running.turn_id).end()
        session.end("failed", start_next=False)
        self.do(advance(7))
        self.evict()
        self.look()
        self.world.store.mend()
        self.do(advance(CHECKPOINT_SECONDS * 2))
        session.start_next()
        self.mark_saved()

    @precondition(lambda self: any(s.queue for s in self.model.sessions.values()))
    @rule(data=st.data(), then=st.sampled_from(["nothing", "evict", "chat", "withdraw", "clear", "crash"]))
    def queue_rests_while_the_store_is_away(self, data: st.DataObject, then: str) -> None:
        """The next turn can't start; it does when the store is back, whatever was done to the queue meanwhile."""
        key = data.draw(st.sampled_from([k for k, s in self.model.sessions.items() if s.queue]))
        session = self.model.sessions[key]
        assert session.running is not None
        self.world.store.break_("start_turn")
        self.speech.of(session.running.turn_id).end()
        session.end("completed", start_next=False)
        self.do(advance(1))
        self.look()
        caller = next(c for c in CALLERS if c.principal.tenant == key.tenant)
        match then:
            case "evict":
                self.evict()
            case "chat":
                # The model knows no rest: to it the session is busy as long as messages wait.
                resting, session.running = session.queue[0], ModelTurn("rests", "")
                session.running.answer = ModelMessage("assistant", "")
                self.chat((key.session_id, caller, True), "and this", "queue", 9, None)
                session.running = None
                assert session.queue[0] is resting
            case "withdraw":
                turn_id = session.queue[0].turn_id
                self.both(
                    key,
                    lambda: self.model.withdraw(key, self.ask((key.session_id, caller, True))[1], turn_id, self.now),
                    self.world.withdraw(key.session_id, turn_id, self.ask((key.session_id, caller, True))[1]),
                )
            case "clear":
                self.interrupt((key.session_id, caller, True), "any", True)
            case "crash":
                self.restart(True, 0)
                return
            case _:
                pass
        self.world.store.mend()
        self.do(advance(CHECKPOINT_SECONDS * 2))
        session.start_next()
        self.mark_saved()

    @rule(who=who, method=st.sampled_from(["start_turn", "enqueue_turn", "load"]))
    def chat_while_the_store_is_away(self, who: Who, method: str) -> None:
        """It is refused, or taken where it needs nothing of what is broken; then it is as if it had been taken."""
        key, caller = self.ask(who)
        live = self.world.manager.peek(key)
        session = self.model.sessions.get(key)
        busy = session is not None and session.running is not None
        needs = {"start_turn": not busy, "enqueue_turn": busy, "load": live is None}[method]
        if not needs:
            return
        self.world.store.break_(method)
        try:
            if method != "load":
                self.model.open(key, caller, self.now, create=True)
                if busy and session is not None and len(session.queue) >= QUEUE_LIMIT:
                    return
            self.do(self.world.chat(key.session_id, "not now", caller))
            raise AssertionError("a message was taken without a store")
        except (StoreUnavailable, *REFUSALS):
            pass
        finally:
            self.world.store.mend()
            self.do(settle())
            self.touch(key)

    @rule(
        who=who,
        first=st.sampled_from(
            ["chat", "chat", "interrupt", "clear", "end", "system", "withdraw", "delete", "edit", "again", "choose"]
        ),
        second=st.sampled_from(
            ["chat", "urgent", "interrupt", "clear", "end", "system", "withdraw", "edit", "again", "choose", "rate"]
        ),
        head_start=st.integers(0, 6),
    )
    def two_at_once(self, who: Who, first: str, second: str, head_start: int) -> None:
        """Two changes of one session overlap. Either order may win; then the model takes over what came out, after
        checking that nothing acknowledged is missing."""
        key, caller = self.ask(who)
        session = self.model.sessions.get(key)
        if session is None or not session.durable or (first == "delete" and head_start):
            return
        acknowledged: list[str] = []
        ids = [m.message_id for m in session.everything]

        async def one(what: str) -> None:
            running, queue = session.running, session.queue
            try:
                match what:
                    case "chat" | "urgent":
                        how = "interrupt" if what == "urgent" else "queue"
                        acknowledged.append(await self.world.chat(key.session_id, what, caller, on_busy=how))
                    case "interrupt" | "clear":
                        await self.world.interrupt(key.session_id, clear_queue=what == "clear", caller=caller)
                    case "end" if running is not None:
                        self.speech.of(running.turn_id).end()
                    case "system":
                        await self.world.system(key.session_id, "meanwhile", caller)
                    case "withdraw" if queue:
                        await self.world.withdraw(key.session_id, queue[0].turn_id, caller)
                    case "delete":
                        await self.world.delete(key.session_id, caller)
                    case "edit" if ids:
                        acknowledged.append(
                            await self.world.edit(key.session_id, ids[0], what, caller, on_busy="interrupt")
                        )
                    case "again" if ids:
                        acknowledged.append(
                            await self.world.regenerate(key.session_id, ids[-1], caller, on_busy="queue")
                        )
                    case "choose" if ids:
                        await self.world.choose_branch(key.session_id, ids[len(ids) // 2], caller)
                    case "rate" if ids:
                        await self.world.rate(key.session_id, ids[-1], "up", None, caller)
                    case _:
                        pass
            except REFUSALS:
                pass

        async def race() -> None:
            loop = asyncio.get_running_loop()
            tasks = [loop.create_task(one(first))]
            for _ in range(head_start):
                await asyncio.sleep(0)
            tasks.append(loop.create_task(one(second)))
            await asyncio.gather(*tasks)
            await settle()

        self.do(race())
        for turn_id in acknowledged:
            assert turn_id not in session.acknowledged, "two messages got one turn"
        session.acknowledged.update(acknowledged)
        self.adopt(key, session)

    def adopt(self, key: SessionKey, session: ModelSession) -> None:
        """Make the model what is, where it may be several things."""
        rows = self.world.real_store._sessions.get(key)
        if rows is None:
            for reader_key, reader in self.readers:
                if reader_key == key:
                    reader.sink.speed_up()
            self.do(settle())
            self.leave(lambda reader_key, _: reader_key == key)
            self.forget(key)
            return
        if self.world.manager.peek(key) is None:
            # Made anew after a deletion that won: acknowledged turns of the old one went with it.
            self.do(self._load(key))
        live = self.world.manager.peek(key)
        assert live is not None
        if not session.acknowledged <= rows.turns.keys():
            session.acknowledged &= rows.turns.keys()
            self.leave(lambda reader_key, _: reader_key == key)
            self.forget(key)
            self.model.sessions[key] = session
            self.touch(key)
        old = session.running
        known: dict[str, ModelMessage] = {}
        for stored in rows.messages.values():
            m = live.state.message(stored.id) or stored
            parent = known[m.parent_id] if m.parent_id is not None else None
            feedback = m.metadata.get("feedback")
            known[m.id] = ModelMessage(
                m.role,
                m.content,
                m.status,
                len(m.tool_calls),
                m.model,
                parent,
                feedback,
                m.id,
                known.get(m.metadata.get("copy_of", "")),
            )
        session.everything = list(known.values())
        session.leaf = known[leaf_id] if (leaf_id := live.state.leaf_id()) is not None else None
        session.queue = [
            ModelTurn(
                t.turn_id,
                t.message.content,
                edits=known.get(t.options.get("edits", "")),
                regenerates=known.get(t.options.get("regenerates", "")),
            )
            for t in live.queued.values()
        ]
        session.running = None
        if live.state.active_turn_id is not None:
            answer = next(m for m in session.messages if m.status == "streaming")
            saved = old.saved if old is not None and old.turn_id == live.state.active_turn_id else 0
            if old is not None and old.turn_id == live.state.active_turn_id:
                assert old.answer is not None
                answer.content, answer.calls = old.answer.content, old.answer.calls
            session.running = ModelTurn(live.state.active_turn_id, "", answer, saved)
        session.expires_at = live.record.expires_at
        self.touch(key)

    async def _load(self, key: SessionKey) -> None:
        live = await self.world.manager.pin(key)
        assert live is not None
        self.world.manager.unpin(live)

    # --- time ---

    @rule(seconds=st.sampled_from([0.01, 0.6, 3, 3, 8, 30, 70, 70, 200, 400, 1600, 3100]))
    def wait(self, seconds: float) -> None:
        """Sessions expire, leave memory; readers that stall are cut; answers are checkpointed."""
        self.do(advance(seconds))
        if seconds > CHECKPOINT_SECONDS:
            self.mark_saved()

    def mark_saved(self) -> None:
        for _, session in self.running():
            assert session.running is not None
            assert session.running.answer is not None
            session.running.saved = len(session.running.answer.content)

    @rule()
    def evict(self) -> None:
        """Everything that may leave memory does."""
        unsaved = {live.key for live in self.world.manager.live() if live.unsaved is not None}
        for live in self.world.manager.live():
            live.last_used = -1e9
        for key in self.last_used:
            self.last_used[key] = -1e9

        async def sweep() -> None:
            await self.world.manager.sweep_idle()

        self.do(sweep())
        for key, session in self.model.sessions.items():
            followed = any(k == key for k, _ in self.readers)
            protected = session.running or session.queue or followed or key in unsaved
            assert (self.world.manager.peek(key) is not None) == bool(protected)

    @rule(crash=st.booleans(), sure=st.integers(0, 1))
    def restart(self, crash: bool, sure: int) -> None:
        """The process ends, by itself or by force, and another begins on what is stored."""
        if sure:
            return
        told = {key: s.running for key, s in self.running()}
        self.leave(lambda *_: True)

        async def end() -> None:
            if not crash:
                await self.world.turns.drain(0)
            await self.world.kill()

        self.do(end())
        assert not self.world.crashes, self.world.crashes
        gone = [key for key, s in self.model.sessions.items() if not s.durable]
        self.model.restart(crash=crash)
        for key in gone:
            self.forget(key)

        async def begin() -> None:
            await self.world.start()
            await settle()

        self.do(begin())
        for key, turn in told.items():
            assert turn is not None
            assert turn.answer is not None
            rows = self.world.real_store._sessions[key]
            stored = rows.messages[rows.turns[turn.turn_id].answer_id]
            assert stored.status == "interrupted"
            if crash:
                assert turn.answer.content.startswith(stored.content), "text that was never said"
                assert len(stored.content) >= turn.saved, "checkpointed text was lost"
                turn.answer.content, turn.answer.calls = stored.content, len(stored.tool_calls)
            else:
                assert stored.content == turn.answer.content

    @precondition(lambda self: self.running())
    @rule()
    def crash(self) -> None:
        """In the middle of somebody's answer."""
        self.restart(True, 0)

    # --- readers ---

    @rule(who=who, kind=st.sampled_from(["fast", "fast", "slow"]))
    def subscribe(self, who: Who, kind: str) -> None:
        """Open a tab."""
        key, caller = self.ask(who)

        def expected() -> None:
            self.model.open(key, caller, self.now, create=True)

        async def work() -> None:
            await self.world.touch(key.session_id, caller)

        self.both(key, expected, work())
        session = self.model.sessions.get(key)
        live = self.world.manager.peek(key)
        if session is None or live is None or session.owner != caller.principal.owner or session.expires_at <= self.now:
            return
        self.follow(key, live, kind, None)

    def follow(self, key: SessionKey, live: LiveSession, kind: str, known: _Known | None) -> None:
        async def work() -> None:
            sink = FakeSink(fast=kind == "fast", high_water=150)
            reader = Reader(sink, self.histories.setdefault(key, {}), stall_seconds=15, backlog_bytes=4_000)
            after = None
            if known is not None:
                after = Position.parse(known.state["position"])
                reader.resume_from(key.session_id, known.state, after)
            reader.follow(live, key.session_id, after)
            self.readers.append((key, reader))
            await settle()

        self.do(work())

    @precondition(lambda self: self.known)
    @rule(data=st.data(), kind=st.sampled_from(["fast", "slow"]))
    def resume(self, data: st.DataObject, kind: str) -> None:
        """A client comes back with the last id it has seen."""
        known = data.draw(st.sampled_from(self.known))
        live = self.world.manager.peek(known.key)
        if live is None or known.key not in self.model.sessions:
            return
        if known.state["position"] == "0-0" and known.incarnation is not self.incarnations.get(known.key):
            return  # two sessions in which nothing ever happened can't be told apart
        self.follow(known.key, live, kind, _Known(known.key, json.loads(json.dumps(known.state)), known.incarnation))

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), count=st.integers(1, 3000))
    def reader_takes(self, data: st.DataObject, count: int) -> None:
        """A slow reader reads on."""
        _, reader = data.draw(st.sampled_from(self.readers))
        reader.sink.take(count)
        self.do(settle())

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def reader_leaves(self, data: st.DataObject) -> None:
        """A tab is closed, or loses its connection."""
        chosen = data.draw(st.sampled_from(self.readers))
        self.leave(lambda _, reader: reader is chosen[1])

    def leave(self, which: Any) -> None:
        """Close connections; their clients keep what they know."""
        for key, reader in [pair for pair in self.readers if which(*pair)]:
            self.do(reader.close())
            reader.read()
            state = reader.states.get(key.session_id)
            if state is not None and key in self.incarnations:
                self.known.append(_Known(key, state, self.incarnations[key]))
                del self.known[:-8]
            self.readers.remove((key, reader))
            if key in self.last_used:
                self.last_used[key] = self.loop.now

    # --- what must hold ---

    @invariant()
    def look(self) -> None:
        """Model, memory, store and readers agree."""
        world = self.world
        self.leave(lambda _, reader: reader.served)
        assert not world.crashes, world.crashes
        assert not self.loop.complaints, self.loop.complaints
        assert not world.manager._loading
        assert world.manager.total_bytes == sum(live.size for live in world.manager.live())
        assert world.turns.running == len(self.running())
        for key in list(self.model.sessions):
            self.look_at(key)
        assert {live.key for live in world.manager.live()} <= self.model.sessions.keys()

    def look_at(self, key: SessionKey) -> None:
        session = self.model.sessions[key]
        live = self.world.manager.peek(key)
        rows = self.world.real_store._sessions.get(key)
        followed = [reader for reader_key, reader in self.readers if reader_key == key]
        if live is None:
            used = session.running or session.queue or followed
            assert not used, "evicted while it was used"
            if not session.durable:
                self.forget(key)  # by its time, or by the budget
                return
        elif not session.durable and not followed:
            idle = self.loop.now - self.last_used[key]
            assert idle < PROVISIONAL_SECONDS + TICK_SECONDS + 1, "a provisional session outstayed its time"
        assert (rows is not None) == session.durable
        if rows is not None:
            self.look_at_stored(key, session, rows)
        if live is not None:
            self.look_at_live(session, live)
            for reader in followed:
                reader.read()
                if reader.sink.fast and not reader.connection.lagging:
                    assert reader.state == state_of(live)

    def look_at_stored(self, key: SessionKey, session: ModelSession, rows: Any) -> None:
        record = rows.record
        assert record.owner == session.owner
        assert record.expires_at == session.expires_at
        assert record.model == session.model
        assert record.message_count == len(rows.messages) == len(session.everything)
        assert session.acknowledged <= rows.turns.keys(), "an acknowledged turn is lost"
        assert rows.queue == [turn.turn_id for turn in session.queue]
        assert [rows.turns[t].stored.message.content for t in rows.queue] == [turn.text for turn in session.queue]
        running = {t for t, turn in rows.turns.items() if turn.state == "running"}
        unsaved = getattr(self.world.manager.peek(key), "unsaved", None)
        told = {session.running.turn_id} if session.running is not None else set()
        assert running - ({unsaved.turn_id} if unsaved else set()) == told
        branch, _ = rows.branch(record.leaf_id, 10_000)
        for m, other in zip(rows.messages.values(), session.everything, strict=True):
            assert other.message_id in ("", m.id), "messages have changed places"
            other.message_id = m.id
            assert m.parent_id == (other.parent.message_id if other.parent is not None else None)
        for m, other in zip(branch, session.messages, strict=True):
            one = (m.role, m.content, m.status, len(m.tool_calls), m.model)
            assert list(m.siblings) == session.siblings(other)
            assert m.metadata.get("feedback") == other.feedback
            if other.status == "streaming" or (unsaved and one[2] == "streaming"):
                assert one[2] == "streaming"
            else:
                expected_model = other.model if other.role == "assistant" else None
                assert one == (other.role, other.content, other.status, other.calls, expected_model)

    def look_at_live(self, session: ModelSession, live: LiveSession) -> None:
        assert live.provisional is not session.durable
        assert live.pins == (1 if session.running is not None else 0), "a pin leaked"
        state = state_of(live)
        assert state["active_turn_id"] == (session.running.turn_id if session.running is not None else None)
        assert state["model"] == session.model
        assert state["expires_at"] == rfc3339(session.expires_at)
        assert [(q["turn_id"], q["place"]) for q in state["queue"]] == [
            (turn.turn_id, place) for place, turn in enumerate(session.queue, 1)
        ]
        assert state["message_count"] == len(session.everything)
        assert len(state["messages"]) == len(session.messages)
        for one, other in zip(state["messages"], session.messages, strict=True):
            assert (one["id"], one["role"], one["status"]) == (other.message_id, other.role, other.status)
            assert one["siblings"] == session.siblings(other)
            assert one["metadata"].get("feedback") == other.feedback
            if other.status == "streaming":
                assert other.content.startswith(one["content"])
            else:
                assert (one["content"], len(one["tool_calls"])) == (other.content, other.calls)

    def teardown(self) -> None:
        """Everybody reads to the end, and the evidence of all readers is put together."""

        async def end() -> None:
            for _, reader in self.readers:
                while reader.sink.pending_bytes and not reader.sink.aborted:
                    reader.sink.take()
                    await settle()
                reader.read()
            for key, reader in self.readers:
                live = self.world.manager.peek(key)
                if not reader.sink.aborted and live is not None and key.session_id not in reader.deleted:
                    assert reader.state == state_of(live)
            await self.world.turns.drain(0)
            for _, reader in self.readers:
                await reader.close()
                reader.read()
            await self.world.supervisor.close()
            await settle()

        try:
            self.do(end())
            for histories in self.histories.values():
                self.check_histories(histories)
            assert not self.world.crashes, self.world.crashes
            left = asyncio.all_tasks(self.loop)
            assert not left, left
        finally:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.loop.run_until_complete(asyncio.sleep(0))
            self.loop.close()


def run(examples: int, steps: int, seed: int | None = None) -> None:
    """Live through that many lives of that many steps.

    Args:
        seed: repeats a run; None takes the same examples every time.
    Raises: the first failure, shrunk to its shortest form.
    """
    if seed is not None:
        hypothesis.seed(seed)(CoreMachine)
    run_state_machine_as_test(
        CoreMachine,
        settings=hypothesis.settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=seed is None,
            database=None,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink),
        ),
    )
