"""Sessions as any server could hold them, and folders to import from."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from chatserver.message import Message, ToolCall, ToolResult, Usage
from chatserver.store.base import SessionKey, SessionRecord, Store, StoredTurn, WholeSession
from chatserver.transfer import Report, Wanted, import_sessions, places
from chatserver.transfer_folder import opened, safe_name
from chatserver.transfer_format import message_json, metadata_json

FILE_BYTES = 1 << 20
EXPIRES = 1_900_000_000.0

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
ids = st.text("AZaz09._:-", min_size=1, max_size=12) | st.sampled_from([".", "..", "con", "A" * 128, "a" * 128, "-"])
# From the first second after 1970 on: a clock that shows less is not set.
times = st.floats(1, 253_402_300_799, allow_nan=False)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(texts, json_values, max_size=3)
rfc_times = st.datetimes(min_value=datetime.fromisoformat("1971-01-01")).map(
    lambda d: d.isoformat(timespec="milliseconds") + "Z"
)
tool_calls = st.builds(
    ToolCall,
    id=texts,
    server=texts,
    name=texts,
    arguments=objects,
    offset=st.integers(0, 1000),
    result=st.none() | st.builds(ToolResult, texts, st.booleans()),
)
numbers = st.integers(0, 10**9)
usages = st.builds(Usage, numbers, numbers, numbers, numbers, st.booleans())


@st.composite
def wholes(draw: st.DrawFn, key: SessionKey | None = None) -> WholeSession:
    """A session with a tree of messages and a queue."""
    messages: list[Message] = []
    for number in range(draw(st.integers(0, 6))):
        parents = [None, *(m.id for m in messages)]
        messages.append(
            Message(
                id=f"m{number}",
                parent_id=draw(st.sampled_from(parents)),
                role=draw(st.sampled_from(["user", "assistant", "system", "tool"])),
                content=draw(texts),
                status=draw(st.sampled_from(["completed", "interrupted", "failed"])),
                model=draw(st.none() | texts),
                created_at=draw(rfc_times),
                reasoning=draw(texts),
                tool_calls=tuple(draw(st.lists(tool_calls, max_size=2))),
                usage=draw(st.none() | usages),
                metadata=draw(objects),
            )
        )
    queue = tuple(
        StoredTurn(
            f"t{n}",
            Message(f"q{n}", None, "user", draw(texts), "completed", None, draw(rfc_times)),
            draw(st.none() | st.just(f"c{n}")),
            {"kind": "visitor", "user_id": "v1"},
        )
        for n in range(draw(st.integers(0, 2)))
    )
    record = SessionRecord(
        key=key or SessionKey("public", draw(ids)),
        project_id=draw(ids),
        owner=draw(st.none() | st.sampled_from(["user:zoë", "visitor:0a"])),
        title=draw(texts),
        model=draw(st.none() | texts),
        created_at=draw(times),
        updated_at=draw(times),
        expires_at=draw(times),
        description=draw(texts),
        metadata=draw(objects),
        is_active=draw(st.booleans()),
        is_named=draw(st.booleans()),
        message_count=len(messages),
        last_message_at=draw(times) if messages else None,
        leaf_id=draw(st.sampled_from([m.id for m in messages])) if messages else None,
    )
    return WholeSession(record, tuple(messages), queue)


def files_of(whole: WholeSession) -> tuple[bytes, bytes]:
    """`metadata.json` and `messages.json`."""
    lines = b",\n".join(map(message_json, whole.messages))
    return metadata_json(whole.record, whole.queue), b"[\n" + lines + b"\n]\n"


def write_session(root: Path, whole: WholeSession) -> Path:
    """Put a session into a folder as an export does; its folder."""
    folder = (
        root
        / "projects"
        / safe_name(whole.record.project_id)
        / "chat_sessions"
        / safe_name(whole.record.key.session_id)
    )
    folder.mkdir(parents=True)
    metadata, messages = files_of(whole)
    (folder / "metadata.json").write_bytes(metadata)
    (folder / "messages.json").write_bytes(messages)
    return folder


def wanted(**changes: Any) -> Wanted:
    """How sessions are imported where a test does not say."""
    given: dict[str, Any] = {
        "tenant": None,
        "project": None,
        "owners": {},
        "replace": False,
        "expires_at": EXPIRES,
        "file_bytes": FILE_BYTES,
    }
    return Wanted(**(given | changes))


async def import_folder(store: Store, root: Path, **changes: Any) -> tuple[dict[str, int], list[str]]:
    """Import a folder; the counts that are not nothing, and what was said."""
    how = wanted(**changes)
    said: list[str] = []
    report = Report(said.append, lambda: None)
    with opened(root) as folder:
        await import_sessions(store, folder, places(folder, how.project), how, report)
    return {name: count for name, count in report.counts.items() if count}, said


async def whole_of(store: Store, key: SessionKey) -> WholeSession | None:
    """A stored session, as an export reads it."""
    stored = await store.load(key, 0)
    if stored is None:
        return None
    found: Sequence[str] = [message_id for message_id, _ in await store.message_links(key)]
    return WholeSession(stored.record, await store.messages_by_id(key, found), stored.queue)


def tree_of(folder: Path) -> dict[str, tuple[int, int, int, bytes | str | None]]:
    """Everything under a folder: mode, times, content; to see that nothing of it changed."""
    found: dict[str, tuple[int, int, int, bytes | str | None]] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content: bytes | str | None = None
        if path.is_symlink():
            content = str(path.readlink())
        elif path.is_file() and status.st_size < 4 * FILE_BYTES:
            with suppress(OSError):
                content = path.read_bytes()
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_size, status.st_mtime_ns, content)
    return found
