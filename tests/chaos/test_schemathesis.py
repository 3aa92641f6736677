"""The short form of the campaign schemathesis."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaigns import schemathesis
from tests.campaigns.campaign import chance

pytestmark = pytest.mark.chaos

SEED = 20261121


async def test_every_operation_answers_as_it_is_described(tmp_path: Path) -> None:
    """Some eight requests to each; the campaign makes ten thousand."""
    async with schemathesis.opened(tmp_path, cases=8) as one:
        counted = await one(0, chance(SEED, 0))

    assert counted["500"] == 0
    assert counted["cases"] > 300
    assert counted["200"] > 100
    assert counted["422"] > 30
