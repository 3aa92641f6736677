"""Does a token cost the same however long the history is and however many other sessions are live?"""

from __future__ import annotations

import statistics
from collections import defaultdict

from benchmarks.fake_agent import ANSWER_TOKENS
from benchmarks.load import Load
from benchmarks.report import Plan, Report, spread
from benchmarks.servers import CHATSERVER, running

NAME = "flatness"
# Turns before the measured ones; two messages each.
HISTORIES = (1, 100, 1_000)
OTHERS = (1, 1_000, 10_000)
BUSY = 20
# Measured costs that differ by more are not flat; the spread of equal runs is a few percent.
AIM = 1.15


async def _microseconds(plan: Plan, *, messages: int, others: int) -> float:
    """CPU microseconds per token in `BUSY` sessions."""
    ids = [f"busy-{n}" for n in range(BUSY)]
    async with running(CHATSERVER) as server, Load(server) as load:
        await load.chat_all([f"other-{n}" for n in range(others)], "1")
        await load.open_streams(ids)
        for _ in range(messages // 2):
            await load.round(ids, "1")
        await load.round(ids, str(ANSWER_TOKENS))
        measured = await load.measure(
            ids, str(ANSWER_TOKENS), at_least_seconds=plan.seconds, expected_tokens=ANSWER_TOKENS
        )
        return measured.cpu_seconds / measured.tokens * 1e6


async def run(plan: Plan) -> Report:
    """Measure along both axes."""
    report = Report(
        NAME,
        f"CPU per token in {BUSY} busy sessions, in microseconds",
        ("messages in the history", "other live sessions", "µs a token"),
    )
    cases = [(messages, OTHERS[0]) for messages in HISTORIES] + [(HISTORIES[0], others) for others in OTHERS[1:]]
    if plan.quick:
        cases = cases[:2]
    found: dict[tuple[int, int], list[float]] = defaultdict(list)
    for _ in range(plan.repetitions):
        # In turn: the machine is a third slower in some minutes than in others.
        for messages, others in cases:
            found[messages, others].append(await _microseconds(plan, messages=messages, others=others))
    for (messages, others), times in found.items():
        report.row(f"{messages:,}", f"{others:,}", spread(times, 2))
    medians = [statistics.median(times) for times in found.values()]
    worst = max(medians) / medians[0]
    report.aim(f"the dearest is {worst:.2f}× the first, ≤ {AIM}× counts as flat", met=worst <= AIM)
    report.notes.append(
        "Whole turns are measured, so the POST of each message and its commit are in it. A snapshot shows the newest "
        "200 messages; the agent is given the whole history."
    )
    return report
