"""The first minutes: what `chatserver serve` says when it cannot start, in one line and without a traceback."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from chatserver.cli import main
from chatserver.config import Settings

EX_CONFIG = 78


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
        (b"prot = 3", "prot: there is no such setting"),
        (b"max_streams = 'x'", "max_streams: Input should be a valid integer"),
        (b"[[models]]\nid = 'a'\nbase_url = 'http://x/v1'", "models.0.model: Field required"),
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
    assert '"cors_origins"' in said
    assert "JSON" in said
    assert "secret.example" not in said


def test_a_configuration_file_that_is_not_there_is_named(refusal: Callable[..., str]) -> None:
    """A named one must exist; the default one need not."""
    assert refusal("--config", "nowhere.toml") == "chatserver: there is no file 'nowhere.toml'"


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
    assert '"few_file_descriptors"' in told
    assert '"limit": 300' in told
