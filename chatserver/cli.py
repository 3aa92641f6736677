"""The command line. Each command's work is elsewhere and imported when it is run."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import chatserver
from chatserver.errors import ChatServerError, StartupError

if TYPE_CHECKING:
    from chatserver.config import Settings

# sysexits.h: what is wrong is the configuration, not this program.
EX_CONFIG = 78


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(chatserver.__version__, prog_name="chatserver")
def main() -> None:
    """A session server for chat agents."""


@main.command(
    short_help="Run the server.",
    epilog="Every other setting is given in the file, or as a variable CHATSERVER_NAME of the environment; "
    "docs/configuration.md lists them, and the embedded agent knows them.",
)
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
    from chatserver.config import mistaken_variables
    from chatserver.logs import make_log

    with _refusals():
        settings = _settings(config_file, **flags)
        log = make_log(settings.log_level)
        for variable, meant in mistaken_variables().items():
            log.warning("unknown_variable", variable=variable, meant=meant)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run_server(settings, log))


def _settings(config_file: Path | None, **flags: Any) -> Settings:
    from chatserver.config import load

    return load(config_file, **flags)


@contextmanager
def _refusals() -> Iterator[None]:
    """Say what is wrong, a line each, and end with the status that says whose it is to mend."""
    try:
        yield
    except StartupError as error:
        for line in error.detail.splitlines():
            click.echo(f"chatserver: {line}", err=True)
        sys.exit(EX_CONFIG)
    except ChatServerError as error:
        click.echo(f"chatserver: {error.detail}", err=True)
        sys.exit(1)


@main.group(short_help="Make, list and change users.")
def users() -> None:
    """Make, list and change the users of a server, running or not."""


_CONFIG = click.option(
    "--config", "config_file", type=click.Path(path_type=Path), help="Settings file.  [default: ./chatserver.toml]"
)
_DATA_DIR = click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Folder of the database.  [default: ./data]"
)
_TENANT = click.option("--tenant", default="public", show_default=True, help="The organisation.")
_STDIN = click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")


@users.command("add")
@click.argument("name")
@_TENANT
@click.option("--admin", is_flag=True, help="Give the scope `admin`: /admin and /metrics.")
@_STDIN
@_DATA_DIR
@_CONFIG
def users_add(
    name: str, tenant: str, admin: bool, password_stdin: bool, data_dir: Path | None, config_file: Path | None
) -> None:
    """Make a user; the password is asked for."""
    from chatserver import users_command

    with _refusals():
        settings = _settings(config_file, data_dir=data_dir)
        scopes = frozenset({"admin"} if admin else ())
        made = users_command.new_database(settings)
        user = users_command.add(settings, tenant, name, _password(password_stdin), scopes)
        if made:
            click.echo(f"chatserver: there was no database {made}: it is new", err=True)
        click.echo(users_command.line_of(user))


@users.command("list")
@_DATA_DIR
@_CONFIG
def users_list(data_dir: Path | None, config_file: Path | None) -> None:
    """Show the users: tenant, name, state, scopes, id, date."""
    from chatserver import users_command

    with _refusals():
        settings = _settings(config_file, data_dir=data_dir)
        users_command.listed(settings, lambda user: click.echo(users_command.line_of(user)))


@users.command("passwd", short_help="Give a user a new password.")
@click.argument("name")
@_TENANT
@_STDIN
@_DATA_DIR
@_CONFIG
def users_passwd(name: str, tenant: str, password_stdin: bool, data_dir: Path | None, config_file: Path | None) -> None:
    """Give a user a new password, which logs them out everywhere."""
    from chatserver import users_command

    with _refusals():
        settings = _settings(config_file, data_dir=data_dir)
        click.echo(users_command.line_of(users_command.passwd(settings, tenant, name, _password(password_stdin))))


@users.command("disable", short_help="Keep a user out, or let them in again.")
@click.argument("name")
@_TENANT
@click.option("--undo", is_flag=True, help="Let the user in again.")
@_DATA_DIR
@_CONFIG
def users_disable(name: str, tenant: str, undo: bool, data_dir: Path | None, config_file: Path | None) -> None:
    """Keep a user out: logs them out everywhere, and lets nobody in by that name."""
    from chatserver import users_command

    with _refusals():
        settings = _settings(config_file, data_dir=data_dir)
        click.echo(users_command.line_of(users_command.disable(settings, tenant, name, disabled=not undo)))


def _password(from_stdin: bool) -> str:
    """The new password: a line of standard input, or asked for twice without showing it."""
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    return str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))


@main.command(short_help="Write a tenant's sessions as JSON files.")
@click.argument("folder", type=click.Path(path_type=Path))
@_DATA_DIR
@_CONFIG
@_TENANT
def export(folder: Path, data_dir: Path | None, config_file: Path | None, tenant: str) -> None:
    """Write every session of a tenant as JSON files into FOLDER, which must be new or empty.

    It only reads the database, so a server may run meanwhile.
    """
    from chatserver.transfer_command import export

    with _refusals():
        sys.exit(export(_settings(config_file, data_dir=data_dir), folder, tenant))


@main.command(name="import", short_help="Read what export wrote.")
@click.argument("folder", type=click.Path(path_type=Path))
@_DATA_DIR
@_CONFIG
@click.option("--tenant", help="Whose the sessions become.  [default: as each says, else public]")
@click.option("--project", help="Project of sessions of the old flat layout, chat_sessions/SESSION/.")
@click.option("--owner", "owners", multiple=True, metavar="OLD=NEW", help="Give OLD's sessions to NEW; * is everybody.")
@click.option("--replace", is_flag=True, help="Replace stored sessions that differ from those in FOLDER.")
@click.option("--max-file-mib", default=256, show_default=True, help="Refuse larger files.")
def import_(folder: Path, data_dir: Path | None, config_file: Path | None, **options: Any) -> None:
    """Put sessions from FOLDER, as export wrote them, into the database. The server must not run."""
    from chatserver.transfer_command import import_

    with _refusals():
        sys.exit(import_(_settings(config_file, data_dir=data_dir), folder, **options))


@main.command(short_help="Talk to a running server in the terminal.")
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="Address of the server.")
@click.option("--session", "session_id", metavar="ID", help="A session to go on with.  [default: a new one]")
def chat(url: str, session_id: str | None) -> None:
    """Talk to a running server; in a pipe, send the input as one message and print its answer."""
    from chatserver.chat_command import chat

    sys.exit(chat(url, session_id))
