"""Access tokens: JWTs of this installation, HS256 under a key that only it has.

Invariants: `algorithms` is pinned and the key belongs to it, so no header of a token can choose another one; every
token has `exp iat sub iss aud jti`; times are compared with the injected clock. A token that is good here may still be
revoked: chatserver.accounts knows.

Reading is synchronous: some 60 µs of arithmetic and JSON.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt

from chatserver.clock import Clock
from chatserver.errors import Unauthorized
from chatserver.principal import Principal

ISSUER = "chatserver"
AUDIENCE = "chatserver"
ALGORITHM = "HS256"
REQUIRED = ("exp", "iat", "sub", "iss", "aud")
# How far another computer's clock may be ahead; an `exp` has no leeway.
LEEWAY_SECONDS = 30.0
# The last second of the year 9999: beyond it a time cannot be shown.
LAST_TIME = 253402300799

# Times are checked below, with the injected clock.
_OPTIONS: Any = {
    "require": list(REQUIRED),
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "enforce_minimum_key_length": True,
}


@dataclass(frozen=True, slots=True)
class Token:
    """What a good token says.

    `token_id` names it for revocation. `generation` is the user's when it was issued: a later one ends it. None where
    another issuer made it.
    """

    tenant: str
    user_id: str
    username: str
    scopes: frozenset[str]
    token_id: str
    generation: int | None
    expires_at: float

    @property
    def principal(self) -> Principal:
        return Principal(self.tenant, "user", self.user_id, self.scopes)


class TokenSigner:
    """Issues and reads tokens.

    Args:
        key: at least 32 secret bytes.
    """

    def __init__(self, key: bytes, clock: Clock) -> None:
        self._key = key
        self._clock = clock

    def issue(
        self,
        *,
        tenant: str,
        user_id: str,
        username: str,
        scopes: frozenset[str],
        generation: int,
        lifetime_seconds: float,
    ) -> tuple[str, Token]:
        """A fresh token: its text, and what it says."""
        now = self._clock.now()
        token = Token(
            tenant, user_id, username, scopes, self._clock.new_id(), generation, math.floor(now + lifetime_seconds)
        )
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": user_id,
            "iat": math.floor(now),
            "exp": token.expires_at,
            "jti": token.token_id,
            "tenant": tenant,
            "name": username,
            "scopes": sorted(scopes),
            "gen": generation,
        }
        return jwt.encode(claims, self._key, algorithm=ALGORITHM), token

    def read(self, text: str) -> Token:
        """What the token says. Raises: Unauthorized (`token_invalid`, `token_expired`)."""
        claims = decode(text, self._key, ALGORITHM, audience=AUDIENCE, issuer=ISSUER)
        match claims:
            case {
                "sub": str(user_id),
                "jti": str(token_id),
                "tenant": str(tenant),
                "name": str(username),
                "scopes": [*scopes],
                "gen": int(generation),
            }:
                expires_at = check_times(claims, self._clock.now())
                return Token(tenant, user_id, username, frozenset(map(str, scopes)), token_id, generation, expires_at)
        raise invalid()


def decode(text: str, key: Any, algorithm: str, *, audience: str, issuer: str) -> Mapping[str, Any]:
    """The claims of a token whose signature, audience, issuer and required claims are right; times are not looked at.

    Args:
        key: made for `algorithm`, and for no other.
    Raises: Unauthorized (`token_invalid`).
    """
    if not text.isascii():  # a header's bytes arrive as lone surrogates
        raise invalid()
    try:
        claims: Mapping[str, Any] = jwt.decode(
            text, key, algorithms=[algorithm], audience=audience, issuer=issuer, options=_OPTIONS
        )
    except jwt.PyJWTError as error:
        raise invalid() from error
    return claims


def check_times(claims: Mapping[str, Any], now: float) -> float:
    """When the token ends, in seconds since the epoch; it is valid now.

    Raises: Unauthorized (`token_invalid`, `token_expired`).
    """
    expires_at = _time(claims["exp"])
    if _time(claims["iat"]) > now + LEEWAY_SECONDS or _time(claims.get("nbf", 0)) > now + LEEWAY_SECONDS:
        raise invalid()
    if expires_at <= now:
        raise Unauthorized("the token has expired; log in again", code="token_expired")
    return expires_at


def unverified(text: str) -> tuple[Mapping[str, Any], str | None]:
    """Header and issuer of a token as it claims them: only to choose the key that it is then checked with.

    Raises: Unauthorized (`token_invalid`).
    """
    if not text.isascii():
        raise invalid()
    try:
        parts = jwt.decode_complete(text, options={"verify_signature": False})
    except jwt.PyJWTError as error:
        raise invalid() from error
    issuer = parts["payload"].get("iss")
    return parts["header"], issuer if isinstance(issuer, str) else None


def invalid() -> Unauthorized:
    """The one answer to every token that is not good: what was wrong with it is its forger's to find out."""
    return Unauthorized("the token is not valid here", code="token_invalid")


def _time(value: Any) -> float:
    """A NumericDate (RFC 7519 §2)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LAST_TIME:
        raise invalid()
    return float(value)
