"""What one may try with what is another's: requests that name another's session, message, turn, project or stream.

A row has the names of the other filled in: `{id}` a session, `{message}` one of its messages, `{project}` where it is;
`{mine}` is a session of the one who tries, `{word}` his word, `{stream}` his open stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Trespass:
    """One of them.

    Args:
        inside: the statuses that a caller of the owner's tenant may get.
        outside: the same for one of another tenant; None: not to be tried by one.
        making: the request makes a session, of the caller's own, where there is none of that name.
    """

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    inside: Sequence[int] = (403, 404)  # 404: its owner deletes it meanwhile
    outside: Sequence[int] | None = (404,)
    making: bool = False


_ID = {"session_id": "{id}"}
_IN_PROJECT = "/api/projects/{project}/sessions/{id}"
_TALK = {"message": "{word}"}


def _making(method: str, path: str, body: Mapping[str, Any] | None = None) -> Trespass:
    return Trespass(method, path, body, inside=(403,), outside=(200,), making=True)


def _writing(path: str, body: Mapping[str, Any]) -> Trespass:
    """What writes makes a lasting session in another tenant, of which the campaign's numbers would not know."""
    return Trespass("POST", path, body, inside=(403,), outside=None, making=True)


def _by_way_of_his(method: str, path: str, body: Mapping[str, Any] | None = None) -> Trespass:
    return Trespass(method, path, body, inside=(404, 409), outside=(404, 409))


TRESPASSES: Sequence[Trespass] = (
    # Another's session.
    _making("GET", "/api/state?session_id={id}"),
    _making("POST", "/api/interrupt", _ID),
    _making("POST", "/api/stream", {"stream": "{stream}", "add": ["{id}"]}),
    _making("POST", "/api/stream", {"stream": "{stream}", "add": ["{id}@1-0"]}),
    _writing("/api/chat", {**_ID, **_TALK}),
    _writing("/api/system", {**_ID, **_TALK}),
    _writing("/api/session/create", _ID),
    _writing("/api/mcp-command", {**_ID, "command": "list_servers"}),
    Trespass("GET", "/api/session?session_id={id}"),
    Trespass("GET", "/api/session/validate?session_id={id}", inside=(200,), outside=(200,)),
    Trespass("GET", "/api/session/model?session_id={id}"),
    Trespass("GET", "/api/messages?session_id={id}"),
    Trespass("GET", "/api/messages?session_id={id}&before={message}"),
    Trespass("GET", "/api/export?session_id={id}"),
    Trespass("GET", "/api/export?session_id={id}&format=markdown"),
    Trespass("GET", "/api/usage?session_id={id}"),
    Trespass("GET", "/api/llm/sessions/{id}?include_messages=true"),
    Trespass("GET", _IN_PROJECT),
    Trespass("GET", f"{_IN_PROJECT}/messages"),
    Trespass("GET", f"{_IN_PROJECT}/full"),
    Trespass("POST", f"{_IN_PROJECT}/messages", {"role": "user", "content": "{word}"}),
    Trespass("POST", "/api/session/refresh", _ID),
    Trespass("POST", "/api/messages/{message}/edit", {**_ID, **_TALK}),
    Trespass("POST", "/api/messages/{message}/regenerate", _ID),
    Trespass("PUT", "/api/messages/{message}/feedback", {**_ID, "rating": "up", "comment": "{word}"}),
    Trespass("POST", "/api/branch", {**_ID, "message_id": "{message}"}),
    Trespass("POST", "/api/fork", {**_ID, "message_id": "{message}"}),
    Trespass("PUT", "/api/session/model", {**_ID, "model": "scripted"}),
    Trespass("PUT", "/api/llm/sessions/{id}", {"session_name": "{word}"}),
    Trespass("PUT", _IN_PROJECT, {"title": "{word}"}),
    Trespass("DELETE", "/api/session?session_id={id}", inside=(403, 200), outside=(200,)),
    Trespass("DELETE", "/api/llm/sessions/{id}", inside=(403, 200), outside=(200,)),
    Trespass("DELETE", f"{_IN_PROJECT}?force=true"),
    # Another's message, by way of a session of one's own; 409 where a turn is running in that.
    _by_way_of_his("GET", "/api/messages?session_id={mine}&before={message}"),
    _by_way_of_his("POST", "/api/messages/{message}/edit", {"session_id": "{mine}", **_TALK}),
    _by_way_of_his("POST", "/api/messages/{message}/regenerate", {"session_id": "{mine}"}),
    _by_way_of_his("PUT", "/api/messages/{message}/feedback", {"session_id": "{mine}", "rating": "down"}),
    _by_way_of_his("POST", "/api/branch", {"session_id": "{mine}", "message_id": "{message}"}),
    _by_way_of_his("POST", "/api/fork", {"session_id": "{mine}", "message_id": "{message}"}),
    # Another's project: there is one of that name for everybody, with what is his own in it.
    Trespass("GET", "/api/projects/{project}/sessions?include_inactive=true", inside=(200,), outside=(200,)),
    Trespass("GET", "/api/projects/{project}/stats", inside=(200,), outside=(200,)),
)
