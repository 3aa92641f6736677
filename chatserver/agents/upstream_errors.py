"""What an endpoint's failures are called, and whether trying again can help.

Invariants: an error's detail is one of the sentences here, never the endpoint's own text, address or key: that text is
hostile input, and the people who read the detail need not be the ones who may know it. Operators find an excerpt in
the log (openai_compatible.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from chatserver.errors import AgentError

# A part of our request that an endpoint does not take, and that an answer can do without.
Objection = Literal["stream_options", "max_tokens", "tools"]


class UpstreamError(AgentError):
    """An endpoint's failure.

    Args:
        detail: one sentence for the user.
        code: one of the codes in docs/errors.md.
        retryable: the same request may succeed in a moment.
        retry_after_seconds: what the endpoint asked to wait; None where it said nothing.
        objection: what the endpoint named as the reason of its refusal, where that can be left out.
    """

    def __init__(
        self,
        detail: str,
        *,
        code: str,
        retryable: bool = False,
        retry_after_seconds: float | None = None,
        objection: Objection | None = None,
    ) -> None:
        super().__init__(detail, code=code)
        self.retryable = retryable
        self.retry_after_seconds = retry_after_seconds
        self.objection = objection


def unavailable(detail: str = "The model's endpoint cannot be reached.") -> UpstreamError:
    return UpstreamError(detail, code="upstream_unavailable", retryable=True)


def timeout(detail: str) -> UpstreamError:
    """Not retryable: the time that was waited is gone, and the endpoint is busy with the same request still."""
    return UpstreamError(detail, code="upstream_timeout")


def protocol(detail: str, *, retryable: bool = False) -> UpstreamError:
    return UpstreamError(detail, code="upstream_protocol", retryable=retryable)


# Names that endpoints give to "the prompt is too long": OpenAI's and vLLM's code, llama.cpp's type.
_TOO_LONG = frozenset({"context_length_exceeded", "exceed_context_size_error"})
_TOO_LONG_WORDS = ("maximum context length", "context window", "context size", "prompt is too long")
# 429 for an account without money left: no waiting helps.
_NO_QUOTA = frozenset({"insufficient_quota", "billing_hard_limit_reached"})


def from_status(status: int, body: Any, headers: Mapping[str, str], now: float) -> UpstreamError:
    """The error of an answer whose status is not 200.

    Args:
        status: HTTP status.
        body: the decoded JSON body, or None where it was none.
        now: wall time in seconds, against which a Retry-After date is read.
    """
    names = _names(body)
    error = _classified(status, names)
    if status in (400, 422) and error.narrow_code == "upstream_rejected":
        error.objection = _objection(names[1])
    error.retry_after_seconds = retry_after(headers.get("Retry-After"), now)
    return error


def from_error_object(error: Any) -> UpstreamError:
    """The error of an `error` object inside a stream whose status was 200."""
    names = _names({"error": error})
    code = error.get("code") if isinstance(error, dict) else None
    status = code if isinstance(code, int) and 400 <= code <= 599 else 0
    if not status and names[0] & (_NO_QUOTA | {"rate_limit_exceeded"}):
        status = 429
    if status or names[0] & _TOO_LONG:
        return _classified(status or 400, names)
    return unavailable("The model's endpoint broke off its answer with an error.")


def _names(body: Any) -> tuple[frozenset[str], str]:
    """The error's code and type, and its message in lower case, wherever this endpoint puts them."""
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, str):
        return frozenset(), error.lower()
    if not isinstance(error, dict):
        return frozenset(), ""
    names = frozenset(v for v in (error.get("code"), error.get("type")) if isinstance(v, str))
    message = error.get("message")
    return names, message.lower() if isinstance(message, str) else ""


def _objection(message: str) -> Objection | None:
    """Which part of the request the endpoint does not take.

    Older servers know no `stream_options`; OpenAI's reasoning models want `max_completion_tokens` where everybody else
    wants `max_tokens`; Ollama refuses tools for models that were not trained for them.
    """
    if "stream_options" in message:
        return "stream_options"
    if "max_completion_tokens" in message:
        return "max_tokens"
    if "does not support tools" in message or "tool choice requires" in message:
        return "tools"
    return None


def _classified(status: int, names: tuple[frozenset[str], str]) -> UpstreamError:
    known, message = names
    match status:
        case 401 | 403:
            return UpstreamError("The model's endpoint refused the server's key.", code="upstream_unauthorized")
        case 429:
            return UpstreamError(
                "The model's endpoint is answering too many requests.",
                code="upstream_rate_limited",
                retryable=not known & _NO_QUOTA,
            )
        case 408 | 409 | 425:
            return unavailable("The model's endpoint could not take the request now.")
        case 400 | 413 | 422 | 500 if known & _TOO_LONG or any(words in message for words in _TOO_LONG_WORDS):
            return UpstreamError("The conversation is longer than the model can read.", code="context_too_long")
        case 404:
            return UpstreamError(
                "The model's endpoint does not know the model, or its address is wrong.", code="upstream_rejected"
            )
        case _ if status >= 500:
            return unavailable(f"The model's endpoint failed (HTTP {status}).")
        case _ if status >= 400:
            return UpstreamError(
                f"The model's endpoint rejected the request (HTTP {status}).", code="upstream_rejected"
            )
    return protocol(f"The model's endpoint gave an answer that is none (HTTP {status}).")


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds of a Retry-After header (RFC 9110 §10.2.3: seconds or a date); None where it says nothing usable."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:  # RFC 9110 dates are GMT; the parser leaves "-0000" naive
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.fromtimestamp(now, UTC)).total_seconds())
