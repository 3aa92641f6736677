"""A streamable HTTP MCP server, with the limits that the SDK's transport lacks.

Invariants:
- No answer is held beyond `message_bytes`: a JSON body is read up to it, a stream's event likewise; no compression,
  so there is nothing to blow up.
- What goes wrong with one request is that request's error. The SDK lets any httpx error end the whole connection, and
  with it the calls of everybody who shares it.
- A server that cannot be reached, or has forgotten the session, is told to the owner at once (`on_lost`).

Proxy settings of the environment do not apply: the operator's URL is where requests go.

Does not own: the protocol (the SDK), when to open and close (mcp_connection).
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import httpx2
from mcp.client.streamable_http import streamable_http_client

from chatserver.agents import json_border
from chatserver.agents.mcp_content import BROKEN_ANSWER
from chatserver.agents.mcp_stdio import Lost, Streams

CONNECT_SECONDS = 10.0
WRITE_SECONDS = 30.0
# Requests at once (mcp_connection.REQUESTS_AT_ONCE), as many cancelled ones that the server still holds, the listening
# stream, and notifications. A server that holds more of them is left and connected to anew.
MAX_SOCKETS = 80
POOL_SECONDS = 5.0
# The caller has its own, shorter timeout; this one frees the socket of a request that nobody waits for any more.
READ_SLACK_SECONDS = 10.0

_METHOD_HEADER: Final = "mcp-method"
_SESSION_HEADER: Final = "mcp-session-id"


@asynccontextmanager
async def http_transport(
    url: str, headers: Mapping[str, str], *, message_bytes: int, answer_seconds: float, on_lost: Lost
) -> AsyncIterator[Streams]:
    """Exchange MCP messages with the server at `url` while the block runs.

    Args:
        headers: sent with every request.
        message_bytes: of one message from the server.
        answer_seconds: silence after which a request without an answer is given up.
        on_lost: called with the reason when the server can no longer be talked to; the owner then leaves the block.
    """
    guarded = _Guarded(
        httpx2.AsyncHTTPTransport(verify=_tls(), limits=httpx2.Limits(max_connections=MAX_SOCKETS)),
        message_bytes,
        answer_seconds + READ_SLACK_SECONDS,
        on_lost,
    )
    timeout = httpx2.Timeout(
        connect=CONNECT_SECONDS, write=WRITE_SECONDS, pool=POOL_SECONDS, read=answer_seconds + READ_SLACK_SECONDS
    )
    async with (
        httpx2.AsyncClient(
            transport=guarded, timeout=timeout, headers={**headers, "accept-encoding": "identity"}, trust_env=False
        ) as client,
        streamable_http_client(url, http_client=client, max_sse_event_size=message_bytes) as streams,
    ):
        yield streams  # type: ignore[misc]  # the SDK's streams wrap anyio's and serve where those do


@functools.cache
def _tls() -> ssl.SSLContext:
    """One for all: reading the certificates takes tens of milliseconds of the loop."""
    return ssl.create_default_context()


class _Guarded(httpx2.AsyncBaseTransport):
    def __init__(self, inner: httpx2.AsyncBaseTransport, limit: int, answer_seconds: float, on_lost: Lost) -> None:
        self._inner = inner
        self._limit = limit
        self._answer_seconds = answer_seconds
        self._on_lost = on_lost

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        listening = request.method == "GET" or request.headers.get(_METHOD_HEADER) == "subscriptions/listen"
        if listening:  # silence is what such a stream mostly carries
            request.extensions["timeout"]["read"] = None
        try:
            response = await self._inner.handle_async_request(request)
            if response.status_code in (401, 403):
                self._on_lost(f"it refuses us with HTTP {response.status_code}")
            if response.status_code == 404 and _SESSION_HEADER in request.headers:
                self._on_lost("it has forgotten our session")
            return await self._guard(response)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.UnsupportedProtocol):
            self._on_lost("it cannot be reached")
            return _refusal("the server cannot be reached")
        except httpx2.PoolTimeout:
            self._on_lost("it leaves too many requests unanswered")
            return _refusal("the server leaves too many requests unanswered")
        except (httpx2.TransportError, TimeoutError) as error:
            if request.method == "GET":
                raise  # the SDK tries the stream again
            return _refusal(f"the request failed ({type(error).__name__})")

    async def _guard(self, response: httpx2.Response) -> httpx2.Response:
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            await response.aclose()
            return _refusal("the answer is compressed, which was not asked for")
        stream = response.stream
        if not isinstance(stream, httpx2.AsyncByteStream):
            raise TypeError("an asynchronous transport answers with a synchronous stream")
        kind = response.headers.get("content-type", "").lower()
        if kind.startswith("text/event-stream"):
            response.stream = _Events(stream, self._limit)
            return response
        body = bytearray()
        try:
            async with asyncio.timeout(self._answer_seconds):
                async for chunk in stream:
                    body += chunk
                    if len(body) > self._limit:
                        return _refusal("the answer is over the size limit")
        finally:
            await stream.aclose()
        headers = [
            (k, v) for k, v in response.headers.multi_items() if k not in ("content-length", "transfer-encoding")
        ]
        return httpx2.Response(
            response.status_code, headers=headers, content=_mended(bytes(body)), extensions=response.extensions
        )


def _refusal(why: str) -> httpx2.Response:
    """An answer that the SDK turns into the error of the request at hand, and of that alone."""
    error = {"jsonrpc": "2.0", "id": None, "error": {"code": BROKEN_ANSWER, "message": why}}
    return httpx2.Response(502, headers={"content-type": "application/json"}, content=json_border.dumps(error))


class _Events(httpx2.AsyncByteStream):
    """An event stream whose lines are mended on the way."""

    def __init__(self, inner: httpx2.AsyncByteStream, limit: int) -> None:
        self._inner = inner
        self._limit = limit

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        rest = bytearray()
        async for chunk in self._inner:
            rest += chunk
            end = rest.rfind(b"\n") + 1
            # Past the limit there is nothing to mend: the SDK's own check of the event's size ends it.
            if not end and len(rest) > self._limit:
                end = len(rest)
            if end:
                yield b"\n".join(map(_mended_line, bytes(rest[:end]).split(b"\n")))
                del rest[:end]
        if rest:
            yield bytes(rest)


def _mended_line(line: bytes) -> bytes:
    if line.startswith(b"data:") and b"\\u" in line:
        return b"data: " + _mended(line[5:])
    return line


def _mended(body: bytes) -> bytes:
    """JSON without lone surrogates, which JavaScript writes when it cuts text in half and the SDK cannot read."""
    if b"\\ud" not in body and b"\\uD" not in body:
        return body
    try:
        return json_border.dumps(json_border.loads(body))
    except ValueError:
        return body
