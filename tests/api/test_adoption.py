"""The sessions of a browser's visitor pass to the user who logs in (spec S6), whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from chatserver.api import stream
from chatserver.errors import StoreUnavailable
from chatserver.principal import PUBLIC_TENANT, Principal
from chatserver.store.base import SessionKey
from tests.api.conftest import Api, Serve
from tests.api.people import PASSWORD, Browser, add_user, visitor

CANARY = "canary-of-the-visitor"


async def _say(browser: Browser, session_id: str, text: str = f"/say {CANARY}") -> dict[str, Any]:
    status, state, _ = await browser.post("/api/chat", session_id=session_id, message=text)
    assert status == 200, state
    return dict(state)


async def _owner(api: Api, session_id: str) -> str | None:
    """As the store has it."""
    record = await api.server.services.store.record(SessionKey(PUBLIC_TENANT, session_id))
    assert record is not None
    return record.owner


async def _status(browser: Browser, session_id: str) -> int:
    return (await browser.get(f"/api/state?session_id={session_id}"))[0]


@pytest.mark.parametrize("way", ["login", "register"])
async def test_a_visitors_sessions_are_the_users_after_a_login(way: str, api: Api) -> None:
    """Those in memory, those in the store alone, and those that were only read; the visitor has none of them left."""
    if way == "login":
        await Browser(api).register("ann")
    browser = await visitor(api)
    before = Browser(api, dict(browser.cookies))
    for name in ("one", "two", "three"):
        await _say(browser, name)
    await browser.get("/api/state?session_id=read")
    manager = api.server.services.manager
    assert await api.server.services.turns._under_way.until_idle(10)
    stored_only = manager.peek(SessionKey(PUBLIC_TENANT, "three"))
    assert stored_only is not None
    manager.remove(stored_only)

    made = await (browser.register("ann") if way == "register" else browser.login("ann"))

    assert made["sessions_adopted"] == 3
    assert [await _status(browser, name) for name in ("one", "two", "three", "read")] == [200] * 4
    assert [await _status(before, name) for name in ("one", "two", "three", "read")] == [403] * 4
    listed = (await browser.get("/api/llm/sessions"))[1]
    assert {s["session_id"] for s in listed["data"]} == {"one", "two", "three"}
    assert (await browser.post("/api/chat", session_id="read", message="hello"))[0] == 200
    assert (await before.get("/api/llm/sessions"))[1]["count"] == 0


async def test_a_turn_that_runs_goes_on_and_belongs_to_the_user(api: Api) -> None:
    """L9: so does what waits behind it."""
    browser = await visitor(api)
    await _say(browser, "s", "/hang")
    queued = (await _say(browser, "s", f"/say {CANARY}"))["queue"]
    assert len(queued) == 1

    await browser.register("ann")
    state = (await browser.get("/api/state?session_id=s"))[1]
    assert state["is_processing"]
    assert (await browser.post("/api/interrupt", session_id="s"))[0] == 200

    async with asyncio.timeout(60):
        while True:
            state = (await browser.get("/api/state?session_id=s"))[1]
            if not state["is_processing"] and not state["queue"]:
                break
            await asyncio.sleep(0.01)
    assert CANARY in state["messages"][-1]["content"]
    assert str(await _owner(api, "s")).startswith("user:")


async def test_the_visitors_streams_end_and_come_back_as_the_users(api: Api) -> None:
    """With a reason; who resumes after the last event misses nothing, and the old cookie alone shows nothing more."""
    browser = await visitor(api)
    await _say(browser, "s")
    old = dict(browser.headers)
    async with (
        api.http.get(api.url("/api/chat/stream?session_id=s"), headers=old) as single,
        api.http.get(api.url("/api/stream?sessions=s"), headers=old) as multiplexed,
    ):
        position = await _snapshot_position(single)
        await _snapshot_position(multiplexed)

        await browser.register("ann")
        async with asyncio.timeout(60):
            endings = [(await response.content.read()).decode() for response in (single, multiplexed)]

    for text in endings:
        last = json.loads(text.strip().splitlines()[-1].removeprefix("data: "))
        assert (last["type"], last["reason"]) == ("goodbye", "signed_in")
    await _say(browser, "s", "/say afterwards")
    assert (await api.get(f"/api/chat/stream?session_id=s&last_event_id={position}", headers=old))[0] == 403
    resumed = api.url(f"/api/chat/stream?session_id=s&last_event_id={position}")
    async with api.http.get(resumed, headers=browser.headers) as response:
        assert response.status == 200
        seen = b""
        async with asyncio.timeout(60):
            while b"turn.ended" not in seen:
                seen += await response.content.readany()
    assert b'"type":"snapshot"' not in seen or b"afterwards" in seen


async def test_a_stream_of_the_visitor_that_opens_just_then_shows_nothing(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was the visitor's session when the request came, and is the user's when the headers are out."""
    browser = await visitor(api)
    await _say(browser, "s")
    prepare = stream._prepare

    async def slow(*args: Any) -> Any:
        monkeypatch.setattr(stream, "_prepare", prepare)
        await Browser(api, dict(browser.cookies)).register("ann")
        return await prepare(*args)

    monkeypatch.setattr(stream, "_prepare", slow)
    async with api.http.get(api.url("/api/chat/stream?session_id=s"), headers=browser.headers) as response:
        assert response.status == 200
        async with asyncio.timeout(60):
            text = (await response.content.read()).decode()

    assert CANARY not in text
    assert '"signed_in"' in text


async def _snapshot_position(response: Any) -> str:
    async with asyncio.timeout(60):
        while True:
            block = (await response.content.readuntil(b"\n\n")).decode()
            if block.startswith("id: "):
                return str(block.splitlines()[0].removeprefix("id: "))


async def test_two_logins_that_adopt_one_visitor_share_out_its_sessions(api: Api) -> None:
    """Both at once, again and again: every session is one user's, in the store and in memory alike, and none is both's
    or nobody's."""
    await Browser(api).register("ann")
    await Browser(api).register("bob")
    for round_number in range(8):
        browser = await visitor(api)
        names = [f"r{round_number}-{n}" for n in range(6)]
        await asyncio.gather(*(_say(browser, name) for name in names))
        first, second = (Browser(api, dict(browser.cookies)) for _ in range(2))

        ann, bob, *_ = await asyncio.gather(
            first.login("ann"), second.login("bob"), *(browser.get(f"/api/state?session_id={n}") for n in names)
        )

        assert ann["sessions_adopted"] + bob["sessions_adopted"] == len(names)
        for name in names:
            seen = sorted([await _status(first, name), await _status(second, name)])
            assert seen == [200, 403], name
            assert await _status(browser, name) == 403
            key = SessionKey(PUBLIC_TENANT, name)
            record, live = await api.server.services.store.record(key), api.server.services.manager.peek(key)
            assert record is not None
            assert live is not None
            assert live.record.owner == record.owner


async def test_sessions_being_written_to_while_they_pass_on_are_not_torn(api: Api) -> None:
    """Messages, titles and turns of the visitor's tabs come in at the same time: afterwards memory and store agree, and
    all that was acknowledged is there."""
    for round_number in range(6):
        browser = await visitor(api)
        names = [f"w{round_number}-{n}" for n in range(4)]
        await asyncio.gather(*(_say(browser, name) for name in names[:2]))
        login = Browser(api, dict(browser.cookies))

        async def write(name: str, by: Browser = browser) -> list[int]:
            answers = []
            for n in range(6):
                body = {"session_id": name, "message": f"/say {n}"}
                answers.append((await by.call("POST", "/api/chat", body))[0])
                title = {"title": f"title {n}"}
                path = f"/api/projects/default/sessions/{name}"
                answers.append((await by.call("PUT", path, title))[0])
            return answers

        results = await asyncio.gather(login.register(f"user{round_number}"), *(write(name) for name in names))

        owner = f"user:{results[0]['user_id']}"
        assert set().union(*results[1:]) <= {200, 403, 404, 429}
        await login.login(f"user{round_number}")  # what the visitor made afterwards passes now
        for name in names:
            key = SessionKey(PUBLIC_TENANT, name)
            record, live = await api.server.services.store.record(key), api.server.services.manager.peek(key)
            if record is not None:
                assert record.owner == owner
            if live is not None:
                assert live.record.owner == owner


async def test_a_session_that_is_loaded_while_it_passes_on_does_not_keep_its_old_owner(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read that began before the change brings the old record into memory after it."""
    browser = await visitor(api)
    await _say(browser, "s")
    services = api.server.services
    assert await services.turns._under_way.until_idle(10)
    live = services.manager.peek(SessionKey(PUBLIC_TENANT, "s"))
    assert live is not None
    services.manager.remove(live)
    reading, go_on = asyncio.Event(), asyncio.Event()
    load = type(services.store).load

    async def slow(*args: Any, **kwargs: Any) -> Any:
        stored = await load(*args, **kwargs)
        reading.set()
        await go_on.wait()
        return stored

    monkeypatch.setattr(type(services.store), "load", slow)
    loading = asyncio.ensure_future(_status(browser, "s"))
    await reading.wait()
    login = asyncio.ensure_future(Browser(api, dict(browser.cookies)).register("ann"))
    async with asyncio.timeout(60):
        while await _owner(api, "s") == live.record.owner:
            await asyncio.sleep(0.001)
    await asyncio.wait({login}, timeout=0.3)  # one that did not wait for the load would be over by now
    go_on.set()
    await asyncio.gather(loading, login)

    loaded = services.manager.peek(SessionKey(PUBLIC_TENANT, "s"))
    assert loaded is not None
    assert loaded.record.owner == await _owner(api, "s")
    assert loaded.record.owner != live.record.owner


async def test_a_login_that_goes_away_half_way_is_finished(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client hangs up while sessions pass on: memory follows the store all the same."""
    browser = await visitor(api)
    await _say(browser, "s")
    services = api.server.services
    begun = asyncio.Event()
    adopt = type(services.store).adopt_sessions

    async def slow(self: Any, *args: Any) -> Any:
        begun.set()
        await asyncio.sleep(0.05)
        return await adopt(self, *args)

    monkeypatch.setattr(type(services.store), "adopt_sessions", slow)
    live = services.manager.peek(SessionKey(PUBLIC_TENANT, "s"))
    assert live is not None
    assert live.record.owner is not None
    who = Principal(PUBLIC_TENANT, "visitor", live.record.owner.removeprefix("visitor:"))
    caller = asyncio.ensure_future(services.sessions.adopt(who, Principal(PUBLIC_TENANT, "user", "x")))
    await begun.wait()
    caller.cancel()
    await asyncio.wait({caller})
    assert caller.cancelled()

    async with asyncio.timeout(60):
        while live.record.owner != "user:x":
            await asyncio.sleep(0.005)


async def test_what_fails_half_way_is_finished_by_the_next_login(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store was away: the login says so, and nothing is lost."""
    browser = await visitor(api)
    await _say(browser, "s")
    store = type(api.server.services.store)
    adopt = store.adopt_sessions

    async def away(*_: Any) -> Any:
        raise StoreUnavailable()

    monkeypatch.setattr(store, "adopt_sessions", away)
    status, body, _ = await browser.post("/api/auth/register", username="ann", password=PASSWORD)
    assert (status, body["code"]) == (503, "store_unavailable")
    assert await _status(browser, "s") == 200  # still the visitor's
    monkeypatch.setattr(store, "adopt_sessions", adopt)

    assert (await browser.login("ann"))["sessions_adopted"] == 1
    assert await _status(browser, "s") == 200


async def test_sessions_never_leave_their_tenant(api: Api) -> None:
    """A user of another organisation begins with their own; the visitor's stay the visitor's."""
    await add_user(api, "acme", "ann")
    browser = await visitor(api)
    await _say(browser, "s")
    before = Browser(api, dict(browser.cookies))

    assert (await browser.login("ann", tenant="acme"))["sessions_adopted"] == 0

    assert await _status(before, "s") == 200
    state = (await browser.get("/api/state?session_id=s"))[1]
    assert state["messages"] == []


async def test_a_forged_visitor_brings_nothing(api: Api) -> None:
    """Only a signed cookie is a visitor: nobody adopts another's sessions by naming them."""
    browser = await visitor(api)
    await _say(browser, "s")
    visitor_id = browser.cookies["chatserver_visitor"].partition(".")[0]
    thief = Browser(api, {"chatserver_visitor": f"{visitor_id}.forged"})

    assert (await thief.register("thief"))["sessions_adopted"] == 0
    assert await _status(browser, "s") == 200
    assert await _status(thief, "s") == 403


async def test_logging_in_as_somebody_else_ends_the_login_before(serve: Serve) -> None:
    """One browser, two people: the first one's tabs do not go on showing their words."""
    api = await serve()
    browser = Browser(api)
    await browser.register("ann")
    await _say(browser, "s")
    anns = Browser(api, dict(browser.cookies))
    async with api.http.get(api.url("/api/chat/stream?session_id=s"), headers=anns.headers) as opened:
        await _snapshot_position(opened)
        await browser.register("bob")
        async with asyncio.timeout(60):
            ending = await opened.content.read()

    assert b'"signed_out"' in ending
    assert await _status(browser, "s") == 403
    assert (await anns.get("/api/state?session_id=s"))[1]["code"] == "token_revoked"
