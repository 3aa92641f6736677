"""What a log line may hold."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

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


async def test_lines_of_one_round_of_the_loop_are_written_together_and_in_their_order(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A write each would be most of what they cost. What is logged after that round is not lost either."""
    log = make_log("info")
    log.info("first")
    log.warning("second")
    assert not capsys.readouterr().err
    await asyncio.sleep(0)
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["first", "second"]
    log.info("third")
    await asyncio.sleep(0)
    assert json.loads(last_line(capsys))["event"] == "third"


async def test_a_log_that_nobody_reads_any_more_disturbs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """`chatserver serve 2>&1 | head`: it failed each request before. Neither in the loop nor outside."""
    reading, writing = os.pipe()
    os.close(reading)
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    with io.FileIO(writing, "w") as file:
        monkeypatch.setattr("sys.stderr", SimpleNamespace(buffer=file))
        log = make_log("info")
        log.info("request")
        await asyncio.sleep(0)
        await asyncio.to_thread(log.info, "request")
    assert not failures
