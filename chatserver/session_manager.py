"""SessionManager: the live sessions of this process, and when one leaves memory.

Invariants:

- One LiveSession a key. Two requests that load or create the same one at once get the same one.
- Whoever uses a LiveSession across an await holds a pin on it. Nothing pinned, subscribed to, running or queued is
  evicted, and there is no await between the last look and the removal (architecture: the idle-worker race).
- Nothing durable depends on eviction: changes are committed when they happen, so leaving memory loses nothing. A
  session with an uncommitted turn end (`unsaved`) is pinned by it.
- A session that has expired leaves memory with its streams, and later the store; one that is being used stays until
  then, since using it may have put its expiry off.
- A provisional session (spec S4) is only here: it is dropped `provisional_seconds` after its last use.

It holds no policy (session_service.py) and runs no turns (turns.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from structlog.typing import FilteringBoundLogger

from chatserver.clock import Clock, rfc3339
from chatserver.config import Settings
from chatserver.errors import ChatServerError
from chatserver.events import END_OF_FENCE, START, Position, SessionDeleted
from chatserver.live_session import LiveSession
from chatserver.state import WINDOW_MESSAGES, ChatState, QueuedTurn
from chatserver.store.base import SessionKey, SessionRecord, Store, StoredSession
from chatserver.streams.memory import MemoryLog

# Of UTF-8; a session's size is known in characters.
MAX_CHARACTER_BYTES = 4
# How often provisional sessions and idle logs are looked at; their limits are a minute.
TICK_SECONDS = 5.0
# Live sessions between two moments for everything else: 100,000 at once would stop the loop for 13 ms.
LOOKED_AT_TOGETHER = 5000
# Sessions or logs that are freed between two such moments: each takes 15 to 150 µs, and a quiet hour ends for
# thousands at once.
FREED_TOGETHER = 50
# Expired sessions that one transaction deletes: 4 to 12 ms, for which everybody else's writes wait.
PURGE_BATCH = 20
# Such transactions a tick: after a long absence millions may have expired, and the rest of maintenance must not wait.
PURGE_BATCHES = 50

EvictHandler = Callable[[SessionKey], Awaitable[None]]


class SessionManager:
    """The dict of live sessions.

    Args:
        missing_api_key: whether the key of a tenant's model is missing, for the state.
        on_evict: called after a session left memory (closes its tool connections).
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        store: Store,
        *,
        missing_api_key: Callable[[str, str | None], bool],
        on_evict: EvictHandler,
        log: FilteringBoundLogger,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._store = store
        self._missing_api_key = missing_api_key
        self._on_evict = on_evict
        self._log = log
        self._live: dict[SessionKey, LiveSession] = {}
        self._loading: dict[SessionKey, asyncio.Future[None]] = {}
        self._provisional: dict[SessionKey, LiveSession] = {}
        self._logged: set[LiveSession] = set()  # with frames in their logs; most sessions have none
        self.total_bytes = 0
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._live)

    def live(self) -> list[LiveSession]:
        """Every live session now."""
        return list(self._live.values())

    def peek(self, key: SessionKey) -> LiveSession | None:
        """The live session of that key without touching it or the store."""
        return self._live.get(key)

    async def pin(self, key: SessionKey) -> LiveSession | None:
        """The session, from memory or the store, pinned; None where it does not exist.

        The caller owes an `unpin`. Raises what the store raises. Cancelling is safe: others that wait for the same
        load go on with a load of their own.
        """
        while True:
            live = self._live.get(key)
            if live is not None:
                self._hold(live)
                return live
            loading = self._loading.get(key)
            if loading is not None:
                await asyncio.shield(loading)
                if key not in self._live and key not in self._loading:
                    return await self._load(key)
                continue
            return await self._load(key)

    async def loaded(self, tenant: str) -> None:
        """Wait until the loads of that tenant's sessions that are under way now have ended."""
        if loads := [load for key, load in self._loading.items() if key.tenant == tenant]:
            await asyncio.wait(loads)

    @asynccontextmanager
    async def kept_out(self, key: SessionKey) -> AsyncIterator[None]:
        """While the block runs nobody loads that session or makes one of its key: they wait."""
        while (loading := self._loading.get(key)) is not None:
            await asyncio.shield(loading)
        done = self._loading[key] = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            del self._loading[key]
            done.set_result(None)

    async def _load(self, key: SessionKey) -> LiveSession | None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._loading[key] = done
        try:
            stored = await self._store.load(key, WINDOW_MESSAGES, max_bytes=self._settings.message_page_bytes)
            live = self._live.get(key)  # created meanwhile by `pin_new`
            if live is None:
                if stored is None:
                    return None
                live = self._rehydrate(stored)
            self._hold(live)
            return live
        finally:
            del self._loading[key]
            done.set_result(None)

    def _rehydrate(self, stored: StoredSession) -> LiveSession:
        record = stored.record
        state = ChatState(
            record.key.session_id,
            project_id=record.project_id,
            title=record.title,
            model=record.model,
            expires_at=rfc3339(record.expires_at),
            messages=stored.messages,
            has_more=stored.has_more,
            message_count=record.message_count,
            missing_api_key=self._missing_api_key(record.key.tenant, record.model),
            position=Position(record.fence, END_OF_FENCE),
            queue=[QueuedTurn(t.turn_id, t.message.id, at, t.message) for at, t in enumerate(stored.queue, 1)],
        )
        live = self._add(record, state, provisional=False)
        live.queued = {t.turn_id: t for t in stored.queue}
        return live

    def pin_new(self, record: SessionRecord) -> LiveSession:
        """A provisional session of that record, pinned; the one that is there already where somebody was quicker."""
        live = self._live.get(record.key)
        if live is None:
            state = ChatState(
                record.key.session_id,
                project_id=record.project_id,
                title=record.title,
                model=record.model,
                expires_at=rfc3339(record.expires_at),
                missing_api_key=self._missing_api_key(record.key.tenant, record.model),
                position=START,
            )
            live = self._add(record, state, provisional=True)
            self._provisional[record.key] = live
        self._hold(live)
        return live

    def _add(self, record: SessionRecord, state: ChatState, *, provisional: bool) -> LiveSession:
        settings = self._settings
        log = MemoryLog(state.position, max_events=settings.log_events, max_bytes=settings.log_bytes)
        live = LiveSession(record, state, log, provisional=provisional, monotonic=self._clock.monotonic)
        self._live[record.key] = live
        self.remeasure(live)
        return live

    def _hold(self, live: LiveSession) -> None:
        live.pins += 1
        live.last_used = self._clock.monotonic()

    def unpin(self, live: LiveSession) -> None:
        """Give a pin back; use counts from now."""
        live.pins -= 1
        live.last_used = self._clock.monotonic()

    def made_durable(self, live: LiveSession) -> None:
        """The session stands in the store now."""
        live.provisional = False
        self._provisional.pop(live.key, None)

    def remeasure(self, live: LiveSession) -> None:
        """Account for the session's present size; called when a turn ends or a message is added."""
        if not live.removed:
            size = live.measure()
            self.total_bytes += size - live.size
            live.size = size
            if live.log.held_bytes:
                self._logged.add(live)

    def lighten(self, live: LiveSession) -> None:
        """Leave out the older messages of a window whose texts have grown beyond `message_page_bytes`, and tell it.

        Half of them stay, so that this is seldom. No turn runs, and the session is under a new fence.
        """
        most = self._settings.message_page_bytes
        if (live.size - live.log.held_bytes) * MAX_CHARACTER_BYTES <= most:  # nearly always
            return
        messages = live.state.messages
        sizes = [said.held_bytes() for said in messages]
        if sum(sizes) <= most:
            return
        kept, room = 0, most // 2
        for size in reversed(sizes):
            room -= size
            if room < 0 and kept:
                break
            kept += 1
        if kept < len(messages):
            live.change_branch(messages[-kept:], has_more=True)

    def remove(self, live: LiveSession) -> None:
        """Take a session out of memory now, ending its streams; no await in it."""
        if live.removed:
            return
        live.removed = True
        if self._live.get(live.key) is live:
            del self._live[live.key]
        self._provisional.pop(live.key, None)
        self._logged.discard(live)
        self.total_bytes -= live.size
        for subscriber in live.subscribers:
            subscriber.end()

    async def sweep_provisional(self) -> int:
        """Drop provisional sessions that nobody has used for `provisional_seconds`; how many."""
        limit = self._clock.monotonic() - self._settings.provisional_seconds
        return await self._evict([s for s in self._provisional.values() if s.last_used <= limit])

    async def sweep_idle(self) -> int:
        """Evict sessions idle for `idle_eviction_seconds`; how many."""
        limit = self._clock.monotonic() - self._settings.idle_eviction_seconds
        return await self._evict([s for s in self._live.values() if s.last_used <= limit])

    async def sweep_budget(self) -> int:
        """While over the memory budget or the number of sessions, evict the least recently used; how many."""
        evicted = 0
        while some := await self._evict(await self._over_budget()):
            evicted += some
        return evicted

    async def _over_budget(self) -> list[LiveSession]:
        """The least recently used sessions that are too many, the oldest first; LOOKED_AT_TOGETHER at most."""
        settings = self._settings
        excess_bytes = self.total_bytes - settings.memory_budget_bytes
        excess = len(self._live) - settings.max_live_sessions
        chosen: list[LiveSession] = []
        if excess_bytes <= 0 and excess <= 0:
            return chosen
        lives = self.live()
        for at in range(0, len(lives), LOOKED_AT_TOGETHER):
            chosen += [live for live in lives[at : at + LOOKED_AT_TOGETHER] if live.evictable]
            chosen.sort(key=lambda live: live.last_used)
            del chosen[min(_how_many(chosen, excess_bytes, excess), LOOKED_AT_TOGETHER) :]
            await asyncio.sleep(0)
        return chosen

    async def _evict(self, candidates: list[LiveSession]) -> int:
        """Evict those that still may be, and empty the list: what it holds is not freed."""
        evicted = 0
        candidates.reverse()
        while candidates:
            live = candidates.pop()
            if live.removed or not live.evictable:  # the last look; no await from here to the removal
                continue
            self.remove(live)
            evicted += 1
            self.evictions += 1
            await self._close_tools(live)
            if evicted % FREED_TOGETHER == 0:
                await asyncio.sleep(0)
        return evicted

    async def _close_tools(self, live: LiveSession) -> None:
        try:
            await self._on_evict(live.key)
        except Exception as error:  # the supervisor's border: tools that do not close must not stop maintenance
            self._log.error("tools_not_closed", exc_info=error)

    async def sweep_expired(self) -> int:
        """Take expired sessions that nobody is using out of memory, and end their streams; how many.

        A reader is told `session.deleted`, comes back, and is told 410: nothing will ever happen in it again.
        """
        now, ended, looked_at = self._clock.now(), 0, 0
        lives = self.live()
        while lives:
            live = lives.pop()
            looked_at += 1
            if looked_at % LOOKED_AT_TOGETHER == 0:
                await asyncio.sleep(0)
            if live.record.expires_at > now or live.removed or live.pins or live.run or live.queued or live.unsaved:
                continue
            if not live.provisional:
                live.begin_fence(live.fence + 1)  # the store leaves this one out, should the session be made anew
            live.append(SessionDeleted(live.key.session_id))
            self.remove(live)
            ended += 1
            await self._close_tools(live)
            if ended % FREED_TOGETHER == 0:
                await asyncio.sleep(0)
        return ended

    async def purge_expired(self) -> int:
        """Delete from the store what expired more than `expired_keep_seconds` ago, PURGE_BATCHES at most; how many.

        A store that is away is asked again the next time.
        """
        now, kept_seconds, purged = self._clock.now(), self._settings.expired_keep_seconds, 0
        in_memory = {live.key for live in self._live.values() if live.record.expires_at + kept_seconds < now}
        try:
            for _ in range(PURGE_BATCHES):
                gone = await self._store.purge_expired(now, PURGE_BATCH, kept_seconds=kept_seconds, spare=in_memory)
                purged += len(gone)
                if not gone:
                    break
        except ChatServerError as error:
            self._log.warning("expired_sessions_not_purged", code=error.narrow_code)
        if purged:
            self._log.info("expired_sessions_purged", sessions=purged)
        return purged

    async def clear_deleted(self) -> None:
        """Remove what deleted sessions held and a crash, or a store that was away, has left."""
        try:
            while await self._store.clear_deleted():
                pass
        except ChatServerError as error:
            self._log.warning("deleted_sessions_not_cleared", code=error.narrow_code)

    async def drop_idle_logs(self) -> None:
        """Forget the logs of sessions that rest without subscribers, and what was read for their agents; a late return
        gets a snapshot."""
        limit = self._clock.monotonic() - self._settings.log_idle_seconds
        dropped = 0
        for at, live in enumerate(list(self._logged), 1):
            if at % LOOKED_AT_TOGETHER == 0:
                await asyncio.sleep(0)
            if live.evictable and live.last_used <= limit:
                live.log.clear()
                live.past = None
                self._logged.discard(live)
                self.remeasure(live)
                dropped += 1
                if dropped % FREED_TOGETHER == 0:
                    await asyncio.sleep(0)

    async def run(self) -> None:
        """Maintenance for ever; owned by the application. Cancelling is safe at any point."""
        next_idle = self._clock.monotonic() + self._settings.eviction_interval_seconds
        purging = False
        while True:
            await self._clock.sleep(min(TICK_SECONDS, self._settings.eviction_interval_seconds))
            await self.sweep_provisional()
            await self.sweep_expired()
            await self.sweep_budget()
            await self.drop_idle_logs()
            if self._clock.monotonic() >= next_idle:
                next_idle = self._clock.monotonic() + self._settings.eviction_interval_seconds
                await self.sweep_idle()
                purging = True
            if purging:
                purging = bool(await self.purge_expired())
            await self.clear_deleted()


def _how_many(lives: list[LiveSession], excess_bytes: int, excess: int) -> int:
    """How many of these, from the first on, make up for so many bytes and sessions too many; all where they do not."""
    for at, live in enumerate(lives):
        if excess_bytes <= 0 and excess <= 0:
            return at
        excess_bytes -= live.size
        excess -= 1
    return len(lives)
