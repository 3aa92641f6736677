"""Principal: the caller as authenticated. Who may do what is SessionService's to say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PUBLIC_TENANT = "public"

Kind = Literal["user", "visitor", "none"]


@dataclass(frozen=True, slots=True)
class Principal:
    """`user_id` is None for kind `none`: a caller with no identity at all."""

    tenant: str
    kind: Kind
    user_id: str | None
    scopes: frozenset[str] = frozenset()

    @property
    def owner(self) -> str | None:
        """What a session made by this caller is owned by: `kind:id`, or None (unowned)."""
        return None if self.user_id is None else f"{self.kind}:{self.user_id}"

    @property
    def counted_as(self) -> str | None:
        """What limits and streams know this caller by; None for a caller with no identity."""
        return None if self.user_id is None else f"{self.tenant}/{self.owner}"


ANONYMOUS = Principal(PUBLIC_TENANT, "none", None)
