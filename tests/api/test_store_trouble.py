"""What callers are told when the store is in trouble (D4), and that nothing acknowledged is lost by it."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from chatserver.errors import StoreFull, StoreUnavailable
from tests.api.conftest import Api, Serve
from tests.checker import Checker


@pytest.mark.parametrize(
    ("error", "expected"),
    [(StoreFull(), (507, "store_full")), (StoreUnavailable(), (503, "store_unavailable"))],
)
async def test_writes_are_refused_and_reads_go_on(
    api: Api, monkeypatch: pytest.MonkeyPatch, error: Exception, expected: tuple[int, str]
) -> None:
    """A refused message is not half there: state and position are as before, and the next one works."""
    await api.post("/api/system", session_id="s", message="kept")
    _, before, _ = await api.get("/api/state?session_id=s")

    async def fail(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as broken:
        for write in ("start_turn", "add_message", "update_session", "create_session"):
            broken.setattr(type(api.server.services.store), write, fail)
        for path, body in (
            ("/api/chat", {"message": "lost?"}),
            ("/api/system", {"message": "lost?"}),
            ("/api/chat", {"message": "lost?", "session_id": "fresh"}),
            ("/api/mcp-command", {"command": "set_network", "args": {"network": "n"}}),
        ):
            status, problem, _ = await api.post(path, **({"session_id": "s"} | body))
            assert (status, problem["code"]) == expected
        status, during, _ = await api.get("/api/state?session_id=s")
        assert (status, during) == (200, before)
    async with Checker(api.server.url) as checker:
        await checker.send("s", "/say works again")
        await checker.verify("s")


async def test_an_answer_that_cannot_be_saved_is_told_and_saved_later(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly one terminal event; the text stays, and is committed when the store is back."""
    monkeypatch.setattr("chatserver.turn_ends.TERMINAL_RETRY_SECONDS", 0.1)
    store = type(api.server.services.store)

    async def fail(*_: Any, **__: Any) -> None:
        raise StoreFull()

    async with Checker(api.server.url) as checker, checker.follow("s") as stream:
        with monkeypatch.context() as broken:
            broken.setattr(store, "finish_turn", fail)
            sent = await checker.send("s", "/say precious words")
            ended = await stream.until_ended(sent.turn_id)
            assert ended.body["outcome"] == "failed"
            assert ended.body["error"]["code"] == "store_unavailable"
            status, problem, _ = await api.post("/api/chat", session_id="s", message="more")
            assert (status, problem["code"]) == (507, "store_full")
        again = await checker.send("s", "/say and on")
        await stream.until_ended(again.turn_id)
    from chatserver.store.base import SessionKey

    stored = await api.server.services.store.load(SessionKey("public", "s"), 200)
    assert stored is not None
    assert "precious words" in stored.messages[1].content
    assert [m.status for m in stored.messages] == ["completed", "failed", "completed", "completed"]


async def test_a_data_folder_that_was_moved_away_is_told(serve: Serve, tmp_path: Path) -> None:
    """L1: what is written then is gone for whoever looks in its place; only the operator can put it back."""
    api = await serve()
    assert (await api.get("/health/ready"))[0] == 200
    (tmp_path / "data").rename(tmp_path / "moved")
    status, problem, _ = await api.get("/health/ready")
    assert (status, problem["code"]) == (503, "store_unavailable")
    assert str(tmp_path) not in problem["detail"]
    (tmp_path / "moved").rename(tmp_path / "data")
    assert (await api.get("/health/ready"))[0] == 200


async def test_another_process_that_holds_the_database_is_told_as_503(serve: Serve, tmp_path: Path) -> None:
    """A foreign lock (a backup tool, a shell) is waited for, then answered; afterwards everything works."""
    api = await serve(store_busy_seconds=0.05)
    await api.post("/api/system", session_id="s", message="kept")
    intruder = sqlite3.connect(tmp_path / "data" / "chatserver.db")
    intruder.execute("BEGIN IMMEDIATE")
    status, problem, _ = await api.post("/api/system", session_id="s", message="refused")
    assert (status, problem["code"]) == (503, "store_unavailable")
    assert (await api.get("/api/state?session_id=s"))[0] == 200
    status, problem, _ = await api.get("/health/ready")
    assert (status, problem["code"]) == (503, "store_unavailable")
    assert (await api.get("/health"))[0] == 200
    intruder.rollback()
    intruder.close()
    assert (await api.get("/health/ready"))[0] == 200
    status, state, _ = await api.post("/api/system", session_id="s", message="accepted")
    assert status == 200
    assert [m["content"] for m in state["messages"]] == ["kept", "accepted"]
