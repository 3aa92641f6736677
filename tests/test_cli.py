"""The first minutes: what `chatserver serve` says when it cannot start, in one line and without a traceback."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from chatserver.cli import main
from chatserver.config import Settings

EX_CONFIG = 78
ENTRY = b"[[models]]\nid = 'a'\nbase_url = 'http://x/v1'\n"


@pytest.fixture
def refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What a server that refuses to start in the test's folder writes on standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*flags: str, **environment: str) -> str:
        done = CliRunner().invoke(main, ["serve", "--port", "0", *flags], env=environment)
        assert isinstance(done.exception, SystemExit), done  # and no other exception, which would be a traceback
        assert done.exit_code == EX_CONFIG
        assert done.stdout == ""
        return done.stderr.strip()

    return run


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"port = = 3", "'chatserver.toml' is not TOML: Invalid value (at line 1, column 8)"),
        (b"\xff\xfe", "'chatserver.toml' is not TOML"),
        (b"prot = 3", "prot: there is no such setting; did you mean 'port'? (chatserver.toml)"),
        (b"max_streams = 'x'", "max_streams: must be a whole number, not 'x' (chatserver.toml)"),
        (b"drain_seconds = 0", "drain_seconds: must be more than 0, not 0"),
        (b"no_docs = 'maybe'", "no_docs: must be true or false, not 'maybe'"),
        (b"auth = 'none'", "auth: must be 'optional' or 'required', not 'none'"),
        (b"data_dir = 5", "data_dir: must be the path of a file or folder"),
        (b"cors_origins = 'https://app.example'", 'cors_origins: must be a list, such as ["one", "two"]'),
        (b"[models]\nid = 'a'", "models: entries are written under [[models]]"),
        (ENTRY, "models entry 1, model: is required"),
        (ENTRY + b"model = 'm'\ndefault_model = 'a'", "models entry 1, default_model: there is no such setting here"),
        (ENTRY + b"model = 'm'\napi_key = 'k'", "api_key: there is no such setting; did you mean 'api_key_env'?"),
        (b"[[models]]\nid = 'a'\nmodel = 'm'\nbase_url = 'http://x/v1/chat/completions'", "must end before /chat/"),
        (b"[[mcp_servers]]\nname = 'time'\ncommand = 'time'", "mcp_servers entry 1, command: must be a list"),
        (b"cors_origins = ['https://app.example/']", "'https://app.example/' is no origin"),
        (b"cors_origins = ['*']", "'*' cannot be combined with cookies"),
        (b"trusted_proxies = ['10.0.0.0/8']", "'10.0.0.0/8' does not appear to be an IPv4 or IPv6 address"),
    ],
)
def test_a_wrong_configuration_file_is_explained_in_one_line(
    refusal: Callable[..., str], tmp_path: Path, content: bytes, said: str
) -> None:
    """§13: the setting or the place in the file is named."""
    (tmp_path / "chatserver.toml").write_bytes(content)
    told = refusal()
    assert said in told
    assert "\n" not in told


def test_a_variable_that_is_not_json_is_named(refusal: Callable[..., str]) -> None:
    """Lists in the environment are JSON; the value itself may be a secret and is not shown."""
    said = refusal(CHATSERVER_CORS_ORIGINS="https://secret.example")
    assert "CHATSERVER_CORS_ORIGINS" in said
    assert "JSON" in said
    assert "secret.example" not in said


def test_a_wrong_value_is_told_with_the_place_that_it_came_from(refusal: Callable[..., str]) -> None:
    """Kubernetes sets CHATSERVER_PORT for a service called chatserver: only the name and the value tell that."""
    said = refusal(CHATSERVER_MAX_STREAMS="tcp://10.0.0.1:80")
    assert said == "chatserver: max_streams: must be a whole number, not 'tcp://10.0.0.1:80' (CHATSERVER_MAX_STREAMS)"
    assert refusal("--port", "70000").endswith("port: must be at most 65535, not 70000 (--port)")


@pytest.mark.parametrize(
    "content",
    [
        "[[models]]\nid = 'a'\nbase_url = 'http://x/v1'\nmodel = 'm'\napi_key_env = 'sk-canary'",
        "[[models]]\nid = 'a'\nbase_url = 'http://x/v1'\nmodel = 'm'\napi_key = 'sk-canary'",
        "[[mcp_servers]]\nname = 'a'\nurl = 'http://x/mcp'\nheaders_env = { Authorization = 'Bearer sk-canary' }",
        "[[mcp_servers]]\nname = 'a'\ncommand = ['a']\nenv_from = ['sk-canary']",
    ],
)
def test_a_key_where_the_name_of_its_variable_belongs_is_refused_unseen(
    refusal: Callable[..., str], tmp_path: Path, content: str
) -> None:
    """As a name it would be told to everybody whose turn fails for want of it, and logged."""
    (tmp_path / "chatserver.toml").write_text(content)
    said = refusal()
    assert "environment variable" in said or "api_key_env" in said
    assert "canary" not in said


def test_a_variable_that_is_nearly_a_setting_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other programs may set variables of our prefix, so a slip refuses nothing; but it is not silent."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("chatserver.app.run_server", lambda _settings, _log: asyncio.sleep(0))
    others = {"CHATSERVER_SERVICE_HOST": "10.0.0.1", "CHATSERVER_PORT_8080_TCP": "tcp://10.0.0.1:8080"}

    done = CliRunner().invoke(main, ["serve"], env={"CHATSERVER_DATADIR": "/srv", **others})

    assert done.exit_code == 0, done.output
    [line] = [json.loads(line) for line in done.stderr.splitlines()]
    assert (line["event"], line["variable"]) == ("unknown_variable", "CHATSERVER_DATADIR")
    assert line["meant"] == "CHATSERVER_DATA_DIR"


def test_a_configuration_file_that_is_not_there_is_named(refusal: Callable[..., str]) -> None:
    """A named one must exist; the default one need not."""
    assert refusal("--config", "nowhere.toml") == "chatserver: there is no file 'nowhere.toml'"


def test_a_port_in_use_is_told_with_what_to_do(refusal: Callable[..., str]) -> None:
    """The commonest reason of all why a first start fails."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refusal("--port", str(port), "--no-docs", CHATSERVER_DISCOVER_MODELS="false").splitlines()[-1]
    assert said.startswith(f"chatserver: cannot listen on 127.0.0.1:{port}: another program listens there already")
    assert "--port" in said


def test_flags_go_over_the_environment_and_the_environment_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§13: what is named in one place only counts as well."""
    started: list[Settings] = []

    async def run_server(settings: Settings, _log: object) -> None:
        started.append(settings)

    monkeypatch.setattr("chatserver.app.run_server", run_server)
    monkeypatch.chdir(tmp_path)
    Path("chatserver.toml").write_text('port = 1001\nlog_level = "error"\nmax_streams = 7\n')
    environment = {"CHATSERVER_PORT": "1002", "CHATSERVER_LOG_LEVEL": "warning"}

    done = CliRunner().invoke(main, ["serve", "--port", "1003"], env=environment)

    assert done.exit_code == 0, done.output
    [settings] = started
    assert (settings.port, settings.log_level, settings.max_streams) == (1003, "warning", 7)


def test_too_few_file_descriptors_are_told_at_the_start(tmp_path: Path) -> None:
    """Each connection is one; a cap above what the system grants would not hold."""

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300))

    process = subprocess.Popen(
        [sys.executable, "-m", "chatserver", "serve", "--port", "0", "--no-docs", "--data-dir", str(tmp_path / "data")],
        preexec_fn=few,
        cwd=tmp_path,
        env={"PATH": "", "PYTHONPATH": str(Path(__file__).parents[1]), "CHATSERVER_DISCOVER_MODELS": "false"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        ready = process.stdout.readline()
    finally:
        process.terminate()
        _, told = process.communicate(timeout=120)
    assert ready.startswith("chatserver is ready")
    [line] = [line for line in map(json.loads, told.splitlines()) if line["event"] == "few_file_descriptors"]
    assert line["limit"] == 300
