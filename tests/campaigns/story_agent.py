"""The agent that campaigns talk to: what it says follows from the message alone, so an answer can be foretold.

A message is `story PIECES PAUSE_MS [fail|think|deaf] anything…`; the answer is `anything` said over and over in PIECES
pieces, PAUSE_MS milliseconds apart, with characters of one to four bytes of UTF-8 between them. `fail` raises after the
last piece, `think` reasons first, `deaf` ignores its cancellation for a while. Any other message is echoed.

    chatserver serve --agent tests.campaigns.story_agent:reply
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

from chatserver.agents.base import Reasoning
from chatserver.errors import AgentError

_DIRECTIVE = re.compile(r"story (\d+) (\d+)(?: (fail|think|deaf))? ?")
_BETWEEN = (" ", " é ", " ✓ ", " 𝄞 ", "\n", ' "\\" ')
# Longer than the server waits for a cancelled agent by default.
_DEAF_SECONDS = 4.0


def story(pieces: int, pause_ms: int, text: str, mood: str = "") -> str:
    """The message that asks for such an answer."""
    return f"story {pieces} {pause_ms} {mood + ' ' if mood else ''}{text}"


def pieces_of(message: str) -> list[str]:
    """The pieces of the whole answer to `message`."""
    found = _DIRECTIVE.match(message)
    if found is None:
        return [message]
    rest = message[found.end() :]
    words = rest.split() or ["silence"]
    return [f"{words[n % len(words)]}{_BETWEEN[n % len(_BETWEEN)]}" for n in range(int(found[1]))]


async def reply(turn: Any) -> AsyncIterator[Any]:
    """Answer a turn."""
    found = _DIRECTIVE.match(turn.message)
    pause_seconds = int(found[2]) / 1000 if found else 0.0
    mood = found[3] if found else None
    if mood == "think":
        yield Reasoning("Let me see. ")
        yield Reasoning("I have it.")
    for piece in pieces_of(turn.message):
        try:
            await asyncio.sleep(pause_seconds)
        except asyncio.CancelledError:
            if mood == "deaf":
                await asyncio.sleep(_DEAF_SECONDS)
            raise
        yield piece
    if mood == "fail":
        raise AgentError("The story has no end.", code="story_failed")
