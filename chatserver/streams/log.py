"""EventLog: a session's recent events, for clients that come back.

Contract, held by tests/conformance/test_event_log.py on every implementation:

- Ordered: frames come back in the order of their positions, which only grow, and by one within a fence.
- Gapless within what is kept: `after(p)` is either every frame behind `p` or None, never some of them.
- Same id, same bytes: a frame is stored as it went out.
- Bounded by events and bytes: the oldest go first.
- A position that was never handed out, or is no longer held, is an unfillable gap (None); the subscriber is told by
  a `snapshot`.
"""

from __future__ import annotations

from typing import Protocol

from chatserver.events import Frame, Position


class EventLog(Protocol):
    """See the module's contract."""

    @property
    def held_bytes(self) -> int:
        """Bytes of memory the log holds, its bookkeeping included."""

    def append(self, frame: Frame) -> None:
        """Add the newest frame."""

    def after(self, position: Position) -> list[bytes] | None:
        """The bytes of every frame behind `position`, oldest first; None where that can't be told."""

    def restart(self, top: Position) -> None:
        """Forget everything: what follows does so on `top`, which is newer than every frame so far and the only
        position that is resumable."""

    def clear(self) -> None:
        """Forget the frames; the newest position stays resumable."""
