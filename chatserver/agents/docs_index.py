"""Full-text search over a folder of Markdown: SQLite FTS5, in memory, in one thread of its own.

Invariants: the connection is made, used and closed in that thread, so the event loop never waits for SQLite or the
disk; an index is built beside the old one and then takes its place, so a search sees one state of the folder; user
text never reaches FTS5 as syntax (every word is quoted).

The folder is looked at again at most every `refresh_seconds`, by a search: nothing runs while nobody asks.

It does not decide what is said about a result (docs_agent.py).
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from chatserver.agents.docs_folder import Folder, Limits, list_folder, read_file
from chatserver.agents.docs_sections import Section, split
from chatserver.clock import Clock
from chatserver.errors import StartupError, Unavailable

T = TypeVar("T")

# bm25's weights. A word in a heading says what a section is about; in the text it may be there by chance. Among the
# headings, the section's own counts more than those it stands under and the file's name.
_TITLE, _PATH, _TEXT = 6.0, 2.0, 1.0
# Hits below this part of the best one share a common word with the question and nothing else.
_RELEVANT = 0.35
# bm25 does not see that a heading is the question itself. So the best of its hits are weighed again: one whose heading
# has the question's words and no others counts up to three times.
_WEIGHED_AGAIN = 40
_SAME_HEADING = 2.0
# … and the question itself comes first, whatever else shares its rarer words.
_SAME_QUESTION = 2.0
# Who asks wants to know how something is. Pages that tell how it came about, was tried out or is shown to somebody new
# say the same words, and headings of routes are a method and a path: they count less, unless they are asked for.
_ASIDE = re.compile(r"(?:.*/)?(?:decisions/.*|adr/.*|reliability\.md|walk\.md|changelog\.md)", re.I)
_ROUTE = re.compile(r"(?:GET|POST|PUT|PATCH|DELETE|HEAD|OPTIONS) /")
_ASIDE_WEIGHT, _ROUTE_WEIGHT = 0.4, 0.5
# A question has few words that matter; a pasted page must not become a query of thousands of terms.
_QUERY_CHARS = 2_000
_QUERY_TERMS = 24
# A shorter prefix matches half the dictionary.
_PREFIX_CHARS = 3

# Scripts without spaces between words: every character becomes a word, and a query asks for neighbouring pairs.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_UNSPACED_RUN = re.compile(f"[{_UNSPACED}]+")
# What a word is made of is the tokenizer's to say; here only what surely parts two words, and what FTS5 cannot take
# inside quotes: the quote itself, and NUL, which ends its input. `-_.'/` stay: `session_id` is one phrase of two words.
_WORD = re.compile(rf"[^\x00-\x20\s\"!#$%&()*+,:;<=>?@\[\\\]^`{{|}}~…{_UNSPACED}]+")
_WORD_EDGES = "-_.'’/"
_JOINTS = re.compile(r"[-_./]+")

_COMMON = """
a about all also am an and any are as at be been being but by can could did do does doesn't doesnt doing don't dont
for from get had has have having he her hers him his how i i'm if in into is isn't it it's its just know like make may
me might must my need no not of on one or our ours out own please put should show so some such tell than that the
their them then there these they this those through to too up us use used using very want was way we were what what's
when where which while who whom whose why will with work works would you your yours
"""
_STOP_WORDS = frozenset(_COMMON.split())


@dataclass(frozen=True, slots=True)
class Report:
    """What an index was built from; `skipped` is names with reasons, `error` why the folder cannot be read now."""

    files: int = 0
    sections: int = 0
    skipped: tuple[tuple[str, str], ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class _Words:
    """The stems of a heading or a question: all of them, and those that matter."""

    every: frozenset[str]
    telling: frozenset[str]
    names_route: bool

    @classmethod
    def of(cls, text: str) -> _Words:
        found = _words(text)
        words = [part for word in found for part in _JOINTS.split(word)]
        telling = [word for word in words if word not in _STOP_WORDS]
        return cls(frozenset(map(_stem, words)), frozenset(map(_stem, telling or words)), any("/" in w for w in found))

    def likeness(self, other: _Words) -> float:
        """From 0, nothing in common, to 1, the same words."""
        return 0.7 * _dice(self.telling, other.telling) + 0.3 * _dice(self.every, other.every)


@dataclass(frozen=True, slots=True)
class _Built:
    connection: sqlite3.Connection
    sections: tuple[Section, ...]
    headings: tuple[_Words, ...]

    def weight(self, row: int, asked: _Words) -> float:
        """What a section counts beside the words that it shares with a question."""
        section, likeness = self.sections[row], self.headings[row].likeness(asked)
        weight = 1 + _SAME_HEADING * likeness + (_SAME_QUESTION if likeness == 1 else 0)
        if _ASIDE.fullmatch(section.source):
            weight *= _ASIDE_WEIGHT
        if _ROUTE.match(section.title) and not asked.names_route:
            weight *= _ROUTE_WEIGHT
        return weight


class DocsIndex:
    """Sections of the Markdown files of `folder`, by words.

    Args:
        folder: read with everything below it.
        limits: how much of it.
        refresh_seconds: how old a look at the folder may be before a search looks again.
        clock: measures that.
        on_report: told, in the loop, what was read whenever that changed.
    """

    def __init__(
        self,
        folder: Path,
        limits: Limits,
        *,
        refresh_seconds: float,
        clock: Clock,
        on_report: Callable[[Report], None] = lambda report: None,
    ) -> None:
        self._folder = folder
        self._limits = limits
        self._refresh_seconds = refresh_seconds
        self._clock = clock
        self._on_report = on_report
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="docs-index")
        self._closed = False
        # Below: touched in the thread only.
        self._built: _Built | None = None
        self._listed: Folder | None = None
        self._looked_at: float | None = None
        self._report = Report()

    async def open(self) -> Report:
        """Build the index now. Cancelling leaves the building to end by itself.

        Raises:
            StartupError: the folder is not there or cannot be read.
        """
        report = await self._in_thread(self._refreshed)
        if report.error is not None:
            raise StartupError(f"The documentation folder {str(self._folder)!r} cannot be read: {report.error}.")
        return report

    async def search(self, query: str, limit: int) -> list[Section]:
        """The sections that fit `query` best, best first, at most `limit`, clearly worse ones left out.

        Args:
            query: anything a person writes; its words are looked for, its punctuation means nothing.
        Raises:
            Unavailable: the index is closed.
        Cancelling is safe; a search under way ends by itself.
        """
        query = query[:_QUERY_CHARS]
        expression = match_expression(query)
        if expression is None or limit < 1:
            return []

        def find() -> list[Section]:
            found = self._search(expression, _Words.of(query), limit)
            if not found and (beginning := match_expression(query, unfinished=True)) is not None:
                found = self._search(beginning, _Words.of(query), limit)
            return found

        return await self._in_thread(find)

    async def topics(self, limit: int) -> list[str]:
        """The titles of the files, in the folder's order, at most `limit`."""

        def collect() -> list[str]:
            titles: dict[str, str] = {}
            for section in built.sections if (built := self._current()) else ():
                titles.setdefault(section.source, section.path[0])
            return list(dict.fromkeys(titles.values()))[:limit]

        return await self._in_thread(collect)

    async def close(self) -> None:
        """Free the index and its thread; idempotent."""
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(self._executor, self._drop)
            self._executor.shutdown()  # at once: the thread has nothing left to do

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise Unavailable("The documentation index is closed.")

        def run() -> tuple[T, Report, Report]:
            before = self._report
            return work(), before, self._report

        result, before, after = await asyncio.get_running_loop().run_in_executor(self._executor, run)
        if after != before:
            self._on_report(after)
        return result

    # --- in the thread ----------------------------------------------------------------------------------------------

    def _search(self, expression: str, asked: _Words, limit: int) -> list[Section]:
        built = self._current()
        if built is None:
            return []
        rows = built.connection.execute(
            "SELECT rowid, bm25(sections, ?, ?, ?) AS score FROM sections WHERE sections MATCH ? "
            "ORDER BY score, rowid LIMIT ?",
            (_TITLE, _PATH, _TEXT, expression, max(limit, _WEIGHED_AGAIN)),
        ).fetchall()
        # bm25 is negative, more negative is better.
        hits = [(-score * built.weight(row, asked), row) for row, score in rows]
        hits.sort(key=lambda hit: (-hit[0], hit[1]))
        return [built.sections[row] for weight, row in hits[:limit] if weight >= hits[0][0] * _RELEVANT]

    def _current(self) -> _Built | None:
        self._refreshed()
        return self._built

    def _refreshed(self) -> Report:
        """Look at the folder if the last look is too old, and build anew if anything changed."""
        now = self._clock.monotonic()
        if self._looked_at is not None and now - self._looked_at < self._refresh_seconds:
            return self._report
        self._looked_at = now
        try:
            listed = list_folder(self._folder, self._limits)
        except OSError as error:
            # What was read stays in use: a folder being replaced, or a mount that is away, comes back.
            self._listed = None
            self._report = Report(self._report.files, self._report.sections, self._report.skipped, _reason(error))
            return self._report
        if listed != self._listed:
            self._rebuild(listed)
        return self._report

    def _rebuild(self, listed: Folder) -> None:
        sections: list[Section] = []
        skipped = list(listed.skipped)
        for found in listed.files:
            try:
                sections += split(read_file(found, self._limits), found.source)
            except OSError as error:
                skipped.append((found.source, _reason(error)))
        headings = tuple(_Words.of(section.title) for section in sections)
        fresh = _Built(_indexed(sections), tuple(sections), headings)
        self._drop()
        self._built, self._listed = fresh, listed
        self._report = Report(len(listed.files), len(sections), tuple(skipped))

    def _drop(self) -> None:
        if self._built is not None:
            self._built.connection.close()
            self._built = None


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _indexed(sections: list[Section]) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    # Contentless: the sections are kept as they are, and their text need not be held twice.
    connection.execute(
        "CREATE VIRTUAL TABLE sections USING fts5"
        "(title, path, text, content='', tokenize='porter unicode61 remove_diacritics 2')"
    )
    with closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN")
        cursor.executemany(
            "INSERT INTO sections (rowid, title, path, text) VALUES (?, ?, ?, ?)",
            ((row, *_columns(section)) for row, section in enumerate(sections)),
        )
        cursor.execute("COMMIT")
    return connection


def _columns(section: Section) -> tuple[str, str, str]:
    """Title, path and text as they are indexed. A row is found by its name as a whole and by nothing else: being short,
    it would come before every section that is about its words."""
    if section.name:
        return _JOINTS.sub("", section.name), "", ""
    return _spaced(section.title), _spaced(" ".join((*section.path[:-1], section.source))), _spaced(section.text)


def _spaced(text: str) -> str:
    """`text` as it is indexed: what has no spaces between words gets them between characters."""
    return text if text.isascii() else _UNSPACED_RUN.sub(lambda run: f" {' '.join(run[0])} ", text)


def _words(text: str) -> list[str]:
    """The words of `text` as people part them, in lower case, `session_id` and `api/chat` being one each."""
    # Lone surrogates, which JSON can carry, are no UTF-8 and SQLite refuses them.
    text = text.lower().replace("’", "'").encode("utf-8", "ignore").decode()
    found = (word.strip(_WORD_EDGES) for word in _WORD.findall(text))
    return [word for word in found if any(map(str.isalnum, word))]


def _stem(word: str) -> str:
    """`word` without its commonest endings: enough to see that two headings say the same."""
    for ending in ("'s", "ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) > len(ending) + 3:
            return word.removesuffix(ending)
    return word


def _dice(one: frozenset[str], other: frozenset[str]) -> float:
    return 2 * len(one & other) / (len(one) + len(other)) if one and other else 0.0


def match_expression(query: str, *, unfinished: bool = False) -> str | None:
    """`query` as an FTS5 expression: its words, quoted, joined by OR. None where there is no word at all.

    Common words are left out, unless there are no others.

    Args:
        unfinished: take the last word for the beginning of one. Only for a query that finds nothing as it stands: the
            tokenizer stems before it looks for a beginning, and `cors` would find all that begins with `cor`.
    """
    query = query[:_QUERY_CHARS]
    words = _words(query)
    wanted = [word for word in words if word not in _STOP_WORDS] or words
    terms = [f'"{word}"' for word in wanted]
    if unfinished and wanted and len(wanted[-1]) >= _PREFIX_CHARS:
        terms[-1] += "*"
    # A name such as `queue_limit` is a row's title in one word (_columns).
    terms += [f'"{joined}"' for word in wanted if (joined := _JOINTS.sub("", word)) != word]
    # `/api/stream` is best found as it stands, and else by its parts.
    parts = (part for word in wanted for part in _JOINTS.split(word) if part != word)
    terms += [f'"{part}"' for part in parts if part not in _STOP_WORDS and any(map(str.isalnum, part))]
    for run in _UNSPACED_RUN.findall(query):
        pairs = [run[at : at + 2] for at in range(len(run) - 1)] or [run]
        terms += [f'"{" ".join(pair)}"' for pair in pairs]
    return " OR ".join(list(dict.fromkeys(terms))[:_QUERY_TERMS]) or None
