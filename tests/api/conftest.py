"""A real server in the test's own loop: real runner, real sockets, real store; and a client without manners."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog

from chatserver.app import RunningServer, start_server
from chatserver.clock import Clock
from chatserver.config import Settings
from tests.api import described
from tests.auth.jwks import Published, serving_keys

ROOMY: dict[str, Any] = {
    "port": 0,
    "scripted": True,
    "default_model": "scripted",
    "discover_models": False,
    "no_docs": True,
    "auto_titles": "off",  # it tells an event of its own, at a time of its own
    "session_creations_per_minute": 100_000,
    "session_creations_global_per_minute": 100_000,
    "messages_per_minute": 100_000,
    "model_switches_per_minute": 100_000,
    "session_creations_per_address_per_minute": 100_000,
    "messages_per_address_per_minute": 100_000,
    "model_switches_per_address_per_minute": 100_000,
    "login_attempts_per_minute": 100_000,
    "login_attempts_per_address_per_minute": 100_000,
    # A tenth of a millisecond in place of a tenth of a second; tests/auth has what the defaults do.
    "password_memory_kib": 64,
    "password_rounds": 1,
}


@dataclass(slots=True)
class Api:
    """A server, a client, and what was logged."""

    server: RunningServer
    http: aiohttp.ClientSession
    log: io.StringIO
    cookies: dict[str, str] = field(default_factory=dict)

    def url(self, path: str) -> str:
        return self.server.url + path

    async def call(self, method: str, path: str, **kwargs: Any) -> tuple[int, Any, dict[str, str]]:
        """Status, body (JSON where it is) and headers of one request. JSON has to be as the API is described."""
        async with self.http.request(method, self.url(path), **kwargs) as response:
            is_json = "json" in response.headers.get("Content-Type", "")
            body = await response.json(content_type=None) if is_json else await response.text()
            if is_json and method != "HEAD":
                described.check(method, response.url.path, response.status, response.content_type, body)
            return response.status, body, dict(response.headers)

    async def post(self, path: str, **body: Any) -> tuple[int, Any, dict[str, str]]:
        return await self.call("POST", path, json=body)

    async def get(self, path: str, **kwargs: Any) -> tuple[int, Any, dict[str, str]]:
        return await self.call("GET", path, **kwargs)


Serve = Callable[..., Awaitable[Api]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Starts servers with the given settings; the first uses the test's data folder.

    What expires is tested with a `clock` that the test moves: a machine may stall for a second at any moment.
    """
    async with AsyncExitStack() as stack:

        async def start(*, clock: Clock | None = None, **settings: Any) -> Api:
            log = io.StringIO()
            values = ROOMY | {"data_dir": tmp_path / "data"} | settings
            logger = structlog.wrap_logger(
                structlog.PrintLogger(log), processors=[structlog.processors.JSONRenderer(default=repr)]
            )
            server = await stack.enter_async_context(start_server(Settings(**values), logger, clock))
            http = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()))
            return Api(server, http, log)

        yield start


@pytest.fixture
async def api(serve: Serve) -> Api:
    """A server with roomy limits and the scripted agent."""
    return await serve()


@pytest.fixture
async def published() -> AsyncIterator[Published]:
    """An issuer's key server."""
    async with serving_keys() as keys:
        yield keys
