"""Titles: three to five words for a conversation, out of what was said or out of what a model made of it (spec U5).

Pure text to text: no model is asked here (auto_naming.py).
"""

from __future__ import annotations

import re
import unicodedata

# What a list of sessions can show in one line; a person may write longer ones.
MAX_CHARS = 60
MIN_WORDS, MAX_WORDS = 3, 5
# A model that gives a few words more has still understood, and its first ones are taken; one that gives a sentence has
# not, and one that gives fewer is asked again.
MAX_ANSWER_WORDS = 8
# Of text that is written without spaces, where nobody can count words: about two characters to one.
UNSPACED_CHARS = range(3, 21)

_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_ADDRESS = re.compile(r"\b(?:https?|ftp|mailto|file|data):\S+|\bwww\.\S+", re.IGNORECASE)
_COMMAND = re.compile(r"/[a-z-]+\b", re.ASCII)
_WORD = re.compile(r"[^\W_]+(?:['’.:/&+-][^\W_]+)*[+#]*")
_LABEL = re.compile(r"(?:chat |conversation )?(?:title|titel|titre|título)\s*[:\uFF1A-]\s*", re.IGNORECASE)
# Quotes, Markdown and stops around what a model gives.
_AROUND = " \t\"'“”„‘’«»*_`#>~.,;:!?…-–—()[]{}"
# Words that say nothing of what a message is about, at its beginning or at a title's end.
_FILLER = re.compile(
    "a|an|and|are|can|could|do|does|explain|for|from|give|hello|help|hey|hi|how|i|in|is|it|me|my|of|on|or|please|show|so"
    "|tell|that|the|to|us|want|we|what|what's|whats|with|would|you|your",
    re.IGNORECASE,
)


# Scripts without spaces between words: Thai, Lao, Myanmar, Khmer, kana, Chinese characters.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


def title_of_words(message: str) -> str | None:
    """A title out of the words of a message: its first line that has any, without polite openings; None without words.

    Code, addresses and commands are passed over. Text that is written without spaces gives its beginning.
    """
    text = _ADDRESS.sub(" ", _LINK.sub(r"\1", _CODE.sub(" ", message)))
    for line in text.splitlines():
        line = _COMMAND.sub(" ", line, count=1) if line.lstrip().startswith("/") else line
        words = _WORD.findall(line)
        first = next((at for at, word in enumerate(words) if not _FILLER.fullmatch(word)), 0)
        if len(words) - first >= MIN_WORDS or len(words) > MAX_WORDS:  # else a short question says it as it is
            words = words[min(first, max(len(words) - MIN_WORDS, 0)) :]
        words = _shortened(words)
        if any(c.isalpha() for word in words for c in word):
            return _capital(_fitted(words))
    return None


def clean_title(answer: str) -> str | None:
    """A model's answer as a title of three to five words; None where it is none: too short, a sentence, a paragraph.

    Args:
        answer: hostile text like all of a model's.
    """
    line = next((stripped for line in answer.splitlines() if (stripped := line.strip(_AROUND))), "")
    line = _LABEL.sub("", line, count=1).strip(_AROUND)
    # Control and format characters (categories C*) could turn the list's text around.
    line = "".join(c for c in " ".join(line.split()) if unicodedata.category(c)[0] != "C")
    words = line.split()
    if _UNSPACED.search(line):
        return " ".join(words) if len(line) in UNSPACED_CHARS else None
    if not MIN_WORDS <= len(words) <= MAX_ANSWER_WORDS or len(line) > MAX_CHARS:
        return None
    title = " ".join(_shortened(words)).rstrip(_AROUND)
    return title if sum(map(_has_letters, title.split())) >= MIN_WORDS else None


def _has_letters(word: str) -> bool:
    return any(map(str.isalnum, word))


def _shortened(words: list[str]) -> list[str]:
    """The first five of them, without an end that says nothing."""
    words = words[:MAX_WORDS]
    while len(words) > MIN_WORDS and _FILLER.fullmatch(words[-1]):
        del words[-1]
    return words


def _fitted(words: list[str]) -> str:
    title = " ".join(words)
    while len(title) > MAX_CHARS and len(words) > 1:
        words = words[:-1]
        title = " ".join(words)
    return title if len(title) <= MAX_CHARS else f"{title[: MAX_CHARS - 1]}…"


def _capital(title: str) -> str:
    return title[0].upper() + title[1:]
