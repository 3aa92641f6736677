"""Connections: whose they are, when they open and close, what is left of them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from chatserver.agents import mcp_connection
from chatserver.errors import ToolError
from tests.mcp.conftest import ANNA, BERT, ROOT, Hub, OpenHub, children, gone, plain, until


async def test_a_server_starts_on_first_use_and_not_before(open_hub: OpenHub) -> None:
    """A configured server that nobody uses costs nothing."""
    hub = open_hub(plain())

    assert await hub.status() == "idle"
    assert hub.servers.open_connections == 0

    assert await hub.text("echo", {"text": "hello"}) == "hello"

    assert await hub.status() == "connected"
    assert hub.servers.open_connections == 1


async def test_sessions_have_servers_of_their_own(open_hub: OpenHub) -> None:
    """`scope = session`: two processes, and each keeps its own."""
    hub = open_hub(plain())

    anna, bert = await asyncio.gather(hub.pid(ANNA), hub.pid(BERT))

    assert anna != bert
    assert await hub.pid(ANNA) == anna


async def test_the_same_session_id_of_two_tenants_is_two_sessions(open_hub: OpenHub) -> None:
    """The tenant is part of the key."""
    hub = open_hub(plain())

    assert await hub.pid(("one", "s")) != await hub.pid(("two", "s"))


async def test_a_shared_server_is_one_for_all_and_outlives_a_session(open_hub: OpenHub) -> None:
    """`scope = shared`: one process; a session that closes or disconnects does not take it from the others."""
    hub = open_hub(plain(scope="shared"))
    process = await hub.pid(ANNA)
    assert await hub.pid(BERT) == process

    await hub.servers.close_session(ANNA)
    with pytest.raises(ToolError, match="shared") as refused:
        await hub.servers.disconnect(BERT, "plain")

    assert refused.value.narrow_code == "not_supported"
    assert await hub.pid(BERT) == process


async def test_first_uses_at_once_start_one_server(open_hub: OpenHub) -> None:
    """Ten calls that find no connection share one, and the session is told once that it is connecting."""
    hub = open_hub(plain())

    processes = await asyncio.gather(*(hub.pid() for _ in range(10)))

    assert len(set(processes)) == 1
    assert hub.connecting == [(ANNA, True), (ANNA, False)]


async def test_a_session_is_told_while_it_connects_and_not_otherwise(open_hub: OpenHub) -> None:
    """What drives the state's `is_connecting_mcp`; both servers connect in one stretch."""
    hub = open_hub(plain("one"), plain("two"))

    await hub.servers.list_tools(ANNA)
    assert hub.connecting == [(ANNA, True), (ANNA, False)]

    await hub.servers.list_tools(ANNA)
    assert len(hub.connecting) == 2


async def test_connect_and_disconnect_are_commands(open_hub: OpenHub) -> None:
    """A person may start a server ahead and stop it; both work twice."""
    hub = open_hub(plain())

    await hub.servers.connect(ANNA, "plain")
    await hub.servers.connect(ANNA, "plain")
    assert await hub.status() == "connected"
    process = await hub.pid()

    await hub.servers.disconnect(ANNA, "plain")
    await hub.servers.disconnect(ANNA, "plain")
    assert not psutil.pid_exists(process)
    assert await hub.status() == "idle"
    assert await hub.pid() != process


@pytest.mark.both_loops
async def test_closing_a_session_ends_its_processes_and_no_others(open_hub: OpenHub) -> None:
    """They have gone when close_session returns, those that a server started included."""
    hub = open_hub(plain())
    mine, grandchild, others = await hub.pid(ANNA), int(await hub.text("spawn", key=ANNA)), await hub.pid(BERT)

    await hub.servers.close_session(ANNA)

    assert not psutil.pid_exists(mine)
    assert await gone(grandchild)
    assert await hub.pid(BERT) == others


@pytest.mark.both_loops
async def test_a_server_that_ignores_its_end_is_killed(open_hub: OpenHub) -> None:
    """One that keeps running without stdin and ignores SIGTERM goes all the same."""
    hub = open_hub(plain(mode="stubborn"))
    process = await hub.pid()

    async with asyncio.timeout(60):
        await hub.servers.close_session(ANNA)

    assert not psutil.pid_exists(process)


@pytest.mark.parametrize("how", ["closed", "disconnected"])
async def test_a_session_that_comes_back_while_its_server_ends_waits_for_that(open_hub: OpenHub, how: str) -> None:
    """Evicted or deleted and there again, or disconnected and used at once: its two processes never meet."""
    hub = open_hub(plain(mode="stubborn"))
    process = await hub.pid()
    end = hub.servers.close_session(ANNA) if how == "closed" else hub.servers.disconnect(ANNA, "plain")
    closing = asyncio.get_running_loop().create_task(end)
    await asyncio.sleep(0)

    assert await hub.pid() != process
    assert not psutil.pid_exists(process)
    await closing


@pytest.mark.both_loops
async def test_a_killed_server_is_noticed_and_started_again(open_hub: OpenHub) -> None:
    """kill -9: its own children go too, the next call has a new process, and no call fails."""
    hub = open_hub(plain())
    process, grandchild = await hub.pid(), int(await hub.text("spawn"))

    os.kill(process, signal.SIGKILL)
    await until(lambda: hub.servers.open_connections == 0)

    assert await gone(grandchild)
    assert await hub.status() == "failed"
    assert hub.lines("mcp_lost") == ["it was killed by signal 9"]
    assert await hub.pid() != process
    assert await hub.status() == "connected"


async def test_a_server_that_keeps_dying_is_left_alone_for_longer_and_longer(open_hub: OpenHub) -> None:
    """The first reconnect is free, further ones wait; who asks meanwhile is told at once."""
    hub = open_hub(plain())
    for _ in range(2):
        with pytest.raises(ToolError, match="exited with code 3"):
            await hub.text("exit")

    with pytest.raises(ToolError, match="tried again in 1 s") as refused:
        await hub.text("echo")

    assert refused.value.narrow_code == "server_failed"
    assert hub.servers.open_connections == 0
    assert await hub.text("echo", {"text": "mine works"}, key=BERT) == "mine works"


async def test_no_more_connections_than_set_and_the_idle_one_makes_room(open_hub: OpenHub) -> None:
    """Twenty sessions at once over four connections: all are served, never more than four processes."""
    hub = open_hub(plain(), mcp_connections=4)
    most = 0

    async def use(number: int) -> str:
        nonlocal most
        text = await hub.text("echo", {"text": str(number)}, key=("public", str(number)))
        most = max(most, len(children()), hub.servers.open_connections)
        return text

    assert await asyncio.gather(*map(use, range(20))) == [str(number) for number in range(20)]

    assert 1 < most <= 4
    await hub.servers.close()
    assert children() == []


async def test_a_busy_connection_never_makes_room(open_hub: OpenHub) -> None:
    """With all in use, a newcomer waits its time and is refused; with one idle again, it is served."""
    hub = open_hub(plain(), plain("hasty", start_timeout_seconds=0.3), mcp_connections=1)
    process = await hub.pid(ANNA)
    held = asyncio.ensure_future(hub.text("hold", key=ANNA))
    await _running(hub, 1)

    with pytest.raises(ToolError, match="in use") as refused:
        await hub.text("echo", key=BERT, at="hasty")
    assert refused.value.narrow_code == "server_busy"
    assert psutil.pid_exists(process)

    await hub.text("release", key=ANNA)
    await held
    assert await hub.pid(BERT) != process
    assert await gone(process)


async def test_calls_on_one_connection_run_side_by_side(open_hub: OpenHub) -> None:
    """Twenty calls that end only together would otherwise wait for ever."""
    hub = open_hub(plain())
    await hub.servers.connect(ANNA, "plain")
    held = [asyncio.ensure_future(hub.text("hold")) for _ in range(20)]
    await _running(hub, 20)

    assert await hub.text("release") == "20"
    assert await asyncio.gather(*held) == ["released"] * 20


async def test_too_many_calls_are_refused_and_the_others_go_on(
    open_hub: OpenHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for a connection is bounded."""
    monkeypatch.setattr(mcp_connection, "REQUESTS_AT_ONCE", 2)
    monkeypatch.setattr(mcp_connection, "REQUESTS_WAITING", 3)
    hub = open_hub(plain())
    await hub.servers.connect(ANNA, "plain")

    calls = [asyncio.ensure_future(hub.text("hold")) for _ in range(12)]
    await until(lambda: sum(c.done() for c in calls) >= 7)
    await _running(hub, 2)

    refused = [c.exception() for c in calls if c.done()]
    assert {r.narrow_code for r in refused if isinstance(r, ToolError)} == {"server_busy"}
    # Two run; of the rest three fit into the queue, and a fourth where the owner had taken two before the last came.
    assert 7 <= len(refused) <= 9
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert await hub.text("echo", {"text": "still here"}) == "still here"


async def test_cancelling_a_call_is_instant_and_cancels_it_at_the_server(open_hub: OpenHub) -> None:
    """The caller is free at once; the server gets `notifications/cancelled`; the connection stays."""
    hub = open_hub(plain())
    process = await hub.pid()
    call = asyncio.ensure_future(hub.text("hang"))
    await _running(hub, 1)

    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    async with asyncio.timeout(60):
        while json.loads(await hub.text("cancelled")) == []:
            pass
    assert await hub.pid() == process


async def test_a_call_takes_no_longer_than_configured(open_hub: OpenHub) -> None:
    """A tool that never answers is a clear error, is cancelled at the server, and hurts nobody else."""
    hub = open_hub(plain(call_timeout_seconds=4))
    process = await hub.pid()

    with pytest.raises(ToolError, match=r"within 4 s") as late:
        await hub.text("hang")

    assert late.value.narrow_code == "tool_timeout"
    assert len(json.loads(await hub.text("cancelled"))) == 1
    assert await hub.pid() == process


async def test_closing_tells_callers_that_wait(open_hub: OpenHub) -> None:
    """Nobody hangs on a connection that was closed under him."""
    hub = open_hub(plain())
    await hub.servers.connect(ANNA, "plain")
    calls = [asyncio.ensure_future(hub.text("hold")) for _ in range(3)]
    await _running(hub, 3)

    await hub.servers.close_session(ANNA)

    for call in calls:
        with pytest.raises(ToolError, match="closed") as ended:
            await call
        assert ended.value.narrow_code == "server_failed"


async def test_closing_while_a_server_starts_leaves_nothing(open_hub: OpenHub) -> None:
    """A server that never answers is ended together with the wait for it."""
    hub = open_hub(plain(mode="silent"))
    call = asyncio.ensure_future(hub.text("echo"))
    await until(lambda: bool(children()))

    await hub.servers.close_session(ANNA)

    with pytest.raises(ToolError, match="closed"):
        await call
    assert children() == []
    assert await hub.status() == "idle"


async def test_cancelling_the_supervisor_ends_children_too(open_hub: OpenHub) -> None:
    """A stop that does not close the hub first loses no process either."""
    hub = open_hub(plain(), plain("stubborn", "stubborn"))
    processes = [await hub.pid(), await hub.pid(at="stubborn")]
    held = asyncio.ensure_future(hub.text("hold"))
    await _running(hub, 1)

    await hub.supervisor.close()

    with pytest.raises(ToolError):
        await held
    assert not any(map(psutil.pid_exists, processes))


async def test_after_close_no_server_is_started(open_hub: OpenHub) -> None:
    """A late call during a shutdown is refused."""
    hub = open_hub(plain())
    await hub.servers.close()

    with pytest.raises(ToolError, match="being closed"):
        await hub.text("echo")


async def test_children_end_when_the_server_process_is_killed(tmp_path: Path) -> None:
    """kill -9 of ourselves: the child reads the end of its input and goes."""
    program = """
import asyncio
from tests.mcp.conftest import ANNA, plain
from chatserver.agents.mcp_tools import McpServers
from chatserver.clock import SystemClock
from chatserver.config import Settings
from chatserver.logs import make_log
from chatserver.tasks import Supervisor
async def main():
    supervisor = Supervisor("t", print)
    servers = McpServers(Settings(mcp_servers=[plain()]), SystemClock(), supervisor, make_log("info"), lambda *a: None)
    print((await servers.call_tool(ANNA, "plain", "pid", {})).content, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""
    argv = [sys.executable, "-c", program]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=ROOT) as us:  # noqa: ASYNC220 - one line is waited for
        assert us.stdout is not None
        child = int(us.stdout.readline())
        assert psutil.pid_exists(child)
        us.kill()

    assert await gone(child)


async def test_children_get_a_small_environment(open_hub: OpenHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """PATH, HOME, LANG and what is configured; never our keys."""
    monkeypatch.setenv("OPENAI_API_KEY", "secret-one")
    monkeypatch.setenv("CHATSERVER_TOKEN", "secret-two")
    monkeypatch.setenv("LANG", "C.UTF-8")
    monkeypatch.setenv("WANTED", "handed on")
    hub = open_hub(plain(env={"EXTRA": "1", "FILE": "m-{session}.json"}, env_from=("WANTED",)))

    seen = json.loads(await hub.text("environment"))
    others = json.loads(await hub.text("environment", key=BERT))

    assert seen.keys() <= {"PATH", "HOME", "LANG", "EXTRA", "FILE", "WANTED", "LC_CTYPE"}
    assert (seen["EXTRA"], seen["WANTED"], seen["LANG"]) == ("1", "handed on", "C.UTF-8")
    assert seen["FILE"].removeprefix("m-").removesuffix(".json").isalnum()
    assert "anna" not in seen["FILE"]
    assert seen["FILE"] != others["FILE"]
    assert str(Path(sys.executable).parent) in seen["PATH"].split(os.pathsep)


async def test_a_missing_variable_is_named(open_hub: OpenHub) -> None:
    """The operator reads which one; the server is not started without it."""
    hub = open_hub(plain(env_from=("NOT_SET_ANYWHERE",)))

    with pytest.raises(ToolError, match="NOT_SET_ANYWHERE is not set"):
        await hub.text("echo")


async def test_stderr_goes_to_the_log_bounded_and_escaped(open_hub: OpenHub, capfd: pytest.CaptureFixture[str]) -> None:
    """Not to the terminal; control characters are shown, long lines and floods cut; the child never blocks."""
    hub = open_hub(plain())

    await hub.text("stderr", {"text": "\x1b[31mred\x07 " + "x" * 5000})
    await hub.text("stderr", {"text": "flood " * 100, "lines": 5000})
    await until(lambda: len(hub.lines("mcp_stderr")) >= 60)

    first = hub.lines("mcp_stderr")[0]
    assert first.startswith("\\x1b[31mred\\x07 x")
    assert max(map(len, hub.lines("mcp_stderr"))) <= 1100
    assert await hub.text("echo", {"text": "alive"}) == "alive"
    assert len(hub.lines("mcp_stderr")) <= 120
    assert capfd.readouterr().err == ""


async def _running(hub: Hub, count: int) -> None:
    """Wait until `count` requests are on their way to the one connection's server."""
    connections = list(hub.servers._pool._open)
    await until(lambda: sum(c._running for c in connections) >= count)
