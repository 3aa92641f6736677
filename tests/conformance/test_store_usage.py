"""What stores promise of tokens used: counted once, for the right owner and day, and read back as sums."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from chatserver.message import Outcome, Usage
from chatserver.store.base import Chunk, QuotaUse, SessionKey, Store, UsageRow
from chatserver.usage import day_of
from tests.store.build import NOW, finish, record, start

DAY = day_of(NOW)
DAY_SECONDS = 86400
KEY = SessionKey("public", "session-1")


async def turn(
    store: Store,
    usage: Usage | None,
    *,
    key: SessionKey = KEY,
    owner: str | None = "user:a",
    project_id: str = "default",
    model: str = "tiny",
    outcome: Outcome = "completed",
    day: int = DAY,
) -> None:
    """A whole turn in that session, which is made where it is not there."""
    now = float(day * DAY_SECONDS + 3600)
    await store.create_session(record(key, owner=owner, project_id=project_id))
    begun = start(key, now=now)
    begun = replace(begun, answer=replace(begun.answer, model=model))
    await store.start_turn(begun)
    await store.finish_turn(finish(begun, "x", outcome, now=now, usage=usage))
    await store.finish_turn(finish(begun, "x", outcome, now=now, usage=usage))  # as after a store that was away


async def test_a_turn_s_end_counts_its_tokens_once(store: Store) -> None:
    """A terminal state is tried again when the store was away, and must not be charged twice."""
    await turn(store, Usage(10, 5, reasoning_tokens=2, cached_tokens=4))
    await turn(store, Usage(1, 1, estimated=True))

    assert await store.usage("public", "user:a", DAY, DAY) == (UsageRow("default", "tiny", 2, 1, 11, 6, 2, 4),)
    assert await store.quota_use("public", "user:a", DAY, DAY) == QuotaUse(17, 17, 17, 17)


@pytest.mark.parametrize("outcome", ["completed", "interrupted", "failed"])
async def test_every_outcome_is_counted(outcome: Outcome, store: Store) -> None:
    """What was used was used, whatever became of it."""
    await turn(store, Usage(3, 4), outcome=outcome)

    assert (await store.quota_use("public", "user:a", DAY, DAY)).owner_day == 7


async def test_a_turn_without_usage_counts_nothing(store: Store) -> None:
    """One that failed before it began."""
    await turn(store, None, outcome="failed")

    assert await store.usage("public", "user:a", DAY, DAY) == ()
    assert await store.quota_use("public", "user:a", DAY, DAY) == QuotaUse()


async def test_sums_are_by_project_and_model(store: Store) -> None:
    """And may be asked for of one project."""
    await turn(store, Usage(1, 0), key=SessionKey("public", "s1"), project_id="b", model="tiny")
    await turn(store, Usage(2, 0), key=SessionKey("public", "s2"), project_id="a", model="tiny")
    await turn(store, Usage(4, 0), key=SessionKey("public", "s2"), project_id="a", model="large")

    rows = await store.usage("public", "user:a", DAY, DAY)
    assert [(row.project_id, row.model, row.prompt_tokens) for row in rows] == [
        ("a", "large", 4),
        ("a", "tiny", 2),
        ("b", "tiny", 1),
    ]
    assert await store.usage("public", "user:a", DAY, DAY, project_id="b") == rows[2:]


async def test_days_and_months_are_apart(store: Store) -> None:
    """A quota of the day looks at the day, one of the month at all its days, and neither at the month before."""
    for day, tokens in ((DAY - 40, 100), (DAY - 2, 10), (DAY, 1)):
        await turn(store, Usage(tokens, 0), day=day)

    assert await store.quota_use("public", "user:a", DAY - 5, DAY) == QuotaUse(1, 11, 1, 11)
    assert [row.prompt_tokens for row in await store.usage("public", "user:a", DAY - 5, DAY - 1)] == [10]


async def test_owners_and_tenants_are_apart(store: Store) -> None:
    """Nobody sees another's use; the tenant's is the sum of all its owners, of its sessions without one too."""
    await turn(store, Usage(1, 0))
    await turn(store, Usage(2, 0), key=SessionKey("public", "s2"), owner="visitor:b")
    await turn(store, Usage(4, 0), key=SessionKey("public", "s3"), owner=None)
    await turn(store, Usage(8, 0), key=SessionKey("acme", "s1"))

    assert await store.quota_use("public", "user:a", DAY, DAY) == QuotaUse(1, 1, 7, 7)
    assert await store.quota_use("public", None, DAY, DAY) == QuotaUse(4, 4, 7, 7)
    assert await store.quota_use("acme", "user:a", DAY, DAY) == QuotaUse(8, 8, 8, 8)
    assert [row.prompt_tokens for row in await store.usage("public", None, DAY, DAY)] == [4]
    assert await store.usage("acme", "visitor:b", DAY, DAY) == ()


async def test_what_was_used_outlives_its_session(store: Store) -> None:
    """Deleting does not give tokens back."""
    await turn(store, Usage(5, 5))
    await store.delete_session(KEY)

    assert (await store.quota_use("public", "user:a", DAY, DAY)).owner_day == 10


async def test_it_counts_for_who_has_the_session_when_its_turn_ends(store: Store) -> None:
    """A visitor who logs in brings the sessions, and not what was used in them."""
    await turn(store, Usage(1, 0), owner="visitor:v")
    await store.adopt_sessions("public", "visitor:v", "user:u", NOW)
    await turn(store, Usage(2, 0))

    assert (await store.quota_use("public", "visitor:v", DAY, DAY)).owner_day == 1
    assert (await store.quota_use("public", "user:u", DAY, DAY)).owner_day == 2


async def test_a_session_s_messages_tell_what_each_has_used(store: Store) -> None:
    """Over all branches; a session that is not there has used nothing."""
    await turn(store, Usage(1, 2), model="tiny")
    await turn(store, Usage(3, 4), model="large")

    assert sorted(await store.session_usage(KEY), key=str) == [("large", Usage(3, 4)), ("tiny", Usage(1, 2))]
    assert await store.session_usage(SessionKey("acme", KEY.session_id)) == ()


async def test_a_turn_that_a_crash_cut_off_is_estimated_at_the_start(store: Store) -> None:
    """With its question and what was saved of its answer; a second start counts nothing more."""
    await store.create_session(record(owner="user:a"))
    begun = start(text="q" * 30, now=NOW)
    begun = replace(begun, answer=replace(begun.answer, content="a" * 60, model="tiny"))
    await store.start_turn(begun)
    await store.recover(NOW)
    await store.recover(NOW)

    assert await store.usage("public", "user:a", DAY, DAY) == (UsageRow("default", "tiny", 1, 1, 10, 20),)
    (answer,) = (m for m in await store.messages(KEY, leaf_id=None, limit=9) if m.role == "assistant")
    assert answer.usage == Usage(10, 20, estimated=True)


async def test_what_is_used_beside_turns_counts_and_is_no_turn(store: Store) -> None:
    """For the session's owner and tenant, and for nobody where there is no such session."""
    await turn(store, Usage(10, 20))
    await store.add_usage(KEY, "tiny", Usage(1, 2, estimated=True), NOW)
    await store.add_usage(KEY, "titles", Usage(3, 4), NOW)
    await store.add_usage(SessionKey("public", "not there"), "tiny", Usage(100, 100), NOW)

    assert await store.usage("public", "user:a", DAY, DAY) == (
        UsageRow("default", "tiny", 1, 1, 11, 22),
        UsageRow("default", "titles", 0, 0, 3, 4),
    )
    assert await store.quota_use("public", "user:a", DAY, DAY) == QuotaUse(40, 40, 40, 40)


async def test_what_an_agent_had_told_before_a_crash_counts(store: Store) -> None:
    """The newest of it, and an estimate of what was written since; nothing of it is a part of the answer."""
    await store.create_session(record(owner="user:a"))
    begun = start(text="q" * 30, now=NOW)
    begun = replace(begun, answer=replace(begun.answer, model="tiny"))
    await store.start_turn(begun)
    bodies: list[list[Any]] = [
        [["usage", {"usage": Usage(500, 1), "after": 0}]],
        [["text", "a" * 30], ["usage", {"usage": Usage(1000, 7, cached_tokens=3), "after": 30}]],
        [["text", "b" * 60]],
    ]
    await store.checkpoint([Chunk(KEY, begun.turn_id, n, orjson.dumps(body)) for n, body in enumerate(bodies)])
    await store.recover(NOW)
    await store.recover(NOW)

    assert await store.usage("public", "user:a", DAY, DAY) == (UsageRow("default", "tiny", 1, 1, 1000, 7 + 20, 0, 3),)
    (answer,) = (m for m in await store.messages(KEY, leaf_id=None, limit=9) if m.role == "assistant")
    assert answer.content == "a" * 30 + "b" * 60
    assert answer.usage == Usage(1000, 27, 0, 3, estimated=True)


async def test_old_days_are_forgotten_in_batches(store: Store) -> None:
    """They are nobody's quota any more."""
    for day in range(5):
        await turn(store, Usage(1, 0), day=DAY - day)

    while await store.forget_usage(DAY - 1, 1):
        pass
    assert len(await store.usage("public", "user:a", DAY - 9, DAY)) == 1
    assert await store.quota_use("public", "user:a", DAY - 9, DAY) == QuotaUse(1, 2, 1, 2)
