"""What was answered before a crash holds after it, with the real server killed (spec D1, D2)."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import aiohttp

from tests.server import ServerProcess

ACCOUNT = {"username": "ann", "password": "correct horse battery"}


async def test_a_logout_and_what_passed_to_a_user_outlive_a_kill(tmp_path: Path) -> None:
    """The token that was ended stays so, the other one goes on, and the visitor's session is the user's."""
    async with (
        ServerProcess(tmp_path / "data", settings={"password_memory_kib": 64}) as server,
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http,
    ):

        async def ask(
            method: str, path: str, headers: dict[str, str], body: object = None
        ) -> tuple[int, dict[str, str]]:
            async with http.request(method, server.base_url + path, headers=headers, json=body) as response:
                return response.status, await response.json()

        async with http.get(server.base_url + "/") as response:
            visitor = {"Cookie": f"chatserver_visitor={response.cookies['chatserver_visitor'].value}"}
        said = {"session_id": "s", "message": "/say hello"}
        assert (await ask("POST", "/api/chat", visitor, said))[0] == 200
        logins = [
            (await ask("POST", f"/api/auth/{path}", visitor, ACCOUNT))[1]["token"] for path in ("register", "login")
        ]
        ended, good = ({"Authorization": f"Bearer {token}"} for token in logins)
        assert (await ask("POST", "/api/auth/logout", ended))[0] == 200

        await server.restart()

        assert (await ask("GET", "/api/state?session_id=s", ended))[1]["code"] == "token_revoked"
        assert (await ask("GET", "/api/state?session_id=s", good))[0] == 200
        assert (await ask("GET", "/api/state?session_id=s", visitor))[0] == 403


async def test_a_flood_of_logins_leaves_the_server_to_everybody_else(tmp_path: Path) -> None:
    """With the passwords' real cost: a few are checked, the rest are refused at once, and others are answered
    meanwhile."""
    settings = {
        "max_waiting_logins": 2,
        "login_attempts_per_minute": 1000,
        "login_attempts_per_address_per_minute": 1000,
    }
    async with (
        ServerProcess(tmp_path / "data", settings=settings) as server,
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http,
    ):
        before = server.memory_bytes()

        async def login(number: int) -> int:
            body = {"username": f"nobody{number}", "password": "correct horse battery"}
            async with http.post(server.base_url + "/api/auth/login", json=body) as response:
                assert response.status != 503 or "Retry-After" in response.headers
                return response.status

        flood = [asyncio.create_task(login(n)) for n in range(60)]
        waits = []
        while not all(task.done() for task in flood):
            started = time.monotonic()
            async with http.get(server.base_url + "/health/ready") as response:
                assert response.status == 200
            waits.append(time.monotonic() - started)
        statuses = [task.result() for task in flood]

        assert set(statuses) == {401, 503}
        assert statuses.count(401) >= 4
        assert len(waits) > 3
        # Two hashes of 64 MiB at the most, and what sixty connections weigh.
        assert server.memory_bytes() - before < 200 << 20
