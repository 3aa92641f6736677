"""SessionService: the only door to sessions. Every rule about them lives here, once (spec §2, §5).

Who may use a session, who may make one and how often, how long it lives, which model it has. Endpoints parse, call,
and answer; they decide nothing. A session is reached through `open`, which resolves or creates it, checks the rules,
and holds a pin while the caller uses it.

It owns no session (session_manager.py), runs no turn (turns.py) and knows no HTTP.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from chatserver.clock import Clock, rfc3339
from chatserver.config import Settings
from chatserver.errors import (
    Expired,
    FieldError,
    Forbidden,
    InvalidFields,
    NotFound,
    RateLimited,
    TooLarge,
)
from chatserver.live_session import LiveSession
from chatserver.message import NO_METADATA, Message
from chatserver.new_turn import NewTurn, OnBusy
from chatserver.principal import Principal
from chatserver.rate_limit import RateLimiter
from chatserver.session_manager import SessionManager
from chatserver.store.base import SessionKey, SessionRecord
from chatserver.turns import TurnRunner

SESSION_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
DEFAULT_PROJECT = "default"
NEW_TITLE = "New Chat"

# What a caller wants when the session does not exist: an error, a provisional one (a read), a durable one (a write).
Create = Literal["no", "provisional", "durable"]


class Models(Protocol):
    """The catalogue, as far as rules about sessions need it."""

    def ids(self) -> tuple[str, ...]:
        """Models a session may name, the default first."""

    def default_id(self) -> str: ...

    def missing_api_key(self, model_id: str | None) -> bool: ...


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and from where (an IP address; limits of callers without identity count by it)."""

    principal: Principal
    address: str

    @property
    def counted_as(self) -> str:
        """What per-caller limits count by."""
        principal = self.principal
        return f"{principal.tenant}/{principal.owner}" if principal.owner else f"{principal.tenant}@{self.address}"


class SessionService:
    """See the module."""

    def __init__(
        self, settings: Settings, clock: Clock, manager: SessionManager, turns: TurnRunner, models: Models
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._manager = manager
        self._turns = turns
        self._models = models
        self._creations = RateLimiter("sessions created", settings.session_creations_per_minute, 60.0, clock.monotonic)
        self._all_creations = RateLimiter(
            "sessions created by everybody", settings.session_creations_global_per_minute, 60.0, clock.monotonic
        )

    # --- resolving ---

    @asynccontextmanager
    async def open(
        self,
        caller: Caller,
        session_id: str | None,
        *,
        create: Create,
        project_id: str | None = None,
        model: str | None = None,
    ) -> AsyncIterator[LiveSession]:
        """The session, pinned while the block runs.

        Args:
            session_id: None mints one.
            create: what to do where it does not exist; `auto_create = false` makes it "no".
            project_id, model: of a session that is made here.
        Raises:
            InvalidFields: the id or the model is not valid. NotFound, Expired, Forbidden: spec V2, S5.
            RateLimited: over a creation limit. What the store raises.
        Cancelling is safe.
        """
        if session_id is None:
            session_id = self._clock.new_id()
        elif not SESSION_ID.fullmatch(session_id):
            raise InvalidFields(
                [FieldError(("session_id",), "1 to 128 of A-Z a-z 0-9 . _ : -")], code="invalid_session_id"
            )
        if model is not None:
            self._check_model(model)
        key = SessionKey(caller.principal.tenant, session_id)
        live = await self._manager.pin(key)
        if live is None:
            if create == "no" or not self._settings.auto_create:
                raise NotFound(f"there is no session {session_id!r}", code="session_not_found")
            self._count_creation(caller)
            live = self._manager.pin_new(self._new_record(key, caller.principal, project_id, model))
        try:
            self.validate_session(caller.principal, live)
            yield live
        finally:
            self._manager.unpin(live)

    def validate_session(self, principal: Principal, live: LiveSession) -> None:
        """V2 and S5: it is not expired, and it is this caller's to use.

        An unowned session is for callers without identity only: a planted id can't capture a person's words.
        Raises: Expired, Forbidden.
        """
        if live.record.owner != principal.owner:
            raise Forbidden("the session belongs to somebody else", code="session_forbidden")
        if live.record.expires_at <= self._clock.now():
            raise Expired(f"the session expired at {rfc3339(live.record.expires_at)}")

    def _count_creation(self, caller: Caller) -> None:
        try:
            self._creations.hit(caller.counted_as)
            self._all_creations.hit("all")
        except RateLimited as error:
            raise RateLimited(
                error.detail,
                code="session_creation_limited",
                retry_after_seconds=error.retry_after_seconds,
                limit=error.limit,
                remaining=error.remaining,
            ) from None

    def _new_record(
        self, key: SessionKey, principal: Principal, project_id: str | None, model: str | None
    ) -> SessionRecord:
        now = self._clock.now()
        return SessionRecord(
            key=key,
            project_id=project_id or DEFAULT_PROJECT,
            owner=principal.owner,
            title=NEW_TITLE,
            model=model,
            created_at=now,
            updated_at=now,
            expires_at=now + self._ttl_seconds(principal),
        )

    def _ttl_seconds(self, principal: Principal) -> float:
        match principal.kind:
            case "user":
                return self._settings.user_session_ttl_seconds
            case "visitor":
                return self._settings.visitor_session_ttl_seconds
            case "none":
                return self._settings.unowned_session_ttl_seconds

    # --- the record ---

    def _expiry(self, caller: Caller) -> float:
        """V3: activity now pushes the expiry this far (seconds since the epoch)."""
        return self._clock.now() + self._ttl_seconds(caller.principal)

    async def extend_session(self, caller: Caller, live: LiveSession) -> None:
        """V3: push the expiry as activity does, without any."""
        expires_at = self._expiry(caller)
        await self._turns.update(live, {"expires_at": expires_at}, {"expires_at": rfc3339(expires_at)})

    def get_current_model(self, live: LiveSession) -> str:
        """V5: the session's model; the catalogue's default where none is set or the set one has gone."""
        model = live.record.model
        return model if model in self._models.ids() else self._models.default_id()

    async def switch_model(self, live: LiveSession, model: str) -> None:
        """V4: takes effect from the next turn.

        Raises: InvalidFields, which lists the catalogue.
        """
        self._check_model(model)
        if live.record.model != model:
            await self._turns.update(live, {"model": model}, self._switched(model))

    def _switched(self, model: str) -> dict[str, Any]:
        """What tabs are told of a switch to that model."""
        return {"model": model, "missing_api_key": self._models.missing_api_key(model)}

    def _check_model(self, model: str) -> None:
        known = self._models.ids()
        if model not in known:
            raise InvalidFields(
                [FieldError(("model",), f"not in the catalogue; known: {', '.join(known)}")], code="unknown_model"
            )

    # --- what the live endpoints do ---

    async def chat(
        self,
        caller: Caller,
        live: LiveSession,
        text: str,
        *,
        model: str | None = None,
        client_message_id: str | None = None,
        on_busy: OnBusy = "queue",
    ) -> str:
        """L2: commit a message and start or queue its turn; returns the turn's id at once.

        Raises: InvalidFields (blank), TooLarge, and what TurnRunner.send raises; nothing is accepted then.
        """
        self._check_text(text)
        if model is not None:
            self._check_model(model)
        return await self._turns.send(
            live,
            NewTurn(
                text,
                caller.principal,
                client_message_id,
                on_busy,
                self._expiry(caller),
                # A page that lost the answer to its POST finds its own message by this, however late.
                NO_METADATA if client_message_id is None else {"client_message_id": client_message_id},
                None if model is None else self._switched(model),
            ),
        )

    async def add_system_message(self, caller: Caller, live: LiveSession, text: str) -> Message:
        """L6: a message that tabs see and the agent reads at its next turn."""
        self._check_text(text)
        return await self._turns.add_message(live, "system", text, self._expiry(caller), NO_METADATA)

    def _check_text(self, text: str) -> None:
        if not text.strip():
            raise InvalidFields([FieldError(("message",), "must not be blank")], code="blank_message")
        if len(text) > self._settings.max_message_chars:
            raise TooLarge(
                f"the message has {len(text)} characters; {self._settings.max_message_chars} are allowed",
                code="message_too_long",
            )

    async def interrupt(self, live: LiveSession, turn_id: str | None, *, clear_queue: bool) -> None:
        """L5: stop the running turn; idle: nothing. Idempotent."""
        await self._turns.interrupt(live, turn_id, clear_queue=clear_queue)

    async def withdraw(self, live: LiveSession, turn_id: str) -> None:
        """L8: take a queued message back. Raises: NotFound where it is not queued (any more)."""
        if not await self._turns.withdraw(live, turn_id):
            raise NotFound(f"no turn {turn_id!r} is queued", code="turn_not_queued")

    async def make_durable(self, caller: Caller, live: LiveSession) -> None:
        """S4: the first write of a session that a read made."""
        if live.provisional:
            await self.extend_session(caller, live)

    def decide(self, live: LiveSession, approval_id: str, decision: Literal["approved", "denied"]) -> None:
        """A person's answer to an approval. Raises: NotFound where it does not wait (any more)."""
        if not self._turns.resolve_approval(live, approval_id, decision):
            raise NotFound(f"no approval {approval_id!r} is waiting", code="approval_not_found")

    async def tell_connecting(self, key: SessionKey, connecting: bool) -> None:
        """Show tabs that the session's tool servers are being connected; nothing where it is not live."""
        live = self._manager.peek(key)
        if live is not None:
            with suppress(NotFound):  # deleted meanwhile
                await self._turns.update(live, {}, {"is_connecting_mcp": connecting})

    def check_subscribers(self, live: LiveSession) -> None:
        """V7: raises RateLimited where the session has all the streams it may have."""
        if len(live.subscribers) >= self._settings.max_streams_per_session:
            raise RateLimited(
                f"{len(live.subscribers)} streams follow this session already",
                code="too_many_streams",
                retry_after_seconds=5,
            )
