"""How much memory does an idle session take, and an idle stream?

Each is the slope of the resident set between two numbers of them, so what the program takes by itself is not in it.
"""

from __future__ import annotations

import asyncio

from benchmarks.load import Load
from benchmarks.report import Plan, Report, ratio, spread
from benchmarks.servers import BASELINE, CHATSERVER, Kind, Server, running

NAME = "memory"
KINDS = (CHATSERVER, BASELINE)
# Below the first, caches still fill (the database's pages, chiefly), which are no session's.
SESSIONS = (5_000, 25_000)
STREAMS = (1_000, 5_000)
SESSION_AIM_KIB = 4.0
STREAM_AIM = 0.25
# A session keeps its events for clients that come back; dormant it is once they are gone. The default waits a minute.
LOG_IDLE_SECONDS = 1
# Timers that watch over a connection's beginning weigh something until they are over: 10 s for the head, and for
# keep-alive 75 s by default, which is shortened here.
SETTLE_SECONDS = 12.0
KEEPALIVE_SECONDS = 5


async def _settled(server: Server) -> int:
    await asyncio.sleep(SETTLE_SECONDS)
    return server.memory_kib()


async def _session_kib(kind: Kind, counts: tuple[int, int]) -> float:
    """KiB per session that had one turn of one token, and that nobody looks at."""
    async with running(kind) as server, Load(server) as load:
        fewer, more = counts
        await load.chat_all([f"session-{n}" for n in range(fewer)], "1")
        before = await _settled(server)
        await load.chat_all([f"session-{n}" for n in range(fewer, more)], "1")
        return (await _settled(server) - before) / (more - fewer)


async def _stream_kib(kind: Kind, counts: tuple[int, int]) -> float:
    """KiB per open stream, all on one session: what a session costs is not in it, its connection is."""
    async with running(kind) as server, Load(server) as load:
        fewer, more = counts
        await load.chat_all(["session"], "1")
        await load.open_streams(["session"] * fewer)
        before = await _settled(server)
        await load.open_streams(["session"] * (more - fewer))
        return (await _settled(server) - before) / (more - fewer)


async def run(plan: Plan) -> Report:
    """Measure both servers in turn."""
    report = Report(NAME, "Memory of what is idle, in KiB each", ("what", "chatserver", BASELINE.name, "ratio"))
    dormant = CHATSERVER.with_settings(
        log_idle_seconds=LOG_IDLE_SECONDS, eviction_interval_seconds=1, keepalive_timeout_seconds=KEEPALIVE_SECONDS
    )
    kinds = {CHATSERVER.name: dormant, BASELINE.name: BASELINE}
    session_counts = (500, 2_000) if plan.quick else SESSIONS
    stream_counts = (200, 1_000) if plan.quick else STREAMS
    sessions = {n: [await _session_kib(k, session_counts) for _ in range(plan.repetitions)] for n, k in kinds.items()}
    streams = {n: [await _stream_kib(k, stream_counts) for _ in range(plan.repetitions)] for n, k in kinds.items()}
    for what, found in (("session with two short messages", sessions), ("stream", streams)):
        ours, theirs = found[CHATSERVER.name], found[BASELINE.name]
        report.row(what, spread(ours, 2), spread(theirs, 2), f"{ratio(ours, theirs):.2f}×")
    session_kib = sorted(sessions[CHATSERVER.name])[plan.repetitions // 2]
    stream_ratio = ratio(streams[CHATSERVER.name], streams[BASELINE.name])
    report.aim(f"{session_kib:.2f} KiB a session, ≤ {SESSION_AIM_KIB} wanted", met=session_kib <= SESSION_AIM_KIB)
    report.aim(f"{stream_ratio:.2f}× the baseline's stream, ≤ {STREAM_AIM}× wanted", met=stream_ratio <= STREAM_AIM)
    report.notes.append(
        f"Slope of the resident set from {session_counts[0]:,} to {session_counts[1]:,} sessions and from "
        f"{stream_counts[0]:,} to {stream_counts[1]:,} streams, {SETTLE_SECONDS:.0f} s after the last request. The "
        f"sessions' event logs are dropped after {LOG_IDLE_SECONDS} s here, after a minute by default."
    )
    return report
