"""The pump: iterates a turn's agent and decides the outcome.

Invariants: whatever the agent does, the outcome is decided before the pump ends, and before the agent is asked to
close, so that a cleanup that hangs holds only itself. What an agent yields is checked here, once: nothing behind it
can be made to fail by it. An agent that never waits is made to.

It tells nothing itself (run.py) and commits nothing (checkpoints.py, turn_ends.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import astuple
from typing import Protocol

from structlog.typing import FilteringBoundLogger

from chatserver import events as ev
from chatserver.agents.base import Agent, AgentEvent, AgentTurn, ModelSettings, Reasoning, Spent, Text
from chatserver.agents.json_border import clean_text
from chatserver.config import Settings
from chatserver.errors import AgentError, ChatServerError
from chatserver.flush_pace import FlushPace
from chatserver.message import Message, TurnError, Usage
from chatserver.run import Run
from chatserver.usage import MAX_TOKENS

# An agent that never waits would hold the loop for ever; it is made to wait this often. A tenth of a person's blink.
SLICE_SECONDS = 0.01
# An agent's own words about its failure go into an event and a message; they are a sentence, not a page.
ERROR_TITLE_CHARS = 1000

TextKind = type[ev.TextDelta] | type[ev.ReasoningDelta]

GAVE_UP: TurnError = {"code": "agent_error", "title": "The agent gave up"}


class Entry(Protocol):
    """A catalogue entry as a turn needs it."""

    @property
    def agent(self) -> Agent: ...

    @property
    def settings(self) -> ModelSettings: ...

    def slot(self, tenant: str) -> AbstractAsyncContextManager[Entry]:
        """A place among the model's concurrent turns; waits for one. It may be at a model that answers for this one."""


async def pump(
    run: Run,
    entry: Entry,
    history: Callable[[], Awaitable[tuple[Message, ...]]],
    settings: Settings,
    pace: FlushPace,
    log: FilteringBoundLogger,
) -> None:
    """Run the agent to its end. The second of the three places where any exception ends: the turn's border.

    Args:
        history: reads the branch before the turn's user message; where that fails, the turn does.
    Cancelling it is how a turn is stopped; the agent gets the cancel.
    """

    def fail(error: BaseException) -> None:
        if not isinstance(error, ChatServerError):
            log.error("agent_raised", model=entry.settings.id, exc_info=error)
        run.finish("failed", _told(error))

    try:
        async with entry.slot(run.live.key.tenant) as there:
            items = there.agent.run(_turn(run, there, await history()))
            try:
                await _answer(items, run, settings.max_answer_chars, pace)
                run.finish("completed")
            except (Exception, SystemExit) as error:
                fail(error)
            finally:
                run.finish("failed", GAVE_UP)  # by a CancelledError of its own, which nobody asked for
                run.agent_closing = True
                # Left early, a generator must be closed here and now: it holds the upstream's connection.
                close: Callable[[], Awaitable[None]] | None = getattr(items, "aclose", None)
                if close is not None:
                    await close()
    # SystemExit too: asyncio would end the server for it, and a library that parses arguments raises it lightly.
    except (Exception, SystemExit) as error:
        fail(error)
    finally:
        run.finish("failed", GAVE_UP)


def _turn(run: Run, entry: Entry, history: tuple[Message, ...]) -> AgentTurn:
    return AgentTurn(
        tenant=run.live.key.tenant,
        session_id=run.session_id,
        turn_id=run.turn_id,
        message=run.user_message.content,
        history=history,
        model=entry.settings,
        principal=run.principal,
        tools=run.tools,
        metadata=run.user_message.metadata,
    )


async def _answer(items: AsyncIterator[AgentEvent], run: Run, limit: int, pace: FlushPace) -> None:
    """Hand on what the agent yields until it ends or the turn does."""
    loop = asyncio.get_running_loop()
    characters = 0
    slice_start = loop.time()
    async for item in items:
        if run.closed:
            return  # an agent that does not let itself be cancelled
        now = loop.time()
        kind: TextKind = ev.TextDelta
        if type(item) is str:  # nearly all of them
            text = item
        elif type(item) is Spent:
            run.spent(checked_usage(item), characters)
            text = ""
        else:
            text, kind = _text_of(item)
        if text:
            characters += len(text)
            if characters > limit:
                raise AgentError(f"the answer is longer than {limit} characters", code="answer_too_long")
            run.text(text, kind, now, pace.interval_seconds)
        if now - slice_start > SLICE_SECONDS:
            await asyncio.sleep(0)
            slice_start = loop.time()


def _text_of(item: object) -> tuple[str, TextKind]:
    """Raises: AgentError where it is no agent event, or none with text in it."""
    kind: TextKind = ev.TextDelta
    text = item
    if type(item) is Text:
        text = item.text
    elif type(item) is Reasoning:
        text, kind = item.text, ev.ReasoningDelta
    if type(text) is str:
        return text, kind
    if isinstance(text, str):  # marked-up strings and the like: orjson and joins want plain ones
        return str.__str__(text), kind
    raise _not_an_event(item)


def checked_usage(item: Spent) -> Usage:
    """What an agent tells that it has used. Raises: AgentError where that is no usage."""
    usage: object = item.usage
    if type(usage) is Usage and all(type(n) in (int, bool) and 0 <= n <= MAX_TOKENS for n in astuple(usage)):
        return usage
    raise _not_an_event(item)


def _not_an_event(item: object) -> AgentError:
    """Its author reads in the failed message what is wrong: the type, and never the value, which may be a secret."""
    inner = item.text if isinstance(item, Text | Reasoning) else item.usage if isinstance(item, Spent) else item
    kind = "None" if inner is None else f"an object of type {type(inner).__qualname__}"
    wrong = kind if inner is item else f"{type(item).__name__} of {kind}"
    return AgentError(f"The agent yielded {wrong}; it may yield str, Text, Reasoning or Spent.", code="agent_bad_event")


def _told(error: BaseException) -> TurnError:
    """What the user is told: an agent's own words only where it meant them for the user."""
    if isinstance(error, AgentError):
        title = clean_text(error.detail[:ERROR_TITLE_CHARS])
        return {"code": clean_text(error.narrow_code[:ERROR_TITLE_CHARS]), "title": title}
    if isinstance(error, ChatServerError):
        return {"code": error.narrow_code, "title": error.title}
    return {"code": "agent_error", "title": "The agent failed"}
