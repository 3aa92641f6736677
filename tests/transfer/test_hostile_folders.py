"""The short form of the campaign import-folders, and its watch."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.campaigns import import_folders
from tests.transfer.hostile import watched


async def test_hostile_folders_harm_nothing(tmp_path: Path) -> None:
    """Some of the campaign's cases."""
    async with import_folders.opened(tmp_path, cases=100) as one:
        counted = await one(0, random.Random("short"))

    assert counted["cases"] == 100
    assert counted["sessions_imported"] > 30
    assert counted["sessions_refused"] > 30


def test_the_watch_sees_what_is_opened_outside(tmp_path: Path) -> None:
    """Without it the campaign would show nothing."""
    from chatserver import transfer_folder

    (tmp_path / "in").mkdir()
    with pytest.raises(AssertionError, match="outside"), watched(tmp_path / "in"):
        os.close(transfer_folder.os.open(tmp_path, os.O_RDONLY))
