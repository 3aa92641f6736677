"""The full-text index beside a plain reading of what is stored, with hostile texts and after any history."""

from __future__ import annotations

import asyncio
import sqlite3
import unicodedata
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chatserver.config import Settings
from chatserver.errors import ChatServerError
from chatserver.store import listing, operations, recovery, removal, search, sqlite, whole
from chatserver.store.base import SessionFilter, SessionKey, StartTurn, WholeSession
from chatserver.store.migrate import migrate
from chatserver.store.sql import open_store
from chatserver.store.statements import sqlite_statements
from chatserver.store.transaction import Transaction
from chatserver.store.words import QUERY_WORDS, SEARCHED_CHARS, WORD_CHARS, query_words, words_of
from tests.store.build import EXPIRES, NOW, finish, message, record, start

OWNERS = ("user:a", "user:b", "visitor:c")
WORDS = ("alpha", "alps", "beta", "Béta", "gamma", "北京", "x_y", "AND", '"quoted"', "ﬁne")
KEYS = [SessionKey("t", str(number)) for number in range(4)]


# --- what a word is ---


def plain_words(text: str) -> list[str]:
    """The rule of words.py, one character after the other."""
    dropped = [range(0x300, 0x370), range(0x591, 0x5BE), range(0x64B, 0x660)]
    more = "\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0670\u3099\u309a"
    words: list[str] = []
    joins = False
    for folded in unicodedata.normalize("NFKD", text[:SEARCHED_CHARS].casefold()):
        if folded in more or any(ord(folded) in marks for marks in dropped):
            continue
        if joins and folded <= "\uffff" and unicodedata.category(folded) in ("Mn", "Mc"):
            words[-1] += folded
            continue
        alone = any(
            low <= folded <= high
            for low, high in (
                ("\u3040", "\u30ff"),
                ("\u3400", "\u4dbf"),
                ("\u4e00", "\u9fff"),
                ("\uf900", "\ufaff"),
                ("\U00020000", "\U0003ffff"),
            )
        )
        if alone or folded.isalnum():
            if joins and not alone:
                words[-1] += folded
            else:
                words.append(folded)
        joins = folded.isalnum() and not alone
    return list(dict.fromkeys(word[:WORD_CHARS] for word in words))


@given(st.text(max_size=200) | st.text(alphabet="aB \u0301_'-1é北タ\x00\ud800हिन्ที่مُשָ", max_size=60))
@example("x" * 100)
@example("a" * (SEARCHED_CHARS - 1) + " b c")
def test_words_are_what_the_rule_says(text: str) -> None:
    """Of any text, with the quick way for ASCII and without."""
    assert list(words_of(text)) == plain_words(text)
    assert query_words(text) == tuple(plain_words(text))[:QUERY_WORDS]


# --- what a search finds ---


@pytest.fixture(scope="module")
def connection() -> Iterator[sqlite3.Connection]:
    opened = sqlite3.connect(":memory:", isolation_level=None)
    migrate(opened)
    opened.execute("CREATE VIRTUAL TABLE temp.terms USING fts5vocab('main', 'search', 'row')")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def tx(connection: sqlite3.Connection) -> Transaction:
    return Transaction(connection, sqlite_statements())


def done(outcome: object) -> None:
    assert not isinstance(outcome, ChatServerError)


def found(tx: Transaction, owner: str, query: str) -> set[str]:
    place: search.Place | None = search.FIRST
    while place is not None:
        place = search.index_some(tx, tenant="t", owner=owner, now=NOW, after=place)
    assert not search.is_behind(tx, tenant="t", owner=owner, now=NOW) or _something_runs(tx)
    where = SessionFilter("t", owner, NOW, query=query, include_inactive=True)
    return {s.record.key.session_id for s in listing.list_sessions(tx, where=where, limit=100, offset=0, after=None)}


def _something_runs(tx: Transaction) -> bool:
    return bool(tx.all(tx.sql.all_running, {}))


def plainly_holds(texts: list[str], query: str) -> bool:
    held = {word for text in texts for word in plain_words(text)}
    words = plain_words(query)[:QUERY_WORDS]
    return bool(words) and held.issuperset(words[:-1]) and any(word.startswith(words[-1]) for word in held)


ANY_TEXT = st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=30
)
SYNTAX = st.lists(st.sampled_from([*WORDS, '"', "*", "(", ")", "NEAR", "OR", "NOT", "-", ":", "^", "+", ",", "{"]))


@given(
    texts=st.lists(ANY_TEXT, min_size=1, max_size=4),
    query=ANY_TEXT | SYNTAX.map(" ".join) | SYNTAX.map("".join) | st.text(max_size=20),
)
@settings(max_examples=300)
@example(texts=["alpha"], query='alpha" OR "b')
@example(texts=["a\0b"], query="a\0b")
def test_any_query_finds_exactly_what_a_plain_reading_finds(
    connection: sqlite3.Connection, tx: Transaction, texts: list[str], query: str
) -> None:
    """And never fails, whatever stands in it."""
    connection.execute("BEGIN")
    try:
        operations.create_session(tx, record=record(KEYS[0], owner=OWNERS[0], title=texts[0]))
        for text in texts[1:]:
            add(tx, KEYS[0], text)
        assert found(tx, OWNERS[0], query) == ({"0"} if plainly_holds(texts, query) else set())
    finally:
        connection.execute("ROLLBACK")


def add(tx: Transaction, key: SessionKey, text: str) -> None:
    done(
        operations.add_message(
            tx, key=key, message=message(text), create=None, new_fence=True, expires_at=EXPIRES, now=NOW
        )
    )


# --- after any history ---


@dataclass
class Model:
    """What a plain reading would read."""

    title: str
    owner: str | None
    messages: list[str] = field(default_factory=list)
    running: StartTurn | None = None
    behind: list[str] = field(default_factory=list)  # came in during the running turn

    @property
    def texts(self) -> list[str]:
        return [self.title, *self.messages]


KEY = st.sampled_from(KEYS)
TEXT = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join)
OWNER = st.sampled_from((*OWNERS, None))
STEPS = st.one_of(
    st.tuples(st.just("create"), KEY, TEXT, OWNER),
    st.tuples(st.just("add"), KEY, TEXT),
    st.tuples(st.just("start"), KEY, TEXT),
    st.tuples(st.just("finish"), KEY, TEXT),
    st.tuples(st.just("rename"), KEY, TEXT),
    st.tuples(st.just("give"), KEY, OWNER),
    st.tuples(st.just("adopt"), st.sampled_from(OWNERS), st.sampled_from(OWNERS)),
    st.tuples(st.just("fork"), KEY, KEY, OWNER),
    st.tuples(st.just("bring"), KEY, TEXT, OWNER, st.lists(TEXT, max_size=3)),
    st.tuples(st.just("delete"), KEY),
    st.tuples(st.just("recover")),
    st.tuples(st.just("search"), st.sampled_from(OWNERS), TEXT),
)


class History:
    """Takes steps on the store and on the model alike."""

    def __init__(self, tx: Transaction) -> None:
        self.tx = tx
        self.models: dict[SessionKey, Model] = {}

    def create(self, key: SessionKey, title: str, owner: str | None) -> None:
        operations.create_session(self.tx, record=record(key, owner=owner, title=title))
        self.models.setdefault(key, Model(title, owner))

    def add(self, key: SessionKey, text: str) -> None:
        if model := self.models.get(key):
            add(self.tx, key, text)
            (model.behind if model.running else model.messages).append(text)

    def start(self, key: SessionKey, text: str) -> None:
        model = self.models.get(key)
        if model and not model.running:
            model.running = start(key, text)
            done(operations.start_turn(self.tx, start=model.running))
            model.messages.append(text)

    def finish(self, key: SessionKey, text: str) -> None:
        model = self.models.get(key)
        if model and model.running:
            assert operations.finish_turn(self.tx, finish=finish(model.running, text)) is None
            self._settle(model, text)

    @staticmethod
    def _settle(model: Model, text: str) -> None:
        model.messages += [text, *model.behind]
        model.running, model.behind = None, []

    def rename(self, key: SessionKey, title: str) -> None:
        if model := self.models.get(key):
            self._change(key, title=title)
            model.title = title

    def give(self, key: SessionKey, owner: str | None) -> None:
        if model := self.models.get(key):
            self._change(key, owner=owner)
            model.owner = owner

    def _change(self, key: SessionKey, **changes: Any) -> None:
        done(operations.update_session(self.tx, key=key, changes=changes, new_fence=True, now=NOW))

    def adopt(self, from_owner: str, to_owner: str) -> None:
        listing.adopt_some(self.tx, tenant="t", from_owner=from_owner, to_owner=to_owner, now=NOW)
        for model in self.models.values():
            model.owner = to_owner if model.owner == from_owner else model.owner

    def fork(self, key: SessionKey, to: SessionKey, owner: str | None) -> None:
        """A copy of the branch that ends at the newest message, which here has no parent."""
        model = self.models.get(key)
        stored = operations.load(self.tx, key=key, limit=1)
        if model and stored and stored.messages and not model.running and to not in self.models:
            last = stored.messages[0]
            create = record(to, owner=owner, title="copy")
            done(
                operations.fork_session(
                    self.tx, key=key, message_id=last.id, create=create, limit=1000, max_bytes=10_000
                )
            )
            branch = operations.load(self.tx, key=to, limit=1000)
            assert branch is not None
            self.models[to] = Model("copy", owner, [m.content for m in branch.messages])

    def bring(self, key: SessionKey, title: str, owner: str | None, texts: list[str]) -> None:
        """An import over whatever is there."""
        messages = tuple(map(message, texts))
        leaf_id = messages[-1].id if messages else None
        brought = WholeSession(record(key, owner=owner, title=title, leaf_id=leaf_id), messages, ())
        done(whole.import_session(self.tx, whole=brought, do_replace=True))
        self.models[key] = Model(title, owner, texts)

    def delete(self, key: SessionKey) -> None:
        deleted = removal.delete_session(self.tx, key=key)
        assert (deleted != "absent") is (self.models.pop(key, None) is not None)
        while removal.clear_some(self.tx):
            pass

    def recover(self) -> None:
        recovery.recover(self.tx, now=NOW)
        for model in self.models.values():
            if model.running:
                self._settle(model, "")

    def search(self, owner: str, query: str) -> None:
        expected = {
            key.session_id
            for key, model in self.models.items()
            if model.owner == owner and plainly_holds(model.texts, query)
        }
        assert found(self.tx, owner, query) == expected


@given(st.lists(STEPS, max_size=25))
@settings(max_examples=200)
def test_after_any_history_a_search_finds_what_is_there(
    connection: sqlite3.Connection, tx: Transaction, steps: list[tuple[Any, ...]]
) -> None:
    """And when everything has been deleted, not a word is left in the index."""
    connection.execute("BEGIN")
    try:
        history = History(tx)
        for name, *arguments in steps:
            getattr(history, name)(*arguments)
        for owner in OWNERS:
            for word in WORDS:
                history.search(owner, word)
        for key in KEYS:
            history.delete(key)
        assert connection.execute("SELECT term FROM temp.terms").fetchall() == []
        connection.execute("INSERT INTO search (search) VALUES ('integrity-check')")
    finally:
        connection.execute("ROLLBACK")


# --- ahead of a search ---


async def test_who_wrote_much_is_indexed_ahead_and_who_wrote_little_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first search of the one writes nothing any more, also when it comes in the middle of a walk; what comes in
    later is indexed by the next walk."""
    monkeypatch.setattr(search, "AHEAD_TEXTS", 20)
    monkeypatch.setattr(search, "_OWNERS_TOGETHER", 2)
    monkeypatch.setattr(search, "TOGETHER_CHARS", 3 * (search.TEXT_CHARS + 10))
    store = await open_store(Settings(data_dir=tmp_path))

    async def write(owner: str, sessions: int) -> None:
        for n in range(sessions):
            key = SessionKey("t", f"{owner}-{store.counts().commits}-{n}")
            await store.create_session(record(key, owner=owner, title="some"))
            for _ in range(3):
                said = message("words")
                await store.add_message(key, said, create=None, new_fence=True, expires_at=EXPIRES, now=NOW)

    async def commits_of_search(owner: str, expected: int) -> int:
        before = store.counts().commits
        page = await store.list_sessions(SessionFilter("t", owner, NOW, query="words"), limit=100)
        assert len(page) == expected
        return store.counts().commits - before

    try:
        for owner, sessions in (("user:a", 1), ("user:b", 8), ("user:c", 1), ("user:d", 8), ("user:e", 1)):
            await write(owner, sessions)
        assert await store.index_ahead(NOW)
        assert await store.index_ahead(NOW)
        assert await commits_of_search("user:b", 8) > 0
        while await store.index_ahead(NOW):
            pass
        assert [await commits_of_search(owner, 8) for owner in ("user:b", "user:d")] == [0, 0]
        assert await commits_of_search("user:a", 1) > 0

        await write("user:d", 7)
        while await store.index_ahead(NOW):
            pass
        assert await commits_of_search("user:d", 15) == 0
    finally:
        await store.close()


# --- how much at once ---


async def test_no_transaction_handles_more_than_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of characters that are indexed or taken out, however much is searched, deleted, adopted or purged, and by how
    many at once: everybody else's writes wait for it."""
    handled = [0]
    begin = sqlite.Database.begin

    def count_anew(self: sqlite.Database) -> None:
        handled.append(0)
        begin(self)

    def count(text: str) -> dict[str, None]:
        handled[-1] += min(len(text), SEARCHED_CHARS)
        return words_of(text)

    monkeypatch.setattr(sqlite.Database, "begin", count_anew)
    monkeypatch.setattr(search, "words_of", count)
    store = await open_store(Settings(data_dir=tmp_path, reader_threads=1))
    try:
        for n in range(6):
            key = SessionKey("t", str(n))
            await store.create_session(record(key, owner=OWNERS[n % 3], title=f"long {n}"))
            for at in range(4):
                text = message(f"w{n}x{at} " * 10_000)
                await store.add_message(key, text, create=None, new_fence=True, expires_at=EXPIRES, now=NOW)

        async def found_by(owner: str) -> set[str]:
            page = await store.list_sessions(SessionFilter("t", owner, NOW, query="long w"), limit=9)
            return {s.record.key.session_id for s in page}

        async def handled_by(*work: Coroutine[Any, Any, Any]) -> int:
            handled.clear()
            handled.append(0)
            await asyncio.gather(*work)
            assert max(handled) <= search.TOGETHER_CHARS
            return sum(handled)

        for _ in range(2):
            assert await handled_by(*map(found_by, OWNERS)) in (24 * SEARCHED_CHARS + 6 * len("long 0"), 0)

        async def delete(key: SessionKey) -> None:
            assert await store.delete_session(key)
            while await store.clear_deleted():
                pass

        assert await handled_by(delete(KEYS[0]), delete(KEYS[1])) > 8 * SEARCHED_CHARS
        assert await handled_by(store.adopt_sessions("t", OWNERS[2], OWNERS[0], NOW)) > 8 * SEARCHED_CHARS
        assert await handled_by(*map(found_by, OWNERS)) > 8 * SEARCHED_CHARS
        assert [await found_by(owner) for owner in OWNERS] == [{"2", "3", "5"}, {"4"}, set()]

        async def purge() -> None:
            while await store.purge_expired(EXPIRES + 1, 20):
                pass

        assert await handled_by(purge()) > 16 * SEARCHED_CHARS
        assert await store.count_sessions("t") == 0
    finally:
        await store.close()
