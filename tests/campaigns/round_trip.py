"""Export and import: what a server shows of every session before is what another one shows after.

Two tenants move, each by an export and an import of its own, with sessions of visitors, of users and of nobody. The
other server knows the users by other ids, as any other server does: the import is told which old one is which new one.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import shutil
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from chatserver.accounts import new_user
from chatserver.auth.passwords import Passwords
from chatserver.auth.visitors import VisitorSigner, load_key
from chatserver.clock import SystemClock
from chatserver.config import Settings
from chatserver.message import Message, ToolCall, ToolResult, Usage
from chatserver.principal import PUBLIC_TENANT
from chatserver.store.base import SessionKey, SessionRecord, WholeSession
from chatserver.store.sql import open_accounts, open_store
from chatserver.transfer_folder import safe_name
from tests.campaigns.campaign import Campaign, Round
from tests.server import ROOT, ServerProcess

SESSIONS_PER_ROUND = 10_000
TENANTS = (PUBLIC_TENANT, "acme")
USERS_PER_TENANT = 4
PASSWORD = "correct horse battery"
AT_ONCE = 16
TEXTS = (
    "hello",
    "Zoë said: “3 < 4” \U0001f9ea\n\u2028end",
    "```\n<b>\n",
    "\x00\x1f\u202e",
    "x" * 20_000,
    " ",
    "a\r\nb",
)


def _session(key: SessionKey, owner: str | None, chance: random.Random) -> WholeSession:
    """A session with a tree of messages that use every field."""
    now = time.time() - chance.random() * 1e6
    messages: list[Message] = []
    for number in range(chance.randrange(12)):
        role = chance.choice(("user", "assistant", "assistant", "system", "tool"))
        call = ToolCall(
            f"c{number}", "files", "read", {"path": chance.choice(TEXTS), "n": [1, 2.5, None]}, 3,
            chance.choice((None, ToolResult(chance.choice(TEXTS), is_error=chance.random() < 0.5))),
        )  # fmt: skip
        messages.append(
            Message(
                id=f"m{number}",
                # Nearly always a chain; sometimes another branch.
                parent_id=chance.choice([messages[-1].id] * 4 + [m.id for m in messages]) if messages else None,
                role=role,
                content=chance.choice(TEXTS),
                status=chance.choice(("completed", "interrupted", "failed")),
                model=chance.choice((None, "scripted")),
                created_at="2026-01-01T00:00:00.123Z",
                reasoning=chance.choice(("", "first…\tthen")),
                tool_calls=(call,) if role == "assistant" and chance.random() < 0.5 else (),
                usage=Usage(1, 2, 3, 4, estimated=True) if role == "assistant" else None,
                metadata=chance.choice(({}, {"feedback": {"rating": "up", "comment": "½"}}, {"deep": {"x": [1.5]}})),
            )
        )
    record = SessionRecord(
        key=key,
        project_id=chance.choice(("default", "Tax:2026", "..")),
        owner=owner,
        title=chance.choice(TEXTS)[:200],
        model=chance.choice((None, "scripted", "gone")),
        created_at=now,
        updated_at=now + chance.random() * 1000,
        expires_at=time.time() + 86_400 + chance.random(),
        description=chance.choice(TEXTS)[:1000],
        metadata=chance.choice(({}, {"tags": ["a", 1, None]})),
        is_active=chance.random() < 0.8,
        is_named=chance.random() < 0.8,
        message_count=len(messages),
        last_message_at=now + 1 if messages else None,
        leaf_id=chance.choice([m.id for m in messages if not any(c.parent_id == m.id for c in messages)] or [None]),
    )
    return WholeSession(record, tuple(messages))


@dataclass(frozen=True, slots=True)
class People:
    """Who the owners are at one server.

    Args:
        ids: of the users, by tenant and name.
    """

    data: Path
    ids: Mapping[tuple[str, str], str]

    async def heads(self, server: ServerProcess, http: aiohttp.ClientSession) -> dict[tuple[str, str], dict[str, str]]:
        """What a request of each user carries, by tenant and owner."""
        found = {}
        for (tenant, name), user_id in self.ids.items():
            who = {"tenant": tenant, "username": name, "password": PASSWORD}
            async with http.post(f"{server.base_url}/api/auth/login", json=who) as response:
                assert response.status == 200, await response.text()
                found[tenant, f"user:{user_id}"] = {"Authorization": f"Bearer {(await response.json())['token']}"}
        return found

    def visitor(self, owner: str) -> dict[str, str]:
        """The same of a visitor, whose cookie is good on every server that has the key."""
        visitor_id = owner.partition(":")[2]
        signer = VisitorSigner(load_key(self.data / "secret.key"))
        return {"Cookie": f"chatserver_visitor={visitor_id}.{signer._sign(visitor_id)}"}

    def named(self, owner: str | None) -> str | None:
        """A user by name where there is one of that id: what is the same on every server."""
        names = {f"user:{user_id}": name for (_, name), user_id in self.ids.items()}
        return owner if owner is None else names.get(owner, owner)


async def _people(data: Path) -> People:
    """Users, made as the operator makes them."""
    passwords = Passwords(memory_kib=64, rounds=1, waiting=1)
    settings = Settings(data_dir=data)
    ids = {}
    async with open_accounts(settings) as store:
        for tenant in TENANTS:
            for n in range(USERS_PER_TENANT):
                who = {"tenant": tenant, "username": f"{tenant}-{n}", "password": PASSWORD}
                user = await new_user(settings, store, passwords, SystemClock(), **who, scopes=frozenset())
                ids[tenant, user.username] = user.user_id
    await passwords.close()
    return People(data, ids)


async def _command(*args: str | Path) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "chatserver", *map(str, args), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out
    return out.decode()


async def _shown(people: People, records: Sequence[tuple[SessionRecord, str | None]]) -> dict[SessionKey, Any]:
    """What a server shows of each session to its owner there: the active branch, and all branches as they are taken
    away."""
    found: dict[SessionKey, Any] = {}
    left = list(records)
    settings = {"password_memory_kib": 64, "password_rounds": 1}
    async with (
        ServerProcess(people.data, settings=settings) as server,
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http,
    ):
        heads = await people.heads(server, http)

        async def get(path: str, headers: Mapping[str, str]) -> Any:
            # As it is: a client would resolve `..` by itself.
            url = URL(f"{server.base_url}{path.replace('/../', '/%2E%2E/')}", encoded=True)
            async with http.get(url, headers=headers) as response:
                assert response.status == 200, (path, await response.text())
                return await response.json()

        async def work() -> None:
            while left:
                record, owner = left.pop()
                headers = {}
                if owner is not None:
                    visitor = owner.startswith("visitor:")
                    headers = people.visitor(owner) if visitor else heads[record.key.tenant, owner]
                session_id = record.key.session_id
                full = await get(f"/api/projects/{record.project_id}/sessions/{session_id}/full", headers)
                whole = await get(f"/api/export?session_id={session_id}", headers)
                assert whole["owner"] == owner
                whole["owner"] = people.named(owner)
                found[record.key] = (full, whole)

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(work())
    return found


def _owner(tenant: str, people: People, chance: random.Random) -> str | None:
    users = [f"user:{user_id}" for (of, _), user_id in people.ids.items() if of == tenant]
    visitor = f"visitor:{chance.randbytes(16).hex()}"
    # Visitors, and those without identity, are all of one tenant.
    return chance.choice((None, visitor, chance.choice(users)) if tenant == PUBLIC_TENANT else users)


@asynccontextmanager
async def opened(folder: Path, *, sessions: int = SESSIONS_PER_ROUND) -> AsyncIterator[Round]:
    """Rounds, each with two servers of its own.

    Args:
        sessions: of a round.
    """

    async def one(number: int, chance: random.Random) -> Counter[str]:
        one, two, out = (folder / f"{name}-{number}" for name in ("one", "two", "out"))
        for data in (one, two):
            data.mkdir()
        load_key(one / "secret.key")
        shutil.copy(one / "secret.key", two)
        old, new = await _people(one), await _people(two)
        becomes = {f"user:{user_id}": f"user:{new.ids[who]}" for who, user_id in old.ids.items()}
        wholes = []
        for n in range(sessions):
            tenant = chance.choice(TENANTS)
            key = SessionKey(tenant, chance.choice((f"s-{n}", f"S:{n}", f".{n}", secrets.token_hex(16))))
            wholes.append(_session(key, _owner(tenant, old, chance), chance))
        store = await open_store(Settings(data_dir=one))
        async with asyncio.TaskGroup() as group:
            for whole in wholes:
                group.create_task(store.import_session(whole, replace=False))
        await store.close()
        before = await _shown(old, [(whole.record, whole.record.owner) for whole in wholes])
        mapped = [f"--owner={was}={is_now}" for was, is_now in becomes.items()]
        for tenant in TENANTS:
            await _command("export", out / tenant, "--tenant", tenant, "--data-dir", one)
            await _command("import", out / tenant, *mapped, "--data-dir", two)
        owners = [whole.record.owner for whole in wholes]
        after = await _shown(
            new,
            [
                (whole.record, None if owner is None else becomes.get(owner, owner))
                for whole, owner in zip(wholes, owners, strict=True)
            ],
        )
        assert len(before) == sessions
        for key, shown in before.items():
            assert after[key] == shown, key
            assert (out / key.tenant / "projects" / safe_name(shown[0]["session"]["project_id"])).is_dir()
        for place in (one, two, out):
            shutil.rmtree(place)
        return Counter(
            sessions=sessions,
            of_users=sum((owner or "").startswith("user:") for owner in owners),
            messages=sum(len(whole["messages"]) for _, whole in before.values()),
            on_the_active_branch=sum(len(full["messages"]) for full, _ in before.values()),
        )

    yield one


CAMPAIGN = Campaign(
    name="round-trip",
    promise="Ten thousand sessions of two tenants (of visitors, users and nobody, with branches, tools, usage and "
    "feedback) are exported from one server and imported into another one that is empty, where the users have other "
    "ids: `GET …/full` and `GET /api/export` of each are the same.",
    rounds=1,
    open=opened,
)
