"""NewTurn: an accepted message on its way to a turn, and what of it a queue keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from chatserver.principal import Kind, Principal
from chatserver.store.base import SessionKey

OnBusy = Literal["queue", "reject", "interrupt"]


@dataclass(frozen=True, slots=True)
class NewTurn:
    """An accepted message.

    `expires_at` (seconds since the epoch) is the session's expiry after this activity. `switch` is what tabs are told
    of a model that comes with the message: the session gets it when the message is accepted, not before.
    """

    text: str
    principal: Principal
    client_message_id: str | None
    on_busy: OnBusy
    expires_at: float
    metadata: Mapping[str, Any]
    switch: Mapping[str, Any] | None = None


def principal_options(principal: Principal) -> dict[str, Any]:
    """Whose turn it is, as a queued turn keeps it."""
    return {"kind": principal.kind, "user_id": principal.user_id}


def principal_of(key: SessionKey, options: Mapping[str, Any]) -> Principal:
    """The inverse of `principal_options`; the tenant is the session's."""
    return Principal(key.tenant, cast(Kind, options.get("kind", "none")), options.get("user_id"))
