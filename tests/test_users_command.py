"""`chatserver users`: the operator's commands, beside a stopped and a running server, as real processes."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner

from chatserver.cli import main
from tests.server import ROOT, ServerProcess

PASSWORD = "canary correct horse"
CHEAP = {"CHATSERVER_PASSWORD_MEMORY_KIB": "64", "CHATSERVER_PASSWORD_ROUNDS": "1"}


def users(data: Path, *args: str, stdin: str = "") -> tuple[int, str]:
    """Run `chatserver users …` in this process; its status and both outputs."""
    result = CliRunner(env=CHEAP).invoke(main, ["users", *args, "--data-dir", str(data)], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


async def users_process(data: Path, *args: str, stdin: str = "") -> tuple[int, str]:
    """The same as a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "chatserver", "users", *args, "--data-dir", str(data)),
        cwd=ROOT,
        env={**os.environ, **CHEAP},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate(stdin.encode())
    return process.returncode or 0, output.decode()


def test_users_are_made_and_listed_without_a_server(tmp_path: Path) -> None:
    """On a fresh machine, too: the database is made."""
    for args in (("ann",), ("bob", "--tenant", "acme", "--admin"), ("Zoë",)):
        status, output = users(tmp_path / "data", "add", *args, "--password-stdin", stdin=f"{PASSWORD}\n")
        assert status == 0, output
        assert PASSWORD not in output
        assert ("it is new" in output) == (args == ("ann",))

    status, output = users(tmp_path / "data", "list")

    assert status == 0
    assert [line.split("\t")[:4] for line in output.splitlines()] == [
        ["acme", "bob", "enabled", "admin"],
        ["public", "ann", "enabled", "-"],
        ["public", "zoë", "enabled", "-"],
    ]


@pytest.mark.parametrize("args", [("list",), ("disable", "ann"), ("passwd", "ann", "--password-stdin")], ids=repr)
def test_a_folder_without_a_database_is_told_and_stays_without(args: tuple[str, ...], tmp_path: Path) -> None:
    """Whoever forgets --data-dir would look at no users, in a database that nobody uses."""
    status, output = users(tmp_path / "wrong", *args, stdin=PASSWORD)

    assert status == 78
    assert (
        output
        == f"chatserver: there is no database {tmp_path}/wrong/chatserver.db; --data-dir names the server's folder\n"
    )
    assert not (tmp_path / "wrong").exists()


def test_a_password_is_asked_for_twice_and_never_shown(tmp_path: Path) -> None:
    """Where a person sits at a terminal."""
    status, output = users(tmp_path / "data", "add", "ann", stdin=f"{PASSWORD}\n{PASSWORD}\n")

    assert status == 0, output
    assert PASSWORD not in output


@pytest.mark.parametrize(
    ("args", "stdin", "told"),
    [
        (("add", "ann", "--password-stdin"), PASSWORD, "the name is taken"),
        (("add", "a b", "--password-stdin"), PASSWORD, "username"),
        (("add", "bob", "--password-stdin"), "short", "8 to 256 characters"),
        (("add", "bob", "--password-stdin"), "", "8 to 256 characters"),
        (("add", "bob", "--tenant", "a/b", "--password-stdin"), PASSWORD, "tenant"),
        (("passwd", "nobody", "--password-stdin"), PASSWORD, "there is no user 'nobody'"),
        (("passwd", "ann", "--tenant", "acme", "--password-stdin"), PASSWORD, "in tenant 'acme'"),
        (("disable", "nobody"), "", "there is no user 'nobody'"),
    ],
    ids=repr,
)
def test_what_cannot_be_done_is_told_in_one_line(args: tuple[str, ...], stdin: str, told: str, tmp_path: Path) -> None:
    """No traceback, a status that says so, and nothing changed."""
    assert users(tmp_path, "add", "ann", "--password-stdin", stdin=PASSWORD)[0] == 0
    before = users(tmp_path, "list")

    status, output = users(tmp_path, *args, stdin=stdin)

    assert status == 1
    assert told in output
    assert output.count("\n") == 1
    assert PASSWORD not in output
    assert users(tmp_path, "list") == before


def test_a_database_in_memory_has_no_users_for_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would be gone when it ends: refused, like a database that is none."""
    monkeypatch.setenv("CHATSERVER_DATABASE_URL", ":memory:")

    status, output = users(tmp_path, "list")

    assert status == 78
    assert "in memory" in output


async def test_a_running_server_follows_the_command(tmp_path: Path) -> None:
    """Made while it runs: can log in. New password: logged out everywhere, stream included. Disabled: kept out."""
    settings = {"password_memory_kib": 64, "password_rounds": 1, "login_attempts_per_minute": 1000}
    async with ServerProcess(tmp_path / "data", settings=settings) as server, aiohttp.ClientSession() as http:

        async def login(password: str) -> int:
            body = {"tenant": "acme", "username": "ann", "password": password}
            async with http.post(f"{server.base_url}/api/auth/login", json=body) as response:
                headers["Authorization"] = f"Bearer {(await response.json()).get('token')}"
                return response.status

        headers: dict[str, str] = {}
        data = tmp_path / "data"
        add = ("add", "ann", "--tenant", "acme", "--password-stdin")
        assert (await users_process(data, *add, stdin=PASSWORD))[0] == 0
        assert await login(PASSWORD) == 200

        stream = await http.get(f"{server.base_url}/api/chat/stream?session_id=s", headers=headers)
        assert stream.status == 200
        passwd = ("passwd", "ann", "--tenant", "acme", "--password-stdin")
        assert (await users_process(data, *passwd, stdin="another canary"))[0] == 0
        async with asyncio.timeout(60):
            assert b'"signed_out"' in await stream.content.read()
        assert await login(PASSWORD) == 401
        assert await login("another canary") == 200

        assert (await users_process(data, "disable", "ann", "--tenant", "acme"))[0] == 0
        assert await login("another canary") == 401
        status, output = await users_process(data, "disable", "ann", "--tenant", "acme", "--undo")
        assert status == 0
        assert "enabled" in output
        assert await login("another canary") == 200
        assert (await users_process(data, "list"))[1].count("ann") == 1

        assert (await server.terminate()) < 25
        log = server.log()
    assert "canary" not in log
