"""An independent client that checks every promise of the event stream while it reads; see checker.py for its use."""

from tests.checker.checker import Checker, Event, Refused, Sent, Stream, StreamClosed, Violation, following
from tests.checker.history import History, Position
from tests.checker.wire import Connection, ProtocolViolation, Response

__all__ = [
    "Checker",
    "Connection",
    "Event",
    "History",
    "Position",
    "ProtocolViolation",
    "Refused",
    "Response",
    "Sent",
    "Stream",
    "StreamClosed",
    "Violation",
    "following",
]
