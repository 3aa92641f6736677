"""`python -m tests.campaigns NAME`: run a campaign to its end, resumably, and say what it showed."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import re
import resource
import secrets
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.campaigns.campaign import Campaign, Progress, add, chance, circumstances

NAMES = (
    "kill9",
    "sigterm",
    "resume",
    "isolation",
    "islands",
    "mutate",
    "slow-readers",
    "slowloris",
    "state-machine",
    "import-folders",
    "schemathesis",
    "round-trip",
    "fresh-clone",
)
RESULTS = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
SAY_EVERY_SECONDS = 10.0


def campaign(name: str) -> Campaign:
    """The campaign of that name."""
    found: Campaign = importlib.import_module(f"tests.campaigns.{name.replace('-', '_')}").CAMPAIGN
    return found


async def run(chosen: Campaign, progress: Progress, path: Path) -> None:
    """Do the rounds that are left."""
    counts = Counter(progress.counts)
    with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
        async with chosen.open(Path(folder)) as one:
            said = started = time.monotonic()
            for number in range(progress.done, progress.rounds):
                try:
                    add(counts, await one(number, chance(progress.seed, number)), chosen.maxima)
                except BaseException:
                    print(f"round {number} of seed {progress.seed} failed; go on with --resume {path}", flush=True)
                    raise
                progress.done, progress.counts = number + 1, dict(counts)
                progress.seconds += time.monotonic() - started
                started = time.monotonic()
                progress.save(path)
                if started - said > SAY_EVERY_SECONDS:
                    said = started
                    print(f"{progress.done}/{progress.rounds} rounds, {_said(counts)}", flush=True)


def _said(counts: Counter[str]) -> str:
    return ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in counts.items())


def keep(chosen: Campaign, progress: Progress) -> None:
    """Put the result into docs/reliability.md, in place of the campaign's earlier one."""
    body = "\n".join(
        (
            f"### {chosen.name}",
            "",
            chosen.promise,
            "",
            f"- Passed: {progress.rounds:,} rounds in {progress.seconds:,.0f} s, {_said(Counter(progress.counts))}.",
            f"- Seed {progress.seed}; {circumstances()}.",
            "",
        )
    )
    text = RESULTS.read_text() if RESULTS.exists() else "# Reliability\n\n## Results of the campaigns\n"
    found = re.search(rf"^### {re.escape(chosen.name)}\n.*?(?=^##|\Z)", text, re.M | re.S)
    before, after = (text[: found.start()], text[found.end() :]) if found else (f"{text.rstrip()}\n\n", "")
    RESULTS.write_text(f"{before}{body}\n{after}".rstrip() + "\n")


def main() -> None:
    """Run what was named."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns", description="Run one long campaign.")
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--seed", type=int, help="repeats a run; a new one is taken, and printed, otherwise")
    parser.add_argument("--rounds", type=int, help="fewer or more than the full run")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="go on where that run was stopped")
    parser.add_argument("--progress", type=Path, metavar="FILE", help="where to keep the progress")
    parser.add_argument("--write", action="store_true", help="keep the result in docs/reliability.md")
    arguments = parser.parse_args()
    chosen = campaign(arguments.name)
    if arguments.resume is not None:
        path, progress = arguments.resume, Progress.load(arguments.resume)
        if progress.name != chosen.name:
            parser.error(f"{path} is of {progress.name}")
        progress.rounds = arguments.rounds or progress.rounds
    else:
        seed = secrets.randbelow(2**32) if arguments.seed is None else arguments.seed
        progress = Progress(chosen.name, seed, arguments.rounds or chosen.rounds)
        path = arguments.progress or Path(tempfile.gettempdir()) / f"campaign-{chosen.name}-{seed}.json"
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(f"campaign {chosen.name}, seed {progress.seed}, progress in {path}", flush=True)
    asyncio.run(run(chosen, progress, path))
    print(f"passed: {progress.rounds} rounds in {progress.seconds:.0f} s: {_said(Counter(progress.counts))}")
    if arguments.write:
        keep(chosen, progress)


if __name__ == "__main__":
    main()
