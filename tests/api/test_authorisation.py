"""Who may do what: every route, for every kind of caller, in one table (spec S5).

A row says what the request is and which rule it falls under; a rule says what each kind of caller gets. Whoever adds a
route adds its row here, or the last test fails.

Each row is asked for three sessions: one that the visitor `owner` made, one of the user `author`, and one that a caller
without identity made. The refused callers go first, so that the maker's own request shows that theirs changed nothing.
What `GET` gets, `HEAD` gets too, without a body. Of a stream the first event is read, and looked at as every answer is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from chatserver.api.routes import ROUTES
from tests.api.conftest import Api, Serve
from tests.api.people import PASSWORD, add_user, bearer, disable_user, expired_token

# Stands in every text of a session; found by whoever searches for `canary` among his own.
CANARY = "canary-of-the-{}-4711"

# Kinds of callers: `owner` made a session and `other` is another visitor of its tenant; `none` has no identity, and
# made one too; `forged` brings a visitor's cookie that was not signed here. `author` is a user of that tenant and made
# one, `user` is another, `stranger` one of another tenant. The last three bring tokens that were good once.
BAD = ("expired", "revoked", "disabled")
GOOD = ("owner", "other", "none", "forged", "author", "user", "stranger")
CALLERS = (*GOOD, *BAD)
# The sessions, and who made them.
SESSIONS = {"owned": "owner", "authored": "author", "unowned": "none"}

OK = "ok"
Rule = Mapping[str, int | str]

# What concerns no session, or the caller's own ones only: the answer holds nothing of anybody else's.
ANYBODY: Rule = dict.fromkeys(CALLERS, OK)
# What only a login has.
LOGGED_IN: Rule = dict.fromkeys(GOOD, 401) | dict.fromkeys(("author", "user", "stranger"), OK)


def alone(session: str) -> Rule:
    """What a session's maker alone may do. One that nobody owns is for all who have no identity, and for no others."""
    allowed = {"none", "forged"} if session == "unowned" else {SESSIONS[session]}
    return {caller: OK if caller in allowed else 403 for caller in CALLERS}


OPEN = {route.path for route in ROUTES if route.open}
# Routes that make a session where there is none: to a stranger there is none, and the one they get is their own.
MAKING = {
    "/api/chat",
    "/api/state",
    "/api/chat/stream",
    "/api/interrupt",
    "/api/system",
    "/api/mcp-command",
    "/api/stream",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One route.

    Args:
        method, path: as in the URL table.
        target: what is asked for; `{session}`, `{queued}` and the like are filled in. The path itself where empty.
        body: sent as JSON, filled in too.
        given: the rule, where it is not `alone`.
        ok: the status where it is allowed.
        stranger: what a user of another tenant gets, where it is not what `_stranger` says.
        tells: the maker is told what was said; where it is not so, that others are not told it shows nothing.
    """

    method: str
    path: str
    target: str = ""
    body: Mapping[str, Any] | None = None
    given: Rule = field(default_factory=dict)
    ok: int = 200
    stranger: int | str | None = None
    tells: bool = False

    def rule(self, session: str) -> Rule:
        """What each kind of caller gets."""
        bad: int | str = OK if self.path in OPEN else 401
        return {**alone(session), "stranger": self._stranger(), **self.given} | dict.fromkeys(BAD, bad)

    def _stranger(self) -> int | str:
        if self.stranger is not None:
            return self.stranger
        return OK if self.path in MAKING else 404

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def _open(method: str, path: str, target: str = "", body: Mapping[str, Any] | None = None, ok: int = 200) -> Row:
    return Row(method, path, target, body, ANYBODY, ok)


# Long enough to be a secret, as the names of those without identity have to be.
STREAM_OF = "the-only-stream-of-{}"
SESSION = {"session_id": "{session}"}
PROJECT = "/api/projects/{project_id:[^/]*}"
IN_PROJECT = "/api/projects/default/sessions/{session}"
ONE_LLM = "/api/llm/sessions/{session_id}"
TABLE: tuple[Row, ...] = (
    _open("GET", "/health"),
    _open("GET", "/health/ready"),
    # By address, which is this machine's in all of these rows; tests/api/test_metrics.py has the others.
    _open("GET", "/metrics"),
    _open("GET", "/api/admin/metrics"),
    Row("POST", "/api/chat", body={"message": "hello", **SESSION}),
    Row("GET", "/api/state", "/api/state?session_id={session}", tells=True),
    Row("GET", "/api/chat/stream", "/api/chat/stream?session_id={session}", tells=True),
    Row("GET", "/api/chat/stream", "/api/chat/stream?session_id={session}&format=state", tells=True),
    Row("GET", "/api/chat/stream", "/api/chat/stream?session_id={session}&last_event_id={position}"),
    Row("POST", "/api/interrupt", body=SESSION),
    Row("POST", "/api/system", body={"message": "hello", **SESSION}),
    Row("POST", "/api/mcp-command", body={"command": "list_servers", **SESSION}),
    Row("DELETE", "/api/queue/{turn_id}", "/api/queue/{queued}?session_id={session}"),
    Row("GET", "/api/messages", "/api/messages?session_id={session}", tells=True),
    Row("GET", "/api/messages", "/api/messages?session_id={session}&before={answer}"),
    Row(
        "POST",
        "/api/messages/{message_id}/edit",
        "/api/messages/{message}/edit",
        body={"message": "hello", "on_busy": "queue", **SESSION},
    ),
    Row(
        "POST",
        "/api/messages/{message_id}/regenerate",
        "/api/messages/{answer}/regenerate",
        body={"on_busy": "queue", **SESSION},
    ),
    # Whoever may is told that the answer is still running.
    Row(
        "PUT",
        "/api/messages/{message_id}/feedback",
        "/api/messages/{answer}/feedback",
        body={"rating": "up", **SESSION},
        ok=409,
    ),
    Row("POST", "/api/branch", body={"message_id": "{message}", **SESSION}, ok=409),
    Row("POST", "/api/fork", body={"message_id": "{message}", **SESSION}, ok=201),
    Row("GET", "/api/stream", "/api/stream?sessions={session}", tells=True),
    Row("GET", "/api/stream", "/api/stream?sessions={session}@{position}"),
    # Their own open stream, to which they add a session.
    Row("POST", "/api/stream", body={"stream": "{stream}", "add": ["{session}"]}, tells=True),
    Row("POST", "/api/stream", body={"stream": "{stream}", "add": ["{session}@{position}"]}),
    # A stream's name is its opener's: to others there is no such stream.
    Row(
        "POST",
        "/api/stream",
        body={"stream": STREAM_OF.format("owner"), "drop": []},
        given={**dict.fromkeys(CALLERS, 404), "owner": OK},
    ),
    Row("POST", "/api/session/create", body=SESSION, stranger=201),
    _open("POST", "/api/session/create", body={}, ok=201),
    Row("GET", "/api/session", "/api/session?session_id={session}", tells=True),
    # Deleting what is not there is done already.
    Row("DELETE", "/api/session", "/api/session?session_id={session}", stranger=200),
    # Whether it is valid is a question that everybody may ask, each about himself.
    _open("GET", "/api/session/validate", "/api/session/validate?session_id={session}"),
    Row("POST", "/api/session/refresh", body=SESSION),
    Row("GET", "/api/session/model", "/api/session/model?session_id={session}"),
    Row("PUT", "/api/session/model", body={"model": "scripted", **SESSION}),
    _open("GET", "/api/projects"),
    _open("GET", f"{PROJECT}/stats", "/api/projects/default/stats"),
    _open("GET", f"{PROJECT}/sessions", "/api/projects/default/sessions?include_inactive=true"),
    _open("GET", f"{PROJECT}/sessions", "/api/projects/default/sessions?q=canary"),
    _open("POST", f"{PROJECT}/sessions", "/api/projects/default/sessions", {}, ok=201),
    Row("POST", f"{PROJECT}/sessions", "/api/projects/default/sessions?session_id={session}", {}, stranger=201),
    Row("GET", f"{PROJECT}/sessions/{{session_id}}", IN_PROJECT, tells=True),
    Row("PUT", f"{PROJECT}/sessions/{{session_id}}", IN_PROJECT, {"title": "Mine now"}),
    Row("DELETE", f"{PROJECT}/sessions/{{session_id}}", f"{IN_PROJECT}?force=true"),
    Row("GET", f"{PROJECT}/sessions/{{session_id}}/messages", f"{IN_PROJECT}/messages", tells=True),
    Row(
        "POST",
        f"{PROJECT}/sessions/{{session_id}}/messages",
        f"{IN_PROJECT}/messages",
        {"role": "assistant", "content": "words put into its mouth"},
        ok=201,
    ),
    Row("GET", f"{PROJECT}/sessions/{{session_id}}/full", f"{IN_PROJECT}/full", tells=True),
    _open("GET", "/api/llm/sessions", "/api/llm/sessions?include_archived=true"),
    _open("GET", "/api/llm/sessions", "/api/llm/sessions?q=canary"),
    _open("POST", "/api/llm/sessions", body={}, ok=201),
    Row("POST", "/api/llm/sessions", body=SESSION, stranger=201),
    Row("GET", ONE_LLM, f"{ONE_LLM}?include_messages=true".replace("session_id", "session"), tells=True),
    Row("PUT", ONE_LLM, ONE_LLM.replace("session_id", "session"), {"session_name": "Mine now"}),
    Row("DELETE", ONE_LLM, ONE_LLM.replace("session_id", "session"), stranger=200),
    _open("POST", "/api/auth/register", body={"username": "{caller}-{session}", "password": PASSWORD}, ok=201),
    _open("POST", "/api/auth/login", body={"username": "user", "password": PASSWORD}),
    # Whoever has a login is told that the password is wrong: with the right one it would end the login of this table.
    Row(
        "POST",
        "/api/auth/password",
        body={"current_password": "wrong", "new_password": "another good one"},
        given=LOGGED_IN,
        ok=403,
    ),
    _open("POST", "/api/auth/logout"),
    _open("GET", "/api/auth/me"),
    _open("GET", "/api/usage"),
    Row("GET", "/api/usage", "/api/usage?session_id={session}"),
    _open("GET", "/api/models"),
    Row("GET", "/api/export", "/api/export?session_id={session}", tells=True),
    Row("GET", "/api/export", "/api/export?session_id={session}&format=markdown", tells=True),
    _open("GET", "/api/openapi.json"),
    _open("GET", "/docs"),
    _open("GET", "/admin"),  # the empty page; its numbers have a row of their own
    _open("GET", "/"),
    _open("GET", "/{path:(?!api/|health/)[^/].*}", "/favicon.svg"),
)


@dataclass(slots=True)
class Scene:
    """A server with the sessions, each with a running and a queued turn, and an open stream of each good caller."""

    api: Api
    headers: dict[str, dict[str, str]]
    fill: dict[str, dict[str, str]]
    streams: dict[str, aiohttp.ClientResponse] = field(default_factory=dict)
    lasts: list[str] = field(default_factory=list)

    async def ask(self, row: Row, session: str, caller: str, method: str = "") -> tuple[int, str]:
        """The status, and everything that came; of a stream its first event."""
        fill = self.fill[session] | {"caller": caller, "stream": STREAM_OF.format(caller)}
        target = (row.target or row.path).format_map(fill)
        body = None if row.body is None else _filled(row.body, fill)
        async with self.api.http.request(
            method or row.method, self.api.url(target), json=body, headers=self.headers[caller]
        ) as response:
            if response.headers["Content-Type"].startswith("text/event-stream"):
                return response.status, f"{response.headers} {await _event(response)}"
            text = f"{response.headers} {await response.text()}"
        if str(row) == "POST /api/stream" and caller in self.streams:
            text += await self._heard(caller)
        return response.status, text

    async def _heard(self, caller: str) -> str:
        """What came on the caller's open stream: what comes first of a session that is added now comes after it."""
        last = f"last-of-{caller}-{len(self.lasts)}"
        self.lasts.append(last)
        said = {"stream": STREAM_OF.format(caller), "add": [last]}
        status, answer, _ = await self.api.call("POST", "/api/stream", json=said, headers=self.headers[caller])
        assert status == 200, answer
        heard = ""
        while f'"session_id":"{last}"' not in (event := await _event(self.streams[caller])):
            heard += event
        return heard


async def _event(response: aiohttp.ClientResponse) -> str:
    """The next event of a stream, with what is before it."""
    blocks = ""
    while "data: " not in blocks:
        blocks += (await response.content.readuntil(b"\n\n")).decode()
    return blocks


def _filled(value: Any, fill: Mapping[str, str]) -> Any:
    match value:
        case str():
            return value.format_map(fill)
        case Mapping():
            return {k: _filled(v, fill) for k, v in value.items()}
        case list():
            return [_filled(v, fill) for v in value]
        case _:
            return value


async def _visitor(api: Api) -> dict[str, str]:
    async with api.http.get(api.url("/")) as response:
        return {"Cookie": f"chatserver_visitor={response.cookies['chatserver_visitor'].value}"}


@pytest.fixture
async def scene(serve: Serve) -> AsyncIterator[Scene]:
    """See Scene. Its streams ping often: that ends what a test waits for."""
    api = await serve(ping_interval_seconds=0.2)
    headers = {
        "owner": await _visitor(api),
        "other": await _visitor(api),
        "none": {},
        "forged": {"Cookie": f"chatserver_visitor={'0' * 32}.forged"},
    }
    for tenant, name in (
        *(("public", name) for name in ("author", "user", "revoked", "disabled")),
        ("acme", "stranger"),
    ):
        await add_user(api, tenant, name)
        headers[name] = await bearer(api, name, tenant)
    headers["expired"] = {"Authorization": f"Bearer {expired_token(api, 'user')}"}
    await api.call("POST", "/api/auth/logout", headers=headers["revoked"])
    await disable_user(api, "public", "disabled")
    fill: dict[str, dict[str, str]] = {}
    for session, maker in SESSIONS.items():
        canary = CANARY.format(maker)
        made = {"session_id": session, "title": canary, "description": canary, "metadata": {canary: canary}}
        status, record, _ = await api.call("POST", "/api/session/create", json=made, headers=headers[maker])
        assert status == 201, record
        said = {"session_id": session, "message": f"/say {canary}\n/hang"}
        for _ in range(2):
            status, state, _ = await api.call("POST", "/api/chat", json=said, headers=headers[maker])
            assert status == 200, state
        fill[session] = {
            "session": session,
            "position": state["position"],
            "queued": state["queue"][0]["turn_id"],
            "running": state["active_turn_id"],
            "message": state["messages"][0]["id"],
            "answer": state["messages"][1]["id"],
        }
    scene = Scene(api, headers, fill)
    async with AsyncExitStack() as stack:
        for caller in GOOD:
            path = api.url(f"/api/stream?stream={STREAM_OF.format(caller)}")
            stream = await stack.enter_async_context(api.http.get(path, headers=headers[caller]))
            assert stream.status == 200
            scene.streams[caller] = stream
        yield scene


@pytest.mark.parametrize("row", TABLE, ids=str)
async def test_each_caller_gets_what_the_table_says(row: Row, scene: Scene) -> None:
    """And nothing of the maker's words, whatever the status."""
    async with asyncio.timeout(60):
        for session, maker in SESSIONS.items():
            rule = row.rule(session)
            assert set(rule) == set(CALLERS)
            for caller in sorted(CALLERS, key=lambda c: (rule[c] == OK, c == maker)):
                expected = row.ok if rule[caller] == OK else rule[caller]
                if row.method == "GET":
                    await _ask_the_head(row, scene, session, caller, expected)
                status, text = await scene.ask(row, session, caller)
                # What was there to be withdrawn or deleted was so by the first who might; the rest may be told of that.
                assert status == expected or (status == 404 and row.method == "DELETE" and rule[caller] == OK), (
                    f"{row} of the {session} session for {caller}: {status}, not {expected}: {text}"
                )
                if caller == maker and row.tells:
                    assert CANARY.format(maker) in text, f"{row} does not tell {caller} what he said himself: {text}"
                _check_told(row, caller, text)


def _check_told(row: Row, caller: str, text: str) -> None:
    own = {caller, "none"} if caller == "forged" else {caller}  # those without identity share what is theirs
    told = [maker for maker in SESSIONS.values() if maker not in own and CANARY.format(maker) in text]
    assert not told, f"{row} tells {caller} the words of {told}: {text}"


async def _ask_the_head(row: Row, scene: Scene, session: str, caller: str, expected: int | str) -> None:
    """The same status without a body; a stream has none to be asked for."""
    status, text = await scene.ask(row, session, caller, "HEAD")
    if row.path.endswith("stream") and expected != 401:
        expected = 405
    assert status == expected, f"HEAD of {row} of the {session} session for {caller}: {status}, not {expected}"
    _check_told(row, caller, text)


def test_every_route_has_its_row() -> None:
    """A route that nobody thought about here is one that nobody may have thought about."""
    assert {(row.method, row.path) for row in TABLE} == {(route.method, route.path) for route in ROUTES}
