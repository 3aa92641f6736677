"""NewTurn: an accepted message on its way to a turn, and what of it a queue keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from chatserver.principal import Kind, Principal
from chatserver.store.base import SessionKey, SessionRecord

OnBusy = Literal["queue", "reject", "interrupt"]


@dataclass(frozen=True, slots=True)
class NewTurn:
    """An accepted message.

    `expires_at` (seconds since the epoch) is the session's expiry after this activity. `switch` is what tabs are told
    of a model that comes with the message: the session gets it when the message is accepted, not before. `project_id`
    is the project that the session must be in, or gets where nothing of it is stored yet. `edits` is the user's message
    in whose place this one comes; `regenerates` the answer that is made anew, where `text` counts for nothing.
    """

    text: str
    principal: Principal
    client_message_id: str | None
    on_busy: OnBusy
    expires_at: float
    metadata: Mapping[str, Any]
    switch: Mapping[str, Any] | None = None
    project_id: str | None = None
    edits: str | None = None
    regenerates: str | None = None

    def settings_for(self, record: SessionRecord) -> dict[str, Any]:
        """What the message changes of the session's settings, as tabs are told it; empty where they are so already."""
        told: dict[str, Any] = {}
        if self.switch is not None and self.switch["model"] != record.model:
            told |= self.switch
        if self.project_id not in (None, record.project_id):
            told["project_id"] = self.project_id
        return told

    def options(self) -> dict[str, Any]:
        """What a queued turn keeps beside its message."""
        options = principal_options(self.principal)
        if self.edits is not None:
            options["edits"] = self.edits
        if self.regenerates is not None:
            options["regenerates"] = self.regenerates
        return options


def principal_options(principal: Principal) -> dict[str, Any]:
    """Whose turn it is, as a queued turn keeps it."""
    return {"kind": principal.kind, "user_id": principal.user_id}


def principal_of(key: SessionKey, options: Mapping[str, Any]) -> Principal:
    """The inverse of `principal_options`; the tenant is the session's."""
    return Principal(key.tenant, cast(Kind, options.get("kind", "none")), options.get("user_id"))
