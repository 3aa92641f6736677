"""What does it cost a request to say who asks: nobody, a visitor's cookie, a user's token?

The request is the cheapest one that concerns a session, so that the difference shows. All kinds of callers take turns
on one server: they share its process, its caches, and what else the machine does.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

import orjson

from benchmarks.load import Caller
from benchmarks.report import Plan, Report, ratio, spread
from benchmarks.servers import CHATSERVER, Server, running

NAME = "identity"
CONNECTIONS = 16
REQUESTS = 400  # of each connection, in a round of one kind of caller
AIM = 0.75
JSON = "Content-Type: application/json\r\n"


async def _kinds(server: Server) -> dict[str, str]:
    """The headers of each kind of caller."""
    caller = await Caller.open(server)
    page = await caller.call("GET / HTTP/1.1\r\n")
    found = re.search(rb"(?i)set-cookie: (chatserver_visitor=[^;]+)", page)
    assert found is not None
    account = orjson.dumps({"username": "ann", "password": "correct horse"})
    answer = await caller.call(f"POST /api/auth/register HTTP/1.1\r\n{JSON}", account)
    token = orjson.loads(answer.partition(b"\r\n\r\n")[2])["token"]
    return {
        "nobody": "",
        "a visitor": f"Cookie: {found[1].decode()}\r\n",
        "a user": f"Authorization: Bearer {token}\r\n",
    }


async def _ask(callers: Sequence[Caller], session: str, headers: str, requests: int) -> None:
    head = f"GET /api/session/validate?session_id={session} HTTP/1.1\r\n{headers}"

    async def one(caller: Caller) -> None:
        for _ in range(requests):
            await caller.call(head)

    await asyncio.gather(*(one(caller) for caller in callers))


async def _measure(requests: int, rounds: int) -> dict[str, list[float]]:
    """CPU microseconds a request, of each kind of caller, round by round."""
    found: dict[str, list[float]] = {}
    async with running(CHATSERVER) as server:
        kinds = await _kinds(server)
        callers = [await Caller.open(server) for _ in range(CONNECTIONS)]
        for at, headers in enumerate(kinds.values()):
            body = orjson.dumps({"session_id": f"s{at}"})
            await callers[0].call(f"POST /api/session/create HTTP/1.1\r\n{JSON}{headers}", body)
        for number in range(rounds + 1):
            for at, (kind, headers) in enumerate(kinds.items()):
                cpu = server.cpu_seconds()
                await _ask(callers, f"s{at}", headers, requests)
                if number:  # the first round warms up
                    spent = server.cpu_seconds() - cpu
                    found.setdefault(kind, []).append(spent / (requests * CONNECTIONS) * 1e6)
    return found


async def run(plan: Plan) -> Report:
    """Measure all kinds of callers on one server."""
    report = Report(NAME, "What it costs to say who asks", ("who asks", "CPU µs a request", "times nobody's"))
    found = await _measure(20 if plan.quick else REQUESTS, 1 if plan.quick else 2 * plan.repetitions + 1)
    for kind, micros in found.items():
        report.row(kind, spread(micros), f"{ratio(micros, found['nobody']):.2f}")
    rate = ratio(found["nobody"], found["a user"])
    report.aim(f"a user's cheapest request at {rate:.2f} of the rate of nobody's, ≥ {AIM} wanted", met=rate >= AIM)
    report.notes.append("`GET /api/session/validate` of a live session, over 16 connections.")
    return report
