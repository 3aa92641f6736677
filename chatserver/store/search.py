"""The full-text index: which words stand in which title and message (words.py says what a word is).

Invariants:

- Texts come into the index when their owner searches, and not before: a turn costs nothing for it, and neither does
  who never searches. `sessions.indexed_seq` says how far a session is indexed, and is changed in the transaction that
  changes the index; texts that are indexed never change but for titles, which are taken out and put in again.
- A word is indexed together with a short hash of tenant and owner. So a search, also for the beginning of a word, reads
  what its owner wrote and nothing else: its cost does not grow with other people's texts, nor does it tell of them. A
  hash that two owners share costs time and gives nothing away: what is found is looked for among the owner's sessions.
- FTS5 holds no text here (a contentless table), so what leaves the index is told by the same words that came in.

A document is numbered by its session's `number` and its message's `seq`; 0 is the title.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from itertools import takewhile

from chatserver.store.records import SessionKey
from chatserver.store.rows import Row, indexed_of, key_params
from chatserver.store.schema import SEQ_BITS
from chatserver.store.statements import Statement
from chatserver.store.transaction import Transaction
from chatserver.store.words import query_words, words_of

# Texts that one transaction adds: some 10 ms, for which everybody else's writes wait.
INDEXED_TOGETHER = 128
_SESSIONS_TOGETHER = 32
_TITLE = 0

# Where a walk through an owner's sessions stands: `(updated_at, session_id)`.
Place = tuple[float, str]
FIRST: Place = (0.0, "")


def is_behind(tx: Transaction, *, tenant: str, owner: str) -> bool:
    """Whether something of an owner's is not in the index yet."""
    params = {"tenant": tenant, "owner": owner, "after_at": FIRST[0], "after_id": FIRST[1], "limit": 1}
    return tx.one(tx.sql.unindexed_sessions, params) is not None


def index_some(tx: Transaction, *, tenant: str, owner: str, after: Place) -> Place | None:
    """Add what of an owner's sessions is not in the index yet, from a place on, up to INDEXED_TOGETHER texts.

    The sessions come oldest first: one that is used meanwhile moves behind the place, and is not missed.

    Returns: where to go on; None where nothing is left.
    """
    params = {"tenant": tenant, "owner": owner, "after_at": after[0], "after_id": after[1]}
    room = INDEXED_TOGETHER
    all_seen = False
    documents: list[tuple[int, str]] = []
    sessions = tx.all(tx.sql.unindexed_sessions, {**params, "limit": _SESSIONS_TOGETHER})
    for updated_at, session_id, title, number, indexed_seq in sessions:
        key = SessionKey(tenant, session_id)
        texts: list[tuple[int, str]] = [(_TITLE, title)] if indexed_seq < _TITLE else []
        new = tx.all(tx.sql.unindexed_texts, {**key_params(key), "indexed_seq": indexed_seq, "limit": room})
        # A running answer comes in when it has settled, and what stands behind it then too.
        settled = list(takewhile(_has_settled, new))
        texts += [(seq, text) for seq, text, _ in settled]
        if texts:
            tx.run(tx.sql.mark_indexed, {**key_params(key), "indexed_seq": texts[-1][0]})
            documents += _documents(number, texts)
        if len(settled) == room:
            break  # there may be more of it: the place stays before it
        room -= len(settled)
        after = (updated_at, session_id)
    else:
        all_seen = len(sessions) < _SESSIONS_TOGETHER
    _write(tx, tx.sql.add_words, tenant, owner, documents)
    return None if all_seen else after


def _has_settled(row: Row) -> bool:
    return bool(row[2] != "streaming")


def rename(tx: Transaction, row: Row, title: str) -> None:
    """Put a session's new title in the place of the one that stands in its row."""
    tenant, _, owner, old, number, indexed_seq = indexed_of(row)
    if owner is not None and indexed_seq >= _TITLE:
        _write(tx, tx.sql.remove_words, tenant, owner, _documents(number, [(_TITLE, old)]))
        _write(tx, tx.sql.add_words, tenant, owner, _documents(number, [(_TITLE, title)]))


def remove(tx: Transaction, row: Row) -> None:
    """Take a session out of the index, before its messages or its owner go."""
    tenant, session_id, owner, title, number, indexed_seq = indexed_of(row)
    if owner is not None and indexed_seq >= _TITLE:
        key = SessionKey(tenant, session_id)
        texts = tx.all(tx.sql.indexed_texts, {**key_params(key), "indexed_seq": indexed_seq})
        _write(tx, tx.sql.remove_words, tenant, owner, _documents(number, [(_TITLE, title), *texts]))
        tx.run(tx.sql.mark_indexed, {**key_params(key), "indexed_seq": _TITLE - 1})


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
