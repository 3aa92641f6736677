"""OpenAICompatibleAgent against a real HTTP server: what arrives, and what each bad endpoint becomes."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from chatserver.agents import exchange
from chatserver.agents.base import Reasoning, Spent, ToolSpec
from chatserver.agents.openai_compatible import OpenAICompatibleAgent
from chatserver.errors import AgentError, StartupError
from chatserver.message import ToolCall, ToolResult, Usage
from tests.agents.conftest import MakeAgent, NotedSleeps, joined
from tests.agents.plain_turn import TableTools, said, turn
from tests.agents.upstream import (
    DONE,
    SSE_HEAD,
    Answer,
    Upstream,
    call,
    chunk,
    chunked,
    delta,
    endless,
    finish,
    raw,
    refuse,
    silent,
    stream,
    text,
    usage,
)
from tests.timing import least

HELLO = stream(text("Hello"), finish(), DONE)


async def events(agent: OpenAICompatibleAgent, message: str = "hi", **kwargs: Any) -> list[Any]:
    return [event async for event in agent.run(turn(message, **kwargs))]


async def failure(agent: OpenAICompatibleAgent, **kwargs: Any) -> tuple[AgentError, list[Any]]:
    """The error of a turn, and what came before it."""
    got: list[Any] = []
    with pytest.raises(AgentError) as caught:
        async for event in agent.run(turn("hi", **kwargs)):
            got.append(event)
    return caught.value, got


# --- what arrives ---


async def test_text_reasoning_and_usage_arrive_in_order(upstream: Upstream, agent: MakeAgent) -> None:
    """The three things an answer without tools is made of."""
    upstream.answers = [
        stream(
            delta(role="assistant", content=None),
            delta(reasoning_content="Let me "),
            delta(reasoning="see."),
            text("<think>kept</think>"),
            text(" Hello"),
            finish("length"),
            usage(
                7,
                5,
                completion_tokens_details={"reasoning_tokens": 2},
                prompt_tokens_details={"cached_tokens": 3},
            ),
            DONE,
        )
    ]
    got = await events(agent())

    assert "".join(e.text for e in got if isinstance(e, Reasoning)) == "Let me see."
    assert joined(got) == "<think>kept</think> Hello"
    assert got[-1] == Spent(Usage(7, 5, reasoning_tokens=2, cached_tokens=3))
    assert isinstance(got.pop(1), Spent)  # for a turn that is stopped on the way
    assert [type(e) for e in got] == sorted((type(e) for e in got), key=[Reasoning, str, Spent].index)


async def test_pieces_that_arrive_together_come_out_as_one(upstream: Upstream, agent: MakeAgent) -> None:
    """A burst costs one event, not one for each token."""
    upstream.answers = [stream(b"".join(text(f"{n} ") for n in range(50)) + finish() + DONE)]
    got = await events(agent())

    assert [e for e in got if isinstance(e, str)] == ["".join(f"{n} " for n in range(50))]


async def test_the_request_says_what_the_model_is_to_do(upstream: Upstream, agent: MakeAgent) -> None:
    """Model, limits, key and conversation, as the endpoint expects them."""
    upstream.answers = [HELLO]
    history = [said("user", "first"), said("assistant", "one"), said("system", "network switched")]
    made = agent(key="sk-1", api_key_env="KEY", temperature=0.5, max_output_tokens=9, system_prompt="Be brief.")
    await events(made, "second", history=history)

    asked = upstream.requests[0]
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["Authorization"] == "Bearer sk-1"
    assert asked.body == {
        "model": "tiny-1",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "one"},
            {"role": "system", "content": "network switched"},
            {"role": "user", "content": "second"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 9,
        "temperature": 0.5,
    }


async def test_usage_that_nobody_tells_is_estimated_and_marked(upstream: Upstream, agent: MakeAgent) -> None:
    """Limits and statistics need a number; readers need to know that it is a guess."""
    upstream.answers = [stream(text("x" * 300), finish(), DONE)]
    got = await events(agent(), "y" * 30)

    assert got[-1] == Spent(Usage(prompt_tokens=14, completion_tokens=100, estimated=True))


@pytest.mark.parametrize(
    "end",
    [
        pytest.param((finish(),), id="no-DONE"),
        pytest.param((DONE,), id="no-finish-reason"),
        pytest.param((finish(), usage(1, 1)), id="no-DONE-after-usage"),
        pytest.param((finish(), DONE, b"data: {garbage\n\n"), id="garbage-after-DONE"),
    ],
)
async def test_an_answer_is_whole_when_the_endpoint_says_so_in_any_way(
    end: tuple[bytes, ...], upstream: Upstream, agent: MakeAgent
) -> None:
    """Many servers leave out `[DONE]`, some the finish_reason."""
    upstream.answers = [stream(text("Hello"), *end)]

    assert joined(await events(agent())) == "Hello"


async def test_an_endpoint_that_does_not_stream_is_understood(upstream: Upstream, agent: MakeAgent) -> None:
    """Some ignore `stream` and answer in one piece."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
    upstream.answers = [refuse(200, {"choices": [choice], "usage": {"prompt_tokens": 2, "completion_tokens": 1}})]

    assert await events(agent()) == ["Hello", Spent(Usage(5, 2, estimated=True)), Spent(Usage(2, 1))]


async def test_a_connection_is_used_again_after_a_whole_answer(upstream: Upstream, agent: MakeAgent) -> None:
    """A new one for each turn would cost a TLS handshake each."""
    upstream.answers = [HELLO]
    made = agent()
    for _ in range(3):
        await events(made)

    assert len(upstream.requests) == 3
    assert len(upstream.connections) == 1


async def test_invalid_utf8_and_lone_surrogates_are_mended(upstream: Upstream, agent: MakeAgent) -> None:
    """One bad character must not cost the answer, nor reach the store."""
    bad = text("caf@").replace(b"@", b"\xff") + text("SURR").replace(b"SURR", b"\\ud800!") + text("ok")
    upstream.answers = [stream(bad, finish(), DONE)]
    got = joined(await events(agent()))

    assert got == "caf\ufffd\ufffd!ok"
    got.encode()


async def test_nan_in_a_chunk_is_no_reason_to_fail(upstream: Upstream, agent: MakeAgent) -> None:
    """Python servers write it into logprobs."""
    upstream.answers = [stream(b'data: {"choices":[{"delta":{"content":"a"},"logprobs":NaN}]}\n\n', finish(), DONE)]

    assert joined(await events(agent())) == "a"


# --- what goes wrong ---

PAGE = "<html><body>Sign in to the proxy. secret-token</body></html>"

REFUSALS = [
    pytest.param(refuse(401, {"error": {"message": "bad key secret-token"}}), "upstream_unauthorized", id="401"),
    pytest.param(refuse(403, PAGE), "upstream_unauthorized", id="403"),
    pytest.param(refuse(404, {"error": "model not found"}), "upstream_rejected", id="404"),
    pytest.param(refuse(400, {"error": {"message": "secret-token"}}), "upstream_rejected", id="400"),
    pytest.param(refuse(429, {"error": {"code": "insufficient_quota"}}), "upstream_rate_limited", id="429-no-money"),
    pytest.param(refuse(429, "", {"Retry-After": "3600"}), "upstream_rate_limited", id="429-for-an-hour"),
    pytest.param(refuse(301, "", {"Location": "http://127.0.0.1:1/"}), "upstream_protocol", id="redirect"),
    pytest.param(refuse(200, PAGE), "upstream_protocol", id="html"),
    pytest.param(refuse(200, {"hello": "world"}), "upstream_protocol", id="json-of-another-kind"),
    pytest.param(
        refuse(400, {"error": {"code": "context_length_exceeded", "message": "secret-token"}}),
        "context_too_long",
        id="too-long-openai",
    ),
    pytest.param(
        refuse(400, {"error": {"type": "exceed_context_size_error", "code": 400}}), "context_too_long", id="too-long"
    ),
    pytest.param(stream(b"data: {not json\n\n"), "upstream_protocol", id="broken-json"),
    pytest.param(stream(b"data: " + b"[" * 10_000 + b"\n\n"), "upstream_protocol", id="nesting"),
    pytest.param(stream(b"data: [1, 2]\n\n"), "upstream_protocol", id="a-list"),
    pytest.param(stream(b'data: {"choices": [7]}\n\n'), "upstream_protocol", id="choices-of-another-kind"),
    pytest.param(stream(b"<html>" + b"x" * (10 << 20)), "upstream_protocol", id="10-MB-without-a-newline"),
    pytest.param(stream(delta(tool_calls="x")), "upstream_protocol", id="tool-calls-of-another-kind"),
]


@pytest.mark.parametrize(("answer", "code"), REFUSALS)
async def test_a_refusal_becomes_a_narrow_error_at_once(
    answer: Answer, code: str, upstream: Upstream, agent: MakeAgent
) -> None:
    """What no second try can mend is not tried twice, and nothing of the endpoint's own text is told."""
    upstream.answers = [answer]
    error, got = await failure(agent(key="sk-secret", api_key_env="KEY"))

    assert error.narrow_code == code
    assert got == []
    assert len(upstream.requests) == 1
    assert "secret" not in error.detail
    assert "127.0.0.1" not in error.detail


MENDABLE = [
    pytest.param(refuse(429, "", {"Retry-After": "3"}), "upstream_rate_limited", [3.5, 4.0], id="429"),
    pytest.param(refuse(500, PAGE), "upstream_unavailable", [0.5, 1.0], id="500"),
    pytest.param(refuse(502, PAGE), "upstream_unavailable", [0.5, 1.0], id="502"),
    pytest.param(refuse(503, {"error": "loading"}), "upstream_unavailable", [0.5, 1.0], id="503"),
    pytest.param(raw(then="close"), "upstream_unavailable", [0.5, 1.0], id="closed-without-an-answer"),
    pytest.param(raw(SSE_HEAD + b"5\r\nda", then="close"), "upstream_unavailable", [0.5, 1.0], id="half-a-chunk"),
    pytest.param(raw(SSE_HEAD, then="abort"), "upstream_unavailable", [0.5, 1.0], id="reset"),
    pytest.param(stream(), "upstream_protocol", [0.5, 1.0], id="an-empty-stream"),
    pytest.param(stream(b"data: {}\n\n" * 3), "upstream_protocol", [0.5, 1.0], id="nothing-in-it"),
    pytest.param(
        stream(chunk(error={"message": "overloaded", "type": "server_error"})),
        "upstream_unavailable",
        [0.5, 1.0],
        id="an-error-as-first-event",
    ),
    pytest.param(
        stream(chunk(error={"code": 429, "message": "slow down"})),
        "upstream_rate_limited",
        [0.5, 1.0],
        id="a-rate-limit-as-first-event",
    ),
]


@pytest.mark.parametrize(("answer", "code", "waits"), MENDABLE)
async def test_before_the_first_token_it_tries_again_and_then_gives_up(
    answer: Answer, code: str, waits: list[float], upstream: Upstream, agent: MakeAgent, clock: NotedSleeps
) -> None:
    """Twice more by default, with growing waits, as long as the endpoint asks."""
    upstream.answers = [answer]
    error, got = await failure(agent())

    assert (error.narrow_code, got) == (code, [])
    assert len(upstream.requests) == 3
    assert clock.slept == waits


async def test_a_second_try_that_succeeds_is_all_the_user_sees(
    upstream: Upstream, agent: MakeAgent, clock: NotedSleeps
) -> None:
    """The first failure leaves no trace in the answer."""
    upstream.answers = [refuse(503), raw(then="close"), HELLO]

    assert joined(await events(agent())) == "Hello"
    assert len(clock.slept) == 2


BROKEN_OFF = [
    pytest.param(raw(SSE_HEAD + chunked(text("Hel")), then="abort"), "upstream_unavailable", id="reset"),
    pytest.param(raw(SSE_HEAD + chunked(text("Hel")), then="close"), "upstream_unavailable", id="closed"),
    pytest.param(raw(SSE_HEAD + chunked(text("Hel")) + b"ff\r\nda", then="close"), "upstream_unavailable", id="half"),
    pytest.param(stream(text("Hel")), "upstream_protocol", id="ends-early"),
    pytest.param(stream(text("Hel"), chunk(error={"message": "boom"})), "upstream_unavailable", id="error-object"),
    pytest.param(stream(text("Hel"), b'data: {"choices": "x"}\n\n'), "upstream_protocol", id="nonsense"),
    pytest.param(stream(text("Hel"), finish("content_filter"), DONE), "content_filtered", id="filtered"),
]


@pytest.mark.parametrize(("answer", "code"), BROKEN_OFF)
async def test_after_the_first_token_nothing_is_tried_again(
    answer: Answer, code: str, upstream: Upstream, agent: MakeAgent
) -> None:
    """A second answer behind half of the first would be nonsense; the half is kept and the turn fails."""
    upstream.answers = [answer, HELLO]
    error, got = await failure(agent())

    assert error.narrow_code == code
    assert joined(got) == "Hel"
    assert len(upstream.requests) == 1


async def test_an_endpoint_that_is_not_there_is_unavailable(agent: MakeAgent, clock: NotedSleeps) -> None:
    """A refused connection, tried three times."""
    error, _ = await failure(agent(base_url="http://user:hunter2@127.0.0.1:1/v1"))

    assert error.narrow_code == "upstream_unavailable"
    assert "hunter2" not in error.detail
    assert len(clock.slept) == 2


async def test_silence_before_the_first_token_ends_the_turn(upstream: Upstream, agent: MakeAgent) -> None:
    """With comments that only show that somebody is there it is silence all the same; and it is not tried again."""
    for answer in (silent(), endless(b": still thinking\n\n", 0.01)):
        upstream.answers, upstream.requests[:] = [answer], []
        upstream.lost.clear()
        error, _ = await failure(agent(first_token_timeout_seconds=1.5))

        assert error.narrow_code == "upstream_timeout"
        assert len(upstream.requests) == 1
        await asyncio.wait_for(upstream.lost.wait(), 60)


async def test_silence_between_two_tokens_ends_the_turn(upstream: Upstream, agent: MakeAgent) -> None:
    """The watchdog of a running answer; what came before is kept."""
    upstream.answers = [stream(text("Hel"), hold=True)]
    error, got = await failure(agent(token_timeout_seconds=0.15))

    assert (error.narrow_code, joined(got)) == ("upstream_timeout", "Hel")
    await asyncio.wait_for(upstream.lost.wait(), 60)


async def test_a_slow_reader_is_not_mistaken_for_a_silent_endpoint(upstream: Upstream, agent: MakeAgent) -> None:
    """Only time spent waiting for the endpoint counts."""
    upstream.answers = [stream(text("Hel"), hold=True)]
    running = agent(token_timeout_seconds=0.1).run(turn("hi"))
    assert await anext(running) == "Hel"
    await asyncio.sleep(0.3)  # the reader's own time
    assert not upstream.lost.is_set()
    await running.aclose()


async def test_a_connection_held_open_after_the_answer_does_not_hold_the_turn(
    upstream: Upstream, agent: MakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """finish_reason without `[DONE]` and without an end: the answer is whole, the connection is dropped."""
    monkeypatch.setattr(exchange, "AFTER_FINISH_SECONDS", 0.1)
    upstream.answers = [stream(text("Hello"), finish(), hold=True)]
    made = agent(token_timeout_seconds=60, first_token_timeout_seconds=60)

    async with asyncio.timeout(60):
        assert joined(await events(made)) == "Hello"
        await upstream.lost.wait()


async def test_a_held_connection_is_let_go_after_an_answer_without_words(
    upstream: Upstream, agent: MakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same where no token came before the end."""
    monkeypatch.setattr(exchange, "AFTER_FINISH_SECONDS", 0.1)
    upstream.answers = [stream(finish(), hold=True)]

    async with asyncio.timeout(60):
        assert joined(await events(agent(first_token_timeout_seconds=60))) == ""


async def test_without_its_key_a_model_says_so(upstream: Upstream, agent: MakeAgent) -> None:
    """Before any request is made."""
    error, _ = await failure(agent(api_key_env="TINY_KEY"))

    assert error.narrow_code == "missing_api_key"
    assert "TINY_KEY" in error.detail
    assert upstream.requests == []


async def test_a_key_that_no_header_may_hold_refuses_the_start(agent: MakeAgent) -> None:
    """Found at start, named by its variable, not shown."""
    with pytest.raises(StartupError) as caught:
        agent(key="sk-secret\nX-Evil: 1", api_key_env="TINY_KEY")

    assert "TINY_KEY" in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_operators_find_the_refusal_in_the_log_without_the_key(
    upstream: Upstream, agent: MakeAgent, logged: list[Any]
) -> None:
    """The user is told a sentence, the operator what the endpoint said."""
    upstream.answers = [refuse(401, {"error": {"message": "no such key: sk-secret, ask billing"}})]
    await failure(agent(key="sk-secret", api_key_env="KEY"))

    text_of_log = json.dumps(logged)
    assert "ask billing" in text_of_log
    assert "sk-secret" not in text_of_log


OBJECTIONS = [
    pytest.param("Unrecognized request argument supplied: stream_options", "stream_options", None, id="old-server"),
    pytest.param("Use 'max_completion_tokens' instead.", "max_tokens", "max_completion_tokens", id="reasoning-model"),
]


@pytest.mark.parametrize(("message", "gone", "instead"), OBJECTIONS)
async def test_what_an_endpoint_does_not_take_is_left_out_from_then_on(
    message: str, gone: str, instead: str | None, upstream: Upstream, agent: MakeAgent
) -> None:
    """Parameters that differ between endpoints are found out by asking, once."""
    upstream.answers = [refuse(400, {"error": {"message": message}}), HELLO]
    made = agent()
    assert joined(await events(made)) == "Hello"
    assert joined(await events(made)) == "Hello"

    assert [gone in asked.body for asked in upstream.requests] == [True, False, False]
    if instead is not None:
        assert [instead in asked.body for asked in upstream.requests] == [False, True, True]


@pytest.mark.parametrize(("message", "gone", "instead"), OBJECTIONS)
async def test_turns_that_find_out_together_all_try_again(
    message: str, gone: str, instead: str | None, upstream: Upstream, agent: MakeAgent
) -> None:
    """After a start several turns ask in the old way at once; what the first one learns must not fail the others."""
    asked_at_once = asyncio.Barrier(3)

    async def object_together(request: web.Request) -> web.StreamResponse:
        if gone in upstream.requests[-1].body:
            await asked_at_once.wait()
            return await refuse(400, {"error": {"message": message}})(request)
        return await HELLO(request)

    upstream.answers = [object_together]
    made = agent()
    async with asyncio.timeout(60):
        answers = await asyncio.gather(*(events(made) for _ in range(3)))
    assert [joined(answer) for answer in answers] == ["Hello"] * 3


async def test_a_model_that_knows_no_tools_reads_the_calls_of_old_answers_as_text(
    upstream: Upstream, agent: MakeAgent
) -> None:
    """Also in the turn in which it is found out: results of tools are no messages for it either."""

    async def no_tools(request: web.Request) -> web.StreamResponse:
        body = upstream.requests[-1].body
        if "tools" in body or any(m["role"] == "tool" or "tool_calls" in m for m in body["messages"]):
            return await refuse(400, {"error": {"message": "tiny-1 does not support tools"}})(request)
        return await HELLO(request)

    upstream.answers = [no_tools]
    called = ToolCall("c", "time", "now", {"zone": "UTC"}, 0, ToolResult("noon", False))
    history = [said("user", "what time is it"), replace(said("assistant", "It is noon."), tool_calls=(called,))]
    tools = TableTools({("time", "now"): ToolResult("noon", False)})
    made = agent()
    for _ in range(2):
        assert joined(await events(made, history=history, tools=tools)) == "Hello"
    assert len(upstream.requests) == 3
    assert "noon" in json.dumps(upstream.requests[-1].body)


# --- interrupt ---


@pytest.mark.both_loops
async def test_an_interrupt_in_the_middle_is_seen_by_the_endpoint_at_once(upstream: Upstream, agent: MakeAgent) -> None:
    """A stop that does not stop the endpoint goes on costing money: 100 ms at most, at the best of several tries."""
    upstream.answers = [endless(text("word "), 0.001)]

    async def stop() -> float:
        begun = asyncio.Event()
        upstream.lost.clear()

        async def read() -> None:
            async for _ in agent().run(turn("hi")):
                begun.set()

        task = asyncio.create_task(read())
        await asyncio.wait_for(begun.wait(), 60)
        return await _lost_after_a_cancel(task, upstream)

    assert await least(stop, 0.1) < 0.1


@pytest.mark.both_loops
async def test_an_interrupt_before_the_first_token_is_seen_too(upstream: Upstream, agent: MakeAgent) -> None:
    """While the endpoint still reads the prompt, which may take it a minute."""

    async def stop() -> float:
        upstream.requests[:] = []
        upstream.lost.clear()

        async def read() -> None:
            async for _ in agent().run(turn("hi")):
                raise AssertionError("nothing was said")

        task = asyncio.create_task(read())
        async with asyncio.timeout(60):
            while not upstream.requests:
                await asyncio.sleep(0.005)
        return await _lost_after_a_cancel(task, upstream)

    for answer in (silent(), stream(hold=True)):
        upstream.answers = [answer]
        assert await least(stop, 0.1) < 0.1


async def _lost_after_a_cancel(task: asyncio.Task[None], upstream: Upstream) -> float:
    """Cancel the turn; the seconds until the endpoint lost its connection."""
    stopped_at = asyncio.get_running_loop().time()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(upstream.lost.wait(), 60)
    return upstream.lost_at - stopped_at


async def test_what_a_stopped_answer_has_cost_so_far_is_known(upstream: Upstream, agent: MakeAgent) -> None:
    """An endpoint counts at the end of its answer only; what was sent to it, and its first words, are estimated."""
    upstream.answers = [stream(text("Hel"), hold=True)]
    running = agent().run(turn("y" * 30))

    assert await anext(running) == "Hel"
    assert await anext(running) == Spent(Usage(prompt_tokens=14, completion_tokens=1, estimated=True))
    await running.aclose()


async def test_leaving_the_iteration_closes_the_connection_too(upstream: Upstream, agent: MakeAgent) -> None:
    """Whoever iterates may stop without being cancelled."""
    upstream.answers = [stream(text("Hel"), hold=True)]
    running = agent().run(turn("hi"))
    assert await anext(running) == "Hel"
    await running.aclose()

    await asyncio.wait_for(upstream.lost.wait(), 60)


async def test_an_interrupt_while_it_waits_for_another_try_ends_the_waiting(
    upstream: Upstream, agent: MakeAgent, clock: NotedSleeps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two tries there is no connection to close, only a wait to end."""
    waiting = asyncio.Event()

    async def hang(seconds: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(NotedSleeps, "sleep", lambda self, seconds: hang(seconds))
    upstream.answers = [refuse(503)]
    task = asyncio.create_task(events(agent()))
    await asyncio.wait_for(waiting.wait(), 60)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(upstream.requests) == 1


# --- tools ---

ADD = ToolSpec("math", "add", "Adds.", {"type": "object", "properties": {"a": {"type": "number"}}})
NOW = ToolSpec("time", "now", "Tells the time.", {})
SPECS = (ADD, NOW)


def tools() -> TableTools:
    return TableTools({("math", "add"): ToolResult("3", False), ("time", "now"): ToolResult("noon", False)}, SPECS)


async def test_calls_in_fragments_are_run_and_their_results_read(upstream: Upstream, agent: MakeAgent) -> None:
    """Two calls side by side, their pieces mixed; then the answer made from the results."""
    upstream.answers = [
        stream(
            text("Let me see. "),
            call(0, "call_a", "math__add", ""),
            call(1, "call_b", "time__", None),
            call(0, arguments='{"a": '),
            call(1, name="now"),
            call(1, arguments="{}"),
            call(0, arguments="1}"),
            finish("tool_calls"),
            usage(10, 4),
            DONE,
        ),
        stream(text("It is 3 at noon."), finish(), usage(20, 6), DONE),
    ]
    table = tools()
    got = await events(agent(), tools=table)

    assert table.calls == [("math", "add", {"a": 1}), ("time", "now", {})]
    assert joined(got) == "Let me see. It is 3 at noon."
    assert got[-1] == Spent(Usage(30, 10))
    assert upstream.requests[0].body["tools"] == [
        {
            "type": "function",
            "function": {"name": "math__add", "description": "Adds.", "parameters": dict(ADD.input_schema)},
        },
        {
            "type": "function",
            "function": {
                "name": "time__now",
                "description": "Tells the time.",
                "parameters": {"type": "object", "properties": {}},
            },
        },
    ]
    assert upstream.requests[1].body["messages"][1:] == [
        {
            "role": "assistant",
            "content": "Let me see. ",
            "tool_calls": [
                {"id": "call_a", "type": "function", "function": {"name": "math__add", "arguments": '{"a":1}'}},
                {"id": "call_b", "type": "function", "function": {"name": "time__now", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_a", "content": "3"},
        {"role": "tool", "tool_call_id": "call_b", "content": "noon"},
    ]


async def test_a_call_to_a_tool_that_does_not_exist_is_an_error_the_model_reads(
    upstream: Upstream, agent: MakeAgent
) -> None:
    """Models invent tools; the turn goes on."""
    upstream.answers = [
        stream(call(0, "x", "weather__tomorrow", "{}"), call(1, "y", "nonsense", "{}"), finish("tool_calls"), DONE),
        HELLO,
    ]
    table = tools()

    assert joined(await events(agent(), tools=table)) == "Hello"
    assert table.calls == [("weather", "tomorrow", {}), ("", "nonsense", {})]
    results = [m for m in upstream.requests[1].body["messages"] if m["role"] == "tool"]
    assert [r["content"] for r in results] == ["Error: There is no such tool."] * 2


@pytest.mark.parametrize("arguments", ['{"a": ', "[1]", '"x"', '{"a": ' * 5_000, "NaNo"])
async def test_broken_arguments_are_an_error_the_model_reads(
    arguments: str, upstream: Upstream, agent: MakeAgent
) -> None:
    """Nothing is called with them, and they do not go back to the endpoint, whose template would fail on them."""
    upstream.answers = [stream(call(0, "x", "math__add", arguments), finish("tool_calls"), DONE), HELLO]
    table = tools()

    assert joined(await events(agent(), tools=table)) == "Hello"
    assert table.calls == []
    asked = upstream.requests[1].body["messages"]
    assert asked[-1]["content"].startswith("Error: The arguments are not a JSON object")
    assert asked[-2]["tool_calls"][0]["function"]["arguments"] == "{}"


async def test_a_model_that_never_stops_calling_is_stopped(upstream: Upstream, agent: MakeAgent) -> None:
    """After `tool_rounds` rounds the turn fails by name."""
    upstream.answers = [stream(call(0, "same", "math__add", "{}"), finish("tool_calls"), DONE)]
    table = tools()
    error, _ = await failure(agent(tool_rounds=3), tools=table)

    assert error.narrow_code == "tool_rounds"
    assert len(table.calls) == 3
    assert len(upstream.requests) == 4
    ids = [c["id"] for m in upstream.requests[-1].body["messages"] for c in m.get("tool_calls", ())]
    assert len(ids) == len(set(ids)) == 3


async def test_tools_are_not_offered_to_a_model_without_them(upstream: Upstream, agent: MakeAgent) -> None:
    """`tools = false`, and one whose endpoint refuses them."""
    upstream.answers = [HELLO]
    await events(agent(tools=False), tools=tools())
    assert "tools" not in upstream.requests[0].body

    upstream.answers = [refuse(400, {"error": {"message": "tiny-1 does not support tools"}}), HELLO]
    assert joined(await events(agent(), tools=tools())) == "Hello"
    assert ["tools" in asked.body for asked in upstream.requests] == [False, True, False]


async def test_a_turn_of_tools_alone_is_begun_for_whoever_would_fall_back(upstream: Upstream, agent: MakeAgent) -> None:
    """Tools have run: another model must not run them again."""
    upstream.answers = [stream(call(0, "x", "time__now", "{}"), finish("tool_calls"), DONE), refuse(401)]
    error, got = await failure(agent(), tools=tools())

    assert error.narrow_code == "upstream_unauthorized"
    assert [type(e) for e in got] == [Spent]


async def test_an_endpoints_cookie_is_not_sent_back(upstream: Upstream, agent: MakeAgent) -> None:
    """One user's affinity cookie has no business in another's request."""

    async def with_cookie(request: web.Request) -> web.StreamResponse:
        response = web.Response(body=text("Hello") + finish() + DONE, headers={"Content-Type": "text/event-stream"})
        response.set_cookie("session", "of-somebody")
        return response

    upstream.answers = [with_cookie]
    made = agent()
    await events(made)
    await events(made)

    assert "Cookie" not in upstream.requests[1].headers


async def test_credentials_in_the_address_become_basic_auth(upstream: Upstream, agent: MakeAgent) -> None:
    """For an endpoint behind a proxy with a password."""
    upstream.answers = [HELLO]
    await events(agent(base_url=upstream.base_url.replace("http://", "http://user:pass@")))

    assert upstream.requests[0].headers["Authorization"].startswith("Basic ")
