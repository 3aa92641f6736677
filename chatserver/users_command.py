"""`chatserver users`: the operator's hand on accounts, whether a server is running on the database or not.

Passwords are asked for or read from standard input, never taken from the command line, which other users of the
machine can see. A running server follows what is changed here within a second (accounts.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from chatserver.accounts import new_user
from chatserver.auth.names import normal_name
from chatserver.auth.passwords import Passwords, check_password
from chatserver.clock import Clock, SystemClock, rfc3339
from chatserver.config import TENANT, Settings
from chatserver.errors import FieldError, InvalidFields, NotFound, StartupError
from chatserver.store.accounts import AccountStore, User
from chatserver.store.sql import location, open_accounts

T = TypeVar("T")

# Users read at once.
PAGE = 500


def new_database(settings: Settings) -> Path | None:
    """The database that `add` would make; None where there is one. Raises: StartupError."""
    path = location(settings.database_url, settings.data_dir)
    return None if path is None or path.exists() else path


def add(settings: Settings, tenant: str, username: str, password: str, scopes: frozenset[str]) -> User:
    """Make a user, and the database where there is none. Raises: ChatServerError."""
    _check_tenant(tenant)
    return _run(
        settings,
        lambda users, passwords, clock: new_user(
            settings, users, passwords, clock, tenant=tenant, username=username, password=password, scopes=scopes
        ),
    )


def listed(settings: Settings, tell: Callable[[User], None]) -> None:
    """Show every user, by tenant and name. Raises: ChatServerError."""
    _require_database(settings)

    async def work(users: AccountStore, _passwords: Passwords, _clock: Clock) -> None:
        after = ("", "")
        while page := await users.list_users(after=after, limit=PAGE):
            for user in page:
                tell(user)
            after = (page[-1].tenant, page[-1].username)

    _run(settings, work)


def passwd(settings: Settings, tenant: str, username: str, password: str) -> User:
    """Give a user a new password, which logs them out everywhere. Raises: ChatServerError."""
    _require_database(settings)

    async def work(users: AccountStore, passwords: Passwords, clock: Clock) -> User:
        user = await _find(users, tenant, username)
        check_password(password, min_chars=settings.password_min_chars)
        return await users.set_password(tenant, user.user_id, await passwords.hash(password), now=clock.now())

    return _run(settings, work)


def disable(settings: Settings, tenant: str, username: str, *, disabled: bool) -> User:
    """Keep a user out, at once and everywhere, or let them in again. Raises: ChatServerError."""
    _require_database(settings)

    async def work(users: AccountStore, _passwords: Passwords, clock: Clock) -> User:
        user = await _find(users, tenant, username)
        return await users.set_disabled(tenant, user.user_id, disabled=disabled, now=clock.now())

    return _run(settings, work)


def line_of(user: User) -> str:
    """A user in one line: tenant, name, state, scopes, id, since when."""
    state = "enabled" if user.disabled_at is None else "disabled"
    scopes = ",".join(sorted(user.scopes)) or "-"
    return "\t".join((user.tenant, user.username, state, scopes, user.user_id, rfc3339(user.created_at)))


async def _find(users: AccountStore, tenant: str, username: str) -> User:
    user = await users.find_user(tenant, normal_name(username))
    if user is None:
        raise NotFound(f"there is no user {username!r} in tenant {tenant!r}", code="user_not_found")
    return user


def _require_database(settings: Settings) -> None:
    """A wrong folder must not become a database without users, which nobody would ever look for."""
    if missing := new_database(settings):
        raise StartupError(f"there is no database {missing}; --data-dir names the server's folder")


def _check_tenant(tenant: str) -> None:
    if not TENANT.fullmatch(tenant):
        raise InvalidFields([FieldError(("tenant",), "1 to 64 of A-Z a-z 0-9 . _ -")])


def _run(settings: Settings, work: Callable[[AccountStore, Passwords, Clock], Awaitable[T]]) -> T:
    async def whole() -> T:
        passwords = Passwords(memory_kib=settings.password_memory_kib, rounds=settings.password_rounds, waiting=1)
        try:
            async with open_accounts(settings) as users:
                return await work(users, passwords, SystemClock())
        finally:
            await passwords.close()

    return asyncio.run(whole())
