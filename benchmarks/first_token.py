"""How long from sending a message to the first token of its answer on an open stream, nothing else going on?

chatserver commits the message to disk before it answers and before the turn starts; the baseline keeps it in memory.
"""

from __future__ import annotations

import statistics
import time

from benchmarks.load import Load
from benchmarks.report import Plan, Report, ratio, spread
from benchmarks.servers import BASELINE, CHATSERVER, UNCOALESCED, running

NAME = "first-token"
KINDS = (CHATSERVER, UNCOALESCED, BASELINE)
TOKENS = 20
TURNS = 400
# A session that is not long yet: neither server is to be measured on how it shows a long history here.
TURNS_PER_SESSION = 20
AIM = 0.6


async def _times(kind_index: int, turns: int) -> list[float]:
    """Milliseconds to the first token, turn by turn."""
    times = []
    async with running(KINDS[kind_index]) as server, Load(server) as load:
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
        ("server", "median", "95 of 100 within", "99 of 100 within"),
    )
    medians: dict[str, list[float]] = {}
    for index, kind in enumerate(KINDS):
        runs = [await _times(index, TURNS // 4 if plan.quick else TURNS) for _ in range(plan.repetitions)]
        medians[kind.name] = [statistics.median(run) for run in runs]
        report.row(
            kind.name,
            spread(medians[kind.name], 2),
            spread([statistics.quantiles(run, n=20)[-1] for run in runs], 2),
            spread([statistics.quantiles(run, n=100)[-1] for run in runs], 2),
        )
    measured = ratio(medians[CHATSERVER.name], medians[BASELINE.name])
    report.aim(f"{measured:.2f}× the baseline's median, ≤ {AIM}× wanted", met=measured <= AIM)
    return report
