"""What somebody without a login tries first: headers that cost the server work, and pages that act for others."""

from __future__ import annotations

import aiohttp.web_request
import pytest
from aiohttp.test_utils import make_mocked_request
from pydantic import ValidationError

from chatserver.api.reading import cookie_of
from chatserver.config import Settings
from tests.api.conftest import Api, Serve
from tests.api.people import Browser, visitor


async def test_of_the_cookies_of_a_request_only_those_that_count_are_read(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody can send 16 KB of them with each request; making objects of all took 10 ms of everybody's time."""

    def parsed(_header: str) -> None:
        raise AssertionError("all cookies are parsed")

    monkeypatch.setattr(aiohttp.web_request, "parse_cookie_header", parsed)
    many = "; ".join(f"c{n}=v" for n in range(1500))
    browser = await visitor(api)
    await browser.register("ann")
    await browser.post("/api/session/create", session_id="mine")
    browser.cookies = {"many": many, **browser.cookies}

    assert (await browser.get("/api/session"))[1]["session_id"] == "mine"
    assert (await browser.get("/api/auth/me"))[1]["username"] == "ann"
    assert (await browser.post("/api/session/refresh"))[0] == 200
    assert (await browser.call("DELETE", "/api/session"))[0] == 200
    assert (await browser.post("/api/auth/logout"))[1] == {"logged_out": True}
    assert (await api.get("/", headers={"Cookie": many}))[0] == 200


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("a=1", "1"),
        ("a=1; b=2", "1"),
        ("b=2;a=1", "1"),
        ("b=2;  a = 1 ", "1"),
        ("a=x.y-z_=; b", "x.y-z_="),
        ("a=", ""),
        ("a=1; a=2", "2"),
        ("aa=1; ba=2; a.=3", None),
        ("b=a=1", None),
        ("a", None),
        ("", None),
        (";;=;a=1;", "1"),
    ],
)
def test_a_cookie_is_found_by_its_name(header: str, value: str | None) -> None:
    """And by nothing that only looks like it."""
    assert cookie_of(make_mocked_request("GET", "/", headers={"Cookie": header}), "a") == value


async def test_an_unencrypted_page_of_the_same_name_cannot_act_for_an_encrypted_one(serve: Serve) -> None:
    """Its author may be whoever sits on the line. `https:` of that name is our own page."""
    api = await serve(trusted_proxies=["127.0.0.1"])
    browser = Browser(api)
    await browser.register("ann")
    name = api.server.url.removeprefix("http://")

    async def act(scheme: str, forwarded: str | None) -> int:
        headers = {"Origin": f"{scheme}://{name}"} | ({"X-Forwarded-Proto": forwarded} if forwarded else {})
        return (await browser.call("POST", "/api/interrupt", {"session_id": "s"}, **headers))[0]

    assert await act("http", "https") == 403
    assert await act("https", "https") == 200
    assert await act("http", None) == 200
    assert await act("https", None) == 200, "a proxy that does not tell of TLS"


@pytest.mark.parametrize(
    "name", ["chat.example:8080", "https://chat.example", "chat.example/", "[::1]", "*.example", "", "a b"]
)
def test_a_name_that_no_request_can_come_under_is_refused_at_the_start(name: str) -> None:
    """It would shut everybody out, and nothing would say why."""
    with pytest.raises(ValidationError, match="is no name"):
        Settings(allowed_hosts=(name,))


async def test_capitals_do_not_count_in_names_of_hosts(serve: Serve) -> None:
    """As in the Domain Name System."""
    api = await serve(allowed_hosts=("Chat.Example", "2001:db8::A"))
    for host, status in (("CHAT.example:8080", 200), ("[2001:DB8::a]:80", 200), ("other.example", 421)):
        assert (await api.get("/health", headers={"Host": host}))[0] == status
