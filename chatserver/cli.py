"""The command line: `serve` and `chat`. Each command's work is elsewhere and imported when it is run."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

import chatserver
from chatserver.errors import StartupError

# sysexits.h: what is wrong is the configuration, not this program.
EX_CONFIG = 78


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(chatserver.__version__, prog_name="chatserver")
def main() -> None:
    """A session server for chat agents."""


@main.command()
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on; 0 takes a free one.  [default: 8080]")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder of the database.  [default: ./data]")
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path), help="Settings file.  [default: ./chatserver.toml]"
)
@click.option("--agent", metavar="PACKAGE.MODULE:NAME", help="A Python agent; it becomes the default model.")
@click.option("--docs", type=click.Path(path_type=Path), help="Folder of Markdown to answer from.")
@click.option("--no-docs", is_flag=True, default=None, help="Switch the embedded agent off.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="What is logged.")
def serve(config_file: Path | None, **flags: Any) -> None:
    """Run the server until SIGTERM or Ctrl-C; a second signal ends it at once."""
    import uvloop

    from chatserver.app import run_server
    from chatserver.config import load
    from chatserver.logs import make_log

    try:
        settings = load(config_file, **flags)
        log = make_log(settings.log_level)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run_server(settings, log))
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False):
            place = ".".join(str(p) for p in problem["loc"]) or "settings"
            unknown = problem["type"] == "extra_forbidden"
            click.echo(f"chatserver: {place}: {'there is no such setting' if unknown else problem['msg']}", err=True)
        sys.exit(EX_CONFIG)
    except StartupError as error:
        click.echo(f"chatserver: {error.detail}", err=True)
        sys.exit(EX_CONFIG)


@main.command()
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="Address of the server.")
@click.option("--session", "session_id", metavar="ID", help="A session to go on with.  [default: a new one]")
def chat(url: str, session_id: str | None) -> None:
    """Talk to a running server; in a pipe, send the input as one message and print its answer."""
    from chatserver.chat_command import chat

    sys.exit(chat(url, session_id))
