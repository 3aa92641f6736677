"""The live endpoints, spec §2 and §3, over HTTP on the real runner."""

from __future__ import annotations

import json
import uuid

import pytest

from tests.api.conftest import Api, Serve
from tests.auth.clock import SetClock
from tests.checker import Checker

pytestmark = pytest.mark.both_loops


async def test_health_and_readiness_answer(api: Api) -> None:
    """L1."""
    assert (await api.get("/health"))[0] == 200
    status, body, _ = await api.get("/health/ready")
    assert (status, body) == (200, {"status": "ready"})


async def test_every_live_endpoint_mints_an_id_and_tells_it(api: Api) -> None:
    """S1: without an id the server mints a UUID4 and tells it in body and header; a stream in its first event."""
    for method, path, body in (
        ("POST", "/api/chat", {"message": "hi"}),
        ("GET", "/api/state", None),
        ("POST", "/api/interrupt", {}),
        ("POST", "/api/system", {"message": "hi"}),
        ("POST", "/api/mcp-command", {"command": "list_servers", "args": {}}),
    ):
        status, answer, headers = await api.call(method, path, json=body)
        assert status == 200, answer
        assert uuid.UUID(answer["session_id"]).version == 4
        assert headers["X-Session-ID"] == answer["session_id"]
    async with api.http.get(api.url("/api/chat/stream")) as response:
        await response.content.readuntil(b"data: ")
        snapshot = json.loads(await response.content.readline())
        assert snapshot["type"] == "snapshot"
        assert uuid.UUID(snapshot["session_id"]).version == 4
        assert response.headers["X-Session-ID"] == snapshot["session_id"] == snapshot["state"]["session_id"]


async def test_an_id_may_come_in_body_query_header_or_cookie(api: Api) -> None:
    """S2: the first that is present counts; the cookie is the last resort."""
    assert (await api.post("/api/system", message="x", session_id="b-1"))[1]["session_id"] == "b-1"
    assert (await api.get("/api/state?session_id=q-1"))[1]["session_id"] == "q-1"
    assert (await api.get("/api/state", headers={"X-Session-ID": "h-1"}))[1]["session_id"] == "h-1"
    assert (await api.get("/api/state", headers={"Cookie": "session_id=c-1"}))[1]["session_id"] == "c-1"
    both = await api.get("/api/state?session_id=q-1", headers={"Cookie": "session_id=c-1"})
    assert both[1]["session_id"] == "q-1"


async def test_two_different_explicit_ids_are_refused(api: Api) -> None:
    """S2: body against query, query against header, and the same id twice is fine."""
    status, problem, _ = await api.get("/api/state?session_id=a", headers={"X-Session-ID": "b"})
    assert (status, problem["code"]) == (400, "session_id_conflict")
    status, problem, _ = await api.call("POST", "/api/chat?session_id=a", json={"message": "x", "session_id": "b"})
    assert (status, problem["code"]) == (400, "session_id_conflict")
    assert (await api.get("/api/state?session_id=a", headers={"X-Session-ID": "a"}))[0] == 200


@pytest.mark.parametrize("bad", ["a/b", "a\nb", "x" * 129, "ü", "a b", ""])
async def test_an_invalid_id_is_422(api: Api, bad: str) -> None:
    """S3."""
    status, problem, _ = await api.post("/api/chat", message="x", session_id=bad)
    assert (status, problem["code"]) == (422, "invalid_session_id")


async def test_chat_answers_before_the_answer_is_there(api: Api) -> None:
    """L2: the state comes at once, the turn is in it, and the answer follows."""
    status, state, _ = await api.post("/api/chat", message="/hang", session_id="s")
    assert status == 200
    assert state["is_processing"] is True
    assert state["active_turn_id"] == state["turn_id"]
    assert [m["role"] for m in state["messages"]] == ["user", "assistant"]
    assert state["messages"][1]["status"] == "streaming"
    assert state["message_count"] == 2
    assert (await api.post("/api/interrupt", session_id="s"))[1]["is_processing"] is False


async def test_prefer_minimal_leaves_the_messages_out(api: Api) -> None:
    """L2 and RFC 7240."""
    status, state, headers = await api.call(
        "POST", "/api/chat", json={"message": "hi"}, headers={"Prefer": "respond-async, return=minimal"}
    )
    assert status == 200
    assert "messages" not in state
    assert headers["Preference-Applied"] == "return=minimal"


async def test_a_retry_with_the_same_client_message_id_is_harmless(api: Api) -> None:
    """L2: the same turn, one message, whether the turn runs, waits or has ended."""
    _, first, _ = await api.post("/api/chat", message="/hang", session_id="s", client_message_id="m1")
    _, again, _ = await api.post("/api/chat", message="/hang", session_id="s", client_message_id="m1")
    assert again["turn_id"] == first["turn_id"]
    _, reject, _ = await api.post(
        "/api/chat", message="/hang", session_id="s", client_message_id="m1", on_busy="reject"
    )
    assert reject["turn_id"] == first["turn_id"]
    await api.post("/api/interrupt", session_id="s")
    _, ended, _ = await api.post("/api/chat", message="/hang", session_id="s", client_message_id="m1")
    assert ended["turn_id"] == first["turn_id"]
    assert ended["message_count"] == 2
    assert ended["messages"][0]["metadata"] == {"client_message_id": "m1"}
    assert ended["is_processing"] is False


async def test_interrupt_keeps_the_partial_answer_and_is_idempotent(api: Api) -> None:
    """L5: status interrupted, text kept; idle is a no-op."""
    async with Checker(api.server.url) as checker:
        sent = await checker.send("s", "/say kept words\n/hang")
        async with checker.follow("s") as stream:
            await stream.until_state(lambda s: "kept words" in s["messages"][-1]["content"])
            _, state, _ = await api.post("/api/interrupt", session_id="s", turn_id=sent.turn_id)
            assert state["messages"][-1]["status"] == "interrupted"
            assert "kept words" in state["messages"][-1]["content"]
            ended = await stream.until_ended(sent.turn_id)
            assert ended.body["outcome"] == "interrupted"
            _, again, _ = await api.post("/api/interrupt", session_id="s")
            assert again["position"] == state["position"]
        await checker.verify("s")


async def test_on_busy_queues_rejects_or_interrupts(api: Api) -> None:
    """L8: the queue is part of the state, bounded, and can be taken back."""
    _, running, _ = await api.post("/api/chat", message="/hang", session_id="s")
    _, queued, _ = await api.post("/api/chat", message="second", session_id="s")
    assert [(q["turn_id"], q["place"]) for q in queued["queue"]] == [(queued["turn_id"], 1)]
    status, problem, _ = await api.post("/api/chat", message="third", session_id="s", on_busy="reject")
    assert (status, problem["code"]) == (409, "busy")
    for n in range(7):
        assert (await api.post("/api/chat", message=f"more {n}", session_id="s"))[0] == 200
    status, problem, headers = await api.post("/api/chat", message="too many", session_id="s")
    assert (status, problem["code"]) == (429, "queue_full")
    assert int(headers["Retry-After"]) >= 1

    status, state, _ = await api.call("DELETE", f"/api/queue/{queued['turn_id']}?session_id=s")
    assert status == 200
    assert len(state["queue"]) == 7
    assert [q["place"] for q in state["queue"]] == list(range(1, 8))
    status, problem, _ = await api.call("DELETE", f"/api/queue/{queued['turn_id']}?session_id=s")
    assert (status, problem["code"]) == (404, "turn_not_queued")

    async with Checker(api.server.url) as checker, checker.follow("s") as stream:
        _, now, _ = await api.post("/api/chat", message="/say urgent", session_id="s", on_busy="interrupt")
        ended = await stream.until_ended(running["turn_id"])
        assert ended.body["outcome"] == "interrupted"
        await stream.until_ended(now["turn_id"])
        await stream.until_state(lambda s: not s["queue"] and not s["is_processing"])
        contents = [m["content"] for m in stream.state["messages"] if m["role"] == "user"]  # type: ignore[index]
        assert contents[:3] == ["/hang", "/say urgent", "more 0"]


async def test_a_system_message_works_during_a_turn(api: Api) -> None:
    """L6."""
    await api.post("/api/chat", message="/hang", session_id="s")
    status, state, _ = await api.post("/api/system", message="network switched", session_id="s")
    assert status == 200
    assert [m["role"] for m in state["messages"]] == ["user", "assistant", "system"]
    assert state["is_processing"] is True
    await api.post("/api/interrupt", session_id="s")


async def test_a_read_makes_a_provisional_session_and_a_write_keeps_it(serve: Serve) -> None:
    """S4: what a read made is gone when the server is; a write made it durable."""
    api = await serve()
    await api.get("/api/state?session_id=only-read")
    await api.get("/api/state?session_id=written")
    await api.post("/api/system", message="x", session_id="written")
    store = api.server.services.store
    from chatserver.store.base import SessionKey

    assert await store.record(SessionKey("public", "only-read")) is None
    assert await store.record(SessionKey("public", "written")) is not None


async def test_auto_create_off_refuses_all_six(serve: Serve) -> None:
    """S4."""
    api = await serve(auto_create=False)
    for method, path, body in (
        ("POST", "/api/chat", {"message": "hi", "session_id": "x"}),
        ("GET", "/api/state?session_id=x", None),
        ("GET", "/api/chat/stream?session_id=x", None),
        ("POST", "/api/interrupt", {"session_id": "x"}),
        ("POST", "/api/system", {"message": "hi", "session_id": "x"}),
        ("POST", "/api/mcp-command", {"command": "list_servers", "session_id": "x"}),
    ):
        status, problem, _ = await api.call(method, path, json=body)
        assert (status, problem["code"]) == (404, "session_not_found"), path


async def test_creation_is_limited_per_caller(serve: Serve) -> None:
    """V1: the limit counts creations, not requests, and tells when to come back."""
    api = await serve(session_creations_per_minute=3)
    for n in range(3):
        assert (await api.get(f"/api/state?session_id=s{n}"))[0] == 200
    assert (await api.get("/api/state?session_id=s1"))[0] == 200
    status, problem, headers = await api.get("/api/state?session_id=s9")
    assert (status, problem["code"]) == (429, "session_creation_limited")
    assert 1 <= int(headers["Retry-After"]) <= 20
    assert headers["RateLimit-Limit"] == "3"


async def visitor(api: Api) -> dict[str, str]:
    """Headers of a fresh browser."""
    async with api.http.get(api.url("/")) as response:
        cookie = response.cookies["chatserver_visitor"]
        assert cookie["httponly"]
        assert cookie["samesite"] == "Lax"
        return {"Cookie": f"chatserver_visitor={cookie.value}"}


async def test_the_cookie_is_secure_where_the_browser_came_by_tls(serve: Serve) -> None:
    """What a proxy says of TLS counts from a trusted one only."""
    for trusted, secure in ((("127.0.0.1",), True), ((), "")):
        api = await serve(trusted_proxies=trusted, database_url=":memory:")
        async with api.http.get(api.url("/"), headers={"X-Forwarded-Proto": "https"}) as response:
            assert response.cookies["chatserver_visitor"]["secure"] == secure


async def test_a_visitors_session_is_its_own(api: Api) -> None:
    """S5: another visitor and a caller without identity get 403 on every route, the streams included."""
    mine, other = await visitor(api), await visitor(api)
    secret = "canary-4711"
    status, state, _ = await api.call(
        "POST", "/api/chat", json={"message": f"/say {secret}", "session_id": "v"}, headers=mine
    )
    assert status == 200
    for headers in (other, {}, {"Cookie": "chatserver_visitor=" + "0" * 32 + ".forged"}):
        for method, path, body in (
            ("POST", "/api/chat", {"message": "hi", "session_id": "v"}),
            ("GET", "/api/state?session_id=v", None),
            ("GET", "/api/chat/stream?session_id=v", None),
            ("GET", f"/api/chat/stream?session_id=v&last_event_id={state['position']}", None),
            ("GET", "/api/chat/stream?session_id=v&format=state", None),
            ("GET", "/api/stream?sessions=v", None),
            ("POST", "/api/interrupt", {"session_id": "v"}),
            ("POST", "/api/system", {"message": "hi", "session_id": "v"}),
            ("POST", "/api/mcp-command", {"command": "list_servers", "session_id": "v"}),
            ("DELETE", "/api/queue/x?session_id=v", None),
        ):
            status, problem, _ = await api.call(method, path, json=body, headers=headers)
            assert (status, problem["code"]) == (403, "session_forbidden"), (method, path)
            assert secret not in str(problem)


async def test_a_planted_unowned_id_cannot_capture_a_visitors_words(api: Api) -> None:
    """S5: a principal gets 403 on an unowned session."""
    await api.post("/api/system", message="bait", session_id="planted")
    status, problem, _ = await api.call(
        "POST", "/api/chat", json={"message": "my words", "session_id": "planted"}, headers=await visitor(api)
    )
    assert (status, problem["code"]) == (403, "session_forbidden")


async def test_a_cookie_does_not_work_from_another_site(api: Api) -> None:
    """A3: a change with a cookie needs our own origin."""
    mine = await visitor(api)
    for foreign in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        status, problem, _ = await api.call("POST", "/api/chat", json={"message": "x"}, headers=mine | foreign)
        assert (status, problem["code"]) == (403, "cross_site")
    own = mine | {"Origin": api.server.url}
    assert (await api.call("POST", "/api/chat", json={"message": "x"}, headers=own))[0] == 200


async def test_a_proxy_that_drops_the_port_of_the_host_can_be_seen_from_the_refusal(api: Api) -> None:
    """As nginx's `$host` does: the server's own page is another site then, and only both names tell why."""
    headers = {"Origin": "http://127.0.0.1:8380", "Host": "127.0.0.1"}
    status, problem, _ = await api.call("POST", "/api/chat", json={"message": "x"}, headers=headers)
    assert (status, problem["code"]) == (403, "cross_site")
    assert "'http://127.0.0.1:8380'" in problem["detail"]
    assert "'127.0.0.1'" in problem["detail"]


async def test_cors_is_closed_by_default_and_open_by_list(serve: Serve, tmp_path: object) -> None:
    """A3."""
    api = await serve(cors_origins=("https://app.example",))
    _, _, headers = await api.get("/api/state", headers={"Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in headers
    _, _, headers = await api.get("/api/state", headers={"Origin": "https://app.example"})
    assert headers["Access-Control-Allow-Origin"] == "https://app.example"
    assert (await api.call("OPTIONS", "/api/chat", headers={"Origin": "https://evil.example"}))[0] == 403
    assert (await api.call("OPTIONS", "/api/chat", headers={"Origin": "https://app.example"}))[0] == 204


async def test_models_are_listed_without_keys(api: Api) -> None:
    """V6."""
    status, body, _ = await api.get("/api/models")
    assert status == 200
    assert body["default_model"] == "scripted"
    assert body["max_message_chars"] == 32_000
    assert "scripted" in [m["id"] for m in body["models"]]


async def test_an_expired_session_is_gone(serve: Serve) -> None:
    """V2: 410, and the time it expired."""
    clock = SetClock()
    api = await serve(unowned_session_ttl_seconds=100, clock=clock)
    await api.post("/api/system", message="x", session_id="s")
    clock.move(99)
    assert (await api.get("/api/state?session_id=s"))[0] == 200
    clock.move(2)
    status, problem, _ = await api.get("/api/state?session_id=s")
    assert (status, problem["code"]) == (410, "session_expired")


async def test_a_page_of_another_site_changes_nothing_without_cookies_either(api: Api) -> None:
    """A3: tools and stops need no cookie to do harm; the same page may not even stop a turn."""
    await api.post("/api/chat", session_id="s", message="/hang")
    foreign = {"Origin": "https://evil.example"}
    for path in ("/api/interrupt?session_id=s", "/api/mcp-command", "/api/chat"):
        status, problem, _ = await api.call("POST", path, headers=foreign)
        assert (status, problem["code"]) == (403, "cross_site"), path
    assert (await api.get("/api/state?session_id=s"))[1]["is_processing"] is True
    await api.post("/api/interrupt", session_id="s")


async def test_a_server_on_loopback_answers_to_its_own_names_only(serve: Serve) -> None:
    """DNS rebinding: a foreign name that points to 127.0.0.1 reaches nothing, the page included."""
    api = await serve()
    port = api.server.port
    for host, expected in (
        (f"127.0.0.1:{port}", 200),
        (f"localhost:{port}", 200),
        (f"[::1]:{port}", 200),
        ("app.localhost", 200),
        (f"evil.example:{port}", 421),
        ("127.0.0.1.evil.example", 421),
        ("[bad", 421),
    ):
        for path in ("/api/state?session_id=s", "/", "/health"):
            status, answer, _ = await api.get(path, headers={"Host": host})
            assert status == expected, (host, path)
            if status == 421:
                assert answer["code"] == "wrong_host"
    named = await serve(allowed_hosts=("chat.example",), database_url=":memory:")
    assert (await named.get("/health", headers={"Host": "chat.example"}))[0] == 200
    assert (await named.get("/health", headers={"Host": "localhost"}))[0] == 421


async def test_a_session_gets_its_title_from_its_first_exchange(serve: Serve) -> None:
    """U5: told to its tabs while they look, from the words of the message where no language model answers."""
    api = await serve(auto_titles="model")
    async with Checker(api.server.url) as checker, checker.follow("s") as stream:
        await api.post("/api/chat", message="compare trains and planes", session_id="s")
        await stream.until_state(lambda s: s["title"] == "Compare trains and planes")
