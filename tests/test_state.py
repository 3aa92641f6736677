"""ChatState: what each event does to a session's state, and that all readers of a stream do the same (spec T4, T9)."""

from __future__ import annotations

import copy
import json
import random
from dataclasses import fields
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatserver import events as ev
from chatserver.events import Position
from chatserver.message import Message, ToolCall, ToolResult, Usage, memory_of
from chatserver.state import WINDOW_MESSAGES, ChatState
from tests.checker import reducer
from tests.contract_vectors import FOLDER, SID, VECTORS, as_json, message, new_state, rendered
from tests.contract_walks import Walk
from tests.streams.live import Script, live_session

FILES = sorted(FOLDER.glob("*.json"))


def read(path: Path) -> dict[str, Any]:
    vector: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return vector


# --- the vectors ---


def test_the_committed_vectors_are_what_the_state_gives() -> None:
    """A change of the protocol shows in them: write them anew with `python -m tests.contract_vectors`."""
    assert [path.stem for path in FILES] == sorted(VECTORS)
    for name, write in VECTORS.items():
        assert (FOLDER / f"{name}.json").read_text(encoding="utf-8") == rendered(write().vector()), name


def test_the_vectors_show_every_event_and_every_field_of_the_state() -> None:
    """What they leave out, two readings could differ in."""
    shown = {step["event"]["type"] for path in FILES for step in read(path)["steps"]}
    assert shown == {cls.type for cls in ev.Event.__args__} | {"snapshot"}
    for path in FILES:
        vector = read(path)
        for state in (vector["initial"], *(step["state"] for step in vector["steps"])):
            assert state.keys() == reducer.STATE_FIELDS
    optional = {"usage", "error", "total", "text", "turn_id"}
    seen: dict[str, set[str]] = {}
    for path in FILES:
        for step in read(path)["steps"]:
            seen.setdefault(step["event"]["type"], set()).update(step["event"])
    for cls in ev.Event.__args__:
        names = {f.name for f in fields(cls)}
        assert names <= seen[cls.type], f"{cls.type}: {names - seen[cls.type]} never shown"
        assert seen[cls.type] - names <= {"type"} | optional


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_checkers_reducer_gives_the_states_of_the_vectors(path: Path) -> None:
    """It was written from the specification alone; the page's reads the same files in its own tests."""
    vector = read(path)
    state = vector["initial"]
    for step in vector["steps"]:
        if step["event"]["type"] == "snapshot":
            state = copy.deepcopy(step["event"]["state"])
        else:
            reducer.apply(state, step["id"], copy.deepcopy(step["event"]))
        assert state == step["state"], step["id"]


def test_the_checkers_reducer_gives_the_states_of_random_lives() -> None:
    """Every kind of event among them; the page's gets them in its own tests, through connections that break."""
    shown = set()
    for seed in range(100):
        walked = Walk(seed).run()
        assert walked.state.memory_bytes == memory_of(walked.state.messages)
        vector = json.loads(orjson.dumps(walked.vector()))
        state = vector["initial"]
        for step in vector["steps"]:
            shown.add(step["event"]["type"])
            if step["event"]["type"] == "snapshot":
                state = copy.deepcopy(step["event"]["state"])
            else:
                reducer.apply(state, step["id"], copy.deepcopy(step["event"]))
            assert state == step["state"], (vector["name"], step["id"])
    assert shown == {cls.type for cls in ev.Event.__args__} | {"snapshot"}


# --- one event ---


def running(content: str = "") -> ChatState:
    """A session whose first turn runs."""
    state = new_state()
    state.apply(ev.MessageCreated(SID, message("u1", "user", "hi"), "t1"), Position(1, 0))
    state.apply(ev.MessageCreated(SID, message("a1", "assistant", status="streaming"), "t1"), Position(1, 1))
    state.apply(ev.TurnStarted(SID, "t1", "a1"), Position(1, 2))
    if content:
        state.apply(ev.TextDelta(SID, "t1", "a1", content), Position(1, 3))
    return state


def test_every_event_moves_the_position() -> None:
    """Also those that change nothing else."""
    state = running()
    at = 3
    for event in (
        ev.TextDelta(SID, "t1", "no-such-message", "x"),
        ev.ToolProgress(SID, "t1", "a1", "c", 0.1),
        ev.MessageUpdated(SID, message("no-such", "user")),
        ev.SessionUpdated(SID, {}),
        ev.SessionDeleted(SID),
    ):
        before = as_json(state)
        state.apply(event, Position(1, at))
        assert state.position == Position(1, at)
        assert {**as_json(state), "position": ""} == {**before, "position": ""}
        at += 1


def test_applying_changes_neither_events_nor_the_messages_in_them() -> None:
    """They are shared with the log, the store and other readers."""
    first = message("a1", "assistant", status="streaming", tool_calls=(ToolCall("c0", "s", "n", {}),))
    state = new_state()
    state.apply(ev.MessageCreated(SID, first), Position(1, 0))
    state.apply(ev.TurnStarted(SID, "t1", "a1"), Position(1, 1))
    before = orjson.dumps(first)
    state.apply(ev.TextDelta(SID, "t1", "a1", "x"), Position(1, 2))
    state.apply(ev.ToolCalled(SID, "t1", "a1", ToolCall("c1", "s", "n", {})), Position(1, 3))
    state.apply(ev.ToolReturned(SID, "t1", "a1", "c0", ToolResult("r", False)), Position(1, 4))
    state.apply(ev.TurnEnded(SID, "t1", "a1", "completed", Usage(1, 1)), Position(1, 5))
    assert orjson.dumps(first) == before


def test_what_was_read_does_not_change_later() -> None:
    """An answer, a list of messages or a snapshot that somebody holds stays what it was."""
    state = running("one ")
    answer, messages, frame = state.message("a1"), state.current_messages(), state.snapshot_frame()
    shown = copy.deepcopy((answer, messages, frame))
    state.apply(ev.TextDelta(SID, "t1", "a1", "two"), Position(1, 4))
    state.apply(ev.ToolCalled(SID, "t1", "a1", ToolCall("c1", "s", "n", {})), Position(1, 5))
    state.apply(ev.MessageCreated(SID, message("m", "system", "x")), Position(1, 6))
    state.apply(ev.TurnEnded(SID, "t1", "a1", "completed"), Position(1, 7))
    assert (answer, messages, frame) == shown


def test_reading_between_deltas_changes_nothing() -> None:
    """A hundred tabs that ask for the state cost time, not text."""
    read_often, read_once = running(), running()
    for n in range(50):
        for state in (read_often, read_once):
            state.apply(ev.TextDelta(SID, "t1", "a1", f"{n} \U0001f600 "), Position(1, 3 + n))
            state.apply(ev.ReasoningDelta(SID, "t1", "a1", f"{n}"), Position(1, 3 + n))
        read_often.snapshot_frame()
        read_often.message("a1")
    assert read_often.snapshot_frame() == read_once.snapshot_frame()
    assert read_once.answer_characters == len("".join(f"{n} \U0001f600 " for n in range(50)))


def test_a_delta_touches_neither_the_history_nor_the_text_before_it() -> None:
    """Its cost is the same however long both are."""

    class Untouchable(list[Any]):
        def __iter__(self) -> Any:
            raise AssertionError("the history was walked")

        __getitem__ = __len__ = __contains__ = __reversed__ = __iter__  # type: ignore[assignment]

    state = running()
    state.messages = Untouchable()
    for n in range(100):
        state.apply(ev.TextDelta(SID, "t1", "a1", "x"), Position(1, 3 + n))
        state.apply(ev.ReasoningDelta(SID, "t1", "a1", "y"), Position(1, 3 + n))
    assert state._answer is not None
    assert state._answer.text == ["x"] * 100


def test_a_late_delta_of_an_answer_that_ended_changes_nothing() -> None:
    """And so does one of an answer that never was."""
    state = running("text")
    state.apply(ev.TurnEnded(SID, "t1", "a1", "interrupted"), Position(1, 4))
    before = as_json(state)["messages"]
    for event in (
        ev.TextDelta(SID, "t1", "a1", "late"),
        ev.ReasoningDelta(SID, "t1", "a1", "late"),
        ev.ToolCalled(SID, "t1", "a1", ToolCall("c", "s", "n", {})),
        ev.ToolReturned(SID, "t1", "a1", "c", ToolResult("r", False)),
        ev.TextDelta(SID, "t9", "a9", "never"),
    ):
        state.apply(event, Position(1, 5))
    assert as_json(state)["messages"] == before


def test_the_end_of_a_queued_turn_leaves_the_running_one_running() -> None:
    """A withdrawal names the user's message, which has no outcome."""
    state = running()
    state.apply(ev.TurnQueued(SID, "t2", "u2", 1, message("u2", "user", "later")), Position(1, 3))
    state.apply(ev.TurnEnded(SID, "t2", "u2", "interrupted"), Position(1, 4))
    assert state.active_turn_id == "t1"
    assert state.queue == ()
    assert state.messages[0].status == "completed"


def test_the_minimal_answer_leaves_the_messages_out_and_nothing_else() -> None:
    """`Prefer: return=minimal`."""
    state = running("text")
    whole, minimal = state.wire(), state.wire(with_messages=False)
    assert whole.keys() - minimal.keys() == {"messages", "has_more"}
    assert {k: v for k, v in whole.items() if k in minimal} == minimal


def test_the_window_slides_and_says_that_there_is_more() -> None:
    """Exactly at the two hundred and first message."""
    state = new_state()
    for n in range(WINDOW_MESSAGES):
        state.apply(ev.MessageCreated(SID, message(f"m{n}", "system")), Position(1, n))
    assert (len(state.messages), state.has_more) == (WINDOW_MESSAGES, False)
    state.apply(ev.MessageCreated(SID, message("last", "system")), Position(1, 200))
    assert (len(state.messages), state.has_more) == (WINDOW_MESSAGES, True)
    assert (state.messages[0].id, state.leaf_id()) == ("m1", "last")


def test_an_answer_that_left_the_window_is_whole_when_it_ends() -> None:
    """Its text is what TurnRunner commits, seen or not."""
    state = running("begin ")
    for n in range(WINDOW_MESSAGES):
        state.apply(ev.MessageCreated(SID, message(f"m{n}", "system")), Position(1, 10 + n))
    state.apply(ev.TextDelta(SID, "t1", "a1", "end"), Position(1, 500))
    answer = state.message("a1")
    assert answer is not None
    assert answer.content == "begin end"
    state.apply(ev.TurnEnded(SID, "t1", "a1", "completed"), Position(1, 501))
    assert not state.is_processing
    assert state.message("a1") is None


# --- any sequence ---


@settings(max_examples=100, derandomize=True)
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 120))
def test_a_snapshot_at_any_cut_and_the_rest_give_the_whole(seed: int, steps: int) -> None:
    """Through the bytes as they go out, with the reducer of another author (spec T4)."""
    live = live_session()
    script = Script(live, random.Random(seed).randrange, lambda: "w\u00f6rd ")
    cuts = [(live.position, as_json(live.state))]
    for n in range(steps):
        script.step()
        if (seed + n) % 9 == 0:
            cuts.append((live.position, as_json(live.state)))
    whole = as_json(live.state)
    for position, state in cuts:
        frames = live.frames_after(position)
        assert frames is not None
        for frame in frames:
            number, data = frame.decode().split("\n")[:2]
            reducer.apply(state, number.removeprefix("id: "), json.loads(data.removeprefix("data: ")))
        assert state == whole


def test_a_message_is_encoded_alike_alone_in_an_event_and_in_a_state() -> None:
    """Clients compare them; the order of fields is the wire format."""
    full = Message(
        "id", "parent", "assistant", "text", "completed", "m", "2026-01-02T03:04:05.678Z", "why",
        (ToolCall("c", "s", "n", {"a": 1}, 2, ToolResult("r", True)),), Usage(1, 2, 3, 4, True), {"k": [1]},
        ("other", "id"),
    )  # fmt: skip
    alone = orjson.dumps(full)
    frame = ev.encode(ev.MessageCreated(SID, full), Position(1, 0)).data
    state = new_state(messages=[full])
    assert alone in frame
    assert alone in state.snapshot_frame()
    assert json.loads(alone) == {
        "id": "id",
        "parent_id": "parent",
        "role": "assistant",
        "content": "text",
        "status": "completed",
        "model": "m",
        "created_at": "2026-01-02T03:04:05.678Z",
        "reasoning": "why",
        "tool_calls": [
            {
                "id": "c",
                "server": "s",
                "name": "n",
                "arguments": {"a": 1},
                "offset": 2,
                "result": {"content": "r", "is_error": True},
            }
        ],
        "usage": {
            "prompt_tokens": 1,
            "completion_tokens": 2,
            "reasoning_tokens": 3,
            "cached_tokens": 4,
            "estimated": True,
        },
        "metadata": {"k": [1]},
        "siblings": ["other", "id"],
    }
