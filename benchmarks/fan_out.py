"""How many tokens does a core deliver when 1, 20 and 200 tabs look at one session?"""

from __future__ import annotations

from collections import defaultdict

from benchmarks.fake_agent import ANSWER_TOKENS
from benchmarks.load import Load, Measured
from benchmarks.report import Plan, Report, ratio, spread
from benchmarks.servers import BASELINE, CHATSERVER, STORING, UNCOALESCED, Kind, running

NAME = "fan-out"
TABS = (1, 20, 200)
KINDS = (CHATSERVER, UNCOALESCED, BASELINE, STORING)
AIM = 6.0


async def _measure(kind: Kind, tabs: int, plan: Plan) -> Measured:
    async with running(kind) as server, Load(server) as load:
        await load.open_streams(["session"] * tabs)
        await load.round(["session"], str(ANSWER_TOKENS))
        return await load.measure(
            ["session"], str(ANSWER_TOKENS), at_least_seconds=plan.seconds, expected_tokens=ANSWER_TOKENS
        )


async def run(plan: Plan) -> Report:
    """Measure every kind at every number of tabs, in turn."""
    report = Report(
        NAME,
        "Tokens delivered per second of CPU, several tabs on one session",
        (
            "tabs",
            "chatserver",
            "no coalescing",
            BASELINE.name,
            STORING.name,
            "ratio",
            "ratio to the one that stores",
            "events a token",
        ),
    )
    load_shares = []
    for tabs in (1, 20) if plan.quick else TABS:
        found: dict[str, list[Measured]] = defaultdict(list)
        for _ in range(plan.repetitions):
            for kind in KINDS:
                found[kind.name].append(await _measure(kind, tabs, plan))
        load_shares += [m.load_share for runs in found.values() for m in runs]
        rates = {name: [m.tokens_per_cpu_second for m in runs] for name, runs in found.items()}
        events = {name: runs[0].events / runs[0].tokens for name, runs in found.items()}
        times, times_storing = (ratio(rates[CHATSERVER.name], rates[kind.name]) for kind in (BASELINE, STORING))
        report.row(
            tabs,
            *(spread(rates[kind.name]) for kind in KINDS),
            f"{times:.1f}×",
            f"{times_storing:.1f}×",
            " / ".join(f"{events[kind.name]:.2f}" for kind in KINDS),
        )
        report.aim(
            f"{times:.1f}× at {tabs} tabs, ≥ {AIM:.0f}× wanted; {times_storing:.1f}× the one that stores",
            met=times >= AIM,
        )
    report.notes.append(f"The load generator used at most {max(load_shares):.0%} of its core.")
    return report
