"""A conversation as an endpoint's `messages`, fitted to the model's window (spec G5).

Invariants: system messages and the message being answered are always in; a tool call never stands without its result,
nor a result without its call; what leaves, leaves oldest first, a question together with its answers; an interrupted
answer stays, since the user has read it.

Tokens are estimated (chatserver/usage.py), with four more for each message; the estimate errs towards sending less. An
endpoint that still finds the prompt too long says so, and the turn fails with `context_too_long`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from chatserver.agents import json_border
from chatserver.agents.tool_calls import AskedCall, Offer
from chatserver.message import Message, ToolCall, ToolResult
from chatserver.usage import estimate_tokens

TOKENS_PER_MESSAGE = 4

NO_RESULT = "The call was interrupted; it has no result."
LEFT_OUT = "(left out: the conversation is longer than the model's window)"

Wire = dict[str, Any]


def wire_tokens(messages: Iterable[Wire]) -> int:
    """The estimate for messages in the endpoint's form."""
    total = 0
    for message in messages:
        total += TOKENS_PER_MESSAGE + estimate_tokens(message.get("content") or "")
        for call in message.get("tool_calls", ()):
            function = call["function"]
            total += TOKENS_PER_MESSAGE + estimate_tokens(function["name"]) + estimate_tokens(function["arguments"])
    return total


@dataclass(frozen=True, slots=True)
class _Unit:
    """Messages that stay or leave together."""

    role: str
    messages: list[Wire]
    tokens: int


class Conversation:
    """One turn's conversation, growing by a round each time the model calls tools.

    Args:
        history: the branch before the message, oldest first.
        message: what is being answered.
        offer: the tools of the turn; None for a model that is offered none, which then reads old calls as text.
        system_prompt: put before everything.
    """

    def __init__(
        self, history: Sequence[Message], message: str, offer: Offer | None, system_prompt: str | None = None
    ) -> None:
        self._old: list[_Unit] = []
        if system_prompt:
            self._keep("system", [{"role": "system", "content": system_prompt}])
        numbers = _Numbers()
        for old in history:
            self._keep(old.role, _wire(old, offer, numbers))
        self._now: list[Wire] = [{"role": "user", "content": message}]
        self.tokens = 0

    def _keep(self, role: str, messages: list[Wire]) -> None:
        if messages:
            self._old.append(_Unit(role, messages, wire_tokens(messages)))

    def add_round(self, text: str, calls: Sequence[AskedCall], results: Sequence[ToolResult]) -> None:
        """What the model said and asked for, and what it got; in the order of `calls`."""
        self._now.append({"role": "assistant", "content": text or None, "tool_calls": [c.wire() for c in calls]})
        for call, result in zip(calls, results, strict=True):
            self._now.append(_result(call.id, result))

    def fitted(self, budget_tokens: int) -> list[Wire]:
        """The messages to send; their estimated tokens are in `tokens` then.

        Args:
            budget_tokens: what the prompt may take. Where system messages and the running turn alone are over it, the
                turn's own tool results are shortened, oldest first; what is over it even then is sent as it is.
        """
        now = list(self._now)
        over = wire_tokens(now) + sum(u.tokens for u in self._old) - budget_tokens
        left: set[int] = set()
        answers_leave = False  # an answer whose question has left leaves too
        for at, unit in enumerate(self._old):
            if unit.role == "system":
                continue
            if unit.role != "assistant":
                answers_leave = False
            if over <= 0 and not answers_leave:
                break
            left.add(at)
            over -= unit.tokens
            answers_leave = True
        for at, message in enumerate(now):
            if over <= 0:
                break
            if message["role"] == "tool":
                spare = estimate_tokens(message["content"]) - estimate_tokens(LEFT_OUT)
                if spare > 0:
                    now[at] = {**message, "content": LEFT_OUT}
                    over -= spare
        self.tokens = over + budget_tokens
        kept = [m for at, unit in enumerate(self._old) if at not in left for m in unit.messages]
        return _alternating(kept + now)


def _alternating(messages: list[Wire]) -> list[Wire]:
    """Questions that follow each other, as one: where an answer failed and left nothing, the chat templates of some
    models (Mistral's, Gemma's) would refuse this and every later turn of the session."""
    out: list[Wire] = []
    for message in messages:
        if out and message["role"] == "user" == out[-1]["role"]:
            out[-1] = {"role": "user", "content": f"{out[-1]['content']}\n\n{message['content']}"}
        else:
            out.append(message)
    return out


class _Numbers:
    """Ids for the calls of a history: nine letters and digits, which every endpoint takes, and the same ones in every
    request, so that endpoints can cache the prompt."""

    def __init__(self) -> None:
        self._next = 0

    def new(self) -> str:
        self._next += 1
        return f"h{self._next:08d}"


def _wire(message: Message, offer: Offer | None, numbers: _Numbers) -> list[Wire]:
    """One stored message as the endpoint's; none where there is nothing to say."""
    match message.role:
        case "system" | "user":
            return [{"role": message.role, "content": message.content}] if message.content else []
        case "assistant":
            if offer is not None:
                return _answer(message, offer, numbers)
            text = "\n\n".join(_told(part) for part in _parts(message) if part)
            return [{"role": "assistant", "content": text}] if text else []
        case "tool":  # a result without its call means nothing to an endpoint
            return []


def _parts(message: Message) -> list[str | list[ToolCall]]:
    """Text and calls in the order they happened; calls at one place together."""
    parts: list[str | list[ToolCall]] = []
    start = 0
    for call in sorted(message.tool_calls, key=lambda c: c.offset):
        if call.offset > start or not parts:
            parts.append(message.content[start : call.offset])
            start = max(start, call.offset)
        last = parts[-1]
        if isinstance(last, list):
            last.append(call)
        else:
            parts.append([call])
    if start < len(message.content):
        parts.append(message.content[start:])
    return parts


def _answer(message: Message, offer: Offer, numbers: _Numbers) -> list[Wire]:
    out: list[Wire] = []
    text = ""
    for part in _parts(message):
        if isinstance(part, str):
            text = part
            continue
        asked = [AskedCall(numbers.new(), offer.name_of(c.server, c.name), c.arguments) for c in part]
        out.append({"role": "assistant", "content": text or None, "tool_calls": [a.wire() for a in asked]})
        out += [_result(a.id, c.result or ToolResult(NO_RESULT, True)) for a, c in zip(asked, part, strict=True)]
        text = ""
    if text:
        out.append({"role": "assistant", "content": text})
    return out


def _told(part: str | list[ToolCall]) -> str:
    """Calls as text, for a model that knows no tools."""
    if isinstance(part, str):
        return part
    return "\n".join(
        f"[{call.server}.{call.name} {json_border.dumps(call.arguments).decode()}: "
        f"{call.result.content if call.result else NO_RESULT}]"
        for call in part
    )


def _result(call_id: str, result: ToolResult) -> Wire:
    content = f"Error: {result.content}" if result.is_error else result.content
    return {"role": "tool", "tool_call_id": call_id, "content": content}
