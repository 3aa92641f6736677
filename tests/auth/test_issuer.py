"""An external issuer: whose tokens are taken, with which keys, and what fetching those may cost."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
import structlog
from cryptography.hazmat.primitives import serialization
from pydantic import ValidationError

from chatserver.auth.issuer import FETCH_SECONDS, MAX_BYTES, MAX_KEYS, REFRESH_SECONDS, STALE_SECONDS, ExternalIssuer
from chatserver.auth.tokens import Token, unverified
from chatserver.config import IssuerConfig
from chatserver.errors import ChatServerError, Unauthorized, Unavailable
from chatserver.tasks import Supervisor
from tests.auth.clock import NOW, SetClock
from tests.auth.jwks import AUDIENCE, EC, EC_384, ISSUER, RSA, SMALL_RSA, Published, claims, public, token
from tests.auth.test_tokens import signed


class Reader:
    """An ExternalIssuer over the published keys, with a clock that can be moved."""

    def __init__(self, published: Published) -> None:
        self.published = published
        self.clock = SetClock()
        self.crashes: list[BaseException] = []
        self.supervisor = Supervisor("test", lambda _, error: self.crashes.append(error))
        self.use()

    def use(self, **config: Any) -> None:
        self.issuer = ExternalIssuer(
            self.published.config(**config),
            self.clock,
            self.supervisor,
            structlog.wrap_logger(structlog.ReturnLogger()),
        )

    async def read(self, text: str) -> Token:
        header, _ = unverified(text)
        return await self.issuer.read(text, header)

    async def refused(self, text: str) -> str:
        with pytest.raises(ChatServerError) as error:
            await self.read(text)
        return error.value.narrow_code


@pytest.fixture
async def reader(published: Published) -> AsyncIterator[Reader]:
    made = Reader(published)
    yield made
    await made.supervisor.close()
    assert made.crashes == []


async def test_tokens_of_both_key_types_are_taken(reader: Reader) -> None:
    """The user and the tenant are what the configured claims say; scopes of outside count for nothing."""
    reader.use(tenant_claim="org", user_claim="email")

    by_rsa = await reader.read(token(scopes=["admin"], scope="admin"))
    by_ec = await reader.read(token(EC, "ec", "ES256"))

    for read in (by_rsa, by_ec):
        assert read.tenant == "acme"
        assert read.user_id == "ext:ann@example.org"
        assert read.username == "ann@example.org"
        assert read.scopes == frozenset()
        assert read.expires_at == NOW + 60
    assert by_rsa.token_id != by_ec.token_id
    assert reader.published.asked == 1


async def test_without_a_tenant_claim_all_users_are_in_the_configured_tenant(reader: Reader) -> None:
    """What the token says of tenants is not looked at then."""
    assert (await reader.read(token())).tenant == "external"
    reader.use(tenant="partners")
    assert (await reader.read(token(tenant="public"))).tenant == "partners"


_PEM = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
_SECRET = base64.urlsafe_b64encode(b"k" * 32).rstrip(b"=").decode()

ATTACKS: dict[str, str] = {
    "no algorithm": signed(claims(), header={"alg": "none", "kid": "rsa"}),
    "the public key as a secret": signed(claims(), key=_PEM, header={"alg": "HS256", "kid": "rsa"}),
    "the published secret": signed(claims(), key=b"k" * 32, header={"alg": "HS256", "kid": "secret"}),
    "another algorithm of the same key": token(algorithm="RS512"),
    "PSS instead of PKCS1": token(algorithm="PS256"),
    "one key's id, the other's signature": token(EC, "rsa", "ES256"),
    "the other way round": token(RSA, "ec", "RS256"),
    "an id of nobody": token(kid="unknown"),
    "no key id": token(kid=None),
    "a small key": token(SMALL_RSA, "small"),
    "another curve": token(EC_384, "ec384", "ES384"),
    "a key for encryption": token(RSA, "encryption"),
    "wrong audience": token(aud="another-server"),
    "another audience beside a wrong one": token(aud=["another", "third"]),
    "wrong issuer": token(iss="https://login.example.evil"),
    "our own issuer": token(iss="chatserver"),
    "no audience": token(aud=None),
    "no exp": token(exp=None),
    "no iat": token(iat=None),
    "no sub": token(sub=None),
    "future nbf": token(nbf=int(NOW) + 3600),
    "issued in the future": token(iat=int(NOW) + 3600),
    "empty sub": token(sub=""),
    "a sub that is too long": token(sub="x" * 256),
    "a sub that does not show": token(sub="a\u202eb"),
    "a sub that is half a character": token(sub="\ud800"),
}


@pytest.mark.parametrize("text", ATTACKS.values(), ids=ATTACKS)
async def test_a_bent_token_is_refused(text: str, reader: Reader) -> None:
    """With keys in the set that are no good for this, which its tokens would have to choose."""
    reader.published.keys += [
        {"kty": "oct", "kid": "secret", "k": _SECRET, "alg": "HS256"},
        public(SMALL_RSA, "small"),
        public(EC_384, "ec384"),
        public(RSA, "encryption", use="enc"),
    ]

    assert await reader.refused(text) == "token_invalid"
    assert await reader.read(token())


async def test_an_integer_sub_is_refused(reader: Reader) -> None:
    """Whatever claim names the user; the library that makes tokens here would not even write it."""
    reader.use(user_claim="email")
    text = _by_rsa(claims(sub=17))

    assert await reader.refused(text) == "token_invalid"


@pytest.mark.parametrize("tenant", [None, 7, "", "a/b", "a:b", "a b", "x" * 65, "../x", ["acme"]], ids=repr)
async def test_a_tenant_that_is_none_is_refused(tenant: Any, reader: Reader) -> None:
    """It is part of every key: nobody falls into some tenant because the claim is missing."""
    reader.use(tenant_claim="org")

    assert await reader.refused(token(org=tenant)) == "token_invalid"


async def test_an_expired_token_says_so(reader: Reader) -> None:
    """So that a page knows to send its user to the login."""
    text = token()
    assert await reader.read(text)
    reader.clock.at = NOW + 60

    assert await reader.refused(text) == "token_expired"


async def test_a_new_key_is_found_when_its_first_token_comes(reader: Reader) -> None:
    """Rotation needs no restart; and the key that was taken out is good no longer."""
    await reader.read(token())
    reader.clock.at += REFRESH_SECONDS
    reader.published.keys = [public(EC, "new")]

    assert await reader.read(token(EC, "new", "ES256"))

    assert reader.published.asked == 2
    assert await reader.refused(token()) == "token_invalid"


async def test_a_withdrawn_key_is_refused_when_the_cache_is_old(reader: Reader) -> None:
    """`keys_cache_seconds` after the last look."""
    await reader.read(token())
    reader.published.keys = [public(EC, "ec")]
    reader.clock.at += 601

    assert await reader.refused(token(iat=int(NOW), exp=int(NOW) + 9999)) == "token_invalid"


async def test_unknown_keys_do_not_make_a_flood_of_fetches(reader: Reader) -> None:
    """A thousand made-up ids in half a minute are one question to the issuer."""
    await reader.read(token())
    reader.clock.at += REFRESH_SECONDS

    for number in range(1000):
        assert await reader.refused(token(EC, f"made-up-{number}", "ES256")) == "token_invalid"

    assert reader.published.asked == 2


async def test_requests_that_come_together_wait_for_one_fetch(reader: Reader) -> None:
    """And one of them that goes away leaves the others theirs."""
    readings = [asyncio.ensure_future(reader.read(token())) for _ in range(20)]
    await asyncio.sleep(0)
    readings[0].cancel()

    results = await asyncio.gather(*readings, return_exceptions=True)

    assert isinstance(results[0], asyncio.CancelledError)
    assert all(isinstance(r, Token) for r in results[1:])
    assert reader.published.asked == 1


BAD_ANSWERS: dict[str, dict[str, Any]] = {
    "an error": {"status": 500},
    "a redirect": {"status": 302},
    "no JSON": {"body": b"<html>"},
    "no key set": {"body": b"[]"},
    "keys that are no list": {"body": b'{"keys": {}}'},
    "too many bytes": {"body": b" " * (MAX_BYTES + 1)},
    "too many keys": {"keys": [{}] * (MAX_KEYS + 1)},
}


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
async def test_a_bad_answer_is_no_key_set(answer: dict[str, Any], reader: Reader) -> None:
    """Without any keys, nobody can be told to be wrong: it is the server that cannot answer now."""
    for name, value in answer.items():
        setattr(reader.published, name, value)

    assert await reader.refused(token()) == "issuer_unavailable"


@pytest.mark.parametrize(
    "entry",
    [
        None,
        7,
        {},
        {"kid": 5, "kty": "RSA"},
        {"kid": "x", "kty": "RSA"},
        {"kid": "x", "kty": "RSA", "n": "!", "e": 3},
        {"kid": "x", "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kid": "x", "kty": "EC", "crv": ["P-256"]},
    ],
    ids=repr,
)
async def test_a_broken_key_takes_no_other_along(entry: Any, reader: Reader) -> None:
    """Key sets of big issuers hold all kinds."""
    reader.published.keys.insert(0, entry)

    assert await reader.read(token())


async def test_keys_outlive_an_issuer_that_is_away(reader: Reader) -> None:
    """For an hour; then it is better to say so."""
    late = token(exp=int(NOW) + 99999)
    await reader.read(late)
    reader.published.status = 500

    reader.clock.at += 600 + STALE_SECONDS
    assert await reader.read(late)
    reader.clock.at += 1
    assert await reader.refused(late) == "issuer_unavailable"

    reader.published.status = 200
    reader.clock.at += REFRESH_SECONDS
    assert await reader.read(late)


async def test_an_issuer_that_hangs_holds_up_nobody_whose_key_is_known(reader: Reader) -> None:
    """Its users go on at once with the key that there is; when it answers at last, what it says counts."""
    late = token(exp=int(NOW) + 99999)
    await reader.read(late)
    reader.clock.at += 601
    reader.published.answering = asyncio.Event()
    reader.published.keys = [public(EC, "ec")]

    async with asyncio.timeout(FETCH_SECONDS / 2):
        assert all(await asyncio.gather(*[reader.read(late) for _ in range(20)]))
    assert reader.published.asked == 2

    reader.published.answering.set()
    assert await reader.read(token(EC, "ec", "ES256", exp=int(NOW) + 99999))
    assert await reader.refused(late) == "token_invalid"


async def test_an_issuer_that_cannot_be_reached_is_a_temporary_error(reader: Reader) -> None:
    """Nothing listens at the address."""
    reader.use(jwks_url="http://127.0.0.1:9/keys")

    with pytest.raises(Unavailable):
        await reader.read(token())


async def test_a_second_form_of_the_same_signature_is_the_same_token(reader: Reader) -> None:
    """An ECDSA signature (r, s) is as good as (r, -s): revoking must not depend on which one is sent."""
    text = token(EC, "ec", "ES256")
    body, _, signature = text.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    other = raw[:32] + (order - int.from_bytes(raw[32:])).to_bytes(32)
    twin = f"{body}.{base64.urlsafe_b64encode(other).rstrip(b'=').decode()}"

    assert twin != text
    assert (await reader.read(twin)).token_id == (await reader.read(text)).token_id


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": "chatserver"},
        {"issuer": ""},
        {"audience": ""},
        {"jwks_url": "http://login.example/keys"},
        {"jwks_url": "file:///etc/passwd"},
        {"jwks_url": "https://"},
        {"tenant": "a/b"},
    ],
    ids=repr,
)
def test_an_issuer_that_would_be_unsafe_is_refused_at_start(changes: dict[str, Any]) -> None:
    """Keys that come over the open network without TLS are anybody's."""
    good = {"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": "https://login.example/keys"}
    IssuerConfig(**good)

    with pytest.raises(ValidationError):
        IssuerConfig(**good | changes)


async def test_a_token_whose_header_is_strange_is_refused(reader: Reader) -> None:
    """`kid` is anybody's text, or no text at all."""
    for kid in ("../../etc/passwd", "' OR 1=1", "x" * 5000):
        assert await reader.refused(token(kid=kid)) == "token_invalid"
    with pytest.raises(Unauthorized):
        await reader.read(signed(claims(), header={"alg": "RS256", "kid": 7}))


def _by_rsa(payload: dict[str, Any]) -> str:
    """Signed without the library's checks of what it signs."""
    return jwt.api_jws.encode(json.dumps(payload).encode(), RSA, algorithm="RS256", headers={"kid": "rsa"})
