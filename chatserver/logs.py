"""Logs: JSON lines on standard error, one event a line.

JSON escapes control characters, so hostile text cannot forge a line or drive a terminal. No bodies, no secrets, no
session ids: what must be told about a session is its hash.
"""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.typing import FilteringBoundLogger

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def make_log(level: str) -> FilteringBoundLogger:
    """The process's logger; libraries that use `logging` go the same way from warnings up."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.dict_tracebacks,
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
    """Hands records of other libraries to structlog, without their arguments' own formatting of exceptions."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except (TypeError, ValueError):
            text = str(record.msg)
        structlog.get_logger().log(record.levelno, "library", logger=record.name, text=text[:2000])
