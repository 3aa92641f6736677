"""Answers held to the API's description: whatever a test asks, its answer has to be one that is described."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator

from chatserver.api.openapi import document
from chatserver.api.refusals import IDENTITY, refusals
from chatserver.api.route import Route
from chatserver.api.routes import ROUTES

# What an address is answered with that is none, or has no such method (`OPTIONS` is the browser's question for CORS).
# Who has to log in is told so first: what there is and what is not is for those who are known.
OF_NO_ROUTE = IDENTITY | {(404, "not_found"), (405, "method_not_allowed"), (403, "cross_site"), (421, "wrong_host")}


@cache
def description() -> dict[str, Any]:
    """The description, stricter than it is published: clients have to bear fields that they do not know, the server may
    not make any up."""
    described = document(ROUTES)
    _close(described["components"]["schemas"])
    return described


def _close(schema: Any) -> None:
    if isinstance(schema, dict):
        if "properties" in schema and schema.get("type") == "object":
            schema.setdefault("additionalProperties", False)
        for value in schema.values():
            _close(value)
    elif isinstance(schema, list):
        for value in schema:
            _close(value)


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], Route], ...]:
    return tuple(
        (re.compile(re.sub(r"\{(\w+)(?::([^{}]+))?\}", lambda m: m[2] or "[^/]+", route.path)), route)
        for route in ROUTES
    )


def route_of(method: str, path: str) -> Route | None:
    """The line of the URL table that answers this."""
    method = "GET" if method == "HEAD" else method
    return next((route for pattern, route in _patterns() if route.method == method and pattern.fullmatch(path)), None)


@cache
def _validator(pointer: str) -> Draft202012Validator:
    schema = {"$ref": pointer, "components": description()["components"]}
    return Draft202012Validator(schema)


@cache
def _inline(path: str, method: str, status: str, kind: str) -> Draft202012Validator:
    responses = description()["paths"][path][method]["responses"]
    schema = responses[status]["content"][kind]["schema"]
    return Draft202012Validator(schema | {"components": description()["components"]})


def check(method: str, path: str, status: int, kind: str, body: Any) -> None:
    """Fail where this JSON answer is not what the description says of its route.

    Args:
        path: without query, as asked; of no route where it is the router's own 404.
        kind: the media type.
    """
    route = route_of(method, path)
    if status >= 400:
        assert kind == "application/problem+json", f"{method} {path}: {status} as {kind}"
        _hold(_validator("#/components/schemas/Problem"), body, f"{method} {path}: {status}")
        told = refusals(route) if route is not None else OF_NO_ROUTE
        assert (status, body["code"]) in told, f"{method} {path}: {status} {body['code']} is not described"
        return
    assert route is not None, f"{method} {path} is answered {status}, and is no route"
    assert status in route.statuses, f"{method} {route.path} answers {status}, which is not described"
    described_path = re.sub(r"\{(\w+):[^{}]+\}", r"{\1}", route.path)
    validator = _inline(described_path, route.method.lower(), str(status), kind)
    _hold(validator, body, f"{method} {route.path}: {status}")


def check_event(body: Any, *, states: bool = False) -> None:
    """Fail where this is not an event of a stream.

    Args:
        states: the stream is one of whole states, on which there are pings and goodbyes besides.
    """
    whole_state = states and not (isinstance(body, dict) and body.get("type") in ("ping", "goodbye"))
    name = "ChatState" if whole_state else "StreamEvent"
    _hold(_validator(f"#/components/schemas/{name}"), body, f"a {name}")


def _hold(validator: Draft202012Validator, body: Any, what: str) -> None:
    wrong = next(validator.iter_errors(body), None)
    assert wrong is None, f"{what} is not as described, at {wrong.json_path}: {wrong.message[:500]}"
