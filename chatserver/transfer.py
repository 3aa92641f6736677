"""Export and import of many sessions: `projects/{project}/chat_sessions/{session}/{metadata.json,messages.json}`.

Invariants: a session's folder appears under its name only when it is complete, and a session is in the store wholly or
not at all. A session that cannot be read is left out with its reason, and the others go on. Importing the same folder
again changes nothing.

It knows no command line and no progress bar (transfer_command.py).
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass, field, replace

from chatserver.config import TENANT
from chatserver.errors import Conflict, SessionDamaged
from chatserver.store.base import SessionKey, Store, StoredTurn, WholeSession
from chatserver.transfer_folder import Folder, safe_name
from chatserver.transfer_format import Place, Unreadable, message_json, metadata_json, read
from chatserver.transfer_source import Export, begin_export

PROJECTS, SESSIONS = "projects", "chat_sessions"
# What a session's owner may be (principal.py), and how none is written where owners are mapped.
OWNER = re.compile(r"(user|visitor):[^\x00-\x1f\x7f]{1,256}")
NOBODY = "none"
METADATA, MESSAGES = "metadata.json", "messages.json"
# Sessions whose ids are read together.
_PAGE = 200
# Sessions and bytes of files that are imported together: their commits share one sync of the disk.
_BATCH_SESSIONS = 64
_BATCH_BYTES = 8 << 20

Tick = Callable[[], None]


# --- export ---


async def export_sessions(
    store: Store, tenant: str, into: Folder, tick: Tick, say: Callable[[str], None]
) -> Counter[str]:
    """Write every session of a tenant into an empty folder; how many sessions and messages, and how many sessions that
    cannot be read (`damaged`).

    Args:
        tick: called after each session.
        say: told of each that cannot be read.
    Raises: OSError, and what the store raises. Cancelling leaves whole sessions.
    """
    counts: Counter[str] = Counter(sessions=0, messages=0, damaged=0)
    into.make(PROJECTS)
    with into.folder(PROJECTS) as projects:
        after = ""
        while page := await store.session_page(tenant, after=after, limit=_PAGE):
            for record in page:
                after = record.key.session_id
                try:
                    whole = await begin_export(store, record.key)
                    if whole is not None:  # else deleted meanwhile
                        await _write(whole, projects)
                        counts["sessions"] += 1
                        counts["messages"] += len(whole.links)
                except SessionDamaged as error:
                    counts["damaged"] += 1
                    say(f"{ascii(after)[1:-1]}: {error.detail}")
                tick()
    return counts


async def _write(whole: Export, projects: Folder) -> None:
    project, session = safe_name(whole.record.project_id), safe_name(whole.record.key.session_id)
    projects.make(project)
    with projects.folder(project) as folder:
        folder.make(SESSIONS)
        with folder.folder(SESSIONS) as sessions:
            unfinished = f".{session}.new"
            sessions.make(unfinished)
            try:
                with sessions.folder(unfinished) as files:
                    with files.writing(METADATA) as file:
                        file.write(metadata_json(whole.record, whole.queue))
                    await _write_messages(whole, files)
            except SessionDamaged:
                sessions.discard(unfinished, METADATA, MESSAGES)
                raise
            sessions.move(unfinished, session)


async def _write_messages(whole: Export, files: Folder) -> None:
    with files.writing(MESSAGES) as file:
        file.write(b"[\n")
        separator = b""
        async with aclosing(whole.every_message()) as batches:
            async for batch in batches:
                for message in batch:
                    file.write(separator + message_json(message))
                    separator = b",\n"
        file.write(b"\n]\n")


# --- import ---


@dataclass(frozen=True, slots=True)
class Wanted:
    """How sessions are imported.

    Args:
        tenant: theirs from now on; None leaves each what it says.
        project: of those of the flat layout, which are in none.
        owners: old owner to new, `*` for every other; None is nobody.
        replace: what is stored under the same id and differs.
        expires_at: of sessions that say none (seconds since the epoch).
        file_bytes: that one file may have.
    """

    tenant: str | None
    project: str | None
    owners: Mapping[str, str | None]
    replace: bool
    expires_at: float
    file_bytes: int


@dataclass(slots=True)
class Report:
    """What became of each session: counts, and for those that were left out where and why, told to `say`."""

    say: Callable[[str], None]
    tick: Tick
    counts: Counter[str] = field(default_factory=Counter)

    def refuse(self, place: str, reason: object) -> None:
        self.counts["refused"] += 1
        self.say(f"{place}: {reason}")
        self.tick()


def places(root: Folder, project: str | None) -> list[tuple[str, ...]]:
    """Where sessions lie in a folder, as names of folders; those of the flat layout last.

    Raises: Unreadable where it has neither layout, or the flat one and no `project` is given.
    """
    found: list[tuple[str, ...]] = []
    flat = root.has(SESSIONS)
    if not flat and not root.has(PROJECTS):
        raise Unreadable(f"it holds neither {PROJECTS}/ nor {SESSIONS}/")
    if flat and project is None:
        raise Unreadable(f"it holds {SESSIONS}/, whose sessions are in no project: say which with --project")
    if root.has(PROJECTS):
        with root.folder(PROJECTS) as projects:
            for name in projects.names():
                found += _sessions_of(projects, name)
    if flat:
        with root.folder(SESSIONS) as sessions:
            found += [(SESSIONS, session) for session in sessions.names()]
    return found


def _sessions_of(projects: Folder, name: str) -> Iterator[tuple[str, ...]]:
    try:
        with projects.folder(name) as project, project.folder(SESSIONS) as sessions:
            for session in sessions.names():
                yield (PROJECTS, name, SESSIONS, session)
    except Unreadable:
        yield (PROJECTS, name, SESSIONS)  # the reason comes when it is read


async def import_sessions(
    store: Store, root: Folder, found: list[tuple[str, ...]], wanted: Wanted, report: Report
) -> None:
    """Put the sessions of a folder into the store, in batches.

    Args:
        found: what `places` gave.
    Raises: what the store raises, but for a session that is there already. Cancelling leaves whole sessions.
    """
    seen: set[SessionKey] = set()
    batch: list[tuple[str, WholeSession]] = []
    size = 0
    for path in found:
        shown = ascii("/".join(path))[1:-1]  # the terminal shows names that somebody chose
        try:
            whole, file_bytes = _read(root, path, wanted)
            if whole.record.key in seen:
                raise Unreadable(f"the folder holds session {whole.record.key.session_id} twice")
        except Unreadable as error:
            report.refuse(shown, error)
            continue
        seen.add(whole.record.key)
        batch.append((shown, whole))
        size += file_bytes
        if len(batch) >= _BATCH_SESSIONS or size >= _BATCH_BYTES:
            await _import_batch(store, batch, wanted, report)
            batch, size = [], 0
    await _import_batch(store, batch, wanted, report)


async def _import_batch(store: Store, batch: list[tuple[str, WholeSession]], wanted: Wanted, report: Report) -> None:
    async def one(shown: str, whole: WholeSession) -> None:
        try:
            became = await store.import_session(whole, replace=wanted.replace)
        except Conflict as error:
            report.counts["differing"] += 1
            report.say(f"{shown}: {error.detail}; it is left as it is (--replace takes the folder's)")
        else:
            report.counts[became] += 1
            report.counts["messages"] += 0 if became == "same" else len(whole.messages)
        report.tick()

    try:
        async with asyncio.TaskGroup() as group:
            for shown, whole in batch:
                group.create_task(one(shown, whole))
    except ExceptionGroup as errors:  # a full disk meets all of them
        raise errors.exceptions[0] from None


def _read(root: Folder, path: tuple[str, ...], wanted: Wanted) -> tuple[WholeSession, int]:
    project = path[1] if len(path) > 2 else wanted.project or ""
    with _walk(root, path) as files:
        metadata, written_at = files.read(METADATA, wanted.file_bytes)
        messages_, _ = files.read(MESSAGES, wanted.file_bytes)
    place = Place(project, path[-1], written_at)
    whole = read(metadata, messages_, place, expires_at=wanted.expires_at)
    _check_names(whole, place)
    return _mapped(whole, wanted), len(metadata) + len(messages_)


@contextmanager
def _walk(root: Folder, path: tuple[str, ...]) -> Iterator[Folder]:
    with ExitStack() as stack:
        folder = root
        for name in path:
            folder = stack.enter_context(folder.folder(name))
        yield folder


def _check_names(whole: WholeSession, place: Place) -> None:
    """Files that were moved under another name are nobody's to guess about. Raises: Unreadable."""
    for folder, identifier in ((place.project, whole.record.project_id), (place.session, whole.record.key.session_id)):
        if folder not in (identifier, safe_name(identifier)):
            raise Unreadable(f"{METADATA} says {identifier!a}, and the folder is called {folder[:200]!a}")


def _mapped(whole: WholeSession, wanted: Wanted) -> WholeSession:
    """With the tenant and the owner that it shall have. Raises: Unreadable where they can be nobody's."""
    record = whole.record
    tenant = wanted.tenant or record.key.tenant
    owner = _new_owner(record.owner, wanted)
    if not TENANT.fullmatch(tenant):
        raise Unreadable(f"tenant: {tenant!a} is not 1 to 64 of A-Z a-z 0-9 . _ -")
    if owner is not None and not OWNER.fullmatch(owner):
        raise Unreadable(f"owner: {owner!a} is neither user:ID nor visitor:ID")
    record = replace(record, key=SessionKey(tenant, record.key.session_id), owner=owner)
    return replace(whole, record=record, queue=tuple(_mapped_turn(turn, wanted) for turn in whole.queue))


def _mapped_turn(turn: StoredTurn, wanted: Wanted) -> StoredTurn:
    """As whose principal it will run (new_turn.py). Raises: Unreadable where that is none."""
    kind, user_id = turn.options.get("kind", "none"), turn.options.get("user_id")
    old = None if kind == "none" else f"{kind}:{user_id}"
    owner = _new_owner(old, wanted)
    if owner is not None and not OWNER.fullmatch(owner):
        raise Unreadable(f"queue: {owner[:40]!a} is neither user:ID nor visitor:ID")
    if owner == old:
        return turn
    if owner is None:
        return replace(turn, options={**turn.options, "kind": "none", "user_id": None})
    kind, _, user_id = owner.partition(":")
    return replace(turn, options={**turn.options, "kind": kind, "user_id": user_id})


def _new_owner(owner: str | None, wanted: Wanted) -> str | None:
    return wanted.owners.get(owner or NOBODY, wanted.owners.get("*", owner))
