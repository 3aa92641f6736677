"""`chatserver chat`: picks the way to talk, runs it, and leaves the terminal as it was."""

from __future__ import annotations

import asyncio
import os
import sys

from chatserver.chat_client import SessionClient
from chatserver.chat_once import ask_once
from chatserver.chat_text import plain

# What shells give for a program that was ended by Ctrl-C.
EX_INTERRUPTED = 130


def chat(url: str, session_id: str | None) -> int:
    """Talk to the server at `url`; gives the exit status.

    With a terminal as standard input a person is asked for lines; otherwise all of the input is one message.
    """
    try:
        return asyncio.run(_converse(url, session_id) if sys.stdin.isatty() else _ask_once(url, session_id))
    except KeyboardInterrupt:
        return EX_INTERRUPTED
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing left to flush at the end
        return 1


async def _ask_once(url: str, session_id: str | None) -> int:
    message = sys.stdin.buffer.read().decode("utf-8", "replace").strip()
    async with SessionClient(url, session_id) as client:
        return await ask_once(client, message)


async def _converse(url: str, session_id: str | None) -> int:
    # Half a second of imports that a pipe does not need.
    from rich.console import Console

    from chatserver.chat_input import LineInput
    from chatserver.chat_terminal import Terminal

    lines = LineInput()
    terminal: Terminal | None = None

    def on_trouble(reason: str | None) -> None:
        if terminal is not None:
            terminal.trouble(None if reason is None else plain(reason))

    try:
        async with SessionClient(url, session_id, on_trouble=on_trouble) as client:
            terminal = Terminal(client, Console(highlight=False), lines)
            status = await terminal.run()
    finally:
        lines.restore()
    if lines.reading:
        # The thread hangs in a read that nothing can end; the interpreter would wait for its locks.
        print(flush=True)  # noqa: T201 - ends the open prompt's line
        os._exit(status)
    return status
