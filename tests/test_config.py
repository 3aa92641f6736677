"""Settings that would only fail later are refused at the start."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from chatserver.clock import SystemClock, rfc3339
from chatserver.config import Settings

CENTURY = 100 * 366 * 86400


@pytest.mark.parametrize("name", ["user", "visitor", "unowned"])
def test_no_session_outlives_the_calendar(name: str) -> None:
    """A time of the year 10,000 cannot be written: every session that is made would fail by it."""

    def lives(seconds: float) -> Settings:
        values: dict[str, Any] = {f"{name}_session_ttl_seconds": seconds}
        return Settings(**values)

    assert rfc3339(SystemClock().now() + CENTURY).startswith("21")
    assert getattr(lives(CENTURY), f"{name}_session_ttl_seconds") == CENTURY
    with pytest.raises(ValidationError):
        lives(1e12)
