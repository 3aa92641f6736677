"""Export and import: what a server shows of every session before is what another one shows after."""

from __future__ import annotations

import asyncio
import random
import secrets
import shutil
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from chatserver.auth.visitors import VisitorSigner, load_key
from chatserver.config import Settings
from chatserver.message import Message, ToolCall, ToolResult, Usage
from chatserver.store.base import SessionKey, SessionRecord, WholeSession
from chatserver.store.sql import open_store
from chatserver.transfer_folder import safe_name
from tests.campaigns.campaign import Campaign, Round
from tests.server import ROOT, ServerProcess

SESSIONS_PER_ROUND = 2_500
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


def _cookie(signer: VisitorSigner, owner: str) -> str:
    visitor_id = owner.partition(":")[2]
    return f"{visitor_id}.{signer._sign(visitor_id)}"


async def _command(*args: str | Path) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "chatserver", *map(str, args), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out
    return out.decode()


async def _shown(data: Path, wholes: Sequence[WholeSession]) -> dict[SessionKey, Any]:
    """What a server on that data shows of each session, to its owner."""
    signer = VisitorSigner(load_key(data / "secret.key"))
    found: dict[SessionKey, Any] = {}
    left = list(wholes)
    async with ServerProcess(data) as server, aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:

        async def work() -> None:
            while left:
                record = left.pop().record
                headers = {}
                if record.owner is not None:
                    headers["Cookie"] = f"chatserver_visitor={_cookie(signer, record.owner)}"
                path = f"/api/projects/{record.project_id}/sessions/{record.key.session_id}/full"
                # As it is: a client would resolve `..` by itself.
                url = URL(f"{server.base_url}{path.replace('/../', '/%2E%2E/')}", encoded=True)
                async with http.get(url, headers=headers) as response:
                    assert response.status == 200, (record, await response.text())
                    found[record.key] = await response.json()

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(work())
    return found


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
        wholes = []
        for n in range(sessions):
            key = SessionKey("public", chance.choice((f"s-{n}", f"S:{n}", f".{n}", secrets.token_hex(16))))
            owner = chance.choice((None, f"visitor:{chance.randbytes(16).hex()}"))
            wholes.append(_session(key, owner, chance))
        store = await open_store(Settings(data_dir=one))
        async with asyncio.TaskGroup() as group:
            for whole in wholes:
                group.create_task(store.import_session(whole, replace=False))
        await store.close()
        before = await _shown(one, wholes)
        await _command("export", out, "--data-dir", one)
        await _command("import", out, "--data-dir", two)
        after = await _shown(two, wholes)
        assert len(before) == sessions
        for key, shown in before.items():
            assert after[key] == shown, key
            assert (out / "projects" / safe_name(shown["session"]["project_id"])).is_dir()
        for place in (one, two, out):
            shutil.rmtree(place)
        return Counter(sessions=sessions, messages=sum(len(shown["messages"]) for shown in before.values()))

    yield one


CAMPAIGN = Campaign(
    name="round-trip",
    promise="Sessions of every kind are exported from one server and imported into another one that is empty: "
    "`GET …/full` of each is the same.",
    rounds=4,
    open=opened,
)
