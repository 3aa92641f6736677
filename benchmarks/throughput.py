"""How many tokens does a core deliver, in 1, 50, 200 and 500 sessions that all answer at once, one tab each?"""

from __future__ import annotations

from collections import defaultdict

from benchmarks.fake_agent import ANSWER_TOKENS
from benchmarks.load import Load, Measured
from benchmarks.report import Plan, Report, ratio, spread
from benchmarks.servers import BASELINE, CHATSERVER, STORING, UNCOALESCED, Kind, running

NAME = "throughput"
SESSIONS = (1, 50, 200, 500)
KINDS = (CHATSERVER, UNCOALESCED, BASELINE, STORING)
AIM = 8.0


async def measure(kind: Kind, sessions: int, plan: Plan) -> Measured:
    """Some seconds of turns in that many sessions."""
    ids = [f"session-{n}" for n in range(sessions)]
    async with running(kind) as server, Load(server) as load:
        await load.open_streams(ids)
        await load.round(ids, str(ANSWER_TOKENS))  # warms both sides up
        return await load.measure(ids, str(ANSWER_TOKENS), at_least_seconds=plan.seconds, expected_tokens=ANSWER_TOKENS)


async def run(plan: Plan) -> Report:
    """Measure every kind at every number of sessions, in turn."""
    report = Report(
        NAME,
        "Tokens per second of CPU, one tab a session",
        (
            "sessions",
            "chatserver",
            "no coalescing",
            BASELINE.name,
            STORING.name,
            "ratio",
            "ratio to the one that stores",
            "events a token",
            "first-to-last ms a turn",
        ),
    )
    load_shares = []
    for sessions in (1, 50) if plan.quick else SESSIONS:
        found: dict[str, list[Measured]] = defaultdict(list)
        for _ in range(plan.repetitions):
            for kind in KINDS:
                found[kind.name].append(await measure(kind, sessions, plan))
        load_shares += [m.load_share for runs in found.values() for m in runs]
        rates = {name: [m.tokens_per_cpu_second for m in runs] for name, runs in found.items()}
        events = {name: runs[0].events / runs[0].tokens for name, runs in found.items()}
        walls = {
            name: sorted(m.wall_seconds / (m.tokens / ANSWER_TOKENS / sessions) for m in runs)[len(runs) // 2] * 1000
            for name, runs in found.items()
        }
        times, times_storing = (ratio(rates[CHATSERVER.name], rates[kind.name]) for kind in (BASELINE, STORING))
        report.row(
            sessions,
            *(spread(rates[kind.name]) for kind in KINDS),
            f"{times:.1f}×",
            f"{times_storing:.1f}×",
            " / ".join(f"{events[kind.name]:.2f}" for kind in KINDS),
            " / ".join(f"{walls[kind.name]:.0f}" for kind in KINDS),
        )
        report.aim(
            f"{times:.1f}× at {sessions} sessions, ≥ {AIM:.0f}× wanted; {times_storing:.1f}× the one that stores",
            met=times >= AIM,
        )
    report.notes.append(
        f"The load generator used at most {max(load_shares):.0%} of its core. A turn is 200 tokens of 5 characters, "
        "every character delivered by all; chatserver and the last commit each message and each answer to disk."
    )
    return report
