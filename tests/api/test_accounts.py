"""Accounts over HTTP (spec A1–A3): register, log in, log out, who am I, and what a browser may not be made to do."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import argon2
import pytest
import structlog

from chatserver import accounts
from chatserver.api.routes import ROUTES
from chatserver.app import start_server
from chatserver.auth.tokens import TokenSigner
from chatserver.auth.visitors import load_key
from chatserver.clock import SystemClock
from chatserver.config import Settings
from chatserver.errors import Unauthorized
from tests.api.conftest import ROOMY, Api, Serve
from tests.api.people import PASSWORD, Browser, add_user, bearer, expired_token, visitor


async def test_a_person_registers_logs_out_and_in_again(api: Api) -> None:
    """The cookie follows; `me` tells at every point who the server takes them for."""
    browser = await visitor(api)
    before = (await browser.get("/api/auth/me"))[1]
    made = await browser.register("Ann")
    during = (await browser.get("/api/auth/me"))[1]
    out = (await browser.post("/api/auth/logout"))[1]
    after = (await browser.get("/api/auth/me"))[1]
    again = await browser.login("ANN")

    assert (before["kind"], before["tenant"], before["username"]) == ("visitor", "public", None)
    assert (before["auth"], before["registration"], before["token_problem"]) == ("optional", True, None)
    assert (during["kind"], during["username"], during["scopes"]) == ("user", "ann", [])
    assert during["user_id"] == made["user_id"] == again["user_id"]
    assert out == {"logged_out": True}
    assert (after["kind"], after["user_id"]) == ("visitor", before["user_id"])


@pytest.mark.parametrize("way", ["logout", "expiry"])
async def test_after_a_login_has_ended_the_browser_goes_on_in_a_new_session(way: str, api: Api) -> None:
    """The cookie of the user's session goes with the token; what the visitor sends then is theirs."""
    browser = await visitor(api)
    await browser.register("ann")
    first = (await browser.post("/api/chat", message="/say hello"))[1]["session_id"]
    if way == "logout":
        await browser.post("/api/auth/logout")
    else:
        browser.cookies["chatserver_token"] = expired_token(api, "ann")
        await browser.get("/")
    assert "session_id" not in browser.cookies

    status, state, _ = await browser.post("/api/chat", message="/say hello")

    assert status == 200
    assert state["session_id"] != first


async def test_a_logout_of_nobody_leaves_the_visitor_their_session(api: Api) -> None:
    """There was no login that the session belonged to."""
    browser = await visitor(api)
    await browser.post("/api/session/create", session_id="mine")
    await browser.post("/api/auth/logout")

    assert browser.cookies["session_id"] == "mine"


async def test_a_login_that_names_two_sessions_does_nothing(api: Api) -> None:
    """Nobody is made, and the visitor keeps what is theirs."""
    browser = await visitor(api)
    await browser.post("/api/chat", session_id="mine", message="/say hello")
    body = {"username": "ann", "password": PASSWORD}

    for path in ("/api/auth/register", "/api/auth/login"):
        status, problem, _ = await browser.call("POST", f"{path}?session_id=mine", body, **{"X-Session-ID": "other"})
        assert (status, problem["code"]) == (400, "session_id_conflict")
        assert "chatserver_token" not in browser.cookies
        assert (await browser.get("/api/state?session_id=mine"))[0] == 200
        if path.endswith("register"):
            await Browser(api).register("ann")


async def test_all_revocations_that_matter_no_more_are_dropped(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: a page at a time, until one is not full."""
    monkeypatch.setattr(accounts, "PAGE", 2)
    api = await serve()
    following = api.server.services.accounts
    store = following._store
    for number in range(7):
        await store.revoke_token("public", "u", f"t{number}", expires_at=1.0)

    looked = asyncio.Event()
    task = asyncio.ensure_future(following.run(looked.set))
    async with asyncio.timeout(60):
        await looked.wait()
    task.cancel()

    left = await store.revocations(after=0, limit=10)
    assert [r.token_id for r in left] == ["t6"]  # the newest stays: whoever follows counts from it


async def test_the_cookie_is_kept_from_scripts_and_other_sites(api: Api, serve: Serve) -> None:
    """And `Secure` where the browser came by TLS, as a trusted proxy tells."""
    browser = Browser(api)
    await browser.register("ann")
    (cookie,) = [c for c in browser.set_cookies if c.startswith("chatserver_token=")]
    proxied = Browser(await serve(trusted_proxies=["127.0.0.1"], database_url=":memory:"))
    tls = {"X-Forwarded-Proto": "https", "Origin": proxied.api.server.url.replace("http:", "https:")}
    await proxied.call("POST", "/api/auth/register", {"username": "ann", "password": PASSWORD}, **tls)

    assert {"HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=604800"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    assert proxied.set_cookies
    assert all("Secure" in c for c in proxied.set_cookies)


async def test_a_login_goes_on_with_a_session_of_the_user(api: Api, serve: Serve) -> None:
    """A1: the one that the browser was in, now the user's; a fresh one where that is somebody else's or there is none.
    Nothing is stored for it, so logging in a hundred times leaves no hundred empty sessions."""
    browser = await visitor(api)
    await browser.post("/api/session/create", session_id="mine")
    await browser.post("/api/chat", session_id="mine", message="/say hello")
    first = await browser.register("ann")
    stranger = Browser(api, {"session_id": "mine"})
    second = await stranger.register("bob")
    current = (await stranger.get("/api/session"))[1]

    assert first["session_id"] == browser.cookies["session_id"] == "mine"
    assert second["session_id"] == stranger.cookies["session_id"] == current["session_id"] != "mine"
    assert (await stranger.get("/api/llm/sessions"))[1]["count"] == 0
    assert (await stranger.post("/api/chat", message="/say hello"))[1]["session_id"] == second["session_id"]

    fixed = await serve(auto_create=False, database_url=":memory:")
    assert (await Browser(fixed).register("ann"))["session_id"] is None


async def test_a_damaged_session_keeps_nobody_from_logging_in(api: Api, tmp_path: Path) -> None:
    """The browser's cookie names it with every request; the user goes on in another one."""
    browser = await visitor(api)
    await browser.post("/api/session/create", session_id="mine")
    for live in api.server.services.manager.live():
        api.server.services.manager.remove(live)
    with sqlite3.connect(tmp_path / "data" / "chatserver.db") as database:
        database.execute("UPDATE sessions SET metadata = '{'")
    database.close()

    assert (await browser.register("ann"))["session_id"] not in (None, "mine")


async def test_a_program_uses_its_token_as_a_bearer(api: Api) -> None:
    """What it makes is the user's; a browser of the same user sees it."""
    browser = Browser(api)
    await browser.register("ann")
    program = await bearer(api, "ann")

    status, _, _ = await api.call(
        "POST", "/api/chat", json={"session_id": "s", "message": "/say hello"}, headers=program
    )

    assert status == 200
    assert (await browser.get("/api/state?session_id=s"))[0] == 200
    assert (await api.get("/api/state?session_id=s"))[0] == 403


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"username": "ann", "password": "short"}, 422, "weak_password"),
        ({"username": "ann", "password": "x" * 257}, 422, "weak_password"),
        ({"username": "a b", "password": PASSWORD}, 422, "invalid_username"),
        ({"username": "", "password": PASSWORD}, 422, "invalid_username"),
        ({"username": "x" * 65, "password": PASSWORD}, 422, "invalid_username"),
        ({"username": "ann"}, 422, "invalid_fields"),
        ({"username": 7, "password": PASSWORD}, 422, "invalid_fields"),
        ({"username": "ann", "password": PASSWORD, "scopes": ["admin"]}, 422, "invalid_fields"),
        ({"username": "ann", "password": PASSWORD, "tenant": "acme"}, 422, "invalid_fields"),
        ({"username": "taken", "password": PASSWORD}, 409, "username_taken"),
        ({"username": "TAKEN", "password": PASSWORD}, 409, "username_taken"),
    ],
    ids=repr,
)
async def test_what_cannot_be_an_account_is_refused(body: dict[str, Any], status: int, code: str, api: Api) -> None:
    """Nobody makes themselves an admin, nor a user of another tenant."""
    await Browser(api).register("taken")

    answer = await api.call("POST", "/api/auth/register", json=body)

    assert (answer[0], answer[1]["code"]) == (status, code)
    assert "Set-Cookie" not in answer[2]


@pytest.mark.parametrize(
    "body",
    [
        {"username": "ann", "password": "wrong password"},
        {"username": "nobody", "password": PASSWORD},
        {"username": "a b", "password": PASSWORD},
        {"username": "", "password": ""},
        {"username": "ann", "password": PASSWORD, "tenant": "acme"},
        {"username": "off", "password": PASSWORD},
        {"username": "off", "password": "wrong password"},
    ],
    ids=repr,
)
async def test_every_wrong_login_gets_the_same_answer_for_the_same_work(
    body: dict[str, Any], api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unknown, wrong, of another tenant, disabled: one hash is checked, and the answer tells nothing."""
    await Browser(api).register("ann")
    await add_user(api, "public", "off")
    store = api.server.services.accounts._store
    off = await store.find_user("public", "off")
    assert off is not None
    await store.set_disabled("public", off.user_id, disabled=True, now=1)
    checked: list[argon2.Parameters] = []
    verify = argon2.PasswordHasher.verify

    def counted(self: argon2.PasswordHasher, stored: str, password: str) -> bool:
        checked.append(argon2.extract_parameters(stored))
        return verify(self, stored, password)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", counted)

    status, answer, headers = await api.call("POST", "/api/auth/login", json=body)

    assert (status, answer["code"]) == (401, "bad_credentials")
    assert answer["detail"] == "the name or the password is wrong"
    assert headers["WWW-Authenticate"] == 'Bearer realm="chatserver"'
    assert [(p.memory_cost, p.time_cost, p.parallelism) for p in checked] == [(64, 1, 1)]


async def test_a_login_with_outdated_parameters_stores_a_new_hash(serve: Serve) -> None:
    """The operator raises the cost: every user's hash follows at their next login."""
    api = await serve()
    await Browser(api).register("ann")
    await api.server.services.accounts._passwords.close()
    stronger = await serve(password_memory_kib=128, data_dir=api.server.services.settings.data_dir.with_name("other"))
    old = await api.server.services.accounts._store.find_user("public", "ann")
    assert old is not None
    await stronger.server.services.accounts._store.add_user(old)

    for _ in range(2):
        await Browser(stronger).login("ann")

    new = await stronger.server.services.accounts._store.find_user("public", "ann")
    assert new is not None
    assert "m=128," in new.password_hash
    assert new.generation == old.generation, "nobody is logged out by it"


async def test_registration_can_be_closed(serve: Serve) -> None:
    """The operator makes the users then; `me` tells the page."""
    api = await serve(registration="closed")
    await add_user(api, "public", "ann")

    status, body, _ = await api.post("/api/auth/register", username="bob", password=PASSWORD)

    assert (status, body["code"]) == (403, "registration_closed")
    assert (await api.get("/api/auth/me"))[1]["registration"] is False
    assert (await Browser(api).login("ann"))["username"] == "ann"


async def test_guessing_at_one_name_is_slowed_down_and_at_others_not(serve: Serve) -> None:
    """429 with the time to wait; capitals are no way around it, and the right password is none either."""
    api = await serve(login_attempts_per_minute=3)
    await Browser(api).register("ann")
    await Browser(api).register("bob")

    for name in ("ann", "Ann", "ANN"):
        assert (await api.post("/api/auth/login", username=name, password="wrong"))[0] == 401
    status, body, headers = await api.post("/api/auth/login", username="ann", password=PASSWORD)

    assert (status, body["code"]) == (429, "logins_limited")
    assert 1 <= int(headers["Retry-After"]) <= 20
    assert headers["RateLimit-Limit"] == "3"
    assert (await api.post("/api/auth/login", username="bob", password=PASSWORD))[0] == 200


async def test_guessing_from_one_address_is_slowed_down(serve: Serve) -> None:
    """A password tried at many names; registrations count too. Another address is not held up."""
    api = await serve(login_attempts_per_address_per_minute=3, trusted_proxies=["127.0.0.1"])

    async def try_from(address: str, path: str, name: str) -> int:
        body = {"username": name, "password": PASSWORD}
        return (await api.call("POST", path, json=body, headers={"X-Forwarded-For": address}))[0]

    assert await try_from("203.0.113.7", "/api/auth/register", "ann") == 201
    assert await try_from("203.0.113.7", "/api/auth/login", "bob") == 401
    assert await try_from("203.0.113.7", "/api/auth/login", "eve") == 401
    assert await try_from("203.0.113.7", "/api/auth/login", "joe") == 429
    assert await try_from("203.0.113.7", "/api/auth/register", "joe") == 429
    assert await try_from("203.0.113.8", "/api/auth/login", "ann") == 200
    # One household has 2^64 addresses.
    for last in range(1, 4):
        assert await try_from(f"2001:db8::{last}", "/api/auth/login", f"n{last}") == 401
    assert await try_from("2001:db8::99", "/api/auth/login", "n99") == 429
    assert await try_from("2001:db8:0:1::1", "/api/auth/login", "n100") == 401


async def _revoked(api: Api) -> str:
    headers = await bearer(api, "ann")
    await api.call("POST", "/api/auth/logout", headers=headers)
    return headers["Authorization"].removeprefix("Bearer ")


@pytest.mark.parametrize("way", ["cookie", "bearer"])
async def test_a_token_that_is_not_good_is_refused_and_never_taken_for_nobody(way: str, api: Api) -> None:
    """Each with its code; the page, the login and `me` still answer."""
    await Browser(api).register("ann")
    bad = {"token_invalid": "x.y.z", "token_expired": expired_token(api, "ann"), "token_revoked": await _revoked(api)}

    for code, token in bad.items():
        headers = {"Authorization": f"Bearer {token}"}
        if way == "cookie":
            headers = {"Cookie": f"chatserver_token={token}", "Origin": api.server.url}
        for method, path in (("GET", "/api/state"), ("POST", "/api/chat"), ("GET", "/api/chat/stream")):
            status, body, answered = await api.call(method, path, headers=headers, json=None)
            assert (status, body["code"]) == (401, code), (method, path)
            assert 'error="invalid_token"' in answered["WWW-Authenticate"]
            assert token not in str(body)
        status, me, _ = await api.call("GET", "/api/auth/me", headers=headers)
        assert (status, me["kind"], me["token_problem"]) == (200, "none", code)
        assert (await api.call("GET", "/", headers=headers))[0] == 200
        assert (await api.call("POST", "/api/auth/logout", headers=headers))[1] == {"logged_out": False}
        login = {"username": "ann", "password": PASSWORD}
        assert (await api.call("POST", "/api/auth/login", json=login, headers=headers))[0] == 200


async def test_the_page_takes_a_token_away_that_is_not_good(api: Api) -> None:
    """Otherwise every request of the browser would be refused until the cookie ends by itself."""
    browser = Browser(api, {"chatserver_token": expired_token(api, "ann")})

    assert (await browser.get("/api/state"))[0] == 401
    await browser.get("/")

    assert "chatserver_token" not in browser.cookies
    assert (await browser.get("/api/state"))[0] == 200


async def test_another_scheme_of_authorization_is_nobodys_token(api: Api) -> None:
    """A proxy's own login in front of us sends `Basic`."""
    assert (await api.call("GET", "/api/state", headers={"Authorization": "Basic eDp5"}))[0] == 200
    assert (await api.call("GET", "/api/state", headers={"Authorization": "Bearer"}))[0] == 401
    assert (await api.call("GET", "/api/state", headers={"Authorization": "bearer x"}))[0] == 401


async def test_where_a_login_is_required_everything_else_waits_for_it(serve: Serve) -> None:
    """All but health, the page and the login: a visitor of earlier days, too."""
    api = await serve(auth="required")
    status, _, headers = await api.get("/")
    assert status == 200
    assert "Set-Cookie" not in headers
    _, cookie = api.server.services.visitors.new()

    for given in ({}, {"Cookie": f"chatserver_visitor={cookie}"}):
        for method, path in (("GET", "/api/state"), ("POST", "/api/chat"), ("GET", "/api/chat/stream?session_id=s")):
            status, body, headers = await api.call(method, path, headers=given)
            assert (status, body["code"]) == (401, "login_required"), path
            assert headers["WWW-Authenticate"] == 'Bearer realm="chatserver"'
        me = (await api.call("GET", "/api/auth/me", headers=given))[1]
        assert (me["kind"], me["auth"]) == ("none", "required")
    assert (await api.get("/health"))[0] == 200
    assert (await api.get("/api/no-such-route"))[0] == 401

    browser = Browser(api)
    await browser.register("ann")
    assert (await browser.get("/api/state"))[0] == 200


async def test_only_the_table_says_what_is_open(serve: Serve) -> None:
    """Where a login is required, each route that is not marked refuses; a new one is guarded by default."""
    api = await serve(auth="required")
    for route in ROUTES:
        if not route.open:
            path = route.path.replace("{", "").replace("}", "")
            status, body, _ = await api.call(route.method, path)
            assert (status, body["code"]) == (401, "login_required"), route
    # Pages, their files, health and numbers are asked for by GET; of the API these alone, the last one looking for
    # operators itself (tests/api/test_metrics.py).
    assert {r.method for r in ROUTES if r.open and not r.path.startswith("/api/")} == {"GET"}
    assert {r.path for r in ROUTES if r.open and r.path.startswith("/api/")} <= {
        "/api/auth/login",
        "/api/auth/logout",
        "/api/auth/me",
        "/api/auth/register",
        "/api/openapi.json",
        "/api/admin/metrics",
    }


# --- what a browser may not be made to do (A3) ---


@pytest.mark.parametrize("path", ["/api/chat", "/api/interrupt", "/api/auth/login", "/api/auth/logout"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=repr,
)
async def test_another_site_cannot_act_for_a_user(path: str, headers: dict[str, str], api: Api) -> None:
    """Nor log them in as somebody else, nor out."""
    browser = Browser(api)
    await browser.register("ann")
    cookie = {"Cookie": browser.headers["Cookie"]}
    body = {"username": "ann", "password": PASSWORD} if "login" in path else {"session_id": "s"}

    status, answer, _ = await api.call("POST", path, json=body, headers=cookie | headers)

    assert (status, answer["code"]) == (403, "cross_site")
    assert (await browser.get("/api/auth/me"))[1]["kind"] == "user"


async def test_a_change_with_the_cookie_has_to_say_where_it_comes_from(api: Api) -> None:
    """A browser always does; a program sends its token as a bearer. Reading needs nothing."""
    browser = Browser(api)
    await browser.register("ann")
    cookie = {"Cookie": browser.headers["Cookie"]}

    status, body, _ = await api.call("POST", "/api/interrupt", headers=cookie)

    assert (status, body["code"]) == (403, "cross_site")
    assert (await api.call("GET", "/api/state", headers=cookie))[0] == 200
    assert (await api.call("POST", "/api/interrupt", headers=cookie | {"Origin": api.server.url}))[0] == 200


async def test_a_form_cannot_be_sent_with_the_cookie(api: Api) -> None:
    """A3: a JSON content type, also where the route would not look at the body."""
    browser = Browser(api)
    await browser.register("ann")

    async with api.http.delete(
        api.url("/api/queue/some-turn?session_id=s"),
        data="x=1",
        headers=browser.headers | {"Content-Type": "text/plain"},
    ) as response:
        assert response.status == 415


# --- secrets ---


async def test_no_secret_is_logged_or_told(api: Api) -> None:
    """Passwords, tokens and keys: in no log line, in no answer but the login's own, in no error; hashes nowhere."""
    password, wrong = "canary-password-4711", "canary-wrong-4711"
    data_dir = api.server.services.settings.data_dir
    browser = await visitor(api)
    token = (await browser.register("ann", password))["token"]
    said: list[str] = []
    for method, path, body in (
        ("POST", "/api/auth/login", {"username": "ann", "password": wrong}),
        ("POST", "/api/auth/login", {"username": "ann", "password": [wrong]}),
        ("POST", "/api/auth/login", {"username": "ann", "password": wrong, wrong: wrong}),
        ("POST", "/api/auth/register", {"username": "ann", "password": password}),
        ("POST", "/api/auth/register", {"username": "bob", "password": "x" * 4097}),
        ("GET", "/api/auth/me", None),
        ("GET", "/api/state?session_id=s", None),
        ("POST", "/api/auth/logout", None),
        ("GET", f"/api/state?session_id={token}", None),
    ):
        _, answer, headers = await browser.call(method, path, body)
        said.append(f"{answer} {headers}")
    text = "".join(said)
    await api.get("/api/state", headers={"Authorization": f"Bearer {token}x"})
    stored = await api.server.services.accounts._store.find_user("public", "ann")
    assert stored is not None

    secrets = [password, stored.password_hash, token.rpartition(".")[2]]
    secrets += [(data_dir / name).read_bytes().hex() for name in ("token.key", "secret.key")]
    for secret in secrets:
        assert secret not in api.log.getvalue()
        assert secret not in text
    assert wrong not in api.log.getvalue()


def test_the_token_key_is_the_installations_own(tmp_path: Path) -> None:
    """Made once, for its owner's eyes only, and long enough for HS256 (RFC 7518 §3.2)."""
    key = load_key(tmp_path / "token.key")

    assert len(key) == 32
    assert load_key(tmp_path / "token.key") == key
    assert (tmp_path / "token.key").stat().st_mode & 0o777 == 0o600
    assert load_key(tmp_path / "other.key") != key


async def test_a_token_of_another_installation_is_not_good_here(serve: Serve, tmp_path: Path) -> None:
    """Each has its key."""
    one, two = await serve(), await serve(data_dir=tmp_path / "two")
    await Browser(one).register("ann")
    await Browser(two).register("ann")

    status, body, _ = await two.call("GET", "/api/state", headers=await bearer(one, "ann"))

    assert (status, body["code"]) == (401, "token_invalid")


async def test_a_logout_and_a_new_password_are_remembered_over_a_restart(tmp_path: Path) -> None:
    """Tokens that were ended stay so; others go on."""
    log = structlog.wrap_logger(structlog.ReturnLogger())
    settings = Settings(**ROOMY | {"data_dir": tmp_path / "data"})
    tokens: dict[str, str] = {}
    async with start_server(settings, log) as server:
        accounts = server.services.accounts
        for name in ("good", "left", "renewed"):
            login = await accounts.register(name, PASSWORD, "127.0.0.1")
            tokens[name] = login.text
            if name == "left":
                await accounts.logout(login.token)
            if name == "renewed":
                await accounts._store.set_password(
                    "public", login.token.user_id, "hash", now=server.services.clock.now()
                )

    async with start_server(settings, log) as server:
        accounts = server.services.accounts
        assert (await accounts.authenticate(tokens["good"])).username == "good"
        for name in ("left", "renewed"):
            with pytest.raises(Unauthorized) as refused:
                await accounts.authenticate(tokens[name])
            assert refused.value.narrow_code == "token_revoked"


async def test_a_thousand_requests_at_once_check_a_token_without_the_store(api: Api) -> None:
    """What a request pays for its token is memory and arithmetic."""
    await Browser(api).register("ann")
    accounts = api.server.services.accounts
    token = (await bearer(api, "ann"))["Authorization"].removeprefix("Bearer ")

    tokens = await asyncio.gather(*(accounts.authenticate(token) for _ in range(1000)))

    assert {t.username for t in tokens} == {"ann"}


async def test_tokens_are_known_again_in_bounded_number_and_only_while_they_are_good(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signature is verified once; what has ended since is refused all the same."""
    accounts = api.server.services.accounts
    monkeypatch.setattr("chatserver.accounts.KNOWN_TOKENS", 3)
    logins = [await accounts.register(f"user{n}", PASSWORD, "127.0.0.1") for n in range(5)]
    verified: list[str] = []
    read = TokenSigner.read

    def counted(self: TokenSigner, text: str) -> Any:
        verified.append(text)
        return read(self, text)

    monkeypatch.setattr(TokenSigner, "read", counted)

    for login in logins:
        for _ in range(2):
            assert await accounts.authenticate(login.text) == login.token
    assert verified == [login.text for login in logins]
    assert len(accounts._known) == 3
    assert not any(login.text.encode() in key for login in logins for key in accounts._known)

    await accounts.logout(logins[4].token)
    with pytest.raises(Unauthorized, match="ended by a logout"):
        await accounts.authenticate(logins[4].text)
    end = logins[3].token.expires_at
    monkeypatch.setattr(SystemClock, "now", lambda _: end)
    with pytest.raises(Unauthorized, match="expired"):
        await accounts.authenticate(logins[3].text)
