"""`search_docs`: the documentation as a tool that a model can call (spec G4)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from chatserver.agents.base import ToolSpec
from chatserver.agents.docs_agent import Docs
from chatserver.errors import ToolError

# Passages of one call: more would crowd a small window, and a model can ask again in other words.
MAX_PASSAGES = 8
DEFAULT_PASSAGES = 4

SEARCH_DOCS = ToolSpec(
    server="docs",
    name="search_docs",
    description=(
        "Search the documentation and get the passages that fit best, each with its source. "
        "Ask with the few words that matter; search again in other words when nothing fits."
    ),
    input_schema={
        "type": "object",
        "properties": {
            "query": {"type": "string", "minLength": 1, "description": "Words to look for."},
            "limit": {
                "type": "integer",
                "minimum": 1,
                "maximum": MAX_PASSAGES,
                "default": DEFAULT_PASSAGES,
                "description": "How many passages at most.",
            },
        },
        "required": ["query"],
        "additionalProperties": False,
    },
    read_only=True,
)


def search_docs(docs: Docs) -> Callable[[Mapping[str, Any]], Awaitable[str]]:
    """The tool's function over `docs`.

    It takes the arguments of `SEARCH_DOCS.input_schema`, returns Markdown, and raises ToolError (code
    `bad_arguments`) on any others. Cancelling it is safe.
    """

    async def call(arguments: Mapping[str, Any]) -> str:
        query, limit = _checked(arguments)
        sections = await docs.search(query, limit)
        if not sections:
            topics = ", ".join(await docs.topics(MAX_PASSAGES))
            return "No passage fits." + (f" The documentation is about: {topics}." if topics else "")
        return "\n\n".join(f"# {section.trail}\nSource: {section.address}\n\n{section.text}" for section in sections)

    return call


def _checked(arguments: Mapping[str, Any]) -> tuple[str, int]:
    query, limit = arguments.get("query"), arguments.get("limit", DEFAULT_PASSAGES)
    if not isinstance(query, str) or not query.strip():
        raise ToolError("search_docs needs `query`, a string of words to look for.", code="bad_arguments")
    # bool is an int; a model that sends true means nothing by it.
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= MAX_PASSAGES:
        raise ToolError(f"search_docs: `limit` is a whole number from 1 to {MAX_PASSAGES}.", code="bad_arguments")
    if unknown := arguments.keys() - {"query", "limit"}:
        raise ToolError(f"search_docs knows no argument {min(unknown)!r}.", code="bad_arguments")
    return query, limit
