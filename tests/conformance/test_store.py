"""The Store protocol's promises (chatserver/store/base.py), on every implementation.

What it promises about many sessions at once is in test_store_lists.py; implementations join in conftest.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import orjson
import pytest

from chatserver.errors import Conflict, NotFound, StoreUnavailable
from chatserver.message import ToolCall, ToolResult, Usage
from chatserver.store.base import Chunk, Duplicate, FinishTurn, SessionKey, Started, StartTurn, Store
from tests.store.build import (
    EXPIRES,
    KEY,
    LATER,
    NOW,
    conversation,
    finish,
    message,
    new_id,
    queued,
    record,
    rich_answer,
    run_turn,
    start,
    start_queued,
    texts_of,
)

OTHER_TENANT = SessionKey("acme", KEY.session_id)


async def start_it(store: Store, turn: StartTurn) -> Started:
    started = await store.start_turn(turn)
    assert isinstance(started, Started)
    return started


def chunk(turn: StartTurn, seq: int, *pieces: tuple[str, Any]) -> Chunk:
    return Chunk(turn.key, turn.turn_id, seq, orjson.dumps([list(piece) for piece in pieces]))


# --- records ---


async def test_a_created_session_comes_back_as_it_was_given(store: Store) -> None:
    """Every field of a record survives, with the first fence and no messages."""
    given = record(
        owner="user:zoë",
        project_id="p-1",
        title="A “title”",
        model="tiny",
        description="d" * 1000,
        metadata={"tags": ["a", 1, None], "deep": {"x": 1.5}},
        is_active=False,
        updated_at=NOW + 0.123456,
    )

    created = await store.create_session(given)

    assert created == replace(given, fence=1)
    assert await store.record(KEY) == created
    loaded = await store.load(KEY, 10)
    assert loaded is not None
    assert (loaded.record, loaded.messages, loaded.has_more, loaded.queue) == (created, (), False, ())


async def test_creating_a_session_again_changes_nothing(store: Store) -> None:
    """The second creator gets what the first one made."""
    first = await store.create_session(record(title="first"))

    second = await store.create_session(record(title="second", owner="user:x"))

    assert second == first
    assert await store.record(KEY) == first


async def test_a_created_session_cannot_claim_messages_that_are_not_there(store: Store) -> None:
    """Counts are right by construction, whatever the caller's record says."""
    created = await store.create_session(record(message_count=7, last_message_at=NOW, leaf_id="m", fence=9))

    assert (created.message_count, created.last_message_at, created.leaf_id, created.fence) == (0, None, None, 1)


async def test_what_is_not_stored_is_none(store: Store) -> None:
    """Reads of an unknown session give None, not an error."""
    assert await store.record(KEY) is None
    assert await store.load(KEY, 10) is None
    assert await store.find_turn(KEY, "c-1") is None


async def test_changes_of_a_record_are_stored_and_returned(store: Store) -> None:
    """Each column that may be changed is changed, and `updated_at` with it."""
    await store.create_session(record())
    changes = {
        "title": "new",
        "model": "other",
        "expires_at": EXPIRES + 5,
        "project_id": "p-2",
        "description": "text",
        "metadata": {"a": 1},
        "is_active": False,
        "owner": "user:42",
    }

    changed = await store.update_session(KEY, changes, new_fence=False, now=LATER)

    assert changed == record(**changes, updated_at=LATER, fence=1)
    assert await store.record(KEY) == changed


async def test_a_column_can_be_emptied(store: Store) -> None:
    """None and an empty mapping are values like others."""
    await store.create_session(record(model="tiny", owner="visitor:1", metadata={"a": 1}))

    changed = await store.update_session(
        KEY, {"model": None, "owner": None, "metadata": {}}, new_fence=False, now=LATER
    )

    assert (changed.model, changed.owner, dict(changed.metadata)) == (None, None, {})


async def test_a_session_is_named_where_it_has_no_title_of_its_own(store: Store) -> None:
    """Compare and set: once, under a fence of its own where that is asked for, and never over a person's title."""
    await store.create_session(record(title="New Chat"))

    first = await store.name_session(KEY, "By a model", new_fence=True, now=LATER)
    assert first is not None
    assert (first.title, first.is_named, first.fence, first.updated_at) == ("By a model", True, 2, LATER)
    assert await store.name_session(KEY, "Again", new_fence=False, now=LATER) is None
    assert await store.record(KEY) == first

    await store.update_session(KEY, {"title": "New Chat", "is_named": True}, new_fence=True, now=LATER)
    assert await store.name_session(KEY, "Over a person's", new_fence=True, now=LATER) is None
    with pytest.raises(NotFound):
        await store.name_session(SessionKey("t", "not there"), "x", new_fence=True, now=LATER)


async def test_of_a_name_and_a_rename_at_once_the_rename_stays(store: Store) -> None:
    """Whichever comes first."""
    for number in range(20):
        key = SessionKey("t", f"s-{number}")
        await store.create_session(record(key))
        both = [
            store.update_session(key, {"title": "Mine", "is_named": True}, new_fence=True, now=NOW),
            store.name_session(key, "Auto", new_fence=True, now=NOW),
        ]
        await asyncio.gather(*(both if number % 2 else reversed(both)))
        found = await store.record(key)
        assert found is not None
        assert found.title == "Mine"


async def test_an_empty_change_takes_a_fence_and_nothing_else(store: Store) -> None:
    """A fence alone is no activity: lists sorted by `updated_at` must not move."""
    created = await store.create_session(record())

    fenced = await store.update_session(KEY, {}, new_fence=True, now=LATER)
    same = await store.update_session(KEY, {}, new_fence=False, now=LATER)

    assert fenced == replace(created, fence=2)
    assert same == fenced


@pytest.mark.parametrize("column", ["fence", "message_count", "session_id", "tenant", "leaf_id", "nonsense"])
async def test_only_columns_that_are_nobodys_consequence_can_be_set(store: Store, column: str) -> None:
    """Counts, leaf, fence and key follow from what happens; setting one is a caller's mistake."""
    await store.create_session(record())

    with pytest.raises(ValueError, match=column):
        await store.update_session(KEY, {column: 1}, new_fence=False, now=LATER)


# --- turns ---


async def test_a_turn_starts_and_ends(store: Store) -> None:
    """Both messages go in at the start, the answer's text at the end; counts follow."""
    turn = start(create=True, now=LATER)
    started = await start_it(store, turn)
    running = await store.load(KEY, 10)

    await store.finish_turn(finish(turn, "hi there", usage=Usage(5, 6), now=LATER + 1))
    ended = await store.load(KEY, 10)

    assert started.fence == 1
    assert started.record == record(
        message_count=2, last_message_at=LATER, updated_at=LATER, leaf_id=turn.answer.id, fence=1
    )
    assert running is not None
    assert running.messages == (turn.user_message, turn.answer)
    assert ended is not None
    assert ended.record == started.record
    assert ended.messages == (
        turn.user_message,
        replace(turn.answer, content="hi there", status="completed", usage=Usage(5, 6)),
    )


async def test_every_field_of_an_answer_survives(store: Store) -> None:
    """Reasoning, tool calls with and without results, usage, metadata, and text of every kind."""
    turn = start(create=True)
    await start_it(store, turn)
    answer = rich_answer(turn.answer)

    await store.finish_turn(FinishTurn(KEY, turn.turn_id, answer, "completed", answer.usage, NOW))

    assert (await store.messages(KEY, leaf_id=None, limit=1))[0] == answer


async def test_a_turn_keeps_the_record_of_a_session_that_is_stored(store: Store) -> None:
    """`create` is for a session that is not there; it never overwrites one that is."""
    await store.create_session(record(title="kept", owner="user:1"))

    started = await start_it(store, start(create=True))

    assert (started.record.title, started.record.owner, started.fence) == ("kept", "user:1", 2)


async def test_a_turn_in_a_session_that_is_not_stored_is_refused(store: Store) -> None:
    """Without a record to create, there is nothing to start in."""
    with pytest.raises(NotFound):
        await store.start_turn(start())

    assert await store.record(KEY) is None


async def test_each_start_takes_a_larger_fence(store: Store) -> None:
    """Fences of turns and of single changes come from one rising sequence."""
    fences = [(await store.create_session(record())).fence]
    fences.append((await run_turn(store, start())).fence)
    fences.append((await store.update_session(KEY, {}, new_fence=True, now=NOW)).fence)
    fences.append((await run_turn(store, start())).fence)
    added = await store.add_message(KEY, message("x"), create=None, new_fence=True, expires_at=EXPIRES, now=NOW)
    fences.append(added.fence)

    assert fences == sorted(set(fences))


async def test_a_second_turn_does_not_start_while_one_runs(store: Store) -> None:
    """At most one turn of a session runs, and the refused one leaves no trace."""
    first = start(create=True)
    await start_it(store, first)
    before = await store.load(KEY, 10)

    with pytest.raises(Conflict) as refused:
        await store.start_turn(start())

    assert refused.value.narrow_code == "busy"
    assert await store.load(KEY, 10) == before
    await store.finish_turn(finish(first))
    await start_it(store, start(parent_id=first.answer.id))


@pytest.mark.parametrize("outcome", ["completed", "interrupted", "failed"])
async def test_ending_a_turn_twice_changes_nothing(store: Store, outcome: Any) -> None:
    """The first end stands, whatever a repetition says."""
    turn = start(create=True)
    await start_it(store, turn)
    await store.finish_turn(finish(turn, "first", outcome))
    before = await store.load(KEY, 10)

    await store.finish_turn(finish(turn, "second", "completed"))

    assert await store.load(KEY, 10) == before
    assert before is not None
    assert (before.messages[-1].content, before.messages[-1].status) == ("first", outcome)


async def test_ending_a_turn_that_is_not_stored_is_refused(store: Store) -> None:
    """Its session was deleted, or it never started."""
    turn = start(create=True)
    await start_it(store, turn)
    await store.delete_session(KEY)

    with pytest.raises(NotFound):
        await store.finish_turn(finish(turn))


# --- client_message_id ---


async def test_a_repeated_client_message_id_is_told_and_writes_nothing(store: Store) -> None:
    """A retried message does not start a second turn, during the first one and after it."""
    turn = start(create=True, client_message_id="c-1")
    await start_it(store, turn)
    running = await store.start_turn(start(client_message_id="c-1"))
    await store.finish_turn(finish(turn))
    before = await store.load(KEY, 10)

    ended = await store.start_turn(start(client_message_id="c-1", create=True))

    assert running == ended == Duplicate(turn.turn_id)
    assert await store.load(KEY, 10) == before
    assert await store.find_turn(KEY, "c-1") == turn.turn_id


async def test_messages_without_a_client_message_id_never_meet(store: Store) -> None:
    """None is not an id that is used up."""
    await run_turn(store, start(create=True))
    await run_turn(store, start())
    for turn in (queued("a"), queued("b")):
        await store.enqueue_turn(KEY, turn, first=False, expires_at=EXPIRES, now=NOW)

    loaded = await store.load(KEY, 10)
    assert loaded is not None
    assert (loaded.record.message_count, len(loaded.queue)) == (4, 2)


async def test_a_client_message_id_counts_in_its_session_only(store: Store) -> None:
    """Two sessions, and two tenants, may use the same one."""
    other = SessionKey(KEY.tenant, "session-2")
    for key in (KEY, other, OTHER_TENANT):
        assert isinstance(await store.start_turn(start(key, create=True, client_message_id="c-1")), Started)


async def test_one_of_many_retries_at_once_starts_the_turn(store: Store) -> None:
    """Concurrent requests with one client_message_id make one turn."""
    await store.create_session(record())
    turns = [start(client_message_id="c-1") for _ in range(20)]

    outcomes = await asyncio.gather(*map(store.start_turn, turns))

    [winner] = [t.turn_id for t, o in zip(turns, outcomes, strict=True) if isinstance(o, Started)]
    assert [o for o in outcomes if not isinstance(o, Started)] == [Duplicate(winner)] * 19
    stored = await store.record(KEY)
    assert stored is not None
    assert stored.message_count == 2


# --- the queue ---


async def test_queued_turns_wait_in_order(store: Store) -> None:
    """Behind the others, or before them; message and options come back whole."""
    await start_it(store, start(create=True))
    second = replace(queued("second", "c-2", kind="user", user_id="u"), message=rich_answer(message("x")))
    third, first = queued("third"), queued("first")
    await store.enqueue_turn(KEY, second, first=False, expires_at=EXPIRES, now=NOW)
    await store.enqueue_turn(KEY, third, first=False, expires_at=EXPIRES, now=NOW)

    await store.enqueue_turn(KEY, first, first=True, expires_at=EXPIRES + 9, now=LATER)

    loaded = await store.load(KEY, 10)
    assert loaded is not None
    assert loaded.queue == (first, second, third)
    assert (loaded.record.expires_at, loaded.record.updated_at) == (EXPIRES + 9, LATER)
    assert loaded.record.message_count == 2, "a queued message is not in the history yet"


async def test_a_queued_turn_starts(store: Store) -> None:
    """Its message moves from the queue into the history."""
    running = start(create=True)
    await start_it(store, running)
    waiting, behind = queued("next", "c-2"), queued("after that")
    for turn in (waiting, behind):
        await store.enqueue_turn(KEY, turn, first=False, expires_at=EXPIRES, now=NOW)
    await store.finish_turn(finish(running))

    started = await start_it(store, start_queued(KEY, waiting, running.answer.id, now=LATER))

    loaded = await store.load(KEY, 10)
    assert loaded is not None
    assert [m.content for m in loaded.messages] == ["hello", "hi", "next", ""]
    assert loaded.queue == (behind,)
    assert (started.fence, started.record.message_count) == (2, 4)
    assert await store.find_turn(KEY, "c-2") == waiting.turn_id


async def test_a_queued_turn_does_not_start_while_another_runs(store: Store) -> None:
    """It stays queued."""
    running = start(create=True)
    await start_it(store, running)
    waiting = queued("next")
    await store.enqueue_turn(KEY, waiting, first=False, expires_at=EXPIRES, now=NOW)

    with pytest.raises(Conflict) as refused:
        await store.start_turn(start_queued(KEY, waiting, running.answer.id))

    assert refused.value.narrow_code == "busy"
    loaded = await store.load(KEY, 10)
    assert loaded is not None
    assert loaded.queue == (waiting,)


async def test_a_turn_that_is_not_queued_cannot_start_as_queued(store: Store) -> None:
    """Nor one that was withdrawn a moment ago."""
    await run_turn(store, start(create=True))
    waiting = queued("next")
    await store.enqueue_turn(KEY, waiting, first=False, expires_at=EXPIRES, now=NOW)
    await store.withdraw_turn(KEY, waiting.turn_id)
    before = await store.load(KEY, 10)

    for turn in (waiting, queued("never enqueued")):
        with pytest.raises(NotFound):
            await store.start_turn(start_queued(KEY, turn, None))

    assert await store.load(KEY, 10) == before


async def test_starting_a_queued_turn_makes_no_session(store: Store) -> None:
    """Where its session was deleted meanwhile, it is gone, whatever record the caller still holds."""
    turn = replace(start_queued(KEY, queued("next"), None), create=record())

    with pytest.raises(NotFound):
        await store.start_turn(turn)

    assert await store.record(KEY) is None


async def test_a_withdrawn_turn_is_gone_and_its_client_message_id_stays_used(store: Store) -> None:
    """Withdrawing says whether it did anything; a late retry of the message brings nothing back."""
    await start_it(store, start(create=True))
    waiting = queued("oops", "c-2")
    await store.enqueue_turn(KEY, waiting, first=False, expires_at=EXPIRES, now=NOW)

    outcomes = [await store.withdraw_turn(KEY, waiting.turn_id) for _ in range(2)]

    loaded = await store.load(KEY, 10)
    assert outcomes == [True, False]
    assert loaded is not None
    assert loaded.queue == ()
    retried = await store.enqueue_turn(KEY, queued("oops", "c-2"), first=False, expires_at=EXPIRES, now=NOW)
    assert retried == Duplicate(waiting.turn_id)


async def test_a_running_turn_cannot_be_withdrawn(store: Store) -> None:
    """Withdrawing is for what waits."""
    turn = start(create=True)
    await start_it(store, turn)

    assert await store.withdraw_turn(KEY, turn.turn_id) is False
    assert await store.withdraw_turn(KEY, "unknown") is False


async def test_enqueueing_needs_a_stored_session(store: Store) -> None:
    """And leaves nothing where there is none."""
    with pytest.raises(NotFound):
        await store.enqueue_turn(KEY, queued("x"), first=False, expires_at=EXPIRES, now=NOW)


async def test_a_duplicate_is_not_queued(store: Store) -> None:
    """The turn that used the id before is told, and the queue and the record stay as they are."""
    turn = start(create=True, client_message_id="c-1")
    await start_it(store, turn)
    before = await store.load(KEY, 10)

    outcome = await store.enqueue_turn(KEY, queued("again", "c-1"), first=True, expires_at=EXPIRES + 1, now=LATER)

    assert outcome == Duplicate(turn.turn_id)
    assert await store.load(KEY, 10) == before


# --- messages and branches ---


async def test_a_message_outside_a_turn_becomes_the_leaf(store: Store) -> None:
    """It is counted, and makes its session where there is none yet."""
    system = message("network switched", role="system", metadata={"kind": "network"})

    made = await store.add_message(KEY, system, create=record(), new_fence=True, expires_at=EXPIRES + 1, now=LATER)

    expected = record(
        message_count=1, last_message_at=LATER, updated_at=LATER, expires_at=EXPIRES + 1, leaf_id=system.id, fence=1
    )
    assert made == expected
    assert await store.messages(KEY, leaf_id=None, limit=10) == (system,)


async def test_a_message_during_a_turn_keeps_the_turns_fence(store: Store) -> None:
    """The running turn numbers its own events with that fence; a new one would cut it off."""
    turn = start(create=True)
    started = await start_it(store, turn)
    system = message("signed", turn.answer.id, role="system")

    after = await store.add_message(KEY, system, create=None, new_fence=False, expires_at=EXPIRES, now=NOW)
    await store.finish_turn(finish(turn, "done"))

    assert after.fence == started.fence
    assert after.message_count == 3
    assert await texts_of(store, KEY) == ["hello", "done", "signed"]


async def test_a_message_is_added_to_a_stored_session_only(store: Store) -> None:
    """Without a record to create, an unknown session is refused."""
    with pytest.raises(NotFound):
        await store.add_message(KEY, message("x"), create=None, new_fence=True, expires_at=EXPIRES, now=NOW)


async def test_the_same_message_cannot_be_added_twice(store: Store) -> None:
    """The refused one changes no count."""
    once = message("once")
    await store.add_message(KEY, once, create=record(), new_fence=True, expires_at=EXPIRES, now=NOW)
    before = await store.load(KEY, 10)

    with pytest.raises(Conflict):
        await store.add_message(KEY, once, create=None, new_fence=True, expires_at=EXPIRES, now=LATER)

    assert await store.load(KEY, 10) == before


@pytest.mark.parametrize(("limit", "has_more"), [(1, True), (5, True), (6, False), (7, False)])
async def test_loading_gives_the_newest_messages_oldest_first(store: Store, limit: int, has_more: bool) -> None:
    """And says whether older ones exist, exact at the limit."""
    texts = await conversation(store, KEY, 3)

    loaded = await store.load(KEY, limit)

    assert loaded is not None
    assert [m.content for m in loaded.messages] == texts[-limit:]
    assert loaded.has_more is has_more


@pytest.mark.parametrize(
    ("max_bytes", "fit"), [(0, 1), (29, 1), (30, 1), (59, 1), (60, 2), (119, 3), (120, 4), (999, 4)]
)
async def test_as_many_messages_are_read_as_have_so_many_bytes(store: Store, max_bytes: int, fit: int) -> None:
    """The newest of a branch and the oldest of a page, each whole, one at least: of texts and metadata."""
    made = [
        message("ü" * 15),
        message("a" * 10, reasoning="b" * 20),
        message("c" * 15, metadata={"d": "e" * 7}),
        message("f" * 30),
    ]
    made = [replace(m, parent_id=made[at - 1].id if at else None) for at, m in enumerate(made)]
    for m in made:
        await store.add_message(KEY, m, create=record(), new_fence=True, expires_at=EXPIRES, now=NOW)

    newest = await store.messages(KEY, leaf_id=None, limit=9, max_bytes=max_bytes)
    loaded = await store.load(KEY, 9, max_bytes=max_bytes)
    oldest = await store.message_page(KEY, offset=0, limit=9, max_bytes=max_bytes)

    assert loaded is not None
    assert newest == loaded.messages == tuple(made[-fit:])
    assert loaded.has_more is (fit < 4)
    assert oldest == tuple(made[:fit])


async def test_tool_calls_count_as_what_is_stored_of_them(store: Store) -> None:
    """A page must not hold a megabyte for each of its calls."""
    call = ToolCall("1", "s", "t", {"text": "x" * 100}, 0, ToolResult("y" * 100, is_error=False))
    first = message("first")
    second = message("", first.id, tool_calls=(call,))
    for m in (first, second):
        await store.add_message(KEY, m, create=record(), new_fence=True, expires_at=EXPIRES, now=NOW)
    held = len(orjson.dumps((call,)))

    assert await store.messages(KEY, leaf_id=None, limit=9, max_bytes=held + 4) == (second,)
    assert await store.messages(KEY, leaf_id=None, limit=9, max_bytes=held + 5) == (first, second)


async def test_messages_follow_their_parents_from_the_given_leaf(store: Store) -> None:
    """Two branches from one message: each leaf has its own history; the active one ends at the newest."""
    first = start(text="question", create=True)
    await run_turn(store, first, "answer")
    left = message("left", first.answer.id)
    right = message("right", first.answer.id)
    for branch in (left, right):
        await store.add_message(KEY, branch, create=None, new_fence=True, expires_at=EXPIRES, now=NOW)

    async def texts(leaf_id: str | None, limit: int) -> list[str]:
        return [m.content for m in await store.messages(KEY, leaf_id=leaf_id, limit=limit)]

    assert await texts(None, 10) == ["question", "answer", "right"]
    assert await texts(left.id, 10) == ["question", "answer", "left"]
    assert await texts(left.id, 2) == ["answer", "left"]
    assert await texts(first.user_message.id, 10) == ["question"]
    loaded = await store.load(KEY, 10)
    assert loaded is not None
    assert (len(loaded.messages), loaded.record.message_count) == (3, 4)


async def test_messages_of_an_unknown_session_or_leaf_are_not_found(store: Store) -> None:
    """An empty session, in contrast, has no messages."""
    with pytest.raises(NotFound):
        await store.messages(KEY, leaf_id=None, limit=10)
    await store.create_session(record())
    with pytest.raises(NotFound):
        await store.messages(KEY, leaf_id="unknown", limit=10)

    assert await store.messages(KEY, leaf_id=None, limit=10) == ()


async def test_a_long_branch_is_read_whole(store: Store) -> None:
    """A walk of 300 messages, more than any window."""
    texts = await conversation(store, KEY, 150)

    assert await texts_of(store, KEY, 2000) == texts


# --- tenants ---


async def test_tenants_with_the_same_session_id_never_meet(store: Store) -> None:
    """Every method, in one tenant, leaves the other's session of the same id as it was."""
    mine = start(OTHER_TENANT, "mine", create=True, client_message_id="c-1")
    await start_it(store, mine)
    waiting = queued("waits", "c-2")
    await store.enqueue_turn(OTHER_TENANT, waiting, first=False, expires_at=EXPIRES, now=NOW)
    await store.checkpoint([chunk(mine, 0, ("text", "partial"))])
    before = await store.load(OTHER_TENANT, 10)

    assert await store.load(KEY, 10) is None
    assert await store.find_turn(KEY, "c-1") is None
    assert await store.withdraw_turn(KEY, waiting.turn_id) is False
    assert await store.delete_session(KEY) is False
    for refused in (
        store.finish_turn(replace(finish(mine), key=KEY)),
        store.start_turn(start_queued(KEY, waiting, None)),
        store.messages(KEY, leaf_id=mine.user_message.id, limit=10),
        store.update_session(KEY, {"title": "theirs"}, new_fence=True, now=NOW),
        store.add_message(KEY, message("x"), create=None, new_fence=True, expires_at=EXPIRES, now=NOW),
    ):
        with pytest.raises(NotFound):
            await refused
    await conversation(store, KEY, 2)
    await store.update_session(KEY, {"title": "theirs"}, new_fence=True, now=NOW)
    await store.delete_session(KEY)

    assert await store.load(OTHER_TENANT, 10) == before


# --- deletion ---


async def test_a_deleted_session_is_gone_whole(store: Store) -> None:
    """Record, messages, turns, queue and chunks; made again under its id it is empty."""
    turn = start(create=True, client_message_id="c-1")
    await start_it(store, turn)
    await store.enqueue_turn(KEY, queued("waits", "c-2"), first=False, expires_at=EXPIRES, now=NOW)
    await store.checkpoint([chunk(turn, 0, ("text", "partial"))])

    outcomes = [await store.delete_session(KEY) for _ in range(2)]

    assert outcomes == [True, False]
    assert await store.record(KEY) is None
    again = await store.create_session(record())
    loaded = await store.load(KEY, 10)
    assert loaded is not None
    assert (again.message_count, loaded.messages, loaded.queue) == (0, (), ())
    assert await store.find_turn(KEY, "c-1") is None
    with pytest.raises(NotFound):
        await store.messages(KEY, leaf_id=turn.user_message.id, limit=1)
    assert (await store.recover(NOW)).queued == ()


async def test_a_session_made_again_goes_on_from_the_fence_of_the_deleted_one(store: Store) -> None:
    """A tab with an event id of the deleted session must never be given the new one's events as the continuation.

    One fence is left out: the deletion's own event is numbered with it.
    """
    fences = []
    for _ in range(3):
        first = await start_it(store, start(create=True))
        await store.update_session(KEY, {}, new_fence=True, now=NOW)
        fences.append(first.fence)
        await store.delete_session(KEY)
    created = await store.create_session(record())
    await store.delete_session(KEY)
    added = await store.add_message(KEY, message("x"), create=record(), new_fence=True, expires_at=EXPIRES, now=NOW)

    assert fences == [1, 4, 7]
    assert (created.fence, added.fence) == (10, 12)


# --- checkpoints and recovery ---


async def test_a_turn_that_a_crash_left_running_becomes_interrupted_with_what_its_chunks_give(store: Store) -> None:
    """Text joined in order, calls and results in place, the queue kept, under a new fence."""
    turn = start(create=True)
    await start_it(store, turn)
    await store.enqueue_turn(KEY, queued("waits"), first=False, expires_at=EXPIRES, now=NOW)
    call = {"id": "call-1", "server": "time", "name": "now", "arguments": {"a": 1}, "offset": 6, "result": None}
    result = {"id": "call-1", "result": {"content": "12:00", "is_error": False}}
    unanswered = {**call, "id": "call-2"}
    await store.checkpoint([chunk(turn, 0, ("reasoning", "hm"), ("text", "It is ")), chunk(turn, 1, ("call", call))])
    await store.checkpoint([chunk(turn, 2, ("call", unanswered), ("result", result), ("text", "no"))])
    await store.checkpoint([chunk(turn, 3, ("text", "on"), ("reasoning", "!"), ("metadata", {"reasoning_ms": 5}))])

    found = await store.recover(LATER)

    loaded = await store.load(KEY, 10)
    assert (found.interrupted, found.queued) == (1, (KEY,))
    assert loaded is not None
    answer = loaded.messages[-1]
    assert (answer.content, answer.reasoning, answer.status) == ("It is noon", "hm!", "interrupted")
    assert answer.metadata == {"reasoning_ms": 5}
    stored_call, second_call = answer.tool_calls
    assert (stored_call.name, stored_call.arguments, stored_call.offset) == ("now", {"a": 1}, 6)
    assert stored_call.result is not None
    assert (stored_call.result.content, stored_call.result.is_error) == ("12:00", False)
    assert second_call.result is None
    assert loaded.record.fence == 2
    assert (loaded.record.message_count, len(loaded.queue)) == (2, 1)
    await start_it(store, start_queued(KEY, loaded.queue[0], answer.id))


async def test_recovering_twice_changes_nothing_more(store: Store) -> None:
    """A start that dies half-way through is followed by another start."""
    turn = start(create=True)
    await start_it(store, turn)
    await store.checkpoint([chunk(turn, 0, ("text", "partial"))])
    await store.recover(NOW)
    before = await store.load(KEY, 10)

    again = await store.recover(LATER)

    assert (again.interrupted, again.queued) == (0, ())
    assert await store.load(KEY, 10) == before


async def test_recovery_leaves_everything_else_alone(store: Store) -> None:
    """Finished turns, withdrawn ones, and sessions without turns."""
    keys = [SessionKey("t", f"s-{n}") for n in range(5)]
    for key in keys:
        await conversation(store, key, 2)
    waiting = queued("x")
    await store.enqueue_turn(keys[0], waiting, first=False, expires_at=EXPIRES, now=NOW)
    await store.withdraw_turn(keys[0], waiting.turn_id)
    before = [await store.load(key, 10) for key in keys]

    found = await store.recover(LATER)

    assert (found.interrupted, found.queued) == (0, ())
    assert [await store.load(key, 10) for key in keys] == before


async def test_each_waiting_session_is_told_once(store: Store) -> None:
    """However many turns wait in it."""
    keys = [SessionKey(tenant, session_id) for tenant in ("a", "b") for session_id in ("1", "2")]
    for key in keys:
        await store.create_session(record(key))
        for _ in range(3):
            await store.enqueue_turn(key, queued("x"), first=False, expires_at=EXPIRES, now=NOW)

    found = await store.recover(NOW)

    assert sorted(found.queued) == sorted(keys)


async def test_a_late_end_does_not_undo_the_recovery(store: Store) -> None:
    """A turn that recovery ended stays as recovery left it."""
    turn = start(create=True)
    await start_it(store, turn)
    await store.recover(NOW)
    before = await store.load(KEY, 10)

    await store.finish_turn(finish(turn, "too late"))

    assert await store.load(KEY, 10) == before


async def test_a_repeated_chunk_counts_once(store: Store) -> None:
    """A checkpoint whose outcome was unknown is sent again."""
    turn = start(create=True)
    await start_it(store, turn)
    for _ in range(2):
        await store.checkpoint([chunk(turn, 0, ("text", "a")), chunk(turn, 1, ("text", "b"))])

    await store.recover(NOW)

    assert (await texts_of(store, KEY))[-1] == "ab"


async def test_a_chunk_that_comes_too_late_does_not_fail_the_others(store: Store) -> None:
    """One turn ended, one session was deleted, one is unknown: the fourth's chunk is stored."""
    turns = [start(SessionKey("t", f"s-{n}"), create=True) for n in range(3)]
    for turn in turns:
        await start_it(store, turn)
    ended, deleted, running = turns
    await store.finish_turn(finish(ended, "whole"))
    await store.delete_session(deleted.key)

    await store.checkpoint([chunk(turn, 0, ("text", "partial")) for turn in (ended, deleted, start(), running)])
    await store.recover(NOW)

    assert (await texts_of(store, running.key))[-1] == "partial"
    assert (await texts_of(store, ended.key))[-1] == "whole"


async def test_a_checkpoint_of_nothing_is_nothing(store: Store) -> None:
    """The ticker calls it whether or not something runs."""
    await store.checkpoint([])


async def test_the_fence_of_a_deleted_session_is_forgotten_after_a_month(store: Store) -> None:
    """It is kept for tabs that come back, not for ever: from the first start that finds it, and not longer."""
    day = 86_400.0
    await store.create_session(record())
    await store.delete_session(KEY)
    await store.recover(NOW)
    await store.recover(NOW + 29 * day)
    kept = await store.create_session(record())
    await store.delete_session(KEY)
    await store.recover(NOW + 29 * day)

    await store.recover(NOW + 60 * day)
    forgotten = await store.create_session(record())

    assert (kept.fence, forgotten.fence) == (3, 1)


# --- concurrency, readiness, the end ---


async def test_a_hundred_writers_of_one_session_are_all_counted(store: Store) -> None:
    """`message_count` is the number of messages, whatever happened at once."""
    await store.create_session(record())

    fences = [
        after.fence
        for after in await asyncio.gather(
            *(
                store.add_message(
                    KEY, message(f"m{n}"), create=record(), new_fence=True, expires_at=EXPIRES, now=NOW + n
                )
                for n in range(100)
            )
        )
    ]

    stored = await store.record(KEY)
    assert stored is not None
    assert stored.message_count == 100
    assert fences == list(range(2, 102)), "writes take effect in the order they were called"
    assert stored.last_message_at == NOW + 99


async def test_an_operation_that_fails_takes_no_other_with_it(store: Store) -> None:
    """Good and bad writes at the same moment: the good ones are committed, the bad ones refused."""
    keys = [SessionKey("t", f"s-{n}") for n in range(30)]
    taken = message("taken")
    await store.add_message(KEY, taken, create=record(), new_fence=True, expires_at=EXPIRES, now=NOW)

    def bad(n: int) -> Awaitable[Any]:
        if n % 2:
            return store.add_message(KEY, taken, create=None, new_fence=True, expires_at=EXPIRES, now=NOW)
        return store.start_turn(start(SessionKey("t", new_id("unknown"))))

    work: list[Awaitable[Any]] = [
        bad(n) if n % 3 == 0 else store.create_session(record(key)) for n, key in enumerate(keys)
    ]
    outcomes = await asyncio.gather(*work, return_exceptions=True)

    for n, (key, outcome) in enumerate(zip(keys, outcomes, strict=True)):
        if n % 3 == 0:
            assert isinstance(outcome, Conflict if n % 2 else NotFound)
        else:
            assert await store.record(key) == outcome == record(key, fence=1)


async def test_a_cancelled_write_disturbs_nothing(store: Store) -> None:
    """It may be committed or not; the store goes on, and what follows is right either way."""
    await store.create_session(record())
    tasks = [
        asyncio.create_task(
            store.add_message(KEY, message("x"), create=None, new_fence=True, expires_at=EXPIRES, now=NOW)
        )
        for _ in range(50)
    ]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()

    outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    assert all(isinstance(o, asyncio.CancelledError) for o in outcomes[::2])
    stored = await store.load(KEY, 1)
    assert stored is not None
    assert 25 <= stored.record.message_count <= 50
    await store.ready()


async def test_a_store_that_works_is_ready(store: Store) -> None:
    """Readiness may be asked any number of times, and at once."""
    await asyncio.gather(*(store.ready() for _ in range(10)))


async def test_closing_finishes_what_was_accepted(store: Store) -> None:
    """Every write that was submitted before `close` is committed and answered."""
    await store.create_session(record())
    writes = [
        asyncio.create_task(
            store.add_message(KEY, message("x"), create=None, new_fence=True, expires_at=EXPIRES, now=NOW)
        )
        for _ in range(100)
    ]
    await asyncio.sleep(0)

    await store.close()

    assert [r.message_count for r in await asyncio.gather(*writes)] == list(range(1, 101))


async def test_a_closed_store_refuses_and_closes_again(store: Store) -> None:
    """`close` is idempotent, also at the same time; everything else is StoreUnavailable."""
    await asyncio.gather(store.close(), store.close())
    await store.close()

    for refused in (store.record(KEY), store.create_session(record()), store.ready(), store.recover(NOW)):
        with pytest.raises(StoreUnavailable):
            await refused
