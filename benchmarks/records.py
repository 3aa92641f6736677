"""What do a list, a search and a start cost with 10,000 and with 1,000,000 stored sessions?

Asked over HTTP by two visitors, one request at a time: one with 100 sessions, and one with as many as a person could
have.
They search when the server has had the time to index what is much (docs/decisions/0008-search.md); how long it took is
told. The first search of each, which indexes what is left, is told apart from the others.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import count, cycle
from pathlib import Path

from benchmarks.load import Caller
from benchmarks.report import Plan, Report
from benchmarks.servers import CHATSERVER, Server, running
from benchmarks.stored import COMMON_WORD, PROJECT, TENANT, Owner, build, unique_word
from chatserver.auth.visitors import VisitorSigner, load_key

NAME = "records"
SIZES = (10_000, 1_000_000)
FEW = 100
MANY = 5_000
# Of others; what they have must not matter.
OTHERS = 1_000
REQUESTS = 200
LIST_MS = {10_000: 5.0, 1_000_000: 20.0}
SEARCH_MS = 50.0
START_SECONDS = 2.0
MEMORY_RATIO = 1.1
# Until the server has come to the visitors, who stand before the others.
INDEXED_SECONDS = 600.0

_FIRST = "search: the first one"
_LIST = f"/api/projects/{PROJECT}/sessions?limit=50"


class _Visitor:
    def __init__(self, signer: VisitorSigner, sessions: int) -> None:
        visitor_id, self._cookie = signer.new()
        self.sessions = sessions
        self.owner = Owner(f"visitor:{visitor_id}", sessions)

    def head(self, path: str) -> str:
        return f"GET {path} HTTP/1.1\r\nCookie: chatserver_visitor={self._cookie}\r\n"

    def questions(self) -> Iterator[tuple[str, Iterator[str]]]:
        """What is asked, in this order, and the paths to ask for."""
        yield _FIRST, iter([f"{_LIST}&q=nothing"])
        yield "list: first 50", cycle([_LIST])
        yield "list: last 50, by offset", cycle([f"{_LIST}&offset={self.sessions - 50}"])
        yield "search: a word of one session", (f"{_LIST}&q={unique_word(n * 37)}" for n in count())
        yield "search: a word of every session", cycle([f"{_LIST}&q={COMMON_WORD}"])
        yield "search: as it is typed", cycle([f"{_LIST}&q={typed}" for typed in ("w", "w1", "w1%20t", "w1%20th")])


async def _ask(server: Server, caller: Caller, heads: Iterator[str], requests: int) -> tuple[list[float], float]:
    """Milliseconds of each request, and of the server's CPU a request."""
    found, before = [], server.cpu_seconds()
    for _ in range(requests):
        head = next(heads)
        started = time.perf_counter()
        await caller.call(head)
        found.append((time.perf_counter() - started) * 1e3)
    return found, (server.cpu_seconds() - before) / requests * 1e3


def _aim(what: str, total: int) -> float:
    """Milliseconds at the median."""
    return SEARCH_MS if what.startswith("search") else LIST_MS.get(total, LIST_MS[SIZES[0]])


async def _measure(report: Report, data: Path, total: int, plan: Plan) -> int:
    """One database; the server's memory at its start, in KiB."""
    signer = VisitorSigner(load_key(data / "secret.key"))
    visitors = (_Visitor(signer, FEW), _Visitor(signer, min(MANY, total // 2)))
    rest = total - sum(v.sessions for v in visitors)
    others = min(OTHERS, rest // FEW)
    owners = [*(v.owner for v in visitors), *(Owner(f"visitor:z{n}", rest // others) for n in range(others))]
    await asyncio.to_thread(build, data / "chatserver.db", owners, time.time())
    size = (data / "chatserver.db").stat().st_size / 1e6

    starts: list[tuple[float, float]] = []
    for last in (*[False] * (plan.repetitions - 1), True):
        started = time.perf_counter()
        async with running(CHATSERVER, data) as server:
            starts.append((time.perf_counter() - started, server.cpu_seconds()))
            if last:
                at_start = server.memory_kib()
                waited = await _indexed(data, visitors[-1].owner.owner)
                await _rows(report, server, visitors, total, 20 if plan.quick else REQUESTS)
                after = server.memory_kib()
    wall, cpu = (statistics.median(times) for times in zip(*starts, strict=True))
    # Of CPU, which is what it takes where nothing else runs: a start is imports, and waits for no disk.
    report.aim(
        f"start with {total:,} sessions {cpu:.1f} s of CPU, ≤ {START_SECONDS:.0f} wanted; {wall:.1f} s by the clock",
        met=cpu <= START_SECONDS,
    )
    report.notes.append(
        f"{total:,} sessions: a database of {size:,.0f} MB; {at_start / 1024:.0f} MiB of memory at the start,"
        f" {after / 1024:.0f} after all requests. The texts of {visitors[-1].sessions:,} sessions of one visitor were"
        f" indexed {waited:.0f} s after the start."
    )
    return at_start


async def _indexed(data: Path, owner: str) -> float:
    """Wait until the server has indexed an owner's texts; seconds."""
    started = time.monotonic()
    sql = "SELECT count(*) FROM sessions WHERE tenant = ? AND owner = ? AND message_count > indexed_seq"
    with closing(sqlite3.connect(f"file:{data / 'chatserver.db'}?mode=ro", uri=True)) as database:
        while database.execute(sql, (TENANT, owner)).fetchone()[0]:
            if time.monotonic() - started > INDEXED_SECONDS:
                raise TimeoutError(f"{owner} is not indexed after {INDEXED_SECONDS:.0f} s")
            await asyncio.sleep(0.25)
    return time.monotonic() - started


async def _rows(report: Report, server: Server, visitors: tuple[_Visitor, ...], total: int, requests: int) -> None:
    caller = await Caller.open(server)
    worst: dict[str, tuple[float, float]] = {}
    for visitor in visitors:
        for what, paths in visitor.questions():
            times, cpu = await _ask(server, caller, map(visitor.head, paths), 1 if what == _FIRST else requests)
            median, slow = statistics.median(times), sorted(times)[len(times) * 95 // 100]
            report.row(f"{total:,}", f"{visitor.sessions:,}", what, f"{median:,.1f} ({slow:,.1f})", f"{cpu:,.1f}")
            kind = "first search" if what == _FIRST else what.partition(":")[0]
            worst[kind] = max(worst.get(kind, (0.0, 0.0)), (median, _aim(what, total)))
    caller.close()
    for kind, (median, most) in worst.items():
        report.aim(
            f"slowest {kind} with {total:,} sessions {median:.1f} ms at the median, ≤ {most:.0f} wanted",
            met=median <= most,
        )


async def run(plan: Plan) -> Report:
    """Measure each size."""
    report = Report(
        NAME,
        "Lists and searches with many stored sessions, in milliseconds",
        ("stored sessions", "of whom asks", "what", "a request", "of it CPU"),
    )
    report.notes.append(
        "One request after the other over one connection: median, 95th percentile in brackets, and the server's CPU."
        " Who has written much is indexed ahead, who has written little by the first search"
        " (docs/decisions/0008-search.md)."
        f" Load of the machine's other programs meanwhile: {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores."
    )
    sizes = (1_000, 10_000) if plan.quick else SIZES
    memory = []
    for total in sizes:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            memory.append(await _measure(report, Path(folder), total, plan))
    ratio = memory[-1] / memory[0]
    report.aim(
        f"memory with {sizes[-1]:,} sessions {ratio:.2f} × that with {sizes[0]:,}, ≤ {MEMORY_RATIO} wanted",
        met=ratio <= MEMORY_RATIO,
    )
    return report
