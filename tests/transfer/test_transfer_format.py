"""A session as two files: nothing is lost on the way, and nothing that is wrong gets through."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from chatserver.clock import rfc3339
from chatserver.store.base import WholeSession
from chatserver.transfer_folder import safe_name
from chatserver.transfer_format import Place, Unreadable, exact, read, seconds_of
from tests.conformance.test_store_whole import a_tree
from tests.transfer.build import EXPIRES, files_of, ids, times, wholes


def read_it(metadata: Any, messages: Any, *, project: str = "p-1", session: str = "session-1") -> WholeSession:
    """Read files given as bytes or as JSON."""

    def raw(value: Any) -> bytes:
        return value if isinstance(value, bytes) else json.dumps(value).encode()

    return read(raw(metadata), raw(messages), Place(project, session, 1_700_000_000.0), expires_at=EXPIRES)


@given(times)
def test_a_time_survives_to_its_last_digit(seconds: float) -> None:
    """And is a time of RFC 3339, which starts like the one that the API shows."""
    assert seconds_of(exact(seconds)) == seconds
    assert exact(seconds)[:19] == rfc3339(int(seconds))[:19]


@given(wholes())
def test_a_session_is_read_as_it_was_written(whole: WholeSession) -> None:
    """Every field of the record, every message of every branch, the queue."""
    record = whole.record

    found = read_it(*files_of(whole), project=safe_name(record.project_id), session=safe_name(record.key.session_id))

    assert found == whole


@pytest.mark.parametrize(("title", "is_named"), [("New Chat", False), ("Mine", True)])
def test_a_file_that_does_not_say_whether_its_session_is_named_is_read(title: str, is_named: bool) -> None:
    """Those of earlier versions do not."""
    whole = a_tree()
    metadata, messages = files_of(replace(whole, record=replace(whole.record, title=title)))
    fields = json.loads(metadata)
    del fields["is_named"]

    assert read_it(fields, messages).record.is_named is is_named


def test_an_answer_that_was_running_is_interrupted() -> None:
    """Nothing runs in a file."""
    whole = a_tree()
    running = replace(whole.messages[1], status="streaming")

    found = read_it(*files_of(replace(whole, messages=(whole.messages[0], running, *whole.messages[2:]))))

    assert found.messages[1].status == "interrupted"


@given(ids, ids)
def test_names_of_folders_are_safe_and_differ(one: str, other: str) -> None:
    """Also where a file system folds capitals; none is hidden, leads out, or is longer than names may be."""
    name = safe_name(one)

    assert 1 <= len(name) <= 255
    assert name not in (".", "..")
    assert not name.startswith(".")
    assert not set(name) & set('/\\:*?"<>|\0')
    assert (name.casefold() == safe_name(other).casefold()) == (one == other)


# --- files of other programs ---


def test_files_of_another_program_are_read_as_far_as_they_say_something() -> None:
    """The layout that chatserver's predecessors wrote: a chain of messages, times without an offset, fields unknown."""
    metadata = {
        "session_id": "session-1",
        "project_id": "p-1",
        "title": "Old",
        "created_at": "2025-11-13T10:00:00.5",
        "updated_at": "2025-11-13T11:00:00+01:00",
        "message_count": 2,
        "tags": ["a"],
    }
    messages = [
        {"message_id": "m1", "role": "user", "content": "hello", "timestamp": 1_763_028_000},
        {"role": "assistant", "content": "hi", "created_at": "2025-11-13T10:00:02Z", "rating": 5},
    ]

    found = read_it(metadata, {"messages": messages})

    record = found.record
    assert (record.title, record.message_count, record.leaf_id) == ("Old", 2, found.messages[1].id)
    assert (exact(record.created_at), exact(record.updated_at)) == (
        "2025-11-13T10:00:00.500Z",
        "2025-11-13T10:00:00.000Z",
    )
    assert record.expires_at == EXPIRES
    assert record.metadata == {"imported": {"tags": ["a"]}}
    first, second = found.messages
    assert (first.id, first.created_at) == ("m1", "2025-11-13T10:00:00.000Z")
    assert (second.parent_id, second.metadata) == ("m1", {"imported": {"rating": 5}})
    assert read_it(metadata, messages) == found  # the same ids again for messages that have none


def test_a_session_that_says_nothing_gets_what_its_folder_says() -> None:
    """An empty record is the least there can be."""
    found = read_it({}, [], project="p", session="s")

    assert (found.record.key, found.record.project_id, found.record.title) == (("public", "s"), "p", "s")
    assert found.record.created_at == 1_700_000_000.0
    assert (found.record.leaf_id, found.record.last_message_at, found.messages) == (None, None, ())


# --- what is wrong ---


def _changed(**changes: Any) -> tuple[Any, Any]:
    metadata, messages = map(json.loads, files_of(a_tree()))
    return metadata | changes, messages


def _usage(tokens: int) -> dict[str, Any]:
    counted = dict.fromkeys(("prompt_tokens", "completion_tokens", "reasoning_tokens"), 0)
    return counted | {"cached_tokens": tokens, "estimated": False}


def _messages(change: Any) -> tuple[Any, Any]:
    metadata, messages = map(json.loads, files_of(a_tree()))
    change(messages)
    return metadata, messages


WRONG: dict[str, tuple[Any, Any]] = {
    "no JSON": (b"{", b"[]"),
    "not UTF-8": (b'{"title": "\xff"}', b"[]"),
    "not a number": (b'{"metadata": {"x": NaN}}', b"[]"),
    "half a character": (rb'{"title": "\ud800"}', b"[]"),
    "deeper than can be written": ({}, b"[" * 202 + b"]" * 202),
    "a list for a record": ([], []),
    "an object for messages": (_changed()[0], {}),
    "another format": _changed(format="chatserver-session/2"),
    "an unknown field": _changed(colour="red"),
    "an id with a slash": _changed(id="../x"),
    "a project with a slash": _changed(project_id="a/b"),
    "a long title": _changed(title="x" * 201),
    "a number for a title": _changed(title=5),
    "a text for a flag": _changed(is_active="yes"),
    "a time that is none": _changed(created_at="yesterday"),
    "a day that is none": _changed(created_at="2025-02-30T00:00:00Z"),
    "a time after the last": _changed(updated_at="9999-12-31T23:59:59-23:59"),
    "a time before the first": _changed(created_at=-1),
    "a missing time": _changed(expires_at=None),
    "a leaf that is no message": _changed(leaf_id="m-x"),
    "no leaf": _changed(leaf_id=None),
    "a queue that is none": _changed(queue=[{"turn_id": "t"}]),
    "a turn twice": _changed(queue=_changed()[0]["queue"][:1] * 2),
    "options that are no texts": _changed(queue=[_changed()[0]["queue"][0] | {"options": {"user_id": ["x"]}}]),
    "a message twice": _messages(lambda m: m.append(m[0])),
    "a message without its parent": _messages(lambda m: m.pop(0)),
    "a circle": _messages(lambda m: m[0].update(parent_id=m[1]["id"])),
    "a role that is none": _messages(lambda m: m[0].update(role="robot")),
    "a status that is none": _messages(lambda m: m[0].update(status="odd")),
    "an unknown field of a message": _messages(lambda m: m[0].update(colour="red")),
    "a missing field of a message": _messages(lambda m: m[0].pop("content")),
    "a message's time": _messages(lambda m: m[0].update(created_at="now")),
    "tool calls that are none": _messages(lambda m: m[1].update(tool_calls=[{"id": 1}])),
    "tokens that are none": _messages(lambda m: m[1].update(usage={"prompt_tokens": 10**30})),
    "more tokens than a sum can hold": _messages(lambda m: m[1].update(usage=_usage(2**63))),
    "fewer tokens than none": _messages(lambda m: m[1].update(usage=_usage(-1))),
    "a message of another session": ({}, [{"role": "user", "content": "x", "session_id": "other"}]),
    "a message that is a text": ({}, ["hello"]),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_refused_with_one_line(what: str) -> None:
    """It says which file, and fits on a terminal whatever the file holds."""
    with pytest.raises(Unreadable) as refused:
        read_it(*WRONG[what])

    reason = str(refused.value)
    assert len(reason) < 400
    assert reason.isprintable()
    assert reason.isascii()
