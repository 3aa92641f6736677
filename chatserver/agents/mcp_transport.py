"""From a server's configuration to the way to it: command line, environment, headers.

Invariants: a child's environment holds PATH, HOME and LANG, and beyond that only what the configuration names, so no
key of ours reaches it by accident; nothing of a session but an opaque name reaches a server's command line.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mcp.client import Transport
from structlog.typing import FilteringBoundLogger

from chatserver.agents.mcp_http import http_transport
from chatserver.agents.mcp_stdio import stdio_transport
from chatserver.config import SESSION_PLACEHOLDER, McpServerConfig
from chatserver.errors import ToolError

INHERITED = ("PATH", "HOME", "LANG")
# stderr and garbage of one connection in the log: enough for a traceback, too little to fill a disk.
LINES_PER_MINUTE = 60
LINE_CHARS = 1000


def session_name(key: tuple[str, str]) -> str:
    """What `{session}` stands for: the same for the same session, telling nothing about it, fit for a file's name."""
    return hashlib.sha256("\0".join(key).encode()).hexdigest()[:32]


def make_transport(
    config: McpServerConfig,
    session: str | None,
    message_bytes: int,
    log: FilteringBoundLogger,
    on_lost: Callable[[str], None],
) -> Transport:
    """The way to a server, not yet opened.

    Args:
        session: `session_name` of the session it is for; None for a shared server.
        message_bytes: of one message from the server.
        on_lost: called with the reason when the way is lost.
    Raises: ToolError, code `server_failed`, where a named environment variable is not set.
    """

    def filled(text: str) -> str:
        return text if session is None else text.replace(SESSION_PLACEHOLDER, session)

    if config.url is not None:
        return http_transport(
            filled(config.url),
            {header: _variable(name) for header, name in config.headers_env.items()},
            message_bytes=message_bytes,
            answer_seconds=config.call_timeout_seconds,
            on_lost=on_lost,
        )
    lines = _Lines(log)
    return stdio_transport(
        [filled(part) for part in config.command or ()],
        {
            **_inherited(),
            **{name: filled(value) for name, value in config.env.items()},
            **{name: _variable(name) for name in config.env_from},
        },
        message_bytes=message_bytes,
        on_lost=on_lost,
        on_garbage=lambda line: lines.write("mcp_garbage", line),
        on_stderr=lambda line: lines.write("mcp_stderr", line),
    )


def _inherited() -> dict[str, str]:
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    # Servers installed beside chatserver (`mcp-server-time`) are found although its environment is not activated.
    environment["PATH"] = os.pathsep.join([environment.get("PATH", os.defpath), str(Path(sys.executable).parent)])
    return environment


def _variable(name: str) -> str:
    if name not in os.environ:
        raise ToolError(f"the environment variable {name} is not set", code="server_failed")
    return os.environ[name]


class _Lines:
    """A child's lines in the log, so many a minute; the rest is counted."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        self._log = log
        self._minute = 0
        self._written = 0
        self._dropped = 0

    def write(self, event: str, line: str) -> None:
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            if self._dropped:
                self._log.info("mcp_lines_dropped", lines=self._dropped)
            self._minute, self._written, self._dropped = minute, 0, 0
        if self._written >= LINES_PER_MINUTE:
            self._dropped += 1
            return
        self._written += 1
        self._log.info(event, line=_escaped(line[:LINE_CHARS]))


def _escaped(line: str) -> str:
    """Without control characters, whatever writes the log: a child's line must not drive a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
