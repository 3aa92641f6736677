"""The page when something goes wrong: nothing that was written is lost, nothing is blank, and the reason is told."""

from __future__ import annotations

import asyncio
import json
import re
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import structlog
from playwright.async_api import Browser, Page, Route, expect
from playwright.async_api import Error as PlaywrightError

from chatserver.app import start_server
from chatserver.config import Settings
from tests.auth.clock import SetClock
from tests.browser.page import answers, connected, fill, open_session, say, words
from tests.browser.talker import FLAGS, SETTINGS, script
from tests.relay import relay
from tests.server import ServerProcess, free_port

pytestmark = pytest.mark.browser

ENDLESS = script("word ", every_ms=20, times=5000)
CALL = script("", tool=["time", "get_current_time", {"timezone": "Asia/Tokyo"}])


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


async def test_older_messages_that_cannot_be_read_say_so_where_they_would_stand(
    chromium: Browser, server: ServerProcess
) -> None:
    """What is there stays, nobody asks again at every pixel, and the button reads them."""
    context = await chromium.new_context()
    page = await open_session(context, server, "long")
    await say(page, "the first message of all")
    await expect(answers(page, "completed")).to_have_count(1)
    await fill(server, page, "long", 248)
    await page.reload()
    await connected(page)
    await expect(page.get_by_test_id("message")).to_have_count(200)
    asked: list[str] = []

    async def refuse(route: Route) -> None:
        asked.append(route.request.url)
        await route.fulfill(**problem(503, "store_unavailable"))  # type: ignore[arg-type] # as above

    await context.route("**/api/messages?*", refuse)
    await page.locator("[role=log]").hover()
    await page.mouse.wheel(0, -100_000)
    failed = page.get_by_test_id("older-failed")
    await expect(failed).to_contain_text("The older messages could not be loaded. it is so")
    for _ in range(5):
        await page.mouse.wheel(0, 50)
        await page.mouse.wheel(0, -100)
    await expect(page.get_by_test_id("older")).to_have_text("Try again")
    await expect(page.get_by_test_id("message")).to_have_count(200)
    await expect(page.get_by_test_id("error")).to_have_count(0)
    assert len(asked) == 1
    await page.get_by_test_id("older").click()
    await expect(failed).to_be_visible()
    await context.unroute("**/api/messages?*")
    await page.get_by_test_id("older").click()
    await expect(page.get_by_test_id("message")).to_have_count(250)
    await expect(failed).to_have_count(0)
    await expect(page.get_by_test_id("older")).to_have_count(0)
    await context.close()


async def test_older_sessions_that_cannot_be_read_say_so_at_the_lists_end(
    chromium: Browser, server: ServerProcess
) -> None:
    """Those that were read stay, nobody asks again by scrolling, and the button reads the others."""
    context = await chromium.new_context()
    page = await open_session(context, server, "now")
    await page.evaluate(
        """async () => {
            const headers = {'Content-Type': 'application/json'};
            for (let at = 0; at < 130; at += 10)
                await Promise.all(Array.from({length: 10}, (_, i) => fetch('/api/session/create', {method: 'POST',
                    headers, body: JSON.stringify({session_id: `many-${at + i}`, title: `Number ${at + i}`})})));
        }"""
    )
    asked: list[str] = []

    async def refuse(route: Route) -> None:
        asked.append(route.request.url)
        await route.abort()

    await context.route(lambda url: "/api/llm/sessions" in url and "offset=0" not in url, refuse)
    await page.reload()
    await connected(page)
    listed = page.get_by_test_id("session-list")
    await expect(page.get_by_test_id("session-row").first).to_be_visible()
    stuck = page.get_by_test_id("list-stuck")
    async with asyncio.timeout(60):
        while not await stuck.count():
            await listed.evaluate("(list) => { list.scrollTop = list.scrollHeight; }")
            await asyncio.sleep(0.05)
    await expect(stuck).to_contain_text("could not be loaded")
    await page.get_by_test_id("list-stuck").get_by_role("button").click()
    async with asyncio.timeout(60):
        while len(asked) < 2:
            await asyncio.sleep(0.05)
    await expect(page.get_by_test_id("list-stuck")).to_be_visible()
    for way in (-500, 500):
        await listed.evaluate("(list, way) => { list.scrollTop += way; }", way)
    await expect(listed.locator("[data-id=many-30]")).to_be_visible()
    assert len(asked) == 2
    await context.unroute_all()
    await page.get_by_test_id("list-stuck").get_by_role("button").click()
    await expect(page.get_by_test_id("list-stuck")).to_have_count(0)
    async with asyncio.timeout(60):  # the end moves on as what is behind it is read
        while not await listed.locator("[data-id=many-0]").count():
            await listed.evaluate("(list) => { list.scrollTop = list.scrollHeight; }")
            await asyncio.sleep(0.05)
    await context.close()


@pytest.mark.parametrize(
    ("language", "told", "another"),
    [("en-GB", "This session was deleted", "New chat"), ("de-DE", "Diese Sitzung wurde gelöscht", "Neues Gespräch")],
)
async def test_a_session_that_is_deleted_elsewhere_while_it_is_open_says_so(
    chromium: Browser, server: ServerProcess, language: str, told: str, another: str
) -> None:
    """Its words stay to be read; what is sent then begins another session, where it is answered."""
    context = await chromium.new_context(locale=language)
    page = await open_session(context, server, "doomed")
    await say(page, "canary of the doomed")
    await expect(answers(page, "completed")).to_have_count(1)
    elsewhere = await context.request.delete(
        f"{server.base_url}/api/session?session_id=doomed",
        headers={"Origin": server.base_url, "Content-Type": "application/json"},
    )
    assert elsewhere.ok, await elsewhere.text()
    await expect(page.get_by_test_id("error")).to_contain_text(told)
    await expect(page.get_by_test_id("error").get_by_role("button", name=another)).to_be_visible()
    assert "canary of the doomed" in await words(page)
    await say(page, "and on")
    await expect(page.get_by_test_id("session-id")).not_to_have_text("doomed")
    await expect(answers(page, "completed")).to_have_text(re.compile("and on"))
    await expect(page.get_by_test_id("error")).to_have_count(0)
    assert "canary of the doomed" not in await words(page)
    await context.close()


@pytest.mark.parametrize(
    ("language", "told"), [("en-GB", "This session has expired"), ("de-DE", "Diese Sitzung ist abgelaufen")]
)
async def test_a_session_whose_time_ends_while_it_is_open_says_so(
    chromium: Browser, tmp_path: Path, language: str, told: str
) -> None:
    """The same event ends it on the stream, so the page asks which of the two it was. The clock is the test's."""
    clock = SetClock(time.time())
    settings = Settings(port=0, scripted=True, default_model="scripted", no_docs=True, data_dir=tmp_path / "data")
    async with start_server(settings, structlog.get_logger(), clock) as server:
        context = await chromium.new_context(locale=language)
        page = await context.new_page()
        await page.goto(f"{server.url}/?session=old")
        await connected(page)
        await say(page, "hello")
        await expect(answers(page, "completed")).to_have_count(1)
        clock.move(settings.visitor_session_ttl_seconds + 60)
        await expect(page.get_by_test_id("error")).to_contain_text(told, timeout=60_000)
        await say(page, "and on")
        await expect(page.get_by_test_id("session-id")).not_to_have_text("old")
        await expect(answers(page, "completed")).to_have_count(1, timeout=30_000)
        await context.close()


# What a part needs of the browser throws while `broken` names that part: a message by its time.
BREAK = """
    const {get} = Object.getOwnPropertyDescriptor(Intl.DateTimeFormat.prototype, 'format');
    Object.defineProperty(Intl.DateTimeFormat.prototype, 'format', {get() {
        const format = get.call(this);
        return (at) => { if (window.broken?.includes(at)) throw new Error('broken for the test'); return format(at); };
    }});
"""


BREAK_PARTS = """{
    window.broken = sessionStorage.getItem('broken');
    const fail = (part) => { if (window.broken === part) throw new Error('broken for the test'); };
    const Format = Intl.DateTimeFormat;
    Intl.DateTimeFormat = class extends Format {
        constructor(language, options) {
            if (options?.month === 'long' && options.day === undefined) fail('list');
            super(language, options);
        }
    };
    const match = window.matchMedia;
    window.matchMedia = (query) => {
        if (query.includes('hover: none')) fail('field');
        return match.call(window, query);
    };
}"""


async def test_a_message_that_cannot_be_drawn_is_its_words_until_it_can(
    chromium: Browser, server: ServerProcess
) -> None:
    """The conversation goes on around it, and the person has it drawn again."""
    context = await chromium.new_context()
    page = await open_session(context, server, "broken")
    for text in ("one", "**two**"):
        await say(page, text)
    await expect(answers(page, "completed")).to_have_count(2)
    times = await page.locator("[data-testid=message] time").evaluate_all(
        "all => all.map((t) => Date.parse(t.dateTime))"
    )
    await context.add_init_script(f"window.broken = {times[-2:]};{BREAK}")
    await page.reload()
    await connected(page)
    broken = page.get_by_test_id("message-broken")
    await expect(broken).to_have_count(2)
    await expect(broken.last).to_contain_text("**two**")
    await expect(answers(page, "completed")).to_have_count(1)
    await say(page, "three")
    await expect(answers(page, "completed")).to_have_count(2)
    await broken.last.get_by_role("button", name="Show it again").click()
    await expect(broken).to_have_count(2)  # it throws again, and is caught again
    await page.evaluate("() => { window.broken = undefined; }")
    await broken.last.get_by_role("button", name="Show it again").click()
    await expect(broken).to_have_count(1)
    await expect(answers(page, "completed").nth(1).locator("strong")).to_have_text("two")
    await context.close()


async def test_a_part_of_the_page_that_fails_leaves_the_others_and_comes_back(
    chromium: Browser, server: ServerProcess
) -> None:
    """The list, while one talks; the field, with what was written in it. What each needs of the browser throws."""
    context = await chromium.new_context()
    await context.add_init_script(BREAK_PARTS)
    page = await open_session(context, server, "parts")
    failed = page.get_by_test_id("error").filter(has_text="A part of the page has failed")
    await expect(page.get_by_test_id("list-empty")).to_be_visible()
    await page.evaluate("() => { window.broken = 'list'; }")
    await say(page, "one")
    await expect(page.get_by_test_id("sidebar").locator(failed)).to_be_visible()
    await expect(answers(page, "completed")).to_have_count(1)
    await say(page, "two")
    await expect(answers(page, "completed")).to_have_count(2)
    await page.evaluate("() => { window.broken = undefined; }")
    await failed.get_by_role("button", name="Show it again").click()
    await expect(page.get_by_test_id("session-row")).to_have_count(1)
    await expect(failed).to_have_count(0)

    await page.get_by_test_id("composer").fill("a draft")
    await page.evaluate("() => sessionStorage.setItem('broken', 'field')")
    await page.reload()
    await connected(page)
    await expect(page.get_by_role("main").locator(failed)).to_be_visible()
    await expect(page.get_by_test_id("composer")).to_have_count(0)
    await expect(answers(page, "completed")).to_have_count(2)
    await expect(page.get_by_test_id("session-row")).to_have_count(1)
    await page.evaluate("() => { window.broken = undefined; }")
    await failed.get_by_role("button", name="Show it again").click()
    await expect(page.get_by_test_id("composer")).to_have_value("a draft")
    await say(page, "three")
    await expect(answers(page, "completed")).to_have_count(3)
    await context.close()


async def test_what_was_said_while_the_server_was_away_is_sent_when_it_is_back(
    chromium: Browser, tmp_path: Path
) -> None:
    """By itself, once, and in its order, though sending had been given up."""
    port = free_port()
    flags = (*FLAGS, "--port", str(port))
    async with ServerProcess(tmp_path / "data", settings=SETTINGS, flags=flags) as server:
        page = await open_session(await chromium.new_context(), server, "away")
        await say(page, "before")
        await expect(answers(page, "completed")).to_have_count(1)
        await server.kill9()
        for text in ("first canary", "second canary"):
            await say(page, text)
        pending = page.get_by_test_id("pending")
        await expect(pending.and_(page.locator("[data-status=failed]"))).to_have_count(2, timeout=30_000)
        await server.start()
        await connected(page)
        await expect(answers(page, "completed")).to_have_count(3, timeout=30_000)
        await expect(pending).to_have_count(0)
        asked = page.locator("[data-testid=message][data-role=user] [data-testid=content]")
        await expect(asked).to_have_text(["before", "first canary", "second canary"])
