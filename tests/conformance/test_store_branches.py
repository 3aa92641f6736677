"""The Store protocol's promises about the tree of messages, on every implementation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chatserver.errors import Conflict, NotFound, TooLarge
from chatserver.message import Message
from chatserver.store.base import Duplicate, SessionKey, Started, StartTurn, Store
from tests.conformance.test_store import start_it
from tests.store.build import (
    EXPIRES,
    KEY,
    LATER,
    NOW,
    conversation,
    finish,
    message,
    queued,
    record,
    run_turn,
    start,
    texts_of,
)

FORK = SessionKey(KEY.tenant, "fork")


async def branch_of(store: Store, key: SessionKey = KEY) -> tuple[Message, ...]:
    stored = await store.load(key, 1000)
    assert stored is not None
    return stored.messages


def regenerated(target: Message, question: Message) -> StartTurn:
    """A turn that answers `question` once more."""
    again = start()
    answer = replace(again.answer, parent_id=question.id)
    return replace(again, user_message=question, answer=answer, regenerates=target.id)


def edited(target: Message, text: str, client_message_id: str | None = None) -> StartTurn:
    """A turn of a message in the place of another."""
    return replace(start(text=text, parent_id=target.parent_id, client_message_id=client_message_id), edits=target.id)


async def test_a_regenerated_answer_stands_beside_the_first(store: Store) -> None:
    """The new one is on the active branch; both know of both, oldest first; one more message is counted."""
    await conversation(store, KEY, 2)
    *_, question, first = await branch_of(store)
    assert (question.siblings, first.siblings) == ((), ())

    again = regenerated(first, question)
    started = await run_turn(store, again, "another answer")

    assert (started.record.message_count, started.record.leaf_id) == (5, again.answer.id)
    assert await texts_of(store, KEY) == ["question 0", "answer 0", "question 1", "another answer"]
    both = (first.id, again.answer.id)
    assert [m.siblings for m in await branch_of(store)] == [(), (), (), both]
    for message_id in both:
        found = await store.message(KEY, message_id)
        assert found is not None
        assert (found.parent_id, found.siblings) == (question.id, both)


async def test_an_edited_message_begins_a_branch_of_its_own(store: Store) -> None:
    """The first message of a session as well as a later one; siblings of siblings are one family."""
    await conversation(store, KEY, 2)
    branch = await branch_of(store)
    for number, target in enumerate((branch[2], branch[0])):
        turn = edited(target, f"edited {number}")
        started = await run_turn(store, turn, "new answer")
        assert started.record.message_count == 4 + 2 * (number + 1)
        found = await store.message(KEY, turn.user_message.id)
        assert found is not None
        assert found.siblings == (target.id, turn.user_message.id)
    assert await texts_of(store, KEY) == ["edited 1", "new answer"]

    third = edited(turn.user_message, "edited 2")
    await run_turn(store, third)
    ids = [branch[0].id, turn.user_message.id, third.user_message.id]
    assert [m.siblings for m in await branch_of(store)] == [tuple(ids), ()]


async def test_an_edit_is_taken_once(store: Store) -> None:
    """A repetition of its client_message_id changes nothing."""
    await conversation(store, KEY, 1)
    target = (await branch_of(store))[0]
    turn = edited(target, "edited", "c")
    await run_turn(store, turn)

    assert await store.start_turn(edited(target, "edited", "c")) == Duplicate(turn.turn_id)
    assert len(await branch_of(store)) == 2


async def test_a_queued_edit_and_a_queued_regeneration_start_where_they_belong(store: Store) -> None:
    """The queue keeps what they are about; their start puts them beside what they replace."""
    await conversation(store, KEY, 1)
    question, answer = await branch_of(store)
    running = start(parent_id=answer.id, text="running")
    await start_it(store, running)
    edit, again = queued("edited"), replace(queued("ignored"), message=question)
    for waiting in (edit, again):
        assert await store.enqueue_turn(KEY, waiting, first=False, expires_at=EXPIRES, now=NOW) is None
    await store.finish_turn(finish(running))

    base = edited(question, "edited")
    new_answer = replace(base.answer, parent_id=edit.message.id)
    turn = replace(base, turn_id=edit.turn_id, user_message=edit.message, answer=new_answer, queued=True)
    await run_turn(store, turn)
    assert await texts_of(store, KEY) == ["edited", "hi"]
    turn = replace(regenerated(answer, question), turn_id=again.turn_id, queued=True)
    started = await run_turn(store, turn, "again")
    assert await texts_of(store, KEY) == ["question 0", "again"]
    assert started.record.message_count == 7
    stored = await store.load(KEY, 10)
    assert stored is not None
    assert stored.queue == ()


@pytest.mark.parametrize("how", ["edits", "regenerates"])
async def test_a_turn_beside_a_message_that_is_not_there_is_refused(store: Store, how: str) -> None:
    """And leaves nothing behind; nor does one of another tenant's message help."""
    await conversation(store, KEY, 1)
    elsewhere = SessionKey("acme", KEY.session_id)
    await conversation(store, elsewhere, 1)
    foreign = (await branch_of(store, elsewhere))[0].id
    before = await store.load(KEY, 10)
    for missing in ("no-such-message", foreign):
        with pytest.raises(NotFound):
            await store.start_turn(replace(start(), **{how: missing}))  # type: ignore[arg-type]
    assert await store.load(KEY, 10) == before


async def test_what_a_turn_carries_along_goes_in_behind_its_answer(store: Store) -> None:
    """The last of it is the leaf, in the same commit; the turn ends as any other."""
    await conversation(store, KEY, 1)
    question, answer = await branch_of(store)
    turn = regenerated(answer, question)
    first = message("first", turn.answer.id, role="system")
    second = message("second", first.id, role="system")

    started = await start_it(store, replace(turn, carried=(first, second)))

    assert (started.record.message_count, started.record.leaf_id) == (5, second.id)
    assert [m.id for m in await branch_of(store)] == [question.id, turn.answer.id, first.id, second.id]
    assert await store.record(KEY) == started.record


async def test_choosing_a_leaf_makes_its_branch_the_active_one(store: Store) -> None:
    """Under a fence of its own; counts, times and what else the record holds stay."""
    await conversation(store, KEY, 2)
    before = await branch_of(store)
    await run_turn(store, edited(before[2], "edited"))
    record_before = await store.record(KEY)
    assert record_before is not None

    chosen = await store.choose_leaf(KEY, before[-1].id)

    assert chosen == replace(record_before, fence=record_before.fence + 1, leaf_id=before[-1].id)
    assert [m.id for m in await branch_of(store)] == [m.id for m in before]
    assert await store.record(KEY) == chosen


async def test_no_branch_is_chosen_that_is_not_there_or_while_a_turn_runs(store: Store) -> None:
    """Nothing changes then."""
    await conversation(store, KEY, 1)
    question, answer = await branch_of(store)
    with pytest.raises(NotFound):
        await store.choose_leaf(KEY, "no-such-message")
    with pytest.raises(NotFound):
        await store.choose_leaf(SessionKey("acme", KEY.session_id), answer.id)
    running = regenerated(answer, question)
    await start_it(store, running)
    before = await store.record(KEY)
    with pytest.raises(Conflict) as refused:
        await store.choose_leaf(KEY, answer.id)
    assert refused.value.narrow_code == "busy"
    assert await store.record(KEY) == before


async def test_the_leaf_is_found_behind_any_message(store: Store) -> None:
    """The active one where it lies behind, else the newest, and the message itself where nothing does."""
    await conversation(store, KEY, 2)
    first = await branch_of(store)
    turn = edited(first[2], "edited")
    await run_turn(store, turn)

    for message_id, leaf in (
        (first[0].id, turn.answer.id),
        (first[1].id, turn.answer.id),
        (first[2].id, first[3].id),
        (first[3].id, first[3].id),
        (turn.user_message.id, turn.answer.id),
    ):
        assert await store.leaf_behind(KEY, message_id) == leaf
    await run_turn(store, edited(first[2], "edited again"))
    await store.choose_leaf(KEY, first[3].id)
    assert await store.leaf_behind(KEY, first[0].id) == first[3].id
    assert await store.leaf_behind(KEY, turn.user_message.id) == turn.answer.id
    assert await store.leaf_behind(KEY, "no-such-message") is None
    assert await store.leaf_behind(SessionKey("acme", KEY.session_id), first[0].id) is None


async def test_a_message_is_found_in_its_session_only(store: Store) -> None:
    """Whichever branch it is on."""
    await conversation(store, KEY, 1)
    question, _ = await branch_of(store)
    assert await store.message(KEY, question.id) == question
    for key in (SessionKey("acme", KEY.session_id), SessionKey(KEY.tenant, "other")):
        assert await store.message(key, question.id) is None


async def test_the_system_messages_of_a_branch_are_found_however_old(store: Store) -> None:
    """Those of that branch, the newest of them, oldest first."""
    await conversation(store, KEY, 1)
    answer = (await branch_of(store))[-1]
    leaf = answer.id
    for number in range(3):
        told = message(f"system {number}", leaf, role="system")
        await store.add_message(KEY, told, create=None, new_fence=True, expires_at=EXPIRES, now=NOW)
        turn = start(parent_id=told.id)
        await run_turn(store, turn)
        leaf = turn.answer.id

    async def found(leaf_id: str, limit: int) -> list[str]:
        return [m.content for m in await store.system_messages(KEY, leaf_id=leaf_id, limit=limit)]

    assert await found(leaf, 10) == ["system 0", "system 1", "system 2"]
    assert await found(leaf, 2) == ["system 1", "system 2"]
    assert await found(answer.id, 10) == []


async def test_metadata_of_a_message_is_set_and_nothing_else(store: Store) -> None:
    """With a fence or without; the record's times and counts stay."""
    await conversation(store, KEY, 1)
    _, answer = await branch_of(store)
    before = await store.record(KEY)
    assert before is not None

    with_fence = await store.annotate_message(KEY, answer.id, {"feedback": {"rating": "up"}}, new_fence=True)
    assert with_fence == replace(before, fence=before.fence + 1)
    assert await store.message(KEY, answer.id) == replace(answer, metadata={"feedback": {"rating": "up"}})
    assert await store.annotate_message(KEY, answer.id, {}, new_fence=False) == with_fence
    assert await store.message(KEY, answer.id) == answer
    for key, message_id in ((KEY, "no-such-message"), (SessionKey("acme", KEY.session_id), answer.id)):
        with pytest.raises(NotFound):
            await store.annotate_message(key, message_id, {"a": 1}, new_fence=True)


async def test_a_fork_holds_a_copy_of_the_branch(store: Store) -> None:
    """Up to the message, and no more; the copies have no siblings; either session goes on by itself."""
    await conversation(store, KEY, 2)
    branch = await branch_of(store)
    await run_turn(store, regenerated(branch[3], branch[2]), "another")
    branch = await branch_of(store)
    original = await store.load(KEY, 10)

    forked = await store.fork_session(KEY, branch[3].id, record(FORK, title="fork", updated_at=LATER), 100, 1000)

    assert (forked.title, forked.message_count, forked.leaf_id) == ("fork", 4, branch[3].id)
    assert (forked.last_message_at, forked.fence) == (LATER, 1)
    assert await store.record(FORK) == forked
    assert await branch_of(store, FORK) == tuple(replace(m, siblings=()) for m in branch)
    assert await store.load(KEY, 10) == original
    await run_turn(store, start(FORK, "on", parent_id=branch[3].id))
    assert len(await branch_of(store, FORK)) == 6
    assert await store.delete_session(KEY)
    assert len(await branch_of(store, FORK)) == 6


async def test_a_fork_that_cannot_be_made_leaves_nothing(store: Store) -> None:
    """No such message, a running answer, too many messages or bytes in the branch, a session that is there."""
    await conversation(store, KEY, 2)
    *_, answer = await branch_of(store)
    new = record(FORK)
    with pytest.raises(NotFound):
        await store.fork_session(KEY, "no-such-message", new, 100, 1000)
    with pytest.raises(TooLarge):
        await store.fork_session(KEY, answer.id, new, 3, 1000)
    held = sum(len(m.content.encode()) for m in await branch_of(store))
    with pytest.raises(TooLarge):
        await store.fork_session(KEY, answer.id, new, 100, held - 1)
    with pytest.raises(Conflict):
        await store.fork_session(KEY, answer.id, record(KEY), 100, 1000)
    running = start(parent_id=answer.id)
    await start_it(store, running)
    with pytest.raises(Conflict) as refused:
        await store.fork_session(KEY, running.answer.id, new, 100, 1000)
    assert refused.value.narrow_code == "busy"
    assert await store.record(FORK) is None
    made = await store.fork_session(KEY, answer.id, new, 4, held)
    assert made.message_count == 4


async def test_a_text_counts_whole_for_a_fork_whatever_stands_in_it(store: Store) -> None:
    """NUL, which ends a text for SQLite's own count, among it."""
    await store.create_session(record(KEY))
    text = message("\0" * 50 + "é" * 25)
    await store.add_message(KEY, text, create=None, new_fence=True, expires_at=EXPIRES, now=NOW)

    with pytest.raises(TooLarge):
        await store.fork_session(KEY, text.id, record(FORK), 1, 99)
    assert (await store.fork_session(KEY, text.id, record(FORK), 1, 100)).message_count == 1


async def test_a_regeneration_that_a_crash_ended_is_an_interrupted_sibling(store: Store) -> None:
    """The first answer is as it was."""
    await conversation(store, KEY, 1)
    question, answer = await branch_of(store)
    again = regenerated(answer, question)
    assert isinstance(await store.start_turn(again), Started)

    assert (await store.recover(NOW)).interrupted == 1

    both = (answer.id, again.answer.id)
    assert [(m.id, m.status, m.siblings) for m in await branch_of(store)] == [
        (question.id, "completed", ()),
        (again.answer.id, "interrupted", both),
    ]
    assert await store.message(KEY, answer.id) == replace(answer, siblings=both)
