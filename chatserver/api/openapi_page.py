"""`GET /docs`: the API's description as a page to read. HTML and a style, without a script and without another request.

It is made once from openapi.py's document; folding is `<details>`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Iterator
from functools import cache
from html import escape
from typing import Any

from aiohttp import web

from chatserver.api.openapi import TABLE, document
from chatserver.api.route import Route

_STYLE = """
:root { color-scheme: light dark; --dim: #666; --line: #ccc; --back: #f4f4f2 }
@media (prefers-color-scheme: dark) { :root { --dim: #aaa; --line: #444; --back: #222 } }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h2 { margin: 2rem 0 .5rem } h3 { font-size: 1rem; margin: 1rem 0 .25rem }
code { font: .9em ui-monospace, monospace; overflow-wrap: anywhere }
details { border-top: 1px solid var(--line) } summary { padding: .5rem 0; cursor: pointer }
details > div { margin: 0 0 1rem 1rem } .method { display: inline-block; min-width: 4.5em; font-weight: 700 }
.dim { color: var(--dim) } table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-top: 1px solid var(--line) }
:target { background: var(--back); scroll-margin-top: 5rem }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


async def docs(request: web.Request) -> web.Response:
    """`GET /docs`: every route and every type, to read in a browser."""
    body = await asyncio.to_thread(_page, request.app[TABLE])
    headers = {"Cache-Control": "no-cache", "Content-Security-Policy": CONTENT_SECURITY_POLICY}
    return web.Response(body=body, content_type="text/html", charset="utf-8", headers=headers)


@cache
def _page(routes: tuple[Route, ...]) -> bytes:
    return "".join(_parts(document(routes))).encode()


def _parts(described: dict[str, Any]) -> Iterator[str]:
    info = described["info"]
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>The API of chatserver</title><style>{_STYLE}</style></head>"
    yield "<body><main><h1>The API of chatserver</h1>"
    yield f"<p>{escape(info['summary'])} Version {escape(info['version'])}. "
    yield 'For programs: <a href="/api/openapi.json"><code>/api/openapi.json</code></a> (OpenAPI 3.1).</p>'
    groups: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            groups.setdefault(operation["tags"][0], []).append((method.upper(), path, operation))
    for name, operations in groups.items():
        yield f"<section><h2>{escape(name.replace('_', ' '))}</h2>"
        for method, path, operation in operations:
            yield from _operation(method, path, operation, described["components"]["responses"])
        yield "</section>"
    yield "<section><h2>types</h2>"
    for name, schema in sorted(described["components"]["schemas"].items()):
        # The id is inside: a browser that follows a link to it opens the fold.
        yield f'<details><summary><code>{escape(name)}</code> {_told(schema)}</summary><div id="{escape(name)}">'
        yield from _fields(schema)
        yield "</div></details>"
    yield "</section></main></body></html>"


def _operation(method: str, path: str, operation: dict[str, Any], refusals: dict[str, dict[str, Any]]) -> Iterator[str]:
    yield f'<details id="{escape(operation["operationId"])}"><summary><span class="method">{method}</span> '
    yield f"<code>{escape(path)}</code> <span class=dim>{escape(operation['summary'])}</span></summary><div>"
    if operation["parameters"]:
        yield "<h3>Parameters</h3><table>"
        for each in operation["parameters"]:
            needed = "" if each["required"] else " <span class=dim>optional</span>"
            yield f"<tr><th><code>{escape(each['name'])}</code>{needed}<td>{escape(each['in'])}"
            yield f"<td>{_type(each['schema'])}<td>{_told(each)}"
        yield "</table>"
    if (body := operation.get("requestBody")) is not None:
        yield f"<h3>Body</h3><p>{_contents(body)}</p>"
    yield "<h3>Answers</h3><table>"
    for status, response in operation["responses"].items():
        shown = _contents(response) if "content" in response else _told(refusals[response["$ref"].rpartition("/")[2]])
        yield f"<tr><th>{escape(status)}<td>{shown}"
    yield "</table></div></details>"


def _contents(described: dict[str, Any]) -> str:
    return ", ".join(
        f"<code>{escape(kind)}</code>: {_type(content['schema'])}" for kind, content in described["content"].items()
    )


def _fields(schema: dict[str, Any]) -> Iterator[str]:
    if "properties" not in schema:
        yield f"<p>{_type(schema)}</p>"
        return
    required = schema.get("required", [])
    yield "<table>"
    for name, field in schema["properties"].items():
        needed = "" if name in required else " <span class=dim>optional</span>"
        yield f"<tr><th><code>{escape(name)}</code>{needed}<td>{_type(field)}<td>{_told(field)}"
    yield "</table>"


def _told(schema: dict[str, Any]) -> str:
    text = " ".join(schema.get("description", "").split()).replace("`", "")
    return f"<span class=dim>{escape(text)}</span>"


def _link(name: str) -> str:
    return f'<a href="#{escape(name)}"><code>{escape(name)}</code></a>'


def _type(schema: dict[str, Any]) -> str:
    """A schema in a few words, with links to the types that it names."""
    if "$ref" in schema:
        return _link(schema["$ref"].rpartition("/")[2])
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " or ".join(map(_type, schema[union]))
    if "const" in schema:
        return f"<code>{escape(repr(schema['const']))}</code>"
    if "enum" in schema:
        return " or ".join(f"<code>{escape(repr(value))}</code>" for value in schema["enum"])
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    limits = [f"{said} {schema[name]}" for name, said in _LIMITS.items() if schema.get(name) not in (None, "")]
    return escape(", ".join((str(kind), *limits)))


_LIMITS = {
    "pattern": "like",
    "minLength": "at least",
    "maxLength": "at most",
    "minimum": "from",
    "maximum": "to",
    "default": "by default",
}
