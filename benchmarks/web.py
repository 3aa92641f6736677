"""What an answer costs the browser: 500 tokens a second into 10 kB, beside a page that renders all of it each time.

A real Chromium shows the real page of the real server, and its own figures are read: CPU seconds of scripting and of
the main thread (`Performance.getMetrics`), CPU time of every task (a trace), layout shifts, paint timings. A share is
of the time that the answer takes at its pace, so that a busy machine, on which it takes longer, makes no share smaller.
The naive page is the one most people would write first: the same stream, the same marked, DOMPurify and highlight.js,
and at every event the whole answer parsed, cleaned and put into `innerHTML`.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from playwright.async_api import Browser, CDPSession, Page, Route, ViewportSize, async_playwright

from benchmarks.report import Plan, Report, ratio, spread
from benchmarks.web_agent import ANSWER_BYTES, ANSWER_SECONDS, TOKENS_PER_SECOND
from tests.browser.conftest import ARGUMENTS
from tests.server import ROOT, ServerProcess

NAME = "web"
LONG_TASK_MS = 50
SCRIPTING_SHARE = 0.30
FIRST_PAINT_SECONDS = 1.0
INTERACTIVE_SECONDS = 1.5
FIRST_LOAD_BYTES = 80_000
RUN_TASK = "ThreadControllerImpl::RunTask"

# Added to the page before anything of it runs. Shifts are counted all, also those that an input excuses.
WATCH = """
window.shift = 0;
new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) window.shift += entry.value;
}).observe({ type: 'layout-shift', buffered: true });
"""

NAIVE_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>naive</title>
<body><div id="log" style="height: 90vh; overflow-y: auto"></div><script type="module" src="/naive/naive.js"></script>
"""
VIEWPORT: ViewportSize = {"width": 1000, "height": 800}


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one answer: CPU seconds of scripting and of the main thread; the longest task in ms of CPU."""

    script_seconds: float
    task_seconds: float
    longest_ms: float
    long_tasks: int
    shift: float


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Debian's, headless."""
    path = shutil.which("chromium")
    if path is None:
        raise SystemExit("no Chromium; on Debian: apt-get install chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        await browser.close()


async def counters(session: CDPSession) -> dict[str, float]:
    """Chromium's own, of the page's main thread: seconds, since they were enabled."""
    found = await session.send("Performance.getMetrics")
    return {metric["name"]: metric["value"] for metric in found["metrics"]}


def task_milliseconds(trace: bytes) -> list[float]:
    """CPU time of every task of the page's main thread."""
    events = json.loads(trace)["traceEvents"]
    mains = {
        (e["pid"], e["tid"]) for e in events if e["name"] == "thread_name" and e["args"]["name"] == "CrRendererMain"
    }
    return [e["tdur"] / 1000 for e in events if e["name"] == RUN_TASK and "tdur" in e and (e["pid"], e["tid"]) in mains]


async def watched(page: Page, send: Callable[[str], Awaitable[None]], ended: str) -> Cost:
    """One answer of `ANSWER_BYTES`, from the message to the end of the turn; `ended` tells how many have ended."""
    # Markdown, colours and formulas are loaded with a first answer; what is measured is streaming, not loading.
    await send("warm")
    await page.wait_for_function(f"() => {ended} === 1", timeout=60_000)
    await page.wait_for_timeout(1_000)
    await page.evaluate("() => { window.shift = 0; }")
    session = await page.context.new_cdp_session(page)
    # Seconds of CPU, not of the clock: other work on the machine then makes no difference.
    await session.send("Performance.enable", {"timeDomain": "threadTicks"})
    before = await counters(session)
    browser = page.context.browser
    assert browser is not None
    await browser.start_tracing(page=page, categories=["toplevel"])
    await send("go")
    await page.wait_for_function(f"() => {ended} === 2", polling=500, timeout=120_000)
    after = await counters(session)
    tasks = task_milliseconds(await browser.stop_tracing())
    await session.detach()
    return Cost(
        after["ScriptDuration"] - before["ScriptDuration"],
        after["TaskDuration"] - before["TaskDuration"],
        max(tasks),
        sum(task >= LONG_TASK_MS for task in tasks),
        await page.evaluate("window.shift"),
    )


async def ours(browser: Browser, address: str, session: str) -> Cost:
    """An answer on chatserver's page."""
    context = await browser.new_context(viewport=VIEWPORT)
    await context.add_init_script(WATCH)
    page = await context.new_page()
    await page.goto(f"{address}/?session={session}")
    await page.wait_for_selector("[data-testid=connection][data-state=connected]")

    async def send(message: str) -> None:
        await page.get_by_test_id("composer").fill(message)
        await page.get_by_test_id("send").click()

    cost = await watched(page, send, "document.querySelectorAll('[data-role=assistant][data-status=completed]').length")
    await context.close()
    return cost


async def naive(browser: Browser, address: str, session: str) -> Cost:
    """The same answer on the naive page, which Chromium takes for one of the server's."""
    context = await browser.new_context(viewport=VIEWPORT)
    await context.add_init_script(WATCH)
    page = await context.new_page()
    files = {
        "/naive/naive.js": ROOT / "benchmarks/web_naive.js",
        "/naive/marked.js": ROOT / "web/node_modules/marked/lib/marked.esm.js",
        "/naive/purify.js": ROOT / "web/node_modules/dompurify/dist/purify.es.mjs",
        "/naive/languages.js": next((ROOT / "web/dist/assets").glob("languages-*.js")),
    }

    async def serve(route: Route) -> None:
        path = urlsplit(route.request.url).path
        if path in files:
            await route.fulfill(body=files[path].read_text(), content_type="text/javascript")
        else:
            await route.fulfill(body=NAIVE_PAGE, content_type="text/html")

    await page.route("**/naive/**", serve)
    await page.goto(f"{address}/")  # for the visitor's cookie
    await page.goto(f"{address}/naive/?session={session}")
    await page.wait_for_selector("body[data-state=connected]")

    async def send(message: str) -> None:
        await page.evaluate("(message) => window.send(message)", message)

    cost = await watched(page, send, "Number(document.body.dataset.ended ?? 0)")
    await context.close()
    return cost


@dataclass(frozen=True, slots=True)
class Opening:
    """Seconds to the first contentful paint and until a message can be written; bytes over the wire until then."""

    painted: float
    interactive: float
    loaded_bytes: int


async def opening(browser: Browser, url: str) -> Opening:
    """A first visit, with nothing in the cache."""
    context = await browser.new_context(viewport=VIEWPORT)
    await context.add_init_script(
        """new MutationObserver((_, observer) => {
            if (document.querySelector('[data-testid=composer]') &&
                document.querySelector('[data-testid=connection][data-state=connected]')) {
                window.interactive = performance.now();
                observer.disconnect();
            }
        }).observe(document, { childList: true, subtree: true, attributes: true });"""
    )
    page = await context.new_page()
    await page.goto(url)
    await page.wait_for_function(
        "() => window.interactive > 0 && performance.getEntriesByName('first-contentful-paint')[0]"
    )
    painted, interactive, loaded = await page.evaluate(
        """() => [
            performance.getEntriesByName('first-contentful-paint')[0].startTime,
            window.interactive,
            [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
                .filter((e) => !e.name.includes('/api/')).reduce((sum, e) => sum + e.encodedBodySize, 0),
        ]"""
    )
    await context.close()
    return Opening(painted / 1000, interactive / 1000, loaded)


async def run(plan: Plan) -> Report:
    """Measure both pages in turn, `plan.repetitions` times each."""
    report = Report(
        NAME,
        f"An answer of {ANSWER_BYTES // 1000} kB at {TOKENS_PER_SECOND} tokens a second, in Chromium",
        ("page", "scripting, of a core", "main thread, of a core", "longest task ms", "tasks ≥ 50 ms", "layout shift"),
    )
    own: list[Cost] = []
    anew: list[Cost] = []
    openings: list[Opening] = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        flags = ("--agent", "benchmarks.web_agent:reply")
        settings = {"scripted": None, "default_model": None}
        async with ServerProcess(data, settings=settings, flags=flags) as server, chromium() as browser:
            for n in range(plan.repetitions):
                openings.append(await opening(browser, f"{server.base_url}/?session=open-{n}"))
                own.append(await ours(browser, server.base_url, f"ours-{n}"))
                anew.append(await naive(browser, server.base_url, f"naive-{n}"))
    for name, costs in (("chatserver", own), ("all anew at every event", anew)):
        report.row(
            name,
            spread([100 * c.script_seconds / ANSWER_SECONDS for c in costs], 1) + " %",
            spread([100 * c.task_seconds / ANSWER_SECONDS for c in costs], 1) + " %",
            spread([c.longest_ms for c in costs]),
            spread([float(c.long_tasks) for c in costs]),
            spread([c.shift for c in costs], 3),
        )
    longest = statistics.median([c.longest_ms for c in own])
    report.aim(
        f"no task of {LONG_TASK_MS} ms or more while streaming: "
        + (f"longest {longest:.0f} ms" if longest else "none seen"),
        met=longest < LONG_TASK_MS,
    )
    share = statistics.median([c.script_seconds / ANSWER_SECONDS for c in own])
    report.aim(f"{100 * share:.1f} % of a core for scripting, < 30 % wanted", met=share < SCRIPTING_SHARE)
    shift = max(c.shift for c in own)
    report.aim(f"no layout shift while streaming: {shift:.5f}", met=shift == 0)
    painted = statistics.median([o.painted for o in openings])
    interactive = statistics.median([o.interactive for o in openings])
    report.aim(f"first contentful paint after {painted:.2f} s, < 1 s wanted", met=painted < FIRST_PAINT_SECONDS)
    report.aim(
        f"interactive (connected) after {interactive:.2f} s, < 1.5 s wanted", met=interactive < INTERACTIVE_SECONDS
    )
    loaded = max(o.loaded_bytes for o in openings)
    report.aim(
        f"{loaded / 1000:.1f} kB for the first load as compressed, ≤ 80 kB wanted", met=loaded <= FIRST_LOAD_BYTES
    )
    times = ratio([c.script_seconds for c in anew], [c.script_seconds for c in own])
    report.notes.append(
        f"Scripting costs the naive page {times:.1f}× as much. Both read the same stream of the same server with"
        " the same libraries. Shares and tasks are CPU time; the paint and the connection are times on the clock, at a"
        f" load of {os.getloadavg()[0]:.1f}."
    )
    return report
