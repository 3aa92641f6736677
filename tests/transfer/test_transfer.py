"""Export and import of many sessions, with a real store on either side."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chatserver.config import Settings
from chatserver.errors import StoreUnavailable
from chatserver.store.base import SessionKey, Started, Store
from chatserver.store.sql import open_store
from chatserver.store.whole import comparable
from chatserver.transfer import export_sessions
from chatserver.transfer_folder import opened
from chatserver.transfer_format import Unreadable
from tests.conformance.test_store_whole import a_tree
from tests.store.build import start
from tests.transfer.build import FILE_BYTES, import_folder, tree_of, whole_of, write_session


@asynccontextmanager
async def store_in(folder: Path) -> AsyncIterator[Store]:
    store = await open_store(Settings(data_dir=folder))
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with store_in(tmp_path / "data") as opened_store:
        yield opened_store


async def export_to(store: Store, folder: Path, tenant: str = "public") -> dict[str, int]:
    """Export into a new folder; the counts."""
    os.mkdir(folder)
    with opened(folder) as into:
        return dict(await export_sessions(store, tenant, into, lambda: None, lambda _: None))


def tree(session_id: str, **fields: Any) -> Any:
    """A session of that id."""
    whole = a_tree(SessionKey("public", session_id))
    return replace(whole, record=replace(whole.record, **fields))


NAMES = ["s-1", "S-1", "..", ".", "a:b", "A" * 128, "con", "x.", ".hidden"]


async def test_what_is_exported_and_imported_is_the_same(store: Store, tmp_path: Path) -> None:
    """Every session whatever its name, of every project; and exporting it again gives the same files."""
    for number, name in enumerate(NAMES):
        await store.import_session(tree(name, project_id=("p-1", "P-1", "..")[number % 3]), replace=False)

    assert await export_to(store, tmp_path / "out") == {"sessions": 9, "messages": 36, "damaged": 0}

    async with store_in(tmp_path / "other") as other:
        counts, said = await import_folder(other, tmp_path / "out")
        assert (counts, said) == ({"added": 9, "messages": 36}, [])
        for name in NAMES:
            key = SessionKey("public", name)
            assert await whole_of(other, key) == await whole_of(store, key)
        await export_to(other, tmp_path / "again")
    assert {name: content for name, (_, _, _, content) in tree_of(tmp_path / "again").items()} == {
        name: content for name, (_, _, _, content) in tree_of(tmp_path / "out").items()
    }


async def test_an_export_holds_one_tenant_and_what_was_checkpointed(store: Store, tmp_path: Path) -> None:
    """Nothing of another tenant; of an answer that runs, what was committed of it."""
    await store.import_session(a_tree(SessionKey("acme", "theirs")), replace=False)
    turn = start(create=True)
    assert isinstance(await store.start_turn(turn), Started)

    assert await export_to(store, tmp_path / "out") == {"sessions": 1, "messages": 2, "damaged": 0}

    files = [path.read_text() for path in (tmp_path / "out").rglob("messages.json")]
    assert [message["status"] for message in json.loads(files[0])] == ["completed", "interrupted"]
    assert "theirs" not in str(list((tmp_path / "out").rglob("*")))


async def test_importing_twice_changes_nothing(store: Store, tmp_path: Path) -> None:
    """The second time every session is there already."""
    write_session(tmp_path / "in", tree("s-1"))
    await import_folder(store, tmp_path / "in")
    before = await whole_of(store, SessionKey("public", "s-1"))

    counts, said = await import_folder(store, tmp_path / "in")

    assert (counts, said) == ({"same": 1}, [])
    assert await whole_of(store, SessionKey("public", "s-1")) == before


async def test_a_session_that_differs_is_left_until_replacing_is_asked_for(store: Store, tmp_path: Path) -> None:
    """It is named, and the others go on."""
    await store.import_session(tree("s-1", title="mine"), replace=False)
    write_session(tmp_path / "in", tree("s-1", title="theirs"))
    write_session(tmp_path / "in", tree("s-2"))

    counts, said = await import_folder(store, tmp_path / "in")

    assert counts == {"added": 1, "differing": 1, "messages": 4}
    assert said == [
        "projects/p-1/chat_sessions/s-1: there is another session 's-1' in tenant 'public'; it is left as it is "
        "(--replace takes the folder's)"
    ]
    stored = await store.record(SessionKey("public", "s-1"))
    assert stored is not None
    assert stored.title == "mine"

    counts, _ = await import_folder(store, tmp_path / "in", replace=True)
    assert counts == {"replaced": 1, "same": 1, "messages": 4}
    stored = await store.record(SessionKey("public", "s-1"))
    assert stored is not None
    assert stored.title == "theirs"


async def test_the_flat_layout_moves_into_a_project(store: Store, tmp_path: Path) -> None:
    """`chat_sessions/SESSION/`; without a project it is not begun."""
    folder = tmp_path / "in" / "chat_sessions" / "old-1"
    folder.mkdir(parents=True)
    (folder / "metadata.json").write_text('{"id": "old-1", "title": "Old"}')
    (folder / "messages.json").write_text('[{"role": "user", "content": "hello"}]')

    with pytest.raises(Unreadable, match="--project"):
        await import_folder(store, tmp_path / "in")
    counts, said = await import_folder(store, tmp_path / "in", project="legacy")
    assert (counts, said) == ({"added": 1, "messages": 1}, [])
    counts, _ = await import_folder(store, tmp_path / "in", project="legacy")
    assert counts == {"same": 1}

    stored = await store.record(SessionKey("public", "old-1"))
    assert stored is not None
    assert (stored.project_id, stored.title, stored.owner) == ("legacy", "Old", None)


async def test_tenants_and_owners_are_mapped(store: Store, tmp_path: Path) -> None:
    """The turns that wait run as the new owner too."""
    queued = replace(a_tree().queue[0], options={"kind": "user", "user_id": "zoë"})
    write_session(tmp_path / "in", replace(tree("s-1"), queue=(queued,)))
    write_session(tmp_path / "in", tree("s-2", owner=None))
    write_session(tmp_path / "in", tree("s-3", owner="visitor:0a"))

    counts, said = await import_folder(
        store, tmp_path / "in", tenant="acme", owners={"user:zoë": "user:7", "*": "user:8", "none": None}
    )

    assert (counts, said) == ({"added": 3, "messages": 12}, [])
    owners = {r.key: r.owner for r in await store.session_page("acme", limit=10)}
    assert owners == {("acme", "s-1"): "user:7", ("acme", "s-2"): None, ("acme", "s-3"): "user:8"}
    stored = await store.load(SessionKey("acme", "s-1"), 0)
    assert stored is not None
    assert stored.queue[0].options == {"kind": "user", "user_id": "7"}


async def test_what_is_wrong_is_left_out_and_the_rest_goes_on(store: Store, tmp_path: Path) -> None:
    """Each with its place and one reason; nothing of it is in the store."""
    root, outside = tmp_path / "in", tmp_path / "outside"
    write_session(root, tree("good"))
    theirs = write_session(outside, tree("canary"))
    sessions = root / "projects" / "p-1" / "chat_sessions"
    (sessions / "canary").symlink_to(theirs)
    linked = write_session(root, tree("linked"))
    (linked / "messages.json").rename(outside / "messages.json")  # all that is wrong with it is where it lies
    (linked / "messages.json").symlink_to(outside / "messages.json")
    (root / "projects" / "link").symlink_to(outside / "projects" / "p-1")
    fifo = write_session(root, tree("fifo"))
    (fifo / "metadata.json").unlink()
    os.mkfifo(fifo / "metadata.json")
    huge = write_session(root, tree("huge"))
    with (huge / "messages.json").open("ab") as file:
        file.truncate(FILE_BYTES + 1)
    (write_session(root, tree("half")) / "messages.json").unlink()
    write_session(root, tree("moved")).rename(sessions / "elsewhere")
    (sessions / "a-file").write_text("{}")
    write_session(root, tree("good", project_id="p-2"))
    write_session(root, tree("no-owner", owner="root"))
    (sessions / ".half.new").mkdir()

    counts, said = await import_folder(store, root)

    assert counts == {"added": 1, "messages": 4, "refused": 10}
    assert sorted(line.partition(": ")[0].removeprefix("projects/p-1/chat_sessions/") for line in said) == [
        "a-file",
        "canary",
        "elsewhere",
        "fifo",
        "half",
        "huge",
        "linked",
        "no-owner",
        "projects/link/chat_sessions",
        "projects/p-2/chat_sessions/good",
    ]
    assert [r.key.session_id for r in await store.session_page("public", limit=10)] == ["good"]


@pytest.mark.parametrize("layout", ["nothing", "projects is a link", "chat_sessions is a link", "projects is a file"])
async def test_a_folder_that_is_no_export_is_refused(store: Store, tmp_path: Path, layout: str) -> None:
    """Before anything is read."""
    root, outside = tmp_path / "in", tmp_path / "outside"
    root.mkdir()
    write_session(outside, tree("canary"))
    match layout:
        case "projects is a link":
            (root / "projects").symlink_to(outside / "projects")
        case "chat_sessions is a link":
            (root / "chat_sessions").symlink_to(outside / "projects" / "p-1" / "chat_sessions")
        case "projects is a file":
            (root / "projects").write_text("x")

    with pytest.raises(Unreadable):
        await import_folder(store, root, project="p")
    assert await store.count_sessions("public") == 0


async def test_a_store_that_fails_ends_the_import_between_two_sessions(tmp_path: Path) -> None:
    """What was imported is whole, what was not is not there, and importing again completes it."""
    for number in range(100):
        write_session(tmp_path / "in", tree(f"s-{number:03}"))

    class Failing:
        """The store, until it has taken ten sessions."""

        def __init__(self, store: Store) -> None:
            self.store = store
            self.left = 10

        async def import_session(self, whole: Any, *, replace: bool) -> Any:
            if self.left == 0:
                raise StoreUnavailable("gone")
            self.left -= 1
            return await self.store.import_session(whole, replace=replace)

    async with store_in(tmp_path / "data") as store:
        with pytest.raises(StoreUnavailable):
            await import_folder(Failing(store), tmp_path / "in")  # type: ignore[arg-type]
        for record in await store.session_page("public", limit=1000):
            found = await whole_of(store, record.key)
            assert found is not None
            assert len(found.messages) == record.message_count == 4
        await store.ready()  # behind what was cancelled on its way, which may arrive or not
        kept = await store.count_sessions("public")
        assert kept <= 10

        counts, _ = await import_folder(store, tmp_path / "in")
        assert counts == {
            name: n for name, n in {"added": 100 - kept, "same": kept, "messages": 400 - 4 * kept}.items() if n
        }
        one = await whole_of(store, SessionKey("public", "s-042"))
        assert one is not None
        assert comparable(one).record.title == "A “title”"
