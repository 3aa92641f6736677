"""The backoff of failing servers, on a clock of the test's."""

from __future__ import annotations

import pytest

from chatserver.agents.mcp_health import RESTS, STABLE_SECONDS, Health
from chatserver.clock import SystemClock
from chatserver.errors import ToolError


class Clock(SystemClock):
    """Stands still until told otherwise."""

    __slots__ = ("time",)

    def __init__(self) -> None:
        self.time = 1000.0

    def monotonic(self) -> float:
        return self.time


def _rest(health: Health, clock: Clock) -> float:
    """How long `health` refuses from now on."""
    began = clock.time
    while True:
        try:
            health.check()
        except ToolError:
            clock.time += 0.5
        else:
            return clock.time - began


def test_rests_grow_to_a_bound() -> None:
    """The first retry is free; then longer and longer, but never for good."""
    clock = Clock()
    health = Health("s", clock)

    rests = []
    for _ in range(len(RESTS) + 3):
        health.failed("it broke")
        rests.append(_rest(health, clock))

    assert rests[: len(RESTS)] == list(RESTS)
    assert set(rests[len(RESTS) :]) == {RESTS[-1]}


def test_a_refusal_says_why_and_how_long() -> None:
    """One sentence for the caller."""
    health = Health("s", Clock())
    for _ in range(3):
        health.failed("it broke")

    with pytest.raises(ToolError, match=r"'s' failed \(it broke\); it is tried again in 2 s"):
        health.check()


def test_success_forgets_failures() -> None:
    """The row begins anew."""
    clock = Clock()
    health = Health("s", clock)
    for _ in range(5):
        health.failed("it broke")

    health.fine()

    assert not health.failing
    health.check()
    health.failed("again")
    assert _rest(health, clock) == 0


def test_a_loss_after_long_service_is_a_first_failure() -> None:
    """A server that dies once a day is back at once each time."""
    clock = Clock()
    health = Health("s", clock)

    for _ in range(5):
        health.failed("it died", STABLE_SECONDS)
        assert _rest(health, clock) == 0
