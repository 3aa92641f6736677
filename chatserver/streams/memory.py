"""MemoryLog: the event log of one process. Made empty it costs nothing: most live sessions are idle."""

from __future__ import annotations

from collections import deque

from chatserver.events import Frame, Position

# A frame's own cost beside its bytes: tuple, position, two ints, bytes header, deque slot (CPython 3.11, 64 bit).
FRAME_OVERHEAD_BYTES = 240


class MemoryLog:
    """Implements EventLog.

    Args:
        top: the position the log starts after; resuming there misses nothing.
        max_events, max_bytes: bounds; the newest frame always stays.
    """

    __slots__ = ("_base", "_frames", "_max_bytes", "_max_events", "held_bytes")

    def __init__(self, top: Position, *, max_events: int, max_bytes: int) -> None:
        self._base = top
        self._frames: deque[Frame] | None = None
        self._max_events = max_events
        self._max_bytes = max_bytes
        self.held_bytes = 0

    def append(self, frame: Frame) -> None:
        frames = self._frames
        if frames is None:
            frames = self._frames = deque()
        frames.append(frame)
        self.held_bytes += len(frame.data) + FRAME_OVERHEAD_BYTES
        while len(frames) > 1 and (self.held_bytes > self._max_bytes or len(frames) > self._max_events):
            dropped = frames.popleft()
            self._base = dropped.position
            self.held_bytes -= len(dropped.data) + FRAME_OVERHEAD_BYTES

    def after(self, position: Position) -> list[Frame] | None:
        frames = self._frames
        if not frames:
            return [] if position == self._base else None
        if position == self._base:
            return list(frames)
        missed: list[Frame] = []
        for frame in reversed(frames):  # a resuming client is nearly always close behind
            if frame.position <= position:
                if frame.position != position:
                    return None
                missed.reverse()
                return missed
            missed.append(frame)
        return None

    def restart(self, top: Position) -> None:
        self._base = top
        self._frames = None
        self.held_bytes = 0

    def clear(self) -> None:
        self.restart(self._frames[-1].position if self._frames else self._base)
