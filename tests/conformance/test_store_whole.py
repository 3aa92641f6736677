"""The Store protocol's promises about whole sessions, which export and import stand on."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from chatserver.errors import Conflict
from chatserver.message import Message
from chatserver.store.base import Chunk, SessionFilter, SessionKey, Started, Store, WholeSession
from tests.store.build import (
    EXPIRES,
    KEY,
    LATER,
    NOW,
    conversation,
    message,
    queued,
    record,
    rich_answer,
    run_turn,
    start,
)


async def whole_of(store: Store, key: SessionKey) -> WholeSession:
    """What the protocol's reads give of a session."""
    stored = await store.load(key, 0)
    assert stored is not None
    ids = [message_id for message_id, _ in await store.message_links(key)]
    return WholeSession(stored.record, await store.messages_by_id(key, ids), stored.queue)


def a_tree(key: SessionKey = KEY) -> WholeSession:
    """A session with two branches, a rich answer, a queue, and times that differ."""
    root = message("question", metadata={"client_message_id": "c-1"})
    first = rich_answer(message("", root.id, role="assistant"))
    second = replace(message("another", root.id, role="assistant", status="interrupted"), reasoning="hm")
    system = message("note", first.id, role="system")
    return WholeSession(
        record(
            key,
            owner="user:zoë",
            project_id="p-1",
            title="A “title”",
            metadata={"tags": ["a", 1, None]},
            is_active=False,
            created_at=NOW + 0.1234567,
            updated_at=NOW + 99.5,
            last_message_at=NOW + 50.25,
            message_count=4,
            leaf_id=system.id,
        ),
        (root, first, second, system),
        (queued("waits", "c-2", model="tiny"), queued("waits too")),
    )


async def test_an_imported_session_is_as_it_was_given(store: Store) -> None:
    """Record, every branch, the queue in order; only the fence is the store's."""
    given = a_tree()

    assert await store.import_session(given, replace=False) == "added"

    found = await whole_of(store, KEY)
    assert found == replace(given, record=replace(given.record, fence=1))
    branch = await store.messages(KEY, leaf_id=None, limit=10)
    assert [m.content for m in branch] == ["question", given.messages[1].content, "note"]
    assert branch[1].siblings == (given.messages[1].id, given.messages[2].id)
    assert await store.find_turn(KEY, "c-2") == given.queue[0].turn_id


async def test_importing_again_writes_nothing(store: Store) -> None:
    """Also when the session has been looked at meanwhile, which pushes its expiry."""
    await store.import_session(a_tree(), replace=False)
    whole = await whole_of(store, KEY)
    await store.update_session(KEY, {}, new_fence=True, now=LATER)
    before = await whole_of(store, KEY)

    later = replace(whole.record, expires_at=EXPIRES + 77)
    assert await store.import_session(replace(whole, record=later), replace=False) == "same"
    assert await store.import_session(replace(whole, record=later), replace=True) == "same"

    assert await whole_of(store, KEY) == before


@pytest.mark.parametrize("change", ["title", "message", "fewer", "queue", "leaf"])
async def test_another_session_of_that_id_is_replaced_only_when_asked(store: Store, change: str) -> None:
    """Whatever it is that differs; a replaced one has a greater fence: no tab may mistake it for the old one."""
    given = a_tree()
    await store.import_session(given, replace=False)
    before = await whole_of(store, KEY)
    root, *others = given.messages
    other = {
        "title": replace(given, record=replace(given.record, title="other")),
        "message": replace(given, messages=(replace(root, content="other"), *others)),
        "fewer": replace(
            given, messages=given.messages[:3], record=replace(given.record, leaf_id=given.messages[2].id)
        ),
        "queue": replace(given, queue=given.queue[:1]),
        "leaf": replace(given, record=replace(given.record, leaf_id=given.messages[2].id)),
    }[change]

    with pytest.raises(Conflict):
        await store.import_session(other, replace=False)
    assert await whole_of(store, KEY) == before

    assert await store.import_session(other, replace=True) == "replaced"
    after = await whole_of(store, KEY)
    assert after.record.fence > before.record.fence
    assert after.messages == other.messages
    assert after.record == replace(other.record, fence=after.record.fence, message_count=len(other.messages))


async def test_counts_of_an_imported_session_are_what_stands_beside_it(store: Store) -> None:
    """U6: whatever the record claims."""
    await store.import_session(replace(a_tree(), record=replace(a_tree().record, message_count=99)), replace=False)

    stored = await store.record(KEY)
    assert stored is not None
    assert stored.message_count == 4


async def test_an_imported_session_goes_on(store: Store) -> None:
    """A turn in it numbers its messages behind those that came in."""
    given = a_tree()
    await store.import_session(given, replace=False)
    turn = start(parent_id=given.record.leaf_id, text="and then?")

    await run_turn(store, turn, "done")

    links = await store.message_links(KEY)
    assert links[-2:] == ((turn.user_message.id, given.record.leaf_id), (turn.answer.id, turn.user_message.id))
    assert len(links) == 6


async def test_every_session_of_a_tenant_is_found_page_by_page(store: Store) -> None:
    """Expired, archived, anybody's; never another tenant's."""
    names = [f"s-{n}" for n in range(7)]
    for n, name in enumerate(names):
        await store.create_session(
            record(SessionKey("acme", name), owner=("user:x", None)[n % 2], is_active=n != 3, expires_at=NOW - n)
        )
    await store.create_session(record(SessionKey("other", "s-1")))

    assert await store.count_sessions("acme") == 7
    found: list[str] = []
    while page := await store.session_page("acme", after=found[-1] if found else "", limit=3):
        assert all(r.key.tenant == "acme" for r in page)
        found += [r.key.session_id for r in page]
    assert found == names
    assert (await store.count_sessions("nobody"), await store.session_page("nobody", limit=3)) == (0, ())


async def test_links_and_messages_of_what_is_not_stored_are_none(store: Store) -> None:
    """Reads that found nothing give nothing."""
    assert await store.message_links(KEY) == ()
    await conversation(store, KEY, 1)
    assert await store.messages_by_id(KEY, ["no-such"]) == ()
    assert await store.messages_by_id(SessionKey("acme", KEY.session_id), ["user-1"]) == ()


async def test_a_running_answer_has_what_its_checkpoints_give(store: Store) -> None:
    """What readers saw up to the last checkpoint is in an export that is made meanwhile."""
    turn = start(create=True)
    assert isinstance(await store.start_turn(turn), Started)
    for seq, text in enumerate(("once ", "upon")):
        await store.checkpoint([Chunk(KEY, turn.turn_id, seq, orjson.dumps([["text", text]]))])

    (answer,) = await store.messages_by_id(KEY, [turn.answer.id])

    assert isinstance(answer, Message)
    assert (answer.content, answer.status) == ("once upon", "streaming")


async def test_an_imported_session_is_found_by_what_is_in_it(store: Store) -> None:
    """And one that was replaced no more by what was in it before."""

    async def found(query: str) -> list[str]:
        where = SessionFilter("public", "user:zoë", NOW, include_inactive=True, query=query)
        return [s.record.key.session_id for s in await store.list_sessions(where, limit=10)]

    given = a_tree()
    await store.import_session(given, replace=False)
    await store.import_session(a_tree(SessionKey("public", "session-2")), replace=False)
    assert await found("another") == ["session-2", "session-1"]  # on a branch that is not the active one

    root, *others = given.messages
    await store.import_session(replace(given, messages=(replace(root, content="answerless"), *others)), replace=True)

    assert await found("question") == ["session-2"]
    assert await found("answerless") == ["session-1"]
