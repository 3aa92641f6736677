"""The access log: one line a request, and nothing in it that is a person's."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from chatserver.api.access_log import AccessLog
from chatserver.auth.visitors import load_key
from chatserver.counts import HttpCounts
from tests.api.conftest import Api, Serve
from tests.api.people import add_user, bearer

CANARY = "canary4711"


def lines(api: Api, *events: str) -> list[dict[str, Any]]:
    """What was logged of these events."""
    logged = map(json.loads, api.log.getvalue().splitlines())
    return [line for line in logged if line["event"] in events]


async def test_a_request_is_one_line(api: Api) -> None:
    """What an operator looks for: which, what came of it, how long it took."""
    status, _, headers = await api.post("/api/chat", session_id="s", message="/say x")
    (line,) = lines(api, "request")

    assert line == {
        "event": "request",
        "request_id": headers["X-Request-ID"],
        "method": "POST",
        "route": "/api/chat",
        "status": status,
        "kind": "none",
        "tenant": "public",
        "session": line["session"],
        "seconds": line["seconds"],
        "bytes": int(headers["Content-Length"]),
    }
    assert 0 <= line["seconds"] < 10


async def test_a_stream_is_a_line_when_it_opens_and_one_when_it_ends(api: Api) -> None:
    """Also where its client just goes away, which is how most streams end."""
    async with api.http.get(api.url("/api/chat/stream?session_id=s")) as stream:
        await stream.content.readuntil(b"\n\n")
        (opened,) = lines(api, "stream_opened", "stream_ended")
        assert opened["event"] == "stream_opened"
        assert opened["request_id"] == stream.headers["X-Request-ID"]
    async with asyncio.timeout(60):
        while not (closed := lines(api, "stream_ended")):
            await api.get("/health")  # its end is noticed by the server's own loop, which is ours

    assert (closed[0]["request_id"], closed[0]["status"]) == (opened["request_id"], 200)
    assert closed[0]["session"] == opened["session"]
    assert "seconds" in closed[0]
    assert "bytes" not in closed[0]


async def test_a_session_has_the_same_hash_in_every_line_and_after_a_restart(api: Api, tmp_path: Path) -> None:
    """So that one session's lines can be found, by who has the installation's key and by nobody else."""
    await api.post("/api/chat", session_id="s", message="hello")
    await api.get("/api/state?session_id=s")
    await api.get("/api/state?session_id=other")
    same, again, other = (line["session"] for line in lines(api, "request"))

    def log_of(folder: str) -> AccessLog:
        key = load_key(tmp_path / folder / "secret.key")
        return AccessLog(api.server.services.log, key, HttpCounts(), enabled=True)

    (tmp_path / "elsewhere").mkdir()
    assert same == again == log_of("data").hash_of("public", "s") != other
    assert same not in (log_of("data").hash_of("another", "s"), log_of("elsewhere").hash_of("public", "s"))


async def test_it_can_be_switched_off(serve: Serve) -> None:
    """The counts go on."""
    api = await serve(access_log=False)
    await api.get("/health")

    assert not lines(api, "request")
    assert api.server.services.metrics.http.requests.total() == 1


async def test_nothing_of_a_person_is_in_logs_or_metrics(api: Api) -> None:
    """Planted in every place that a request has: words, ids, names, secrets; in good requests and in bad ones."""
    secret = {"Authorization": f"Bearer {CANARY}", "Cookie": f"chatserver_visitor={CANARY}; token={CANARY}"}
    async with api.http.get(api.url("/")) as page:
        visitor = page.cookies["chatserver_visitor"].value
    mine = {"Cookie": f"chatserver_visitor={visitor}"}
    session = f"session-{CANARY}"
    good = {"session_id": session, "message": f"/say {CANARY}\n/reason {CANARY}", "client_message_id": CANARY}
    await api.call("POST", "/api/chat", json=good, headers=mine)
    await ended_as(api, session, mine)
    failing = {"session_id": session, "message": f"{CANARY}\n/raise"}
    await api.call("POST", "/api/chat", json=failing, headers=mine)
    await ended_as(api, session, mine)
    named = {"session_id": f"{session}-2", "title": CANARY, "project_id": CANARY, "metadata": {CANARY: CANARY}}
    await api.call("POST", "/api/session/create", json=named, headers=mine)
    for method, path, body in (
        ("GET", f"/api/state?session_id={session}&{CANARY}={CANARY}", None),
        ("GET", f"/api/{CANARY}", None),
        ("GET", f"/{CANARY}", None),
        ("GET", f"/api/state?session_id={CANARY}%0A%1b[31m", None),
        ("DELETE", f"/api/queue/{CANARY}?session_id={session}", None),
        ("POST", "/api/chat", {"message": CANARY, CANARY: CANARY}),
        ("POST", "/api/system", {"session_id": session, "message": CANARY}),
        ("POST", "/api/mcp-command", {"session_id": session, "command": CANARY, "args": {CANARY: CANARY}}),
        ("PUT", "/api/session/model", {"session_id": session, "model": CANARY}),
        ("DELETE", f"/api/session?session_id={session}", None),
    ):
        for headers in (secret, mine):
            await api.call(method, path, json=body, headers={**headers, "User-Agent": CANARY, "Referer": CANARY})
    logged = api.log.getvalue()
    _, metrics, _ = await api.get("/metrics")
    _, history, _ = await api.get("/api/admin/metrics")
    told = logged + metrics + json.dumps(history)

    assert CANARY not in told
    assert visitor.partition(".")[0] not in told
    assert len(lines(api, "request")) > 20
    assert "agent_raised" in logged


async def test_users_are_known_by_kind_and_tenant_alone(api: Api) -> None:
    """Neither name nor id nor token; nor what they said, or what a wrong password was."""
    await add_user(api, "acme", CANARY)
    headers = await bearer(api, CANARY, "acme")
    wrong = {"username": CANARY, "password": f"{CANARY} {CANARY}", "tenant": "acme"}
    await api.call("POST", "/api/auth/login", json=wrong)
    _, me, _ = await api.get("/api/auth/me", headers=headers)
    body = {"session_id": CANARY, "message": CANARY, "project_id": CANARY}
    await api.call("POST", "/api/chat", json=body, headers=headers)
    await ended_as(api, CANARY, headers)
    for path in (f"/api/projects/{CANARY}/stats", "/api/usage", f"/api/llm/sessions?q={CANARY}"):
        assert (await api.get(path, headers=headers))[0] == 200
    await api.call("POST", "/api/auth/logout", headers=headers)
    _, metrics, _ = await api.get("/metrics")
    told = api.log.getvalue() + metrics

    token = headers["Authorization"].partition(" ")[2]
    for secret in (CANARY, me["user_id"], token, token.rpartition(".")[2]):
        assert secret not in told
    (chat,) = [line for line in lines(api, "request") if line["route"] == "/api/chat"]
    assert (chat["kind"], chat["tenant"]) == ("user", "acme")


async def ended_as(api: Api, session_id: str, headers: dict[str, str]) -> None:
    """Until that visitor's session rests."""
    url = api.url(f"/api/chat/stream?session_id={session_id}&format=state")
    async with api.http.get(url, headers=headers) as stream:
        async for line in stream.content:
            if line.startswith(b"data:") and b'"is_processing":false' in line:
                return


async def test_a_request_that_fails_inside_is_a_line_too(api: Api) -> None:
    """Whatever happens, one line: here a request that is refused before its handler."""
    await api.get("/health", headers={"Host": "evil.example"})
    await api.call("POST", "/api/chat", json={"message": "x"}, headers={"Origin": "http://evil.example"})

    assert [(line["route"], line["status"]) for line in lines(api, "request")] == [("/health", 421), ("/api/chat", 403)]
