"""The listening side that aiohttp leaves open: a cap on connections, a time for the head, problems for bad HTTP.

It uses a few names of aiohttp that are not public (`Server._kwargs`, `RequestHandler._request_count` and
`_process_keepalive`); the tests in tests/api/test_bad_input.py fail when one of them goes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from chatserver.api import problems
from chatserver.api.request_keys import new_request_id
from chatserver.config import Settings


class GuardedHandler(RequestHandler):
    """One connection."""

    __slots__ = ("_head_deadline", "_settings")

    def __init__(self, manager: GuardedServer, settings: Settings, **kwargs: Any) -> None:
        super().__init__(manager, **kwargs)
        self._settings = settings
        self._head_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        manager = self._manager
        if manager is not None and len(manager._connections) > self._settings.max_connections:
            self.force_close()
            return
        self._head_deadline = self._loop.call_later(self._settings.header_timeout_seconds, self._check_head)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None
        super().connection_lost(exc)

    def _check_head(self) -> None:
        """Close a connection whose first request's head is not here yet (slowloris)."""
        self._head_deadline = None
        self._after_reading(self._cut_without_head)

    def _cut_without_head(self) -> None:
        if self._request_count == 0:
            self.force_close()

    def _process_keepalive(self) -> None:
        """Close an idle connection, but not one on which a request waits to be read (RFC 9112 §9.6)."""
        self._after_reading(super()._process_keepalive)

    def _after_reading(self, check: Callable[[], None]) -> None:
        """Check once the loop has read what came in time: after a hold-up a timer may run before the sockets do.

        What is ready now runs before the loop asks its sockets; what that makes ready runs after it, on either loop.
        """
        self._loop.call_soon(self._loop.call_soon, check)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request that is not HTTP as a problem. What was wrong with it stays unlogged: it is noise; an error
        of our own is not."""
        if status >= 500:
            self.log_exception("Error while answering", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already")
        request_id = new_request_id()
        response = problems.internal(request_id) if status >= 500 else problems.http_response(status, request_id)
        response.headers["Server"] = "chatserver"  # no signal of the application's reaches this answer
        response.force_close()
        return response


class GuardedServer(web.Server):
    """Makes GuardedHandlers."""

    def __init__(self, settings: Settings, plain: web.Server) -> None:
        handle = plain.request_handler

        async def refuse() -> web.StreamResponse:
            return problems.http_response(417, new_request_id())

        def unless_expecting_more(request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
            # RFC 9110 §10.1.1. aiohttp refuses it too, but before any middleware runs, as text that quotes the header.
            # Not a coroutine itself: its frame would stand behind every open stream.
            if request.headers.get("Expect", "100-continue").lower() != "100-continue":
                return refuse()
            return handle(request)

        super().__init__(
            unless_expecting_more,
            request_factory=plain.request_factory,
            handler_cancellation=plain.handler_cancellation,
            loop=plain._loop,
            **plain._kwargs,
        )
        self._settings = settings

    def __call__(self) -> RequestHandler:
        return GuardedHandler(self, self._settings, loop=self._loop, **self._kwargs)


class GuardedRunner(web.AppRunner):
    """An AppRunner with the guards.

    Args:
        settings: connection cap, timeouts, header sizes.
        shutdown_seconds: how long open requests may take once the listening socket is closed.
    """

    def __init__(self, app: web.Application, settings: Settings, *, shutdown_seconds: float) -> None:
        super().__init__(
            app,
            handle_signals=False,
            access_log=None,
            # Without it aiohttp does not notice that a stream's client has gone.
            handler_cancellation=True,
            shutdown_timeout=shutdown_seconds,
            keepalive_timeout=settings.keepalive_timeout_seconds,
            max_line_size=settings.max_header_bytes,
            max_field_size=settings.max_header_bytes,
            lingering_time=2.0,
            auto_decompress=False,
        )
        self._guards = settings

    async def _make_server(self) -> web.Server:
        return GuardedServer(self._guards, await super()._make_server())
