"""The stream's parser and what it is put together to, with the openai SDK as oracle and bytes cut anywhere."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from chatserver.agents import chunks, sse_parser
from chatserver.agents.base import Reasoning
from chatserver.agents.chunks import MAX_TOLD_TOKENS, Completion
from chatserver.agents.sse_parser import SSEParser
from chatserver.message import Usage
from tests.agents.upstream import DONE, call, chunk, delta, finish, text, usage


def parsed(*parts: bytes) -> list[bytes]:
    parser = SSEParser()
    return [payload for part in parts for payload in parser.feed(part)]


def completed(*parts: bytes) -> tuple[str, str, Completion]:
    """Text and reasoning as given out, and the completion."""
    parser, completion = SSEParser(), Completion()
    said, thought = "", ""
    for part in parts:
        for event in completion.feed(parser.feed(part)):
            if isinstance(event, Reasoning):
                thought += event.text
            else:
                assert isinstance(event, str)
                said += event
    return said, thought, completion


@st.composite
def cut(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> list[bytes]:
    """Bytes in pieces; the cuts are anywhere, also inside a character or a line end."""
    data = draw(whole)
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


# --- the parser ---

# What can go wrong is in the line ends and the colons, so they are most of it.
SOUP = st.lists(
    st.sampled_from([b"\n", b"\r", b"\r\n", b"data", b":", b": ", b" ", b"event", b"id", b"x", "ü".encode()]),
    max_size=40,
).map(b"".join)


@given(cut(SOUP))
@example([b"data: a\r", b"\n\r", b"\n"])
@example([b"data: a\r", b"\ndata: b\n\n"])
@example([b"data\n\n"])
def test_payloads_are_those_of_the_sdk_however_the_bytes_are_cut(parts: list[bytes]) -> None:
    """The SDK's decoder follows the same standard. It also gives out events without data, which mean nothing here."""
    payloads = [p for p in parsed(*parts) if p]

    assert payloads == [e.data.encode() for e in SSEDecoder().iter_bytes(iter(parts)) if e.data]
    assert payloads == [p for p in parsed(b"".join(parts)) if p]


@given(cut(SOUP))
def test_a_byte_order_mark_is_skipped(parts: list[bytes]) -> None:
    """HTML standard §9.2.6; also when it comes in three reads."""
    assert parsed(b"\xef", b"\xbb", b"\xbf", *parts) == parsed(*parts)


def test_a_short_stream_that_only_resembles_a_mark_is_kept() -> None:
    """The first byte of the mark alone, then something else."""
    assert parsed(b"\xef", b"\ndata: x\n\n") == [b"x"]


def test_an_event_cut_by_the_end_is_not_given_out() -> None:
    """Half of it may mean the opposite."""
    assert parsed(b"data: whole\n\ndata: half\n") == [b"whole"]


@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 22])
@pytest.mark.parametrize("junk", [b"x", b"data: x\n", b": x"], ids=["no-newline", "no-blank-line", "comment"])
def test_memory_is_bounded_whatever_comes(size: int, junk: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was complete before is given out; then nothing is held any more."""
    monkeypatch.setattr(sse_parser, "MAX_EVENT_BYTES", 2_000)
    data = b"data: first\n\n" + junk * (10_000 // len(junk)) + b"\n\ndata: last\n\n"
    parser = SSEParser()
    out: list[bytes] = []
    held = 0
    for at in range(0, len(data), size):
        out += parser.feed(data[at : at + size])
        held = max(held, sum(map(len, parser._line)) + sum(map(len, parser._data)))
    overflows = b"\n" not in junk or junk.startswith(b"data")

    assert out[:1] == [b"first"]
    assert parser.overflow is overflows
    assert held <= 4_000  # a line and an event
    if overflows:
        assert out == [b"first"]


# --- the completion, against the SDK ---

Words = st.text(st.characters(codec="utf-8"), max_size=12)
Names = st.text("abc_-", min_size=1, max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | Words, lambda v: st.dictionaries(Words, v, max_size=3)
)


@st.composite
def answers(draw: st.DrawFn) -> tuple[bytes, str, list[tuple[str, str, str]]]:
    """The bytes of a well-formed answer, its text and its tool calls, whose fragments are mixed."""
    pieces = draw(st.lists(Words, max_size=8))
    asked = [
        (f"call_{at}", draw(Names), json.dumps(draw(st.dictionaries(Words, JSON, max_size=3))))
        for at in range(draw(st.integers(0, 3)))
    ]
    fragments: list[list[bytes]] = [[text(piece) for piece in pieces]]
    for at, (call_id, name, arguments) in enumerate(asked):
        middle = draw(st.integers(0, len(arguments)))
        parts = [call(at, call_id, name, ""), call(at, None, None, arguments[:middle])]
        fragments.append([*parts, call(at, None, None, arguments[middle:])])
    events = [delta(role="assistant", content=None)]
    order = draw(st.permutations([at for at, of_one in enumerate(fragments) for _ in of_one]))
    waiting = [iter(of_one) for of_one in fragments]
    # Calls open in the order of their index, as every endpoint does it: the SDK fails on another one.
    opened: list[bytes] = [next(of_one) for of_one in waiting[1:]]
    events += opened
    for at in order:
        events += [e for e in [next(waiting[at], None)] if e is not None]
    events += [e for of_one in waiting for e in of_one]
    end = draw(st.sampled_from(["\n", "\r\n", "\r"])).encode()
    body = b"".join([*events, finish("tool_calls" if asked else "stop"), usage(3, 4), DONE])
    return body.replace(b"\n", end), "".join(pieces), asked


def sdk_client(parts: list[bytes]) -> openai.AsyncOpenAI:
    """The SDK over a transport that delivers these pieces."""

    async def body() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    def respond(request: Any) -> Any:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body())

    return openai.AsyncOpenAI(
        api_key="k",
        base_url="http://upstream.invalid/v1",
        http_client=openai.DefaultAsyncHttpxClient(transport=httpx2.MockTransport(respond)),
    )


@st.composite
def cut_answers(draw: st.DrawFn) -> tuple[list[bytes], str, list[tuple[str, str, str]]]:
    body, said, asked = draw(answers())
    return draw(cut(st.just(body))), said, asked


@settings(max_examples=60)
@given(cut_answers())
async def test_text_and_calls_are_those_of_the_sdk(
    case: tuple[list[bytes], str, list[tuple[str, str, str]]],
) -> None:
    """The same bytes through both; and both give what was meant."""
    parts, said, asked = case
    sdk_text, sdk_calls = "", {}
    async with sdk_client(parts) as client:
        stream = await client.chat.completions.create(model="m", messages=[], stream=True)
        async for piece in stream:
            for choice in piece.choices:
                sdk_text += choice.delta.content or ""
                for fragment in choice.delta.tool_calls or ():
                    known = sdk_calls.setdefault(fragment.index, ["", "", ""])
                    known[0] += fragment.id or ""
                    known[1] += (fragment.function.name if fragment.function else "") or ""
                    known[2] += (fragment.function.arguments if fragment.function else "") or ""
    got, _, completion = completed(*parts)

    assert got == sdk_text == said
    ours = [(c.id, c.name, c.joined_arguments()) for c in completion.calls]
    assert ours == [tuple(sdk_calls[at]) for at in sorted(sdk_calls)] == asked
    assert completion.done
    assert completion.failure is None
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 4


# --- what only some endpoints do ---

ODD_CALLS: list[tuple[str, list[bytes], list[tuple[str, str, str]]]] = [
    ("no index", [delta(tool_calls=[{"id": "a", "function": {"name": "f", "arguments": "{}"}}])], [("a", "f", "{}")]),
    (
        "one index for two calls",
        [call(0, "a", "f", "{}"), call(0, "b", "g", '{"x":'), call(0, None, None, "1}")],
        [("a", "f", "{}"), ("b", "g", '{"x":1}')],
    ),
    (
        "the id and the name with every fragment",
        [call(0, "a", "f", '{"x":'), call(0, "a", "f", "1}")],
        [("a", "f", '{"x":1}')],
    ),
    (
        "arguments as an object",
        [delta(tool_calls=[{"index": 0, "id": "a", "function": {"name": "f", "arguments": {"x": 1}}}])],
        [("a", "f", '{"x":1}')],
    ),
    ("an empty fragment", [delta(tool_calls=[{"index": 0}]), call(0, "a", "f", "{}")], [("a", "f", "{}")]),
    ("no id", [call(0, None, "f", "{}")], [("", "f", "{}")]),
]


@pytest.mark.parametrize(("events", "expected"), [c[1:] for c in ODD_CALLS], ids=[c[0] for c in ODD_CALLS])
def test_odd_calls_are_understood(events: list[bytes], expected: list[tuple[str, str, str]]) -> None:
    """Each form is some endpoint's own."""
    _, _, completion = completed(*events, finish("tool_calls"), DONE)

    assert [(c.id, c.name, c.joined_arguments()) for c in completion.calls] == expected


def test_text_in_parts_and_refusals_are_text() -> None:
    """Mistral's form of content, and OpenAI's name for an answer that declines."""
    parts = delta(content=[{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}])
    said, _, _ = completed(parts, delta(refusal="c"), finish())

    assert said == "abc"


def test_reasoning_told_under_both_names_is_told_once() -> None:
    """vLLM sends both for a while."""
    _, thought, _ = completed(delta(reasoning="hm", reasoning_content="hm"), delta(reasoning="!"))

    assert thought == "hm!"


def test_what_came_before_a_failure_is_not_lost_with_it() -> None:
    """They may have arrived in one read."""
    said, _, completion = completed(text("Hel") + chunk(error={"message": "boom"}) + text("lo"))

    assert said == "Hel"
    assert completion.failure is not None


@pytest.mark.parametrize(
    "event",
    [
        call(0, "a", "f", "x" * (chunks.MAX_ARGUMENT_CHARS + 1)),
        delta(tool_calls=[{"index": n, "id": f"c{n}", "function": {"name": "f"}} for n in range(129)]),
    ],
    ids=["arguments", "number"],
)
def test_calls_are_bounded(event: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody reads an answer that consists of a megabyte of arguments."""
    monkeypatch.setattr(sse_parser, "MAX_EVENT_BYTES", 1 << 24)
    _, _, completion = completed(event)

    assert completion.failure is not None
    assert completion.failure.narrow_code == "upstream_protocol"


KNOWN_KEYS = (
    "choices delta message content tool_calls function name arguments index id usage error code finish_reason"
    " reasoning prompt_tokens"
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from(KNOWN_KEYS.split(" ")), v, max_size=5),
    max_leaves=15,
)


@settings(max_examples=500)
@given(ANYTHING, st.sampled_from([lambda v: v, lambda v: {"choices": [v]}, lambda v: {"choices": [{"delta": v}]}]))
def test_whatever_json_comes_it_is_text_or_a_failure(value: Any, place: Callable[[Any], Any]) -> None:
    """An endpoint's nonsense must never become an exception of ours, nor something that can't be stored."""
    completion = Completion()
    for event in completion.feed([json.dumps(place(value)).encode()]):
        assert (event if isinstance(event, str) else event.text).encode()  # type: ignore[union-attr]  # no Spent here


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=60), max_size=5))
def test_whatever_bytes_come_it_is_text_or_a_failure(parts: list[bytes]) -> None:
    """The same below the JSON."""
    completed(*(b"data: " + part + b"\n\n" for part in parts))


@pytest.mark.parametrize(
    "told",
    [
        {"prompt_tokens": bad, "completion_tokens": 3} | ({"total_tokens": bad} if bad else {})
        for bad in (1e308, -1, -(2**63), 2**53, 2**63, 2**64, 10**30, "12", [1], {"a": 1}, True, MAX_TOLD_TOKENS + 1)
    ]
    + [{}, [], "none", 7, None, {"prompt_tokens": None, "completion_tokens": None}, {"usage": {"prompt_tokens": 1}}],
)
def test_a_usage_that_cannot_be_true_is_none(told: Any) -> None:
    """It is estimated then, like one that nobody tells; a turn neither fails nor is free for it."""
    _, _, completion = completed(text("hello"), finish(), chunk(choices=[], usage=told), DONE)
    assert (completion.usage, completion.failure, completion.done) == (None, None, True)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 7}, Usage(5, 7)),
        ({"prompt_tokens": 5.0, "completion_tokens": 7}, Usage(5, 7)),
        ({"prompt_tokens": 5, "completion_tokens": None}, Usage(5, 0)),
        ({"completion_tokens": MAX_TOLD_TOKENS}, Usage(0, MAX_TOLD_TOKENS)),
        (
            {
                "prompt_tokens": 5,
                "completion_tokens": 7,
                "completion_tokens_details": {"reasoning_tokens": 2**60},
                "prompt_tokens_details": {"cached_tokens": 6},
            },
            Usage(5, 7, 0, 5),
        ),
        (
            {
                "prompt_tokens": 5,
                "completion_tokens": 7,
                "completion_tokens_details": "x",
                "prompt_tokens_details": {"cached_tokens": -1},
            },
            Usage(5, 7),
        ),
    ],
)
def test_what_can_be_believed_of_a_usage_is_taken(told: Any, expected: Usage) -> None:
    """Parts are never more than the whole."""
    _, _, completion = completed(text("hello"), finish(), chunk(choices=[], usage=told), DONE)
    assert completion.usage == expected
