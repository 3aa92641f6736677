"""What a start of the server does to the store: it ends the turns that a crash left running (spec D2).

Invariants: the answer of an interrupted turn is its row plus its chunks in order, which is what its readers saw up to
the last checkpoint. The cost depends on the turns that ran and wait, not on the sessions stored: both are found by
partial indexes.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson

from chatserver.errors import SessionDamaged
from chatserver.message import Message, ToolCall, ToolResult, Usage
from chatserver.store.base import Recovered, SessionKey
from chatserver.store.rows import key_params, message_of, message_params, tool_call_of
from chatserver.store.transaction import Transaction
from chatserver.store.usage import add_usage
from chatserver.usage import usage_at_end

# How long the fence of a deleted session is remembered, from the first start or purge that finds it. A tab that was
# away for longer and comes back with an event id of the deleted session would take the new one's events for its
# continuation.
REMEMBER_DELETED_SECONDS = 30 * 86400.0
# Of them in one transaction: a millisecond or two. Millions may be due at once, a month after as many expired.
_FORGOTTEN_TOGETHER = 1000


def recover(tx: Transaction, *, now: float) -> Recovered:
    sql = tx.sql
    forget_some_deleted(tx, now=now)
    running = tx.all(sql.all_running, {})
    for tenant, session_id, turn_id, answer_id in running:
        key = SessionKey(tenant, session_id)
        turn = {**key_params(key), "turn_id": turn_id}
        with suppress(SessionDamaged):  # whoever opens the session is told; the others must not wait for that
            _settle(tx, key, turn, answer_id, now)
        tx.run(sql.end_turn, {**turn, "outcome": "interrupted", "ended_at": now})
        tx.run(sql.drop_chunks, turn)
        tx.run(sql.next_fence, key_params(key))  # tabs that come back must not take the old end for the present
    queued = tuple(SessionKey(*row) for row in tx.all(sql.all_queued, {}))
    return Recovered(len(running), queued)


def _settle(tx: Transaction, key: SessionKey, turn: dict[str, Any], answer_id: str, now: float) -> None:
    """Make an answer what its chunks give, and count what it has used."""
    row = tx.one(tx.sql.message, {**key_params(key), "message_id": answer_id})
    if row is None:
        return
    bodies = [body for (body,) in tx.all(tx.sql.chunks, turn)]
    answer = with_chunks(message_of(row), bodies)
    asked = tx.one(tx.sql.content, {**key_params(key), "message_id": answer.parent_id})
    told, told_after = _told_usage(bodies)
    usage = usage_at_end(told, told_after, asked[0] if asked is not None else "", answer, "interrupted")
    if usage is not None:
        add_usage(tx, key=key, model=answer.model, usage=usage, now=now)
    tx.run(tx.sql.settle_message, message_params(key, 0, replace(answer, status="interrupted", usage=usage)))


def forget_some_deleted(tx: Transaction, *, now: float) -> None:
    """Date what is remembered of sessions deleted since the last call, and forget some of what is old."""
    tx.run(tx.sql.mark_deleted, {"now": now})
    before = now - REMEMBER_DELETED_SECONDS
    tx.run(tx.sql.forget_some_deleted, {"before": before, "limit": _FORGOTTEN_TOGETHER})


def with_chunks(answer: Message, bodies: Iterable[bytes]) -> Message:
    """An answer with what its chunks add, in order.

    Args:
        bodies: of `Chunk`s, in order of `seq`.
    """
    text, reasoning = [answer.content], [answer.reasoning]
    calls: list[ToolCall] = list(answer.tool_calls)
    metadata = dict(answer.metadata)
    try:
        for body in bodies:
            for kind, value in orjson.loads(body):
                match kind:
                    case "text":
                        text.append(value)
                    case "reasoning":
                        reasoning.append(value)
                    case "call":
                        calls.append(tool_call_of(value))
                    case "result":
                        result = ToolResult(**value["result"])
                        calls = [replace(c, result=result) if c.id == value["id"] else c for c in calls]
                    case "metadata":
                        metadata |= value
                    case "usage":
                        pass  # no part of an answer that runs
                    case _:
                        raise SessionDamaged(f"a checkpoint holds a piece of unknown kind {kind!r}")
        content, thoughts = "".join(text), "".join(reasoning)
        return replace(answer, content=content, reasoning=thoughts, tool_calls=tuple(calls), metadata=metadata)
    except (ValueError, TypeError, KeyError) as error:
        raise SessionDamaged(f"a checkpoint of the answer {answer.id!r} cannot be read") from error


def _told_usage(bodies: Iterable[bytes]) -> tuple[Usage | None, int]:
    """What the agent told last of its usage, and after how many characters; the bodies have been read before."""
    told = [value for body in bodies for kind, value in orjson.loads(body) if kind == "usage"]
    return (Usage(**told[-1]["usage"]), told[-1]["after"]) if told else (None, 0)
