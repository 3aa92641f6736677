"""The streams: `GET /api/chat/stream` (T1–T7) and the multiplexed `GET /api/stream` (T8).

aiohttp-sse prepares the response; from its first bytes on, frames go straight to the transport in ready-made HTTP
chunks (1.6x over StreamResponse.write), with the stall guard of streams/subscriber.py in place of awaited drains.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.base_protocol import BaseProtocol
from aiohttp_sse import EventSourceResponse

from chatserver.api.answers import json_response, tell_session
from chatserver.api.identity import lease_of
from chatserver.api.reading import caller_of, read_body, resume_point, session_id_of
from chatserver.api.schemas import StreamBody
from chatserver.api.services import Services, services
from chatserver.api.streamed import bound_kernel_backlog
from chatserver.errors import FieldError, InvalidFields, InvalidRequest, NotFound, RateLimited
from chatserver.events import Position, SessionDeleted, encode_plain, wire
from chatserver.live_session import LiveSession
from chatserver.session_service import SESSION_ID, Caller
from chatserver.streams.subscriber import Connection, StateView, Subscription, goodbye_frame

# Callers without identity share their address with others: there the name alone is the right to a stream, and to read
# the ids of its unowned sessions, which are the right to those. So many of base64's characters hold 128 bits.
MIN_SECRET_NAME_CHARS = 22


class EventStream(EventSourceResponse):
    """aiohttp-sse's response without its comment pings: ours are data, and one task sends them for all streams."""

    def __init__(self, *, stall_seconds: float) -> None:
        # `send_timeout` becomes TCP_USER_TIMEOUT: the kernel cuts a peer that acknowledges nothing for so long.
        super().__init__(sep="\n", send_timeout=stall_seconds)
        self.headers["Cache-Control"] = "no-cache, no-transform"

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the head, and let go of the library's ping task: it would weigh a kilobyte for each stream."""
        writer = await super().prepare(request)
        if self._ping_task is not None:
            self._ping_task.cancel()
            self._ping_task = None
        return writer


class _Chunks:
    """HTTP/1.1 chunks of frames (RFC 9112 §7.1). A fan-out writes the same frame to every tab: it is wrapped once."""

    __slots__ = ("_chunk", "_frame")

    def __init__(self) -> None:
        self._frame = b""
        self._chunk = b""

    def of(self, frame: bytes) -> bytes:
        if frame is not self._frame:
            self._frame = frame
            self._chunk = b"%x\r\n%b\r\n" % (len(frame), frame)
        return self._chunk


_chunks = _Chunks()


class TransportSink:
    """A prepared response's transport as a Sink.

    Args:
        response: prepared, its first bytes written (aiohttp holds the head back until then).
    """

    __slots__ = ("_chunked", "_protocol", "_transport")

    def __init__(self, request: web.Request, response: EventStream) -> None:
        if request.transport is None:
            raise ConnectionResetError("the client has gone")
        self._transport = request.transport
        self._protocol = cast(BaseProtocol, request.protocol)
        self._chunked = bool(response.chunked) and request.version >= (1, 1)

    def write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(_chunks.of(data) if self._chunked else data)

    @property
    def full(self) -> bool:
        return self._protocol.writing_paused

    @property
    def pending_bytes(self) -> int:
        return self._transport.get_write_buffer_size()

    @property
    def closing(self) -> bool:
        return self._transport.is_closing()

    async def drain(self) -> None:
        try:
            await self._protocol._drain_helper()
        except asyncio.CancelledError:
            # aiohttp would hand the cancelled future out again: whoever waits next would be cancelled at once.
            self._protocol._drain_waiter = None
            raise

    async def flush(self) -> None:
        try:
            self._transport.set_write_buffer_limits(0)  # "full" until nothing is left
            await self.drain()
        finally:
            self._transport.set_write_buffer_limits()

    def abort(self) -> None:
        self._transport.abort()


async def _prepare(request: web.Request, app: Services) -> tuple[EventStream, Connection]:
    response = EventStream(stall_seconds=app.settings.stall_timeout_seconds)
    bound_kernel_backlog(request)
    await response.prepare(request)
    await response.write(b"retry: %d\n\n" % app.hub.retry_milliseconds())
    response.headers.clear()  # they are out, and weigh another kilobyte
    app.access_log.opened(request)
    connection = Connection(
        TransportSink(request, response),
        stall_seconds=app.settings.stall_timeout_seconds,
        backlog_bytes=app.settings.subscriber_backlog_bytes,
        counts=app.hub.counts,
        holder=caller_of(request).principal.counted_as,
        lease=lease_of(request),
    )
    return response, connection


async def chat_stream(request: web.Request) -> web.StreamResponse:
    """`GET /api/chat/stream`: one session's events, or its states with `?format=state`."""
    app, caller = services(request), caller_of(request)
    after = resume_point(request)
    view = request.query.get("format", "events")
    if view not in ("events", "state"):
        raise InvalidFields([FieldError(("format",), "must be 'events' or 'state'")])
    with app.hub.place(caller.counted_as, caller.counted_too):
        async with app.sessions.open(caller, session_id_of(request), create="provisional") as live:
            tell_session(request, live)
            app.sessions.check_subscribers(live)
            response, connection = await _prepare(request, app)
            _follow(live, caller, connection, app, view, after)
        # Its subscriber keeps the session live now: the pin may go, and with it what looked the session up.
        with app.hub.joined(connection):
            await connection.serve()
    return response


def _follow(
    live: LiveSession, caller: Caller, connection: Connection, app: Services, view: str, after: Position | None
) -> None:
    """Subscribe."""
    session_id = live.key.session_id
    if live.removed:  # deleted while the headers went out
        connection.end(encode_plain(wire(SessionDeleted(session_id))))
    elif live.record.owner != caller.principal.owner:  # its visitor logged in while the headers went out
        connection.end(goodbye_frame("signed_in", app.hub.retry_milliseconds()))
    elif view == "state":
        StateView(live, connection, session_id, interval_seconds=app.settings.state_interval_seconds)
    else:
        Subscription(live, connection, session_id, after, ends_connection=True)


# --- several sessions over one connection ---


def _wanted(item: str) -> tuple[str, Position | None]:
    """`session` or `session@f-n`. Raises: InvalidFields, InvalidRequest."""
    session_id, _, position = item.partition("@")
    if not SESSION_ID.fullmatch(session_id):
        raise InvalidFields(
            [FieldError(("sessions",), "each is 1 to 128 of A-Z a-z 0-9 . _ : -, then perhaps @<event id>")],
            code="invalid_session_id",
        )
    return session_id, Position.parse(position) if position else None


class Multiplex:
    """What one multiplexed connection follows; its pins keep those sessions live."""

    def __init__(self, app: Services, caller: Caller, connection: Connection) -> None:
        self._app = app
        self._caller = caller
        self._connection = connection

    async def add(self, items: list[tuple[str, Position | None]]) -> None:
        """Follow more sessions; one that is followed already is sent anew from where it is asked.

        Raises: what SessionService.open raises, for the first one refused; those before it are followed.
        """
        connection = self._connection
        for session_id, after in items:
            async with self._app.sessions.open(self._caller, session_id, create="provisional") as live:
                older = connection.subscriptions.get(session_id)
                if older is not None:
                    older.cancel()
                self._app.sessions.check_subscribers(live)
                if len(connection.subscriptions) >= (limit := self._app.settings.max_sessions_per_stream):
                    raise RateLimited(
                        "the stream follows all the sessions it may", limit=limit, code="too_many_sessions"
                    )
                # A subscriber keeps its session live (SessionManager), so the pin may go with the block.
                if not live.removed and not connection.ended:
                    Subscription(live, connection, session_id, after, ends_connection=False)

    def drop(self, session_ids: list[str]) -> None:
        """Follow these no more; unknown ones are ignored."""
        for session_id in session_ids:
            subscription = self._connection.subscriptions.get(session_id)
            if subscription is not None:
                subscription.cancel()


async def _check(
    app: Services,
    caller: Caller,
    items: list[tuple[str, Position | None]],
    followed: Collection[str] = (),
    dropped: Collection[str] = (),
) -> None:
    """Find what would be refused while nothing has been done yet.

    Args:
        followed, dropped: sessions that the stream follows now, and those that it will not any more.
    Raises: what SessionService.open raises, RateLimited (`too_many_streams`, `too_many_sessions`).
    """
    limit = app.settings.max_sessions_per_stream
    if len(set(followed).difference(dropped).union(session_id for session_id, _ in items)) > limit:
        raise RateLimited(f"a stream follows at most {limit} sessions", limit=limit, code="too_many_sessions")
    for session_id, _ in items:
        async with app.sessions.open(caller, session_id, create="provisional") as live:
            if session_id not in followed:
                app.sessions.check_subscribers(live)


async def multiplexed_stream(request: web.Request) -> web.StreamResponse:
    """`GET /api/stream?sessions=a,b@f-n&stream=id`: several sessions over one connection.

    Every session is checked before the stream begins, so that a refusal has a status.
    """
    app, caller = services(request), caller_of(request)
    items = [_wanted(item) for item in request.query.get("sessions", "").split(",") if item]
    if len(items) > app.settings.max_sessions_per_stream:
        raise InvalidRequest(
            f"{len(items)} sessions; a stream follows at most {app.settings.max_sessions_per_stream}",
            code="too_many_sessions",
        )
    stream_id = request.query.get("stream")
    if stream_id is not None and not SESSION_ID.fullmatch(stream_id):
        raise InvalidFields([FieldError(("stream",), "1 to 128 of A-Z a-z 0-9 . _ : -")])
    if stream_id is not None and caller.principal.kind == "none" and len(stream_id) < MIN_SECRET_NAME_CHARS:
        raise InvalidFields(
            [FieldError(("stream",), f"without a login, {MIN_SECRET_NAME_CHARS} characters or more, made at random")]
        )
    await _check(app, caller, items)
    with app.hub.place(caller.counted_as, caller.counted_too):
        response, connection = await _prepare(request, app)
        name = (caller.counted_as, stream_id) if stream_id is not None else None
        with app.hub.joined(connection, name):
            await Multiplex(app, caller, connection).add(items)
            await connection.serve()
    return response


async def change_stream(request: web.Request) -> web.Response:
    """`POST /api/stream {stream, add, drop}`: change what a running multiplexed stream follows."""
    body = await read_body(request, StreamBody)
    app, caller = services(request), caller_of(request)
    connection = app.hub.named((caller.counted_as, body.stream))
    if connection is None or connection.ended:
        raise NotFound(f"no stream {body.stream!r} is open", code="stream_not_found")
    multiplex = Multiplex(app, caller, connection)
    added = [_wanted(item) for item in body.add]
    await _check(app, caller, added, connection.subscriptions, body.drop)
    multiplex.drop(body.drop)
    await multiplex.add(added)
    return json_response({"stream": body.stream, "sessions": list(connection.subscriptions)})
