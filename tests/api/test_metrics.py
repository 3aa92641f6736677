"""The metrics over HTTP: what they tell, to whom, and that docs and dashboard know them."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.api.conftest import Api, Serve
from tests.api.people import add_user, bearer, disable_user
from tests.docs_source import DOCS, rows, section

DASHBOARD = DOCS / "operations" / "grafana-dashboard.json"


async def scraped(api: Api) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample, by name and labels."""
    status, text, headers = await api.get("/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def answered(api: Api, session_id: str, message: str, **body: Any) -> None:
    """A turn, waited for."""
    status, _, _ = await api.post("/api/chat", session_id=session_id, message=message, **body)
    assert status == 200
    await ended(api, session_id)


async def ended(api: Api, session_id: str) -> None:
    """Until the session rests."""
    async with api.http.get(api.url(f"/api/chat/stream?session_id={session_id}&format=state")) as stream:
        async for line in stream.content:
            if line.startswith(b"data:") and b'"is_processing":false' in line:
                return


def value(samples: dict[tuple[str, frozenset[tuple[str, str]]], float], name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


async def test_turns_tokens_and_times_are_told(api: Api) -> None:
    """By outcome, code, model and kind."""
    await answered(api, "a", "/say x\n/tokens 5")
    await answered(api, "b", "/fail made_up")
    await api.post("/api/chat", session_id="c", message="/hang")
    await api.post("/api/interrupt", session_id="c")
    samples = await scraped(api)

    assert value(samples, "chatserver_turns_started_total") == 3
    for outcome in ("completed", "failed", "interrupted"):
        assert value(samples, "chatserver_turns_ended_total", outcome=outcome) == 1
    assert value(samples, "chatserver_turn_failures_total", code="made_up") == 1
    assert value(samples, "chatserver_tokens_total", model="scripted", kind="completion") == 6
    assert value(samples, "chatserver_first_token_seconds_count", model="scripted") == 1
    assert value(samples, "chatserver_turns_running") == 0
    assert value(samples, "chatserver_http_requests_total", method="POST", route="/api/chat", status="200") == 3


async def test_evictions_and_commits_are_counted(serve: Serve) -> None:
    """A session that leaves memory for want of room, and what is committed for each message."""
    api = await serve(max_live_sessions=1, eviction_interval_seconds=0.02)
    assert value(await scraped(api), "chatserver_evictions_total") == 0
    for name in ("a", "b", "c"):
        before = value(await scraped(api), "chatserver_store_commits_total")
        await api.post("/api/system", session_id=name, message="x")
        assert value(await scraped(api), "chatserver_store_commits_total") > before
    async with asyncio.timeout(60):
        while value(samples := await scraped(api), "chatserver_evictions_total") < 2:
            pass
    assert value(samples, "chatserver_evictions_total") == 2
    assert value(samples, "chatserver_sessions_live") == 1


async def test_streams_sessions_and_queues_are_told_as_they_are_now(api: Api) -> None:
    """Gauges go down again."""
    await api.post("/api/chat", session_id="a", message="/hang")
    await api.post("/api/chat", session_id="a", message="later")
    async with api.http.get(api.url("/api/chat/stream?session_id=a")) as stream:
        await stream.content.readuntil(b"\n\n")
        during = await scraped(api)
    await api.post("/api/interrupt", session_id="a", clear_queue=True)
    after = await scraped(api)

    for name in ("streams_open", "turns_running", "turns_queued", "sessions_live"):
        assert value(during, f"chatserver_{name}") == 1, name
    for name in ("turns_running", "turns_queued"):
        assert value(after, f"chatserver_{name}") == 0, name
    assert value(during, "chatserver_streams_opened_total") == 1


async def test_refusals_at_a_limit_are_counted_by_code(serve: Serve) -> None:
    """What an operator raises a limit for."""
    api = await serve(session_creations_per_minute=1)
    for _ in range(3):
        await api.post("/api/chat", message="hello")
    samples = await scraped(api)

    assert value(samples, "chatserver_refusals_total", code="session_creation_limited") == 2


async def test_paths_and_methods_of_strangers_make_no_labels(api: Api) -> None:
    """Labels are bounded by the URL table, whatever is asked for."""
    for number in range(5):
        await api.get(f"/api/nothing-{number}")
        await api.call("PROPFIND", f"/api/queue/canary-{number}")
    samples = await scraped(api)
    counted = {
        (labels["method"], labels["route"])
        for (name, pairs), _ in samples.items()
        if name == "chatserver_http_requests_total"
        for labels in [dict(pairs)]
    }

    assert counted == {("GET", "-"), ("OTHER", "-")}


# --- who may read them ---


@pytest.mark.parametrize("path", ["/metrics", "/api/admin/metrics"])
@pytest.mark.parametrize(
    ("settings", "headers", "status"),
    [
        ({}, {}, 200),
        ({"metrics_from": ()}, {}, 403),
        ({"metrics_from": ("10.0.0.0/8",)}, {}, 403),
        # A proxy on this machine that nobody has declared: everybody behind it has its address.
        ({}, {"X-Forwarded-For": "127.0.0.1"}, 403),
        ({}, {"Forwarded": "for=127.0.0.1"}, 403),
        ({}, {"X-Real-IP": "127.0.0.1"}, 403),
        ({}, {"Via": "1.1 proxy"}, 403),
        # A declared one tells who asks; what its client claims stands before its own entry.
        ({"trusted_proxies": ("127.0.0.1",)}, {"X-Forwarded-For": "203.0.113.9"}, 403),
        ({"trusted_proxies": ("127.0.0.1",)}, {"X-Forwarded-For": "127.0.0.1, 203.0.113.9"}, 403),
        ({"trusted_proxies": ("127.0.0.1",)}, {"X-Forwarded-For": "no address"}, 403),
        (
            {"trusted_proxies": ("127.0.0.1",), "metrics_from": ("203.0.113.0/24",)},
            {"X-Forwarded-For": "203.0.113.9"},
            200,
        ),
    ],
)
async def test_only_operators_read_them(
    path: str, settings: dict[str, Any], headers: dict[str, str], status: int, serve: Serve
) -> None:
    """By the address that really asks."""
    api = await serve(**settings)
    answer = await api.get(path, headers=headers)

    assert answer[0] == status
    if status == 403:
        assert answer[1]["code"] == "operators_only"


async def test_of_two_forwarded_headers_the_proxys_own_counts(serve: Serve) -> None:
    """Some proxies add a line of their own behind the one that the client sent."""
    api = await serve(trusted_proxies=("127.0.0.1",))
    headers = [("X-Forwarded-For", "127.0.0.1"), ("X-Forwarded-For", "203.0.113.9")]

    assert (await api.get("/metrics", headers=headers))[0] == 403


@pytest.mark.parametrize("auth", ["optional", "required"])
async def test_the_scope_admin_reads_them_from_anywhere(auth: str, serve: Serve) -> None:
    """Another user does not, nor an admin who is disabled; with `auth = required` a listed address needs no token."""
    api = await serve(metrics_from=(), auth=auth)
    await add_user(api, "public", "root", scopes=frozenset({"admin"}))
    await add_user(api, "public", "ada")
    admin, user = await bearer(api, "root"), await bearer(api, "ada")
    for path in ("/metrics", "/api/admin/metrics"):
        assert (await api.get(path, headers=admin))[0] == 200
        assert (await api.get(path, headers=user))[0] == 403
        assert (await api.get(path))[0] == (401 if auth == "required" else 403)
    await disable_user(api, "public", "root")
    assert (await api.get("/metrics", headers=admin))[0] == 401


async def test_a_listed_address_needs_no_token_where_everybody_else_does(serve: Serve) -> None:
    """Prometheus has none."""
    api = await serve(auth="required")

    assert (await api.get("/metrics"))[0] == 200


# --- the operations page's data ---


async def test_the_present_and_the_past_have_the_documented_shape(api: Api) -> None:
    """Every column is as long as the time it stands beside."""
    await answered(api, "a", "/say x")
    api.server.services.history.sample()
    status, body, _ = await api.get("/api/admin/metrics")

    assert status == 200
    assert body["now"]["turns_completed"] == 1
    assert body["history"]["turns_completed"] == [1]
    assert {len(column) for column in body["history"].values()} == {1}
    assert body["history"]["time"][0] <= body["time"]
    status, body, _ = await api.get(f"/api/admin/metrics?since={body['time'] + 1}")
    assert body["history"]["time"] == []


@pytest.mark.parametrize("since", ["yesterday", "nan", "inf", "1e999"])
async def test_a_moment_that_is_none_is_refused(since: str, api: Api) -> None:
    """And not taken for all of it."""
    status, body, _ = await api.get("/api/admin/metrics", params={"since": since})

    assert (status, body["code"]) == (422, "invalid_fields")


# --- docs and dashboard ---


async def test_every_metric_is_documented_and_no_other(api: Api) -> None:
    """By the name that it is queried by."""
    _, text, _ = await api.get("/metrics")
    told = {
        f"{name}_total" if kind == "counter" and not name.endswith("_total") else name
        for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M)
    }

    assert told == set(rows(section("operations.md", "Which metrics are there?")))


async def test_the_dashboard_names_only_metrics_that_exist(api: Api) -> None:
    """And every counter and gauge of ours has its place on it."""
    documented = set(rows(section("operations.md", "Which metrics are there?")))
    dashboard = json.loads(DASHBOARD.read_text())
    named = {
        re.sub(r"_bucket$", "", name)
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"\b(?:chatserver|process)_\w+", target["expr"])
    }

    assert named <= documented
    missing = {name for name in documented - named if name.startswith("chatserver_")}
    assert missing == {"chatserver_info"}, "which the list of instances is made of"
    assert "chatserver_info" in dashboard["templating"]["list"][1]["query"]


async def test_openmetrics_is_given_to_who_asks_for_it(api: Api) -> None:
    """Newer Prometheus servers ask for it first."""
    async with api.http.get(
        api.url("/metrics"), headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    ) as response:
        assert response.content_type == "application/openmetrics-text"
        assert (await response.text()).endswith("# EOF\n")
