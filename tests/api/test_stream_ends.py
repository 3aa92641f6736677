"""Streams end with what let somebody open them (spec A1): within five seconds, with the reason, multiplexed ones too;
turns go on (L9)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from chatserver.auth.tokens import Token
from chatserver.errors import StoreUnavailable
from chatserver.principal import ANONYMOUS, Principal
from chatserver.session_service import Caller
from tests.api.conftest import Api, Serve
from tests.api.people import Browser, add_user, bearer, disable_user
from tests.auth.clock import NOW, SetClock
from tests.auth.jwks import Published, token

PATHS = (
    "/api/chat/stream?session_id=s",
    "/api/chat/stream?session_id=s&format=state",
    "/api/stream?sessions=s,t",
)
# The spec promises five; the server looks at what has ended every `accounts.LOOK_SECONDS`. A machine may stall besides.
SECONDS = 60.0


@asynccontextmanager
async def _streams(api: Api, headers: dict[str, str]) -> AsyncIterator[list[aiohttp.ClientResponse]]:
    """One of each kind, open and past its first message."""
    opened = [await api.http.get(api.url(path), headers=headers) for path in PATHS]
    try:
        for response in opened:
            assert response.status == 200
            await response.content.readuntil(b"\n\n")
        yield opened
    finally:
        for response in opened:
            response.close()


async def _reasons(streams: list[aiohttp.ClientResponse]) -> list[str]:
    """What each was told at its end; all have to end in time."""
    async with asyncio.timeout(SECONDS):
        texts = [(await stream.content.read()).decode() for stream in streams]
    return [json.loads(text.strip().splitlines()[-1].removeprefix("data: "))["reason"] for text in texts]


async def _still_open(streams: list[aiohttp.ClientResponse], api: Api, headers: dict[str, str]) -> bool:
    """A message that is sent now reaches each of them."""
    await api.call("POST", "/api/system", json={"session_id": "s", "message": "are you there"}, headers=headers)
    async with asyncio.timeout(SECONDS):
        for stream in streams:
            seen = b""
            while b"are you there" not in seen:
                seen += await stream.content.readany()
    return True


async def test_a_logout_ends_the_streams_of_that_login_and_no_others(api: Api) -> None:
    """The same user's other login goes on; so does the turn."""
    await Browser(api).register("ann")
    here, there = await bearer(api, "ann"), await bearer(api, "ann")
    await api.call("POST", "/api/chat", json={"session_id": "s", "message": "/hang"}, headers=here)
    async with _streams(api, here) as mine, _streams(api, there) as others:
        await api.call("POST", "/api/auth/logout", headers=here)

        assert await _reasons(mine) == ["signed_out"] * 3
        assert await _still_open(others, api, there)
        state = (await api.call("GET", "/api/state?session_id=s", headers=there))[1]
    assert state["is_processing"]
    assert (await api.call("POST", "/api/interrupt", json={"session_id": "s"}, headers=there))[0] == 200


async def test_shutting_a_user_out_ends_all_their_streams(api: Api) -> None:
    """The operator's command in another process: the server finds out by itself."""
    await Browser(api).register("ann")
    await add_user(api, "acme", "ann")
    one, two, other = await bearer(api, "ann"), await bearer(api, "ann"), await bearer(api, "ann", "acme")
    async with _streams(api, one) as ones, _streams(api, two) as twos, _streams(api, other) as others:
        await disable_user(api, "public", "ann", tell=False)

        assert await _reasons(ones + twos) == ["signed_out"] * 6
        assert await _still_open(others, api, other)
    assert (await api.call("GET", "/api/state", headers=one))[1]["code"] == "token_revoked"


async def test_a_login_that_expires_ends_its_streams(serve: Serve) -> None:
    """To the second, at the next look."""
    clock = SetClock()
    api = await serve(token_lifetime_seconds=60, clock=clock)
    await Browser(api).register("ann")
    headers = await bearer(api, "ann")
    async with _streams(api, headers) as streams:
        clock.move(59)
        assert await _still_open(streams, api, headers)
        clock.move(1)
        assert await _reasons(streams) == ["token_expired"] * 3
    assert (await api.call("GET", "/api/state", headers=headers))[1]["code"] == "token_expired"


async def test_streams_of_visitors_and_nobody_have_no_end(api: Api) -> None:
    """What has no login cannot lose it."""
    await Browser(api).register("ann")
    ann = await bearer(api, "ann")
    await api.post("/api/chat", session_id="s", message="/say hello")
    async with _streams(api, {}) as streams:
        await api.call("POST", "/api/auth/logout", headers=ann)
        api.server.services.hub.look_at_leases()
        assert await _still_open(streams, api, {})


async def test_a_stream_that_is_opened_while_its_login_ends_does_not_stay(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token was good when the request came, and is not when the headers are out."""
    await Browser(api).register("ann")
    headers = await bearer(api, "ann")
    accounts = api.server.services.accounts
    over = accounts.over
    ended: list[Token] = []

    def after(self: Any, token: Token) -> str | None:
        if not ended:
            ended.append(token)
            accounts._revoked.token(token.tenant, token.token_id, token.expires_at)
        return over(token)

    monkeypatch.setattr(type(accounts), "over", after)

    async with api.http.get(api.url(PATHS[0]), headers=headers) as stream:
        assert await _reasons([stream]) == ["signed_out"]


async def test_the_looks_at_leases_go_on_when_the_store_is_away(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login expires by the clock, whatever the database does; it is logged once, and forgotten when it is back."""
    clock = SetClock()
    api = await serve(token_lifetime_seconds=60, clock=clock)
    await Browser(api).register("ann")
    headers = await bearer(api, "ann")
    store = api.server.services.accounts._store

    async def away(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable()

    async with _streams(api, headers) as streams:
        monkeypatch.setattr(type(store), "revocations", away)
        clock.move(61)
        assert await _reasons(streams) == ["token_expired"] * 3
    assert api.log.getvalue().count("revocations_not_read") == 1


async def test_an_external_login_ends_with_its_token(serve: Serve, published: Published) -> None:
    """Made by a real issuer's key, fetched from its real address; its user is in the tenant that it names."""

    clock = SetClock()
    api = await serve(issuer=published.config(tenant_claim="org"), auth="required", clock=clock)
    headers = {"Authorization": f"Bearer {token(iat=int(NOW), exp=int(NOW) + 60)}"}

    me = (await api.call("GET", "/api/auth/me", headers=headers))[1]
    assert (me["kind"], me["user_id"], me["tenant"], me["username"]) == ("user", "ext:ann", "acme", "ann")
    async with _streams(api, headers) as streams:
        clock.move(61)
        assert await _reasons(streams) == ["token_expired"] * 3


async def test_an_external_login_can_be_ended_here(serve: Serve, published: Published) -> None:
    """This one token; the issuer's next one is as good as ever."""

    api = await serve(issuer=published.config())
    now = int(time.time())
    one, two = ({"Authorization": f"Bearer {token(iat=now, exp=now + n)}"} for n in (600, 700))

    assert (await api.call("POST", "/api/auth/logout", headers=one))[1] == {"logged_out": True}

    assert (await api.call("GET", "/api/state", headers=one))[1]["code"] == "token_revoked"
    assert (await api.call("GET", "/api/state", headers=two))[0] == 200


async def test_an_issuer_that_is_away_is_no_reason_to_log_anybody_out(serve: Serve, published: Published) -> None:
    """503, try again; our own logins do not notice."""

    published.status = 500
    api = await serve(issuer=published.config())
    now = int(time.time())
    headers = {"Authorization": f"Bearer {token(iat=now, exp=now + 600)}"}
    await Browser(api).register("ann")

    status, body, answered = await api.call("GET", "/api/state", headers=headers)

    assert (status, body["code"]) == (503, "issuer_unavailable")
    assert "Retry-After" in answered
    assert (await api.call("GET", "/api/auth/me", headers=headers))[1]["token_problem"] == "issuer_unavailable"
    assert (await api.call("GET", "/api/state", headers=await bearer(api, "ann")))[0] == 200
    cookie = {"Cookie": f"chatserver_token={headers['Authorization'][7:]}"}
    assert (await api.call("GET", "/", headers=cookie))[0] == 200


# --- visitors are made by opening the page: limits that counted them alone would be none ---


async def _new_visitor(api: Api) -> dict[str, str]:
    async with api.http.get(api.url("/")) as response:
        return {"Cookie": f"chatserver_visitor={response.cookies['chatserver_visitor'].value}"}


async def test_dropping_the_cookie_is_no_way_around_the_limit_of_sessions(serve: Serve) -> None:
    """Each new visitor has their own few, all of an address together a bounded number; users are not among them."""
    # Three for each: a registration and a login begin one too (spec A1), and S4 counts them all.
    api = await serve(session_creations_per_minute=3, session_creations_per_address_per_minute=5)
    made = 0
    for _ in range(4):
        headers = await _new_visitor(api)
        for _ in range(2):
            made += (await api.call("POST", "/api/session/create", json={}, headers=headers))[0] == 201

    assert made == 5
    status, body, answered = await api.call("POST", "/api/session/create", json={}, headers=await _new_visitor(api))
    assert (status, body["code"]) == (429, "session_creation_limited")
    assert int(answered["Retry-After"]) >= 1
    await Browser(api).register("ann")
    assert (await api.call("POST", "/api/session/create", json={}, headers=await bearer(api, "ann")))[0] == 201


async def test_dropping_the_cookie_is_no_way_around_the_limits_of_messages_and_models(serve: Serve) -> None:
    """Visitors of one address have a bounded number together; one who is logged in there is not held up."""
    api = await serve(messages_per_address_per_minute=2, model_switches_per_address_per_minute=2)
    await Browser(api).register("ann")

    for method, path, body, code in (
        ("POST", "/api/chat", {"message": "/say hello"}, "messages_limited"),
        ("PUT", "/api/session/model", {"model": "scripted"}, "model_switches_limited"),
    ):
        answers = []
        for who in (*[await _new_visitor(api) for _ in range(3)], await bearer(api, "ann")):
            made = (await api.call("POST", "/api/session/create", json={}, headers=who))[1]["session_id"]
            answers.append(await api.call(method, path, json=body, headers={**who, "X-Session-ID": made}))
        assert [status for status, _, _ in answers] == [200, 200, 429, 200]
        assert answers[2][1]["code"] == code


async def test_dropping_the_cookie_is_no_way_around_the_limit_of_streams(serve: Serve) -> None:
    """And the places are given back when streams end."""
    api = await serve(max_streams_per_address=3)
    streams = [await api.http.get(api.url("/api/chat/stream"), headers=await _new_visitor(api)) for _ in range(4)]
    assert [s.status for s in streams] == [200, 200, 200, 429]
    for stream in streams:
        stream.close()

    async with asyncio.timeout(SECONDS):
        while len(api.server.services.hub):
            await asyncio.sleep(0.01)
    assert api.server.services.hub._by_address == {}


def test_who_counts_by_address_too() -> None:
    """Visitors do; users count by themselves, and callers without identity count so already."""
    assert Caller(Principal("public", "visitor", "v"), "203.0.113.7").counted_too == "203.0.113.7"
    assert Caller(Principal("public", "user", "u"), "203.0.113.7").counted_too is None
    assert Caller(ANONYMOUS, "203.0.113.7").counted_too is None
    assert Caller(ANONYMOUS, "203.0.113.7").counted_as == "public@203.0.113.7"
