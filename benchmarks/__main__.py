"""`python -m benchmarks [QUESTION ...]`: measure, print, and with `--write` keep the results in RESULTS.md."""

from __future__ import annotations

import argparse
import importlib
import os
import time

import uvloop

from benchmarks import report, servers

# In the order of RESULTS.md. Each module has `NAME` and `async def run(plan) -> Report`.
QUESTIONS = {
    "throughput": "benchmarks.throughput",
    "fan-out": "benchmarks.fan_out",
    "paced": "benchmarks.paced",
    "first-token": "benchmarks.first_token",
    "memory": "benchmarks.memory",
    "durable-turns": "benchmarks.durable_turns",
    "flatness": "benchmarks.flatness",
    "identity": "benchmarks.identity",
    "upstream": "benchmarks.upstream",
    "end-to-end": "benchmarks.end_to_end",
    "records": "benchmarks.records",
    "since-the-core": "benchmarks.since",
    "web": "benchmarks.web",
    "web-scroll": "benchmarks.web_scroll",
}


def main() -> None:
    """Measure what was named, or everything."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure chatserver.")
    parser.add_argument("questions", nargs="*", choices=[*QUESTIONS, []], metavar="QUESTION", help=", ".join(QUESTIONS))
    parser.add_argument("--write", action="store_true", help="keep the results in benchmarks/RESULTS.md")
    parser.add_argument("--repetitions", type=int, default=report.Plan().repetitions)
    parser.add_argument("--seconds", type=float, default=report.Plan().seconds, help="least time of one measurement")
    parser.add_argument("--quick", action="store_true", help="small sizes, once: does everything work?")
    arguments = parser.parse_args()
    plan = report.Plan(arguments.repetitions, arguments.seconds)
    if arguments.quick:
        if arguments.write:
            parser.error("--quick gives no results worth keeping")
        plan = report.Plan(1, 0.5, quick=True)
    servers.prepare_this_process()
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"Something else is using this machine (load {load:.1f}): times will be worse, ratios less so.")
    for name in arguments.questions or QUESTIONS:
        started = time.monotonic()
        found = uvloop.run(importlib.import_module(QUESTIONS[name]).run(plan))
        print(f"{found.markdown()}({time.monotonic() - started:.0f} s)\n", flush=True)
        if arguments.write:
            report.write([found])


if __name__ == "__main__":
    main()
