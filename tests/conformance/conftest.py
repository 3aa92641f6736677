"""The implementations of the store that the suites run on: each joins by a factory in `STORES`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from chatserver.config import Settings
from chatserver.store.base import Store
from chatserver.store.sql import open_store
from tests.core.plain_store import PlainStore

OpenStore = Callable[[Path], Awaitable[Store]]


async def _sqlite_file(folder: Path) -> Store:
    return await open_store(Settings(data_dir=folder / "data"))


async def _sqlite_memory(folder: Path) -> Store:
    return await open_store(Settings(data_dir=folder / "data", database_url=":memory:"))


async def _plain(_folder: Path) -> Store:
    return PlainStore()


STORES: dict[str, OpenStore] = {"sqlite-file": _sqlite_file, "sqlite-memory": _sqlite_memory, "plain": _plain}


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    opened = await STORES[request.param](tmp_path)
    yield opened
    await opened.close()
