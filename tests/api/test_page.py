"""The page's files and the visitor's cookie."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path

import pytest

from chatserver import app
from tests.api.conftest import Api, Serve


@pytest.fixture
async def api(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Api:
    """A server with a built page of a few files, one of them a link to what is not the page's."""
    page = tmp_path / "page"
    (page / "assets").mkdir(parents=True)
    (page / "index.html").write_text("<!doctype html><title>page</title>")
    (page / "assets" / "a.js").write_text("0")
    (page / "assets" / "b.js").write_text("1" * 2000)
    (page / "assets" / "b.js.gz").write_bytes(gzip.compress(b"1" * 2000, mtime=0))
    (page / "assets" / "b.js.br").write_bytes(b"as if compressed")
    (page / "module.js").write_text("2")
    (tmp_path / "secret.txt").write_text("of another folder")
    (page / "link.txt").symlink_to(tmp_path / "secret.txt")
    monkeypatch.setattr(app, "shipped", lambda wheel_name, checkout_name: page)
    return await serve()


async def test_a_new_browser_gets_a_cookie_that_no_cache_keeps(api: Api) -> None:
    """Two people behind one cache must not become the same visitor."""
    _, _, headers = await api.get("/")
    cookie, _, attributes = headers["Set-Cookie"].partition(";")
    assert "HttpOnly" in attributes
    assert "SameSite=Lax" in attributes
    assert headers["Cache-Control"] == "no-store"
    _, _, headers = await api.get("/", headers={"Cookie": cookie})
    assert "Set-Cookie" not in headers
    assert headers["Cache-Control"] == "no-cache"


async def test_a_forged_cookie_is_replaced(api: Api) -> None:
    """A wrong signature is no visitor at all."""
    _, _, headers = await api.get("/", headers={"Cookie": f"chatserver_visitor={'0' * 32}.forged"})
    assert headers["Set-Cookie"].startswith("chatserver_visitor=")


async def test_the_page_tells_no_other_site_its_address(api: Api) -> None:
    """The session's id stands in it."""
    _, _, headers = await api.get("/?session=mine")
    assert headers["Referrer-Policy"] == "same-origin"
    assert "default-src 'self'" in headers["Content-Security-Policy"]


async def test_assets_are_cached_for_ever(api: Api) -> None:
    """Their names hold their content's hash."""
    status, _, headers = await api.get("/assets/a.js")
    assert (status, headers["Content-Type"]) == (200, "text/javascript")
    assert "immutable" in headers["Cache-Control"]


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip, deflate, br", "br"),
        ("br;q=0, gzip", "gzip"),
        ("gzip;q=0.5", "gzip"),
        ("identity", None),
        ("gzip; q=0", None),
        ("zstd", None),
        ("", None),
    ],
)
async def test_an_asset_comes_in_the_smallest_form_that_the_client_takes(
    api: Api, accepted: str, coding: str | None
) -> None:
    """It was compressed when the page was built."""
    asked = {"Accept-Encoding": accepted}
    async with api.http.get(api.url("/assets/b.js"), headers=asked, auto_decompress=False) as response:
        assert (response.status, response.headers.get("Content-Encoding")) == (200, coding)
        assert response.headers["Content-Type"] == "text/javascript"
        assert response.headers["Vary"] == "Accept-Encoding"
        plain, twin = b"1" * 2000, b"as if compressed"
        assert await response.read() == {"br": twin, "gzip": gzip.compress(plain, mtime=0), None: plain}[coding]


async def test_a_compressed_twin_has_no_address_of_its_own(api: Api) -> None:
    """Under one it would be sent as what it is not."""
    assert (await api.get("/assets/b.js.gz"))[0] == 404


async def test_a_module_without_a_hash_in_its_name_is_asked_for_anew_and_not_sent_twice(api: Api) -> None:
    """An unchanged one is answered without its body."""
    _, _, headers = await api.get("/module.js")
    assert headers["Cache-Control"] == "no-cache"
    status, _, again = await api.get("/module.js", headers={"If-None-Match": headers["Etag"]})
    assert (status, again["Etag"]) == (304, headers["Etag"])


@pytest.mark.parametrize(
    "path",
    [
        b"/link.txt",
        b"/../secret.txt",
        b"/assets/../../secret.txt",
        b"/..%2fsecret.txt",
        b"/assets/..%2f..%2fsecret.txt",
        b"//secret.txt",
        b"/%00",
        b"/%ff%fe",
        b"/assets",
    ],
)
async def test_nothing_outside_the_page_can_be_reached(api: Api, path: bytes) -> None:
    """Files are looked up in a table made at the start, never opened by what a request says."""
    reader, writer = await asyncio.open_connection(api.server.host, api.server.port)
    writer.write(b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n" % path)
    async with asyncio.timeout(60):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.split(b" ")[1] == b"404", answer
    assert b"of another folder" not in answer
