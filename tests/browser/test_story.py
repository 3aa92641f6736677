"""The whole story on real parts: three tabs, a real model server, a real tool server, a stop, a crash."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.page import answers, say, words
from tests.checker import Checker, Stream, StreamClosed, following
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
    async with asyncio.timeout(60):
        while len(upstream.lost_at) == lost:
            await asyncio.sleep(0.005)
    return upstream.lost_at[-1] - float(pressed) / 1000


@asynccontextmanager
async def watched(checker: Checker, *sessions: str) -> AsyncIterator[None]:
    """Follow the sessions beside the tabs, checking every event, until the block or the server ends."""
    async with following(checker, sessions) as streams:
        reading = [asyncio.create_task(_read(stream)) for stream in streams.values()]
        try:
            yield
        finally:
            for task in reading:
                task.cancel()
            ends = await asyncio.gather(*reading, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end


async def _read(stream: Stream) -> None:
    with suppress(OSError, StreamClosed):
        while True:
            await stream.next(timeout_seconds=None)


async def transcript(checker: Checker, session_id: str) -> list[tuple[str, str, str, str]]:
    """The conversation as the server tells it: id, role, status and text of each message."""
    messages = (await checker.state(session_id))["messages"]
    return [(m["id"], m["role"], m["status"], m["content"]) for m in messages]


async def shown(page: Page) -> list[Any]:
    """The conversation as a tab shows it: role, status and text of each message."""
    return await page.get_by_test_id("message").evaluate_all(
        """all => all.map((message) => [message.dataset.role, message.dataset.status,
            message.querySelector('[data-testid=content]')?.innerText ?? ''])"""
    )


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
        async with server, AsyncExitStack() as stack:
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

            # A client that believes nothing reads along, as the same visitor.
            visitor = next(c["value"] for c in await context.cookies() if c["name"] == "chatserver_visitor")
            checker = await stack.enter_async_context(
                Checker(server.base_url, headers={"Cookie": f"chatserver_visitor={visitor}"})
            )
            watching = await stack.enter_async_context(AsyncExitStack())
            await watching.enter_async_context(watched(checker, "story-a", "story-b"))
            alpha, charlie, delta = (checker.canary("story-a") for _ in range(3))
            bravo = checker.canary("story-b")

            # Two sessions, and a third tab on the first one's.
            await say(a, f"{alpha} tell me something")
            await expect(answers(c, "streaming")).to_have_count(1)
            await say(b, f"{bravo} tell me something else")
            await expect(answers(b, "streaming")).to_have_count(1)
            await a.screenshot(path=screenshots / "1-streaming.png")

            # Stop, and the upstream loses its connection.
            delays = [await stop(a, upstream)]
            await expect(answers(a, "interrupted")).to_have_count(1)
            await expect(answers(c, "interrupted")).to_have_count(1)
            await a.screenshot(path=screenshots / "2-stopped.png")
            stopped_text = await answers(a, "interrupted").inner_text()
            assert len(stopped_text) > 20
            while min(delays) > 0.1 and len(delays) < 8:  # a shared machine may stall each time, but not every time
                await say(a, "and again")
                await expect(answers(a, "streaming")).to_have_count(1)
                delays.append(await stop(a, upstream))
                await expect(answers(a, "interrupted")).to_have_count(len(delays))
            assert min(delays) < 0.1, delays
            stops = len(delays)

            # The other session went on meanwhile.
            await expect(answers(b, "completed")).to_have_count(1, timeout=60_000)

            # A real tool server, by command and by /tool.
            answered = await b.evaluate(
                """async () => (await fetch('/api/mcp-command', {method: 'POST',
                    headers: {'Content-Type': 'application/json'},
                    body: JSON.stringify({command: 'call_tool', session_id: 'story-b', args: {server: 'time',
                        name: 'get_current_time', arguments: {timezone: 'Europe/Berlin'}}})})).json()"""
            )
            assert answered["success"], answered
            assert "Europe/Berlin" in answered["data"]["content"]
            await b.locator("select[data-testid=model]").select_option("docs")
            await say(b, '/tool time.get_current_time {"timezone": "Asia/Tokyo"}')
            await expect(answers(b, "completed")).to_have_count(2)
            await expect(b.get_by_test_id("tool")).to_have_count(1)
            assert "Asia/Tokyo" in await words(b)
            await b.screenshot(path=screenshots / "3-tool.png")

            # The server dies in the middle of an answer, and comes back.
            await say(a, f"{charlie} and more")
            await expect(answers(a, "streaming")).to_have_count(1)
            await a.wait_for_function(
                "() => [...document.querySelectorAll('[data-status=streaming]')].at(-1)?.innerText.length > 100"
            )
            # What a crash may cost is what came after the last checkpoint: wait for one that has what is there by now.
            seen = (await transcript(checker, "story-a"))[-1][-1]
            async with asyncio.timeout(60):
                while len(server.checkpointed()) < len(seen):
                    await asyncio.sleep(0.02)
            told = {name: await transcript(checker, name) for name in ("story-a", "story-b")}
            before = {page: await shown(page) for page in (a, b, c)}
            await server.kill9()
            await watching.aclose()
            checker.close()
            await expect(a.get_by_test_id("connection")).not_to_have_attribute("data-state", "connected")
            await a.screenshot(path=screenshots / "4-server-gone.png")
            await server.start()
            await stack.enter_async_context(watched(checker, "story-a", "story-b"))
            for page in (a, b, c):
                await expect(page.get_by_test_id("connection")).to_have_attribute(
                    "data-state", "connected", timeout=30_000
                )
            for page in (a, c):
                await expect(answers(page, "interrupted")).to_have_count(stops + 1)
            # The history is whole: every message of both sessions, at the server and in the tabs. Of the answer that
            # was cut, there is what the last checkpoint had.
            again = {name: await transcript(checker, name) for name in ("story-a", "story-b")}
            assert again["story-b"] == told["story-b"]
            assert again["story-a"][:-1] == told["story-a"][:-1]
            assert again["story-a"][-1][:3] == (told["story-a"][-1][0], "assistant", "interrupted")
            assert again["story-a"][-1][3].startswith(seen)
            assert [alpha in m[3] for m in again["story-a"]].count(True) == 1
            assert await shown(b) == before[b]
            for page in (a, c):
                assert (await shown(page))[:-1] == before[page][:-1]
            assert await shown(a) == await shown(c)
            await a.screenshot(path=screenshots / "5-back.png")

            # And it works on.
            await say(a, delta)
            await expect(answers(a, "streaming")).to_have_count(1)
            await a.get_by_test_id("stop").click()
            await expect(answers(a, "interrupted")).to_have_count(stops + 2)

            # No tab shows another's conversation (the list beside it is of one person, and names all three), and a
            # stranger's browser shows no word of any.
            for page in (a, c):
                assert bravo not in await words(page)
            for word in (alpha, charlie, delta):
                assert word not in await words(b)
            elsewhere = await chromium.new_context()
            stranger = await elsewhere.new_page()
            for session in ("story-a", "story-b"):
                await stranger.goto(f"{server.base_url}/?session={session}")
                await expect(stranger.get_by_test_id("error")).to_be_visible()
                await expect(stranger.get_by_test_id("list-empty")).to_be_visible()
                seen = await stranger.content()
                assert not any(word in seen for word in (alpha, bravo, charlie, delta))
            await checker.verify("story-a", "story-b")
            await elsewhere.close()
            assert complaints == []
            await context.close()
