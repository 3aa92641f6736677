"""Usage and quotas over HTTP."""

from __future__ import annotations

from typing import Any

from chatserver.config import ModelConfig
from tests.agents.upstream import DONE, chunk, finish, running_upstream, stream, text
from tests.api.conftest import Api, Serve
from tests.api.people import add_user, bearer
from tests.api.test_access_log import ended_as
from tests.api.test_metrics import answered


async def visitor(api: Api) -> dict[str, str]:
    async with api.http.get(api.url("/")) as page:
        return {"Cookie": f"chatserver_visitor={page.cookies['chatserver_visitor'].value}"}


async def spend(api: Api, headers: dict[str, str], session_id: str, tokens: int, **body: Any) -> None:
    """A turn of the scripted agent, which counts its words: so many said, and three in the question."""
    said = {"session_id": session_id, "message": f"/tokens {tokens}\n", **body}
    status, answer, _ = await api.call("POST", "/api/chat", json=said, headers=headers)
    assert status == 200, answer
    await ended_as(api, session_id, headers)


async def test_callers_see_their_own_use_by_model_and_project(api: Api) -> None:
    """And nobody else's."""
    mine, theirs = await visitor(api), await visitor(api)
    await spend(api, mine, "a", 10)
    await spend(api, mine, "b", 30, project_id="work")
    await spend(api, theirs, "c", 500)
    status, body, _ = await api.get("/api/usage?period=month", headers=mine)

    assert status == 200
    assert body["total"] == {
        "turns": 2,
        "prompt_tokens": 4,
        "completion_tokens": 40,
        "reasoning_tokens": 0,
        "cached_tokens": 0,
        "total_tokens": 44,
        "estimated": False,
    }
    assert [(m["model"], m["total_tokens"]) for m in body["by_model"]] == [("scripted", 44)]
    assert [(p["project_id"], p["total_tokens"]) for p in body["by_project"]] == [("work", 32), ("default", 12)]
    assert (body["quotas"], body["exhausted_until"]) == ([], None)
    _, nobody, _ = await api.get("/api/usage")
    assert nobody["total"]["turns"] == 0


async def test_a_session_tells_what_its_messages_have_used(api: Api) -> None:
    """Its owner only."""
    mine = await visitor(api)
    await spend(api, mine, "a", 10)
    await spend(api, mine, "a", 5)
    _, body, _ = await api.get("/api/usage?session_id=a", headers=mine)

    assert (body["session_id"], body["total"]["turns"], body["total"]["completion_tokens"]) == ("a", 2, 15)
    assert (await api.get("/api/usage?session_id=a"))[0] == 403
    assert (await api.get("/api/usage?session_id=nothing", headers=mine))[0] == 404


async def test_a_spent_quota_is_refused_with_the_time_it_begins_anew(serve: Serve) -> None:
    """As a header for programs and a time for people; the page can ask before it sends."""
    api = await serve(quota_visitor_day_tokens=20, quota_tenant_month_tokens=1000)
    mine = await visitor(api)
    await spend(api, mine, "a", 30)
    status, body, headers = await api.call(
        "POST", "/api/chat", json={"session_id": "a", "message": "more"}, headers=mine
    )

    assert (status, body["code"]) == (429, "quota_exceeded")
    assert 0 < int(headers["Retry-After"]) <= 86400
    assert body["resets_at"].endswith("T00:00:00.000Z")
    _, usage, _ = await api.get("/api/usage", headers=mine)
    assert usage["exhausted_until"] == body["resets_at"]
    assert usage["quotas"] == [
        {
            "of": "visitor",
            "period": "day",
            "limit_tokens": 20,
            "used_tokens": 32,
            "left_tokens": 0,
            "resets_at": body["resets_at"],
        }
    ]
    _, metrics, _ = await api.get("/metrics")
    assert 'chatserver_refusals_total{code="quota_exceeded"} 1.0' in metrics
    assert (await api.get("/api/state?session_id=a", headers=mine))[0] == 200


async def test_the_tenant_s_numbers_are_shown_to_its_admins_only(serve: Serve) -> None:
    """They are the sum of other people's use; that they are used up is told to everybody."""
    api = await serve(quota_tenant_day_tokens=10)
    await add_user(api, "public", "root", scopes=frozenset({"admin"}))
    await add_user(api, "public", "ada")
    admin, user = await bearer(api, "root"), await bearer(api, "ada")
    await spend(api, user, "a", 20)
    reports = [(await api.get("/api/usage", headers=headers))[1] for headers in (admin, user)]

    assert [[q["of"] for q in report["quotas"]] for report in reports] == [["tenant"], []]
    assert reports[0]["quotas"][0]["used_tokens"] == 22
    assert reports[0]["exhausted_until"] == reports[1]["exhausted_until"] is not None


async def test_an_agent_that_tells_nothing_is_estimated(serve: Serve) -> None:
    """The embedded one, which every first start answers with."""
    api = await serve(no_docs=False, default_model="docs", docs_piece_seconds=0)
    await answered(api, "a", "What is a session?")
    _, body, _ = await api.get("/api/usage?session_id=a")

    assert body["total"]["estimated"]
    assert body["total"]["completion_tokens"] > 10


async def test_a_period_that_is_none_is_refused(api: Api) -> None:
    """With the field that is wrong."""
    status, body, _ = await api.get("/api/usage?period=year")

    assert (status, body["errors"][0]["loc"]) == (422, ["period"])


async def test_a_hostile_endpoints_numbers_poison_no_sum_and_no_quota(serve: Serve) -> None:
    """What cannot be true is estimated: nobody's quota is used up by it, nor left untouched."""
    numbers = (1e308, -5, 2**53, 2**63 - 1, 2**63, 10**30, "12", None, {"a": 1}, [2**63], True)
    hostile = [{"prompt_tokens": n, "completion_tokens": n, "total_tokens": n} for n in numbers]
    hostile += [
        {"prompt_tokens": 1, "completion_tokens": 1, "completion_tokens_details": {"reasoning_tokens": 2**63 - 1}},
        {"prompt_tokens": 1, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 1e308}},
    ]
    async with running_upstream() as upstream:
        bad = ModelConfig(id="bad", base_url=upstream.base_url, model="bad", retries=0)
        api = await serve(models=(bad,), default_model="bad", quota_visitor_day_tokens=10_000_000)
        mine = await visitor(api)
        for usage in hostile:
            upstream.answers = [stream(text("some words"), finish(), chunk(choices=[], usage=usage), DONE)]
            said = {"session_id": "s", "message": "hello"}
            status, answer, _ = await api.call("POST", "/api/chat", json=said, headers=mine)
            assert status == 200, answer
            await ended_as(api, "s", mine)
        _, state, _ = await api.get("/api/state?session_id=s", headers=mine)
        assert {m["status"] for m in state["messages"]} == {"completed"}
        for path in ("/api/usage", "/api/usage?session_id=s"):
            status, body, _ = await api.get(path, headers=mine)
            assert status == 200
            total = body["total"]
            assert (total["turns"], total["estimated"]) == (len(hostile), True)
            assert all(type(n) is int for name, n in total.items() if name != "estimated")
            assert len(hostile) < total["total_tokens"] < 1000 * len(hostile)
            assert total["reasoning_tokens"] <= total["completion_tokens"]
            assert total["cached_tokens"] <= total["prompt_tokens"]
