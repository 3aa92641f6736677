"""Tokens: estimated where nobody counts them, added up, and put into days and months.

The estimate is cheap, since every model counts its own way: one token per three bytes of UTF-8. English has about four
bytes to a token, code and most other scripts about three, so it errs towards more. docs/limits.md tells the rules.

Days and months are UTC's, whatever the machine's time zone: a quota ends at the same moment for everybody.
"""

from __future__ import annotations

from datetime import UTC, datetime

from chatserver.message import Message, Outcome, Usage

BYTES_PER_TOKEN = 3
DAY_SECONDS = 86400
# Of a turn, whatever its agent tells: far more than any has used, and so little that a day's sums stay whole numbers
# that JSON's readers and SQLite can hold (2**53, 2**63).
MAX_TOKENS = 10**12


def estimate_tokens(text: str) -> int:
    """About how many tokens `text` is; 0 for none."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return -(-size // BYTES_PER_TOKEN)


def added(a: Usage, b: Usage) -> Usage:
    """Both together; estimated where one of them is."""
    return Usage(
        prompt_tokens=a.prompt_tokens + b.prompt_tokens,
        completion_tokens=a.completion_tokens + b.completion_tokens,
        reasoning_tokens=a.reasoning_tokens + b.reasoning_tokens,
        cached_tokens=a.cached_tokens + b.cached_tokens,
        estimated=a.estimated or b.estimated,
    )


def usage_of(question: str, answer: Message) -> Usage | None:
    """The estimate for a turn whose agent told nothing: what it was asked and what it wrote; None where it wrote
    nothing."""
    return _written(answer, 0, estimate_tokens(question))


def usage_at_end(told: Usage | None, told_after: int, question: str, answer: Message, outcome: Outcome) -> Usage | None:
    """What a turn has used when it ends.

    Args:
        told: what its agent told last.
        told_after: characters of reasoning and answer that the agent had given out by then.
        question: the text that was answered.
        answer: all of its text is in it.
        outcome: of the turn.
    """
    if told is None:
        return usage_of(question, answer)
    if outcome == "completed":
        return told  # what it wrote after telling is its own to count
    rest = _written(answer, told_after)
    return told if rest is None else added(told, rest)


def usage_of_text(told: Usage | None, told_after: int, question: str, text: str) -> Usage | None:
    """What was used for a text that stands in no conversation, as `usage_at_end` has it of one that was cut off."""
    if told is None:
        asked = estimate_tokens(question)
        return Usage(prompt_tokens=asked, completion_tokens=estimate_tokens(text), estimated=True) if text else None
    if len(text) <= told_after:
        return told
    return added(told, Usage(completion_tokens=estimate_tokens(text[told_after:]), estimated=True))


def _written(answer: Message, known: int, prompt_tokens: int = 0) -> Usage | None:
    """The estimate for an answer's text behind its first `known` characters; None where there is none."""
    written = len(answer.reasoning) + len(answer.content)
    if written <= known:
        return None
    # Reasoning and answer may take turns; which of the two the unknown rest is, their sizes decide.
    share = (written - known) / written
    reasoning = round(estimate_tokens(answer.reasoning) * share)
    return Usage(
        prompt_tokens,
        completion_tokens=max(1, round(estimate_tokens(answer.content) * share) + reasoning),
        reasoning_tokens=reasoning,
        estimated=True,
    )


# --- days and months ---


def day_of(seconds: float) -> int:
    """The UTC day of a time, counted from the epoch.

    Args:
        seconds: since the epoch.
    """
    return int(seconds // DAY_SECONDS)


def month_of(seconds: float) -> int:
    """The first day of the UTC month of a time, counted from the epoch."""
    return day_of(datetime.fromtimestamp(seconds, UTC).replace(day=1).timestamp())


def end_of_day(seconds: float) -> float:
    """When the UTC day of a time ends, in seconds since the epoch."""
    return float((day_of(seconds) + 1) * DAY_SECONDS)


def end_of_month(seconds: float) -> float:
    """When the UTC month of a time ends, in seconds since the epoch."""
    # The 1st and 31 days is always in the next month.
    return float(month_of((month_of(seconds) + 31) * DAY_SECONDS) * DAY_SECONDS)
