"""The people of the campaign of islands: who they are to the server, their words, and what they have."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from chatserver.accounts import new_user
from chatserver.auth.passwords import Passwords
from chatserver.clock import SystemClock
from chatserver.config import Settings
from chatserver.principal import PUBLIC_TENANT
from chatserver.store.sql import open_accounts

TENANTS = 50
VISITORS = 8
PASSWORD = "correct horse battery"


@dataclass(slots=True)
class Kept:
    """A session as its owner knows it.

    Args:
        known: messages of it by their ids: role and status, as they were last told.
        found: whether the owner's word stands in its title or a message: then a search finds it.
    """

    project: str
    messages: int = 0
    archived: bool = False
    found: bool = False
    known: dict[str, tuple[str, str]] = field(default_factory=dict)

    def learn(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Take what an answer told."""
        self.known.update((m["id"], (m["role"], m["status"])) for m in messages)


def _new_word() -> str:
    return f"canary{secrets.token_hex(8)}"


@dataclass(slots=True)
class Person:
    """One of them: who he is to the server, his words, and what he has.

    Args:
        head: the lines of each of his requests that say who he is.
        number: among the people of his tenant; the names of his sessions have it, so that people of other tenants, and
            nobody of his own, name theirs as he does.
    """

    tenant: str
    number: int
    name: str = field(default_factory=_new_word)
    word: str = field(default_factory=_new_word)
    head: bytes = b""
    random: random.Random = field(default_factory=random.Random)
    sessions: dict[str, Kept] = field(default_factory=dict)
    # Sessions that his reads made when he asked for another's: in memory only, and in no list.
    passing: set[str] = field(default_factory=set)
    followed: list[str] = field(default_factory=list)
    turns: int = 0
    # That a word of his own came as it was said: his stream is one on which there would be something to find.
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def words(self) -> frozenset[bytes]:
        """What may stand in an answer to him."""
        return frozenset((self.word.encode(), self.name.encode()))

    def new_id(self) -> str:
        """An id that he does not use."""
        if self.random.random() < 0.3:
            return f"{self.name}-{secrets.token_hex(4)}"
        taken = {*self.sessions, *self.passing}
        return next(name for n in range(1000) if (name := f"room-{self.number}-{n}") not in taken)


async def population(base_url: str, settings: Settings) -> list[Person]:
    """Two users in each tenant, made as the operator makes them, and the visitors."""
    people = []
    passwords = Passwords(memory_kib=64, rounds=1, waiting=1)
    async with open_accounts(settings) as store, aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        for n in range(TENANTS):
            for number in range(2):
                person = Person(PUBLIC_TENANT if n == 0 else f"tenant-{n}", number)
                who = {"tenant": person.tenant, "username": person.name, "password": PASSWORD}
                await new_user(settings, store, passwords, SystemClock(), **who, scopes=frozenset())
                async with http.post(base_url + "/api/auth/login", json=who) as response:
                    assert response.status == 200, await response.text()
                    token = (await response.json())["token"]
                person.head = f"Authorization: Bearer {token}\r\n".encode()
                people.append(person)
        for n in range(VISITORS):
            async with http.get(base_url + "/") as response:
                cookie = response.cookies["chatserver_visitor"].value
            people.append(Person(PUBLIC_TENANT, 2 + n, head=f"Cookie: chatserver_visitor={cookie}\r\n".encode()))
    await passwords.close()
    return people
