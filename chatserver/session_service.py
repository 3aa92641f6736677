"""SessionService: the only door to sessions. Every rule about them is kept here, once (spec §2, §5).

Endpoints parse, call, and answer; they decide nothing. Who reaches a session, and who may make one, is SessionAccess
(session_access.py), which this extends by what can be done with a session that was reached; the rules that need no
state are in session_rules.py, the rates in session_limits.py.

It owns no session (session_manager.py), runs no turn (turns.py) and knows no HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, Literal

from chatserver.branches import Stretch
from chatserver.clock import Clock, rfc3339
from chatserver.config import Settings
from chatserver.errors import (
    ChatServerError,
    Conflict,
    Draining,
    Expired,
    Forbidden,
    InvalidFields,
    NotFound,
    RateLimited,
    SessionDamaged,
)
from chatserver.live_session import LiveSession
from chatserver.message import NO_METADATA, Message
from chatserver.new_turn import NewTurn, OnBusy
from chatserver.principal import Principal
from chatserver.session_access import SessionAccess, no_session
from chatserver.session_limits import Caller as Caller
from chatserver.session_lists import SessionLists
from chatserver.session_manager import SessionManager
from chatserver.session_rules import SESSION_ID as SESSION_ID
from chatserver.session_rules import (
    Models,
    NewSession,
    StoredRole,
    Wanted,
    check_in_project,
    check_metadata,
    check_model,
    check_project,
    check_project_id,
    check_text,
    check_texts,
)
from chatserver.store.base import SessionKey, SessionRecord, Store
from chatserver.turns import TurnRunner

Rating = Literal["up", "down"]


# Until a store that was away is asked again for what tabs still show wrongly.
TELL_AGAIN_SECONDS = 1.0


class SessionService(SessionAccess):
    """See the module; `lists` is what is read of many sessions and of many messages."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        store: Store,
        manager: SessionManager,
        turns: TurnRunner,
        models: Models,
    ) -> None:
        super().__init__(settings, clock, manager, turns, models)
        self.lists = SessionLists(settings, clock, store, manager)

    # --- the record ---

    async def extend_session(self, caller: Caller, live: LiveSession) -> None:
        """V3: push the expiry as activity does, without any."""
        expires_at = self._expiry(caller)
        await self._turns.update(live, {"expires_at": expires_at}, {"expires_at": rfc3339(expires_at)})

    def get_current_model(self, live: LiveSession) -> str:
        """V5: the session's model; the catalogue's default where none is set or the set one has gone."""
        model, tenant = live.record.model, live.key.tenant
        return model if model in self._models.ids(tenant) else self._models.default_id(tenant)

    async def switch_model(self, caller: Caller, live: LiveSession, model: str | None) -> None:
        """V4: takes effect from the next turn.

        Args:
            model: None goes back to the catalogue's default.
        Raises: InvalidFields, which lists the catalogue; RateLimited.
        """
        await self.change_session(caller, live, {"model": model})

    async def change_session(
        self, caller: Caller, live: LiveSession, wanted: Wanted, *, message_count: int | None = None
    ) -> None:
        """P3, U3: rename, describe, archive, switch the model: what is given and differs, in one commit; tabs are told.

        Args:
            message_count: how many messages the caller takes the session to have.
        Raises:
            Conflict: `message_count_differs`. InvalidFields, TooLarge, RateLimited (a model too often), and what the
            store raises.
        """
        if message_count not in (None, live.record.message_count):
            raise Conflict(
                f"the session has {live.record.message_count} messages, not {message_count}",
                code="message_count_differs",
            )
        if (model := wanted.get("model")) is not None:
            check_model(self._models, live.key.tenant, model)
        check_texts(self._settings, wanted)
        changes = {name: value for name, value in wanted.items() if getattr(live.record, name) != value}
        if "model" in changes:
            self._limits.model_switch(caller)
        told = changes | (self._switched(live.key.tenant, model) if "model" in changes else {})
        if "title" in wanted and not live.record.is_named:  # the one that it has is confirmed, too
            changes, told = changes | {"title": wanted["title"], "is_named": True}, told | {"title": wanted["title"]}
        if changes:
            await self._turns.update(live, changes, told)

    async def delete_session(
        self, caller: Caller, session_id: str, *, project_id: str | None = None, force: bool, missing_ok: bool
    ) -> bool:
        """Remove record, messages and live state at once, ending its turn and its streams; whether there was one.

        An expired one may be deleted too, and one that is damaged and cannot be read.

        Args:
            project_id: where it must be.
            force: also if it has messages.
            missing_ok: one that is not there is nothing to complain about (spec U4).
        Raises: NotFound, Forbidden, InvalidRequest (`session_has_messages`), and what the store raises.
        """
        if project_id is not None:
            check_project_id(project_id)
        try:
            deleted = await self._delete(caller, session_id, project_id, force=force)
        except NotFound:
            if not missing_ok:
                raise
            deleted = False
        if not deleted and not missing_ok:  # somebody was quicker, or it was never written
            raise no_session(session_id)
        return deleted

    async def _delete(self, caller: Caller, session_id: str, project_id: str | None, *, force: bool) -> bool:
        def check(record: SessionRecord) -> None:
            self._check_owner(caller.principal, record)
            check_in_project(record, project_id)

        try:
            live = await self._pinned(caller, session_id, None)
        except SessionDamaged:
            return await self._turns.delete_damaged(
                SessionKey(caller.principal.tenant, session_id), check=check, force=force
            )
        try:
            self._check_owner(caller.principal, live.record)
            check_project(live, project_id)
            return await self._turns.delete(live, force=force)
        finally:
            self._manager.unpin(live)

    async def adopt(self, visitor: Principal, user: Principal) -> int:
        """S6: the sessions of the browser's visitor pass to the user who logged in; how many.

        Nothing where there is no visitor, or where the user is of another tenant: a session never leaves its tenant.
        Raises what the store raises. Cancelling is safe: it goes on.
        """
        if visitor.kind != "visitor" or visitor.tenant != user.tenant or visitor.owner is None or user.owner is None:
            return 0
        return await self._turns.adopt(user.tenant, visitor.owner, user.owner)

    async def session_at_login(self, caller: Caller, session_id: str | None) -> str | None:
        """A1: the session that a user goes on with who has just logged in: the one that the browser was in where it is
        theirs, else a fresh one of their own, which is in memory only until it is written to.

        Returns: its id; None where none may be made.
        """
        for wanted in (session_id, None):
            with suppress(NotFound, Expired, Forbidden, InvalidFields, RateLimited, SessionDamaged):
                async with self.open(caller, wanted, create="provisional") as live:
                    return live.key.session_id
        return None

    # --- what the live endpoints do ---

    async def chat(
        self,
        caller: Caller,
        live: LiveSession,
        text: str,
        *,
        project_id: str | None = None,
        model: str | None = None,
        client_message_id: str | None = None,
        on_busy: OnBusy = "queue",
    ) -> str:
        """L2: commit a message and start or queue its turn; returns the turn's id at once.

        Raises:
            InvalidFields (blank), TooLarge, RateLimited, and what TurnRunner.send raises; nothing is accepted then.
        """
        check_text(self._settings, text)
        new = self._new_turn(caller, live, text, model, client_message_id, on_busy)
        return await self._turns.send(live, new if project_id is None else replace(new, project_id=project_id))

    def _new_turn(
        self,
        caller: Caller,
        live: LiveSession,
        text: str,
        model: str | None,
        client_message_id: str | None,
        on_busy: OnBusy,
    ) -> NewTurn:
        """A turn that may be asked for. Raises: InvalidFields (`unknown_model`), RateLimited."""
        if model is not None:
            check_model(self._models, live.key.tenant, model)
        self._limits.message(caller, switches=model not in (None, live.record.model))
        return NewTurn(
            text,
            caller.principal,
            client_message_id,
            on_busy,
            self._expiry(caller),
            # A page that lost the answer to its POST finds its own message by this, however late.
            NO_METADATA if client_message_id is None else {"client_message_id": client_message_id},
            None if model is None else self._switched(live.key.tenant, model),
        )

    # --- the tree of messages ---

    async def edit(
        self,
        caller: Caller,
        live: LiveSession,
        message_id: str,
        text: str,
        *,
        model: str | None = None,
        client_message_id: str | None = None,
        on_busy: OnBusy = "reject",
    ) -> str:
        """Commit a message in the place of one of the user's, on a branch of its own, and start or queue its turn;
        returns the turn's id at once.

        Raises: what `chat` raises; NotFound, Conflict: there is no such message, or none of a user's.
        """
        check_text(self._settings, text)
        new = self._new_turn(caller, live, text, model, client_message_id, on_busy)
        return await self._turns.send(live, replace(new, edits=message_id))

    async def regenerate(
        self,
        caller: Caller,
        live: LiveSession,
        message_id: str,
        *,
        model: str | None = None,
        on_busy: OnBusy = "reject",
    ) -> str:
        """Start or queue a turn that answers anew what that answer answered; returns the turn's id at once.

        Raises: as `edit`.
        """
        new = self._new_turn(caller, live, "", model, None, on_busy)
        return await self._turns.send(live, replace(new, regenerates=message_id))

    async def choose_branch(self, live: LiveSession, message_id: str) -> None:
        """Make the branch through that message the active one; see `Branches.choose`."""
        await self._turns.branches.choose(live, message_id)

    @asynccontextmanager
    async def fork(
        self, caller: Caller, live: LiveSession, message_id: str, title: str | None
    ) -> AsyncIterator[LiveSession]:
        """A new session of the caller's that begins with a copy of the branch up to that message, pinned while the
        block runs.

        Args:
            title: that of the copied session where None.
        Raises: InvalidFields, RateLimited (a session is made), and what `Branches.fork` raises.
        """
        record = live.record
        new = NewSession(record.project_id, title or record.title, record.description, record.metadata, record.model)
        named = record.is_named if title is None else True
        check_texts(self._settings, {"title": title})
        key = SessionKey(caller.principal.tenant, self._clock.new_id())
        create = replace(self._new_record(key, caller.principal, new), is_named=named)
        with self._limits.creating(caller):
            await self._turns.branches.fork(live, message_id, create)
        async with self.open(caller, key.session_id, create="no") as forked:
            yield forked

    async def rate(self, live: LiveSession, message_id: str, rating: Rating | None, comment: str | None) -> Message:
        """Keep what a person thinks of an answer; nothing of both takes it away. See `Branches.rate`."""
        feedback: dict[str, Any] | None = None
        if rating is not None or comment:
            feedback = {"rating": rating, **({"comment": comment} if comment else {})}
        return await self._turns.branches.rate(live, message_id, feedback)

    async def page(self, live: LiveSession, before: str | None, limit: int) -> Stretch:
        """Messages of a branch, going back; see `Branches.page`."""
        return await self._turns.branches.page(live, before, limit)

    # --- what else the live endpoints do ---

    async def add_system_message(self, caller: Caller, live: LiveSession, text: str) -> Message:
        """L6: a message that tabs see and the agent reads at its next turn."""
        return await self.store_message(caller, live, "system", text, NO_METADATA, field="message")

    async def store_message(
        self,
        caller: Caller,
        live: LiveSession,
        role: StoredRole,
        text: str,
        metadata: Mapping[str, Any],
        *,
        field: str = "content",
    ) -> Message:
        """P4: commit a message without a turn; tabs see it, and the agent reads it at its next turn.

        Args:
            field: what the request calls the text.
        Raises: InvalidFields (blank), TooLarge, RateLimited, NotFound (deleted meanwhile), what the store raises.
        """
        check_text(self._settings, text, field=field)
        check_metadata(self._settings, metadata)
        self._limits.message(caller)
        return await self._turns.add_message(live, role, text, self._expiry(caller), metadata)

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
        """Show tabs that the session's tool servers are being connected; nothing where it is not live.

        While the store is away, an end is told as soon as it is back; a beginning is not told at all. Cancelling is
        safe.
        """
        while (live := self._manager.peek(key)) is not None:
            try:
                return await self._turns.update(live, {}, {"is_connecting_mcp": connecting})
            except (NotFound, Draining):  # deleted meanwhile, or nobody is to be told anything any more
                return
            except ChatServerError:
                if connecting:
                    return
            await self._clock.sleep(TELL_AGAIN_SECONDS)

    def check_subscribers(self, live: LiveSession) -> None:
        """V7: raises RateLimited where the session has all the streams it may have."""
        if len(live.subscribers) >= self._settings.max_streams_per_session:
            raise RateLimited(
                f"{len(live.subscribers)} streams follow this session already",
                limit=self._settings.max_streams_per_session,
                code="too_many_streams",
                retry_after_seconds=5,
            )
