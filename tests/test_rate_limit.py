"""RateLimiter: bursts up to the limit, the limit on the long run, the exact time of the next one, a bounded table."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatserver import rate_limit
from chatserver.errors import RateLimited
from chatserver.rate_limit import RateLimiter, counted_address, hit_all


class Time:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def make(limit: int = 5, period: float = 60.0) -> tuple[RateLimiter, Time]:
    time = Time()
    return RateLimiter("things", limit, period, time), time


def test_a_burst_up_to_the_limit_passes_and_counts_down() -> None:
    """The next one does not, and says which limit it was."""
    limiter, _ = make()
    assert [limiter.hit("a") for _ in range(5)] == [4, 3, 2, 1, 0]
    with pytest.raises(RateLimited) as refused:
        limiter.hit("a")
    assert (refused.value.limit, refused.value.temporary) == (5, True)
    assert refused.value.detail == "things: 5 in 60 s"


def test_keys_do_not_count_for_each_other() -> None:
    """One caller's burst costs nobody else anything."""
    limiter, _ = make(limit=1)
    for name in ("a", "b", "c", ""):
        limiter.hit(name)
        with pytest.raises(RateLimited):
            limiter.hit(name)


def test_the_time_to_wait_is_enough_and_hardly_more() -> None:
    """After the told seconds the next one passes; a second before, it does not."""
    limiter, time = make(limit=20)
    for _ in range(20):
        limiter.hit("a")
    for _ in range(10):
        with pytest.raises(RateLimited) as refused:
            limiter.hit("a")
        wait = refused.value.retry_after_seconds
        assert wait >= 1
        time.now += wait - 1
        with pytest.raises(RateLimited):
            limiter.hit("a")
        time.now += 1
        limiter.hit("a")


def test_a_refused_one_is_not_counted() -> None:
    """Who knocks a thousand times waits no longer than who knocks once."""
    limiter, time = make(limit=1, period=10)
    limiter.hit("a")
    for _ in range(1000):
        with pytest.raises(RateLimited):
            limiter.hit("a")
    time.now += 10
    limiter.hit("a")


def test_after_a_quiet_period_the_whole_burst_is_back() -> None:
    """And no more than that, however long it was quiet."""
    limiter, time = make(limit=3)
    for quiet in (60, 3600, 1e9):
        for _ in range(3):
            limiter.hit("a")
        with pytest.raises(RateLimited):
            limiter.hit("a")
        time.now += quiet


@settings(derandomize=True)
@given(
    limit=st.integers(1, 50),
    period=st.floats(0.5, 3600),
    pauses=st.lists(st.floats(0, 100), min_size=1, max_size=200),
)
def test_no_stretch_of_time_lets_more_through_than_its_burst_and_its_rate(
    limit: int, period: float, pauses: list[float]
) -> None:
    """For any arrivals: within any span, at most the burst and what the rate gives back in it."""
    limiter, time = make(limit, period)
    passed = []
    for pause in pauses:
        time.now += pause
        try:
            left = limiter.hit("a")
        except RateLimited:
            continue
        assert 0 <= left < limit
        passed.append(time.now)
    for first, last in itertools.combinations(range(len(passed)), 2):
        allowed = limit + (passed[last] - passed[first]) * limit / period
        assert last - first + 1 <= allowed + 1e-6


def test_the_table_is_bounded_and_keeps_the_busiest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of new keys pushes out those that would be forgotten first, not the one that is being held back."""
    monkeypatch.setattr(rate_limit, "MAX_KEYS", 100)
    limiter, _ = make(limit=3)
    for _ in range(3):
        limiter.hit("busy")
    for n in range(1000):
        limiter.hit(f"new-{n}")
        assert len(limiter._full_at) <= 100
    with pytest.raises(RateLimited):
        limiter.hit("busy")


def test_keys_without_effect_leave_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those whose whole burst is back are forgotten when room is needed."""
    monkeypatch.setattr(rate_limit, "MAX_KEYS", 100)
    limiter, time = make()
    for n in range(99):
        limiter.hit(f"old-{n}")
    time.now += 60
    limiter.hit("a")
    limiter.hit("b")
    assert set(limiter._full_at) == {"a", "b"}


def test_a_flood_of_keys_costs_little_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Making room gives room for many: the table is not gone through for every hit."""
    monkeypatch.setattr(rate_limit, "MAX_KEYS", 1000)
    limiter, time = make(limit=1000)
    for n in range(995):
        for _ in range(500):  # held for half a minute
            limiter.hit(f"heavy-{n}")
    swept = 0
    forget = limiter._forget

    def counted(now: float) -> None:
        nonlocal swept
        swept += 1
        forget(now)

    monkeypatch.setattr(limiter, "_forget", counted)
    for n in range(200):
        time.now += 0.1  # a key that was hit once has no effect any more after 60 ms: always one can go
        limiter.hit(f"new-{n}")
    assert swept <= 4


def test_a_hit_at_several_limits_is_counted_by_all_or_by_none() -> None:
    """Whichever refuses, and however often it is tried."""
    time = Time()
    roomy, narrow = RateLimiter("roomy", 100, 60.0, time), RateLimiter("narrow", 2, 60.0, time)
    for order in ([(roomy, "a"), (narrow, "n")], [(narrow, "n"), (roomy, "a")]):
        for _ in range(5):
            with contextlib.suppress(RateLimited):
                hit_all(order)
    assert roomy.hit("a") == 97, "two passed, and this one"


def test_what_is_taken_back_was_never_counted() -> None:
    """The next one passes as if it had not been; of a key that is forgotten there is nothing to take back."""
    limiter, time = make(limit=2)
    for _ in range(10):
        assert limiter.hit("a") == 1
        limiter.take_back("a")
    assert [limiter.hit("a"), limiter.hit("a")] == [1, 0]
    with pytest.raises(RateLimited):
        limiter.hit("a")
    limiter.take_back("a")
    assert limiter.hit("a") == 0
    time.now += 3600
    limiter.take_back("a")
    limiter.take_back("b")
    assert [limiter.hit(key) for key in ("a", "a", "b", "b")] == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:DB8:0:0:ffff:ffff:ffff:ffff", "2001:db8::/64"),
        ("2001:db8:0:1::", "2001:db8:0:1::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("unknown", "unknown"),
        ("", ""),
    ],
)
def test_what_addresses_count_as(address: str, counted: str) -> None:
    """Themselves, or the network that one household has of IPv6."""
    assert counted_address(address) == counted


@settings(derandomize=True)
@given(st.text() | st.ip_addresses().map(str))
def test_counting_as_something_never_fails_and_is_settled(address: str) -> None:
    """Whatever a proxy hands on; and what was counted once counts as itself."""
    once = counted_address(address)
    assert counted_address(once) == once
