"""Quotas: what counts, when they are looked at, and when they begin anew. On virtual time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from chatserver.errors import QuotaExceeded
from chatserver.principal import Principal
from chatserver.session_service import Caller
from tests.core.readers import Reader
from tests.core.virtual import EPOCH, advance, settle, virtual, virtual_loop
from tests.core.world import NOBODY, World, world

USER = Caller(Principal("public", "user", "ada"), "10.0.0.1")
OTHER = Caller(Principal("public", "user", "bob"), "10.0.0.2")
VISITOR = Caller(Principal("public", "visitor", "v"), "10.0.0.3")
STRANGER = Caller(Principal("acme", "user", "eve"), "10.0.0.4")

DAY = 86400.0


async def jump(seconds: float) -> None:
    """Let much time pass at once: what is due in it happens once, and not every half second of a month."""
    await settle()
    virtual_loop().now += seconds
    await settle()


async def spend(w: World, tokens: int, caller: Caller = USER, session_id: str | None = None) -> None:
    """A whole turn that uses so many tokens."""
    session_id = session_id or f"of-{caller.principal.user_id}"
    await w.chat(session_id, "hello", caller)
    await settle()
    w.puppet.last.spend(tokens - 1, 1)
    w.puppet.last.end()
    await settle()


@virtual
async def test_a_turn_starts_while_anything_is_left_and_not_afterwards() -> None:
    """One that has begun is finished: a quota is looked at before a turn, so the last one may go over it."""
    async with world(quota_user_day_tokens=100) as w:
        await spend(w, 99)
        await spend(w, 50)
        with pytest.raises(QuotaExceeded) as refused:
            await w.chat("of-ada", "more", USER)

        assert refused.value.resets_at == "2026-01-02T00:00:00.000Z"
        assert refused.value.retry_after_seconds == DAY - (w.clock.now() - EPOCH)
        # Nothing of it was accepted.
        stored = await w.stored("of-ada", USER)
        assert stored is not None
        assert stored["message_count"] == 4


@virtual
async def test_a_day_s_quota_begins_anew_at_midnight_utc() -> None:
    """By the injected clock; not a second earlier."""
    async with world(quota_user_day_tokens=10) as w:
        await spend(w, 10)
        await jump(EPOCH + DAY - w.clock.now() - 1)
        with pytest.raises(QuotaExceeded) as refused:
            await w.chat("of-ada", "more", USER)
        assert refused.value.retry_after_seconds == 1
        await jump(1)

        await spend(w, 5)


@virtual
async def test_a_month_s_quota_holds_beyond_the_day_and_is_the_one_that_is_told() -> None:
    """Of two that are used up the one that holds longest: waiting for the other would not help."""
    async with world(quota_user_day_tokens=10, quota_user_month_tokens=15, user_session_ttl_seconds=90 * DAY) as w:
        await spend(w, 10)
        await jump(DAY)
        await spend(w, 10)
        with pytest.raises(QuotaExceeded) as refused:
            await w.chat("of-ada", "more", USER)

        assert refused.value.resets_at == "2026-02-01T00:00:00.000Z"
        await jump(datetime(2026, 2, 1, tzinfo=UTC).timestamp() - w.clock.now())
        await spend(w, 5)


@virtual
async def test_everybody_has_a_quota_of_their_own() -> None:
    """Users, visitors, tenants; one's use takes nothing from another."""
    async with world(quota_user_day_tokens=10, quota_visitor_day_tokens=20) as w:
        await spend(w, 10)
        for caller in (OTHER, VISITOR, STRANGER):
            await spend(w, 10, caller)
        for caller in (USER, OTHER, STRANGER):
            with pytest.raises(QuotaExceeded):
                await w.chat(f"of-{caller.principal.user_id}", "more", caller)
        await spend(w, 10, VISITOR)
        with pytest.raises(QuotaExceeded):
            await w.chat("of-v", "more", VISITOR)


@virtual
async def test_callers_without_identity_share_one_visitor_s_quota() -> None:
    """Otherwise leaving the cookie out would be a way around every quota."""
    async with world(quota_visitor_day_tokens=10) as w:
        await spend(w, 10, NOBODY, "one")
        elsewhere = Caller(NOBODY.principal, "10.9.9.9")
        with pytest.raises(QuotaExceeded):
            await w.chat("two", "more", elsewhere)
        await spend(w, 10, VISITOR)


@virtual
async def test_a_tenant_s_quota_is_its_users_together() -> None:
    """And no other tenant's."""
    async with world(quota_tenant_day_tokens=30) as w:
        await spend(w, 10)
        await spend(w, 10, VISITOR)
        await spend(w, 10, NOBODY, "unowned")
        with pytest.raises(QuotaExceeded) as refused:
            await w.chat("of-bob", "more", OTHER)
        assert "of all together" in refused.value.detail
        await spend(w, 30, STRANGER)


@virtual
async def test_a_queued_turn_is_looked_at_when_it_starts() -> None:
    """It was accepted, so it is not lost: it fails where everybody can see why."""
    async with world(quota_user_day_tokens=10) as w:
        reader = await w.reader("s", USER)
        await w.chat("s", "first", USER)
        await w.chat("s", "second", USER)
        await settle()
        w.puppet.last.spend(9, 1)
        w.puppet.last.end()
        await settle()

        ends = _ends(reader)
        assert [end["outcome"] for end in ends] == ["completed", "failed"]
        assert ends[1]["error"]["code"] == "quota_exceeded"
        assert "2026-01-02T00:00:00.000Z" in ends[1]["error"]["title"]
        assert "usage" not in ends[1]
        assert len(w.puppet.turns) == 1, "no agent was asked"
        assert reader.state["messages"][-1]["status"] == "failed"
        assert reader.state["queue"] == []
        assert await w.real_store.usage("public", "user:ada", 0, 10**6) != ()


@virtual
async def test_a_repetition_is_answered_as_the_first_time() -> None:
    """The answer to the message that took the rest was lost; its repetition is no new turn."""
    async with world(quota_user_day_tokens=10) as w:
        first = await w.chat("of-ada", "hello", USER, client_message_id="c1")
        await settle()
        w.puppet.last.spend(9, 1)
        w.puppet.last.end()
        await settle()

        assert await w.chat("of-ada", "hello", USER, client_message_id="c1") == first
        with pytest.raises(QuotaExceeded):
            await w.chat("of-ada", "hello", USER, client_message_id="c2")


@virtual
async def test_a_deleted_session_gives_nothing_back() -> None:
    """Also one that is deleted in the middle of its answer."""
    async with world(quota_user_day_tokens=10) as w:
        await w.chat("s", "hello", USER)
        await settle()
        w.puppet.last.say("a" * 60)
        await advance(1)
        await w.delete("s", USER)

        with pytest.raises(QuotaExceeded):
            await w.chat("t", "more", USER)


@virtual
async def test_without_quotas_nothing_is_read() -> None:
    """Most servers have none, and must not pay for it with each message."""
    async with world() as w:
        await spend(w, 10)

        assert "quota_use" not in w.store.calls


def _ends(reader: Reader) -> list[dict[str, Any]]:
    return [event for event in reader.events if event["type"] == "turn.ended"]
