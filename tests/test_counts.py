"""Histograms and bounded codes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatserver.counts import FIRST_TOKEN_EDGES, MAX_CODES, OTHER, Codes, Histogram


def histogram(*values: float) -> Histogram:
    made = Histogram(FIRST_TOKEN_EDGES)
    for value in values:
        made.observe(value)
    return made


def test_a_value_on_an_edge_lies_below_it() -> None:
    """As Prometheus counts: less or equal."""
    assert histogram(0.005, 0.0051, 500).counts == [1, 1, *[0] * 12, 1]


@given(st.lists(st.floats(0, 100), min_size=1), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_lies_between_the_edges_around_the_true_one(values: list[float], part: float) -> None:
    """It is as exact as the edges are close."""
    true = sorted(values)[max(0, -(-len(values) * part // 1).__int__() - 1)]
    below = max((edge for edge in FIRST_TOKEN_EDGES if edge < true), default=0.0)
    above = min(edge for edge in FIRST_TOKEN_EDGES if edge >= true)
    found = histogram(*values).quantile(part)

    assert found is not None
    assert below - 1e-4 <= found <= above + 1e-4


def test_no_values_have_no_quantile_and_those_above_all_edges_the_last() -> None:
    """A page shows a gap for the one, and "at least this" for the other."""
    assert histogram().quantile(0.5) is None
    assert histogram(1000.0).quantile(0.5) == FIRST_TOKEN_EDGES[-1]


@given(st.lists(st.floats(0, 100)), st.lists(st.floats(0, 100)))
def test_what_came_since_is_the_difference(before: list[float], after: list[float]) -> None:
    """Two readings tell what happened between them."""
    since = histogram(*before, *after).less(histogram(*before))

    assert since.counts == histogram(*after).counts
    assert since.total == pytest.approx(sum(after), abs=1e-6)
    assert Histogram.sum([histogram(*before), histogram(*after)]).counts == histogram(*before, *after).counts


def test_codes_that_agents_make_up_stay_bounded() -> None:
    """A label for each would fill the memory of whoever reads them."""
    codes = Codes()
    for number in range(MAX_CODES * 3):
        codes.count(f"code_{number}")
    codes.count("code_0")

    assert len(codes.seen) == MAX_CODES + 1
    assert codes.seen[OTHER] == MAX_CODES * 2
    assert codes.seen["code_0"] == 2
