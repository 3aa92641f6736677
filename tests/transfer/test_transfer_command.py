"""`chatserver export` and `chatserver import` as an operator runs them, beside servers and without."""

from __future__ import annotations

import asyncio
import os
import pty
import sqlite3
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest

from chatserver.config import Settings
from chatserver.store.base import SessionKey
from chatserver.store.sql import open_store
from tests.checker import Checker
from tests.conformance.test_store_whole import a_tree
from tests.server import ROOT, ServerProcess
from tests.transfer.build import write_session

EX_CONFIG = 78


async def chatserver(*args: str | Path) -> tuple[int, str, str]:
    """Run a command; its status, output and errors."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "chatserver",
        *map(str, args),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def say(checker: Checker, session_id: str, text: str) -> None:
    """Send a message and wait for its answer."""
    async with checker.follow(session_id) as stream:
        sent = await checker.send(session_id, text)
        await stream.until_ended(sent.turn_id)


async def test_sessions_move_from_one_server_to_another(tmp_path: Path) -> None:
    """Exported beside the running server; the state that the other one gives is the same, and the talk goes on."""
    async with ServerProcess(tmp_path / "one") as one, Checker(one.base_url) as checker:
        for number in range(5):
            await say(checker, f"s-{number}", f"/say hello {number}")
        states = [await checker.state(f"s-{number}") for number in range(5)]

        status, out, err = await chatserver("export", tmp_path / "out", "--data-dir", tmp_path / "one")

    assert (status, err) == (0, "")
    assert out == f"exported 5 sessions with 10 messages to {tmp_path / 'out'}\n"
    status, out, err = await chatserver("import", tmp_path / "out", "--data-dir", tmp_path / "two")
    assert (status, err) == (0, "")
    assert out == "imported 5 sessions with 10 messages, replaced 0; 0 were there already\n"
    async with ServerProcess(tmp_path / "two") as two, Checker(two.base_url) as checker:
        for number, before in enumerate(states):
            after = await checker.state(f"s-{number}")
            assert after | {"position": None} == before | {"position": None}
        await say(checker, "s-0", "/say again")


async def test_importing_beside_a_server_is_refused(tmp_path: Path) -> None:
    """The server holds sessions in memory: what came into its database behind its back would be overwritten."""
    write_session(tmp_path / "in", a_tree())
    async with ServerProcess(tmp_path / "data") as server, Checker(server.base_url) as checker:
        await checker.send("session-1", "/say mine")

        status, out, err = await chatserver("import", tmp_path / "in", "--data-dir", tmp_path / "data", "--replace")

        assert (status, out) == (EX_CONFIG, "")
        assert err == f"chatserver: {tmp_path / 'data' / 'chatserver.db'} is already used by process {server.pid}\n"
        assert (await checker.state("session-1"))["messages"][0]["content"] == "/say mine"


async def test_what_is_left_out_is_told_and_shown_in_the_status(tmp_path: Path) -> None:
    """Status 1, a line for each, and a sum."""
    write_session(tmp_path / "in", a_tree())
    (tmp_path / "in" / "projects" / "p-1" / "chat_sessions" / "bad\n\x1b[31m").mkdir()

    status, out, err = await chatserver("import", tmp_path / "in", "--data-dir", tmp_path / "data")

    assert status == 1
    assert out == (
        "imported 1 sessions with 4 messages, replaced 0; 0 were there already\n"
        "left out 1: 1 cannot be read, 0 differ from what is stored\n"
    )
    assert err.startswith("projects/p-1/chat_sessions/bad")
    assert err.count("\n") == 1
    assert err[:-1].isprintable()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["export", "out", "--data-dir", "nowhere"], "nowhere/chatserver.db cannot be read: No such file or directory"),
        (["export", "full", "--data-dir", "nowhere"], "full is not empty"),
        (["import", "nowhere"], "nowhere cannot be read: No such file or directory"),
        (["import", "full"], "full: it holds neither projects/ nor chat_sessions/"),
        (["import", "full", "--owner", "user:1"], "--owner 'user:1': not OLD=NEW"),
        (["import", "full", "--owner", "user:1=root"], "not OLD=NEW with a NEW like user:ID, or none"),
    ],
)
async def test_what_cannot_be_done_is_said_in_one_line(tmp_path: Path, args: list[str], said: str) -> None:
    """With the status of a wrong configuration, and nothing made."""
    (tmp_path / "full" / "something").mkdir(parents=True)
    paths = [str(tmp_path / a) if a in ("out", "full", "nowhere") else a for a in args]

    status, out, err = await chatserver(*paths)

    assert (status, out) == (EX_CONFIG, "")
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("damaged", ["sessions", "messages"])
async def test_a_session_that_cannot_be_read_is_left_out_of_an_export(tmp_path: Path, damaged: str) -> None:
    """It is named, nothing of it stays in the folder, and the others are there."""
    store = await open_store(Settings(data_dir=tmp_path / "data"))
    for name in ("s-1", "s-2", "s-3"):
        await store.import_session(a_tree(SessionKey("public", name)), replace=False)
    await store.close()
    with closing(sqlite3.connect(tmp_path / "data" / "chatserver.db", isolation_level=None)) as database:
        database.execute(f"UPDATE {damaged} SET metadata = '{{' WHERE session_id = 's-2'")

    status, out, err = await chatserver("export", tmp_path / "out", "--data-dir", tmp_path / "data")

    assert status == 1
    assert out.startswith("exported 2 sessions with 8 messages to ")
    assert out.endswith("left out 1, which cannot be read\n")
    assert err == "s-2: what is stored of session 's-2' cannot be read\n"
    assert [p.name for p in (tmp_path / "out").rglob("*s-*")] in (["s-1", "s-3"], ["s-3", "s-1"])


async def test_a_terminal_is_shown_how_far_an_export_and_an_import_are(tmp_path: Path) -> None:
    """As a bar that counts sessions; whoever reads the output without a terminal gets none of it."""
    for number in range(3):
        write_session(tmp_path / "in", a_tree(SessionKey("public", f"s-{number}")))
    data = str(tmp_path / "data")
    for title, args in (
        ("Importing", ["import", str(tmp_path / "in"), "--data-dir", data]),
        ("Exporting", ["export", str(tmp_path / "out"), "--data-dir", data]),
    ):
        shown, out = await on_a_terminal(*args)
        assert title in shown
        assert "3/3" in shown
        assert title not in out


async def on_a_terminal(*args: str) -> tuple[str, str]:
    """Run a command whose errors go to a terminal; what that shows, and the output."""
    ours, theirs = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "chatserver",
            *args,
            cwd=ROOT,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
            stdout=asyncio.subprocess.PIPE,
            stderr=theirs,
        )
        os.close(theirs)
        async with asyncio.timeout(60):
            shown, (out, _) = await asyncio.gather(asyncio.to_thread(_read_all, ours), process.communicate())
        assert process.returncode == 0
    finally:
        os.close(ours)
    return shown, out.decode()


def _read_all(descriptor: int) -> str:
    pieces = []
    with suppress(OSError):  # Linux's way to say that nobody writes any more
        while piece := os.read(descriptor, 65536):
            pieces.append(piece)
    return b"".join(pieces).decode()
