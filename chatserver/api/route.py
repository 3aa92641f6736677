"""Route: a line of the URL table (routes.py), and what the API's description tells of it."""

from __future__ import annotations

from typing import Any, NamedTuple

from aiohttp.typedefs import Handler
from pydantic import BaseModel

JSON = "application/json"
EVENT_STREAM = "text/event-stream"
HTML = "text/html"
PLAIN = "text/plain"
MARKDOWN = "text/markdown"
ANY_FILE = "*/*"

# Statuses, each with the code of a problem.
Refusals = frozenset[tuple[int, str]]


class Route(NamedTuple):
    """Method, path and handler are what is served; the rest describes it. The summary is the handler's docstring.

    Args:
        method, path, handler: `path` as aiohttp's router has it.
        body, query: the models that the handler reads them with.
        answer: the type of a success: a TypedDict of answer_schemas.py, or a union of them.
        statuses: of a success.
        content: media type of a success; `answer` of an event stream is the type of its events' data.
        also: further media types of a success, which are text.
        refuses: what it may be refused with besides what follows from the other fields (refusals.py).
        open: answers whoever asks, also where `auth = "required"` or a token is not good; all routes of a path agree.
    """

    method: str
    path: str
    handler: Handler
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    answer: Any = None
    statuses: tuple[int, ...] = (200,)
    content: str = JSON
    also: tuple[str, ...] = ()
    refuses: Refusals = frozenset()
    open: bool = False
