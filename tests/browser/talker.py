"""An agent that says exactly what the message tells it to: any text, in any pieces, at any pace.

The message is JSON: `{"say": [piece, …], "times": 1, "every_ms": 5, "reason": "…", "tool": [server, name, arguments],
"fail": "…", "after": path, "until": path, "end": "…"}`, every part of it optional. Anything else is said back as it is.
`--agent tests.browser.talker:reply`.

It begins when the file `after` is there, and says its pieces again and again until the file `until` is: so a test that
has to see an answer while it is written says itself when that is over, however long a machine stalls.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any

from chatserver.agents.base import AgentEvent, Reasoning, Text
from chatserver.errors import AgentError

# What a server needs to have it as its model.
SETTINGS = {"scripted": None, "default_model": None, "no_docs": None}
FLAGS = ("--agent", "tests.browser.talker:reply")


async def reply(turn: Any) -> AsyncIterator[AgentEvent]:
    """See the module."""
    try:
        script = json.loads(turn.message)
    except ValueError:
        script = None
    if not isinstance(script, dict):
        yield Text(turn.message)
        return
    if "reason" in script:
        yield Reasoning(script["reason"])
    while "after" in script and not os.path.exists(script["after"]):  # noqa: ASYNC240 - a test's own file
        await asyncio.sleep(0.01)
    if "tool" in script:
        result = await turn.tools.call(*script["tool"])
        yield Text(result.content)
    while True:
        for piece in script.get("say", []) * script.get("times", 1):
            await asyncio.sleep(script.get("every_ms", 0) / 1000)
            yield Text(piece)
        if "until" not in script or os.path.exists(script["until"]):  # noqa: ASYNC240
            break
    if "end" in script:
        yield Text(script["end"])
    if "fail" in script:
        raise AgentError(script["fail"], code="upstream_error")


def script(text: str, *, pieces: int = 1, every_ms: int = 0, **more: Any) -> str:
    """The message that makes the agent say `text` in about so many pieces."""
    size = max(1, -(-len(text) // pieces))
    say = [text[at : at + size] for at in range(0, len(text), size)]
    return json.dumps({"say": say, "every_ms": every_ms, **more})
