"""SqlAccounts: the AccountStore protocol over the same database, writer and readers as SqlStore."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from chatserver.errors import Conflict, NotFound
from chatserver.store.accounts import MAX_LIFETIME_SECONDS, Revocation, User
from chatserver.store.soundness import text_of, time_of
from chatserver.store.transaction import Transaction
from chatserver.store.writer import Transactions


class SqlAccounts:
    """See `AccountStore` for what each method promises. `writer` and `reader` are opened and closed by their maker."""

    def __init__(self, writer: Transactions, reader: Transactions) -> None:
        self._writer = writer
        self._reader = reader

    async def add_user(self, user: User) -> None:
        await self._writer.submit(partial(_add_user, user=user))

    async def find_user(self, tenant: str, username: str) -> User | None:
        return await self._reader.submit(partial(_find_user, tenant=tenant, username=username))

    async def list_users(self, *, after: tuple[str, str], limit: int) -> tuple[User, ...]:
        return await self._reader.submit(partial(_list_users, after=after, limit=limit))

    async def set_password(self, tenant: str, user_id: str, password_hash: str, *, now: float) -> User:
        changes = {"tenant": tenant, "user_id": user_id, "password_hash": password_hash}
        return await self._writer.submit(partial(_set_password, changes=changes, now=now))

    async def change_password(self, tenant: str, user_id: str, old: str, new: str, *, now: float) -> User:
        changes = {"tenant": tenant, "user_id": user_id, "old": old, "password_hash": new}
        return await self._writer.submit(partial(_change_password, changes=changes, now=now))

    async def rehash_password(self, tenant: str, user_id: str, old: str, new: str) -> bool:
        return await self._writer.submit(
            partial(_rehash_password, tenant=tenant, user_id=user_id, old=old, password_hash=new)
        )

    async def set_disabled(self, tenant: str, user_id: str, *, disabled: bool, now: float) -> User:
        changes = {"tenant": tenant, "user_id": user_id, "disabled_at": now if disabled else None}
        return await self._writer.submit(partial(_set_disabled, changes=changes, now=now))

    async def revoke_token(self, tenant: str, user_id: str, token_id: str, *, expires_at: float) -> None:
        revocation = {
            "tenant": tenant,
            "user_id": user_id,
            "token_id": token_id,
            "generation": None,
            "expires_at": expires_at,
        }
        await self._writer.submit(partial(_revoke, revocation=revocation))

    async def revocations(self, *, after: int, limit: int) -> tuple[Revocation, ...]:
        return await self._reader.submit(partial(_revocations, after=after, limit=limit))

    async def purge_revocations(self, now: float, limit: int) -> int:
        return await self._writer.submit(partial(_purge, now=now, limit=limit))


def _user_of(row: Sequence[Any]) -> User:
    tenant, user_id, username, password_hash, scopes, created_at, disabled_at, generation = row
    return User(
        tenant,
        user_id,
        text_of(username),
        text_of(password_hash),
        frozenset(text_of(scopes).split()),
        time_of(created_at),
        disabled_at,
        generation,
    )


def _add_user(tx: Transaction, *, user: User) -> Conflict | None:
    row = {
        "tenant": user.tenant,
        "user_id": user.user_id,
        "username": user.username,
        "password_hash": user.password_hash,
        "scopes": " ".join(sorted(user.scopes)),
        "created_at": user.created_at,
        "disabled_at": user.disabled_at,
        "generation": user.generation,
    }
    added = tx.run(tx.sql.accounts.add_user, row)
    return None if added else Conflict("the name is taken", code="username_taken")


def _find_user(tx: Transaction, *, tenant: str, username: str) -> User | None:
    row = tx.one(tx.sql.accounts.find_user, {"tenant": tenant, "username": username})
    return None if row is None else _user_of(row)


def _list_users(tx: Transaction, *, after: tuple[str, str], limit: int) -> tuple[User, ...]:
    rows = tx.all(tx.sql.accounts.list_users, {"tenant": after[0], "username": after[1], "count": limit})
    return tuple(map(_user_of, rows))


def _set_password(tx: Transaction, *, changes: dict[str, Any], now: float) -> User | NotFound:
    return _next_generation(tx, tx.one(tx.sql.accounts.set_password, changes), now)


def _change_password(tx: Transaction, *, changes: dict[str, Any], now: float) -> User | NotFound:
    return _next_generation(tx, tx.one(tx.sql.accounts.change_password, changes), now)


def _set_disabled(tx: Transaction, *, changes: dict[str, Any], now: float) -> User | NotFound:
    return _next_generation(tx, tx.one(tx.sql.accounts.set_disabled, changes), now)


def _next_generation(tx: Transaction, row: Sequence[Any] | None, now: float) -> User | NotFound:
    if row is None:
        return NotFound("there is no such user", code="user_not_found")
    user = _user_of(row)
    _revoke(
        tx,
        revocation={
            "tenant": user.tenant,
            "user_id": user.user_id,
            "token_id": None,
            "generation": user.generation,
            "expires_at": now + MAX_LIFETIME_SECONDS,
        },
    )
    return user


def _rehash_password(tx: Transaction, **params: Any) -> bool:
    return tx.run(tx.sql.accounts.rehash_password, params) > 0


def _last(tx: Transaction) -> int:
    row = tx.one(tx.sql.accounts.last_revocation, {})
    return 0 if row is None or row[0] is None else int(row[0])


def _revoke(tx: Transaction, *, revocation: dict[str, Any]) -> None:
    tx.run(tx.sql.accounts.add_revocation, revocation | {"seq": _last(tx) + 1})


def _revocations(tx: Transaction, *, after: int, limit: int) -> tuple[Revocation, ...]:
    return tuple(Revocation(*row) for row in tx.all(tx.sql.accounts.revocations, {"seq": after, "count": limit}))


def _purge(tx: Transaction, *, now: float, limit: int) -> int:
    # The newest stays, so that its number is not given again.
    return tx.run(tx.sql.accounts.purge_revocations, {"now": now, "newest": _last(tx), "count": limit})
