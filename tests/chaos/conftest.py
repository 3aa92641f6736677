"""What all of these tests share: a client that keeps up with what it is to load."""

from __future__ import annotations

import asyncio

import pytest


@pytest.fixture(autouse=True)
async def _no_debug_mode() -> None:
    """Switch asyncio's debug mode off: the loop here is only the clients', and debug mode makes them five times slower.

    The server is a process of its own; its tasks are watched by the tests that run it in this process.
    """
    asyncio.get_running_loop().set_debug(False)
