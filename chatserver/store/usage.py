"""What the store does with tokens used, as functions of a transaction like those of operations.py."""

from __future__ import annotations

import orjson

from chatserver.message import Usage
from chatserver.store.records import SessionKey
from chatserver.store.rows import key_params
from chatserver.store.transaction import Transaction
from chatserver.store.usage_records import QuotaUse, UsageRow
from chatserver.usage import day_of


def owner_column(owner: str | None) -> str:
    """An owner as it stands in `usage_days`: what is nobody's is counted together."""
    return owner or ""


def add_usage(tx: Transaction, *, key: SessionKey, model: str | None, usage: Usage, now: float, turns: int = 1) -> None:
    """Count what a turn of a session has used; or, where `turns` is 0, what was used beside its turns."""
    tx.run(
        tx.sql.add_usage,
        {
            "tenant": key[0],
            "session_id": key[1],
            "day": day_of(now),
            "model": model or "",
            "turns": turns,
            "estimated_turns": int(usage.estimated),
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "reasoning_tokens": usage.reasoning_tokens,
            "cached_tokens": usage.cached_tokens,
        },
    )


def read_usage(
    tx: Transaction, *, tenant: str, owner: str | None, project_id: str | None, first_day: int, last_day: int
) -> tuple[UsageRow, ...]:
    params = {
        "tenant": tenant,
        "owner": owner_column(owner),
        "project_id": project_id,
        "first_day": first_day,
        "day": last_day,
    }
    statement = tx.sql.usage if project_id is None else tx.sql.project_usage
    return tuple(UsageRow(*row) for row in tx.all(statement, params))


def read_session_usage(tx: Transaction, *, key: SessionKey) -> tuple[tuple[str, Usage], ...]:
    rows = tx.all(tx.sql.session_usages, key_params(key))
    return tuple((model or "", Usage(**orjson.loads(usage))) for model, usage in rows)


def read_quota_use(tx: Transaction, *, tenant: str, owner: str | None, first_day: int, day: int) -> QuotaUse:
    params = {"tenant": tenant, "owner": owner_column(owner), "first_day": first_day, "day": day}
    rows = {row[0]: row[1:] for row in tx.all(tx.sql.quota_use, params)}
    return QuotaUse(*rows.get(owner_column(owner), (0, 0)), *rows.get("*", (0, 0)))


def forget_usage(tx: Transaction, *, before_day: int, limit: int) -> int:
    return tx.run(tx.sql.forget_usage, {"before": before_day, "limit": limit})
