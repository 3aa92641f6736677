"""A measured server as a child process on a core of its own, with its CPU time and memory.

Invariants: the server has `SERVER_CORE` to itself as far as this machine's other programs let it, everything else of a
benchmark runs on `LOAD_CORE`; leaving the context leaves no process and no data behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 30.0

_cores = sorted(os.sched_getaffinity(0))
SERVER_CORE = _cores[0]
LOAD_CORE = _cores[-1]

_ADDRESS = re.compile(rb"http://[0-9.]+:[0-9]+")

# Limits that would stop a load from one address, and models that discovery would find: neither is measured here.
_ROOMY: Mapping[str, Any] = {
    "discover_models": "false",
    "no_docs": "true",
    "session_creations_per_minute": 10_000_000,
    "session_creations_global_per_minute": 10_000_000,
    "messages_per_minute": 10_000_000,
    "model_switches_per_minute": 10_000_000,
    "max_streams_per_principal": 1_000_000,
    "max_streams_per_session": 1_000_000,
    "max_streams": 1_000_000,
    "max_connections": 1_000_000,
    "max_running_turns": 100_000,
    "log_level": "warning",
    "auto_titles": "off",  # the fake agent's messages have no words for a title, so each turn would look for one
}


@dataclass(frozen=True, slots=True)
class Kind:
    """A server that can be measured: its name in tables and how to start it, from the `folder` that has its code;
    whether it `stores` what is said in a data directory."""

    name: str
    command: tuple[str, ...]
    settings: Mapping[str, Any]
    folder: Path = ROOT
    stores: bool = True

    def with_settings(self, **settings: Any) -> Kind:
        """The same with further settings."""
        return replace(self, settings={**self.settings, **settings})


_SERVE = ("-m", "chatserver", "serve", "--port", "0", "--agent", "benchmarks.fake_agent:reply")

CHATSERVER = Kind("chatserver", _SERVE, _ROOMY)
# Each token an event of its own, for a comparison event by event.
UNCOALESCED = Kind("chatserver, no coalescing", _SERVE, {**_ROOMY, "flush_interval_seconds": 0})
_BASELINE = ("-m", "benchmarks.baseline_fastapi")
BASELINE = Kind("FastAPI + sse-starlette", _BASELINE, {}, stores=False)
# The same with questions and answers committed, which is part of the job.
STORING = Kind("the same + aiosqlite", _BASELINE, {})


class Server:
    """A running server."""

    def __init__(self, kind: Kind, pid: int, base_url: str) -> None:
        self.kind = kind
        self.pid = pid
        host, _, port = base_url.removeprefix("http://").partition(":")
        self.host, self.port = host, int(port)

    def cpu_seconds(self) -> float:
        """CPU time of all its threads so far, user and system.

        From /proc/PID/task/*/schedstat in nanoseconds; `utime` in /proc/PID/stat has ticks of 10 ms only.
        """
        total = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):
                total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9

    def memory_kib(self) -> int:
        """Resident set (`VmRSS`), in KiB."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise RuntimeError("no VmRSS")


@asynccontextmanager
async def running(kind: Kind, data: Path | None = None) -> AsyncIterator[Server]:
    """Start a server pinned to its core; leaving ends it.

    Args:
        data: its data directory, which stays; an empty one, which does not, where None.
    Raises:
        RuntimeError: it did not get ready; the end of its output is in the text.
    """
    folder = Path(tempfile.mkdtemp(prefix="benchmark-"))
    command = [sys.executable, *kind.command]
    if kind.stores:
        command += ["--data-dir", str(data or folder / "data")]
    env = {n: v for n, v in os.environ.items() if not n.startswith(("CHATSERVER_", "OPENAI_", "PYTHON"))}
    env |= {f"CHATSERVER_{name.upper()}": str(value) for name, value in kind.settings.items()}
    log_path = folder / "log"
    with log_path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env=env,
            cwd=kind.folder,
        )
    # Before it starts threads: they inherit it.
    os.sched_setaffinity(process.pid, {SERVER_CORE})
    try:
        base_url = await _ready(process, log_path)
        yield Server(kind, process.pid, base_url)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        shutil.rmtree(folder, ignore_errors=True)


async def _ready(process: asyncio.subprocess.Process, log_path: Path) -> str:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_SECONDS):
            while line := await process.stdout.readline():
                if found := _ADDRESS.search(line):
                    return found[0].decode()
    except TimeoutError:
        pass
    end = log_path.read_text(errors="replace")[-3000:]  # noqa: ASYNC240 - nothing else runs any more
    raise RuntimeError(f"the server did not get ready:\n{end}")


def prepare_this_process() -> None:
    """Put the load generator on its core and let it, and its children, open enough sockets."""
    os.sched_setaffinity(0, {LOAD_CORE})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
