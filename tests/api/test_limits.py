"""Limits over HTTP: by what addresses count, that a refusal uses nothing up, and what every 429 tells."""

from __future__ import annotations

import pytest

from tests.api.conftest import Serve
from tests.api.people import Browser, add_user, bearer, visitor
from tests.api.test_usage import spend


def came_from(address: str) -> dict[str, str]:
    """Headers of a request that a trusted proxy on this machine hands on."""
    return {"X-Forwarded-For": address}


def told_when(headers: dict[str, str], limit: int) -> None:
    """A refusal tells its limit, that nothing of it is left, and when to come back."""
    assert headers["RateLimit-Limit"] == str(limit)
    assert headers["RateLimit-Remaining"] == "0"
    assert headers["RateLimit-Reset"] == headers["Retry-After"]
    assert int(headers["Retry-After"]) >= 1


# --- addresses ---

NETWORK = [f"2001:db8:0:1:{n:x}::{n:x}" for n in range(1, 5)]
NEIGHBOUR = "2001:db8:0:2::1"


async def test_a_network_of_ipv6_counts_as_one_address(serve: Serve) -> None:
    """One household has 2^64 addresses: taking another one for each request gives no further sessions, messages,
    switches of the model or streams. The next network has its own."""
    api = await serve(
        trusted_proxies=["127.0.0.1"],
        session_creations_per_minute=1,
        messages_per_minute=2,
        model_switches_per_minute=1,
        max_streams_per_principal=1,
    )

    async def asked(method: str, path: str, address: str, **body: object) -> int:
        return (await api.call(method, path, json=body or None, headers=came_from(address)))[0]

    first, second, third, fourth = NETWORK
    chat = {"session_id": "s", "message": "/say hello"}
    assert await asked("POST", "/api/session/create", first, session_id="s") == 201
    assert await asked("POST", "/api/session/create", second, session_id="t") == 429
    assert await asked("POST", "/api/session/create", NEIGHBOUR, session_id="t") == 201
    assert [await asked("POST", "/api/chat", address, **chat) for address in NETWORK[:3]] == [200, 200, 429]
    assert await asked("POST", "/api/chat", NEIGHBOUR, **chat) == 200
    for address, model, status in ((third, "scripted", 200), (fourth, None, 429), (NEIGHBOUR, None, 200)):
        assert await asked("PUT", "/api/session/model", address, session_id="s", model=model) == status
    async with api.http.get(api.url("/api/chat/stream?session_id=s"), headers=came_from(first)) as stream:
        assert stream.status == 200
        assert await asked("GET", "/api/chat/stream?session_id=s", second) == 429


async def test_visitors_of_a_network_of_ipv6_count_together(serve: Serve) -> None:
    """Also where each comes with a cookie of its own."""
    api = await serve(trusted_proxies=["127.0.0.1"], session_creations_per_address_per_minute=2)
    statuses = []
    for address in NETWORK[:3]:
        browser = await visitor(api)
        statuses.append((await browser.call("POST", "/api/session/create", {}, **came_from(address)))[0])

    assert statuses == [201, 201, 429]


async def test_making_accounts_is_no_way_around_the_limits_of_an_address(serve: Serve) -> None:
    """Whoever registers thirty times a minute has no thirtyfold sessions, messages and streams. Visitors of the address
    cannot use up what its users have, and users whom the operator makes count by themselves."""
    api = await serve(
        session_creations_per_address_per_minute=4, messages_per_address_per_minute=2, max_streams_per_address=2
    )
    people = [Browser(api) for _ in range(4)]
    for number, person in enumerate(people):
        await person.register(f"user{number}")  # makes a session for each
    for _ in range(5):
        await (await visitor(api)).post("/api/session/create")

    assert (await people[0].post("/api/session/create"))[0] == 429
    said = [(await person.post("/api/chat", message="/say hello"))[0] for person in people[:3]]
    assert said == [200, 200, 429]
    streams = [await api.http.get(api.url("/api/chat/stream"), headers=person.headers) for person in people[:3]]
    assert [stream.status for stream in streams] == [200, 200, 429]
    for stream in streams:
        stream.close()

    await add_user(api, "acme", "ann")
    ann = await bearer(api, "ann", "acme")
    for _ in range(5):
        assert (await api.call("POST", "/api/session/create", json={}, headers=ann))[0] == 201


async def test_where_nobody_registers_users_count_by_themselves_alone(serve: Serve) -> None:
    """An office behind one address, whose people the operator knows."""
    api = await serve(session_creations_per_address_per_minute=1, registration="closed")
    for name in ("ann", "bob"):
        await add_user(api, "public", name)
        headers = await bearer(api, name)
        for _ in range(3):
            assert (await api.call("POST", "/api/session/create", json={}, headers=headers))[0] == 201


async def test_an_ipv4_address_counts_the_same_in_the_clothes_of_ipv6(serve: Serve) -> None:
    """`::ffff:203.0.113.7` is 203.0.113.7, and not in one network with all the others of its kind."""
    api = await serve(trusted_proxies=["127.0.0.1"], session_creations_per_minute=1)
    statuses = []
    for address in ("203.0.113.7", "::ffff:203.0.113.7", "::ffff:203.0.113.8", "203.0.113.8"):
        statuses.append((await api.call("POST", "/api/session/create", json={}, headers=came_from(address)))[0])

    assert statuses == [201, 429, 201, 429]


@pytest.mark.parametrize(
    ("trusted", "forwarded", "counted"),
    [
        (["127.0.0.1"], "198.51.100.9, 203.0.113.7", "203.0.113.7"),
        (["127.0.0.1"], "203.0.113.7, 10.0.0.5", "10.0.0.5"),
        (["127.0.0.1", "10.0.0.5"], "198.51.100.9, 203.0.113.7, 10.0.0.5", "203.0.113.7"),
        (["127.0.0.1", "10.0.0.5"], "10.0.0.5, 10.0.0.5", "10.0.0.5"),
        (["127.0.0.1", "10.0.0.5"], "nonsense, 10.0.0.5", "10.0.0.5"),
        (["127.0.0.1"], "nonsense", "127.0.0.1"),
        ([], "203.0.113.7", "127.0.0.1"),
    ],
)
async def test_the_client_is_whom_the_outermost_trusted_proxy_saw(
    trusted: list[str], forwarded: str, counted: str, serve: Serve
) -> None:
    """Each proxy appends whom it was asked by: what stands left of the first that is not trusted is the client's own
    invention."""
    api = await serve(trusted_proxies=trusted, session_creations_per_minute=1)
    seen = api.server.services.sessions._limits._creations._full_at

    await api.call("POST", "/api/session/create", json={}, headers=came_from(forwarded))

    assert list(seen) == [f"public@{counted}"]


# --- what is counted ---


async def test_a_model_that_comes_with_a_message_counts_as_a_switch(serve: Serve) -> None:
    """V4: the limit of switches is none where a message can go around it. One that changes nothing is none."""
    api = await serve(model_switches_per_minute=2, no_docs=False)
    await api.post("/api/session/create", session_id="s", model="scripted")

    async def send(path: str = "/api/chat", **body: object) -> tuple[int, str | None]:
        status, answer, _ = await api.call("POST", path, json={"session_id": "s", "on_busy": "queue", **body})
        return status, answer.get("code")

    assert await send(message="/say 1", model="scripted") == (200, None)
    assert await send(message="one", model="docs") == (200, None)
    assert await send(message="/say 2", model="scripted") == (200, None)
    assert await send(message="two", model="docs") == (429, "model_switches_limited")
    assert await send(message="/say 3", model="scripted") == (200, None)
    state = (await api.get("/api/state?session_id=s"))[1]
    assert state["model"] == "scripted"
    question, answer = state["messages"][0]["id"], state["messages"][1]["id"]
    assert await send(f"/api/messages/{question}/edit", message="x", model="docs") == (429, "model_switches_limited")
    assert await send(f"/api/messages/{answer}/regenerate", model="docs") == (429, "model_switches_limited")
    assert (await api.get("/api/state?session_id=s"))[1]["model"] == "scripted"


async def test_a_message_that_is_refused_for_its_model_uses_up_no_message(serve: Serve) -> None:
    """And the other way round: neither limit counts what the other one refuses."""
    api = await serve(model_switches_per_minute=1, messages_per_minute=2)
    limits = api.server.services.sessions._limits
    await api.post("/api/session/create", session_id="s")
    await api.call("PUT", "/api/session/model", json={"session_id": "s", "model": "scripted"})
    await api.post("/api/session/create", session_id="t")
    for _ in range(5):
        status, problem, _ = await api.post("/api/chat", session_id="t", message="/say x", model="scripted")
        assert (status, problem["code"]) == (429, "model_switches_limited")
    assert limits._messages._full_at == {}
    for _ in range(2):
        assert (await api.post("/api/chat", session_id="t", message="/say x"))[0] == 200


async def test_a_fork_that_is_refused_uses_up_no_creation(serve: Serve) -> None:
    """A message that is not there is told a hundred times, and then there is still room for the session that can be
    made."""
    api = await serve(session_creations_per_minute=2)
    _, state, _ = await api.post("/api/chat", session_id="s", message="/say hello")
    for _ in range(5):
        status, problem, _ = await api.post("/api/fork", session_id="s", message_id="nothing")
        assert (status, problem["code"]) == (404, "message_not_found")

    assert (await api.post("/api/fork", session_id="s", message_id=state["messages"][0]["id"]))[0] == 201
    assert (await api.post("/api/fork", session_id="s", message_id=state["messages"][0]["id"]))[0] == 429


async def test_who_is_refused_by_one_limit_uses_nothing_up_at_the_others(serve: Serve) -> None:
    """Creations by the caller, by the address and of all together; logins by name and by address."""
    api = await serve(
        session_creations_per_address_per_minute=1,
        session_creations_global_per_minute=2,
        login_attempts_per_minute=1,
        login_attempts_per_address_per_minute=2,
    )
    await (await visitor(api)).post("/api/session/create")
    second = await visitor(api)
    for _ in range(3):
        assert (await second.post("/api/session/create"))[0] == 429

    assert len(api.server.services.sessions._limits._creations._full_at) == 1
    assert (await api.post("/api/session/create"))[0] == 201
    assert (await api.post("/api/session/create"))[0] == 429

    for _ in range(3):
        await api.post("/api/auth/login", username="nobody", password="wrong")
    assert (await api.post("/api/auth/login", username="other", password="wrong"))[0] == 401


# --- what a refusal tells ---


async def test_every_429_tells_its_limit_and_when_to_come_back(serve: Serve) -> None:
    """The rates do (tests of each); so do quotas, queues and streams."""
    api = await serve(
        quota_visitor_day_tokens=5,
        queue_limit=1,
        max_streams_per_principal=2,
        max_streams_per_session=1,
        max_streams_per_address=3,
        max_sessions_per_stream=1,
    )
    spender = await visitor(api)
    await spend(api, spender.headers, "spent", 10)
    status, problem, headers = await spender.post("/api/chat", session_id="spent", message="/say more")
    assert (status, problem["code"]) == (429, "quota_exceeded")
    told_when(headers, 5)

    for _ in range(2):
        await api.post("/api/chat", session_id="s", message="/hang")
    status, problem, headers = await api.post("/api/chat", session_id="s", message="/hang")
    assert (status, problem["code"]) == (429, "queue_full")
    told_when(headers, 1)


async def test_every_429_of_a_stream_tells_its_limit(serve: Serve) -> None:
    """Of the session's, the caller's, the address's, and of the sessions that one stream may follow."""
    api = await serve(
        max_streams_per_principal=2, max_streams_per_session=1, max_streams_per_address=3, max_sessions_per_stream=1
    )
    one, two = await visitor(api), await visitor(api)

    def follow(browser: Browser, target: str):  # type: ignore[no-untyped-def]
        return api.http.get(api.url(target), headers=browser.headers)

    async def refused(browser: Browser, target: str, limit: int) -> None:
        status, problem, headers = await browser.get(target)
        assert (status, problem["code"]) == (429, "too_many_streams")
        told_when(headers, limit)

    async with follow(one, "/api/chat/stream?session_id=a"):
        await refused(one, "/api/chat/stream?session_id=a", 1)
        async with follow(one, "/api/stream?sessions=b&stream=mine"):
            await refused(one, "/api/chat/stream?session_id=c", 2)
            status, problem, headers = await one.post("/api/stream", stream="mine", add=["d"])
            assert (status, problem["code"]) == (429, "too_many_sessions")
            told_when(headers, 1)
            async with follow(two, "/api/chat/stream?session_id=x"):
                await refused(two, "/api/chat/stream?session_id=y", 3)
