"""How many whole turns a second, each message and each answer committed to disk?

A turn is a POST that is answered after its commit, one token, and the answer's own commit. The baselines, the one that
keeps everything in memory and the one that stores, are shown beside it.
"""

from __future__ import annotations

import time

from benchmarks.load import AT_ONCE, Load, in_batches
from benchmarks.report import Plan, Report, spread
from benchmarks.servers import BASELINE, CHATSERVER, STORING, Kind, running

NAME = "durable-turns"
SESSIONS = 512
ROUNDS = 12
AIM = 2_000


async def measure(kind: Kind, rounds: int) -> tuple[float, float]:
    """Turns per second of the clock, and CPU microseconds per turn."""
    ids = [f"session-{n}" for n in range(SESSIONS)]
    async with running(kind) as server, Load(server) as load:
        await load.chat_all(ids, "1")
        cpu, started = server.cpu_seconds(), time.perf_counter()
        for _ in range(rounds):
            # Sessions in the same order each time: a turn has long ended when its session's next message comes.
            await load.chat_all(ids, "1")
        await in_batches([lambda s=s: _idle(load, s) for s in ids[-AT_ONCE:]])
        wall, cpu = time.perf_counter() - started, server.cpu_seconds() - cpu
    turns = rounds * SESSIONS
    return turns / wall, cpu / turns * 1e6


async def _idle(load: Load, session_id: str) -> None:
    """Wait until the session's last turn has ended."""
    caller = load.callers[int(session_id.rpartition("-")[2]) % AT_ONCE]
    while b'"is_processing":true' in (
        await caller.call(f"GET /api/state?session_id={session_id} HTTP/1.1\r\n")
    ).replace(b": ", b":"):
        pass


async def run(plan: Plan) -> Report:
    """Measure both servers in turn."""
    report = Report(NAME, "Whole turns per second", ("server", "turns/s", "CPU µs a turn", "on disk"))
    rounds = 2 if plan.quick else ROUNDS
    for kind in (CHATSERVER, BASELINE, STORING):
        durable = "yes, fsync" if kind.stores else "no"
        found = [await measure(kind, rounds) for _ in range(plan.repetitions)]
        report.row(kind.name, spread([f[0] for f in found]), spread([f[1] for f in found]), durable)
        if kind is CHATSERVER:
            rate = sorted(f[0] for f in found)[len(found) // 2]
            report.aim(f"{rate:,.0f} durable turns/s, ≥ {AIM:,} wanted", met=rate >= AIM)
    report.notes.append(f"{AT_ONCE} connections over {SESSIONS} sessions.")
    return report
