"""SessionChanges: what changes a session outside its turns: messages that nobody answers, and its record.

Invariants: a change is committed before it is told, with the session's lock held, and numbered under a fence of its own
while no turn runs; during a turn, under the turn's. The first change of a provisional session makes it durable.

Who may ask for a change is session_service.py's to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from chatserver import events as ev
from chatserver.clock import Clock, rfc3339
from chatserver.errors import NotFound
from chatserver.live_session import LiveSession
from chatserver.message import Message
from chatserver.session_manager import SessionManager
from chatserver.store.base import SessionRecord, Store
from chatserver.under_way import UnderWay


class SessionChanges:
    """See the module."""

    def __init__(self, clock: Clock, store: Store, manager: SessionManager, under_way: UnderWay) -> None:
        self._clock = clock
        self._store = store
        self._manager = manager
        self._under_way = under_way

    async def add_message(
        self,
        live: LiveSession,
        role: Literal["user", "assistant", "system"],
        text: str,
        expires_at: float,
        metadata: Mapping[str, Any],
    ) -> Message:
        """Commit a message outside a turn and tell it; works during a turn."""
        work = self._add_message(live, role, text, expires_at, metadata)
        return await self._under_way.protect(live, work, "add_message")

    async def _add_message(
        self,
        live: LiveSession,
        role: Literal["user", "assistant", "system"],
        text: str,
        expires_at: float,
        metadata: Mapping[str, Any],
    ) -> Message:
        async with live.lock:
            check_there(live)
            message = new_message(self._clock, role, text, metadata=metadata, parent_id=live.state.leaf_id())
            message = replace(message, status="completed")
            running = live.run is not None
            record = await self._store.add_message(
                live.key,
                message,
                create=live.record if live.provisional else None,
                new_fence=not running,
                expires_at=expires_at,
                now=self._clock.now(),
            )
            told = activity_of(record) | settings_of(live)
            self._manager.made_durable(live)
            live.record = record
            if live.run is None:
                live.begin_fence(record.fence)
                self._manager.lighten(live)
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
        await self._under_way.protect(live, self._update(live, changes, told), "update")

    async def _update(self, live: LiveSession, changes: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        async with live.lock:
            check_there(live)
            # Looked at only now: what waited for the lock may have been asked for to undo what is told just before.
            if not changes and all(getattr(live.state, name) == value for name, value in told.items()):
                return
            await self.change(live, changes, told)

    async def keep(self, live: LiveSession, changes: Mapping[str, Any], told: Mapping[str, Any]) -> bool:
        """Make a provisional session durable, with these changes of its record; False where it is so already."""
        return await self._under_way.protect(live, self._keep(live, changes, told), "keep")

    async def _keep(self, live: LiveSession, changes: Mapping[str, Any], told: Mapping[str, Any]) -> bool:
        async with live.lock:
            check_there(live)
            if not live.provisional:
                return False
            await self.change(live, changes, told)
            return True

    async def name(self, live: LiveSession, title: str) -> bool:
        """Title a durable session that has no title of its own; False where it has got one meanwhile."""
        return await self._under_way.protect(live, self._name(live, title), "name")

    async def _name(self, live: LiveSession, title: str) -> bool:
        async with live.lock:
            check_there(live)
            running = live.run is not None
            # The store compares, and not this: what is in memory may be behind it.
            record = await self._store.name_session(live.key, title, new_fence=not running, now=self._clock.now())
            if record is None:
                return False
            self._tell(live, record, {"title": title})
            return True

    async def change(self, live: LiveSession, changes: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        """Commit changes of the record and tell them; the lock is held."""
        settings = settings_of(live)
        await self.new_fence(live, changes)
        live.append(ev.SessionUpdated(live.key.session_id, settings | dict(told)))
        self._manager.remeasure(live)

    def _tell(self, live: LiveSession, record: SessionRecord, told: Mapping[str, Any]) -> None:
        """Take over what was committed and tell it; the lock is held."""
        live.record = record
        if live.run is None:
            live.begin_fence(record.fence)
        live.append(ev.SessionUpdated(live.key.session_id, dict(told)))
        self._manager.remeasure(live)

    async def new_fence(self, live: LiveSession, changes: Mapping[str, Any]) -> None:
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


def check_there(live: LiveSession) -> None:
    """Raises NotFound where the session has been deleted, or is being."""
    if live.removed or live.deletions:
        raise NotFound("the session was deleted", code="session_not_found")


def new_message(clock: Clock, role: Literal["user", "system", "assistant"], text: str, **fields: Any) -> Message:
    """A fresh message, an assistant's still streaming.

    Args:
        fields: `parent_id`, `model`, `metadata`; the others have their defaults.
    """
    status: Literal["streaming", "completed"] = "streaming" if role == "assistant" else "completed"
    return Message(
        id=clock.new_id(),
        parent_id=fields.pop("parent_id", None),
        role=role,
        content=text,
        status=status,
        model=fields.pop("model", None),
        created_at=rfc3339(clock.now()),
        **fields,
    )


def activity_of(record: SessionRecord) -> dict[str, Any]:
    """What a message changes of the record, as tabs and lists see it."""
    return {
        "message_count": record.message_count,
        "expires_at": rfc3339(record.expires_at),
        "updated_at": rfc3339(record.updated_at),
    }


def settings_of(live: LiveSession) -> dict[str, Any]:
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
