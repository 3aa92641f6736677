"""Logs: JSON lines on standard error, one event a line.

JSON escapes control characters, so hostile text cannot forge a line or drive a terminal. No bodies, no secrets, no
session ids: a traceback names files, lines and functions, never the values of their variables.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO

import orjson
import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import FilteringBoundLogger

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def make_log(level: str) -> FilteringBoundLogger:
    """The process's logger; libraries that use `logging` go the same way from warnings up."""
    lines = _Lines(sys.stderr.buffer)
    atexit.register(lines.write)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # Without `show_locals=False` every frame's variables are logged: people's messages, keys, cookies.
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False, use_rich=False)),
            structlog.processors.JSONRenderer(serializer=_as_json),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_Forward()], force=True)
    log: FilteringBoundLogger = structlog.get_logger()
    return log


def _as_json(event: dict[str, Any], default: Callable[[Any], Any]) -> bytes:
    """In printable ASCII alone: orjson's, a third of the cost, where it is that already."""
    try:
        line = orjson.dumps(event, default=default)
        if line.isascii() and b"\x7f" not in line:
            return line
    except TypeError:  # a lone surrogate, or a number of more than 64 bits
        pass
    return json.dumps(event, default=default).encode()


class _Lines:
    """Where lines go: those of one round of the event loop together, since a write of its own was most of what a line
    cost (a fifth of a short turn's CPU). Outside the loop each is written at once.

    Nobody can be told that nothing can be written any more; what the server does, it goes on doing.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._waiting: list[bytes] = []

    def msg(self, line: bytes) -> None:
        self._waiting.append(line)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.write()
        else:
            if len(self._waiting) == 1:
                loop.call_soon(self.write)

    # What structlog calls, by level.
    debug = info = warning = error = critical = msg

    def write(self) -> None:
        """Write what waits."""
        lines, self._waiting = self._waiting, []
        with suppress(OSError, ValueError):  # its reader has gone, or it is closed
            self._file.write(b"".join([line + b"\n" for line in lines]))
            self._file.flush()


class _Forward(logging.Handler):
    """Hands records of other libraries to structlog, tracebacks too."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except (TypeError, ValueError):
            text = str(record.msg)
        structlog.get_logger().log(
            record.levelno, "library", logger=record.name, text=text[:2000], exc_info=record.exc_info
        )
