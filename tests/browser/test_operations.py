"""The operations page on real Chromium: live numbers without reload, for operators only."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from tests.checker import Checker
from tests.server import ROOT, ServerProcess, free_port

pytestmark = pytest.mark.browser

AXE = ROOT / "web/node_modules/axe-core/axe.min.js"


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
        assert await page.evaluate("document.documentElement.scrollWidth") <= 360
        assert wrong == []


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
