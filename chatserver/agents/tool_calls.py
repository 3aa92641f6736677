"""Tools as a chat-completions endpoint knows them: one flat list of plain names.

Invariants: a name offered matches `^[a-zA-Z0-9_-]{1,64}$` and stands for exactly one tool; the same tool gets the same
name in every turn, whatever else is offered beside it short of a clash (endpoints cache prompts by their prefix). What
a model asks for wrongly becomes text that it can read, never an exception.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from chatserver.agents import json_border
from chatserver.agents.base import ToolSpec
from chatserver.agents.chunks import CallParts

# OpenAI's limit on function names, which the compatible endpoints took over.
MAX_NAME = 64
_NOT_PLAIN = re.compile(r"[^a-zA-Z0-9_-]", re.ASCII)
# An id comes back to the endpoint as it was, so an odd one does no harm, but it is hostile input of any length.
_PLAIN_ID = re.compile(r"[\x21-\x7e]{1,128}", re.ASCII)


def offered_name(server: str, name: str, *, distinct: bool = False) -> str:
    """`server__name` as an endpoint takes it.

    Args:
        distinct: add a hash of the true names, for two tools whose plain names are the same.
    """
    full = f"{server}__{name}"
    plain = _NOT_PLAIN.sub("_", full)
    if len(plain) <= MAX_NAME and not distinct:
        return plain
    digest = hashlib.sha256(full.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{plain[: MAX_NAME - 9]}_{digest}"


class Offer:
    """The tools of a turn under the names that the model sees.

    `wire` is the request's `tools`; empty where there are none.
    """

    def __init__(self, specs: Iterable[ToolSpec]) -> None:
        self._specs: dict[str, ToolSpec] = {}
        self._names: dict[tuple[str, str], str] = {}
        for spec in specs:
            key = (spec.server, spec.name)
            if key in self._names:
                continue
            name = offered_name(*key)
            if name in self._specs:
                name = offered_name(*key, distinct=True)
            self._specs[name] = spec
            self._names[key] = name
        self.wire: list[dict[str, Any]] = [
            {
                "type": "function",
                "function": {
                    "name": name,
                    "description": spec.description,
                    # Endpoints refuse a function without an object schema.
                    "parameters": {"type": "object", "properties": {}, **spec.input_schema},
                },
            }
            for name, spec in self._specs.items()
        ]

    def __bool__(self) -> bool:
        return bool(self._specs)

    def name_of(self, server: str, name: str) -> str:
        """What the model knows the tool by; also of a tool that is not offered any more."""
        return self._names.get((server, name)) or offered_name(server, name)

    def tool(self, offered: str) -> tuple[str, str]:
        """Server and name behind an offered name; of one never offered, what it looks like."""
        if spec := self._specs.get(offered):
            return spec.server, spec.name
        server, divided, name = offered.partition("__")
        return (server, name) if divided else ("", offered)


@dataclass(frozen=True, slots=True)
class AskedCall:
    """A call as the model asked for it; `arguments` is None where they are no JSON object."""

    id: str
    name: str
    arguments: dict[str, Any] | None

    def wire(self) -> dict[str, Any]:
        """As an entry of an assistant message's `tool_calls`.

        Broken arguments go back as `{}`: chat templates parse them, and would fail on what the model wrote.
        """
        text = json_border.dumps(self.arguments or {}).decode()
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": text}}


def asked(parts: Iterable[CallParts], taken: set[str]) -> list[AskedCall]:
    """The calls of a completion, each with an id of its own.

    Args:
        taken: ids used in this turn; those given here are added. Endpoints exist that give none, or the same to all.
    """
    out = []
    for part in parts:
        call_id = part.id
        if call_id in taken or not _PLAIN_ID.fullmatch(call_id):
            number = len(taken)
            while (call_id := f"c{number:08d}") in taken:  # nine letters and digits: Mistral takes nothing else
                number += 1
        taken.add(call_id)
        out.append(AskedCall(call_id, part.name, _arguments(part.joined_arguments())))
    return out


def _arguments(text: str) -> dict[str, Any] | None:
    if not text.strip():
        return {}
    try:
        value = json_border.loads(text)
        # Deeper than can be written is as bad as unreadable.
        json_border.shallow(value, text.encode("utf-8", "replace"))
    except ValueError:
        return None
    if value is None:
        return {}
    return value if type(value) is dict else None
