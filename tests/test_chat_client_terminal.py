"""`chatserver chat` with a person at it: a real server, a real pseudo-terminal."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from chatserver.chat_client import SessionClient
from tests.chat_pty import Screen, serving
from tests.checker import Checker
from tests.server import ServerProcess


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server for all tests here that do not harm it."""
    with serving(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture
def session_id() -> str:
    """A session of the test's own."""
    return f"s-{uuid.uuid4().hex[:8]}"


@asynccontextmanager
async def chatting(address: str, session_id: str, home: Path) -> AsyncIterator[Screen]:
    """The client at its first prompt."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("CHATSERVER_", "PYTHON"))}
    argv = [sys.executable, "-m", "chatserver", "chat", "--url", address, "--session", session_id]
    async with Screen(argv, env | {"HOME": str(home), "INPUTRC": "/dev/null"}) as screen:
        await screen.until("/help lists commands.")
        await screen.until("> ")
        yield screen


async def test_a_line_is_answered_and_the_prompt_comes_back(address: str, session_id: str, tmp_path: Path) -> None:
    """Twice, with the answer once on the screen each time, and Ctrl-D ends it well."""
    async with chatting(address, session_id, tmp_path) as screen:
        for word in ("zebra", "giraffe"):
            screen.type(f"/say An *emphatic* {word}.\r")
            await screen.until(f"An emphatic {word}.")
            await screen.until("> ")
        screen.press_ctrl("d")

        assert await screen.ended() == 0
        assert b"\x1b[" in screen.raw


async def test_ctrl_c_stops_the_answer_and_at_the_prompt_ends_the_client(
    address: str, session_id: str, tmp_path: Path
) -> None:
    """The first one is for the agent, and the server sees it; the second one leaves, with the terminal as it was."""
    async with chatting(address, session_id, tmp_path) as screen, Checker(address) as checker:
        screen.type("/tokens 100000 every 20\r")
        await screen.until("t3 ")
        screen.press_ctrl("c")
        await screen.until("(stopped)")
        await screen.until("> ")
        state = await checker.state(session_id)
        screen.press_ctrl("c")

        assert await screen.ended() == 0
        assert state["messages"][-1]["status"] == "interrupted"
        assert state["is_processing"] is False
        assert screen.echoes, "the terminal is left as it was found"


PARAGRAPHS = """
async def reply(turn):
    for n in range(60):
        yield f"paragraph-{n} "
        yield "ends here\\n\\n"
        yield "```\\ncode\\n\\nmore code\\n```\\n\\n" if n == 30 else ""
"""


async def test_an_answer_longer_than_the_screen_is_shown_once_and_whole(tmp_path: Path) -> None:
    """Finished paragraphs are printed for good; only the last one is drawn again."""
    (tmp_path / "paragraphs.py").write_text(PARAGRAPHS)
    server = ServerProcess(
        tmp_path / "data",
        settings={"default_model": None},
        flags=("--agent", "paragraphs:reply"),
        env={"PYTHONPATH": str(tmp_path)},
    )
    async with server, chatting(server.base_url, "long", tmp_path) as screen:
        screen.type("tell me everything\r")
        await screen.until("paragraph-59 ends here")
        await screen.until("> ")

        shown = [line for line in screen.lines() if "paragraph-" in line or "code" in line]
        expected = [f"paragraph-{n} ends here" for n in range(60)]
        assert [line.strip() for line in shown] == [*expected[:31], "code", "more code", *expected[31:]]


async def test_what_others_write_in_the_session_is_shown(address: str, session_id: str, tmp_path: Path) -> None:
    """Another tab's message and its answer appear at an open prompt, which goes on working."""
    async with chatting(address, session_id, tmp_path) as screen, Checker(address) as checker:
        await checker.send(session_id, "/say answered elsewhere")
        await screen.until("/say answered elsewhere")
        await screen.until("answered elsewhere")
        await checker.system(session_id, "the network changed")
        await screen.until("[system] the network changed")
        screen.type("/say still here\r")
        await screen.until("still here\n")
        await screen.until("still here")


async def test_history_of_a_session_is_shown_at_the_start(address: str, session_id: str, tmp_path: Path) -> None:
    """Going on with a session means seeing where it was."""
    async with Checker(address) as checker, checker.follow(session_id) as stream:
        sent = await checker.send(session_id, "/say earlier words")
        await stream.until_ended(sent.turn_id)

    async with chatting(address, session_id, tmp_path) as screen:  # its prompt is that of the question
        assert await screen.until("earlier words") == "/say "
        await screen.until("earlier words")
        await screen.until("> ")


async def test_a_killed_server_is_waited_for_and_nothing_is_shown_twice(tmp_path: Path) -> None:
    """The client says what is going on, marks the cut answer, and talks on by itself."""
    async with ServerProcess(tmp_path / "data") as server, chatting(server.base_url, "s", tmp_path) as screen:
        screen.type("/tokens 100000 every 20\r")
        await screen.until("t30 ")
        await server.kill9()
        await screen.until("trying again")
        async with ServerProcess(server.data_dir, flags=("--port", server.base_url.rpartition(":")[2])):
            await screen.until("(stopped)")
            await screen.until("> ")
            screen.type("/say back again\r")
            await screen.until("back again\n")
            await screen.until("back again")
            await screen.until("> ")

        tokens = re.findall(r"\bt\d+\b", " ".join(screen.lines()).partition("(stopped)")[0])
        assert tokens == [f"t{n}" for n in range(len(tokens))]
        assert tokens


async def test_commands_work(address: str, session_id: str, tmp_path: Path) -> None:
    """/help, /model, /tools, /system and /quit; an unknown model is told with the known ones."""
    async with chatting(address, session_id, tmp_path) as screen, Checker(address) as checker:
        screen.type("/help\r")
        await screen.until("Everything else")
        screen.type("/model\r")
        await screen.until("* scripted")
        screen.type("/model nothing\r")
        await screen.until("There is no model 'nothing'")
        screen.type("/model scripted\r")
        await screen.until("scripted answers from the next message on.")
        screen.type("/tools\r")
        await screen.until("The session has no tools.")
        screen.type("/system be brief\r")
        await screen.until("[system] be brief")
        screen.type("/say done\r")
        await screen.until("done")  # as it is typed; the first answer's turn may still be ending meanwhile
        await screen.until("done")
        await screen.until("> ")
        state = await checker.state(session_id)
        screen.type("/quit\r")

        assert await screen.ended() == 0
        assert state["model"] == "scripted"
        assert state["messages"][0]["role"] == "system"


async def test_a_failed_answer_says_why(address: str, session_id: str, tmp_path: Path) -> None:
    """With the code, and the prompt comes back."""
    async with chatting(address, session_id, tmp_path) as screen:
        screen.type("/fail upstream_timeout\r")
        await screen.until("[upstream_timeout]")
        await screen.until("> ")


async def test_a_model_cannot_drive_the_terminal(address: str, session_id: str, tmp_path: Path) -> None:
    """Escape sequences in an answer are shown without their teeth: no window title, no cleared screen."""
    async with chatting(address, session_id, tmp_path) as screen, Checker(address) as checker:
        await checker.send(session_id, "/say before \x1b]0;owned\x07 \x1b[2J after \u202egnp.exe")
        await screen.until("after")
        screen.type("/say done\r")
        await screen.until("done\n")
        await screen.until("done")

        assert b"\x1b]0;" not in screen.raw
        assert b"\x1b[2J" not in screen.raw
        assert "\u202e".encode() not in screen.raw


async def test_a_server_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    """No traceback, status 1."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    argv = [sys.executable, "-m", "chatserver", "chat", "--url", "http://127.0.0.1:9"]
    async with Screen(argv, env | {"HOME": str(tmp_path)}) as screen:
        assert await screen.ended() == 1
        await screen.until("cannot be reached")
        assert "Traceback" not in screen.text


ASKING = json.dumps([{"name": "time", "command": ["mcp-server-time"], "approval": "always"}])
CALL = '/tool time.get_current_time {"timezone": "UTC"}\r'


async def test_a_tool_call_is_asked_about_and_shown(tmp_path: Path) -> None:
    """Approved it runs, denied it does not; what the tool said is shown either way."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    server = ServerProcess(tmp_path / "data", settings={"mcp_servers": ASKING}, env={"PATH": path})
    async with server, chatting(server.base_url, "s", tmp_path) as screen:
        screen.type(CALL)
        await screen.until("The agent wants to call time.get_current_time")
        await screen.until("Allow it? [y/n] ")
        screen.type("y\r")
        await screen.until('"timezone": "UTC"')
        await screen.until("> ")
        screen.type(CALL)
        await screen.until("Allow it? [y/n] ")
        screen.type("n\r")
        await screen.until("denied")
        await screen.until("> ")
        screen.type(CALL)
        await screen.until("Allow it? [y/n] ")
        screen.press_ctrl("c")
        await screen.until("(stopped)")
        screen.type("/say goes on\r")
        await screen.until("goes on\n")
        await screen.until("goes on")


async def test_a_tool_call_that_another_tab_decides_is_not_asked_about_any_more(tmp_path: Path) -> None:
    """The open question turns into the prompt, and what is typed then is a message."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    server = ServerProcess(tmp_path / "data", settings={"mcp_servers": ASKING}, env={"PATH": path})
    async with (
        server,
        chatting(server.base_url, "s", tmp_path) as screen,
        Checker(server.base_url) as checker,
    ):
        screen.type(CALL)
        await screen.until("Allow it? [y/n] ")
        approval = (await checker.state("s"))["pending_approvals"][0]
        await checker.command("s", "approve", {"approval_id": approval["id"]})
        await screen.until('"timezone": "UTC"')
        await screen.until("> ")
        screen.type("/say a message\r")
        async with SessionClient(server.base_url, "s") as watcher, asyncio.timeout(60):
            async for received in watcher.events():
                messages = received.event.get("state", {}).get("messages", [received.event.get("message", {})])
                if any(message.get("content") == "/say a message" for message in messages):
                    break
