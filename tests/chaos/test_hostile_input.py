"""Requests that are wrong, slow or no requests at all: short forms of mutate and slowloris."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaigns import mutate, slowloris
from tests.campaigns.campaign import chance

pytestmark = pytest.mark.chaos

SEED = 20261121


async def test_mutated_requests_are_answered_and_never_with_a_500(tmp_path: Path) -> None:
    """Two thousand of them; the campaign does a hundred thousand."""
    async with mutate.opened(tmp_path) as one:
        for number in range(2):
            counted = await one(number, chance(SEED, number))
            assert counted["2xx"] > 50
            assert counted["4xx"] > 300


async def test_connections_that_drip_are_cut_while_the_server_stays_quick(tmp_path: Path) -> None:
    """Three hundred with limits of one second; the campaign has a thousand and the real limits.

    /health has five times the time that the campaign gives it: each process may stall for a second.
    """
    health_seconds = 5 * slowloris.HEALTH_SECONDS
    async with slowloris.opened(
        tmp_path, connections=300, header_seconds=1, body_seconds=1, health_seconds=health_seconds
    ) as one:
        counted = await one(0, chance(SEED, 0))
    assert counted["connections"] == 300
