"""What is wrong with a field of a request, in the words of who sends it: nobody has to know what checks them here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pydantic import BaseModel

from chatserver.config_problems import MUST_BE

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

# By pydantic's name for the problem; `{…}` is from the problem's own context.
_IN_A_REQUEST = {
    "missing": "is required",
    "string_type": "must be a string",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "list_type": "must be a list",
    "too_long": "must have at most {max_length} entries",
    "dict_type": "must be a JSON object",
}
# Patterns of ids: some characters, this many of them.
_ID = re.compile(r"\^\[([^\]\\]+)\]\{(\d+),(\d+)\}\$")


def words(problem: ErrorDetails, model: type[BaseModel]) -> str:
    """A sentence without its subject, which is the field. `model` is what the request should have been."""
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden" and len(problem["loc"]) == 1:
        known = ", ".join(model.model_fields)
        return f"there is no such field; {f'known: {known}' if known else 'none is taken here'}"
    if kind == "string_too_short" and context["min_length"] == 1:
        return "must not be empty"
    if kind == "string_pattern_mismatch" and (found := _ID.fullmatch(context["pattern"])):
        return f"must be {found[2]} to {found[3]} of {' '.join(re.findall(r'.-.|.', found[1]))}"
    if said := _IN_A_REQUEST.get(kind):
        return said.format_map(context)
    for beginning, said in MUST_BE.items():
        if kind.startswith(beginning):
            return said.format_map(context)
    return problem["msg"]
