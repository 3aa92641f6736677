"""One connection for all tabs of a browser, over breaks, restarts and every way a browser can carry it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from playwright.async_api import Browser, BrowserContext, Page, expect

from tests.browser import talker
from tests.browser.page import answers, connected, open_session, say, words
from tests.browser.talker import script
from tests.relay import relay
from tests.server import ServerProcess, free_port

pytestmark = pytest.mark.browser

# What a browser lacks, by the way that it is left with.
WAYS = {
    "worker": "",
    "tabs": "delete window.SharedWorker",
    "own": "delete window.SharedWorker; delete window.BroadcastChannel",
}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    """A server that lets a visitor have one stream."""
    settings = {**talker.SETTINGS, "max_streams_per_principal": 1}
    async with ServerProcess(tmp_path / "data", settings=settings, flags=talker.FLAGS) as server:
        yield server


async def tabs(context: BrowserContext, server: ServerProcess, count: int) -> list[Page]:
    """`count` tabs, each on a session of its own."""
    pages = [await context.new_page() for _ in range(count)]
    for i, page in enumerate(pages):
        await page.goto(f"{server.base_url}/?session=tab-{i}")
    for page in pages:
        await connected(page)
    return pages


@pytest.mark.parametrize("way", ["worker", "tabs"])
async def test_twenty_tabs_work_over_one_connection(chromium: Browser, server: ServerProcess, way: str) -> None:
    """Streams of their own would take all six connections of the browser, and the seventh tab would hang."""
    context = await chromium.new_context()
    await context.add_init_script(WAYS[way])
    pages = await tabs(context, server, 20)
    for i, page in enumerate(pages):
        await say(page, script("word ", every_ms=20, times=40, end=f"canary-{i}-end"))
    for i, page in enumerate(pages):
        await expect(answers(page, "completed")).to_have_count(1, timeout=60_000)
        text = await words(page)
        assert f"canary-{i}-end" in text
        assert all(f"canary-{other}-end" not in text for other in range(20) if other != i)
    await context.close()


@pytest.mark.parametrize("way", list(WAYS))
async def test_two_tabs_of_one_session_show_the_same(chromium: Browser, tmp_path: Path, way: str) -> None:
    """A duplicated tab comes in the middle of an answer, and goes on with it."""
    over = tmp_path / "over"
    async with ServerProcess(tmp_path / "data", settings=talker.SETTINGS, flags=talker.FLAGS) as server:
        context = await chromium.new_context()
        await context.add_init_script(WAYS[way])
        first = await open_session(context, server, "shared")
        await say(first, script("word ", every_ms=30, until=str(over), end="the end"))
        await expect(answers(first, "streaming")).to_have_count(1)
        second = await open_session(context, server, "shared")
        await expect(answers(second, "streaming")).to_have_count(1)
        over.touch()
        for page in (first, second):
            await expect(answers(page, "completed")).to_have_count(1, timeout=30_000)
        assert await answers(first, "completed").inner_text() == await answers(second, "completed").inner_text()
        await say(second, "and back")
        await expect(answers(first, "completed")).to_have_count(2)
        await context.close()


async def test_two_browsers_share_a_session_of_nobody(chromium: Browser, tmp_path: Path) -> None:
    """Another person's browser is told that the session is not theirs, and is not left blank."""
    async with ServerProcess(tmp_path / "data") as server:
        owner = await open_session(await chromium.new_context(), server, "mine")
        await say(owner, "canary-of-the-owner")
        await expect(answers(owner, "completed")).to_have_count(1)
        context = await chromium.new_context()
        stranger = await context.new_page()
        await stranger.goto(f"{server.base_url}/?session=mine")
        await expect(stranger.get_by_test_id("error")).to_be_visible()
        assert "canary-of-the-owner" not in await stranger.content()
        await stranger.get_by_test_id("new-chat").first.click()
        await connected(stranger)


async def test_two_browsers_of_one_person_show_one_session_live(chromium: Browser, tmp_path: Path) -> None:
    """At the desk and on the phone: each sees what the other writes while it is being answered."""
    over, over_again = tmp_path / "over", tmp_path / "over-again"
    async with ServerProcess(tmp_path / "data", settings=talker.SETTINGS, flags=talker.FLAGS) as server:
        desk, phone = [await chromium.new_context() for _ in range(2)]
        for context, path in ((desk, "register"), (phone, "login")):
            answer = await context.request.post(
                f"{server.base_url}/api/auth/{path}",
                data={"username": "grace", "password": "a long enough passphrase"},
                headers={"Origin": server.base_url},
            )
            assert answer.ok, await answer.text()
        here = await open_session(desk, server, "both")
        await say(here, script("word ", every_ms=30, until=str(over), end="from the desk"))
        await expect(answers(here, "streaming")).to_have_count(1)
        there = await open_session(phone, server, "both")
        await expect(answers(there, "streaming")).to_have_count(1)
        over.touch()
        for page in (here, there):
            await expect(answers(page, "completed")).to_have_count(1, timeout=30_000)
        await say(there, script("word ", every_ms=30, until=str(over_again), end="from the phone"))
        await expect(answers(here, "streaming")).to_have_count(1)
        over_again.touch()
        for page in (here, there):
            await expect(answers(page, "completed")).to_have_count(2, timeout=30_000)
            assert "from the phone" in await words(page)
        assert await words(here) == await words(there)
        await desk.close()
        await phone.close()


# Two seconds longer than the page waits for a word of the server (SILENCE_MS).
SLEEP_SECONDS = 37


async def test_a_machine_that_slept_shows_what_was_said_meanwhile(chromium: Browser, tmp_path: Path) -> None:
    """Its processes stand still, its connection is gone when they wake, and nobody has told them."""
    async with (
        ServerProcess(tmp_path / "data") as server,
        relay("127.0.0.1", urlsplit(server.base_url).port or 0) as between,
    ):
        context = await chromium.new_context()
        page = await context.new_page()
        await page.goto(f"{between.url}/?session=sleeper")
        await connected(page)
        await say(page, "before")
        await expect(answers(page, "completed")).to_have_count(1)
        cookies = {cookie["name"]: cookie["value"] for cookie in await context.cookies()}
        devtools = await chromium.new_browser_cdp_session()
        found = await devtools.send("SystemInfo.getProcessInfo")
        asleep = [process["id"] for process in found["processInfo"] if process["type"] in ("renderer", "utility")]
        assert len(asleep) >= 2
        for pid in asleep:
            os.kill(pid, signal.SIGSTOP)
        try:
            between.cut()
            headers = {"Origin": server.base_url}
            async with aiohttp.ClientSession(server.base_url, cookies=cookies, headers=headers) as http:
                body = {"message": "said while it slept", "session_id": "sleeper"}
                async with http.post("/api/chat", json=body) as response:
                    assert response.status == 200, await response.text()
            await asyncio.sleep(SLEEP_SECONDS)
        finally:
            for pid in asleep:
                os.kill(pid, signal.SIGCONT)
        await expect(answers(page, "completed")).to_have_count(2, timeout=60_000)
        await connected(page)
        assert "said while it slept" in await words(page)
        await say(page, "after")
        await expect(answers(page, "completed")).to_have_count(3, timeout=30_000)
        await context.close()


async def test_the_tab_that_leads_can_be_closed(chromium: Browser, server: ServerProcess, tmp_path: Path) -> None:
    """Without a shared worker one tab has the connection; when it goes, another takes over, and nothing is missed."""
    context = await chromium.new_context()
    await context.add_init_script(WAYS["tabs"])
    leader, other = await tabs(context, server, 2)
    over = tmp_path / "over"
    await say(other, script("word ", every_ms=30, until=str(over), end="the end"))
    await expect(answers(other, "streaming")).to_have_count(1)
    await leader.close()
    over.touch()
    await expect(answers(other, "completed").get_by_test_id("content")).to_contain_text("the end", timeout=60_000)
    await connected(other)
    await context.close()


@pytest.mark.parametrize("way", ["worker", "own"])
async def test_a_dropped_connection_loses_nothing(chromium: Browser, tmp_path: Path, way: str) -> None:
    """The answer goes on at the server meanwhile, and the page resumes after the last event it has seen."""
    over = tmp_path / "over"
    async with (
        ServerProcess(tmp_path / "data", settings=talker.SETTINGS, flags=talker.FLAGS) as server,
        relay("127.0.0.1", urlsplit(server.base_url).port or 0) as between,
    ):
        context = await chromium.new_context()
        await context.add_init_script(WAYS[way])
        page = await context.new_page()
        await page.goto(f"{between.url}/?session=cut")
        await connected(page)
        await say(page, script("word ", every_ms=40, until=str(over), end="the end"))
        for _ in range(2):
            await expect(answers(page, "streaming")).to_have_count(1)
            with between.broken():
                await expect(page.get_by_test_id("connection")).not_to_have_attribute("data-state", "connected")
            await connected(page)
        over.touch()
        await expect(answers(page, "completed")).to_have_count(1, timeout=30_000)
        told = await page.evaluate("async () => (await fetch('/api/state?session_id=cut')).json()")
        text = await answers(page, "completed").get_by_test_id("content").inner_text()
        assert text.split() == told["messages"][-1]["content"].split()
        await context.close()


@pytest.mark.parametrize("way", list(WAYS))
async def test_a_tab_that_comes_back_from_the_browsers_cache_goes_on(
    caching_chromium: Browser, tmp_path: Path, way: str
) -> None:
    """As it stood, with what was said meanwhile; no event comes twice, and what is said from there on comes too.

    Chromium keeps no page whose answers say `no-store`, others do: something between says something milder here.
    """
    async with (
        ServerProcess(tmp_path / "data") as server,
        relay("127.0.0.1", urlsplit(server.base_url).port or 0) as between,
    ):
        between.instead = (b"no-store", b"no-cache")
        context = await caching_chromium.new_context()
        await context.add_init_script(WAYS[way])
        page = await context.new_page()
        await page.goto(f"{between.url}/?session=cached")
        await connected(page)
        await say(page, "before")
        await expect(answers(page, "completed")).to_have_count(1)
        said = ["before"]
        kept = False
        while not kept:  # a browser that is short of time or memory may let one go
            assert len(said) < 6, "the browser never kept the page"
            await page.evaluate("() => addEventListener('pageshow', (event) => { window.kept = event.persisted; })")
            await page.goto(f"{between.url}/docs")
            said.append(f"meanwhile {len(said)}")
            answer = await context.request.post(
                f"{server.base_url}/api/chat",
                data={"message": said[-1], "session_id": "cached"},
                headers={"Origin": server.base_url},
            )
            assert answer.ok, await answer.text()
            await page.go_back(wait_until="commit")
            await connected(page)
            kept = await page.evaluate("() => window.kept === true")
        await expect(answers(page, "completed")).to_have_count(len(said), timeout=30_000)
        said.append("after")
        await say(page, said[-1])
        await expect(answers(page, "completed")).to_have_count(len(said), timeout=30_000)
        asked = await page.locator("[data-testid=message][data-role=user] [data-testid=content]").all_text_contents()
        assert asked == said
        await context.close()


# What has happened at the connection and what was complained of, from here on.
NOTICE = """() => {
    window.noticed = new Set();
    const look = () => {
        const {state} = document.querySelector('[data-testid=connection]').dataset;
        if (state !== 'connected') noticed.add(state);
        for (const error of document.querySelectorAll('[data-testid=error]')) noticed.add(error.textContent);
    };
    new MutationObserver(look).observe(document.body,
        {subtree: true, childList: true, attributes: true, characterData: true});
}"""


async def count(http: aiohttp.ClientSession, name: str) -> int:
    """One of the server's counters."""
    async with http.get("/metrics") as response:
        lines = (await response.text()).splitlines()
    return int(sum(float(line.split()[-1]) for line in lines if line.startswith(f"chatserver_{name}_total")))


async def test_a_tab_that_falls_far_behind_goes_on_with_the_newest_state(chromium: Browser, tmp_path: Path) -> None:
    """Over a network that stands still it gets a snapshot for what it missed: nothing is lost or doubled.

    All on one connection, without a complaint; the answer that is being written goes on before one's eyes.
    """
    settings = {
        "scripted": None,
        "default_model": None,
        "no_docs": None,
        "subscriber_backlog_bytes": 16 << 10,
        "stall_timeout_seconds": 600,
    }
    flags = ("--agent", "tests.browser.talker:reply")
    async with (
        ServerProcess(tmp_path / "data", settings=settings, flags=flags) as server,
        relay("127.0.0.1", urlsplit(server.base_url).port or 0, room_bytes=16 << 10) as between,
    ):
        context = await chromium.new_context()
        page = await context.new_page()
        await page.goto(f"{between.url}/?session=behind")
        await connected(page)
        await say(page, "before")
        await expect(answers(page, "completed")).to_have_count(1)
        await say(page, script("word ", every_ms=20, times=20_000))
        await expect(answers(page, "streaming")).to_have_count(1)
        await page.evaluate(NOTICE)
        cookies = {cookie["name"]: cookie["value"] for cookie in await context.cookies()}
        headers = {"Origin": server.base_url}
        async with aiohttp.ClientSession(server.base_url, cookies=cookies, headers=headers) as http:
            between.hold()
            after = notes = 0
            while after < 10:  # some more of them than the connection has room for
                assert notes < 190, "the server never found the tab to be behind"
                body = {"message": f"note {notes} ".ljust(10_000, "."), "session_id": "behind"}
                async with http.post("/api/system", json=body) as response:
                    assert response.status == 200, await response.text()
                notes += 1
                after += await count(http, "streams_fell_behind") > 0
            assert await page.get_by_text(f"note {notes - 1} ").count() == 0
            between.go_on()
            while not await count(http, "streams_resynced"):
                await asyncio.sleep(0.05)
        await expect(page.get_by_text(f"note {notes - 1} ")).to_have_count(1, timeout=60_000)
        growing = answers(page, "streaming").get_by_test_id("content")
        seen = len(await growing.text_content() or "")  # out of sight there is no inner text
        await expect(growing).to_contain_text(re.compile(rf"^.{{{seen + 1},}}$", re.DOTALL), timeout=60_000)
        await page.get_by_test_id("stop").click()
        await expect(answers(page, "interrupted")).to_have_count(1, timeout=30_000)
        told = await page.evaluate("async () => (await fetch('/api/state?session_id=behind')).json()")
        shown = await page.get_by_test_id("message").get_by_test_id("content").all_text_contents()
        assert [text.split() for text in shown] == [message["content"].split() for message in told["messages"]]
        assert sum(message["role"] == "system" for message in told["messages"]) == notes
        assert await page.evaluate("() => [...noticed]") == []
        await say(page, "after")
        await expect(answers(page, "completed")).to_have_count(2, timeout=30_000)
        await context.close()


async def test_a_restarted_server_is_found_again_by_every_tab(chromium: Browser, tmp_path: Path) -> None:
    """With a countdown while it is away, and at once where somebody asks."""
    server = ServerProcess(tmp_path / "data", flags=("--port", str(free_port())))
    async with server:
        context = await chromium.new_context()
        pages = await tabs(context, server, 3)
        await say(pages[0], "before")
        await expect(answers(pages[0], "completed")).to_have_count(1)
        await server.kill9()
        for page in pages:
            await expect(page.get_by_test_id("connection")).not_to_have_attribute("data-state", "connected")
        await expect(pages[0].get_by_test_id("connection")).to_contain_text("Reconnecting in", timeout=20_000)
        await server.start()
        await pages[0].get_by_test_id("retry").click()
        for page in pages:
            await connected(page)
        await say(pages[0], "after")
        await expect(answers(pages[0], "completed")).to_have_count(2)
        await context.close()


async def test_the_page_works_on_plain_http_under_another_name(named_chromium: Browser, tmp_path: Path) -> None:
    """There is no crypto.randomUUID, no locks and no clipboard then."""
    async with ServerProcess(tmp_path / "data", settings={"allowed_hosts": '["chat.example"]'}) as server:
        context = await named_chromium.new_context()
        page = await context.new_page()
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.goto(f"http://chat.example:{urlsplit(server.base_url).port}/")
        assert await page.evaluate("() => isSecureContext") is False
        await connected(page)
        await say(page, "hello from afar")
        await expect(answers(page, "completed")).to_have_count(1)
        # The button says so for a moment only, in which the machine may stall.
        await page.evaluate(
            """() => new MutationObserver(() => { window.copied ||= document.body.innerText.includes('Copied'); })
                .observe(document.body, {subtree: true, childList: true, characterData: true})"""
        )
        await page.get_by_test_id("copy").last.click()
        await page.wait_for_function("window.copied")
        assert complaints == []
        await context.close()


async def test_the_first_load_is_small(chromium: Browser, tmp_path: Path) -> None:
    """80 kB on the wire, everything that an empty session needs included; and no other origin is asked."""
    async with (
        ServerProcess(tmp_path / "data") as server,
        relay("127.0.0.1", urlsplit(server.base_url).port or 0) as between,
    ):
        context = await chromium.new_context()
        page = await context.new_page()
        asked: list[str] = []
        context.on("request", lambda request: asked.append(request.url))
        await page.goto(between.url)
        await connected(page)
        await asyncio.sleep(0)
        sizes = await page.evaluate(
            """async () => {
                const all = performance.getEntriesByType('resource').filter((e) => e.name.includes('/assets/'));
                return Object.fromEntries(all.map((e) => [e.name, e.encodedBodySize]));
            }"""
        )
        assert sum(sizes.values()) < 80_000, sizes
        assert len(sizes) >= 2
        assert all(url.startswith(between.url) for url in asked), asked
        await context.close()
