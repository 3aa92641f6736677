"""A server on the SDK that speaks the newest protocol (2026-07-28), for tests. With a port: over streamable HTTP."""

from __future__ import annotations

import sys

import anyio
from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("modern")
cancelled: list[str] = []


@server.tool()
async def change(ctx: Context) -> str:
    """Add a tool and tell of it."""

    def brand_new() -> str:
        """What was added."""
        return "new"

    server.add_tool(brand_new)
    await ctx.notify_tools_changed()
    return "changed"


@server.tool()
async def hang(ctx: Context) -> str:
    """Tell progress once and never answer."""
    await ctx.report_progress(1)
    try:
        await anyio.sleep_forever()
    finally:
        cancelled.append("hang")


@server.tool()
async def seen() -> str:
    """What was cancelled so far."""
    return " ".join(cancelled)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run("stdio")
