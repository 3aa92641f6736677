"""The independent client: it talks to a running server as a tab would, and believes nothing.

    async with Checker(server.base_url) as checker:
        async with checker.follow("session-1") as stream:
            sent = await checker.send("session-1", "hello")
            await stream.until_ended(sent.turn_id)
        await checker.verify()

Every stream is checked as it is read (ids, types, applicability); what all streams and answers of a session said is
gathered in a `History` and compared by `verify`. `checker.canary(session_id)` gives a word that belongs to one session:
seen in bytes of another, it is a violation.

Nothing here starts a task: who reads several streams at once brings the tasks (or `asyncio.TaskGroup`).
"""

from __future__ import annotations

import asyncio
import copy
import json
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode

import orjson

from tests.checker import reducer
from tests.checker.history import Acknowledged, History, Position
from tests.checker.reducer import Json
from tests.checker.wire import Block, BlockParser, Connection, ProtocolViolation, Response

# Far beyond anything a healthy server takes, also on a machine that runs several test suites.
TIMEOUT_SECONDS = 60.0

# Shape of an event beyond `type` and `session_id`: what must be there.
_REQUIRED: Mapping[str, frozenset[str]] = {
    "message.created": frozenset({"message"}),
    "message.updated": frozenset({"message"}),
    "turn.queued": frozenset({"turn_id", "message_id", "place", "message"}),
    "turn.started": frozenset({"turn_id", "message_id"}),
    "text.delta": frozenset({"turn_id", "message_id", "text"}),
    "reasoning.delta": frozenset({"turn_id", "message_id", "text"}),
    "tool.called": frozenset({"turn_id", "message_id", "call"}),
    "tool.progress": frozenset({"turn_id", "message_id", "call_id", "progress"}),
    "tool.returned": frozenset({"turn_id", "message_id", "call_id", "result"}),
    "approval.requested": frozenset({"turn_id", "approval"}),
    "approval.resolved": frozenset({"turn_id", "approval_id", "decision"}),
    "turn.ended": frozenset({"turn_id", "message_id", "outcome"}),
    "session.updated": frozenset({"session"}),
    "session.deleted": frozenset(),
}
_UNNUMBERED = frozenset({"ping", "goodbye"})


class Violation(AssertionError):
    """The server broke a promise; the text says which, where and when."""


class Refused(AssertionError):
    """The server answered something other than 2xx to a call that expects one. `response` is that answer."""

    def __init__(self, what: str, response: Response) -> None:
        super().__init__(f"{what}: {response.status} {response.body[:400]!r}")
        self.response = response


class StreamClosed(Exception):
    """The stream ended before what was waited for came."""


@dataclass(frozen=True, slots=True)
class Event:
    """One message of a stream. `position` is None for `ping` and `goodbye`."""

    type: str
    position: Position | None
    body: Json
    raw: bytes


@dataclass(frozen=True, slots=True)
class Sent:
    """An acknowledged message: what `POST /api/chat` answered."""

    turn_id: str
    session_id: str
    state: Json
    response: Response


class _Canaries:
    """Words that belong to one session each, and the search for strayed ones."""

    _PATTERN = re.compile(rb"canary-([0-9a-f]{8})-[0-9a-f]{8}")

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}
        self._tags: dict[str, str] = {}

    def mint(self, session_id: str) -> str:
        tag = self._tags.get(session_id)
        if tag is None:
            tag = self._tags[session_id] = secrets.token_hex(4)
            self._owners[tag] = session_id
        return f"canary-{tag}-{secrets.token_hex(4)}"

    def strayed(self, data: bytes, sessions: Iterable[str]) -> str | None:
        """The first word in `data` that belongs to a known session other than `sessions`."""
        if b"canary-" not in data:
            return None
        allowed = {self._tags.get(session_id) for session_id in sessions}
        for found in self._PATTERN.finditer(data):
            tag = found[1].decode()
            if tag not in allowed and tag in self._owners:
                return f"{found[0].decode()} of session {self._owners[tag]!r}"
        return None


class Checker:
    """A client of one server, and the memory of everything it was told.

    Args:
        base_url: `http://host:port` of the server.
        headers: sent with every request; a `Cookie` or `Authorization` makes the checker somebody.

    One checker may outlive its server: after a restart on the same data, set `base_url` anew; histories go on.
    """

    def __init__(self, base_url: str, *, headers: Mapping[str, str] | None = None) -> None:
        self.base_url = base_url
        self.headers = dict(headers or {})
        self.histories: dict[str, History] = {}
        self._canaries = _Canaries()
        self._idle: list[Connection] = []
        self._strays: list[str] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop idle connections; idempotent. Open streams belong to who opened them."""
        for connection in self._idle:
            connection.abort()
        self._idle.clear()

    def as_somebody(self, headers: Mapping[str, str]) -> Checker:
        """A client with other headers (another principal) that shares this one's memory."""
        other = Checker(self.base_url, headers=headers)
        other.histories, other._canaries, other._strays = self.histories, self._canaries, self._strays
        return other

    def history(self, session_id: str) -> History:
        """What is known of a session."""
        return self.histories.setdefault(session_id, History(session_id))

    def forget(self, session_id: str) -> None:
        """Drop what is known of a session: it was deleted, or verified and is not needed any more."""
        self.histories.pop(session_id, None)

    def canary(self, session_id: str) -> str:
        """A new word that may be seen by readers of this session only."""
        return self._canaries.mint(session_id)

    # --- calls --------------------------------------------------------------------------------------------------------

    async def request(
        self,
        method: str,
        target: str,
        *,
        json_body: Any = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        sessions: Sequence[str] = (),
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> Response:
        """One request on a kept connection.

        Args:
            target: path and query, ready for the wire.
            json_body: becomes the body with its content type; `body` gives bytes instead.
            sessions: whose canaries the answer may hold; with none given, nothing is looked for.
        Raises:
            OSError, TimeoutError: no whole answer came; whether the request took effect is unknown.
            Violation: a word of another session was in the answer.
        """
        sent = dict(self.headers)
        if json_body is not None:
            body = json.dumps(json_body).encode()
            sent["Content-Type"] = "application/json"
        sent |= headers or {}
        async with asyncio.timeout(timeout_seconds):
            connection = await self._connection()
            try:
                response = await connection.request(method, target, sent, body)
            except BaseException:
                connection.abort()
                raise
        if connection.reusable:
            self._idle.append(connection)
        else:
            connection.abort()
        if sessions:
            self._search(response.body, sessions, f"{method} {target}")
        return response

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed_by_peer:
                return connection
            connection.abort()
        return await Connection.open(self.base_url)

    async def send(
        self,
        session_id: str | None,
        text: str,
        *,
        minimal: bool = False,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Sent:
        """`POST /api/chat`: from a 2xx on, the message is the server's responsibility and `verify` asks for it.

        Args:
            session_id: None lets the server mint one.
            minimal: asks for an answer without the messages; what it says of the state is then no evidence.
            options: further fields of the body (`on_busy`, `client_message_id`, `model`, …).
        Raises:
            Refused: not 2xx.
        """
        body = {"message": text, **({"session_id": session_id} if session_id is not None else {}), **options}
        own = (session_id,) if session_id is not None else ()
        sent = {**_preference(minimal=minimal), **(headers or {})}
        response = await self.request("POST", "/api/chat", json_body=body, headers=sent, sessions=own)
        answer = self._accepted("POST /api/chat", response)
        session_id, turn_id = answer["session_id"], answer["turn_id"]
        if response.headers.get("x-session-id") != session_id:
            raise Violation(f"X-Session-ID {response.headers.get('x-session-id')!r}, session_id {session_id!r}")
        history = self.history(session_id)
        if turn_id not in history.acknowledged:
            history.acknowledged[turn_id] = Acknowledged(turn_id, text, _message_id(answer, turn_id, text))
        if options.get("on_busy") == "interrupt":
            for other in history.acknowledged.values():
                other.may_be_withdrawn |= other.turn_id != turn_id
        return Sent(turn_id, session_id, answer, response)

    async def state(self, session_id: str) -> Json:
        """`GET /api/state`; what it says becomes evidence."""
        target = f"/api/state?session_id={quote(session_id, safe='')}"
        return self._accepted("GET /api/state", await self.request("GET", target, sessions=(session_id,)))

    async def interrupt(
        self, session_id: str, turn_id: str | None = None, *, clear_queue: bool = False, minimal: bool = False
    ) -> Json:
        """`POST /api/interrupt`."""
        body: Json = {"session_id": session_id}
        if turn_id is not None:
            body["turn_id"] = turn_id
        if clear_queue:
            body["clear_queue"] = True
            for turn in self.history(session_id).acknowledged.values():
                turn.may_be_withdrawn = True
        response = await self.request(
            "POST", "/api/interrupt", json_body=body, headers=_preference(minimal=minimal), sessions=(session_id,)
        )
        return self._accepted("POST /api/interrupt", response)

    async def edit(self, session_id: str, message_id: str, text: str, **options: Any) -> Sent:
        """`POST /api/messages/{message_id}/edit`; from a 2xx on like `send`."""
        body = {"message": text, "session_id": session_id, **options}
        return await self._turn(f"/api/messages/{quote(message_id, safe='')}/edit", session_id, body)

    async def regenerate(self, session_id: str, message_id: str, **options: Any) -> Sent:
        """`POST /api/messages/{message_id}/regenerate`: the message that is answered anew has to get its answer."""
        body = {"session_id": session_id, **options}
        return await self._turn(f"/api/messages/{quote(message_id, safe='')}/regenerate", session_id, body)

    async def _turn(self, target: str, session_id: str, body: Json) -> Sent:
        response = await self.request("POST", target, json_body=body, sessions=(session_id,))
        answer = self._accepted(f"POST {target}", response)
        turn_id = answer["turn_id"]
        history = self.history(session_id)
        waiting = [entry["message"] for entry in answer["queue"] if entry["turn_id"] == turn_id]
        asked = (waiting or [m for m in answer["messages"] if m["role"] == "user"])[-1]
        history.acknowledged.setdefault(turn_id, Acknowledged(turn_id, asked["content"], asked["id"]))
        return Sent(turn_id, session_id, answer, response)

    async def branch(self, session_id: str, message_id: str) -> Json:
        """`POST /api/branch`."""
        body = {"session_id": session_id, "message_id": message_id}
        response = await self.request("POST", "/api/branch", json_body=body, sessions=(session_id,))
        return self._accepted("POST /api/branch", response)

    async def all_messages(self, state: Json) -> tuple[dict[str, Json], bool]:
        """The messages of every branch of an idle session, by id, and whether there are older ones.

        One branch after the other is made the active one, and at last the one that it was.
        """
        messages: dict[str, Json] = {}
        session_id, shown, has_more = state["session_id"], state, False
        while True:
            messages |= {m["id"]: m for m in shown["messages"]}
            has_more |= shown["has_more"]
            left = [s for m in messages.values() for s in m["siblings"] if s not in messages]
            if not left:
                break
            shown = await self.branch(session_id, left[0])
        if shown is not state:
            await self.branch(session_id, state["messages"][-1]["id"])
        return messages, has_more

    async def system(self, session_id: str, text: str, *, minimal: bool = False) -> Json:
        """`POST /api/system`."""
        body = {"session_id": session_id, "message": text}
        response = await self.request(
            "POST", "/api/system", json_body=body, headers=_preference(minimal=minimal), sessions=(session_id,)
        )
        return self._accepted("POST /api/system", response)

    async def withdraw(self, session_id: str, turn_id: str) -> Response:
        """`DELETE /api/queue/{turn_id}`; any answer is given back, since the turn may have started meanwhile."""
        turn = self.history(session_id).acknowledged.get(turn_id)
        if turn is not None:
            turn.may_be_withdrawn = True
        target = f"/api/queue/{quote(turn_id, safe='')}?session_id={quote(session_id, safe='')}"
        return await self.request("DELETE", target, sessions=(session_id,))

    async def command(self, session_id: str, command: str, args: Json | None = None) -> Response:
        """`POST /api/mcp-command`; any answer is given back."""
        body = {"session_id": session_id, "command": command, "args": args or {}}
        return await self.request("POST", "/api/mcp-command", json_body=body, sessions=(session_id,))

    def _accepted(self, what: str, response: Response) -> Json:
        if not 200 <= response.status < 300:
            raise Refused(what, response)
        answer: Json = response.json()
        # A body with the messages left out (`Prefer: return=minimal`) is no whole state, and no evidence of one.
        if answer.keys() >= reducer.STATE_FIELDS:
            self.history(answer["session_id"]).saw_state(answer, what)
        return answer

    def _search(self, data: bytes, sessions: Iterable[str], where: str) -> None:
        strayed = self._canaries.strayed(data, sessions)
        if strayed is not None:
            text = f"{where} for {list(sessions)} told {strayed}"
            self._strays.append(text)
            raise Violation(text)

    # --- streams ------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def follow(
        self,
        session_id: str,
        *,
        after: Position | str | None = None,
        in_query: bool = False,
        receive_buffer_bytes: int | None = None,
    ) -> AsyncIterator[Stream]:
        """Open `GET /api/chat/stream` and give it as a `Stream`; leaving closes the connection at once.

        Args:
            after: resume after this id (`Last-Event-ID`, or `last_event_id` with `in_query`).
            receive_buffer_bytes: a small one makes a reader that is slow for real.
        Raises:
            Refused: the answer was not a stream; its status and body are in it.
        """
        query = {"session_id": session_id}
        headers = {}
        if after is not None and in_query:
            query["last_event_id"] = str(after)
        elif after is not None:
            headers["Last-Event-ID"] = str(after)
        async with self._open(f"/api/chat/stream?{urlencode(query)}", headers, receive_buffer_bytes) as opened:
            stream = Stream(self, *opened, sessions=(session_id,))
            if after is not None:
                stream._resume(session_id, Position.parse(str(after)))
            yield stream

    @asynccontextmanager
    async def multiplex(
        self, sessions: Sequence[str], *, name: str | None = None, after: Mapping[str, Position] | None = None
    ) -> AsyncIterator[Stream]:
        """Open `GET /api/stream` for several sessions (spec T8).

        Args:
            name: the client-chosen id by which `change` adds and drops sessions.
            after: positions to resume after, by session.
        """
        wanted = ",".join(f"{s}@{after[s]}" if after and s in after else s for s in sessions)
        query = {"sessions": wanted, **({"stream": name} if name is not None else {})}
        async with self._open(f"/api/stream?{urlencode(query)}", {}, None) as opened:
            stream = Stream(self, *opened, sessions=sessions)
            for session_id, position in (after or {}).items():
                stream._resume(session_id, position)
            yield stream

    async def change(self, stream: Stream, name: str, *, add: Sequence[str] = (), drop: Sequence[str] = ()) -> Response:
        """`POST /api/stream`: change what a multiplexed stream carries.

        Args:
            add: session ids, with `@f-n` to resume.
        """
        for entry in add:
            session_id, at, position = entry.partition("@")
            stream.sessions.add(session_id)
            if at:
                stream._resume(session_id, Position.parse(position))
        response = await self.request(
            "POST", "/api/stream", json_body={"stream": name, "add": list(add), "drop": list(drop)}
        )
        for session_id in drop:
            stream._dropped(session_id)
        return response

    @asynccontextmanager
    async def watch(self, session_id: str) -> AsyncIterator[Stream]:
        """Open the stream in `?format=state` (spec T7): each message is a whole state."""
        query = urlencode({"session_id": session_id, "format": "state"})
        async with self._open(f"/api/chat/stream?{query}", {}, None) as opened:
            yield Stream(self, *opened, sessions=(session_id,), whole_states=True)

    @asynccontextmanager
    async def _open(
        self, target: str, headers: Mapping[str, str], receive_buffer_bytes: int | None
    ) -> AsyncIterator[tuple[Connection, Response]]:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            connection = await Connection.open(self.base_url, receive_buffer_bytes=receive_buffer_bytes)
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                sent = {"Accept": "text/event-stream", **self.headers, **headers}
                connection.send_request("GET", target, sent, None)
                status, found = await connection.head()
                if status != 200:
                    connection.begin_body(found, status=status)
                    raise Refused(f"GET {target}", Response(status, found, await connection.rest()))
            _check_stream_headers(found)
            yield connection, Response(status, found, b"")
        finally:
            connection.abort()

    # --- verdict ------------------------------------------------------------------------------------------------------

    async def settle(self, session_id: str, *, timeout_seconds: float = 60.0) -> Json:
        """Wait until nothing runs and nothing waits in the session; give its state then."""
        async with asyncio.timeout(timeout_seconds), self.follow(session_id) as stream:
            await stream.until_state(lambda s: not s["is_processing"] and not s["queue"], timeout_seconds=None)
        return await self.state(session_id)

    async def verify(self, *sessions: str, settle: bool = True, timeout_seconds: float = 60.0) -> None:
        """Hold everything seen against every promise.

        Args:
            sessions: which; all that were ever seen where none is named.
            settle: also wait until the sessions are idle, and ask what became of each acknowledged turn.
        Raises:
            Violation: with every problem found.
        """
        found = list(self._strays)
        for session_id in sessions or tuple(self.histories):
            history = self.history(session_id)
            problems: list[str] = []
            if settle:
                state = await self.settle(session_id, timeout_seconds=timeout_seconds)
                problems += history.settled_problems(state, *await self.all_messages(state))
            problems = history.problems() + problems
            found += [f"session {session_id!r}: {problem}" for problem in problems]
        if found:
            shown = "\n".join(f"- {problem}" for problem in found[:20])
            raise Violation(f"{len(found)} problems\n{shown}")

    def check_now(self, *sessions: str) -> None:
        """`verify` over what was seen so far, without asking the server anything."""
        found = list(self._strays)
        for session_id in sessions or tuple(self.histories):
            found += [f"session {session_id!r}: {problem}" for problem in self.history(session_id).problems()]
        if found:
            raise Violation("\n".join(f"- {problem}" for problem in found[:20]))


class Stream:
    """An open event stream, checked while it is read.

    Attributes:
        state: the state of the (first) session by this stream's own events; None before the first snapshot.
        position: id of the last event of the (first) session.
        events: everything read so far, oldest first, pings included.
        resumed: whether it began with missed events rather than a snapshot (known once something came).
        closed, broken: the server has ended the stream; without the end that HTTP asks for.
    """

    def __init__(
        self,
        checker: Checker,
        connection: Connection,
        response: Response,
        *,
        sessions: Sequence[str],
        whole_states: bool = False,
    ) -> None:
        self._checker = checker
        self._connection = connection
        connection.begin_body(response.headers)
        self._parser = BlockParser()
        self._blocks: list[Block] = []
        self._whole_states = whole_states
        self._positions: dict[str, Position] = {}
        self._states: dict[str, Json] = {}
        self._resuming: set[str] = set()
        self._first = sessions[0] if sessions else ""
        self.sessions = set(sessions)
        self.response = response
        self.events: list[Event] = []
        self.retry_milliseconds: int | None = None
        self.resumed: bool | None = None
        self.closed = False
        self.broken = False

    @property
    def state(self) -> Json | None:
        return self._states.get(self._first)

    @property
    def position(self) -> Position | None:
        return self._positions.get(self._first)

    def state_of(self, session_id: str) -> Json | None:
        """State of one session of a multiplexed stream."""
        return self._states.get(session_id)

    def position_of(self, session_id: str) -> Position | None:
        """Last id of one session of a multiplexed stream."""
        return self._positions.get(session_id)

    def take_state(self, session_id: str, state: Json) -> None:
        """Give a resumed stream the state its client had at that position, so that `state` goes on from there."""
        self._states[session_id] = copy.deepcopy(state)

    def _resume(self, session_id: str, after: Position) -> None:
        self._positions[session_id] = after
        self._resuming.add(session_id)

    def _dropped(self, session_id: str) -> None:
        # Events already on their way may still come: the session stays known, only nothing is waited for.
        self._resuming.discard(session_id)

    async def next(self, *, timeout_seconds: float | None = TIMEOUT_SECONDS) -> Event:
        """The next message of the stream, checked.

        Raises:
            StreamClosed: the server ended it. Violation, ProtocolViolation: it broke a promise. TimeoutError.
        """
        async with asyncio.timeout(timeout_seconds):
            while True:
                while self._blocks:
                    event = self._take(self._blocks.pop(0))
                    if event is not None:
                        self.events.append(event)
                        return event
                try:
                    piece = await self._connection.piece()
                except ConnectionError as error:
                    self.closed = self.broken = True
                    raise StreamClosed(f"{self._first!r} broken after {len(self.events)} events") from error
                if not piece:
                    self.closed = True
                    if self._parser.unfinished:
                        raise ProtocolViolation(f"cut inside an event: {self._parser.unfinished[-80:]!r}")
                    raise StreamClosed(f"{self._first!r} closed after {len(self.events)} events")
                self._blocks += self._parser.feed(piece)

    async def until(self, wanted: Callable[[Event], bool], *, timeout_seconds: float | None = TIMEOUT_SECONDS) -> Event:
        """Read on until an event is `wanted`, and give it."""
        async with asyncio.timeout(timeout_seconds):
            while True:
                event = await self.next(timeout_seconds=None)
                if wanted(event):
                    return event

    async def until_type(self, kind: str, *, timeout_seconds: float | None = TIMEOUT_SECONDS) -> Event:
        """Read on until an event of that type."""
        return await self.until(lambda e: e.type == kind, timeout_seconds=timeout_seconds)

    async def until_state(
        self, wanted: Callable[[Json], bool], *, timeout_seconds: float | None = TIMEOUT_SECONDS
    ) -> Json:
        """Read on until the (first) session's state is `wanted`; it may be so already."""
        async with asyncio.timeout(timeout_seconds):
            while self.state is None or not wanted(self.state):
                await self.next(timeout_seconds=None)
            return self.state

    async def until_ended(self, turn_id: str, *, timeout_seconds: float | None = TIMEOUT_SECONDS) -> Event:
        """Read on until that turn's terminal event; it may have been read already."""
        for event in self.events:
            if event.type == "turn.ended" and event.body["turn_id"] == turn_id:
                return event
        return await self.until(
            lambda e: e.type == "turn.ended" and e.body["turn_id"] == turn_id, timeout_seconds=timeout_seconds
        )

    async def until_position(self, position: Position, *, timeout_seconds: float | None = TIMEOUT_SECONDS) -> None:
        """Read on until the (first) session has reached a position."""
        async with asyncio.timeout(timeout_seconds):
            while self.position is None or self.position < position:
                await self.next(timeout_seconds=None)

    async def drain(self) -> int:
        """Read to the end of the stream; give how many messages came."""
        count = 0
        while True:
            try:
                await self.next(timeout_seconds=None)
            except StreamClosed:
                return count
            count += 1

    def text_of(self, message_id: str) -> str:
        """All deltas of one answer this stream carried, joined."""
        return "".join(
            e.body["text"] for e in self.events if e.type == "text.delta" and e.body["message_id"] == message_id
        )

    def close(self) -> None:
        """Drop the connection at once; leaving the context does it too."""
        self._connection.abort()

    # --- checks -------------------------------------------------------------------------------------------------------

    def _take(self, block: Block) -> Event | None:
        if block.retry is not None:
            if not block.retry.isdigit():
                raise Violation(f"retry: {block.retry!r}")
            self.retry_milliseconds = int(block.retry)
        if block.data is None:
            return None
        if block.event is not None:
            raise Violation(f"a named event {block.event!r}")
        self._checker._search(block.raw, self.sessions, "the stream")
        try:
            body = orjson.loads(block.data)
        except ValueError as error:
            raise Violation(f"data that is not JSON: {block.data[:200]!r}") from error
        kind = body.get("type")
        if kind in _UNNUMBERED:
            if block.id is not None:
                raise Violation(f"{kind} with id {block.id!r}")
            return Event(kind, None, body, block.raw)
        if self._whole_states:
            return self._take_whole_state(block, body)
        session_id = body.get("session_id")
        if session_id not in self.sessions:
            raise Violation(f"{kind} of session {session_id!r} in a stream of {sorted(self.sessions)}")
        if block.id is None:
            raise Violation(f"{kind} without an id")
        try:
            position = Position.parse(block.id)
        except ValueError as error:
            raise Violation(f"{kind}: {error}") from error
        if kind == "snapshot":
            self._take_snapshot(session_id, position, body)
        else:
            self._take_numbered(session_id, kind, position, block, body)
        return Event(kind, position, body, block.raw)

    def _take_snapshot(self, session_id: str, position: Position, body: Json) -> None:
        state = body["state"]
        if state["position"] != str(position) or state["session_id"] != session_id:
            raise Violation(f"snapshot {position} of {session_id!r} holds {state['session_id']!r} {state['position']}")
        before = self._positions.get(session_id)
        if before is not None and session_id not in self._resuming and position < before:
            raise Violation(f"snapshot {position} after {before}")
        self._begin(session_id, resumed=False)
        self._checker.history(session_id).saw_state(copy.deepcopy(state), f"snapshot {position}")
        self._positions[session_id] = position
        self._states[session_id] = state

    def _take_numbered(self, session_id: str, kind: Any, position: Position, block: Block, body: Json) -> None:
        if kind not in _REQUIRED:
            raise Violation(f"an event of unknown type {kind!r} at {position}")
        if missing := _REQUIRED[kind] - body.keys():
            raise Violation(f"{kind} {position} lacks {sorted(missing)}")
        previous = self._positions.get(session_id)
        if previous is None:
            raise Violation(f"{kind} {position} before any snapshot")
        self._begin(session_id, resumed=True)
        history = self._checker.history(session_id)
        count = len(history.found)
        history.saw_event(position, block.raw, body, previous)
        if len(history.found) > count:
            raise Violation(f"session {session_id!r}: {history.found[-1]}")
        self._positions[session_id] = position
        state = self._states.get(session_id)
        if state is not None:
            try:
                reducer.apply(state, str(position), body)
            except reducer.CannotApply as error:
                raise Violation(f"session {session_id!r}: {kind} {position}: {error}") from error

    def _begin(self, session_id: str, *, resumed: bool) -> None:
        self._resuming.discard(session_id)
        if self.resumed is None and session_id == self._first:
            self.resumed = resumed

    def _take_whole_state(self, block: Block, body: Json) -> Event:
        self._checker.history(self._first).saw_state(body, "format=state")
        if block.id is not None and block.id != body["position"]:
            raise Violation(f"format=state: id {block.id!r} of a state at {body['position']}")
        position = Position.parse(body["position"])
        before = self._positions.get(self._first)
        if before is not None and position < before:
            raise Violation(f"format=state went from {before} to {position}")
        self._positions[self._first] = position
        self._states[self._first] = copy.deepcopy(body)
        return Event("state", position, body, block.raw)


def _check_stream_headers(headers: Mapping[str, str]) -> None:
    """Spec T1."""
    kind = headers.get("content-type", "").partition(";")[0].strip()
    if kind != "text/event-stream":
        raise Violation(f"a stream of type {kind!r}")
    cache = {part.strip() for part in headers.get("cache-control", "").split(",")}
    if not {"no-cache", "no-transform"} <= cache:
        raise Violation(f"a stream with Cache-Control {headers.get('cache-control')!r}")
    if headers.get("x-accel-buffering") != "no":
        raise Violation("a stream without X-Accel-Buffering: no")
    if "content-encoding" in headers:
        raise Violation(f"a stream with Content-Encoding {headers['content-encoding']!r}")


def _preference(*, minimal: bool) -> dict[str, str]:
    return {"Prefer": "return=minimal"} if minimal else {}


def _message_id(answer: Json, turn_id: str, text: str) -> str | None:
    """The id of the user message that the answer to a chat request acknowledges, where the answer shows it."""
    for entry in answer.get("queue", ()):
        if entry["turn_id"] == turn_id:
            return str(entry["message_id"])
    for message in reversed(answer.get("messages", ())):
        if message["role"] == "user" and message["content"] == text:
            return str(message["id"])
    return None


@asynccontextmanager
async def following(checker: Checker, sessions: Iterable[str]) -> AsyncIterator[dict[str, Stream]]:
    """Streams of several sessions at once, opened one after the other."""
    async with AsyncExitStack() as stack:
        yield {s: await stack.enter_async_context(checker.follow(s)) for s in sessions}
