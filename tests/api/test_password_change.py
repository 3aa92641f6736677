"""`POST /api/auth/password`: a user changes their own password, and whoever knew the old one is out."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from chatserver.auth.passwords import Passwords, Verified
from tests.api.conftest import Api, Serve
from tests.api.people import PASSWORD, Browser, add_user, bearer, disable_user, visitor
from tests.api.test_stream_ends import _reasons, _still_open, _streams
from tests.auth.jwks import Published, token

NEW = "another horse battery"
CHANGE = {"current_password": PASSWORD, "new_password": NEW}


async def change(api: Api, headers: dict[str, str], **changed: Any) -> tuple[int, Any, dict[str, str]]:
    """Ask for it as a program does."""
    return await api.call("POST", "/api/auth/password", json=CHANGE | changed, headers=headers)


async def login_status(api: Api, password: str, username: str = "ann") -> int:
    """What a login with that password gets."""
    return (await api.post("/api/auth/login", username=username, password=password))[0]


async def test_a_user_changes_the_password_and_goes_on(api: Api) -> None:
    """In the page: the cookie is a new one, the sessions stay, the old password is none any more."""
    browser = await visitor(api)
    before = await browser.register("ann")
    await browser.post("/api/chat", session_id="s", message="/say hello")

    status, answer, _ = await browser.post("/api/auth/password", **CHANGE)

    assert status == 200
    assert (answer["user_id"], answer["username"], answer["kind"]) == (before["user_id"], "ann", "user")
    assert browser.cookies["chatserver_token"] == answer["token"] != before["token"]
    assert (await browser.get("/api/state?session_id=s"))[0] == 200
    assert await login_status(api, PASSWORD) == 401
    assert await login_status(api, NEW) == 200


async def test_a_new_password_ends_every_other_login_and_its_streams(api: Api) -> None:
    """Also the token that the request came with, which may have been copied: in its place comes a new one. Of somebody
    of the same name in another tenant, nothing ends."""
    await Browser(api).register("ann")
    await add_user(api, "acme", "ann")
    here, there, other = await bearer(api, "ann"), await bearer(api, "ann"), await bearer(api, "ann", "acme")
    async with _streams(api, here) as mine, _streams(api, there) as copies, _streams(api, other) as others:
        status, answer, headers = await change(api, here)

        assert status == 200
        assert "Set-Cookie" not in headers, "a program has no use for it, and a browser's may be another person's"
        assert await _reasons(mine + copies) == ["signed_out"] * 6
        assert await _still_open(others, api, other)
    for old in (here, there):
        assert (await api.call("GET", "/api/state", headers=old))[1]["code"] == "token_revoked"
    new = {"Authorization": f"Bearer {answer['token']}"}
    assert (await api.call("GET", "/api/auth/me", headers=new))[1]["username"] == "ann"
    async with _streams(api, new) as streams:
        assert await _still_open(streams, api, new)
    assert (await change(api, new, current_password=NEW, new_password=PASSWORD))[0] == 200


async def test_a_wrong_current_password_changes_nothing_and_is_slowed_down_like_a_login(serve: Serve) -> None:
    """Whoever sits down at an open browser does not guess any faster than at the door; and what they tried here, they
    cannot try there."""
    api = await serve(login_attempts_per_minute=4)
    await Browser(api).register("ann")
    headers = await bearer(api, "ann")  # the first of four
    for _ in range(3):
        status, problem, _ = await change(api, headers, current_password="wrong")
        assert (status, problem["code"]) == (403, "wrong_password")
    status, problem, answered = await change(api, headers)

    assert (status, problem["code"], answered["RateLimit-Limit"]) == (429, "logins_limited", "4")
    assert await login_status(api, PASSWORD) == 429
    assert (await api.call("GET", "/api/state", headers=headers))[0] == 200
    user = await api.server.services.accounts._store.find_user("public", "ann")
    assert user is not None
    assert user.generation == 0


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (CHANGE | {"new_password": "short"}, 422, "weak_password"),
        (CHANGE | {"new_password": " " * 20}, 422, "weak_password"),
        (CHANGE | {"new_password": "x" * 257}, 422, "weak_password"),
        ({"new_password": NEW}, 422, "invalid_fields"),
        (CHANGE | {"username": "bob"}, 422, "invalid_fields"),
        (CHANGE | {"tenant": "acme"}, 422, "invalid_fields"),
    ],
    ids=repr,
)
async def test_what_cannot_be_a_change_is_refused(body: dict[str, Any], status: int, code: str, api: Api) -> None:
    """Nobody changes somebody else's; the field that is wrong is named; and no try is counted."""
    await Browser(api).register("ann")
    headers = await bearer(api, "ann")

    answer = await api.call("POST", "/api/auth/password", json=body, headers=headers)

    assert (answer[0], answer[1]["code"]) == (status, code)
    if code == "weak_password":
        assert answer[1]["errors"][0]["loc"] == ["new_password"]
    assert await login_status(api, PASSWORD) == 200


async def test_only_a_login_made_here_has_a_password_to_change(serve: Serve, published: Published) -> None:
    """Not a visitor, not nobody, and not a user of an issuer, whatever name it gives them."""
    api = await serve(issuer=published.config())
    await Browser(api).register("ann")
    now = int(time.time())
    external = {"Authorization": f"Bearer {token(iat=now, exp=now + 600)}"}

    assert (await (await visitor(api)).post("/api/auth/password", **CHANGE))[1]["code"] == "login_required"
    assert (await change(api, {}))[1]["code"] == "login_required"
    status, problem, _ = await change(api, external)
    assert (status, problem["code"]) == (403, "no_password")
    assert await login_status(api, PASSWORD) == 200


async def test_another_site_cannot_change_a_password(api: Api) -> None:
    """A3, as for every change."""
    browser = Browser(api)
    await browser.register("ann")
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {}):
        cookie = {"Cookie": browser.headers["Cookie"]}
        status, problem, _ = await change(api, cookie | headers)
        assert (status, problem["code"]) == (403, "cross_site")


async def test_of_two_changes_at_once_one_counts(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both knew the password. The one that comes second is refused: it may be the thief's, and the first one its
    owner's way of shutting the thief out. The same with the operator's command."""
    await Browser(api).register("ann")
    one, two = await bearer(api, "ann"), await bearer(api, "ann")
    both, checked = asyncio.Event(), 0
    verify = Passwords.verify

    async def together(self: Passwords, stored: str | None, password: str) -> Verified:
        nonlocal checked
        found = await verify(self, stored, password)
        checked += 1
        if checked == 2:
            both.set()
        await both.wait()
        return found

    monkeypatch.setattr(Passwords, "verify", together)
    async with asyncio.timeout(60):
        answers = await asyncio.gather(change(api, one, new_password="first new one"), change(api, two))

    assert sorted(status for status, _, _ in answers) == [200, 403]
    (refused,) = [problem for status, problem, _ in answers if status == 403]
    assert refused["code"] == "wrong_password"


async def test_who_is_shut_out_while_changing_the_password_stays_out(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """No fresh login comes of it."""
    await Browser(api).register("ann")
    headers = await bearer(api, "ann")
    verify = Passwords.verify

    async def meanwhile(self: Passwords, stored: str | None, password: str) -> Verified:
        await disable_user(api, "public", "ann")
        return await verify(self, stored, password)

    monkeypatch.setattr(Passwords, "verify", meanwhile)

    status, problem, _ = await change(api, headers)

    assert (status, problem["code"]) == (403, "wrong_password")
    assert await login_status(api, NEW) == 401


async def test_no_password_is_logged_or_told(api: Api) -> None:
    """Neither the old one nor the new one, whether it works or not."""
    await Browser(api).register("ann")
    headers = await bearer(api, "ann")
    said = [str(await change(api, headers, current_password="canary-wrong", new_password="canary-new-1"))]
    said.append(str(await change(api, headers, new_password=["canary-new-2"])))
    said.append(str(await change(api, headers, new_password="canary-new-3")))
    for text in (*said, api.log.getvalue()):
        assert "canary" not in text
        assert PASSWORD not in text
    assert "password_changed" in api.log.getvalue()
