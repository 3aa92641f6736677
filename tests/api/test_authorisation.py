"""Who may do what: every route, for every kind of caller, in one table (spec S5).

A row says what the request is and which rule it falls under; a rule says what each kind of caller gets. Whoever adds a
route adds its row here, or the last test fails.

Each row is asked for two sessions: one that the visitor `owner` made, and one that a caller without identity made. The
refused callers go first, so that the owner's own request shows that theirs changed nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from chatserver.api.routes import ROUTES
from tests.api.conftest import Api
from tests.api.people import PASSWORD, add_user, bearer, disable_user, expired_token

CANARY = "canary-of-the-owner-4711"

# Kinds of callers: `owner` made the session and `other` is another visitor of its tenant; `none` has no identity;
# `forged` brings a visitor's cookie that was not signed here. `user` is a user of the owner's tenant, `stranger` one of
# another. The last three bring tokens that were good once.
BAD = ("expired", "revoked", "disabled")
CALLERS = ("owner", "other", "none", "forged", "user", "stranger", *BAD)

OK = "ok"
Rule = Mapping[str, int | str]

# What a session's maker alone may do; for others it is forbidden.
OWNED: Rule = {"owner": OK, "other": 403, "none": 403, "forged": 403, "user": 403}
# The same on a session that nobody owns: callers with an identity are kept out of it.
UNOWNED: Rule = {"owner": 403, "other": 403, "none": OK, "forged": OK, "user": 403}
# What concerns no session, or the caller's own ones only: the answer holds nothing of anybody else's.
ANYBODY: Rule = dict.fromkeys(CALLERS, OK)

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
        owned, unowned: the rules for either session.
        ok: the status where it is allowed.
        stranger: what a user of another tenant gets, where it is not what `_stranger` says.
    """

    method: str
    path: str
    target: str = ""
    body: Mapping[str, Any] | None = None
    owned: Rule = field(default_factory=lambda: OWNED)
    unowned: Rule = field(default_factory=lambda: UNOWNED)
    ok: int = 200
    stranger: int | str | None = None

    def rule(self, session: str) -> Rule:
        """What each kind of caller gets."""
        given = self.owned if session == "owned" else self.unowned
        bad: int | str = OK if self.path in OPEN else 401
        return {"stranger": self._stranger(), **given} | dict.fromkeys(BAD, bad)

    def _stranger(self) -> int | str:
        if self.stranger is not None:
            return self.stranger
        return OK if self.path in MAKING else 404

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def _open(method: str, path: str, target: str = "", body: Mapping[str, Any] | None = None, ok: int = 200) -> Row:
    return Row(method, path, target, body, ANYBODY, ANYBODY, ok)


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
    Row("GET", "/api/state", "/api/state?session_id={session}"),
    Row("GET", "/api/chat/stream", "/api/chat/stream?session_id={session}"),
    Row("GET", "/api/chat/stream", "/api/chat/stream?session_id={session}&format=state"),
    Row("GET", "/api/chat/stream", "/api/chat/stream?session_id={session}&last_event_id={position}"),
    Row("POST", "/api/interrupt", body=SESSION),
    Row("POST", "/api/system", body={"message": "hello", **SESSION}),
    Row("POST", "/api/mcp-command", body={"command": "list_servers", **SESSION}),
    Row("DELETE", "/api/queue/{turn_id}", "/api/queue/{queued}?session_id={session}"),
    Row("GET", "/api/messages", "/api/messages?session_id={session}"),
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
    Row("GET", "/api/stream", "/api/stream?sessions={session}"),
    Row("GET", "/api/stream", "/api/stream?sessions={session}@{position}"),
    # A stream's name is its opener's: to others there is no such stream.
    Row(
        "POST",
        "/api/stream",
        body={"stream": "mine", "add": ["{session}"]},
        owned=dict.fromkeys(CALLERS, 404),
        unowned=dict.fromkeys(CALLERS, 404),
    ),
    Row("POST", "/api/session/create", body=SESSION, stranger=201),
    _open("POST", "/api/session/create", body={}, ok=201),
    Row("GET", "/api/session", "/api/session?session_id={session}"),
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
    Row("GET", f"{PROJECT}/sessions/{{session_id}}", IN_PROJECT),
    Row("PUT", f"{PROJECT}/sessions/{{session_id}}", IN_PROJECT, {"title": "Mine now"}),
    Row("DELETE", f"{PROJECT}/sessions/{{session_id}}", f"{IN_PROJECT}?force=true"),
    Row("GET", f"{PROJECT}/sessions/{{session_id}}/messages", f"{IN_PROJECT}/messages"),
    Row(
        "POST",
        f"{PROJECT}/sessions/{{session_id}}/messages",
        f"{IN_PROJECT}/messages",
        {"role": "assistant", "content": "words put into its mouth"},
        ok=201,
    ),
    Row("GET", f"{PROJECT}/sessions/{{session_id}}/full", f"{IN_PROJECT}/full"),
    _open("GET", "/api/llm/sessions", "/api/llm/sessions?include_archived=true"),
    _open("GET", "/api/llm/sessions", "/api/llm/sessions?q=canary"),
    _open("POST", "/api/llm/sessions", body={}, ok=201),
    Row("POST", "/api/llm/sessions", body=SESSION, stranger=201),
    Row("GET", ONE_LLM, f"{ONE_LLM}?include_messages=true".replace("session_id", "session")),
    Row("PUT", ONE_LLM, ONE_LLM.replace("session_id", "session"), {"session_name": "Mine now"}),
    Row("DELETE", ONE_LLM, ONE_LLM.replace("session_id", "session"), stranger=200),
    _open("POST", "/api/auth/register", body={"username": "{caller}-{session}", "password": PASSWORD}, ok=201),
    _open("POST", "/api/auth/login", body={"username": "user", "password": PASSWORD}),
    _open("POST", "/api/auth/logout"),
    _open("GET", "/api/auth/me"),
    _open("GET", "/api/usage"),
    Row("GET", "/api/usage", "/api/usage?session_id={session}"),
    _open("GET", "/api/models"),
    Row("GET", "/api/export", "/api/export?session_id={session}"),
    Row("GET", "/api/export", "/api/export?session_id={session}&format=markdown"),
    _open("GET", "/api/openapi.json"),
    _open("GET", "/docs"),
    _open("GET", "/admin"),  # the empty page; its numbers have a row of their own
    _open("GET", "/"),
    _open("GET", "/{path:(?!api/|health/)[^/].*}", "/favicon.svg"),
)


@dataclass(slots=True)
class Scene:
    """A server with a session of the owner and an unowned one, both with a running and a queued turn."""

    api: Api
    headers: dict[str, dict[str, str]]
    fill: dict[str, dict[str, str]]

    async def ask(self, row: Row, session: str, caller: str) -> tuple[int, str]:
        """The status, and everything that came; of a stream only its head, which has to begin at once."""
        fill = self.fill[session] | {"caller": caller}
        target = (row.target or row.path).format_map(fill)
        body = None if row.body is None else _filled(row.body, fill)
        async with self.api.http.request(
            row.method, self.api.url(target), json=body, headers=self.headers[caller]
        ) as response:
            if response.headers["Content-Type"].startswith("text/event-stream"):
                return response.status, ""
            return response.status, f"{response.headers} {await response.text()}"


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
async def scene(api: Api) -> Scene:
    """See Scene."""
    headers = {
        "owner": await _visitor(api),
        "other": await _visitor(api),
        "none": {},
        "forged": {"Cookie": f"chatserver_visitor={'0' * 32}.forged"},
    }
    for tenant, name in (("public", "user"), ("acme", "stranger"), ("public", "revoked"), ("public", "disabled")):
        await add_user(api, tenant, name)
        headers[name] = await bearer(api, name, tenant)
    headers["expired"] = {"Authorization": f"Bearer {expired_token(api, 'user')}"}
    await api.call("POST", "/api/auth/logout", headers=headers["revoked"])
    await disable_user(api, "public", "disabled")
    fill: dict[str, dict[str, str]] = {}
    for session, maker in (("owned", "owner"), ("unowned", "none")):
        said = {"session_id": session, "message": f"/say {CANARY}\n/hang"}
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
    return Scene(api, headers, fill)


@pytest.mark.parametrize("row", TABLE, ids=str)
async def test_each_caller_gets_what_the_table_says(row: Row, scene: Scene) -> None:
    """And nothing of the owner's words, whatever the status."""
    for session, maker in (("owned", "owner"), ("unowned", "none")):
        rule = row.rule(session)
        assert set(rule) == set(CALLERS)
        for caller in sorted(CALLERS, key=lambda c: (rule[c] == OK, c == maker)):
            status, text = await scene.ask(row, session, caller)
            expected = row.ok if rule[caller] == OK else rule[caller]
            # What was there to be withdrawn or deleted was so by the first who might; the rest may be told of that.
            assert status == expected or (status == 404 and row.method == "DELETE" and rule[caller] == OK), (
                f"{row} of the {session} session for {caller}: {status}, not {expected}: {text}"
            )
            if session == "owned" and caller != "owner":
                assert CANARY not in text, f"{row} tells {caller} the owner's words"


def test_every_route_has_its_row() -> None:
    """A route that nobody thought about here is one that nobody may have thought about."""
    assert {(row.method, row.path) for row in TABLE} == {(route.method, route.path) for route in ROUTES}
