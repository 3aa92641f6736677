"""Hostile text through every way into the page: nothing of it runs, loads or is refused only by the CSP."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Request, expect

from tests.browser.page import answers, connected, open_session, say
from tests.browser.talker import script
from tests.browser.vectors import ALL, HTML
from tests.server import ROOT, ServerProcess

pytestmark = pytest.mark.browser

CONFIG = """
[[mcp_servers]]
name = "evil"
command = ["{python}", "{program}"]
approval = "never"
"""

# A tool server whose names, descriptions, schemas and results are hostile.
TOOL_SERVER = """
from mcp.server.mcpserver import MCPServer
from tests.browser.vectors import ALL

server = MCPServer("evil")

@server.tool(description=ALL[5] + ALL[0])
def say(text: str = ALL[5]) -> str:
    return "\\n\\n".join(ALL)

server.run()
"""

# What a page that lets something through would do: call `pwned`, or break its own policy.
WATCH = """
window.pwned = () => { window.harmed = (window.harmed ?? 0) + 1; };
window.violations = [];
document.addEventListener('securitypolicyviolation', (e) =>
    window.violations.push(`${e.violatedDirective} ${e.blockedURI} ${e.sample}`));
"""


async def test_nothing_hostile_runs_or_leaves(chromium: Browser, tmp_path: Path, screenshots: Path) -> None:
    """Through answers (whole, and cut anywhere), reasoning, questions, notes, titles, errors, tools, queue, drafts."""
    program = tmp_path / "evil_server.py"
    program.write_text(TOOL_SERVER)
    config = tmp_path / "chatserver.toml"
    config.write_text(CONFIG.format(python=sys.executable, program=program) + f'env = {{ PYTHONPATH = "{ROOT}" }}\n')
    settings = {"scripted": None, "default_model": None, "no_docs": None, "max_message_chars": 200_000}
    flags = ("--config", str(config), "--agent", "tests.browser.talker:reply")
    async with ServerProcess(tmp_path / "data", settings=settings, flags=flags) as server:
        context = await chromium.new_context(viewport={"width": 1000, "height": 800})
        await context.add_init_script(WATCH)
        outside: list[str] = []
        complaints: list[str] = []
        own = urlsplit(server.base_url).netloc

        def asked(request: Request) -> None:
            if urlsplit(request.url).netloc != own and not request.url.startswith("data:image/"):
                outside.append(request.url)

        context.on("request", asked)
        context.on("weberror", lambda error: complaints.append(str(error.error)))
        context.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page = await open_session(context, server, "hostile")

        # A model's answer: each vector a block of its own, growing in small pieces, so that every cut is shown.
        whole = "\n\n".join(ALL)
        await say(page, script(whole, pieces=len(whole) // 7, every_ms=1, reason=whole))
        await expect(answers(page, "completed")).to_have_count(1, timeout=60_000)
        await answers(page, "completed").get_by_test_id("reasoning").click()
        # And each alone, as the beginning and as the end of a message.
        for vector in ALL:
            await page.evaluate(
                """async ([message]) => {
                    const headers = {'Content-Type': 'application/json'};
                    const body = JSON.stringify({message, session_id: 'hostile'});
                    const answer = await fetch('/api/chat', {method: 'POST', headers, body});
                    if (!answer.ok && answer.status !== 429) throw new Error(await answer.text());
                }""",
                [vector.replace("\x00", "")],
            )
            await expect(page.get_by_test_id("queued")).to_have_count(0)
        await expect(answers(page, "completed")).to_have_count(1 + len(ALL), timeout=60_000)

        # A tool's name, description, schema, arguments and result.
        await say(page, script("", tool=["evil", "say", {"text": whole}]))
        await expect(answers(page, "completed")).to_have_count(2 + len(ALL), timeout=60_000)
        await page.get_by_test_id("tool").locator("summary").click()
        composer = page.get_by_test_id("composer")
        await composer.press_sequentially("/evil")
        await composer.press("Enter")
        await page.get_by_test_id("palette-run").click(timeout=20_000)
        await expect(page.get_by_test_id("palette-result")).to_contain_text("pwned", timeout=20_000)
        await page.keyboard.press("Escape")

        # A note, an error's words, a title, a queued message and a draft.
        await page.evaluate(
            """async ([note]) => {
                await fetch('/api/system', {method: 'POST', headers: {'Content-Type': 'application/json'},
                    body: JSON.stringify({message: note, session_id: 'hostile'})});
            }""",
            [whole],
        )
        await say(page, script("", fail=whole))
        await expect(answers(page, "failed")).to_have_count(1)
        for title in ("<img src=x onerror=pwned()>", "</title><script>pwned()</script>"):
            await page.evaluate(
                """async ([title]) => {
                    const answer = await fetch('/api/projects/default/sessions/hostile', {method: 'PUT',
                        headers: {'Content-Type': 'application/json'}, body: JSON.stringify({title})});
                    if (!answer.ok) throw new Error(await answer.text());
                }""",
                [title],
            )
            await expect(page.locator("h1")).to_have_text(title)
        await say(page, script("word ", every_ms=20, times=2000))
        await expect(answers(page, "streaming")).to_have_count(1)
        await say(page, HTML[5])
        await expect(page.get_by_test_id("queued")).to_have_count(1)
        await composer.fill(whole)
        await page.screenshot(path=screenshots / "hostile.png")
        await page.get_by_test_id("stop").click()

        # All of it again, from a snapshot.
        await page.reload()
        await connected(page)
        await expect(page.get_by_test_id("message").first).to_be_visible()
        # Whatever listens to the pointer or the focus gets its chance.
        await page.evaluate(
            """() => {
                const types = ['mouseover', 'pointerenter', 'focus', 'toggle', 'animationstart', 'error', 'load'];
                for (const element of document.querySelectorAll('[role=log] *')) {
                    for (const type of types)
                        element.dispatchEvent(new Event(type, {bubbles: false}));
                }
                for (const link of document.querySelectorAll('[role=log] a[href]'))
                    if (!/^(https?:|mailto:)/i.test(link.getAttribute('href'))) window.pwned();
            }"""
        )
        inside = await page.evaluate(
            """() => [...document.querySelectorAll('[role=log] *')].filter((e) =>
                /^(script|iframe|object|embed|form|style|link|meta|base|video|audio|svg:script)$/i.test(e.tagName) &&
                !e.matches('[data-testid], form:has(textarea), form:has(input)') ||
                [...e.attributes].some((a) => a.name.startsWith('on'))).map((e) => e.outerHTML.slice(0, 200))"""
        )
        assert inside == []
        assert await page.evaluate("window.harmed ?? 0") == 0
        assert await page.evaluate("window.violations") == []
        assert outside == []
        assert complaints == []
        await context.close()
