"""The real server as a child process: started, killed, terminated and started again on the same data.

    async with ServerProcess(tmp_path / "data") as server:
        async with Checker(server.base_url) as checker:
            ...
            await server.kill9()
            await server.start()
            checker.base_url = server.base_url

Invariants: `start` returns when the ready line has come, so the address answers; every way out of the context leaves no
child behind. Its output goes to a file beside the data, and `log()` reads it; a failed start shows its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import socket
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent
# It ends by itself when it cannot start; a machine that does much else needs its time.
START_SECONDS = 120.0
# Spec D3 promises 25 s; what takes longer than this is stuck and gets killed, so that a test never hangs.
STOP_SECONDS = 40.0

_ADDRESS = re.compile(rb"https?://[^\s\x1b]+")

# Limits that protect a public server would stop a test from loading it from one address. What tests a limit sets it.
# The scripted agent answers deterministically, without network.
ROOMY: Mapping[str, Any] = {
    "scripted": True,
    "default_model": "scripted",
    "discover_models": False,
    "no_docs": True,
    "auto_titles": "off",  # it tells an event of its own, at a time of its own
    "session_creations_per_minute": 1_000_000,
    "session_creations_global_per_minute": 1_000_000,
    "messages_per_minute": 1_000_000,
    "model_switches_per_minute": 1_000_000,
    "session_creations_per_address_per_minute": 1_000_000,
    "messages_per_address_per_minute": 1_000_000,
    "model_switches_per_address_per_minute": 1_000_000,
    "max_streams_per_address": 20_000,
    "max_streams_per_principal": 20_000,
    "max_streams_per_session": 20_000,
}


def free_port() -> int:
    """A port that nobody listens on now: for a server that is to come back under the same address.

    Not one of those that the system hands out: any outgoing connection could take it while the server is away, and a
    client that tries to reconnect can even be connected to itself (TCP's simultaneous open).
    """
    handed_out = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(10_000, max(handed_out, 10_100))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class ServerProcess:
    """One server on one data directory.

    Args:
        data_dir: made by the server where it does not exist.
        settings: by name of the setting, as environment; they go over `ROOMY`. None unsets one of those.
        flags: further arguments of `serve`.
        env: further environment, e.g. keys.
        cpus: the cores it may run on; all where None.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        settings: Mapping[str, Any] | None = None,
        flags: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        cpus: set[int] | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.base_url = ""
        self._settings = {**ROOMY, **(settings or {})}
        self._flags = tuple(flags)
        self._env = dict(env or {})
        self._cpus = cpus
        self._process: asyncio.subprocess.Process | None = None
        self._drain: asyncio.Task[None] | None = None
        self._log_path = data_dir.with_name(data_dir.name + ".log")

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.kill9()

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        """It was started and has not ended, as far as is known."""
        return self._process is not None and self._process.returncode is None

    def environment(self) -> dict[str, str]:
        """What the child gets: this process's environment without CHATSERVER_* and keys, plus the settings."""
        env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("CHATSERVER_", "OPENAI_")) and name != "PYTHONASYNCIODEBUG"
        }
        for name, value in self._settings.items():
            if value is not None:
                text = str(value).lower() if isinstance(value, bool) else str(value)
                env[f"CHATSERVER_{name.upper()}"] = text
        return env | self._env

    async def start(self, *, timeout_seconds: float = START_SECONDS) -> str:
        """Start it and wait for its ready line; give its address.

        Raises:
            AssertionError: it ended, or was not ready in time; the end of its output is in the text.
        """
        assert not self.running, "the server is running already"
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        with self._log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "chatserver", "serve", "--port", "0", "--data-dir", str(self.data_dir)),
                *self._flags,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=self.environment(),
                cwd=ROOT,
            )
        if self._cpus is not None:
            os.sched_setaffinity(self._process.pid, self._cpus)
        try:
            async with asyncio.timeout(timeout_seconds):
                self.base_url = await self._ready_line()
        except (TimeoutError, EOFError) as error:
            await self.kill9()
            raise AssertionError(f"the server did not get ready ({error!r}):\n{self.log()[-4000:]}") from error
        return self.base_url

    async def _ready_line(self) -> str:
        output = self._output()
        while line := await output.readline():
            if found := _ADDRESS.search(line):
                # A pipe that nobody reads would stop a server that prints more than the pipe holds.
                self._drain = asyncio.create_task(self._keep(output), name="server/stdout")
                return found[0].decode().rstrip("/")
        raise EOFError("it ended before its ready line")

    def _output(self) -> asyncio.StreamReader:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout

    async def _keep(self, output: asyncio.StreamReader) -> None:
        with self._log_path.open("ab", buffering=0) as log:
            while data := await output.read(64 << 10):
                log.write(data)

    async def kill9(self) -> None:
        """End it as a power cut would, as far as a process can tell; idempotent."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._gone()

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal and go on."""
        assert self._process is not None
        self._process.send_signal(number)

    async def terminate(self) -> float:
        """Send SIGTERM and wait for the end; give the seconds it took."""
        started = asyncio.get_running_loop().time()
        self.signal(signal.SIGTERM)
        await self.wait()
        return asyncio.get_running_loop().time() - started

    async def wait(self) -> int:
        """Wait for the end; give the exit status.

        Raises:
            AssertionError: it did not end in `STOP_SECONDS`, and was killed.
        """
        assert self._process is not None
        try:
            async with asyncio.timeout(STOP_SECONDS):
                status = await self._process.wait()
        except TimeoutError:
            await self.kill9()
            raise AssertionError(f"the server did not end in {STOP_SECONDS} s:\n{self.log()[-4000:]}") from None
        await self._gone()
        return status

    async def restart(self) -> str:
        """`kill9`, then `start` on the same data; gives the new address."""
        await self.kill9()
        return await self.start()

    async def _gone(self) -> None:
        process, self._process = self._process, None
        drain, self._drain = self._drain, None
        if process is not None:
            await process.wait()
        if drain is not None:
            # The pipe stays open as long as some child of the server holds it; what it says then is nobody's.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(drain, 2)

    def log(self, since_byte: int = 0) -> str:
        """Everything it wrote, except its ready lines, all its lives together; or what came after so many bytes."""
        try:
            with self._log_path.open("rb") as log:
                log.seek(since_byte)
                return log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def log_bytes(self) -> int:
        """How much it wrote so far."""
        return self._log_path.stat().st_size if self._log_path.exists() else 0

    def checkpointed(self) -> str:
        """What the database holds of the answer that runs (of all that run, one after the other)."""
        with contextlib.closing(sqlite3.connect(f"file:{self.data_dir}/chatserver.db?mode=ro", uri=True)) as database:
            bodies = [json.loads(body) for (body,) in database.execute("SELECT body FROM turn_chunks ORDER BY seq")]
        return "".join(value for body in bodies for kind, value in body if kind == "text")

    def memory_bytes(self) -> int:
        """Resident set of the running process (`VmRSS`, proc(5))."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    def cpu_seconds(self) -> float:
        """CPU time the running process has used so far, user and system (proc(5), fields 14 and 15)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
