"""Generated sessions, resumed at every cut point: the missed events, exactly once, in order, byte for byte (spec T3).

Each session is lived through by a client of a `Crowd` while followers come and go; then a connection is made for every
id that any stream carried, and for the position before the first. A log that is too short for what was missed must give
one snapshot instead, so every fourth round runs on a server with a small log.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.campaigns.campaign import Campaign, Round
from tests.campaigns.crowd import Crowd, story_server
from tests.checker import Checker, Position, Violation
from tests.server import ServerProcess

SESSIONS = 10
OPERATIONS = 12
SMALL_LOG_EVENTS = 24
AT_ONCE = 4


@asynccontextmanager
async def opened(folder: Path, *, operations: int = OPERATIONS, sessions: int = SESSIONS) -> AsyncIterator[Round]:
    """Rounds on two servers, one of them with a small log.

    Args:
        operations, sessions: of a round; what the log of the other server holds is enough for the default.
    """
    async with AsyncExitStack() as stack:
        # An idle session drops its log after a minute, which would be found as events that are missing.
        large = await stack.enter_async_context(story_server(folder / "large", log_idle_seconds=3600))
        small = await stack.enter_async_context(
            story_server(folder / "small", log_events=SMALL_LOG_EVENTS, log_idle_seconds=3600)
        )

        async def one(number: int, random_: random.Random) -> Counter[str]:
            server: ServerProcess = small if number % 4 == 3 else large
            names = [f"resume-{number}-{n}" for n in range(sessions)]
            async with Checker(server.base_url) as checker:
                crowd = Crowd(
                    checker,
                    names,
                    seed=str(random_.random()),
                    operations=operations,
                    pause_ms=2,
                    hopping=server is large,
                )
                async with crowd:
                    pass
                await checker.verify(*names)
                counted: Counter[str] = Counter(sessions=sessions)
                for name in names:
                    counted += await cut_everywhere(checker, name, whole_log=server is large)
                await checker.verify(*names)
            return counted

        yield one


async def cut_everywhere(checker: Checker, session_id: str, *, whole_log: bool) -> Counter[str]:
    """Resume at every position of a session that is idle now.

    Args:
        whole_log: the log holds everything, so each resume must be a replay.
    Raises:
        Violation: events are missing, doubled, out of order or not the same bytes; or a snapshot came without need.
    """
    history = checker.history(session_id)
    order = sorted(history.frames)
    if not order:
        return Counter()
    final = await checker.state(session_id)
    end = Position.parse(final["position"])
    if order[-1] != end:
        raise Violation(f"session {session_id!r} is at {end}, the last event seen was {order[-1]}")
    places = asyncio.Semaphore(AT_ONCE)
    replays = 0

    async def cut(index: int) -> None:
        """Resume after the first `index` events."""
        nonlocal replays
        at = Position(0, 0) if index == 0 else order[index - 1]
        async with places, checker.follow(session_id, after=at, in_query=index % 2 == 0) as stream:
            missed = order[index:]
            if not missed:
                return  # nothing to say: silence cannot be told from slowness, and the next test of it is a ping's time
            first = await stream.next()
            if first.type == "snapshot":
                if whole_log:
                    raise Violation(f"session {session_id!r}: a snapshot after {at}, though the log holds the rest")
                if stream.state != final:
                    raise Violation(f"session {session_id!r}: resumed after {at} with another state")
                return
            replays += 1
            while stream.position != end:
                await stream.next()
            got = b"".join(event.raw for event in stream.events if event.position is not None)
            if got != b"".join(history.frames[position] for position in missed):
                raise Violation(f"session {session_id!r}: the replay after {at} is not what was streamed")

    await asyncio.gather(*(cut(index) for index in range(len(order) + 1)))
    return Counter(cut_points=len(order) + 1, replays=replays)


CAMPAIGN = Campaign(
    name="resume",
    promise="Generated sessions, resumed at every position: the missed events exactly once, in order, byte for byte; "
    "one snapshot where the log does not hold them.",
    rounds=50,
    open=opened,
)
