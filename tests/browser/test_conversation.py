"""The conversation in a real Chromium: growing answers, branches, tools, the queue, the palette, long sessions."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Locator, Page, Route, expect

from tests.browser.page import answers, connected, fill, open_session, say, words
from tests.browser.talker import script
from tests.server import ROOT, ServerProcess

pytestmark = pytest.mark.browser

AXE = ROOT / "web/node_modules/axe-core/axe.min.js"

ANSWER = """# Waves

The wave equation $\\frac{\\partial^2 u}{\\partial t^2} = c^2 \\nabla^2 u$ says how **fast** it moves.

$$
u(x, t) = \\sum_{n=1}^{\\infty} b_n \\sin\\left(\\frac{n\\pi x}{L}\\right)
$$

| mode | frequency |
|------|----------:|
| $n=1$ | 440 Hz |
| $n=2$ | 880 Hz |

```python
def wave(x: float, t: float) -> float:
    return sum(b[n] * sin(n * pi * x / L) for n in range(1, 10))
```

- one [link](https://example.org)
- two `code`

And a last paragraph, which goes on for a while so that all of the above has settled.
"""

# Each with fonts of its own; the last one comes with the answer's end.
FORMULAS = """The space $\\mathcal{L}$ over $\\mathfrak{g}$ stands in a line so long that it has to wrap in a window
of any width, and $\\mathbb{R}$ follows.

Then $$\\left(\\frac{\\sum_{i} x_i}{\\int_0^1 y}\\right)$$ and at last $\\mathsf{A} = \\mathtt{b}$"""


@pytest.fixture
async def context(chromium: Browser, server: ServerProcess) -> AsyncIterator[BrowserContext]:
    """A browser of its own, whose pages must not complain. Ends before the server, of whose end they would."""
    context = await chromium.new_context(viewport={"width": 1000, "height": 800})
    complaints: list[str] = []
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    context.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    yield context
    assert complaints == []
    await context.close()


def messages(page: Page, role: str) -> Locator:
    return page.locator(f"[data-testid=message][data-role={role}]")


async def watch(page: Page, look: str) -> None:
    """Run that JavaScript at every change of the conversation."""
    await page.evaluate(
        f"""() => new MutationObserver(() => {{ {look} }}).observe(
            document.querySelector('[role=log]'), {{childList: true, subtree: true, characterData: true}})"""
    )


async def test_settled_blocks_keep_their_nodes_while_the_answer_grows(
    context: BrowserContext, server: ServerProcess, screenshots: Path
) -> None:
    """Every element of a settled block is the same object from its settling to the end of the answer."""
    page = await open_session(context, server, "grow")
    # Remembers, at every change, the elements of all blocks but the last two, and counts those that were replaced.
    await watch(
        page,
        """
        window.known ??= new Map();
        window.replaced ??= [];
        for (const [block, elements] of known)
            if (!block.isConnected || elements.some((e) => !e.isConnected)) replaced.push(block.textContent);
        for (const block of [...document.querySelectorAll('[data-role=assistant] .markdown > *')].slice(0, -2))
            if (!known.has(block))  // what colours code and sets formulas does so when it is loaded
                known.set(block, [...block.querySelectorAll('*')].filter((e) => !e.closest('pre, .math')));
        """,
    )
    await say(page, script(ANSWER, pieces=150, every_ms=8))
    await expect(answers(page, "completed")).to_have_count(1, timeout=30_000)
    assert await page.evaluate("window.known.size") >= 5
    assert await page.evaluate("window.replaced") == []
    answer = answers(page, "completed")
    await expect(answer.locator(".katex")).to_have_count(4)
    await expect(answer.locator(".hljs-keyword").first).to_have_text("def")
    await expect(answer.locator("figcaption")).to_contain_text("python")
    await page.screenshot(path=screenshots / "conversation-answer.png")


async def test_nothing_that_is_forming_flashes(context: BrowserContext, server: ServerProcess) -> None:
    """Fences, table rows and formulas appear as what they are, never first as their source."""
    page = await open_session(context, server, "forming")
    await watch(
        page,
        """
        window.flashed ??= [];
        const paragraphs = [...document.querySelectorAll('[data-role=assistant] .markdown p')];
        const text = paragraphs.map((p) => p.innerText).join(' ');
        for (const source of ['```', '|--', '$$', '| mode', '](http', '**'])
            if (text.includes(source)) flashed.push(text);
        """,
    )
    await say(page, script(ANSWER, pieces=250, every_ms=6))
    await expect(answers(page, "completed")).to_have_count(1, timeout=30_000)
    assert await page.evaluate("window.flashed") == []


async def test_versions_of_a_message_and_of_its_answer(
    context: BrowserContext, server: ServerProcess, screenshots: Path
) -> None:
    """Edit makes a branch, the arrows lead back, another answer stands beside the first, in both of the tabs."""
    page = await open_session(context, server, "tree")
    other = await open_session(context, server, "tree")
    await say(page, "first question")
    await expect(answers(page, "completed")).to_have_count(1)
    await page.get_by_test_id("composer").press("ArrowUp")
    edit = page.get_by_test_id("edit-text")
    await expect(edit).to_have_value("first question")
    await edit.fill("second question")
    await page.screenshot(path=screenshots / "conversation-edit.png")
    await edit.press("Enter")
    for tab in (page, other):
        await expect(messages(tab, "user").get_by_test_id("content")).to_have_text(["second question"])
        await expect(messages(tab, "assistant").get_by_test_id("content")).to_have_text(["second question"])
        await expect(messages(tab, "user").get_by_test_id("versions")).to_contain_text("2/2")
    await page.screenshot(path=screenshots / "conversation-versions.png")
    await messages(page, "user").get_by_test_id("version-before").click()
    for tab in (page, other):
        await expect(messages(tab, "assistant").get_by_test_id("content")).to_have_text(["first question"])
    await messages(other, "assistant").get_by_test_id("regenerate").click()
    for tab in (page, other):
        await expect(messages(tab, "assistant").get_by_test_id("versions")).to_contain_text("2/2")
    await messages(page, "assistant").get_by_test_id("fork").click()
    await expect(page.get_by_test_id("session-id")).not_to_have_text("tree")
    await connected(page)
    await expect(messages(page, "assistant").get_by_test_id("content")).to_have_text(["first question"])
    await expect(other.get_by_test_id("session-id")).to_have_text("tree")


async def test_a_picked_model_becomes_the_sessions_and_every_tab_shows_it(chromium: Browser, tmp_path: Path) -> None:
    """With a message, with another answer, and with the picker before Again; another tab's choice counts as well."""
    async with ServerProcess(tmp_path / "data", settings={"no_docs": None}) as server:
        context = await chromium.new_context()
        page, other = [await open_session(context, server, "pick") for _ in range(2)]
        picker, others = page.get_by_test_id("model"), other.get_by_test_id("model")
        await picker.select_option("docs")
        await say(page, "What is a turn?")
        for tab in (page, other):
            await expect(answers(tab, "completed")).to_have_count(1)
            await expect(tab.get_by_test_id("model")).to_have_value("docs")
        await expect(answers(page, "completed").locator(".facts")).to_contain_text("docs")

        await others.select_option("scripted")
        await say(other, "and again")
        await expect(answers(page, "completed")).to_have_count(2)
        await expect(answers(page, "completed").last.locator(".facts")).to_contain_text("scripted")
        await expect(picker).to_have_value("scripted")
        # Not by the old choice of this tab.
        await say(page, "and here")
        await expect(answers(page, "completed")).to_have_count(3)
        await expect(answers(page, "completed").last.locator(".facts")).to_contain_text("scripted")

        last = messages(page, "assistant").last
        await last.get_by_test_id("regenerate-with").select_option("docs")
        await expect(last.get_by_test_id("versions")).to_contain_text("2/2")
        await expect(last.locator(".facts")).to_contain_text("docs")
        await expect(others).to_have_value("docs")
        await picker.select_option("scripted")
        await last.get_by_test_id("regenerate").click()
        await expect(last.get_by_test_id("versions")).to_contain_text("3/3")
        await expect(last.locator(".facts")).to_contain_text("scripted")
        await context.close()


async def test_a_model_picked_before_the_session_is_read_counts(chromium: Browser, tmp_path: Path) -> None:
    """Whoever is quicker than the server is asked nothing twice: the choice stays, and the message goes with it."""
    async with ServerProcess(tmp_path / "data", settings={"no_docs": None}) as server:
        context = await chromium.new_context()
        page = await open_session(context, server, "before")
        picker = page.get_by_test_id("model")
        await expect(picker).to_have_value("scripted")
        server.signal(signal.SIGSTOP)
        try:
            await page.get_by_test_id("new-chat").first.click()
            await expect(page.get_by_test_id("session-id")).not_to_have_text("before")
            await picker.select_option("docs")
            await page.get_by_test_id("composer").fill("What is a turn?")
        finally:
            server.signal(signal.SIGCONT)
        await connected(page)
        await expect(page.locator(".empty")).to_be_visible()
        await expect(picker).to_have_value("docs")
        await page.get_by_test_id("send").click()
        await expect(answers(page, "completed").locator(".facts")).to_contain_text("docs")
        await context.close()


async def test_a_rating_survives_a_reload(context: BrowserContext, server: ServerProcess) -> None:
    """Up, a comment, and off again."""
    page = await open_session(context, server, "rate")
    await say(page, "hello")
    await expect(answers(page, "completed")).to_have_count(1)
    await page.get_by_test_id("rate-up").click()
    await page.get_by_test_id("feedback-comment").fill("to the point")
    await page.get_by_test_id("feedback-send").click()
    await expect(messages(page, "assistant")).to_contain_text("to the point")
    await page.reload()
    await expect(page.get_by_test_id("rate-up")).to_have_attribute("aria-pressed", "true")
    await expect(messages(page, "assistant")).to_contain_text("to the point")
    await page.get_by_test_id("rate-up").click()
    await expect(page.get_by_test_id("rate-up")).to_have_attribute("aria-pressed", "false")


async def test_a_failed_answer_can_be_tried_again(context: BrowserContext, server: ServerProcess) -> None:
    """The error is told, and a press gives another answer."""
    page = await open_session(context, server, "fail")
    await say(page, json.dumps({"say": ["Half of it"], "fail": "the model went away"}))
    await expect(answers(page, "failed")).to_have_count(1)
    await expect(answers(page, "failed").get_by_test_id("failed")).not_to_be_empty()
    await answers(page, "failed").get_by_test_id("regenerate").click()
    await expect(answers(page, "failed").get_by_test_id("versions")).to_contain_text("2/2")


async def test_a_tool_approved_for_the_session_is_asked_about_once(
    context: BrowserContext, server: ServerProcess, screenshots: Path
) -> None:
    """Always approves this call and later ones, over a reload, in this session and this tab only."""
    page = await open_session(context, server, "always")
    call = script("", reason="Which time is it?", tool=["time", "get_current_time", {"timezone": "Asia/Tokyo"}])
    await say(page, call)
    await expect(page.get_by_test_id("approve-always")).to_be_visible(timeout=20_000)
    await page.screenshot(path=screenshots / "conversation-approval.png")
    await page.get_by_test_id("approve-always").click()
    await expect(answers(page, "completed")).to_have_count(1, timeout=20_000)
    await page.reload()
    await connected(page)
    await say(page, call)
    await expect(answers(page, "completed")).to_have_count(2, timeout=20_000)
    tools = page.get_by_test_id("tool")
    await expect(tools).to_have_count(2)
    await tools.nth(1).locator("summary").click()
    await expect(tools.nth(1)).to_contain_text('"timezone": "Asia/Tokyo"')
    await expect(tools.nth(1)).to_contain_text("datetime")
    await page.get_by_test_id("disallow").last.click()
    await say(page, call)
    await page.get_by_test_id("deny").click(timeout=20_000)
    await expect(page.get_by_test_id("tool").nth(2)).to_have_attribute("data-status", "failed")


async def test_what_else_happens_meanwhile_does_not_approve_a_call_again(
    context: BrowserContext, server: ServerProcess
) -> None:
    """Each event shows the waiting approval anew; the second decision would be refused, in the console's red."""
    page = await open_session(context, server, "once")
    call = script("", reason="Which time is it?", tool=["time", "get_current_time", {"timezone": "Asia/Tokyo"}])
    await say(page, call)
    await page.get_by_test_id("approve-always").click(timeout=20_000)
    await expect(answers(page, "completed")).to_have_count(1, timeout=20_000)
    decisions: list[str] = []
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def hold(route: Route) -> None:
        decisions.append(route.request.post_data or "")
        asked.set()
        await go_on.wait()
        await route.continue_()

    await page.route("**/api/mcp-command", hold)
    await say(page, call)
    async with asyncio.timeout(20):
        await asked.wait()
    await page.evaluate(
        """() => fetch("/api/system", {
            method: "POST",
            headers: {"Content-Type": "application/json"},
            body: JSON.stringify({session_id: "once", message: "said meanwhile"}),
        })"""
    )
    await expect(page.get_by_text("said meanwhile")).to_be_visible()
    go_on.set()
    await expect(answers(page, "completed")).to_have_count(2, timeout=20_000)
    assert len(decisions) == 1, decisions


async def test_the_queue_the_stop_and_the_message_that_will_not_wait(
    context: BrowserContext, server: ServerProcess, screenshots: Path
) -> None:
    """Queued messages can be edited and withdrawn, Ctrl+Enter interrupts, Esc stops; the focus never goes."""
    page = await open_session(context, server, "queue")
    endless = script("word ", every_ms=10, times=5000)
    composer = page.get_by_test_id("composer")
    await say(page, endless)
    await expect(answers(page, "streaming")).to_have_count(1)
    await composer.fill("waits")
    await composer.press("Enter")
    await composer.fill("waits too")
    await composer.press("Enter")
    await expect(page.get_by_test_id("queued")).to_have_count(2)
    await page.screenshot(path=screenshots / "conversation-queue.png")
    await page.get_by_test_id("queue-edit").first.click()
    await expect(page.get_by_test_id("queued")).to_have_count(1)
    await expect(composer).to_have_value("waits")
    await expect(composer).to_be_focused()
    await composer.fill("will not wait")
    await composer.press("Control+Enter")
    await expect(answers(page, "interrupted")).to_have_count(1)
    await expect(answers(page, "completed")).to_have_count(2)
    said = await words(page)
    assert said.index("will not wait") < said.index("waits too")
    await say(page, endless)
    await expect(answers(page, "streaming")).to_have_count(1)
    await composer.press("Escape")
    await expect(answers(page, "interrupted")).to_have_count(2)
    await expect(composer).to_be_focused()


async def test_a_slash_offers_commands_and_tools(
    context: BrowserContext, server: ServerProcess, screenshots: Path
) -> None:
    """By the keyboard alone: choose, fill the form made from the schema, run, use the result; and add a note."""
    page = await open_session(context, server, "slash")
    await say(page, "hello")
    await expect(answers(page, "completed")).to_have_count(1)
    composer = page.get_by_test_id("composer")
    field = page.get_by_test_id("palette").locator("input, textarea, select").first
    await composer.press_sequentially("/time.get")
    await expect(page.get_by_test_id("palette").get_by_role("option")).to_have_count(1, timeout=20_000)
    await page.screenshot(path=screenshots / "conversation-palette.png")
    await composer.press("Enter")
    await expect(field).to_be_focused()  # a script types faster than a form appears
    await page.keyboard.type("Europe/Berlin")
    await page.keyboard.press("Enter")
    await expect(page.get_by_test_id("palette-result")).to_contain_text("Europe/Berlin", timeout=20_000)
    await page.screenshot(path=screenshots / "conversation-palette-result.png")
    await page.keyboard.press("Escape")
    await expect(composer).to_be_focused()
    await composer.press_sequentially("/sys")
    await expect(page.get_by_test_id("palette").get_by_role("option")).to_have_count(1)
    await composer.press("Enter")
    await expect(field).to_be_focused()
    await page.keyboard.type("The network was switched.")
    await page.get_by_test_id("palette-run").click()
    await expect(messages(page, "system")).to_contain_text("The network was switched.")
    # A slash that is no choice is a message.
    await composer.fill("/nothing of the kind")
    await composer.press("Enter")
    await expect(answers(page, "completed")).to_have_count(2)


# Every one, also of those that an input excuses: what moved, and by how much of the window.
SHIFTS = """() => {
    window.shifts = [];
    const outline = ({ node }) => (node?.outerHTML ?? node?.textContent ?? 'gone').slice(0, 120);
    new PerformanceObserver((list) => {
        for (const entry of list.getEntries()) shifts.push([entry.value, entry.sources.map(outline)]);
    }).observe({ type: 'layout-shift' });
}"""


async def shifts(page: Page) -> list[object]:
    """What has moved since SHIFTS, when all is drawn."""
    await page.evaluate(
        """async () => {
            await document.fonts.ready;
            for (let frame = 0; frame < 3; frame++) await new Promise(requestAnimationFrame);
        }"""
    )
    found: list[object] = await page.evaluate("window.shifts")
    return found


async def test_two_thousand_messages_are_read_upwards_without_a_jump(
    context: BrowserContext, server: ServerProcess, screenshots: Path
) -> None:
    """Pages come in above while what is being read stays where it is, up to the first message; and back to the end."""
    page = await open_session(context, server, "long")
    await say(page, "the first message of all")
    await expect(answers(page, "completed")).to_have_count(1)
    await fill(server, page, "long", 1998)
    await page.reload()
    await connected(page)
    await expect(page.get_by_test_id("message")).to_have_count(200)
    log = page.locator("[role=log]")
    # It opens at its end, and says nothing of a way down.
    await expect(page.get_by_text("message 1996", exact=True)).to_be_in_viewport()
    await expect(page.get_by_test_id("jump")).to_have_count(0)
    await log.hover()
    await page.mouse.wheel(0, -300)
    await expect(page.get_by_test_id("jump")).to_be_visible()

    jumps = []
    for _ in range(40):
        count = await page.get_by_test_id("message").count()
        if count >= 2000:
            break
        # Up to the very top, where the browser's own anchoring does nothing.
        seen = await page.evaluate(
            """async (count) => {
                const log = document.querySelector('[role=log]');
                const items = () => [...document.querySelectorAll('[data-testid=message]')];
                const [first] = items();
                log.scrollTop = 0;
                const before = first.getBoundingClientRect().top;
                const end = performance.now() + 60_000;
                while (items().length === count && performance.now() < end) await new Promise(requestAnimationFrame);
                // What comes into sight takes its true height in the frames after.
                for (let frame = 0; frame < 6; frame++) await new Promise(requestAnimationFrame);
                return first.getBoundingClientRect().top - before;
            }""",
            count,
        )
        jumps.append(abs(seen))
    assert await page.get_by_test_id("message").count() == 2000
    assert len(jumps) == 18
    # The "older" button above goes with the last page; nothing else may move.
    assert max(jumps) <= 2, jumps
    await page.screenshot(path=screenshots / "conversation-long.png")

    await page.get_by_test_id("jump").click()
    await expect(page.get_by_text("message 1996", exact=True)).to_be_in_viewport()


async def test_an_answer_that_grows_shifts_nothing_and_leaves_the_reader_in_peace(
    context: BrowserContext, server: ServerProcess
) -> None:
    """Whoever has scrolled up stays there, and nothing in sight moves that did not grow."""
    page = await open_session(context, server, "still")
    await say(page, "line\n" * 100)
    await expect(answers(page, "completed")).to_have_count(1)
    await say(page, script(ANSWER * 3, pieces=300, every_ms=8))
    await expect(answers(page, "streaming")).to_have_count(1)
    await page.locator("[role=log]").hover()
    await page.mouse.wheel(0, -700)
    await expect(page.get_by_test_id("jump")).to_be_visible()
    await page.evaluate(SHIFTS)
    top = await page.evaluate("document.querySelector('[role=log]').scrollTop")
    await expect(answers(page, "completed")).to_have_count(2, timeout=30_000)
    assert await page.evaluate("document.querySelector('[role=log]').scrollTop") == top
    assert await shifts(page) == []


@pytest.mark.parametrize("kind", ["all", "formulas", "tool", "failure"])
async def test_a_first_answer_shifts_nothing_whatever_has_to_be_loaded_for_it(
    context: BrowserContext, server: ServerProcess, kind: str
) -> None:
    """With an empty cache and a slow way: formulas and fonts, colours, tables, a tool, buttons, the end of it."""
    page = await open_session(context, server, f"cold-{kind}")
    network = await context.new_cdp_session(page)
    await network.send("Network.enable")
    await network.send(
        "Network.emulateNetworkConditions",
        {"offline": False, "latency": 250, "downloadThroughput": -1, "uploadThroughput": -1},
    )
    more: dict[str, Any] = {
        "tool": {"tool": ["time", "get_current_time", {"timezone": "Asia/Tokyo"}]},
        "failure": {"fail": "no more", "reason": "Let me see. " * 40},
    }.get(kind, {})
    text = FORMULAS if kind == "formulas" else ANSWER * 2
    # With a pause at its beginning, in which the message field has become small again.
    await say(page, script(" " * 50 + text, pieces=200, every_ms=10, **more))
    await expect(answers(page, "streaming")).to_have_count(1)
    await page.evaluate(SHIFTS)
    if kind == "tool":
        await page.get_by_test_id("approve").click(timeout=20_000)
    await expect(answers(page, "failed" if kind == "failure" else "completed")).to_have_count(1, timeout=60_000)
    await expect(answers(page, "streaming")).to_have_count(0)
    await expect(page.locator(".waiting")).to_have_count(0)
    await expect(page.locator(".katex").first).to_be_visible()
    await expect(page.locator(".math:not(:has(.katex))")).to_have_count(0)
    assert await shifts(page) == []


async def axe(page: Page) -> list[str]:
    """What axe finds wrong with the page as it stands."""
    await page.evaluate(AXE.read_text())
    found = await page.evaluate("axe.run()")
    return [f"{v['id']}: {[n['html'][:120] for n in v['nodes']]}" for v in found["violations"]]


async def test_the_conversation_is_clean_for_axe_in_every_state(
    chromium: Browser, server: ServerProcess, screenshots: Path
) -> None:
    """An answer with all there is to show, an approval, an edit, the queue, the palette's list, form and result."""
    for scheme in ("light", "dark"):
        # axe comes from outside the page, past its Content-Security-Policy.
        context = await chromium.new_context(
            viewport={"width": 1000, "height": 800}, color_scheme=scheme, bypass_csp=True
        )
        page = await open_session(context, server, f"axe-{scheme}")
        await say(page, script(ANSWER, reason="Let me see."))
        await expect(answers(page, "completed")).to_have_count(1)
        await expect(answers(page, "completed").locator(".katex").first).to_be_visible()
        await answers(page, "completed").get_by_test_id("reasoning").click()
        await page.get_by_test_id("rate-up").click()
        assert await axe(page) == []
        await page.screenshot(path=screenshots / f"conversation-{scheme}.png")

        await page.get_by_test_id("composer").press("ArrowUp")
        assert await axe(page) == []
        await page.keyboard.press("Escape")

        composer = page.get_by_test_id("composer")
        await composer.press_sequentially("/time.get")
        await expect(page.get_by_test_id("palette").get_by_role("option")).to_have_count(1, timeout=20_000)
        assert await axe(page) == []
        await composer.press("Enter")
        await expect(page.get_by_test_id("palette").locator("input, textarea, select").first).to_be_focused()
        await page.keyboard.type("Europe/Berlin")
        await page.keyboard.press("Enter")
        await expect(page.get_by_test_id("palette-result")).to_be_visible(timeout=20_000)
        assert await axe(page) == []
        await page.keyboard.press("Escape")

        await say(page, script("", tool=["time", "get_current_time", {"timezone": "Asia/Tokyo"}]))
        await expect(page.get_by_test_id("approve")).to_be_visible(timeout=20_000)
        await say(page, "waits")
        await expect(page.get_by_test_id("queued")).to_have_count(1)
        assert await axe(page) == []
        await page.screenshot(path=screenshots / f"conversation-{scheme}-approval.png")
        await context.close()
