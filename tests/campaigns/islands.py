"""Fifty tenants that keep records, and try each other's: whatever one wrote is in no answer to another (spec S5).

In every tenant there are two users, and in the one of those who never log in eight visitors besides. Within a tenant
they get 403 for each other's sessions; of other tenants, where sessions have the same names, they find nothing.

Everybody has two words that nobody else has: one for what he says (messages, titles, descriptions, metadata, comments,
arguments and results of tools) and one for what he names (his projects, sessions, himself). Whatever the server answers
to anybody, heads and bodies, and whatever comes on the streams that everybody keeps open, is searched for the words of
others; its metrics and its log for those of all. Only a name that stands in the very request may stand in its answer.
What lists, searches and numbers say has to be exactly what their owner has.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from chatserver.config import Settings
from tests.campaigns.campaign import Campaign, Round
from tests.campaigns.islanders import Kept, Person, population
from tests.campaigns.kept_connection import ANSWER_SECONDS, KeptConnection, OpenStream
from tests.campaigns.trespasses import TRESPASSES, Trespass
from tests.server import ROOT, ServerProcess

# Of each tenant in a round, of all its people together.
OPERATIONS = 400
# More than these are not kept, so that lists stay a page and the model small.
MOST_SESSIONS = 8
MOST_MESSAGES = 30
MOST_FOLLOWED = 4

_WORD = re.compile(rb"canary[0-9a-f]{16}")
WORD_BYTES = 22
# Names that people of different tenants give their sessions.
_ALIKE = re.compile(r"(?:standing|room)-(\d+)")
TOOLS = {"name": "tools", "command": [sys.executable, "-S", str(ROOT / "tests/mcp/plain_server.py")], "scope": "shared"}

OPERATIONS_BY_WEIGHT: Mapping[str, int] = {
    "create": 14,
    "say": 18,
    "use_tool": 2,
    "store": 10,
    "rename": 7,
    "edit": 4,
    "regenerate": 3,
    "branch": 3,
    "rate": 4,
    "fork": 2,
    "read": 16,
    "list": 6,
    "search": 6,
    "count": 5,
    "follow": 4,
    "watch": 2,
    "delete": 6,
    "operate": 1,
    "trespass": 25,
}


class Islands:
    """See the module.

    Args:
        base_url: of the server.
        people: each with an identity of his own.
    """

    def __init__(self, base_url: str, people: Sequence[Person]) -> None:
        self._url = base_url
        self._host = base_url.partition("//")[2]
        self.people = people
        self.done: Counter[str] = Counter()
        self._lines: dict[str, KeptConnection] = {}
        self._streams: dict[str, list[OpenStream]] = {}
        self._faults: list[str] = []
        self._tenants: dict[str, list[Person]] = {}
        for person in people:
            self._tenants.setdefault(person.tenant, []).append(person)

    # --- asking, and looking at what comes ---

    @asynccontextmanager
    async def at_home(self, person: Person) -> AsyncIterator[None]:
        """His connection and his stream are open while the block runs."""
        self._lines[person.name] = await KeptConnection.open(self._url)
        self._streams[person.name] = []
        try:
            await self._begin(person)
            yield
        finally:
            self._lines[person.name].close()
            for stream in self._streams.pop(person.name):
                stream.close()

    def _request(self, person: Person, method: str, path: str, body: Any = None) -> bytes:
        head = b"%b %b HTTP/1.1\r\nHost: %b\r\n%b" % (
            method.encode(), path.encode(), self._host.encode(), person.head,
        )  # fmt: skip
        if body is None:
            return head + b"\r\n"
        raw = orjson.dumps(body)
        return b"%bContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (head, len(raw), raw)

    async def ask(
        self, person: Person, method: str, path: str, body: Any = None, expected: Sequence[int] = (200,)
    ) -> Any:
        """The answer as JSON, or its text; searched for what is not this person's."""
        request = self._request(person, method, path, body)
        status, head, raw = await self._lines[person.name].ask(request)
        self.done["bytes_searched"] += len(head) + len(raw)
        self.done["requests"] += 1
        words = {*_WORD.findall(head), *_WORD.findall(raw)}
        if not words <= person.words:
            # Names that he knows already, since he asks by them, tell him nothing.
            told = words - person.words - self._names_in(request)
            assert not told, f"{method} {path} tells {person} of {told}: {head!r} {raw[:2000]!r}"
        assert status in expected, f"{method} {path} with {body}: {status} {raw[:500]!r}"
        if self._faults:
            raise AssertionError(self._faults[0])
        return orjson.loads(raw) if b"json" in head else raw

    def _names_in(self, request: bytes) -> set[bytes]:
        names = {other.name.encode() for other in self.people}
        return names & set(_WORD.findall(request))

    async def _open(self, person: Person, path: str) -> None:
        own = person.words

        def seen(data: bytes) -> None:
            self.done["stream_bytes_searched"] += len(data)
            words = set(_WORD.findall(data))
            if words:
                if b'"text.delta"' in data:
                    person.heard.set()
                if told := words - own:
                    self._faults.append(f"the stream {path} of {person.name} tells of {told}: {data[:4000]!r}")

        request = self._request(person, "GET", path)
        stream = await OpenStream.open(self._url, request, seen, WORD_BYTES - 1)
        self._streams[person.name].append(stream)
        assert stream.begun.result() == 200, f"GET {path}: {stream.begun.result()}"

    def _one(self, person: Person) -> tuple[str, Kept]:
        return person.random.choice(list(person.sessions.items()))

    def _passing(self, person: Person) -> str | None:
        """A session that does not have to stay."""
        passing = [session_id for session_id in person.sessions if not session_id.startswith("standing")]
        return person.random.choice(passing) if passing else None

    def _message(self, person: Person, kept: Kept, role: str | None = None) -> str | None:
        known = [i for i, (r, _) in kept.known.items() if role in (None, r)]
        return person.random.choice(known) if known else None

    # --- what they do ---

    async def act(self, person: Person, operations: int) -> None:
        """Do that many things, one after another."""
        kinds, weights = list(OPERATIONS_BY_WEIGHT), list(OPERATIONS_BY_WEIGHT.values())
        for kind in person.random.choices(kinds, weights, k=operations):
            await getattr(self, f"_{kind}")(person)
            self.done[kind] += 1
        async with asyncio.timeout(ANSWER_SECONDS):
            await person.heard.wait()

    async def _begin(self, person: Person) -> None:
        """Leave nothing of a round before; make the session that stays, for others to ask for, and follow it."""
        for session_id in (*person.sessions, *person.passing):
            await self.ask(person, "DELETE", f"/api/llm/sessions/{session_id}")
        for forgotten in (person.sessions, person.passing, person.followed):
            forgotten.clear()
        person.heard.clear()
        assert (await self.ask(person, "GET", "/api/llm/sessions?include_archived=true"))["count"] == 0
        session_id = f"standing-{person.number}"
        await self._open(person, f"/api/stream?sessions={session_id}&stream={person.name}")
        body = {"session_id": session_id, "title": person.word}
        await self.ask(person, "POST", "/api/session/create", body, (201,))
        body = {"session_id": session_id, "message": f"/say {person.word} is here"}
        state = await self.ask(person, "POST", "/api/chat", body)
        kept = person.sessions[session_id] = Kept("default", 2, found=True)
        kept.learn(state["messages"])
        person.turns += 1

    async def _create(self, person: Person) -> None:
        if len(person.sessions) >= MOST_SESSIONS:
            return await self._delete(person)
        project = person.random.choice((f"{person.name}-home", "shared", "default"))
        named = {"title": f"A title with {person.word}"} if person.random.random() < 0.5 else {}
        session_id = person.new_id()
        match person.random.randrange(4):
            case 0:
                more = {"description": f"about {person.word}", "metadata": {person.word: [person.word]}}
                made = await self.ask(person, "POST", f"/api/projects/{project}/sessions", named | more, (201,))
            case 1:
                body = {"project_id": project, "session_id": session_id, **named}
                made = await self.ask(person, "POST", "/api/session/create", body, (201,))
            case 2:
                project = "default"
                body = {"session_name": named["title"]} if named else {}
                made = (await self.ask(person, "POST", "/api/llm/sessions", body, (201,)))["data"]
            case _:
                body = {"session_id": session_id, "project_id": project, "message": f"{person.word} begins to talk"}
                state = await self.ask(person, "POST", "/api/chat", body)
                person.sessions[session_id] = kept = Kept(project, 2, found=True)
                kept.learn(state["messages"])
                person.turns += 1
                return None
        person.sessions[made["id"]] = Kept(project, found=bool(named))
        return None

    async def _say(self, person: Person) -> None:
        session_id, kept = self._one(person)
        if kept.messages > MOST_MESSAGES:
            return await self._delete(person)
        text = person.random.choice(
            (
                f"/say {person.word} said something",
                f"{person.word} is said back word by word, {person.word}",
                f"/reason that {person.word} thinks\n/tokens 5\n/say {person.word}",
                f"/tool tools.progress {json.dumps({'steps': 2, 'text': person.word})}",
            )
        )
        body = {"session_id": session_id, "message": text, "on_busy": "reject"}
        state = await self.ask(person, "POST", "/api/chat", body, (200, 409))
        if "turn_id" in state:
            kept.messages += 2
            kept.found = True
            kept.learn(state["messages"])
            person.turns += 1
        return None

    async def _use_tool(self, person: Person) -> None:
        session_id, _ = self._one(person)
        args: Any = {"server": "tools", "name": "echo", "arguments": {"text": f"of {person.word}"}}
        body = {"session_id": session_id, "command": "call_tool", "args": args}
        answer = await self.ask(person, "POST", "/api/mcp-command", body)
        assert answer["data"]["content"] == f"of {person.word}"

    async def _store(self, person: Person) -> None:
        session_id, kept = self._one(person)
        if kept.messages > MOST_MESSAGES:
            return await self._delete(person)
        kept.messages += 1
        kept.found = True
        if person.random.random() < 0.2:
            told = {"session_id": session_id, "message": f"the system knows {person.word}"}
            await self.ask(person, "POST", "/api/system", told)
            return None
        role = person.random.choice(("user", "assistant", "system"))
        body = {"role": role, "content": f"kept by {person.word}", "metadata": {"by": person.word}}
        path = f"/api/projects/{kept.project}/sessions/{session_id}/messages"
        kept.learn([await self.ask(person, "POST", path, body, (201,))])
        return None

    async def _rename(self, person: Person) -> None:
        session_id, kept = self._one(person)
        kept.archived = person.random.random() < 0.2
        body = {"title": f"Now {person.word}", "is_active": not kept.archived, "metadata": {"m": person.word}}
        await self.ask(person, "PUT", f"/api/projects/{kept.project}/sessions/{session_id}", body)
        kept.found = True

    async def _edit(self, person: Person) -> None:
        await self._turn_in_the_tree(person, "user", "edit", {"message": f"better: {person.word}"})

    async def _regenerate(self, person: Person) -> None:
        await self._turn_in_the_tree(person, "assistant", "regenerate", {})

    async def _turn_in_the_tree(self, person: Person, role: str, verb: str, body: Mapping[str, Any]) -> None:
        session_id, kept = self._one(person)
        message_id = self._message(person, kept, role)
        if message_id is None or kept.messages > MOST_MESSAGES:
            return await self._delete(person)
        path = f"/api/messages/{message_id}/{verb}"
        # 409: a turn is running, or it was stored and answers nothing.
        state = await self.ask(person, "POST", path, {"session_id": session_id, **body}, (200, 409))
        if "turn_id" in state:
            kept.messages = state["message_count"]  # what system messages come along is not this campaign's question
            kept.learn(state["messages"])
            kept.found = True
            person.turns += 1
        return None

    async def _branch(self, person: Person) -> None:
        session_id, kept = self._one(person)
        message_id = self._message(person, kept)
        if message_id is None:
            return await self._store(person)
        body = {"session_id": session_id, "message_id": message_id}
        kept.learn((await self.ask(person, "POST", "/api/branch", body, (200, 409))).get("messages", ()))
        return None

    async def _rate(self, person: Person) -> None:
        session_id, kept = self._one(person)
        message_id = self._message(person, kept, "assistant")
        if message_id is None:
            return await self._say(person)
        body = {"session_id": session_id, "rating": "up", "comment": f"{person.word} likes it"}
        await self.ask(person, "PUT", f"/api/messages/{message_id}/feedback", body, (200, 409))
        return None

    async def _fork(self, person: Person) -> None:
        session_id, kept = self._one(person)
        message_id = self._message(person, kept)
        if len(person.sessions) >= MOST_SESSIONS or message_id is None:
            return await self._delete(person)
        body = {"session_id": session_id, "message_id": message_id, "title": f"Fork of {person.word}"}
        state = await self.ask(person, "POST", "/api/fork", body, (201, 409))
        if "session_id" in state:
            forked = Kept(state["project_id"], state["message_count"], found=True)
            forked.learn(state["messages"])
            person.sessions[state["session_id"]] = forked
        return None

    async def _read(self, person: Person) -> None:
        session_id, kept = self._one(person)
        in_project = f"/api/projects/{kept.project}/sessions/{session_id}"
        paths = (
            in_project,
            f"{in_project}/full",
            f"{in_project}/messages?limit=1000",
            f"/api/state?session_id={session_id}",
            f"/api/session?session_id={session_id}",
            f"/api/session/validate?session_id={session_id}",
            f"/api/session/model?session_id={session_id}",
            f"/api/messages?session_id={session_id}",
            f"/api/llm/sessions/{session_id}?include_messages=true",
            f"/api/export?session_id={session_id}",
            f"/api/export?session_id={session_id}&format=markdown",
            f"/api/usage?session_id={session_id}",
        )
        path = person.random.choice(paths)
        answer = await self.ask(person, "GET", path)
        if path == in_project:
            assert answer["message_count"] == kept.messages
        elif path.startswith("/api/state"):
            assert answer["message_count"] == kept.messages
            kept.learn(answer["messages"])
        elif path.startswith("/api/export") and isinstance(answer, dict):
            assert len(answer["messages"]) == answer["message_count"] == kept.messages
            kept.learn(answer["messages"])

    async def _list(self, person: Person) -> None:
        match person.random.randrange(3):
            case 0:
                listed = (await self.ask(person, "GET", "/api/llm/sessions?include_archived=true"))["data"]
                wanted = set(person.sessions)
            case 1:
                listed = (await self.ask(person, "GET", "/api/llm/sessions"))["data"]
                wanted = {i for i, kept in person.sessions.items() if not kept.archived}
            case _:
                project = person.random.choice(("shared", "default", f"{person.name}-home"))
                listed = await self.ask(person, "GET", f"/api/projects/{project}/sessions?include_inactive=true")
                wanted = {i for i, kept in person.sessions.items() if kept.project == project}
        assert {s["id"] for s in listed} == wanted
        assert all(s["message_count"] == person.sessions[s["id"]].messages for s in listed)

    async def _search(self, person: Person) -> None:
        if person.random.random() < 0.5:
            query = f"/api/llm/sessions?include_archived=true&q={person.word[: person.random.randint(12, 22)]}"
            found = {s["id"] for s in (await self.ask(person, "GET", query))["data"]}
            assert found == {i for i, kept in person.sessions.items() if kept.found}
            return
        other = self._other(person)
        path = person.random.choice(("/api/llm/sessions?q=", "/api/projects/shared/sessions?q="))
        answer = await self.ask(person, "GET", path + person.random.choice((other.word, other.word[:-1])))
        assert not (answer["data"] if "llm" in path else answer)

    async def _count(self, person: Person) -> None:
        match person.random.randrange(3):
            case 0:
                projects = Counter(kept.project for kept in person.sessions.values())
                listed = await self.ask(person, "GET", "/api/projects")
                assert {p["project_id"]: p["sessions"] for p in listed} == projects
            case 1:
                stats = await self.ask(person, "GET", "/api/projects/shared/stats")
                shared = [kept.messages for kept in person.sessions.values() if kept.project == "shared"]
                assert (stats["total_sessions"], stats["total_messages"]) == (len(shared), sum(shared))
            case _:
                usage = await self.ask(person, "GET", "/api/usage?period=month")
                assert usage["total"]["turns"] <= person.turns
                assert {p["project_id"] for p in usage["by_project"]} <= {"shared", "default", f"{person.name}-home"}

    async def _operate(self, person: Person) -> None:
        """What operators see of all has nothing of anybody's in it."""
        path = person.random.choice(("/metrics", "/api/admin/metrics"))
        status, head, raw = await self._lines[person.name].ask(self._request(person, "GET", path))
        self.done["requests"] += 1
        self.done["bytes_searched"] += len(head) + len(raw)
        assert status == 200, raw
        assert not _WORD.search(raw), f"{path} tells what people wrote"

    async def _follow(self, person: Person) -> None:
        """Follow another session on the open stream, and one fewer."""
        session_id, _ = self._one(person)
        body: dict[str, Any] = {"stream": person.name, "add": [session_id]}
        person.followed = [s for s in person.followed if s in person.sessions and s != session_id]
        if len(person.followed) >= MOST_FOLLOWED:
            body["drop"] = [person.followed.pop(0)]
        person.followed.append(session_id)
        await self.ask(person, "POST", "/api/stream", body)

    async def _watch(self, person: Person) -> None:
        """Open a stream of one session, in place of the one before."""
        session_id, _ = self._one(person)
        more = person.random.choice(("", "&format=state", "&last_event_id=1-0", "&last_event_id=2-3"))
        streams = self._streams[person.name]
        while len(streams) > 1:
            streams.pop().close()
        await self._open(person, f"/api/chat/stream?session_id={session_id}{more}")
        self.done["requests"] += 1

    async def _delete(self, person: Person) -> None:
        session_id = self._passing(person)
        if session_id is None:
            return await self._create(person)
        kept = person.sessions.pop(session_id)
        path = person.random.choice(
            (
                f"/api/projects/{kept.project}/sessions/{session_id}?force=true",
                f"/api/llm/sessions/{session_id}",
                f"/api/session?session_id={session_id}",
            )
        )
        await self.ask(person, "DELETE", path)
        return None

    # --- what they try ---

    def _other(self, person: Person) -> Person:
        neighbours = self._tenants[person.tenant] if person.random.random() < 0.3 else self.people
        return person.random.choice([p for p in neighbours if p is not person])

    async def _trespass(self, person: Person) -> None:
        """Ask for what another has."""
        while True:
            other, trespass = self._other(person), person.random.choice(TRESPASSES)
            outside = other.tenant != person.tenant
            session_id = self._target(person, other, trespass, outside=outside)
            expected = trespass.outside if outside else trespass.inside
            if session_id is not None and expected is not None:
                break
        theirs = other.sessions[session_id]
        fill = {
            "id": session_id,
            "project": theirs.project,
            "message": self._message(person, theirs) or "none",
            "mine": self._one(person)[0],
            "word": person.word,
            "stream": person.name,
        }
        filled = None if trespass.body is None else {k: _filled(v, fill) for k, v in trespass.body.items()}
        if trespass.making and outside:
            person.passing.add(session_id)
        answer = await self.ask(person, trespass.method, trespass.path.format(**fill), filled, expected)
        if isinstance(answer, dict):
            assert not answer.get("deleted")
            assert not answer.get("valid")
            assert not answer.get("messages")
            if "status" in answer:
                self.done[f"refused_{answer['status']}"] += 1

    def _target(self, person: Person, other: Person, trespass: Trespass, *, outside: bool) -> str | None:
        """A session of the other's that may be tried so."""
        if not outside:
            # What makes a session would make one of his where the owner deletes his own just now.
            theirs = [i for i in other.sessions if not trespass.making or i.startswith("standing")]
        elif trespass.making:
            theirs = [i for i in other.sessions if _like_his(i, person) and i not in person.sessions]
        else:
            known = {*person.sessions, *person.passing}
            theirs = [i for i in other.sessions if _like_his(i, person) or not _ALIKE.match(i)]
            theirs = [i for i in theirs if i not in known]
        return person.random.choice(theirs) if theirs else None


def _like_his(session_id: str, person: Person) -> bool:
    """He might have named it, and nobody else of his tenant."""
    found = _ALIKE.match(session_id)
    return found is not None and int(found[1]) == person.number


def _filled(value: Any, fill: Mapping[str, str]) -> Any:
    return [v.format(**fill) for v in value] if isinstance(value, list) else value.format(**fill)


@asynccontextmanager
async def opened(folder: Path, *, operations: int = OPERATIONS) -> AsyncIterator[Round]:
    """Rounds on one server, with the same people.

    Args:
        operations: of each tenant in a round.
    """
    limits = dict.fromkeys(("login_attempts_per_minute", "login_attempts_per_address_per_minute"), 1_000_000)
    more = {"mcp_servers": json.dumps([TOOLS]), "password_memory_kib": 64, "password_rounds": 1}
    # Signed in once, for a campaign of hours.
    more |= {"token_lifetime_seconds": 7 * 86_400}
    async with ServerProcess(folder / "data", settings=limits | more) as server:
        people = await population(server.base_url, Settings(data_dir=folder / "data"))
        islands = Islands(server.base_url, people)
        in_tenant = Counter(person.tenant for person in people)

        def share(person: Person) -> int:
            return len(range(operations)[person.number :: in_tenant[person.tenant]])

        async def one(number: int, chance: random.Random) -> Counter[str]:
            islands.done.clear()
            written = server.log_bytes()
            for person in people:
                person.random = random.Random(f"{chance.random()}")
            async with AsyncExitStack() as homes:
                for person in people:
                    await homes.enter_async_context(islands.at_home(person))
                async with asyncio.TaskGroup() as group:
                    for person in people:
                        group.create_task(islands.act(person, share(person)))
            assert not _WORD.search(server.log(written).encode()), "the log tells what people wrote"
            done = Counter(islands.done)
            done["operations"] = sum(done[kind] for kind in OPERATIONS_BY_WEIGHT)
            return done

        yield one


CAMPAIGN = Campaign(
    name="islands",
    promise="Fifty tenants of two users each, and eight visitors, with 20,000 random operations a tenant on sessions, "
    "projects, messages, branches, tools, lists, searches, numbers, exports and streams, a fifth of them on what "
    "belongs to another: nobody is told another's words, nor are the metrics and the log anybody's, and lists and "
    "numbers are exactly what their owner has.",
    rounds=50,
    open=opened,
)
