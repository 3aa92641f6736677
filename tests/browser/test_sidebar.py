"""The list of sessions on the page: found, opened, named, put away, deleted, and true in every tab."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from playwright.async_api import Browser, Locator, Page, expect

from tests.agents.upstream import DONE, finish, running_upstream, stream, text
from tests.browser import talker
from tests.browser.page import answers, connected, open_session, say
from tests.browser.talker import script
from tests.server import ServerProcess, free_port

pytestmark = pytest.mark.browser

MANY = 10_000

ASKING = """
[[mcp_servers]]
name = "time"
command = ["mcp-server-time"]
approval = "always"
"""

NAMED_BY_A_MODEL = """
default_model = "real"

[[models]]
id = "real"
base_url = "{base_url}"
model = "real"
context_tokens = 4096
max_output_tokens = 512
"""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    """A server with a scripted agent."""
    async with ServerProcess(tmp_path / "data") as server:
        yield server


def rows(page: Page) -> Locator:
    """The lines of the list that are drawn."""
    return page.get_by_test_id("session-row")


async def call(page: Page, method: str, path: str, body: object = None) -> object:
    """Ask the server as this page's browser."""
    return await page.evaluate(
        """async ([method, path, body]) => {
            const headers = {'Content-Type': 'application/json'};
            const answer = await fetch(path, {method, headers, body: body === null ? null : JSON.stringify(body)});
            return answer.status === 204 ? null : await answer.json();
        }""",
        [method, path, body],
    )


async def make(page: Page, session_id: str, title: str, project: str = "default") -> None:
    """A session with a title, made beside the page."""
    await call(
        page,
        "POST",
        "/api/session/create",
        {"session_id": session_id, "title": title, "project_id": project},
    )


async def menu(page: Page, row: Locator, item: str) -> None:
    """Choose from a row's menu."""
    await row.hover()
    await row.get_by_test_id("session-menu").click()
    await page.get_by_test_id(f"menu-{item}").click()


async def test_a_session_appears_when_something_is_said_in_it(chromium: Browser, server: ServerProcess) -> None:
    """In every tab of the browser, without a reload."""
    context = await chromium.new_context()
    first, second = [await open_session(context, server, name) for name in ("one", "two")]
    await expect(first.get_by_test_id("list-empty")).to_be_visible()
    await say(second, "canary words")
    for page in (first, second):
        await expect(rows(page)).to_have_count(1)
        await expect(rows(page)).to_contain_text("canary words")
    await expect(rows(second).get_by_role("link")).to_have_attribute("aria-current", "page")
    await context.close()


async def test_a_running_answer_and_one_that_nobody_has_seen_are_marked(chromium: Browser, tmp_path: Path) -> None:
    """The session is left while it answers, and the mark goes when it is looked at."""
    over = tmp_path / "over"
    async with ServerProcess(tmp_path / "data", settings=talker.SETTINGS, flags=talker.FLAGS) as server:
        context = await chromium.new_context()
        page = await open_session(context, server, "long")
        await say(page, script("word ", every_ms=50, until=str(over)))
        await expect(answers(page, "streaming")).to_have_count(1)
        await expect(rows(page).get_by_test_id("running")).to_have_count(1)
        await page.get_by_test_id("new-chat").first.click()
        await expect(page.get_by_test_id("session-id")).not_to_have_text("long")
        await expect(rows(page).get_by_test_id("running")).to_have_count(1)
        over.touch()
        await expect(rows(page).get_by_test_id("unread")).to_have_count(1)
        await rows(page).get_by_role("link").click()
        await expect(answers(page, "completed")).to_have_count(1)
        await expect(rows(page).get_by_test_id("unread")).to_have_count(0)
        assert "session=long" in page.url
        await context.close()


async def test_a_session_is_renamed_in_its_line_and_other_tabs_see_it(chromium: Browser, server: ServerProcess) -> None:
    """Enter keeps the new title, Esc the old one; hostile titles are text."""
    context = await chromium.new_context()
    page, other = [await open_session(context, server, name) for name in ("one", "two")]
    await say(page, "hello")
    await expect(rows(page)).to_have_count(1)
    await menu(page, rows(page), "rename")
    await page.get_by_test_id("rename").fill("never")
    await page.keyboard.press("Escape")
    await expect(rows(page)).not_to_contain_text("never")
    await menu(page, rows(page), "rename")
    title = "<img src=x onerror=alert(1)> canary"
    await page.get_by_test_id("rename").fill(title)
    await page.keyboard.press("Enter")
    for each in (page, other):
        await expect(rows(each)).to_contain_text(title)
    await expect(page.get_by_role("heading", level=1)).to_have_text(title)
    await context.close()


async def test_a_session_is_archived_and_found_again(chromium: Browser, server: ServerProcess) -> None:
    """Archived sessions are out of the way until they are asked for."""
    page = await open_session(await chromium.new_context(), server, "now")
    await make(page, "old", "An old matter")
    await page.reload()
    await connected(page)
    await menu(page, rows(page), "archive")
    await expect(rows(page)).to_have_count(0)
    await page.get_by_test_id("archived").check()
    await expect(rows(page)).to_contain_text("An old matter")
    await menu(page, rows(page), "archive")
    await page.get_by_test_id("archived").uncheck()
    await expect(rows(page)).to_contain_text("An old matter")


async def test_a_deletion_can_be_undone_and_is_carried_out_otherwise(chromium: Browser, server: ServerProcess) -> None:
    """The server deletes for good, so it is asked only when the time to undo has passed."""
    page = await open_session(await chromium.new_context(), server, "now")
    await make(page, "doomed", "Doomed")
    await page.reload()
    await connected(page)
    await menu(page, rows(page), "delete")
    await expect(rows(page)).to_have_count(0)
    await expect(page.get_by_test_id("toast")).to_contain_text("Deleted: “Doomed”")
    await page.get_by_test_id("undo").click()
    await expect(rows(page)).to_contain_text("Doomed")
    # The notice goes when the server is asked, which answers when it has done it.
    async with page.expect_response(lambda response: response.request.method == "DELETE", timeout=60_000):
        await menu(page, rows(page), "delete")
    await expect(page.get_by_test_id("toast")).to_have_count(0)
    listed = await call(page, "GET", "/api/llm/sessions?include_archived=true")
    assert listed == {"success": True, "data": [], "count": 0, "limit": 50, "offset": 0}


async def test_a_deletion_is_carried_out_by_a_tab_that_is_closed(chromium: Browser, server: ServerProcess) -> None:
    """Nobody can undo it any more."""
    context = await chromium.new_context()
    page, other = [await open_session(context, server, name) for name in ("one", "two")]
    await make(page, "doomed", "Doomed")
    await page.reload()
    await connected(page)
    await menu(page, rows(page), "delete")
    await expect(rows(page)).to_have_count(0)
    await page.close(run_before_unload=True)
    await other.wait_for_function(
        "async () => (await (await fetch('/api/llm/sessions')).json()).count === 0", timeout=60_000
    )
    await context.close()


async def test_sessions_are_searched_by_what_was_said_in_them(chromium: Browser, server: ServerProcess) -> None:
    """Ctrl+K goes to the field, and a word that is nowhere is said to be found nowhere."""
    page = await open_session(await chromium.new_context(), server, "pears")
    await say(page, "all about pears")
    await expect(answers(page, "completed")).to_have_count(1)
    await make(page, "apples", "On apples")
    await page.reload()
    await connected(page)
    await expect(rows(page)).to_have_count(2)
    await page.keyboard.press("Control+k")
    await page.keyboard.type("pear")
    await expect(rows(page)).to_have_count(1)
    await page.keyboard.press("Control+k")
    await page.keyboard.type("quinces")
    await expect(page.get_by_test_id("list-empty")).to_contain_text("quinces")
    await page.keyboard.press("Escape")
    await expect(rows(page)).to_have_count(2)


async def test_a_session_is_saved_as_a_file(chromium: Browser, server: ServerProcess) -> None:
    """As Markdown, to read, and as JSON, to bring back."""
    page = await open_session(await chromium.new_context(), server, "kept")
    await say(page, "canary to keep")
    await expect(answers(page, "completed")).to_have_count(1)
    for form in ("markdown", "json"):
        await rows(page).hover()
        await rows(page).get_by_test_id("session-menu").click()
        async with page.expect_download() as saved:
            await page.get_by_test_id(f"menu-{form}").click()
        kept = await asyncio.to_thread(Path(await (await saved.value).path()).read_text)
        assert "canary to keep" in kept
    await connected(page)


async def test_projects_are_folders_of_the_list(chromium: Browser, server: ServerProcess) -> None:
    """One project's sessions, or all."""
    page = await open_session(await chromium.new_context(), server, "now")
    await make(page, "a", "In houses", "houses")
    await make(page, "b", "Elsewhere")
    await page.reload()
    await connected(page)
    await expect(rows(page)).to_have_count(2)
    await page.get_by_test_id("project").select_option("houses")
    await expect(rows(page)).to_have_count(1)
    await expect(rows(page)).to_contain_text("In houses")


async def test_the_list_is_worked_by_keyboard(chromium: Browser, server: ServerProcess) -> None:
    """Arrows go through it, Enter opens, F2 renames, Ctrl+Shift+O begins anew."""
    page = await open_session(await chromium.new_context(), server, "now")
    for name in "abc":
        await make(page, name, f"Title {name}")
    await page.reload()
    await connected(page)
    await expect(rows(page)).to_have_count(3)
    await rows(page).first.get_by_role("link").focus()
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("F2")
    await page.keyboard.type("Second")
    await page.keyboard.press("Enter")
    await expect(rows(page).filter(has_text="Second")).to_have_count(1)
    await rows(page).filter(has_text="Title a").get_by_role("link").focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Title a")
    await page.keyboard.press("Control+Shift+o")
    await expect(page.get_by_test_id("composer")).to_be_focused()
    assert "session=a" not in page.url


async def test_ten_thousand_sessions_scroll_with_few_rows_drawn_and_are_searched(
    chromium: Browser, server: ServerProcess
) -> None:
    """Pages come as the list is scrolled, each session once."""
    page = await open_session(await chromium.new_context(), server, "now")
    await page.evaluate(
        """async (count) => {
            const headers = {'Content-Type': 'application/json'};
            for (let at = 0; at < count; at += 50) {
                await Promise.all(Array.from({length: 50}, (_, i) => fetch('/api/session/create', {method: 'POST',
                    headers, body: JSON.stringify({session_id: `many-${at + i}`, title: `Number ${at + i}`})})));
            }
        }""",
        MANY,
    )
    await page.reload()
    await connected(page)
    await expect(rows(page).first).to_contain_text("Number")
    seen = await page.evaluate(
        """async (count) => {
            const list = document.querySelector('[data-testid=session-list]');
            const seen = new Set();
            let most = 0;
            for (let idle = 0; idle < 2000 && seen.size < count; idle++) {
                const drawn = list.querySelectorAll('[data-testid=session-row] a');
                most = Math.max(most, drawn.length);
                const before = seen.size;
                for (const row of drawn) seen.add(row.dataset.id);
                if (seen.size > before) idle = 0;
                list.scrollTop += list.clientHeight / 2;
                for (let frame = 0; frame < 2; frame++) await new Promise(requestAnimationFrame);
            }
            return [seen.size, most];
        }""",
        MANY,
    )
    assert seen[0] == MANY
    assert seen[1] < 60
    await page.get_by_test_id("search").fill(f"Number {MANY - 1234}")
    await expect(rows(page)).to_have_count(1, timeout=30_000)
    await expect(rows(page)).to_contain_text(f"Number {MANY - 1234}")
    await page.get_by_test_id("search").fill("")
    await expect(rows(page).nth(5)).to_be_visible(timeout=30_000)
    assert await rows(page).count() < 60


async def test_a_list_that_cannot_be_read_says_so_and_tries_again(chromium: Browser, server: ServerProcess) -> None:
    """The conversation works meanwhile."""
    context = await chromium.new_context()
    await context.route("**/api/llm/sessions*", lambda route: route.abort())
    page = await open_session(context, server, "now")
    await expect(page.get_by_test_id("list-failed")).to_be_visible()
    await context.unroute_all()
    await page.get_by_test_id("list-failed").get_by_role("button").click()
    await expect(page.get_by_test_id("list-empty")).to_be_visible()
    await context.close()


async def test_a_session_of_another_device_appears_when_the_tab_is_looked_at(
    chromium: Browser, server: ServerProcess
) -> None:
    """Nothing tells the browser of it, so it asks when somebody comes back to the tab."""
    context = await chromium.new_context()
    page = await open_session(context, server, "now")
    await expect(page.get_by_test_id("list-empty")).to_be_visible()
    await make(page, "afar", "From another device")
    await page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
    await expect(rows(page)).to_contain_text("From another device")
    await context.close()


async def test_a_list_is_true_again_after_the_connection_was_away(chromium: Browser, tmp_path: Path) -> None:
    """Whatever happened meanwhile is asked for when the stream is back."""
    async with ServerProcess(tmp_path / "data", flags=("--port", str(free_port()))) as server:
        page = await open_session(await chromium.new_context(), server, "now")
        await expect(page.get_by_test_id("list-empty")).to_be_visible()
        await make(page, "meanwhile", "Made meanwhile")
        await server.restart()
        await expect(rows(page)).to_contain_text("Made meanwhile", timeout=30_000)


async def test_a_session_that_was_continued_from_an_answer_is_in_the_list(
    chromium: Browser, server: ServerProcess
) -> None:
    """In this tab and in the others, at once."""
    context = await chromium.new_context()
    page, other = [await open_session(context, server, name) for name in ("one", "two")]
    await say(page, "hello")
    await expect(answers(page, "completed")).to_have_count(1)
    await expect(rows(page)).to_have_count(1)
    await answers(page, "completed").hover()
    await page.get_by_test_id("fork").click()
    for each in (page, other):
        await expect(rows(each)).to_have_count(2)
    await context.close()


async def test_a_title_that_comes_by_itself_leaves_what_is_being_written(
    chromium: Browser, server: ServerProcess
) -> None:
    """Neither the text nor the field is taken away by news of the list."""
    page = await open_session(await chromium.new_context(), server, "one")
    await say(page, "hello")
    await expect(rows(page)).to_have_count(1)
    await make(page, "older", "Another one")
    await page.reload()
    await connected(page)
    await expect(rows(page)).to_have_count(2)
    await rows(page).filter(has_text="hello").get_by_role("link").focus()
    await page.keyboard.press("F2")
    await page.keyboard.type("My own ")
    await call(page, "PUT", "/api/llm/sessions/one", {"session_name": "By itself"})
    await expect(page.get_by_role("heading", level=1)).to_have_text("By itself")
    await call(page, "PUT", "/api/llm/sessions/older", {"session_name": "Newest now"})
    await page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
    await expect(page.get_by_test_id("rename")).to_be_focused()
    await page.keyboard.type("title")
    await expect(page.get_by_test_id("rename")).to_have_value("My own title")
    await page.keyboard.press("Enter")
    await expect(rows(page).filter(has_text="My own title").get_by_role("link")).to_be_focused()
    await expect(rows(page).filter(has_text="Newest now")).to_have_count(1)


async def test_the_keyboard_stays_in_the_list_whatever_is_done_to_its_lines(
    chromium: Browser, server: ServerProcess
) -> None:
    """After a new title on its line, after a line has gone on its neighbour, after Undo on the line that is back."""
    page = await open_session(await chromium.new_context(), server, "now")
    for name in "abc":
        await make(page, name, f"Title {name}")
    await page.reload()
    await connected(page)
    await expect(rows(page)).to_have_count(3)

    def line(text: str) -> Locator:
        return rows(page).filter(has_text=text).get_by_role("link")

    await line("Title a").focus()
    await page.keyboard.press("F2")
    await page.keyboard.press("Escape")
    await expect(line("Title a")).to_be_focused()
    await page.keyboard.press("Delete")  # the last line
    await expect(line("Title a")).to_have_count(0)
    await expect(line("Title b")).to_be_focused()
    await page.get_by_test_id("undo").focus()
    await page.keyboard.press("Enter")
    await expect(line("Title a")).to_be_focused()
    await page.keyboard.press("Delete")
    await expect(line("Title b")).to_be_focused()
    await page.keyboard.press("Control+z")
    await expect(line("Title a")).to_be_focused()
    await menu(page, rows(page).filter(has_text="Title c"), "archive")
    await expect(line("Title c")).to_have_count(0)
    await expect(line("Title b")).to_be_focused()
    await menu(page, rows(page).filter(has_text="Title b"), "delete")
    await expect(line("Title a")).to_be_focused()
    await page.keyboard.press("Delete")
    await expect(rows(page)).to_have_count(0)
    await expect(page.get_by_test_id("search")).to_be_focused()


async def test_the_time_to_undo_waits_for_whoever_is_at_it(chromium: Browser, server: ServerProcess) -> None:
    """By keyboard or by pointer; the clock is the test's."""
    page = await open_session(await chromium.new_context(), server, "now")
    await make(page, "doomed", "Doomed")
    await page.clock.install()
    await page.reload()
    await connected(page)
    await menu(page, rows(page), "delete")
    await page.get_by_test_id("undo").focus()
    await page.clock.run_for(30_000)
    await expect(page.get_by_test_id("toast")).to_be_visible()
    await page.get_by_test_id("search").focus()
    await page.clock.run_for(5_000)
    await expect(page.get_by_test_id("toast")).to_be_visible()
    await page.clock.run_for(1_500)
    await expect(page.get_by_test_id("toast")).to_have_count(0)


async def test_a_tool_call_that_waits_is_marked_and_said_wherever_one_is(chromium: Browser, tmp_path: Path) -> None:
    """In the list, in the tab's title and in the status line; what the tab may approve, it approves from elsewhere."""
    config = tmp_path / "chatserver.toml"
    config.write_text(ASKING)
    flags = ("--config", str(config), *talker.FLAGS)
    async with ServerProcess(tmp_path / "data", settings=talker.SETTINGS, flags=flags) as server:
        context = await chromium.new_context()
        page = await open_session(context, server, "asks")
        left, left_again = tmp_path / "left", tmp_path / "left-again"
        call_tool = ["time", "get_current_time", {"timezone": "Asia/Tokyo"}]
        await say(page, script("", after=str(left), tool=call_tool))
        await expect(answers(page, "streaming")).to_have_count(1)
        await page.get_by_test_id("new-chat").first.click()
        await expect(page.get_by_test_id("session-id")).not_to_have_text("asks")
        left.touch()
        await expect(rows(page).get_by_test_id("waiting")).to_have_count(1, timeout=30_000)
        await expect(page.get_by_test_id("status")).to_contain_text("needs your approval")
        await rows(page).get_by_role("link").click()
        await expect(page.get_by_test_id("approve")).to_be_visible()
        assert (await page.title()).startswith("! ")
        await page.get_by_test_id("approve-always").click()
        await expect(answers(page, "completed")).to_have_count(1, timeout=30_000)
        await expect(rows(page).get_by_test_id("waiting")).to_have_count(0)
        assert not (await page.title()).startswith("! ")
        await say(page, script("", after=str(left_again), tool=call_tool))
        await expect(answers(page, "streaming")).to_have_count(1)
        await page.get_by_test_id("new-chat").first.click()
        await expect(page.get_by_test_id("session-id")).not_to_have_text("asks")
        left_again.touch()
        await expect(rows(page).get_by_test_id("unread")).to_have_count(1, timeout=30_000)
        await rows(page).get_by_role("link").click()
        await expect(answers(page, "completed")).to_have_count(2)
        await context.close()


async def test_a_title_that_a_model_makes_appears_by_itself(chromium: Browser, tmp_path: Path) -> None:
    """In every tab, also of a session that has been left before the title was there."""
    titled = asyncio.Event()

    async def title(request: web.Request) -> web.StreamResponse:
        await titled.wait()
        return await stream(text("Rings of Saturn"), finish(), DONE)(request)

    config = tmp_path / "chatserver.toml"
    settings = {"scripted": None, "default_model": None, "auto_titles": "model"}
    async with running_upstream() as upstream:
        upstream.answers = [stream(text("They are made of ice."), finish(), DONE), title]
        config.write_text(NAMED_BY_A_MODEL.format(base_url=upstream.base_url))
        async with ServerProcess(tmp_path / "data", settings=settings, flags=("--config", str(config))) as server:
            context = await chromium.new_context()
            page, other = [await open_session(context, server, name) for name in ("one", "two")]
            await say(page, "what are its rings made of?")
            await expect(answers(page, "completed")).to_have_count(1)
            await expect(rows(page)).to_contain_text("They are made of ice.")
            await page.get_by_test_id("new-chat").first.click()
            await expect(page.get_by_test_id("composer")).to_be_focused()
            titled.set()
            for each in (page, other):
                await expect(rows(each)).to_have_count(1)
                await expect(rows(each)).to_contain_text("Rings of Saturn")
            assert len(upstream.requests) == 2
            await context.close()
