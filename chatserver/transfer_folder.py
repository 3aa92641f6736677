"""Folders that may be hostile: read and written below an open one, never outside it.

Invariants: every name is opened relative to the descriptor of its folder, one name at a time, with O_NOFOLLOW, so that
neither a symbolic link nor `..` nor a folder that is swapped meanwhile leads out. Only regular files are read, up to a
size, and opening one never waits (a FIFO would). What is written is new: nothing is followed or replaced.

The folder itself is the operator's choice; it may be a link.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from chatserver.transfer_format import Unreadable

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_BELOW = _FOLDER | os.O_NOFOLLOW
# Names that mean the same on every file system: no capitals (some fold them), no colon, no dot in front or at the end.
_PLAIN = re.compile(r"[a-z0-9_-]([a-z0-9._-]{0,98}[a-z0-9_-])?", re.ASCII)
_HASH_DIGITS = 32


def safe_name(identifier: str) -> str:
    """A folder's name for an id (spec S3): the id itself where that is safe, else what can be kept of it and a hash.

    Two ids never have the same name, also where capitals do not count: `~` is in no id.
    """
    if _PLAIN.fullmatch(identifier):
        return identifier
    kept = re.sub(r"[^a-z0-9_-]", "-", identifier.lower())[:60]
    return f"{kept}~{hashlib.sha256(identifier.encode()).hexdigest()[:_HASH_DIGITS]}"


class Folder:
    """An open folder. Its methods raise Unreadable, with the reason, and OSError where the disk fails."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def names(self) -> list[str]:
        """What is in it, sorted; hidden names are nobody's data, and those of an unfinished export."""
        return sorted(name for name in os.listdir(self._descriptor) if not name.startswith("."))

    @contextmanager
    def folder(self, name: str) -> Iterator[Folder]:
        """The folder of that name in it."""
        try:
            descriptor = os.open(_one(name), _BELOW, dir_fd=self._descriptor)
        except OSError as error:
            raise Unreadable(f"{name!a} is not a folder here: {error.strerror}") from None
        try:
            yield Folder(descriptor)
        finally:
            os.close(descriptor)

    def has(self, name: str) -> bool:
        """Whether there is something of that name."""
        try:
            os.stat(_one(name), dir_fd=self._descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def read(self, name: str, limit: int) -> tuple[bytes, float]:
        """A file's content of at most `limit` bytes, and when it was written (seconds since the epoch)."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            descriptor = os.open(_one(name), flags, dir_fd=self._descriptor)
        except OSError as error:
            raise Unreadable(f"{name} cannot be opened: {error.strerror}") from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise Unreadable(f"{name} is not a regular file")
            pieces, left = [], limit + 1  # it may grow while it is read
            while left and (piece := os.read(descriptor, min(left, 1 << 20))):
                pieces.append(piece)
                left -= len(piece)
        finally:
            os.close(descriptor)
        if not left:
            raise Unreadable(f"{name} has more than {limit} bytes")
        return b"".join(pieces), max(status.st_mtime, 0.0)

    def make(self, name: str) -> None:
        """Make a folder in it, where there is none of that name."""
        with suppress(FileExistsError):
            os.mkdir(_one(name), 0o700, dir_fd=self._descriptor)

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """A new file, open while the block runs. Raises: OSError, also where there is one."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(_one(name), flags, 0o600, dir_fd=self._descriptor)
        with open(descriptor, "wb") as file:
            yield file

    def discard(self, name: str, *files: str) -> None:
        """Remove a folder in it that holds nothing but these files."""
        with self.folder(name) as folder:
            for file in files:
                os.unlink(_one(file), dir_fd=folder._descriptor)
        os.rmdir(_one(name), dir_fd=self._descriptor)

    def move(self, old: str, new: str) -> None:
        """Give something in it another name. Raises: OSError where that is a folder with something in it."""
        os.rename(_one(old), _one(new), src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)


def _one(name: str) -> str:
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise Unreadable(f"{name!a} is not a name")
    return name


@contextmanager
def opened(path: Path) -> Iterator[Folder]:
    """The folder that the operator named. Raises: OSError."""
    descriptor = os.open(path, _FOLDER)
    try:
        yield Folder(descriptor)
    finally:
        os.close(descriptor)
