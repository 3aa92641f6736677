"""schemathesis against a running server: requests made from the API's description, and answers held to it.

Half of the requests are as described and half are wrong on purpose. What must hold: every one is answered, none with a
500, and every answer is as described: status, media type, headers and body, and of a stream its first event.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from contextlib import suppress
from typing import Any

import hypothesis
import requests
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from chatserver.api.commands import COMMANDS
from chatserver.api.route import EVENT_STREAM
from tests.api import described

ANSWER_SECONDS = 20.0
PROJECT = "fuzz"
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


class Fuzz:
    """One server under test.

    Args:
        base_url: of the server, which has the scripted agent.
    """

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self._http = requests.Session()  # for its connections; what it would remember of cookies is cleared
        self._http.trust_env = False
        self._visitor = dict(self._http.get(base_url, timeout=ANSWER_SECONDS).cookies)
        self._schema = schemathesis.openapi.from_dict(self._get("/api/openapi.json"))
        self.operations = sorted(
            f"{method.upper()} {path}"
            for path, methods in self._schema.raw_schema["paths"].items()
            for method in methods
        )
        self._known: dict[str, list[str]] = {}
        self._prepared = 0

    def close(self) -> None:
        """Let go of its connections."""
        self._http.close()

    def _get(self, path: str) -> Any:
        answer = self._http.get(self.base_url + path, timeout=ANSWER_SECONDS)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def _prepare(self) -> None:
        """Make a session with messages anew, so that requests find something."""
        self._prepared += 1
        session_id = f"fuzz-{self._prepared}"  # the one before may be somebody else's by now
        for text in ("/say hello", "/hang", "/hang"):
            body = {"session_id": session_id, "message": text, "project_id": PROJECT}
            answer = self._http.post(
                f"{self.base_url}/api/chat", json=body, cookies=self._visitor, timeout=ANSWER_SECONDS
            )
            assert answer.status_code == 200, answer.text
        state = answer.json()
        messages = [m["id"] for m in state.get("messages", [])]
        turns = [q["turn_id"] for q in state.get("queue", [])]
        self._known = {
            "session_id": [session_id],
            "project_id": [PROJECT],
            "message_id": messages,
            "turn_id": turns,
            "command": sorted(COMMANDS),
            "model": ["scripted"],
        }

    def run(self, operation: str, cases: int, seed: int) -> Counter[str]:
        """Ask one operation of the description; counts by status.

        Raises: AssertionError, schemathesis' failures: with the request that showed it.
        """
        self._prepare()
        method, _, path = operation.partition(" ")
        chosen = self._schema[path][method]
        counted: Counter[str] = Counter()
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
            case.cookies = self._visitor

    def _check_stream(self, answer: requests.Response, case: Case) -> None:
        if (case.query and case.query.get("format") == "state") or case.path.endswith("/api/stream"):
            return  # whole states are checked elsewhere; nothing may come on a stream that follows nothing
        for line in answer.iter_lines():
            if line.startswith(b"data: "):
                described.check_event(json.loads(line[6:]))
                return
