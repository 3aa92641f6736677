"""The examples in JavaScript, as they stand in the docs.

`/chat-manager.js` in somebody else's page, on another origin, and a client of the stream without it.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from playwright.async_api import Browser, expect

from tests.server import ROOT, ServerProcess

pytestmark = pytest.mark.browser


EMBEDDING = ("page.md", "## How do I embed the chat in my own page, with ChatManager?")
STREAMING = ("stream.md", "## How do I write a client in JavaScript?")


def _example(language: str, where: tuple[str, str] = EMBEDDING) -> str:
    """The code under a question."""
    file, question = where
    section = (ROOT / "docs" / file).read_text().split(question)[1]
    found = re.search(rf"^```{language}\n(.*?)^```", section, re.M | re.S)
    assert found is not None
    return found[1]


@asynccontextmanager
async def _page_elsewhere() -> AsyncIterator[tuple[str, dict[str, str]]]:
    """A web server for the example: its origin, and where the chat server's address is put in before it is asked."""
    backend = {"url": ""}

    async def html(_: web.Request) -> web.Response:
        return web.Response(text=_example("html"), content_type="text/html")

    async def script(_: web.Request) -> web.Response:
        code = _example("js")
        for here, there in (
            ('"/chat-manager.js"', f'"{backend["url"]}/chat-manager.js"'),
            ('backendUrl: ""', f'backendUrl: "{backend["url"]}"'),
        ):
            assert here in code
            code = code.replace(here, there)
        return web.Response(text=code, content_type="text/javascript")

    app = web.Application()
    app.router.add_get("/", html)
    app.router.add_get("/chat.js", script)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}", backend
    finally:
        await runner.cleanup()


async def test_another_page_talks_through_the_module(chromium: Browser, tmp_path: Path) -> None:
    """It sends, shows the answer as it grows, and stops one; a page of an origin that is not listed gets nothing."""
    async with _page_elsewhere() as (origin, backend), _page_elsewhere() as (stranger, no_backend):
        settings = {"cors_origins": json.dumps([origin])}
        async with ServerProcess(tmp_path / "data", settings=settings) as server:
            backend["url"] = no_backend["url"] = server.base_url
            context = await chromium.new_context()
            page = await context.new_page()
            complaints: list[str] = []
            sessions: set[str] = set()
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("request", lambda r: sessions.add(json.loads(r.post_data)["session_id"]) if r.post_data else None)
            await page.goto(origin)
            await page.locator("#text").fill("/say the words of the answer")
            await page.get_by_role("button", name="Send").click()
            await expect(page.locator("#messages li")).to_have_text(
                ["user: /say the words of the answer", "assistant: the words of the answer"]
            )
            await page.locator("#text").fill("/tokens 5000 every 20")
            await page.get_by_role("button", name="Send").click()
            await expect(page.locator("#messages li").last).to_contain_text(re.compile(r"assistant: (\S+\s+){5}"))
            await page.get_by_role("button", name="Stop").click()
            [session_id] = sessions
            async with aiohttp.ClientSession(server.base_url) as http:
                while True:
                    async with http.get("/api/state", params={"session_id": session_id}) as response:
                        state = await response.json()
                    if not state["is_processing"]:
                        break
            assert [m["status"] for m in state["messages"]] == ["completed"] * 3 + ["interrupted"]
            assert complaints == []

            other = await context.new_page()
            await other.goto(stranger)
            await other.locator("#text").fill("let me in")
            await other.get_by_role("button", name="Send").click()
            await expect(other).to_have_url(re.compile(r"\?"))  # the plain form: no script has taken it over
            await expect(other.locator("#messages li")).to_have_count(0)
            await context.close()


async def test_the_client_in_javascript_reads_a_whole_answer(chromium: Browser, tmp_path: Path) -> None:
    """It closes its stream when the turn has ended, and holds every word by then."""
    closed = "while (source.readyState !== EventSource.CLOSED) await new Promise((done) => setTimeout(done, 20));"
    async with ServerProcess(tmp_path / "data") as server:
        context = await chromium.new_context()
        page = await context.new_page()
        await page.goto(server.base_url)

        answer = await page.evaluate(f"async () => {{ {_example('js', STREAMING)} {closed} return answer; }}")

        assert answer == "What is a turn?"  # the scripted model says it back
        await context.close()
