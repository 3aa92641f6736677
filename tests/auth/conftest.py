"""A published key set, on a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from tests.auth.jwks import Published


@pytest.fixture
async def published() -> AsyncIterator[Published]:
    """The issuer's key server."""
    keys = Published()
    app = web.Application()
    app.router.add_get("/keys", keys.answer)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    keys.url = f"http://127.0.0.1:{runner.addresses[0][1]}/keys"
    yield keys
    await runner.cleanup()
