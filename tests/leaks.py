"""What a test may not leave behind: running tasks, open descriptors, child processes.

Invariants: what stood before the test is never held against it; what is on its way out (a transport that closes on the
next turn of the loop, a process being reaped) gets `GRACE_SECONDS` to go; nothing is ever killed here, so a leak stays
visible until it is mended. Does not own: the decision which tests are checked, which is conftest's.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import TypeVar

Key = TypeVar("Key")

# Closing is seldom instant: a TLS or subprocess transport ends a few turns of the loop after close() returns. On a
# loaded machine that takes tens of milliseconds; a real leak waits for the whole of it, once.
GRACE_SECONDS = 20.0

_POLL_SECONDS = 0.01
# Opened lazily by the interpreter or by libraries, once per process, and kept: not the test's doing.
_PROCESS_WIDE = ("/dev/", "/proc/", "/sys/", "/usr/", "/etc/", "/lib")
_PROCESS_WIDE_ENDINGS = (".so", ".py", ".pyc", ".zip", ".ttf")


def open_descriptors() -> dict[tuple[int, str], str]:
    """Every open descriptor of this process with what it points to, process-wide ones left out."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the listing's own descriptor, or one closed by a thread meanwhile
            continue
        if not target.startswith(_PROCESS_WIDE) and not target.endswith(_PROCESS_WIDE_ENDINGS):
            found[int(name), target] = f"{name} -> {target}"
    return found


def child_processes() -> dict[int, str]:
    """Every child of this process, a dead one that nobody waited for included, with its command line."""
    found = {}
    for listing in Path("/proc/self/task").glob("*/children"):
        try:
            pids = listing.read_text().split()
        except OSError:  # the thread ended meanwhile
            continue
        for pid in pids:
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            found[int(pid)] = f"{pid}: {command.strip() or '(dead, never waited for)'}"
    return found


def new_since(before: Container[Key], now: Callable[[], Mapping[Key, str]]) -> list[str]:
    """What `now` shows and `before` did not, after it had its time to go."""
    deadline = time.monotonic() + GRACE_SECONDS
    collected = False
    while True:
        late = time.monotonic() > deadline  # looked at first: the machine may stall before the look at what is there
        new = [what for key, what in now().items() if key not in before]
        if not new or late:
            return new
        if not collected:
            # Garbage in a cycle holds its descriptor until a collection. An object that had to be closed and was not
            # warns as it goes, and a warning fails the test.
            gc.collect()
            collected = True
        time.sleep(_POLL_SECONDS)


async def tasks_left(before: set[asyncio.Task[object]]) -> list[str]:
    """The tasks that were started after `before` and neither end nor are ended, by name and coroutine."""
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=GRACE_SECONDS)
    return sorted(f"{task.get_name()}: {task.get_coro()!r}" for task in left)
