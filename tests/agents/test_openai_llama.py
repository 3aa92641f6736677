"""The agent against a real llama.cpp server: streaming, context, and an interrupt that its slot notices."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import openai
import pytest

from chatserver.agents.base import Spent
from chatserver.agents.context import Conversation
from chatserver.errors import AgentError
from tests.agents.conftest import MakeAgent, joined
from tests.agents.plain_turn import said, turn
from tests.llama import CONTEXT_TOKENS, WORDS, LlamaServer
from tests.timing import least

pytestmark = pytest.mark.llama


async def events(agent: Any, message: str, **kwargs: Any) -> list[Any]:
    return [event async for event in agent.run(turn(message, **kwargs))]


async def test_a_real_answer_of_many_tokens_streams(llama: LlamaServer, agent: MakeAgent) -> None:
    """In many pieces, every word one of the model's, and counted by the server."""
    got = await events(agent(base_url=llama.base_url, max_output_tokens=400), "tell me everything")
    words = joined(got).split()

    assert len(words) == 400
    assert set(words) <= set(WORDS)
    assert len(got) > 50
    assert isinstance(got[-1], Spent)
    assert got[-1].usage.completion_tokens == 400
    assert not got[-1].usage.estimated


async def test_the_sdk_gets_the_same_answer(llama: LlamaServer, agent: MakeAgent) -> None:
    """The same request through OpenAI's own client."""
    got = joined(await events(agent(base_url=llama.base_url, max_output_tokens=100), "hello"))
    async with openai.AsyncOpenAI(api_key="k", base_url=llama.base_url) as client:
        stream = await client.chat.completions.create(
            model="tiny-1", max_tokens=100, stream=True, messages=[{"role": "user", "content": "hello"}]
        )
        theirs = "".join([choice.delta.content or "" async for piece in stream for choice in piece.choices])

    assert got == theirs


async def test_what_was_said_before_is_read(llama: LlamaServer, agent: MakeAgent) -> None:
    """Another history, another answer: the model sees it."""
    made = agent(base_url=llama.base_url, max_output_tokens=40)
    one = await events(made, "go on", history=[said("user", "river"), said("assistant", "stone")])
    other = await events(made, "go on", history=[said("user", "cloud"), said("assistant", "north")])

    assert joined(one) != joined(other)


async def test_an_interrupt_frees_the_servers_slot_at_once(llama: LlamaServer, agent: MakeAgent) -> None:
    """llama.cpp stops generating when it sees the connection gone: within 100 ms, at the best of several tries."""
    made = agent(base_url=llama.base_url, max_output_tokens=CONTEXT_TOKENS // 2)

    async def stop() -> float:
        begun = asyncio.Event()

        async def read() -> None:
            async for _ in made.run(turn("for ever")):
                begun.set()

        task = asyncio.create_task(read())
        await asyncio.wait_for(begun.wait(), 60)
        assert await asyncio.to_thread(llama.busy_slots) == 1
        stopped_at = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while await asyncio.to_thread(llama.busy_slots):
            assert time.monotonic() - stopped_at < 20, "the server goes on generating"
        return time.monotonic() - stopped_at

    assert await least(stop, 0.1) < 0.1


async def test_a_prompt_over_the_window_is_named_as_that(llama: LlamaServer, agent: MakeAgent) -> None:
    """A window configured larger than the server's: its own refusal, by our name."""
    made = agent(base_url=llama.base_url, context_tokens=1_000_000)
    with pytest.raises(AgentError) as caught:
        await events(made, "x" * (CONTEXT_TOKENS + 1))

    assert caught.value.narrow_code == "context_too_long"


async def test_a_long_history_is_cut_to_the_window_and_answered(llama: LlamaServer, agent: MakeAgent) -> None:
    """The tiny model reads every byte as a token and a space as three, so the window is set to a sixth."""
    history = [said(role, "river " * 100) for _ in range(40) for role in ("user", "assistant")]
    made = agent(base_url=llama.base_url, context_tokens=CONTEXT_TOKENS // 6, max_output_tokens=20)
    got = await events(made, "and now?", history=history)

    assert len(joined(got).split()) == 20
    assert len(Conversation(history, "and now?", None).fitted(CONTEXT_TOKENS // 6)) > 10
