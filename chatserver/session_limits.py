"""How often callers may do what makes work: one limiter a kind, counted by principal or address (spec V1, V4).

SessionService asks here before it does the work; every refusal names its code and when to come back.
"""

from __future__ import annotations

from dataclasses import dataclass

from chatserver.clock import Clock
from chatserver.config import Settings
from chatserver.principal import Principal
from chatserver.rate_limit import RateLimiter


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and from where (an IP address; limits of callers without identity count by it)."""

    principal: Principal
    address: str

    @property
    def counted_as(self) -> str:
        """What per-caller limits count by."""
        return self.principal.counted_as or f"{self.principal.tenant}@{self.address}"

    @property
    def counted_too(self) -> str | None:
        """The address of a visitor: whoever opens the page without its cookie is a new one, so limits that count
        visitors alone would be none. None for others: users are made slowly, and who has no identity counts so
        already."""
        return self.address if self.principal.kind == "visitor" else None


class SessionLimits:
    """See the module. Every method raises RateLimited, and counts nothing then."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        minute, now = 60.0, clock.monotonic
        self._creations = RateLimiter(
            "sessions created", settings.session_creations_per_minute, minute, now, code="session_creation_limited"
        )
        self._address_creations = RateLimiter(
            "sessions created by visitors of this address",
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
            "messages sent by visitors of this address",
            settings.messages_per_address_per_minute,
            minute,
            now,
            code="messages_limited",
        )
        self._switches = RateLimiter(
            "models switched", settings.model_switches_per_minute, minute, now, code="model_switches_limited"
        )
        self._address_switches = RateLimiter(
            "models switched by visitors of this address",
            settings.model_switches_per_address_per_minute,
            minute,
            now,
            code="model_switches_limited",
        )

    def creation(self, caller: Caller) -> None:
        """V1: a session is about to be made (`session_creation_limited`)."""
        _hit(caller, self._creations, self._address_creations)
        self._all_creations.hit("all")

    def message(self, caller: Caller) -> None:
        """A message is about to be written, with a turn or without (`messages_limited`)."""
        _hit(caller, self._messages, self._address_messages)

    def model_switch(self, caller: Caller) -> None:
        """V4: a session's model is about to be set (`model_switches_limited`)."""
        _hit(caller, self._switches, self._address_switches)


def _hit(caller: Caller, each: RateLimiter, of_address: RateLimiter) -> None:
    each.hit(caller.counted_as)
    if (address := caller.counted_too) is not None:
        of_address.hit(address)
