"""What an export of a session reads, the same for folders (transfer.py) and for one download (api/export.py).

Invariants: what it gives is of one moment, except for an answer that was running, and memory holds the ids of a
session's messages and some hundred of the messages themselves, however many there are.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from chatserver.message import Message
from chatserver.store.base import SessionKey, SessionRecord, Store, StoredTurn

# Messages that are read together: some hundred kilobytes, in a millisecond of a reader's time.
BATCH_MESSAGES = 100


@dataclass(frozen=True, slots=True)
class Outline:
    """A session without its messages' contents: id and parent of each, in the order they were added."""

    record: SessionRecord
    links: tuple[tuple[str, str | None], ...]
    queue: tuple[StoredTurn, ...]

    def every_id(self) -> list[str]:
        """All of its messages, of every branch."""
        return [message_id for message_id, _ in self.links]

    def branch_ids(self) -> list[str]:
        """The messages of the active branch, oldest first."""
        parents = dict(self.links)
        found: list[str] = []
        at = self.record.leaf_id
        while at is not None and len(found) < len(parents):
            found.append(at)
            at = parents.get(at)
        return found[::-1]


async def outline(store: Store, key: SessionKey) -> Outline | None:
    """The session's outline, or None where there is none (any more)."""
    while (stored := await store.load(key, 0)) is not None:
        links = await store.message_links(key)
        # Messages are only ever added: what came in since the record was read stands behind the others.
        if len(links) >= (count := stored.record.message_count):
            return Outline(stored.record, links[:count], stored.queue)
    return None


async def messages(store: Store, key: SessionKey, ids: Sequence[str]) -> AsyncGenerator[tuple[Message, ...], None]:
    """These messages, in order, in batches."""
    for at in range(0, len(ids), BATCH_MESSAGES):
        yield await store.messages_by_id(key, ids[at : at + BATCH_MESSAGES])
