"""JSON from outside, made safe for the inside.

Invariants: what leaves here holds no lone surrogate and no NaN or infinity, so orjson, the store and every client
can encode it; nesting is bounded. orjson refuses such input both ways, which is right for our own data and wrong for
a model's: one bad character in an answer must not end the turn.

Fast where the input is good (orjson alone), lenient where it is not.
"""

from __future__ import annotations

import json
import math
from typing import Any

import orjson

# orjson itself stops at 1024 levels when reading and at 254 when writing; what comes in must be able to go out again.
MAX_DEPTH = 200
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def clean_text(text: str) -> str:
    """`text` without lone surrogates: pairs are put together, the rest becomes U+FFFD."""
    if text.isascii():  # nearly all pieces of an answer, in a tenth of the time
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def clean(value: Any, _depth: int = 0) -> Any:
    """A copy of a JSON value without lone surrogates, with null for NaN and the infinities.

    Raises:
        ValueError: nested deeper than `MAX_DEPTH`, or not a JSON value.
    """
    if _depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    match value:
        case str():
            return clean_text(value)
        case bool() | None:
            return value
        case int():
            # orjson writes 64 bits; a float keeps the magnitude of what does not fit.
            return value if -(2**63) <= value < 2**64 else _finite(value)
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {clean_text(str(k)): clean(v, _depth + 1) for k, v in value.items()}
        case list() | tuple():
            return [clean(v, _depth + 1) for v in value]
    raise ValueError(f"{type(value).__name__} is not JSON")


def _finite(value: int) -> float | None:
    try:
        return float(value)
    except OverflowError:
        return None


def shallow(value: Any, source: bytes) -> Any:
    """The value, which orjson read from `source`, where it can be written again, also as a part of something else.

    Raises:
        ValueError: nested deeper than `MAX_DEPTH`.
    """
    if source.count(b"[") + source.count(b"{") <= MAX_DEPTH:
        return value
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level = [each for several in inner for each in several if isinstance(each, dict | list)]
        if not level:
            return value
    raise ValueError(f"nested deeper than {MAX_DEPTH} levels")


def loads(data: bytes | str) -> Any:
    """Read JSON as a model's endpoint writes it: invalid UTF-8, lone surrogates and NaN are mended, not refused.

    Raises:
        ValueError: not JSON, or nested too deep.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    try:
        return clean(json.loads(text))
    except RecursionError:
        raise ValueError("nested too deep") from None


def dumps(value: Any) -> bytes:
    """Write JSON, mending what orjson refuses.

    Raises:
        ValueError: not a JSON value, or nested too deep.
    """
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        return orjson.dumps(clean(value))
