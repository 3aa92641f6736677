"""The agent of the walk through the page (test_walk.py): looks up the time when it is asked for it, else it tells on.

`--agent tests.browser.walker:guide`. What it tells has no end: whoever asked has to stop it.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator
from typing import Any

from chatserver.agents.base import AgentEvent, Text

_PLACES = (
    ("The gate", "Opens at sunrise. The path behind it is gravel, and the left fork is the shorter one."),
    ("The orchard", "Forty apple trees in five rows; the oldest, *Gravensteiner*, were planted in 1911."),
    ("The greenhouse", "Kept at 18 °C. Seedlings stand on the north side, lemons on the south side."),
    ("The pond", "Two metres deep at the jetty. In the evening the swallows come to drink."),
    ("The library", "One room, **three windows**, and some two thousand books on plants."),
)


async def guide(turn: Any) -> AsyncIterator[AgentEvent]:
    """See the module."""
    if "time" in turn.message.lower():
        found = await turn.tools.call("time", "get_current_time", {"timezone": "Asia/Tokyo"})
        clock = re.search(r"T(\d\d:\d\d)", found.content)
        said = f"It is **{clock[1]}** in Tokyo." if clock and not found.is_error else "I could not look it up."
        yield Text(said)
        return
    for number, (name, told) in enumerate(itertools.cycle(_PLACES), 1):
        for word in re.findall(r"\s*\S+", f"### {number}. {name}\n\n{told}\n\n"):
            await asyncio.sleep(0.03)
            yield Text(word)
        yield Text("\n\n")
