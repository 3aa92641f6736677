"""Sessions as records while all else goes on: what expires, is deleted or evicted under its readers and turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from chatserver.store.base import SessionKey
from tests.api.conftest import Api, Serve
from tests.api.test_projects import person_of
from tests.auth.clock import SetClock
from tests.checker import Checker, Position

pytestmark = pytest.mark.both_loops

# Maintenance as often as these tests need it. It looks every 20 ms of real time at a clock that the test moves.
HASTY: dict[str, Any] = {"eviction_interval_seconds": 0.02}


async def until(api: Api, path: str, wanted: Callable[[int, Any], bool]) -> Any:
    """Ask until the answer is as wanted."""
    async with asyncio.timeout(60):
        while True:
            status, body, _ = await api.get(path)
            if wanted(status, body):
                return body


async def test_a_stream_ends_when_its_session_expires(serve: Serve) -> None:
    """Its reader is told, and then why; the session beside it on the same connection goes on."""
    clock = SetClock()
    api = await serve(**HASTY, unowned_session_ttl_seconds=100, clock=clock)
    await api.post("/api/system", session_id="short", message="x")
    await api.post("/api/system", session_id="kept", message="x")
    async with Checker(api.server.url) as checker:
        async with checker.multiplex(["short", "kept"]) as both, checker.follow("short") as alone:
            clock.move(60)
            assert (await api.post("/api/session/refresh", session_id="kept"))[0] == 200
            clock.move(60)
            await alone.until_type("session.deleted")
            told = await both.until(lambda e: e.type == "session.deleted")
            assert told.body["session_id"] == "short"
            await api.post("/api/session/refresh", session_id="kept")
            await both.until(lambda e: e.type == "session.updated" and e.body["session_id"] == "kept")
        status, problem, _ = await api.get("/api/state?session_id=short")
        assert (status, problem["code"]) == (410, "session_expired")


async def test_a_turn_outlives_its_sessions_time(serve: Serve) -> None:
    """What runs is not cut off: the answer ends as it would have, is stored, and then the stream ends."""
    clock = SetClock()
    api = await serve(**HASTY, unowned_session_ttl_seconds=100, clock=clock)
    async with Checker(api.server.url) as checker:
        sent = await checker.send("s", "/say begun\n/hang")
        async with checker.follow("s") as stream:
            clock.move(101)
            assert (await api.get("/api/state?session_id=s"))[0] == 410
            key = SessionKey("public", "s")
            live = api.server.services.manager.peek(key)
            assert live is not None
            assert live.run is not None
            live.run.finish("completed")
            ended = await stream.until_ended(sent.turn_id)
            assert ended.body["outcome"] == "completed"
            await stream.until_type("session.deleted")
        messages = await api.server.services.store.messages(key, leaf_id=None, limit=10)
        assert [(m.role, m.status) for m in messages] == [("user", "completed"), ("assistant", "completed")]
        assert "begun" in messages[1].content


async def test_an_expired_session_leaves_the_store_and_its_id_can_be_used_again(serve: Serve) -> None:
    """410 for a while, then as if it had never been; no event id of the old one comes back."""
    clock = SetClock()
    api = await serve(**HASTY, unowned_session_ttl_seconds=100, expired_keep_seconds=100, clock=clock)
    _, before, _ = await api.post("/api/system", session_id="s", message="old words")
    clock.move(101)
    assert (await api.get("/api/session?session_id=s"))[0] == 410
    clock.move(100)
    await until(api, "/api/session?session_id=s", lambda status, _: status == 404)
    assert await api.server.services.store.record(SessionKey("public", "s")) is None
    status, after, _ = await api.post("/api/system", session_id="s", message="new words")
    assert status == 200
    assert [m["content"] for m in after["messages"]] == ["new words"]
    assert Position.parse(after["position"]) > Position.parse(before["position"])


async def test_a_session_that_is_used_is_not_purged(serve: Serve) -> None:
    """Maintenance looks all the time while it is kept alive, and never takes it or its messages."""
    clock = SetClock()
    api = await serve(**HASTY, unowned_session_ttl_seconds=100, expired_keep_seconds=0.01, clock=clock)
    manager = api.server.services.manager
    for count in range(1, 41):
        status, state, _ = await api.post("/api/system", session_id="s", message="x")
        assert (status, state["message_count"]) == (200, count)
        clock.move(99)
        await manager.sweep_expired()
        await manager.purge_expired()


async def test_evictions_lose_no_message_of_a_chat(serve: Serve) -> None:
    """Sessions leave memory the moment that nobody holds them, while ten clients talk in five of them."""
    api = await serve(idle_eviction_seconds=1e-9)
    person, manager = await person_of(api), api.server.services.manager
    said: dict[str, list[str]] = {f"s{n}": [] for n in range(5)}

    async def evict() -> None:
        while True:
            await manager.sweep_idle()
            await asyncio.sleep(0)

    async def talk(client: int, round_: int) -> None:
        session_id, text = f"s{client % 5}", f"{client}/{round_}"
        path = "/api/system"
        if (client + round_) % 3 == 0:
            path, text = "/api/chat", f"/say {text}"
        status, answer = await person.ask("POST", path, {"session_id": session_id, "message": text})
        assert status == 200, answer
        said[session_id].append(text)

    evicting = asyncio.create_task(evict())
    for round_ in range(8):
        await asyncio.gather(*(talk(client, round_) for client in range(10)))
        async with asyncio.timeout(60):
            while len(manager):  # until all have left, so that each round begins with five loads at once
                await asyncio.sleep(0)
    evicting.cancel()
    await asyncio.wait({evicting})
    assert manager.evictions >= 40

    for session_id, texts in said.items():
        _, messages = await person.ask("GET", f"/api/projects/default/sessions/{session_id}/messages?limit=1000")
        _, state = await person.ask("GET", f"/api/state?session_id={session_id}")
        assert sorted(m["content"] for m in messages if m["role"] != "assistant") == sorted(texts)
        assert state["message_count"] == len(messages)
        assert {m["status"] for m in messages} == {"completed"}


async def test_a_session_deleted_twice_during_a_turn_is_deleted_once(serve: Serve) -> None:
    """Twenty at once, among renames: one `session.deleted`, nothing of it left, no answer but 200 or 404."""
    api = await serve()
    person = await person_of(api)
    async with Checker(api.server.url, headers=person.headers) as checker:
        await checker.send("s", "/say words\n/hang")
        async with checker.follow("s") as stream:
            await stream.until_state(lambda s: "words" in s["messages"][-1]["content"])
            path = "/api/llm/sessions/s"
            answers = await asyncio.gather(
                *(person.ask("DELETE", path) for _ in range(20)),
                *(person.ask("PUT", path, {"session_name": f"name {n}"}) for n in range(20)),
            )
            await stream.until_type("session.deleted")
    assert {status for status, _ in answers} <= {200, 404}
    assert sum(answer.get("deleted", False) for _, answer in answers) == 1
    assert await api.server.services.store.record(SessionKey("public", "s")) is None
    assert api.server.services.turns.running == 0
