"""The operations page on real Chromium: live numbers without reload, for operators only."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, Route, expect

from tests.checker import Checker
from tests.server import ROOT, ServerProcess, free_port
from tests.test_users_command import PASSWORD, users_process

pytestmark = pytest.mark.browser

AXE = ROOT / "web/node_modules/axe-core/axe.min.js"


# Text that does not fit where it stands.
CUT_OFF = """() => [...document.querySelectorAll('dd, dt, h1, h2, p:not(.visually-hidden), li')]
    .filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.textContent)"""


async def violations(page: Page) -> list[str]:
    """What axe finds wrong with the page as it stands."""
    # Evaluated, not added as a script: the page's policy rightly allows none but its own.
    await page.evaluate(AXE.read_text())
    found = await page.evaluate("axe.run()")
    return [f"{v['id']}: {n['html'][:120]}" for v in found["violations"] for n in v["nodes"]]


def tile(page: Page, name: str) -> str:
    return f"[data-testid=tiles] div:has(dt:text-is('{name}')) dd"


async def test_numbers_move_without_a_reload(chromium: Browser, tmp_path: Path, screenshots: Path) -> None:
    """A stream that opens and a turn that runs are seen while the page stands open; it is accessible in both looks."""
    async with ServerProcess(tmp_path / "data") as server, Checker(server.base_url) as checker:
        context = await chromium.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
        page = await context.new_page()
        wrong: list[str] = []
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        await page.goto(f"{server.base_url}/admin")
        await expect(page.locator(tile(page, "Open streams"))).to_have_text("0")
        async with checker.follow("s") as stream:
            sent = await checker.send("s", "/tokens 1000 every 20")
            await expect(page.locator(tile(page, "Open streams"))).to_have_text("1")
            await expect(page.locator(tile(page, "Running turns"))).to_have_text("1")
            # Two samples of ten seconds each make the first line of a chart.
            tokens = page.locator("[data-testid=chart]", has_text="Tokens a second").first
            await expect(tokens.locator("path.line")).to_have_attribute("d", re.compile("L"), timeout=40_000)
            await stream.until_ended(sent.turn_id)
        await expect(page.locator(tile(page, "Running turns"))).to_have_text("0")
        await page.screenshot(path=screenshots / "operations-light.png", full_page=True)
        assert await violations(page) == []
        await page.emulate_media(color_scheme="dark")
        await page.set_viewport_size({"width": 360, "height": 800})
        await page.screenshot(path=screenshots / "operations-dark-narrow.png")
        assert await violations(page) == []
        for width in (360, 320):
            await page.set_viewport_size({"width": width, "height": 800})
            assert await page.evaluate("document.documentElement.scrollWidth") <= width
            assert await page.evaluate(CUT_OFF) == []
        assert wrong == []


async def test_a_chart_says_what_it_counts_and_is_read_by_keyboard(chromium: Browser, tmp_path: Path) -> None:
    """Ends of both axes, units, what is counted over; a name that tells all of it, each sample by the arrow keys."""
    async with ServerProcess(tmp_path / "data") as server:
        page = await (await chromium.new_context(locale="en-GB")).new_page()
        now = 1_790_000_000
        answer = {
            "time": now,
            "version": "1",
            "interval_seconds": 10,
            "now": {},
            "history": {
                "time": [now - 30, now - 20, now - 10],
                "turns_completed": [0, 3, 1],
                "turns_failed": [0, 0, 2],
                "event_loop_lag_seconds": [0.001, 0.0123, 0.002],
            },
        }
        await page.route("**/api/admin/metrics*", lambda route: route.fulfill(json=answer))
        await page.goto(f"{server.base_url}/admin")
        ended = page.get_by_test_id("chart").filter(has_text="Turns ended")
        await expect(ended.get_by_role("heading")).to_have_text("Turns ended in 10 s")
        await expect(ended.locator(".scale")).to_have_text("50")  # 5 at the top, 0 at the bottom
        # A time of day as they write it there.
        await expect(ended.locator(".ends")).to_have_text(re.compile(r"^\d\d:\d\d\d\d:\d\d$"))
        chart = ended.get_by_role("img")
        told = await chart.get_attribute("aria-label") or ""
        assert re.fullmatch(
            r"Turns ended in 10 s, since \d\d:\d\d: completed 1, stopped –, failed 2; highest 3", told
        ), told
        await chart.focus()
        await page.keyboard.press("ArrowLeft")
        await expect(ended.locator("[aria-live]")).to_have_text(
            re.compile(r"\d\d:\d\d:\d\d: completed 3, stopped –, failed 0")
        )
        lag = page.get_by_test_id("chart").filter(has_text="Event loop lag")
        await expect(lag.locator(".scale")).to_have_text("20 ms0 ms")
        await expect(lag).to_contain_text("highest 12.3 ms")
        nothing = page.get_by_test_id("chart").filter(has_text="Time to the first token")
        await expect(nothing).to_contain_text("nothing yet")


async def test_no_name_of_anybody_or_anything_is_shown(chromium: Browser, tmp_path: Path) -> None:
    """Neither a session's nor a person's, nor a word that was said: an operator's page is often left open."""
    async with (
        ServerProcess(tmp_path / "data") as server,
        Checker(server.base_url) as checker,
        checker.follow("canary-session") as stream,
    ):
        sent = await checker.send("canary-session", "/say canary-words")
        await stream.until_ended(sent.turn_id)
        page = await (await chromium.new_context()).new_page()
        bodies: list[str] = []

        async def keep(route: Route) -> None:
            answer = await route.fetch()
            bodies.append(await answer.text())
            await route.fulfill(response=answer)

        await page.route("**/api/**", keep)
        await page.goto(f"{server.base_url}/admin")
        await expect(page.locator(tile(page, "Open streams"))).to_have_text("1")
        assert bodies
        for text in (*bodies, await page.content()):
            assert "canary" not in text
            assert sent.turn_id not in text


async def test_others_are_told_who_it_is_for(chromium: Browser, tmp_path: Path) -> None:
    """Never a blank page, and no number."""
    async with ServerProcess(tmp_path / "data", settings={"metrics_from": "[]"}) as server:
        page = await (await chromium.new_context()).new_page()
        await page.goto(f"{server.base_url}/admin")
        await expect(page.get_by_test_id("refused")).to_contain_text("This page is for operators")
        assert await page.get_by_test_id("tiles").count() == 0


async def test_it_says_when_the_server_is_away_and_goes_on_when_it_is_back(chromium: Browser, tmp_path: Path) -> None:
    """What was seen stays on the screen meanwhile."""
    async with ServerProcess(tmp_path / "data", flags=("--port", str(free_port()))) as server:
        page = await (await chromium.new_context(locale="de-DE")).new_page()
        await page.goto(f"{server.base_url}/admin")
        await expect(page.get_by_role("heading", name="Betrieb")).to_be_visible()
        await expect(page.get_by_test_id("tiles")).to_be_visible()
        await server.kill9()
        await expect(page.get_by_role("status")).to_contain_text("Der Server antwortet nicht")
        assert await page.get_by_test_id("tiles").is_visible()
        await server.start()
        await expect(page.get_by_role("status")).to_have_text("")


async def test_an_account_with_the_scope_sees_it_from_anywhere_and_one_without_does_not(
    chromium: Browser, tmp_path: Path
) -> None:
    """No address is listed here; who is logged in is what counts."""
    async with ServerProcess(tmp_path / "data", settings={"metrics_from": "[]"}) as server:
        for name, *scope in (("ann",), ("root", "--admin")):
            status, output = await users_process(
                tmp_path / "data", "add", name, *scope, "--password-stdin", stdin=f"{PASSWORD}\n"
            )
            assert status == 0, output
        for name in ("ann", "root"):
            context = await chromium.new_context()
            page = await context.new_page()
            await page.goto(f"{server.base_url}/")
            await page.get_by_test_id("login-open").click()
            await page.locator("input[name=username]").fill(name)
            await page.locator("input[name=password]").fill(PASSWORD)
            await page.get_by_test_id("login-submit").click()
            await expect(page.get_by_test_id("account")).to_contain_text(name)
            await page.goto(f"{server.base_url}/admin")
            await expect(page.get_by_test_id("tiles" if name == "root" else "refused")).to_be_visible()
            assert await page.get_by_test_id("tiles").count() == (name == "root")
            await context.close()
