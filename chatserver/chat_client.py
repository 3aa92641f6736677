"""SessionClient: one session of a chatserver, over its public HTTP API, for programs outside the server.

Invariants: `events` gives every event once and in order, over as many connections as that takes, or a `snapshot` where
something was missed; a message is sent at most once, however often its request is repeated (`client_message_id`).

It is a client like any other: of the server's modules it uses `events.Position` and nothing else. It applies no events
(chat_conversation.py) and shows nothing (chat_terminal.py, chat_once.py).
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import ssl
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp

from chatserver.errors import ChatServerError, InvalidRequest
from chatserver.events import Position

# The server pings every 15 s by default: two that are missed, and some slack.
SILENCE_SECONDS = 40.0
CONNECT_SECONDS = 10.0
# An answer to a POST waits for a commit, an interrupt for the end of a turn.
ANSWER_SECONDS = 60.0
FIRST_BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 10.0
# A message is sent again this often when its answer did not come.
SEND_TRIES = 5
# 200 messages of the largest size that a server allows by default would be more; nobody reads those in a terminal.
MAX_FRAME_BYTES = 64 << 20

# What no repetition can mend.
_FINAL = frozenset({400, 401, 403, 404, 405, 409, 410, 413, 415, 422})

Json = dict[str, Any]


class ClientError(ChatServerError):
    """The server refused, or cannot be reached.

    Args:
        status: of the answer; 0 where there was none.
        retry_after_seconds: what the server asked to wait.
    """

    code = "client_error"
    title = "The request failed"

    def __init__(
        self, detail: str, *, code: str | None = None, status: int = 0, retry_after_seconds: float = 0
    ) -> None:
        super().__init__(detail, code=code)
        self.status = status
        self.retry_after_seconds = retry_after_seconds

    @property
    def final(self) -> bool:
        """Whether trying again is no use."""
        return self.status in _FINAL


@dataclass(frozen=True, slots=True)
class Received:
    """One event of the stream; `position` is None for those about the connection."""

    position: Position | None
    event: Json


class FrameParser:
    """Server-sent events out of bytes, whatever their boundaries (HTML standard §9.2.6, for lines that end with LF)."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0

    def feed(self, data: bytes) -> Iterator[tuple[str | None, str]]:
        """The id and data of every frame that `data` completes.

        Raises:
            ValueError: a frame is larger than `MAX_FRAME_BYTES`.
        """
        self._buffer += data
        while (end := self._buffer.find(b"\n\n", self._searched)) >= 0:
            frame = bytes(self._buffer[:end])
            del self._buffer[: end + 2]
            self._searched = 0
            event_id, lines = None, []
            for line in frame.decode("utf-8", "replace").split("\n"):
                field, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if field == "data":
                    lines.append(value)
                elif field == "id":
                    event_id = value
            if lines:
                yield event_id, "\n".join(lines)
        # The last byte may be the first of the pair.
        self._searched = max(0, len(self._buffer) - 1)
        if len(self._buffer) > MAX_FRAME_BYTES:
            raise ValueError(f"an event of more than {MAX_FRAME_BYTES} bytes")


class SessionClient:
    """A session of the server at `base_url`; use it as an async context.

    Args:
        base_url: `http://host:port`, or `host:port` for the same, with a path where a proxy puts the server under one.
        session_id: the session; None starts one of its own.
        on_trouble: told why the stream is interrupted, and None when it goes on.
    """

    def __init__(
        self,
        base_url: str,
        session_id: str | None = None,
        *,
        on_trouble: Callable[[str | None], None] = lambda trouble: None,
    ) -> None:
        self.base_url = (base_url if "://" in base_url else f"http://{base_url}").rstrip("/")
        self.session_id = session_id or str(uuid.uuid4())
        self._on_trouble = on_trouble
        self._http: aiohttp.ClientSession | None = None
        self._connected_once = False

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(
            # A message and an interrupt must not wait for the stream's connection, or for each other.
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS, connect=CONNECT_SECONDS),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._http is not None:
            await self._http.close()
            self._http = None

    # --- requests ---

    async def state(self) -> Json:
        """The session's state."""
        return await self._request("GET", "/api/state", params={"session_id": self.session_id})

    async def models(self) -> Json:
        """The catalogue."""
        return await self._request("GET", "/api/models")

    async def send(self, text: str, *, model: str | None = None) -> Json:
        """Send a message; gives the state with the `turn_id`. Repeated where its answer does not come.

        Raises:
            ClientError: it was refused, or the server stays away; then nobody knows whether it was accepted.
        """
        body = {"message": text, "client_message_id": str(uuid.uuid4())} | ({"model": model} if model else {})
        for tried in range(SEND_TRIES):
            try:
                return await self._post("/api/chat", body)
            except ClientError as error:
                # A limit of rate or of the queue is told to the person, not waited out in silence; nor is a server that
                # was never there, which is more likely a wrong address than one that restarts.
                never_there = error.narrow_code == "unreachable" and not self._connected_once
                if error.final or error.status == 429 or never_there or tried == SEND_TRIES - 1:
                    raise
                await asyncio.sleep(_backoff(tried, error.retry_after_seconds))
        raise AssertionError("unreachable")

    async def interrupt(self) -> Json:
        """Stop the running turn and take back what waits."""
        return await self._post("/api/interrupt", {"clear_queue": True})

    async def system(self, text: str) -> Json:
        """Add a system message."""
        return await self._post("/api/system", {"message": text})

    async def command(self, command: str, args: Mapping[str, Any] | None = None) -> Json:
        """Run a command of the session: `{success, message, data}`."""
        return await self._post("/api/mcp-command", {"command": command, "args": dict(args or {})})

    async def _post(self, path: str, body: Json) -> Json:
        return await self._request("POST", path, json=body | {"session_id": self.session_id})

    async def _request(self, method: str, path: str, **options: Any) -> Json:
        try:
            async with self._opened.request(method, self.base_url + path, **options) as response:
                if response.status >= 300:
                    raise await _refusal(response)
                answer: Json = await response.json()
                self._connected_once = True
                return answer
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _unreachable(self.base_url, error) from error

    @property
    def _opened(self) -> aiohttp.ClientSession:
        if self._http is None:
            raise RuntimeError("SessionClient is used outside its context")
        return self._http

    # --- the stream ---

    async def events(self, after: Position | None = None) -> AsyncIterator[Received]:
        """The session's events, for ever; ends after `session.deleted`.

        Args:
            after: where to begin, such as the `position` of a state; None begins with a snapshot.
        Raises:
            ClientError: there is no server to begin with, or it refuses for good.
        Cancelling, or closing the iterator, closes the connection.
        """
        last = after
        failures = 0
        while True:
            wait = 0.0
            try:
                async for received in self._connection(last):
                    if received.position is None:
                        if received.event.get("type") == "goodbye":
                            wait = float(received.event.get("retry_ms", 0)) / 1000
                    elif received.event.get("type") != "snapshot" and last is not None:
                        if received.position <= last:
                            continue  # had it already
                        if not _follows(last, received.position):
                            last = None  # a gap: only a snapshot mends it
                            break
                    if received.position is not None:
                        last = received.position
                    if failures:
                        failures = 0
                        self._on_trouble(None)
                    yield received
                    if received.event.get("type") == "session.deleted":
                        return
                trouble = "the connection was closed"
            except ClientError as error:
                if error.final or not self._connected_once:
                    raise
                trouble, wait = error.detail, max(wait, error.retry_after_seconds)
            failures += 1
            self._on_trouble(trouble)
            await asyncio.sleep(_backoff(failures - 1, wait))

    async def _connection(self, last: Position | None) -> AsyncIterator[Received]:
        """The events of one connection. Raises ClientError."""
        headers = {"Last-Event-ID": str(last)} if last is not None else {}
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
        parser = FrameParser()
        try:
            async with self._opened.get(
                f"{self.base_url}/api/chat/stream",
                params={"session_id": self.session_id},
                headers=headers,
                timeout=timeout,
            ) as response:
                if response.status != 200:
                    raise await _refusal(response)
                self._connected_once = True
                # Not readline: a snapshot is one line, far longer than the reader's limit.
                async for data in response.content.iter_any():
                    for event_id, text in parser.feed(data):
                        event = json.loads(text)
                        if isinstance(event, dict):
                            yield Received(Position.parse(event_id) if event_id else None, event)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, InvalidRequest) as error:
            raise _unreachable(self.base_url, error) from error


def _follows(last: Position, following: Position) -> bool:
    """Whether nothing can be missing between two ids."""
    if following.fence == last.fence:
        return following.n == last.n + 1
    return following.fence > last.fence and following.n == 0


def _backoff(failures: int, at_least_seconds: float) -> float:
    """Doubling, the upper half at random, so that the clients of a restarted server do not come all at once."""
    step = min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(failures, 10))
    return max(at_least_seconds, step * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, guards nothing


async def _refusal(response: aiohttp.ClientResponse) -> ClientError:
    """The error of an answer that is no success: a problem document, or whatever a proxy writes instead."""
    try:
        problem = json.loads(await response.content.read(64 << 10))
    except ValueError:
        problem = {}
    if not isinstance(problem, dict):
        problem = {}
    try:
        retry_after = float(response.headers.get("Retry-After", "0"))
    except ValueError:
        retry_after = 0.0
    return ClientError(
        str(problem.get("detail") or f"the server answered {response.status} {response.reason}"),
        code=str(problem.get("code") or "client_error"),
        status=response.status,
        retry_after_seconds=retry_after,
    )


def _unreachable(base_url: str, error: Exception) -> ClientError:
    if isinstance(error, TimeoutError):
        return ClientError(f"{base_url} did not answer in time")
    if isinstance(error, aiohttp.ClientConnectorError):
        match error.os_error:
            case ssl.SSLError(reason="WRONG_VERSION_NUMBER"):
                reason = "it does not speak https; chatserver itself speaks http"
            case OSError(errno=errno.ECONNREFUSED):
                reason = "nothing listens there; `chatserver serve` starts a server"
            case OSError(errno=int(number)) if number > 0:  # asyncio puts a sentence of its own around the system's
                reason = os.strerror(number)
            case other:
                reason = str(other.strerror or other)
        return ClientError(f"{base_url} cannot be reached: {reason}", code="unreachable")
    if isinstance(error, aiohttp.InvalidURL):
        return ClientError(f"{base_url!r} is not an address of a server", status=400)
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError | OSError):
        return ClientError(f"the connection to {base_url} broke")
    return ClientError(f"{base_url} gave no proper answer ({type(error).__name__})")
