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


def preview_of(text: str, chars: int) -> str | None:
    """Up to `chars` characters, each run of white space one space; None where there is no text."""
    if not text.isalnum():  # one word is one word
        text = _FENCE.sub("", text)
        while (without := _LINE.sub("", text)) != text:  # a list in a quote
            text = without
        for marks, plain in ((_LINK, r"\1"), (_CODE, r"\2"), (_STRONG, ""), (_EMPHASIS, r"\2")):
            text = marks.sub(plain, text)
        if text.lstrip().startswith("|"):
            text = _CELLS.sub(" ", text)
    return " ".join(text.split())[:chars] or None
