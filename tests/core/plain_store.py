"""PlainStore: the Store protocol over dictionaries, for tests that need thousands of stores.

It keeps every promise of chatserver/store/base.py but durability, and passes the same conformance suite. A write takes
effect between two turns of the loop, so that what runs meanwhile, and a cancel in the middle, meet both sides of a
commit as with a real store.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from dataclasses import replace as dataclasses_replace
from itertools import accumulate, takewhile
from typing import Any, TypeVar

import orjson

from chatserver.errors import Conflict, NotFound, StoreUnavailable, TooLarge
from chatserver.message import Message, ToolCall, ToolResult, Usage
from chatserver.preview import preview_of
from chatserver.store.base import (
    LISTED_PROJECTS,
    PREVIEW_CHARS,
    Chunk,
    Duplicate,
    FinishTurn,
    Imported,
    ProjectSummary,
    QuotaUse,
    Recovered,
    SessionFilter,
    SessionKey,
    SessionRecord,
    SessionStats,
    SessionSummary,
    Started,
    StartTurn,
    StoreCounts,
    StoredSession,
    StoredTurn,
    UsageRow,
    WholeSession,
)
from chatserver.store.whole import comparable
from chatserver.store.words import query_words, words_of
from chatserver.usage import day_of, usage_at_end

T = TypeVar("T")
# As long as the real one (store/recovery.py).
REMEMBER_DELETED_SECONDS = 30 * 86400.0
_CHANGEABLE = frozenset(
    {"title", "is_named", "model", "expires_at", "project_id", "description", "metadata", "is_active", "owner"}
)


@dataclass
class _Turn:
    state: str  # queued, running, withdrawn, or an outcome
    client_message_id: str | None
    answer_id: str | None = None
    stored: StoredTurn | None = None


@dataclass
class _Session:
    record: SessionRecord
    messages: dict[str, Message] = field(default_factory=dict)
    turns: dict[str, _Turn] = field(default_factory=dict)
    queue: list[str] = field(default_factory=list)
    chunks: dict[tuple[str, int], bytes] = field(default_factory=dict)

    def branch(self, leaf_id: str | None, limit: int) -> tuple[tuple[Message, ...], bool]:
        found: list[Message] = []
        at = leaf_id
        while at is not None and len(found) < limit:
            found.append(self.shown(at))
            at = found[-1].parent_id
        return tuple(reversed(found)), at is not None

    def shown(self, message_id: str) -> Message:
        """The message with its siblings."""
        message = self.messages[message_id]
        beside = tuple(m.id for m in self.messages.values() if m.parent_id == message.parent_id)
        return replace(message, siblings=beside if len(beside) > 1 else ())

    def whole(self, message_id: str) -> Message:
        """The message without its siblings; a running answer as its checkpoints give it."""
        message = replace(self.messages[message_id], siblings=())
        if message.status != "streaming":
            return message
        return _with_chunks(message, [body for _, body in sorted(self.chunks.items())])

    def preview(self) -> str | None:
        newest, before = [*reversed(self.branch(self.record.leaf_id, 2)[0]), None, None][:2]
        texts = (preview_of(m.content[:400], PREVIEW_CHARS) for m in (newest, before) if m is not None)
        return next(filter(None, texts), None)

    def holds(self, words: tuple[str, ...]) -> bool:
        settled = takewhile(lambda m: m.status != "streaming", self.messages.values())
        texts = [self.record.title, *(m.content for m in settled)]
        held = {word for text in texts for word in words_of(text)}
        *whole, beginning = words or ("",)
        return bool(words) and held.issuperset(whole) and any(word.startswith(beginning) for word in held)

    def used(self, client_message_id: str | None) -> str | None:
        if client_message_id is None:
            return None
        return next((t for t, turn in self.turns.items() if turn.client_message_id == client_message_id), None)

    def running(self) -> str | None:
        return next((t for t, turn in self.turns.items() if turn.state == "running"), None)


@dataclass
class _Used:
    tenant: str
    owner: str | None
    day: int
    project_id: str
    model: str
    usage: Usage
    is_turn: bool = True


class PlainStore:
    """Implements Store. What it holds outlives every server of a test."""

    def __init__(self) -> None:
        self._sessions: dict[SessionKey, _Session] = {}
        self._last_fences: dict[SessionKey, tuple[int, float | None]] = {}  # of deleted ones; when a start found them
        self._closed = False
        self._commits = 0
        self._used: list[_Used] = []

    async def _do(self, work: Callable[[], T]) -> T:
        """All writes and reads wait alike, so they take effect in the order of their calls."""
        if self._closed:
            raise StoreUnavailable("the store is closed")
        await asyncio.sleep(0)
        result = work()
        self._commits += 1
        await asyncio.sleep(0)
        return result

    def _of(self, key: SessionKey) -> _Session:
        session = self._sessions.get(key)
        if session is None:
            raise NotFound(f"there is no session {key.session_id!r}", code="session_not_found")
        return session

    def _insert(self, record: SessionRecord) -> _Session:
        fence = self._last_fences.get(record.key, (0, None))[0] + 1
        session = _Session(replace(record, fence=fence, message_count=0, last_message_at=None, leaf_id=None))
        return self._sessions.setdefault(record.key, session)

    def _forget_fences(self, now: float) -> None:
        self._last_fences = {
            key: (fence, now if found_at is None else found_at)
            for key, (fence, found_at) in self._last_fences.items()
            if found_at is None or found_at >= now - REMEMBER_DELETED_SECONDS
        }

    def _of_or_new(self, key: SessionKey, create: SessionRecord | None) -> _Session:
        if create is not None and key not in self._sessions:
            return self._insert(create)
        return self._of(key)

    @staticmethod
    def _add(session: _Session, messages: Sequence[Message], *, fences: int, expires_at: float, now: float) -> None:
        if any(message.id in session.messages for message in messages):
            raise Conflict("it is stored already")
        session.messages.update({message.id: message for message in messages})
        record = session.record
        session.record = replace(
            record,
            fence=record.fence + fences,
            message_count=record.message_count + len(messages),
            leaf_id=messages[-1].id,
            last_message_at=now,
            updated_at=now,
            expires_at=expires_at,
        )

    def counts(self) -> StoreCounts:
        return StoreCounts(self._commits, 0)

    # --- reads ---

    async def ready(self) -> None:
        await self._do(lambda: None)

    async def load(self, key: SessionKey, limit: int, *, max_bytes: int | None = None) -> StoredSession | None:
        def work() -> StoredSession | None:
            session = self._sessions.get(key)
            if session is None:
                return None
            messages, more = session.branch(session.record.leaf_id, limit)
            fitting = _fitting(messages[::-1], max_bytes)[::-1]
            messages, more = fitting, more or len(fitting) < len(messages)
            queue = tuple(turn for t in session.queue if (turn := session.turns[t].stored) is not None)
            return StoredSession(session.record, messages, more, queue)

        return await self._do(work)

    async def record(self, key: SessionKey) -> SessionRecord | None:
        return await self._do(lambda: session.record if (session := self._sessions.get(key)) else None)

    async def listed_record(self, key: SessionKey) -> SessionRecord | None:
        return await self.record(key)

    async def find_turn(self, key: SessionKey, client_message_id: str) -> str | None:
        return await self._do(lambda: session.used(client_message_id) if (session := self._sessions.get(key)) else None)

    async def messages(
        self, key: SessionKey, *, leaf_id: str | None, limit: int, max_bytes: int | None = None
    ) -> tuple[Message, ...]:
        def work() -> tuple[Message, ...]:
            if leaf_id is None:
                session = self._of(key)
                return _fitting(session.branch(session.record.leaf_id, limit)[0][::-1], max_bytes)[::-1]
            known = self._sessions.get(key)
            if known is None or leaf_id not in known.messages:
                raise NotFound(f"there is no message {leaf_id!r} in this session")
            return _fitting(known.branch(leaf_id, limit)[0][::-1], max_bytes)[::-1]

        return await self._do(work)

    async def message(self, key: SessionKey, message_id: str) -> Message | None:
        def work() -> Message | None:
            session = self._sessions.get(key)
            return session.shown(message_id) if session is not None and message_id in session.messages else None

        return await self._do(work)

    async def system_messages(self, key: SessionKey, *, leaf_id: str, limit: int) -> tuple[Message, ...]:
        def work() -> tuple[Message, ...]:
            found = [m for m in self._of(key).branch(leaf_id, 10**9)[0] if m.role == "system"]
            return tuple(found[-limit:])

        return await self._do(work)

    async def leaf_behind(self, key: SessionKey, message_id: str) -> str | None:
        def work() -> str | None:
            session = self._sessions.get(key)
            if session is None or message_id not in session.messages:
                return None
            behind = [m for m in session.messages if message_id in (x.id for x in session.branch(m, 10**9)[0])]
            return session.record.leaf_id if session.record.leaf_id in behind else behind[-1]

        return await self._do(work)

    async def message_page(
        self, key: SessionKey, *, offset: int, limit: int, max_bytes: int | None = None
    ) -> tuple[Message, ...]:
        def work() -> tuple[Message, ...]:
            session = self._of(key)
            page = session.branch(session.record.leaf_id, len(session.messages))[0][offset : offset + limit]
            return _fitting(page, max_bytes)

        return await self._do(work)

    # --- many sessions ---

    def _owned(self, tenant: str, owner: str | None, now: float) -> list[_Session]:
        return [
            session
            for key, session in self._sessions.items()
            if key.tenant == tenant
            and owner is not None
            and session.record.owner == owner
            and session.record.expires_at > now
        ]

    async def index_ahead(self, now: float) -> bool:
        return False

    async def list_sessions(
        self, where: SessionFilter, *, limit: int, offset: int = 0, after: tuple[float, str] | None = None
    ) -> tuple[SessionSummary, ...]:
        def place(session: _Session) -> tuple[float, str]:
            return session.record.updated_at, session.record.key.session_id

        def work() -> tuple[SessionSummary, ...]:
            found = [
                session
                for session in self._owned(where.tenant, where.owner, where.now)
                if where.project_id in (None, session.record.project_id)
                and (session.record.is_active or where.include_inactive)
                and (where.query is None or session.holds(query_words(where.query)))
                and (after is None or place(session) < after)
            ]
            found.sort(key=place, reverse=True)
            return tuple(SessionSummary(s.record, s.preview()) for s in found[offset : offset + limit])

        return await self._do(work)

    async def list_projects(
        self, tenant: str, owner: str | None, now: float, *, limit: int = LISTED_PROJECTS
    ) -> tuple[ProjectSummary, ...]:
        def work() -> tuple[ProjectSummary, ...]:
            projects: dict[str, list[SessionRecord]] = {}
            for session in self._owned(tenant, owner, now):
                projects.setdefault(session.record.project_id, []).append(session.record)
            summaries = [
                ProjectSummary(name, len(of), sum(r.message_count for r in of), max(r.updated_at for r in of))
                for name, of in projects.items()
            ]
            return tuple(sorted(summaries, key=lambda p: (-p.updated_at, p.project_id))[:limit])

        return await self._do(work)

    async def session_stats(self, tenant: str, owner: str | None, project_id: str | None, now: float) -> SessionStats:
        def work() -> SessionStats:
            records = [
                session.record
                for session in self._owned(tenant, owner, now)
                if project_id in (None, session.record.project_id)
            ]
            return SessionStats(
                total_sessions=len(records),
                active_sessions=sum(r.is_active for r in records),
                total_messages=sum(r.message_count for r in records),
                sessions_by_project=dict(Counter(r.project_id for r in records)),
                updated_at=max((r.updated_at for r in records), default=None),
            )

        return await self._do(work)

    async def adopt_sessions(self, tenant: str, from_owner: str, to_owner: str, now: float) -> tuple[SessionKey, ...]:
        def work() -> tuple[SessionKey, ...]:
            if from_owner == to_owner:
                return ()
            adopted = self._owned(tenant, from_owner, now)
            for session in adopted:
                session.record = replace(session.record, owner=to_owner, fence=session.record.fence + 1)
            return tuple(session.record.key for session in adopted)

        return await self._do(work)

    async def purge_expired(
        self, now: float, limit: int, *, kept_seconds: float = 0.0, spare: Collection[SessionKey] = ()
    ) -> tuple[SessionKey, ...]:
        def work() -> tuple[SessionKey, ...]:
            self._forget_fences(now)
            due = [
                key
                for key, session in self._sessions.items()
                if session.record.expires_at < now - kept_seconds and key not in spare
            ]
            due.sort(key=lambda key: self._sessions[key].record.expires_at)
            for key in due[:limit]:
                self._last_fences[key] = (self._sessions.pop(key).record.fence + 1, None)
            return tuple(due[:limit])

        return await self._do(work)

    # --- tokens used ---

    def _use(self, record: SessionRecord, answer: Message, usage: Usage | None, now: float) -> None:
        if usage is not None:
            self._used.append(
                _Used(record.key.tenant, record.owner, day_of(now), record.project_id, answer.model or "", usage)
            )

    async def usage(
        self, tenant: str, owner: str | None, first_day: int, last_day: int, *, project_id: str | None = None
    ) -> tuple[UsageRow, ...]:
        def work() -> tuple[UsageRow, ...]:
            groups: dict[tuple[str, str], list[Usage]] = {}
            turns: Counter[tuple[str, str]] = Counter()
            for used in self._used:
                mine = (used.tenant, used.owner) == (tenant, owner) and first_day <= used.day <= last_day
                if mine and project_id in (None, used.project_id):
                    groups.setdefault((used.project_id, used.model), []).append(used.usage)
                    turns[used.project_id, used.model] += used.is_turn
            return tuple(
                UsageRow(
                    *names,
                    turns[names],
                    sum(u.estimated for u in usages),
                    sum(u.prompt_tokens for u in usages),
                    sum(u.completion_tokens for u in usages),
                    sum(u.reasoning_tokens for u in usages),
                    sum(u.cached_tokens for u in usages),
                )
                for names, usages in sorted(groups.items())
            )

        return await self._do(work)

    async def add_usage(self, key: SessionKey, model: str, usage: Usage, now: float) -> None:
        def work() -> None:
            if (session := self._sessions.get(key)) is not None:
                owner, project_id = session.record.owner, session.record.project_id
                self._used.append(_Used(key.tenant, owner, day_of(now), project_id, model, usage, is_turn=False))

        await self._do(work)

    async def session_usage(self, key: SessionKey) -> tuple[tuple[str, Usage], ...]:
        def work() -> tuple[tuple[str, Usage], ...]:
            session = self._sessions.get(key)
            messages = session.messages.values() if session is not None else ()
            return tuple((m.model or "", m.usage) for m in messages if m.usage is not None)

        return await self._do(work)

    async def quota_use(self, tenant: str, owner: str | None, first_day: int, day: int) -> QuotaUse:
        def work() -> QuotaUse:
            def tokens(since: int, *, of_owner: bool) -> int:
                return sum(
                    used.usage.prompt_tokens + used.usage.completion_tokens
                    for used in self._used
                    if used.tenant == tenant and since <= used.day <= day and (used.owner == owner or not of_owner)
                )

            return QuotaUse(
                tokens(day, of_owner=True),
                tokens(first_day, of_owner=True),
                tokens(day, of_owner=False),
                tokens(first_day, of_owner=False),
            )

        return await self._do(work)

    async def forget_usage(self, before_day: int, limit: int) -> int:
        def work() -> int:
            before = len(self._used)
            self._used = [used for used in self._used if used.day >= before_day]
            return min(before - len(self._used), limit)

        return await self._do(work)

    # --- writes ---

    async def create_session(self, record: SessionRecord) -> SessionRecord:
        return await self._do(lambda: (self._sessions.get(record.key) or self._insert(record)).record)

    async def start_turn(self, start: StartTurn) -> Started | Duplicate:
        def work() -> Started | Duplicate:
            known = self._sessions.get(start.key)
            used = known.used(start.client_message_id) if known is not None and not start.queued else None
            if used is not None:
                return Duplicate(used)
            if known is not None and known.running() is not None:
                raise Conflict("a turn is running in this session", code="busy")
            session = self._of_or_new(start.key, None if start.queued else start.create)
            sibling = start.edits or start.regenerates
            if sibling is not None and sibling not in session.messages:
                raise NotFound("there is no such message")
            if start.queued:
                if start.turn_id not in session.queue:
                    raise NotFound("the turn is not queued", code="turn_not_queued")
                session.queue.remove(start.turn_id)
                turn = session.turns[start.turn_id]
                turn.state, turn.stored, turn.answer_id = "running", None, start.answer.id
            else:
                session.turns[start.turn_id] = _Turn("running", start.client_message_id, start.answer.id)
            # The fence that creating the session took is the turn's.
            self._add(
                session,
                (*(() if start.regenerates else (start.user_message,)), start.answer, *start.carried),
                fences=0 if known is None else 1,
                expires_at=start.expires_at,
                now=start.now,
            )
            return Started(session.record.fence, session.record)

        return await self._do(work)

    async def enqueue_turn(
        self, key: SessionKey, turn: StoredTurn, *, first: bool, expires_at: float, now: float
    ) -> Duplicate | None:
        def work() -> Duplicate | None:
            session = self._of(key)
            if (used := session.used(turn.client_message_id)) is not None:
                return Duplicate(used)
            session.turns[turn.turn_id] = _Turn("queued", turn.client_message_id, stored=turn)
            session.queue.insert(0 if first else len(session.queue), turn.turn_id)
            session.record = replace(session.record, expires_at=expires_at, updated_at=now)
            return None

        return await self._do(work)

    async def withdraw_turn(self, key: SessionKey, turn_id: str) -> bool:
        def work() -> bool:
            session = self._sessions.get(key)
            if session is None or turn_id not in session.queue:
                return False
            session.queue.remove(turn_id)
            session.turns[turn_id].state, session.turns[turn_id].stored = "withdrawn", None
            return True

        return await self._do(work)

    async def checkpoint(self, chunks: Sequence[Chunk]) -> None:
        def work() -> None:
            for chunk in chunks:
                session = self._sessions.get(chunk.key)
                # Like a late one of SQLite's: nothing to do, and no reason to fail the others.
                if session is not None and session.running() == chunk.turn_id:
                    session.chunks.setdefault((chunk.turn_id, chunk.seq), chunk.body)

        await self._do(work)

    async def finish_turn(self, finish: FinishTurn) -> None:
        def work() -> None:
            session = self._of(finish.key)
            turn = session.turns.get(finish.turn_id)
            if turn is None:
                raise NotFound("there is no such turn", code="turn_not_found")
            if turn.state != "running":
                return
            turn.state = finish.outcome
            _settle(session, finish.turn_id, finish.answer)
            self._use(session.record, finish.answer, finish.usage, finish.now)

        await self._do(work)

    async def add_message(
        self,
        key: SessionKey,
        message: Message,
        *,
        create: SessionRecord | None,
        new_fence: bool,
        expires_at: float,
        now: float,
    ) -> SessionRecord:
        def work() -> SessionRecord:
            fences = int(new_fence and key in self._sessions)
            session = self._of_or_new(key, create)
            self._add(session, (message,), fences=fences, expires_at=expires_at, now=now)
            return session.record

        return await self._do(work)

    async def update_session(
        self, key: SessionKey, changes: Mapping[str, Any], *, new_fence: bool, now: float
    ) -> SessionRecord:
        if unknown := changes.keys() - _CHANGEABLE:
            raise ValueError(f"not columns that may be set: {sorted(unknown)}")

        def work() -> SessionRecord:
            session = self._of(key)
            fence = session.record.fence + int(new_fence)
            stamp = {"updated_at": now} if changes else {}
            session.record = replace(session.record, fence=fence, **stamp, **changes)
            return session.record

        return await self._do(work)

    async def name_session(self, key: SessionKey, title: str, *, new_fence: bool, now: float) -> SessionRecord | None:
        def work() -> SessionRecord | None:
            session = self._of(key)
            if session.record.is_named:
                return None
            fence = session.record.fence + int(new_fence)
            session.record = replace(session.record, fence=fence, title=title, is_named=True, updated_at=now)
            return session.record

        return await self._do(work)

    async def annotate_message(
        self, key: SessionKey, message_id: str, metadata: Mapping[str, Any], *, new_fence: bool
    ) -> SessionRecord:
        def work() -> SessionRecord:
            session = self._of(key)
            if message_id not in session.messages:
                raise NotFound("there is no such message")
            session.messages[message_id] = replace(session.messages[message_id], metadata=metadata)
            session.record = replace(session.record, fence=session.record.fence + int(new_fence))
            return session.record

        return await self._do(work)

    async def choose_leaf(self, key: SessionKey, leaf_id: str) -> SessionRecord:
        def work() -> SessionRecord:
            session = self._of(key)
            if leaf_id not in session.messages:
                raise NotFound("there is no such message")
            if session.running() is not None:
                raise Conflict("a turn is running in this session", code="busy")
            session.record = replace(session.record, fence=session.record.fence + 1, leaf_id=leaf_id)
            return session.record

        return await self._do(work)

    async def fork_session(
        self, key: SessionKey, message_id: str, create: SessionRecord, limit: int, max_bytes: int
    ) -> SessionRecord:
        def work() -> SessionRecord:
            session = self._of(key)
            if message_id not in session.messages:
                raise NotFound("there is no such message")
            branch, more = session.branch(message_id, limit)
            if any(m.status == "streaming" for m in branch):
                raise Conflict("an answer of this branch is still running", code="busy")
            if more or sum(len((m.content + m.reasoning).encode()) for m in branch) > max_bytes:
                raise TooLarge
            if create.key in self._sessions:
                raise Conflict("there is such a session already")
            fork = self._insert(create)
            fork.messages = {m.id: replace(m, siblings=()) for m in branch}
            fork.record = replace(
                fork.record, message_count=len(branch), leaf_id=message_id, last_message_at=create.updated_at
            )
            return fork.record

        return await self._do(work)

    async def delete_session(self, key: SessionKey) -> bool:
        def work() -> bool:
            session = self._sessions.pop(key, None)
            if session is None:
                return False
            # The deletion's own event has a fence of its own, which nobody commits.
            self._last_fences[key] = (session.record.fence + 1, None)
            return True

        return await self._do(work)

    async def clear_deleted(self) -> bool:
        return False

    async def count_sessions(self, tenant: str) -> int:
        return await self._do(lambda: sum(key.tenant == tenant for key in self._sessions))

    async def session_page(self, tenant: str, *, after: str = "", limit: int) -> tuple[SessionRecord, ...]:
        def work() -> tuple[SessionRecord, ...]:
            keys = sorted(key for key in self._sessions if key.tenant == tenant and key.session_id > after)
            return tuple(self._sessions[key].record for key in keys[:limit])

        return await self._do(work)

    async def message_links(self, key: SessionKey) -> tuple[tuple[str, str | None], ...]:
        def work() -> tuple[tuple[str, str | None], ...]:
            session = self._sessions.get(key)
            return tuple((m.id, m.parent_id) for m in session.messages.values()) if session is not None else ()

        return await self._do(work)

    async def messages_by_id(self, key: SessionKey, ids: Sequence[str]) -> tuple[Message, ...]:
        def work() -> tuple[Message, ...]:
            session = self._sessions.get(key)
            return tuple(session.whole(m) for m in ids if m in session.messages) if session is not None else ()

        return await self._do(work)

    async def import_session(self, whole: WholeSession, *, replace: bool) -> Imported:
        def work() -> Imported:
            key = whole.record.key
            there = self._sessions.get(key)
            if there is not None:
                stored = WholeSession(
                    there.record,
                    tuple(map(there.whole, there.messages)),
                    tuple(turn for t in there.queue if (turn := there.turns[t].stored) is not None),
                )
                if comparable(stored) == comparable(whole):
                    return "same"
                if not replace:
                    raise Conflict("there is another such session")
                del self._sessions[key]
                self._last_fences[key] = (there.record.fence + 1, None)
            session = self._insert(whole.record)
            session.messages = {m.id: m for m in whole.messages}
            session.turns = {t.turn_id: _Turn("queued", t.client_message_id, stored=t) for t in whole.queue}
            session.queue = [t.turn_id for t in whole.queue]
            record = whole.record
            session.record = dataclasses_replace(
                session.record,
                message_count=len(whole.messages),
                leaf_id=record.leaf_id,
                last_message_at=record.last_message_at,
            )
            return "added" if there is None else "replaced"

        return await self._do(work)

    async def recover(self, now: float) -> Recovered:
        def work() -> Recovered:
            self._forget_fences(now)
            interrupted = 0
            for session in self._sessions.values():
                turn_id = session.running()
                if turn_id is None:
                    continue
                interrupted += 1
                turn = session.turns[turn_id]
                turn.state = "interrupted"
                assert turn.answer_id is not None
                answer = session.messages[turn.answer_id]
                bodies = [body for (t, _), body in sorted(session.chunks.items()) if t == turn_id]
                settled = replace(_with_chunks(answer, bodies), status="interrupted")
                asked = session.messages.get(answer.parent_id or "")
                told = [value for body in bodies for kind, value in orjson.loads(body) if kind == "usage"]
                last = (Usage(**told[-1]["usage"]), told[-1]["after"]) if told else (None, 0)
                used = usage_at_end(*last, asked.content if asked else "", settled, "interrupted")
                settled = replace(settled, usage=used)
                _settle(session, turn_id, settled)
                self._use(session.record, settled, settled.usage, now)
                session.record = replace(session.record, fence=session.record.fence + 1)
            return Recovered(interrupted, tuple(sorted(k for k, s in self._sessions.items() if s.queue)))

        return await self._do(work)

    async def close(self) -> None:
        self._closed = True

    def reopen(self) -> None:
        """As if the next process opened the same file."""
        self._closed = False


def _fitting(messages: tuple[Message, ...], max_bytes: int | None) -> tuple[Message, ...]:
    """The first of these that have so many bytes together; one at least."""
    if max_bytes is None:
        return messages
    sums = list(accumulate(m.held_bytes() for m in messages))
    return messages[: max(1, sum(total <= max_bytes for total in sums))]


def _settle(session: _Session, turn_id: str, answer: Message) -> None:
    session.messages[answer.id] = replace(answer, parent_id=session.messages[answer.id].parent_id)
    for name in [name for name in session.chunks if name[0] == turn_id]:
        del session.chunks[name]


def _with_chunks(answer: Message, bodies: Sequence[bytes]) -> Message:
    """The answer as its checkpoints give it."""
    texts = {"text": [answer.content], "reasoning": [answer.reasoning]}
    calls = {call.id: call for call in answer.tool_calls}
    metadata = dict(answer.metadata)
    for body in bodies:
        for kind, value in orjson.loads(body):
            if kind == "call":
                calls[value["id"]] = ToolCall(**value)
            elif kind == "result":
                calls[value["id"]] = replace(calls[value["id"]], result=ToolResult(**value["result"]))
            elif kind == "metadata":
                metadata.update(value)
            elif kind != "usage":
                texts[kind].append(value)
    return replace(
        answer,
        content="".join(texts["text"]),
        reasoning="".join(texts["reasoning"]),
        tool_calls=tuple(calls.values()),
        metadata=metadata,
    )
