"""A conversation as Markdown for people to read.

Invariants: what is said in it is hostile text, and cannot pass for anything else. A message stands in a block quote,
which nothing in it can end: neither an open code fence nor a heading leaves it (CommonMark 0.31, sections 4.5 and 5.1).
HTML in it is escaped, except in code fences at the beginnings of their lines, where it is code. What tools took and
gave stands in a fence that is longer than any run of backticks in it.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

import orjson

from chatserver.message import Message, ToolCall
from chatserver.store.base import SessionRecord

_ROLES = {"user": "User", "assistant": "Assistant", "system": "System", "tool": "Tool"}
# What ends a line for some reader or other; CommonMark knows the first three.
_LINES = re.compile(r"\r\n|\n|\r|\x0b|\x0c|\x1c|\x1d|\x1e|\x85|\u2028|\u2029")
_FENCE = re.compile(r"(`{3,})[^`]*|(~{3,}).*", re.S)
# One that is indented, or in a list or a quote, may end with those: then what is code cannot be told line by line.
_NESTED_FENCE = re.compile(r"[ \t>*+\-0-9.)]+(?:```|~~~)")
# With the backslashes before it: an odd number of them escapes it already, and one more would not.
_TAG = re.compile(r"(?<!\\)((?:\\\\)*)<(?=[A-Za-z/!?])")
_PUNCTUATION = re.compile(r"([\\`*_{}\[\]()#+.!<>|~&$-])")
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")


def head(record: SessionRecord, created_at: str) -> str:
    """Title and facts of a session.

    Args:
        created_at: as shown.
    """
    facts = {"Session": record.key.session_id, "Project": record.project_id, "Begun": created_at}
    lines = [f"# {line(record.title) or 'Conversation'}", ""]
    return "\n".join(lines + [f"- {name}: {line(value)}" for name, value in facts.items()]) + "\n"


def message(said: Message) -> str:
    """One message, with what came before it as a blank line."""
    parts = [f"\n## {_ROLES[said.role]}{f' ({line(said.model)})' if said.model else ''}\n"]
    status = "" if said.status == "completed" else f", {'interrupted' if said.status == 'streaming' else said.status}"
    parts.append(f"{line(said.created_at)}{status}\n")
    if said.reasoning:
        parts.append(_folded("Reasoning", quoted(said.reasoning)))
    parts += [_call(call) for call in said.tool_calls]
    if said.content:
        parts.append(quoted(said.content))
    return "\n".join(parts)


def line(text: str) -> str:
    """Text as one line that means itself."""
    return _PUNCTUATION.sub(r"\\\1", " ".join(_CONTROLS.sub(" ", text).split()))


def quoted(text: str) -> str:
    """Text as a block quote of its own."""
    lines = _LINES.split(_CONTROLS.sub("\ufffd", text))
    safe = map(_escaped, lines) if any(map(_NESTED_FENCE.match, lines)) else _escaped_outside_of_fences(lines)
    return "".join(f"> {each}\n" if each else ">\n" for each in safe)


def _escaped_outside_of_fences(lines: list[str]) -> Iterator[str]:
    """Where every fence stands at the beginning of its line, it is plain which opens and which closes."""
    fence = ""
    for each in lines:
        if not fence:
            found = _FENCE.fullmatch(each)
            fence = (found[1] or found[2]) if found is not None else ""
            yield each if fence else _escaped(each)
        else:
            closing = each.rstrip(" \t")
            if len(closing) >= len(fence) and not closing.strip(fence[0]):
                fence = ""
            yield each


def _escaped(text: str) -> str:
    return _TAG.sub(r"\1\\<", text)


def _call(call: ToolCall) -> str:
    given = fenced(orjson.dumps(call.arguments, option=orjson.OPT_INDENT_2).decode(), "json")
    if call.result is None:
        gave = "No result.\n"
    else:
        gave = f"{'Error' if call.result.is_error else 'Result'}:\n\n{fenced(call.result.content)}"
    return _folded(f"Tool call: {call.server}.{call.name}", f"Arguments:\n\n{given}\n{gave}")


def _folded(summary: str, body: str) -> str:
    shown = html.escape(" ".join(_CONTROLS.sub(" ", summary).split()))
    return f"<details><summary>{shown}</summary>\n\n{body}\n</details>\n"


def fenced(text: str, language: str = "") -> str:
    """Text in a code fence that it cannot end."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    lines = "\n".join(_LINES.split(_CONTROLS.sub("\ufffd", text)))
    return f"{fence}{language}\n{lines}\n{fence}\n"
