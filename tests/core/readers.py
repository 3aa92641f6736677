"""Readers: a connection whose other end the test holds, and that checks everything it is sent.

A Reader parses the bytes that its sink lets through, and applies them with the checker's reducer, which knows nothing
of chatserver. Ids must be consecutive; an event that does not fit the state fails at once.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from chatserver import events as ev
from chatserver.counts import StreamCounts
from chatserver.streams.subscriber import Connection, Source, Subscription
from tests.checker import reducer
from tests.checker.history import History
from tests.checker.history import Position as Seen

STALL_SECONDS = 15.0
BACKLOG_BYTES = 256 << 10


class FakeSink:
    """Implements Sink: a transport whose peer takes what the test lets it take.

    Args:
        fast: the peer takes everything at once; otherwise `take` says when.
        high_water: bytes pending above which it is full, until all but a quarter of them are taken.
    """

    def __init__(self, *, fast: bool = True, high_water: int = 64 << 10) -> None:
        self.fast = fast
        self.taken = bytearray()
        self.written = 0
        self.most_pending = 0
        self.closing = False
        self.aborted = False
        self._pending = bytearray()
        self._high_water = high_water
        self._low_water = high_water // 4
        self._full = False
        self._room = asyncio.Event()
        self._room.set()

    def write(self, data: bytes) -> None:
        if self.closing:
            return
        self.written += len(data)
        self._pending += data
        self.most_pending = max(self.most_pending, len(self._pending))
        if self.fast:
            self.take()
        elif len(self._pending) > self._high_water:
            self._full = True
            self._room.clear()

    def take(self, count: int | None = None) -> None:
        """The peer takes this many bytes, or all."""
        count = len(self._pending) if count is None else count
        self.taken += self._pending[:count]
        del self._pending[:count]
        if len(self._pending) <= self._low_water:
            self._full = False
            self._room.set()

    def speed_up(self) -> None:
        """From now on the peer takes everything at once."""
        self.fast = True
        self.take()

    def close(self) -> None:
        """The peer has gone."""
        self.closing = True
        self._room.set()

    @property
    def full(self) -> bool:
        return self._full

    @property
    def pending_bytes(self) -> int:
        return len(self._pending)

    async def drain(self) -> None:
        await self._room.wait()
        if self.closing:
            raise ConnectionResetError

    async def flush(self) -> None:
        self._low_water = 0
        if self._pending:
            self._full = True
            self._room.clear()
        await self.drain()

    def abort(self) -> None:
        self.aborted = True
        self.close()


class Reader:
    """One client with one session, or several where `follow` is called again.

    Args:
        sink: its connection.
        histories: what everybody saw, a session each, for what no client can see alone.
    """

    def __init__(
        self,
        sink: FakeSink | None = None,
        histories: dict[str, History] | None = None,
        *,
        stall_seconds: float = STALL_SECONDS,
        backlog_bytes: int = BACKLOG_BYTES,
    ) -> None:
        self.sink = sink or FakeSink()
        self.connection = Connection(
            self.sink, stall_seconds=stall_seconds, backlog_bytes=backlog_bytes, counts=StreamCounts()
        )
        self.states: dict[str, dict[str, Any]] = {}
        self.positions: dict[str, Seen] = {}
        self._events: list[dict[str, Any]] = []
        self._frames: list[tuple[str, bytes]] = []
        self._snapshots = 0
        self.plain: list[dict[str, Any]] = []
        self.deleted: set[str] = set()
        self._histories = histories if histories is not None else {}
        self._parsed = 0
        self._task: asyncio.Task[None] | None = None

    def follow(
        self, source: Source, session_id: str, after: ev.Position | None = None, *, ends_connection: bool = True
    ) -> Subscription:
        """Subscribe, and begin to serve."""
        subscription = Subscription(source, self.connection, session_id, after, ends_connection=ends_connection)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self.connection.serve(), name=f"reader/{session_id}")
        return subscription

    def resume_from(self, session_id: str, state: dict[str, Any], position: ev.Position) -> None:
        """Begin with what an earlier connection of this client knew."""
        self.states[session_id] = state
        self.positions[session_id] = Seen(*position)

    @property
    def served(self) -> bool:
        """Whether the connection has come to its end."""
        return self._task is not None and self._task.done()

    async def close(self) -> None:
        """Go away, as a client's disconnect does: its handler is cancelled."""
        self.sink.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            if not self._task.cancelled() and (error := self._task.exception()):
                raise error
        self.connection.close()

    @property
    def state(self) -> dict[str, Any]:
        """The state of the only session it follows, after everything that was taken."""
        self.read()
        (state,) = self.states.values()
        return state

    @property
    def snapshots(self) -> int:
        """How many snapshots were taken."""
        self.read()
        return self._snapshots

    @property
    def events(self) -> list[dict[str, Any]]:
        """The numbered events that were taken, in order."""
        self.read()
        return self._events

    @property
    def frames(self) -> list[tuple[str, bytes]]:
        """Their ids and bytes."""
        self.read()
        return self._frames

    @property
    def types(self) -> list[str]:
        """The events' types, in order."""
        return [event["type"] for event in self.events]

    def read(self) -> None:
        """Take in what has come since."""
        while (end := self.sink.taken.find(b"\n\n", self._parsed)) >= 0:
            frame = bytes(self.sink.taken[self._parsed : end + 2])
            self._parsed = end + 2
            self._take(frame)

    def _take(self, frame: bytes) -> None:
        lines = frame.decode().split("\n")
        event = json.loads(lines[-3].removeprefix("data: "))
        if not frame.startswith(b"id: "):
            assert event["type"] in ("ping", "goodbye"), event
            self.plain.append(event)
            return
        sid, position = event["session_id"], Seen.parse(lines[0].removeprefix("id: "))
        assert sid not in self.deleted, f"{event['type']} after session.deleted"
        history = self._histories.setdefault(sid, History(sid))
        if event["type"] == "snapshot":
            assert event["state"]["position"] == str(position)
            history.saw_state(event["state"], "snapshot")
            # The history keeps it as evidence, and events change ours.
            self.states[sid] = json.loads(lines[-3].removeprefix("data: "))["state"]
            self._snapshots += 1
        else:
            assert sid in self.states, f"{event['type']} before any snapshot"
            history.saw_event(position, frame, event, self.positions[sid])
            reducer.apply(self.states[sid], str(position), json.loads(lines[-3].removeprefix("data: ")))
            self._events.append(event)
            self._frames.append((str(position), frame))
            if event["type"] == "session.deleted":
                self.deleted.add(sid)
        self.positions[sid] = position
        assert not history.found, history.found
