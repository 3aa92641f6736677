"""The limit on what a tool says, whoever runs the tool."""

from __future__ import annotations


def cut(text: str, limit: int) -> str:
    """`text` with at most `limit` characters; where some are missing, its end says so."""
    if len(text) <= limit:
        return text
    note = f"\n[cut: this is the beginning of {len(text)} characters]"
    return (text[: max(0, limit - len(note))] + note)[:limit]
