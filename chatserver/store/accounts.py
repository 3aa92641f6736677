"""The AccountStore protocol: users, and which of their tokens ended before their time.

Promises, for every implementation (tests/conformance/test_account_store.py), beside those of store/base.py:

- A name belongs to one user of a tenant; `(tenant, user_id)` is part of every key.
- A change that ends a user's tokens (`set_password`, `change_password`, `set_disabled`) raises the user's generation
  and writes a Revocation that says so, in one transaction: a token of an older generation is over.
- Revocations are numbered: one that is committed later has a higher `seq`, and a number never comes twice. So whoever
  has read up to some number finds everything newer by asking for what comes after it; other processes do (the
  command line changes users while a server runs).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

# A token lives at most this long (config.py); so long the end of a generation is remembered.
MAX_LIFETIME_SECONDS = 366 * 86400.0


@dataclass(frozen=True, slots=True)
class User:
    """One who has a password here. `username` is in its normal form (auth/names.py); times are seconds since the
    epoch; `disabled_at` is None while the user may log in."""

    tenant: str
    user_id: str
    username: str
    password_hash: str
    scopes: frozenset[str]
    created_at: float
    disabled_at: float | None = None
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Revocation:
    """The end of one token (`token_id`), or of all tokens of the user older than `generation`.

    It matters until `expires_at`: by then they are over anyway.
    """

    seq: int
    tenant: str
    user_id: str
    token_id: str | None
    generation: int | None
    expires_at: float


class AccountStore(Protocol):
    """See the module's promises. Raises what Store raises."""

    async def add_user(self, user: User) -> None:
        """Raises: Conflict (`username_taken`)."""

    async def find_user(self, tenant: str, username: str) -> User | None:
        """The user of that name, disabled ones too."""

    async def list_users(self, *, after: tuple[str, str], limit: int) -> tuple[User, ...]:
        """Up to `limit` users behind that (tenant, username), in their order; `("", "")` begins."""

    async def set_password(self, tenant: str, user_id: str, password_hash: str, *, now: float) -> User:
        """A new password; ends the user's tokens. Raises: NotFound."""

    async def change_password(self, tenant: str, user_id: str, old: str, new: str, *, now: float) -> User:
        """`set_password` in the place of that hash. Raises: NotFound, where the user may not log in any more, or `old`
        is not the hash any more: whoever was quicker may have done it to shut this caller out."""

    async def rehash_password(self, tenant: str, user_id: str, old: str, new: str) -> bool:
        """The same password under new parameters, which ends nothing; False where `old` is not the hash any more."""

    async def set_disabled(self, tenant: str, user_id: str, *, disabled: bool, now: float) -> User:
        """Keep the user from logging in, or let them again; either way their tokens end. Raises: NotFound."""

    async def revoke_token(self, tenant: str, user_id: str, token_id: str, *, expires_at: float) -> None:
        """End one token; the user may be of another issuer and unknown here. Repeating it changes nothing more."""

    async def revocations(self, *, after: int, limit: int) -> tuple[Revocation, ...]:
        """Up to `limit` of those with a `seq` above `after`, in order."""

    async def purge_revocations(self, now: float, limit: int) -> int:
        """Drop up to `limit` that do not matter any more; how many."""
