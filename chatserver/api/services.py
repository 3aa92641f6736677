"""What handlers reach through the request: one record, put into the application by app.py."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web
from structlog.typing import FilteringBoundLogger

from chatserver.accounts import Accounts
from chatserver.agents.base import ToolServers
from chatserver.agents.catalog import Catalog
from chatserver.api.access_log import AccessLog
from chatserver.auth.visitors import VisitorSigner
from chatserver.clock import Clock
from chatserver.config import Settings
from chatserver.metrics import Metrics
from chatserver.metrics_history import MetricsHistory
from chatserver.quotas import Quotas
from chatserver.session_manager import SessionManager
from chatserver.session_service import SessionService
from chatserver.store.base import Store
from chatserver.streams.hub import StreamHub
from chatserver.turns import TurnRunner


@dataclass(frozen=True, slots=True)
class Services:
    """Composed by app.py; handlers use nothing else."""

    settings: Settings
    clock: Clock
    store: Store
    manager: SessionManager
    sessions: SessionService
    turns: TurnRunner
    hub: StreamHub
    catalog: Catalog
    tools: ToolServers
    visitors: VisitorSigner
    accounts: Accounts
    log: FilteringBoundLogger
    metrics: Metrics
    history: MetricsHistory
    access_log: AccessLog
    quotas: Quotas


SERVICES: web.AppKey[Services] = web.AppKey("services", Services)


def services(request: web.Request) -> Services:
    """The application's services."""
    return request.app[SERVICES]
