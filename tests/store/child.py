"""A store in a process of its own, to be held, killed or refused: `python -m tests.store.child WHAT FOLDER`.

What it did it tells in lines on stdout, each after the store acknowledged it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import orjson

from chatserver.config import Settings
from chatserver.errors import StartupError
from chatserver.store.base import Chunk, SessionKey
from chatserver.store.sql import SqlStore, open_store
from tests.store.build import finish, start

SESSIONS = 8
ROOT = Path(__file__).parents[2]
NOBODY = 65534  # Debian's nobody


def tell(*words: str) -> None:
    os.write(1, (" ".join(words) + "\n").encode())


async def _open(folder: Path) -> SqlStore:
    return await open_store(Settings(data_dir=folder, store_busy_seconds=0.2))


async def hold(folder: Path) -> None:
    """Open it, say so, and keep it until stdin ends."""
    store = await _open(folder)
    tell("open")
    await asyncio.to_thread(sys.stdin.read)
    await store.close()


async def write(folder: Path) -> None:
    """Run turns in several sessions until killed."""
    store = await _open(folder)

    async def talk(key: SessionKey) -> None:
        parent_id: str | None = None
        number = 0
        while True:
            number += 1
            turn = start(key, f"question {number}", parent_id=parent_id, create=number == 1)
            await store.start_turn(turn)
            tell("started", key.session_id, turn.user_message.id, turn.answer.id)
            for seq in range(2):
                piece = orjson.dumps([["text", f"piece {seq} "]])
                await store.checkpoint([Chunk(key, turn.turn_id, seq, piece)])
                tell("saved", key.session_id, turn.answer.id, str(seq))
            await store.finish_turn(finish(turn, f"answer {number}"))
            tell("finished", key.session_id, turn.answer.id, str(number))
            parent_id = turn.answer.id

    await asyncio.gather(*(talk(SessionKey("t", f"s-{n}")) for n in range(SESSIONS)))


async def refused(folder: Path) -> None:
    """Open it without root's rights and tell why that was refused."""
    if os.geteuid() == 0:  # root may write anywhere
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    try:
        store = await _open(folder)
    except StartupError as error:
        tell(error.detail)
    else:
        await store.close()
        tell("opened")


async def timed(folder: Path) -> None:
    """Open an existing database several times; tell the quickest in milliseconds and whether Alembic came along."""
    loop = asyncio.get_running_loop()
    took = []
    for _ in range(10):
        begin = loop.time()
        store = await _open(folder)
        took.append(loop.time() - begin)
        await store.close()
    tell(str(min(took) * 1000), "alembic" if "alembic" in sys.modules else "lean")


WHAT: dict[str, Callable[[Path], Coroutine[Any, Any, None]]] = {
    "hold": hold,
    "write": write,
    "refused": refused,
    "timed": timed,
}

if __name__ == "__main__":
    asyncio.run(WHAT[sys.argv[1]](Path(sys.argv[2])))
