"""`GET /api/export`: a session to take away."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatserver.api.export import disposition
from chatserver.transfer_format import Place, read
from tests.api.conftest import Api


async def a_session(api: Api, count: int = 1) -> None:
    """A titled session with some turns."""
    body = {"title": "Größe / ../x", "session_id": "one", "project_id": "p"}
    status, _, _ = await api.post("/api/session/create", **body)
    assert status == 201
    for number in range(count):
        status, _, _ = await api.post("/api/chat", session_id="one", message=f"/say hello {number}\n```\n<b>")
        assert status == 200
    while (await api.get("/api/state?session_id=one"))[1]["message_count"] < 2 * count:
        pass
    await api.post("/api/interrupt", session_id="one")


async def test_json_is_all_of_the_session_and_can_be_imported(api: Api) -> None:
    """The record, every message, the queue: what `metadata.json` and `messages.json` of an export hold."""
    await a_session(api, 120)  # more than one batch

    status, document, headers = await api.get("/api/export?session_id=one")

    assert status == 200
    assert headers["Content-Disposition"] == (
        "attachment; filename=\"Gr-e-..-x.json\"; filename*=UTF-8''Gr%C3%B6%C3%9Fe-..-x.json"
    )
    assert headers["X-Session-ID"] == "one"
    messages = document.pop("messages")
    _, state, _ = await api.get("/api/state?session_id=one")
    assert messages[-len(state["messages"]) :] == [m | {"siblings": []} for m in state["messages"]]
    whole = read(json.dumps(document).encode(), json.dumps(messages).encode(), Place("p", "one", 0.0), expires_at=0.0)
    assert (whole.record.title, len(whole.messages), whole.record.message_count) == ("Größe / ../x", 240, 240)


async def test_markdown_is_what_was_said(api: Api) -> None:
    """In quotes, under who said it."""
    await a_session(api)

    status, text, headers = await api.get("/api/export?session_id=one&format=markdown")

    assert (status, headers["Content-Type"]) == (200, "text/markdown; charset=utf-8")
    assert re.fullmatch(r"attachment; filename=\"Gr-e-\.\.-x\.md\".*", headers["Content-Disposition"])
    assert text.startswith("# Größe / \\.\\./x\n\n- Session: one\n- Project: p\n")
    assert "\n## User\n" in text
    assert "\n## Assistant (scripted)\n" in text
    assert "\n> /say hello 0\n> ```\n> <b>\n" in text


async def test_head_tells_the_name_without_the_content(api: Api) -> None:
    """As for every other GET."""
    await a_session(api)

    async with api.http.head(api.url("/api/export?session_id=one")) as response:
        assert response.status == 200
        assert "Content-Disposition" in response.headers
        assert await response.read() == b""


@pytest.mark.parametrize(
    ("query", "expected"),
    [("", 404), ("?session_id=none", 404), ("?session_id=../x", 422), ("?session_id=one&format=xml", 422)],
)
async def test_what_cannot_be_exported_is_a_problem(api: Api, query: str, expected: int) -> None:
    """Of what is not there, nothing is made."""
    status, problem, _ = await api.get(f"/api/export{query}")

    assert status == expected
    assert problem["status"] == expected


async def test_a_session_that_was_only_read_is_not_there(api: Api) -> None:
    """It is in memory alone, and has nothing in it."""
    await api.get("/api/state?session_id=read")

    status, _, _ = await api.get("/api/export?session_id=read")

    assert status == 404


@given(st.text(max_size=100))
def test_a_name_leads_nowhere_and_splits_no_header(title: str) -> None:
    """RFC 6266, RFC 8187: whatever the title."""
    header = disposition(title, "md")

    assert header.isascii()
    found = re.fullmatch(r"attachment; filename=\"([^\"\\]+)\"; filename\*=UTF-8''([A-Za-z0-9._~%-]+)", header)
    assert found is not None
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*\.md", found[1])
    assert not re.search(r"%(0|1|2F|5C|3A|7F)", found[2])
