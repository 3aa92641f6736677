"""Random lives of a session, each event with the state that chatserver's own `ChatState` has after it.

`python -m tests.contract_walks --seed N --count M` prints them as JSON, in the form of the vectors of tests/contract/.
The page's tests ask for some (web/src/lib/__tests__/server.ts) and send them through connections that break: what comes
out is held to what the server itself says, for every kind of event.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from dataclasses import replace

from chatserver import events as ev
from chatserver.message import Approval, Decision, Message, Outcome, ToolCall, ToolResult, TurnError, Usage
from tests.contract_vectors import CREATED, EXPIRES, LATER, SID, Writer, message, new_state

# What a word is, for code that counts in bytes, UTF-16 units or code points.
PIECES = (
    "word ",
    "\U0001f552",
    "\u00e9",
    "e\u0301",
    "\n",
    "\u2028",
    '"\\',
    "<b>",
    "\u0645\u0631\u062d\u0628\u0627",
    "\x00",
    "```\n",
)
STEPS = 30


class Walk:
    """One life: at every step something that can happen then."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.writer = Writer(f"walk {seed}", new_state())
        self.last = 0
        self.turn: str | None = None
        self.answer = ""
        self.open_calls: list[str] = []

    def new(self, kind: str) -> str:
        self.last += 1
        return f"{kind}{self.last}"

    def text(self) -> str:
        return "".join(self.chance.choices(PIECES, k=self.chance.randint(1, 4)))

    def run(self) -> Writer:
        """All of it; it ends with no turn running."""
        for _ in range(STEPS):
            always = (self.note, self.change, self.withdraw)
            idle = (self.begin, self.begin, self.rate, self.branch, self.reload)
            talk = (self.say, self.say, self.say, self.reason, self.queue, self.end)
            tools = (self.call, self.give_back, self.ask, self.ask, self.decide)
            self.chance.choice((*always, *(idle if self.turn is None else (*talk, *tools))))()
        if self.turn is not None:
            self.end()
        if self.chance.random() < 0.2:
            self.writer.tell(ev.SessionDeleted(SID), new_fence=True)
        return self.writer

    # --- a turn ---

    def begin(self) -> None:
        waiting = self.writer.state.queue
        user = waiting[0].message if waiting else message(self.new("u"), "user", self.text())
        self.turn = waiting[0].turn_id if waiting else self.new("t")
        self.answer = self.writer.start(self.turn, user, self.new("a"), self.writer.state.message_count + 2)
        self.open_calls = []

    def say(self) -> None:
        assert self.turn is not None
        self.writer.tell(ev.TextDelta(SID, self.turn, self.answer, self.text()))

    def reason(self) -> None:
        assert self.turn is not None
        self.writer.tell(ev.ReasoningDelta(SID, self.turn, self.answer, self.text()))

    def call(self) -> None:
        assert self.turn is not None
        self.open_calls.append(self.new("c"))
        call = ToolCall(
            self.open_calls[-1], "files", self.text(), {"of": [None, 1.5, self.text()]}, self.chance.randint(0, 9)
        )
        self.writer.tell(ev.ToolCalled(SID, self.turn, self.answer, call))

    def give_back(self) -> None:
        assert self.turn is not None
        if not self.open_calls:
            return
        called = self.chance.choice(self.open_calls)
        if self.chance.random() < 0.4:
            self.writer.tell(ev.ToolProgress(SID, self.turn, self.answer, called, 0.5, self.chance.choice((None, 2.0))))
            return
        self.open_calls.remove(called)
        result = ToolResult(self.text(), self.chance.random() < 0.3)
        self.writer.tell(ev.ToolReturned(SID, self.turn, self.answer, called, result))

    def ask(self) -> None:
        assert self.turn is not None
        if self.open_calls:
            called = self.chance.choice(self.open_calls)
            approval = Approval(self.new("p"), self.answer, called, "files", "remove", {"path": self.text()}, EXPIRES)
            self.writer.tell(ev.ApprovalRequested(SID, self.turn, approval))

    def decide(self) -> None:
        assert self.turn is not None
        if pending := self.writer.state.pending_approvals:
            decision: Decision = self.chance.choice(("approved", "denied", "expired"))
            self.writer.tell(ev.ApprovalResolved(SID, self.turn, self.chance.choice(pending).id, decision))

    def end(self) -> None:
        assert self.turn is not None
        for approval in self.writer.state.pending_approvals:
            self.writer.tell(ev.ApprovalResolved(SID, self.turn, approval.id, "expired"))
        outcome: Outcome = self.chance.choice(("completed", "completed", "interrupted", "failed"))
        usage = self.chance.choice((None, Usage(3, self.last, 1, 0, True)))
        error: TurnError | None = None
        answer = self.writer.state.message(self.answer)
        if outcome == "failed" and answer is not None:
            error = {"code": "agent_error", "title": self.text()}
            self.writer.tell(ev.MessageUpdated(SID, replace(answer, metadata={"error": error}), self.turn))
        self.writer.tell(ev.TurnEnded(SID, self.turn, self.answer, outcome, usage, error))
        self.turn = None

    # --- beside turns ---

    def queue(self) -> None:
        place = self.chance.randint(1, len(self.writer.state.queue) + 1)
        user = message(self.new("u"), "user", self.text())
        self.writer.tell(ev.TurnQueued(SID, self.new("t"), user.id, place, user))

    def withdraw(self) -> None:
        if waiting := self.writer.state.queue:
            turn = self.chance.choice(waiting)
            ended = ev.TurnEnded(SID, turn.turn_id, turn.message_id, "interrupted")
            self.writer.tell(ended, new_fence=self.turn is None)

    def note(self) -> None:
        parent = self.writer.state.leaf_id()
        added = ev.MessageCreated(SID, message(self.new("m"), "system", self.text(), parent_id=parent))
        self.writer.tell(added, new_fence=self.turn is None)

    def change(self) -> None:
        changes = self.chance.choice(
            (
                {"title": self.text()},
                {"model": "tiny", "missing_api_key": True},
                {"model": None, "missing_api_key": False},
                {"expires_at": self.chance.choice((None, LATER)), "updated_at": CREATED},
                {"is_connecting_mcp": self.chance.random() < 0.5},
                {"description": self.text(), "is_active": False},
            )
        )
        self.writer.tell(ev.SessionUpdated(SID, dict(changes)), new_fence=self.turn is None)

    def rate(self) -> None:
        if said := self._said():
            rated = replace(self.chance.choice(said), metadata={"feedback": {"rating": "up"}})
            self.writer.tell(ev.MessageUpdated(SID, rated), new_fence=True)

    def branch(self) -> None:
        said = self._said()
        kept = said[: self.chance.randint(0, len(said))]
        both = (kept[-1].id, self.new("a")) if kept else ()
        self.writer.change_branch(*(replace(m, siblings=both) if m is kept[-1] else m for m in kept))

    def reload(self) -> None:
        self.writer.change_branch(*self._said(), has_more=self.chance.random() < 0.5)

    def _said(self) -> list[Message]:
        return self.writer.state.current_messages()


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(prog="python -m tests.contract_walks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    arguments = parser.parse_args()
    walks = [Walk(arguments.seed + n).run().vector() for n in range(arguments.count)]
    json.dump(walks, sys.stdout, separators=(",", ":"))


if __name__ == "__main__":
    main()
