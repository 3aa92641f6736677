"""What every test stands on: which loops run it, and what it may not leave behind.

asyncio's debug mode and warnings as errors are set in pyproject.toml. A test fails at teardown when it leaves a task
running, a descriptor open or a child process behind; `@pytest.mark.keeps_descriptors("reason")` exempts one from the
last two. Under CI=true a skipped test is a failed one: what a build machine lacks has to be installed, not passed over.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping

import hypothesis
import pytest
import pytest_asyncio
import uvloop

from tests import leaks
from tests.llama import llama as llama

ON_CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}

# No deadline per example: on a shared machine it measures the neighbours. The blob makes a failure repeatable anywhere.
# On CI the same examples each time: new ones are looked for by people and campaigns, who can follow what they find.
hypothesis.settings.register_profile("chatserver", deadline=None, print_blob=True, derandomize=ON_CI)
hypothesis.settings.load_profile("chatserver")

_failed = pytest.StashKey[bool]()


def pytest_configure() -> None:
    """Let libuv open the pipe that it keeps per process, so that no test is blamed for it; hear Ctrl-C."""
    uvloop.new_event_loop().close()
    # A shell that starts the tests in the background has them ignore it, and so would what they send it to.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run on asyncio's own loop, whose debug mode sees more, and with `both_loops` on the server's uvloop too."""
    if item.get_closest_marker("both_loops") is None:
        return {"asyncio": asyncio.new_event_loop}
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember failures for the leak check; turn a skip into a failure on CI."""
    report = yield
    if report.skipped and ON_CI and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not accept: {reason}"
    if report.failed:
        item.stash[_failed] = True
    return report


@pytest.fixture(autouse=True)
def _no_leaked_descriptors(request: pytest.FixtureRequest) -> Iterator[None]:
    """Set up first and torn down last, after the loop is closed: what is open then was left by the test."""
    if request.node.get_closest_marker("keeps_descriptors") is not None:
        yield
        return
    descriptors, children = leaks.open_descriptors(), leaks.child_processes()
    yield
    if request.node.stash.get(_failed, False):
        return  # a test that stopped half-way has said what matters
    if left := leaks.new_since(children, leaks.child_processes):
        pytest.fail(f"child processes left: {left}", pytrace=False)
    if left := leaks.new_since(descriptors, leaks.open_descriptors):
        pytest.fail(f"descriptors left open: {left}", pytrace=False)


@pytest.fixture(autouse=True)
def _no_leaks(request: pytest.FixtureRequest, _no_leaked_descriptors: None) -> None:
    """Add the check of tasks where there is a loop; a test that is not async gets none."""
    if pytest_asyncio.is_async_test(request.node):
        request.getfixturevalue("_no_leaked_tasks")


@pytest.fixture
async def _no_leaked_tasks(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Torn down after every other fixture of the test, while its loop still runs."""
    before = asyncio.all_tasks()
    yield
    left = await leaks.tasks_left(before)
    if left and not request.node.stash.get(_failed, False):
        pytest.fail("tasks left running:\n" + "\n".join(left), pytrace=False)
