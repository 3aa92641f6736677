"""A fresh clone on a machine without Node: `make run` builds and starts it, and starts it again in under three seconds.

What is committed is cloned; HOME is new and empty, and no folder of PATH has a `node` or an `npm`. How packages are
fetched is the machine's: what is configured for pip and npm is handed on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from tests.campaigns.campaign import Campaign, Round
from tests.checker import Violation
from tests.server import ROOT

NODE = {"node", "nodejs", "npm", "npx", "corepack"}
# The first start fetches and builds everything.
FIRST_SECONDS = 900.0
AGAIN_SECONDS = 3.0
STOP_SECONDS = 40.0
# Where pip and npm look for their configuration in a home.
PIP_CONFIG = (".config/pip/pip.conf", ".pip/pip.conf")
NPM_CONFIG = (".npmrc",)

_READY = re.compile(rb"ready on (http://\S+)")


def _path_without_node(folder: Path) -> str:
    """PATH; a folder that has a Node is replaced by one with links to everything else in it."""
    parts = []
    for number, part in enumerate(os.environ.get("PATH", os.defpath).split(os.pathsep)):
        if not part or Path(part).is_relative_to(ROOT) or not Path(part).is_dir():
            continue
        if not NODE & set(os.listdir(part)):
            parts.append(part)
            continue
        links = folder / f"path-{number}"
        links.mkdir()
        for program in os.listdir(part):
            if program not in NODE:
                (links / program).symlink_to(Path(part, program).resolve())
        parts.append(str(links))
    return os.pathsep.join(parts)


def environment(folder: Path) -> dict[str, str]:
    """Of somebody who has just logged in to this machine for the first time."""
    old, home = Path.home(), folder / "home"
    home.mkdir()
    left_out = ("CHATSERVER_", "OPENAI_", "OLLAMA_", "PYTHON", "VIRTUAL_ENV", "MAKE", "XDG_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    for name, places in (("PIP_CONFIG_FILE", PIP_CONFIG), ("NPM_CONFIG_USERCONFIG", NPM_CONFIG)):
        for place in places:
            if (old / place).exists():
                env.setdefault(name, str(old / place))
    return env | {"HOME": str(home), "PATH": _path_without_node(folder)}


async def make_run(checkout: Path, env: Mapping[str, str], within_seconds: float) -> float:
    """`make run` until it is ready, a look at it, and SIGTERM; the seconds until it was ready.

    Raises:
        Violation: it did not get ready, or what it serves is not the page and its health.
    """
    log = checkout.with_suffix(".log")
    with log.open("ab") as output:
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *("make", "run", "ARGS=--port 0"),
            cwd=checkout,
            env=dict(env),
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
            start_new_session=True,
        )
    assert process.stdout is not None
    try:
        try:
            async with asyncio.timeout(within_seconds):
                while not (ready := _READY.search(line := await process.stdout.readline())):
                    if not line:
                        raise Violation(f"it ended before it was ready:\n{log.read_text(errors='replace')[-3000:]}")
        except TimeoutError:
            raise Violation(f"it was not ready after {within_seconds:.0f} s:\n{log.read_text()[-3000:]}") from None
        took = time.monotonic() - began
        await _look(ready[1].decode())
        os.killpg(process.pid, signal.SIGTERM)
        async with asyncio.timeout(STOP_SECONDS):
            await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    return took


async def _look(url: str) -> None:
    async with aiohttp.ClientSession(url) as http:
        async with http.get("/health") as response:
            if response.status != 200:
                raise Violation(f"/health answers {response.status}")
        async with http.get("/") as response:
            page = await response.text()
            if response.status != 200 or response.content_type != "text/html":
                raise Violation(f"the page answers {response.status} {response.content_type}")
        assets = re.findall(r'(?:src|href)="(/assets/[^"]+)"', page)
        for asset in assets:
            async with http.get(asset) as response:
                if response.status != 200:
                    raise Violation(f"{asset} answers {response.status}")
        if not any(asset.endswith(".js") for asset in assets):
            raise Violation(f"the page has no script: {page[:500]}")


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Round]:
    """Each round clones anew."""

    async def one(number: int, random_: random.Random) -> Counter[str]:
        place = folder / str(number)
        place.mkdir()
        checkout, env = place / "chatserver", environment(place)
        git = await asyncio.create_subprocess_exec("git", "clone", "--quiet", str(ROOT), str(checkout), env=env)
        if await git.wait() or shutil.which("node", path=env["PATH"]):
            raise Violation("no clone could be made, or Node is still there")
        first = await make_run(checkout, env, FIRST_SECONDS)
        again = await make_run(checkout, env, FIRST_SECONDS)
        if again >= AGAIN_SECONDS:
            raise Violation(f"the second start took {again:.1f} s")
        return Counter(clones=1, first_start_ms=int(first * 1000), second_start_ms=int(again * 1000))

    yield one


CAMPAIGN = Campaign(
    name="fresh-clone",
    promise="A fresh clone, with a new HOME and no Node on PATH: `make run` serves the page and /health; the second "
    "`make run` is ready in under 3 s.",
    rounds=1,
    open=opened,
    maxima=frozenset({"first_start_ms", "second_start_ms"}),
)
