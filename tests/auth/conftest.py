"""A published key set, on a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.auth.jwks import Published, serving_keys


@pytest.fixture
async def published() -> AsyncIterator[Published]:
    """The issuer's key server."""
    async with serving_keys() as keys:
        yield keys
