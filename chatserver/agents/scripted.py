"""ScriptedAgent: does what the message says, the same every time. For tests, demos and benchmarks.

The language, one command a line, carried out from top to bottom (docs/agents.md has it with examples):

    /say TEXT              TEXT in one piece
    /tokens N              N short tokens, each a piece of its own
    /tokens N every MS     … with MS milliseconds before each
    /reason TEXT           TEXT as reasoning
    /sleep MS              nothing for MS milliseconds
    /tool SERVER.NAME {…}  calls the tool with these arguments and says its result
    /fail CODE             ends the turn as failed, with that code
    /raise                 raises what no agent should
    /hang                  nothing, until it is cancelled
    /ignore-cancel MS      for MS milliseconds does not let itself be cancelled, then says "late"
    /wrong-type            yields what is no agent event

Every other line is said back, word by word. It uses no clock of its own and no randomness.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, cast

from chatserver.agents import json_border
from chatserver.agents.base import AgentEvent, AgentTurn, Reasoning, Spent, Text
from chatserver.errors import AgentError
from chatserver.message import Usage

# A million tokens is the longest answer that the default max_answer_chars lets through, several times over.
MAX_TOKENS = 1_000_000
MAX_MILLISECONDS = 3_600_000
# As long as any wait here; /hang is a row of them.
_HANG_SECONDS = 3600.0

_COMMAND = re.compile(r"/([a-z-]+)(?:[ \t]+(.*))?", re.DOTALL)
_TOKENS = re.compile(r"(\d{1,7})(?:[ \t]+every[ \t]+(\d{1,7}))?", re.ASCII)
_MILLISECONDS = re.compile(r"\d{1,7}", re.ASCII)
_TOOL = re.compile(r"([^\s.]+)\.(\S+)(?:[ \t]+(.+))?", re.DOTALL)
_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
_WORD = re.compile(r"\s*\S+")


class ScriptedAgent:
    """See the module.

    Args:
        sleep: waits that many seconds; `sleep(0)` lets others run once.
    """

    def __init__(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._sleep = sleep

    async def run(self, turn: AgentTurn) -> AsyncGenerator[AgentEvent, None]:
        """Carry out the turn's message.

        Raises (while iterating):
            AgentError: what `/fail` names; `bad_script` for a command that can't be read. RuntimeError for `/raise`.
        Cancelling ends it where it waits, except in `/ignore-cancel`.
        """
        said = 0
        for number, line in enumerate(turn.message.splitlines()):
            command = _COMMAND.fullmatch(line.strip())
            name, rest = (command[1], command[2] or "") if command else ("", line)
            match name:
                case "say":
                    said += 1
                    yield Text(rest)
                case "tokens":
                    count, seconds = _tokens(rest)
                    for n in range(count):
                        # Also where there is nothing to wait for: a real model's tokens arrive one by one too.
                        await self._sleep(seconds)
                        yield f"t{n} "
                    said += count
                case "reason":
                    yield Reasoning(rest)
                case "sleep":
                    await self._sleep(_seconds(rest))
                case "tool":
                    said += 1
                    yield await _call(turn, rest)
                case "fail":
                    raise AgentError("The script says so.", code=_code(rest))
                case "raise":
                    raise RuntimeError("the script says so")
                case "hang":
                    while True:
                        await self._sleep(_HANG_SECONDS)
                case "ignore-cancel":
                    await self._ignoring_cancel(_seconds(rest))
                    said += 1
                    yield "late"
                case "wrong-type":
                    yield cast(AgentEvent, object())
                case _:
                    for word in _WORD.findall(line if number == 0 else f"\n{line}"):
                        await self._sleep(0)
                        said += 1
                        yield word
        yield Spent(Usage(prompt_tokens=len(turn.message.split()), completion_tokens=said))

    async def _ignoring_cancel(self, seconds: float) -> None:
        """The one place that swallows a CancelledError, on purpose: it plays the agent that others have to survive."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while (left := end - loop.time()) > 0:
            try:
                await self._sleep(left)
            except asyncio.CancelledError:
                continue

    async def close(self) -> None:
        """Nothing to close."""


async def _call(turn: AgentTurn, rest: str) -> str:
    found = _TOOL.fullmatch(rest)
    if found is None:
        raise _bad("/tool SERVER.NAME {…}")
    try:
        arguments: Any = json_border.loads(found[3]) if found[3] else {}
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise _bad("/tool SERVER.NAME {…}, with a JSON object")
    result = await turn.tools.call(found[1], found[2], arguments)
    return f"error: {result.content}" if result.is_error else result.content


def _tokens(rest: str) -> tuple[int, float]:
    found = _TOKENS.fullmatch(rest)
    if found is None or int(found[1]) > MAX_TOKENS:
        raise _bad(f"/tokens N, or /tokens N every MS, with N up to {MAX_TOKENS}")
    return int(found[1]), _seconds(found[2] or "0")


def _seconds(rest: str) -> float:
    if not _MILLISECONDS.fullmatch(rest) or int(rest) > MAX_MILLISECONDS:
        raise _bad(f"milliseconds from 0 to {MAX_MILLISECONDS}")
    return int(rest) / 1000


def _code(rest: str) -> str:
    if not _CODE.fullmatch(rest):
        raise _bad("/fail CODE, a code being lower-case letters, digits and underscores")
    return rest


def _bad(usage: str) -> AgentError:
    return AgentError(f"The script can't be read; it wants: {usage}.", code="bad_script")
