"""Everything that was ever seen of one session, by any client, and what must hold among it.

Evidence comes from streams (events in an order, snapshots) and from answers that carry a state. `problems()` walks it:
from each snapshot along the events that followed to the next, where both must agree (spec T4). What several clients saw
is merged, so an event that one of them missed shows as two successors of the same position.

Invariants checked as evidence comes in: same id, same bytes; one successor per position; one terminal event per turn,
and nothing of a turn after it. It opens no connections (checker.py) and applies no events itself (reducer.py).
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from tests.checker import reducer
from tests.checker.reducer import Json

# `n` of a session that was loaded from the store: no event of that fence can follow.
END_OF_FENCE = 2**32 - 1
TERMINAL = frozenset({"completed", "interrupted", "failed"})


class Position(NamedTuple):
    """An event id, ordered."""

    fence: int
    n: int

    def __str__(self) -> str:
        return f"{self.fence}-{self.n}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read `<fence>-<n>`; ValueError for anything else."""
        fence, dash, n = text.partition("-")
        if not (dash and fence.isascii() and fence.isdigit() and n.isascii() and n.isdigit()):
            raise ValueError(f"not an event id: {text!r}")
        return cls(int(fence), int(n))

    def may_precede(self, other: Position) -> bool:
        """Whether `other` can be the very next event after this one."""
        return other == (self.fence, self.n + 1) or (other.fence > self.fence and other.n == 0)


START = Position(0, 0)


class _Final(NamedTuple):
    position: Position
    message_id: str
    outcome: str


@dataclass(slots=True)
class StreamedAnswer:
    """An answer as it was streamed; `arrivals` are (time by `time.monotonic`, characters until then)."""

    text: str
    ended: bool = False
    arrivals: list[tuple[float, int]] = field(default_factory=list)

    def take(self, text: str, seen_at: float) -> None:
        """Add a delta."""
        self.text += text
        self.arrivals.append((seen_at, len(self.text)))

    def characters_at(self, moment: float) -> int:
        """How many characters had arrived by then."""
        return max((count for at, count in self.arrivals if at <= moment), default=0)


@dataclass(slots=True)
class Acknowledged:
    """A turn the server answered 2xx for, and the text it was given."""

    turn_id: str
    text: str
    message_id: str | None = None
    # Somebody asked for it to leave the queue unanswered, which takes its message along.
    may_be_withdrawn: bool = False


@dataclass(slots=True)
class History:
    """What was seen of the session `session_id`."""

    session_id: str
    frames: dict[Position, bytes] = field(default_factory=dict)
    seen_at: dict[Position, float] = field(default_factory=dict)
    successors: dict[Position, Position] = field(default_factory=dict)
    snapshots: dict[Position, Json] = field(default_factory=dict)
    acknowledged: dict[str, Acknowledged] = field(default_factory=dict)
    ended: dict[str, _Final] = field(default_factory=dict)
    started: dict[str, str] = field(default_factory=dict)  # turn id -> the answer's message id
    found: list[str] = field(default_factory=list)

    def saw_event(self, position: Position, raw: bytes, event: Json, previous: Position) -> None:
        """Take in one event and what stood before it in the stream it came from."""
        if not previous.may_precede(position):
            self.found.append(f"{position} follows {previous}")
        known = self.successors.setdefault(previous, position)
        if known != position:
            self.found.append(f"after {previous} one client got {known}, another {position}")
        seen = self.frames.get(position)
        if seen is not None:
            if seen != raw:
                self.found.append(f"{position} came with two contents:\n  {seen!r}\n  {raw!r}")
            return
        self.frames[position] = raw
        self.seen_at[position] = time.monotonic()
        turn_id, kind = event.get("turn_id"), event["type"]
        if kind == "turn.started":
            self.started[event["turn_id"]] = event["message_id"]
        if turn_id is None:
            return
        final = self.ended.get(turn_id)
        if kind == "turn.ended":
            if final is not None:
                self.found.append(f"{turn_id} ended at {final.position} and at {position}")
            self.ended[turn_id] = _Final(position, event["message_id"], event["outcome"])
        elif final is not None and position > final.position:
            self.found.append(f"{kind} of {turn_id} at {position}, after its end at {final.position}")

    def saw_state(self, state: Json, source: str) -> None:
        """Take in a whole state, from a snapshot or an answer."""
        state = {name: state[name] for name in reducer.STATE_FIELDS if name in state}
        if missing := reducer.STATE_FIELDS - state.keys():
            self.found.append(f"{source} lacks {sorted(missing)}")
            return
        if state["is_processing"] is not (state["active_turn_id"] is not None):
            self.found.append(f"{source} at {state['position']}: is_processing and active_turn_id disagree")
        running = sum(m["status"] == "streaming" for m in state["messages"])
        # Between `message.created` and `turn.started` there may be one that no turn owns yet.
        if running != int(state["is_processing"]) and not (running == 1 and _is_starting(state)):
            self.found.append(f"{source} at {state['position']}: {running} messages are streaming")
        position = Position.parse(state["position"])
        if position == START:
            # Nothing was ever written: whoever asked last made the session anew, with an expiry of its own.
            self.snapshots[START] = state
            return
        seen = self.snapshots.setdefault(position, state)
        if seen is not state and seen != state:
            self.found.append(f"two states at {position} ({source}): {difference(seen, state)}")

    def problems(self) -> list[str]:
        """Everything wrong with what was seen so far."""
        found = list(self.found)
        for before, after in self.successors.items():
            inside = Position(before.fence, before.n + 1)
            if after != inside and inside in self.frames:
                found.append(f"after {before} one client got {after}, while {inside} exists")
        found += self._walk()
        return found

    def _walk(self) -> list[str]:
        """Replay from snapshot to snapshot, as far as the events lead; each event is applied once."""
        found: list[str] = []
        reached: set[Position] = set()
        for start in sorted(self.snapshots):
            if start in reached:
                continue
            state, at, since = copy.deepcopy(self.snapshots[start]), start, start
            while (following := self._next(at)) is not None:
                event = orjson.loads(data_of(self.frames[following]))
                try:
                    reducer.apply(state, str(following), event)
                except (reducer.CannotApply, KeyError, TypeError) as error:
                    found.append(f"{following} {event.get('type')} cannot be applied: {error!r}")
                    break
                at = following
                snapshot = self.snapshots.get(at)
                if snapshot is None:
                    continue
                if state != snapshot:
                    found.append(f"snapshot {since} + events is not the state at {at}: {difference(state, snapshot)}")
                    break  # from that snapshot on, a walk of its own
                reached.add(at)
                since = at
        return found

    def _next(self, at: Position) -> Position | None:
        following = Position(at.fence, at.n + 1)
        if following in self.frames:
            return following
        following_fence = self.successors.get(at)
        return following_fence if following_fence in self.frames else None

    def answers(self) -> dict[str, StreamedAnswer]:
        """The answers whose streams were seen from their beginning without a gap, by message id."""
        found: dict[str, StreamedAnswer] = {}
        going: dict[str, StreamedAnswer] = {}
        previous: Position | None = None
        for position in sorted(self.frames):
            event = orjson.loads(data_of(self.frames[position]))
            if previous is not None and position != (previous.fence, previous.n + 1):
                # A turn keeps its fence. What runs across a gap was not seen whole; across a new fence, not ended.
                if position.fence == previous.fence:
                    for message_id in going:
                        del found[message_id]
                going.clear()
            previous = position
            match event["type"]:
                case "message.created" if event["message"]["status"] == "streaming":
                    message_id = event["message"]["id"]
                    found[message_id] = going[message_id] = StreamedAnswer(event["message"]["content"])
                case "message.updated" if event["message"]["id"] in going:
                    going[event["message"]["id"]].text = event["message"]["content"]
                case "text.delta" if event["message_id"] in going:
                    going[event["message_id"]].take(event["text"], self.seen_at[position])
                case "turn.ended" if event["message_id"] in going:
                    going.pop(event["message_id"]).ended = True
                case _:
                    pass
        return found

    def settled_problems(
        self, state: Json, messages: dict[str, Json] | None = None, has_more: bool | None = None
    ) -> list[str]:
        """What is wrong when `state`, fetched after everything ended, is all there is.

        Every acknowledged turn has its message and one terminal state, and stored text is what was streamed.

        Args:
            messages: of all branches, by id; those of the state where None.
            has_more: whether there are older ones; what the state says where None.
        """
        has_more = state["has_more"] if has_more is None else has_more
        found: list[str] = []
        if state["is_processing"] or state["queue"]:
            found.append(f"not settled: {state['active_turn_id']} runs, {len(state['queue'])} wait")
        messages = {m["id"]: m for m in state["messages"]} if messages is None else messages
        for message_id, answer in self.answers().items():
            stored = messages.get(message_id)
            if stored is None:
                if not has_more:
                    found.append(f"answer {message_id} was streamed and is not stored")
                continue
            text, kept = answer.text, stored["content"]
            # Of an answer that a crash cut, a client may have seen less than was kept, or more; never something else.
            same = text == kept if answer.ended else text.startswith(kept) or kept.startswith(text)
            if not same:
                found.append(f"answer {message_id}: streamed {text[-80:]!r}, stored {kept[-80:]!r}")
        for turn in self.acknowledged.values():
            found += self._fate(turn, messages, has_more=has_more)
        return found

    def _fate(self, turn: Acknowledged, messages: dict[str, Json], *, has_more: bool) -> list[str]:
        asked = messages.get(turn.message_id or "") or next(
            (m for m in reversed(messages.values()) if m["role"] == "user" and m["content"] == turn.text), None
        )
        final = self.ended.get(turn.turn_id)
        if asked is None:
            withdrawn = turn.may_be_withdrawn or (final is not None and turn.turn_id not in self.started)
            if has_more or (withdrawn and (final is None or final.outcome == "interrupted")):
                return []
            return [f"{turn.turn_id}: the acknowledged message {turn.text[:60]!r} is lost"]
        if asked["content"] != turn.text:
            return [f"{turn.turn_id}: {turn.text[:60]!r} was acknowledged, {asked['content'][:60]!r} is stored"]
        answer_id = self.started.get(turn.turn_id) or (final.message_id if final else None)
        answers = [m for m in messages.values() if m["role"] == "assistant" and m["parent_id"] == asked["id"]]
        if final is not None and final.message_id == asked["id"]:
            return []  # taken back; the message was there before
        if len(answers) != max(1, *(len(m.get("siblings", ())) for m in answers), 0):
            return [f"{turn.turn_id}: {len(answers)} answers to {asked['id']}"]
        if answer_id is not None:
            answers = [m for m in answers if m["id"] == answer_id]
            if not answers:
                return [f"{turn.turn_id}: its answer {answer_id} is not one to {asked['id']}"]
        if answers[0]["status"] not in TERMINAL:
            return [f"{turn.turn_id}: its answer is still {answers[0]['status']}"]
        if final is not None and final.outcome != answers[0]["status"]:
            return [f"{turn.turn_id}: ended {final.outcome}, stored {answers[0]['status']}"]
        return []


def _is_starting(state: Json) -> bool:
    newest = state["messages"][-1]
    return newest["status"] == "streaming" and not newest["content"]


def data_of(raw: bytes) -> str:
    """The JSON inside the bytes of an event."""
    for line in raw.decode().split("\n"):
        if line.startswith("data: "):
            return line[6:]
    raise ValueError(f"no data in {raw!r}")


def difference(one: Any, other: Any, path: str = "") -> str:
    """Where two JSON values part, in one line."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            if one.get(key) != other.get(key) or (key in one) != (key in other):
                return difference(one.get(key), other.get(key), f"{path}.{key}")
    if isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            return f"{path}: {len(one)} items, {len(other)} items"
        for at, (a, b) in enumerate(zip(one, other, strict=True)):
            if a != b:
                return difference(a, b, f"{path}[{at}]")
    return f"{path}: {str(one)[-120:]!r} and {str(other)[-120:]!r}"
