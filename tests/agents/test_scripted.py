"""The scripted agent: each command does what docs/agents.md says, the same every time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chatserver.agents.base import Reasoning, Spent, Text
from chatserver.agents.scripted import MAX_MILLISECONDS, MAX_TOKENS, ScriptedAgent
from chatserver.errors import AgentError
from chatserver.message import ToolResult, Usage
from tests.agents.plain_turn import TableTools, turn
from tests.core.virtual import virtual


class Sleeps:
    """Waits that take no time and are noted."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


async def play(script: str, **kwargs: Any) -> tuple[list[Any], list[float]]:
    """What came out, the closing Spent aside, and the waits that were not for nothing."""
    sleeps = Sleeps()
    got = [event async for event in ScriptedAgent(sleeps).run(turn(script, **kwargs))]
    assert isinstance(got.pop(), Spent)
    return got, [s for s in sleeps.slept if s]


@pytest.mark.parametrize("text", ["hello", "hello  there,\tworld\n\nand  more", "  led", "/unknown thing", "a /say b"])
async def test_other_text_is_said_back_word_by_word(text: str) -> None:
    """Nothing added and nothing lost, except blanks at the very end of a line."""
    got, _ = await play(text)

    assert "".join(got).split() == text.split()
    assert len(got) == len(text.split())
    assert got[0] == "  led" if text == "  led" else True


async def test_each_command_does_its_thing() -> None:
    """From top to bottom."""
    table = TableTools({("time", "now"): ToolResult("noon", False)})
    got, slept = await play(
        '/reason hm\n/say Good  morning.\n/tokens 3 every 20\n/sleep 1500\n/tool time.now {"tz": "UTC"}\nbye now',
        tools=table,
    )

    assert got == [Reasoning("hm"), Text("Good  morning."), "t0 ", "t1 ", "t2 ", "noon", "\nbye", " now"]
    assert slept == [0.02, 0.02, 0.02, 1.5]
    assert table.calls == [("time", "now", {"tz": "UTC"})]


async def test_the_same_script_gives_the_same_answer_and_the_same_usage() -> None:
    """Benchmarks compare by it."""
    first = [e async for e in ScriptedAgent(Sleeps()).run(turn("/tokens 200"))]
    second = [e async for e in ScriptedAgent(Sleeps()).run(turn("/tokens 200"))]

    assert first == second
    assert len(first) == 201
    assert first[-1] == Spent(Usage(prompt_tokens=2, completion_tokens=200))


async def test_tokens_let_others_run_between_them() -> None:
    """As a model's do: else nobody could interrupt a million of them."""
    task = asyncio.create_task(play(f"/tokens {MAX_TOKENS}"))
    for _ in range(3):
        await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_failed_tool_is_said_as_such() -> None:
    """A tool without arguments, that does not exist."""
    got, _ = await play("/tool no.where")

    assert got == ["error: There is no such tool."]


async def test_fail_raises_its_code_and_raise_what_no_agent_should() -> None:
    """The two ways an agent can go wrong by raising."""
    with pytest.raises(AgentError) as caught:
        await play("/say half\n/fail upstream_timeout\n/say never")
    assert caught.value.narrow_code == "upstream_timeout"
    with pytest.raises(RuntimeError):
        await play("/raise")


async def test_the_wrong_type_is_not_an_event() -> None:
    """For the border that has to catch it."""
    got, _ = await play("/wrong-type")

    assert type(got[0]) is object


async def test_hang_ends_by_cancelling_only() -> None:
    """It never gives up by itself."""
    task = asyncio.create_task(play("/say begun\n/hang"))
    done, _ = await asyncio.wait({task}, timeout=0.05)
    assert not done
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


@virtual
async def test_ignore_cancel_goes_on_and_says_something_late() -> None:
    """Every cancel in its time is swallowed; afterwards it is an agent like any other."""
    got: list[Any] = []

    async def read() -> None:
        async for event in ScriptedAgent(asyncio.sleep).run(turn("/say first\n/ignore-cancel 150\n/hang")):
            got.append(event)

    task = asyncio.create_task(read())
    for _ in range(3):
        await asyncio.sleep(0.01)
        task.cancel()
    async with asyncio.timeout(60):
        while "late" not in got:
            await asyncio.sleep(0.01)
    assert not task.done()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert got == [Text("first"), "late"]


@pytest.mark.parametrize(
    "script",
    [
        "/tokens",
        "/tokens x",
        "/tokens -1",
        f"/tokens {MAX_TOKENS + 1}",
        "/tokens 3 every",
        "/tokens ٣",
        "/sleep soon",
        f"/sleep {MAX_MILLISECONDS + 1}",
        "/tool now",
        "/tool time.now [1]",
        "/tool time.now {",
        "/fail",
        "/fail Not A Code",
    ],
)
async def test_a_command_that_cannot_be_read_says_what_it_wants(script: str) -> None:
    """Instead of doing something else."""
    with pytest.raises(AgentError) as caught:
        await play(script)

    assert caught.value.narrow_code == "bad_script"
