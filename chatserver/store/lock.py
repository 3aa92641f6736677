"""The lock that keeps a second process out of a database.

Invariants: it is the kernel's (flock), so it ends with the process that holds it, however that dies, and there is no
stale lock to clear. The file stays: removing it would let two processes lock two files of the same name. SQLite's own
locks are no help: they hold for a transaction, and a server keeps sessions in memory between those.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chatserver.errors import StartupError


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Hold the lock of a database; its file `<database>.lock` tells who does.

    Raises:
        StartupError: another process holds it, or the file cannot be made.
    """
    path = database.with_name(database.name + ".lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartupError(f"{path} cannot be written: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartupError(f"{database} is already used by {_holder(descriptor)}", code="already_running") from None
        except OSError as error:  # a file system without locks
            raise StartupError(f"{path} cannot be locked: {error.strerror}") from error
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        except OSError:
            pass  # a full disk: the lock holds, only its holder's number is missing
        yield
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    text = os.pread(descriptor, 32, 0).strip()
    return f"process {int(text)}" if text.isdigit() else "another process"
