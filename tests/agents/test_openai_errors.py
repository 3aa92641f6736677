"""What an endpoint's refusals are called, and how long it asks to wait."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatserver.agents.upstream_errors import from_error_object, from_status, retry_after

NOW = 1_767_225_600.0  # 2026-01-01T00:00:00Z


@pytest.mark.parametrize(
    ("value", "seconds"),
    {
        None: None,
        "0": 0.0,
        " 7 ": 7.0,
        "Thu, 01 Jan 2026 00:00:30 GMT": 30.0,
        "Thu, 01 Jan 2026 00:00:30 -0000": 30.0,
        "Wed, 31 Dec 2025 23:00:00 GMT": 0.0,
        "99999999999999999999": 999_999_999.0,
        "1.5": None,
        "-1": None,
        "soon": None,
        "": None,
        "٣": None,
    }.items(),
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    """RFC 9110 §10.2.3; what is neither says nothing."""
    assert retry_after(value, NOW) == seconds


@given(st.text(max_size=40))
def test_no_retry_after_is_an_exception(value: str) -> None:
    """It is a stranger's header."""
    found = retry_after(value, NOW)
    assert found is None or found >= 0


CASES = [
    (401, None, "upstream_unauthorized", False),
    (403, {"error": "x"}, "upstream_unauthorized", False),
    (404, None, "upstream_rejected", False),
    (400, {"error": {"message": "This model's maximum context length is 8 tokens"}}, "context_too_long", False),
    (413, None, "upstream_rejected", False),
    (500, {"error": {"type": "exceed_context_size_error"}}, "context_too_long", False),
    (500, None, "upstream_unavailable", True),
    (503, [1], "upstream_unavailable", True),
    (529, None, "upstream_unavailable", True),
    (408, None, "upstream_unavailable", True),
    (429, None, "upstream_rate_limited", True),
    (429, {"error": {"code": "insufficient_quota"}}, "upstream_rate_limited", False),
    (204, None, "upstream_protocol", False),
    (302, None, "upstream_protocol", False),
]


@pytest.mark.parametrize(("status", "body", "code", "retryable"), CASES)
def test_a_status_has_its_code(status: int, body: Any, code: str, retryable: bool) -> None:
    """And says whether another try can help."""
    error = from_status(status, body, {"Retry-After": "3"}, NOW)

    assert (error.narrow_code, error.retryable, error.retry_after_seconds) == (code, retryable, 3.0)


OBJECTS = [
    ({"code": 401, "message": "x"}, "upstream_unauthorized"),
    ({"code": "rate_limit_exceeded"}, "upstream_rate_limited"),
    ({"type": "insufficient_quota"}, "upstream_rate_limited"),
    ({"code": "context_length_exceeded"}, "context_too_long"),
    ({"code": 7}, "upstream_unavailable"),
    ("boom", "upstream_unavailable"),
    (["boom"], "upstream_unavailable"),
]


@pytest.mark.parametrize(("error", "code"), OBJECTS)
def test_an_error_object_in_a_stream_has_its_code(error: Any, code: str) -> None:
    """With status 200 there is only what it calls itself."""
    assert from_error_object(error).narrow_code == code


@given(
    st.integers(100, 999),
    st.recursive(
        st.none() | st.text() | st.integers(),
        lambda v: st.lists(v) | st.dictionaries(st.sampled_from(["error", "code", "type", "message"]), v),
    ),
)
def test_every_refusal_has_a_code_and_keeps_the_endpoints_words_to_itself(status: int, body: Any) -> None:
    """Whatever it sends."""
    for error in (from_status(status, body, {}, NOW), from_error_object(body)):
        assert error.narrow_code in {
            "upstream_unauthorized",
            "upstream_rate_limited",
            "upstream_unavailable",
            "upstream_rejected",
            "upstream_protocol",
            "context_too_long",
        }
        assert error.detail.endswith(".")
        assert error.detail.isascii()
