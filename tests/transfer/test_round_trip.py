"""The short form of the campaign round-trip."""

from __future__ import annotations

import random
from pathlib import Path

from tests.campaigns import round_trip


async def test_every_session_is_shown_the_same_after_export_and_import(tmp_path: Path) -> None:
    """Sixty of them; the campaign moves ten thousand."""
    async with round_trip.opened(tmp_path, sessions=60) as one:
        counted = await one(0, random.Random("short"))

    assert counted["sessions"] == 60
    assert counted["of_users"] > 20
    assert counted["messages"] > counted["on_the_active_branch"] > 60
