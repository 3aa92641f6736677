"""Tools as they are listed and kept."""

from __future__ import annotations

import pytest

from chatserver.agents import mcp_tools
from chatserver.errors import ToolError
from tests.mcp.conftest import ANNA, OpenHub, plain


async def test_a_listing_is_kept_until_the_server_tells_of_a_change(
    open_hub: OpenHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tools/list_changed` makes the next listing a new one; without it the server is not asked again."""
    asked = _count_listings(monkeypatch)
    hub = open_hub(plain())

    for _ in range(3):
        await hub.text("echo")
    assert asked == [1]

    await hub.text("change")
    await hub.text("echo")
    tools = {tool.name for tool in await hub.servers.list_tools(ANNA, "plain")}
    assert "brand_new" in tools
    assert len(asked) == 2


async def test_a_listing_of_a_silent_server_grows_old(open_hub: OpenHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not promise to tell is asked again after a while."""
    asked = _count_listings(monkeypatch)
    monkeypatch.setattr(mcp_tools, "UNTOLD_SECONDS", 0.0)
    hub = open_hub(plain(mode="unchanging"))

    await hub.text("echo")
    await hub.text("echo")

    assert len(asked) == 2


async def test_an_unknown_tool_is_looked_for_once_more(open_hub: OpenHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kept listing may be old; a tool that is not there then is refused without asking the server to call it."""
    asked = _count_listings(monkeypatch)
    hub = open_hub(plain())
    await hub.text("echo")

    with pytest.raises(ToolError, match="has no tool 'nothing'") as unknown:
        await hub.text("nothing")

    assert unknown.value.narrow_code == "unknown_tool"
    assert len(asked) == 2


async def test_an_unknown_server_lists_the_known_ones(open_hub: OpenHub) -> None:
    """The operator's names, so that a person can correct himself."""
    hub = open_hub(plain("one"), plain("two"))

    with pytest.raises(ToolError, match="known: one, two") as unknown:
        await hub.text("echo", at="three")

    assert unknown.value.narrow_code == "unknown_server"


async def test_approval_and_hints_stand_in_the_listing(open_hub: OpenHub) -> None:
    """What turns decide by."""
    hub = open_hub(plain(approval="writes"))

    tools = {tool.name: tool for tool in await hub.servers.list_tools(ANNA)}

    assert {tool.approval for tool in tools.values()} == {"writes"}
    assert [name for name, tool in tools.items() if tool.read_only] == ["echo"]


def _count_listings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    asked: list[int] = []
    real = mcp_tools.mcp_operations.tools

    async def counting(client: mcp_tools.Client) -> object:
        asked.append(len(asked) + 1)
        return await real(client)

    monkeypatch.setattr(mcp_tools.mcp_operations, "tools", counting)
    return asked
