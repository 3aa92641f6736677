"""The full-text index: which words stand in which title and message (words.py says what a word is).

Invariants:

- Texts come into the index when their owner searches, or before, in quiet hours, where that would take long: a turn
  costs nothing for it. `sessions.indexed_seq` says how far a session is indexed, and is changed in the transaction that
  changes the index; texts that are indexed never change but for titles, which are taken out and put in again.
- A word is indexed together with a short hash of tenant and owner. So a search, also for the beginning of a word, reads
  what its owner wrote and nothing else: its cost does not grow with other people's texts, nor does it tell of them. A
  hash that two owners share costs time and gives nothing away: what is found is looked for among the owner's sessions.
- FTS5 holds no text here (a contentless table), so what leaves the index is told by the same words that came in.

A document is numbered by its session's `number` and its message's `seq`; 0 is the title.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from hashlib import blake2b
from itertools import chain, takewhile
from math import inf

from chatserver.store.records import SessionKey
from chatserver.store.rows import Row, indexed_of, key_params
from chatserver.store.schema import SEQ_BITS
from chatserver.store.soundness import count_of, text_of
from chatserver.store.statement import Statement
from chatserver.store.transaction import Transaction
from chatserver.store.words import SEARCHED_CHARS, query_words, words_of

# Characters that one transaction adds or takes out, for which everybody else's writes wait: some 20 ms of words that
# all differ, 2 ms of a language's. The longest text has room.
TEXT_CHARS = 250  # what a text costs beside its own
TOGETHER_CHARS = SEARCHED_CHARS + TEXT_CHARS
_TEXTS_TOGETHER = TOGETHER_CHARS // TEXT_CHARS
_SESSIONS_TOGETHER = 32
# An owner who has more texts than these would wait for a first search: some 0.1 to 0.2 ms each.
AHEAD_TEXTS = 250
# Looked at by one read: a millisecond, where each has ten sessions.
_OWNERS_TOGETHER = 100
_TITLE = 0

# Where a walk through an owner's sessions stands: `(updated_at, session_id)`.
Place = tuple[float, str]
# Tenant and owner; where a walk through all owners stands.
Whose = tuple[str, str]
NOBODY: Whose = ("", "")
FIRST: Place = (0.0, "")
LAST: Place = (inf, "")


def is_behind(tx: Transaction, *, tenant: str, owner: str, now: float) -> bool:
    """Whether something of an owner's is not in the index yet."""
    params = {"tenant": tenant, "owner": owner, "now": now, "after_at": FIRST[0], "after_id": FIRST[1], "limit": 1}
    return tx.one(tx.sql.unindexed_sessions, params) is not None


def find_behind(tx: Transaction, *, after: Whose, now: float) -> tuple[Whose | None, Whose | None]:
    """The next owner whose search would have to index more than AHEAD_TEXTS first, of the next _OWNERS_TOGETHER.

    Returns: that owner or None, and where to go on; None at the end of all owners.
    """
    rows = tx.all(tx.sql.owners_behind, {"tenant": after[0], "owner": after[1], "now": now, "limit": _OWNERS_TOGETHER})
    for tenant, owner, texts in rows:
        after = (tenant, owner)
        if texts > AHEAD_TEXTS:
            return after, after
    return None, after if len(rows) == _OWNERS_TOGETHER else None


def index_some(
    tx: Transaction, *, tenant: str, owner: str, now: float, after: Place, spare: Collection[SessionKey] = ()
) -> Place | None:
    """Add what of an owner's sessions is not in the index yet, from a place on, up to TOGETHER_CHARS.

    The sessions come oldest first: one that is used meanwhile moves behind the place, and is not missed.

    Args:
        spare: sessions that are being taken out.
    Returns: where to go on; None where nothing is left.
    """
    params = {"tenant": tenant, "owner": owner, "now": now, "after_at": after[0], "after_id": after[1]}
    room = TOGETHER_CHARS
    documents: list[tuple[int, str]] = []
    sessions = tx.all(tx.sql.unindexed_sessions, {**params, "limit": _SESSIONS_TOGETHER})
    for updated_at, session_id, title, number, indexed_seq in sessions:
        key = SessionKey(tenant, session_id)
        if key not in spare:
            seq = {"indexed_seq": max(indexed_seq, _TITLE), "limit": _TEXTS_TOGETHER}
            rows = tx.all(tx.sql.unindexed_texts, {**key_params(key), **seq})
            # A running answer comes in when it has settled, and what stands behind it then too.
            settled = _contents(tx, key, takewhile(_has_settled, rows))
            texts, room = _fitting(
                settled if indexed_seq >= _TITLE else chain([(_TITLE, text_of(title))], settled), room
            )
            if texts:
                tx.run(tx.sql.mark_indexed, {**key_params(key), "indexed_seq": texts[-1][0]})
                documents += _documents(count_of(number), texts)
            if room < 0 or len(texts) == _TEXTS_TOGETHER:
                break  # there may be more of it: the place stays before it
        after = (updated_at, session_id)
    else:
        if len(sessions) < _SESSIONS_TOGETHER:
            after = LAST
    _write(tx, tx.sql.add_words, tenant, owner, documents)
    return None if after == LAST else after


def _contents(tx: Transaction, key: SessionKey, rows: Iterable[Row]) -> Iterator[tuple[int, str]]:
    """The texts of messages, each read when it is asked for."""
    for seq, message_id, *_ in rows:
        if not isinstance(seq, int):  # a damaged row
            continue
        row = tx.one(tx.sql.content, {**key_params(key), "message_id": message_id})
        yield seq, text_of(row[0]) if row is not None else ""


def _fitting(texts: Iterable[tuple[int, str]], room: int) -> tuple[list[tuple[int, str]], int]:
    """The texts that have room, and the room that is left; below 0 where one did not fit."""
    fitting = []
    for seq, text in texts:
        room -= TEXT_CHARS + min(len(text), SEARCHED_CHARS)
        if room < 0:
            break
        fitting.append((seq, text))
    return fitting, room


def _has_settled(row: Row) -> bool:
    return bool(row[2] != "streaming")


def rename(tx: Transaction, row: Row, title: str) -> None:
    """Put a session's new title in the place of the one that stands in its row."""
    tenant, _, owner, old, number, indexed_seq = indexed_of(row)
    if owner is not None and indexed_seq >= _TITLE:
        _write(tx, tx.sql.remove_words, tenant, owner, _documents(number, [(_TITLE, old)]))
        _write(tx, tx.sql.add_words, tenant, owner, _documents(number, [(_TITLE, title)]))


def remove(tx: Transaction, row: Row, room: int) -> int:
    """Take a session out of the index, the newest messages first, before its messages or its owner go.

    Args:
        room: characters that this transaction may still take out.
    Returns: the room that is left; below 0 where the session is not out yet.
    """
    tenant, session_id, owner, title, number, indexed_seq = indexed_of(row)
    if owner is None or indexed_seq < _TITLE:
        return room
    key = SessionKey(tenant, session_id)
    rows = tx.all(tx.sql.indexed_texts, {**key_params(key), "indexed_seq": indexed_seq, "limit": _TEXTS_TOGETHER})
    texts, room = _fitting(chain(_contents(tx, key, rows), [(_TITLE, title)]), room)
    if texts:
        _write(tx, tx.sql.remove_words, tenant, owner, _documents(number, texts))
        tx.run(tx.sql.mark_indexed, {**key_params(key), "indexed_seq": texts[-1][0] - 1})
    return room


def remove_some(tx: Transaction, *, key: SessionKey) -> bool:
    """One transaction that takes a session out of the index; whether more is left of it."""
    row = tx.one(tx.sql.record, key_params(key))
    return row is not None and remove(tx, row, TOGETHER_CHARS) < 0


def matches(tenant: str, owner: str, query: str) -> tuple[str, ...]:
    """One FTS5 query for each word of a search: a session is found that has a document for every one of them.

    They hold letters and digits in quotes; nothing of a query reaches FTS5's syntax.
    """
    scope = _scope(tenant, owner)
    found = [f'"{scope}{word}"' for word in query_words(query)]
    return (*found[:-1], f"{found[-1]} *") if found else ()


def _scope(tenant: str, owner: str) -> str:
    return blake2b(f"{tenant}\0{owner}".encode(), digest_size=5).hexdigest()


def _documents(number: int, texts: Iterable[tuple[int, str]]) -> list[tuple[int, str]]:
    first = number << SEQ_BITS
    return [(first | seq, text) for seq, text in texts if not seq >> SEQ_BITS]


def _write(
    tx: Transaction, statement: Statement, tenant: str, owner: str, documents: Iterable[tuple[int, str]]
) -> None:
    scope = _scope(tenant, owner)
    # In rising order: FTS5 collects what a commit brings only so; anything else makes a segment of its own each time.
    for document, text in sorted(documents):
        words = words_of(text)
        if words:
            tx.run(statement, {"document": document, "words": scope + f" {scope}".join(words)})
