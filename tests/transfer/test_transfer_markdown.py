"""Markdown of a conversation: a CommonMark parser sees our structure, whatever was said."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from chatserver.message import Message, ToolCall, ToolResult
from chatserver.transfer_markdown import head, message
from tests.store.build import record

PARSER = MarkdownIt("commonmark", {"html": True})
# What could end a quote, a fence or a line, forge a heading or begin HTML, and what makes it mean something else.
PIECES = (
    *("```", "~~~", "````", "`", "\n", "\n\n", "\r", "\t", " ", "   ", "    ", "> ", "- ", "1. ", "# ", "## User"),
    *("---", "===", "<script>", "</details>", "</blockquote>", "<!--", "-->", "<b", ">", "<", "&lt;", "\\"),
    *("[a]: /x", "<http://x>", "\x00", "\x0b", "\x1c", "\x85", "\u2028", "x", "html", "![CDATA[", "<?", "*", "_", "|"),
)
hostile = st.lists(st.sampled_from(PIECES), max_size=14).map("".join) | st.text(max_size=20)


def said(content: str, **fields: object) -> Message:
    return Message("m", None, "user", content, "completed", None, "2026-01-01T00:00:00.000Z", **fields)  # type: ignore[arg-type]


def flat(tokens: list[Token]) -> list[Token]:
    """Tokens with those inside of them."""
    return [inner for token in tokens for inner in (token, *flat(token.children or []))]


def html_of(text: str) -> list[str]:
    """The HTML in Markdown that a reader would interpret."""
    return [t.content for t in flat(PARSER.parse(text)) if t.type in ("html_block", "html_inline")]


def headings_outside_of_quotes(text: str) -> list[str]:
    """The headings that are ours to make."""
    tokens = PARSER.parse(text)
    return [tokens[at + 1].content for at, t in enumerate(tokens) if t.type == "heading_open" and t.level == 0]


@given(hostile, hostile, hostile)
@example("```\n", "", "<script>")
@example(" ```\nx\n```\n<script>", "", "")
@example("- ```\nx\n<script>", "", "")
@example("```\n\t```\n<script>\n```\n<script>", "", "")
@example("\t```\n```\n<script>", "", "")
@example("~~~\n```\n<script>\n~~~\n<script>", "", "")
@example("<!--\n", "-->", "</details>")
@example("\\<script>", "\\\\<script>", "\\\\\\<script>")
def test_nothing_that_was_said_passes_for_something_else(content: str, reasoning: str, result: str) -> None:
    """Two messages are two headings; HTML is our own; every call is folded; what tools gave stays in its fence."""
    call = ToolCall("c", reasoning, "name", {"a": content}, 0, ToolResult(result, is_error=False))
    first = message(said(content, reasoning=reasoning, tool_calls=(call,)))
    text = head(record(title=content), "now") + first + message(said(result))

    headings = headings_outside_of_quotes(text)
    assert headings[1:] == ["User", "User"]
    html = "".join(html_of(text))
    assert html.count("<details><summary>") == html.count("</details>") == (2 if reasoning else 1)
    ours = re.sub(r"</?(details|summary)>", "", html)
    assert "<" not in ours
    fences = [t for t in PARSER.parse(text) if t.type == "fence" and t.level == 0]
    assert [t.info for t in fences] == ["json", ""]


@given(st.lists(st.sampled_from(["```\n", "<div>\n", "~~~\n", "a <b> c\n", "````\n", "\n"]), max_size=8).map("".join))
def test_code_in_plain_fences_stays_as_it_was(content: str) -> None:
    """A reader who copies a program out of it gets the program."""
    shown = [t.content for t in PARSER.parse(message(said(content))) if t.type == "fence"]
    without_html = MarkdownIt("commonmark", {"html": False})
    meant = [t.content for t in without_html.parse(content) if t.type == "fence"]

    assert [c.rstrip("\n") for c in shown] == [c.rstrip("\n") for c in meant]


def test_a_message_shows_who_said_it_with_which_model_and_how_it_ended() -> None:
    """As a person reads it."""
    answer = Message(
        "m", None, "assistant", "Hello\n\nworld", "interrupted", "tiny*", "2026-01-01T00:00:00.000Z", reasoning="hm",
        tool_calls=(ToolCall("c", "time", "now", {"zone": "UTC"}, 0, ToolResult("12:00", is_error=True)),),
    )  # fmt: skip

    assert message(answer) == (
        "\n## Assistant (tiny\\*)\n\n"
        "2026\\-01\\-01T00:00:00\\.000Z, interrupted\n\n"
        "<details><summary>Reasoning</summary>\n\n> hm\n\n</details>\n\n"
        "<details><summary>Tool call: time.now</summary>\n\nArguments:\n\n"
        '```json\n{\n  "zone": "UTC"\n}\n```\n\nError:\n\n```\n12:00\n```\n\n</details>\n\n'
        "> Hello\n>\n> world\n"
    )


@pytest.mark.parametrize("title", ["", "   ", "\x00"])
def test_a_session_without_a_title_has_a_heading_still(title: str) -> None:
    """Never an empty one."""
    assert head(record(title=title), "now").startswith("# Conversation\n")
