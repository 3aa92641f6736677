"""Fifty people who keep records, and try each other's: whatever one of them wrote is in no answer to another (spec S5).

In every other round they are visitors of one tenant, who get 403 for each other's sessions; in the others users of
fifty tenants, who name their sessions alike and find nothing of each other's.

Each has a word that nobody else has, and puts it into everything that can hold words: messages, titles, descriptions,
metadata, names of projects and of sessions. Whatever the server answers to anybody, bodies, headers and streams, is
searched for the words of the others, and so is its log at the end. What lists, searches and numbers say has to be
exactly what their owner has.
"""

from __future__ import annotations

import asyncio
import random
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from chatserver.accounts import new_user
from chatserver.auth.passwords import Passwords
from chatserver.clock import SystemClock
from chatserver.config import Settings
from chatserver.store.sql import open_accounts
from tests.campaigns.campaign import Campaign, Round
from tests.server import ServerProcess

PEOPLE = 50
OPERATIONS = 200
# More than these are not kept, so that lists stay a page and the model small.
MOST_SESSIONS = 12

_WORD = re.compile(rb"canary[0-9a-f]{16}")

OPERATIONS_BY_WEIGHT: Mapping[str, int] = {
    "create": 12,
    "say": 14,
    "store": 14,
    "rename": 10,
    "read": 10,
    "list": 12,
    "search": 10,
    "count": 8,
    "follow": 6,
    "fork": 3,
    "delete": 6,
    "trespass": 20,
}

# What another may try with an id that is not his. Within his tenant each is refused; a user of another tenant finds
# nothing, and what makes a session where there is none makes his own.
TRESPASSES: Sequence[tuple[str, str, Mapping[str, Any] | None]] = (
    ("GET", "/api/state?session_id={id}", None),
    ("GET", "/api/session?session_id={id}", None),
    ("GET", "/api/session/model?session_id={id}", None),
    ("GET", "/api/messages?session_id={id}", None),
    ("GET", "/api/chat/stream?session_id={id}", None),
    ("GET", "/api/chat/stream?session_id={id}&last_event_id=1-0", None),
    ("GET", "/api/stream?sessions={id}", None),
    ("GET", "/api/llm/sessions/{id}?include_messages=true", None),
    ("GET", "/api/projects/{project}/sessions/{id}", None),
    ("GET", "/api/projects/{project}/sessions/{id}/messages", None),
    ("GET", "/api/projects/{project}/sessions/{id}/full", None),
    ("POST", "/api/chat", {"session_id": "{id}", "message": "/say {word}"}),
    ("POST", "/api/system", {"session_id": "{id}", "message": "{word}"}),
    ("POST", "/api/session/create", {"session_id": "{id}"}),
    ("POST", "/api/session/refresh", {"session_id": "{id}"}),
    ("POST", "/api/interrupt", {"session_id": "{id}"}),
    ("POST", "/api/fork", {"session_id": "{id}", "message_id": "x"}),
    ("POST", "/api/projects/{project}/sessions/{id}/messages", {"role": "user", "content": "{word}"}),
    ("PUT", "/api/session/model", {"session_id": "{id}", "model": "scripted"}),
    ("PUT", "/api/llm/sessions/{id}", {"session_name": "{word}"}),
    ("PUT", "/api/projects/{project}/sessions/{id}", {"title": "{word}"}),
    ("DELETE", "/api/session?session_id={id}", None),
    ("DELETE", "/api/llm/sessions/{id}", None),
    ("DELETE", "/api/projects/{project}/sessions/{id}?force=true", None),
)


MAKING = {"/api/state", "/api/chat/stream", "/api/stream", "/api/chat", "/api/system", "/api/interrupt"} | {
    "/api/session/create"
}


@dataclass(slots=True)
class Kept:
    """A session as its owner knows it."""

    project: str
    messages: int = 0
    archived: bool = False
    # Whether the owner's word stands in its title or a message: then a search finds it.
    found: bool = False


@dataclass(slots=True)
class Person:
    """One of them: who he is to the server, his word, and what he has.

    `alone`: he is the only one in his tenant, and others name their sessions as he does.
    """

    headers: Mapping[str, str]
    random: random.Random
    alone: bool = False
    word: str = field(default_factory=lambda: f"canary{secrets.token_hex(8)}")
    sessions: dict[str, Kept] = field(default_factory=dict)

    def new_id(self) -> str:
        """An id that he does not use."""
        if not self.alone:
            return f"{self.word}-{secrets.token_hex(4)}"
        return next(name for n in range(1000) if (name := f"room-{n}") not in self.sessions)


class Islands:
    """See the module.

    Args:
        base_url: of the server.
        people: each with an identity of his own.
    """

    def __init__(self, base_url: str, http: aiohttp.ClientSession, people: Sequence[Person]) -> None:
        self._url = base_url
        self._http = http
        self.people = people
        self.done: Counter[str] = Counter()

    async def act(self, person: Person, operations: int) -> None:
        """Do that many things, one after another."""
        kinds, weights = list(OPERATIONS_BY_WEIGHT), list(OPERATIONS_BY_WEIGHT.values())
        for _ in range(operations):
            kind = person.random.choices(kinds, weights)[0]
            await getattr(self, f"_{kind}")(person)
            self.done[kind] += 1

    async def ask(
        self, person: Person, method: str, path: str, body: Any = None, expected: Sequence[int] = (200,)
    ) -> Any:
        """The answer as JSON, or its text; searched for what is not this person's."""
        async with self._http.request(method, self._url + path, json=body, headers=person.headers) as response:
            if response.headers["Content-Type"].startswith("text/event-stream"):
                raw = await response.content.readuntil(b"\n\n") + await response.content.readuntil(b"\n\n")
            else:
                raw = await response.read()
            seen = raw + repr(response.raw_headers).encode()
            self.done["bytes_searched"] += len(seen)
            strangers = set(_WORD.findall(seen)) - {person.word.encode()}
            assert not strangers, f"{method} {path} tells {person.word} of {strangers}"
            assert response.status in expected, f"{method} {path}: {response.status} {raw[:500]!r}"
            return orjson.loads(raw) if "json" in response.headers["Content-Type"] else raw

    def _one(self, person: Person) -> tuple[str, Kept]:
        return person.random.choice(list(person.sessions.items()))

    def _passing(self, person: Person) -> str | None:
        """A session that does not have to stay."""
        passing = [session_id for session_id in person.sessions if not session_id.startswith("standing")]
        return person.random.choice(passing) if passing else None

    # --- what they do ---

    async def _create(self, person: Person) -> None:
        if len(person.sessions) >= MOST_SESSIONS:
            await self._delete(person)
        project = person.random.choice((f"{person.word}-home", "shared", "default"))
        named = {"title": f"A title with {person.word}"} if person.random.random() < 0.5 else {}
        way = person.random.randrange(3)
        if way == 0:
            more = {"description": f"about {person.word}", "metadata": {person.word: [person.word]}}
            made = await self.ask(person, "POST", f"/api/projects/{project}/sessions", named | more, (201,))
        elif way == 1:
            body = {"project_id": project, "session_id": person.new_id(), **named}
            made = await self.ask(person, "POST", "/api/session/create", body, (201,))
        else:
            project = "default"
            body = {"session_name": named["title"]} if named else {}
            made = (await self.ask(person, "POST", "/api/llm/sessions", body, (201,)))["data"]
        person.sessions[made["id"]] = Kept(project, found=bool(named))

    async def _say(self, person: Person) -> None:
        session_id, kept = self._one(person)
        body = {"session_id": session_id, "message": f"/say {person.word} said something", "on_busy": "reject"}
        state = await self.ask(person, "POST", "/api/chat", body, (200, 409))
        if "turn_id" in state:
            kept.messages += 2
            kept.found = True

    async def _store(self, person: Person) -> None:
        session_id, kept = self._one(person)
        role = person.random.choice(("user", "assistant", "system"))
        body = {"role": role, "content": f"kept by {person.word}", "metadata": {"by": person.word}}
        await self.ask(person, "POST", f"/api/projects/{kept.project}/sessions/{session_id}/messages", body, (201,))
        kept.messages += 1
        kept.found = True

    async def _rename(self, person: Person) -> None:
        session_id, kept = self._one(person)
        kept.archived = person.random.random() < 0.2
        body = {"title": f"Now {person.word}", "is_active": not kept.archived, "metadata": {"m": person.word}}
        await self.ask(person, "PUT", f"/api/projects/{kept.project}/sessions/{session_id}", body)
        kept.found = True

    async def _read(self, person: Person) -> None:
        session_id, kept = self._one(person)
        in_project = f"/api/projects/{kept.project}/sessions/{session_id}"
        path = person.random.choice(
            (
                in_project,
                f"{in_project}/full",
                f"{in_project}/messages",
                f"/api/state?session_id={session_id}",
                f"/api/session?session_id={session_id}",
                f"/api/messages?session_id={session_id}",
                f"/api/llm/sessions/{session_id}?include_messages=true",
            )
        )
        await self.ask(person, "GET", path)
        record = await self.ask(person, "GET", in_project)
        assert record["message_count"] == kept.messages

    async def _list(self, person: Person) -> None:
        listed = await self.ask(person, "GET", "/api/llm/sessions?limit=1000&include_archived=true")
        assert {s["id"] for s in listed["data"]} == set(person.sessions)
        listed = await self.ask(person, "GET", "/api/llm/sessions?limit=1000")
        assert {s["id"] for s in listed["data"]} == {i for i, kept in person.sessions.items() if not kept.archived}
        listed = await self.ask(person, "GET", "/api/projects/shared/sessions?include_inactive=true")
        assert {s["id"] for s in listed} == {i for i, kept in person.sessions.items() if kept.project == "shared"}

    async def _search(self, person: Person) -> None:
        query = f"/api/llm/sessions?limit=1000&include_archived=true&q={person.word[: person.random.randint(12, 22)]}"
        found = {s["id"] for s in (await self.ask(person, "GET", query))["data"]}
        assert found == {i for i, kept in person.sessions.items() if kept.found}
        other = person.random.choice([p for p in self.people if p is not person])
        for path in ("/api/llm/sessions?q=", "/api/projects/shared/sessions?q="):
            found_of_other = await self.ask(person, "GET", path + other.word)
            assert not (found_of_other["data"] if "llm" in path else found_of_other)

    async def _count(self, person: Person) -> None:
        projects = Counter(kept.project for kept in person.sessions.values())
        listed = await self.ask(person, "GET", "/api/projects")
        assert {p["project_id"]: p["sessions"] for p in listed} == projects
        stats = await self.ask(person, "GET", "/api/projects/shared/stats")
        shared = [kept for kept in person.sessions.values() if kept.project == "shared"]
        assert (stats["total_sessions"], stats["total_messages"]) == (len(shared), sum(k.messages for k in shared))

    async def _follow(self, person: Person) -> None:
        session_id, _ = self._one(person)
        second, _ = self._one(person)
        for path in (
            f"/api/chat/stream?session_id={session_id}",
            f"/api/chat/stream?session_id={session_id}&format=state",
            f"/api/stream?sessions={session_id},{second}",
        ):
            await self.ask(person, "GET", path)

    async def _fork(self, person: Person) -> None:
        session_id, kept = self._one(person)
        if len(person.sessions) >= MOST_SESSIONS or not kept.messages:
            return
        in_project = f"/api/projects/{kept.project}/sessions/{session_id}"
        messages = await self.ask(person, "GET", f"{in_project}/messages?limit=1000")
        at = person.random.randrange(len(messages))
        if any(m["status"] == "streaming" for m in messages[: at + 1]):
            return
        body = {"session_id": session_id, "message_id": messages[at]["id"], "title": f"Fork of {person.word}"}
        state = await self.ask(person, "POST", "/api/fork", body, (201,))
        person.sessions[state["session_id"]] = Kept(state["project_id"], state["message_count"], found=True)

    async def _delete(self, person: Person) -> None:
        session_id = self._passing(person)
        if session_id is None:
            return
        kept = person.sessions[session_id]
        path = person.random.choice(
            (
                f"/api/projects/{kept.project}/sessions/{session_id}?force=true",
                f"/api/llm/sessions/{session_id}",
                f"/api/session?session_id={session_id}",
            )
        )
        await self.ask(person, "DELETE", path)
        del person.sessions[session_id]

    async def _trespass(self, person: Person) -> None:
        """Ask for what another has."""
        other = person.random.choice([p for p in self.people if p is not person])
        # Of those in one tenant the ones that stay: one that is deleted just now would be made for the trespasser.
        theirs = [i for i in other.sessions if (i not in person.sessions if person.alone else i.startswith("standing"))]
        if not theirs:
            return
        session_id = person.random.choice(theirs)
        method, path, body = person.random.choice(TRESPASSES)
        if person.alone and path.partition("?")[0] in MAKING:
            return
        fill = {"id": session_id, "project": other.sessions[session_id].project, "word": person.word}
        filled = None if body is None else {k: v.format(**fill) for k, v in body.items()}
        nothing = (200, 404) if method == "DELETE" else (404,)  # there is nothing to delete
        answer = await self.ask(person, method, path.format(**fill), filled, nothing if person.alone else (403,))
        assert not answer.get("deleted")


async def visitors(base_url: str, http: aiohttp.ClientSession, chance: random.Random) -> list[Person]:
    """Fifty browsers: each is somebody by the cookie that the page set."""
    people = []
    for n in range(PEOPLE):
        async with http.get(base_url + "/") as response:
            cookie = response.cookies["chatserver_visitor"].value
        headers = {"Cookie": f"chatserver_visitor={cookie}"}
        people.append(Person(headers, random.Random(f"{chance.random()}/{n}")))
    return people


async def tenants(
    base_url: str, http: aiohttp.ClientSession, chance: random.Random, settings: Settings, round_: int
) -> list[Person]:
    """A user in each of fifty tenants, made as the operator makes them."""
    people = []
    passwords = Passwords(memory_kib=64, rounds=1, waiting=1)
    named = {"username": "grace", "password": "correct horse battery"}
    async with open_accounts(settings) as store:
        for n in range(PEOPLE):
            who = {"tenant": f"tenant-{round_}-{n}", **named}
            await new_user(settings, store, passwords, SystemClock(), **who, scopes=frozenset())
            async with http.post(base_url + "/api/auth/login", json=who) as response:
                assert response.status == 200, await response.text()
                token = (await response.json())["token"]
            headers = {"Authorization": f"Bearer {token}"}
            people.append(Person(headers, random.Random(f"{chance.random()}/{n}"), alone=True))
    await passwords.close()
    return people


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Round]:
    """Rounds on one server, each with people of its own."""
    limits = dict.fromkeys(("login_attempts_per_minute", "login_attempts_per_address_per_minute"), 1_000_000)
    async with (
        ServerProcess(folder / "data", settings=limits) as server,
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), connector=aiohttp.TCPConnector(limit=0)) as http,
    ):
        settings = Settings(data_dir=folder / "data")

        async def one(number: int, chance: random.Random) -> Counter[str]:
            if number % 2:
                people = await tenants(server.base_url, http, chance, settings, number)
            else:
                people = await visitors(server.base_url, http, chance)
            islands = Islands(server.base_url, http, people)
            for person in people:  # one each that stays, to be asked for by the others
                session_id = "standing" if person.alone else f"standing-{number}-{secrets.token_hex(4)}"
                body = {"session_id": session_id, "title": person.word}
                await islands.ask(person, "POST", "/api/session/create", body, (201,))
                person.sessions[session_id] = Kept("default", found=True)
            await asyncio.gather(*(islands.act(person, OPERATIONS) for person in people))
            words = {person.word.encode() for person in people}
            assert not words & set(_WORD.findall(server.log().encode())), "the log tells what people wrote"
            return islands.done

        yield one


CAMPAIGN = Campaign(
    name="islands",
    promise="Fifty visitors of one tenant, or users of fifty tenants, with two hundred random operations each on "
    "sessions, projects, messages, lists, searches, numbers and streams, a sixth of them on what belongs to another: "
    "nobody is told another's words, and lists and numbers are exactly what their owner has.",
    rounds=100,
    open=opened,
)
