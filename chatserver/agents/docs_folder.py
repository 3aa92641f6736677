"""The Markdown files of a folder, found and read within limits.

Never leaves the folder: a symbolic link that points outside is skipped. Never opens anything but regular files: a FIFO
would block for ever. Never walks without end: a home directory given by mistake costs a bounded number of entries.
What is left out is told with its reason. Everything here blocks, so it runs in the index's thread.

It does not know what Markdown is (docs_sections.py).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = (".md", ".markdown")
# Directory entries looked at: some 100 ms of walking; documentation of this size is searched by other means.
MAX_ENTRIES = 50_000
# Reasons kept for telling; a folder of a million large files must not make a million of them.
MAX_SKIPPED = 100
# Other people's documentation, by the hundred, in any checkout with a page.
_SKIPPED_FOLDERS = frozenset({"node_modules", "__pycache__"})


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a folder is read."""

    max_files: int
    max_file_bytes: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Found:
    """A file to read: its real path, its name relative to the folder with `/`, and what changes when it does."""

    path: Path
    source: str
    size: int
    changed_ns: int


@dataclass(frozen=True, slots=True)
class Folder:
    """What a folder holds, in a stable order, and the first `MAX_SKIPPED` names left out, with why."""

    files: tuple[Found, ...]
    skipped: tuple[tuple[str, str], ...]


def list_folder(folder: Path, limits: Limits) -> Folder:
    """Find the Markdown files below `folder`, nearest first, within `limits`; reads no file's content.

    Raises:
        OSError: the folder itself cannot be read.
    """
    root = folder.resolve(strict=True)
    os.scandir(root).close()  # the walk passes over unreadable folders; over the root it must not
    files: list[Found] = []
    skipped: list[tuple[str, str]] = []
    total = 0
    for path in _candidates(root, skipped):
        source = path.relative_to(root).as_posix()
        if len(files) >= limits.max_files:
            skipped.append((source, f"and all after it: more than {limits.max_files} files"))
            break
        reason, found = _examine(path, source, root, limits.max_file_bytes)
        if found is not None and total + found.size > limits.max_bytes:
            reason = f"would make more than {limits.max_bytes} bytes together"
        elif found is not None:
            total += found.size
            files.append(found)
        if reason and len(skipped) < MAX_SKIPPED:
            skipped.append((source, reason))
    return Folder(tuple(files), tuple(skipped))


def _examine(path: Path, source: str, root: Path, max_file_bytes: int) -> tuple[str, Found | None]:
    """Why not, or what to read."""
    try:
        real = path.resolve(strict=True)
        status = real.stat()
    except (OSError, RuntimeError):  # gone meanwhile, or a loop of links
        return "cannot be read", None
    if not real.is_relative_to(root):
        return "is a link to outside the folder", None
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file", None
    if status.st_size > max_file_bytes:
        return f"is larger than {max_file_bytes} bytes", None
    return "", Found(real, source, status.st_size, status.st_mtime_ns)


def _candidates(root: Path, skipped: list[tuple[str, str]]) -> Iterator[Path]:
    """Markdown files by depth, then by name; hidden folders and links to folders are not entered."""
    entries_left = MAX_ENTRIES
    level = [root]
    while level:
        below: list[Path] = []
        for folder in level:
            try:
                with os.scandir(folder) as entries:
                    # Cut before sorting, so that one huge folder is bounded too.
                    listed = [entry for _, entry in zip(range(entries_left), entries, strict=False)]
            except OSError:
                continue  # one unreadable folder must not cost the others
            entries_left -= len(listed)
            for entry in sorted(listed, key=lambda entry: entry.name):
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    if entry.name not in _SKIPPED_FOLDERS:
                        below.append(Path(entry.path))
                elif entry.name.lower().endswith(SUFFIXES):
                    yield Path(entry.path)
            if entries_left == 0:
                skipped.append((".", f"only its first {MAX_ENTRIES} entries were looked at"))
                return
        level = below


def read_file(found: Found, limits: Limits) -> str:
    """The file's text; bytes that are not UTF-8 become U+FFFD.

    Raises:
        OSError: it cannot be read any more, or has become something else than the file that was found.
    """
    # The path is resolved, so its last component is a link only if somebody swapped it since; O_NONBLOCK for a FIFO.
    descriptor = os.open(found.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{found.source} is no regular file any more")
        return file.read(limits.max_file_bytes).decode("utf-8-sig", errors="replace")
