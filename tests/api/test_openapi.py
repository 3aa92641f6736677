"""The API's description: complete, valid, and true of what is answered."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from chatserver.api.openapi import document, summary
from chatserver.api.refusals import refusals
from chatserver.api.route import EVENT_STREAM, JSON, Route
from chatserver.api.routes import ROUTES
from chatserver.events import Event
from tests.api import described
from tests.api.conftest import Api
from tests.docs_source import DOCS, rows, section
from tests.server import ROOT
from tools.openapi import types


@pytest.fixture(scope="module")
def document_() -> dict[str, Any]:
    return document(ROUTES)


def _path(route: Route) -> str:
    return re.sub(r"\{(\w+):[^{}]+\}", r"{\1}", route.path)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_is_described(route: Route, document_: dict[str, Any]) -> None:
    """With a summary, every name of its path, and the type of its answer."""
    operation = document_["paths"][_path(route)][route.method.lower()]

    assert operation["summary"], f"{route.handler.__name__} has no docstring that says what it does"
    in_path = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
    assert in_path == set(re.findall(r"\{(\w+)", route.path))
    if route.path.startswith("/api/") and route.content in (JSON, EVENT_STREAM):
        assert route.answer is not None, "its answer has no type: see chatserver/api/answer_schemas.py"
    assert summary(route) == operation["summary"]


def test_nothing_else_is_described(document_: dict[str, Any]) -> None:
    """A route that has gone is not described any more, and no two have one name."""
    told = {(method.upper(), path) for path, methods in document_["paths"].items() for method in methods}
    names = [operation["operationId"] for methods in document_["paths"].values() for operation in methods.values()]

    assert told == {(route.method, _path(route)) for route in ROUTES}
    assert len(set(names)) == len(names)


def test_every_body_that_is_read_is_described() -> None:
    """A handler that reads a body names its model in the URL table, and no other does."""
    for route in ROUTES:
        if route.path.startswith("/api/"):
            code = route.handler.__code__  # type: ignore[attr-defined]
            assert ("read_body" in code.co_names) == (route.body is not None), f"{route.method} {route.path}"


def test_the_description_is_json_schema_throughout(document_: dict[str, Any]) -> None:
    """Every schema is a schema, and every reference leads to one."""
    schemas = document_["components"]["schemas"]

    for name, schema in schemas.items():
        Draft202012Validator.check_schema(schema)
        for reference in re.findall(r"'\$ref': '([^']+)'", str(schema)):
            assert reference.removeprefix("#/components/schemas/") in schemas, f"{name} refers to {reference}"
    assert {cls.__name__ for cls in Event.__args__} <= set(schemas)


def test_a_streams_events_are_described_by_name(document_: dict[str, Any]) -> None:
    """Each with a type of its own; those with an id apart from those that only tell of the connection (spec T9)."""
    schemas = document_["components"]["schemas"]

    def named(union: str) -> set[str]:
        return {each["$ref"].rpartition("/")[2] for each in schemas[union]["anyOf"]}

    assert named("StreamEvent") == {"NumberedEvent", "ConnectionEvent"}
    assert named("ConnectionEvent") == {"Ping", "Goodbye"}
    assert named("NumberedEvent") == {"Snapshot", *(cls.__name__ for cls in Event.__args__)}
    every = named("NumberedEvent") | named("ConnectionEvent")
    assert len({schemas[name]["properties"]["type"]["const"] for name in every}) == len(every)


def _new_event(schemas: dict[str, Any]) -> None:
    schemas["NumberedEvent"]["anyOf"].append({"$ref": "#/components/schemas/Problem"})


def _lost_field(schemas: dict[str, Any]) -> None:
    del schemas["Message"]["properties"]["siblings"]


@pytest.mark.parametrize("change", [None, _new_event, _lost_field])
def test_the_pages_types_are_those_of_the_description(change: Callable[[dict[str, Any]], None] | None) -> None:
    """What `make protocol` makes stands in web/src/lib/protocol.ts; an event more or a field less is noticed."""
    if not (ROOT / "web/node_modules/openapi-typescript").exists():
        pytest.skip("the page's packages are not installed: make web")
    described = deepcopy(types())
    if change is not None:
        change(described["components"]["schemas"])

    command = [sys.executable, "../tools/npm.py", "run", "--silent", "protocol", "--", "--check"]
    checked = subprocess.run(
        command, cwd=ROOT / "web", input=json.dumps(described), capture_output=True, text=True, timeout=300
    )

    told = f"run `make protocol`\n{checked.stdout}{checked.stderr}"
    assert (checked.returncode == 0) is (change is None), told


async def test_the_server_gives_the_description_and_a_page_of_it(api: Api, document_: dict[str, Any]) -> None:
    """The page names every route, and can load or run nothing."""
    status, body, headers = await api.get("/api/openapi.json")
    assert (status, body["openapi"], headers["Content-Type"]) == (200, "3.1.1", JSON)
    assert body == document_

    status, page, headers = await api.get("/docs")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert not re.search(r"<(script|img|link|iframe)|(src|href)=\"(?![#/])|\son\w+=", page)
    for path, methods in document_["paths"].items():
        for method in methods:
            assert f'<span class="method">{method.upper()}</span> <code>{path}</code>' in page


async def test_an_answer_that_is_not_as_described_fails_the_test_that_asked(api: Api) -> None:
    """The check of every answer (conftest.py) sees a field too many, one too few and a wrong type."""
    _, state, _ = await api.post("/api/chat", session_id="one", message="/say hello")

    for wrong in (
        state | {"secret": 1},
        {name: value for name, value in state.items() if name != "queue"},
        state | {"message_count": "2"},
        state | {"messages": [state["messages"][0] | {"role": "robot"}]},
    ):
        with pytest.raises(AssertionError, match="not as described"):
            described.check("POST", "/api/chat", 200, JSON, wrong)
    with pytest.raises(AssertionError, match="not described"):
        described.check("POST", "/api/chat", 204, JSON, state)


def test_every_refusal_is_one_that_can_be(document_: dict[str, Any]) -> None:
    """Each code has the status that its error is answered with (errors.md, which a test holds to the source), and each
    code of a request is some route's."""
    documented = {
        (int(status), code)
        for code, cells in rows(section("errors.md", "Which codes can a request be answered with?")).items()
        for status in re.findall(r"\d{3}", cells[0])
    }
    # Of no route: names of classes that all have narrower ones, the command line's, and what is no HTTP or no address.
    others = {
        (400, "invalid_request"),
        (403, "forbidden"),
        (404, "not_found"),
        (404, "user_not_found"),
        (405, "method_not_allowed"),
        (408, "request_timeout"),
        (409, "conflict"),
        (413, "too_large"),
        (429, "rate_limited"),
        (431, "too_large"),
        (500, "error"),
        (503, "unavailable"),
    }
    told = {refusal for route in ROUTES for refusal in refusals(route)}

    assert told <= documented
    assert documented - told <= others


def test_the_description_lists_the_refusals_of_each_route(document_: dict[str, Any]) -> None:
    """By status, as problems with one of the codes; and nothing is left to a `default`."""
    for route in ROUTES:
        responses = document_["paths"][_path(route)][route.method.lower()]["responses"]
        told = set()
        for status, response in responses.items():
            if "$ref" in response:
                found = document_["components"]["responses"][response["$ref"].rpartition("/")[2]]
                schema = found["content"]["application/problem+json"]["schema"]
                told |= {(int(status), code) for code in schema["properties"]["code"]["enum"]}
        assert told == refusals(route)
        assert set(responses) == {str(status) for status in (*route.statuses, *(status for status, _ in told))}


def test_the_documented_errors_of_a_route_are_among_its_refusals() -> None:
    """http-api.md may tell the ones that matter; none that cannot happen."""
    text = (DOCS / "http-api.md").read_text()
    for route in ROUTES:
        if (heading := f"## {route.method} {_path(route)}") in text:
            described_ = text.split(f"{heading}\n")[1].split("\n## ")[0]
            for paragraph in re.findall(r"^Errors: .*?(?:\n\n|\Z)", described_, re.M | re.S):
                codes = {code for status, code in refusals(route)}
                wrong = set(re.findall(r"`([a-z]+_[a-z_]+)`", paragraph)) - codes - {"session_id", "auto_create"}
                assert not wrong, f"{heading}: {wrong}"
