"""Runs tests of turns on both stores: the plain one, and the real one on SQLite."""

from __future__ import annotations

import pytest

from tests.core import world

ON_BOTH = {"test_turn_ends", "test_turn_queue", "test_turn_store", "test_shutdown", "test_branches"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of these modules is two tests."""
    if metafunc.module.__name__.rpartition(".")[2] in ON_BOTH:
        metafunc.parametrize("_store_kind", list(world.STORES), indirect=True)


@pytest.fixture(autouse=True)
def _store_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a world begins with."""
    monkeypatch.setattr(world, "new_store", [world.STORES[getattr(request, "param", "plain")]])
