"""The page when something goes wrong: nothing that was written is lost, nothing is blank, and the reason is told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Page, Route, expect
from playwright.async_api import Error as PlaywrightError

from tests.browser.page import answers, connected, open_session, say, words
from tests.browser.talker import script
from tests.relay import relay
from tests.server import ServerProcess

pytestmark = pytest.mark.browser

CONFIG = """
[[mcp_servers]]
name = "time"
command = ["mcp-server-time"]
approval = "always"
"""
ENDLESS = script("word ", every_ms=20, times=5000)
CALL = script("", tool=["time", "get_current_time", {"timezone": "Asia/Tokyo"}])


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    """A server with the talker as its model, and a real tool server that asks first."""
    config = tmp_path / "chatserver.toml"
    config.write_text(CONFIG)
    settings = {"scripted": None, "default_model": None, "no_docs": None}
    flags = ("--config", str(config), "--agent", "tests.browser.talker:reply")
    async with ServerProcess(tmp_path / "data", settings=settings, flags=flags) as server:
        yield server


def problem(status: int, code: str, **headers: str) -> dict[str, object]:
    """What a route is fulfilled with, as the server would answer."""
    body = f'{{"status": {status}, "code": "{code}", "title": "The reason of it", "detail": "it is so"}}'
    return {"status": status, "body": body, "headers": {"Content-Type": "application/problem+json", **headers}}


async def test_a_message_that_could_not_be_sent_waits_where_it_was_written(
    chromium: Browser, server: ServerProcess
) -> None:
    """Over other sessions and a reload, until it is sent again; then it is there once."""
    context = await chromium.new_context()
    page = await open_session(context, server, "first")
    await context.route("**/api/chat", lambda route: route.abort())
    await say(page, "canary that is not to be lost")
    pending = page.get_by_test_id("pending")
    await expect(pending).to_have_attribute("data-status", "failed", timeout=20_000)
    await page.get_by_test_id("new-chat").first.click()
    await expect(page.get_by_test_id("session-id")).not_to_have_text("first")
    await expect(pending).to_have_count(0)
    await page.go_back()
    await expect(pending).to_contain_text("canary that is not to be lost")
    await page.reload()
    await connected(page)
    await expect(pending).to_contain_text("canary that is not to be lost")
    await context.unroute("**/api/chat")
    await page.get_by_test_id("resend").click()
    await expect(answers(page, "completed")).to_have_count(1)
    await page.reload()
    await connected(page)
    await expect(answers(page, "completed")).to_have_count(1)
    await expect(page.locator("[data-testid=message][data-role=user]")).to_have_count(1)
    await expect(pending).to_have_count(0)
    await context.close()


async def test_esc_closes_what_is_open_before_it_stops_an_answer(chromium: Browser, server: ServerProcess) -> None:
    """The account's panel and the way to log in are nearer than the answer behind them."""
    context = await chromium.new_context()
    page = await open_session(context, server, "esc")
    await say(page, ENDLESS)
    await expect(answers(page, "streaming")).to_have_count(1)
    for button, opened in (("account", "account-panel"), ("login-open", "login")):
        await page.get_by_test_id(button).click()
        await expect(page.get_by_test_id(opened)).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(page.get_by_test_id(opened)).not_to_be_visible()
    await expect(answers(page, "streaming")).to_have_count(1)
    await page.keyboard.press("Escape")
    await expect(answers(page, "interrupted")).to_have_count(1)
    await context.close()


async def test_a_session_that_cannot_be_opened_for_now_says_why(chromium: Browser, server: ServerProcess) -> None:
    """A refusal with an end is told with its time, and the session is there when that has passed."""
    context = await chromium.new_context()
    await context.add_init_script("delete window.SharedWorker; delete window.BroadcastChannel")
    page = await context.new_page()
    refused = problem(429, "too_many_streams", **{"Retry-After": "600"})

    async def refuse(route: Route) -> None:
        await route.fulfill(**refused)  # type: ignore[arg-type] # a dict of what fulfill takes

    await page.route("**/api/stream?*", refuse)
    await page.route("**/api/state?*", refuse)
    await page.goto(f"{server.base_url}/?session=later")
    await expect(page.get_by_test_id("error").first).to_contain_text("Too many connections")
    await expect(page.get_by_test_id("error").first).to_contain_text("It ends at")
    await page.unroute("**/api/stream?*")
    await page.unroute("**/api/state?*")
    await page.get_by_test_id("error").get_by_role("button", name="Retry now").first.click()
    await connected(page)
    await expect(page.get_by_test_id("error")).to_have_count(0)
    await context.close()


async def test_answers_are_plain_text_where_what_shows_them_cannot_be_loaded(
    chromium: Browser, server: ServerProcess
) -> None:
    """An old tab asks for files that a newer version has no more: its words stay, and it offers to load anew."""
    context = await chromium.new_context()
    page = await open_session(context, server, "old")
    await say(page, "**bold** words")
    await expect(answers(page, "completed")).to_have_count(1)
    await page.route("**/assets/Markdown-*.js", lambda route: route.fulfill(status=404))
    await page.reload()
    await expect(answers(page, "completed").get_by_test_id("content")).to_contain_text("**bold** words")
    await expect(page.get_by_test_id("error")).to_contain_text("could not be loaded")
    await page.unroute("**/assets/Markdown-*.js")
    await page.get_by_test_id("error").get_by_role("button", name="Reload").click()
    await expect(answers(page, "completed").locator("strong")).to_have_text("bold")
    await expect(page.get_by_test_id("error")).to_have_count(0)
    await context.close()


async def test_who_one_is_and_the_models_are_asked_for_until_there_is_an_answer(
    chromium: Browser, tmp_path: Path
) -> None:
    """One failure at the start is not for ever: the way to log in and the picker come."""
    async with ServerProcess(tmp_path / "data", settings={"no_docs": None}) as server:
        context = await chromium.new_context()
        page = await context.new_page()
        failed: set[str] = set()

        async def once(route: Route) -> None:
            if route.request.url in failed:
                return await route.continue_()
            failed.add(route.request.url)
            await route.fulfill(**problem(503, "draining"))  # type: ignore[arg-type] # as above

        for path in ("auth/me", "models"):
            await page.route(f"**/api/{path}", once)
        await page.goto(server.base_url)
        await expect(page.get_by_test_id("login-open")).to_be_visible(timeout=20_000)
        await expect(page.get_by_test_id("model").locator("option")).to_have_count(2, timeout=20_000)
        assert len(failed) == 2
        await context.close()


async def kill_worker(browser: Browser) -> None:
    """End the shared worker, as a browser does that is short of memory; no page is told."""
    session = await browser.new_browser_cdp_session()
    found = await session.send("Target.getTargets", {"filter": [{"type": "shared_worker"}]})
    (worker,) = found["targetInfos"]
    attached = await session.send("Target.attachToTarget", {"targetId": worker["targetId"]})
    message = json.dumps({"id": 1, "method": "Runtime.evaluate", "params": {"expression": "self.close()"}})
    with suppress(PlaywrightError):  # it may be gone before it could answer
        await session.send("Target.sendMessageToTarget", {"message": message, "sessionId": attached["sessionId"]})
    await session.detach()


async def test_tabs_notice_that_the_shared_worker_has_died(chromium: Browser, server: ServerProcess) -> None:
    """Nothing tells them; they miss its answers, start another and go on where they stood."""
    context = await chromium.new_context()
    page = await open_session(context, server, "worker")
    await say(page, "before")
    await expect(answers(page, "completed")).to_have_count(1)
    await kill_worker(chromium)
    await say(page, "after")
    await expect(answers(page, "completed")).to_have_count(2, timeout=90_000)
    await connected(page)
    await context.close()


def skewed(minutes: int) -> str:
    """A clock that is so many minutes ahead."""
    return f"""{{
        const True = Date, off = {minutes} * 60_000;
        window.Date = class extends True {{
            constructor(...args) {{ args.length === 0 ? super(True.now() + off) : super(...args); }}
            static now() {{ return True.now() + off; }}
        }};
    }}"""


@pytest.mark.parametrize("minutes", [-60, 60])
async def test_a_wrong_clock_breaks_nothing_and_is_reckoned_with(
    chromium: Browser, server: ServerProcess, minutes: int
) -> None:
    """An approval's end is told as that clock will show it; a break is mended as by any other clock."""
    async with relay("127.0.0.1", urlsplit(server.base_url).port or 0) as between:
        context = await chromium.new_context()
        await context.add_init_script(skewed(minutes))
        page = await context.new_page()
        await page.goto(f"{between.url}/?session=skewed")
        await connected(page)
        await say(page, CALL)
        await expect(page.get_by_test_id("approve")).to_be_visible(timeout=20_000)
        shown = await page.evaluate(
            """async (off) => {
                const state = await (await fetch('/api/state?session_id=skewed')).json();
                const end = Date.parse(state.pending_approvals[0].expires_at) + off;
                // Answers are dated in whole seconds: the one before and the one after are as good.
                return [-1500, 0, 1500].map((by) => new Intl.DateTimeFormat(document.documentElement.lang,
                    { hour: '2-digit', minute: '2-digit' }).format(end + by));
            }""",
            minutes * 60_000,
        )
        told = await page.get_by_test_id("tool").inner_text()
        assert any(time.replace("\u202f", " ") in told.replace("\u202f", " ") for time in shown), (shown, told)
        with between.broken():
            await expect(page.get_by_test_id("connection")).not_to_have_attribute("data-state", "connected")
        await connected(page)
        await page.get_by_test_id("approve").click()
        await expect(answers(page, "completed")).to_have_count(1, timeout=20_000)
        await say(page, "hello")
        await expect(answers(page, "completed")).to_have_count(2, timeout=20_000)
        await context.close()


async def no_storage(page: Page) -> None:
    """As where the browser blocks site data."""
    await page.add_init_script(
        """for (const name of ['sessionStorage', 'localStorage'])
            Object.defineProperty(window, name, { get() { throw new DOMException('blocked', 'SecurityError'); } });"""
    )


async def test_the_page_works_where_the_browser_keeps_nothing(chromium: Browser, server: ServerProcess) -> None:
    """Always approves this call and the next as long as the page lives; the session is in the address."""
    context = await chromium.new_context()
    page = await context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await no_storage(page)
    await page.goto(f"{server.base_url}/?session=bare")
    await connected(page)
    await say(page, CALL)
    await page.get_by_test_id("approve-always").click(timeout=20_000)
    await expect(answers(page, "completed")).to_have_count(1, timeout=20_000)
    await say(page, CALL)
    await expect(answers(page, "completed")).to_have_count(2, timeout=20_000)
    assert "datetime" in await words(page)
    assert complaints == []
    await context.close()
