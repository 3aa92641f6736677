"""An agent that says exactly what the message tells it to: any text, in any pieces, at any pace.

The message is JSON: `{"say": [piece, …], "times": 1, "every_ms": 5, "reason": "…", "tool": [server, name, arguments],
"fail": "…"}`, every part of it optional. Anything else is said back as it is. `--agent tests.browser.talker:reply`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from chatserver.agents.base import AgentEvent, Reasoning, Text
from chatserver.errors import AgentError


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
    if "tool" in script:
        result = await turn.tools.call(*script["tool"])
        yield Text(result.content)
    for piece in script.get("say", []) * script.get("times", 1):
        await asyncio.sleep(script.get("every_ms", 0) / 1000)
        yield Text(piece)
    if "fail" in script:
        raise AgentError(script["fail"], code="upstream_error")


def script(text: str, *, pieces: int = 1, every_ms: int = 0, **more: Any) -> str:
    """The message that makes the agent say `text` in about so many pieces."""
    size = max(1, -(-len(text) // pieces))
    say = [text[at : at + size] for at in range(0, len(text), size)]
    return json.dumps({"say": say, "every_ms": every_ms, **more})
