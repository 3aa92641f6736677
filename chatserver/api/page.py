"""The pages: built files from memory, and the visitor's cookie.

Assets have their content's hash in their names, so they are cached for ever; the index never is. Everything is read
once, at start: a page is a few dozen files, and a request then costs a dict lookup. The build has compressed them
beforehand (web/compress.ts); nothing is compressed here.
"""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from chatserver.api.identity import drop_token_cookie, token_of
from chatserver.api.reading import VISITOR_COOKIE, cookie_of, is_secure
from chatserver.api.services import services
from chatserver.errors import Unauthorized, Unavailable

# A page many times ours; more is a wrong folder.
MAX_PAGE_BYTES = 32 << 20
YEAR_SECONDS = 365 * 86400
# Content codings by the suffix of a compressed twin, the smallest first.
CODINGS = {".br": "br", ".gz": "gzip"}

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)

_NOT_BUILT = b"""<!doctype html><html lang="en"><meta charset="utf-8"><title>chatserver</title>
<p>The page is not built. Run <code>make web</code> and start the server again. The API works without it.</p></html>
"""


@dataclass(frozen=True, slots=True)
class Asset:
    """One file as it is served.

    `encoded` are its compressed twins by content coding, the smallest first; `etag` is of the plain body, weak where it
    is sent with a twin.
    """

    body: bytes
    content_type: str
    immutable: bool
    etag: str
    encoded: dict[str, bytes] = field(default_factory=dict)


PAGE: web.AppKey[Mapping[str, Asset]] = web.AppKey("page", Mapping)


def load_page(folder: Path | None) -> dict[str, Asset]:
    """The built page's files by their paths under `/`; empty where it is not built."""
    assets: dict[str, Asset] = {}
    if folder is None or not (folder / "index.html").is_file():
        return assets
    total = 0
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.is_symlink():
            continue
        body = path.read_bytes()
        total += len(body)
        if total > MAX_PAGE_BYTES:
            break
        name = path.relative_to(folder).as_posix()
        content_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
        etag = hashlib.sha256(body).hexdigest()[:16]
        assets[name] = Asset(body, content_type, immutable=name.startswith("assets/"), etag=etag)
    for suffix, coding in CODINGS.items():
        for name in [name for name in assets if name.endswith(suffix)]:
            plain = assets.get(name.removesuffix(suffix))
            if plain is not None:
                plain.encoded[coding] = assets.pop(name).body
    return assets


def _accepted(request: web.Request) -> set[str]:
    """The content codings that the client names and does not refuse (RFC 9110 §12.5.3); `*` is not taken up."""
    accepted = set()
    for part in request.headers.get("Accept-Encoding", "").split(","):
        coding, _, weight = part.partition(";")
        if weight.replace(" ", "").lower() not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            accepted.add(coding.strip().lower())
    return accepted


def _document(request: web.Request, name: str) -> web.Response:
    asset = request.app[PAGE].get(name)
    return web.Response(
        body=asset.body if asset is not None else _NOT_BUILT,
        content_type="text/html",
        charset="utf-8",
        headers={
            "Cache-Control": "no-cache",
            "Content-Security-Policy": CONTENT_SECURITY_POLICY,
            # The session's id stands in the address.
            "Referrer-Policy": "same-origin",
        },
    )


async def operations(request: web.Request) -> web.Response:
    """`GET /admin`: the operations page. Anybody gets it; its numbers are for operators (ops.py)."""
    return _document(request, "admin.html")


async def index(request: web.Request) -> web.Response:
    """`GET /`: the page; a browser without one gets its visitor's cookie."""
    response = _document(request, "index.html")
    try:
        await token_of(request)
    except Unauthorized:
        drop_token_cookie(request, response)  # the login has ended: the page goes on without
        response.headers["Cache-Control"] = "no-store"
    except Unavailable:
        pass  # its issuer is away; whether it is good, the API will say
    app = services(request)
    visitors = app.visitors
    cookie = cookie_of(request, VISITOR_COOKIE)
    if app.settings.auth == "optional" and (cookie is None or visitors.read(cookie) is None):
        response.headers["Cache-Control"] = "no-store"  # a cache between must not give one visitor's cookie to another
        _, value = visitors.new()
        response.set_cookie(
            VISITOR_COOKIE,
            value,
            max_age=YEAR_SECONDS,
            httponly=True,
            samesite="Lax",
            secure=is_secure(request),
            path="/",
        )
    return response


async def asset(request: web.Request) -> web.Response:
    """`GET /{path}`: one of the page's files."""
    found = request.app[PAGE].get(request.match_info["path"])
    if found is None:
        raise web.HTTPNotFound
    coding = next((c for c in found.encoded if c in _accepted(request)), None)
    # Weak: two codings of one file have different bytes and the same meaning.
    etag = f'W/"{found.etag}"'
    headers = {
        "Cache-Control": f"public, max-age={YEAR_SECONDS}, immutable" if found.immutable else "no-cache",
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "ETag": etag,
        "Vary": "Accept-Encoding",
    }
    if etag in request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers=headers)
    if coding is not None:
        headers["Content-Encoding"] = coding
    body = found.body if coding is None else found.encoded[coding]
    return web.Response(body=body, headers=headers | {"Content-Type": found.content_type})
