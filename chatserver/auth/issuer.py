"""An external issuer: tokens that somebody else's login makes, checked with the keys that it publishes (RFC 7517).

Invariants: a key is only ever used with the one algorithm of its type (RSA: RS256, P-256: ES256); symmetric keys in a
key set are ignored, so no public key can become a secret. Fetching is bounded in time, size, number of keys and rate:
a token with an unknown key id makes at most one fetch in `REFRESH_SECONDS`, however many come. When the issuer is away,
known keys are used for `STALE_SECONDS` more; without any, requests with its tokens get 503.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from typing import Any

import aiohttp
import jwt
import orjson
from structlog.typing import FilteringBoundLogger

from chatserver.auth.tokens import Token, check_times, decode, invalid
from chatserver.clock import Clock
from chatserver.config import TENANT, IssuerConfig
from chatserver.errors import Unavailable
from chatserver.tasks import Supervisor

FETCH_SECONDS = 5.0
MAX_BYTES = 256 << 10
# An issuer has two or three: the present, the last and the next one.
MAX_KEYS = 64
# The least time between two fetches: what a flood of made-up key ids costs the issuer.
REFRESH_SECONDS = 30.0
# How much longer than `keys_cache_seconds` keys are used while the issuer cannot be reached.
STALE_SECONDS = 3600.0
# How long a request whose key is known waits for newer ones: an issuer that answers is heard before the key is used,
# and one that hangs does not hold up the requests of everybody who is logged in.
KNOWN_KEY_PATIENCE_SECONDS = 0.5
MIN_RSA_BITS = 2048
MAX_USER_CHARS = 255

# Before the issuer's own name for a user: users of this installation and the issuer's can never be each other.
USER_PREFIX = "ext:"

_Key = tuple[str, Any]  # algorithm, key


class ExternalIssuer:
    """See the module.

    Args:
        supervisor: owns the fetches, so that no request that goes away takes one along.
    """

    def __init__(self, config: IssuerConfig, clock: Clock, supervisor: Supervisor, log: FilteringBoundLogger) -> None:
        self._config = config
        self._clock = clock
        self._supervisor = supervisor
        self._log = log
        self._keys: dict[str, _Key] = {}
        self._fetched_at: float | None = None  # of `_keys`, on the monotonic clock
        self._tried_at: float | None = None
        self._fetching: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """What its tokens say in `iss`."""
        return self._config.issuer

    async def read(self, text: str, header: Mapping[str, Any]) -> Token:
        """What one of its tokens says.

        Args:
            header: the token's, unverified.
        Raises: Unauthorized (`token_invalid`, `token_expired`), Unavailable (`issuer_unavailable`).
        Cancelling is safe.
        """
        kid = header.get("kid")
        if not isinstance(kid, str):
            raise invalid()
        algorithm, key = await self._key(kid)
        claims = decode(text, key, algorithm, audience=self._config.audience, issuer=self._config.issuer)
        expires_at = check_times(claims, self._clock.now())
        user = claims.get(self._config.user_claim)
        tenant = claims.get(self._config.tenant_claim) if self._config.tenant_claim else self._config.tenant
        # Printable text has no lone surrogates, which JSON can carry and the store cannot.
        if not isinstance(user, str) or not 1 <= len(user) <= MAX_USER_CHARS or not user.isprintable():
            raise invalid()
        if not isinstance(tenant, str) or not TENANT.fullmatch(tenant):
            raise invalid()
        # The signed part: a signature may have a second form that is as good.
        token_id = hashlib.sha256(text.rpartition(".")[0].encode()).hexdigest()
        return Token(tenant, USER_PREFIX + user, user, frozenset(), token_id, None, expires_at)

    async def _key(self, kid: str) -> _Key:
        now = self._clock.monotonic()
        fresh = self._fetched_at is not None and now - self._fetched_at < self._config.keys_cache_seconds
        if not (fresh and kid in self._keys):
            usable = kid in self._keys and not self._stale(now)
            await self._refresh(now, KNOWN_KEY_PATIENCE_SECONDS if usable else None)
        if self._stale(now):
            raise Unavailable("the keys of the token's issuer cannot be read", code="issuer_unavailable")
        if kid not in self._keys:
            raise invalid()
        return self._keys[kid]

    def _stale(self, now: float) -> bool:
        return self._fetched_at is None or now - self._fetched_at > self._config.keys_cache_seconds + STALE_SECONDS

    async def _refresh(self, now: float, patience_seconds: float | None) -> None:
        """Fetch the keys, unless that was just done; who comes meanwhile waits for the same fetch.

        Args:
            patience_seconds: how long to wait; the fetch goes on. None is until its end.
        """
        if self._fetching is None:
            if self._tried_at is not None and now - self._tried_at < REFRESH_SECONDS:
                return
            self._tried_at = now
            self._fetching = self._supervisor.spawn(self._fetch(), "jwks")
            self._fetching.add_done_callback(self._fetched)
        await asyncio.wait({self._fetching}, timeout=patience_seconds)

    def _fetched(self, _task: asyncio.Task[None]) -> None:
        self._fetching = None

    async def _fetch(self) -> None:
        try:
            keys = _usable(await self._download())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self._log.warning("jwks_not_fetched", reason=f"{type(error).__name__}: {error}"[:500])
            return
        self._keys = keys
        self._fetched_at = self._clock.monotonic()

    async def _download(self) -> bytes:
        """The key set's bytes. A connection each time: it is one in ten minutes."""
        timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
        async with (
            aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as http,
            # Where a redirect leads is not what the operator wrote down.
            http.get(self._config.jwks_url, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise ValueError(f"status {response.status}")
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise ValueError(f"over {MAX_BYTES} bytes")
            return bytes(body)


def _usable(body: bytes) -> dict[str, _Key]:
    """The keys of a set that we may verify with, by their ids. Raises: ValueError where it is none."""
    match orjson.loads(body):
        case {"keys": [*entries]} if len(entries) <= MAX_KEYS:
            pass
        case _:
            raise ValueError(f"not a key set of at most {MAX_KEYS} keys")
    keys: dict[str, _Key] = {}
    for entry in entries:
        match entry:
            case {"kid": str(kid), "kty": "RSA"}:
                algorithm = "RS256"
            case {"kid": str(kid), "kty": "EC", "crv": "P-256"}:
                algorithm = "ES256"
            case _:
                continue
        if entry.get("use", "sig") != "sig" or entry.get("alg", algorithm) != algorithm or "d" in entry:
            continue
        try:
            key = jwt.PyJWK(entry, algorithm).key
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
        if algorithm == "RS256" and key.key_size < MIN_RSA_BITS:
            continue
        keys[kid] = (algorithm, key)
    return keys
