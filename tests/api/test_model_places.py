"""Who gets a model's places, over HTTP, with an endpoint that answers when the test says so (spec V6)."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from chatserver.config import ModelConfig
from tests.agents.upstream import DONE, running_upstream, stream, text
from tests.api.conftest import Api, Serve
from tests.api.people import add_user, bearer

WAITING = 1000


async def ask(api: Api, session_id: str, headers: dict[str, str]) -> tuple[int, Any]:
    body = {"session_id": session_id, "message": session_id}
    minimal = {**headers, "Prefer": "return=minimal"}
    # Without the look at the API's description, which would take longer than all the rest.
    async with api.http.post(api.url("/api/chat"), json=body, headers=minimal) as response:
        return response.status, await response.json(content_type=None)


async def test_a_thousand_waiting_turns_of_one_tenant_delay_anothers_first_by_one_round(serve: Serve) -> None:
    """They neither stand before it at the model, nor take the last place for turns."""
    asyncio.get_running_loop().set_debug(False)  # it would keep the stack of each of a thousand turns' futures
    one_more = asyncio.Semaphore(0)

    async def answer_when_told(request: web.Request) -> web.StreamResponse:
        await one_more.acquire()
        return await stream(text("hello"), DONE)(request)

    async with running_upstream() as upstream:
        upstream.answers = [answer_when_told]
        busy = ModelConfig(
            id="busy", base_url=upstream.base_url, model="busy", max_concurrent_turns=1, max_waiting_turns=2 * WAITING
        )
        api = await serve(models=(busy,), default_model="busy", max_running_turns=1112)
        await add_user(api, "acme", "ann")
        await add_user(api, "other", "bob")
        ann, bob = await bearer(api, "ann", "acme"), await bearer(api, "bob", "other")

        for at in range(0, WAITING + 1, 50):
            numbers = range(at, min(at + 50, WAITING + 1))
            answers = await asyncio.gather(*(ask(api, f"ann-{n}", ann) for n in numbers))
            assert {status for status, _ in answers} == {200}
        status, problem = await ask(api, "ann-more", ann)
        assert (status, problem["code"]) == (503, "too_many_turns")

        assert (await ask(api, "bob", bob))[0] == 200
        asked: list[str] = []
        async with asyncio.timeout(60):
            while "bob" not in asked:
                one_more.release()
                count = len(asked)
                while len(asked) == count:
                    await asyncio.sleep(0.001)
                    asked = [request.body["messages"][-1]["content"] for request in upstream.requests]
        assert asked.index("bob") <= 2, "the one that ran, one of the other tenant, then this one"
        for _ in range(3):
            one_more.release()
