"""One connection to an MCP server, owned by one task from its opening to its end.

Invariants:
- The SDK's client is entered, used and left inside the owner task: anyio's cancel scopes belong to the task that opened
  them. Callers only wait on futures, so cancelling a caller is instant; its request is then cancelled at the server
  (`notifications/cancelled`) by the owner, and the connection goes on.
- Requests run side by side up to `REQUESTS_AT_ONCE`; `REQUESTS_WAITING` more wait; then callers are refused.
- However the connection ends, every waiting caller is told, and child processes are gone when `close` returns.

Does not own: which connections there are, when one is made anew (mcp_tools), how bytes travel (mcp_stdio, mcp_http).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import anyio
import anyio.abc
import mcp_types as types
from mcp import Client, MCPError
from mcp.client import Transport
from mcp.client.session import IncomingMessage
from mcp.client.subscriptions import SubscriptionLost
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

import chatserver
from chatserver.agents.mcp_content import tool_error
from chatserver.agents.mcp_quiet import quiet
from chatserver.config import McpServerConfig
from chatserver.errors import ToolError
from chatserver.tasks import Supervisor

# Each is a future and a few kilobytes here; what it costs the server is the server's to say. A turn may have 32 calls.
REQUESTS_AT_ONCE = 32
REQUESTS_WAITING = 256
# Leaving politely (an HTTP session's DELETE) may take this long; a child's own end is bounded in mcp_stdio.
CLOSE_SECONDS = 2.0

T = TypeVar("T")
Operation = Callable[[Client], Awaitable[T]]
State = Literal["connecting", "connected", "closing", "ended"]
Lost = Callable[[str], None]


@dataclass(slots=True)
class _Request(Generic[T]):
    operation: Operation[T]
    future: asyncio.Future[T]
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)


class Connection:
    """A connection that opens by itself; `ready` says when, or why not.

    Args:
        make_transport: makes the way to the server; it is given what to call when that way is lost. It may raise
            ToolError.
        starts: bounds how many connections to this server are opening at once.
        may_start: raises ToolError where, by the time it is its turn, opening has become pointless.
        on_lost: called once when it fails, with its `error` set; not where it is closed.
        on_end: called once when nothing of the connection is left.
        on_idle: called when nobody waits for it any more.
        on_tools_changed: called whenever the server tells that its tools have changed.
    """

    def __init__(
        self,
        config: McpServerConfig,
        make_transport: Callable[[Lost], Transport],
        supervisor: Supervisor,
        *,
        starts: asyncio.Semaphore,
        may_start: Callable[[], None],
        on_lost: Callable[[Connection], None],
        on_end: Callable[[Connection], None],
        on_idle: Callable[[], None],
        on_tools_changed: Callable[[], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self._now = loop.time
        self.state: State = "connecting"
        self.error: str | None = None
        self.connected_at: float | None = None
        self.last_used = self._now()
        self.announces_tools = False
        self._config = config
        self._make_transport = make_transport
        self._starts = starts
        self._starting = False
        self._deadline: asyncio.TimerHandle | None = None
        self._may_start = may_start
        self._on_lost = on_lost
        self._on_end = on_end
        self._on_idle = on_idle
        self._on_tools_changed = on_tools_changed
        self._scope = anyio.CancelScope()
        self._stop = asyncio.Event()
        self._free = asyncio.Semaphore(REQUESTS_AT_ONCE)
        self._queue: asyncio.Queue[_Request[Any]] = asyncio.Queue(REQUESTS_WAITING)
        self._running = 0
        self._awaited = 0
        self._ready: asyncio.Future[None] = loop.create_future()
        self._ready.add_done_callback(lambda ready: ready.exception())  # nobody need be waiting
        self._owner = supervisor.spawn(self._own(), f"mcp-{config.name}")
        # Not in the task itself: one that is cancelled before its first step never runs any of it.
        self._owner.add_done_callback(lambda _: self._end())

    @property
    def busy(self) -> bool:
        """Whether somebody waits for it."""
        return self.state == "connecting" or self._awaited + self._running > 0 or not self._queue.empty()

    @property
    def served_seconds(self) -> float:
        """How long it has been connected; 0 if it never was."""
        return 0.0 if self.connected_at is None else self._now() - self.connected_at

    async def ready(self) -> None:
        """Wait until requests can be made.

        Raises: ToolError, code `server_failed`. Cancelling leaves the connection opening.
        """
        self._awaited += 1  # so that it is not given up as idle before its first request
        try:
            await asyncio.shield(self._ready)
        finally:
            self._awaited -= 1
            self._on_idle()

    async def run(self, operation: Operation[T], seconds: float) -> T:
        """Run `operation` with the SDK's client.

        Args:
            seconds: for all of it, waiting for its turn included.
        Raises: ToolError (`server_failed`, `server_busy`, `tool_timeout`, `bad_arguments`, `not_supported`,
            `tool_error`). Cancelling cancels the request at the server, without waiting for that.
        """
        self.last_used = self._now()
        if self.state in ("closing", "ended"):
            raise self._gone()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        request = _Request(operation, future)
        future.add_done_callback(lambda done: request.scope.cancel() if done.cancelled() else done.exception())
        name = self._config.name
        try:
            self._queue.put_nowait(request)
        except asyncio.QueueFull:
            future.cancel()
            raise ToolError(f"too many calls wait for the tool server {name!r}", code="server_busy") from None
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            detail = f"the tool server {name!r} did not answer within {seconds:g} s"
            raise ToolError(detail, code="tool_timeout") from None
        finally:
            self.last_used = self._now()

    def lose(self, why: str) -> None:
        """Give the connection up; callers that wait are told `why`. No effect on one that closes anyway."""
        if self.state in ("connecting", "connected"):
            self.error = why
            self.state = "closing"
            self._scope.cancel()
            self._on_lost(self)
            if not self._ready.done():
                self._ready.set_exception(self._gone())

    async def close(self) -> None:
        """End it and wait until nothing of it is left; idempotent. Cancelling only stops the waiting."""
        if self.state == "connecting":
            self._scope.cancel()
        if self.state != "ended":
            self.state = "closing"
            self._stop.set()
        await asyncio.wait([self._owner])

    async def _own(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            with self._scope:
                await self._starts.acquire()
                self._starting = True
                try:
                    self._may_start()
                except ToolError as error:  # no failure of its own
                    self._ready.set_exception(error)
                    return
                self._deadline = loop.call_later(
                    self._config.start_timeout_seconds,
                    self.lose,
                    f"it did not start within {self._config.start_timeout_seconds:g} s",
                )
                async with Client(
                    quiet(self._make_transport(self.lose)),
                    cache=None,  # what is kept is kept where it is used
                    message_handler=self._on_message,
                    client_info=types.Implementation(name="chatserver", version=chatserver.__version__),
                ) as client:
                    self._started(client)
                    await self._serve(client)
                    self._scope.deadline = anyio.current_time() + CLOSE_SECONDS
        except Exception as error:  # border: what server, transport or SDK throw ends this one alone
            self.lose(reason(error))

    def _started(self, client: Client) -> None:
        self._release_start()
        offered = client.server_capabilities.tools
        self.announces_tools = bool(offered and offered.list_changed)
        self.connected_at = self._now()
        if self.state == "connecting":
            self.state = "connected"
            self._ready.set_result(None)

    def _release_start(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        if self._starting:
            self._starting = False
            self._starts.release()

    def _end(self) -> None:
        self._release_start()
        self.state = "ended"
        if not self._ready.done():
            self._ready.set_exception(self._gone())
        while not self._queue.empty():
            self._fail(self._queue.get_nowait(), self._gone())
        self._on_end(self)

    async def _serve(self, client: Client) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._take, client, group)
            if self.announces_tools and client.protocol_version in MODERN_PROTOCOL_VERSIONS:
                group.start_soon(self._listen, client)
            await self._stop.wait()
            group.cancel_scope.cancel()

    async def _take(self, client: Client, group: anyio.abc.TaskGroup) -> None:
        while True:
            await self._free.acquire()
            request = await self._queue.get()
            self._running += 1
            group.start_soon(self._answer, client, request)

    async def _answer(self, client: Client, request: _Request[Any]) -> None:
        try:
            with request.scope:
                if not request.future.done():
                    result = await request.operation(client)
                    if not request.future.done():
                        request.future.set_result(result)
        except (ToolError, MCPError, ValueError, RuntimeError, OSError) as error:  # what the SDK raises for one request
            self._fail(request, tool_error(error, self._config.name))
        finally:
            self._running -= 1
            self._free.release()
            self._fail(request, self._gone())
            self._on_idle()

    @staticmethod
    def _fail(request: _Request[Any], error: ToolError) -> None:
        if not request.future.done():
            request.future.set_exception(error)

    def _gone(self) -> ToolError:
        why = self.error or "the connection was closed"
        return ToolError(f"the tool server {self._config.name!r} failed: {why}", code="server_failed")

    async def _on_message(self, message: IncomingMessage) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            self._on_tools_changed()

    async def _listen(self, client: Client) -> None:
        """Newer servers tell of changes only to those who ask (protocol 2026-07-28)."""
        try:
            async with client.listen(tools_list_changed=True) as changes:
                async for _ in changes:
                    self._on_tools_changed()
        except (MCPError, SubscriptionLost, OSError):
            pass
        self.announces_tools = False


def reason(error: BaseException) -> str:
    """Why a connection failed, in words that name no path and no secret."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    match error:
        case ToolError():
            return error.detail
        case FileNotFoundError():
            return "its command was not found"
        case PermissionError():
            return "its command may not be executed"
        case MCPError():
            return f"it refused the connection: {str(error.message)[:200]}"
        case ValueError():
            return "its first answer is not what MCP allows"
    return f"it could not be talked to ({type(error).__name__})"
