"""What does a token cost from a model's endpoint to a tab, through the whole server?

chatserver with its own client of OpenAI-compatible endpoints, against the baseline that reads the same endpoint through
the openai SDK. The endpoint (upstream.py) writes each token by itself, at its own pace: it is the one who decides how
many wait for the server when it comes to read. A session's turns are a conversation, which both servers send along.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from importlib.metadata import version

from benchmarks import upstream
from benchmarks.load import Load
from benchmarks.report import Plan, Report, ratio, spread
from benchmarks.servers import BASELINE, CHATSERVER, STORING, Kind, Server, running

NAME = "end-to-end"
AIM = 6.0
SESSIONS = (1, 50, 200)
QUESTION = "Say 200 words."
# Turns of a conversation; fresh sessions follow, so that a fast server has not much longer histories than a slow one.
TURNS = 5
# Milliseconds between two tokens: a model of 100 tokens a second, and one that makes them as fast as it can.
PACES = {"100 a second": 10, "as fast as read": 0}


def _kinds(base_url: str, pace: int) -> tuple[Kind, ...]:
    model = {
        "id": "tiny",
        "base_url": base_url,
        "model": str(pace),
        "max_concurrent_turns": 10_000,  # a limit that is not measured here
    }
    serve = tuple(a for a in CHATSERVER.command if not a.startswith(("--agent", "benchmarks.")))
    chatserver = Kind(CHATSERVER.name, serve, {**CHATSERVER.settings, "models": json.dumps([model])})
    return (
        chatserver,
        Kind(f"{chatserver.name}, no coalescing", serve, {**chatserver.settings, "flush_interval_seconds": 0}),
        *(
            replace(
                kind,
                name=f"{kind.name} + openai SDK" if kind is BASELINE else kind.name,
                command=(*kind.command, "--upstream", base_url, "--model", str(pace)),
            )
            for kind in (BASELINE, STORING)
        ),
    )


async def _microseconds(server: Server, sessions: int, pace: int, plan: Plan) -> float:
    """CPU of the server per token, all its threads, the requests and the commits included."""
    cpu_seconds = wall_seconds = 0.0
    tokens = conversations = 0
    while not tokens or wall_seconds < plan.seconds:
        ids = [f"session-{conversations}-{n}" for n in range(sessions)]
        conversations += 1
        async with Load(server) as load:
            await load.open_streams(ids)
            if not tokens:
                await load.round(ids, QUESTION)  # warms both sides up
            for _ in range(TURNS):
                found = await load.measure(ids, QUESTION, at_least_seconds=0, expected_tokens=upstream.TOKENS)
                cpu_seconds += found.cpu_seconds
                wall_seconds += found.wall_seconds
                tokens += found.tokens
                if wall_seconds >= plan.seconds:
                    break
    return cpu_seconds / tokens * 1e6


async def run(plan: Plan) -> Report:
    """Measure every kind at every number of sessions and both paces, in turn."""
    names = [kind.name for kind in _kinds("", 0)]
    report = Report(
        NAME,
        "CPU of a token from an OpenAI-compatible endpoint to a tab, in microseconds",
        ("tokens of an answer come", "sessions", *names, "ratio", "ratio to the one that stores"),
    )
    for how, pace in PACES.items():
        for sessions in (1, 50) if plan.quick else SESSIONS:
            found: dict[str, list[float]] = defaultdict(list)
            for _ in range(plan.repetitions):
                async with upstream.serving() as base_url:
                    for kind in _kinds(base_url, pace):
                        async with running(kind) as server:
                            found[kind.name].append(await _microseconds(server, sessions, pace, plan))
            ours, _, theirs, storing = (found[name] for name in names)
            times, times_storing = ratio(theirs, ours), ratio(storing, ours)
            report.row(
                how,
                sessions,
                *(spread(found[name], 1) for name in names),
                f"{times:.1f}×",
                f"{times_storing:.1f}×",
            )
            report.aim(
                f"{times:.1f}× less CPU at {sessions} sessions, tokens {how}; ≥ {AIM:g}× wanted; {times_storing:.1f}× "
                "less than the one that stores",
                met=times >= AIM,
            )
    report.notes.append(
        "CPU of all the server's threads, from the message to the end of its answer: for chatserver with the two "
        "commits of a turn and a checkpoint every 500 ms, for the baselines in memory only and with the two commits. "
        f"openai {version('openai')}."
    )
    return report
