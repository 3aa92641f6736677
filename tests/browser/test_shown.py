"""What a person gets to see beside the words: what runs and what is missing, how it looks, what a tab keeps."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, Route, expect

from tests.browser.page import answers, connected, open_session, say
from tests.server import ROOT, ServerProcess, free_port

pytestmark = pytest.mark.browser

SLOW_TOOL = """
from mcp.server.mcpserver import Context, MCPServer
import anyio

server = MCPServer("slow")

@server.tool()
async def count(ctx: Context) -> str:
    await ctx.report_progress(3, 10, "third of ten")
    await anyio.sleep_forever()

server.run()
"""

ARABIC = "ما هي سرعة الموجة؟"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    """A server with a scripted agent."""
    async with ServerProcess(tmp_path / "data", settings={"max_message_chars": 100}) as server:
        yield server


async def test_a_tool_shows_how_far_it_is(chromium: Browser, tmp_path: Path) -> None:
    """Its bar and its words, while it runs."""
    program, config = tmp_path / "slow.py", tmp_path / "chatserver.toml"
    program.write_text(SLOW_TOOL)
    config.write_text(
        f'[[mcp_servers]]\nname = "slow"\ncommand = ["{sys.executable}", "{program}"]\napproval = "never"\n'
        f'env = {{ PYTHONPATH = "{ROOT}" }}\n'
    )
    async with ServerProcess(tmp_path / "data", flags=("--config", str(config))) as server:
        page = await open_session(await chromium.new_context(), server, "slow")
        await say(page, "/tool slow.count {}")
        tool = page.get_by_test_id("tool")
        await expect(tool).to_contain_text("third of ten", timeout=30_000)
        assert await tool.locator("progress").evaluate("(bar) => bar.position") == 0.3


async def test_the_field_grows_with_its_text_and_counts_at_the_limit(chromium: Browser, server: ServerProcess) -> None:
    """Over it nothing can be sent; after sending it is small again. Code points count, not UTF-16 units."""
    page = await open_session(await chromium.new_context(), server, "field")
    field = page.get_by_test_id("composer")

    async def height() -> float:
        return float(await field.evaluate("(field) => field.getBoundingClientRect().height"))

    low = await height()
    await field.fill("one\ntwo\nthree\nfour\nfive")
    assert await height() > 2 * low
    await field.fill("🕒" * 101)
    await expect(page.get_by_text("1 characters too many")).to_be_visible()
    await expect(page.get_by_test_id("send")).to_be_disabled()
    await field.fill("🕒" * 99)
    await expect(page.get_by_text("1 characters left")).to_be_visible()
    await page.get_by_test_id("send").click()
    await expect(answers(page, "completed")).to_have_count(1)
    assert await height() == low


async def test_where_a_finger_types_enter_begins_a_line_and_the_button_sends(
    chromium: Browser, server: ServerProcess
) -> None:
    """A phone's keyboard has no Shift+Enter; the field says so, and Ctrl+Enter of a keyboard beside it sends."""
    context = await chromium.new_context(has_touch=True, is_mobile=True, viewport={"width": 390, "height": 800})
    page = await open_session(context, server, "phone")
    field = page.get_by_test_id("composer")
    await expect(field).to_have_attribute("enterkeyhint", "enter")
    await field.tap()
    await page.keyboard.type("one")
    await page.keyboard.press("Enter")
    await page.keyboard.type("two")
    await expect(field).to_have_value("one\ntwo")
    await page.get_by_test_id("send").tap()
    await expect(field).to_have_value("")
    await expect(page.locator("[data-testid=message][data-role=user]")).to_have_count(1)
    await expect(answers(page, "completed")).to_have_count(1)
    await page.keyboard.type("three")
    await page.keyboard.press("Control+Enter")
    await expect(answers(page, "completed")).to_have_count(2)
    await context.close()

    page = await open_session(await chromium.new_context(), server, "desk")
    field = page.get_by_test_id("composer")
    await expect(field).to_have_attribute("enterkeyhint", "send")
    await field.press_sequentially("one")
    await field.press("Shift+Enter")
    await field.press_sequentially("two")
    await expect(field).to_have_value("one\ntwo")
    await field.press("Enter")
    await expect(answers(page, "completed")).to_have_count(1)


async def test_a_message_of_another_day_has_its_date(chromium: Browser, tmp_path: Path) -> None:
    """One of today has its time; the whole of it is told to whoever points at it, as the browser's own zone has it."""
    async with ServerProcess(tmp_path / "data", flags=("--port", str(free_port()))) as server:
        context = await chromium.new_context(locale="de-DE", timezone_id="Asia/Tokyo")
        page = await open_session(context, server, "dated")
        await say(page, "then")
        await expect(answers(page, "completed")).to_have_count(1)
        await server.kill9()
        with contextlib.closing(sqlite3.connect(tmp_path / "data" / "chatserver.db")) as store:
            store.execute("UPDATE messages SET created_at = '2024-02-29T20:30:05.000Z'")
            store.commit()
        await server.start()
        await page.reload()
        await connected(page)
        await say(page, "now")
        await expect(answers(page, "completed")).to_have_count(2)
        then, now = (answers(page, "completed").nth(n).locator("time") for n in (0, 1))
        await expect(then).to_have_text("1. März 2024 um 05:30")
        await expect(then).to_have_attribute("datetime", "2024-02-29T20:30:05.000Z")
        await expect(then).to_have_attribute("title", "Freitag, 1. März 2024 um 05:30:05 GMT+9")
        await expect(now).to_have_text(re.compile(r"^(\d\d:\d\d|\d+\. \w+( \d+)? um \d\d:\d\d)$"))
        await context.close()


async def test_the_list_shows_that_it_is_on_its_way(chromium: Browser, server: ServerProcess) -> None:
    """In the place where its lines will be."""
    context = await chromium.new_context()
    asked = asyncio.Event()

    async def hold(route: Route) -> None:
        await asked.wait()
        await route.continue_()

    await context.route("**/api/llm/sessions*", hold)
    page = await open_session(context, server, "now")
    await expect(page.get_by_test_id("list-loading")).to_be_visible()
    asked.set()
    await expect(page.get_by_test_id("list-empty")).to_be_visible()
    await context.close()


async def test_code_is_copied_as_it_was_written(chromium: Browser, server: ServerProcess) -> None:
    """Without the colours, and without the label."""
    context = await chromium.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = await open_session(context, server, "code")
    await say(page, "```python\nif a < b:\n    print('&amp;')\n```")
    await expect(answers(page, "completed")).to_have_count(1)
    copy = page.locator("figure").get_by_test_id("copy")
    await copy.click()
    await page.wait_for_function("async () => (await navigator.clipboard.readText()) !== ''")
    assert await page.evaluate("() => navigator.clipboard.readText()") == "if a < b:\n    print('&amp;')"
    await context.close()


async def test_a_quota_that_is_used_up_is_told_with_the_time_it_begins_anew(chromium: Browser, tmp_path: Path) -> None:
    """And the message stays."""
    async with ServerProcess(tmp_path / "data", settings={"quota_visitor_day_tokens": 1}) as server:
        page = await open_session(await chromium.new_context(), server, "quota")
        await say(page, "two words")
        await expect(answers(page, "completed")).to_have_count(1)
        await say(page, "canary that is one too many")
        await expect(page.get_by_test_id("error").first).to_contain_text("The quota is used up")
        await expect(page.get_by_test_id("error").first).to_contain_text("ends at")
        await expect(page.locator("[role=log]")).to_contain_text("canary that is one too many")


async def test_a_session_that_has_expired_says_so_and_offers_a_new_one(chromium: Browser, tmp_path: Path) -> None:
    """Seven days after the last activity in it, and a day more."""
    async with ServerProcess(tmp_path / "data", flags=("--port", str(free_port()))) as server:
        context = await chromium.new_context()
        page = await open_session(context, server, "old")
        await say(page, "hello")
        await expect(answers(page, "completed")).to_have_count(1)
        await server.kill9()
        with contextlib.closing(sqlite3.connect(tmp_path / "data" / "chatserver.db")) as store:
            store.execute("UPDATE sessions SET expires_at = expires_at - 8 * 86400")
            store.commit()
        await server.start()
        await page.reload()
        await expect(page.get_by_test_id("error")).to_contain_text("This session has expired", timeout=30_000)
        await page.get_by_test_id("error").get_by_role("button", name="New chat").click()
        await connected(page)
        await context.close()


async def test_a_model_without_its_key_is_told_before_anything_is_sent(chromium: Browser, tmp_path: Path) -> None:
    """It could only fail."""
    config = tmp_path / "chatserver.toml"
    config.write_text(
        'default_model = "locked"\n[[models]]\nid = "locked"\nbase_url = "http://127.0.0.1:9/v1"\nmodel = "locked"\n'
        'api_key_env = "A_KEY_THAT_NOBODY_SET"\ncontext_tokens = 4096\nmax_output_tokens = 512\n'
    )
    settings = {"scripted": None, "default_model": None}
    async with ServerProcess(tmp_path / "data", settings=settings, flags=("--config", str(config))) as server:
        page = await open_session(await chromium.new_context(), server, "locked")
        await expect(page.get_by_test_id("error")).to_contain_text("key")


async def test_the_look_and_the_language_change_at_once_and_last(
    chromium: Browser, server: ServerProcess, screenshots: Path
) -> None:
    """In the middle of a conversation, and over a reload; what was being written stays."""
    page = await open_session(await chromium.new_context(color_scheme="light"), server, "look")
    await say(page, "hello")
    await expect(answers(page, "completed")).to_have_count(1)
    await page.get_by_test_id("composer").fill("a draft")

    async def ground() -> str:
        return str(await page.evaluate("() => getComputedStyle(document.body).backgroundColor"))

    light = await ground()
    await page.get_by_test_id("account").click()
    await page.get_by_role("radio", name="Dark").check()
    assert await ground() != light
    await page.get_by_test_id("language").select_option("de")
    await expect(page.get_by_test_id("new-chat").first).to_contain_text("Neues Gespräch")
    await expect(page.locator("html")).to_have_attribute("lang", "de")
    await expect(page.get_by_test_id("composer")).to_have_value("a draft")
    await expect(answers(page, "completed")).to_have_count(1)
    await page.screenshot(path=screenshots / "german-dark.png")
    dark = await ground()
    await page.reload()
    await connected(page)
    assert await ground() == dark
    await expect(page.get_by_test_id("new-chat").first).to_contain_text("Neues Gespräch")
    await expect(page.get_by_test_id("copy").first).to_contain_text("Kopieren")


async def test_text_runs_in_its_own_direction(chromium: Browser, server: ServerProcess) -> None:
    """Question, answer and title from the right; the page around them as it was."""
    page = await open_session(await chromium.new_context(), server, "rtl")
    await page.get_by_test_id("composer").fill(ARABIC)
    assert await direction(page, "[data-testid=composer]") == "rtl"
    await page.get_by_test_id("send").click()
    await expect(answers(page, "completed")).to_have_count(1)
    assert await direction(page, "[data-role=user] [data-testid=content]") == "rtl"
    assert await direction(page, "[data-role=assistant] [data-testid=content] p") == "rtl"
    await expect(page.get_by_test_id("session-row")).to_have_count(1)
    assert await direction(page, "[data-testid=session-row] .title") == "rtl"
    assert await direction(page, "body") == "ltr"


async def direction(page: Page, selector: str) -> str:
    """In which an element's text runs."""
    return str(await page.locator(selector).first.evaluate("(e) => getComputedStyle(e).direction"))


async def test_nothing_moves_where_motion_is_not_wanted(chromium: Browser, server: ServerProcess) -> None:
    """Neither while an answer is written, nor where the list slides in."""
    context = await chromium.new_context(reduced_motion="reduce", viewport={"width": 600, "height": 800})
    page = await open_session(context, server, "still")
    await say(page, "/tokens 5000 every 50")
    await expect(answers(page, "streaming")).to_have_count(1)
    await page.get_by_test_id("sidebar-show").click()
    await expect(page.get_by_test_id("running")).to_be_visible()
    moving = "() => document.getAnimations().filter((a) => a.effect.getComputedTiming().endTime > 50).length"
    assert await page.evaluate(moving) == 0
    await context.close()


async def test_lines_stay_readable_on_a_very_wide_screen(chromium: Browser, server: ServerProcess) -> None:
    """In a column in the middle, with the field below it."""
    context = await chromium.new_context(viewport={"width": 3440, "height": 1200})
    page = await open_session(context, server, "wide")
    await say(page, "word " * 19)
    await expect(answers(page, "completed")).to_have_count(1)
    boxes = [
        await page.locator(selector).first.bounding_box()
        for selector in ("[role=log] [role=list]", "[data-testid=composer]", "main")
    ]
    column, field, room = [box for box in boxes if box is not None]
    assert column["width"] < 900
    assert field["width"] < 900
    middle = room["x"] + room["width"] / 2
    for box in (column, field):
        assert abs(box["x"] + box["width"] / 2 - middle) < 40
    assert await page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    await context.close()


async def test_a_draft_stays_with_its_session(chromium: Browser, server: ServerProcess) -> None:
    """Over a change to another session and back, and over a reload; each session has its own."""
    page = await open_session(await chromium.new_context(), server, "one")
    field = page.get_by_test_id("composer")
    await field.fill("draft of one")
    await page.get_by_test_id("new-chat").first.click()
    await expect(field).to_have_value("")
    await field.fill("draft of two")
    await page.go_back()
    await expect(field).to_have_value("draft of one")
    await page.reload()
    await connected(page)
    await expect(field).to_have_value("draft of one")
    await page.go_forward()
    await expect(field).to_have_value("draft of two")


async def test_a_duplicated_tab_goes_its_own_way(chromium: Browser, server: ServerProcess) -> None:
    """It begins as the other, with its session and its draft. From there, what one does the other does not."""
    context = await chromium.new_context()
    page = await open_session(context, server, "twin")
    await say(page, "hello")
    await expect(answers(page, "completed")).to_have_count(1)
    await page.get_by_test_id("composer").fill("a draft")
    async with context.expect_page() as opened:
        await page.evaluate("() => void window.open(location.href)")  # which copies sessionStorage, as duplicating does
    twin = await opened.value
    await connected(twin)
    await expect(answers(twin, "completed")).to_have_count(1)
    await expect(twin.get_by_test_id("composer")).to_have_value("a draft")
    await twin.get_by_test_id("composer").fill("another one")
    await twin.get_by_test_id("composer").press("Enter")
    await expect(answers(page, "completed")).to_have_count(2)
    await expect(page.get_by_test_id("composer")).to_have_value("a draft")
    await twin.get_by_test_id("new-chat").first.click()
    await twin.reload()
    await connected(twin)
    assert "session=twin" not in twin.url
    await page.reload()
    await connected(page)
    assert "session=twin" in page.url
    await expect(page.get_by_test_id("composer")).to_have_value("a draft")
    await context.close()


async def test_a_model_without_a_key_says_so_when_it_is_picked(chromium: Browser, tmp_path: Path) -> None:
    """In the list of models and above the field: before a message is sent to it, and not after another was picked."""
    config = tmp_path / "chatserver.toml"
    config.write_text(
        '[[models]]\nid = "locked"\nbase_url = "http://127.0.0.1:9/v1"\nmodel = "x"\napi_key_env = "NO_SUCH_KEY"\n'
    )
    async with ServerProcess(tmp_path / "data", flags=("--config", str(config))) as server:
        page = await open_session(await chromium.new_context(), server, "locked")
        model, notice = page.get_by_test_id("model"), page.get_by_test_id("error")
        await expect(model.locator("option", has_text="locked (no key)")).to_have_count(1)
        await expect(notice).to_have_count(0)
        await model.select_option("locked")
        await expect(notice).to_contain_text("no API key")
        await model.select_option("scripted")
        await expect(notice).to_have_count(0)
        await model.select_option("locked")
        await say(page, "Is anybody there?")
        await expect(answers(page, "failed")).to_have_count(1)
        await expect(notice).to_contain_text("no API key")


async def test_a_session_without_a_title_is_called_by_its_question(chromium: Browser, server: ServerProcess) -> None:
    """In the header and on the tab, also where no answer ever gave it a title."""
    page = await open_session(await chromium.new_context(), server, "untitled")
    await expect(page.get_by_role("heading", level=1)).to_have_text("New chat")
    await say(page, "/fail Where is the **gate**?\nAnd the pond?")
    await expect(answers(page, "failed")).to_have_count(1)
    await expect(page.get_by_role("heading", level=1)).to_have_text("/fail Where is the **gate**?")
    await expect(page).to_have_title("/fail Where is the **gate**? · chatserver")


async def test_forced_colours_leave_to_be_seen_where_one_is(chromium: Browser, server: ServerProcess) -> None:
    """The field one writes in, the session one reads and what one said keep an outline where grounds are taken away."""
    page = await open_session(await chromium.new_context(forced_colors="active"), server, "forced")
    await say(page, "Who said this?")
    await expect(answers(page, "completed")).to_have_count(1)
    await page.get_by_test_id("composer").focus()
    found = {
        "box": page.locator(".box"),
        "row": page.get_by_test_id("session-row").first,
        "words": page.locator("[data-testid=message][data-role=user] [data-testid=content]"),
    }
    for name, place in found.items():
        await expect(place, name).to_have_css("outline-style", "solid")
        colour = await place.evaluate("(e) => getComputedStyle(e).outlineColor")
        ground = await place.evaluate("(e) => getComputedStyle(e).backgroundColor")
        assert colour.startswith("rgb("), (name, colour)
        assert colour != ground, name


async def test_an_agent_that_quotes_documentation_says_so_before_it_is_asked(chromium: Browser, tmp_path: Path) -> None:
    """Where it is the one that would answer, and not where a language model is."""
    async with ServerProcess(tmp_path / "data", settings={"no_docs": None}) as server:
        page = await open_session(await chromium.new_context(), server, "quoting")
        told = page.get_by_test_id("quoting")
        await expect(page.get_by_text("Ask something")).to_be_visible()
        await page.get_by_test_id("model").select_option("docs")
        await expect(told).to_contain_text("not a language model")
        await page.get_by_test_id("model").select_option("scripted")
        await expect(told).to_have_count(0)
