"""SessionLists: what a caller reads of many sessions, and of the many messages of one (spec P2, P4, P6, U2).

A list holds the caller's own sessions and nothing else; a caller without identity gets none, since who knows the id of
an unowned session may use it. Messages are read of a session that was reached through SessionService.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping

from chatserver.clock import Clock
from chatserver.config import Settings
from chatserver.errors import Conflict, NotFound
from chatserver.live_session import LiveSession
from chatserver.message import Message
from chatserver.session_limits import Caller
from chatserver.session_manager import SessionManager
from chatserver.session_rules import check_project_id
from chatserver.store.base import (
    ProjectSummary,
    SessionFilter,
    SessionKey,
    SessionStats,
    SessionSummary,
    Store,
)
from chatserver.store.usage_records import UsageRow
from chatserver.transfer_source import BATCH_BYTES, MAX_BATCH, Export, begin_export
from chatserver.usage import day_of


class SessionLists:
    """See the module."""

    def __init__(self, settings: Settings, clock: Clock, store: Store, manager: SessionManager) -> None:
        self._page_bytes = settings.message_page_bytes
        self._clock = clock
        self._store = store
        self._manager = manager

    async def list_sessions(
        self,
        caller: Caller,
        *,
        project_id: str | None = None,
        include_inactive: bool = False,
        query: str | None = None,
        limit: int,
        offset: int = 0,
        after: tuple[float, str] | None = None,
    ) -> tuple[SessionSummary, ...]:
        """P2, U2: the caller's own sessions, the newest change first; none for a caller without identity.

        Who knows the id of an unowned session may use it, so nobody is told one.

        Args:
            query: words to find in titles and messages; blank is none.
            after: only what comes behind the session of that `updated_at` and id.
        """
        if project_id is not None:
            check_project_id(project_id)
        where = SessionFilter(
            caller.principal.tenant,
            caller.principal.owner,
            self._clock.now(),
            project_id=project_id,
            include_inactive=include_inactive,
            query=(query or "").strip() or None,
        )
        return await self._store.list_sessions(where, limit=limit, offset=offset, after=after)

    def activity(self, key: SessionKey) -> tuple[bool, int]:
        """Whether a turn runs in a session now, and how many of its tool calls wait for a person."""
        live = self._manager.peek(key)
        return (False, 0) if live is None else (live.state.is_processing, len(live.state.pending_approvals))

    async def list_projects(self, caller: Caller) -> tuple[ProjectSummary, ...]:
        """The projects that hold sessions of the caller."""
        principal = caller.principal
        return await self._store.list_projects(principal.tenant, principal.owner, self._clock.now())

    async def session_stats(self, caller: Caller, project_id: str) -> SessionStats:
        """P6: the caller's sessions of a project in numbers."""
        check_project_id(project_id)
        principal = caller.principal
        return await self._store.session_stats(principal.tenant, principal.owner, project_id, self._clock.now())

    async def project_usage(self, caller: Caller, project_id: str) -> tuple[UsageRow, ...]:
        """P6: what the caller's turns in the project have used, as far back as that is kept."""
        check_project_id(project_id)
        principal = caller.principal
        if principal.owner is None:  # the store counts all callers without identity together
            return ()
        today = day_of(self._clock.now())
        return await self._store.usage(principal.tenant, principal.owner, 0, today, project_id=project_id)

    async def messages(self, live: LiveSession, *, offset: int, limit: int) -> tuple[tuple[Message, ...], bool]:
        """P4: a page of the active branch, oldest first, and whether there are newer ones; a running answer as it
        stands now. Raises NotFound."""
        page = await self._store.message_page(live.key, offset=offset, limit=limit, max_bytes=self._page_bytes)
        has_more = bool(page) and page[-1].id != live.state.leaf_id()
        return tuple(_as_it_stands(live, message) for message in page), has_more

    async def newest_messages(self, live: LiveSession, limit: int) -> tuple[tuple[Message, ...], bool]:
        """The last messages of the active branch, `limit` at most, oldest first, and whether there are older ones."""
        found = await self._store.messages(live.key, leaf_id=None, limit=limit, max_bytes=self._page_bytes)
        has_more = bool(found) and found[0].parent_id is not None
        return tuple(_as_it_stands(live, message) for message in found), has_more

    def all_messages(self, live: LiveSession) -> AsyncGenerator[tuple[Message, ...], None]:
        """Every message of the active branch, oldest first, in pages; a running answer as it stands now.

        The session need not be live while they are read.

        Raises: Conflict (`branch_changed`) where another branch is chosen on the way; NotFound where it is deleted.
        """
        running = {message.id: message for message in live.state.current_messages() if message.status == "streaming"}
        return self._pages(live.key, running)

    async def _pages(
        self, key: SessionKey, running: Mapping[str, Message]
    ) -> AsyncGenerator[tuple[Message, ...], None]:
        offset, last_id = 0, None
        while page := await self._store.message_page(key, offset=offset, limit=MAX_BATCH, max_bytes=BATCH_BYTES):
            if page[0].parent_id != last_id:
                raise Conflict("another branch was chosen while it was read", code="branch_changed")
            yield tuple(running.get(m.id, m) if m.status == "streaming" else m for m in page)
            offset, last_id = offset + len(page), page[-1].id

    async def export(self, live: LiveSession) -> Export:
        """All there is of the session, to be read batch by batch. Raises: NotFound where it is deleted meanwhile."""
        found = await begin_export(self._store, live.key)
        if found is None:
            raise NotFound(f"there is no session {live.key.session_id!r}", code="session_not_found")
        return found


def _as_it_stands(live: LiveSession, message: Message) -> Message:
    """The store has of a running answer what was there when it began."""
    return live.state.message(message.id) or message if message.status == "streaming" else message
