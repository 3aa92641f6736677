"""Names of users: what is accepted, and when two of them are the same.

Invariants: names are compared in Unicode's NFKC_Casefold form (Unicode standard, D147), so `Ann`, `ann` and `ann` in
wide letters are one user. A name has no `/` and no `:`, which keys and owners are put together with, and nothing that
does not show.
"""

from __future__ import annotations

import unicodedata

from chatserver.errors import FieldError, InvalidFields

MAX_CHARS = 64
_EXTRA = frozenset("._@+-")


def normal_name(text: str) -> str:
    """The name in the form in which it is stored, found and shown.

    Raises: InvalidFields (`invalid_username`).
    """
    if len(text) <= MAX_CHARS:  # before the work: a normal form may be eighteen times as long
        name = _fold(text)
        if 1 <= len(name) <= MAX_CHARS and all(_allowed(c) for c in name) and unicodedata.category(name[0])[0] != "M":
            return name
    raise InvalidFields(
        [FieldError(("username",), f"1 to {MAX_CHARS} letters, digits and . _ @ + -")], code="invalid_username"
    )


def _allowed(char: str) -> bool:
    return char in _EXTRA or unicodedata.category(char)[0] in "LMN"


def _fold(text: str) -> str:
    once = unicodedata.normalize("NFKC", unicodedata.normalize("NFD", text).casefold())
    return unicodedata.normalize("NFKC", once.casefold())
