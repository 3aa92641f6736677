"""Finding files: within the folder, within the limits, and never something that is no file."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from chatserver.agents import docs_folder
from chatserver.agents.docs_folder import Limits, list_folder, read_file

ROOMY = Limits(max_files=100, max_file_bytes=1 << 20, max_bytes=1 << 20)


def test_markdown_is_found_nearest_first_and_hidden_folders_are_not_entered(tmp_path: Path) -> None:
    """The order is stable, and .git or node_modules hold nobody's documentation."""
    for name in ("b.md", "a.MARKDOWN", "notes.txt", "deep/c.md", ".git/d.md", "node_modules/x/e.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("# t\n")

    assert [found.source for found in list_folder(tmp_path, ROOMY).files] == ["a.MARKDOWN", "b.md", "deep/c.md"]


def test_links_to_outside_are_skipped_and_links_inside_are_read(tmp_path: Path) -> None:
    """`--docs` opens one folder, not whatever somebody linked from it."""
    outside, docs = tmp_path / "outside", tmp_path / "docs"
    outside.mkdir()
    docs.mkdir()
    (outside / "secret.md").write_text("secret")
    (docs / "own.md").write_text("own")
    (docs / "linked.md").symlink_to(docs / "own.md")
    (docs / "leak.md").symlink_to(outside / "secret.md")
    (docs / "folder").symlink_to(outside, target_is_directory=True)
    (docs / "loop.md").symlink_to(docs / "loop.md")

    listed = list_folder(docs, ROOMY)

    assert [found.source for found in listed.files] == ["linked.md", "own.md"]
    assert dict(listed.skipped) == {"leak.md": "is a link to outside the folder", "loop.md": "cannot be read"}


def test_a_fifo_named_like_a_file_does_not_block(tmp_path: Path) -> None:
    """Opening a FIFO for reading waits for a writer, for ever."""
    os.mkfifo(tmp_path / "pipe.md")

    assert list_folder(tmp_path, ROOMY).skipped == (("pipe.md", "is not a regular file"),)


def test_a_file_swapped_for_a_fifo_or_a_link_after_listing_is_refused(tmp_path: Path) -> None:
    """Between listing and reading somebody may have replaced it."""
    (tmp_path / "a.md").write_text("a")
    found = list_folder(tmp_path, ROOMY).files[0]
    found.path.unlink()
    os.mkfifo(found.path)
    with pytest.raises(OSError, match="no regular file"):
        read_file(found, ROOMY)

    found.path.unlink()
    found.path.symlink_to("/etc/hostname")
    with pytest.raises(OSError):  # noqa: PT011 the number differs by system; any refusal is right
        read_file(found, ROOMY)


def test_limits_leave_files_out_and_say_which(tmp_path: Path) -> None:
    """Too large, too much together, too many: each is named with its reason."""
    for name, size in (("a.md", 10), ("b.md", 500), ("c.md", 60), ("d.md", 60), ("e.md", 10), ("f.md", 1)):
        (tmp_path / name).write_text("x" * size)

    listed = list_folder(tmp_path, Limits(max_files=3, max_file_bytes=100, max_bytes=100))

    assert [found.source for found in listed.files] == ["a.md", "c.md", "e.md"]
    assert dict(listed.skipped) == {
        "b.md": "is larger than 100 bytes",
        "d.md": "would make more than 100 bytes together",
        "f.md": "and all after it: more than 3 files",
    }


def test_a_huge_tree_costs_a_bounded_walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home directory given by mistake is looked at in part, and that is said."""
    monkeypatch.setattr(docs_folder, "MAX_ENTRIES", 20)
    for n in range(50):
        (tmp_path / f"{n:02}.md").write_text("x")

    listed = list_folder(tmp_path, ROOMY)

    assert len(listed.files) <= 20
    assert (".", "only its first 20 entries were looked at") in listed.skipped


def test_bytes_that_are_not_utf8_are_replaced(tmp_path: Path) -> None:
    """One bad byte must not cost the file; a byte order mark is no text."""
    (tmp_path / "a.md").write_bytes(b"\xef\xbb\xbf# T\xff\n")
    found = list_folder(tmp_path, ROOMY).files[0]

    assert read_file(found, ROOMY) == "# T\ufffd\n"
    assert read_file(found, replace(ROOMY, max_file_bytes=4)) == "#", "grown since it was listed: still bounded"


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    """An empty answer would hide a typing mistake."""
    with pytest.raises(FileNotFoundError):
        list_folder(tmp_path / "nowhere", ROOMY)
    (tmp_path / "file.md").write_text("x")
    with pytest.raises(NotADirectoryError):
        list_folder(tmp_path / "file.md", ROOMY)
