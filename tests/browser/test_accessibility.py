"""Every state of the page, asked by axe-core and worked by keyboard: WCAG 2.2 AA, light and dark, wide and narrow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, BrowserContext, Page, Route, expect

from tests.browser import talker
from tests.browser.page import answers, connected, open_session, say
from tests.browser.talker import script
from tests.server import ROOT, ServerProcess

pytestmark = pytest.mark.browser

AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"

# What axe calls WCAG 2.2 AA, and its own best practices (landmarks, headings).
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]

ANSWER = """# Heading

Text with `code`, a [link](https://example.org) and a list:

- one
- two

| a | b |
|---|---|
| 1 | 2 |

```python
def f(x):
    return "text"  # a comment
```
"""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    """A server with a scripted agent."""
    async with ServerProcess(tmp_path / "data", settings={"messages_per_minute": 6}) as server:
        yield server


# What a finger could miss. A box to tick is pressed by its label.
SMALL = """() =>
    [...document.querySelectorAll(
        'button, a, select, summary, textarea, label:has([type=checkbox], [type=radio]), [role=option], ' +
        'input:not([type=checkbox]):not([type=radio])')]
        .filter((e) => e.checkVisibility({visibilityProperty: true, opacityProperty: true}))
        .map((e) => [e, e.getBoundingClientRect()])
        .filter(([e, r]) => r.top >= 0 && (r.height < 43.5 || r.width < 43.5))
        .map(([e, r]) => `${e.outerHTML.slice(0, 90)} ${r.width}x${r.height}`)"""


async def audit(page: Page, state: str) -> None:
    """No violation, where animations have come to rest. axe is run from its file: the CSP lets no other script in."""
    await page.evaluate(
        "() => Promise.all(document.getAnimations().map((a) => a.playState === 'running' && a.finish()))"
    )
    if not await page.evaluate("() => 'axe' in window"):
        await page.evaluate(AXE.read_text())
    found = await page.evaluate("(tags) => axe.run(document, {runOnly: tags})", TAGS)
    told = [
        f"{violation['id']}: {node['html'][:200]} {node.get('failureSummary', '')}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]
    assert told == [], f"{state}: " + "\n".join(told)


async def calm(chromium: Browser, **options: object) -> BrowserContext:
    """A context without motion, as a person can ask for it."""
    return await chromium.new_context(reduced_motion="reduce", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
async def test_no_state_of_the_page_shuts_anybody_out(
    chromium: Browser, server: ServerProcess, scheme: str, width: int, screenshots: Path
) -> None:
    """One walk through all of them, with a picture of each."""
    context = await calm(chromium, color_scheme=scheme, viewport={"width": width, "height": 800})
    page = await open_session(context, server, "walk")
    narrow = width < 900

    async def look(state: str) -> None:
        await page.screenshot(path=screenshots / f"{state}-{scheme}-{width}.png")
        await audit(page, state)
        assert await page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), state

    await look("empty")
    await page.evaluate(
        """async (content) => {
            const headers = {'Content-Type': 'application/json'};
            const post = (path, body) => fetch(path, {method: 'POST', headers, body: JSON.stringify(body)});
            await post('/api/session/create', {session_id: 'walk'});
            const path = '/api/projects/default/sessions/walk/messages';
            await post(path, {role: 'user', content: 'Show me everything'});
            await post(path, {role: 'assistant', content});
            await post(path, {role: 'system', content: 'The network was switched'});
        }""",
        ANSWER,
    )
    await expect(answers(page, "completed")).to_have_count(1)
    await expect(page.locator("figure code span").first).to_be_visible()
    await look("answer")
    await say(page, "/tokens 5000 every 50")
    await expect(answers(page, "streaming")).to_have_count(1)
    await say(page, "waits in the queue")
    await look("streaming")
    await page.get_by_test_id("stop").click()
    await expect(answers(page, "interrupted")).to_have_count(1)
    await look("stopped")
    await say(page, "/fail upstream_unavailable")
    await expect(answers(page, "failed")).to_have_count(1)
    await look("failed")
    for _ in range(20):  # room comes back with time, on a slow machine while the walk goes on
        if await page.get_by_test_id("error").count():
            break
        await say(page, "one too many")
    await expect(page.get_by_test_id("error").first).to_be_visible()
    await look("limited")

    if narrow:
        await page.get_by_test_id("sidebar-show").click()
    await expect(page.get_by_test_id("session-row")).to_have_count(1)
    await look("list")
    await page.get_by_test_id("session-row").hover()
    await page.get_by_test_id("session-menu").click()
    await look("menu")
    await page.get_by_test_id("menu-rename").click()
    await look("rename")
    await page.keyboard.press("Escape")
    await page.get_by_test_id("search").fill("nothing like it")
    await expect(page.get_by_test_id("list-empty")).to_be_visible()
    await look("not-found")
    await page.get_by_test_id("search").fill("")
    await page.get_by_test_id("account").click()
    await look("settings")
    await page.keyboard.press("Escape")
    await page.get_by_test_id("login-open").click()
    await look("login")
    await page.get_by_test_id("login-other").click()
    await page.locator("input[name=username]").fill("grace")
    await page.locator("input[name=password]").fill("password")
    await look("register")
    await page.get_by_test_id("login-other").click()
    await page.get_by_test_id("login-submit").click()
    await expect(page.get_by_test_id("login-error")).to_be_visible()
    await look("refused")
    await page.keyboard.press("Escape")
    await expect(page.get_by_test_id("login")).to_have_count(0)
    await page.get_by_test_id("session-row").get_by_test_id("session-menu").click()
    await page.get_by_test_id("menu-delete").click()
    await page.get_by_test_id("undo").focus()  # the time to undo waits for whoever is at it
    await look("deleted")
    await page.get_by_test_id("undo").click()
    if narrow:
        await page.keyboard.press("Escape")
    await server.kill9()
    await expect(page.get_by_test_id("connection")).not_to_have_attribute("data-state", "connected")
    await expect(page.get_by_test_id("retry")).to_be_visible(timeout=20_000)
    await look("away")
    await context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_way_in_shuts_nobody_out(chromium: Browser, tmp_path: Path, screenshots: Path, scheme: str) -> None:
    """The page of a server for known people, and a session of somebody else."""
    async with ServerProcess(tmp_path / "known", settings={"auth": "required"}) as server:
        page = await (await calm(chromium, color_scheme=scheme)).new_page()
        await page.goto(server.base_url)
        await expect(page.get_by_test_id("gate")).to_be_visible()
        await page.screenshot(path=screenshots / f"gate-{scheme}.png")
        await audit(page, "gate")
    async with ServerProcess(tmp_path / "open") as server:
        owner = await open_session(await calm(chromium), server, "theirs")
        await say(owner, "mine")
        await expect(answers(owner, "completed")).to_have_count(1)
        page = await (await calm(chromium, color_scheme=scheme)).new_page()
        await page.goto(f"{server.base_url}/?session=theirs")
        await expect(page.get_by_test_id("error")).to_be_visible()
        await page.screenshot(path=screenshots / f"foreign-{scheme}.png")
        await audit(page, "foreign")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_what_is_on_its_way_or_cannot_be_read_shuts_nobody_out(
    chromium: Browser, server: ServerProcess, screenshots: Path, scheme: str
) -> None:
    """The list and the conversation while they are loaded, a list that failed, a browser without a network."""
    context = await calm(chromium, color_scheme=scheme)
    asked = asyncio.Event()

    async def hold(route: Route) -> None:
        await asked.wait()
        await route.abort()

    async def look(state: str) -> None:
        await page.screenshot(path=screenshots / f"{state}-{scheme}.png")
        await audit(page, state)

    for path in ("**/api/llm/sessions*", "**/api/stream*"):
        await context.route(path, hold)
    page = await context.new_page()
    await page.goto(f"{server.base_url}/?session=loading")
    await expect(page.get_by_test_id("list-loading")).to_be_visible()
    await look("loading")
    asked.set()
    await expect(page.get_by_test_id("list-failed")).to_be_visible()
    await look("list-failed")
    await context.unroute_all()
    await connected(page)
    await context.set_offline(True)
    await server.kill9()
    await expect(page.get_by_test_id("connection")).not_to_have_attribute("data-state", "connected", timeout=20_000)
    await page.get_by_test_id("composer").fill("said without a network")
    await page.get_by_test_id("send").click()
    await expect(page.get_by_role("button", name="Send again")).to_be_visible(timeout=30_000)
    await look("offline")
    await context.close()


async def test_the_keyboard_is_never_lost(chromium: Browser, server: ServerProcess) -> None:
    """Menus and dialogs take it and give it back; the first stop is the way past the list."""
    page = await open_session(await calm(chromium), server, "keys")
    await say(page, "hello")
    await expect(page.get_by_test_id("session-row")).to_have_count(1)
    await expect(page.get_by_test_id("composer")).to_be_focused()

    await page.get_by_test_id("session-menu").focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_test_id("menu-rename")).to_be_focused()
    await page.keyboard.press("ArrowUp")
    await expect(page.get_by_test_id("menu-delete")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(page.get_by_test_id("session-menu")).to_be_focused()

    await page.get_by_test_id("login-open").focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("input[name=username]")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(page.get_by_test_id("login-open")).to_be_focused()

    await page.get_by_test_id("sidebar-hide").focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_test_id("sidebar-show")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_test_id("sidebar")).to_be_visible()

    first = page.locator("button, a, input, select, textarea").first
    await expect(first).to_have_text("Skip to the message field")
    await first.focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_test_id("composer")).to_be_focused()


async def test_one_status_line_says_what_goes_on(chromium: Browser, tmp_path: Path) -> None:
    """The log is silent, so that a growing answer is not read out word by word."""
    over = tmp_path / "over"
    async with ServerProcess(tmp_path / "data", settings=talker.SETTINGS, flags=talker.FLAGS) as server:
        context = await calm(chromium)
        page = await open_session(context, server, "status")
        await expect(page.locator("[role=log]")).to_have_attribute("aria-live", "off")
        await say(page, script("word ", every_ms=50, until=str(over)))
        status = page.get_by_test_id("status")
        await expect(status).to_have_text("Generating…")
        over.touch()
        await expect(status).to_have_text("Response complete")
        await context.close()


async def test_fingers_find_their_targets(chromium: Browser, server: ServerProcess) -> None:
    """44 px, where a finger is what points."""
    context = await calm(chromium, has_touch=True, is_mobile=True, viewport={"width": 390, "height": 800})
    page = await open_session(context, server, "touch")

    async def look(state: str) -> None:
        small = await page.evaluate(SMALL)
        assert small == [], state

    await say(page, "/reason hm\n/tool nothing.here {}\nhello")
    await expect(page.get_by_test_id("tool")).to_have_count(1)
    await expect(answers(page, "streaming")).to_have_count(0)
    await page.get_by_test_id("rate-up").tap()
    await expect(page.get_by_test_id("feedback-comment")).to_be_visible()
    await look("answer")
    await page.get_by_test_id("composer").press_sequentially("/")
    await expect(page.get_by_role("option").first).to_be_visible()
    await look("palette")
    await page.get_by_role("option").first.tap()
    await expect(page.get_by_test_id("palette-run")).to_be_visible()
    await look("form")
    await page.keyboard.press("Escape")
    await page.get_by_test_id("composer").fill("")
    await page.get_by_test_id("sidebar-show").tap()
    await expect(page.get_by_test_id("session-row")).to_have_count(1)
    await look("list")
    await page.get_by_test_id("account").tap()
    await look("settings")
    await context.close()


async def test_what_is_printed_is_the_conversation(chromium: Browser, server: ServerProcess, tmp_path: Path) -> None:
    """All of it, without the list, the buttons and the field."""
    page = await open_session(await calm(chromium), server, "print")
    await say(page, "to be printed")
    await expect(answers(page, "completed")).to_have_count(1)
    await page.emulate_media(media="print")
    await expect(page.get_by_test_id("sidebar")).to_be_hidden()
    await expect(page.get_by_test_id("composer")).to_be_hidden()
    await expect(answers(page, "completed")).to_be_visible()
    assert await page.evaluate("() => getComputedStyle(document.querySelector('[role=log]')).overflowY") == "visible"
