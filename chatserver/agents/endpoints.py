"""Connections to the models' endpoints, pooled per endpoint (spec V6).

Invariants: one ClientSession per endpoint, however many models use it, made when first needed and owned here; nothing
of one caller is kept for the next (no cookies, no redirects followed). The number of connections is not limited here:
a model's concurrency limit (slots.py) is, and a second limit below it would make turns wait without being seen.
"""

from __future__ import annotations

from collections import Counter

import aiohttp
from yarl import URL

from chatserver import __version__

# Below the five seconds after which llama.cpp, and uvicorn before vLLM, close an idle connection: reusing one while
# the other side closes it costs a retry.
KEEPALIVE_SECONDS = 4.0
# A provider's addresses change, rarely; asking again every five minutes costs nothing.
DNS_CACHE_SECONDS = 300


class Endpoints:
    """Hands out the session of an endpoint. Not for use in more than one event loop."""

    def __init__(self) -> None:
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._closed = False
        # Failures by model and code since the start, those that were tried again or fell back included.
        self.failures: Counter[tuple[str, str]] = Counter()

    def session(self, base_url: str) -> aiohttp.ClientSession:
        """The session for `base_url`, one for each scheme, host and port; the caller must not close it.

        Raises:
            RuntimeError: after `close`. ValueError: no absolute address.
        """
        endpoint = str(URL(base_url).origin())
        session = self._sessions.get(endpoint)
        if session is None:
            if self._closed:
                raise RuntimeError("the endpoints are closed")
            session = self._sessions[endpoint] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0, keepalive_timeout=KEEPALIVE_SECONDS, ttl_dns_cache=DNS_CACHE_SECONDS
                ),
                # An endpoint's cookie must not travel from one user's request to another's.
                cookie_jar=aiohttp.DummyCookieJar(),
                # Times are the requests' own: an answer may stream for half an hour.
                timeout=aiohttp.ClientTimeout(total=None),
                # Compressed streams arrive in lumps, and a few bytes of them can become many.
                headers={"User-Agent": f"chatserver/{__version__}", "Accept-Encoding": "identity"},
            )
        return session

    async def close(self) -> None:
        """Close every connection; idempotent."""
        self._closed = True
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()
