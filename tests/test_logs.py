"""What a log line may hold."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from chatserver.logs import make_log


@pytest.fixture(autouse=True)
def _global_logging_as_before() -> Iterator[None]:
    """`make_log` is for whole processes."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def fail_with(api_key: str) -> None:
    raise ValueError(f"refused after {len(api_key)} characters")


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_a_traceback_never_shows_variables(capsys: pytest.CaptureFixture[str]) -> None:
    """Keys, cookies and what people wrote are variables of the frames that a crash goes through."""
    log = make_log("info")
    try:
        fail_with("-".join(["a", "secret"]))
    except ValueError as error:
        log.error("request_failed", exc_info=error)
    line = last_line(capsys)
    assert "a-secret" not in line
    frames = json.loads(line)["exception"][0]["frames"]
    assert frames[-1]["name"] == "fail_with"


def test_a_librarys_error_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """asyncio and aiohttp tell what went wrong by `exc_info` alone."""
    make_log("info")
    try:
        fail_with("x")
    except ValueError:
        logging.getLogger("asyncio").exception("a task\nfailed")
    line = json.loads(last_line(capsys))
    assert line["text"] == "a task\nfailed"
    assert line["exception"][0]["exc_value"] == "refused after 1 characters"


def test_control_characters_are_escaped_whatever_their_kind(capsys: pytest.CaptureFixture[str]) -> None:
    """C0, DEL, C1 (which drive terminals as ESC does), separators that some readers take for line ends, direction."""
    make_log("info").info("request", tenant="a\x1b[31m\r\nb\x7f\x9b\x85\u2028\u202e\ud800c")
    line = capsys.readouterr().err

    assert line.count("\n") == 1
    assert line.rstrip("\n").isprintable()
    assert line.isascii()
