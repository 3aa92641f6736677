"""A program in a pseudo-terminal, typed at and looked at like a person would; and a server for it to talk to."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.server import ServerProcess

DEADLINE_SECONDS = 90.0
COLUMNS, LINES = 100, 30

# What moves the cursor, colours and erases: CSI sequences, OSC strings, and two-byte escapes.
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07]*(?:\x07|\x1b\\)|[@-Z\\-_=>])")


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """A server for a whole module of tests, each with a session of its own; gives its address.

    Its scripted agent does what a message says. It is no asyncio subprocess, since each test has a loop of its own.
    """
    child = ServerProcess(folder / "data")
    argv = [sys.executable, "-m", "chatserver", "serve", "--port", "0", "--data-dir", str(child.data_dir)]
    with subprocess.Popen(argv, env=child.environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().decode().split()[-1]
        finally:
            process.kill()


_MOVES = re.compile(r"\x1b\[([0-9]*)([A-DGJK])")


def emulated(output: str) -> list[str]:
    """The lines that `output` leaves: the part of ECMA-48 that rich and readline use, with automatic margins."""
    rows: list[list[str]] = [[]]
    row = column = at = 0

    def put(character: str) -> None:
        nonlocal row, column
        if column == COLUMNS:
            row, column = row + 1, 0
        while len(rows) <= row:
            rows.append([])
        line = rows[row]
        line.extend(" " * (column - len(line) + 1))
        line[column] = character
        column += 1

    while at < len(output):
        if found := _MOVES.match(output, at):
            count = int(found[1] or 0)
            match found[2]:
                case "A":
                    row = max(0, row - max(1, count))
                case "B":
                    row += max(1, count)
                case "C":
                    column += max(1, count)
                case "D":
                    column = max(0, column - max(1, count))
                case "G":
                    column = max(1, count) - 1
                case "K":
                    if row < len(rows):
                        rows[row] = [] if count == 2 else rows[row][:column]
                case "J":
                    if row < len(rows):
                        rows[row] = rows[row][:column]
                        del rows[row + 1 :]
            at = found.end()
        elif found := _ESCAPES.match(output, at):
            at = found.end()
        else:
            match output[at]:
                case "\n":
                    row += 1
                case "\r":
                    column = 0
                case "\b":
                    column = max(0, column - 1)
                case character if character >= " ":
                    put(character)
            at += 1
    return ["".join(line).rstrip() for line in rows]


class Screen:
    """The program, running in a terminal of 100 by 30; use it as an async context."""

    def __init__(self, argv: Sequence[str], env: dict[str, str]) -> None:
        self._argv = argv
        self._env = env | {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(LINES)}
        self._output = bytearray()
        self._grown = asyncio.Event()
        self._from = 0
        self._process: asyncio.subprocess.Process | None = None
        self._master = -1

    async def __aenter__(self) -> Self:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=slave,
                stdout=slave,
                stderr=slave,
                env=self._env,
                # Its own session with this terminal as the controlling one, so that ^C becomes SIGINT.
                start_new_session=True,
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            )
        finally:
            os.close(slave)
        os.set_blocking(self._master, False)
        asyncio.get_running_loop().add_reader(self._master, self._read)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._master)
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        os.close(self._master)

    def _read(self) -> None:
        try:
            data = os.read(self._master, 65536)
        except BlockingIOError:
            return
        except OSError:  # EIO: the program has closed its side
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._master)
        self._output += data
        self._grown.set()

    @property
    def text(self) -> str:
        """Everything that was written, without escape sequences."""
        return _ESCAPES.sub("", self._output.decode(errors="replace")).replace("\r", "")

    def lines(self) -> list[str]:
        """What stands in the terminal and its scrollback, as a terminal makes it of cursor movements and erasures."""
        return emulated(self._output.decode(errors="replace"))

    @property
    def raw(self) -> bytes:
        """Everything that was written."""
        return bytes(self._output)

    async def until(self, text: str) -> str:
        """Wait for `text` after what an earlier `until` found; gives what stands between."""
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while (at := self.text.find(text, self._from)) < 0:
                    self._grown.clear()
                    await self._grown.wait()
        except TimeoutError:
            raise AssertionError(f"{text!r} did not come; the screen says:\n{self.text[-3000:]}") from None
        between = self.text[self._from : at]
        self._from = at + len(text)
        return between

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._master, text.encode())

    def press_ctrl(self, letter: str) -> None:
        self.type(chr(ord(letter.upper()) - 64))

    async def ended(self) -> int:
        """Wait for the program's end; its status."""
        assert self._process is not None
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                return await self._process.wait()
        except TimeoutError:
            raise AssertionError(f"it did not end; the screen says:\n{self.text[-3000:]}") from None

    @property
    def echoes(self) -> bool:
        """Whether the terminal shows what is typed, line by line, as a shell finds it."""
        local = termios.tcgetattr(self._master)[3]
        return bool(local & termios.ECHO and local & termios.ICANON)
