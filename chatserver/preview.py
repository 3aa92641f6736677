"""Previews: the beginning of a message in plain words, for a list that shows no Markdown.

Pure text to text; it may have been cut anywhere. What looks like a mark and may be a word stays: `session_id`, `3 * 4`.
"""

from __future__ import annotations

import re

_FENCE = re.compile(r"^[ \t]*(?:```+|~~~+)[^`\n]*$", re.MULTILINE)
_LINE = re.compile(
    r"^[ \t]*(?:(?:>[ \t]?)+|#{1,6}[ \t]+|[-*+][ \t]+(?:\[[ xX]\][ \t]+)?"
    r"|(?:[-*_][ \t]*){3,}$|\|?[ \t:|-]*-{3}[ \t:|-]*$)",
    re.MULTILINE,
)
# Of a link or a picture, what is read; also of one whose address was cut off.
_LINK = re.compile(r"!?\[([^\]\n]*)\]\([^)\s]*(?:[ \t]+\"[^\"\n]*\")?(?:\)|\Z)")
_CODE = re.compile(r"(`+)[ \t]?([^`\n]+?)[ \t]?\1(?!`)")
_STRONG = re.compile(r"(?<!\w)__(?=\S)|(?<=\S)__(?!\w)|\*\*(?=\S)|(?<=\S)\*\*|~~(?=\S)|(?<=\S)~~")
_EMPHASIS = re.compile(r"(?<![\w*])([*_])(?=[^\s*_])([^*_\n]*[^\s*_])\1(?![\w*])")
_CELLS = re.compile(r"[ \t]*\|[ \t]*")
# What a line begins with that `_LINE` or `_FENCE` may take from it, and what a text has that the others may: a list of
# fifty plain texts would cost 2.5 ms more with all of them tried.
_LINE_MARKS = (">", "#", "-", "*", "+", "|", "_", ":", "`", "~")
_INSIDE = (
    (("[",), _LINK, r"\1"),
    (("`",), _CODE, r"\2"),
    (("*", "_", "~"), _STRONG, ""),
    (("*", "_"), _EMPHASIS, r"\2"),
)


def preview_of(text: str, chars: int) -> str | None:
    """Up to `chars` characters, each run of white space one space; None where there is no text."""
    if text.isalnum():  # one word is one word
        return text[:chars]
    if any(line.lstrip().startswith(_LINE_MARKS) for line in text.split("\n")):
        text = _FENCE.sub("", text)
        while (without := _LINE.sub("", text)) != text:  # a list in a quote
            text = without
    for signs, marks, plain in _INSIDE:
        if any(sign in text for sign in signs):
            text = marks.sub(plain, text)
    if text.lstrip().startswith("|"):
        text = _CELLS.sub(" ", text)
    return " ".join(text.split())[:chars] or None
