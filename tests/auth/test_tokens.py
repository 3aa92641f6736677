"""Tokens of this installation: every known way to forge or to bend one is refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from chatserver.auth.tokens import Token, TokenSigner
from chatserver.errors import Unauthorized
from tests.auth.clock import NOW, SetClock

KEY = bytes(range(32))


def signer(now: float = NOW) -> TokenSigner:
    return TokenSigner(KEY, SetClock(now))


def issue(lifetime: float = 60) -> tuple[str, Token]:
    return signer().issue(
        tenant="acme",
        user_id="u1",
        username="ann",
        scopes=frozenset({"admin"}),
        generation=3,
        lifetime_seconds=lifetime,
    )


def claims(**changes: Any) -> dict[str, Any]:
    """Those of a good token, changed; None takes one out."""
    good = jwt.decode(issue()[0], options={"verify_signature": False}) | changes
    return {k: v for k, v in good.items() if v is not None}


def signed(payload: Any, key: bytes = KEY, header: dict[str, Any] | None = None) -> str:
    """A token made by hand: the library would refuse to write some of these."""

    def part(value: Any) -> bytes:
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        return base64.urlsafe_b64encode(raw).rstrip(b"=")

    text = part(header or {"alg": "HS256", "typ": "JWT"}) + b"." + part(payload)
    return (text + b"." + part(hmac.new(key, text, hashlib.sha256).digest())).decode()


def refused(text: str, now: float = NOW) -> str:
    with pytest.raises(Unauthorized) as error:
        signer(now).read(text)
    return error.value.narrow_code


def test_a_token_says_what_it_was_issued_for() -> None:
    """Tenant, user, name, scopes, generation, and when it ends."""
    text, token = issue()

    assert signer().read(text) == token
    assert token.principal.owner == "user:u1"
    assert token.principal.tenant == "acme"
    assert token.expires_at == NOW + 60
    by_hand = signed(jwt.decode(text, options={"verify_signature": False}))
    assert signer().read(by_hand) == token, "the tokens made by hand here are good but for what is bent in them"


def test_a_token_ends_at_its_time() -> None:
    """To the second, without leeway: the clock is our own."""
    text, token = issue()

    assert signer(token.expires_at - 0.1).read(text)
    assert refused(text, token.expires_at) == "token_expired"


_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
_PUBLIC_PEM = _RSA.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)

ATTACKS: dict[str, str] = {
    "no algorithm": signed(claims(), header={"alg": "none"}),
    "no algorithm, no signature": signed(claims(), header={"alg": "none"}).rpartition(".")[0] + ".",
    "no algorithm in capitals": signed(claims(), header={"alg": "NONE"}),
    "no header": signed(claims(), header={"typ": "JWT"}),
    "another HMAC": signed(claims(), header={"alg": "HS384"}),
    "signed by RSA": jwt.encode(claims(), _RSA, algorithm="RS256"),
    "a public key as secret": signed(claims(), key=_PUBLIC_PEM),
    "an empty key": signed(claims(), key=b""),
    "another key": signed(claims(), key=bytes(32)),
    "a key of its own in the header": signed(
        claims(), key=b"k" * 32, header={"alg": "HS256", "jwk": {"kty": "oct", "k": "a2trawtra2trawtra2traw"}}
    ),
    "a critical extension": signed(claims(), header={"alg": "HS256", "crit": ["exp"], "exp": 1}),
    "unencoded payload": signed(claims(), header={"alg": "HS256", "b64": False, "crit": ["b64"]}),
    "wrong audience": signed(claims(aud="other")),
    "wrong issuer": signed(claims(iss="https://login.example")),
    "issuer as a list": signed(claims(iss=["chatserver"])),
    "no audience": signed(claims(aud=None)),
    "no issuer": signed(claims(iss=None)),
    "no exp": signed(claims(exp=None)),
    "no iat": signed(claims(iat=None)),
    "no sub": signed(claims(sub=None)),
    "no jti": signed(claims(jti=None)),
    "no tenant": signed(claims(tenant=None)),
    "integer sub": signed(claims(sub=17)),
    "exp as text": signed(claims(exp="9999999999")),
    "exp true": signed(claims(exp=True)),
    "exp beyond all time": signed(claims(exp=10**400)),
    "exp not a number": signed(json.dumps(claims()).replace(str(int(NOW) + 60), "NaN").encode()),
    "exp infinite": signed(json.dumps(claims()).replace(str(int(NOW) + 60), "Infinity").encode()),
    "future nbf": signed(claims(nbf=NOW + 3600)),
    "nbf as text": signed(claims(nbf="0")),
    "issued in the future": signed(claims(iat=NOW + 3600)),
    "a payload that is no object": signed([1, 2]),
    "a payload that is no JSON": signed(b"\xff\xfe"),
    "a payload of a thousand levels": signed(b"[" * 100_000),
    "empty": "",
    "dots": "..",
    "not ASCII": "ü.ü.ü",
    "a byte that is no UTF-8": "a.b.\udcff",
    "cut off": issue()[0][:-10],
    "encrypted": "a.b.c.d.e",
}


@pytest.mark.parametrize("text", ATTACKS.values(), ids=ATTACKS)
def test_a_bent_token_is_refused(text: str) -> None:
    """All with the one code that tells a forger nothing."""
    assert refused(text) == "token_invalid"


@given(st.data())
def test_a_token_with_a_changed_character_is_refused(data: st.DataObject) -> None:
    """Whichever of its characters it is; the last one of a part may carry bits that do not count."""
    text = issue()[0]
    at = data.draw(st.integers(0, len(text) - 1))
    char = data.draw(st.sampled_from("ABCDEFabcdef0123456789-_.=+/ ~"))
    changed = text[:at] + char + text[at + 1 :]
    if changed == text:
        return
    try:
        assert signer().read(changed) == signer().read(text)
    except Unauthorized:
        return
    assert at == len(text) - 1, "only the spare bits of the signature's last character"


@given(st.text() | st.binary().map(lambda b: b.decode("utf-8", "surrogateescape")))
def test_any_text_is_read_or_refused(text: str) -> None:
    """What comes in a header is anybody's: nothing else than a refusal may come of it."""
    with pytest.raises(Unauthorized):
        signer().read(text)


@given(
    st.dictionaries(
        st.sampled_from(["iss", "aud", "sub", "exp", "iat", "nbf", "jti", "tenant", "name", "scopes", "gen"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
            max_leaves=4,
        ),
    )
)
def test_claims_of_any_kind_are_read_or_refused(changes: dict[str, Any]) -> None:
    """Even under the right key."""
    try:
        token = signer().read(signed(claims() | changes))
    except Unauthorized:
        return
    assert isinstance(token.user_id, str)
    assert token.expires_at > NOW
