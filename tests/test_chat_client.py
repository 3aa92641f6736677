"""The client's parts: frames, resuming, sending once; and `chatserver chat` in a pipe. On a real server."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatserver.chat_client import ClientError, FrameParser, Received, SessionClient
from chatserver.chat_conversation import Conversation
from chatserver.chat_terminal import finished_until
from chatserver.chat_text import plain
from chatserver.events import Position
from tests.chat_pty import serving
from tests.checker import Checker
from tests.server import ServerProcess

FRAMES = b'retry: 2000\n\nid: 1-0\ndata: {"a": 1}\n\n: comment\n\ndata: {"b"\ndata: : 2}\n\nid:2-0\ndata:{}\n\n'


@given(st.lists(st.integers(0, len(FRAMES)), max_size=8))
def test_frames_are_read_whatever_their_boundaries(cuts: list[int]) -> None:
    """A network cuts where it likes."""
    parser = FrameParser()
    edges = [0, *sorted(cuts), len(FRAMES)]

    found = [frame for a, b in itertools.pairwise(edges) for frame in parser.feed(FRAMES[a:b])]

    assert found == [("1-0", '{"a": 1}'), (None, '{"b"\n: 2}'), ("2-0", "{}")]


def test_an_endless_frame_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no chatserver must not fill the memory."""
    monkeypatch.setattr("chatserver.chat_client.MAX_FRAME_BYTES", 1000)

    with pytest.raises(ValueError, match="1000"):
        list(FrameParser().feed(b"data: " + b"x" * 2000))


@given(st.text())
def test_plain_text_has_nothing_that_a_terminal_acts_on(text: str) -> None:
    """Line ends and tabs stay; escapes, bells, C1 controls and marks that reorder text go."""
    shown = plain(text)

    assert all(character in "\n\t" or not (ord(character) < 32 or 127 <= ord(character) < 160) for character in shown)
    assert not set(shown) & {chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
    assert plain("naïve \x1b[31m日本\x07\u202e") == "naïve [31m日本"
    shown.encode()


@pytest.mark.parametrize(
    ("text", "finished"),
    [
        ("", 0),
        ("one", 0),
        ("one\n\n", 5),
        ("one\n\ntwo", 5),
        ("one\n\ntwo\n\nthree", 10),
        ("```\ncode\n\nmore", 0),
        ("a\n\n```\ncode\n\n```\n\nb", 18),
        ("~~~\n```\n\n~~~\n\n", 14),
    ],
)
def test_only_whole_paragraphs_outside_of_code_are_finished(text: str, finished: int) -> None:
    """What is printed for good must not change its meaning by what comes after."""
    assert finished_until(text, 0) == finished


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server for all tests here that do not harm it."""
    with serving(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture
def session_id() -> str:
    """A session of the test's own."""
    return f"s-{uuid.uuid4().hex[:8]}"


class Proxy:
    """Passes connections on and cuts each of them as `limits` says, bytes of answers, the last one for all others."""

    def __init__(self, target: str, *limits: int | None) -> None:
        self.host, _, port = target.removeprefix("http://").partition(":")
        self.port = int(port)
        self.limits = list(limits)
        self.connections = 0
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = listener.sockets[0].getsockname()
        self.url = f"http://{host}:{port}"
        async with listener:
            yield self
            listener.close()
            listener.close_clients() if sys.version_info >= (3, 13) else None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        limit = self.limits.pop(0) if len(self.limits) > 1 else self.limits[0]
        self.connections += 1
        upstream_reader, upstream_writer = await asyncio.open_connection(self.host, self.port)

        async def there() -> None:
            while data := await reader.read(65536):
                upstream_writer.write(data)

        async def back() -> None:
            left = limit
            while data := await upstream_reader.read(65536 if left is None else min(65536, max(1, left))):
                writer.write(data)
                await writer.drain()
                if left is not None and (left := left - len(data)) <= 0:
                    return

        tasks = [asyncio.ensure_future(there()), asyncio.ensure_future(back())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for closing in (writer, upstream_writer):
                closing.close()


async def _until(events: AsyncIterator[Received], found: Callable[[Received], bool]) -> list[Received]:
    received = []
    async with asyncio.timeout(60):
        async for event in events:
            received.append(event)
            if found(event):
                return received
    raise AssertionError("the stream ended")


async def test_a_connection_cut_again_and_again_loses_and_doubles_nothing(
    address: str, session_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resumed after the last event each time, ids are consecutive and the text is the stored one."""
    monkeypatch.setattr("chatserver.chat_client.FIRST_BACKOFF_SECONDS", 0.01)
    proxy = Proxy(address, 900, 2500, 700, 4000, 1200, 1800, None)
    troubles: list[str | None] = []
    async with (
        proxy.running(),
        SessionClient(address, session_id) as sender,
        SessionClient(proxy.url, session_id, on_trouble=troubles.append) as client,
    ):
        sent = await sender.send("/tokens 400 every 3")
        events = client.events()
        received = await _until(events, lambda r: r.event["type"] == "turn.ended")
        await events.aclose()  # type: ignore[attr-defined]  # an async generator
        state = await sender.state()

    assert proxy.connections >= 7
    assert None in troubles
    conversation = Conversation()
    last: Position | None = None
    for item in received:
        conversation.apply(item.event)
        if item.position is not None and item.event["type"] != "snapshot" and last is not None:
            assert item.position == Position(last.fence, last.n + 1) or item.position.n == 0
        last = item.position or last
    assert conversation.messages[state["messages"][-1]["id"]]["content"] == state["messages"][-1]["content"]
    assert not conversation.busy
    assert sent["turn_id"]


async def test_a_message_whose_answer_is_lost_is_stored_once(
    address: str, session_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks after the server has committed; the repetition gets the same turn."""
    monkeypatch.setattr("chatserver.chat_client.FIRST_BACKOFF_SECONDS", 0.01)
    proxy = Proxy(address, 20, 20, None)
    async with proxy.running(), SessionClient(proxy.url, session_id) as client:
        sent = await client.send("/say once")
        async with Checker(address) as checker:
            state = await checker.settle(session_id)

    assert proxy.connections == 3
    assert [m["content"] for m in state["messages"] if m["role"] == "user"] == ["/say once"]
    assert sent["turn_id"]


async def test_a_refusal_is_told_with_its_code_and_not_tried_again(address: str, session_id: str) -> None:
    """A model that does not exist will not exist a second later."""
    async with SessionClient(address, session_id) as client:
        with pytest.raises(ClientError) as refused:
            await client.send("hello", model="nothing")

    assert refused.value.narrow_code == "unknown_model"
    assert refused.value.final


async def test_what_waiting_cannot_mend_ends_the_stream(address: str) -> None:
    """An id that no session can have is refused for good."""
    async with SessionClient(address, "not an id") as client:
        with pytest.raises(ClientError) as refused:
            await anext(client.events())  # type: ignore[arg-type]  # an async generator

    assert refused.value.narrow_code == "invalid_session_id"


# --- in a pipe -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def piped(address: str, *flags: str) -> AsyncIterator[asyncio.subprocess.Process]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "chatserver", "chat", "--url", address, *flags),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=env,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ask(address: str, message: str, *flags: str) -> tuple[int, str, str]:
    """Status, output and errors of `echo message | chatserver chat`."""
    async with piped(address, *flags) as process, asyncio.timeout(60):
        output, errors = await process.communicate(message.encode())
        assert process.returncode is not None
        return process.returncode, output.decode(), errors.decode()


async def test_a_piped_question_prints_its_answer_and_nothing_else(address: str) -> None:
    """Plain text, complete, one line end at its end, status 0."""
    assert await ask(address, "/say # An *answer*\n/tokens 3\n") == (0, "# An *answer*t0 t1 t2 \n", "")


async def test_a_failed_answer_gives_status_1_and_what_there_was(address: str) -> None:
    """The part that exists on standard output, the reason on standard error."""
    status, output, errors = await ask(address, "/say half\n/fail upstream_timeout")

    assert (status, output) == (1, "half\n")
    assert errors == "chatserver chat: The script says so. (upstream_timeout)\n"


async def test_a_piped_question_waits_for_its_turn(address: str, session_id: str) -> None:
    """In a busy session it is queued, and only its own answer is printed."""
    async with SessionClient(address, session_id) as client:
        await client.send("/tokens 40 every 10")

        assert await ask(address, "/say mine", "--session", session_id) == (0, "mine\n", "")


async def test_an_address_without_a_scheme_is_of_http(address: str) -> None:
    """As every other program of the terminal takes it."""
    assert await ask(address.removeprefix("http://"), "/say here") == (0, "here\n", "")


async def test_nothing_to_send_and_nobody_there_give_status_1(address: str) -> None:
    """Each with its reason in one line."""
    assert await ask(address, " \n") == (1, "", "chatserver chat: there is nothing to send\n")
    status, output, errors = await ask("http://127.0.0.1:9", "hello")
    assert (status, output) == (1, "")
    assert "cannot be reached: nothing listens there" in errors
    assert errors.count("\n") == 1
    status, _, errors = await ask(address.replace("http:", "https:"), "hello")
    assert status == 1
    assert "does not speak https" in errors
    status, _, errors = await ask("not an address", "hello")
    assert status == 1
    assert errors.count("\n") == 1


async def test_a_tool_call_that_needs_a_person_is_denied_in_a_pipe(tmp_path: Path) -> None:
    """Nobody can be asked; the answer goes on without it, and standard error says so."""
    servers = json.dumps([{"name": "time", "command": ["mcp-server-time"], "approval": "always"}])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    async with ServerProcess(tmp_path / "data", settings={"mcp_servers": servers}, env={"PATH": path}) as server:
        status, output, errors = await ask(server.base_url, '/tool time.get_current_time {"timezone": "UTC"}')

    assert (status, output) == (0, "error: The call of get_current_time was denied by the user.\n")
    assert errors == "chatserver chat: time.get_current_time needs an approval and is denied\n"


async def test_ctrl_c_in_a_pipe_stops_the_answer_at_the_server(address: str, session_id: str) -> None:
    """Nobody pays for an answer that nobody waits for."""
    async with piped(address, "--session", session_id) as process, Checker(address) as checker:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"/tokens 100000 every 20")
        process.stdin.close()
        await process.stdout.readuntil(b"t5 ")
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(60):
            assert await process.wait() == 130
        state = await checker.state(session_id)

    assert state["is_processing"] is False
    assert state["messages"][-1]["status"] == "interrupted"


async def test_a_reader_that_leaves_early_is_no_crash(address: str) -> None:
    """`chatserver chat | head -c 5`: no traceback."""
    async with piped(address) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"/tokens 2000 every 1")
        process.stdin.close()
        await process.stdout.readexactly(5)
        process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]  # asyncio offers no other way
        async with asyncio.timeout(60):
            status = await process.wait()
        assert process.stderr is not None
        errors = (await process.stderr.read()).decode()

    assert status == 1
    assert "Traceback" not in errors


def test_conversation_takes_unknown_events_and_unknown_messages() -> None:
    """Later servers say more; a message outside the window is not an error."""
    conversation = Conversation()
    for event in (
        {"type": "of.tomorrow", "session_id": session_id},
        {"type": "text.delta", "message_id": "unknown", "text": "x", "turn_id": "t"},
        {"type": "tool.returned", "message_id": "unknown", "call_id": "c", "result": {}, "turn_id": "t"},
        {"type": "turn.ended", "message_id": "unknown", "outcome": "completed", "turn_id": "t"},
    ):
        conversation.apply(event)

    assert conversation.messages == {}


CONTRACT = sorted((Path(__file__).parent / "contract").glob("*.json"))


@pytest.mark.parametrize("path", CONTRACT, ids=lambda path: path.stem)
def test_conversation_agrees_with_the_recorded_states(path: Path) -> None:
    """What this small reading keeps is what the server's own has, after every step."""
    vector = json.loads(path.read_text())
    conversation = Conversation()
    conversation.apply({"type": "snapshot", "state": vector["initial"]})
    for step in vector["steps"]:
        conversation.apply(step["event"])
        state = step["state"]
        known = {m["id"]: m for m in state["messages"]}
        shown = {i: m for i, m in conversation.messages.items() if i in known}
        assert {i: (m["content"], m["status"], m["tool_calls"]) for i, m in shown.items()} == {
            i: (m["content"], m["status"], m["tool_calls"]) for i, m in known.items()
        }
        assert conversation.active_turn_id == state["active_turn_id"]
        assert conversation.queued == {q["turn_id"] for q in state["queue"]}
        assert set(conversation.approvals) == {a["id"] for a in state["pending_approvals"]}
        assert (conversation.model, conversation.title) == (state["model"], state["title"])
