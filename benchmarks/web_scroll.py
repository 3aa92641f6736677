"""What a frame costs the browser while a reader scrolls through 2,000 messages: 60 a second leave 16.6 ms for each.

A real Chromium with the real page, all 2,000 messages loaded, the pointer over them as a wheel would have it. The page
is moved by the same way at every frame, up and down again, so that a busy machine, which drops frames, moves it no
further in one. A frame is the tasks of the main thread up to and including the one that draws it, in CPU time from
Chromium's own trace. Beside it the same page with every message laid out and painted all the time, which is what it
would be without `content-visibility`.
"""

from __future__ import annotations

import bisect
import itertools
import json
import os
import statistics
import tempfile
from pathlib import Path

import aiohttp
from playwright.async_api import Browser, Page

from benchmarks.report import Plan, Report, ratio, spread
from benchmarks.web import RUN_TASK, VIEWPORT, chromium
from benchmarks.web_agent import ANSWER
from tests.server import ServerProcess

NAME = "web-scroll"
MESSAGES = 2_000
FRAME_MS = 1000 / 60
FRAMES = 240
STEP_PX = 40  # 2,400 px a second at 60 frames: three screens
MARK = "scrolled"

LOADED = "document.querySelectorAll('[data-testid=message]').length"
LAID_OUT = "[role=log] * { content-visibility: visible !important }"
SCROLL = f"""async () => {{
    const log = document.querySelector('[role=log]');
    const frame = () => new Promise(requestAnimationFrame);
    log.scrollTop = log.scrollHeight / 2;
    for (let settle = 0; settle < 20; settle++) await frame();
    for (let n = 0; n < {FRAMES}; n++) {{
        await frame();
        performance.mark('{MARK}');
        log.scrollTop += n < {FRAMES // 2} ? -{STEP_PX} : {STEP_PX};
    }}
}}"""


async def fill(server: ServerProcess, page: Page, session_id: str, count: int) -> None:
    """Store messages in the page's session, as its visitor: short questions, answers of a paragraph to a screen."""
    cookies = {cookie["name"]: cookie["value"] for cookie in await page.context.cookies()}
    path = f"/api/projects/default/sessions/{session_id}/messages"
    async with aiohttp.ClientSession(server.base_url, cookies=cookies, headers={"Origin": server.base_url}) as http:
        for n in range(count):
            if n % 2 == 0:
                body = {"role": "user", "content": f"Question {n} " + "with some more words " * (n % 20)}
            else:
                start = n * 37 % 4000
                body = {"role": "assistant", "content": ANSWER[start : start + 200 + n * 131 % 1800]}
            async with http.post(path, json=body) as response:
                if response.status != 201:
                    raise SystemExit(f"storing a message: {response.status} {await response.text()}")


async def loaded(browser: Browser, server: ServerProcess, count: int) -> Page:
    """A page that shows all messages of a session with so many."""
    # The comparison's style comes from outside the page, past its Content-Security-Policy.
    context = await browser.new_context(viewport=VIEWPORT, bypass_csp=True)
    page = await context.new_page()
    await page.goto(f"{server.base_url}/?session=long")
    await page.wait_for_selector("[data-testid=connection][data-state=connected]")
    await page.get_by_test_id("composer").fill("warm")
    await page.get_by_test_id("send").click()
    await page.wait_for_selector("[data-role=assistant][data-status=completed]")
    await fill(server, page, "long", count - 2)
    await page.reload()
    await page.get_by_test_id("older").wait_for()
    await page.get_by_role("log").hover()
    await page.mouse.wheel(0, -300)
    # At the top older messages come by themselves, which moves what is read back down.
    while (now := await page.evaluate(LOADED)) < count:
        await page.evaluate("document.querySelector('[role=log]').scrollTop = 0")
        await page.wait_for_function(f"{LOADED} > {now}", timeout=60_000)
    return page


def frames(trace: bytes) -> list[float]:
    """CPU milliseconds of the main thread for each frame that was marked, but for the first."""
    events = json.loads(trace)["traceEvents"]
    marks = [e for e in events if e["name"] == MARK and "ts" in e]
    thread = (marks[0]["pid"], marks[0]["tid"])
    tasks = sorted(
        (e["ts"] + e["dur"], e["tdur"] / 1000)
        for e in events
        if e["name"] == RUN_TASK and (e["pid"], e["tid"]) == thread and "tdur" in e
    )
    ends = [end for end, _ in tasks]
    drawn = [bisect.bisect_left(ends, mark["ts"]) for mark in marks]  # the task that has the mark in it
    return [sum(cost for _, cost in tasks[before + 1 : at + 1]) for before, at in itertools.pairwise(drawn)]


async def scroll(browser: Browser, page: Page) -> list[float]:
    """The cost of each frame of one way up and down."""
    await browser.start_tracing(page=page, categories=["toplevel", "blink.user_timing"])
    await page.evaluate(SCROLL)
    return sorted(frames(await browser.stop_tracing()))


def percentile(ordered: list[float], share: float) -> float:
    """Of values in order."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


async def run(plan: Plan) -> Report:
    """Scroll the page as it is and with everything laid out, in turn, `plan.repetitions` times."""
    count = 400 if plan.quick else MESSAGES
    report = Report(
        NAME,
        f"A frame while scrolling through {count:,} messages, in Chromium",
        ("page", "CPU ms a frame, p50", "p95", "worst"),
    )
    own: list[list[float]] = []
    naive: list[list[float]] = []
    with tempfile.TemporaryDirectory() as folder:
        settings = {"scripted": None, "default_model": None}
        flags = ("--agent", "benchmarks.web_agent:reply")
        async with (
            ServerProcess(Path(folder) / "data", settings=settings, flags=flags) as server,
            chromium() as browser,
        ):
            page = await loaded(browser, server, count)
            for _ in range(plan.repetitions):
                own.append(await scroll(browser, page))
                style = await page.add_style_tag(content=LAID_OUT)
                naive.append(await scroll(browser, page))
                await style.evaluate("(element) => element.remove()")
    for name, costs in (("chatserver", own), ("every message laid out", naive)):
        report.row(
            name,
            spread([percentile(c, 0.5) for c in costs], 1),
            spread([percentile(c, 0.95) for c in costs], 1),
            spread([c[-1] for c in costs], 1),
        )
    p50, p95 = (statistics.median([percentile(c, share) for c in own]) for share in (0.5, 0.95))
    report.aim(f"half of the frames within {p50:.1f} ms, ≤ {FRAME_MS:.1f} wanted", met=p50 <= FRAME_MS)
    report.aim(f"19 of 20 frames within {p95:.1f} ms, ≤ {FRAME_MS:.1f} wanted", met=p95 <= FRAME_MS)
    times = ratio([percentile(c, 0.5) for c in naive], [percentile(c, 0.5) for c in own])
    report.notes.append(
        f"{FRAMES} frames of {STEP_PX} px each, in the middle of the session. With everything laid out a frame costs"
        f" {times:.1f}× as much. CPU time of the page's main thread; load {os.getloadavg()[0]:.1f}."
    )
    return report
