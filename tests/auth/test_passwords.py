"""Passwords and names: what is stored, what a login costs, how many run at once."""

from __future__ import annotations

import asyncio
import threading
import unicodedata
from collections.abc import AsyncIterator

import argon2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatserver.auth import passwords as module
from chatserver.auth.names import normal_name
from chatserver.auth.passwords import MAX_CHARS, THREADS, Passwords, check_password
from chatserver.errors import InvalidFields, Unavailable

CHEAP = {"memory_kib": 64, "rounds": 1}


@pytest.fixture
async def passwords() -> AsyncIterator[Passwords]:
    made = Passwords(**CHEAP, waiting=8)
    yield made
    await made.close()


async def test_a_password_is_stored_as_an_argon2id_hash_and_found_right(passwords: Passwords) -> None:
    """The hash holds its parameters and a salt of its own; the password is nowhere in it."""
    first, second = await passwords.hash("correct horse"), await passwords.hash("correct horse")

    assert first.startswith("$argon2id$v=19$m=64,t=1,p=1$")
    assert first != second
    assert "horse" not in first
    assert (await passwords.verify(first, "correct horse")).right
    assert not (await passwords.verify(first, "correct horsf")).right


async def test_a_password_is_the_same_in_every_normal_form(passwords: Passwords) -> None:
    """One keyboard sends an umlaut as one character, another as two."""
    stored = await passwords.hash(unicodedata.normalize("NFC", "schlüssel9"))

    assert (await passwords.verify(stored, unicodedata.normalize("NFD", "schlüssel9"))).right


async def test_an_unknown_user_costs_the_same_work_as_a_wrong_password(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is one argon2id computation with the same parameters: no clock is needed to see it."""
    done: list[argon2.Parameters] = []
    verify = argon2.PasswordHasher.verify

    def counted(self: argon2.PasswordHasher, stored: str, password: str) -> bool:
        done.append(argon2.extract_parameters(stored))
        return verify(self, stored, password)

    stored = await passwords.hash("correct horse")
    monkeypatch.setattr(argon2.PasswordHasher, "verify", counted)

    assert not (await passwords.verify(stored, "wrong")).right
    assert not (await passwords.verify(None, "wrong")).right

    assert len(done) == 2
    assert done[0] == done[1]


async def test_a_hash_of_older_parameters_is_made_anew_when_its_password_comes(passwords: Passwords) -> None:
    """Only then is the password known; a wrong one changes nothing."""
    weaker = Passwords(memory_kib=32, rounds=1, waiting=1)
    stored = await weaker.hash("correct horse")
    await weaker.close()

    assert (await passwords.verify(stored, "wrong")).rehash is None
    rehash = (await passwords.verify(stored, "correct horse")).rehash

    assert rehash is not None
    again = await passwords.verify(rehash, "correct horse")
    assert again.right
    assert again.rehash is None


@pytest.mark.parametrize("stored", ["", "plain", "$argon2id$", "$argon2id$v=19$m=64,t=1,p=1$AAAA$", "$2b$12$abc"])
async def test_what_is_no_hash_lets_nobody_in(passwords: Passwords, stored: str) -> None:
    """A damaged row is a wrong password, not an error inside the server."""
    assert not (await passwords.verify(stored, "anything")).right


async def test_two_hashes_run_at_once_a_bounded_number_waits_and_the_next_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So a flood of logins takes two threads and bounded memory."""
    gate, lock = threading.Event(), threading.Lock()
    running = most = 0

    def slow(_self: object, _password: str) -> str:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        gate.wait(10)
        with lock:
            running -= 1
        return "hash"

    monkeypatch.setattr(module.PasswordHasher, "hash", slow)
    passwords = Passwords(**CHEAP, waiting=3)
    async with asyncio.TaskGroup() as group:
        inside = [group.create_task(passwords.hash("x" * 8)) for _ in range(THREADS + 3)]
        await asyncio.sleep(0)

        with pytest.raises(Unavailable) as refused:
            await passwords.hash("x" * 8)
        gate.set()

    assert refused.value.narrow_code == "too_many_logins"
    assert [t.result() for t in inside] == ["hash"] * 5
    assert most <= THREADS
    assert await passwords.hash("x" * 8) == "hash"  # there is room again
    await passwords.close()


@pytest.mark.parametrize("password", ["", "seven77", " " * 12, "x" * (MAX_CHARS + 1), "ﬀ" * 3])
def test_a_new_password_has_its_bounds(password: str) -> None:
    """Counted in the form in which it is hashed."""
    with pytest.raises(InvalidFields):
        check_password(password, min_chars=8)


@pytest.mark.parametrize("password", ["eight888", "x" * MAX_CHARS, "пароль на русском", "🔑🔑🔑🔑🔑🔑🔑🔑"])
def test_any_text_within_the_bounds_is_a_password(password: str) -> None:
    """No rules about digits and signs: they make passwords worse."""
    check_password(password, min_chars=8)


@pytest.mark.parametrize("text", ["Ann", "ann", "ANN", "\uff21\uff4e\uff4e"])
def test_names_that_look_the_same_are_the_same(text: str) -> None:
    """Capitals and widths do not make another user."""
    assert normal_name(text) == "ann"


@pytest.mark.parametrize("text", ["straße", "İnci", "user.name+tag@example.org", "名前", "मनोज", "x" * 64])
def test_names_of_all_scripts_are_accepted_and_stay_what_they_are(text: str) -> None:
    """Normalising twice changes nothing more."""
    assert normal_name(normal_name(text)) == normal_name(text)


@pytest.mark.parametrize(
    "text",
    ["", " ", "a b", "a/b", "a:b", "a\nb", "a\u200bb", "a\u202eb", "x" * 65, "\ufdfa" * 10, "\u0301x", "\ud800"],
    ids=ascii,
)
def test_names_with_what_does_not_show_or_splits_keys_are_refused(text: str) -> None:
    """Nor one that grows beyond the bound when it is normalised."""
    with pytest.raises(InvalidFields):
        normal_name(text)


@given(st.text(max_size=80))
def test_a_name_is_normal_or_refused(text: str) -> None:
    """Whatever comes in, what comes out is normal, bounded, and safe in a key."""
    try:
        name = normal_name(text)
    except InvalidFields:
        return
    assert normal_name(name) == name
    assert 1 <= len(name) <= 64
    assert not set(name) & set("/: \n")
    name.encode()
