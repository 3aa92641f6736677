"""Previews of messages in a list: what a person reads of Markdown, and nothing of its marks."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatserver.preview import preview_of


@pytest.mark.parametrize(
    ("text", "preview"),
    [
        ("**Paris** is the *capital* of __France__.", "Paris is the capital of France."),
        ("# Answer\n\nIt is `42`, see [the book](https://example.org/a_b).", "Answer It is 42, see the book."),
        ("- one\n- [x] two\n  * three\n1. four", "one two three 1. four"),
        ("> quoted\n> > - twice", "quoted twice"),
        ("```python\nprint('hi')\n```\nThat prints.", "print('hi') That prints."),
        ("| a | b |\n|---|:-:|\n| 1 | 2 |", "a b 1 2"),
        ("above\n\n---\n\nbelow", "above below"),
        ("![a picture](data:image/png;base64,AAAA) of it", "a picture of it"),
        ("~~old~~ new", "old new"),
        ("session_id and 3 * 4 * 5 and a_b_c", "session_id and 3 * 4 * 5 and a_b_c"),
        ("__init__.py and **kwargs", "init.py and kwargs"),
        ("see [the book](https://example.org/cut", "see the book"),
        ("it is **cut", "it is cut"),
        ("| is a pipe", "is a pipe"),
        ("a | b", "a | b"),
        ("#hashtag costs -5 > 4", "#hashtag costs -5 > 4"),
        (" \n\t", None),
        ("***", None),
        ("plain   words\nhere", "plain words here"),
    ],
)
def test_a_preview_is_in_plain_words(text: str, preview: str | None) -> None:
    """A list shows no Markdown, and a word that looks like it stays."""
    assert preview_of(text, 100) == preview


@given(st.text(max_size=400) | st.text("*_`[]()#>|~- \nab\\!", max_size=400), st.integers(1, 100))
def test_any_text_gives_one_short_line(text: str, chars: int) -> None:
    """Whatever a model wrote, wherever it was cut."""
    preview = preview_of(text, chars)
    if preview is not None:
        assert 0 < len(preview) <= chars
        assert "\n" not in preview


@pytest.mark.parametrize(
    "mark", ["*", "_", "`", "[", "](", ">", "> ", "- ", "|", "#", "~", "*a", "[a](", "``a`", "-- "]
)
def test_no_text_takes_long(mark: str) -> None:
    """Four hundred characters are looked at for each session of a list."""
    started = time.process_time()
    for _ in range(10):
        preview_of((mark * 400)[:400], 100)
    assert time.process_time() - started < 2.0
