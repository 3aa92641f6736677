"""Runs tests/store/child.py; never leaves it behind."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.store.child import ROOT

SECONDS = 60.0


@asynccontextmanager
async def child(what: str, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """The child process, with its stdin and stdout as pipes; killed at the end where it still runs."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.store.child", what, str(folder), stdin=pipe, stdout=pipe, cwd=ROOT
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        # Reads what is left, closes the pipes and waits.
        await process.communicate()


async def line(process: asyncio.subprocess.Process) -> str:
    """The next line it tells; empty at its end."""
    assert process.stdout is not None
    async with asyncio.timeout(SECONDS):
        return (await process.stdout.readline()).decode().strip()


async def said(what: str, folder: Path) -> str:
    """Everything it tells until it ends by itself."""
    async with child(what, folder) as process, asyncio.timeout(SECONDS):
        out, _ = await process.communicate()
        assert process.returncode == 0
        return out.decode().strip()
