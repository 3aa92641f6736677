"""The documentation says everything there is, says nothing that is not, and its examples run."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from chatserver import errors, events
from chatserver.agents.docs_sections import split
from chatserver.api import problems
from chatserver.api.commands import COMMANDS
from chatserver.api.routes import ROUTES
from chatserver.cli import main
from chatserver.config import IssuerConfig, McpServerConfig, ModelConfig, Settings, load
from chatserver.state import ChatState
from tests.checker import Checker
from tests.docs_source import DOCS, ROOT, Block, blocks, codes_in_source, pages, rows, section
from tests.server import ServerProcess

ADDRESS = "http://127.0.0.1:8080"

# --- completeness -----------------------------------------------------------------------------------------------------


def _shown(default: Any) -> str:
    """A default as configuration.md writes it: TOML, or a word where there is none."""
    match default:
        case None:
            return "unset"
        case _ if default is PydanticUndefined:
            return "required"
        case bool():
            return f"`{str(default).lower()}`"
        case str() | Path():
            return f'`"{default}"`'
        case tuple() | list():
            return "`[]`" if not default else f"`{list(default)}`"
        case _:
            return f"`{default}`"


@pytest.mark.parametrize(
    ("model", "headings"),
    [
        (ModelConfig, ["A model: [[models]]"]),
        (McpServerConfig, ["A tool server: [[mcp_servers]]"]),
        (IssuerConfig, ["An external login: [issuer]"]),
        (
            Settings,
            [
                "Where it listens and keeps its data",
                "Agents, models and tools",
                "Accounts",
                "Sessions",
                "Usage and quotas",
                "Turns",
                "Tools",
                "Streams",
                "HTTP",
                "Store",
            ],
        ),
    ],
)
def test_every_setting_is_documented_with_its_default(model: type[BaseModel], headings: list[str]) -> None:
    """configuration.md has a row for each, no row for what is gone, the right default, and a reason in words."""
    documented = {}
    for heading in headings:
        documented |= rows(section("configuration.md", heading))

    assert set(documented) == set(model.model_fields)
    assert {name: cells[0] for name, cells in documented.items()} == {
        name: _shown(field.default) for name, field in model.model_fields.items()
    }
    assert all(len(cells[1]) > 10 for cells in documented.values())


def test_every_flag_of_every_command_is_documented() -> None:
    """`serve` in configuration.md, the others on the page of what they do."""
    pages_by_command = {"serve": "configuration.md", "chat": "chat-client.md", "users": "accounts.md"} | dict.fromkeys(
        ("export", "import"), "backup.md"
    )

    assert isinstance(main, click.Group)
    for name, command in main.commands.items():
        text = (DOCS / pages_by_command[name]).read_text()
        for each in command.commands.values() if isinstance(command, click.Group) else [command]:
            for flag in [flag for parameter in each.params for flag in parameter.opts]:
                assert flag in text, f"{pages_by_command[name]} does not mention {flag} of {name}"


def test_every_route_is_documented_and_no_other() -> None:
    """http-api.md has a heading for each line of the URL table."""
    headings = set(re.findall(r"^## ((?:GET|POST|PUT|DELETE|PATCH) /\S*)$", (DOCS / "http-api.md").read_text(), re.M))
    # A path's pattern is the router's business: `{path:…}` is `{path}` to a reader.
    routes = {re.sub(r"\{(\w+):[^{}]*\}", r"{\1}", f"{route.method} {route.path}") for route in ROUTES}

    assert headings == routes


def test_every_command_is_documented_with_its_arguments() -> None:
    """`POST /api/mcp-command` lists them in a table: optional ones have a question mark."""
    documented = rows(section("http-api.md", "POST /api/mcp-command"))

    assert set(documented) - {"command", "args", "session_id"} == set(COMMANDS)
    for name, (model, _) in COMMANDS.items():
        shown = {f"{field}{'' if info.is_required() else '?'}" for field, info in model.model_fields.items()}
        assert set(re.findall(r"`(\w+\??)`", documented[name][0])) == shown, name


def test_every_event_is_documented_with_its_fields() -> None:
    """stream.md has a heading for each type, and names every field that it carries."""
    text = section("stream.md", "Which events are there?")
    headings = set(re.findall(r"^### (\S+)$", text, re.M))
    classes = {cls.type: cls for cls in events.Event.__args__}

    assert headings == {*classes, "snapshot", "ping", "goodbye"}
    for name, cls in classes.items():
        described = section("stream.md", name)
        for field in fields(cls):
            if field.name != "session_id":
                assert f"`{field.name}`" in described, f"{name} does not mention {field.name}"


def test_every_field_of_state_and_message_is_documented() -> None:
    """A client is written from these two tables."""
    state = ChatState("s", project_id="p", title="t", model=None, expires_at=None).wire()
    described = set(
        re.findall(
            r"`(\w+)`",
            "".join(
                line.split("|")[1]
                for line in section("stream.md", "What is in the state?").splitlines()
                if line.startswith("| `")
            ),
        )
    )
    assert described == set(state)

    from chatserver.message import Message

    message = Message("m", None, "user", "", "completed", None, "").wire()
    assert set(rows(section("stream.md", "What is in a message?"))) == set(message)


def _documented_codes() -> dict[str, set[str]]:
    """Code to statuses; no status for codes of turns, tools and starts."""
    found: dict[str, set[str]] = {}
    for heading in re.findall(r"^## (.*)$", (DOCS / "errors.md").read_text(), re.M):
        for code, cells in rows(section("errors.md", heading)).items():
            statuses = set(re.findall(r"\d{3}", cells[0])) if heading.startswith("Which codes can a request") else set()
            found.setdefault(code, set()).update(statuses)
    return found


def test_every_error_code_is_documented_and_no_other() -> None:
    """What a program may be told is in errors.md; what is in errors.md can happen."""
    raised = {found.code: found.place for found in codes_in_source()}
    http = {code: "api/problems.py" for code, _ in problems._HTTP_CODES.values()} | {
        "internal_error": "api/problems.py"
    }
    # The protocol of tool servers (agents/base.py) names these.
    protocol = dict.fromkeys(("unknown_server", "server_failed", "tool_timeout"), "agents/base.py")
    documented = _documented_codes()

    missing = {code: place for code, place in (raised | http).items() if code not in documented}
    assert not missing, f"errors.md lacks {missing}"
    assert set(documented) <= {*raised, *http, *protocol}, "errors.md has codes that nothing raises"


def test_documented_statuses_are_those_that_are_answered() -> None:
    """A code's status follows from the class that carries it."""
    documented = _documented_codes()
    expected: dict[str, set[str]] = {code: set() for code in documented}
    for found in codes_in_source():
        cls = getattr(errors, found.raised_as or "", None)
        if isinstance(cls, type) and issubclass(cls, errors.ChatServerError):
            expected[found.code].add(str(problems.status_of(cls)))
    for status, (code, _) in problems._HTTP_CODES.items():
        expected[code].add(str(status))
    expected["internal_error"].add("500")

    wrong = {code: (shown, expected[code]) for code, shown in documented.items() if shown and shown != expected[code]}
    assert not wrong, "code: (documented, answered)"


# --- prose -----------------------------------------------------------------------------------------------------------


def test_every_link_leads_to_a_heading_that_is_there() -> None:
    """Links between pages, and to sections of them."""
    anchors = {
        page.name: {
            section.anchor for section in split(re.sub(r"(?m)^(#+ .*)$", r"\1\n\ntext", page.read_text()), page.name)
        }
        for page in pages()
    }
    for page in pages():
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if target.startswith(("http://", "https://")):
                continue
            name, _, anchor = target.partition("#")
            name = name or page.name
            assert (DOCS / name).is_file(), f"{page.name} links to {name}, which is not there"
            assert not anchor or anchor in anchors[name], f"{page.name} links to {target}: no such heading"


def test_every_page_begins_with_a_title_and_says_what_it_is_for() -> None:
    """The embedded agent shows the title as a topic, and the first words under it."""
    for page in pages():
        first = split(page.read_text(), page.name)[0]
        assert len(first.path) == 1, f"{page.name} has no title with words under it"


def test_pages_tell_nothing_of_the_machine_they_were_written_on() -> None:
    """Paths in examples are those of a reader."""
    for page in pages():
        assert not re.search(r"/(root|work|tmp)/", page.read_text()), page.name


# --- examples --------------------------------------------------------------------------------------------------------


def _with(*words: str) -> list[Block]:
    return [block for block in blocks() if block.info[: len(words)] == words]


def test_there_are_examples_of_every_kind() -> None:
    """A misspelt info string would silently test nothing."""
    known = {"run", "fails", "stream", "env", "config"}
    for block in blocks():
        for word in block.info[1:]:
            assert word in known or word.startswith(("file=", "agent=")), f"{block}: {word!r}"
    for words in (("sh", "run"), ("sh", "stream"), ("sh", "env"), ("python", "run"), ("toml", "config")):
        assert _with(*words), words


@pytest.mark.parametrize("block", _with("toml", "config"), ids=str)
def test_settings_files_in_the_docs_are_valid(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader who copies one gets a server that starts."""
    for name in [name for name in os.environ if name.startswith("CHATSERVER_")]:
        monkeypatch.delenv(name)
    (tmp_path / "chatserver.toml").write_text(block.text)

    load(tmp_path / "chatserver.toml")


@pytest.mark.parametrize("block", _with("sh", "env"), ids=str)
def test_settings_in_the_environment_are_valid(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, units and the form of lists."""
    for name, value in re.findall(r"^export (\w+)=(.*)$", block.text, re.M):
        monkeypatch.setenv(name, value.strip("'"))

    settings = load()

    for name in re.findall(r"^export CHATSERVER_(\w+)=", block.text, re.M):
        assert name.lower() in settings.model_fields_set


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    """The server as `make run` starts it on a fresh machine: the embedded agent answers."""
    settings = {"scripted": None, "default_model": "docs", "no_docs": None, "docs_piece_seconds": 0}
    async with ServerProcess(tmp_path / "data", settings=settings) as server:
        yield server


def _environment(home: Path, *, stream: bool = False) -> dict[str, str]:
    """What examples run with: `chatserver` on the path, and a curl that fails where the server refuses."""
    curlrc = ["silent", "show-error"] + ([] if stream else ["fail-with-body", "max-time = 30"])
    (home / ".curlrc").write_text("\n".join(curlrc) + "\n")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(home), "CURL_HOME": str(home), "LANG": "C.UTF-8", "no_proxy": "*"}


async def _run(*argv: str, text: str, folder: Path, env: dict[str, str]) -> tuple[int, str]:
    """Run a program on `text`; its status, and both outputs together."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=folder,
        env=env,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(60):
            output, _ = await process.communicate(text.encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, output.decode()


async def test_shell_examples_run(server: ServerProcess, tmp_path: Path) -> None:
    """Every example of every page, in order, against one server; each as a reader would paste it."""
    env = _environment(tmp_path)
    for block in _with("sh", "run"):
        text = block.text.replace(ADDRESS, server.base_url)
        status, output = await _run("bash", "-e", "-o", "pipefail", text=text, folder=tmp_path, env=env)
        if "fails" in block.info:
            assert status == 22, f"{block} was not refused:\n{output}"
            assert '"code":' in output
        else:
            assert status == 0, f"{block} ended with {status}:\n{output}"


@pytest.mark.parametrize("block", _with("python", "run"), ids=str)
async def test_python_examples_run(block: Block, server: ServerProcess, tmp_path: Path) -> None:
    """A program that a reader copies ends well and prints an answer."""
    status, output = await _run(
        sys.executable,
        "-",
        text=block.text.replace(ADDRESS, server.base_url),
        folder=tmp_path,
        env=_environment(tmp_path),
    )

    assert status == 0, output
    assert "-- completed" in output


async def test_the_client_in_python_prints_a_whole_answer(tmp_path: Path) -> None:
    """Also where it begins or ends before its stream is asked for: an agent that waits for nothing does both."""
    [block] = [block for block in _with("python", "run") if "/api/chat/stream" in block.text]
    async with ServerProcess(tmp_path / "data") as server:
        for _ in range(5):
            status, output = await _run(
                sys.executable,
                "-",
                text=block.text.replace(ADDRESS, server.base_url),
                folder=tmp_path,
                env=_environment(tmp_path),
            )
            assert status == 0, output
            assert output == "What is a turn?\n-- completed\n"  # the scripted model says it back


async def test_stream_examples_carry_events(server: ServerProcess, tmp_path: Path) -> None:
    """Each of them is answered with a stream that begins at once."""
    env = _environment(tmp_path, stream=True)
    for block in _with("sh", "stream"):
        for line in block.text.strip().splitlines():
            process = await asyncio.create_subprocess_exec(
                "bash",
                "-c",
                f"exec {line.replace(ADDRESS, server.base_url)}",
                env=env,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            assert process.stdout is not None
            try:
                async with asyncio.timeout(60):
                    first, seen = await process.stdout.readline(), b""
                    while not seen.startswith(b"data:"):
                        seen = await process.stdout.readline()
                        assert seen, f"{block}: {line} ended: {first!r}"
            finally:
                process.kill()
                await process.wait()
                await process.stdout.read()
            assert first.startswith(b"retry:"), block


@pytest.mark.parametrize("block", [block for block in blocks() if block.option("agent")], ids=str)
async def test_agents_in_the_docs_answer(block: Block, tmp_path: Path) -> None:
    """Saved under their names and given to `--agent`, they start and answer."""
    file, target = block.option("file"), block.option("agent")
    assert file is not None
    assert target is not None
    (tmp_path / file).write_text(block.text)
    settings = {"scripted": None, "default_model": None}
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}

    async with (
        ServerProcess(tmp_path / "data", settings=settings, flags=("--agent", target), env=env) as server,
        Checker(server.base_url) as checker,
        checker.follow("session-1") as stream,
    ):
        sent = await checker.send("session-1", "hello")
        ended = await stream.until_ended(sent.turn_id)

    assert ended.body["outcome"] == "completed"
