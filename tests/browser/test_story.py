"""The whole story on real parts: three tabs, a real model server, a real tool server, a stop, a crash."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.page import answers, say, words
from tests.llama import LlamaServer, llama
from tests.relay import Relay, relay
from tests.server import ServerProcess, free_port

__all__ = ["llama"]  # the fixture

pytestmark = pytest.mark.browser

CONFIG = """
default_model = "tiny"

[[models]]
id = "tiny"
base_url = "{base_url}"
model = "tiny"
context_tokens = 2048
max_output_tokens = 1500
tools = false

[[mcp_servers]]
name = "time"
command = ["mcp-server-time"]
"""


async def stop(page: Page, upstream: Relay) -> float:
    """Press stop; the seconds from the press, by the browser's clock, until the upstream lost its connection."""
    lost = len(upstream.lost_at)
    pressed = await page.evaluate(
        "() => { const now = Date.now(); document.querySelector('[data-testid=stop]').click(); return now; }"
    )
    async with asyncio.timeout(10):
        while len(upstream.lost_at) == lost:
            await asyncio.sleep(0.005)
    return upstream.lost_at[-1] - float(pressed) / 1000


@pytest.mark.llama
async def test_the_whole_story(chromium: Browser, llama: LlamaServer, tmp_path: Path, screenshots: Path) -> None:
    """Issue 2, done when 2: every word of it."""
    port = free_port()
    config = tmp_path / "chatserver.toml"
    async with relay("127.0.0.1", urlsplit(llama.url).port or 0, pace_bytes=600, pace_seconds=0.02) as upstream:
        config.write_text(CONFIG.format(base_url=f"{upstream.url}/v1"))
        server = ServerProcess(
            tmp_path / "data",
            settings={"scripted": None, "default_model": None, "no_docs": None},
            flags=("--port", str(port), "--config", str(config)),
        )
        async with server:
            context = await chromium.new_context(viewport={"width": 1000, "height": 800})
            complaints: list[str] = []
            a, b = await context.new_page(), await context.new_page()
            for page in (a, b):
                page.on("pageerror", lambda error: complaints.append(str(error)))
            await a.goto(f"{server.base_url}/?session=story-a")
            await b.goto(f"{server.base_url}/?session=story-b")
            c = await context.new_page()
            await c.goto(f"{server.base_url}/?session=story-a")
            for page in (a, b, c):
                await expect(page.get_by_test_id("connection")).to_have_attribute("data-state", "connected")

            # Two sessions, and a third tab on the first one's.
            await say(a, "canaryalpha tell me something")
            await expect(answers(c, "streaming")).to_have_count(1)
            await say(b, "canarybravo tell me something else")
            await expect(answers(b, "streaming")).to_have_count(1)
            await a.screenshot(path=screenshots / "1-streaming.png")

            # Stop, and the upstream loses its connection.
            delays = [await stop(a, upstream)]
            await expect(answers(a, "interrupted")).to_have_count(1)
            await expect(answers(c, "interrupted")).to_have_count(1)
            await a.screenshot(path=screenshots / "2-stopped.png")
            stopped_text = await answers(a, "interrupted").inner_text()
            assert len(stopped_text) > 20
            while min(delays) > 0.1 and len(delays) < 3:  # a shared machine may stall once, not three times
                await say(a, "and again")
                await expect(answers(a, "streaming")).to_have_count(1)
                delays.append(await stop(a, upstream))
                await expect(answers(a, "interrupted")).to_have_count(len(delays))
            assert min(delays) < 0.1, delays
            stops = len(delays)

            # The other session went on meanwhile.
            await expect(answers(b, "completed")).to_have_count(1, timeout=60_000)

            # A real tool server, by command and by /tool.
            told = await b.evaluate(
                """async () => (await fetch('/api/mcp-command', {method: 'POST',
                    headers: {'Content-Type': 'application/json'},
                    body: JSON.stringify({command: 'call_tool', session_id: 'story-b', args: {server: 'time',
                        name: 'get_current_time', arguments: {timezone: 'Europe/Berlin'}}})})).json()"""
            )
            assert told["success"], told
            assert "Europe/Berlin" in told["data"]["content"]
            await b.locator("select[data-testid=model]").select_option("docs")
            await say(b, '/tool time.get_current_time {"timezone": "Asia/Tokyo"}')
            await expect(answers(b, "completed")).to_have_count(2)
            await expect(b.get_by_test_id("tool")).to_have_count(1)
            assert "Asia/Tokyo" in await words(b)
            await b.screenshot(path=screenshots / "3-tool.png")

            # The server dies in the middle of an answer, and comes back.
            await say(a, "canarycharlie and more")
            await expect(answers(a, "streaming")).to_have_count(1)
            await a.wait_for_function(
                "() => [...document.querySelectorAll('[data-status=streaming]')].at(-1)?.innerText.length > 100"
            )
            # What a crash may cost is half a second of text: wait until a checkpoint must have been made.
            seen = await answers(a, "streaming").inner_text()
            await a.wait_for_timeout(700)
            await server.kill9()
            await expect(a.get_by_test_id("connection")).not_to_have_attribute("data-state", "connected")
            await a.screenshot(path=screenshots / "4-server-gone.png")
            await server.start()
            for page in (a, b, c):
                await expect(page.get_by_test_id("connection")).to_have_attribute(
                    "data-state", "connected", timeout=30_000
                )
            for page in (a, c):
                await expect(answers(page, "interrupted")).to_have_count(stops + 1)
                text = await words(page)
                assert "canaryalpha" in text
                assert "canarycharlie" in text
            cut = await answers(a, "interrupted").last.inner_text()
            assert seen.split("\n")[0][:60] in cut
            await a.screenshot(path=screenshots / "5-back.png")

            # And it works on.
            await say(a, "canarydelta")
            await expect(answers(a, "streaming")).to_have_count(1)
            await a.get_by_test_id("stop").click()
            await expect(answers(a, "interrupted")).to_have_count(stops + 2)

            # No tab shows another's conversation (the list beside it is of one person, and names all three), and a
            # stranger's browser shows no word of any.
            for page in (a, c):
                assert "canarybravo" not in await words(page)
            for word in ("canaryalpha", "canarycharlie", "canarydelta"):
                assert word not in await words(b)
            elsewhere = await chromium.new_context()
            stranger = await elsewhere.new_page()
            for session in ("story-a", "story-b"):
                await stranger.goto(f"{server.base_url}/?session={session}")
                await expect(stranger.get_by_test_id("error")).to_be_visible()
                await expect(stranger.get_by_test_id("list-empty")).to_be_visible()
                assert "canary" not in await stranger.content()
            await elsewhere.close()
            assert complaints == []
            await context.close()
