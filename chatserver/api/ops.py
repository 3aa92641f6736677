"""What operators ask: liveness and readiness (spec L1), and the metrics."""

from __future__ import annotations

import ipaddress

from aiohttp import web

import chatserver
from chatserver.api.answers import json_response
from chatserver.api.identity import identify
from chatserver.api.reading import address_of, caller_of, read_query
from chatserver.api.schemas import MetricsQuery
from chatserver.api.services import services
from chatserver.errors import ChatServerError, Draining, Forbidden
from chatserver.metrics_history import SAMPLE_SECONDS

ADMIN = "admin"
# A request with one of these came through a proxy, which is not the one who asks.
_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")


async def health(request: web.Request) -> web.Response:
    """`GET /health`: whether the process answers."""
    return json_response({"status": "ok", "version": chatserver.__version__})


async def ready(request: web.Request) -> web.Response:
    """`GET /health/ready`: whether it can take work: the store reads and writes, the data folder is there, no drain."""
    app = services(request)
    if app.turns.draining:
        raise Draining()
    try:
        await app.store.ready()
    except ChatServerError as error:
        app.log.warning("not_ready", code=error.narrow_code)
        raise
    return json_response({"status": "ready"})


async def metrics(request: web.Request) -> web.Response:
    """`GET /metrics`: for Prometheus."""
    await check_operator(request)
    body, content_type = services(request).metrics.exposition(request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": content_type})


async def admin_metrics(request: web.Request) -> web.Response:
    """`GET /api/admin/metrics?since=`: the present, and what was sampled since that moment of the last hour."""
    await check_operator(request)
    app = services(request)
    asked = read_query(request, MetricsQuery)
    return json_response(
        {
            "time": round(app.clock.now(), 3),
            "version": chatserver.__version__,
            "interval_seconds": SAMPLE_SECONDS,
            "now": app.history.now(),
            "history": app.history.since(asked.since),
        }
    )


async def check_operator(request: web.Request) -> None:
    """Whether the caller may see how the server does: the scope `admin`, or an address of `metrics_from`.

    A token is looked at only where the address does not do: Prometheus has none.
    Raises: Forbidden (`operators_only`), and what `identify` raises.
    """
    if _from_listed_address(request):
        return
    await identify(request)
    if ADMIN in caller_of(request).principal.scopes:
        return
    raise Forbidden("this is for operators; see metrics_from", code="operators_only")


def _from_listed_address(request: web.Request) -> bool:
    address = address_of(request)
    if address == request.remote and any(name in request.headers for name in _FORWARDED):
        return False  # a proxy on this machine has its address, and everybody behind it would have it too
    try:
        asking = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(asking in ipaddress.ip_network(network) for network in services(request).settings.metrics_from)
