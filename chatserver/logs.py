"""Logs: JSON lines on standard error, one event a line.

JSON escapes control characters, so hostile text cannot forge a line or drive a terminal. No bodies, no secrets, no
session ids: a traceback names files, lines and functions, never the values of their variables.
"""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import FilteringBoundLogger

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def make_log(level: str) -> FilteringBoundLogger:
    """The process's logger; libraries that use `logging` go the same way from warnings up."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # Without `show_locals=False` every frame's variables are logged: people's messages, keys, cookies.
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False, use_rich=False)),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_Forward()], force=True)
    log: FilteringBoundLogger = structlog.get_logger()
    return log


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
