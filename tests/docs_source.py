"""docs/ and the source, read for what one says of the other.

Owns the forms that the documentation uses: a table row whose first cell is a name in code, a heading that names a route
or an event, and code blocks whose info string says what a test does with them:

    sh run            runs against a server, must succeed (in order, all in one folder)
    sh run fails      …, must be refused by the server
    sh stream         each command follows a stream: must print events until it is stopped
    sh env            exports settings, which must be valid
    python run        runs against a server, must exit with 0
    toml config       is a settings file, which must be valid
    python file=F     is saved as F; with agent=MODULE:NAME it must answer as the server's agent
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SOURCE = ROOT / "chatserver"

_FENCE = re.compile(r"^(```+)([^\n]*)\n(.*?)^\1[ ]*$", re.MULTILINE | re.DOTALL)
_ROW = re.compile(r"^\| `([^`]+)` \|(.*)\|$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A code block: the file it stands in, its line, the words of its info string, its text."""

    path: Path
    line: int
    info: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return f"{self.path.name}:{self.line}"

    def option(self, name: str) -> str | None:
        """The value of `name=value` in the info string."""
        return next((word.partition("=")[2] for word in self.info if word.startswith(f"{name}=")), None)


def pages() -> list[Path]:
    """The documentation's files, decisions left out: they tell history."""
    return sorted(DOCS.glob("*.md"))


def blocks() -> Iterator[Block]:
    """Every code block of every page, in order."""
    for path in pages():
        text = path.read_text()
        for found in _FENCE.finditer(text):
            line = text.count("\n", 0, found.start()) + 1
            yield Block(path, line, tuple(found[2].split()), found[3])


def rows(text: str) -> dict[str, list[str]]:
    """Table rows by the name in their first cell; the other cells, stripped."""
    return {name: [cell.strip() for cell in rest.split(" | ")] for name, rest in _ROW.findall(text)}


def section(page: str, heading: str) -> str:
    """The text under a heading up to the next one of the same level or above."""
    text = (DOCS / page).read_text()
    found = re.search(rf"^(#+) {re.escape(heading)}$", text, re.MULTILINE)
    assert found, f"{page} has no heading {heading!r}"
    rest = text[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


@dataclass(frozen=True, slots=True)
class RaisedCode:
    """A code as the source uses it: where, and by which class (None in a plain dict)."""

    code: str
    raised_as: str | None
    place: str


def codes_in_source() -> list[RaisedCode]:
    """Every error code in chatserver/: class attributes, `code=` of calls, and `"code"` of literal dicts."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            for code, raised_as in _codes(node):
                found.append(RaisedCode(code, raised_as, place))
    return found


def _codes(node: ast.AST) -> Iterator[tuple[str, str | None]]:
    match node:
        case ast.Call():
            name = ast.unparse(node.func).rpartition(".")[2]
            if name == "RateLimiter":  # raises it for whoever made it
                name = "RateLimited"
            for keyword in node.keywords:
                if keyword.arg == "code":
                    value = keyword.value
                    for part in (value.body, value.orelse) if isinstance(value, ast.IfExp) else (value,):
                        if isinstance(part, ast.Constant) and isinstance(part.value, str):
                            yield part.value, name
        case ast.Dict():
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "code" and isinstance(value, ast.Constant):
                    yield str(value.value), None
        case ast.ClassDef():
            for statement in node.body:
                match statement:
                    case ast.Assign(targets=[ast.Name(id="code")], value=ast.Constant(value=str() as code)):
                        yield code, node.name
                    case ast.AnnAssign(target=ast.Name(id="code"), value=ast.Constant(value=str() as code)):
                        yield code, node.name
