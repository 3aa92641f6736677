"""Tools under the names that endpoints take, and JSON that comes from outside."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatserver.agents import json_border
from chatserver.agents.base import ToolSpec
from chatserver.agents.chunks import CallParts
from chatserver.agents.tool_calls import Offer, asked, offered_name

NAME = re.compile(r"^[a-zA-Z0-9_-]{1,64}$")
Names = st.text(max_size=80) | st.sampled_from(["a", "a.b", "a_b", "a b", "a__b", "b", "_b", "x" * 64, "x" * 65])


def spec(server: str, name: str) -> ToolSpec:
    return ToolSpec(server, name, "", {})


@given(st.lists(st.tuples(Names, Names), max_size=12))
def test_every_offered_name_is_plain_and_leads_back_to_its_tool(tools: list[tuple[str, str]]) -> None:
    """Whatever servers call their tools; two that look alike stay two."""
    offer = Offer([spec(*tool) for tool in tools])
    names = [tool["function"]["name"] for tool in offer.wire]

    assert len(names) == len(set(names)) == len(set(tools))
    assert all(NAME.match(name) for name in names)
    assert {offer.tool(name) for name in names} == set(tools)
    assert all(offer.tool(offer.name_of(*tool)) == tool for tool in tools)


def test_a_tool_keeps_its_name_whatever_else_is_offered() -> None:
    """Endpoints cache prompts by their prefix."""
    alone = Offer([spec("time", "now")])
    among = Offer([spec("a", "b"), spec("time", "now"), spec("time", "now")])

    assert alone.name_of("time", "now") == among.name_of("time", "now") == "time__now"
    assert len(among.wire) == 2
    assert offered_name("s" * 60, "tool") == offered_name("s" * 60, "tool")


def test_what_was_never_offered_is_read_by_its_look() -> None:
    """So that the caller's error names the server that the model meant."""
    offer = Offer([])

    assert offer.tool("time__now") == ("time", "now")
    assert offer.tool("now") == ("", "now")
    assert not offer


def part(call_id: str, arguments: str) -> CallParts:
    made = CallParts(0)
    made.id, made.name, made.arguments = call_id, "f", [arguments]
    return made


@given(st.lists(st.sampled_from(["", "a", "b", "c00000001", "c00000000", "with space", "x" * 200, "\n"]), max_size=8))
def test_every_call_has_an_id_of_its_own(ids: list[str]) -> None:
    """Endpoints exist that give none, or the same one to all; results find their call by it."""
    taken = {"a"}
    calls = asked([part(i, "{}") for i in ids], taken)
    given_ids = [c.id for c in calls]

    assert len(set(given_ids) | {"a"}) == len(given_ids) + 1
    assert taken == {"a", *given_ids}
    assert all(re.fullmatch(r"[\x21-\x7e]{1,128}", i) for i in given_ids)


@pytest.mark.parametrize(
    ("text", "arguments"),
    [("", {}), (" ", {}), ("null", {}), ('{"a": NaN}', {"a": None}), ('{"a": "\\ud800"}', {"a": "\ufffd"})],
)
def test_arguments_that_can_be_understood_are(text: str, arguments: dict[str, Any]) -> None:
    """Nothing at all means no arguments; what JSON forbids is mended."""
    assert asked([part("x", text)], set())[0].arguments == arguments


@pytest.mark.parametrize("text", ["[]", "1", "{", '{"a":' * 300 + "1" + "}" * 300, "\ud800"])
def test_arguments_that_cannot_are_none(text: str) -> None:
    """Also those that are nested deeper than can be written again."""
    assert asked([part("x", text)], set())[0].arguments is None


# --- the border ---

HOSTILE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=4), v, max_size=3),
)


@given(HOSTILE)
def test_what_passes_the_border_can_be_encoded(value: Any) -> None:
    """Lone surrogates, NaN and huge integers, in keys too."""
    mended = json_border.loads(json.dumps(value))

    orjson.dumps(mended)
    assert orjson.loads(json_border.dumps(value)) == orjson.loads(orjson.dumps(json_border.clean(value)))


def test_good_json_passes_unchanged() -> None:
    """Mending is for what is broken."""
    value = {"a": [1, 2.5, None, True, "é😀"], "b": {"c": -(2**63)}}

    assert json_border.loads(orjson.dumps(value)) == value


def test_a_pair_of_surrogates_becomes_its_character() -> None:
    """As JSON escapes write them; a lone one becomes U+FFFD."""
    assert json_border.clean_text("\ud83d\ude00") == "😀"
    assert json_border.clean_text("a\ude00b") == "a\ufffdb"
    assert json_border.clean([math.nan, math.inf, 10**400]) == [None, None, None]


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 300 + "]" * 300 + "NaN", "", "x", b"\xff\xfe"])
def test_what_is_no_json_is_a_value_error(text: str | bytes) -> None:
    """Never a RecursionError."""
    with pytest.raises(ValueError):  # noqa: PT011 - any of its kinds
        json_border.loads(text)


def test_what_is_too_deep_to_write_is_a_value_error() -> None:
    """orjson's own limit, found before an event is lost to it."""
    value: Any = 1
    for _ in range(300):
        value = [value]
    with pytest.raises(ValueError, match="nested"):
        json_border.dumps(value)
    with pytest.raises(ValueError, match="not JSON"):
        json_border.dumps(object())
