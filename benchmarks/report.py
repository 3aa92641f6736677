"""How results are said: medians with their spread, with the machine and the versions they were measured on.

A question gives a `Report`; RESULTS.md holds one section per question, written by the run itself, each with its own
date and machine, so that measuring one question again does not lend its date to the others.
"""

from __future__ import annotations

import os
import platform
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
PACKAGES = (
    "chatserver",
    "aiohttp",
    "uvloop",
    "orjson",
    "sqlalchemy",
    "fastapi",
    "starlette",
    "sse-starlette",
    "uvicorn",
    "pydantic",
)

_HEAD = """# Results

Written by `python -m benchmarks --write`; benchmarks/README.md says what is asked and how it is measured. A number is
the median of the repetitions, with the least and the greatest in brackets. Ratios compare medians of one run.
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure.

    Args:
        repetitions: of every measurement; each starts its servers anew.
        seconds: least time of one measurement.
        quick: smaller sizes too, to see whether everything works; its numbers are not for RESULTS.md.
    """

    repetitions: int = 3
    seconds: float = 3.0
    quick: bool = False


@dataclass(slots=True)
class Report:
    """The answer to one question: a table, what was aimed at, and what to know when reading it."""

    name: str
    question: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    aims: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def row(self, *cells: object) -> None:
        """Add a row."""
        self.rows.append([str(cell) for cell in cells])

    def aim(self, what: str, *, met: bool) -> None:
        """Say how what was measured stands to what was aimed at."""
        self.aims.append(f"{'met' if met else 'MISSED'}: {what}")

    def markdown(self) -> str:
        """As a section of RESULTS.md."""
        lines = [f"## {self.question}", "", f"<!-- {self.name} -->", ""]
        lines.append("| " + " | ".join(self.columns) + " |")
        lines.append("|" + "|".join("---" if at == 0 else "---:" for at in range(len(self.columns))) + "|")
        lines += ["| " + " | ".join(row) + " |" for row in self.rows]
        lines.append("")
        lines += [f"- Aim {aim}" for aim in self.aims]
        lines += [f"- {note}" for note in self.notes]
        lines += [f"- Measured {now()} on {machine()}; {versions()}.", ""]
        return "\n".join(lines)


def spread(values: Sequence[float], digits: int = 0) -> str:
    """`median (least-greatest)`."""

    def number(value: float) -> str:
        return f"{value:,.{digits}f}"

    return f"{number(statistics.median(values))} ({number(min(values))}–{number(max(values))})"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Of the medians."""
    return statistics.median(ours) / statistics.median(theirs)


def now() -> str:
    """Today, UTC."""
    return datetime.now(UTC).date().isoformat()


def machine() -> str:
    """Processor, cores and kernel in a few words, and how busy it was with other things before."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{os.cpu_count()} cores of {model}, Linux {platform.release().partition('-')[0]}"


def versions() -> str:
    """Of Python and of everything that is measured."""
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in PACKAGES)])


def write(reports: Sequence[Report]) -> None:
    """Put these sections into RESULTS.md, in place of their earlier ones; others stay as they are."""
    text = RESULTS.read_text() if RESULTS.exists() else _HEAD
    for report in reports:
        section = report.markdown()
        found = re.search(rf"^## [^\n]*\n\n<!-- {re.escape(report.name)} -->.*?(?=^## |\Z)", text, re.M | re.S)
        if found is None:
            text = f"{text.rstrip()}\n\n{section}"
        else:
            text = f"{text[: found.start()]}{section}\n{text[found.end() :]}"
    RESULTS.write_text(text.rstrip() + "\n")
