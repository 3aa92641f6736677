"""The leak check itself: it has to catch what it is there for, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

HERE = Path(__file__).parent

LEAKY = """
import asyncio, os, socket, subprocess, sys, time
import pytest
from tests import leaks

KEPT = []
leaks.GRACE_SECONDS = 1.0

async def test_leaves_a_task():
    KEPT.append(asyncio.get_running_loop().create_task(asyncio.Event().wait(), name="forgotten"))

def test_leaves_a_socket():
    KEPT.append(socket.socket())

def test_leaves_a_child():
    KEPT.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))

def test_never_waits_for_a_child():
    child = os.fork()
    if not child:
        os._exit(0)

@pytest.fixture
async def server():
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    yield server
    server.close()
    await server.wait_closed()

@pytest.mark.both_loops
async def test_clean_server(server):
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert await reader.read() == b""
    writer.close()

async def test_clean_child():
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", "", stdout=subprocess.PIPE)
    await child.communicate()

async def test_clean_task():
    task = asyncio.get_running_loop().create_task(asyncio.sleep(0.05))
    task.cancel()

@pytest.mark.keeps_descriptors("shown here")
def test_exempt():
    KEPT.append(socket.socket())

def test_that_fails_is_told_once():
    KEPT.append(socket.socket())
    raise ValueError("its own failure")

def test_needs_something():
    pytest.skip("no chromium")
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    """A folder with this project's own conftest and settings, to run tests in that are meant to fail."""
    (pytester.path / "tests").mkdir()
    for path in HERE.glob("*.py"):
        if not path.name.startswith("test_"):
            shutil.copy(path, pytester.path / "tests")
    shutil.copy(HERE.parent / "pyproject.toml", pytester.path)
    return pytester


def test_leaks_fail_their_test_and_clean_tests_pass(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left behind is an error that names it; what ends is none; a skip is a failure on CI."""
    monkeypatch.setenv("CI", "true")
    (suite.path / "tests" / "test_leaky.py").write_text(LEAKY)

    result = suite.runpytest_subprocess("-p", "no:cacheprovider")

    result.assert_outcomes(passed=9, failed=2, errors=4)
    result.stdout.fnmatch_lines(
        [
            "*tasks left running:*",
            "forgotten: *",
            "*descriptors left open: *socket:*",
            "*child processes left: *input()*",
            "*child processes left: *never waited for*",
            "skipped, which CI does not accept: *no chromium*",
        ]
    )


def test_a_skip_is_a_skip_elsewhere(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a developer's machine a missing component costs its tests only."""
    monkeypatch.delenv("CI", raising=False)
    (suite.path / "tests" / "test_leaky.py").write_text(LEAKY)

    result = suite.runpytest_subprocess("-p", "no:cacheprovider", "-k", "needs_something")

    result.assert_outcomes(skipped=1, deselected=10)
