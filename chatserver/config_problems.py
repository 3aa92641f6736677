"""What is wrong with a configuration, in the words of who writes one: which setting, what it must be, where it was set.

It never repeats text that may hold a key: values are quoted only where a number, a switch or one of a few words
belongs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

# By the beginning of pydantic's name for the problem; `{…}` is from the problem's own context.
MUST_BE = {
    "bool": "must be true or false",
    "int": "must be a whole number",
    "float": "must be a number",
    "literal_error": "must be {expected}",
    "greater_than_equal": "must be at least {ge:g}",
    "greater_than": "must be more than {gt:g}",
    "less_than_equal": "must be at most {le:g}",
    "less_than": "must be less than {lt:g}",
    "finite_number": "must be a finite number",
}
_MUST_BE_UNQUOTED = {
    "missing": "is required",
    "string_type": "must be text in quotes",
    "string_too_short": "must not be empty",
    "path_type": "must be the path of a file or folder, in quotes",
    "dict_type": "must be a table of names and values",
    "model_type": "must be a table of settings",
}
_SHOWN_CHARS = 60
# How alike a name must be to be taken for a slip. A name in the file is wrong anyway, and api_key for api_key_env is
# 0.78; a variable may be another program's, and what it shares with all others, the prefix, counts as well.
_ALIKE_IN_FILE = 0.7
_ALIKE_VARIABLE = 0.9


def told(error: ValidationError, known: Mapping[str, Iterable[str]], source: Callable[[str], str | None]) -> str:
    """One line a problem.

    Args:
        error: what pydantic found.
        known: the names that there are, by the setting that holds them; those at the top under "".
        source: tells where a setting of the top, or "" for all of them, was set; None: nowhere in particular.
    """
    lines = []
    for problem in error.errors(include_url=False):
        where = source(str(problem["loc"][0]) if problem["loc"] else "")
        lines.append(f"{_place(problem['loc'])}{_words(problem, known)}{f' ({where})' if where else ''}")
    return "\n".join(lines)


def mistaken_variables(names: Iterable[str], prefix: str, known: Iterable[str]) -> dict[str, str]:
    """Variables of the environment that look like a setting's and are none, each with the one that may be meant.

    Others of that prefix are somebody else's: Kubernetes sets `CHATSERVER_SERVICE_HOST` for a service of that name.
    """
    settings = [f"{prefix}{name}".upper() for name in known]
    found = {}
    for name in names:
        if not name.upper().startswith(prefix) or name.upper() in settings or "__" in name:
            continue
        meant = get_close_matches(name.upper(), settings, n=1, cutoff=_ALIKE_VARIABLE)
        if meant:
            found[name] = meant[0]
    return found


def _place(loc: tuple[int | str, ...]) -> str:
    """`models entry 2, base_url: `: people count from one, and TOML has no numbers for entries."""
    match loc:
        case ():
            return ""
        case (str(table), int(at), *rest):
            return f"{table} entry {at + 1}{''.join(f', {part}' for part in rest)}: "
        case _:
            return f"{'.'.join(str(part) for part in loc)}: "


def _words(problem: ErrorDetails, known: Mapping[str, Iterable[str]]) -> str:
    kind, context, loc = problem["type"], problem.get("ctx", {}), problem["loc"]
    if kind == "extra_forbidden":
        table, name = str(loc[0]) if len(loc) > 1 else "", str(loc[-1])
        if table and name in known[""]:  # in TOML, what stands after a table's head belongs to that table
            return "there is no such setting here; it stands above the first line in brackets"
        meant = get_close_matches(name, known.get(table, ()), n=1, cutoff=_ALIKE_IN_FILE)
        return "there is no such setting" + (f"; did you mean {meant[0]!r}?" if meant else "")
    if kind == "value_error":  # a rule of our own, in its own words
        return str(context["error"])
    if kind == "tuple_type":
        if str(loc[-1]) in known:
            return f"entries are written under [[{loc[-1]}]], with two brackets"
        return 'must be a list, such as ["one", "two"]'
    if words := _MUST_BE_UNQUOTED.get(kind):
        return words
    for beginning, words in MUST_BE.items():
        if kind.startswith(beginning):
            return words.format_map(context) + _shown(problem["input"])
    return problem["msg"]


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, str):
        value = repr(value[:_SHOWN_CHARS])
    elif not isinstance(value, int | float):
        return ""
    return f", not {value}"
