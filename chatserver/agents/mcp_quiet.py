"""A bound on what an MCP server may say without being asked.

Each notification or request from a server costs the SDK half a millisecond: tasks, validation. A server that sends ten
thousand would hold the loop, and with it every session, for seconds. Answers are not limited: we asked for them.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any

import mcp_types as types
from mcp.client import Transport
from mcp.client._transport import ReadStream, TransportStreams
from mcp.shared.message import SessionMessage

# A second's worth of lively progress, of several calls. Beyond it messages are dropped, progress for the most part.
MESSAGES_PER_SECOND = 50.0
BURST = 100.0

Item = SessionMessage | Exception


@asynccontextmanager
async def quiet(transport: Transport) -> AsyncIterator[TransportStreams]:
    """`transport`, with the server's unasked messages beyond the limit dropped."""
    async with transport as (incoming, outgoing):
        yield _Quiet(incoming), outgoing


class _Quiet:
    """A stream that passes on what its bucket of tokens allows."""

    def __init__(self, inner: ReadStream[Item]) -> None:
        self._inner = inner
        self._tokens = BURST
        self._at = time.monotonic()

    @property
    def last_context(self) -> Any:
        return getattr(self._inner, "last_context", None)

    def _passes(self, item: Item) -> bool:
        unasked = (types.JSONRPCNotification, types.JSONRPCRequest)
        if not isinstance(item, SessionMessage) or not isinstance(item.message, unasked):
            return True
        now = time.monotonic()
        self._tokens = min(BURST, self._tokens + (now - self._at) * MESSAGES_PER_SECOND)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    async def receive(self) -> Item:
        while not self._passes(item := await self._inner.receive()):
            pass
        return item

    async def aclose(self) -> None:
        await self._inner.aclose()

    def __aiter__(self) -> _Quiet:
        return self

    async def __anext__(self) -> Item:
        while not self._passes(item := await self._inner.__anext__()):
            pass
        return item

    async def __aenter__(self) -> _Quiet:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._inner.__aexit__(exc_type, exc, traceback)
