"""The access log: one line a request; for a stream one when it opens and one when it ends.

Invariants: a line holds the route's pattern, never the path or the query; no body, no header, no name of a person. A
session stands in it as a keyed hash, so that the lines of one session can be told from others' and not traced to its id
without the installation's key. Every value is ours or escaped (logs.py), so nobody forges a line.
"""

from __future__ import annotations

import hashlib
from typing import Any

from aiohttp import web
from structlog.typing import FilteringBoundLogger

from chatserver.api.request_keys import CALLER, REQUEST_ID, SESSION_ID, STREAM
from chatserver.counts import HttpCounts

# Everything else that calls itself a method: labels and lines are made of these alone.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
# The status of a request whose client went away before it was answered (nginx's number for it).
CLIENT_GONE = 499


class AccessLog:
    """See the module. It counts every request into `counts`, also when no lines are written.

    Args:
        key: the installation's secret; the hash's own key is derived from it.
    """

    def __init__(self, log: FilteringBoundLogger, key: bytes, counts: HttpCounts, *, enabled: bool) -> None:
        self._log = log.bind()  # bound once: a lazy proxy would be assembled anew for each line
        self._key = hashlib.blake2b(b"access-log", key=key).digest()
        self._counts = counts
        self._enabled = enabled

    def opened(self, request: web.Request) -> None:
        """A stream's head is out."""
        request[STREAM] = True
        if self._enabled:
            self._log.info("stream_opened", **self._fields(request, 200))

    def ended(self, request: web.Request, response: web.StreamResponse | None, seconds: float) -> None:
        """A request was answered, or a stream has ended.

        Args:
            response: None where the client went away first.
            seconds: since the request's head was read.
        """
        stream = STREAM in request
        status = 200 if stream else CLIENT_GONE if response is None else response.status
        method = request.method if request.method in _METHODS else "OTHER"
        self._counts.requests[method, route_of(request), status] += 1
        if not self._enabled:
            return
        fields = self._fields(request, status)
        fields["seconds"] = round(seconds, 4)
        if not stream and isinstance(response, web.Response):
            fields["bytes"] = response.content_length
        self._log.info("stream_ended" if stream else "request", **fields)

    def _fields(self, request: web.Request, status: int) -> dict[str, Any]:
        fields = {
            "request_id": request[REQUEST_ID],
            "method": request.method if request.method in _METHODS else "OTHER",
            "route": route_of(request),
            "status": status,
        }
        caller = request.get(CALLER)
        if caller is not None:
            fields["kind"] = caller.principal.kind
            fields["tenant"] = caller.principal.tenant
            session_id = request.get(SESSION_ID)
            if session_id is not None:
                fields["session"] = self.hash_of(caller.principal.tenant, session_id)
        return fields

    def hash_of(self, tenant: str, session_id: str) -> str:
        """What a session is called in the log."""
        name = f"{tenant}\0{session_id}".encode("utf-8", "replace")
        return hashlib.blake2b(name, key=self._key, digest_size=8).hexdigest()


def route_of(request: web.Request) -> str:
    """The route's pattern, never the path itself, which holds ids."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "-"
