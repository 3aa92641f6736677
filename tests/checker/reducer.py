"""A second reading of spec T9: what each event does to the state, over plain JSON values.

Written from the specification's event table only; the server's state.py and the page's reducer.ts are the other two
readings, and all three read tests/contract/. An event that cannot apply (a delta of a message that is not there, a type
that does not exist) raises `CannotApply`: a stream must never send one.
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

# Spec §3: `messages` holds the newest 200 of the active branch.
WINDOW = 200

STATE_FIELDS = frozenset(
    {
        "session_id",
        "position",
        "project_id",
        "title",
        "model",
        "messages",
        "has_more",
        "is_processing",
        "active_turn_id",
        "is_connecting_mcp",
        "missing_api_key",
        "queue",
        "pending_approvals",
        "message_count",
        "expires_at",
    }
)
# `session.updated` tells the changed fields of the record; these of them stand in the state.
_RECORD_FIELDS = frozenset(
    {"project_id", "title", "model", "expires_at", "message_count", "is_connecting_mcp", "missing_api_key"}
)
_OUTCOMES = frozenset({"completed", "interrupted", "failed"})
_DECISIONS = frozenset({"approved", "denied", "expired"})


class CannotApply(AssertionError):
    """The event does not fit the state it was sent for."""


def apply(state: Json, position: str, event: Json) -> None:
    """Change `state` as `event`, numbered `position`, says."""
    kind = event["type"]
    match kind:
        case "message.created":
            _created(state, event["message"])
        case "message.updated":
            at = _index(state, event["message"]["id"])
            if at is not None:
                state["messages"][at] = event["message"]
        case "text.delta":
            _running(state, event)["content"] += event["text"]
        case "reasoning.delta":
            _running(state, event)["reasoning"] += event["text"]
        case "tool.called":
            _running(state, event)["tool_calls"].append(dict(event["call"]))
        case "tool.progress":
            _call(state, event)
        case "tool.returned":
            _call(state, event)["result"] = event["result"]
        case "turn.queued":
            entry = {name: event[name] for name in ("turn_id", "message_id", "place", "message")}
            place = event["place"]
            if not 1 <= place <= len(state["queue"]) + 1:
                raise CannotApply(f"place {place} in a queue of {len(state['queue'])}")
            state["queue"].insert(place - 1, entry)
            _renumber(state)
        case "turn.started":
            if state["is_processing"]:
                raise CannotApply(f"{event['turn_id']} starts while {state['active_turn_id']} runs")
            state["is_processing"], state["active_turn_id"] = True, event["turn_id"]
            _leave_queue(state, event["turn_id"])
        case "turn.ended":
            _ended(state, event)
        case "approval.requested":
            state["pending_approvals"].append(event["approval"])
        case "approval.resolved":
            if event["decision"] not in _DECISIONS:
                raise CannotApply(f"decision {event['decision']!r}")
            left = [a for a in state["pending_approvals"] if a["id"] != event["approval_id"]]
            if len(left) == len(state["pending_approvals"]):
                raise CannotApply(f"approval {event['approval_id']} was never asked for")
            state["pending_approvals"] = left
        case "session.updated":
            state.update({k: v for k, v in event["session"].items() if k in _RECORD_FIELDS})
        case "session.deleted":
            pass
        case _:
            raise CannotApply(f"unknown event type {kind!r}")
    state["position"] = position


def _created(state: Json, message: Json) -> None:
    if _index(state, message["id"]) is not None:
        raise CannotApply(f"message {message['id']} is created twice")
    state["messages"].append(message)
    if len(state["messages"]) > WINDOW:
        del state["messages"][0]
        state["has_more"] = True


def _ended(state: Json, event: Json) -> None:
    if event["outcome"] not in _OUTCOMES:
        raise CannotApply(f"outcome {event['outcome']!r}")
    running = state["active_turn_id"] == event["turn_id"]
    if not running and not _leave_queue(state, event["turn_id"]):
        raise CannotApply(f"{event['turn_id']} ends, which neither runs nor waits")
    if not running:
        return
    message = _find(state, event)
    message["status"], message["usage"] = event["outcome"], event.get("usage")
    state["is_processing"], state["active_turn_id"] = False, None


def _index(state: Json, message_id: str) -> int | None:
    for at in range(len(state["messages"]) - 1, -1, -1):
        if state["messages"][at]["id"] == message_id:
            return at
    return None


def _find(state: Json, event: Json) -> Json:
    at = _index(state, event["message_id"])
    if at is None:
        if state["has_more"]:  # pushed out of the window while it ran: what happens to it now nobody sees
            return {"status": "streaming", "content": "", "reasoning": "", "tool_calls": []}
        raise CannotApply(f"{event['type']} of message {event['message_id']}, which is not there")
    message: Json = state["messages"][at]
    return message


def _running(state: Json, event: Json) -> Json:
    message = _find(state, event)
    if message["status"] != "streaming":
        raise CannotApply(f"{event['type']} of a message that is {message['status']}")
    return message


def _call(state: Json, event: Json) -> Json:
    message = _running(state, event)
    for call in message["tool_calls"]:
        if call["id"] == event["call_id"]:
            found: Json = call
            return found
    if "id" not in message:
        return {}
    raise CannotApply(f"{event['type']} of call {event['call_id']}, which was never made")


def _leave_queue(state: Json, turn_id: str) -> bool:
    left = [entry for entry in state["queue"] if entry["turn_id"] != turn_id]
    found = len(left) < len(state["queue"])
    state["queue"] = left
    _renumber(state)
    return found


def _renumber(state: Json) -> None:
    # Copies: an entry may be shared with the event it came from, and events are evidence.
    state["queue"] = [{**entry, "place": at} for at, entry in enumerate(state["queue"], 1)]
