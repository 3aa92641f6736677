"""Events: positions, their order and their reading; one encoding, fit for a stream (spec T1, T2, T9)."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields, is_dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatserver import events as ev
from chatserver.errors import InvalidRequest
from chatserver.events import END_OF_FENCE, START, Position, encode, encode_plain
from chatserver.message import Message, ToolCall, Usage

NUMBERS = st.integers(0, 10**19 - 1)


@settings(derandomize=True)
@given(NUMBERS, NUMBERS)
def test_a_position_is_read_as_it_is_written(fence: int, n: int) -> None:
    """Every one that a server can give out, and that Redis can hold as an id."""
    position = Position(fence, n)
    assert Position.parse(str(position)) == position


@settings(derandomize=True)
@given(st.tuples(NUMBERS, NUMBERS), st.tuples(NUMBERS, NUMBERS))
def test_positions_order_like_pairs(a: tuple[int, int], b: tuple[int, int]) -> None:
    """Not like text: 2-9 comes before 2-10, and 9-0 before 10-0."""
    assert (Position(*a) < Position(*b)) == (a < b)


def test_the_ends_of_a_session_bracket_every_event() -> None:
    """Before anything, and behind all of a fence."""
    assert START < Position(1, 0) < Position(1, END_OF_FENCE) < Position(2, 0)


@pytest.mark.parametrize(
    "text",
    [
        "", "-", "1", "1-", "-1", "1-2-3", "01-2", "1-02", "+1-2", "1--2", " 1-2", "1-2 ", "1-2\n", "1_0-2", "0x1-2",
        "1.0-2", "1e3-2", "\u0661-2", "\uff11-2", "a-b", "*", "$", "0-0\x00", "1-" + "9" * 20, "9" * 5000 + "-1",
        "\ud800-1",
    ],
    ids=lambda text: ascii(text)[:20],
)  # fmt: skip
def test_what_is_no_position_is_refused(text: str) -> None:
    """400 with its code; a long one is not repeated whole."""
    with pytest.raises(InvalidRequest) as refused:
        Position.parse(text)
    assert refused.value.narrow_code == "bad_event_id"
    assert len(refused.value.detail) < 1000


def test_a_frame_is_one_server_sent_event() -> None:
    """An id line, a data line, an empty line; `\\n` only; JSON without line ends of its own."""
    event = ev.TextDelta("s", "t", "m", "one\ntwo\r\n\u2028three \U0001f600")
    frame = encode(event, Position(3, 14))
    assert frame.position == Position(3, 14)
    assert b"\r" not in frame.data
    id_line, data_line, *rest = frame.data.decode().split("\n")
    assert (id_line, rest) == ("id: 3-14", ["", ""])
    assert json.loads(data_line.removeprefix("data: ")) == {
        "type": "text.delta",
        "session_id": "s",
        "turn_id": "t",
        "message_id": "m",
        "text": "one\ntwo\r\n\u2028three \U0001f600",
    }


def _example(cls: type) -> ev.Event:
    message = Message("m", None, "user", "x", "completed", None, "2026-01-01T00:00:00.000Z")
    values = {
        "session_id": "s",
        "turn_id": "t",
        "message_id": "m",
        "message": message,
        "text": "x",
        "place": 1,
        "call": ToolCall("c", "s", "n", {}),
        "call_id": "c",
        "progress": 0.5,
        "total": None,
        "result": None,
        "approval": None,
        "approval_id": "p",
        "decision": "approved",
        "outcome": "failed",
        "usage": Usage(1, 2),
        "error": {"code": "c", "title": "t"},
        "session": {"title": "x"},
    }
    event: ev.Event = cls(**{f.name: values[f.name] for f in fields(cls)})
    return event


@pytest.mark.parametrize("cls", ev.Event.__args__, ids=lambda cls: cls.type)
def test_every_event_names_its_type_and_its_session(cls: type) -> None:
    """`type` first, then the session; nothing of it is lost."""
    event = _example(cls)
    data = encode(event, Position(1, 0)).data.split(b"data: ")[1]
    shown = json.loads(data)
    assert list(shown)[:2] == ["type", "session_id"]
    assert shown["type"] == event.type
    told = {f.name for f in fields(cls) if getattr(event, f.name) is not None}  # type: ignore[arg-type]
    assert told <= shown.keys()


@pytest.mark.parametrize("cls", ev.Event.__args__, ids=lambda cls: cls.type)
def test_events_are_immutable(cls: type) -> None:
    """A fact does not change after it was told."""
    assert is_dataclass(cls)
    with pytest.raises(FrozenInstanceError):
        _example(cls).session_id = "other"  # type: ignore[misc]


def test_what_is_not_known_is_left_out() -> None:
    """Absent rather than null: usage, error, totals, the turn of a message outside turns."""
    message = Message("m", None, "system", "x", "completed", None, "2026-01-01T00:00:00.000Z")
    for event, absent in (
        (ev.TurnEnded("s", "t", "m", "completed"), {"usage", "error"}),
        (ev.ToolProgress("s", "t", "m", "c", 0.5), {"total", "text"}),
        (ev.MessageCreated("s", message), {"turn_id"}),
    ):
        assert not absent & ev.wire(event).keys()  # type: ignore[arg-type]


def test_the_short_way_of_a_delta_is_the_general_way() -> None:
    """It is spelled out for speed only."""
    event = ev.TextDelta("s", "t", "m", "x")
    general = encode_plain(ev.wire(event), Position(1, 2))
    assert encode(event, Position(1, 2)).data == general


def test_a_frame_outside_the_numbering_has_no_id() -> None:
    """A client must not take a ping for progress."""
    assert encode_plain({"type": "ping"}) == b'data: {"type":"ping"}\n\n'
    assert encode_plain({"type": "snapshot"}, Position(1, 2)) == b'id: 1-2\ndata: {"type":"snapshot"}\n\n'
