"""Refusals: the statuses and codes that a route may be refused with, put together from what the route does.

Invariants: what follows from a route's line in the URL table (its method, its body, its query, whether it is open) is
not repeated there; the rest is named there, from the groups below. The tests hold every refusal that they get to this.

Not told here, since no route is asked: what is no HTTP (400, 431), an address that leads nowhere (404), and a method
that an address has not (405).
"""

from __future__ import annotations

from chatserver.api.route import Refusals, Route
from chatserver.api.schemas import SessionQuery


def _refused(status: int, *codes: str) -> Refusals:
    return frozenset((status, code) for code in codes)


# --- what follows from a line of the URL table ---

_ANY = _refused(421, "wrong_host") | _refused(500, "internal_error")
_CHANGE = _refused(403, "cross_site")
IDENTITY = _refused(401, "login_required", "token_invalid", "token_expired", "token_revoked") | _refused(
    503, "issuer_unavailable"
)
_COOKIE_CHANGE = _refused(415, "unsupported_media_type")
_BODY = (
    _refused(400, "invalid_request", "invalid_json")
    | _refused(408, "request_timeout")
    | _refused(413, "too_large")
    | _refused(415, "unsupported_media_type")
    | _refused(422, "invalid_fields")
)
_QUERY = _refused(422, "invalid_fields")


def refusals(route: Route) -> Refusals:
    """Every status and code that the route may be refused with."""
    found = route.refuses | _ANY
    if not route.open:
        found |= IDENTITY
    if route.method != "GET":
        found |= _CHANGE
        if not route.open:
            found |= _COOKIE_CHANGE
    if route.body is not None:
        found |= _BODY
    if route.query not in (None, SessionQuery):  # which session is no matter of fields
        found |= _QUERY
    return found


# --- what the URL table names ---

# The store is read, or written too.
READS = _refused(503, "store_unavailable", "store_corrupt")
WRITES = READS | _refused(503, "draining") | _refused(507, "store_full")

# A session is named, wherever in the request, and looked up for its owner; made where it is not there.
SESSION_IDS = _refused(422, "invalid_session_id")
NAMED = SESSION_IDS | _refused(400, "session_id_conflict")
LOADED = READS | _refused(500, "session_damaged")
OWNED = LOADED | _refused(403, "session_forbidden") | _refused(404, "session_not_found")
REACHED = OWNED | _refused(410, "session_expired")
SESSION = NAMED | REACHED
MADE = _refused(429, "session_creation_limited")
CREATED = SESSION | MADE | WRITES | _refused(409, "session_exists")
IN_PROJECT = _refused(400, "missing_project_id") | _refused(422, "invalid_project_id")
OF_PROJECT = IN_PROJECT | _refused(404, "session_not_in_project")

# What comes with a message, a turn, a model, metadata.
RATE_OF_MESSAGES = _refused(429, "messages_limited")
TEXT = RATE_OF_MESSAGES | _refused(413, "message_too_long") | _refused(422, "blank_message")
TURN = (
    WRITES
    | RATE_OF_MESSAGES
    | _refused(409, "busy")
    | _refused(429, "queue_full", "quota_exceeded")
    | _refused(503, "too_many_turns")
)
MODEL = _refused(422, "unknown_model")
SWITCH = MODEL | _refused(429, "model_switches_limited")
METADATA = _refused(413, "metadata_too_large")
BUSY = _refused(409, "busy")

# One message of a session, and what it must be like.
MESSAGE = _refused(404, "message_not_found")
QUESTION = MESSAGE | _refused(409, "not_a_user_message", "too_many_siblings")
ANSWER = MESSAGE | _refused(409, "not_an_answer")
SIBLINGS = _refused(409, "too_many_siblings")
FORKED = _refused(413, "branch_too_long")

# Streams and downloads hold one of the places for streams.
STREAM = _refused(429, "too_many_streams") | _refused(503, "too_many_streams", "draining")
RESUMED = _refused(400, "bad_event_id")
MANY = _refused(400, "too_many_sessions")
NAMED_STREAM = _refused(404, "stream_not_found") | _refused(429, "too_many_streams", "too_many_sessions")
WHOLE = STREAM | _refused(409, "branch_changed")

QUEUED = _refused(404, "turn_not_queued")
COMMAND = _refused(400, "unknown_command") | _refused(404, "approval_not_found")
WITH_MESSAGES = _refused(400, "session_has_messages")
CURSOR = _refused(422, "invalid_cursor")
COUNTED = _refused(409, "message_count_differs")

# Accounts.
PASSWORDS = WRITES | _refused(429, "logins_limited") | _refused(503, "too_many_logins")
REGISTERED = (
    PASSWORDS
    | _refused(403, "registration_closed")
    | _refused(409, "username_taken")
    | _refused(422, "invalid_username", "weak_password")
)
LOGGED_IN = PASSWORDS | _refused(401, "bad_credentials")
NEW_PASSWORD = PASSWORDS | _refused(403, "wrong_password", "no_password") | _refused(422, "weak_password")
LOGGED_OUT = WRITES | _refused(503, "issuer_unavailable") | _refused(415, "unsupported_media_type")

OPERATORS = IDENTITY | _refused(403, "operators_only")
READY = WRITES
FILE = _refused(404, "not_found")
