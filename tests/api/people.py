"""People at a server: a browser with its cookies, and users of any tenant."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

from chatserver.accounts import new_user
from chatserver.auth.passwords import Passwords
from chatserver.auth.tokens import TokenSigner
from chatserver.auth.visitors import load_key
from chatserver.clock import SystemClock
from chatserver.store.sql import open_accounts
from tests.api.conftest import Api
from tests.auth.clock import SetClock

PASSWORD = "correct horse battery"


@dataclass(slots=True)
class Browser:
    """Keeps cookies as a browser does, and says where its requests come from."""

    api: Api
    cookies: dict[str, str] = field(default_factory=dict)
    set_cookies: list[str] = field(default_factory=list)

    @property
    def headers(self) -> dict[str, str]:
        """What every request of it carries."""
        jar = "; ".join(f"{k}={v}" for k, v in self.cookies.items())
        return {"Origin": self.api.server.url, "Sec-Fetch-Site": "same-origin"} | ({"Cookie": jar} if jar else {})

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        """Status, body and headers of one request; cookies are kept."""
        async with self.api.http.request(
            method, self.api.url(path), json=body, headers=self.headers | headers
        ) as response:
            self.set_cookies = response.headers.getall("Set-Cookie", [])
            for name, morsel in response.cookies.items():
                if morsel["max-age"] == "0" or not morsel.value:
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = morsel.value
            text = await response.text()
            is_json = "json" in response.headers.get("Content-Type", "")
            return response.status, json.loads(text) if is_json else text, dict(response.headers)

    async def post(self, path: str, **body: Any) -> tuple[int, Any, dict[str, str]]:
        return await self.call("POST", path, body)

    async def get(self, path: str) -> tuple[int, Any, dict[str, str]]:
        return await self.call("GET", path)

    async def register(self, username: str, password: str = PASSWORD) -> dict[str, Any]:
        """Make an account; it has to work."""
        status, body, _ = await self.post("/api/auth/register", username=username, password=password)
        assert status == 201, body
        return dict(body)

    async def login(self, username: str, password: str = PASSWORD, **more: str) -> dict[str, Any]:
        """Log in; it has to work."""
        status, body, _ = await self.post("/api/auth/login", username=username, password=password, **more)
        assert status == 200, body
        return dict(body)


async def visitor(api: Api) -> Browser:
    """A browser that has opened the page."""
    browser = Browser(api)
    await browser.get("/")
    assert "chatserver_visitor" in browser.cookies
    return browser


async def add_user(api: Api, tenant: str, username: str, scopes: frozenset[str] = frozenset()) -> None:
    """What the operator's command does while the server runs."""
    settings = api.server.services.settings
    passwords = Passwords(memory_kib=64, rounds=1, waiting=1)
    named = {"tenant": tenant, "username": username, "password": PASSWORD}
    async with open_accounts(settings) as store:
        await new_user(settings, store, passwords, SystemClock(), **named, scopes=scopes)
    await passwords.close()


async def bearer(api: Api, username: str, tenant: str = "public") -> dict[str, str]:
    """Headers of a program that has logged in."""
    status, body, _ = await api.post("/api/auth/login", username=username, password=PASSWORD, tenant=tenant)
    assert status == 200, body
    return {"Authorization": f"Bearer {body['token']}"}


async def disable_user(api: Api, tenant: str, username: str, *, tell: bool = True) -> None:
    """What the operator's command does, and (`tell`) the server's next look at it right now."""
    async with open_accounts(api.server.services.settings) as store:
        user = await store.find_user(tenant, username)
        assert user is not None
        await store.set_disabled(tenant, user.user_id, disabled=True, now=time.time())
    if tell:
        await api.server.services.accounts.load()


def expired_token(api: Api, username: str) -> str:
    """One that the server made long ago."""
    key = load_key(api.server.services.settings.data_dir / "token.key")
    return TokenSigner(key, SetClock(1_000_000_000)).issue(
        tenant="public", user_id="u", username=username, scopes=frozenset(), generation=0, lifetime_seconds=60
    )[0]
