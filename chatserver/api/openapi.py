"""The API's description in OpenAPI 3.1, made from the URL table, the models of requests and the types of answers.

Invariants: it tells no more than the table does, so it cannot lag behind; the tests hold every answer that they get to
it. It is made when it is first asked for, once, in a thread: it takes some 40 ms.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from functools import cache
from typing import Any

import orjson
from aiohttp import web
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode
from pydantic_core import core_schema

import chatserver
from chatserver.api import answer_schemas, problems
from chatserver.api.identity import TOKEN_COOKIE
from chatserver.api.reading import SESSION_HEADER, VISITOR_COOKIE
from chatserver.api.refusals import refusals
from chatserver.api.route import EVENT_STREAM, JSON, Route
from chatserver.events import OPTIONAL, Event
from chatserver.session_service import SESSION_ID

TABLE: web.AppKey[tuple[Route, ...]] = web.AppKey("routes", tuple[Route, ...])

_REF = "#/components/schemas/{model}"
_RESPONSE_REF = "#/components/responses/{name}"
# A name in a path, and the pattern that aiohttp's router wants of it.
_IN_PATH = re.compile(r"\{(\w+)(:[^{}]+)?\}")
# A handler's docstring begins with its route: `GET /health`: what it does.
_SUMMARY = re.compile(r"`[^`]+`(?:: )?(.*?)\s*\Z", re.S)
_ID = {"type": "string", "pattern": f"^{SESSION_ID.pattern}$"}
_EVENTS: dict[str, Any] = {cls.__name__: cls for cls in Event.__args__}


class _Schemas(GenerateJsonSchema):
    """Without titles, which would repeat the names; what an answer has by default, it has."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def field_is_required(
        self,
        field: core_schema.ModelField | core_schema.DataclassField | core_schema.TypedDictField,
        total: bool,
    ) -> bool:
        if self.mode == "serialization" and field["type"] == "dataclass-field":
            return True  # orjson writes every field of a record
        return super().field_is_required(field, total)


async def openapi(request: web.Request) -> web.Response:
    """`GET /api/openapi.json`: this description of the API."""
    body = await asyncio.to_thread(encoded, request.app[TABLE])
    return web.Response(body=body, content_type=JSON, headers={"Cache-Control": "no-cache"})


@cache
def encoded(routes: tuple[Route, ...]) -> bytes:
    """The description of these routes as JSON."""
    return orjson.dumps(document(routes))


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The description of these routes."""
    schemas, components = _schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(_IN_PATH.sub(r"{\1}", route.path), {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "chatserver",
            "version": chatserver.__version__,
            "summary": "A multi-tenant session server for chat agents.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {
                _response_name(status, codes): _refusal(status, codes)
                for status, codes in sorted({each for route in routes for each in _refused(route)})
            },
            "securitySchemes": {
                "visitor": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": VISITOR_COOKIE,
                    "description": "A browser without an account, known by the cookie that the page sets.",
                },
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "A user, by the token of a login here or at the configured issuer.",
                },
                "login": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": TOKEN_COOKIE,
                    "description": "A user, by the cookie that a login sets.",
                },
            },
        },
        # Without any, a caller is nobody, and can use the sessions that nobody owns.
        "security": [{}, {"visitor": []}, {"token": []}, {"login": []}],
    }


def _schemas(routes: Iterable[Route]) -> tuple[dict[tuple[int, JsonSchemaMode], Any], dict[str, Any]]:
    """The schema of each type that routes name, by its `id` and whether it is read or written, and the components."""
    wanted: dict[tuple[int, JsonSchemaMode], Any] = {
        (id(answer_schemas.Problem), "serialization"): answer_schemas.Problem
    }
    for route in routes:
        if route.body is not None:
            wanted[id(route.body), "validation"] = route.body
        if route.answer is not None:
            wanted[id(route.answer), "serialization"] = route.answer
    generator = _Schemas(ref_template=_REF)
    found, definitions = generator.generate_definitions(
        [(key, key[1], TypeAdapter(kind).core_schema) for key, kind in wanted.items()]
    )
    components: dict[str, Any] = {str(name): schema for name, schema in definitions.items()}
    for name, cls in _EVENTS.items():
        if name in components:
            _finish_event(components[name], cls)
    return {key: schema for (key, _), schema in found.items()}, components


def _finish_event(schema: dict[str, Any], cls: Any) -> None:
    """What `events.wire` does to an event: its type comes first, and what it has nothing to tell of stays away."""
    schema["properties"] = {"type": {"const": cls.type}, **schema["properties"]}
    optional = {f.name for f in fields(cls) if f.name in OPTIONAL and f.default is None}
    for name in optional:
        schema["properties"][name] = _not_null(schema["properties"][name])
    schema["required"] = ["type", *(name for name in schema["required"] if name not in optional)]


def _operation(route: Route, schemas: dict[tuple[int, JsonSchemaMode], Any]) -> dict[str, Any]:
    name = getattr(route.handler, "__name__", "")
    module = getattr(route.handler, "__module__", "").rpartition(".")[2]
    operation: dict[str, Any] = {
        "operationId": f"{module}_{name}",
        "summary": summary(route),
        "tags": [module],
        "parameters": _parameters(route, schemas),
        "responses": {str(status): _success(route, schemas) for status in route.statuses}
        | {
            str(status): {"$ref": _RESPONSE_REF.format(name=_response_name(status, codes))}
            for status, codes in _refused(route)
        },
    }
    if route.body is not None:
        operation["requestBody"] = {
            "required": any(field.is_required() for field in route.body.model_fields.values()),
            "content": {JSON: {"schema": schemas[id(route.body), "validation"]}},
        }
    if not route.path.startswith("/api/"):
        operation["security"] = []
    return operation


def summary(route: Route) -> str:
    """What the route's handler does, in its own words; empty where it says nothing."""
    found = _SUMMARY.match((route.handler.__doc__ or "").partition("\n\n")[0])
    text = " ".join(found[1].split()).rstrip(".") if found is not None else ""
    return text[:1].upper() + text[1:]


def _success(route: Route, schemas: dict[tuple[int, JsonSchemaMode], Any]) -> dict[str, Any]:
    told = "Server-Sent Events; the schema is that of an event's data." if route.content == EVENT_STREAM else "Done."
    schema = schemas[id(route.answer), "serialization"] if route.answer is not None else {"type": "string"}
    further = {kind: {"schema": {"type": "string"}} for kind in route.also}
    return {"description": told, "content": {route.content: {"schema": schema}, **further}}


def _refused(route: Route) -> list[tuple[int, tuple[str, ...]]]:
    """The statuses of the route's refusals in order, each with its codes."""
    by_status: dict[int, list[str]] = {}
    for status, code in sorted(refusals(route)):
        by_status.setdefault(status, []).append(code)
    return [(status, tuple(codes)) for status, codes in by_status.items()]


def _response_name(status: int, codes: tuple[str, ...]) -> str:
    """Says what it is: routes that can be refused with the same codes have one response together."""
    return "-".join((str(status), *codes))


def _refusal(status: int, codes: tuple[str, ...]) -> dict[str, Any]:
    """A response that is a problem with one of these codes."""
    schema = {"$ref": _REF.format(model="Problem"), "properties": {"code": {"enum": list(codes)}}}
    response: dict[str, Any] = {
        "description": " or ".join(f"`{code}`" for code in codes),
        "content": {problems.CONTENT_TYPE: {"schema": schema}},
    }
    if headers := problems.HEADERS.get(status):
        response["headers"] = {name: {"required": True, "schema": {"type": kind}} for name, kind in headers.items()}
    return response


def _parameters(route: Route, schemas: dict[tuple[int, JsonSchemaMode], Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name, _ in _IN_PATH.findall(route.path):
        schema: dict[str, Any] = _ID if name in ("session_id", "project_id") else {"type": "string", "minLength": 1}
        found.append({"name": name, "in": "path", "required": True, "schema": schema})
    if route.query is not None:
        found += _query(route.query)
    if _names_a_session(route):
        found.append(_header(SESSION_HEADER, _ID, "Which session, where nothing else in the request says so."))
    if route.content == EVENT_STREAM:
        found.append(_header("Last-Event-ID", {"type": "string"}, "Where to go on after the connection was lost."))
    if route.answer in (answer_schemas.State, answer_schemas.StateAfterChat):
        found.append(_header("Prefer", {"type": "string"}, "`return=minimal` leaves the messages out."))
    return found


def _query(model: type[BaseModel]) -> list[dict[str, Any]]:
    properties = model.model_json_schema(schema_generator=_Schemas)["properties"]
    return [
        {
            "name": name,
            "in": "query",
            "required": model.model_fields[name].is_required(),
            "description": schema.pop("description", ""),
            "schema": _not_null(schema),
        }
        for name, schema in properties.items()
    ]


def _not_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without null, which a query string cannot say."""
    others = [each for each in schema.get("anyOf", []) if each != {"type": "null"}]
    if not others:
        return schema
    rest = {name: value for name, value in schema.items() if name not in ("anyOf", "default")}
    return rest | (others[0] if len(others) == 1 else {"anyOf": others})


def _names_a_session(route: Route) -> bool:
    return any("session_id" in model.model_fields for model in (route.body, route.query) if model is not None)


def _header(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}
