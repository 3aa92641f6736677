"""SessionService: who may use, make and change a session, on the one door to them (spec S1-S5, V1-V5, V7)."""

from __future__ import annotations

import asyncio

import pytest

from chatserver.errors import (
    ChatServerError,
    Conflict,
    Expired,
    Forbidden,
    InvalidFields,
    InvalidRequest,
    NotFound,
    RateLimited,
    StoreUnavailable,
    TooLarge,
)
from chatserver.principal import Principal
from chatserver.session_rules import NewSession
from chatserver.session_service import Caller
from tests.core.puppets import Puppet
from tests.core.virtual import EPOCH, advance, settle, virtual
from tests.core.world import NOBODY, World, visitor, world

ALICE, BOB = visitor("alice"), visitor("bob")


async def opened(w: World, session_id: str | None, caller: Caller, create: str = "provisional") -> str:
    """The id of the session that this caller gets."""
    async with w.service.open(caller, session_id, create=create) as live:  # type: ignore[arg-type]
        return live.key.session_id


# --- identity ---


@virtual
async def test_without_an_id_one_is_minted() -> None:
    """A fresh one for each."""
    async with world() as w:
        ids = [await opened(w, None, NOBODY) for _ in range(3)]
        assert len(set(ids)) == 3
        assert all(len(i) == 36 for i in ids)


@pytest.mark.parametrize("session_id", ["a", "A-Z_0.9:x", "x" * 128])
def test_a_client_may_name_its_own_id(session_id: str) -> None:
    """One to 128 of the allowed characters, taken as it is."""

    @virtual
    async def test() -> None:
        async with world() as w:
            assert await opened(w, session_id, NOBODY) == session_id

    test()


@pytest.mark.parametrize(
    "session_id",
    ["", "x" * 129, "a/b", "a b", "a\n", "a\nb", "\u00e4", "\uff41", "a\x00", "..%2f", "\ud800", "a,b", "a@1-2"],
    ids=ascii,
)
def test_an_id_of_other_characters_is_refused(session_id: str) -> None:
    """Before anything is looked up, made or counted."""

    @virtual
    async def test() -> None:
        async with world(session_creations_per_minute=1) as w:
            for _ in range(3):
                with pytest.raises(InvalidFields) as refused:
                    await opened(w, session_id, NOBODY)
            assert refused.value.narrow_code == "invalid_session_id"
            assert len(w.manager) == 0
            assert "load" not in w.store.calls

    test()


# --- ownership ---


@pytest.mark.parametrize("where", ["live", "stored"])
def test_a_session_is_its_makers_alone(where: str) -> None:
    """403 for another visitor and for a caller without identity, in every way it may be asked for."""

    @virtual
    async def test() -> None:
        async with world() as w:
            await w.system("s", "mine", ALICE)
            if where == "stored":
                await w.kill()
                await w.start()
            for other in (BOB, NOBODY):
                for create in ("no", "provisional", "durable"):
                    with pytest.raises(Forbidden) as refused:
                        await opened(w, "s", other, create)
                    assert refused.value.narrow_code == "session_forbidden"
            assert await opened(w, "s", ALICE) == "s"
            live = w.manager.peek(w.key("s"))
            assert live is not None
            assert live.pins == 0, "a refused caller holds nothing"

    test()


@virtual
async def test_a_provisional_session_is_its_makers_too() -> None:
    """Reading first is no way into somebody's session."""
    async with world() as w:
        await w.touch("s", ALICE)
        for other in (BOB, NOBODY):
            with pytest.raises(Forbidden):
                await w.touch("s", other)


@virtual
async def test_an_unowned_session_is_for_callers_without_identity() -> None:
    """Whoever knows its id may use it, except a principal: a planted id can't capture a person's words."""
    async with world() as w:
        await w.system("s", "hello", NOBODY)
        await w.system("s", "from elsewhere", Caller(NOBODY.principal, "198.51.100.9"))
        for principal in (ALICE, BOB):
            with pytest.raises(Forbidden):
                await w.touch("s", principal)
            with pytest.raises(Forbidden):
                await w.chat("s", "my words", principal)
        assert len((await w.state("s"))["messages"]) == 2


@virtual
async def test_a_user_and_a_visitor_of_the_same_id_are_two() -> None:
    """The kind is part of who owns."""
    async with world() as w:
        await w.touch("s", Caller(Principal("public", "user", "x"), "192.0.2.1"))
        with pytest.raises(Forbidden):
            await w.touch("s", visitor("x"))


@virtual
async def test_another_tenants_session_does_not_exist_here() -> None:
    """404 where nothing is made; else a session of one's own under the same name. Neither learns of the other."""
    async with world() as w:
        foreign = visitor("alice", tenant="acme")
        await w.system("s", "secret", foreign)
        with pytest.raises(NotFound):
            await opened(w, "s", ALICE, "no")
        await w.system("s", "mine", ALICE)
        assert [m["content"] for m in (await w.state("s", ALICE))["messages"]] == ["mine"]
        assert [m["content"] for m in (await w.state("s", foreign))["messages"]] == ["secret"]


@virtual
async def test_two_who_create_the_same_id_at_once_do_not_share_it() -> None:
    """One gets it, the other is refused; nobody writes into the other's."""
    async with world() as w:
        results = await asyncio.gather(w.chat("s", "alice's", ALICE), w.chat("s", "bob's", BOB), return_exceptions=True)
        assert [isinstance(r, Forbidden) for r in results] == [False, True]
        assert [m["content"] for m in (await w.state("s", ALICE))["messages"]] == ["alice's", ""]


# --- creation ---


@virtual
async def test_reading_makes_a_provisional_session_and_writing_makes_it_durable() -> None:
    """Each kind of write does; before the first one the store knows nothing."""
    async with world() as w:
        for name, write in {
            "chat": lambda: w.chat("chat", "hello"),
            "system": lambda: w.system("system", "hello"),
        }.items():
            await w.touch(name)
            assert await w.stored(name) is None
            await write()
            assert await w.stored(name) is not None
        async with w.service.open(NOBODY, "command", create="durable") as live:
            assert live.provisional
            await w.service.make_durable(NOBODY, live)
            assert not live.provisional
            calls = len(w.store.calls)
            await w.service.make_durable(NOBODY, live)
            assert len(w.store.calls) == calls
        assert await w.stored("command") is not None


@virtual
async def test_the_project_and_the_model_of_a_new_session_are_those_asked_for() -> None:
    """`default` and the catalogue's default where none is named."""
    async with world(agents={"one": Puppet(), "two": Puppet()}) as w:
        async with w.service.open(NOBODY, "a", create="durable", project_id="p", model="two") as live:
            await w.service.chat(NOBODY, live, "hello", model="two")
            assert w.service.get_current_model(live) == "two"
        async with w.service.open(NOBODY, "b", create="durable") as live:
            await w.service.chat(NOBODY, live, "hello")
            assert w.service.get_current_model(live) == "one"
        a, b = await w.stored("a"), await w.stored("b")
        assert a is not None
        assert b is not None
        assert (a["project_id"], a["model"]) == ("p", "two")
        assert (b["project_id"], b["model"]) == ("default", None)
        assert a["messages"][1]["model"] == "two"


@virtual
async def test_auto_create_off_makes_nothing() -> None:
    """404 for reads and writes alike."""
    async with world(auto_create=False) as w:
        for create in ("no", "provisional", "durable"):
            with pytest.raises(NotFound) as refused:
                await opened(w, "s", NOBODY, create)
            assert refused.value.narrow_code == "session_not_found"
        assert len(w.manager) == 0


@virtual
async def test_creations_are_limited_per_caller() -> None:
    """Provisional ones count; using what exists does not; time gives it back; one caller's limit is not another's."""
    async with world(session_creations_per_minute=3) as w:
        for n in range(3):
            await w.touch(f"s{n}", ALICE)
        for create in ("provisional", "durable"):
            with pytest.raises(RateLimited) as refused:
                await opened(w, "s3", ALICE, create)
        error = refused.value
        assert (error.narrow_code, error.limit) == ("session_creation_limited", 3)
        assert error.retry_after_seconds == 20
        for _ in range(10):
            await w.touch("s0", ALICE)
        await w.touch("b0", BOB)
        await advance(error.retry_after_seconds)
        await w.touch("s3", ALICE)


@virtual
async def test_callers_without_identity_are_limited_by_address() -> None:
    """A second address has a limit of its own, a second tenant too."""
    async with world(session_creations_per_minute=1) as w:
        await w.touch("a", NOBODY)
        with pytest.raises(RateLimited):
            await w.touch("b", NOBODY)
        await w.touch("b", Caller(NOBODY.principal, "198.51.100.7"))
        await w.touch("b", Caller(Principal("acme", "none", None), NOBODY.address))


@virtual
async def test_all_creations_together_are_limited() -> None:
    """However many callers they come from."""
    async with world(session_creations_global_per_minute=5) as w:
        for n in range(5):
            await w.touch("s", visitor(f"v{n}", tenant=f"t{n}"))
        with pytest.raises(RateLimited) as refused:
            await w.touch("s", visitor("v9", tenant="t9"))
        assert refused.value.narrow_code == "session_creation_limited"


@virtual
async def test_a_refused_creation_leaves_nothing() -> None:
    """Neither a session nor a pin nor a place in the table of loads."""
    async with world(session_creations_per_minute=1) as w:
        await w.touch("a")
        before = len(w.manager)
        with pytest.raises(RateLimited):
            await w.touch("b")
        assert len(w.manager) == before
        assert w.manager.peek(w.key("b")) is None
        assert not w.manager._loading


# --- expiry ---


@pytest.mark.parametrize(
    ("caller", "setting"),
    [
        (NOBODY, "unowned_session_ttl_seconds"),
        (ALICE, "visitor_session_ttl_seconds"),
        (Caller(Principal("public", "user", "u"), "192.0.2.1"), "user_session_ttl_seconds"),
    ],
    ids=["unowned", "visitor", "user"],
)
@pytest.mark.parametrize("where", ["live", "stored"])
def test_a_session_expires_after_its_time(caller: Caller, setting: str, where: str) -> None:
    """410 from then on, for reads and writes, and no new one takes its place."""

    @virtual
    async def test() -> None:
        async with world(checkpoint_interval_seconds=1000, **{setting: 500}) as w:
            await w.system("s", "hello", caller)
            await advance(499)
            await w.touch("s", caller)
            if where == "stored":
                await w.kill()
                await w.start(maintenance=False)
            await advance(2)
            for create in ("no", "provisional", "durable"):
                with pytest.raises(Expired) as refused:
                    await opened(w, "s", caller, create)
                assert refused.value.narrow_code == "session_expired"

    test()


@virtual
async def test_activity_pushes_the_expiry_and_reading_does_not() -> None:
    """Each accepted message, queued ones too; tabs are told, and the store knows."""
    async with world(unowned_session_ttl_seconds=1000) as w:
        reader = await w.reader("s")

        async def check(when: float) -> None:
            live = w.manager.peek(w.key("s"))
            assert live is not None
            assert live.record.expires_at == EPOCH + when
            stored = await w.stored("s")
            assert stored is not None
            assert stored["expires_at"] == reader.state["expires_at"] == (await w.state("s"))["expires_at"]

        await w.chat("s", "one")
        await check(1000)
        await advance(100)
        await w.state("s")
        await check(1000)
        await w.chat("s", "two")
        await check(1100)
        await advance(100)
        await w.system("s", "look")
        await check(1200)
        await advance(100)
        async with w.service.open(NOBODY, "s", create="no") as live:
            await w.service.extend_session(NOBODY, live)
        await check(1300)
        await advance(100)
        await settle()
        w.puppet.last.end()
        await settle()
        await check(1300)


@virtual
async def test_an_expired_session_stays_somebody_elses() -> None:
    """A stranger is told 403, not that it expired."""
    async with world(visitor_session_ttl_seconds=10) as w:
        await w.system("s", "mine", ALICE)
        await advance(20)
        with pytest.raises(Forbidden):
            await w.touch("s", BOB)


# --- models ---


@virtual
async def test_an_unknown_model_is_refused_with_the_catalogue() -> None:
    """Before a session is made or a message taken."""
    async with world(agents={"one": Puppet(), "two": Puppet()}) as w:
        with pytest.raises(InvalidFields) as refused:
            async with w.service.open(NOBODY, "s", create="durable", model="three"):
                pass
        assert refused.value.narrow_code == "unknown_model"
        assert "one, two" in refused.value.detail
        assert len(w.manager) == 0
        await w.touch("s")
        async with w.service.open(NOBODY, "s", create="durable") as live:
            with pytest.raises(InvalidFields):
                await w.service.switch_model(NOBODY, live, "three")
            with pytest.raises(InvalidFields):
                await w.service.chat(NOBODY, live, "hello", model="three")
            assert live.provisional


@virtual
async def test_a_switched_model_takes_effect_from_the_next_turn() -> None:
    """The running one goes on with the old; tabs are told whether the new one lacks its key."""
    one, two = Puppet(), Puppet()
    async with world(agents={"one": one, "two": two}) as w:
        w.models.without_key.add("two")
        reader = await w.reader("s")
        await w.chat("s", "hello")
        await settle()
        async with w.service.open(NOBODY, "s", create="no") as live:
            await w.service.switch_model(NOBODY, live, "two")
            calls = len(w.store.calls)
            await w.service.switch_model(NOBODY, live, "two")
            assert len(w.store.calls) == calls, "nothing to change, nothing to commit"
            assert w.service.get_current_model(live) == "two"
        assert (reader.state["model"], reader.state["missing_api_key"]) == ("two", True)
        one.last.end()
        await settle()
        await w.chat("s", "again")
        await settle()
        assert len(two.turns) == 1
        assert reader.state["messages"][1]["model"] == "one"
        assert reader.state["messages"][3]["model"] == "two"
        assert (await w.stored("s"))["model"] == "two"  # type: ignore[index]


@pytest.mark.parametrize("why", ["busy", "queue_full", "too_many_turns", "a repetition", "a late repetition"])
def test_a_model_that_comes_with_a_refused_message_changes_nothing(why: str) -> None:
    """The session gets it with the message, or not at all."""

    @virtual
    async def test() -> None:
        async with world(agents={"one": Puppet(), "two": Puppet()}, queue_limit=1, max_running_turns=1) as w:
            if why == "too_many_turns":
                await w.system("s", "hello")
                await w.chat("other", "hello")
            else:
                await w.chat("s", "hello", client_message_id="c")
            if why == "queue_full":
                await w.chat("s", "more")
            if why == "a late repetition":
                await w.interrupt("s")
            before = await w.state("s")
            if why.endswith("repetition"):
                await w.chat("s", "hello", client_message_id="c", model="two")
            else:
                with pytest.raises(ChatServerError) as refused:
                    await w.chat("s", "again", model="two", on_busy="reject" if why == "busy" else "queue")
                assert refused.value.narrow_code == why
            assert await w.state("s") == before
            assert (await w.stored("s"))["model"] is None  # type: ignore[index]

    test()


@virtual
async def test_a_model_that_comes_with_a_queued_message_is_told_before_it() -> None:
    """The running turn keeps the old one."""
    one, two = Puppet(), Puppet()
    async with world(agents={"one": one, "two": two}) as w:
        reader = await w.reader("s")
        await w.chat("s", "hello")
        await w.chat("s", "again", model="two")
        assert reader.types[4:] == ["session.updated", "session.updated", "turn.queued"]
        assert reader.state["model"] == "two"
        await settle()
        one.last.end()
        await settle()
        assert len(two.turns) == 1


@virtual
async def test_a_model_that_has_left_the_catalogue_gives_way_to_the_default() -> None:
    """The session keeps its wish, and its turns run."""
    one, two = Puppet(), Puppet()
    async with world(agents={"one": one, "two": two}) as w:
        async with w.service.open(NOBODY, "s", create="durable", model="two") as live:
            await w.service.chat(NOBODY, live, "hello", model="two")
        await settle()
        two.last.end()
        await settle()
        del w.models.entries["two"]
        await w.chat("s", "again")
        await settle()
        assert len(one.turns) == 1
        async with w.service.open(NOBODY, "s", create="no") as live:
            assert w.service.get_current_model(live) == "one"
            assert live.record.model == "two"


# --- what is said ---


@pytest.mark.parametrize("text", ["", " ", "\n\t \u2003", "\u3000"], ids=ascii)
def test_a_blank_message_is_refused(text: str) -> None:
    """For people's messages and system ones; nothing is stored."""

    @virtual
    async def test() -> None:
        async with world() as w:
            for send in (w.chat, w.system):
                with pytest.raises(InvalidFields) as refused:
                    await send("s", text)
                assert refused.value.narrow_code == "blank_message"
            assert await w.stored("s") is None

    test()


@virtual
async def test_a_message_over_the_limit_is_refused() -> None:
    """Counted in characters, exact at the limit."""
    async with world(max_message_chars=10) as w:
        await w.chat("s", "\U0001f600" * 10)
        for send in (w.chat, w.system):
            with pytest.raises(TooLarge) as refused:
                await send("s", "x" * 11)
            assert refused.value.narrow_code == "message_too_long"
        assert (await w.state("s"))["queue"] == []


@virtual
async def test_streams_of_one_session_are_limited() -> None:
    """429 when it has all it may have."""
    async with world(max_streams_per_session=2) as w:
        for _ in range(2):
            await w.reader("s")
        async with w.service.open(NOBODY, "s", create="no") as live:
            with pytest.raises(RateLimited) as refused:
                w.service.check_subscribers(live)
            assert refused.value.narrow_code == "too_many_streams"


# --- telling that tool servers connect ---


@virtual
async def test_connecting_is_shown_and_taken_back_in_order() -> None:
    """Even when the end comes before the beginning was committed; nothing is told twice."""
    async with world() as w:
        reader = await w.reader("s")
        await w.system("s", "hello")
        key = w.key("s")
        gate = w.store.gate("update_session")
        begin = asyncio.get_running_loop().create_task(w.service.tell_connecting(key, True))
        await gate.reached.wait()
        end = asyncio.get_running_loop().create_task(w.service.tell_connecting(key, False))
        await settle()
        gate.open()
        await asyncio.gather(begin, end)
        told = [e["session"] for e in reader.events if "is_connecting_mcp" in e.get("session", {})]
        assert [t["is_connecting_mcp"] for t in told] == [True, False]
        await w.service.tell_connecting(key, False)
        assert len([e for e in reader.events if "is_connecting_mcp" in e.get("session", {})]) == 2


@virtual
async def test_connecting_of_a_session_that_is_gone_is_told_to_nobody() -> None:
    """Not live, or deleted while it waited: no error, nothing made."""
    async with world() as w:
        await w.service.tell_connecting(w.key("s"), True)
        assert len(w.manager) == 0
        await w.system("s", "hello")
        gate = w.store.gate("delete_session")
        deleting = asyncio.get_running_loop().create_task(w.delete("s"))
        await gate.reached.wait()
        telling = asyncio.get_running_loop().create_task(w.service.tell_connecting(w.key("s"), True))
        await settle()
        gate.open()
        await asyncio.gather(deleting, telling)
        assert await w.stored("s") is None


@virtual
async def test_the_end_of_connecting_is_told_when_the_store_is_back() -> None:
    """A tab that said "connecting" for ever would lie; a beginning that could not be told is not made up for."""
    async with world() as w:
        reader = await w.reader("s")
        await w.system("s", "hello")
        key = w.key("s")
        w.store.break_("update_session")
        await w.service.tell_connecting(key, True)
        w.store.mend()
        await w.service.tell_connecting(key, True)
        w.store.break_("update_session")
        end = asyncio.get_running_loop().create_task(w.service.tell_connecting(key, False))
        await advance(3)
        assert reader.state["is_connecting_mcp"]
        w.store.mend()
        await advance(1)
        assert end.done()
        assert end.exception() is None
        assert not reader.state["is_connecting_mcp"]


# --- cancelling ---


@virtual
async def test_a_cancelled_caller_holds_nothing() -> None:
    """Wherever it was: loading, creating, or inside."""
    async with world() as w:
        await w.system("s", "hello")
        live = w.manager.peek(w.key("s"))
        assert live is not None
        w.manager.remove(live)
        gate = w.store.gate("load")
        opening = asyncio.get_running_loop().create_task(w.touch("s"))
        await gate.reached.wait()
        opening.cancel()
        await asyncio.wait({opening})
        w.store.ungate("load")
        assert not w.manager._loading

        async def stay() -> None:
            async with w.service.open(NOBODY, "s", create="no"):
                await asyncio.sleep(1000)

        staying = asyncio.get_running_loop().create_task(stay())
        await settle()
        live = w.manager.peek(w.key("s"))
        assert live is not None
        assert live.pins == 1
        staying.cancel()
        await asyncio.wait({staying})
        assert live.pins == 0


@virtual
async def test_a_store_that_cannot_be_read_refuses_and_makes_nothing() -> None:
    """A session that may exist must not be made anew beside the stored one."""
    async with world(session_creations_per_minute=1) as w:
        w.store.break_("load")
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await w.touch("s")
        assert len(w.manager) == 0
        w.store.mend()
        await w.touch("s")


# --- sessions as records ---


@virtual
async def test_of_two_who_make_what_a_read_made_durable_one_does() -> None:
    """Both passed the look before either commit; the second finds another session than it asked for."""
    async with world() as w:
        await w.touch("s")
        gate = w.store.gate("create_session")

        async def create(title: str) -> bool:
            async with w.service.create_session(NOBODY, "s", NewSession(title=title)) as (_, made):
                return made

        first = asyncio.get_running_loop().create_task(create("one"))
        await gate.reached.wait()
        second = asyncio.get_running_loop().create_task(create("two"))
        await settle()
        gate.open()
        assert await first is True
        with pytest.raises(Conflict) as refused:
            await second
        assert refused.value.narrow_code == "session_exists"
        assert (await w.stored("s"))["title"] == "one"  # type: ignore[index]


@virtual
async def test_a_change_that_changes_nothing_is_not_committed() -> None:
    """Only what differs goes to the store and to the tabs."""
    async with world() as w:
        await w.system("s", "hello")
        reader = await w.reader("s")
        async with w.service.open(NOBODY, "s", create="no") as live:
            calls = len(w.store.calls)
            await w.service.change_session(NOBODY, live, {"is_active": True, "model": None})
            assert len(w.store.calls) == calls
            await w.service.change_session(NOBODY, live, {"title": "Named", "is_active": True})
            await w.service.change_session(NOBODY, live, {"title": "Named"})
            assert len(w.store.calls) == calls + 1
        assert [e["session"] for e in reader.events if e["type"] == "session.updated"] == [{"title": "Named"}]


@virtual
async def test_a_message_that_comes_before_the_deletion_of_an_empty_session_saves_it() -> None:
    """The session was empty when its deletion was asked for; what was acknowledged meanwhile is not lost."""
    async with world() as w:
        async with w.service.create_session(NOBODY, "s", NewSession()):
            pass
        gate = w.store.gate("add_message")
        saying = asyncio.get_running_loop().create_task(w.system("s", "hello"))
        await gate.reached.wait()
        deleting = asyncio.get_running_loop().create_task(
            w.service.delete_session(NOBODY, "s", force=False, missing_ok=False)
        )
        await settle()
        gate.open()
        await saying
        with pytest.raises(InvalidRequest) as refused:
            await deleting
        assert refused.value.narrow_code == "session_has_messages"
        assert (await w.stored("s"))["message_count"] == 1  # type: ignore[index]
        await w.system("s", "still here")


@virtual
async def test_an_expired_session_leaves_memory_with_its_readers() -> None:
    """Within a few seconds of its time; one whose expiry was put off meanwhile stays, and so does one that is used."""
    async with world(unowned_session_ttl_seconds=100) as w:
        for session_id in ("left", "kept", "held"):
            await w.system(session_id, "hello")
        left, kept = await w.reader("left"), await w.reader("kept")
        await advance(60)
        await w.system("kept", "again")
        async with w.service.open(NOBODY, "held", create="no"):
            await advance(46)
            assert left.types[-1] == "session.deleted"
            assert w.manager.peek(w.key("left")) is None
            assert "session.deleted" not in kept.types
            assert w.manager.peek(w.key("held")) is not None
        await advance(6)
        assert w.manager.peek(w.key("held")) is None
        with pytest.raises(Expired):
            await w.touch("left")
        await advance(60)
        assert kept.types[-1] == "session.deleted"


@virtual
async def test_a_running_turn_keeps_its_expired_session() -> None:
    """It ends as it would have, and then the session leaves."""
    async with world(unowned_session_ttl_seconds=100, expired_keep_seconds=1, eviction_interval_seconds=10) as w:
        reader = await w.reader("s")
        await w.chat("s", "hello")
        await settle()
        await advance(200)
        assert reader.state["is_processing"]
        w.puppet.last.say("the end")
        w.puppet.last.end()
        await settle()
        stored = await w.stored("s")
        assert stored is not None, "purged under its turn"
        assert stored["messages"][1]["content"] == "the end"
        await advance(30)
        assert reader.types[-1] == "session.deleted"
        assert await w.record("s") is None


@virtual
async def test_a_store_that_is_away_is_purged_the_next_time() -> None:
    """Maintenance goes on, and says so."""
    async with world(unowned_session_ttl_seconds=10, expired_keep_seconds=1, eviction_interval_seconds=10) as w:
        await w.system("s", "hello")
        w.store.break_("purge_expired")
        await advance(40)
        assert "expired_sessions_not_purged" in w.log.events()
        assert await w.record("s") is not None
        w.store.mend()
        await advance(20)
        assert await w.record("s") is None


@virtual
async def test_lists_are_of_ones_own_and_never_of_nobodys() -> None:
    """Titles, searches, projects and numbers: another visitor's, another tenant's and nobody's are in none."""
    acme = visitor("alice", tenant="acme")
    async with world() as w:
        for caller in (ALICE, BOB, acme, NOBODY):
            await w.system(f"of {caller.principal.user_id} {caller.principal.tenant}".replace(" ", "-"), "word", caller)
        for caller, expected in ((ALICE, "of-alice-public"), (BOB, "of-bob-public"), (acme, "of-alice-acme")):
            for query in (None, "word"):
                found = await w.service.lists.list_sessions(caller, query=query, limit=10)
                assert [s.record.key.session_id for s in found] == [expected]
            assert [p.sessions for p in await w.service.lists.list_projects(caller)] == [1]
            assert (await w.service.lists.session_stats(caller, "default")).total_sessions == 1
        assert await w.service.lists.list_sessions(NOBODY, limit=10) == ()
        assert await w.service.lists.list_projects(NOBODY) == ()
        assert (await w.service.lists.session_stats(NOBODY, "default")).total_sessions == 0
