"""Tokens used, as the store gives them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What turns and titles have used together. Titles are no turns; how many of both are estimated, at least in part,
    is `estimated_turns`."""

    project_id: str
    model: str
    turns: int = 0
    estimated_turns: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class QuotaUse:
    """Tokens that count against quotas, those of prompts and answers together."""

    owner_day: int = 0
    owner_month: int = 0
    tenant_day: int = 0
    tenant_month: int = 0
