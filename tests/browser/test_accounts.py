"""Accounts on the page: logging in and out, what comes along, and what one is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Browser, BrowserContext, Page, Route, expect

from tests.browser.page import answers, connected, open_session, say, words
from tests.server import ServerProcess
from tests.test_users_command import users_process

pytestmark = pytest.mark.browser

PASSWORD = "a long enough passphrase"


async def fill(page: Page, username: str, password: str = PASSWORD) -> None:
    """Fill the form and send it."""
    await page.locator("input[name=username]").fill(username)
    await page.locator("input[name=password]").fill(password)
    await page.get_by_test_id("login-submit").click()


async def test_a_visitor_becomes_a_user_and_keeps_the_sessions(chromium: Browser, tmp_path: Path) -> None:
    """Registered, logged out, logged in elsewhere: the words are there again, and nowhere without a login."""
    async with ServerProcess(tmp_path / "data") as server:
        context = await chromium.new_context()
        page = await open_session(context, server, "mine")
        await say(page, "canary of a visitor")
        await expect(answers(page, "completed")).to_have_count(1)
        await page.get_by_test_id("login-open").click()
        await page.get_by_test_id("login-other").click()
        await fill(page, "grace")
        await expect(page.get_by_test_id("account")).to_contain_text("grace")
        await connected(page)
        await say(page, "and of a user")
        await expect(answers(page, "completed")).to_have_count(2)
        await expect(page.get_by_test_id("session-row")).to_have_count(1)

        await page.get_by_test_id("account").click()
        await page.get_by_test_id("logout").click()
        await expect(page.get_by_test_id("login-open")).to_be_visible()
        await connected(page)
        await expect(page.get_by_test_id("list-empty")).to_be_visible()
        assert "canary" not in await page.content()

        elsewhere = await chromium.new_context()
        again = await open_session(elsewhere, server, "other")
        await again.get_by_test_id("login-open").click()
        await fill(again, "grace")
        await again.get_by_test_id("session-row").get_by_role("link").click()
        await expect(answers(again, "completed")).to_have_count(2)
        assert "canary of a visitor" in await words(again)
        await context.close()
        await elsewhere.close()


async def test_a_wrong_password_is_told_and_nothing_is_lost(chromium: Browser, tmp_path: Path) -> None:
    """Esc leaves the form, and the conversation is where it was."""
    async with ServerProcess(tmp_path / "data") as server:
        page = await open_session(await chromium.new_context(), server, "mine")
        await page.get_by_test_id("composer").fill("a draft")
        await page.get_by_test_id("login-open").click()
        await fill(page, "nobody")
        await expect(page.get_by_test_id("login-error")).to_contain_text("wrong")
        await page.keyboard.press("Escape")
        await expect(page.get_by_test_id("login")).to_have_count(0)
        await expect(page.get_by_test_id("composer")).to_have_value("a draft")


async def two_tabs_of_a_user(context: BrowserContext, server: ServerProcess) -> tuple[Page, Page]:
    """One in which somebody has just made an account, and another that has heard of it and holds a canary's words."""
    page, other = [await open_session(context, server, name) for name in ("one", "two")]
    await page.get_by_test_id("login-open").click()
    await page.get_by_test_id("login-other").click()
    await fill(page, "grace")
    await expect(other.get_by_test_id("account")).to_contain_text("grace")
    await connected(other)
    await say(other, "canary in the other tab")
    await expect(answers(other, "completed")).to_have_count(1)
    return page, other


async def test_a_logout_takes_the_words_from_every_tab(chromium: Browser, tmp_path: Path) -> None:
    """Whoever sits down next at this browser reads nothing."""
    async with ServerProcess(tmp_path / "data") as server:
        context = await chromium.new_context()
        page, other = await two_tabs_of_a_user(context, server)
        await page.get_by_test_id("account").click()
        await page.get_by_test_id("logout").click()
        await expect(other.get_by_test_id("login-open")).to_be_visible()
        assert "canary" not in await other.content()
        await context.close()


async def test_a_logout_takes_the_words_from_a_tab_that_cannot_ask_at_once(chromium: Browser, tmp_path: Path) -> None:
    """It learns that somebody has logged out, and asks until it is told who sits there now."""
    async with ServerProcess(tmp_path / "data") as server:
        context = await chromium.new_context()
        page, other = await two_tabs_of_a_user(context, server)
        await expect(other.get_by_test_id("session-row")).to_have_count(1)
        failed: list[str] = []

        async def once(route: Route) -> None:
            if failed:
                return await route.continue_()
            failed.append(route.request.url)
            await route.abort()

        await other.route("**/api/auth/me", once)
        await page.get_by_test_id("account").click()
        await page.get_by_test_id("logout").click()
        await expect(other.get_by_test_id("login-open")).to_be_visible()
        await expect(other.locator("[role=log]")).not_to_contain_text("canary")
        assert "canary" not in await other.content()
        assert failed
        await context.close()


async def test_the_back_button_brings_no_words_back_after_a_logout(chromium: Browser, tmp_path: Path) -> None:
    """Neither out of the browser's cache nor from the server."""
    async with ServerProcess(tmp_path / "data") as server:
        context = await chromium.new_context()
        page = await open_session(context, server, "mine")
        await page.get_by_test_id("login-open").click()
        await page.get_by_test_id("login-other").click()
        await fill(page, "grace")
        await expect(page.get_by_test_id("account")).to_contain_text("grace")
        await connected(page)
        await say(page, "canary of grace")
        await expect(answers(page, "completed")).to_have_count(1)
        await page.get_by_test_id("new-chat").first.click()
        await page.get_by_test_id("account").click()
        await page.get_by_test_id("logout").click()
        await expect(page.get_by_test_id("login-open")).to_be_visible()
        await page.go_back()
        await expect(page.get_by_test_id("error")).to_contain_text("belongs to somebody else", timeout=20_000)
        assert "canary" not in await page.content()
        await context.close()


async def test_a_server_for_known_people_asks_first(chromium: Browser, tmp_path: Path) -> None:
    """Its page is a way in, and after it the session works."""
    async with ServerProcess(tmp_path / "data", settings={"auth": "required"}) as server:
        page = await (await chromium.new_context()).new_page()
        await page.goto(f"{server.base_url}/?session=mine")
        await expect(page.get_by_test_id("gate")).to_be_visible()
        await page.get_by_test_id("login-other").click()
        await fill(page, "grace")
        await connected(page)
        await say(page, "hello")
        await expect(answers(page, "completed")).to_have_count(1)
        await page.reload()
        await connected(page)
        await expect(answers(page, "completed")).to_have_count(1)


async def test_a_limit_is_told_with_the_time_it_ends(chromium: Browser, tmp_path: Path) -> None:
    """The message stays, and can be sent again."""
    async with ServerProcess(tmp_path / "data", settings={"messages_per_minute": 1}) as server:
        page = await open_session(await chromium.new_context(), server, "mine")
        for i in range(4):
            await say(page, f"message {i}")
        await expect(page.get_by_test_id("error").first).to_contain_text("ends at")


async def test_a_session_that_is_not_ones_own_is_explained(chromium: Browser, tmp_path: Path) -> None:
    """And a way on is offered: never a blank page."""
    async with ServerProcess(tmp_path / "data") as server:
        owner = await open_session(await chromium.new_context(), server, "theirs")
        await say(owner, "canary")
        await expect(answers(owner, "completed")).to_have_count(1)
        page = await (await chromium.new_context()).new_page()
        await page.goto(f"{server.base_url}/?session=theirs")
        await expect(page.get_by_test_id("error")).to_contain_text("belongs to somebody else")
        await page.get_by_test_id("error").get_by_role("button", name="New chat").click()
        await connected(page)
        await say(page, "my own")
        await expect(answers(page, "completed")).to_have_count(1)


async def test_a_user_of_an_organisation_logs_in_with_its_name(chromium: Browser, tmp_path: Path) -> None:
    """The field is there for whoever looks for it. Of the same name in two organisations, each sees their own words,
    also in a tab where the other one's were shown before."""
    async with ServerProcess(tmp_path / "data") as server:
        status, told = await users_process(
            tmp_path / "data", "add", "grace", "--tenant", "acme", "--password-stdin", stdin=f"{PASSWORD}\n"
        )
        assert status == 0, told
        context = await chromium.new_context()
        page, other = [await open_session(context, server, name) for name in ("one", "two")]
        await page.get_by_test_id("login-open").click()
        await page.get_by_test_id("login-other").click()
        await fill(page, "grace")
        await expect(other.get_by_test_id("account")).to_contain_text("grace")
        await connected(other)
        await say(other, "canary of the public one")
        await expect(answers(other, "completed")).to_have_count(1)

        await page.get_by_test_id("account").click()
        await page.get_by_test_id("logout").click()
        await page.get_by_test_id("login-open").click()
        await expect(page.locator("input[name=tenant]")).to_be_hidden()
        await page.get_by_test_id("login-tenant").click()
        await page.locator("input[name=tenant]").fill("acme")
        await fill(page, "grace")
        await expect(page.get_by_test_id("account")).to_contain_text("grace")
        await expect(page.get_by_test_id("list-empty")).to_be_visible()
        await connected(page)
        await say(page, "hello to acme")
        await expect(answers(page, "completed")).to_have_count(1)
        for tab in (page, other):
            assert "canary" not in await tab.content()
        me = await (await context.request.get(f"{server.base_url}/api/auth/me")).json()
        assert (me["username"], me["tenant"]) == ("grace", "acme")
        await context.close()


async def test_a_user_changes_the_password_in_the_page(chromium: Browser, tmp_path: Path) -> None:
    """A wrong one is told; with the right one this browser goes on, in all its tabs, and another computer is out."""
    async with ServerProcess(tmp_path / "data") as server:
        context, elsewhere = await chromium.new_context(), await chromium.new_context()
        page, tab = [await open_session(context, server, name) for name in ("one", "two")]
        await page.get_by_test_id("login-open").click()
        await page.get_by_test_id("login-other").click()
        await fill(page, "grace")
        await expect(tab.get_by_test_id("account")).to_contain_text("grace")
        away = await open_session(elsewhere, server, "three")
        await away.get_by_test_id("login-open").click()
        await fill(away, "grace")
        await expect(away.get_by_test_id("account")).to_contain_text("grace")

        await page.get_by_test_id("account").click()
        await page.get_by_test_id("password-open").click()
        await expect(page.locator("input[name=username]")).to_be_hidden()
        await expect(page.locator("input[name=password]")).to_be_focused()
        await page.locator("input[name=password]").fill("not the one")
        await page.locator("input[name=new-password]").fill("another passphrase")
        await page.get_by_test_id("login-submit").click()
        await expect(page.get_by_test_id("login-error")).to_contain_text("current password is wrong")
        await page.locator("input[name=password]").fill(PASSWORD)
        await page.get_by_test_id("login-submit").click()
        await expect(page.get_by_test_id("login")).to_have_count(0)

        for mine in (page, tab):
            await connected(mine)
            await say(mine, "still here")
            await expect(answers(mine, "completed")).to_have_count(1)
            await expect(mine.get_by_test_id("account")).to_contain_text("grace")
        await expect(away.get_by_test_id("error").first).to_contain_text("login")
        for password, status in ((PASSWORD, 401), ("another passphrase", 200)):
            answer = await elsewhere.request.post(
                f"{server.base_url}/api/auth/login",
                data={"username": "grace", "password": password},
                headers={"Origin": server.base_url},
            )
            assert answer.status == status
        await context.close()
        await elsewhere.close()
