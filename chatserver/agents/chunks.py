"""A chat completion, put together from the payloads of its stream (OpenAI's `chat.completion.chunk`).

Invariants: no I/O; pieces that arrive together come out joined, in order; a call's fragments are joined by index and
never given out half; memory is bounded by `MAX_CALLS` and `MAX_ARGUMENT_CHARS` (the answer's own length is the turn's
limit). A payload that is not what it should be is a failure, told after what came before it.
"""

from __future__ import annotations

from typing import Any

import orjson

from chatserver.agents import json_border, upstream_errors
from chatserver.agents.base import AgentEvent, Reasoning
from chatserver.agents.upstream_errors import UpstreamError
from chatserver.message import Usage

# Far above what a model asks for in one step; a turn's own limits (tool_calls_per_turn) come after it.
MAX_CALLS = 128
# That an endpoint may tell of one completion: ten times the widest window there is.
MAX_TOLD_TOKENS = 100_000_000
# All arguments of one completion together, in characters: several times the size of any tool's input.
MAX_ARGUMENT_CHARS = 1 << 20


class CallParts:
    """One tool call, growing in fragments."""

    __slots__ = ("arguments", "id", "index", "name")

    def __init__(self, index: int | None) -> None:
        self.index = index
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []

    def joined_arguments(self) -> str:
        return "".join(self.arguments)


class Completion:
    """What one request gave so far.

    `finish_reason` is the endpoint's word for why it ended, `done` whether the closing `[DONE]` was seen. `usage` is
    None until the endpoint tells it. After a `failure` nothing more is taken.
    """

    __slots__ = ("_argument_chars", "calls", "done", "failure", "finish_reason", "reasoning_bytes", "text", "usage")

    def __init__(self) -> None:
        self.text: list[str] = []
        self.reasoning_bytes = 0
        self.calls: list[CallParts] = []
        self.finish_reason: str | None = None
        self.usage: Usage | None = None
        self.done = False
        self.failure: UpstreamError | None = None
        self._argument_chars = 0

    @property
    def complete(self) -> bool:
        """Whether the endpoint has said that it is through. Some never send `[DONE]`, some never a reason."""
        return self.done or self.finish_reason is not None

    def feed(self, payloads: list[bytes]) -> list[AgentEvent]:
        """Take payloads that arrived together.

        Returns:
            Text and reasoning in the order they came, neighbours of a kind joined to one. An error object, or
            something that is no completion chunk, ends it and stands in `failure`.
        """
        events: list[AgentEvent] = []
        text: list[str] = []
        try:
            for payload in payloads:
                if self.done or self.failure is not None:
                    break
                self._take(payload, text, events)
        except UpstreamError as error:
            self.failure = error
        if text:
            self._say(text, events)
        return events

    def _take(self, payload: bytes, text: list[str], events: list[AgentEvent]) -> None:
        if payload.startswith(b"[DONE]"):
            self.done = True
            return
        try:
            chunk = orjson.loads(payload)
        except orjson.JSONDecodeError:
            chunk = _mended(payload)
        if type(chunk) is not dict:
            raise upstream_errors.protocol("The model's endpoint sent something that is no answer.")
        if chunk.get("usage") or "error" in chunk:
            self._aside(chunk)
        choices = chunk.get("choices")
        if not choices:
            return
        if type(choices) is not list or type(choices[0]) is not dict:
            raise upstream_errors.protocol("The model's endpoint sent an answer without its parts.")
        choice = choices[0]
        # An endpoint that ignores `stream` sends the whole answer at once, as `message`.
        delta = choice.get("delta") or choice.get("message")
        if type(delta) is dict:
            content = delta.get("content")
            size = len(delta)
            if type(content) is str and content and (size == 1 or (size == 2 and "role" in delta)):
                text.append(content)
            else:
                self._delta(delta, text, events)
        reason = choice.get("finish_reason")
        if reason:
            self.finish_reason = str(reason)

    def _say(self, text: list[str], events: list[AgentEvent]) -> None:
        joined = "".join(text)
        text.clear()
        self.text.append(joined)
        events.append(joined)

    def _delta(self, delta: dict[str, Any], text: list[str], events: list[AgentEvent]) -> None:
        """A delta that holds more than text."""
        # Two names for one thing: DeepSeek, llama.cpp and vLLM say the first, OpenRouter and Ollama the second.
        reasoning = _words(delta.get("reasoning_content")) or _words(delta.get("reasoning"))
        if reasoning:
            if text:
                self._say(text, events)
            self.reasoning_bytes += len(reasoning.encode())
            if events and type(events[-1]) is Reasoning:
                events[-1] = Reasoning(events[-1].text + reasoning)
            else:
                events.append(Reasoning(reasoning))
        # A refusal is the answer, said by another name.
        if content := _words(delta.get("content")) or _words(delta.get("refusal")):
            text.append(content)
        if calls := delta.get("tool_calls"):
            if type(calls) is not list:
                raise upstream_errors.protocol("The model's endpoint sent tool calls that are none.")
            for fragment in calls:
                self._fragment(fragment)

    def _fragment(self, fragment: Any) -> None:
        if type(fragment) is not dict:
            raise upstream_errors.protocol("The model's endpoint sent tool calls that are none.")
        function = fragment.get("function")
        if type(function) is not dict:
            function = {}
        index, call_id, name = fragment.get("index"), _string(fragment.get("id")), _string(function.get("name"))
        arguments = function.get("arguments")
        if type(arguments) is dict:  # Ollama's own form
            arguments = json_border.dumps(arguments).decode()
        arguments = _string(arguments)
        if not (call_id or name or arguments):
            return
        call = self._call(index if type(index) is int else None, call_id, name)
        call.id = call.id or call_id
        if not call.arguments:  # some endpoints repeat the whole name with every fragment of the arguments
            call.name += name
        if arguments:
            call.arguments.append(arguments)
        self._argument_chars += len(call_id) + len(name) + len(arguments)
        if self._argument_chars > MAX_ARGUMENT_CHARS:
            raise upstream_errors.protocol("The model asked for tool calls that are too large.")

    def _call(self, index: int | None, call_id: str, name: str) -> CallParts:
        """The call that a fragment belongs to; a new one where it opens one.

        The index decides. Where it is missing, or the same for all (Gemini's compatible endpoint), another id
        together with a name opens a call.
        """
        last: CallParts | None = None
        for known in reversed(self.calls):
            if index is None or known.index == index:
                last = known
                break
        opens = last is None or bool(name and call_id and last.id and call_id != last.id)
        if last is not None and not opens:
            return last
        if len(self.calls) >= MAX_CALLS:
            raise upstream_errors.protocol("The model asked for too many tool calls at once.")
        call = CallParts(index)
        self.calls.append(call)
        return call

    def _aside(self, chunk: dict[str, Any]) -> None:
        """What a chunk may carry beside its choices."""
        if error := chunk.get("error"):
            raise upstream_errors.from_error_object(error)
        if (usage := _usage(chunk.get("usage"))) is not None:
            self.usage = usage


def _mended(payload: bytes) -> Any:
    try:
        return json_border.loads(payload)
    except ValueError:
        raise upstream_errors.protocol("The model's endpoint sent an answer that cannot be read.") from None


def _words(value: Any) -> str:
    """Text, also of the form `[{"type": "text", "text": …}]` that some endpoints send."""
    if type(value) is str:
        return value
    if type(value) is list:
        return "".join(p["text"] for p in value if type(p) is dict and type(p.get("text")) is str)
    return ""


def _string(value: Any) -> str:
    return value if type(value) is str else ""


def _usage(fields: Any) -> Usage | None:
    """What an endpoint says that it has used; None where that cannot be true, and an estimate is nearer.

    A number that nobody checks would end people's quotas, or never let one end.
    """
    if type(fields) is not dict:
        return None
    prompt, completion = _tokens(fields.get("prompt_tokens")), _tokens(fields.get("completion_tokens"))
    if prompt is None or completion is None or not prompt + completion:
        return None
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        reasoning_tokens=min(_part(fields.get("completion_tokens_details"), "reasoning_tokens"), completion),
        cached_tokens=min(_part(fields.get("prompt_tokens_details"), "cached_tokens"), prompt),
    )


def _part(fields: Any, name: str) -> int:
    return (_tokens(fields.get(name)) if type(fields) is dict else None) or 0


def _tokens(value: Any) -> int | None:
    """A number of tokens, 0 where none is told; None where it is no such number."""
    if value is None:
        return 0
    return int(value) if type(value) in (int, float) and 0 <= value <= MAX_TOLD_TOKENS else None
