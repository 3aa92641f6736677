"""Every error chatserver raises on purpose, as one tree.

An error carries a `code` (stable, documented in docs/errors.md, safe to show) and says whether it is
`temporary` (the same call may succeed later). Nothing here knows HTTP: api/problems.py maps classes to statuses.

    ChatServerError
    ├── InvalidRequest          the request can't be understood
    │   └── InvalidFields       … and these fields are why
    ├── NotFound                no such thing, or not for this caller to know
    ├── Expired                 it existed and its time is over
    ├── Unauthorized            who asks has not shown who they are
    ├── Forbidden               it exists and belongs to somebody else
    ├── Conflict                it clashes with what is there now
    ├── TooLarge                over a size limit
    ├── Misdirected             asked under a name that is not ours
    ├── UnsupportedMedia        a body of a kind we do not read
    ├── SlowRequest             the body did not arrive in time
    ├── RateLimited             too often, or too many at once, for this caller
    │   └── QuotaExceeded       … or too many tokens in this day or month
    ├── Unavailable             the server can't do it now
    │   ├── Draining            … because it is shutting down
    │   └── StoreUnavailable    … because the store is locked or away
    ├── StoreFull               the disk is full
    ├── StoreCorrupt            the database can't be trusted
    ├── SessionDamaged          … in what it holds of one session
    ├── StartupError            refusal to start, with path and reason
    ├── ToolError               a tool, or its server, failed
    └── AgentError              an agent failed; ends its turn as `failed`
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


class ChatServerError(Exception):
    """Base of the tree.

    Args:
        detail: one sentence for the caller; holds no secret and no internals.
        code: overrides the class's code with a narrower one.
    """

    code: ClassVar[str] = "error"
    title: ClassVar[str] = "Error"
    temporary: ClassVar[bool] = False

    def __init__(self, detail: str = "", *, code: str | None = None) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.narrow_code = code or self.code


class InvalidRequest(ChatServerError):
    code = "invalid_request"
    title = "The request cannot be understood"


@dataclass(frozen=True, slots=True)
class FieldError:
    """One wrong field: where it stands (path of keys and indexes) and what is wrong with it."""

    loc: tuple[str | int, ...]
    msg: str


class InvalidFields(InvalidRequest):
    code = "invalid_fields"
    title = "Some fields are not valid"

    def __init__(self, errors: list[FieldError], detail: str = "", *, code: str | None = None) -> None:
        super().__init__(detail or "; ".join(f"{'.'.join(map(str, e.loc))}: {e.msg}" for e in errors[:3]), code=code)
        self.errors = errors


class NotFound(ChatServerError):
    code = "not_found"
    title = "Not found"


class Expired(ChatServerError):
    code = "session_expired"
    title = "The session has expired"


class Unauthorized(ChatServerError):
    code = "login_required"
    title = "Not logged in"


class Forbidden(ChatServerError):
    code = "forbidden"
    title = "Not yours"


class Conflict(ChatServerError):
    code = "conflict"
    title = "It clashes with the present state"


class TooLarge(ChatServerError):
    code = "too_large"
    title = "Over the size limit"


class Misdirected(ChatServerError):
    code = "wrong_host"
    title = "This server is not reached under that name"


class UnsupportedMedia(ChatServerError):
    code = "unsupported_media_type"
    title = "The body must be application/json without content encoding"


class SlowRequest(ChatServerError):
    code = "request_timeout"
    title = "The body did not arrive in time"
    temporary = True


class RateLimited(ChatServerError):
    """Raised with the time after which a retry makes sense.

    Args:
        limit: how many there may be: events, tokens, or things at once. Nothing of it is left.
        retry_after_seconds: whole seconds until the next try can succeed.
    """

    code = "rate_limited"
    title = "Too many requests"
    temporary = True

    def __init__(
        self,
        detail: str = "",
        *,
        limit: int,
        code: str | None = None,
        retry_after_seconds: int = 1,
    ) -> None:
        super().__init__(detail, code=code)
        self.limit = limit
        self.retry_after_seconds = retry_after_seconds


class QuotaExceeded(RateLimited):
    """The tokens of a day or a month are used up.

    Args:
        resets_at: when they begin anew, RFC 3339.
    """

    code = "quota_exceeded"
    title = "The quota is used up"

    def __init__(self, detail: str, *, limit: int, resets_at: str, retry_after_seconds: int) -> None:
        super().__init__(detail, limit=limit, retry_after_seconds=retry_after_seconds)
        self.resets_at = resets_at


class Unavailable(ChatServerError):
    code = "unavailable"
    title = "Not possible right now"
    temporary = True


class Draining(Unavailable):
    code = "draining"
    title = "The server is shutting down"


class StoreUnavailable(Unavailable):
    code = "store_unavailable"
    title = "The store cannot be written right now"


class StoreFull(ChatServerError):
    code = "store_full"
    title = "The disk is full"
    temporary = True


class StoreCorrupt(ChatServerError):
    code = "store_corrupt"
    title = "The database cannot be read"


class SessionDamaged(ChatServerError):
    code = "session_damaged"
    title = "What is stored of the session cannot be read"


class StartupError(ChatServerError):
    code = "startup_error"
    title = "The server cannot start"


class ToolError(ChatServerError):
    code = "tool_error"
    title = "The tool failed"


class AgentError(ChatServerError):
    """An agent's failure as its user is told it.

    Args:
        detail: one sentence for the user; never the upstream's own body, which is hostile text.
        code: e.g. `upstream_unauthorized`, `upstream_timeout`; see docs/errors.md.
    """

    code = "agent_error"
    title = "The agent failed"
