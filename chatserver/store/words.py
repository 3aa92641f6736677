"""What a search looks for: the words of a text, folded so that case and accents do not matter.

A session is found when every word of the query stands in its title or in one of its messages, on whichever branch; the
last word may be the beginning of one. A word is a run of letters and digits; of Chinese and Japanese, which are written
without spaces, each character is one. Nothing else in a query has a meaning: quotes, operators and wildcards separate
words, like any punctuation. A query without a word finds nothing. A running answer, and what stands behind it in its
session, can be found when it has ended.
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
_WORD = re.compile(rf"[{_ALONE}]|[^\W_{_ALONE}]+")
# ASCII is most of all text, and this is a quarter of what the expression costs.
_ASCII = "".join(chr(code).lower() if chr(code).isalnum() else " " for code in range(128))
# What accented letters fall apart into, beside the letter.
_MARKS = re.compile("[\u0300-\u036f\u3099\u309a]")


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
