"""The plainest model of sessions and turns that there is: lists, in the words of the specification.

It knows nothing of locks, tasks, logs, stores or memory; what it says must come out of chatserver whatever those do.
`tests/core/state_machine.py` runs both side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from chatserver.errors import ChatServerError, Conflict, Expired, Forbidden, InvalidFields, NotFound, RateLimited
from chatserver.session_service import Caller
from chatserver.store.base import SessionKey

UNOWNED_SECONDS = 3000.0
VISITOR_SECONDS = 6000.0
QUEUE_LIMIT = 3
CARRIED = 20
MODELS = ("one", "two")


@dataclass(eq=False)
class ModelMessage:
    """A message as people see it. `message_id` is found out later: the server mints it."""

    role: str
    content: str
    status: str = "completed"
    calls: int = 0
    model: str | None = None
    parent: ModelMessage | None = None
    feedback: dict[str, Any] | None = None
    message_id: str = ""
    copy_of: ModelMessage | None = None

    def branch(self) -> list[ModelMessage]:
        """The messages up to this one, oldest first."""
        return [*(self.parent.branch() if self.parent is not None else []), self]


@dataclass
class ModelTurn:
    """A turn; `answer` from its start on."""

    turn_id: str
    text: str
    answer: ModelMessage | None = None
    saved: int = 0  # characters of the answer that a crash must leave
    edits: ModelMessage | None = None
    regenerates: ModelMessage | None = None


@dataclass
class ModelSession:
    """A session."""

    owner: str | None
    expires_at: float
    durable: bool = False
    model: str | None = None
    everything: list[ModelMessage] = field(default_factory=list)  # of all branches, oldest first
    leaf: ModelMessage | None = None
    running: ModelTurn | None = None
    queue: list[ModelTurn] = field(default_factory=list)
    used: dict[str, str] = field(default_factory=dict)  # client_message_id -> turn id
    acknowledged: set[str] = field(default_factory=set)

    @property
    def messages(self) -> list[ModelMessage]:
        """The active branch."""
        return self.leaf.branch() if self.leaf is not None else []

    def siblings(self, message: ModelMessage) -> list[str]:
        """Ids of the messages with the same parent; none where there is only one."""
        family = [m.message_id for m in self.everything if m.parent is message.parent]
        return family if len(family) > 1 else []

    def append(self, message: ModelMessage) -> ModelMessage:
        """Put a message behind the active branch."""
        message.parent = self.leaf
        self.everything.append(message)
        self.leaf = message
        return message

    def told(self) -> list[ModelMessage]:
        """What the system said last on the active branch; copies as what they are copies of."""
        return [m.copy_of or m for m in self.messages if m.role == "system"][-CARRIED:]

    def start(self, turn: ModelTurn) -> None:
        before = self.told()
        if turn.regenerates is not None:
            self.leaf = turn.regenerates.parent
        elif turn.edits is not None:
            self.leaf = turn.edits.parent
        left = [m for m in before if m not in self.told()]
        if turn.regenerates is None:
            self.append(ModelMessage("user", turn.text))
        turn.answer = self.append(ModelMessage("assistant", "", "streaming", model=self.model or MODELS[0]))
        for message in left:
            self.append(ModelMessage("system", message.content, copy_of=message))
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
        turn = ModelTurn(turn_id, text)
        return self._send(session, caller, turn, now, on_busy=on_busy, client_message_id=client_message_id, model=model)

    def edit(
        self,
        key: SessionKey,
        caller: Caller,
        target: ModelMessage,
        text: str,
        now: float,
        *,
        turn_id: str,
        on_busy: str,
        client_message_id: str | None,
    ) -> str:
        session = self.open(key, caller, now, create=False)
        turn = ModelTurn(turn_id, text, edits=target)
        return self._send(session, caller, turn, now, on_busy=on_busy, client_message_id=client_message_id, model=None)

    def regenerate(
        self,
        key: SessionKey,
        caller: Caller,
        target: ModelMessage,
        now: float,
        *,
        turn_id: str,
        on_busy: str,
        model: str | None,
    ) -> str:
        session = self.open(key, caller, now, create=False)
        asked = target.parent.content if target.parent is not None else ""
        turn = ModelTurn(turn_id, asked, regenerates=target)
        return self._send(session, caller, turn, now, on_busy=on_busy, client_message_id=None, model=model)

    def _send(
        self,
        session: ModelSession,
        caller: Caller,
        turn: ModelTurn,
        now: float,
        *,
        on_busy: str,
        client_message_id: str | None,
        model: str | None,
    ) -> str:
        turn_id = turn.turn_id
        if model is not None and model not in MODELS:
            raise InvalidFields([])
        if client_message_id in session.used:
            return session.used[client_message_id]
        busy = session.running is not None
        if busy and on_busy == "reject":
            raise Conflict
        if busy and len(session.queue) >= QUEUE_LIMIT:
            raise RateLimited(limit=QUEUE_LIMIT)
        if turn.edits is not None and turn.edits.role != "user":
            raise Conflict
        if turn.regenerates is not None and turn.regenerates.role != "assistant":
            raise Conflict
        session.durable = True
        session.model = model or session.model
        session.expires_at = now + self.lifetime(caller)
        session.acknowledged.add(turn_id)
        if client_message_id is not None:
            session.used[client_message_id] = turn_id
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
        session.append(ModelMessage("system", text))

    def choose(self, key: SessionKey, caller: Caller, target: ModelMessage, now: float) -> None:
        session = self.open(key, caller, now, create=False)
        if session.running is not None:
            raise Conflict
        if target not in session.messages:
            session.leaf = [m for m in session.everything if target in m.branch()][-1]

    def fork(self, key: SessionKey, caller: Caller, target: ModelMessage, now: float) -> None:
        self.open(key, caller, now, create=False)
        if any(m.status == "streaming" for m in target.branch()):
            raise Conflict

    def rate(self, key: SessionKey, caller: Caller, target: ModelMessage, rating: str | None, now: float) -> None:
        self.open(key, caller, now, create=False)
        if target.role != "assistant" or target.status == "streaming":
            raise Conflict
        target.feedback = None if rating is None else {"rating": rating}

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
