"""SessionAccess: how a caller reaches a session, and whether he may (spec S1-S5, V1-V3, P5).

A session is reached through `open`, which resolves or creates it, checks the rules, and holds a pin while the caller
uses it. Every other way here ends in the same one resolver.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

from chatserver.clock import Clock, rfc3339
from chatserver.config import Settings
from chatserver.errors import Expired, Forbidden, NotFound
from chatserver.live_session import LiveSession
from chatserver.message import NO_METADATA
from chatserver.principal import Principal
from chatserver.session_limits import Caller, SessionLimits
from chatserver.session_manager import SessionManager
from chatserver.session_rules import (
    DEFAULT_PROJECT,
    NEW_TITLE,
    Models,
    NewSession,
    check_agreement,
    check_model,
    check_project,
    check_project_id,
    check_session_id,
    check_texts,
)
from chatserver.store.base import SessionKey, SessionRecord
from chatserver.turns import TurnRunner

# What a caller wants when the session does not exist: an error, a provisional one (a read), a durable one (a write).
Create = Literal["no", "provisional", "durable"]


class SessionAccess:
    """See the module."""

    def __init__(
        self, settings: Settings, clock: Clock, manager: SessionManager, turns: TurnRunner, models: Models
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._manager = manager
        self._turns = turns
        self._models = models
        self._limits = SessionLimits(settings, clock)

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
            project_id: the project it must be in; of a session that is made here, the one it gets.
            model: of a session that is made here.
        Raises:
            InvalidFields: an id or the model is not valid. NotFound, Expired, Forbidden: spec V2, S5, P5.
            RateLimited: over a creation limit. What the store raises.
        Cancelling is safe.
        """
        if project_id is not None:
            check_project_id(project_id)
        new = NewSession(project_id=project_id, model=model)
        may_create = create != "no" and self._settings.auto_create
        live = await self._pinned(caller, session_id, new if may_create else None)
        try:
            self.validate_session(caller.principal, live)
            check_project(live, project_id)
            yield live
        finally:
            self._manager.unpin(live)

    @asynccontextmanager
    async def open_stored(
        self, caller: Caller, session_id: str, *, project_id: str | None = None
    ) -> AsyncIterator[LiveSession]:
        """Like `open`, of a session that is durable: one that was only read is in no list and under no address."""
        async with self.open(caller, session_id, create="no", project_id=project_id) as live:
            if live.provisional:
                raise no_session(session_id)
            yield live

    @asynccontextmanager
    async def create_session(
        self, caller: Caller, session_id: str | None, new: NewSession
    ) -> AsyncIterator[tuple[LiveSession, bool]]:
        """V1: a durable session, pinned while the block runs, and whether it was made by this.

        One of that id that is the caller's already is given as it is, so that a request whose answer was lost can be
        repeated; what the new one would be must agree with it.

        Args:
            session_id: None mints one.
        Raises:
            Conflict: `session_exists`, where it is another than was asked for. What `open` raises.
        """
        live = await self._pinned(caller, session_id, new)
        try:
            self.validate_session(caller.principal, live)
            made = live.provisional and await self._turns.keep(live, *self._first_settings(caller, new))
            if not made:
                check_agreement(live, new)
            yield live, made
        finally:
            self._manager.unpin(live)

    async def _pinned(self, caller: Caller, session_id: str | None, new: NewSession | None) -> LiveSession:
        """The session whoever asks for it, made in memory as `new` says where it is not there. The caller owes an
        `unpin`.

        Raises: NotFound, where it is not there and `new` is None.
        """
        if session_id is None:
            session_id = self._clock.new_id()
        else:
            check_session_id(session_id)
        if new is not None:
            self._check_new(caller.principal.tenant, new)
        key = SessionKey(caller.principal.tenant, session_id)
        live = await self._manager.pin(key)
        if live is None:
            if new is None:
                raise no_session(session_id)
            self._limits.creation(caller)
            live = self._manager.pin_new(self._new_record(key, caller.principal, new))
        return live

    def validate_session(self, principal: Principal, live: LiveSession) -> None:
        """V2 and S5: it is this caller's to use, and not expired.

        Raises: Expired, Forbidden.
        """
        self._check_owner(principal, live.record)
        if live.record.expires_at <= self._clock.now():
            raise Expired(f"the session expired at {rfc3339(live.record.expires_at)}")

    @staticmethod
    def _check_owner(principal: Principal, record: SessionRecord) -> None:
        """S5. An unowned session is for callers without identity only: a planted id can't capture a person's words."""
        if record.owner != principal.owner:
            raise Forbidden("the session belongs to somebody else", code="session_forbidden")

    def _check_new(self, tenant: str, new: NewSession) -> None:
        if new.project_id is not None:
            check_project_id(new.project_id)
        if new.model is not None:
            check_model(self._models, tenant, new.model)
        check_texts(self._settings, new.named())

    def _first_settings(self, caller: Caller, new: NewSession) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a session that is made is committed with, and what tabs are told that read it before."""
        changes, expires_at = new.named(), self._expiry(caller)
        told = changes | {"expires_at": rfc3339(expires_at)}
        if new.model is not None:
            told |= self._switched(caller.principal.tenant, new.model)
        return changes | {"expires_at": expires_at, "is_named": new.is_named}, told

    def _new_record(self, key: SessionKey, principal: Principal, new: NewSession) -> SessionRecord:
        now = self._clock.now()
        return SessionRecord(
            key=key,
            project_id=new.project_id or DEFAULT_PROJECT,
            owner=principal.owner,
            title=new.title or NEW_TITLE,
            model=new.model,
            created_at=now,
            updated_at=now,
            expires_at=now + self._ttl_seconds(principal),
            description=new.description or "",
            metadata=new.metadata or NO_METADATA,
            is_named=new.is_named,
        )

    def _ttl_seconds(self, principal: Principal) -> float:
        match principal.kind:
            case "user":
                return self._settings.user_session_ttl_seconds
            case "visitor":
                return self._settings.visitor_session_ttl_seconds
            case "none":
                return self._settings.unowned_session_ttl_seconds

    def _expiry(self, caller: Caller) -> float:
        """V3: activity now pushes the expiry this far (seconds since the epoch)."""
        return self._clock.now() + self._ttl_seconds(caller.principal)

    def _switched(self, tenant: str, model: str | None) -> dict[str, Any]:
        """What tabs are told of a switch to that model."""
        return {"model": model, "missing_api_key": self._models.missing_api_key(tenant, model)}


def no_session(session_id: str) -> NotFound:
    """The error of a session that is not there."""
    return NotFound(f"there is no session {session_id!r}", code="session_not_found")
