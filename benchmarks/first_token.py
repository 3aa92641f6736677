"""How long from sending a message to the first token of its answer on an open stream?

Alone on the server, and beside many sessions that are being answered. chatserver commits the message to disk before it
answers and before the turn starts; so does one of the baselines, the other keeps it in memory.
"""

from __future__ import annotations

import statistics
import time
from contextlib import AsyncExitStack

from benchmarks.load import Load
from benchmarks.report import Plan, Report, ratio, spread
from benchmarks.servers import BASELINE, CHATSERVER, STORING, UNCOALESCED, Kind, running

NAME = "first-token"
KINDS = (CHATSERVER, UNCOALESCED, BASELINE, STORING)
TOKENS = 20
TURNS = 400
# A session that is not long yet: neither server is to be measured on how it shows a long history here.
TURNS_PER_SESSION = 20
# Sessions that get 20 tokens a second meanwhile: about half of what the baseline carries at all.
BESIDE = (0, 600)
BESIDE_MESSAGE = "2400 50"
AIM = 0.6


async def _times(kind: Kind, turns: int, beside: int) -> list[float]:
    """Milliseconds to the first token, turn by turn."""
    times = []
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running(kind))
        if beside:
            others = await stack.enter_async_context(Load(server))
            ids = [f"other-{n}" for n in range(beside)]
            await others.open_streams(ids)
            await others.chat_all(ids, BESIDE_MESSAGE)
        load = await stack.enter_async_context(Load(server))
        for start in range(0, turns, TURNS_PER_SESSION):
            session_id = f"session-{start}"
            [stream] = await load.open_streams([session_id])
            for _ in range(TURNS_PER_SESSION):
                stream.reset()
                started = time.perf_counter()
                await load.round([session_id], str(TOKENS))
                times.append((stream.first_token_at - started) * 1000)
            stream.close()
            load.streams.clear()
    return times[TURNS_PER_SESSION:]  # the first session warms it up


async def run(plan: Plan) -> Report:
    """Measure every kind in turn."""
    report = Report(
        NAME,
        "Time to the first token, in milliseconds",
        ("beside", "server", "median", "95 of 100 within", "99 of 100 within"),
    )
    turns = TURNS // 4 if plan.quick else TURNS
    for beside in BESIDE:
        medians: dict[str, list[float]] = {}
        for kind in KINDS:
            runs = [await _times(kind, turns, beside) for _ in range(plan.repetitions)]
            medians[kind.name] = [statistics.median(run) for run in runs]
            report.row(
                f"{beside} sessions at 20 tokens a second" if beside else "nothing",
                kind.name,
                spread(medians[kind.name], 2),
                spread([statistics.quantiles(run, n=20)[-1] for run in runs], 2),
                spread([statistics.quantiles(run, n=100)[-1] for run in runs], 2),
            )
        times, times_storing = (ratio(medians[CHATSERVER.name], medians[kind.name]) for kind in (BASELINE, STORING))
        where = f"beside {beside} sessions" if beside else "alone"
        report.aim(
            f"{times:.2f}× the baseline's median {where}, ≤ {AIM}× wanted; {times_storing:.2f}× that of the one that "
            "stores",
            met=times <= AIM,
        )
    return report
