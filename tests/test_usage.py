"""What a turn has used: told, estimated, and both together; days and months."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatserver.message import Message, Outcome, Usage
from chatserver.usage import day_of, end_of_day, end_of_month, estimate_tokens, month_of, usage_at_end

TOLD = Usage(100, 20, reasoning_tokens=5, cached_tokens=40)


def answer(content: str, reasoning: str = "") -> Message:
    return Message("m", None, "assistant", content, "streaming", "tiny", "", reasoning)


def test_what_the_agent_told_of_a_whole_answer_counts_as_it_is() -> None:
    """Also where text came after it: an agent knows its tokens better than any estimate."""
    assert usage_at_end(TOLD, 0, "question", answer("x" * 300), "completed") == TOLD


@pytest.mark.parametrize("status", ["completed", "interrupted", "failed"])
def test_a_turn_that_nobody_counted_is_estimated_and_marked(status: Outcome) -> None:
    """Python agents and the embedded one tell nothing: the question, and what was written."""
    assert usage_at_end(None, 0, "q" * 30, answer("x" * 300, "r" * 30), status) == Usage(
        10, 110, reasoning_tokens=10, estimated=True
    )


def test_what_a_stopped_turn_wrote_after_it_was_counted_is_added() -> None:
    """An endpoint that tells at the end tells nothing when it is interrupted."""
    told = Usage(50, 10, estimated=True)

    assert usage_at_end(told, 30, "q", answer("x" * 330), "interrupted") == Usage(50, 110, estimated=True)
    assert usage_at_end(told, 330, "q", answer("x" * 330), "interrupted") == told


@pytest.mark.parametrize("status", ["completed", "interrupted", "failed"])
def test_a_turn_that_told_and_wrote_nothing_has_no_usage(status: Outcome) -> None:
    """Whether its endpoint charges for it, nobody here knows."""
    assert usage_at_end(None, 0, "a long question", answer(""), status) is None


@given(st.text(max_size=50), st.text(max_size=50), st.integers(0, 120))
def test_an_estimate_is_never_negative_and_never_more_than_the_whole(content: str, reasoning: str, known: int) -> None:
    """Reasoning is a part of what was written."""
    whole = estimate_tokens(content) + estimate_tokens(reasoning)
    used = usage_at_end(Usage(), known, "", answer(content, reasoning), "interrupted")

    assert used is not None
    assert 0 <= used.reasoning_tokens <= used.completion_tokens <= whole + 1


def seconds(*when: int) -> float:
    return datetime(*when, tzinfo=UTC).timestamp()  # type: ignore[arg-type,misc]


@pytest.mark.parametrize(
    ("now", "month", "day_ends", "month_ends"),
    [
        ((2026, 1, 31, 23, 59, 59), (2026, 1, 1), (2026, 2, 1), (2026, 2, 1)),
        ((2026, 2, 1), (2026, 2, 1), (2026, 2, 2), (2026, 3, 1)),
        ((2028, 2, 29, 12), (2028, 2, 1), (2028, 3, 1), (2028, 3, 1)),
        ((2026, 12, 31), (2026, 12, 1), (2027, 1, 1), (2027, 1, 1)),
    ],
)
def test_days_and_months_are_utc_s(
    now: tuple[int, ...], month: tuple[int, ...], day_ends: tuple[int, ...], month_ends: tuple[int, ...]
) -> None:
    """At their edges: the last second of one, the first of the next, a leap day."""
    assert month_of(seconds(*now)) == day_of(seconds(*month))
    assert end_of_day(seconds(*now)) == seconds(*day_ends)
    assert end_of_month(seconds(*now)) == seconds(*month_ends)
