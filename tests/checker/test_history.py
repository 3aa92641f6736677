"""A checker is worth what it catches: each promise, broken once."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from tests.checker.history import END_OF_FENCE, Acknowledged, History, Position
from tests.checker.reducer import Json

P = Position
START = P(0, 0)
EMPTY: Json = {
    "session_id": "s",
    "position": "0-0",
    "project_id": "default",
    "title": "New Chat",
    "model": None,
    "messages": [],
    "has_more": False,
    "is_processing": False,
    "active_turn_id": None,
    "is_connecting_mcp": False,
    "missing_api_key": False,
    "queue": [],
    "pending_approvals": [],
    "message_count": 0,
    "expires_at": None,
}


def message(message_id: str, role: str = "user", content: str = "hi", status: str = "completed", **more: Any) -> Json:
    """A message as the wire has it."""
    return {
        "id": message_id,
        "parent_id": None,
        "role": role,
        "content": content,
        "status": status,
        "model": None,
        "created_at": "2026-01-01T00:00:00.000Z",
        "reasoning": "",
        "tool_calls": [],
        "usage": None,
        "metadata": {},
        **more,
    }


def turn(fence: int = 1, text: str = "hello") -> list[tuple[Position, Json]]:
    """The events of one turn, numbered."""
    ids = {"turn_id": f"t{fence}", "message_id": f"a{fence}"}
    events: list[Json] = [
        {"type": "message.created", "message": message(f"u{fence}")},
        {
            "type": "message.created",
            "message": message(f"a{fence}", "assistant", "", "streaming", parent_id=f"u{fence}"),
        },
        {"type": "turn.started", **ids},
        *({"type": "text.delta", **ids, "text": letter} for letter in text),
        {"type": "turn.ended", **ids, "outcome": "completed"},
    ]
    return [(P(fence, n), {"session_id": "s", **event}) for n, event in enumerate(events)]


def raw(position: Position, event: Json) -> bytes:
    """An event's bytes."""
    return f"id: {position}\ndata: {json.dumps(event)}\n\n".encode()


def feed(history: History, events: list[tuple[Position, Json]], before: Position = START) -> None:
    """Show events to a history as one stream would."""
    for position, event in events:
        history.saw_event(position, raw(position, event), event, before)
        before = position


def after(events: list[tuple[Position, Json]]) -> Json:
    """The state an honest server would show after the events of turn 1."""
    text = "".join(e["text"] for _, e in events if e["type"] == "text.delta")
    ended = events[-1][1]["type"] == "turn.ended"
    answer = message("a1", "assistant", text, "completed" if ended else "streaming", parent_id="u1")
    return {
        **copy.deepcopy(EMPTY),
        "position": str(events[-1][0]),
        "messages": [message("u1"), answer],
        "is_processing": not ended,
        "active_turn_id": None if ended else "t1",
    }


def honest(cut: int | None = None) -> History:
    """A history of one turn as it should be."""
    history = History("s")
    history.saw_state(copy.deepcopy(EMPTY), "first")
    events = turn()[:cut]
    feed(history, events)
    history.saw_state(after(events), "last")
    return history


@pytest.mark.parametrize("cut", [3, 4, 6, None])
def test_an_honest_history_has_no_problems(cut: int | None) -> None:
    """Snapshot, events, snapshot: in the middle of an answer and at its end."""
    assert honest(cut).problems() == []


def test_a_snapshot_that_the_events_do_not_give_is_found() -> None:
    """One letter of the answer differs."""
    history = History("s")
    history.saw_state(copy.deepcopy(EMPTY), "first")
    events = turn()
    feed(history, events)
    wrong = after(events)
    wrong["messages"][1]["content"] = "hellO"
    history.saw_state(wrong, "last")
    assert "snapshot 0-0 + events is not the state at 1-8" in "".join(history.problems())


def test_two_states_at_one_position_are_found() -> None:
    """Something changed without an event."""
    history = honest()
    changed = after(turn())
    changed["title"] = "Changed silently"
    history.saw_state(changed, "again")
    assert ".title" in "".join(history.problems())


def test_a_missed_event_is_found_within_a_fence() -> None:
    """Numbers are consecutive."""
    history = History("s")
    events = turn()
    feed(history, events[:4] + events[5:])
    assert "1-5 follows 1-3" in "".join(history.problems())


def test_a_missed_event_before_a_new_fence_is_found_by_what_another_client_saw() -> None:
    """One stream jumped to the next turn without the first one's end."""
    history = History("s")
    feed(history, turn(1) + turn(2))
    feed(history, turn(1)[:-1] + turn(2))
    problems = "".join(history.problems())
    assert "after 1-7 one client got 1-8, another 2-0" in problems


def test_a_fence_that_starts_late_or_goes_back_is_found() -> None:
    """A new fence starts at 0 and is larger."""
    late, back = History("s"), History("s")
    feed(late, turn(1) + turn(2)[1:])
    feed(back, turn(2) + turn(1))
    assert "2-1 follows 1-8" in "".join(late.problems())
    assert "1-0 follows 2-8" in "".join(back.problems())


def test_other_bytes_under_the_same_id_are_found() -> None:
    """A replay is the same bytes."""
    history = honest()
    feed(history, turn(text="hallo"))
    assert "1-4 came with two contents" in "".join(history.problems())


def test_a_second_end_and_events_after_the_end_are_found() -> None:
    """Exactly one terminal event, and nothing of the turn behind it."""
    events = turn()
    again = [*events, (P(1, 9), events[3][1]), (P(1, 10), events[-1][1])]
    history = History("s")
    feed(history, again)
    problems = "".join(history.problems())
    assert "text.delta of t1 at 1-9, after its end at 1-8" in problems
    assert "t1 ended at 1-8 and at 1-10" in problems


def test_an_event_that_does_not_fit_the_state_is_found() -> None:
    """A delta of a message that was never created."""
    history = History("s")
    history.saw_state(copy.deepcopy(EMPTY), "first")
    feed(history, [(P(1, n), event) for n, (_, event) in enumerate(turn()[3:])])
    assert "cannot be applied" in "".join(history.problems())


def test_nothing_follows_in_a_fence_that_was_loaded_from_the_store() -> None:
    """After a reload the next event has a fence of its own."""
    history = History("s")
    history.saw_state({**EMPTY, "position": f"1-{END_OF_FENCE}"}, "reloaded")
    feed(history, turn(2), P(1, END_OF_FENCE))
    assert history.problems() == []


def test_a_lost_message_and_an_unfinished_answer_are_found() -> None:
    """What was acknowledged is there, with one terminal state."""
    history = honest()
    history.acknowledged["t1"] = Acknowledged("t1", "hi", "u1")
    history.acknowledged["t2"] = Acknowledged("t2", "never stored")
    state = after(turn())
    assert history.settled_problems(state) == ["t2: the acknowledged message 'never stored' is lost"]
    state["messages"][1]["status"] = "streaming"
    assert "t1: its answer is still streaming" in history.settled_problems(state)


def test_a_stored_text_that_was_not_streamed_is_found() -> None:
    """What the tabs saw is what is kept."""
    history = honest()
    state = after(turn())
    state["messages"][1]["content"] = "hell"
    assert "answer a1: streamed 'hello', stored 'hell'" in history.settled_problems(state)


def test_a_withdrawn_message_is_not_lost() -> None:
    """A queued message whose turn ended before it started went with it."""
    history = honest()
    history.acknowledged["t2"] = Acknowledged("t2", "later")
    queued = {"type": "turn.queued", "session_id": "s", "turn_id": "t2", "message_id": "u2", "place": 1}
    ended = {"type": "turn.ended", "session_id": "s", "turn_id": "t2", "message_id": "u2", "outcome": "interrupted"}
    events = [(P(2, 0), {**queued, "message": message("u2", content="later")}), (P(3, 0), ended)]
    feed(history, events, P(1, 8))
    assert history.problems() == []
    assert history.settled_problems(after(turn())) == []
