"""Hostile text made safe for a terminal: what a model or a tool wrote must not move the cursor or rename the window."""

from __future__ import annotations

# Everything that terminals act on: C0 and C1 controls and DEL, except line feed and tab; and the marks that reorder
# text, by which what is approved could look like something else.
_ACTED_ON = {
    *range(0x20),
    *range(0x7F, 0xA0),
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
} - {0x0A, 0x09}
_TABLE = dict.fromkeys(_ACTED_ON)


def plain(text: object) -> str:
    """`text` without control characters; lone surrogates, which no terminal can be sent, become `?`."""
    return str(text).translate(_TABLE).encode("utf-8", "replace").decode()
