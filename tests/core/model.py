"""The plainest model of sessions and turns that there is: lists, in the words of the specification.

It knows nothing of locks, tasks, logs, stores or memory; what it says must come out of chatserver whatever those do.
`tests/core/state_machine.py` runs both side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from chatserver.errors import ChatServerError, Conflict, Expired, Forbidden, InvalidFields, NotFound, RateLimited
from chatserver.session_service import Caller
from chatserver.store.base import SessionKey

UNOWNED_SECONDS = 3000.0
VISITOR_SECONDS = 6000.0
QUEUE_LIMIT = 3
MODELS = ("one", "two")


@dataclass
class ModelMessage:
    """A message as people see it."""

    role: str
    content: str
    status: str = "completed"
    calls: int = 0
    model: str | None = None


@dataclass
class ModelTurn:
    """A turn; `answer` from its start on."""

    turn_id: str
    text: str
    answer: ModelMessage | None = None
    saved: int = 0  # characters of the answer that a crash must leave


@dataclass
class ModelSession:
    """A session."""

    owner: str | None
    expires_at: float
    durable: bool = False
    model: str | None = None
    messages: list[ModelMessage] = field(default_factory=list)
    running: ModelTurn | None = None
    queue: list[ModelTurn] = field(default_factory=list)
    used: dict[str, str] = field(default_factory=dict)  # client_message_id -> turn id
    acknowledged: set[str] = field(default_factory=set)

    def start(self, turn: ModelTurn) -> None:
        turn.answer = ModelMessage("assistant", "", "streaming", model=self.model or MODELS[0])
        self.messages += [ModelMessage("user", turn.text), turn.answer]
        self.running = turn

    def end(self, outcome: str, *, start_next: bool = True) -> None:
        """End the running turn; the next begins."""
        assert self.running is not None
        assert self.running.answer is not None
        self.running.answer.status = outcome
        self.running = None
        if start_next:
            self.start_next()

    def start_next(self) -> None:
        if self.queue and self.running is None:
            self.start(self.queue.pop(0))


class Model:
    """All sessions."""

    def __init__(self) -> None:
        self.sessions: dict[SessionKey, ModelSession] = {}

    @staticmethod
    def lifetime(caller: Caller) -> float:
        return UNOWNED_SECONDS if caller.principal.owner is None else VISITOR_SECONDS

    def open(self, key: SessionKey, caller: Caller, now: float, *, create: bool) -> ModelSession:
        """The session, or what the caller is told instead."""
        session = self.sessions.get(key)
        if session is None:
            if not create:
                raise NotFound
            session = ModelSession(caller.principal.owner, now + self.lifetime(caller))
            self.sessions[key] = session
        if session.owner != caller.principal.owner:
            raise Forbidden
        if session.expires_at <= now:
            raise Expired
        return session

    def chat(
        self,
        key: SessionKey,
        caller: Caller,
        text: str,
        now: float,
        *,
        turn_id: str,
        on_busy: str,
        client_message_id: str | None,
        model: str | None,
    ) -> str:
        """The turn's id: `turn_id`, or that of an earlier one.

        Args:
            turn_id: what a new turn is called.
        """
        session = self.open(key, caller, now, create=True)
        if model is not None and model not in MODELS:
            raise InvalidFields([])
        if client_message_id in session.used:
            return session.used[client_message_id]
        busy = session.running is not None
        if busy and on_busy == "reject":
            raise Conflict
        if busy and len(session.queue) >= QUEUE_LIMIT:
            raise RateLimited
        session.durable = True
        session.model = model or session.model
        session.expires_at = now + self.lifetime(caller)
        session.acknowledged.add(turn_id)
        if client_message_id is not None:
            session.used[client_message_id] = turn_id
        turn = ModelTurn(turn_id, text)
        if not busy:
            session.start(turn)
        elif on_busy == "interrupt":
            session.queue.insert(0, turn)
            session.end("interrupted")
        else:
            session.queue.append(turn)
        return turn_id

    def system(self, key: SessionKey, caller: Caller, text: str, now: float) -> None:
        session = self.open(key, caller, now, create=True)
        session.durable = True
        session.expires_at = now + self.lifetime(caller)
        session.messages.append(ModelMessage("system", text))

    def switch(self, key: SessionKey, caller: Caller, model: str, now: float) -> None:
        session = self.open(key, caller, now, create=True)
        if model not in MODELS:
            raise InvalidFields([])
        if session.model != model:
            session.durable, session.model = True, model

    def interrupt(self, key: SessionKey, caller: Caller, now: float, *, turn_id: str | None, clear_queue: bool) -> None:
        session = self.open(key, caller, now, create=False)
        if clear_queue:
            session.queue.clear()
        if session.running is not None and turn_id in (None, session.running.turn_id):
            session.end("interrupted")

    def withdraw(self, key: SessionKey, caller: Caller, turn_id: str, now: float) -> None:
        session = self.open(key, caller, now, create=False)
        left = [turn for turn in session.queue if turn.turn_id != turn_id]
        if len(left) == len(session.queue):
            raise NotFound
        session.queue = left

    def delete(self, key: SessionKey, caller: Caller, now: float) -> None:
        self.open(key, caller, now, create=False)
        del self.sessions[key]

    def restart(self, *, crash: bool) -> None:
        """What ran is interrupted, what was never written is gone, what waited goes on."""
        self.sessions = {key: session for key, session in self.sessions.items() if session.durable}
        for session in self.sessions.values():
            if session.running is not None:
                session.end("interrupted", start_next=False)
            session.start_next()


REFUSALS: tuple[type[ChatServerError], ...] = (Conflict, Expired, Forbidden, InvalidFields, NotFound, RateLimited)
