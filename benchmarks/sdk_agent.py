"""An agent for the baseline: a model behind an OpenAI-compatible endpoint, through the openai SDK.

Written the way its documentation shows it. Nothing is added that most people would leave out, and retries are off only
because a request that is sent twice would be no measurement.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import openai

MAX_TOKENS = 2048


def sdk_agent(base_url: str, model: str) -> Callable[[Sequence[dict[str, Any]]], AsyncIterator[str]]:
    """A function that gives the answer to a conversation, token by token."""
    client = openai.AsyncOpenAI(base_url=base_url, api_key="key", max_retries=0)

    async def reply(messages: Sequence[dict[str, Any]]) -> AsyncIterator[str]:
        stream = await client.chat.completions.create(
            model=model,
            messages=[{"role": m["role"], "content": m["content"]} for m in messages],
            max_tokens=MAX_TOKENS,
            stream=True,
            stream_options={"include_usage": True},
        )
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                yield chunk.choices[0].delta.content

    return reply
