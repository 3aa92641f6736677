"""A new user's walk through the page, on real parts: the embedded agent, an agent in Python, a real tool server.

`make pictures` keeps what it sees in docs/images, for docs/walk.md.
"""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path

import pytest
from playwright.async_api import Browser, Locator, Page, expect

from tests.browser.page import answers, connected, say, words
from tests.docs_source import DOCS
from tests.server import ServerProcess

STEPS = (
    "open", "ask", "stop", "edit", "model", "tool", "approve", "second-tab", "reload", "search", "archive", "delete",
    "login", "user",
)  # fmt: skip
# All pictures together: they are in every checkout and in every wheel.
MAX_BYTES = 1_200_000

CONFIG = """
default_model = "docs"

[[mcp_servers]]
name = "time"
command = ["mcp-server-time"]
approval = "always"
"""


class Album:
    """Takes pictures where somebody wants them: CHATSERVER_PICTURES names the folder."""

    def __init__(self) -> None:
        folder = os.environ.get("CHATSERVER_PICTURES")
        self._folder = None if folder is None else Path(folder)
        self.taken: list[str] = []

    async def take(self, page: Page, step: str) -> None:
        """The page as it stands. WebP, which Playwright does not offer, is a third of the size."""
        self.taken.append(step)
        if self._folder is None:
            return
        await page.mouse.move(1180, 300)  # over nothing
        session = await page.context.new_cdp_session(page)
        shot = await session.send("Page.captureScreenshot", {"format": "webp", "quality": 88})
        await session.detach()
        (self._folder / f"walk-{step}.webp").write_bytes(base64.b64decode(shot["data"]))


def row(page: Page, title: str) -> Locator:
    """The line of a session in the list."""
    return page.get_by_test_id("session-row").filter(has_text=title)


async def overlap(a: Locator, b: Locator) -> bool:
    """Whether one covers a part of the other."""
    one, other = await a.bounding_box(), await b.bounding_box()
    assert one is not None
    assert other is not None
    sides = (("x", "width"), ("y", "height"))
    return all(one[at] < other[at] + other[long] and other[at] < one[at] + one[long] for at, long in sides)  # type: ignore[literal-required]


def questions(page: Page) -> Locator:
    """What was asked."""
    return page.locator("[data-testid=message][data-role=user]")


async def choose(page: Page, title: str, item: str) -> Locator:
    """Open the menu of a session; gives an item of it."""
    await row(page, title).hover()
    await row(page, title).get_by_test_id("session-menu").click()
    return page.get_by_test_id(f"menu-{item}")


@pytest.mark.browser
async def test_a_new_user_walks_through_the_page(chromium: Browser, tmp_path: Path) -> None:
    """Issue 4, done when 5: every step of it does what it says, in this order, for somebody who has just come."""
    config = tmp_path / "chatserver.toml"
    config.write_text(CONFIG)
    # The embedded agent speaks as slowly as it can, so that there is time to stop it.
    as_installed = ("scripted", "default_model", "no_docs", "auto_titles")
    settings = {**dict.fromkeys(as_installed), "docs_piece_seconds": 0.1}
    flags = ("--config", str(config), "--agent", "tests.browser.walker:guide", "--docs", str(DOCS))
    album = Album()
    async with ServerProcess(tmp_path / "data", settings=settings, flags=flags) as server:
        context = await chromium.new_context(
            viewport={"width": 1200, "height": 760}, color_scheme="light", locale="en-GB"
        )
        complaints: list[str] = []
        context.on("weberror", lambda error: complaints.append(str(error.error)))
        context.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page = await context.new_page()

        # Open: a session of one's own, and nothing in the list yet.
        await page.goto(f"{server.base_url}/")
        await connected(page)
        await expect(page.get_by_test_id("list-empty")).to_be_visible()
        await expect(page.get_by_test_id("composer")).to_be_focused()
        await album.take(page, "open")

        # Ask: the answer comes from the documentation, and the session gets its title by itself.
        await say(page, "How do I add a tool server?")
        await expect(answers(page, "completed")).to_have_count(1, timeout=60_000)
        assert "mcp_servers" in await words(page)
        await expect(page.get_by_role("heading", level=1)).to_contain_text("tool server")
        await expect(row(page, "tool server")).to_have_count(1)
        await questions(page).last.scroll_into_view_if_needed()
        await album.take(page, "ask")

        # Stop: what was said stays.
        await say(page, "How does a stream resume?")
        await page.wait_for_function(
            """() => (document.querySelector('[data-status=streaming] [data-testid=content]')?.innerText.length ?? 0)
                > 150"""
        )
        await page.get_by_test_id("stop").click()
        await expect(answers(page, "interrupted")).to_have_count(1)
        await expect(page.get_by_test_id("stopped")).to_be_visible()
        await album.take(page, "stop")

        # Edit: a version of its own, the one before a press away.
        question = questions(page).last
        await question.hover()
        await question.get_by_test_id("edit").click()
        await question.get_by_test_id("edit-text").fill("What happens to an answer when my connection drops?")
        await question.get_by_test_id("edit-save").click()
        await expect(answers(page, "completed")).to_have_count(2, timeout=60_000)
        await expect(answers(page, "interrupted")).to_have_count(0)
        await expect(page.get_by_test_id("versions")).to_contain_text("2/2")
        await question.scroll_into_view_if_needed()
        await album.take(page, "edit")
        await page.get_by_test_id("version-before").click()
        await expect(answers(page, "interrupted")).to_have_count(1)
        await page.get_by_test_id("version-after").click()
        await expect(answers(page, "interrupted")).to_have_count(0)

        # Switch the model, and call a tool with it, which waits for somebody's yes.
        await page.get_by_test_id("new-chat").first.click()
        await connected(page)
        await page.locator("select[data-testid=model]").select_option("guide")
        await page.get_by_test_id("composer").fill("What is the time in Tokyo?")
        await album.take(page, "model")
        await page.get_by_test_id("send").click()
        await expect(page.get_by_test_id("approve")).to_be_visible(timeout=30_000)
        await expect(page.locator("select[data-testid=model]")).to_have_value("guide")
        await album.take(page, "tool")
        await page.get_by_test_id("approve").click()
        await expect(answers(page, "completed")).to_have_count(1, timeout=30_000)
        assert re.search(r"It is \d\d:\d\d in Tokyo", await words(page))
        await album.take(page, "approve")

        # A second tab on the same session, while an answer is written; then the first is loaded anew.
        second = await context.new_page()
        await second.goto(page.url)
        await connected(second)
        await say(page, "Show me around the garden")
        await expect(answers(second, "streaming")).to_contain_text("The greenhouse", timeout=30_000)
        await album.take(second, "second-tab")
        await page.reload()
        await connected(page)
        await expect(answers(page, "streaming")).to_contain_text("The library", timeout=30_000)
        await album.take(page, "reload")
        await second.get_by_test_id("stop").click()
        await expect(answers(page, "interrupted")).to_have_count(1)
        await second.close()

        # Search finds words of titles and messages.
        await page.get_by_test_id("new-chat").first.click()
        await connected(page)
        await say(page, "How do I make a backup?")
        await expect(answers(page, "completed")).to_have_count(1, timeout=60_000)
        await expect(page.get_by_test_id("session-row")).to_have_count(3)
        await page.keyboard.press("Control+k")
        await page.keyboard.type("greenhouse")
        await expect(page.get_by_test_id("session-row")).to_have_count(1)
        await album.take(page, "search")
        await page.keyboard.press("Escape")
        await expect(page.get_by_test_id("session-row")).to_have_count(3)

        # Archive, and delete with a way back.
        item = await choose(page, "tool server", "archive")
        await expect(item).to_be_visible()
        await album.take(page, "archive")
        await item.click()
        await expect(page.get_by_test_id("session-row")).to_have_count(2)
        await (await choose(page, "Tokyo", "delete")).click()
        await expect(page.get_by_test_id("toast")).to_be_visible()
        assert not await overlap(page.get_by_test_id("toast"), page.get_by_test_id("composer"))
        await expect(page.get_by_test_id("session-row")).to_have_count(1)
        await album.take(page, "delete")
        await expect(page.get_by_test_id("toast")).to_have_count(0, timeout=30_000)
        await page.get_by_test_id("archived").check()
        await expect(page.get_by_test_id("session-row")).to_have_count(2)
        await expect(row(page, "Tokyo")).to_have_count(0)
        await page.get_by_test_id("archived").uncheck()

        # Log in: with a new account, which takes the visitor's sessions over.
        await page.get_by_test_id("login-open").click()
        await page.get_by_test_id("login-other").click()
        await page.locator("input[name=username]").fill("grace")
        await page.locator("input[name=password]").fill("a long enough passphrase")
        await album.take(page, "login")
        await page.get_by_test_id("login-submit").click()
        await expect(page.get_by_test_id("account")).to_contain_text("grace")
        await expect(page.get_by_test_id("session-row")).to_have_count(1)
        await connected(page)
        assert "backup" in await words(page)
        await album.take(page, "user")

        assert complaints == []
        await context.close()
    assert album.taken == list(STEPS)


def test_the_walk_is_shown_step_by_step() -> None:
    """Every picture of docs/walk.md is there, in the walk's order, told in words too, and all of them are small."""
    shown = re.findall(r"!\[([^]]{20,})]\(images/walk-([a-z-]+)\.webp\)", (DOCS / "walk.md").read_text())

    assert [step for _, step in shown] == list(STEPS)
    pictures = sorted((DOCS / "images").iterdir())
    assert {f"walk-{step}.webp" for step in STEPS} <= {picture.name for picture in pictures}
    assert sum(picture.stat().st_size for picture in pictures) < MAX_BYTES
