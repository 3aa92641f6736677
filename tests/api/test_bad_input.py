"""Bad input by name: each gets a problem that says what is wrong, and the server goes on."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import time
from typing import Any

import pytest

from tests.api.conftest import Api, Serve

JSON = {"Content-Type": "application/json"}


async def problem(api: Api, method: str, path: str, **kwargs: Any) -> tuple[int, str]:
    """Status and code of a refused request, after checking that it is a whole problem document."""
    async with api.http.request(method, api.url(path), **kwargs) as response:
        assert response.headers["Content-Type"].startswith("application/problem+json"), await response.text()
        body = await response.json(content_type=None)
        assert body["status"] == response.status
        assert {"type", "title", "detail", "code", "request_id"} <= body.keys()
        assert body["request_id"] == response.headers.get("X-Request-ID", body["request_id"])
        assert "Traceback" not in str(body)
        return response.status, body["code"]


@pytest.mark.parametrize(
    ("method", "path", "body", "detail"),
    [
        ("POST", "/api/chat", {}, "message: is required"),
        ("POST", "/api/chat", {"message": 7}, "message: must be a string"),
        ("POST", "/api/chat", {"message": "x", "on_busy": "no"}, "on_busy: must be 'queue', 'reject' or 'interrupt'"),
        ("POST", "/api/chat", {"message": "x", "client_message_id": ""}, "client_message_id: must not be empty"),
        ("POST", "/api/chat", {"message": "x", "model": "m" * 129}, "model: must have at most 128 characters"),
        (
            "POST",
            "/api/chat",
            {"message": "x", "project_id": "../x"},
            "project_id: must be 1 to 128 of A-Z a-z 0-9 . _ : -",
        ),
        (
            "POST",
            "/api/interrupt",
            {"session": "s"},
            "session: there is no such field; known: session_id, turn_id, clear_queue",
        ),
        ("POST", "/api/interrupt", {"clear_queue": "yes"}, "clear_queue: must be true or false"),
        ("POST", "/api/stream", {"stream": "s", "add": "s"}, "add: must be a list"),
        ("POST", "/api/stream", {"stream": "s", "add": ["s"] * 1001}, "add: must have at most 1000 entries"),
        ("POST", "/api/stream", {"stream": "s", "add": [1]}, "add.0: must be a string"),
        ("POST", "/api/mcp-command", {"command": "connect", "args": []}, "args: must be a JSON object"),
        ("POST", "/api/mcp-command", {"command": "connect", "args": {}}, "args.server: is required"),
        (
            "POST",
            "/api/mcp-command",
            {"command": "list_servers", "args": {"x": 1}},
            "args.x: there is no such field; none is taken here",
        ),
        ("GET", "/api/messages?limit=0", None, "limit: must be at least 1"),
        ("GET", "/api/messages?limit=1001", None, "limit: must be at most 1000"),
        ("GET", "/api/messages?limit=many", None, "limit: must be a whole number"),
    ],
)
async def test_a_wrong_field_is_told_in_plain_words(
    api: Api, method: str, path: str, body: dict[str, Any] | None, detail: str
) -> None:
    """Of the API's own fields, and never of the library that checks them."""
    async with api.http.request(method, api.url(path), json=body) as response:
        told = await response.json(content_type=None)
    assert (response.status, told["code"], told["detail"]) == (422, "invalid_fields", detail)
    assert len(told["errors"]) == 1


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"{", (400, "invalid_json")),
        (b"[]", (400, "invalid_json")),
        (b'"x"', (400, "invalid_json")),
        (b'{"message": NaN}', (400, "invalid_json")),
        (b'{"message": "\\ud800"}', (400, "invalid_json")),
        (b'{"message": "\xff"}', (400, "invalid_json")),
        (b"[" * 10_000, (400, "invalid_json")),
        (b'{"message": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", (400, "invalid_json")),
        (b'{"message": "   \\n\\t "}', (422, "blank_message")),
        (b'{"message": ""}', (422, "blank_message")),
        (b'{"message": 7}', (422, "invalid_fields")),
        (b'{"message": null}', (422, "invalid_fields")),
        (b'{"message": ["x"]}', (422, "invalid_fields")),
        (b"{}", (422, "invalid_fields")),
        (b"", (422, "invalid_fields")),
        (b'{"message": "x", "surprise": 1}', (422, "invalid_fields")),
        (b'{"message": "x", "model": "nobody"}', (422, "unknown_model")),
        (b'{"message": "x", "on_busy": "explode"}', (422, "invalid_fields")),
        (b'{"message": "x", "session_id": "a/b"}', (422, "invalid_session_id")),
        (b'{"message": "x", "session_id": 5}', (422, "invalid_fields")),
        (b'{"message": "x", "project_id": "../etc"}', (422, "invalid_fields")),
    ],
)
async def test_a_wrong_chat_body_is_explained(api: Api, raw: bytes, expected: tuple[int, str]) -> None:
    """L2 and the bad input list."""
    assert await problem(api, "POST", "/api/chat", data=raw, headers=JSON) == expected
    assert len(api.server.services.manager) == 0 or expected[1] == "blank_message"


async def test_a_message_over_the_limit_is_413(serve: Serve) -> None:
    """L2: characters, not bytes."""
    api = await serve(max_message_chars=100)
    assert await problem(api, "POST", "/api/chat", json={"message": "x" * 101}) == (413, "message_too_long")
    assert (await api.post("/api/chat", message="ü" * 100))[0] == 200


async def test_a_body_over_the_limit_is_413_announced_or_not(serve: Serve) -> None:
    """By Content-Length, and by counting where it comes in chunks."""
    api = await serve(max_body_bytes=2000)
    big = json.dumps({"message": "x" * 3000}).encode()
    assert await problem(api, "POST", "/api/chat", data=big, headers=JSON) == (413, "too_large")

    async def chunks() -> Any:
        for at in range(0, len(big), 100):
            yield big[at : at + 100]

    assert await problem(api, "POST", "/api/chat", data=chunks(), headers=JSON) == (413, "too_large")


async def test_other_content_types_and_encodings_are_415(api: Api) -> None:
    """A form is not JSON, and a compressed body could be a bomb."""
    body = b'{"message": "x"}'
    for headers in ({"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}):
        assert await problem(api, "POST", "/api/chat", data=body, headers=headers) == (415, "unsupported_media_type")
    bomb = gzip.compress(b" " * 50_000_000)
    headers = JSON | {"Content-Encoding": "gzip"}
    assert await problem(api, "POST", "/api/chat", data=bomb, headers=headers) == (415, "unsupported_media_type")


async def test_a_body_that_does_not_come_is_408(serve: Serve) -> None:
    """A connection that sends its head and then nothing gives its place back."""
    api = await serve(body_timeout_seconds=0.1)
    reader, writer = await asyncio.open_connection(api.server.host, api.server.port)
    writer.write(
        b"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    )
    async with asyncio.timeout(60):
        head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408")
    writer.close()
    await writer.wait_closed()


async def test_unknown_addresses_and_methods_are_problems(api: Api) -> None:
    """404 and 405 too (spec §11)."""
    assert await problem(api, "GET", "/nowhere") == (404, "not_found")
    assert await problem(api, "GET", "/api/nowhere") == (404, "not_found")
    assert await problem(api, "POST", "/api/nowhere", json={}) == (404, "not_found")
    assert await problem(api, "DELETE", "/api/chat") == (405, "method_not_allowed")
    assert await problem(api, "GET", "/..%2f..%2fetc%2fpasswd") == (404, "not_found")


MALFORMED_IDS = ["x", "1", "1-", "-1", "1-2-3", "1-x", "01-2", "9" * 40 + "-1", "\u0661-\u0661", "1-2 "]


@pytest.mark.parametrize("bad", MALFORMED_IDS)
async def test_a_malformed_event_id_is_400(api: Api, bad: str) -> None:
    """T3, in header and query alike."""
    path = "/api/chat/stream?session_id=s"
    assert await problem(api, "GET", path, params={"last_event_id": bad}) == (400, "bad_event_id")
    if bad.isascii() and bad.strip() == bad:
        assert await problem(api, "GET", path, headers={"Last-Event-ID": bad}) == (400, "bad_event_id")


async def test_stream_queries_are_checked(api: Api) -> None:
    """T7, T8."""
    assert await problem(api, "GET", "/api/chat/stream?format=xml") == (422, "invalid_fields")
    assert await problem(api, "GET", "/api/stream?sessions=a/b") == (422, "invalid_session_id")
    assert await problem(api, "GET", "/api/stream?sessions=a@x") == (400, "bad_event_id")
    assert await problem(api, "GET", "/api/stream?sessions=a&stream=a%20b") == (422, "invalid_fields")
    many = ",".join(f"s{n}" for n in range(300))
    assert await problem(api, "GET", f"/api/stream?sessions={many}") == (400, "too_many_sessions")
    assert await problem(api, "POST", "/api/stream", json={"stream": "gone"}) == (404, "stream_not_found")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"command": "format_disk"}, (400, "unknown_command")),
        ({"command": 5}, (422, "invalid_fields")),
        ({"command": "call_tool", "args": {"server": "x"}}, (422, "invalid_fields")),
        ({"command": "call_tool", "args": {"server": "x", "name": "y", "arguments": []}}, (422, "invalid_fields")),
        ({"command": "call_tool", "args": []}, (422, "invalid_fields")),
        ({"command": "list_servers", "args": {"x": 1}}, (422, "invalid_fields")),
        ({"command": "set_network", "args": {"network": "x" * 300_000}}, (413, "too_large")),
        ({"command": "approve", "args": {"approval_id": "none"}}, (404, "approval_not_found")),
    ],
)
async def test_wrong_commands_are_explained(api: Api, body: dict[str, Any], expected: tuple[int, str]) -> None:
    """L7: an unknown command lists the known ones."""
    assert await problem(api, "POST", "/api/mcp-command", json=body) == expected
    if expected[1] == "unknown_command":
        _, answer, _ = await api.post("/api/mcp-command", **body)
        assert "list_tools" in answer["detail"]


async def test_a_tool_of_no_server_fails_the_command_not_the_request(api: Api) -> None:
    """L7: the command ran; its answer says that it failed and why."""
    args = {"server": "nobody", "name": "x"}
    status, body, _ = await api.post("/api/mcp-command", command="call_tool", args=args, session_id="s")
    assert status == 200
    assert (body["success"], body["data"]["code"], body["session_id"]) == (False, "unknown_server", "s")


@pytest.mark.parametrize(
    "raw",
    [
        b"BLAH\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nBad Header\r\n\r\n",
        b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nA: " + b"x" * 40_000 + b"\r\n\r\n",
        b"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_answered_as_a_problem(api: Api, raw: bytes) -> None:
    """The HTTP layer's own refusals have the same form, and do not fill the log."""
    reader, writer = await asyncio.open_connection(api.server.host, api.server.port)
    writer.write(raw)
    async with asyncio.timeout(60):
        answer = await reader.read()
    assert answer[:10] in (b"HTTP/1.0 4", b"HTTP/1.1 4"), answer[:100]
    assert b"application/problem+json" in answer
    assert b"\r\nServer: chatserver\r\n" in answer
    writer.close()
    await writer.wait_closed()
    assert (await api.get("/health"))[0] == 200


async def test_header_values_that_are_no_text_are_refused(api: Api) -> None:
    """Bytes that are no UTF-8 in the visitor's cookie, and an origin that is no address, are bad input, not errors."""
    _, _, headers = await api.get("/")
    cookie = headers["Set-Cookie"].partition(";")[0].encode()
    visitor_id = cookie.partition(b".")[0]
    request = b"POST /api/interrupt HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: 0\r\n%b\r\n"
    for lines, expected in (
        (b"Cookie: %b.\xff\xfe\r\n" % visitor_id, b"HTTP/1.1 200"),  # no visitor at all
        (b"Cookie: %b\r\nOrigin: http://[\r\n" % cookie, b"HTTP/1.1 403"),
    ):
        reader, writer = await asyncio.open_connection(api.server.host, api.server.port)
        writer.write(request % lines)
        async with asyncio.timeout(60):
            answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        assert answer.startswith(expected), answer
    assert "request_failed" not in api.log.getvalue()


async def test_answers_do_not_name_the_versions_of_what_runs_here(api: Api) -> None:
    """§11: no internals."""
    _, _, headers = await api.get("/api/state")
    assert headers["Server"] == "chatserver"


async def test_a_chunked_body_that_breaks_off_is_no_crash(api: Api) -> None:
    """Half a chunk, then silence for good."""
    _, writer = await asyncio.open_connection(api.server.host, api.server.port)
    writer.write(
        b"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nff\r\n{"
    )
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await api.get("/health"))[0] == 200
    assert "request_failed" not in api.log.getvalue()


async def test_a_connection_without_a_request_is_closed(serve: Serve) -> None:
    """Slowloris: a head that never ends costs its sender the connection."""
    api = await serve(header_timeout_seconds=0.1)
    reader, writer = await asyncio.open_connection(api.server.host, api.server.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
    async with asyncio.timeout(60):
        assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


@pytest.mark.both_loops
async def test_a_server_that_was_held_up_reads_before_it_cuts(serve: Serve) -> None:
    """The head came in time, and the loop could not look: that is not its sender's fault."""
    api = await serve(header_timeout_seconds=1.5)
    reader, writer = await asyncio.open_connection(api.server.host, api.server.port)
    writer.write(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    await asyncio.sleep(0.1)
    writer.write(b"\r\n")
    time.sleep(2)  # noqa: ASYNC251 - what is tested
    async with asyncio.timeout(60):
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()
    await writer.wait_closed()


@pytest.mark.both_loops
@pytest.mark.parametrize("limit", ["header_timeout_seconds", "keepalive_timeout_seconds"])
async def test_a_server_that_another_connection_held_up_reads_before_it_cuts(serve: Serve, limit: str) -> None:
    """uvloop looks at its timers before it asks again what has come: the head waits in the socket at that moment."""
    api = await serve(**{limit: 1})
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection(api.server.host, api.server.port)
    request = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    if limit == "keepalive_timeout_seconds":
        writer.write(request)
        await reader.readuntil(b"}")
    busy, waker = socket.socketpair()

    def hold_up() -> None:
        loop.remove_reader(busy)
        writer.write(request)
        time.sleep(1.5)  # what is tested

    with busy, waker:
        loop.add_reader(busy, hold_up)
        waker.send(b"!")
        async with asyncio.timeout(60):
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()
    await writer.wait_closed()


async def test_connections_are_capped(serve: Serve) -> None:
    """One above the cap is closed; a place that gets free is taken again."""
    api = await serve(max_connections=2)
    first = [await asyncio.open_connection(api.server.host, api.server.port) for _ in range(2)]
    for reader, writer in first:
        writer.write(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    reader, writer = await asyncio.open_connection(api.server.host, api.server.port)
    async with asyncio.timeout(60):
        assert await reader.read() == b""
    for _, other in [*first, (reader, writer)]:
        other.close()
        await other.wait_closed()
    async with asyncio.timeout(60):
        while True:
            try:
                if (await api.get("/health"))[0] == 200:
                    break
            except OSError:
                continue


@pytest.mark.parametrize(("depth", "expected"), [(190, 201), (202, 400), (253, 400), (1000, 400)])
async def test_json_that_is_too_deep_to_be_answered_is_refused(api: Api, depth: int, expected: int) -> None:
    """orjson reads deeper than it writes: what came in must fit into every answer that holds it, lists too."""
    body = '{"session_id": "deep", "metadata": ' + '{"a":' * (depth - 1) + "1" + "}" * depth

    status, answer, _ = await api.call(
        "POST", "/api/session/create", data=body, headers={"Content-Type": "application/json"}
    )

    assert status == expected, answer
    if expected == 400:
        assert answer["code"] == "invalid_json"
    else:
        assert (await api.get("/api/projects/default/sessions/deep/full"))[0] == 200
