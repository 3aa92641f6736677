"""An issuer of tokens: real keys, and a real HTTP server that publishes them."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from chatserver.config import IssuerConfig
from tests.auth.clock import NOW

ISSUER = "https://login.example"
AUDIENCE = "our-chatserver"

# Made once: an RSA key takes a moment.
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SMALL_RSA = rsa.generate_private_key(public_exponent=65537, key_size=1024)
EC = ec.generate_private_key(ec.SECP256R1())
EC_384 = ec.generate_private_key(ec.SECP384R1())


def public(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    """A public key as a JWK."""
    maker = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    return json.loads(maker.to_jwk(key.public_key())) | {"kid": kid} | more


def claims(**changes: Any) -> dict[str, Any]:
    """Those of a good token, changed; None takes one out."""
    good = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ann",
        "iat": int(NOW),
        "exp": int(NOW) + 60,
        "org": "acme",
        "email": "ann@example.org",
    }
    return {k: v for k, v in (good | changes).items() if v is not None}


def token(key: Any = RSA, kid: str | None = "rsa", algorithm: str = "RS256", **changes: Any) -> str:
    """A token of the issuer."""
    headers = {} if kid is None else {"kid": kid}
    with warnings.catch_warnings(action="ignore", category=jwt.warnings.InsecureKeyLengthWarning):
        return jwt.encode(claims(**changes), key, algorithm=algorithm, headers=headers)


@dataclass(slots=True)
class Published:
    """What the server answers with, and how often it was asked."""

    keys: list[Any] = field(default_factory=lambda: [public(RSA, "rsa", use="sig", alg="RS256"), public(EC, "ec")])
    status: int = 200
    body: bytes | None = None
    asked: int = 0
    answering: asyncio.Event | None = None
    """Where there is one, answers wait for it."""
    url: str = ""

    async def answer(self, _request: web.Request) -> web.Response:
        self.asked += 1
        if self.answering is not None:
            await self.answering.wait()
        if self.status in (301, 302):
            return web.Response(status=self.status, headers={"Location": "/elsewhere"})
        body = json.dumps({"keys": self.keys}).encode() if self.body is None else self.body
        return web.Response(status=self.status, body=body)

    def config(self, **changes: Any) -> IssuerConfig:
        """Settings for this issuer."""
        return IssuerConfig(**{"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": self.url} | changes)


@asynccontextmanager
async def serving_keys() -> AsyncIterator[Published]:
    """The key server, listening while the block runs."""
    keys = Published()
    app = web.Application()
    app.router.add_get("/keys", keys.answer)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        keys.url = f"http://127.0.0.1:{runner.addresses[0][1]}/keys"
        yield keys
    finally:
        await runner.cleanup()
