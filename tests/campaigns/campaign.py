"""What a campaign is: a long run of one check, in rounds that each follow from the seed and their number.

`python -m tests.campaigns NAME` runs one to its end, prints its seed first and keeps its progress in a file after every
round, so that `--resume` goes on where a run was stopped. The short form in `make test` runs a few of the same rounds.
"""

from __future__ import annotations

import json
import os
import platform
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

# Runs one round: its number and its own source of chance; gives what it counted.
Round = Callable[[int, random.Random], Awaitable[Counter[str]]]
# Prepares what the rounds share, in a directory of its own, and takes it down again.
Opened = Callable[[Path], AbstractAsyncContextManager[Round]]
Rounds = AsyncIterator[Round]


@dataclass(frozen=True, slots=True)
class Campaign:
    """One campaign.

    Args:
        name: as given on the command line.
        promise: what is shown when it passes, as one sentence.
        rounds: how many make the full run.
        open: prepares the rounds.
        maxima: names of counts of which the greatest is told, not the sum.
    """

    name: str
    promise: str
    rounds: int
    open: Opened
    maxima: frozenset[str] = frozenset()


def chance(seed: int, number: int) -> random.Random:
    """The source of chance of one round, the same whenever and after whatever it runs."""
    return random.Random(f"{seed}/{number}")


def add(total: Counter[str], counted: Counter[str], maxima: frozenset[str]) -> None:
    """Put the counts of a round to those before it."""
    for name, value in counted.items():
        total[name] = max(total[name], value) if name in maxima else total[name] + value


@dataclass(slots=True)
class Progress:
    """How far a run has come."""

    name: str
    seed: int
    rounds: int
    done: int = 0
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Replace the file as one step."""
        new = path.with_suffix(".new")
        new.write_text(json.dumps(asdict(self), indent=1))
        new.replace(path)

    @classmethod
    def load(cls, path: Path) -> Progress:
        """Read a file that `save` wrote."""
        return cls(**json.loads(path.read_text()))


def circumstances() -> str:
    """Date, versions and machine, for docs/reliability.md."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "unknown processor",
    )
    libraries = ", ".join(f"{name} {version(name)}" for name in ("chatserver", "aiohttp", "uvloop", "sqlalchemy"))
    return (
        f"{datetime.now(UTC).date().isoformat()}, Python {platform.python_version()}, {libraries}, "
        f"{os.cpu_count()} cores of {model}, Linux {platform.release().partition('-')[0]}"
    )
