"""Exchange: one request to a chat-completions endpoint and its streamed answer.

Invariants: closing it drops the connection at once, in the middle of whatever goes on; only an answer read to its end
gives its connection back to the pool. Silence is bounded: `first_token_timeout_seconds` until the first piece,
`token_timeout_seconds` between two, by one timer that looks at a time stamp, since a timer for each piece would cost
more than reading it. Errors are UpstreamError; nothing of the endpoint's own text is in them.

It does not retry and knows no tools (openai_compatible.py).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL

from chatserver.agents import json_border, upstream_errors
from chatserver.agents.base import AgentEvent
from chatserver.agents.chunks import Completion
from chatserver.agents.sse_parser import SSEParser

# After its finish_reason an endpoint has only usage and [DONE] to say; one that keeps the connection open instead
# must not keep the turn open.
AFTER_FINISH_SECONDS = 2.0
# After [DONE] the end of the body follows in the same packet or the next; waiting for it saves the next turn a
# connection, waiting longer would cost this one.
DRAIN_SECONDS = 0.05
# Of the body of an error, enough to find out what it means.
ERROR_BODY_BYTES = 64 << 10
ERROR_BODY_SECONDS = 5.0
# An answer in one piece, from an endpoint that does not stream.
WHOLE_BODY_BYTES = 16 << 20

BROKEN_OFF = "The model's endpoint broke off its answer."


@dataclass(frozen=True, slots=True)
class Timeouts:
    """In seconds; see ModelConfig."""

    connect: float
    first_token: float
    token: float


class Exchange:
    """See the module. Made by `begin`, which waits for the first piece."""

    __slots__ = ("_ended", "_parser", "_response", "_watch", "completion", "first")

    def __init__(self, response: aiohttp.ClientResponse, token_timeout_seconds: float) -> None:
        self._response = response
        self._parser = SSEParser()
        self._ended = False
        self._watch = _Watch(token_timeout_seconds, self._cut)
        self.completion = Completion()
        self.first: list[AgentEvent] | None = None

    @classmethod
    async def begin(
        cls,
        session: aiohttp.ClientSession,
        url: URL,
        headers: Mapping[str, str],
        body: bytes,
        timeouts: Timeouts,
        *,
        now: float,
        on_refusal: Callable[[int, bytes], None],
    ) -> Exchange:
        """Send the request and wait for the first piece of the answer, which is then in `first`.

        Args:
            now: wall time in seconds, for a Retry-After that is a date.
            on_refusal: told the status and the start of the body of an answer that is an error.
        Raises:
            UpstreamError: nothing of the answer has been given out then.
        Cancelling drops the connection.
        """
        exchange: Exchange | None = None
        try:
            async with asyncio.timeout(timeouts.first_token):
                response = await session.post(
                    url,
                    data=body,
                    headers=headers,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=None, connect=timeouts.connect),
                )
                exchange = cls(response, timeouts.token)
                if response.status != 200:
                    raise await _refused(response, now, on_refusal)
                exchange.first = await exchange._begin(on_refusal)
                return exchange
        except aiohttp.ConnectionTimeoutError as error:
            raise upstream_errors.unavailable("The model's endpoint could not be reached in time.") from error
        except TimeoutError as error:
            raise upstream_errors.timeout("The model did not begin its answer in time.") from error
        except (aiohttp.ClientError, OSError) as error:
            raise upstream_errors.unavailable() from error
        finally:
            if exchange is not None and exchange.first is None and not exchange._ended:
                exchange.close()

    async def _begin(self, on_refusal: Callable[[int, bytes], None]) -> list[AgentEvent]:
        kind = self._response.content_type
        if kind == "text/html":
            on_refusal(self._response.status, await _start_of(self._response))
            raise upstream_errors.protocol("The model's endpoint answered with a web page.")
        if kind == "application/json":
            return await self._whole()
        # The caller's timeout holds until the model has begun something: `read`'s own would be another one.
        while True:
            events = await self._next()
            if events or self.completion.calls or self.completion.complete:
                return events

    async def _whole(self) -> list[AgentEvent]:
        """An answer in one piece, or an error with status 200."""
        body = bytearray()
        while chunk := await self._response.content.readany():
            body += chunk
            if len(body) > WHOLE_BODY_BYTES:
                raise upstream_errors.protocol("The model's endpoint sent an answer that is too large.")
        events = self.completion.feed([bytes(body)])
        if self.completion.failure is not None:
            raise self.completion.failure
        if not self.completion.complete:
            raise upstream_errors.protocol("The model's endpoint sent something that is no answer.")
        self._end()
        return events

    async def read(self) -> list[AgentEvent] | None:
        """The next pieces: all that arrived together; None at the end.

        Raises:
            UpstreamError: the answer broke off, or nothing of it came for too long.
        Cancelling leaves the exchange to be closed.
        """
        watch = self._watch
        watch.start()
        try:
            while not self._ended:
                if self.completion.done:
                    await self._drain()
                elif self.completion.failure is not None:
                    if not self.completion.complete:  # it came together with what was given out last
                        raise self.completion.failure
                    self._end()
                elif events := await self._next():
                    return events
                watch.start()
        finally:
            watch.stop()
        return None

    async def _next(self) -> list[AgentEvent]:
        """One event of the network's, whatever it brings. Comments, some endpoints' keep-alives, bring nothing and
        are waited over: they show that somebody is there, not that the model says anything."""
        completion, content = self.completion, self._response.content
        while True:
            try:
                chunk = await content.readany()
            except (aiohttp.ClientError, OSError) as error:
                if completion.complete:  # all was said; how the connection ends says nothing
                    self._end()
                    return []
                if self._watch.expired:
                    raise upstream_errors.timeout("The model fell silent in the middle of its answer.") from None
                raise upstream_errors.unavailable(BROKEN_OFF) from error
            if not chunk:
                if not completion.complete:
                    raise upstream_errors.protocol(BROKEN_OFF, retryable=True)
                self._end()
                return []
            payloads = self._parser.feed(chunk)
            events = completion.feed(payloads) if payloads else []
            if self._parser.overflow and completion.failure is None:
                completion.failure = upstream_errors.protocol("The model's endpoint sent a line that is too long.")
            if completion.complete:
                self._watch.shorten(AFTER_FINISH_SECONDS)
            elif completion.failure is not None and not events:
                raise completion.failure
            if payloads or completion.failure is not None:
                return events

    async def _drain(self) -> None:
        content = self._response.content
        if not content.at_eof():
            try:
                async with asyncio.timeout(DRAIN_SECONDS):
                    _ = await content.readany()
            except (aiohttp.ClientError, OSError):  # TimeoutError among them
                pass
        self._end()

    def _end(self) -> None:
        """Give the connection back; aiohttp closes it where something of the body is still to come."""
        self._ended = True
        self._watch.close()
        self._response.release()

    def _cut(self) -> None:
        """Drop the connection without waiting for unsent bytes; a pending read fails with ClientConnectionError."""
        connection = self._response.connection
        if connection is not None and connection.transport is not None:
            connection.transport.abort()
        self._response.close()

    def close(self) -> None:
        """Be done with it: an answer not read to its end loses its connection now. Idempotent, never waits."""
        self._watch.close()
        if not self._ended:
            self._ended = True
            self._cut()


class _Watch:
    """Calls `on_expiry` when a read has waited too long.

    Only the time inside a read counts: how long the reader takes to come back is not the endpoint's silence.
    """

    __slots__ = ("_handle", "_limit", "_loop", "_on_expiry", "_since", "expired")

    def __init__(self, limit_seconds: float, on_expiry: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit = limit_seconds
        self._on_expiry = on_expiry
        self._since = math.inf
        self.expired = False
        self._handle = self._loop.call_later(limit_seconds, self._look)

    def start(self) -> None:
        self._since = self._loop.time()

    def stop(self) -> None:
        self._since = math.inf

    def shorten(self, limit_seconds: float) -> None:
        """From now on allow less."""
        if limit_seconds < self._limit:
            self._limit = limit_seconds
            self._handle.cancel()
            self._handle = self._loop.call_later(limit_seconds, self._look)

    def _look(self) -> None:
        left = self._since + self._limit - self._loop.time()
        if left > 0:
            self._handle = self._loop.call_later(min(left, self._limit), self._look)
        else:
            self.expired = True
            self._on_expiry()

    def close(self) -> None:
        self._handle.cancel()


async def _refused(
    response: aiohttp.ClientResponse, now: float, on_refusal: Callable[[int, bytes], None]
) -> upstream_errors.UpstreamError:
    start = await _start_of(response)
    on_refusal(response.status, start)
    try:
        body: Any = json_border.loads(start)
    except ValueError:
        body = None
    return upstream_errors.from_status(response.status, body, response.headers, now)


async def _start_of(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(ERROR_BODY_SECONDS):
            while len(body) < ERROR_BODY_BYTES and (chunk := await response.content.readany()):
                body += chunk
    except (aiohttp.ClientError, OSError):  # a cut or slow body says as much as it says; TimeoutError is an OSError
        pass
    return bytes(body[:ERROR_BODY_BYTES])
