"""Quotas: how many tokens an owner and a tenant may use in a day and in a month, and what they have used.

Invariants: a quota is looked at before a turn starts, never during one: a turn that runs is finished, so what runs at
that moment may go over it. Days and months are UTC's. What is nobody's is counted together, against one visitor's
quota: otherwise whoever sends no cookie would have none. Without any quota nothing is read.

What turns use is counted by the store, in the transaction that ends them. docs/limits.md tells the rules.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal

from chatserver.agents.base import AgentEvent, AgentTurn, ModelSettings
from chatserver.clock import Clock, rfc3339
from chatserver.config import Settings
from chatserver.errors import AgentError, ChatServerError, QuotaExceeded
from chatserver.store.base import QuotaUse, SessionKey, Store, UsageRow
from chatserver.usage import DAY_SECONDS, day_of, end_of_day, end_of_month, month_of

Period = Literal["day", "month"]

# Old days are looked for this often, so many rows in one transaction: it holds up everybody else's writes for as long.
FORGET_SECONDS = 3600.0
FORGET_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Quota:
    """One limit and what is used of it; `resets_at` is seconds since the epoch."""

    of: Literal["user", "visitor", "tenant"]
    period: Period
    limit_tokens: int
    used_tokens: int
    resets_at: float

    @property
    def left_tokens(self) -> int:
        return max(self.limit_tokens - self.used_tokens, 0)


class Quotas:
    """See the module."""

    def __init__(self, settings: Settings, clock: Clock, store: Store) -> None:
        self._clock = clock
        self._store = store
        self._kept_days = settings.usage_kept_days
        self._limits: dict[str, dict[Period, int | None]] = {
            "user": {"day": settings.quota_user_day_tokens, "month": settings.quota_user_month_tokens},
            "visitor": {"day": settings.quota_visitor_day_tokens, "month": settings.quota_visitor_month_tokens},
            "tenant": {"day": settings.quota_tenant_day_tokens, "month": settings.quota_tenant_month_tokens},
        }
        self._any = any(limit is not None for limits in self._limits.values() for limit in limits.values())

    async def quotas(self, tenant: str, owner: str | None) -> list[Quota]:
        """Those that hold for an owner, with what is used of them. Raises what the store raises."""
        if not self._any:
            return []
        now = self._clock.now()
        used = await self._store.quota_use(tenant, owner, month_of(now), day_of(now))
        return list(self._of(owner, used, now))

    def _of(self, owner: str | None, used: QuotaUse, now: float) -> Iterable[Quota]:
        kind: Literal["user", "visitor"] = "user" if owner is not None and owner.startswith("user:") else "visitor"
        for of, day, month in (
            (kind, used.owner_day, used.owner_month),
            ("tenant", used.tenant_day, used.tenant_month),
        ):
            limits = self._limits[of]
            if limits["day"] is not None:
                yield Quota(of, "day", limits["day"], day, end_of_day(now))  # type: ignore[arg-type]
            if limits["month"] is not None:
                yield Quota(of, "month", limits["month"], month, end_of_month(now))  # type: ignore[arg-type]

    async def exceeded(self, tenant: str, owner: str | None) -> QuotaExceeded | None:
        """Why this owner may start no turn now; None where it may. Raises what the store raises."""
        return self.refusal(await self.quotas(tenant, owner))

    def refusal(self, quotas: Iterable[Quota]) -> QuotaExceeded | None:
        """The quota among these that is used up, the one that holds longest; None where there is none."""
        spent = max((q for q in quotas if not q.left_tokens), key=lambda q: q.resets_at, default=None)
        if spent is None:
            return None
        whose = "of all together" if spent.of == "tenant" else "of yours"
        resets_at = rfc3339(spent.resets_at)
        return QuotaExceeded(
            f"the {spent.period}'s quota {whose} is used up until {resets_at}",
            limit=spent.limit_tokens,
            resets_at=resets_at,
            retry_after_seconds=max(1, math.ceil(spent.resets_at - self._clock.now())),
        )

    async def report(self, tenant: str, owner: str | None, period: Period, *, operator: bool) -> dict[str, Any]:
        """An owner's own use of a period in JSON-ready fields, and its quotas.

        Args:
            operator: whether the tenant's numbers are shown too: they are the sum of other people's.
        """
        now = self._clock.now()
        today, first = day_of(now), month_of(now) if period == "month" else day_of(now)
        # What is nobody's is not the caller's own.
        rows = await self._store.usage(tenant, owner, first, today) if owner is not None else ()
        quotas = await self.quotas(tenant, owner)
        refusal = self.refusal(quotas)
        shown = [q for q in quotas if operator or (q.of != "tenant" and owner is not None)]
        return {
            "period": period,
            "since": rfc3339(first * DAY_SECONDS),
            "until": rfc3339(end_of_month(now) if period == "month" else end_of_day(now)),
            "total": summed(rows),
            "by_model": _grouped(rows, "model"),
            "by_project": _grouped(rows, "project_id"),
            "quotas": [asdict(q) | {"left_tokens": q.left_tokens, "resets_at": rfc3339(q.resets_at)} for q in shown],
            "exhausted_until": refusal.resets_at if refusal is not None else None,
        }

    async def session_total(self, key: SessionKey) -> dict[str, Any]:
        """What the messages of a session have used, over all its branches, in JSON-ready fields."""
        rows = [
            UsageRow(
                "",
                model,
                1,
                int(u.estimated),
                u.prompt_tokens,
                u.completion_tokens,
                u.reasoning_tokens,
                u.cached_tokens,
            )
            for model, u in await self._store.session_usage(key)
        ]
        return {"total": summed(rows), "by_model": _grouped(rows, "model")}

    async def run(self) -> None:
        """Forget old days for ever; owned by the application. Cancelling is safe."""
        while True:
            try:
                before = day_of(self._clock.now()) - self._kept_days
                while await self._store.forget_usage(before, FORGET_ROWS) == FORGET_ROWS:
                    pass
            except ChatServerError:
                pass  # the store is away; an hour later will do
            await self._clock.sleep(FORGET_SECONDS)


def summed(rows: Iterable[UsageRow]) -> dict[str, Any]:
    """Rows together, in JSON-ready fields."""
    names = ("turns", "prompt_tokens", "completion_tokens", "reasoning_tokens", "cached_tokens")
    listed = list(rows)
    sums = {name: sum(getattr(row, name) for row in listed) for name in names}
    return sums | {
        "total_tokens": sums["prompt_tokens"] + sums["completion_tokens"],
        "estimated": any(row.estimated_turns for row in listed),
    }


def _grouped(rows: Iterable[UsageRow], by: Literal["model", "project_id"]) -> list[dict[str, Any]]:
    groups: dict[str, list[UsageRow]] = {}
    for row in rows:
        groups.setdefault(getattr(row, by), []).append(row)
    whole = [{by: name} | summed(group) for name, group in groups.items()]
    return sorted(whole, key=lambda group: -int(group["total_tokens"]))


class Refused:
    """A model in whose place nobody answers: a queued turn that may not start any more ends as failed, visibly."""

    def __init__(self, settings: ModelSettings, reason: QuotaExceeded) -> None:
        self.settings = settings
        self.agent = self
        self._reason = reason

    def slot(self, tenant: str) -> AbstractAsyncContextManager[Refused]:
        """It needs no place."""
        return nullcontext(self)

    def run(self, turn: AgentTurn) -> AsyncIterator[AgentEvent]:
        return self

    def __aiter__(self) -> AsyncIterator[AgentEvent]:
        return self

    async def __anext__(self) -> AgentEvent:
        reason = self._reason
        raise AgentError(reason.detail[:1].upper() + reason.detail[1:] + ".", code=reason.narrow_code)

    async def close(self) -> None:
        """Nothing to close."""
