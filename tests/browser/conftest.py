"""Debian's Chromium, driven for real."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Browser, async_playwright, expect

from tests.server import ServerProcess

CONFIG = """
[[mcp_servers]]
name = "time"
command = ["mcp-server-time"]
approval = "always"
"""

# Five seconds by default, which a machine that stalls does not always keep.
expect.set_options(timeout=20_000)

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@asynccontextmanager
async def launch(*arguments: str, without: Sequence[str] = ()) -> AsyncIterator[Browser]:
    """A headless Chromium with an empty profile and further arguments, `without` some of Playwright's own."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no Chromium; on Debian: apt-get install chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=path, args=[*ARGUMENTS, *arguments], ignore_default_args=list(without)
        )
        yield browser
        await browser.close()


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    """A headless Chromium with an empty profile."""
    async with launch() as browser:
        yield browser


@pytest.fixture
async def caching_chromium() -> AsyncIterator[Browser]:
    """One that keeps pages which were left for whoever goes back; drivers of browsers turn that off."""
    async with launch(without=["--disable-back-forward-cache"]) as browser:
        yield browser


@pytest.fixture
async def named_chromium() -> AsyncIterator[Browser]:
    """One that finds `chat.example` on this machine: plain http under any name but localhost is no secure context."""
    async with launch("--host-resolver-rules=MAP chat.example 127.0.0.1") as browser:
        yield browser


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    """A server with the talker as its model, and a real tool server that asks first; modules may have another."""
    config = tmp_path / "chatserver.toml"
    config.write_text(CONFIG)
    settings = {"scripted": None, "default_model": None, "no_docs": None}
    flags = ("--config", str(config), "--agent", "tests.browser.talker:reply")
    async with ServerProcess(tmp_path / "data", settings=settings, flags=flags) as server:
        yield server


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    """Where pictures go: CHATSERVER_SCREENSHOTS, so that somebody can look at them, or the test's own folder."""
    folder = Path(os.environ.get("CHATSERVER_SCREENSHOTS") or tmp_path / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
