"""What a search looks for: the words of a text, folded so that case and accents do not matter.

A session is found when every word of the query stands in its title or in one of its messages, on whichever branch; the
last word may be the beginning of one. A word is a run of letters and digits, with the vowel signs of scripts that write
vowels so; of Chinese and Japanese, which are written without spaces, each character is one. Nothing else in a query has
a meaning: quotes, operators and wildcards separate words, like any punctuation. A query without a word finds nothing. A
running answer, and what stands behind it in its session, can be found when it has ended.
"""

from __future__ import annotations

import re
import unicodedata

# Longer ones are keys, hashes and encoded data: they are found by their beginning.
WORD_CHARS = 40
# Of one text; a book that was pasted is found by its beginning. More would be too much for one transaction (search.py).
SEARCHED_CHARS = 32_000
# Of one query; further ones are not looked for.
QUERY_WORDS = 16

_ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# Signs on letters, which `\w` leaves out: without them a word of Hindi or Thai would fall apart into its consonants.
_SIGNS = "".join(char for char in map(chr, range(0x300, 0x10000)) if unicodedata.category(char) in ("Mn", "Mc"))
_LETTERS = rf"[^\W_{_ALONE}]"
_WORD = re.compile(rf"[{_ALONE}]|{_LETTERS}+(?:[{_SIGNS}]+{_LETTERS}*)*")
# ASCII is most of all text, and this is a quarter of what the expression costs.
_ASCII = "".join(chr(code).lower() if chr(code).isalnum() else " " for code in range(128))
# What accented letters fall apart into, beside the letter; and what Hebrew and Arabic may be written without.
_MARKS = re.compile("[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u064b-\u065f\u0670\u3099\u309a]")


def words_of(text: str) -> dict[str, None]:
    """The different words of a text, in the order in which they come."""
    text = text[:SEARCHED_CHARS]
    if text.isascii():
        found = text.translate(_ASCII).split()
    else:
        found = _WORD.findall(_MARKS.sub("", unicodedata.normalize("NFKD", text.casefold())))
    words = dict.fromkeys(found)
    if words and max(map(len, words)) > WORD_CHARS:
        words = dict.fromkeys(word[:WORD_CHARS] for word in words)
    return words


def query_words(query: str) -> tuple[str, ...]:
    """The words of a query; the last one stands for every word that begins so."""
    return tuple(words_of(query))[:QUERY_WORDS]
