"""An agent for the baseline: a model behind an OpenAI-compatible endpoint, through the openai SDK.

Written the way its documentation shows it. Only its timeout is longer than by default: a busy baseline takes more than
five seconds to connect, and answers that it gives up could not be measured.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import openai

MAX_TOKENS = 2048
TIMEOUT_SECONDS = 600.0


def sdk_agent(base_url: str, model: str) -> Callable[[Sequence[dict[str, Any]]], AsyncIterator[str]]:
    """A function that gives the answer to a conversation, token by token."""
    client = openai.AsyncOpenAI(base_url=base_url, api_key="key", timeout=TIMEOUT_SECONDS)

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
