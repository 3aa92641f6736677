"""The Store protocol's promises about many sessions at once, on every implementation."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from chatserver.errors import NotFound
from chatserver.store.base import ProjectSummary, SessionFilter, SessionKey, SessionRecord, SessionStats, Store
from tests.store.build import EXPIRES, KEY, LATER, NOW, conversation, finish, message, record, run_turn, start

ZOE, BOB = "user:zoë", "user:bob"


def key(number: int, tenant: str = "t") -> SessionKey:
    return SessionKey(tenant, f"s-{number}")


def mine(**fields: Any) -> SessionFilter:
    return replace(SessionFilter("t", ZOE, NOW), **fields)


async def make(store: Store, number: int, **fields: Any) -> SessionRecord:
    """A session of Zoë's in tenant `t`; the later its number, the later it was used."""
    return await store.create_session(record(key(number), **{"owner": ZOE, "updated_at": NOW + number, **fields}))


async def ids(store: Store, where: SessionFilter, limit: int = 100, **page: Any) -> list[str]:
    return [s.record.key.session_id for s in await store.list_sessions(where, limit=limit, **page)]


# --- lists ---


async def test_a_list_begins_with_the_session_used_last(store: Store) -> None:
    """Each as its record stands."""
    made = [await make(store, n) for n in (2, 3, 1)]

    listed = await store.list_sessions(mine(), limit=10)

    assert [s.record for s in listed] == [made[1], made[0], made[2]]


async def test_a_list_holds_nobody_elses_sessions(store: Store) -> None:
    """Not another owner's, not another tenant's, none without an owner, and for nobody there is none at all."""
    await make(store, 1)
    await make(store, 2, owner=BOB)
    await make(store, 3, owner=None)
    await store.create_session(record(key(4, "other"), owner=ZOE))

    assert await ids(store, mine()) == ["s-1"]
    assert await ids(store, mine(owner=None)) == []
    assert await ids(store, mine(tenant="other")) == ["s-4"]
    assert await ids(store, mine(owner="user:zo")) == []


async def test_a_list_leaves_out_what_has_expired_or_was_archived(store: Store) -> None:
    """Archived sessions come where they are asked for."""
    await make(store, 1, expires_at=NOW)
    await make(store, 2, is_active=False)
    await make(store, 3)

    assert await ids(store, mine()) == ["s-3"]
    assert await ids(store, mine(include_inactive=True)) == ["s-3", "s-2"]
    assert await ids(store, mine(include_inactive=True, now=NOW - 1)) == ["s-3", "s-2", "s-1"]


async def test_a_list_can_be_of_one_project(store: Store) -> None:
    """And a project without sessions is an empty list."""
    for number, project in enumerate(("a", "b", "a")):
        await make(store, number, project_id=project)

    assert await ids(store, mine(project_id="a")) == ["s-2", "s-0"]
    assert await ids(store, mine(project_id="c")) == []


@pytest.mark.parametrize("project_id", [None, "default"])
async def test_pages_join_without_gap_or_repetition(store: Store, project_id: str | None) -> None:
    """By offset and by cursor, with many sessions of the same moment."""
    for number in range(25):
        await make(store, number, updated_at=NOW + number // 10)
    where = mine(project_id=project_id)
    whole = await ids(store, where)

    by_offset = [i for offset in range(0, 30, 4) for i in await ids(store, where, 4, offset=offset)]
    by_cursor: list[str] = []
    after: tuple[float, str] | None = None
    while page := await store.list_sessions(where, limit=4, after=after):
        by_cursor += [s.record.key.session_id for s in page]
        after = (page[-1].record.updated_at, page[-1].record.key.session_id)

    assert len(set(whole)) == 25
    assert by_offset == by_cursor == whole


async def test_a_cursor_is_not_disturbed_by_what_moves_to_the_front(store: Store) -> None:
    """A session used meanwhile leaves its place; the next page shows the others, each once."""
    for number in range(6):
        await make(store, number)
    first = await store.list_sessions(mine(), limit=2)
    await store.add_message(key(3), message("x"), create=None, new_fence=True, expires_at=EXPIRES, now=LATER)

    last = first[-1].record
    assert await ids(store, mine(), after=(last.updated_at, last.key.session_id)) == ["s-2", "s-1", "s-0"]


async def test_a_turn_moves_its_session_to_the_front(store: Store) -> None:
    """Its start does, and its end leaves it there."""
    for number in (1, 2):
        await make(store, number)
    turn = start(key(1), now=LATER)
    await store.start_turn(turn)
    assert await ids(store, mine()) == ["s-1", "s-2"]

    await store.finish_turn(finish(turn, now=LATER + 9))

    listed = await store.list_sessions(mine(), limit=1)
    assert (listed[0].record.updated_at, listed[0].record.message_count) == (LATER, 2)


async def test_a_deleted_session_is_in_no_list(store: Store) -> None:
    """At once."""
    await make(store, 1)
    await store.delete_session(key(1))

    assert await ids(store, mine()) == []


# --- previews ---


async def preview(store: Store) -> str | None:
    return (await store.list_sessions(mine(), limit=1))[0].last_message_preview


async def test_a_preview_shows_the_newest_message(store: Store) -> None:
    """None of a session without messages; of one that is being answered, the question."""
    await make(store, 1)
    assert await preview(store) is None
    turn = start(key(1), "what  is\n\tthis?")
    await store.start_turn(turn)
    assert await preview(store) == "what is this?"

    await store.finish_turn(finish(turn, " an\n\nanswer " + "x" * 200))

    assert await preview(store) == "an answer " + "x" * 90


async def test_a_preview_shows_no_markdown(store: Store) -> None:
    """A list is plain text; what is Markdown alone gives way to the message before."""
    await make(store, 1)
    turn = start(key(1), "# What is **this**?")
    await store.start_turn(turn)
    assert await preview(store) == "What is this?"

    await store.finish_turn(finish(turn, "```\n"))
    assert await preview(store) == "What is this?"


async def test_a_preview_follows_the_active_branch(store: Store) -> None:
    """Not the newest message of another one."""
    await make(store, 1)
    turn = start(key(1))
    await run_turn(store, turn, "left")
    for text, parent in (("right", None), ("left again", turn.answer.id)):
        await store.add_message(key(1), message(text, parent), create=None, new_fence=True, expires_at=EXPIRES, now=NOW)

    assert await preview(store) == "left again"


async def test_a_text_of_white_space_gives_no_preview(store: Store) -> None:
    """Nothing to show is None, not an empty text."""
    await make(store, 1)
    await store.add_message(key(1), message(" \n\t"), create=None, new_fence=True, expires_at=EXPIRES, now=NOW)

    assert await preview(store) is None


# --- sums ---


async def test_projects_are_told_with_their_sums(store: Store) -> None:
    """The one used last first; own, unexpired sessions only, archived ones too."""
    await make(store, 1, project_id="a")
    await make(store, 2, project_id="b")
    await make(store, 3, project_id="a", is_active=False)
    await make(store, 4, project_id="c", owner=BOB)
    await make(store, 5, project_id="d", expires_at=NOW)
    await run_turn(store, start(key(2), now=LATER))

    projects = await store.list_projects("t", ZOE, NOW)

    assert projects == (ProjectSummary("b", 1, 2, LATER), ProjectSummary("a", 2, 0, NOW + 3))
    assert await store.list_projects("t", ZOE, NOW, limit=1) == projects[:1]
    assert await store.list_projects("t", None, NOW) == ()
    assert await store.list_projects("other", ZOE, NOW) == ()


async def test_statistics_count_what_lists_show(store: Store) -> None:
    """Of everything, and of one project."""
    await make(store, 1, project_id="a")
    await make(store, 2, project_id="b")
    await make(store, 3, project_id="a", is_active=False)
    await make(store, 4, owner=BOB)
    await make(store, 5, expires_at=NOW)
    await run_turn(store, start(key(1), now=LATER))

    everything = await store.session_stats("t", ZOE, None, NOW)

    assert everything == SessionStats(3, 2, 2, {"a": 2, "b": 1}, LATER)
    assert everything.average_messages_per_session == 2 / 3
    assert await store.session_stats("t", ZOE, "b", NOW) == SessionStats(1, 1, 0, {"b": 1}, NOW + 2)
    nothing = await store.session_stats("t", None, None, NOW)
    assert (nothing, nothing.average_messages_per_session) == (SessionStats(0, 0, 0, {}, None), 0.0)


# --- pages of messages ---


@pytest.mark.parametrize(("offset", "limit"), [(0, 3), (2, 3), (4, 100), (6, 3), (7, 3), (0, 100), (0, 0)])
async def test_messages_are_paged_from_the_oldest(store: Store, offset: int, limit: int) -> None:
    """Beyond the end there is nothing."""
    texts = await conversation(store, KEY, 3)

    page = await store.message_page(KEY, offset=offset, limit=limit)

    assert [m.content for m in page] == texts[offset : offset + limit]


async def test_a_page_of_messages_is_of_the_active_branch(store: Store) -> None:
    """What stands on another branch is not counted either."""
    first = start(create=True)
    await run_turn(store, first, "answer")
    for text in ("left", "right"):
        branch = message(text, first.answer.id)
        await store.add_message(KEY, branch, create=None, new_fence=True, expires_at=EXPIRES, now=NOW)

    assert [m.content for m in await store.message_page(KEY, offset=1, limit=5)] == ["answer", "right"]


async def test_a_page_of_an_unknown_session_is_not_found(store: Store) -> None:
    """An empty session, in contrast, has no messages."""
    with pytest.raises(NotFound):
        await store.message_page(KEY, offset=0, limit=5)
    await store.create_session(record())

    assert await store.message_page(KEY, offset=0, limit=5) == ()


# --- adoption ---


async def test_adopted_sessions_belong_to_the_new_owner(store: Store) -> None:
    """All of them, each under a new fence, in their old order; nobody else's, and none that has expired."""
    before = [await make(store, n, owner="visitor:1") for n in range(250)]
    await make(store, 300, owner="visitor:1", expires_at=NOW)
    await make(store, 301, owner="visitor:2")
    await store.create_session(record(key(302, "other"), owner="visitor:1"))

    adopted = await store.adopt_sessions("t", "visitor:1", ZOE, NOW)

    assert sorted(adopted) == sorted(r.key for r in before)
    assert await ids(store, mine(), 1000) == [r.key.session_id for r in reversed(before)]
    assert await store.record(key(7)) == replace(before[7], owner=ZOE, fence=2)
    for untouched, owner in ((key(300), "visitor:1"), (key(301), "visitor:2"), (key(302, "other"), "visitor:1")):
        left = await store.record(untouched)
        assert left is not None
        assert (left.owner, left.fence) == (owner, 1)
    assert await store.adopt_sessions("t", "visitor:1", ZOE, NOW) == ()


async def test_of_two_adoptions_at_once_each_session_goes_to_one(store: Store) -> None:
    """Two logins of the same browser."""
    for number in range(250):
        await make(store, number, owner="visitor:1")

    for_zoe, for_bob = await asyncio.gather(
        store.adopt_sessions("t", "visitor:1", ZOE, NOW), store.adopt_sessions("t", "visitor:1", BOB, NOW)
    )

    assert len(for_zoe) + len(for_bob) == len({*for_zoe, *for_bob}) == 250
    assert sorted(await ids(store, mine(), 1000)) == sorted(k.session_id for k in for_zoe)
    assert sorted(await ids(store, mine(owner=BOB), 1000)) == sorted(k.session_id for k in for_bob)


async def test_adopting_from_oneself_changes_nothing(store: Store) -> None:
    """And ends."""
    made = await make(store, 1)

    assert await store.adopt_sessions("t", ZOE, ZOE, NOW) == ()
    assert await store.record(key(1)) == made


# --- what has expired ---


async def test_expired_sessions_are_purged_in_batches(store: Store) -> None:
    """The longest expired first, whole; those that live stay."""
    for number in range(5):
        await make(store, number, expires_at=NOW + number)
        await run_turn(store, replace(start(key(number)), expires_at=NOW + number))
    await make(store, 9)

    first = await store.purge_expired(NOW + 3, 2)
    second = await store.purge_expired(NOW + 3, 2)
    third = await store.purge_expired(NOW + 3, 2)

    assert (first, second, third) == ((key(0), key(1)), (key(2),), ())
    for number in range(3):
        assert await store.load(key(number), 10) is None
    assert await ids(store, mine(now=NOW)) == ["s-9", "s-4", "s-3"]


async def test_an_extended_session_is_purged_by_its_new_expiry(store: Store) -> None:
    """A turn pushes it, and so does a change."""
    await make(store, 1, expires_at=NOW + 10)
    await make(store, 2, expires_at=NOW + 10)
    await run_turn(store, replace(start(key(1)), expires_at=NOW + 20))
    await store.update_session(key(2), {"expires_at": NOW + 30}, new_fence=False, now=NOW)

    purged = [await store.purge_expired(NOW + at, 10) for at in (11, 21, 31)]

    assert purged == [(), (key(1),), (key(2),)]


async def test_sessions_that_were_extended_hide_none_that_expired(store: Store) -> None:
    """However many of them are due to be looked at before it."""
    for number in range(30):
        await make(store, number, expires_at=NOW + number / 100)
        if number != 29:
            await store.update_session(key(number), {"expires_at": EXPIRES}, new_fence=False, now=NOW)

    purged = [await store.purge_expired(NOW + 1, 5) for _ in range(2)]

    assert purged == [(key(29),), ()]


async def test_an_expired_session_is_kept_for_a_while(store: Store) -> None:
    """So that who comes late is told that it expired."""
    await make(store, 1, expires_at=NOW)

    assert await store.purge_expired(NOW + 60, 10, kept_seconds=60) == ()
    assert await store.purge_expired(NOW + 61, 10, kept_seconds=60) == (key(1),)


async def test_a_spared_session_is_purged_later(store: Store) -> None:
    """It stands in nobody's way meanwhile, however small the batches."""
    for number in (1, 2):
        await make(store, number, expires_at=NOW + number)

    first = await store.purge_expired(NOW + 9, 1, spare=[key(1)])
    second = await store.purge_expired(NOW + 9, 1, spare=[key(1)])
    later = await store.purge_expired(NOW + 9999, 1)

    assert {first, second} <= {(), (key(2),)}
    assert await store.record(key(2)) is None
    assert later == (key(1),)


async def test_a_purged_session_leaves_its_fence_for_a_month(store: Store) -> None:
    """As a deleted one does, and without a start of the server in between."""
    day = 86_400.0
    await make(store, 1, expires_at=NOW)
    await store.purge_expired(NOW + 1, 10)
    await store.purge_expired(NOW + 2, 10)
    again = await make(store, 1, expires_at=NOW + day)
    await store.purge_expired(NOW + 2 * day, 10)
    await store.purge_expired(NOW + 2 * day + 1, 10)
    await store.purge_expired(NOW + 33 * day, 10)
    forgotten = await make(store, 1)

    assert (again.fence, forgotten.fence) == (3, 1)
