"""The embedded agent's commands: `/tools` and `/tool server.name {…}`, as text.

Tools run through the turn, which tells the tabs, asks for approval and caps output; here a line of text becomes a
call, and its result text again. Whatever is wrong with the line is answered with how to write it, never raised.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import orjson

from chatserver.agents.base import Tools, ToolSpec

HELP = """\
- Ask a question in your own words; I answer with the passages that fit it best. `more` shows the next ones.
- `/tools` lists the tools of the configured servers.
- `/tool server.name {"argument": "value"}` calls one, for example `/tool time.get_current_time {"timezone": "UTC"}`.
- `/help` shows this."""

# In a list, a tool gets a line; what a server writes beyond it is for models.
_DESCRIPTION_CHARS = 160
# Listed tools. Servers with more exist; the list stays readable and bounded.
_LISTED = 200

_CALL = re.compile(r"([^\s{]+)\s*(.*)", re.DOTALL)


async def list_tools(tools: Tools) -> str:
    """Every tool by server, a line each, with the arguments it needs."""
    specs = await tools.list()
    if not specs:
        return "No tools are available. Tool servers are configured as `[[mcp_servers]]`; one that is down is left out."
    lines = []
    for server, of_server in groupby(sorted(specs, key=lambda s: (s.server, s.name))[:_LISTED], lambda s: s.server):
        lines.append(f"**{server}**\n")
        lines += [_line(spec) for spec in of_server]
        lines.append("")
    if len(specs) > _LISTED:
        lines.append(f"… and {len(specs) - _LISTED} more.\n")
    return "\n".join(lines) + "\nCall one with `/tool server.name {…}`."


def _line(spec: ToolSpec) -> str:
    required = spec.input_schema.get("required")
    needs = f" (needs {', '.join(map(_code, required))})" if isinstance(required, list | tuple) and required else ""
    about = " ".join(spec.description.split())
    if len(about) > _DESCRIPTION_CHARS:
        about = about[: _DESCRIPTION_CHARS - 1] + "…"
    return f"- {_code(f'{spec.server}.{spec.name}')}{needs}{': ' if about else ''}{about}"


async def call_tool(tools: Tools, line: str) -> str:
    """Call what `line` says (`server.name {…}`) and show the result.

    Raises:
        AgentError: the turn is over its limits.
    """
    found = _CALL.fullmatch(line)
    if found is None:
        return f'Write `/tool server.name {{"argument": "value"}}`.\n\n{await list_tools(tools)}'
    try:
        arguments = orjson.loads(found[2] or "{}")
    except orjson.JSONDecodeError as error:
        return f"The arguments are not JSON: {error.msg} (character {error.pos + 1} of them)."
    if not isinstance(arguments, dict):
        return 'The arguments must be a JSON object, such as `{"timezone": "UTC"}`.'
    server, dot, name = found[1].partition(".")
    if not dot:
        owners = [spec.server for spec in await tools.list() if spec.name == server]
        if len(owners) != 1:
            return _whose(server, owners)
        server, name = owners[0], server
    return await _called(tools, server, name, arguments)


def _whose(name: str, owners: Sequence[str]) -> str:
    if not owners:
        return f"There is no tool {_code(name)}. `/tools` lists what there is; name one as `server.name`."
    return f"More than one server has it: {', '.join(_code(f'{owner}.{name}') for owner in owners)}."


async def _called(tools: Tools, server: str, name: str, arguments: Mapping[str, Any]) -> str:
    result = await tools.call(server, name, arguments)
    if not result.content.strip():
        return f"{_code(f'{server}.{name}')} {'failed without a word' if result.is_error else 'answered nothing'}."
    said = "failed" if result.is_error else "answered"
    return f"{_code(f'{server}.{name}')} {said}:\n\n{_fenced(result.content)}"


def _fenced(text: str) -> str:
    """`text` as a code block that nothing inside it can end: a tool's output is not to become the page's Markdown."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    language = "json" if text.lstrip().startswith(("{", "[")) else ""
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _code(text: str) -> str:
    return f"`{str(text).replace('`', chr(39))}`"
