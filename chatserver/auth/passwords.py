"""Passwords: argon2id in two threads, with a bounded waiting room.

Invariants: a login of an unknown name costs the same work as one of a known name (`verify(None, …)` checks a hash that
nothing matches). At most `THREADS` hashes are computed at once, each in `memory_kib` of memory, and at most `waiting`
more wait; the next one is refused at once, so a flood of logins costs bounded memory and leaves the loop alone
(argon2-cffi releases the interpreter while it works).

A password is text in Unicode's form NFKC, so that it is the same whichever keyboard wrote it (NIST SP 800-63B).
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from argon2 import PasswordHasher, Type
from argon2.exceptions import VerificationError

from chatserver.errors import FieldError, InvalidFields, Unavailable

T = TypeVar("T")

# Two hashes at once fill two cores and 128 MiB with the default settings.
THREADS = 2
# A lane each: the threads above are the parallelism, and a hash must not make more of its own.
LANES = 1
# Hashing is given so much and no more, whatever a client sends: far above any sentence that a person remembers.
MAX_CHARS = 256

_SALT_BYTES = 16
_HASH_BYTES = 32


@dataclass(frozen=True, slots=True)
class Verified:
    """Whether a password was right; `rehash` is its new hash where the stored one has outdated parameters."""

    right: bool
    rehash: str | None = None


class Passwords:
    """See the module.

    Args:
        memory_kib: memory of one hash, in KiB.
        rounds: passes over that memory.
        waiting: hashes that may wait for a thread.
    """

    def __init__(self, *, memory_kib: int, rounds: int, waiting: int) -> None:
        self._hasher = PasswordHasher(
            time_cost=rounds,
            memory_cost=memory_kib,
            parallelism=LANES,
            hash_len=_HASH_BYTES,
            salt_len=_SALT_BYTES,
            type=Type.ID,
        )
        # Random bytes where a digest should be: checking it is the full work, and nothing gives it.
        self._nobodys = (
            f"$argon2id$v=19$m={memory_kib},t={rounds},p={LANES}${_random(_SALT_BYTES)}${_random(_HASH_BYTES)}"
        )
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="chatserver-passwords")
        self._room = THREADS + waiting
        self._inside = 0

    async def hash(self, password: str) -> str:
        """The hash to store. Raises Unavailable (`too_many_logins`). Cancelling is safe."""
        return await self._run(lambda: self._hasher.hash(_normal(password)))

    async def verify(self, stored: str | None, password: str) -> Verified:
        """Whether `password` is the one of `stored`; of nobody where that is None, at the same cost.

        Raises: Unavailable (`too_many_logins`). Cancelling is safe.
        """
        return await self._run(lambda: self._verify(stored, _normal(password)))

    def _verify(self, stored: str | None, password: str) -> Verified:
        try:
            self._hasher.verify(self._nobodys if stored is None else stored, password)
        except (VerificationError, ValueError):  # ValueError: what is stored is no hash
            return Verified(False)
        if stored is None:
            return Verified(False)
        return Verified(True, self._hasher.hash(password) if self._hasher.check_needs_rehash(stored) else None)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._inside >= self._room:
            raise Unavailable("too many people are logging in", code="too_many_logins")
        self._inside += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._inside -= 1

    async def close(self) -> None:
        """Let running hashes end and drop what waits."""
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)


def check_password(password: str, *, min_chars: int, field: str = "password") -> None:
    """Refuse a new password that is too short, too long or blank.

    Args:
        field: what the request calls it.
    Raises: InvalidFields (`weak_password`).
    """
    length = len(_normal(password)) if len(password) <= MAX_CHARS else len(password)
    if not min_chars <= length <= MAX_CHARS or password.isspace():
        raise InvalidFields(
            [FieldError((field,), f"must have {min_chars} to {MAX_CHARS} characters")], code="weak_password"
        )


def _normal(password: str) -> str:
    return unicodedata.normalize("NFKC", password)


def _random(size: int) -> str:
    return base64.b64encode(secrets.token_bytes(size)).rstrip(b"=").decode()
