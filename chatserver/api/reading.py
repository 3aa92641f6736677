"""Reading requests: body, session id, caller. Whatever is wrong with one becomes an error of the tree.

A body is read only after its headers were found good, within a time and a size (aiohttp has neither a body timeout
nor a decompression limit of its own that fit).
"""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any, TypeVar

import orjson
from aiohttp import web
from pydantic import BaseModel, ValidationError

from chatserver.agents import json_border
from chatserver.api.field_words import words
from chatserver.api.request_keys import CALLER
from chatserver.api.services import services
from chatserver.errors import (
    FieldError,
    InvalidFields,
    InvalidRequest,
    SlowRequest,
    TooLarge,
    UnsupportedMedia,
)
from chatserver.events import Position
from chatserver.rate_limit import counted_address
from chatserver.session_service import Caller

VISITOR_COOKIE = "chatserver_visitor"
SESSION_COOKIE = "session_id"
SESSION_HEADER = "X-Session-ID"
# pydantic names every wrong item of a long list; a person reads the first few.
MAX_FIELD_ERRORS = 20


M = TypeVar("M", bound=BaseModel)


async def read_body(request: web.Request, model: type[M]) -> M:
    """The request's JSON body as `model`; an absent body is an empty object.

    Raises: UnsupportedMedia, TooLarge, SlowRequest, InvalidRequest (`invalid_json`), InvalidFields.
    """
    settings = services(request).settings
    if not request.body_exists:
        return parse(model, {})
    if request.content_type != "application/json" or "Content-Encoding" in request.headers:
        raise UnsupportedMedia()
    if (request.content_length or 0) > settings.max_body_bytes:
        raise TooLarge(f"a body may have {settings.max_body_bytes} bytes")
    try:
        if request.content.is_eof():  # a small body nearly always comes with its head
            raw = await request.read()
        else:
            async with asyncio.timeout(settings.body_timeout_seconds):
                raw = await request.read()
    except TimeoutError:
        raise SlowRequest(f"the body did not arrive within {settings.body_timeout_seconds:g} s") from None
    except web.HTTPRequestEntityTooLarge:
        raise TooLarge(f"a body may have {settings.max_body_bytes} bytes") from None
    except web.RequestPayloadError:
        raise InvalidRequest("the body is not what its headers say") from None
    return parse(model, load_json(raw) if raw else {})


def load_json(raw: bytes) -> Any:
    """JSON as RFC 8259 has it: UTF-8, no NaN, no lone surrogates, not too deep to be written. Raises InvalidRequest."""
    try:
        return json_border.shallow(orjson.loads(raw), raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not JSON: {error.msg} (byte {error.pos})", code="invalid_json") from None
    except ValueError as error:
        raise InvalidRequest(f"the body is {error}", code="invalid_json") from None


def parse(model: type[M], value: Any, loc: tuple[str, ...] = ()) -> M:
    """Validate; raises InvalidFields with the place of every wrong field."""
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object", code="invalid_json")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise InvalidFields(
            [
                FieldError((*loc, *e["loc"]), words(e, model))
                for e in error.errors(include_input=False)[:MAX_FIELD_ERRORS]
            ]
        ) from None


def read_query(request: web.Request, model: type[M]) -> M:
    """The query string as `model`; of a name that stands in it twice the last counts. Raises: InvalidFields."""
    return parse(model, dict(request.query))


def explicit_session_id(request: web.Request, in_body: str | None = None) -> str | None:
    """The session id that the request itself names (spec S2): path, body, query, header; None where it names none.

    Raises: InvalidRequest (`session_id_conflict`) where two places disagree.
    """
    explicit = [
        request.match_info.get("session_id"),
        in_body,
        *request.query.getall("session_id", []),
        *request.headers.getall(SESSION_HEADER, []),
    ]
    given = [value for value in explicit if value is not None]
    if any(value != given[0] for value in given):
        raise InvalidRequest("the request names two different sessions", code="session_id_conflict")
    return given[0] if given else None


def session_id_of(request: web.Request, in_body: str | None = None) -> str | None:
    """The session id of `explicit_session_id`, and where the request names none that of its cookie."""
    explicit = explicit_session_id(request, in_body)
    return cookie_of(request, SESSION_COOKIE) if explicit is None else explicit


def cookie_of(request: web.Request, name: str) -> str | None:
    """The value of the request's cookie of that name, as it stands there; of several the last.

    aiohttp's own reader makes an object of every cookie: a header of 16 KB, which anybody can send, took it 10 ms.
    """
    header, found = request.headers.get("Cookie", ""), None
    if name in header:
        for part in header.split(";"):
            key, equals, value = part.partition("=")
            if equals and key.strip() == name:
                found = value.strip()
    return found


def caller_of(request: web.Request) -> Caller:
    """Who asks; chatserver.api.identity found out before the handler began."""
    return request[CALLER]


def address_of(request: web.Request) -> str:
    """The client's address. Each proxy appends to X-Forwarded-For whom it was asked by: that counts from a trusted one
    only, so what stands further left than the first entry that is not trusted is nobody's word but the client's."""
    address, trusted = request.remote or "unknown", services(request).settings.trusted_proxies
    if address not in trusted:
        return address
    for entry in reversed(",".join(request.headers.getall("X-Forwarded-For", [])).split(",")):
        try:
            address = str(ipaddress.ip_address(entry.strip()))
        except ValueError:
            break
        if address not in trusted:
            break
    return address


def network_of(request: web.Request) -> str:
    """What limits count the client's address as."""
    return counted_address(address_of(request))


def is_secure(request: web.Request) -> bool:
    """Whether the browser came by TLS: to us, or to a trusted proxy that says so."""
    if (request.remote or "") in services(request).settings.trusted_proxies:
        return request.headers.get("X-Forwarded-Proto", "").rpartition(",")[2].strip().lower() == "https"
    return request.secure


def resume_point(request: web.Request) -> Position | None:
    """Where a stream is to resume (spec T3). Raises: InvalidRequest (`bad_event_id`)."""
    text = request.headers.get("Last-Event-ID", "") or request.query.get("last_event_id", "")
    return Position.parse(text) if text else None


def wants_minimal(request: web.Request) -> bool:
    """`Prefer: return=minimal` (RFC 7240 §4.2)."""
    if "Prefer" not in request.headers:
        return False
    return any(
        part.strip().lower() == "return=minimal"
        for header in request.headers.getall("Prefer", [])
        for part in header.split(",")
    )
