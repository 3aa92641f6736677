"""Markdown into sections, on the shapes that real documentation has."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from chatserver.agents.docs_sections import SECTION_CHARS, SECTIONS_PER_FILE, split

GUIDE = """\
---
title: left out
---
Words before any heading.

# Streams

What a stream is.

## Resuming `a` *stream*

Send the [last id](stream.md#ids "ids"), or see [the page](https://example.org/x).
<!-- a remark
over two lines -->
After the remark.

```sh
# not a heading
curl [x](y) <!-- kept -->
```

### Deeper ###

Deep text.

## Resuming a stream

Again.

Underlined
==========

Under it.

- a list
---
not a heading above
"""


def test_sections_carry_their_heading_path_source_and_anchor() -> None:
    """A passage is found under its heading's name and can be pointed at."""
    sections = split(GUIDE, "guide.md")

    assert [(s.path, s.address) for s in sections] == [
        (("guide",), "guide.md"),
        (("Streams",), "guide.md#streams"),
        (("Streams", "Resuming a stream"), "guide.md#resuming-a-stream"),
        (("Streams", "Resuming a stream", "Deeper"), "guide.md#deeper"),
        (("Streams", "Resuming a stream"), "guide.md#resuming-a-stream-1"),
        (("Underlined",), "guide.md#underlined"),
    ]
    assert sections[3].trail == "Streams > Resuming a stream > Deeper"


def test_prose_loses_comments_and_local_links_and_code_stays_as_it_is() -> None:
    """What a reader could not use is gone; what they would copy is untouched."""
    text = split(GUIDE, "guide.md")[2].text

    assert "Send the last id, or see [the page](https://example.org/x)." in text
    assert "remark\nover" not in text
    assert "After the remark." in text
    assert "# not a heading\ncurl [x](y) <!-- kept -->" in text


def test_front_matter_and_rules_make_no_section() -> None:
    """Metadata is not documentation, and a rule under a list underlines no heading."""
    sections = split(GUIDE, "guide.md")

    assert not any("left out" in section.text for section in sections)
    assert sections[-1].text.endswith("- a list\n---\nnot a heading above")


def test_heading_without_text_gives_no_section_and_titles_its_children() -> None:
    """An empty passage would be a hit that says nothing."""
    sections = split("# Top\n\n## Child\n\ntext\n", "a.md")

    assert [s.path for s in sections] == [("Top", "Child")]


def test_long_section_is_cut_between_paragraphs() -> None:
    """Each piece is quotable and no words are lost."""
    paragraphs = [f"Paragraph {n}: " + "word " * 60 for n in range(40)]

    sections = split("# Long\n\n" + "\n\n".join(paragraphs), "long.md")

    assert len(sections) > 3
    assert all(len(section.text) <= SECTION_CHARS for section in sections)
    assert all(section.text.startswith("Paragraph") for section in sections)
    assert " ".join(" ".join(s.text for s in sections).split()) == " ".join(" ".join(paragraphs).split())


def test_code_block_is_not_cut_where_a_paragraph_end_is_near() -> None:
    """A blank line inside a fence is no place to cut."""
    code = "```\n" + "line of code\n\n" * 100 + "```"

    sections = split(f"# A\n\n{'intro word ' * 150}\n\n{code}\n", "a.md")

    assert all(section.text.count("```") % 2 == 0 for section in sections)


TABLE = """\
# Settings

Before.

| setting | meaning |
|---|---|
| `max_body_bytes` | A [body](api.md). |
| `port` | A word of the language. |
| plain_text | Not in code. |

```
| setting | meaning |
|---|---|
| `in_code` | Not a table. |
```

| `no_head` | Not a table either. |
"""


def test_a_name_that_a_table_explains_is_a_section_of_its_own() -> None:
    """A question about one setting is answered with its row, not with a table of twenty."""
    sections = split(TABLE, "settings.md")

    named = [section for section in sections if section.name]
    assert [section.path for section in named] == [("Settings", "max_body_bytes")]
    assert named[0].text == "| setting | meaning |\n|---|---|\n| `max_body_bytes` | A body. |"
    assert named[0].address == "settings.md#settings"
    assert sections[0].name == ""
    assert "`max_body_bytes`" in sections[0].text


def test_backticks_in_a_line_open_no_fence() -> None:
    """A span of code that begins a line must not swallow the headings after it."""
    sections = split("# A\n\n``` span ``` in a line\n\n# B\n\ntext\n", "a.md")

    assert [s.title for s in sections] == ["A", "B"]


def test_sections_of_one_file_are_bounded() -> None:
    """A file of a hundred thousand headings gives a bounded number of rows."""
    assert len(split("# h\n\nt\n\n" * 100_000, "many.md")) == SECTIONS_PER_FILE


def test_hostile_file_is_split_in_time_that_grows_with_its_size() -> None:
    """Unclosed comments, brackets and marks in the hundred thousands are no trap for the patterns."""
    started = time.monotonic()
    for part in ("<!--", "[", "[a](", "# ", "#\t", "```", "- ", "=\n", "a\n=\n"):
        split(part * (400_000 // len(part)), "hostile.md")

    assert time.monotonic() - started < 20, "some pattern is worse than linear"


@given(st.text(alphabet=st.sampled_from("#=-`~ \n[](){}<!>ab*_\r\t"), max_size=300))
def test_any_text_is_split_without_losing_its_letters(text: str) -> None:
    """Whatever the marks, what is left is a subset of the file's lines and every section has text and a title."""
    for section in split(text, "any.md"):
        assert section.text.strip()
        assert section.title
