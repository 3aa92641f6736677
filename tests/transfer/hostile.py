"""Folders that somebody made to harm: an export with something done to it, imported under watch.

What must hold of every import: it ends; whatever it opened lies in the folder; nothing outside and nothing inside of it
has changed; of each session either all of what its files say is in the store or nothing, and what was not imported was
counted and told.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from chatserver import transfer_folder
from chatserver.message import Message
from chatserver.store.base import SessionKey, SessionRecord, Store, WholeSession
from chatserver.store.whole import comparable
from chatserver.transfer_folder import safe_name
from chatserver.transfer_format import Place, Unreadable, read
from tests.transfer.build import EXPIRES, import_folder, tree_of, whole_of, write_session

CANARY = "canary-from-outside"
FILE_BYTES = 16 << 10
TEXTS = (
    "",
    "a",
    "../../canary",
    "/etc/passwd",
    "x" * 300,
    "é✓𝄞",
    "\x00",
    "\u202e",
    "..",
    ".",
    "null",
    "1970-01-01T00:00:00Z",
)
VALUES: tuple[Any, ...] = (
    *TEXTS, None, True, False, 0, -1, 1.5, 2**63, 1e308, [], {}, [[]], ["a"] * 50, {"a": {"b": [None]}},
    [{"role": "user", "content": "x"}],
)  # fmt: skip
NAMES = ("metadata.json", "messages.json")


def session(number: int, chance: random.Random) -> WholeSession:
    """A small session."""
    messages: list[Message] = []
    for n in range(chance.randrange(4)):
        parent = chance.choice([None, *(m.id for m in messages)])
        messages.append(Message(f"m{n}", parent, "user", f"text {n}", "completed", None, "2026-01-01T00:00:00.000Z"))
    record = SessionRecord(
        SessionKey("public", chance.choice((f"s-{number}", f"S:{number}", f"..{number}"))),
        chance.choice(("p", "P", "..")),
        chance.choice((None, "user:1")),
        f"session {number}",
        None,
        1_700_000_000.25,
        1_700_000_001.5,
        EXPIRES,
        message_count=len(messages),
        last_message_at=1_700_000_001.5 if messages else None,
        leaf_id=messages[-1].id if messages else None,
    )
    return WholeSession(record, tuple(messages))


# --- what is done to a folder -----------------------------------------------------------------------------------------

Harm = Callable[[Path, Path, random.Random], None]


def _some(root: Path, chance: random.Random, *, files: bool | None = None) -> Path | None:
    """Some path of the folder that is still there."""
    found = [p for p in sorted(root.rglob("*")) if files is None or (p.is_file() and not p.is_symlink()) == files]
    return chance.choice(found) if found else None


def _begin(path: Path) -> bytes:
    """What a file begins with: one may have been made a terabyte long before."""
    with path.open("rb") as file:
        return file.read(FILE_BYTES)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def link(root: Path, outside: Path, chance: random.Random) -> None:
    """Something becomes a symbolic link: out, to itself, to nothing, to a device."""
    path = _some(root, chance)
    if path is not None:
        theirs = sorted(outside.rglob("*"))
        target: Any = chance.choice(
            (
                chance.choice(theirs),
                outside,
                os.path.relpath(chance.choice(theirs), path.parent),
                "/dev/zero",
                path.name,
                "..",
                "/",
            )
        )
        _remove(path)
        path.symlink_to(target)


def link_more(root: Path, outside: Path, chance: random.Random) -> None:
    """A link beside what is there, to what would be a good session."""
    parents = [p for p in sorted(root.rglob("*")) if p.is_dir() and not p.is_symlink()]
    theirs = [p for p in sorted(outside.rglob("*")) if p.is_dir()]
    path = chance.choice([root, *parents]) / f"link{chance.randrange(99)}"
    if not os.path.lexists(path):
        path.symlink_to(chance.choice(theirs))


def special(root: Path, _outside: Path, chance: random.Random) -> None:
    """A FIFO, a folder or nothing where a file was, or a file where a folder was."""
    path = _some(root, chance)
    if path is not None:
        _remove(path)
        match chance.randrange(4):
            case 0:
                os.mkfifo(path)
            case 1:
                path.mkdir()
            case 2:
                path.write_text("{}")


def huge(root: Path, _outside: Path, chance: random.Random) -> None:
    """A file that is longer than it may be, by one byte or by a terabyte of holes."""
    path = _some(root, chance, files=True)
    if path is not None:
        with path.open("ab") as file:
            file.truncate(chance.choice((FILE_BYTES + 1, 1 << 30, 1 << 40)))


def bytes_(root: Path, _outside: Path, chance: random.Random) -> None:
    """Bytes changed, lost, added; or something that is no JSON."""
    path = _some(root, chance, files=True)
    if path is None:
        return
    data = bytearray(_begin(path))
    at = chance.randrange(len(data) + 1)
    match chance.randrange(6):
        case 0 if at < len(data):
            data[at] = chance.randrange(256)
        case 1:
            del data[at:]
        case 2:
            data[at:at] = chance.randbytes(5)
        case 3:
            data = bytearray(b"[" * 2000 + b"]" * 2000)
        case 4:
            data = bytearray(b"")
        case _:
            data = bytearray(chance.randbytes(200))
    path.write_bytes(data)


def value(root: Path, _outside: Path, chance: random.Random) -> None:
    """Another value somewhere in a file, a field too many or one too few."""
    path = _some(root, chance, files=True)
    if path is None:
        return
    try:
        document = orjson.loads(_begin(path))
    except orjson.JSONDecodeError:
        return
    places: list[tuple[Any, Any]] = []

    def walk(at: Any) -> None:
        for key, inner in list(at.items() if isinstance(at, dict) else enumerate(at)):
            places.append((at, key))
            if isinstance(inner, dict | list):
                walk(inner)

    if isinstance(document, dict | list):
        walk(document)
    if not places:
        return
    at, key = chance.choice(places)
    match chance.randrange(5):
        case 0:
            del at[key]
        case 1 if isinstance(at, dict):
            at[chance.choice(TEXTS)] = chance.choice(VALUES)
        case 2 if isinstance(at, list):
            at.append(chance.choice([*at, *VALUES]))
        case _:
            at[key] = chance.choice(VALUES)
    with_it = orjson.dumps(document) if _small(document) else b"{}"
    path.write_bytes(with_it)


def _small(document: Any) -> bool:
    try:
        orjson.dumps(document)
    except orjson.JSONEncodeError:
        return False
    return True


def name(root: Path, _outside: Path, chance: random.Random) -> None:
    """Something under another name, or in two places."""
    path = _some(root, chance)
    if path is None:
        return
    fresh = chance.choice(
        ("s-1", "S-1", "a~b", "...", ".hidden", "a\nb", "\x1b[31m", "x" * 255, "metadata.json", "~", "%2e%2e")
    )
    target = path.with_name(fresh)
    if os.path.lexists(target):
        return
    if chance.random() < 0.5 and path.is_dir() and not path.is_symlink():
        shutil.copytree(path, target, symlinks=True, copy_function=_copy)
    else:
        path.rename(target)


def _copy(source: str, target: str) -> None:
    if os.path.isfile(source) and os.path.getsize(source) <= FILE_BYTES + 1:
        shutil.copyfile(source, target)


def twice(root: Path, _outside: Path, chance: random.Random) -> None:
    """The same session in another project too."""
    projects = root / "projects"
    path = _some(projects, chance) if projects.is_dir() and not projects.is_symlink() else None
    if path is not None and path.parent.name == "chat_sessions" and path.is_dir() and not path.is_symlink():
        target = root / "projects" / "twice" / "chat_sessions" / path.name
        if not os.path.lexists(target.parent.parent):
            shutil.copytree(path, target, symlinks=True, copy_function=_copy)


def flat(root: Path, _outside: Path, chance: random.Random) -> None:
    """A session in the old flat layout."""
    folder = root / "chat_sessions" / f"old-{chance.randrange(9)}"
    if not os.path.lexists(folder.parent):
        folder.mkdir(parents=True)
        (folder / "metadata.json").write_bytes(
            orjson.dumps({"title": "old", "id": chance.choice([folder.name, "..", "a/b"])})
        )
        (folder / "messages.json").write_bytes(b'[{"role": "user", "content": "hello"}]')


HARMS: tuple[Harm, ...] = (link, link, link_more, special, huge, bytes_, value, value, value, name, twice, flat)


# --- under watch ------------------------------------------------------------------------------------------------------


@contextmanager
def watched(root: Path) -> Iterator[list[str]]:
    """Where everything lies that the import opens; a path outside of the folder fails."""
    real = os.open
    opened: list[str] = []

    def open_(*args: Any, **kwargs: Any) -> int:
        descriptor = real(*args, **kwargs)
        opened.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        return descriptor

    class Os:
        """The module, but for `open`."""

        open = staticmethod(open_)

        def __getattr__(self, attribute: str) -> Any:
            return getattr(os, attribute)

    transfer_folder.os = Os()  # type: ignore[assignment]
    try:
        yield opened
    finally:
        transfer_folder.os = os
    inside = str(root.resolve())
    for path in opened:
        assert path == inside or path.startswith(f"{inside}/"), f"{path} was opened, which is outside"


def make(folder: Path, chance: random.Random) -> tuple[Path, Path]:
    """A hostile folder, and the folder outside that holds what must not be touched."""
    root, outside = folder / "in", folder / "outside"
    root.mkdir(parents=True)
    for number in range(chance.randrange(1, 4)):
        write_session(root, session(number, chance))
    canary = session(9, chance)
    write_session(outside, replace(canary, record=replace(canary.record, title=CANARY)))
    for harm in chance.choices(HARMS, k=chance.randrange(1, 4)):
        harm(root, outside, chance)
    return root, outside


async def judge(store: Store, folder: Path, tenant: str, chance: random.Random) -> Counter[str]:
    """Make a hostile folder, import it into a tenant of its own, and look at what became of it."""
    root, outside = make(folder, chance)
    before = tree_of(root), tree_of(outside)
    counted: Counter[str] = Counter(cases=1)
    how = {"tenant": tenant, "project": "flat", "file_bytes": FILE_BYTES}
    with watched(root):
        try:
            counts, said = await import_folder(store, root, **how)
        except Unreadable:
            counts, said = {}, []
            counted["folders_refused"] += 1
    assert (tree_of(root), tree_of(outside)) == before, "a file has changed"
    stored = await store.session_page(tenant, limit=1000)
    assert len(stored) == counts.get("added", 0)
    assert len(said) == counts.get("refused", 0)
    for record in stored:
        whole = await whole_of(store, record.key)
        assert whole is not None
        assert record.title != CANARY, "a session from outside was imported"
        assert record.message_count == len(whole.messages), "half of a session was imported"
        assert comparable(whole) == comparable(_from_files(root, whole, tenant)), "it is not what its files say"
    if stored:  # and again: nothing changes
        again, _ = await import_folder(store, root, **how)
        assert again.get("same", 0) == len(stored), again
        assert await store.session_page(tenant, limit=1000) == stored
    counted["sessions_imported"] += len(stored)
    counted["sessions_refused"] += counts.get("refused", 0)
    return counted


def _from_files(root: Path, whole: WholeSession, tenant: str) -> WholeSession:
    """What the session's files say, found by its ids and read plainly."""
    key = whole.record.key
    for metadata in [
        *root.glob("projects/*/chat_sessions/*/metadata.json"),
        *root.glob("chat_sessions/*/metadata.json"),
    ]:
        folder = metadata.parent
        if folder.name not in (key.session_id, safe_name(key.session_id)):
            continue
        project = folder.parent.parent.name if folder.parent.parent != root else "flat"
        if project not in (whole.record.project_id, safe_name(whole.record.project_id)):
            continue
        if any(part.startswith(".") for part in metadata.relative_to(root).parts):
            continue
        files = metadata, folder / "messages.json"
        if any(p.is_symlink() for p in (*files, *metadata.parents)):
            continue
        if any(not p.is_file() or p.stat().st_size > FILE_BYTES for p in files):
            continue
        try:
            place = Place(project, folder.name, metadata.stat().st_mtime)
            found = read(*(p.read_bytes() for p in files), place, expires_at=EXPIRES)
        except (Unreadable, OSError):
            continue
        if found.record.key.session_id == key.session_id and found.record.project_id == whole.record.project_id:
            return replace(found, record=replace(found.record, key=key))
    raise AssertionError(f"session {key.session_id!r} stands in no file")
