"""One damaged row harms its own session and nothing else, over HTTP; whose session it is can delete it."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from chatserver.config import Settings
from chatserver.live_session import LiveSession
from chatserver.store.base import SessionKey
from chatserver.store.sql import open_accounts
from chatserver.users_command import line_of
from tests.api.conftest import Api, Serve
from tests.api.people import Browser, visitor

NOT_UTF_8 = "CAST(x'666f756e64ff41' AS TEXT)"  # `found` and two bytes that are no UTF-8
JSON_NOT_UTF_8 = "CAST(x'7b2261223a2262ff41227d' AS TEXT)"
BYTES = "x'666f756e64ff41'"

SESSION_DAMAGES = [
    *((column, NOT_UTF_8) for column in ("title", "description", "model", "metadata")),
    ("metadata", JSON_NOT_UTF_8),
    *((column, BYTES) for column in ("title", "description", "model", "metadata", "leaf_id")),
    *((column, "'long ago'") for column in ("created_at", "updated_at", "last_message_at", "message_count", "fence")),
    *((column, "1e300") for column in ("created_at", "updated_at", "last_message_at")),
    ("created_at", "-1e300"),
    ("number", "'many'"),
    ("indexed_seq", BYTES),
]
MESSAGE_DAMAGES = [
    *((column, NOT_UTF_8) for column in ("content", "reasoning", "model", "metadata", "tool_calls", "created_at")),
    ("metadata", JSON_NOT_UTF_8),
    *((column, BYTES) for column in ("content", "reasoning", "role", "metadata", "usage")),
    ("status", "7"),
    ("seq", "'first'"),
]


def run_sql(folder: Path, sql: str, *params: str) -> None:
    """As a disk that went bad, or a person with a shell."""
    with closing(sqlite3.connect(folder / "chatserver.db")) as database, database:
        assert database.execute(sql, params).rowcount


async def a_person(api: Api, *, is_indexed: bool = False) -> tuple[Browser, str, str]:
    """Somebody with two sessions of a project, which are found by the same words: the second will be damaged."""
    person = await visitor(api)
    ids = []
    for title in ("found sound", "found damaged"):
        status, session, _ = await person.post("/api/projects/p/sessions", title=title, metadata={"a": 1})
        assert status == 201
        ids.append(session["id"])
        for role in ("user", "assistant"):
            said = {"role": role, "content": f"found {role}"}
            assert (await person.post(f"/api/projects/p/sessions/{ids[-1]}/messages", **said))[0] == 201
    if is_indexed:
        assert len((await person.get("/api/projects/p/sessions?q=found"))[1]) == 2
    manager = api.server.services.manager
    for live in manager.live():
        manager.remove(live)
    return person, ids[0], ids[1]


def ids_of(found: Any) -> set[str]:
    listed = found["data"] if isinstance(found, dict) else found
    return {session.get("id") or session["session_id"] for session in listed}


async def check_harm(api: Api, person: Browser, sound: str, damaged: str, what: str) -> None:
    """Lists, sums and the other session are there; reading the damaged one works or is a problem that says so; who owns
    it, and nobody else, deletes it."""
    for path in (
        "/api/projects/p/sessions",
        "/api/projects/p/sessions?q=found",
        "/api/projects/p/sessions?q=sound",
        "/api/llm/sessions",
        "/api/llm/sessions?q=found",
    ):
        status, found, _ = await person.get(path)
        assert status == 200, (what, path, found)
        assert sound in ids_of(found), (what, path)
    status, found, _ = await person.get("/api/projects/p/sessions")
    # A time of change that is text sorts behind all times, where no list begins.
    assert ids_of(found) == {sound, damaged} or what == "updated_at = 'long ago'", what
    for path in ("/api/projects", "/api/projects/p/stats", "/api/usage"):
        status, found, _ = await person.get(path)
        assert status == 200, (what, path, found)
    for session_id in (sound, damaged):
        session = f"/api/projects/p/sessions/{session_id}"
        for path in (
            session,
            f"{session}/messages",
            f"{session}/full",
            f"/api/llm/sessions/{session_id}?include_messages=true",
            f"/api/state?session_id={session_id}",
            f"/api/session?session_id={session_id}",
            f"/api/export?session_id={session_id}",
        ):
            status, body, _ = await person.get(path)
            is_told = session_id == damaged and status == 500 and body["code"] == "session_damaged"
            assert status == 200 or is_told, (what, path, status, body)

    other = await visitor(api)
    path = f"/api/projects/p/sessions/{damaged}"
    for expected, who, query in (
        ((403,), other, "?force=true"),
        ((400, 200), person, ""),
        ((200, 404), person, "?force=true"),
    ):
        status, body, _ = await who.call("DELETE", path + query)
        assert status in expected, (what, query, body)
    assert (await person.get(path))[0] == 404
    for path in ("/api/projects/p/sessions", "/api/projects/p/sessions?q=found"):
        assert ids_of((await person.get(path))[1]) == {sound}, what
    status, again, _ = await person.post("/api/projects/p/sessions", title="anew")
    assert status == 201, again


@pytest.mark.parametrize("is_indexed", [False, True])
async def test_a_damaged_record_harms_its_own_session_only(api: Api, tmp_path: Path, is_indexed: bool) -> None:
    """Whatever stands in its columns, and whether its owner had searched before."""
    for column, value in SESSION_DAMAGES:
        person, sound, damaged = await a_person(api, is_indexed=is_indexed)
        run_sql(tmp_path / "data", f"UPDATE sessions SET {column} = {value} WHERE session_id = ?", damaged)
        await check_harm(api, person, sound, damaged, f"{column} = {value}")


@pytest.mark.parametrize("is_indexed", [False, True])
async def test_a_damaged_message_harms_its_own_session_only(api: Api, tmp_path: Path, is_indexed: bool) -> None:
    """Lists read its beginning as a preview, and a search its words."""
    for column, value in MESSAGE_DAMAGES:
        person, sound, damaged = await a_person(api, is_indexed=is_indexed)
        sql = f"UPDATE messages SET {column} = {value} WHERE session_id = ? AND role = 'assistant'"
        run_sql(tmp_path / "data", sql, damaged)
        await check_harm(api, person, sound, damaged, f"{column} = {value}")


async def test_a_text_that_is_no_utf_8_is_read_with_what_is_left_of_it(api: Api, tmp_path: Path) -> None:
    """A byte that went bad costs one letter, not the conversation."""
    person, _, damaged = await a_person(api)
    run_sql(tmp_path / "data", f"UPDATE messages SET content = {NOT_UTF_8} WHERE session_id = ? AND seq = 2", damaged)
    _, full, _ = await person.get(f"/api/projects/p/sessions/{damaged}/full")
    assert [message["content"] for message in full["messages"]] == ["found user", "found\ufffdA"]
    status, state, _ = await person.post("/api/system", session_id=damaged, message="goes on")
    assert (status, len(state["messages"])) == (200, 3)


async def test_a_project_whose_name_is_damaged_is_listed_with_the_others(api: Api, tmp_path: Path) -> None:
    """It cannot be opened under its name; what it holds can."""
    person, sound, damaged = await a_person(api)
    run_sql(tmp_path / "data", f"UPDATE sessions SET project_id = {BYTES} WHERE session_id = ?", damaged)
    status, projects, _ = await person.get("/api/projects")
    assert (status, {p["project_id"] for p in projects}) == (200, {"p", "found\ufffdA"})
    assert ids_of((await person.get("/api/llm/sessions"))[1]) == {sound, damaged}
    assert (await person.call("DELETE", f"/api/llm/sessions/{damaged}"))[0] == 200
    assert {p["project_id"] for p in (await person.get("/api/projects"))[1]} == {"p"}


async def test_an_owner_that_cannot_be_read_is_not_nobody(api: Api, tmp_path: Path) -> None:
    """Else whoever comes without identity could read and delete what was somebody's."""
    _, _, damaged = await a_person(api)
    for value in ("7", "x'ff'", "''"):
        run_sql(tmp_path / "data", f"UPDATE sessions SET owner = {value} WHERE session_id = ?", damaged)
        assert (await api.get(f"/api/state?session_id={damaged}"))[0] in (403, 500)
        status, problem, _ = await api.call("DELETE", f"/api/llm/sessions/{damaged}")
        assert (status, problem["code"]) == (403, "session_forbidden")


async def test_a_message_that_waits_and_is_damaged_is_told_and_deleted(api: Api, tmp_path: Path) -> None:
    """A queue that cannot be read keeps its session from being opened, not from being deleted."""
    person, sound, damaged = await a_person(api)
    run_sql(
        tmp_path / "data",
        "INSERT INTO turns (tenant, session_id, turn_id, state, place, message)"
        " VALUES ('public', ?, 't', 'queued', 1, '{')",
        damaged,
    )
    status, problem, _ = await person.get(f"/api/state?session_id={damaged}")
    assert (status, problem["code"]) == (500, "session_damaged")
    await check_harm(api, person, sound, damaged, "queue")


async def test_damaged_users_are_listed_and_keep_nobody_out(serve: Serve, tmp_path: Path) -> None:
    """One name that is no UTF-8, one time that is none."""
    api = await serve()
    for name in ("ada", "bob", "carol"):
        await Browser(api).register(name)
    folder = tmp_path / "data"
    run_sql(folder, f"UPDATE users SET username = {NOT_UTF_8} WHERE username = 'ada'")
    run_sql(folder, "UPDATE users SET created_at = 'long ago' WHERE username = 'bob'")
    run_sql(folder, "UPDATE users SET password_hash = CAST(x'ff' AS TEXT) WHERE username = 'bob'")

    async with open_accounts(Settings(data_dir=folder)) as users:
        found = await users.list_users(after=("", ""), limit=9)
    assert [line_of(user).split("\t")[1] for user in found] == ["bob", "carol", "found\ufffdA"]

    await Browser(api).login("carol")
    status, problem, _ = await Browser(api).post("/api/auth/login", username="bob", password="correct horse battery")
    assert (status, problem["code"]) == (401, "bad_credentials")


async def test_a_damaged_session_is_deleted_once_and_its_id_can_be_used_at_once(api: Api, tmp_path: Path) -> None:
    """Whoever deletes it, reads it and makes it anew at the same time: nobody's new session goes with the old one."""
    person, _, damaged = await a_person(api)
    for _ in range(10):
        run_sql(tmp_path / "data", "UPDATE sessions SET metadata = '{' WHERE session_id = ?", damaged)
        path = f"/api/projects/p/sessions/{damaged}"
        deletions = [person.call("DELETE", f"{path}?force=true") for _ in range(3)]
        answers = await asyncio.gather(*deletions, *(person.get(path) for _ in range(3)))
        statuses = [status for status, _, _ in answers]
        assert sorted(statuses[:3]) == [200, 404, 404]
        assert set(statuses[3:]) <= {404, 500}
        made, _, gone = await asyncio.gather(
            person.post("/api/system", session_id=damaged, message="anew"),
            person.get(path),
            person.call("DELETE", f"{path}?force=true"),
        )
        assert made[0] in (200, 404), made
        if gone[0] == 200:
            made = await person.post("/api/system", session_id=damaged, message="anew")
        assert [m["content"] for m in made[1]["messages"]] == ["anew"]
        status, moved, _ = await person.get(f"/api/llm/sessions/{damaged}")
        assert status == 200, moved
        await person.call("DELETE", f"/api/llm/sessions/{damaged}")
        said = {"session_id": damaged, "message": "words"}
        assert (await person.post("/api/system", **said))[0] == 200
        manager = api.server.services.manager
        for live in manager.live():
            manager.remove(live)
        run_sql(tmp_path / "data", "UPDATE sessions SET project_id = 'p' WHERE session_id = ?", damaged)


async def test_nobody_loads_or_makes_a_damaged_session_while_it_is_being_deleted(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait: else a session made in its place meanwhile would be deleted in its place, too."""
    person, _, damaged = await a_person(api)
    run_sql(tmp_path / "data", "UPDATE sessions SET metadata = '{' WHERE session_id = ?", damaged)
    store = api.server.services.store
    reached, go_on, delete = asyncio.Event(), asyncio.Event(), store.delete_session

    async def held(_: object, key: SessionKey) -> bool:
        reached.set()
        await go_on.wait()
        return await delete(key)

    monkeypatch.setattr(type(store), "delete_session", held)
    deleting = asyncio.create_task(person.call("DELETE", f"/api/llm/sessions/{damaged}"))
    await reached.wait()
    manager = api.server.services.manager
    asked, pin = asyncio.Event(), manager.pin

    async def asking(_: object, key: SessionKey) -> LiveSession | None:
        asked.set()
        return await pin(key)

    monkeypatch.setattr(type(manager), "pin", asking)
    making = asyncio.create_task(person.post("/api/system", session_id=damaged, message="anew"))
    await asked.wait()
    assert (await api.get("/health"))[0] == 200
    assert not making.done()
    go_on.set()
    assert (await deleting)[0] == 200
    status, state, _ = await making
    assert (status, [m["content"] for m in state["messages"]]) == (200, ["anew"])
    assert (await person.get(f"/api/state?session_id={damaged}"))[1]["messages"] == state["messages"]
