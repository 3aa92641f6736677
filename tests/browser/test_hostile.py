"""Hostile text through every way into the page: nothing of it runs, loads or is refused only by the CSP."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, BrowserContext, Page, Request, Route, expect

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


# Every element that a page of ours has no use for, every handler in an attribute, every link that leads to no page.
FOREIGN = """(within) => [...document.querySelectorAll(within + ' *')].filter((e) =>
    /^(script|iframe|frame|object|embed|applet|form|style|link|meta|base|video|audio|source|marquee|math|svg:script)$/i
        .test(e.tagName) && !e.matches('form:has(textarea, input), .katex math') ||
    [...e.attributes].some((a) => a.name.startsWith('on')) ||
    e.matches('a[href]') && !/^(https?|mailto):$/.test(new URL(e.getAttribute('href'), location).protocol)
).map((e) => e.outerHTML.slice(0, 200))"""


class Witness:
    """Sees what a browser does in spite of itself: scripts that ran, requests to elsewhere, what the policy stopped."""

    def __init__(self, server: ServerProcess) -> None:
        self._own = urlsplit(server.base_url).netloc
        self._outside: list[str] = []
        self._complaints: list[str] = []

    async def watch(self, context: BrowserContext) -> None:
        """From now on, in every page of it."""
        await context.add_init_script(WATCH)
        context.on("request", self._asked)
        context.on("weberror", lambda error: self._complaints.append(str(error.error)))
        # A refusal that the page was told of is no complaint about the page.
        context.on(
            "console",
            lambda message: (
                self._complaints.append(message.text)
                if message.type == "error" and "the server responded with a status of 4" not in message.text
                else None
            ),
        )

    def _asked(self, request: Request) -> None:
        if urlsplit(request.url).netloc != self._own and not request.url.startswith("data:image/"):
            self._outside.append(request.url)

    async def unharmed(self, page: Page, within: str = "body") -> None:
        """Whatever listens to the pointer or the focus gets its chance; then nothing may have happened."""
        await page.evaluate(
            """(within) => {
                const types = ['mouseover', 'pointerenter', 'focus', 'toggle', 'animationstart', 'error', 'load'];
                for (const element of document.querySelectorAll(within + ' *'))
                    for (const type of types) element.dispatchEvent(new Event(type, {bubbles: false}));
            }""",
            within,
        )
        assert await page.evaluate(FOREIGN, within) == []
        assert await page.evaluate("window.harmed ?? 0") == 0
        assert await page.evaluate("window.violations") == []
        assert self._outside == []
        assert self._complaints == []


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
        witness = Witness(server)
        await witness.watch(context)
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
        await expect(page.get_by_test_id("palette").get_by_role("option").first).to_be_visible()
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
        await witness.unharmed(page, "[role=log]")
        await context.close()


async def answer(route: Route, **fields: Any) -> None:
    """Let the server answer, and change fields of it."""
    told = await (await route.fetch()).json()
    await route.fulfill(content_type="application/json", body=json.dumps(told | fields))


async def test_nothing_hostile_runs_in_lists_menus_and_notices(
    chromium: Browser, tmp_path: Path, screenshots: Path
) -> None:
    """Titles in the list, in menus, in the field that renames and in notices; words that are searched; names of users,
    projects and models, also of a server that would let them be anything."""
    names = list(dict.fromkeys(vector.replace("\x00", "").replace("\n", " ")[:200] for vector in ALL))
    sought = {"needle": HTML[5], "haystack": "</title><script>pwned()</script>", "barn": "[x](javascript:pwned())"}
    titles = [*names, *(f"{word} {vector}" for word, vector in sought.items())]
    async with ServerProcess(tmp_path / "data") as server:
        context = await chromium.new_context(viewport={"width": 1000, "height": 800})
        witness = Witness(server)
        await witness.watch(context)
        page = await open_session(context, server, "mine")
        made = await page.evaluate(
            """async (names) => {
                const found = [];
                for (const [at, title] of names.entries()) {
                    const body = {session_id: `hostile-${at}`, title};
                    const told = await fetch('/api/session/create', {method: 'POST', body: JSON.stringify(body),
                        headers: {'Content-Type': 'application/json'}});
                    found.push(told.status);
                    // Not even in an address is a project's name anything but letters.
                    const project = encodeURIComponent(title);
                    const refused = await fetch(`/api/projects/${project}/sessions`, {method: 'POST', body: '{}',
                        headers: {'Content-Type': 'application/json'}});
                    if (![404, 422].includes(refused.status)) throw new Error(`${refused.status} for ${title}`);
                }
                return found;
            }""",
            titles,
        )
        assert made == [201] * len(titles)

        # The list, all of it, and a title in each place that shows one.
        await page.reload()
        await connected(page)
        rows = page.get_by_test_id("session-row")
        await expect(rows.first).to_be_visible()
        seen = await page.evaluate(
            """async (count) => {
                const list = document.querySelector('[data-testid=session-list]');
                const seen = new Set();
                for (let turn = 0; turn < 500 && seen.size < count; turn++) {
                    for (const row of list.querySelectorAll('[data-testid=session-row] a'))
                        seen.add(row.innerText.trim());
                    list.scrollTop += list.clientHeight / 2;
                    await new Promise((done) => setTimeout(done, 20));
                }
                return [...seen];
            }""",
            len(titles),
        )
        assert "<img src=x onerror=pwned()>" in seen
        await witness.unharmed(page)
        row = rows.first
        for word, vector in sought.items():
            title = f"{word} {vector}"
            await page.get_by_test_id("search").fill(word)
            await expect(rows).to_have_count(1)
            await expect(rows).to_contain_text(title)
            await row.get_by_role("link").click()
            await expect(page.get_by_role("heading", level=1)).to_have_text(title)
            await expect(page).to_have_title(re.compile(re.escape(title)))
            await row.hover()
            await row.get_by_test_id("session-menu").click()
            async with page.expect_download() as saved:
                await page.get_by_test_id("menu-markdown").click()
            assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*\.md", (await saved.value).suggested_filename)
            await row.hover()
            await row.get_by_test_id("session-menu").click()
            await page.get_by_test_id("menu-rename").click()
            await expect(page.get_by_test_id("rename")).to_have_value(title)
            await page.keyboard.press("Escape")
            await row.hover()
            await row.get_by_test_id("session-menu").click()
            await page.get_by_test_id("menu-delete").click()
            await expect(page.get_by_test_id("toast")).to_contain_text(title)
            await page.get_by_test_id("undo").click()
            await witness.unharmed(page)
        for vector in (HTML[5], HTML[0], '"><img src=x onerror=pwned()> OR *'):
            await page.get_by_test_id("search").fill(f"nowhere {vector}")
            await expect(page.get_by_test_id("list-empty")).to_contain_text(vector)
        await witness.unharmed(page)

        # A name that is none is refused, and told as it was written.
        await page.get_by_test_id("login-open").click()
        await page.get_by_test_id("login-other").click()
        await page.locator("input[name=username]").fill(HTML[5])
        await page.locator("input[name=password]").fill("a long enough passphrase")
        await page.get_by_test_id("login-submit").click()
        await expect(page.get_by_test_id("login-error")).to_be_visible()
        await witness.unharmed(page)

        # A server that lets names be anything: its own issuer's users, its operator's models.
        await context.route("**/api/auth/me", lambda route: answer(route, kind="user", username=HTML[5]))
        models = [
            {"id": name, "name": name, "kind": "python", "default": not at, "context_tokens": 1, "max_output_tokens": 1}
            | {"tools": True, "fallback": None, "missing_api_key": False}
            for at, name in enumerate(names)
        ]
        await context.route("**/api/models", lambda route: answer(route, models=models, default_model=names[0]))
        projects = [{"project_id": name, "sessions": 1, "messages": 1, "updated_at": "2026-01-01"} for name in names]
        await context.route("**/api/projects", lambda route: route.fulfill(json=projects))
        await page.reload()
        await connected(page)
        await expect(page.get_by_test_id("account")).to_contain_text(HTML[5])
        await expect(page.get_by_test_id("project").locator("option")).to_have_count(len(names) + 1)
        await page.locator("select[data-testid=model]").select_option(HTML[5])
        await say(page, "hello")
        await expect(page.get_by_test_id("pending")).to_be_visible()
        await page.get_by_test_id("account").click()
        await page.screenshot(path=screenshots / "hostile-names.png")
        await witness.unharmed(page)

        # The operations page shows numbers, whatever it is sent.
        columns = {name: [HTML[5], 1.0] for name in ("streams_open", "turns_running", *names)}
        told = {"version": HTML[5], "now": dict.fromkeys(columns, HTML[5]), "history": {"time": [1, 2], **columns}}
        await context.route("**/api/admin/metrics*", lambda route: answer(route, **told))
        await page.goto(f"{server.base_url}/admin")
        await expect(page.get_by_text(f"chatserver {HTML[5]}")).to_be_visible()
        await witness.unharmed(page)
        await context.close()
