"""A person's lines, without stopping the loop: `input()` in a thread of its own, with the line editing of readline.

A read that has begun cannot be taken back. So a prompt that nobody waits for any more stays open, and whoever asks next
gets its line. The thread is a daemon and may hang in `input()` when the client ends; `restore` puts the terminal back
into the mode it was found in, which readline would do only at the line's end.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from typing import Any


class LineInput:
    """Lines of standard input; use it in one event loop.

    Args:
        on_line: called in the loop when a line, or the end of the input, has come.
    """

    def __init__(self, on_line: Callable[[], None] = lambda: None) -> None:
        self.on_line = on_line
        self._pending: asyncio.Future[str | None] | None = None
        self._prompt = ""
        self._mode: list[Any] | None = None
        with contextlib.suppress(termios.error, OSError, ValueError):
            self._mode = termios.tcgetattr(sys.stdin.fileno())
        self._readline: Any = None
        with contextlib.suppress(ImportError):
            # Its import gives input() line editing and a history.
            import readline

            self._readline = readline

    def ask(self, prompt: str) -> asyncio.Future[str | None]:
        """The next line, without its end; None at the end of the input.

        A read that is open already goes on; its line then answers `prompt`.
        """
        if self._pending is None:
            loop = asyncio.get_running_loop()
            self._pending = loop.create_future()
            self._prompt = prompt
            thread = threading.Thread(
                target=self._read, args=(loop, self._pending, prompt), name="chat-input", daemon=True
            )
            thread.start()
        elif prompt != self._prompt:
            self._prompt = prompt
            print(f"\r{prompt}", end="", flush=True)  # noqa: T201 - the open prompt is another's
        return self._pending

    def take(self) -> str | None:
        """The line that `ask` gave, once it is done; the next `ask` reads a new one."""
        if self._pending is None:
            raise RuntimeError("take() before ask()")
        line, self._pending = self._pending.result(), None
        return line

    def _read(self, loop: asyncio.AbstractEventLoop, line: asyncio.Future[str | None], prompt: str) -> None:
        parts: list[str] = []
        result: str | None
        try:
            while True:
                part = input(prompt if not parts else "… ")
                if not part.endswith("\\"):
                    break
                parts.append(part[:-1])
            result = "\n".join((*parts, part))
        except (EOFError, OSError, ValueError):  # ended, hung up, or closed
            result = None
        except UnicodeDecodeError:
            result = ""

        def answer() -> None:
            if not line.done():
                line.set_result(result)
                self.on_line()

        with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(answer)

    @contextlib.contextmanager
    def above(self) -> Iterator[None]:
        """Make room for what is printed while a prompt is open, and draw the prompt again below it."""
        if not self.reading:
            yield
            return
        print("\r\x1b[K", end="", flush=True)  # noqa: T201 - erases the prompt's line
        yield
        typed = self._readline.get_line_buffer() if self._readline is not None else ""
        print(f"{self._prompt}{typed}", end="", flush=True)  # noqa: T201

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """Keep what is typed from being shown while something is drawn; an open read shows its own line."""
        if self._mode is None or self.reading:
            yield
            return
        mode = list(self._mode)
        mode[3] &= ~termios.ECHO  # local modes; signals and line ends stay as they are
        with contextlib.suppress(termios.error, OSError, ValueError):
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, mode)
        try:
            yield
        finally:
            self.restore()

    @property
    def reading(self) -> bool:
        """Whether the thread hangs in a read."""
        return self._pending is not None and not self._pending.done()

    def restore(self) -> None:
        """Put the terminal back into the mode it was found in; idempotent."""
        if self._mode is not None:
            with contextlib.suppress(termios.error, OSError, ValueError):
                termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._mode)
