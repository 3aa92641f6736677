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
    # Of English …
    "a|about|an|and|any|are|at|be|can|could|did|do|does|explain|for|from|give|hello|help|hey|hi|how|i|i'd|i'm|in|is|it"
    "|just|know|let|let's|like|look|me|my|need|of|on|or|please|recommend|right|should|show|so|some|suggest|tell|thanks|that"
    "|the|there|this|to|us|want|we|were|what|what's|whats|will|with|would|you|your"
    # … and of German, without verbs that are commands: "Fasse" and "Übersetze" say what is wanted.
    "|als|am|an|auf|aus|bei|bitte|bräuchte|brauche|das|dem|den|der|des|die|du|ein|eine|einem|einen|einer|erkläre?|erklären"
    "|dir|es|für|geben|geht|gib|gibt|habe|hallo|helfen|hilf|ich|im|ist|kann|kannst|können|könntest|mein|meine|meinem|meinen|meiner"
    "|mich|mir|mit|möchte|nach|oder|schreib|schreibe|schreiben|sie|sind|über|um|und|uns|von|vom|was|welche|welcher|welches"
    "|wie|will|wir|wo|zeig|zeige|zu|zum|zur",
    re.IGNORECASE,
)
# Those that a title cannot begin with, where the word before them can: "Help with my CV".
_JOINING = re.compile(
    "about|at|for|from|in|of|on|to|with|an|auf|aus|bei|für|im|mit|nach|über|um|von|vom|zu|zum|zur", re.I
)
# They are left out where a pair would be cut in two: "Difference between list and tuple".
_PAIRING = re.compile("and|or|und|oder", re.I)
_ARTICLE = re.compile("a|an|the|das|dem|den|der|des|die|ein|eine|einem|einen|einer", re.I)
# Words between a request and what it is for.
_WHOM = re.compile("me|us|mir|mich|uns", re.I)
_ASKING = re.compile("wie|was|welche|welcher|welches|wo", re.I)
# Questions that a person would note down in other words.
_ASKED: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(rf"^{asked}", re.I), title)
    for asked, title in (
        (r"(?:what time is it|what(?:['’]s| is) the time)\b", "Time"),
        (r"what(?:['’]s| is| will) the weather\b(?: be\b)?(?: like\b)?", "Weather"),
        (r"how much (?:does|do|is|are) (?:an? |the )?", "Price of "),
        (r"(?:wie spät|wie ?viel uhr) ist es\b(?: gerade\b| jetzt\b)?", "Uhrzeit"),
        (r"wie (?:ist|wird) das wetter\b", "Wetter"),
        (r"(?:kannst|könntest) du (?:mir|uns) (?:bitte )?bei ([^.,;:!?\n]+) helfen", r"Hilfe bei \1"),
        # "Wie installiere ich Docker?": the first person and an n is the infinitive of nearly all verbs.
        (r"wie ([^\W\d_]+e) ich (?:mich |mir )?([^.,;:!?\n]+)", r"\2 \1n"),
    )
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
        words = _said(_WORD.findall(_asked_for(line)))
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


def _asked_for(line: str) -> str:
    """The line with a word in place of an opening that everybody uses for the same thing."""
    line = line.lstrip(_AROUND)
    for asked, title in _ASKED:
        if asked.match(line) is not None:
            return asked.sub(title, line, count=1)
    return line


def _said(words: list[str]) -> list[str]:
    """The words from the first on that says something; without articles where a pair would lose its second word."""
    first = next((at for at, word in enumerate(words) if not _FILLER.fullmatch(word)), None)
    if first is None or (len(words) - first < MIN_WORDS and len(words) <= MAX_WORDS):
        return words  # a short question says it as it is
    first = max(min(first, len(words) - MIN_WORDS), 0)
    if first == 1 and _ASKING.fullmatch(words[0]):  # a verb comes next: "Wie funktioniert …"
        first = 0
    while first and (_JOINING.fullmatch(words[first]) or _WHOM.fullmatch(words[first])):
        first -= 1
    if first and _ARTICLE.fullmatch(words[first]) and _JOINING.fullmatch(words[first - 1]):
        first -= 1
    words = words[first:]
    while len(words) > MIN_WORDS and _FILLER.fullmatch(words[-1]):
        del words[-1]
    if any(_PAIRING.fullmatch(word) for word in words[:MAX_WORDS][len(_shortened(words)) :]):  # cut between the two
        words = [word for word in words if not _ARTICLE.fullmatch(word)]
    return words


def _has_letters(word: str) -> bool:
    return any(map(str.isalnum, word))


def _shortened(words: list[str]) -> list[str]:
    """The first five of them, without an end that says nothing; all of it where nothing of it says anything."""
    words = words[:MAX_WORDS]
    if all(map(_FILLER.fullmatch, words)):
        return words
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
