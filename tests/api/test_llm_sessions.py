"""The user's sessions over HTTP (spec §8): seed 4's walks, and the documented shape of every route (U1-U4, U6)."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.api.conftest import Api, Serve
from tests.api.test_projects import LISTED_FIELDS, Person, person_of
from tests.checker import Checker
from tests.server import ServerProcess

pytestmark = pytest.mark.both_loops

FIELDS = {
    "id",
    "session_id",
    "thread_id",
    "session_name",
    "is_archived",
    "message_count",
    "created_at",
    "updated_at",
    "last_message_at",
    "expires_at",
    "project_id",
    "model",
}
SESSIONS = "/api/llm/sessions"


@pytest.fixture
async def person(api: Api) -> Person:
    """Somebody with a browser."""
    return await person_of(api)


async def create(person: Person, **body: Any) -> Any:
    """A new session's answer."""
    status, answer = await person.ask("POST", SESSIONS, body)
    assert status == 201, answer
    return answer


# --- the walks ---


async def test_walk_1_create_a_new_chat_session(person: Person) -> None:
    """It is in the list as "New Chat"; a message is answered, and the session stays."""
    made = await create(person)
    _, listed = await person.ask("GET", SESSIONS)
    assert [(s["id"], s["session_name"]) for s in listed["data"]] == [(made["session_id"], "New Chat")]
    async with Checker(person.api.server.url, headers=person.headers) as checker:
        async with checker.follow(made["session_id"]) as stream:
            sent = await checker.send(made["session_id"], "/say hello there")
            await stream.until_ended(sent.turn_id)
        await checker.verify(made["session_id"])
    _, got = await person.ask("GET", f"{SESSIONS}/{made['session_id']}?include_messages=true")
    assert [(m["role"], m["content"]) for m in got["messages"]] == [
        ("user", "/say hello there"),
        ("assistant", "hello there"),
    ]
    assert got["data"]["message_count"] == 2
    assert got["data"]["last_message_at"] is not None


async def test_walk_2_delete_a_chat_session(person: Person) -> None:
    """Gone from the list, from the store, from memory; its tab is told; the neighbour stays."""
    kept, gone = await create(person), await create(person)
    session_id = gone["session_id"]
    async with Checker(person.api.server.url, headers=person.headers) as checker:
        await checker.send(session_id, "/say a start\n/hang")
        async with checker.follow(session_id) as stream:
            await stream.until_state(lambda s: "a start" in s["messages"][-1]["content"])
            status, answer = await person.ask("DELETE", f"{SESSIONS}/{session_id}")
            assert (status, answer) == (200, {"success": True, "session_id": session_id, "deleted": True})
            await stream.until_type("session.deleted")
    _, listed = await person.ask("GET", f"{SESSIONS}?include_archived=true")
    assert [s["id"] for s in listed["data"]] == [kept["session_id"]]
    services = person.api.server.services
    assert {live.key.session_id for live in services.manager.live()} == {kept["session_id"]}
    assert services.turns.running == 0
    key = services.manager.live()[0].key._replace(session_id=session_id)
    assert await services.store.record(key) is None


async def test_walk_3_a_session_names_itself_after_its_first_message(serve: Serve) -> None:
    """U5: a few words instead of "New Chat", in the list and in the tab; a person's own name stays."""
    api = await serve(auto_titles="words")
    person = await person_of(api)
    made, named = await create(person), await create(person, session_name="My own name")
    question = "What's the value of the Highland property?"
    async with Checker(api.server.url, headers=person.headers) as checker:
        for session_id in (named["session_id"], made["session_id"]):
            async with checker.follow(session_id) as stream:
                sent = await checker.send(session_id, question)
                await stream.until_ended(sent.turn_id)
                if session_id == made["session_id"]:
                    await stream.until_state(lambda s: "Highland" in s["title"])
    _, listed = await person.ask("GET", SESSIONS)
    names = {s["id"]: s["session_name"] for s in listed["data"]}
    assert names[named["session_id"]] == "My own name"
    assert 3 <= len(names[made["session_id"]].split()) <= 5


@pytest.mark.parametrize("how", ["crashed", "stopped"])
async def test_walk_4_sessions_persist(tmp_path: Path, how: str) -> None:
    """A page that is loaded again after the server's restart finds the conversation and goes on with it."""
    async with ServerProcess(tmp_path / "data") as server, aiohttp.ClientSession() as http:

        async def ask(method: str, path: str, body: Any = None) -> Any:
            async with http.request(method, server.base_url + path, json=body, headers=headers) as response:
                assert response.status in (200, 201), await response.text()
                return await response.json()

        async def say(text: str) -> None:
            async with Checker(server.base_url, headers=headers) as checker, checker.follow(session_id) as stream:
                sent = await checker.send(session_id, f"/say {text}")
                await stream.until_ended(sent.turn_id)

        async with http.get(server.base_url + "/") as response:
            headers = {"Cookie": f"chatserver_visitor={response.cookies['chatserver_visitor'].value}"}
        session_id = (await ask("POST", SESSIONS, {"session_name": "Highland"}))["session_id"]
        for text in ("one", "two"):
            await say(text)
        path = f"{SESSIONS}/{session_id}?include_messages=true"
        before = await ask("GET", path)

        await (server.kill9() if how == "crashed" else server.terminate())
        await server.start()

        assert await ask("GET", path) == before
        assert [m["content"] for m in before["messages"]] == ["/say one", "one", "/say two", "two"]
        assert [s["id"] for s in (await ask("GET", SESSIONS))["data"]] == [session_id]
        await say("three")
        after = await ask("GET", path)
        assert (after["data"]["message_count"], after["messages"][-1]["content"]) == (6, "three")


# --- shapes ---


async def test_create_answers_with_record_id_and_thread(person: Person) -> None:
    """U1: with and without a name and an id."""
    plain = await create(person)
    assert plain.keys() == {"success", "data", "session_id", "thread_id"}
    assert plain["success"] is True
    assert plain["data"].keys() == FIELDS
    assert uuid.UUID(plain["session_id"]).version == 4
    visitor = person.headers["Cookie"].partition("=")[2].partition(".")[0]
    assert plain["thread_id"] == f"user_{visitor}_tenant_public_session_{plain['session_id']}"

    named = await create(person, session_name="Bristol", session_id="chat-123-abc")
    assert (named["session_id"], named["data"]["session_name"]) == ("chat-123-abc", "Bristol")
    assert named["data"]["is_archived"] is False
    again = {"session_name": "Bristol", "session_id": "chat-123-abc"}
    assert await person.ask("POST", SESSIONS, again) == (200, named)


async def test_a_list_tells_where_an_answer_is_being_written(person: Person) -> None:
    """In both lists, while it is; for a page that was opened after it had begun."""
    running, idle = [(await create(person))["session_id"] for _ in range(2)]
    _, sent = await person.ask("POST", "/api/chat", {"session_id": running, "message": "/hang"})

    async def told() -> list[dict[str, Any]]:
        _, mine = await person.ask("GET", SESSIONS)
        _, project = await person.ask("GET", "/api/projects/default/sessions")
        return [
            {s["id"]: (s["is_processing"], s["pending_approvals"]) for s in found} for found in (mine["data"], project)
        ]

    assert await told() == [{running: (True, 0), idle: (False, 0)}] * 2
    await person.ask("POST", "/api/interrupt", {"session_id": running, "turn_id": sent["turn_id"]})
    assert await told() == [{running: (False, 0), idle: (False, 0)}] * 2


async def test_list_answers_with_page_and_count(person: Person) -> None:
    """U2: the newest change first, 50 where no limit is given, archived ones where they are asked for."""
    made = [(await create(person, session_name=f"chat {n}"))["session_id"] for n in range(55)]
    status, listed = await person.ask("GET", SESSIONS)
    assert status == 200
    assert listed.keys() == {"success", "data", "count", "limit", "offset"}
    assert (listed["success"], listed["count"], listed["limit"], listed["offset"]) == (True, 50, 50, 0)
    assert [s["id"] for s in listed["data"]] == made[:4:-1]
    assert listed["data"][0].keys() == FIELDS | LISTED_FIELDS
    _, rest = await person.ask("GET", f"{SESSIONS}?limit=10&offset=50")
    assert ([s["id"] for s in rest["data"]], rest["count"], rest["offset"]) == (made[4::-1], 5, 50)

    await person.ask("PUT", f"{SESSIONS}/{made[0]}", {"is_archived": True})
    _, listed = await person.ask("GET", f"{SESSIONS}?limit=1000")
    assert listed["count"] == 54
    _, listed = await person.ask("GET", f"{SESSIONS}?limit=1000&include_archived=true")
    assert [s["id"] for s in listed["data"] if s["is_archived"]] == [made[0]]
    for query in ("limit=0", "limit=1001", "offset=-1", "include_archived=maybe", "q=" + "x" * 201):
        status, problem = await person.ask("GET", f"{SESSIONS}?{query}")
        assert (status, problem["code"], problem["success"]) == (422, "invalid_fields", False), query


async def test_list_searches_titles_and_messages_of_ones_own(api: Api) -> None:
    """U2: `q`; nobody finds another's words."""
    person, other = await person_of(api), await person_of(api)
    a = await create(person, session_name="Highland valuation")
    b = await create(person)
    async with Checker(api.server.url, headers=person.headers) as checker:
        await checker.send(b["session_id"], "/say comparable properties in Bristol")
        await checker.settle(b["session_id"])
    for q, expected in (("highland", a), ("bristol", b), ("comparable prop", b)):
        _, found = await person.ask("GET", f"{SESSIONS}?q={q.replace(' ', '%20')}")
        assert [s["id"] for s in found["data"]] == [expected["session_id"]], q
        assert (await other.ask("GET", f"{SESSIONS}?q={q.replace(' ', '%20')}"))[1]["data"] == []


async def test_get_answers_with_messages_where_they_are_asked_for(person: Person) -> None:
    """U3: `include_messages=false` by default."""
    made = await create(person)
    _, got = await person.ask("GET", f"{SESSIONS}/{made['session_id']}")
    assert got == {"success": True, "data": made["data"]}
    _, got = await person.ask("GET", f"{SESSIONS}/{made['session_id']}?include_messages=true")
    assert got == {"success": True, "data": made["data"], "messages": [], "has_more": False}


async def test_put_renames_and_archives_and_compares_the_count(person: Person) -> None:
    """U3: a count that is not the real one is 409 and changes nothing; tabs see the new name."""
    made = await create(person)
    path = f"{SESSIONS}/{made['session_id']}"
    async with Checker(person.api.server.url, headers=person.headers) as checker:
        async with checker.follow(made["session_id"]) as stream:
            await stream.next()
            status, put = await person.ask("PUT", path, {"session_name": "Highland Property Valuation"})
            assert (status, put["success"], put["data"]["session_name"]) == (200, True, "Highland Property Valuation")
            await stream.until_state(lambda s: s["title"] == "Highland Property Valuation")
        await checker.system(made["session_id"], "x")
    status, problem = await person.ask("PUT", path, {"session_name": "no", "message_count": 5})
    assert (status, problem["code"], problem["success"]) == (409, "message_count_differs", False)
    status, put = await person.ask("PUT", path, {"is_archived": True, "message_count": 1})
    assert (status, put["data"]["is_archived"], put["data"]["message_count"]) == (200, True, 1)
    assert put["data"]["session_name"] == "Highland Property Valuation"
    for body in ({"session_name": ""}, {"session_name": None}, {"is_archived": "yes"}, {"message_count": -1}, {"x": 1}):
        status, problem = await person.ask("PUT", path, body)
        assert (status, problem["success"]) == (422, False), body


async def test_delete_is_idempotent(person: Person) -> None:
    """U4: the second time there is nothing to delete, and nothing to complain about."""
    made = await create(person)
    path = f"{SESSIONS}/{made['session_id']}"
    assert (await person.ask("DELETE", path))[1]["deleted"] is True
    for _ in range(2):
        status, answer = await person.ask("DELETE", path)
        assert (status, answer["success"], answer["deleted"]) == (200, True, False)
    assert (await person.ask("DELETE", f"{SESSIONS}/never-was"))[0] == 200


async def test_problems_are_in_the_envelope_too(person: Person) -> None:
    """§11: `success: false` in every refusal under `/api/llm`, and nowhere else."""
    for method, path, body, expected in (
        ("GET", f"{SESSIONS}/no-such", None, (404, "session_not_found")),
        ("PUT", f"{SESSIONS}/no-such", {"session_name": "x"}, (404, "session_not_found")),
        ("POST", SESSIONS, {"session_id": "a b"}, (422, "invalid_session_id")),
        ("POST", SESSIONS, {"x": 1}, (422, "invalid_fields")),
        ("PATCH", SESSIONS, None, (405, "method_not_allowed")),
        ("GET", "/api/llm/nothing", None, (404, "not_found")),
    ):
        status, problem = await person.ask(method, path, body)
        assert (status, problem["code"]) == expected, path
        assert problem["success"] is False
        assert problem["status"] == status
    _, problem = await person.ask("GET", "/api/session?session_id=no-such")
    assert "success" not in problem
