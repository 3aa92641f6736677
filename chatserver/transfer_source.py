"""Export: one session as it is read to be exported, for folders (transfer.py) and downloads (api/export.py) alike.

Invariants: what it gives is of one moment, except for an answer that was running, and memory holds the ids of a
session's messages and about a megabyte of the messages themselves, however many there are.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

import orjson

from chatserver.message import Message
from chatserver.store.base import SessionKey, SessionRecord, Store, StoredTurn

# Messages that are read together: at first few, since one can have a million characters; then as many as are about a
# megabyte, and a millisecond of a reader's time.
FIRST_BATCH = 10
MAX_BATCH = 200
BATCH_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Export:
    """A session's record and queue, its messages still in the store.

    `links` are id and parent of each message, in the order they were added.
    """

    store: Store
    record: SessionRecord
    queue: tuple[StoredTurn, ...]
    links: tuple[tuple[str, str | None], ...]

    def every_message(self) -> AsyncGenerator[tuple[Message, ...], None]:
        """All messages, of every branch, each after its parent, in batches."""
        return self._read([message_id for message_id, _ in self.links])

    def active_branch(self) -> AsyncGenerator[tuple[Message, ...], None]:
        """The messages of the active branch, oldest first, in batches."""
        parents = dict(self.links)
        found: list[str] = []
        at = self.record.leaf_id
        while at is not None and len(found) < len(parents):
            found.append(at)
            at = parents.get(at)
        return self._read(found[::-1])

    async def _read(self, ids: Sequence[str]) -> AsyncGenerator[tuple[Message, ...], None]:
        at, count = 0, FIRST_BATCH
        while at < len(ids):
            batch = await self.store.messages_by_id(self.record.key, ids[at : at + count])
            yield batch
            at, count = at + count, next_batch(batch)


def next_batch(batch: Sequence[Message]) -> int:
    """How many messages to read after these, so that they are about `BATCH_BYTES`: at most twice as many."""
    count = len(batch)
    fitting = count * BATCH_BYTES // max(1, len(orjson.dumps(batch)))
    return max(1, min(2 * count, fitting, MAX_BATCH))


async def begin_export(store: Store, key: SessionKey) -> Export | None:
    """The session, or None where there is none (any more). Raises: what the store raises."""
    while (stored := await store.load(key, 0)) is not None:
        links = await store.message_links(key)
        # Messages are only ever added: what came in since the record was read stands behind the others.
        if len(links) >= (count := stored.record.message_count):
            return Export(store, stored.record, stored.queue, links[:count])
    return None
