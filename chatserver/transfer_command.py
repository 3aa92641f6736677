"""`chatserver export` and `chatserver import`: options, the store, a progress bar, and what is said at the end."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from chatserver.config import Settings
from chatserver.errors import StartupError
from chatserver.store.sql import open_reader, open_store
from chatserver.transfer import NOBODY, OWNER, Report, Tick, Wanted, export_sessions, import_sessions, places
from chatserver.transfer_folder import opened
from chatserver.transfer_format import Unreadable

# Reasons that are printed; a folder of something else entirely would print one for everything in it.
_MOST_REASONS = 100


def export(settings: Settings, folder: Path, tenant: str) -> int:
    """Write every session of a tenant into a new folder; the exit status: 1 where one of them was left out."""

    async def run() -> Counter[str]:
        store = await open_reader(settings)
        try:
            with opened(folder) as into, _progress("Exporting", await store.count_sessions(tenant)) as tick:
                return await export_sessions(store, tenant, into, tick, _say_some())
        finally:
            await store.close()

    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise StartupError(f"{folder} is not empty: an export goes into a folder of its own")
        counts = asyncio.run(run())
        os.sync()  # a backup that is reported done is on the disk
    except OSError as error:
        raise StartupError(f"{folder} cannot be written: {error.strerror}") from error
    click.echo(f"exported {counts['sessions']:,} sessions with {counts['messages']:,} messages to {folder}")
    if counts["damaged"]:
        click.echo(f"left out {counts['damaged']:,}, which cannot be read")
    return 1 if counts["damaged"] else 0


def import_(
    settings: Settings,
    folder: Path,
    *,
    tenant: str | None,
    project: str | None,
    owners: tuple[str, ...],
    replace: bool,
    max_file_mib: int,
) -> int:
    """Put the sessions of a folder into the store; the exit status: 1 where one of them was left out."""
    wanted = Wanted(
        tenant=tenant,
        project=project,
        owners=dict(map(_owner, owners)),
        replace=replace,
        expires_at=time.time() + settings.user_session_ttl_seconds,
        file_bytes=max_file_mib << 20,
    )

    async def run() -> Counter[str]:
        with opened(folder) as root:
            found = places(root, project)
            store = await open_store(settings)
            try:
                with _progress("Importing", len(found)) as tick:
                    report = Report(_say_some(), tick)
                    await import_sessions(store, root, found, wanted, report)
            finally:
                await store.close()
            return report.counts

    try:
        counts = asyncio.run(run())
    except OSError as error:
        raise StartupError(f"{folder} cannot be read: {error.strerror}") from error
    except Unreadable as error:
        raise StartupError(f"{folder}: {error}") from error
    click.echo(
        f"imported {counts['added']:,} sessions with {counts['messages']:,} messages, replaced {counts['replaced']:,}; "
        f"{counts['same']:,} were there already"
    )
    left_out = counts["refused"] + counts["differing"]
    if left_out:
        unreadable, differing = counts["refused"], counts["differing"]
        click.echo(f"left out {left_out:,}: {unreadable:,} cannot be read, {differing:,} differ from what is stored")
    return 1 if left_out else 0


def _owner(text: str) -> tuple[str, str | None]:
    """`OLD=NEW`. Raises: StartupError."""
    old, separator, new = text.partition("=")
    if not separator or not old or not (new == NOBODY or OWNER.fullmatch(new)):
        raise StartupError(f"--owner {text!a}: not OLD=NEW with a NEW like user:ID, or {NOBODY}")
    return old, None if new == NOBODY else new


def _say_some() -> Callable[[str], None]:
    said = 0

    def say(line: str) -> None:
        nonlocal said
        said += 1
        if said <= _MOST_REASONS:
            click.echo(line, err=True)
        elif said == _MOST_REASONS + 1:
            click.echo("(and more)", err=True)

    return say


@contextmanager
def _progress(title: str, total: int) -> Iterator[Tick]:
    """A bar on the terminal; nothing where there is none."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield lambda: progress.advance(task)
