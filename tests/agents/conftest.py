"""What tests of the upstream side share: a misbehaving endpoint, and an agent that talks to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
import structlog

from chatserver.agents.endpoints import Endpoints
from chatserver.agents.openai_compatible import OpenAICompatibleAgent
from chatserver.clock import SystemClock
from chatserver.config import ModelConfig
from tests.agents.upstream import Upstream, running_upstream

MakeAgent = Callable[..., OpenAICompatibleAgent]


class NotedSleeps(SystemClock):
    """The real clock, but waits between tries take no time and are noted, in seconds."""

    __slots__ = ("slept",)

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with running_upstream() as server:
        yield server


@pytest.fixture
async def endpoints() -> AsyncIterator[Endpoints]:
    endpoints = Endpoints()
    yield endpoints
    await endpoints.close()


@pytest.fixture
def clock() -> NotedSleeps:
    return NotedSleeps()


@pytest.fixture
def logged() -> list[Any]:
    """What the agent logs."""
    return []


@pytest.fixture
def agent(upstream: Upstream, endpoints: Endpoints, clock: NotedSleeps, logged: list[Any]) -> MakeAgent:
    """Makes agents of the fake endpoint; keywords are fields of ModelConfig, `key` and `tool_rounds` aside."""

    def note(_: Any, __: str, event: Any) -> Any:
        logged.append(event)
        raise structlog.DropEvent

    def make(*, key: str | None = None, tool_rounds: int = 8, **fields: Any) -> OpenAICompatibleAgent:
        defaults = {"id": "tiny", "base_url": upstream.base_url, "model": "tiny-1", "token_timeout_seconds": 5}
        return OpenAICompatibleAgent(
            ModelConfig(**{**defaults, **fields}),
            key,
            endpoints,
            tool_rounds=tool_rounds,
            clock=clock,
            log=structlog.wrap_logger(None, processors=[note], wrapper_class=structlog.make_filtering_bound_logger(0)),
            jitter=lambda: 1.0,
        )

    return make


def joined(events: Sequence[Any]) -> str:
    """The text among agent events."""
    return "".join(event for event in events if isinstance(event, str))
