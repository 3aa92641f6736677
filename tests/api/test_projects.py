"""Projects over HTTP (spec §7): seed 2's twenty-seven cases under its own names, each row of its error table, P1-P6."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import Api, Serve
from tests.checker import Checker

pytestmark = pytest.mark.both_loops

LISTED_FIELDS = {"last_message_preview", "is_processing", "pending_approvals"}
SESSION_FIELDS = {
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
MESSAGE_FIELDS = {"id", "parent_id", "role", "content", "status", "model", "created_at", "metadata"}


class Person:
    """A browser, and what it asks for; every answer but a refusal is its body alone."""

    def __init__(self, api: Api, headers: dict[str, str]) -> None:
        self.api = api
        self.headers = headers

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and body."""
        status, answer, _ = await self.api.call(method, path, json=body, headers=self.headers)
        return status, answer

    async def refused(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        """Status and code of a problem."""
        status, problem = await self.ask(method, path, body)
        return status, problem["code"]

    async def session(self, project: str = "p", messages: int = 0, **fields: Any) -> Any:
        """A new session, with messages in it."""
        status, session = await self.ask("POST", f"/api/projects/{project}/sessions", fields)
        assert status == 201, session
        for n in range(messages):
            status, _ = await self.ask(
                "POST",
                f"/api/projects/{project}/sessions/{session['id']}/messages",
                {"role": ("user", "assistant")[n % 2], "content": f"message {n}"},
            )
            assert status == 201
        return session

    async def list(self, query: str = "", project: str = "p") -> list[Any]:
        """The sessions of a project."""
        status, found = await self.ask("GET", f"/api/projects/{project}/sessions{query}")
        assert status == 200, found
        return list(found)


async def person_of(api: Api) -> Person:
    """A fresh browser."""
    async with api.http.get(api.url("/")) as response:
        cookie = response.cookies["chatserver_visitor"].value
    return Person(api, {"Cookie": f"chatserver_visitor={cookie}"})


@pytest.fixture
async def person(api: Api) -> Person:
    """Somebody with a browser."""
    return await person_of(api)


def ids(sessions: Iterable[Any]) -> list[str]:
    """Their ids, in order."""
    return [s["id"] for s in sessions]


async def requires_project_id(person: Person, method: str, rest: str, body: Any = None) -> None:
    """Without a project 400, with a name that is none 422, and a session is not found under another project."""
    session = await person.session()
    rest = rest.format(session=session["id"])
    assert await person.refused(method, f"/api/projects/{rest}", body) == (400, "missing_project_id")
    assert await person.refused(method, f"/api/projects/a%20b{rest}", body) == (422, "invalid_project_id")
    if session["id"] in rest:
        assert await person.refused(method, f"/api/projects/q{rest}", body) == (404, "session_not_in_project")
    assert (await person.ask("GET", f"/api/projects/p/sessions/{session['id']}"))[1] == session


# --- create ---


async def test_create_session_with_project_id(person: Person) -> None:
    """P1: 201 and the session with every field; what is named is kept, the rest has its default."""
    named = {"title": "My Session", "description": "Session description", "metadata": {"a": {"b": 1}}}
    status, session = await person.ask("POST", "/api/projects/p/sessions", {**named, "model": "scripted"})
    assert status == 201
    assert session.keys() == SESSION_FIELDS
    assert {name: session[name] for name in named} == named
    assert (session["project_id"], session["model"], session["is_active"]) == ("p", "scripted", True)
    assert (session["message_count"], session["last_message_at"]) == (0, None)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", session["created_at"])
    status, plain = await person.ask("POST", "/api/projects/p/sessions", {})
    assert (status, plain["title"], plain["description"], plain["metadata"]) == (201, "New Chat", "", {})


async def test_create_session_without_project_id_fails(person: Person) -> None:
    """Error table, row 1."""
    await requires_project_id(person, "POST", "/sessions", {"title": "x"})


# --- get ---


async def test_get_session_requires_project_id(person: Person) -> None:
    """Error table, rows 1 and 2."""
    await requires_project_id(person, "GET", "/sessions/{session}")


async def test_get_session_returns_none_if_not_found(person: Person) -> None:
    """404; and nothing is made by asking."""
    assert await person.refused("GET", "/api/projects/p/sessions/no-such") == (404, "session_not_found")
    assert await person.list() == []


# --- list ---


async def test_list_sessions_requires_project_id(person: Person) -> None:
    """Error table, row 1."""
    await requires_project_id(person, "GET", "/sessions")


async def test_list_sessions_for_project(person: Person) -> None:
    """P2: the project's own, the newest change first, each with the beginning of its newest message."""
    first = await person.session(title="first", messages=1)
    second = await person.session(title="second")
    await person.session("q", title="elsewhere")
    assert ids(await person.list()) == [second["id"], first["id"]]
    text = "  the newest\n\tmessage " + "x" * 200
    await person.ask("POST", f"/api/projects/p/sessions/{first['id']}/messages", {"role": "user", "content": text})
    found = await person.list()
    assert ids(found) == [first["id"], second["id"]]
    assert found[0].keys() == SESSION_FIELDS | LISTED_FIELDS
    assert found[0]["last_message_preview"].startswith("the newest message xxx")
    assert len(found[0]["last_message_preview"]) == 100
    assert found[1]["last_message_preview"] is None
    assert await person.list(project="empty") == []


async def test_list_sessions_include_inactive_filter(person: Person) -> None:
    """P2: archived ones only where they are asked for."""
    kept, archived = await person.session(), await person.session()
    await person.ask("PUT", f"/api/projects/p/sessions/{archived['id']}", {"is_active": False})
    assert ids(await person.list()) == [kept["id"]]
    assert ids(await person.list("?include_inactive=false")) == [kept["id"]]
    assert ids(await person.list("?include_inactive=true")) == [archived["id"], kept["id"]]


# --- update ---


async def test_update_session_requires_project_id(person: Person) -> None:
    """Error table, rows 1 and 2."""
    await requires_project_id(person, "PUT", "/sessions/{session}", {"title": "moved"})


async def test_update_session(person: Person) -> None:
    """P3: what is given is changed, the rest stays; a tab that follows it is told."""
    session = await person.session(title="before", metadata={"a": 1})
    path = f"/api/projects/p/sessions/{session['id']}"
    async with (
        Checker(person.api.server.url, headers=person.headers) as checker,
        checker.follow(session["id"]) as stream,
    ):
        await stream.next()
        status, updated = await person.ask("PUT", path, {"title": "Updated Title", "is_active": False})
        assert status == 200
        assert (updated["title"], updated["is_active"], updated["metadata"]) == ("Updated Title", False, {"a": 1})
        assert updated["updated_at"] >= session["updated_at"]
        event = await stream.until_type("session.updated")
        assert event.body["session"] == {"title": "Updated Title", "is_active": False}
    changes = {"description": "said", "metadata": {}, "model": "scripted", "is_active": True}
    _, updated = await person.ask("PUT", path, changes)
    assert {name: updated[name] for name in changes} == changes
    assert (await person.ask("GET", path))[1] == updated
    assert (await person.ask("PUT", path, {"model": None}))[1]["model"] is None
    assert (await person.ask("PUT", path, {}))[0] == 200


async def test_update_nonexistent_session_returns_none(person: Person) -> None:
    """404; and nothing is made."""
    assert await person.refused("PUT", "/api/projects/p/sessions/no-such", {"title": "x"}) == (404, "session_not_found")
    assert await person.list() == []


# --- delete ---


async def test_delete_session_requires_project_id(person: Person) -> None:
    """Error table, rows 1 and 2."""
    await requires_project_id(person, "DELETE", "/sessions/{session}")


async def test_delete_session(person: Person) -> None:
    """An empty one needs no force; it is gone from everywhere."""
    session = await person.session()
    path = f"/api/projects/p/sessions/{session['id']}"
    status, answer, headers = await person.api.call("DELETE", path, headers=person.headers)
    assert (status, answer["message"]) == (200, "Session deleted successfully")
    assert headers["X-Session-ID"] == session["id"]
    assert await person.refused("GET", f"/api/projects/p/sessions/{session['id']}") == (404, "session_not_found")
    assert await person.list("?include_inactive=true") == []


async def test_delete_nonexistent_session_returns_false(person: Person) -> None:
    """404, the second time too."""
    session = await person.session()
    path = f"/api/projects/p/sessions/{session['id']}"
    assert (await person.ask("DELETE", path))[0] == 200
    assert await person.refused("DELETE", path) == (404, "session_not_found")
    assert await person.refused("DELETE", "/api/projects/p/sessions/no-such") == (404, "session_not_found")


async def test_delete_session_with_messages_requires_force(person: Person) -> None:
    """Error table, row 3; nothing is lost by the refusal, not even a running turn."""
    session = await person.session(messages=1)
    path = f"/api/projects/p/sessions/{session['id']}"
    await person.ask("POST", "/api/chat", {"session_id": session["id"], "message": "/hang"})
    for query in ("", "?force=false", "?force=0"):
        assert await person.refused("DELETE", path + query) == (400, "session_has_messages")
    _, state = await person.ask("GET", f"/api/state?session_id={session['id']}")
    assert (state["is_processing"], state["message_count"]) == (True, 3)
    assert (await person.ask("DELETE", f"{path}?force=true"))[0] == 200
    assert await person.refused("GET", path) == (404, "session_not_found")


# --- add a message ---


async def test_add_message_requires_project_id(person: Person) -> None:
    """Error table, rows 1 and 2."""
    await requires_project_id(person, "POST", "/sessions/{session}/messages", {"role": "user", "content": "x"})


async def test_add_message_to_existing_session(person: Person) -> None:
    """P4: 201 and the message; no turn starts; counts are right; a tab sees it come."""
    session = await person.session()
    path = f"/api/projects/p/sessions/{session['id']}"
    body = {"role": "user", "content": "Hello!", "metadata": {"from": "import"}}
    async with (
        Checker(person.api.server.url, headers=person.headers) as checker,
        checker.follow(session["id"]) as stream,
    ):
        await stream.next()
        status, message = await person.ask("POST", f"{path}/messages", body)
        assert status == 201
        assert message.keys() >= MESSAGE_FIELDS
        assert {name: message[name] for name in body} == body
        assert (message["project_id"], message["session_id"], message["status"]) == ("p", session["id"], "completed")
        event = await stream.until_type("message.created")
        assert event.body["message"]["id"] == message["id"]
        assert stream.state is not None
        assert stream.state["is_processing"] is False
    for role in ("assistant", "system"):
        status, next_message = await person.ask("POST", f"{path}/messages", {"role": role, "content": "Yes."})
        assert (status, next_message["parent_id"]) == (201, message["id"])
        message = next_message
    _, now = await person.ask("GET", path)
    assert now["message_count"] == 3
    assert now["last_message_at"] is not None
    assert now["expires_at"] >= session["expires_at"]


async def test_add_message_validates_role(person: Person) -> None:
    """422 for a role that nobody may store, and for a message that says nothing or too much."""
    session = await person.session()
    path = f"/api/projects/p/sessions/{session['id']}/messages"
    for body, expected in (
        ({"role": "tool", "content": "x"}, (422, "invalid_fields")),
        ({"role": "admin", "content": "x"}, (422, "invalid_fields")),
        ({"content": "x"}, (422, "invalid_fields")),
        ({"role": "user"}, (422, "invalid_fields")),
        ({"role": "user", "content": 1}, (422, "invalid_fields")),
        ({"role": "user", "content": "x", "id": "mine"}, (422, "invalid_fields")),
        ({"role": "user", "content": " \n"}, (422, "blank_message")),
        ({"role": "user", "content": "x" * 32_001}, (413, "message_too_long")),
        ({"role": "assistant", "content": "x" * 32_001}, (413, "message_too_long")),
        ({"role": "user", "content": "x", "metadata": {"a": "x" * 20_000}}, (413, "metadata_too_large")),
    ):
        assert await person.refused("POST", path, body) == expected, body
    assert (await person.ask("GET", path))[1] == []


async def test_add_message_to_nonexistent_session_fails(person: Person) -> None:
    """404; and nothing is made."""
    body = {"role": "user", "content": "x"}
    assert await person.refused("POST", "/api/projects/p/sessions/no-such/messages", body) == (404, "session_not_found")
    assert await person.list() == []


# --- get messages ---


async def test_get_messages_requires_project_id(person: Person) -> None:
    """Error table, rows 1 and 2."""
    await requires_project_id(person, "GET", "/sessions/{session}/messages")


async def test_get_messages_from_session(person: Person) -> None:
    """Oldest first, whoever wrote them; an answer that is running as it stands now."""
    session = await person.session(messages=1)
    path = f"/api/projects/p/sessions/{session['id']}/messages"
    async with Checker(person.api.server.url, headers=person.headers) as checker:
        await checker.send(session["id"], "/say half an answer\n/hang")
        async with checker.follow(session["id"]) as stream:
            await stream.until_state(lambda s: "half an answer" in s["messages"][-1]["content"])
            _, messages = await person.ask("GET", path)
    assert [m["role"] for m in messages] == ["user", "user", "assistant"]
    assert messages[0]["content"] == "message 0"
    assert "half an answer" in messages[2]["content"]
    assert messages[2]["status"] == "streaming"
    assert {m["project_id"] for m in messages} == {"p"}


async def test_get_messages_with_pagination(person: Person) -> None:
    """P4: limit and offset; 100 where no limit is given; nothing twice and nothing left out."""
    session = await person.session(messages=105)
    path = f"/api/projects/p/sessions/{session['id']}/messages"
    assert len((await person.ask("GET", path))[1]) == 100
    found: list[str] = []
    for offset in range(0, 120, 30):
        _, page = await person.ask("GET", f"{path}?limit=30&offset={offset}")
        found += [m["content"] for m in page]
    assert found == [f"message {n}" for n in range(105)]
    assert (await person.ask("GET", f"{path}?offset=105"))[1] == []
    for query in ("limit=0", "limit=1001", "limit=x", "offset=-1", "limit=1e3", "offset=99999999999999999999"):
        assert await person.refused("GET", f"{path}?{query}") == (422, "invalid_fields"), query


@pytest.mark.parametrize("limit", [3, 1000])
async def test_a_page_of_messages_holds_so_many_bytes_and_says_where_it_goes_on(serve: Serve, limit: int) -> None:
    """Each message once, whole, in order, whichever way they are paged; one that is larger than a page comes alone."""
    person = await person_of(await serve(message_page_bytes=1000))
    session = await person.session()
    path, texts = f"/api/projects/p/sessions/{session['id']}", [f"{n}:" + "x" * 400 for n in range(9)]
    texts.insert(4, "y" * 3000)
    for text in texts:
        await person.ask("POST", f"{path}/messages", {"role": "user", "content": text})

    onwards: list[str] = []
    following = f"{path}/messages?limit={limit}"
    while following:
        _, page, headers = await person.api.get(following, headers=person.headers)
        assert len(page) == 1 or sum(len(m["content"]) for m in page) <= 1000
        assert len(page) in (1, 2)
        onwards += [m["content"] for m in page]
        found = re.fullmatch(r'<([^>]+)>; rel="next"', headers.get("Link", ""))
        following = found[1] if found else ""
    assert onwards == texts

    upwards: list[str] = []
    before, has_more = "", True
    while has_more:
        _, page = await person.ask("GET", f"/api/messages?session_id={session['id']}&limit={limit}{before}")
        assert len(page["messages"]) in (1, 2)
        upwards = [m["content"] for m in page["messages"]] + upwards
        before, has_more = f"&before={page['messages'][0]['id']}", page["has_more"]
    assert upwards == texts

    _, whole = await person.ask("GET", f"{path}/full")
    assert [m["content"] for m in whole["messages"]] == texts
    _, newest = await person.ask("GET", f"/api/llm/sessions/{session['id']}?include_messages=true")
    assert ([m["content"] for m in newest["messages"]], newest["has_more"]) == (texts[-2:], True)
    for live in person.api.server.services.manager.live():
        person.api.server.services.manager.remove(live)
    _, state = await person.ask("GET", f"/api/state?session_id={session['id']}")
    assert ([m["content"] for m in state["messages"]], state["has_more"]) == (texts[-2:], True)


async def test_get_messages_from_nonexistent_session_fails(person: Person) -> None:
    """404."""
    assert await person.refused("GET", "/api/projects/p/sessions/no-such/messages") == (404, "session_not_found")


# --- get with messages ---


async def test_get_session_with_messages_requires_project_id(person: Person) -> None:
    """Error table, rows 1 and 2."""
    await requires_project_id(person, "GET", "/sessions/{session}/full")


async def test_get_session_with_messages(person: Person) -> None:
    """The record and all messages, over several pages of the store."""
    session = await person.session(messages=450)
    path = f"/api/projects/p/sessions/{session['id']}"
    status, full = await person.ask("GET", f"{path}/full")
    assert status == 200
    assert full.keys() == {"session", "messages"}
    assert full["session"] == (await person.ask("GET", path))[1]
    assert full["session"]["message_count"] == 450
    assert [m["content"] for m in full["messages"]] == [f"message {n}" for n in range(450)]
    assert full["messages"][:2] == (await person.ask("GET", f"{path}/messages?limit=2"))[1]
    empty = await person.session()
    assert (await person.ask("GET", f"/api/projects/p/sessions/{empty['id']}/full"))[1]["messages"] == []


async def test_get_session_with_messages_nonexistent_returns_none(person: Person) -> None:
    """404."""
    assert await person.refused("GET", "/api/projects/p/sessions/no-such/full") == (404, "session_not_found")


# --- stats ---


async def test_get_session_stats_requires_project_id(person: Person) -> None:
    """Error table, row 1."""
    await requires_project_id(person, "GET", "/stats")


async def test_get_session_stats_for_project(person: Person) -> None:
    """P6: the project's own sessions, archived ones too; zeros where there is none."""
    await person.session(messages=3)
    archived = await person.session(messages=2)
    await person.session("q", messages=7)
    await person.ask("PUT", f"/api/projects/p/sessions/{archived['id']}", {"is_active": False})
    status, stats = await person.ask("GET", "/api/projects/p/stats")
    assert status == 200
    assert (stats["total_sessions"], stats["active_sessions"], stats["total_messages"]) == (2, 1, 5)
    assert stats["average_messages_per_session"] == 2.5
    assert stats["sessions_by_project"] == {"p": 2}
    assert stats["tokens"]["turns"] == 0
    async with Checker(person.api.server.url, headers=person.headers) as checker:
        await checker.send(archived["id"], "/say some words that take tokens")
        await checker.settle(archived["id"])
    _, stats = await person.ask("GET", "/api/projects/p/stats")
    tokens = stats["tokens"]
    assert tokens["turns"] == 1
    assert tokens["total_tokens"] == tokens["prompt_tokens"] + tokens["completion_tokens"] > 0
    assert (await person.ask("GET", "/api/projects/q/stats"))[1]["tokens"]["total_tokens"] == 0
    _, nothing = await person.ask("GET", "/api/projects/empty/stats")
    assert (nothing["total_sessions"], nothing["average_messages_per_session"]) == (0, 0)


# --- the error table's last row ---


async def test_a_damaged_record_is_told_as_a_problem_without_internals(serve: Serve, tmp_path: Path) -> None:
    """Error table, row 4: data that cannot be read is an error of the server, named as such, and no other session's."""
    api = await serve()
    person = await person_of(api)
    damaged = await person.session(metadata={"a": 1}, title="found 1")
    sound = await person.session(title="found 2")
    manager = api.server.services.manager
    for live in manager.live():
        manager.remove(live)
    with sqlite3.connect(tmp_path / "data" / "chatserver.db") as database:
        database.execute("UPDATE sessions SET metadata = '{' WHERE session_id = ?", (damaged["id"],))
    database.close()
    status, problem = await person.ask("GET", f"/api/projects/p/sessions/{damaged['id']}")
    assert (status, problem["code"]) == (500, "session_damaged")
    assert "JSONDecodeError" not in str(problem)
    assert (await person.ask("GET", f"/api/projects/p/sessions/{sound['id']}"))[0] == 200
    for query in ("", "?limit=1", "?q=found"):
        listed = await person.list(query)
        assert ids(listed) == [sound["id"], damaged["id"]][: len(listed)]
        assert [s["metadata"] for s in listed] == [{}] * len(listed)
    assert len(await person.list("?q=found")) == 2
    _, stats = await person.ask("GET", "/api/projects/p/stats")
    assert stats["total_sessions"] == 2


# --- beyond the cases ---


@pytest.mark.parametrize(
    "body",
    [
        {"title": ""},
        {"title": "  "},
        {"title": "x" * 201},
        {"title": None},
        {"description": "x" * 1001},
        {"metadata": "x"},
        {"is_active": 1},
        {"project_id": "q"},
        {"message_count": 3},
        {"nonsense": True},
    ],
    ids=str,
)
async def test_wrong_and_unknown_fields_are_422(person: Person, body: dict[str, Any]) -> None:
    """P1: and the session stays as it was."""
    session = await person.session()
    path = f"/api/projects/p/sessions/{session['id']}"
    assert await person.refused("PUT", path, body) == (422, "invalid_fields")
    assert (await person.ask("GET", path))[1] == session
    if body not in ({"title": None}, {"is_active": 1}):
        assert await person.refused("POST", "/api/projects/p/sessions", body) == (422, "invalid_fields")


async def test_an_unknown_model_is_422_with_the_catalogue(person: Person) -> None:
    """P1, P3, V4."""
    session = await person.session()
    for method, path in (("POST", "/api/projects/p/sessions"), ("PUT", f"/api/projects/p/sessions/{session['id']}")):
        assert await person.refused(method, path, {"model": "gpt-99"}) == (422, "unknown_model")


async def test_a_list_goes_on_at_its_cursor(person: Person) -> None:
    """P2: each session once, whatever is changed in between; `Link` as long as there is more."""
    made = [(await person.session(title=str(n)))["id"] for n in range(7)]
    path, seen = "/api/projects/p/sessions?limit=3", []
    while path:
        _, page, headers = await person.api.get(path, headers=person.headers)
        seen += ids(page)
        found = re.fullmatch(r'<([^>]+)>; rel="next"', headers.get("Link", ""))
        path = found[1] if found else ""
        if len(seen) == 3:  # what is changed now jumps to the front, behind the reader's back
            await person.ask("PUT", f"/api/projects/p/sessions/{made[-1]}", {"title": "again"})
    assert seen == made[::-1]
    assert ids(await person.list("?limit=3&offset=2")) == ids(await person.list())[2:5]
    for query in ("limit=0", "limit=1001", "offset=-1", "include_inactive=maybe"):
        assert await person.refused("GET", f"/api/projects/p/sessions?{query}") == (422, "invalid_fields"), query
    for cursor in ("x", "%00", "e30", "WzEsMl0", "a" * 400):
        status, code = await person.refused("GET", f"/api/projects/p/sessions?cursor={cursor}")
        assert (status, code) == (422, "invalid_cursor"), cursor


async def test_lists_search_titles_and_messages(person: Person) -> None:
    """Words of titles and of messages, the last one by its beginning; what looks like an operator is a word."""
    tax = await person.session(title="Tax return")
    walk = await person.session(title="New Chat")
    body = {"role": "user", "content": "Where can I walk near the harbour?"}
    await person.ask("POST", f"/api/projects/p/sessions/{walk['id']}/messages", body)
    assert ids(await person.list("?q=tax")) == [tax["id"]]
    assert ids(await person.list("?q=near%20harb")) == [walk["id"]]
    for query in ("tax%20AND%20return", "NOT", "%22", "*", "(", "tax%20OR%20walk", "title:tax"):
        assert (await person.list(f"?q={query}")) == [], query
    assert len(await person.list("?q=%20")) == 2


async def test_projects_are_listed_while_they_hold_a_session(person: Person) -> None:
    """A project exists from its first session on."""
    assert (await person.ask("GET", "/api/projects"))[1] == []
    await person.session("p", messages=2)
    only = await person.session("q")
    status, projects = await person.ask("GET", "/api/projects")
    assert status == 200
    assert [(p["project_id"], p["sessions"], p["messages"]) for p in projects] == [("q", 1, 0), ("p", 1, 2)]
    await person.ask("DELETE", f"/api/projects/q/sessions/{only['id']}")
    assert [p["project_id"] for p in (await person.ask("GET", "/api/projects"))[1]] == ["p"]


async def test_a_session_that_was_only_read_is_in_no_project(person: Person) -> None:
    """S4: not listed, and not found under any."""
    await person.ask("GET", "/api/state?session_id=s")
    assert await person.list(project="default") == []
    assert await person.refused("GET", "/api/projects/default/sessions/s") == (404, "session_not_found")
    assert await person.refused("DELETE", "/api/projects/default/sessions/s") == (404, "session_not_found")


async def test_nobodys_sessions_are_listed_to_nobody(api: Api) -> None:
    """Who knows the id may use it, so ids are not told; every kind of list, the owner of none included."""
    anonymous, somebody = Person(api, {}), await person_of(api)
    session = await anonymous.session(title="canary-title", messages=1)
    assert (await anonymous.ask("GET", f"/api/projects/p/sessions/{session['id']}"))[0] == 200
    for who in (anonymous, somebody):
        for path in (
            "/api/projects",
            "/api/projects/p/sessions?include_inactive=true",
            "/api/projects/p/sessions?q=canary",
            "/api/llm/sessions",
            "/api/llm/sessions?q=message",
        ):
            status, answer = await who.ask("GET", path)
            assert status == 200
            assert (answer["data"] if "llm" in path else answer) == []
        assert (await who.ask("GET", "/api/projects/p/stats"))[1]["total_sessions"] == 0


async def test_a_named_session_can_be_asked_for_again(person: Person) -> None:
    """S2: by header or query; 200 where it is what was asked for, 409 where it is not."""
    path = "/api/projects/p/sessions?session_id=mine"
    assert (await person.ask("POST", path, {"title": "T"}))[0] == 201
    assert (await person.ask("POST", path, {"title": "T"}))[0] == 200
    assert await person.refused("POST", path, {"title": "U"}) == (409, "session_exists")
    other = "/api/projects/q/sessions?session_id=mine"
    assert await person.refused("POST", other, {"title": "T"}) == (409, "session_exists")
    path = "/api/projects/p/sessions/mine?session_id=other"
    assert await person.refused("GET", path) == (400, "session_id_conflict")


async def test_message_counts_are_right_under_a_hundred_writers(person: Person) -> None:
    """U6: messages, turns and renames at once; the record, the list and the messages agree."""
    session = await person.session()
    path = f"/api/projects/p/sessions/{session['id']}"

    async def write(n: int) -> int:
        if n % 10 == 0:
            status, _ = await person.ask("PUT", path, {"title": f"title {n}"})
            assert status == 200
            return 0
        if n % 10 == 1:
            body = {"session_id": session["id"], "message": "/say hi", "on_busy": "queue"}
            status, _ = await person.ask("POST", "/api/chat", body)
            assert status in (200, 429)
            return 2 if status == 200 else 0
        status, _ = await person.ask("POST", f"{path}/messages", {"role": "user", "content": f"{n}"})
        assert status == 201
        return 1

    written = sum(await asyncio.gather(*(write(n) for n in range(100))))
    async with Checker(person.api.server.url, headers=person.headers) as checker:
        await checker.settle(session["id"])
    _, record = await person.ask("GET", path)
    _, messages = await person.ask("GET", f"{path}/messages?limit=1000")
    assert record["message_count"] == written == len(messages)
    assert len({m["id"] for m in messages}) == written
    assert (await person.list())[0]["message_count"] == written
    assert (await person.ask("GET", "/api/projects/p/stats"))[1]["total_messages"] == written
