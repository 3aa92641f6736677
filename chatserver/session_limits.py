"""How often callers may do what makes work: one limiter a kind, counted by principal or address (spec V1, V4).

SessionService asks here before it does the work; every refusal names its code and when to come back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from chatserver.clock import Clock
from chatserver.config import Settings
from chatserver.errors import ChatServerError
from chatserver.principal import Principal
from chatserver.rate_limit import Hits, RateLimiter, hit_all


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and from where (as `counted_address` has it; limits of callers without identity count by it).

    `self_made` is a user of a tenant in which people make their accounts themselves.
    """

    principal: Principal
    address: str
    self_made: bool = False

    @property
    def counted_as(self) -> str:
        """What per-caller limits count by."""
        return self.principal.counted_as or f"{self.principal.tenant}@{self.address}"

    @property
    def counted_too(self) -> str | None:
        """The address of a visitor: whoever opens the page without its cookie is a new one, so limits that count
        visitors alone would be none. Accounts that people make themselves add up as well, only more slowly; they count
        together and not with the visitors, so that those cannot shut out who logs in. None for others: the operator
        makes users with care, and who has no identity counts so already."""
        if self.principal.kind == "visitor":
            return self.address
        return f"users@{self.address}" if self.self_made else None


class SessionLimits:
    """See the module. Every method raises RateLimited, and counts nothing then, at none of its limits."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        minute, now = 60.0, clock.monotonic
        self._creations = RateLimiter(
            "sessions created", settings.session_creations_per_minute, minute, now, code="session_creation_limited"
        )
        self._address_creations = RateLimiter(
            "sessions created from this address",
            settings.session_creations_per_address_per_minute,
            minute,
            now,
            code="session_creation_limited",
        )
        self._all_creations = RateLimiter(
            "sessions created by everybody",
            settings.session_creations_global_per_minute,
            minute,
            now,
            code="session_creation_limited",
        )
        self._messages = RateLimiter(
            "messages sent", settings.messages_per_minute, minute, now, code="messages_limited"
        )
        self._address_messages = RateLimiter(
            "messages sent from this address",
            settings.messages_per_address_per_minute,
            minute,
            now,
            code="messages_limited",
        )
        self._switches = RateLimiter(
            "models switched", settings.model_switches_per_minute, minute, now, code="model_switches_limited"
        )
        self._address_switches = RateLimiter(
            "models switched from this address",
            settings.model_switches_per_address_per_minute,
            minute,
            now,
            code="model_switches_limited",
        )

    def creation(self, caller: Caller) -> None:
        """V1: a session is about to be made (`session_creation_limited`)."""
        hit_all(self._creation(caller))

    @contextmanager
    def creating(self, caller: Caller) -> Iterator[None]:
        """The same around what makes it: where that is refused, nothing is counted."""
        hits = self._creation(caller)
        hit_all(hits)
        try:
            yield
        except ChatServerError:
            for limiter, key in hits:
                limiter.take_back(key)
            raise

    def message(self, caller: Caller, *, switches: bool = False) -> None:
        """A message is about to be written, with a turn or without (`messages_limited`).

        Args:
            switches: it sets the session's model too (`model_switches_limited`).
        """
        hits = _hits(caller, self._messages, self._address_messages)
        if switches:
            hits += _hits(caller, self._switches, self._address_switches)
        hit_all(hits)

    def model_switch(self, caller: Caller) -> None:
        """V4: a session's model is about to be set (`model_switches_limited`)."""
        hit_all(_hits(caller, self._switches, self._address_switches))

    def _creation(self, caller: Caller) -> Hits:
        return [*_hits(caller, self._creations, self._address_creations), (self._all_creations, "all")]


def _hits(caller: Caller, each: RateLimiter, of_address: RateLimiter) -> Hits:
    hits = [(each, caller.counted_as)]
    if (address := caller.counted_too) is not None:
        hits.append((of_address, address))
    return hits
