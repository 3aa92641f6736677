"""Do creating, chatting and streaming cost what they did when only the live core was there?

Everything that came later (accounts, limits, projects, branches, usage) stands on the same path. The core is taken from
the history of this repository, and both are measured in turn with the same packages.
"""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from benchmarks import durable_turns, throughput
from benchmarks.load import Load, in_batches
from benchmarks.report import Plan, Report, ratio, spread
from benchmarks.servers import CHATSERVER, ROOT, Kind, running

NAME = "since-the-core"
# The last commit before accounts and records were begun.
CORE = "69a0160"
SESSIONS = 50
CREATED = 2000
AIM = 0.9


async def _create(kind: Kind, plan: Plan) -> float:
    """CPU microseconds of a request that makes a session and stores a message in it."""
    count = CREATED // 10 if plan.quick else CREATED
    head = "POST /api/system HTTP/1.1\r\nContent-Type: application/json\r\nPrefer: return=minimal\r\n"
    async with running(kind) as server, Load(server) as load:

        async def create(first: int, of: str) -> None:
            caller = load.callers[first]
            for n in range(first, count, len(load.callers)):
                await caller.call(head, json.dumps({"message": "hello", "session_id": f"{of}-{n}"}).encode())

        everywhere = range(len(load.callers))
        await in_batches([lambda at=at: create(at, "warm") for at in everywhere])
        cpu = server.cpu_seconds()
        await in_batches([lambda at=at: create(at, "made") for at in everywhere])
        return (server.cpu_seconds() - cpu) / count * 1e6


async def _chat(kind: Kind, plan: Plan) -> float:
    """CPU microseconds of a whole turn of one token."""
    _, cpu = await durable_turns.measure(kind, 2 if plan.quick else durable_turns.ROUNDS)
    return cpu


async def _stream(kind: Kind, plan: Plan) -> float:
    """CPU microseconds of a token on its way to a tab, one tab a session."""
    measured = await throughput.measure(kind, SESSIONS, plan)
    return measured.cpu_seconds / measured.tokens * 1e6


async def _check_out(revision: str, folder: Path) -> None:
    """Put the code of that revision there."""
    git = await asyncio.create_subprocess_exec(
        "git", "archive", "--format=tar", revision, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    archive, _ = await git.communicate()
    if git.returncode:
        raise RuntimeError(f"git archive {revision} ended with {git.returncode}; this needs the repository's history")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")


async def run(plan: Plan) -> Report:
    """Measure both in turn."""
    report = Report(
        NAME,
        f"CPU of a request, a turn and a token, beside the live core alone ({CORE}), in microseconds",
        ("what", "chatserver", "the core alone", "core : chatserver"),
    )
    with tempfile.TemporaryDirectory(prefix="benchmark-core-") as folder:
        await _check_out(CORE, Path(folder))
        core = replace(CHATSERVER, name="the core alone", folder=Path(folder))
        for what, measure in (
            ("create a session with a message", _create),
            ("chat: a turn of one token", _chat),
            (f"stream: a token, {SESSIONS} sessions at once", _stream),
        ):
            found: dict[str, list[float]] = defaultdict(list)
            for _ in range(plan.repetitions):
                for kind in (CHATSERVER, core):
                    found[kind.name].append(await measure(kind, plan))
            measured = ratio(found[core.name], found[CHATSERVER.name])
            digits = 2 if measure is _stream else 0
            report.row(
                what, spread(found[CHATSERVER.name], digits), spread(found[core.name], digits), f"{measured:.2f}"
            )
            report.aim(f"{measured:.2f} to {what.partition(':')[0]}, ≥ {AIM} wanted", met=measured >= AIM)
    report.notes.append("Both run with the packages of today, so only chatserver's own code differs.")
    return report
