"""The current session over HTTP: seed 0's five methods of a SessionService, each with every outcome (V1-V5)."""

from __future__ import annotations

import asyncio
import http.cookies
import uuid
from typing import Any

import pytest

from chatserver.clock import from_rfc3339
from tests.api.conftest import Api, Serve
from tests.auth.clock import SetClock
from tests.checker import Checker

pytestmark = pytest.mark.both_loops

FIELDS = {
    "session_id",
    "id",
    "project_id",
    "title",
    "description",
    "metadata",
    "model",
    "is_active",
    "message_count",
    "created_at",
    "updated_at",
    "last_message_at",
    "expires_at",
}


async def visitor(api: Api) -> dict[str, str]:
    """Headers of a fresh browser."""
    async with api.http.get(api.url("/")) as response:
        return {"Cookie": f"chatserver_visitor={response.cookies['chatserver_visitor'].value}"}


# --- create_session ---


async def test_create_session_makes_one_and_tells_its_id(api: Api) -> None:
    """V1: 201, the record, the id in body, header and cookie."""
    status, session, headers = await api.post("/api/session/create")
    assert status == 201
    assert session.keys() == FIELDS
    assert uuid.UUID(session["session_id"]).version == 4
    assert session["id"] == session["session_id"] == headers["X-Session-ID"]
    assert (session["project_id"], session["title"], session["model"]) == ("default", "New Chat", None)
    assert (session["message_count"], session["last_message_at"], session["is_active"]) == (0, None, True)

    cookie = http.cookies.SimpleCookie(headers["Set-Cookie"])["session_id"]
    assert cookie.value == session["session_id"]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Lax"
    assert 0 < int(cookie["max-age"]) <= 86400
    _, state, _ = await api.get("/api/state", headers={"Cookie": f"session_id={cookie.value}"})
    assert state["session_id"] == session["session_id"]


async def test_create_session_survives_a_restart(serve: Serve) -> None:
    """D1: a session without a message is committed too, with all that was named."""
    api = await serve()
    named = {"title": "Tax return", "description": "for 2025", "metadata": {"a": [1]}, "project_id": "home"}
    _, made, _ = await api.post("/api/session/create", session_id="s", model="scripted", **named)
    record = await api.server.services.store.record(api.server.services.manager.live()[0].key)
    assert record is not None
    assert {name: getattr(record, name) for name in named} == named
    assert {name: made[name] for name in named} == named
    assert (record.model, made["model"]) == ("scripted", "scripted")


async def test_create_session_of_a_name_that_is_there_gives_it_as_it_is(api: Api) -> None:
    """V1: 200 and unchanged; 409 where it would have been another; 403 where it is somebody else's."""
    mine = await visitor(api)
    status, made, _ = await api.call("POST", "/api/session/create", json={"session_id": "s"}, headers=mine)
    assert status == 201
    await api.call("POST", "/api/system", json={"session_id": "s", "message": "x"}, headers=mine)
    status, again, _ = await api.call("POST", "/api/session/create", json={"session_id": "s"}, headers=mine)
    assert status == 200
    assert (again["created_at"], again["message_count"]) == (made["created_at"], 1)

    body = {"session_id": "s", "title": "Another"}
    status, problem, _ = await api.call("POST", "/api/session/create", json=body, headers=mine)
    assert (status, problem["code"]) == (409, "session_exists")
    status, problem, _ = await api.post("/api/session/create", session_id="s")
    assert (status, problem["code"]) == (403, "session_forbidden")


async def test_create_session_makes_one_that_was_only_read_durable(api: Api) -> None:
    """S4: a tab that reads it already is told what it is called."""
    async with Checker(api.server.url) as checker, checker.follow("s") as stream:
        await stream.next()
        status, made, _ = await api.post("/api/session/create", session_id="s", title="Named", project_id="work")
        assert (status, made["title"], made["project_id"]) == (201, "Named", "work")
        await stream.until_state(lambda s: s["title"] == "Named" and s["project_id"] == "work")
        assert (await api.post("/api/session/create", session_id="s", title="Named"))[0] == 200


async def test_create_session_twenty_at_once_make_one(api: Api) -> None:
    """One 201, and nineteen that find it."""
    body = {"session_id": "s", "title": "Same"}
    answers = await asyncio.gather(*(api.post("/api/session/create", **body) for _ in range(20)))
    assert sorted(status for status, _, _ in answers) == [200] * 19 + [201]
    assert len({session["created_at"] for _, session, _ in answers}) == 1


async def test_create_session_is_limited_in_rate(serve: Serve) -> None:
    """V1: 429 with `Retry-After` and `RateLimit-*`; what exists already may be asked for still."""
    api = await serve(session_creations_per_minute=2)
    for n in range(2):
        assert (await api.post("/api/session/create", session_id=f"s{n}"))[0] == 201
    status, problem, headers = await api.post("/api/session/create", session_id="s2")
    assert (status, problem["code"]) == (429, "session_creation_limited")
    assert 1 <= int(headers["Retry-After"]) <= 30
    assert (headers["RateLimit-Limit"], headers["RateLimit-Remaining"]) == ("2", "0")
    assert headers["RateLimit-Reset"] == headers["Retry-After"]
    assert (await api.post("/api/session/create", session_id="s1"))[0] == 200


async def test_create_session_is_limited_for_all_together(serve: Serve) -> None:
    """V1: however many browsers they come from."""
    api = await serve(session_creations_global_per_minute=2)
    statuses = [(await api.call("POST", "/api/session/create", headers=await visitor(api)))[0] for _ in range(3)]
    assert statuses == [201, 201, 429]


async def test_create_session_works_where_auto_creation_is_off(serve: Serve) -> None:
    """Seed 0 §2.4: then it is the one way to a session, the stream included."""
    api = await serve(auto_create=False)
    assert (await api.get("/api/chat/stream?session_id=s"))[0] == 404
    assert (await api.post("/api/session/create", session_id="s"))[0] == 201
    assert (await api.post("/api/chat", session_id="s", message="hi"))[0] == 200
    async with api.http.get(api.url("/api/chat/stream?session_id=s")) as response:
        assert response.status == 200


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"session_id": "a b"}, "invalid_session_id"),
        ({"project_id": "a/b"}, "invalid_fields"),
        ({"title": ""}, "invalid_fields"),
        ({"title": " \n"}, "invalid_fields"),
        ({"title": "x" * 201}, "invalid_fields"),
        ({"description": "x" * 1001}, "invalid_fields"),
        ({"metadata": []}, "invalid_fields"),
        ({"model": "no such"}, "unknown_model"),
        ({"owner": "me"}, "invalid_fields"),
    ],
    ids=str,
)
async def test_create_session_refuses_what_is_not_valid(api: Api, body: dict[str, Any], code: str) -> None:
    """422 with the field; nothing is made."""
    status, problem, _ = await api.post("/api/session/create", **body)
    assert (status, problem["code"]) == (422, code)
    assert [e["loc"][0] for e in problem["errors"]] == list(body)
    assert api.server.services.manager.live() == []


async def test_create_session_refuses_large_metadata(api: Api) -> None:
    """413 over `max_metadata_bytes`."""
    status, problem, _ = await api.post("/api/session/create", metadata={"a": "x" * 20_000})
    assert (status, problem["code"]) == (413, "metadata_too_large")


async def test_create_session_without_an_id_makes_another_whatever_the_cookie_says(api: Api) -> None:
    """A browser that wants a new chat sends the cookie of the old one."""
    _, first, headers = await api.post("/api/session/create")
    cookie = {"Cookie": headers["Set-Cookie"].partition(";")[0]}
    status, second, headers = await api.call("POST", "/api/session/create", headers=cookie)
    assert status == 201
    assert second["session_id"] != first["session_id"]
    assert second["session_id"] in headers["Set-Cookie"]


# --- validate_session ---


async def test_validate_session_says_valid_of_ones_own(api: Api) -> None:
    """V2: and until when."""
    _, made, _ = await api.post("/api/session/create", session_id="s")
    status, answer, _ = await api.get("/api/session/validate?session_id=s")
    assert status == 200
    assert answer == {"valid": True, "reason": None, "session_id": "s", "expires_at": made["expires_at"]}


async def test_validate_session_says_why_not(serve: Serve) -> None:
    """V2: not found, expired, somebody else's, no valid id, no id at all; and makes nothing."""
    clock = SetClock()
    api = await serve(visitor_session_ttl_seconds=100, clock=clock)
    mine = await visitor(api)
    await api.call("POST", "/api/session/create", json={"session_id": "old"}, headers=mine)
    clock.move(101)
    await api.post("/api/session/create", session_id="nobodys")
    for query, headers, reason in (
        ("?session_id=unknown", mine, "session_not_found"),
        ("?session_id=old", mine, "session_expired"),
        ("?session_id=old", {}, "session_forbidden"),
        ("?session_id=nobodys", mine, "session_forbidden"),
        ("?session_id=a%20b", mine, "invalid_session_id"),
        ("", mine, "session_not_found"),
    ):
        status, answer, _ = await api.get(f"/api/session/validate{query}", headers=headers)
        assert (status, answer["valid"], answer["reason"]) == (200, False, reason)
        assert answer["expires_at"] is None
    assert {live.key.session_id for live in api.server.services.manager.live()} <= {"old", "nobodys"}


async def test_a_session_that_is_required_is_404_410_or_403(serve: Serve) -> None:
    """V2 on the routes that need one: the same three on each of them."""
    clock = SetClock()
    api = await serve(visitor_session_ttl_seconds=100, clock=clock)
    mine = await visitor(api)
    await api.call("POST", "/api/session/create", json={"session_id": "old"}, headers=mine)
    clock.move(101)
    for method, path, body in (
        ("GET", "/api/session", None),
        ("POST", "/api/session/refresh", None),
        ("GET", "/api/session/model", None),
        ("PUT", "/api/session/model", {"model": "scripted"}),
    ):
        for query, headers, expected in (
            ("?session_id=unknown", mine, (404, "session_not_found")),
            ("", mine, (404, "session_not_found")),
            ("?session_id=old", mine, (410, "session_expired")),
            ("?session_id=old", {}, (403, "session_forbidden")),
        ):
            status, problem, _ = await api.call(method, path + query, json=body, headers=headers)
            assert (status, problem["code"]) == expected, (method, path, query)


async def test_get_session_tells_the_record(api: Api) -> None:
    """`GET /api/session`, by cookie too."""
    await api.post("/api/chat", session_id="s", message="hi")
    status, session, _ = await api.get("/api/session", headers={"Cookie": "session_id=s"})
    assert (status, session["session_id"], session["message_count"]) == (200, "s", 2)
    assert session.keys() == FIELDS
    assert session["last_message_at"] is not None


# --- extend_session ---


async def test_extend_session_pushes_the_expiry_and_tabs_are_told(api: Api) -> None:
    """V3: as far from now as activity would, and the cookie lives as long."""
    _, made, _ = await api.post("/api/session/create", session_id="s")
    async with Checker(api.server.url) as checker, checker.follow("s") as stream:
        await stream.next()
        status, session, headers = await api.call(
            "POST", "/api/session/refresh", headers={"Cookie": "session_id=s"}, json={}
        )
        assert status == 200
        assert from_rfc3339(session["expires_at"]) >= from_rfc3339(made["expires_at"])
        assert "session_id=s" in headers["Set-Cookie"]
        await stream.until_state(lambda s: s["expires_at"] == session["expires_at"])


async def test_extend_session_keeps_a_session_that_would_have_expired(serve: Serve) -> None:
    """V3: refreshed again and again it outlives its time many times over."""
    clock = SetClock()
    api = await serve(unowned_session_ttl_seconds=100, clock=clock)
    _, made, _ = await api.post("/api/session/create", session_id="s")
    for _ in range(10):
        clock.move(99)
        status, session, _ = await api.post("/api/session/refresh", session_id="s")
        assert status == 200
    assert from_rfc3339(session["expires_at"]) == from_rfc3339(made["expires_at"]) + 990
    clock.move(101)
    assert (await api.post("/api/session/refresh", session_id="s"))[0] == 410


async def test_anonymous_sessions_live_shorter(api: Api) -> None:
    """V3, seed 0 §2.4: a caller without identity a day, a visitor a week."""
    lives = []
    for headers in ({}, await visitor(api)):
        _, made, _ = await api.call("POST", "/api/session/create", headers=headers)
        lives.append(round(from_rfc3339(made["expires_at"]) - from_rfc3339(made["created_at"])))
    assert lives == [86400, 7 * 86400]


# --- switch_model, get_current_model ---


async def test_switch_model_sets_it_and_get_current_model_tells_it(serve: Serve) -> None:
    """V4, V5: the session's model is the only truth; null goes back to the default."""
    api = await serve(no_docs=False, docs_piece_seconds=0)
    await api.post("/api/session/create", session_id="s")
    _, answer, _ = await api.get("/api/session/model?session_id=s")
    assert answer == {"session_id": "s", "model": "scripted", "chosen": None, "missing_api_key": False}
    async with Checker(api.server.url) as checker, checker.follow("s") as stream:
        await stream.next()
        status, answer, _ = await api.call("PUT", "/api/session/model", json={"session_id": "s", "model": "docs"})
        assert (status, answer["model"], answer["chosen"]) == (200, "docs", "docs")
        await stream.until_state(lambda s: s["model"] == "docs")
        sent = await checker.send("s", "What is a turn?")
        await stream.until_ended(sent.turn_id)
        assert stream.state["messages"][-1]["model"] == "docs"  # type: ignore[index]
    assert (await api.get("/api/session/model?session_id=s"))[1]["model"] == "docs"
    _, answer, _ = await api.call("PUT", "/api/session/model", json={"session_id": "s", "model": None})
    assert (answer["model"], answer["chosen"]) == ("scripted", None)


async def test_switch_model_during_a_turn_takes_effect_with_the_next(serve: Serve) -> None:
    """V4: the running one goes on with the old."""
    api = await serve(no_docs=False, docs_piece_seconds=0)
    await api.post("/api/chat", session_id="s", message="/say first\n/hang")
    async with Checker(api.server.url) as checker, checker.follow("s") as stream:
        await stream.next()
        status, _, _ = await api.call("PUT", "/api/session/model", json={"session_id": "s", "model": "docs"})
        assert status == 200
        await stream.until_state(lambda s: s["model"] == "docs" and s["is_processing"])
        sent = await checker.send("s", "What is a session?")
        await api.post("/api/interrupt", session_id="s")
        await stream.until_ended(sent.turn_id)
        answers = [m for m in stream.state["messages"] if m["role"] == "assistant"]  # type: ignore[index]
        assert [(m["model"], m["status"]) for m in answers] == [("scripted", "interrupted"), ("docs", "completed")]


async def test_switch_model_refuses_one_outside_the_catalogue(api: Api) -> None:
    """V4: 422, and the catalogue in the detail; the session keeps its model."""
    await api.post("/api/session/create", session_id="s", model="scripted")
    status, problem, _ = await api.call("PUT", "/api/session/model", json={"session_id": "s", "model": "gpt-99"})
    assert (status, problem["code"]) == (422, "unknown_model")
    assert "scripted" in problem["detail"]
    assert (await api.get("/api/session/model?session_id=s"))[1]["chosen"] == "scripted"
    assert (await api.call("PUT", "/api/session/model", json={"session_id": "s"}))[0] == 422


async def test_switch_model_is_limited_in_rate(serve: Serve) -> None:
    """V4: 429 with the usual headers; setting what is set already is no switch."""
    api = await serve(model_switches_per_minute=2)
    await api.post("/api/session/create", session_id="s")
    statuses = []
    for model in ("scripted", None, None, "scripted"):
        status, _, headers = await api.call("PUT", "/api/session/model", json={"session_id": "s", "model": model})
        statuses.append(status)
    assert statuses == [200, 200, 200, 429]
    assert headers["RateLimit-Limit"] == "2"
    assert int(headers["Retry-After"]) >= 1


async def test_get_current_model_falls_back_where_the_set_one_has_gone(serve: Serve) -> None:
    """V5: the wish stays, the default answers."""
    first = await serve(no_docs=False)
    await first.post("/api/session/create", session_id="s", model="docs")
    key = first.server.services.manager.live()[0].key
    await first.server.services.store.update_session(key, {"model": "gone"}, new_fence=False, now=0.0)
    first.server.services.manager.remove(first.server.services.manager.live()[0])
    _, answer, _ = await first.get("/api/session/model?session_id=s")
    assert (answer["model"], answer["chosen"]) == ("scripted", "gone")


# --- messages, projects and deletion of the current session ---


async def test_chat_is_limited_in_rate(serve: Serve) -> None:
    """Messages with a turn and without count together; 429 with the usual headers."""
    api = await serve(messages_per_minute=2)
    assert (await api.post("/api/chat", session_id="s", message="x"))[0] == 200
    assert (await api.post("/api/system", session_id="s", message="x"))[0] == 200
    status, problem, headers = await api.post("/api/chat", session_id="s", message="x")
    assert (status, problem["code"]) == (429, "messages_limited")
    assert headers["RateLimit-Limit"] == "2"


async def test_a_message_cannot_move_a_session_to_another_project(api: Api) -> None:
    """P5: 404 and nothing accepted; a session that was only read is in none yet, and gets it."""
    await api.get("/api/state?session_id=s")
    _, state, _ = await api.post("/api/chat", session_id="s", message="/say hi", project_id="work")
    assert state["project_id"] == "work"
    assert (await api.get("/api/session?session_id=s"))[1]["project_id"] == "work"
    status, problem, _ = await api.post("/api/chat", session_id="s", message="x", project_id="home")
    assert (status, problem["code"]) == (404, "session_not_in_project")
    assert (await api.get("/api/state?session_id=s"))[1]["message_count"] == 2
    assert (await api.post("/api/chat", session_id="s", message="/say again", project_id="work"))[0] == 200


async def test_delete_ends_the_turn_and_the_streams_at_once_and_is_idempotent(api: Api) -> None:
    """`DELETE /api/session` during a turn: `session.deleted` is the last that its tabs see."""
    await api.post("/api/chat", session_id="s", message="/say some words\n/hang")
    async with Checker(api.server.url) as checker, checker.follow("s") as stream:
        await stream.until_state(lambda s: "some words" in s["messages"][-1]["content"])
        status, answer, headers = await api.call("DELETE", "/api/session", headers={"Cookie": "session_id=s"})
        assert (status, answer) == (200, {"session_id": "s", "deleted": True})
        assert 'session_id=""' in headers["Set-Cookie"]
        assert headers["X-Session-ID"] == "s"
        await stream.until(lambda e: e.type == "session.deleted")
    status, answer, _ = await api.call("DELETE", "/api/session?session_id=s")
    assert (status, answer["deleted"]) == (200, False)
    assert (await api.get("/api/session?session_id=s"))[0] == 404


async def test_an_expired_session_may_be_deleted(serve: Serve) -> None:
    """By its owner, and by nobody else."""
    clock = SetClock()
    api = await serve(visitor_session_ttl_seconds=100, clock=clock)
    mine = await visitor(api)
    await api.call("POST", "/api/session/create", json={"session_id": "s"}, headers=mine)
    clock.move(101)
    assert (await api.call("DELETE", "/api/session?session_id=s"))[0] == 403
    assert (await api.call("DELETE", "/api/session?session_id=s", headers=mine))[1]["deleted"] is True
    assert (await api.get("/api/session?session_id=s", headers=mine))[0] == 404
