"""The agent of benchmarks/web.py: 10 kB of Markdown, 500 tokens a second. `--agent benchmarks.web_agent:reply`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

TOKENS_PER_SECOND = 500
ANSWER_BYTES = 10_000

_SECTION = """## Part {n}: what a chat page is asked to show

A paragraph with **bold words**, *emphasis*, `inline code` and a [link](https://example.org/{n}). It goes on for two or
three sentences, as answers do. The formula $E_{n} = \\hbar\\omega_{n}$ stands in the middle of it.

| name | value | unit |
|------|------:|------|
| alpha | {n}.5 | ms |
| beta | {n}7 | kB |

```python
def part_{n}(values: list[float]) -> float:
    # The mean of what is positive.
    chosen = [value for value in values if value > 0]
    return sum(chosen) / len(chosen) if chosen else 0.0
```

1. first, something short
2. second, something with `code` and **weight**

"""

ANSWER = "".join(_SECTION.replace("{n}", str(n)) for n in range(1, 40))[:ANSWER_BYTES]
# About four characters a token, as models' tokens are.
_TOKENS = re.findall(r"\s*\S{1,4}|\s+", ANSWER)
ANSWER_SECONDS = len(_TOKENS) / TOKENS_PER_SECOND


async def reply(turn: Any) -> AsyncIterator[str]:
    """The answer, by the clock; for the message "warm" its first part at once."""
    if turn.message == "warm":
        yield ANSWER[:900]
        return
    loop = asyncio.get_running_loop()
    due = loop.time()
    for token in _TOKENS:
        due += 1 / TOKENS_PER_SECOND
        await asyncio.sleep(max(0.0, due - loop.time()))
        yield token
