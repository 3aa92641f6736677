"""A database with many stored sessions, made in bulk: what years of use would leave.

Invariants: tables and indexes are the server's own, made by its migrations; rows are what the server would have written
for turns long ended, in the order of its keys. Texts repeat, but each session has one word that no other has.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from chatserver.store import sqlite

TENANT = "public"
PROJECT = "default"
# In every session; and beginnings of thousands of words, as somebody types them.
COMMON_WORD = "the"

_SESSION_COLUMNS = (
    "tenant, session_id, project_id, owner, title, created_at, updated_at, expires_at, description, is_active,"
    " message_count, last_message_at, leaf_id, fence, look_at, number"
)
_MESSAGE_COLUMNS = "tenant, session_id, message_id, parent_id, seq, role, content, status, created_at, reasoning"
_TEXTS = 2_000
_VOCABULARY = 5_000


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose sessions, and how many."""

    owner: str
    sessions: int


def build(path: Path, owners: Sequence[Owner], now: float) -> None:
    """Make a database with one exchange, a question and an answer of some 70 words, in each session.

    Args:
        now: seconds since the epoch; sessions were used in the days before and expire in the month after.
    """
    with sqlite.writing(sqlite.Location(path, 5.0)):
        pass
    chance = random.Random(7)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -1000000", "foreign_keys = OFF"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        indexes = connection.execute(
            "SELECT name, sql FROM sqlite_schema WHERE tbl_name = 'sessions' AND type = 'index' AND sql IS NOT NULL"
        ).fetchall()
        connection.execute("BEGIN")
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}")
        total = sum(owner.sessions for owner in owners)
        # In the order of their keys, which are random like the server's own.
        ids = sorted(f"{chance.getrandbits(128):032x}" for _ in range(total))
        belongs = [owner.owner for owner in owners for _ in range(owner.sessions)]
        chance.shuffle(belongs)
        texts = [_text(chance) for _ in range(_TEXTS)]
        _insert(connection, "sessions", _SESSION_COLUMNS, _sessions(ids, belongs, now, chance))
        _insert(connection, "messages", _MESSAGE_COLUMNS, _messages(ids, texts))
        connection.execute("UPDATE session_numbers SET last = ?", (total,))
        for _, sql in indexes:
            connection.execute(sql)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL").fetchall()


def _insert(connection: sqlite3.Connection, table: str, columns: str, rows: Iterator[tuple[object, ...]]) -> None:
    places = ", ".join("?" for _ in columns.split(","))
    connection.executemany(f"INSERT INTO {table} ({columns}) VALUES ({places})", rows)


def _sessions(
    ids: Sequence[str], belongs: Sequence[str], now: float, chance: random.Random
) -> Iterator[tuple[object, ...]]:
    for number, (session_id, owner) in enumerate(zip(ids, belongs, strict=True), 1):
        used = now - chance.random() * 7 * 86400
        expires = now + 86400 + chance.random() * 29 * 86400
        yield (
            *(TENANT, session_id, PROJECT, owner, f"Session {number}", used, used, expires, "", 1),
            *(2, used, f"{session_id}-2", 1, expires, number),
        )


def _messages(ids: Sequence[str], texts: Sequence[str]) -> Iterator[tuple[object, ...]]:
    written = "2026-01-01T00:00:00.000Z"
    for number, session_id in enumerate(ids, 1):
        question = f"What is {unique_word(number)}? {texts[number % len(texts)][:40]}"
        answer = texts[number * 31 % len(texts)]
        first, second = f"{session_id}-1", f"{session_id}-2"
        yield TENANT, session_id, first, None, 1, "user", question, "completed", written, ""
        yield TENANT, session_id, second, first, 2, "assistant", answer, "completed", written, ""


def unique_word(number: int) -> str:
    """The word that only the session with that number has."""
    return f"topic{number}x"


def _text(chance: random.Random) -> str:
    words = [f"w{min(int(chance.paretovariate(0.7)), _VOCABULARY)}" for _ in range(69)]
    return " ".join([COMMON_WORD, *words])
