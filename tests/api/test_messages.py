"""The tree of messages over HTTP: edit, regenerate, branch, fork, feedback, and pages."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.conftest import Api
from tests.checker import Checker
from tests.checker.history import Position

Json = dict[str, Any]


async def conversation(checker: Checker, *replies: str) -> list[Json]:
    """One turn for each; the messages."""
    for reply in replies:
        await checker.send("s", f"/say {reply}")
    messages: list[Json] = (await checker.settle("s"))["messages"]
    return messages


def texts(state: Json) -> list[str]:
    return [m["content"] for m in state["messages"]]


async def test_edits_and_regenerations_go_on_streams_and_come_back(api: Api) -> None:
    """Two tabs follow; what they make of the stream is the state, and every branch can be come back to."""
    async with Checker(api.server.url) as checker, checker.follow("s") as one, checker.follow("s") as other:
        first = await conversation(checker, "one", "two")
        sent = await checker.edit("s", first[2]["id"], "/say three", client_message_id="c")
        assert sent.response.headers["x-session-id"] == "s"
        edited = sent.state["messages"][2]
        assert edited["siblings"] == [first[2]["id"], edited["id"]]
        for stream in (one, other):
            await stream.until_ended(sent.turn_id)
        again = await checker.edit("s", first[2]["id"], "/say three", client_message_id="c")
        assert again.turn_id == sent.turn_id
        sent = await checker.regenerate("s", first[1]["id"])
        await one.until_ended(sent.turn_id)
        state = await checker.state("s")
        assert texts(state) == ["/say one", "one"]
        assert state["messages"][1]["siblings"] == [first[1]["id"], state["messages"][1]["id"]]
        state = await checker.branch("s", first[3]["id"])
        assert texts(state) == [m["content"] for m in first]
        for stream in (one, other):
            await stream.until_position(Position.parse(state["position"]))
            assert stream.state == state
        await checker.verify("s")


async def test_a_fork_answers_with_the_new_session(api: Api) -> None:
    """201, its own id everywhere, the title that was asked for; the old session is as it was."""
    async with Checker(api.server.url) as checker:
        messages = await conversation(checker, "one", "two")
        status, forked, headers = await api.post(
            "/api/fork", session_id="s", message_id=messages[1]["id"], title="Another way"
        )
        assert (status, headers["X-Session-ID"]) == (201, forked["session_id"])
        assert forked["session_id"] != "s"
        assert (forked["title"], texts(forked)) == ("Another way", ["/say one", "one"])
        status, body, _ = await api.post("/api/chat", session_id=forked["session_id"], message="/say on")
        assert (status, body["message_count"]) == (200, 4)
        assert texts((await api.get("/api/state?session_id=s"))[1]) == [m["content"] for m in messages]


async def test_feedback_stands_in_the_message(api: Api) -> None:
    """PUT is idempotent; null takes it away."""
    async with Checker(api.server.url) as checker:
        _, answer = await conversation(checker, "one")
        path = f"/api/messages/{answer['id']}/feedback"
        for _ in range(2):
            status, body, _ = await api.call(
                "PUT", path, json={"session_id": "s", "rating": "down", "comment": "Too short."}
            )
            assert (status, body["session_id"]) == (200, "s")
            assert body["message"]["metadata"]["feedback"] == {"rating": "down", "comment": "Too short."}
        status, body, _ = await api.call("PUT", path, json={"session_id": "s", "rating": None})
        assert (status, body["message"]["metadata"]) == (200, {})
        await checker.verify("s")


async def test_pages_go_back_to_the_beginning(api: Api) -> None:
    """By the id of the first message that is there."""
    async with Checker(api.server.url) as checker:
        messages = await conversation(checker, "one", "two")
    seen: list[Json] = []
    query = ""
    while True:
        status, page, _ = await api.get(f"/api/messages?session_id=s&limit=3{query}")
        assert status == 200
        seen = page["messages"] + seen
        if not page["has_more"]:
            break
        query = f"&before={page['messages'][0]['id']}"
    assert seen == messages


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("POST", "/api/messages/{user}/edit", {"message": " "}, (422, "blank_message")),
        ("POST", "/api/messages/{user}/edit", {}, (422, "invalid_fields")),
        ("POST", "/api/messages/{user}/edit", {"message": "x" * 32_001}, (413, "message_too_long")),
        ("POST", "/api/messages/{user}/edit", {"message": "x", "model": "nope"}, (422, "unknown_model")),
        ("POST", "/api/messages/{answer}/edit", {"message": "x"}, (409, "not_a_user_message")),
        ("POST", "/api/messages/nope/edit", {"message": "x"}, (404, "message_not_found")),
        ("POST", "/api/messages/%00/edit", {"message": "x"}, (404, "message_not_found")),
        ("POST", "/api/messages/{user}/regenerate", {}, (409, "not_an_answer")),
        ("POST", "/api/messages/nope/regenerate", {}, (404, "message_not_found")),
        ("POST", "/api/messages/{answer}/regenerate", {"session_id": "other"}, (404, "session_not_found")),
        ("POST", "/api/branch", {"message_id": "nope"}, (404, "message_not_found")),
        ("POST", "/api/branch", {"message_id": 1}, (422, "invalid_fields")),
        ("POST", "/api/fork", {"message_id": "nope"}, (404, "message_not_found")),
        ("POST", "/api/fork", {"message_id": "{answer}", "title": "x" * 201}, (422, "invalid_fields")),
        ("POST", "/api/fork", {"message_id": "{answer}", "title": "  "}, (422, "invalid_fields")),
        ("PUT", "/api/messages/{user}/feedback", {"rating": "up"}, (409, "not_an_answer")),
        ("PUT", "/api/messages/{answer}/feedback", {"rating": "sideways"}, (422, "invalid_fields")),
        ("PUT", "/api/messages/{answer}/feedback", {}, (422, "invalid_fields")),
        ("PUT", "/api/messages/{answer}/feedback", {"rating": "up", "comment": "x" * 2001}, (422, "invalid_fields")),
        ("GET", "/api/messages?before=nope", None, (404, "message_not_found")),
        ("GET", "/api/messages?limit=0", None, (422, "invalid_fields")),
        ("GET", "/api/messages?limit=1001", None, (422, "invalid_fields")),
    ],
)
async def test_what_cannot_be_done_is_said_and_changes_nothing(
    api: Api, method: str, path: str, body: Json | None, expected: tuple[int, str]
) -> None:
    """Each with its code."""
    async with Checker(api.server.url) as checker:
        user, answer = await conversation(checker, "one")
        before = await checker.state("s")
        fill = {"user": user["id"], "answer": answer["id"]}
        json = None
        if body is None:
            path += "&session_id=s"
        else:
            json = {k: v.format(**fill) if isinstance(v, str) else v for k, v in body.items()}
            json.setdefault("session_id", "s")
        status, problem, _ = await api.call(method, path.format(**fill), json=json)
        assert (status, problem["code"]) == expected, problem
        assert await checker.state("s") == before
