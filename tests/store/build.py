"""Records for the store's tests, with ids that tell what they are."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from chatserver.message import Message, Outcome, Role, Status, ToolCall, ToolResult, Usage
from chatserver.store.base import (
    FinishTurn,
    SessionKey,
    SessionRecord,
    Started,
    StartTurn,
    Store,
    StoredTurn,
)

NOW = 1_790_000_000.0
LATER = NOW + 60
EXPIRES = NOW + 86_400
KEY = SessionKey("public", "session-1")

_numbers = itertools.count(1)


def new_id(kind: str) -> str:
    """An id that is used once."""
    return f"{kind}-{next(_numbers)}"


def record(key: SessionKey = KEY, **fields: Any) -> SessionRecord:
    """A session as a caller would create it."""
    plain = SessionRecord(
        key=key,
        project_id="default",
        owner=None,
        title="",
        model=None,
        created_at=NOW,
        updated_at=NOW,
        expires_at=EXPIRES,
    )
    return replace(plain, **fields)


def message(
    content: str, parent_id: str | None = None, *, role: Role = "user", status: Status = "completed", **fields: Any
) -> Message:
    """A message; of a user where no role is given."""
    return Message(new_id(role), parent_id, role, content, status, None, "2026-09-21T14:13:20.000Z", **fields)


def rich_answer(empty: Message) -> Message:
    """An answer that uses every field, with text that trips up careless encodings."""
    return replace(
        empty,
        content="Zoë said: “3 < 4” \U0001f9ea\n\u2028end",
        reasoning="first…\tthen",
        status="completed",
        model="tiny",
        tool_calls=(
            ToolCall("call-1", "time", "now", {"zone": "Europe/Zürich", "deep": {"n": [1, 2.5, None, True]}}, 4),
            ToolCall("call-1", "time", "now", {}, 9, ToolResult("it's ½ past", is_error=False)),
            ToolCall("call-3", "files", "read", {"path": "a"}, 9, ToolResult("no such file", is_error=True)),
        ),
        usage=Usage(11, 22, 3, 4, estimated=True),
        metadata={"error": {"code": "x", "title": "y"}, "n": 1.5},
    )


def queued(content: str, client_message_id: str | None = None, **options: Any) -> StoredTurn:
    """A turn that waits."""
    return StoredTurn(new_id("turn"), message(content), client_message_id, options)


def start(
    key: SessionKey = KEY,
    text: str = "hello",
    *,
    parent_id: str | None = None,
    create: bool = False,
    client_message_id: str | None = None,
    now: float = NOW,
) -> StartTurn:
    """A turn about to start; `create` makes its session where there is none."""
    user = message(text, parent_id)
    return StartTurn(
        key=key,
        turn_id=new_id("turn"),
        user_message=user,
        answer=message("", user.id, role="assistant", status="streaming"),
        client_message_id=client_message_id,
        expires_at=EXPIRES,
        now=now,
        create=record(key) if create else None,
    )


def start_queued(key: SessionKey, turn: StoredTurn, parent_id: str | None, now: float = NOW) -> StartTurn:
    """A queued turn about to start."""
    user = replace(turn.message, parent_id=parent_id)
    answer = message("", user.id, role="assistant", status="streaming")
    return StartTurn(key, turn.turn_id, user, answer, turn.client_message_id, EXPIRES, now, queued=True)


def finish(
    started: StartTurn,
    text: str = "hi",
    outcome: Outcome = "completed",
    *,
    now: float = NOW,
    usage: Usage | None = None,
) -> FinishTurn:
    """The end of a turn."""
    answer = replace(started.answer, content=text, status=outcome, usage=usage)
    return FinishTurn(started.key, started.turn_id, answer, outcome, usage, now)


async def run_turn(store: Store, turn: StartTurn, reply: str = "hi") -> Started:
    """Start a turn and finish it; how it started."""
    started = await store.start_turn(turn)
    assert isinstance(started, Started)
    await store.finish_turn(finish(turn, reply))
    return started


async def conversation(store: Store, key: SessionKey, turns: int) -> list[str]:
    """A new session with that many turns; the texts of its messages."""
    texts: list[str] = []
    parent_id: str | None = None
    for number in range(turns):
        turn = start(key, f"question {number}", parent_id=parent_id, create=number == 0)
        await run_turn(store, turn, f"answer {number}")
        texts += [f"question {number}", f"answer {number}"]
        parent_id = turn.answer.id
    return texts


async def texts_of(store: Store, key: SessionKey, limit: int = 1000) -> list[str]:
    """The texts of a session's active branch, oldest first."""
    stored = await store.load(key, limit)
    assert stored is not None
    return [m.content for m in stored.messages]


def options(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """As a plain dict, whatever kind of mapping it came back as."""
    return dict(mapping)
