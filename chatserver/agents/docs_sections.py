"""Markdown into sections: what the docs index finds and the docs agent quotes.

A section is a heading with the text up to the next heading of any level; a long one is cut between paragraphs. A table
that explains names (settings, codes, fields) also gives a section for each of them, since a question is about one.
Headings inside code fences are code. Front matter and HTML comments are left out, and links to other files of the
folder become their text, since whoever reads a quoted passage has nothing to click on.

It reads no file (docs_folder.py), does not search (docs_index.py) and does not render.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import NamedTuple

# A screenful. Longer sections would fill an answer, or a model's window, with one passage.
SECTION_CHARS = 3_000
# Nobody nests deeper; a file of a million headings would otherwise make as many rows.
SECTIONS_PER_FILE = 2_000

# A row whose first cell is a name in code, and one that is not a word of the language: `max_body_bytes`, not `agent`.
_NAMED_ROW = re.compile(r"\| `([^`|]*[^\W_][-_./][^\W_][^`|]*)` \|.*\|")
_RULE = re.compile(r"\|[-:| ]+\|")
# A backtick fence has no backtick after it, else it is a span of code in a line (CommonMark §4.5).
_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})(.*)")
_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*")
# These run over files of any content: repetition is bounded, and longer lines are not tried as headings.
_HEADING_CHARS = 500
_LOCAL_LINK = re.compile(
    r"!?\[([^\[\]\n]{0,300})\]\((?![a-zA-Z][a-zA-Z0-9+.-]*:)[^()\s]{1,300}(?:\s\"[^\"\n]{0,300}\")?\)"
)
_INLINE_MARKS = re.compile(r"[`*]|!?\[([^\[\]]{0,300})\]\([^()]{0,300}\)")


@dataclass(frozen=True, slots=True)
class Section:
    """One passage.

    `path` is the titles of the headings it stands under, its own last; `source` the file, relative to the folder,
    with `/`; `anchor` the heading's fragment as GitHub makes it ("" for text before the first heading). `name` is what
    a single row of a table explains, "" for all other text: the row stands in its table's section too.
    """

    path: tuple[str, ...]
    text: str
    source: str
    anchor: str
    name: str = ""

    @property
    def title(self) -> str:
        return self.path[-1]

    @property
    def trail(self) -> str:
        """The headings it stands under, its own last."""
        return " > ".join(self.path)

    @property
    def address(self) -> str:
        """File and fragment, e.g. `stream.md#resuming`."""
        return f"{self.source}#{self.anchor}" if self.anchor else self.source


def split(text: str, source: str) -> list[Section]:
    """The sections of one file, in order; headings without text of their own are left out.

    Args:
        text: Markdown, whatever its line ends.
        source: the file's name as it is to be shown; its stem is the title of text before the first heading.
    """
    lines = _without_front_matter(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    sections: list[Section] = []
    headings: list[tuple[int, str]] = []  # the chain of (level, title) down to the present one
    anchors: dict[str, int] = {}
    anchor = ""
    body: list[_Line] = []
    for line in _fenced(lines):
        heading = None if line.is_code else _heading(line.text, body)
        if heading is None:
            body.append(line)
            continue
        sections += _closed(headings, body, source, anchor)
        if len(sections) >= SECTIONS_PER_FILE:
            break
        level, title = heading
        headings = [*((at, name) for at, name in headings if at < level), (level, title)]
        anchor = _anchor(title, anchors)
        body = []
    else:
        sections += _closed(headings, body, source, anchor)
    return sections[:SECTIONS_PER_FILE]


class _Line(NamedTuple):
    text: str
    is_code: bool


def _fenced(lines: Iterable[str]) -> Iterator[_Line]:
    """Each line with whether it belongs to a code fence, the fence's own lines included."""
    fence: str | None = None
    for line in lines:
        mark = _FENCE.fullmatch(line)
        if fence is None:
            fence = mark[1] if mark else None
            yield _Line(line, mark is not None)
        else:
            yield _Line(line, True)
            if mark and mark[1].startswith(fence) and not mark[2].strip():
                fence = None


def _closed(headings: list[tuple[int, str]], body: list[_Line], source: str, anchor: str) -> Iterator[Section]:
    path = tuple(title for _, title in headings) or (Path(source).stem,)
    text = _cleaned(body)
    for piece in _pieces(text):
        yield Section(path, piece, source, anchor)
    for name, row in _named_rows(body):
        yield Section((*path, name), row, source, anchor, name)


def _heading(line: str, body: list[_Line]) -> tuple[int, str] | None:
    """Level and title where `line` is a heading, or underlines the line before it, which is then taken off `body`."""
    if len(line) > _HEADING_CHARS:
        return None
    if found := _ATX.fullmatch(line):
        title = _plain(found[2] or "")
        return (len(found[1]), title) if title else None
    if not body or not _SETEXT.fullmatch(line):
        return None
    # Only a single line between blank ones: `---` under a list or a table is a rule.
    above = body[-1]
    if above.is_code or len(above.text) > _HEADING_CHARS or above.text.lstrip().startswith(("|", "-", "*", ">", "+")):
        return None
    title = _plain(above.text)
    if not title or (len(body) > 1 and body[-2].text.strip()):
        return None
    body.pop()
    return (1 if line.lstrip().startswith("=") else 2, title)


def _named_rows(body: list[_Line]) -> Iterator[tuple[str, str]]:
    """Each name that a table explains, with a table of its row alone."""
    head = ""
    for before, line in pairwise(body):
        if line.is_code or len(line.text) > SECTION_CHARS:
            head = ""
        elif _RULE.fullmatch(line.text):
            head = f"{before.text}\n{line.text}"
        elif not line.text.startswith("|"):
            head = ""
        elif head and (found := _NAMED_ROW.fullmatch(line.text)):
            yield found[1], _cleaned([_Line(f"{head}\n{line.text}", False)])


def _plain(title: str) -> str:
    return _INLINE_MARKS.sub(lambda mark: mark[1] or "", title).strip()


def _anchor(title: str, seen: dict[str, int]) -> str:
    """The fragment that GitHub gives a heading: lower case, punctuation off, spaces to hyphens, repeats numbered."""
    slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
    count = seen.get(slug, 0)
    seen[slug] = count + 1
    return f"{slug}-{count}" if count else slug


def _without_front_matter(lines: list[str]) -> list[str]:
    if lines and lines[0].rstrip() == "---":
        for at, line in enumerate(lines[1:200], 1):  # metadata is short; a rule far below closes nothing
            if line.rstrip() in ("---", "..."):
                return lines[at + 1 :]
    return lines


def _cleaned(lines: list[_Line]) -> str:
    """The lines joined; comments and local links are taken out, except inside code."""
    out = []
    for is_code, run in groupby(lines, key=lambda line: line.is_code):
        text = "\n".join(line.text for line in run)
        out.append(text if is_code else _LOCAL_LINK.sub(r"\1", _without_comments(text)))
    return "\n".join(out).strip("\n").rstrip()


def _without_comments(text: str) -> str:
    # Not a regular expression: `<!--.*?-->` is quadratic over many openings without an end.
    out = []
    at = 0
    while (start := text.find("<!--", at)) >= 0 and (end := text.find("-->", start)) >= 0:
        out.append(text[at:start])
        at = end + 3
    return "".join((*out, text[at:]))


def _pieces(text: str) -> Iterator[str]:
    """`text` in pieces of at most `SECTION_CHARS`, cut between blocks where there is a place for it."""
    while len(text) > SECTION_CHARS:
        at = _cut(text[:SECTION_CHARS])
        yield text[:at].rstrip()
        text = text[at:].strip("\n")
    if text.strip():
        yield text


def _cut(text: str) -> int:
    """Where to cut `text`: at the last blank line outside a fence, else at a line's end, else at its own end."""
    best = at = 0
    for line in _fenced(text.split("\n")[:-1]):
        if not line.is_code and not line.text.strip():
            best = at
        at += len(line.text) + 1
    if best > SECTION_CHARS // 4:  # a cut near the start would leave a crumb
        return best
    end = text.rfind("\n", SECTION_CHARS // 2)
    return end if end > 0 else len(text)
