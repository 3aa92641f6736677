"""History as an endpoint's messages, and how it is fitted to the model's window (spec G5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatserver.agents.base import ToolSpec
from chatserver.agents.context import LEFT_OUT, NO_RESULT, Conversation, wire_tokens
from chatserver.agents.tool_calls import AskedCall, Offer
from chatserver.message import Message, ToolCall, ToolResult
from chatserver.usage import estimate_tokens

OFFER = Offer([ToolSpec("time", "now", "", {})])
PLENTY = 1_000_000


def message(role: str, content: str, **fields: Any) -> Message:
    defaults: dict[str, Any] = {"status": "completed", "model": None, "created_at": "2026-01-02T03:04:05.678Z"}
    return Message("m", None, role, content, **{**defaults, **fields})  # type: ignore[arg-type]  # a role in words


def tool_call(offset: int, result: str | None = "noon", *, is_error: bool = False) -> ToolCall:
    return ToolCall("c", "time", "now", {"tz": "UTC"}, offset, None if result is None else ToolResult(result, is_error))


def wired(history: Sequence[Message], offer: Offer | None = OFFER) -> list[dict[str, Any]]:
    """The messages before the question."""
    sent = Conversation(history, "?", offer).fitted(PLENTY)
    assert sent[-1] == {"role": "user", "content": "?"}
    return sent[:-1]


# --- mapping ---


def test_a_call_stands_where_it_happened_with_its_result_behind_it() -> None:
    """One stored answer becomes what an endpoint would have sent and been sent."""
    answer = message(
        "assistant", "Let me look. It is noon.", tool_calls=(tool_call(13), tool_call(13, "no", is_error=True))
    )
    asked = {"type": "function", "function": {"name": "time__now", "arguments": '{"tz":"UTC"}'}}

    assert wired([answer]) == [
        {
            "role": "assistant",
            "content": "Let me look. ",
            "tool_calls": [{"id": "h00000001", **asked}, {"id": "h00000002", **asked}],
        },
        {"role": "tool", "tool_call_id": "h00000001", "content": "noon"},
        {"role": "tool", "tool_call_id": "h00000002", "content": "Error: no"},
        {"role": "assistant", "content": "It is noon."},
    ]


def test_offsets_count_code_points() -> None:
    """As everywhere: a flag is two, a letter is one."""
    answer = message("assistant", "🇫🇷 é!", tool_calls=(tool_call(3),))

    assert [m.get("content") for m in wired([answer])] == ["🇫🇷 ", "noon", "é!"]


def test_rounds_at_different_places_stay_apart() -> None:
    """Each was a request of its own."""
    answer = message("assistant", "ab", tool_calls=(tool_call(0), tool_call(1), tool_call(2)))
    roles = [(m["role"], m.get("content")) for m in wired([answer])]

    assert roles == [
        ("assistant", None),
        ("tool", "noon"),
        ("assistant", "a"),
        ("tool", "noon"),
        ("assistant", "b"),
        ("tool", "noon"),
    ]


def test_an_interrupted_call_has_a_result_that_says_so() -> None:
    """Endpoints refuse a call without one."""
    answer = message("assistant", "", status="interrupted", tool_calls=(tool_call(0, None),))

    assert wired([answer])[1]["content"] == f"Error: {NO_RESULT}"


def test_interrupted_text_stays_and_an_empty_failure_leaves_nothing() -> None:
    """What the user read, the model has said; what failed before its first word, nobody has."""
    history = [
        message("user", "one"),
        message("assistant", "half an ans", status="interrupted"),
        message("user", "two"),
        message("assistant", "", status="failed"),
        message("tool", "an orphan"),
    ]

    assert wired(history[:2])[1] == {"role": "assistant", "content": "half an ans"}
    # The question whose answer failed and the one that follows are one message: some templates refuse two in a row.
    assert Conversation(history, "three", OFFER).fitted(PLENTY)[-1] == {"role": "user", "content": "two\n\nthree"}


def test_a_model_without_tools_reads_old_calls_as_text() -> None:
    """A session may have switched to it in the middle."""
    answer = message("assistant", "Let me look. It is noon.", tool_calls=(tool_call(13),))

    assert wired([answer], None) == [
        {"role": "assistant", "content": 'Let me look. \n\n[time.now {"tz":"UTC"}: noon]\n\nIt is noon.'}
    ]


# --- fitting ---


def test_the_estimate_is_a_third_of_the_bytes() -> None:
    """Documented, so that operators can reckon with it."""
    assert estimate_tokens("") == 0
    assert estimate_tokens("abcd") == 2
    assert estimate_tokens("日本語") == 3
    assert estimate_tokens("\ud800") == 1


def test_the_oldest_leaves_first_and_questions_leave_with_their_answers() -> None:
    """No answer is left whose question is gone."""
    history = [
        message("user", "q1" * 30),
        message("assistant", "a1" * 30),
        message("user", "q2" * 30),
        message("assistant", "a2" * 30),
    ]
    size = wire_tokens(Conversation(history, "?", OFFER).fitted(PLENTY))

    for budget, kept in ((size, 5), (size - 1, 3), (size - 40, 3), (size - 49, 1), (1, 1)):
        assert len(Conversation(history, "?", OFFER).fitted(budget)) == kept, budget


def test_results_of_the_running_turn_are_shortened_when_nothing_else_is_left_to_leave() -> None:
    """Oldest first; the calls stay, so that the model knows what it has done."""
    conversation = Conversation([message("user", "old" * 100)], "?", OFFER)
    for n in range(3):
        conversation.add_round("", [AskedCall(f"c{n}", "time__now", {})], [ToolResult("x" * 3000, False)])
    sent = conversation.fitted(2300)

    assert [m["content"] for m in sent if m["role"] == "tool"] == [LEFT_OUT, "x" * 3000, "x" * 3000]
    assert "old" not in str(sent)
    assert wire_tokens(sent) <= 2300
    assert [m["content"] for m in conversation.fitted(PLENTY) if m["role"] == "tool"] == ["x" * 3000] * 3


def calls(draw: st.DrawFn, content: str) -> tuple[ToolCall, ...]:
    places = draw(st.lists(st.integers(0, len(content) + 2), max_size=3))
    return tuple(tool_call(at, draw(st.sampled_from(["r", "long " * 20, None]))) for at in places)


@st.composite
def histories(draw: st.DrawFn) -> list[Message]:
    out = []
    for number in range(draw(st.integers(0, 12))):
        role = draw(st.sampled_from(["user", "assistant", "assistant", "system", "tool"]))
        content = draw(st.sampled_from(["", f"word{number} ", f"long{number} " * 20]))
        status = draw(st.sampled_from(["completed", "interrupted", "failed"]))
        out.append(
            message(role, content, status=status, tool_calls=calls(draw, content) if role == "assistant" else ())
        )
    return out


@given(histories(), st.integers(0, 600), st.sampled_from([OFFER, None]))
def test_what_is_sent_is_always_a_conversation(history: list[Message], budget: int, offer: Offer | None) -> None:
    """Whatever happened, whatever the window: in order, whole, calls with results, system messages and question in."""
    sent = Conversation(history, "the question", offer, "the prompt").fitted(budget)

    assert sent[0] == {"role": "system", "content": "the prompt"}
    assert sent[-1]["role"] == "user"
    assert sent[-1]["content"].endswith("the question")
    said = [m.content for m in history if m.role == "system" and m.content]
    assert [m["content"] for m in sent if m["role"] == "system"][1:] == said
    waiting: list[str] = []
    for at, one in enumerate(sent):
        if one["role"] == "tool":
            assert one["tool_call_id"] == waiting.pop(0)
            continue
        assert waiting == []
        assert one["content"] or one.get("tool_calls")
        assert not (at and one["role"] == "user" == sent[at - 1]["role"])
        waiting = [c["id"] for c in one.get("tool_calls", ())]
    assert waiting == []
    # What is kept of the rest is its newest part.
    whole = [m for m in Conversation(history, "the question", offer).fitted(PLENTY) if m["role"] != "system"]
    kept = [m for m in sent if m["role"] != "system"]
    assert kept[1:] == whole[len(whole) - len(kept) + 1 :]
    assert whole[len(whole) - len(kept)]["content"].endswith(kept[0]["content"]) if kept[0]["content"] else True
    # Nothing more than needed has left, and nothing less. Questions that follow each other are sent as one, which takes
    # a few tokens less than was counted for them: too little to fit again for.
    unfitted = Conversation(history, "the question", offer, "the prompt")
    unfitted.fitted(PLENTY)
    if unfitted.tokens <= budget:
        assert len(kept) == len(whole)
    elif len(kept) > 1:
        assert wire_tokens(sent) <= budget


@given(st.integers(0, 400))
def test_a_larger_window_never_holds_less(budget: int) -> None:
    """Fitting is monotone."""
    history = [message(role, f"{n} " * 15) for n in range(6) for role in ("user", "assistant")]
    small = Conversation(history, "?", OFFER).fitted(budget)
    large = Conversation(history, "?", OFFER).fitted(budget + 7)

    assert large[len(large) - len(small) :] == small


def test_ten_thousand_messages_are_fitted_quickly() -> None:
    """Once a turn; a session's window is 200, a Python program may hand over more."""
    history = [message(role, "word " * 20) for _ in range(5000) for role in ("user", "assistant")]
    sent = Conversation(history, "?", OFFER).fitted(2000)

    assert 10 < len(sent) < 100


@pytest.mark.parametrize("content", ["x", "日" * 7, "é" * 100])
def test_wire_tokens_counts_what_the_estimate_says(content: str) -> None:
    """Four for the message, the rest for its text."""
    assert wire_tokens([{"role": "user", "content": content}]) == 4 + estimate_tokens(content)
