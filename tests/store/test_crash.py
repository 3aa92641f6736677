"""kill -9 of a process that writes: nothing that was acknowledged is lost, and nothing is left running (spec D2)."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

import pytest

from chatserver.config import Settings
from chatserver.store.base import SessionKey
from chatserver.store.sql import open_store
from tests.store.build import NOW
from tests.store.child import SESSIONS
from tests.store.processes import child, line

# The longer form, over whole servers, is the kill -9 campaign.
KILLS = 4


@pytest.mark.chaos
async def test_a_killed_process_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    """Killed four times on the same database, each time in the middle of its turns.

    Every message told as stored is there, every turn told as ended has its whole answer, and what was running is
    interrupted with at least the pieces told as saved.
    """
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    lines = random.Random(seed)
    for kill in range(KILLS):
        folder = tmp_path / f"data-{kill}"
        acknowledged: dict[str, list[tuple[str, str]]] = defaultdict(list)  # answer -> what was told of it
        questions: dict[str, str] = {}
        sessions: dict[str, str] = {}
        async with child("write", folder) as writing:
            for _ in range(lines.randrange(20, 400)):
                what, session_id, *rest = (await line(writing)).split()
                if what == "started":
                    questions[rest[1]], sessions[rest[1]] = rest[0], session_id
                    acknowledged[rest[1]].append(("started", ""))
                else:
                    acknowledged[rest[0]].append((what, rest[1]))
            writing.kill()

        store = await open_store(Settings(data_dir=folder))
        found = await store.recover(NOW)
        loaded = [await store.load(SessionKey("t", f"s-{n}"), 10_000) for n in range(SESSIONS)]
        again = await store.recover(NOW)
        await store.close()

        messages = {m.id: (s.record.key.session_id, m) for s in loaded if s is not None for m in s.messages}
        assert found.interrupted <= SESSIONS
        assert again.interrupted == 0
        assert sum(m.status == "interrupted" for _, m in messages.values()) == found.interrupted
        assert all(s.record.message_count == len(s.messages) for s in loaded if s is not None)
        assert all(m.status != "streaming" for _, m in messages.values())
        for answer_id, told in acknowledged.items():
            session_id, answer = messages[answer_id]
            assert session_id == sessions[answer_id]
            assert messages[questions[answer_id]][1].role == "user"
            finished = [number for what, number in told if what == "finished"]
            saved = [f"piece {seq} " for what, seq in told if what == "saved"]
            if finished:
                assert (answer.status, answer.content) == ("completed", f"answer {finished[0]}")
            elif answer.status == "interrupted":
                assert answer.content.startswith("".join(saved))
