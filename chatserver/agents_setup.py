"""Agents and tools as the settings ask for them: catalogue, embedded docs, tool servers.

Part of the composition root (app.py); nothing else may import it. What a process does not use is not imported: the
MCP SDK costs half a second.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from chatserver.agents.base import Agent, ToolServers
from chatserver.agents.builtin_tools import BuiltinTools
from chatserver.agents.catalog import Catalog, Factories, build_catalog
from chatserver.agents.discovery import discover
from chatserver.agents.docs_agent import DocsAgent
from chatserver.agents.docs_folder import Limits
from chatserver.agents.docs_index import DocsIndex, Report
from chatserver.agents.docs_tool import SEARCH_DOCS, search_docs
from chatserver.agents.endpoints import Endpoints
from chatserver.agents.openai_compatible import OpenAICompatibleAgent
from chatserver.agents.python_agent import load_python_agent
from chatserver.agents.scripted import ScriptedAgent
from chatserver.clock import Clock
from chatserver.config import SESSION_PLACEHOLDER, McpServerConfig, ModelConfig, Settings
from chatserver.errors import StartupError
from chatserver.tasks import Supervisor


@dataclass(frozen=True, slots=True)
class Agents:
    """What answers, and the tools it may use."""

    catalog: Catalog
    tools: ToolServers
    endpoints: Endpoints


@asynccontextmanager
async def assemble(
    settings: Settings,
    clock: Clock,
    supervisor: Supervisor,
    log: FilteringBoundLogger,
    *,
    docs_dir: Path | None,
    on_connecting: Callable[[tuple[str, str], bool], None],
) -> AsyncIterator[Agents]:
    """Agents and tools, open while the block runs.

    Args:
        docs_dir: the folder the embedded agent answers from; None where there is none.
        on_connecting: told when a session's tool servers begin and end connecting.
    Raises: StartupError, with the reason.
    """
    async with AsyncExitStack() as stack:
        index: DocsIndex | None = None
        if docs_dir is not None and not settings.no_docs:

            def on_report(report: Report) -> None:
                log.info("docs_indexed", files=report.files, sections=report.sections, skipped=report.skipped[:20])

            index = DocsIndex(
                docs_dir,
                Limits(settings.docs_max_files, settings.docs_max_file_bytes, settings.docs_max_bytes),
                refresh_seconds=settings.docs_refresh_seconds,
                clock=clock,
                on_report=on_report,
            )
            stack.push_async_callback(index.close)
            await index.open()

        endpoints = Endpoints()
        stack.push_async_callback(endpoints.close)

        def openai(config: ModelConfig, key: str | None) -> Agent:
            return OpenAICompatibleAgent(config, key, endpoints, tool_rounds=settings.tool_rounds, clock=clock, log=log)

        def python(target: str) -> tuple[str, Agent]:
            agent = load_python_agent(target)
            return agent.name, agent

        def docs(has_language_model: bool) -> Agent:
            assert index is not None  # noqa: S101 - handed over only where it is
            return DocsAgent(
                index,
                has_language_model=has_language_model,
                piece_seconds=settings.docs_piece_seconds,
                sleep=clock.sleep,
            )

        look = settings.discover_models and not settings.models
        discovered = await discover(os.environ, endpoints, log) if look else []
        catalog = build_catalog(
            settings,
            discovered,
            Factories(
                openai=openai,
                python=python,
                scripted=lambda: ScriptedAgent(clock.sleep),
                docs=docs if index is not None else None,
            ),
            os.environ,
            log,
        )
        stack.push_async_callback(catalog.close)

        servers: ToolServers | None = None
        if settings.mcp_servers:
            from chatserver.agents.mcp_tools import McpServers

            servers = McpServers(settings, clock, supervisor, log, on_connecting=on_connecting)
            for config in filter(_may_share_files, settings.mcp_servers):
                log.warning(
                    "mcp_files_may_be_shared", server=config.name, hint=f"put {SESSION_PLACEHOLDER} into its path"
                )
        own = [(SEARCH_DOCS, search_docs(index))] if index is not None else []
        if taken := {spec.server for spec, _ in own} & {server.name for server in settings.mcp_servers}:
            raise StartupError(f"the MCP server {min(taken)!r} has the name of a built-in one; give it another")
        tools = BuiltinTools(servers, own, output_chars=settings.tool_output_chars)
        stack.push_async_callback(tools.close)
        yield Agents(catalog, tools, endpoints)


def _may_share_files(config: McpServerConfig) -> bool:
    """Whether the sessions' processes of a server look as if they wrote one file, of all tenants: a path in its
    environment with nothing of the session in it, or the reference server for memories, which has a file by default."""
    if config.command is None or config.scope == "shared" or SESSION_PLACEHOLDER in str((config.command, config.env)):
        return False
    paths = any(Path(value).is_absolute() for value in config.env.values())
    return paths or any("server-memory" in part for part in config.command)
