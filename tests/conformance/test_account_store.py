"""The AccountStore protocol's promises (chatserver/store/accounts.py), on every implementation.

An implementation joins by a factory in `STORES`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from chatserver.config import Settings
from chatserver.errors import Conflict, NotFound
from chatserver.store.accounts import MAX_LIFETIME_SECONDS, AccountStore, User
from chatserver.store.sql import open_accounts, open_store

NOW = 1_800_000_000.0
ANN = User("acme", "u1", "ann", "hash-1", frozenset({"admin"}), NOW)


@asynccontextmanager
async def _sqlite_file(folder: Path) -> AsyncIterator[AccountStore]:
    store = await open_store(Settings(data_dir=folder / "data"))
    yield store.accounts
    await store.close()


@asynccontextmanager
async def _sqlite_memory(folder: Path) -> AsyncIterator[AccountStore]:
    store = await open_store(Settings(data_dir=folder / "data", database_url=":memory:"))
    yield store.accounts
    await store.close()


@asynccontextmanager
async def _beside_a_server(folder: Path) -> AsyncIterator[AccountStore]:
    settings = Settings(data_dir=folder / "data")
    server = await open_store(settings)
    async with open_accounts(settings) as accounts:
        yield accounts
    await server.close()


OpenStore = Callable[[Path], AbstractAsyncContextManager[AccountStore]]
STORES: dict[str, OpenStore] = {
    "sqlite-file": _sqlite_file,
    "sqlite-memory": _sqlite_memory,
    "sqlite-beside": _beside_a_server,
}


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AccountStore]:
    async with STORES[request.param](tmp_path) as opened:
        yield opened


async def test_a_user_is_found_by_tenant_and_name(store: AccountStore) -> None:
    """Under both: the same name in another tenant is another user."""
    other = User("globex", "u1", "ann", "hash-2", frozenset(), NOW)
    await store.add_user(ANN)
    await store.add_user(other)

    assert await store.find_user("acme", "ann") == ANN
    assert await store.find_user("globex", "ann") == other
    assert await store.find_user("initech", "ann") is None
    assert await store.find_user("acme", "bob") is None


async def test_a_name_is_given_once(store: AccountStore) -> None:
    """Of ten who want it at the same time, one gets it, and the others are told so."""
    wanted = [User("acme", f"u{n}", "ann", "hash", frozenset(), NOW) for n in range(10)]

    results = await asyncio.gather(*(store.add_user(user) for user in wanted), return_exceptions=True)

    taken = [r for r in results if isinstance(r, Conflict)]
    assert len(taken) == 9
    assert {r.narrow_code for r in taken} == {"username_taken"}
    assert await store.find_user("acme", "ann") == wanted[results.index(None)]


async def test_users_are_listed_in_pages_in_order(store: AccountStore) -> None:
    """By tenant and name; the last one of a page leads to the next."""
    users = [User(t, f"{t}-{n}", n, "hash", frozenset(), NOW) for t in ("a", "b") for n in ("x", "y", "z")]
    for user in reversed(users):
        await store.add_user(user)

    first = await store.list_users(after=("", ""), limit=4)
    second = await store.list_users(after=(first[-1].tenant, first[-1].username), limit=4)

    assert [*first, *second] == users


async def test_a_new_password_ends_the_tokens_of_the_old_one(store: AccountStore) -> None:
    """The generation rises and a revocation says so, in one step."""
    await store.add_user(ANN)

    changed = await store.set_password("acme", "u1", "hash-2", now=NOW)

    assert (changed.password_hash, changed.generation) == ("hash-2", 1)
    assert await store.find_user("acme", "ann") == changed
    (revocation,) = await store.revocations(after=0, limit=10)
    assert (revocation.tenant, revocation.user_id, revocation.token_id) == ("acme", "u1", None)
    assert revocation.generation == 1
    assert revocation.expires_at == NOW + MAX_LIFETIME_SECONDS


async def test_a_password_is_changed_in_the_place_of_the_one_that_was_known(store: AccountStore) -> None:
    """As `set_password`; once: who comes second with the old one, or was disabled meanwhile, changes nothing."""
    await store.add_user(ANN)

    changed = await store.change_password("acme", "u1", "hash-1", "hash-2", now=NOW)
    assert (changed.password_hash, changed.generation) == ("hash-2", 1)
    with pytest.raises(NotFound):
        await store.change_password("acme", "u1", "hash-1", "hash-3", now=NOW)
    with pytest.raises(NotFound):
        await store.change_password("globex", "u1", "hash-2", "hash-3", now=NOW)
    off = await store.set_disabled("acme", "u1", disabled=True, now=NOW)
    with pytest.raises(NotFound):
        await store.change_password("acme", "u1", "hash-2", "hash-3", now=NOW)

    assert await store.find_user("acme", "ann") == off
    assert [r.generation for r in await store.revocations(after=0, limit=10)] == [1, 2]


async def test_a_disabled_user_may_come_back_but_their_tokens_do_not(store: AccountStore) -> None:
    """Each change is a generation."""
    await store.add_user(ANN)

    off = await store.set_disabled("acme", "u1", disabled=True, now=NOW)
    on = await store.set_disabled("acme", "u1", disabled=False, now=NOW + 1)

    assert (off.disabled_at, off.generation) == (NOW, 1)
    assert (on.disabled_at, on.generation) == (None, 2)
    assert [r.generation for r in await store.revocations(after=0, limit=10)] == [1, 2]


async def test_changing_an_unknown_user_is_not_found_and_leaves_nothing(store: AccountStore) -> None:
    """Nor one of the same id in another tenant."""
    await store.add_user(ANN)

    for change in (
        store.set_password("globex", "u1", "hash", now=NOW),
        store.set_disabled("acme", "u2", disabled=True, now=NOW),
    ):
        with pytest.raises(NotFound):
            await change

    assert await store.revocations(after=0, limit=10) == ()
    assert await store.find_user("acme", "ann") == ANN


async def test_a_rehash_changes_the_hash_it_was_made_of_and_nothing_else(store: AccountStore) -> None:
    """A password that was changed meanwhile stays as it was changed."""
    await store.add_user(ANN)

    assert await store.rehash_password("acme", "u1", "hash-1", "hash-1b")
    assert not await store.rehash_password("acme", "u1", "hash-1", "hash-1c")

    found = await store.find_user("acme", "ann")
    assert found is not None
    assert (found.password_hash, found.generation) == ("hash-1b", 0)
    assert await store.revocations(after=0, limit=10) == ()


async def test_revocations_come_in_order_and_from_where_one_left_off(store: AccountStore) -> None:
    """Repeating one adds none."""
    for token in ("t1", "t2", "t1", "t3"):
        await store.revoke_token("acme", "u1", token, expires_at=NOW + 60)

    first = await store.revocations(after=0, limit=2)
    rest = await store.revocations(after=first[-1].seq, limit=10)

    assert [r.token_id for r in (*first, *rest)] == ["t1", "t2", "t3"]
    assert [r.seq for r in (*first, *rest)] == sorted({r.seq for r in (*first, *rest)})
    assert await store.revocations(after=rest[-1].seq, limit=10) == ()


async def test_purging_drops_what_is_over_and_never_gives_a_number_twice(store: AccountStore) -> None:
    """Who had read up to the newest must see the next one."""
    for n in range(5):
        await store.revoke_token("acme", "u1", f"t{n}", expires_at=NOW + n)
    newest = (await store.revocations(after=0, limit=10))[-1].seq

    assert await store.purge_revocations(NOW + 2, 10) == 2
    assert await store.purge_revocations(NOW + 99, 1) == 1
    assert await store.purge_revocations(NOW + 99, 10) == 1  # of the two left, the newest stays
    await store.revoke_token("acme", "u1", "later", expires_at=NOW + 999)

    assert [r.token_id for r in await store.revocations(after=newest, limit=10)] == ["later"]


async def test_revocations_of_many_at_once_miss_nobody_who_follows(store: AccountStore) -> None:
    """A reader that asks again and again for what is new finds each exactly once."""
    seen: list[str] = []
    last = 0

    async def follow() -> None:
        nonlocal last
        for revocation in await store.revocations(after=last, limit=3):
            assert revocation.token_id is not None
            seen.append(revocation.token_id)
            last = revocation.seq

    async def revoke(n: int) -> None:
        await store.revoke_token("acme", "u1", f"t{n}", expires_at=NOW)

    async with asyncio.TaskGroup() as group:
        for n in range(60):
            group.create_task(revoke(n))
            await follow()
    while len(seen) < 60:
        await follow()

    assert sorted(seen) == sorted(f"t{n}" for n in range(60))


async def test_accounts_are_found_again_after_a_restart(tmp_path: Path) -> None:
    """What was acknowledged is on disk."""
    async with _sqlite_file(tmp_path) as store:
        await store.add_user(ANN)
        await store.revoke_token("acme", "u1", "t1", expires_at=NOW)

    async with _sqlite_file(tmp_path) as store:
        assert await store.find_user("acme", "ann") == ANN
        assert [r.token_id for r in await store.revocations(after=0, limit=10)] == ["t1"]


async def test_a_server_sees_what_another_process_changes(tmp_path: Path) -> None:
    """The command line, while the server runs."""
    settings = Settings(data_dir=tmp_path / "data")
    server = await open_store(settings)
    await server.accounts.add_user(ANN)

    async with open_accounts(settings) as beside:
        await beside.set_disabled("acme", "u1", disabled=True, now=NOW)
        await beside.add_user(User("acme", "u2", "bob", "hash", frozenset(), NOW))

    found = await server.accounts.find_user("acme", "ann")
    assert found is not None
    assert found.disabled_at == NOW
    assert await server.accounts.find_user("acme", "bob") is not None
    assert len(await server.accounts.revocations(after=0, limit=10)) == 1
    await server.close()
