"""schemathesis against a running server: requests made from the API's description, and answers held to it.

Half of the requests are as described and half are wrong on purpose. Most come from somebody: a visitor, a user with a
token or with the cookie of a login, an operator of another tenant. What must hold: every one is answered, none with a
500, and every answer is as described: status, media type, headers and body, and of a stream its first events.
"""

from __future__ import annotations

import json
import random
import secrets
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import hypothesis
import requests
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from chatserver.api.commands import COMMANDS
from chatserver.api.route import EVENT_STREAM
from tests.api import described

ANSWER_SECONDS = 60.0
PROJECT = "fuzz"
PASSWORD = "correct horse battery"
CALLERS = ("visitor", "token", "cookie", "operator")
# Of each stream; where nothing happens the server's pings make them up.
EVENTS = 3
load_all_checks()
# That wrong requests are refused, and right ones are not, is not for a description to decide: rules about sessions,
# owners and limits stand behind it.
CONFORMANCE = CHECKS.get_by_names(
    [
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
    ]
)


@dataclass(frozen=True, slots=True)
class Identity:
    """What the requests of somebody carry."""

    headers: Mapping[str, str] = field(default_factory=dict)
    cookies: Mapping[str, str] = field(default_factory=dict)


class Fuzz:
    """One server under test.

    Args:
        base_url: of the server, which has the scripted agent and pings often.
        operator: tenant and name of a user with the scope `admin`, whose password is `PASSWORD`.
    """

    def __init__(self, base_url: str, operator: tuple[str, str]) -> None:
        self.base_url = base_url
        self._operator = operator
        self._http = requests.Session()  # for its connections; what it would remember of cookies is cleared
        self._http.trust_env = False
        self._schema = schemathesis.openapi.from_dict(self._get("/api/openapi.json"))
        self.operations = sorted(
            f"{method.upper()} {path}"
            for path, methods in self._schema.raw_schema["paths"].items()
            for method in methods
        )
        self._known: dict[str, list[Any]] = {}
        self._stream: requests.Response | None = None
        self._caller = Identity()
        self._prepared = 0

    def close(self) -> None:
        """Let go of its connections."""
        if self._stream is not None:
            self._stream.close()
        self._http.close()

    def _get(self, path: str) -> Any:
        answer = self._http.get(self.base_url + path, timeout=ANSWER_SECONDS)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def _identity(self, kind: str) -> Identity:
        """Somebody new, or logged in anew: a request may have logged out who was there before."""
        self._http.cookies.clear()
        if kind == "visitor":
            page = self._http.get(self.base_url, timeout=ANSWER_SECONDS)
            return Identity(cookies={"chatserver_visitor": page.cookies["chatserver_visitor"]})
        tenant, username = self._operator if kind == "operator" else ("public", f"fuzz-{secrets.token_hex(6)}")
        said = {"username": username, "password": PASSWORD}
        if kind == "operator":
            answer = self._http.post(
                f"{self.base_url}/api/auth/login", json={**said, "tenant": tenant}, timeout=ANSWER_SECONDS
            )
        else:
            answer = self._http.post(f"{self.base_url}/api/auth/register", json=said, timeout=ANSWER_SECONDS)
        assert answer.status_code in (200, 201), answer.text
        if kind == "cookie":
            return Identity({"Origin": self.base_url}, {"chatserver_token": answer.cookies["chatserver_token"]})
        return Identity({"Authorization": f"Bearer {answer.json()['token']}"})

    def _prepare(self, kind: str) -> None:
        """Make somebody, a session with messages and an open stream anew, so that requests find something."""
        self._caller = self._identity(kind)
        self._prepared += 1
        session_id = f"fuzz-{self._prepared}"  # the one before may be somebody else's by now
        for text in ("/say hello", "/tokens 200 every 50", "/hang"):
            body = {"session_id": session_id, "message": text, "project_id": PROJECT}
            self._http.cookies.clear()
            answer = self._http.post(
                f"{self.base_url}/api/chat",
                json=body,
                headers=dict(self._caller.headers),
                cookies=dict(self._caller.cookies),
                timeout=ANSWER_SECONDS,
            )
            assert answer.status_code == 200, answer.text
        stream = self._open_stream()
        state = answer.json()
        messages = [m["id"] for m in state.get("messages", [])]
        turns = [q["turn_id"] for q in state.get("queue", [])]
        self._known = {
            "session_id": [session_id],
            "sessions": [session_id, f"{session_id}@1-0"],
            "project_id": [PROJECT],
            "message_id": messages,
            "turn_id": turns,
            "command": sorted(COMMANDS),
            "model": ["scripted"],
            "stream": [stream],
            "add": [[session_id], [f"{session_id}@1-0"], []],
            "drop": [[session_id], []],
        }

    def _open_stream(self) -> str:
        """A stream of the caller's own that follows nothing yet; its name."""
        if self._stream is not None:
            self._stream.close()
        name = f"fuzz-{secrets.token_hex(16)}"
        self._stream = self._http.get(
            f"{self.base_url}/api/stream?stream={name}",
            headers=dict(self._caller.headers),
            cookies=dict(self._caller.cookies),
            stream=True,
            timeout=ANSWER_SECONDS,
        )
        assert self._stream.status_code == 200
        return name

    def run(self, operation: str, cases: int, seed: int) -> Counter[str]:
        """Ask one operation of the description as somebody that the seed chooses; counts by status, and by who asked.

        Raises: AssertionError, schemathesis' failures: with the request that showed it.
        """
        kind = random.Random(seed).choice(CALLERS)
        self._prepare(kind)
        method, _, path = operation.partition(" ")
        chosen = self._schema[path][method]
        counted: Counter[str] = Counter()
        asked = f"as_{kind}"
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @hypothesis.seed(seed)
            @hypothesis.settings(
                max_examples=cases // 2,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @hypothesis.given(case=chosen.as_strategy(generation_mode=mode), chance=st.randoms(use_true_random=False))
            def one(case: Case, chance: random.Random) -> None:
                counted[self._ask(case, chance)] += 1
                counted[asked] += 1

            with suppress(hypothesis.errors.Unsatisfiable):  # where a request says nothing, nothing of it can be wrong
                one()
        return counted

    def _ask(self, case: Case, chance: random.Random) -> str:
        self._aim(case, chance)
        self._http.cookies.clear()
        arguments = case.as_transport_kwargs(base_url=self.base_url)
        with self._http.request(**arguments, stream=True, timeout=ANSWER_SECONDS, allow_redirects=False) as answer:
            what = f"{arguments} -> {answer.status_code}"
            assert answer.status_code != 500, f"{what} {answer.text[:2000]}"
            if answer.headers.get("Content-Type", "").startswith(EVENT_STREAM):
                self._check_stream(answer, case)
            else:
                case.validate_response(answer, checks=list(CONFORMANCE))
            return f"{answer.status_code}"

    def _aim(self, case: Case, chance: random.Random) -> None:
        """Have most requests name things that are there, one session only, and come from who made it."""
        for place in (case.path_parameters, case.query, case.body):
            if isinstance(place, dict):
                for name, known in self._known.items():
                    if name in place and known and chance.random() < 0.8:
                        place[name] = known[0] if name == "session_id" else chance.choice(known)
        if chance.random() < 0.8 and case.headers:
            case.headers.pop("X-Session-ID", None)
        if chance.random() < 0.8:
            case.cookies = dict(self._caller.cookies)
            others = {k: v for k, v in (case.headers or {}).items() if k.lower() not in ("authorization", "origin")}
            case.headers = CaseInsensitiveDict({**others, **self._caller.headers})

    def _check_stream(self, answer: requests.Response, case: Case) -> None:
        states = bool(case.query and case.query.get("format") == "state")
        events = 0
        for line in answer.iter_lines():
            if line.startswith(b"data: "):
                described.check_event(json.loads(line[6:]), states=states)
                events += 1
                if events == EVENTS:
                    return
