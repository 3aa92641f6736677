"""Mutated requests: bodies, queries, headers, request lines. Each is answered, none with a 500, none kills (spec §11).

A mutant begins as a request that is right and has one to three things done to it. What must hold of its answer: it
comes; its status is not 500; from 400 on it is a problem document that names the same status. The server's log must
show neither a failed request nor a crashed task afterwards.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.campaigns.campaign import Campaign, Round
from tests.campaigns.crowd import story_server
from tests.checker import Checker, Connection, ProtocolViolation, Violation

REQUESTS_PER_ROUND = 1_000
AT_ONCE = 16
ANSWER_SECONDS = 60.0
# A mutant that promises more body than it sends is answered when this is over.
BODY_TIMEOUT_SECONDS = 2
PROBLEM = "application/problem+json"
PROBLEM_FIELDS = {"type", "title", "status", "detail", "code", "request_id"}
# Said by the server's log about what must never happen.
FAULTS = ("request_failed", "task_crashed", "Traceback", "Unhandled", "never retrieved")


@dataclass(slots=True)
class Mutant:
    """A request, still in parts."""

    method: str
    target: str
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes | None = None
    length: str | None = None  # instead of the body's own
    raw: bytes | None = None  # instead of everything
    done: list[str] = field(default_factory=list)

    def encode(self) -> bytes:
        """Its bytes."""
        if self.raw is not None:
            return self.raw
        headers = list(self.headers)
        if self.body is not None or self.length is not None:
            headers.append(("Content-Length", self.length or str(len(self.body or b""))))
        lines = [f"{self.method} {self.target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
        return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + (self.body or b"")

    @property
    def may_get_no_answer(self) -> bool:
        """What is not HTTP at all may be met with silence and the end of the connection."""
        return self.raw is not None


STRINGS = (
    "",
    " ",
    "a",
    "session-1",
    "a/b",
    "../../etc/passwd",
    "a\nb",
    "x" * 128,
    "x" * 129,
    "x" * 40_000,
    "é✓𝄞",
    "\ud800",
    "\x00",
    "\u202e",
    "1-0",
    "0-0",
    "1-",
    "-1-0",
    "99999999999999999999-0",
    "null",
    "<script>",
    "%00",
    "*",
    "no-such-model",
    "interrupt",
    "' OR 1=1 --",
)
VALUES: tuple[Any, ...] = (
    *STRINGS,
    None,
    True,
    0,
    -1,
    1e308,
    2**63,
    2**64,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    {"a": {"b": []}},
    ["a"] * 1000,
)
HEADERS = (
    "Content-Type",
    "X-Session-ID",
    "Last-Event-ID",
    "Prefer",
    "Cookie",
    "Accept",
    "Content-Encoding",
    "Transfer-Encoding",
    "Expect",
    "Range",
    "Origin",
    "Sec-Fetch-Site",
    "X-Forwarded-For",
    "Authorization",
    "Connection",
    "Upgrade",
    "Host",
    "If-None-Match",
    "Content-Length",
    "X-Request-ID",
)
HEADER_VALUES = (
    "",
    "application/json",
    "text/plain",
    "application/json; charset=utf-16",
    "multipart/form-data; boundary=x",
    "gzip",
    "chunked",
    "100-continue",
    "bytes=0-1",
    "return=minimal",
    "return=minimal, respond-async;;;===",
    "session_id=a; session_id=b",
    'session_id="\\"',
    "chatserver_visitor=AAAA.BBBB.CCCC",
    "close",
    "keep-alive, Upgrade",
    "websocket",
    "http://evil.example",
    "null",
    "cross-site",
    "1-0",
    "0-18446744073709551616",
    "Bearer x.y.z",
    "-1",
    "0",
    "é",
    "x" * 8_000,
    "x" * 20_000,
    "\x01",
)
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT", "BREW", "get", "P\x00ST")


def _bodies(session_id: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Requests with a body, right as they are: method and target to the body."""
    session = {"session_id": session_id}
    in_project = f"/api/projects/mutants/sessions/{session_id}"
    record = {"title": "A title", "description": "about it", "metadata": {"tags": ["a", 1, None]}, "model": None}
    return {
        ("POST", "/api/chat"): {**session, "message": "hello", "client_message_id": "c1", "on_busy": "queue"},
        ("POST", "/api/interrupt"): {**session, "turn_id": "t", "clear_queue": True},
        ("POST", "/api/system"): {**session, "message": "the network was switched"},
        ("POST", "/api/mcp-command"): {**session, "command": "call_tool", "args": {"server": "s", "name": "n"}},
        ("POST", "/api/stream"): {
            "stream": "the-tab-of-this-mutant",
            "add": [session_id, f"{session_id}@1-0"],
            "drop": ["b"],
        },
        ("POST", "/api/messages/some-message/edit"): {**session, "message": "better", "on_busy": "queue"},
        ("POST", "/api/messages/some-message/regenerate"): {**session, "model": None, "on_busy": "interrupt"},
        ("PUT", "/api/messages/some-message/feedback"): {**session, "rating": "up", "comment": "to the point"},
        ("POST", "/api/branch"): {**session, "message_id": "some-message"},
        ("POST", "/api/fork"): {**session, "message_id": "some-message", "title": "another way"},
        ("POST", "/api/session/create"): {**session, "project_id": "mutants", **record},
        ("POST", "/api/session/refresh"): session,
        ("PUT", "/api/session/model"): {**session, "model": None},
        ("POST", "/api/projects/mutants/sessions"): record,
        ("PUT", in_project): {**record, "is_active": True},
        ("POST", f"{in_project}/messages"): {"role": "assistant", "content": "so it is", "metadata": {"by": "me"}},
        ("POST", "/api/llm/sessions"): {**session, "session_name": "A name"},
        ("PUT", f"/api/llm/sessions/{session_id}"): {"session_name": "A name", "is_archived": True, "message_count": 0},
        ("POST", "/api/auth/register"): {"username": session_id, "password": "correct horse battery"},
        ("POST", "/api/auth/login"): {
            "username": session_id,
            "password": "correct horse battery",
            "tenant": "public",
        },
        ("POST", "/api/auth/logout"): {},
    }


def _targets(session_id: str) -> tuple[tuple[str, str], ...]:
    """Requests without a body."""
    in_project = f"/api/projects/mutants/sessions/{session_id}"
    reads = (
        f"/api/messages?session_id={session_id}&before=some-message&limit=2",
        f"/api/state?session_id={session_id}",
        f"/api/chat/stream?session_id={session_id}&last_event_id=1-0&format=events",
        f"/api/chat/stream?session_id={session_id}&format=state",
        f"/api/stream?sessions={session_id},other@1-2&stream=the-tab-of-this-mutant",
        f"/api/session?session_id={session_id}",
        f"/api/session/validate?session_id={session_id}",
        f"/api/session/model?session_id={session_id}",
        "/api/projects",
        "/api/projects/mutants/stats",
        "/api/projects/mutants/sessions?q=hello&limit=5&offset=1&include_inactive=true",
        in_project,
        f"{in_project}/messages?limit=5&offset=1",
        f"{in_project}/full",
        "/api/llm/sessions?q=hello&limit=5&offset=1&include_archived=true",
        f"/api/llm/sessions/{session_id}?include_messages=true",
        f"/api/export?session_id={session_id}&format=markdown",
        f"/api/usage?session_id={session_id}&period=day",
        "/api/auth/me",
        "/api/admin/metrics?since=0",
        "/metrics",
        "/api/models",
        "/api/openapi.json",
        "/health",
        "/health/ready",
        "/",
    )
    deletions = (
        f"/api/queue/some-turn?session_id={session_id}",
        f"/api/session?session_id={session_id}",
        f"{in_project}?force=true",
        f"/api/llm/sessions/{session_id}",
    )
    return (*(("GET", target) for target in reads), *(("DELETE", target) for target in deletions))


def _originals(random_: random.Random) -> Mutant:
    session_id = f"mutant-{random_.randrange(200)}"
    host = ("Host", "127.0.0.1")
    if random_.random() < 0.65:
        (method, target), body = random_.choice(list(_bodies(session_id).items()))
        return Mutant(method, target, [host, ("Content-Type", "application/json")], json.dumps(body).encode())
    method, target = random_.choice(_targets(session_id))
    return Mutant(method, target, [host])


# --- what is done to them ---------------------------------------------------------------------------------------------


def _value(mutant: Mutant, random_: random.Random) -> None:
    """Another value, of another type, in a field; or a field too many or too few."""
    if mutant.body is None:
        return _query(mutant, random_)
    try:
        body = json.loads(mutant.body)
    except (ValueError, RecursionError):
        return _bytes(mutant, random_)
    if not isinstance(body, dict) or not body:
        return _bytes(mutant, random_)
    key = random_.choice(list(body))
    match random_.randrange(6):
        case 0:
            del body[key]
        case 1:
            body[random_.choice(STRINGS)] = random_.choice(VALUES)
        case 2 if isinstance(body[key], dict):
            body[key][random_.choice(STRINGS)] = random_.choice(VALUES)
        case _:
            body[key] = random_.choice(VALUES)
    mutant.body = json.dumps(body, ensure_ascii=random_.random() < 0.5).encode("utf-8", "surrogatepass")
    return None


def _bytes(mutant: Mutant, random_: random.Random) -> None:
    """Bytes of the body changed, lost, doubled, or something that is no JSON at all."""
    body = bytearray(mutant.body or b"{}")
    at = random_.randrange(len(body)) if body else 0
    match random_.randrange(9):
        case 0 if body:
            body[at] = random_.randrange(256)
        case 1:
            del body[at:]
        case 2:
            body[at:at] = random_.randbytes(random_.randrange(1, 20))
        case 3:
            body = body[at:] + body[:at]
        case 4:
            body = bytearray(b"[" * 10_000 + b"]" * 10_000)
        case 5:
            body = bytearray(random_.randbytes(random_.randrange(2000)))
        case 6:
            body = bytearray(b'{"a":' * 5_000)
        case 7:
            body = bytearray(b"\x1f\x8b\x08" + random_.randbytes(50))
        case _:
            body = bytearray(b'{"message":"' + b"x" * random_.choice((40_000, 1_100_000)) + b'"}')
    mutant.body = bytes(body)


def _query(mutant: Mutant, random_: random.Random) -> None:
    """Parameters doubled, strange, badly encoded, endless."""
    extra = (
        "session_id=other",
        "session_id=" + "x" * 129,
        "session_id=%ff%fe",
        "session_id=%",
        "session_id=a%2Fb",
        "session_id=%0d%0aX-Evil:%201",
        "last_event_id=abc",
        "last_event_id=1-0",
        "last_event_id=99999999999999999999-1",
        "format=xml",
        "limit=0",
        "limit=99999999999999999999",
        "offset=-1",
        "offset=1.5",
        "include_inactive=perhaps",
        "include_messages=%00",
        "cursor=%ff",
        "cursor=" + "A" * 401,
        "q=%22*%20OR%20%00",
        "period=year",
        "since=nan",
        "since=1e999",
        "sessions=" + ",".join(["a"] * 300),
        "sessions=,,@,a@,@1-0",
        "stream=%00",
        "&&&==&;",
        "q=" + "y" * random_.choice((100, 9_000, 20_000)),
    )
    joint = "&" if "?" in mutant.target else "?"
    mutant.target += joint + random_.choice(extra)


def _path(mutant: Mutant, random_: random.Random) -> None:
    """Another place, or the same one written strangely."""
    path, mark, query = mutant.target.partition("?")
    match random_.randrange(7):
        case 0:
            path = path + "/"
        case 1:
            path = "/" + path
        case 2:
            path = path.replace("api", "%61pi")
        case 3:
            path = random_.choice(
                ("/api", "/api/", "/api/nothing", "/%2e%2e/%2e%2e/etc/passwd", "/assets/x", "/\x7f", "*")
            )
        case 4:
            path = path[: random_.randrange(len(path)) or 1] or "/"
        case 5:
            path = path.upper()
        case _:
            path = f"{path}/{random_.choice(('%00', 'é', '..', 'x' * 10_000, '%ff'))}"
    mutant.target = path + mark + query


def _header(mutant: Mutant, random_: random.Random) -> None:
    """A header too many, another value, or none."""
    if random_.random() < 0.15 and mutant.headers:
        mutant.headers.pop(random_.randrange(len(mutant.headers)))
        return
    mutant.headers.append((random_.choice(HEADERS), random_.choice(HEADER_VALUES)))


def _method(mutant: Mutant, random_: random.Random) -> None:
    """Another method."""
    mutant.method = random_.choice(METHODS)


def _length(mutant: Mutant, random_: random.Random) -> None:
    """A length that is not the body's. Seldom: what waits for more takes its time."""
    if random_.random() < 0.2:
        mutant.length = random_.choice(("0", "1", "99999", "-5", "x", "1e3", "18446744073709551616"))


def _chunks(mutant: Mutant, random_: random.Random) -> None:
    """A chunked body, well or badly made."""
    body = mutant.body or b"{}"
    chunked = random_.choice(
        (
            b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
            b"%x\r\n%b\r\n0\r\n\r\n" % (len(body) + 5, body),
            b"zz\r\n%b\r\n0\r\n\r\n" % body,
            b"0\r\n\r\n",
            b"%x;ext=1\r\n%b\r\n0\r\nTrailer: x\r\n\r\n" % (len(body), body),
        )
    )
    headers = [*mutant.headers, ("Transfer-Encoding", "chunked")]
    head = "\r\n".join([f"{mutant.method} {mutant.target} HTTP/1.1", *(f"{n}: {v}" for n, v in headers)])
    mutant.raw = head.encode("utf-8", "surrogateescape") + b"\r\n\r\n" + chunked


def _not_http(mutant: Mutant, random_: random.Random) -> None:
    """Bytes that are no request."""
    whole = mutant.encode()
    match random_.randrange(5):
        case 0:
            mutant.raw = random_.randbytes(random_.randrange(1, 400)) + b"\r\n\r\n"
        case 1:
            mutant.raw = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random_.randbytes(100) + b"\r\n\r\n"
        case 2:
            mutant.raw = whole.replace(b"HTTP/1.1", random_.choice((b"HTTP/9.9", b"HTTP/1.0", b"SPDY", b"")), 1)
        case 3:
            at = random_.randrange(len(whole))
            mutant.raw = whole[:at] + random_.randbytes(3) + whole[at:]
        case _:
            mutant.raw = whole.replace(b"\r\n", b"\n")


MUTATIONS: tuple[tuple[Callable[[Mutant, random.Random], None], int], ...] = (
    (_value, 30),
    (_bytes, 18),
    (_query, 16),
    (_header, 20),
    (_path, 8),
    (_method, 5),
    (_length, 2),
    (_chunks, 3),
    (_not_http, 2),
)


def mutant(random_: random.Random) -> Mutant:
    """The next mutant."""
    made = _originals(random_)
    chosen = random_.choices([m for m, _ in MUTATIONS], [w for _, w in MUTATIONS], k=random_.choice((1, 1, 2, 3)))
    # What gives up the parts for raw bytes comes last, so that the others have something to change.
    for mutation in sorted(chosen, key=lambda m: m in (_chunks, _not_http)):
        mutation(made, random_)
        made.done.append(mutation.__name__.strip("_"))
    return made


# --- and what comes back ----------------------------------------------------------------------------------------------


async def judge(base_url: str, made: Mutant) -> str:
    """Send a mutant; gives the status class of its answer.

    Raises:
        Violation: a 500, no answer, or an error that is no problem document.
    """
    data = made.encode()
    what = f"{'+'.join(made.done)}: {data[:600]!r}{'…' if len(data) > 600 else ''}"
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            connection = await Connection.open(base_url)
            try:
                connection.send(data)
                status, headers = await connection.head()
                connection.begin_body(headers, method=made.method, status=status)
                kind = headers.get("content-type", "").partition(";")[0]
                # A stream that was opened after all goes on for ever: its first bytes are enough.
                body = await (connection.piece() if kind == "text/event-stream" else connection.rest())
            finally:
                connection.abort()
    except (ConnectionError, ProtocolViolation) as error:
        if made.may_get_no_answer:
            return "none"
        raise Violation(f"no answer ({error!r}) to {what}") from error
    except TimeoutError:
        if made.may_get_no_answer:
            return "none"
        raise Violation(f"no answer in {ANSWER_SECONDS} s to {what}") from None
    if status >= 500 and status != 503:
        raise Violation(f"{status} {body[:300]!r} for {what}")
    if status >= 400:
        if kind != PROBLEM:
            raise Violation(f"{status} as {kind!r} for {what}")
        if (made.method != "HEAD" and made.raw is None) or body:
            problem = json.loads(body)
            if not problem.keys() >= PROBLEM_FIELDS or problem["status"] != status:
                raise Violation(f"{status} with {body[:300]!r} for {what}")
    return f"{status // 100}xx"


@asynccontextmanager
async def opened(folder: Path, *, requests: int = REQUESTS_PER_ROUND) -> AsyncIterator[Round]:
    """Rounds on one server.

    Args:
        requests: of a round.
    """
    settings = {"body_timeout_seconds": BODY_TIMEOUT_SECONDS, "header_timeout_seconds": 2 * BODY_TIMEOUT_SECONDS}
    settings |= {"password_memory_kib": 64, "password_rounds": 1}
    async with story_server(folder / "data", **settings) as server, Checker(server.base_url) as checker:
        pid = server.pid

        async def one(number: int, random_: random.Random) -> Counter[str]:
            counted: Counter[str] = Counter(requests=requests)
            mutants = iter([mutant(random_) for _ in range(requests)])

            async def work() -> None:
                for made in mutants:
                    counted[await judge(server.base_url, made)] += 1

            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(work())
            health = await checker.request("GET", "/health")
            if health.status != 200 or not server.running or server.pid != pid:
                raise Violation(f"after round {number} /health is {health.status}, the process {server.running}")
            log = server.log()
            if fault := next((f for f in FAULTS if f in log), None):
                at = log.index(fault)
                raise Violation(f"the log says {log[max(0, at - 300) : at + 2000]}")
            return counted

        yield one


CAMPAIGN = Campaign(
    name="mutate",
    promise="Mutated requests (bodies, queries, headers, request lines): each is answered, none with a 500, every "
    "error is a problem document, and the process goes on.",
    rounds=100,
    open=opened,
)
