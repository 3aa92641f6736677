"""What people do on the page, for tests: open a session, say something, read what is there."""

from __future__ import annotations

import aiohttp
from playwright.async_api import BrowserContext, Locator, Page, expect

from tests.server import ServerProcess


async def open_session(context: BrowserContext, server: ServerProcess, session_id: str) -> Page:
    """A new tab on the session, connected."""
    page = await context.new_page()
    await page.goto(f"{server.base_url}/?session={session_id}")
    await connected(page)
    return page


async def connected(page: Page) -> None:
    """Wait until the page hears the server."""
    await expect(page.get_by_test_id("connection")).to_have_attribute("data-state", "connected", timeout=30_000)


async def say(page: Page, text: str) -> None:
    """Write a message and send it."""
    await page.get_by_test_id("composer").fill(text)
    await page.get_by_test_id("send").click()


def answers(page: Page, status: str) -> Locator:
    """The answers of one status, as a locator."""
    return page.locator(f'[data-testid=message][data-role=assistant][data-status="{status}"]')


async def words(page: Page) -> str:
    """Everything the conversation shows."""
    return await page.locator('[role="log"]').inner_text()


async def fill(server: ServerProcess, page: Page, session_id: str, count: int) -> None:
    """Store `count` messages in the page's session, as its visitor, without turns."""
    cookies = {c["name"]: c["value"] for c in await page.context.cookies()}
    headers = {"Origin": server.base_url}
    async with aiohttp.ClientSession(server.base_url, cookies=cookies, headers=headers) as http:
        for n in range(count):
            role = "user" if n % 2 == 0 else "assistant"
            content = f"message {n}" if n % 2 == 0 else f"Answer **{n}**\n\n" + "Some words of it. " * (n % 40)
            path = f"/api/projects/default/sessions/{session_id}/messages"
            async with http.post(path, json={"role": role, "content": content}) as response:
                assert response.status == 201, await response.text()
