"""What a row must hold to be read: of each column the kind of value that was put there, and times that a calendar has.

SQLite keeps whatever it is given in any column, so a disk that went bad, or a person with a shell, may have left text
where a number was, bytes where text was, or the year 300,000. Whoever opens such a session is told (rows.py); a list
shows what can be read of it, and everybody else's sessions as ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Column, Double, Text

# 9999-12-31T00:00Z: what comes behind cannot be written as a date.
_LAST_SECOND = 253_402_214_400

Kinds = tuple[frozenset[type], ...]


def kinds_of(columns: Sequence[Column[Any]]) -> Kinds:
    """The Python types that each of these columns may hold."""
    return tuple(_kinds(column) | (frozenset({type(None)}) if column.nullable else frozenset()) for column in columns)


def _kinds(column: Column[Any]) -> frozenset[type]:
    if isinstance(column.type, Text):
        return frozenset({str})
    return frozenset({int, float}) if isinstance(column.type, Double) else frozenset({int})


@lru_cache(maxsize=256)
def _fits(types: tuple[type, ...], kinds: Kinds) -> bool:
    return all(found in allowed for found, allowed in zip(types, kinds, strict=True))


def fits(row: Sequence[Any], kinds: Kinds) -> bool:
    """Whether each value is of its column's kind."""
    return _fits(tuple(map(type, row)), kinds)


def text_of(value: object) -> str:
    """What can be read of a text that may be damaged."""
    if type(value) is str:  # nearly always
        return value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


def count_of(value: object) -> int:
    """A number of things that may be damaged; 0 where it is none."""
    return value if isinstance(value, int) and value >= 0 else 0


def is_time(value: object) -> bool:
    """Whether it is a moment that can be shown."""
    return isinstance(value, float | int) and 0 <= value < _LAST_SECOND


def time_of(value: object) -> float:
    """A moment that may be damaged, in seconds since the epoch; the epoch itself where it is none."""
    return value if isinstance(value, float | int) and is_time(value) else 0.0
