"""What a search finds, on every implementation of the store."""

from __future__ import annotations

import asyncio

import pytest

from chatserver.store.base import SessionFilter, SessionKey, Store
from tests.store.build import EXPIRES, LATER, NOW, finish, message, queued, record, run_turn, start

ZOE, BOB = "user:zoë", "user:bob"


def key(number: int, tenant: str = "t") -> SessionKey:
    return SessionKey(tenant, f"s-{number}")


async def make(store: Store, number: int, *texts: str, title: str = "", owner: str | None = ZOE) -> None:
    """A session with messages; the later its number, the later it was used."""
    await store.create_session(record(key(number), owner=owner, title=title, updated_at=NOW + number))
    for text in texts:
        await add(store, number, text)


async def add(store: Store, number: int, text: str) -> None:
    await store.add_message(
        key(number), message(text), create=None, new_fence=True, expires_at=EXPIRES, now=NOW + number
    )


async def found(store: Store, query: str, owner: str | None = ZOE, tenant: str = "t", limit: int = 100) -> list[int]:
    where = SessionFilter(tenant, owner, NOW, query=query)
    return [int(s.record.key.session_id[2:]) for s in await store.list_sessions(where, limit=limit)]


async def test_titles_and_messages_are_searched(store: Store) -> None:
    """The session used last first."""
    await make(store, 1, title="About whales")
    await make(store, 2, "Where do whales live?", "In the sea.")
    await make(store, 3, "Something else")

    assert await found(store, "whales") == [2, 1]
    assert await found(store, "sea") == [2]
    assert await found(store, "nothing") == []


async def test_every_word_must_stand_somewhere_in_the_session(store: Store) -> None:
    """In one message or in several, in any order, the title among them."""
    await make(store, 1, "Where do whales live?", "In the sea.", title="Biology")
    await make(store, 2, "whales")

    assert await found(store, "sea whales") == [1]
    assert await found(store, "biology whales") == [1]
    assert await found(store, "whales dolphins") == []


async def test_the_last_word_may_be_a_beginning(store: Store) -> None:
    """And only the last one: people type, and what they have typed finds something."""
    await make(store, 1, "Where do whales live?")

    assert await found(store, "wha") == [1]
    assert await found(store, "where wha") == [1]
    assert await found(store, "wha where") == []
    assert await found(store, "hales") == []


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("Zoë's CAFÉ", "zoe cafe"),
        ("Zoe's cafe", "ZOË CAFÉ"),
        ("Straße", "strasse"),
        ("北京大学很大", "大学"),
        ("東京タワー", "タワ"),
        ("привет, мир", "МИР"),
        ("हिन्दी भाषा", "हिन्दी"),
        ("ที่นี่ ดี", "ที่"),
        ("مُحَمَّد", "محمد"),
        ("שָׁלוֹם", "שלום"),
        ("한국어 검색", "한국"),
        ("e-mail: a.b@example.com", "example.com"),
        ("snake_case_name", "case"),
        ("x" * 200, "x" * 150),
        ("\U0001f9ea version 2.5", "2.5"),
    ],
)
async def test_words_are_found_in_whatever_way_they_are_written(store: Store, text: str, query: str) -> None:
    """Case, accents and punctuation do not matter; Chinese and Japanese need no spaces."""
    await make(store, 1, text)

    assert await found(store, query) == [1]


@pytest.mark.parametrize(("text", "query"), [("हद नद दह", "हिन्दी"), ("ท น ที", "ที่นี่"), ("cafeteria", "cafes")])
async def test_a_word_is_more_than_its_letters(store: Store, text: str, query: str) -> None:
    """Of scripts that write vowels as signs, a word does not fall apart into its consonants."""
    await make(store, 1, text)

    assert await found(store, query) == []


@pytest.mark.parametrize(
    "query", ['"', "AND", "whales OR dolphins", "whal*", "NEAR(a b)", "-whales", "a:b", "\0", "('"]
)
async def test_operators_are_words_or_nothing(store: Store, query: str) -> None:
    """Nothing of a query is interpreted."""
    await make(store, 1, "dolphins")

    assert await found(store, query) == []


@pytest.mark.parametrize("query", ["", "  ", "?!", "\ud800"])
async def test_a_query_without_a_word_finds_nothing(store: Store, query: str) -> None:
    """It is not the same as no query."""
    await make(store, 1, "?!")

    assert await found(store, query) == []


async def test_a_search_finds_nobody_elses_words(store: Store) -> None:
    """Not another owner's, not another tenant's, and for nobody there is nothing."""
    await make(store, 1, "canary", owner=BOB)
    await make(store, 2, "canary", owner=None)
    await store.create_session(record(key(3, "other"), owner=ZOE, title="canary"))

    assert await found(store, "canary") == []
    assert await found(store, "canary", owner=None) == []
    assert await found(store, "canary", BOB) == [1]
    assert await found(store, "canary", tenant="other") == [3]


async def test_an_answer_is_found_when_it_has_ended(store: Store) -> None:
    """The question at once; what came in behind the answer with it."""
    await make(store, 1)
    turn = start(key(1), "a question")
    await store.start_turn(turn)
    await store.add_message(
        key(1), message("network switched"), create=None, new_fence=False, expires_at=EXPIRES, now=NOW
    )
    assert await found(store, "question") == [1]
    assert await found(store, "network") == []

    await store.finish_turn(finish(turn, "an answer"))

    for query in ("question", "answer", "network", "question answer network"):
        assert await found(store, query) == [1]


async def test_an_answer_that_a_crash_interrupted_is_found(store: Store) -> None:
    """As recovery left it."""
    await make(store, 1)
    turn = start(key(1), "a question")
    await store.start_turn(turn)
    assert await found(store, "question") == [1]
    await store.recover(LATER)
    await run_turn(store, start(key(1), "another"), "reply")

    assert await found(store, "reply") == [1]


async def test_a_renamed_session_is_found_by_its_new_title_only(store: Store) -> None:
    """Whether or not it was searched for before."""
    await make(store, 1, "text", title="old")
    for title in ("middle", "new"):
        assert await found(store, title) == []
        await store.update_session(key(1), {"title": title}, new_fence=False, now=NOW)
        assert await found(store, title) == [1]

    for gone in ("old", "middle"):
        assert await found(store, gone) == []
    assert await found(store, "new text") == [1]


async def test_what_is_deleted_is_not_found(store: Store) -> None:
    """Nor in a session made again under the same id."""
    await make(store, 1, "secret", title="private")
    assert await found(store, "secret") == [1]
    await store.delete_session(key(1))
    await make(store, 1, "other")

    assert await found(store, "secret") == await found(store, "private") == []
    assert await found(store, "other") == [1]


async def test_a_withdrawn_message_is_not_found(store: Store) -> None:
    """It never was: what waits in a queue is no message yet."""
    await make(store, 1, "text")
    turn = start(key(1), "running")
    await store.start_turn(turn)
    waiting = queued("secret")
    await store.enqueue_turn(key(1), waiting, first=False, expires_at=EXPIRES, now=NOW)
    assert await found(store, "secret") == []
    await store.withdraw_turn(key(1), waiting.turn_id)
    await store.finish_turn(finish(turn))

    assert await found(store, "secret") == []


async def test_an_adopted_session_is_found_by_its_new_owner(store: Store) -> None:
    """And by the old one no more."""
    await make(store, 1, "whales", title="sea", owner="visitor:1")
    await make(store, 2, "whales", owner="visitor:1")
    assert await found(store, "whales", "visitor:1") == [2, 1]

    await store.adopt_sessions("t", "visitor:1", ZOE, NOW)

    assert await found(store, "whales", "visitor:1") == []
    assert await found(store, "whales") == [2, 1]
    assert await found(store, "sea") == [1]


async def test_pages_of_what_is_found_join(store: Store) -> None:
    """With the same cursor as a list."""
    for number in range(10):
        await make(store, number, "whales" if number % 2 else "dolphins")
    where = SessionFilter("t", ZOE, NOW, query="whales", project_id="default")

    first = await store.list_sessions(where, limit=3)
    last = first[-1].record
    second = await store.list_sessions(where, limit=3, after=(last.updated_at, last.key.session_id))
    skipped = await store.list_sessions(where, limit=3, offset=3)

    assert [s.record.key for s in (*first, *second)] == [key(n) for n in (9, 7, 5, 3, 1)]
    assert skipped == second


async def test_long_sessions_and_many_are_searched_whole(store: Store) -> None:
    """More than one transaction indexes at once, in either direction."""
    await make(store, 0, *(f"text number{n}" for n in range(300)))
    for number in range(1, 80):
        await make(store, number, f"session number{number + 1000}")

    for query, expected in (("number0", 0), ("number299", 0), ("number1001", 1), ("number1079", 79)):
        assert await found(store, query) == [expected]
    assert len(await found(store, "text session number")) == 0
    assert len(await found(store, "number")) == 80


async def test_searches_beside_writes_find_what_was_written_before(store: Store) -> None:
    """Twenty searches at once, while sessions are used."""
    for number in range(50):
        await make(store, number, f"word{number}")

    async def use(number: int) -> None:
        await add(store, number, "more")

    results = await asyncio.gather(*(found(store, f"word{n} ") for n in range(20)), *(use(n) for n in range(0, 50, 7)))

    for number in range(20):
        assert number in results[number]
