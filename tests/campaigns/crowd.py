"""Many clients at once, each with a session, each doing random things, each watched by the checker.

What a client does follows from its seed and its number; what the server does with it does not, since timing is real.
`Crowd` is used as a block: inside it the clients act; when the server is killed or drained meanwhile, `expect_the_end`
tells them that lost connections are no fault. Leaving waits for all of them and raises the first fault.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from tests.campaigns.story_agent import story
from tests.checker import Checker, Position, Refused, Stream, StreamClosed
from tests.server import ServerProcess

STORY_FLAGS = ("--agent", "tests.campaigns.story_agent:reply")
# What a client may be refused without anything being wrong, by operation.
_EXPECTED = {
    "chat": {409, 429, 503},
    "queue": {429, 503},
    "interrupting": {429, 503},
    "edit": {409, 429, 503},
    "regenerate": {409, 429, 503},
    "branch": {409, 503},
    "system": {503},
    "withdraw": {404, 409, 503},
    "command": {400, 422, 503},
    "stream": {503},
}

Weights = Mapping[str, int]
# Mostly talk, as people do; the rest is what disturbs it.
TALK: Weights = {
    "chat": 30,
    "queue": 15,
    "interrupting": 5,
    "interrupt": 10,
    "system": 8,
    "withdraw": 6,
    "state": 14,
    "stream": 8,
    "command": 4,
}

# And with edits, answers made anew and other branches, after which the log begins anew.
TREES: Weights = {**TALK, "edit": 6, "regenerate": 6, "branch": 4}


def story_server(data_dir: Any, **settings: Any) -> ServerProcess:
    """A server whose only agent tells stories."""
    return ServerProcess(data_dir, settings={"scripted": None, "default_model": None, **settings}, flags=STORY_FLAGS)


@dataclass(slots=True)
class Client:
    """One session's user."""

    session_id: str
    random: random.Random
    turns: list[str] = field(default_factory=list)


class Crowd:
    """See the module.

    Args:
        checker: shared by all clients, so that what strays between sessions is seen.
        session_ids: one client each.
        seed: of everything the clients choose.
        operations: how many each does; None: until `expect_the_end`.
        pause_ms: the agent's longest pause between two pieces.
        hopping: whether the followers resume by new connections now and then; where the log is short, that may
            become a snapshot, and some events are seen by nobody.
    """

    def __init__(
        self,
        checker: Checker,
        session_ids: Sequence[str],
        *,
        seed: str,
        operations: int | None = None,
        weights: Weights = TALK,
        pause_ms: int = 8,
        hopping: bool = True,
    ) -> None:
        self.checker = checker
        self.done: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        # Sessions whose streams the server has closed without a goodbye.
        self.without_goodbye: list[str] = []
        self.clients = [Client(s, random.Random(f"{seed}/{s}")) for s in session_ids]
        self._operations = operations
        self._weights = weights
        self._pause_ms = pause_ms
        self._hopping = hopping
        self._ending = False
        self._tasks: list[asyncio.Task[None]] = []
        self._followers: list[asyncio.Task[None]] = []
        self._progress = asyncio.Condition()
        self._failed = False

    async def __aenter__(self) -> Self:
        for client in self.clients:
            self._tasks.append(asyncio.create_task(self._act(client), name=f"client/{client.session_id}"))
            self._followers.append(asyncio.create_task(self._follow(client), name=f"follower/{client.session_id}"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if kind is not None:
            for task in self._tasks:
                task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        # The clients are done; what still streams is read to the end of the last turn, or to the server's.
        if kind is not None or any(isinstance(r, BaseException) for r in results):
            for task in self._followers:
                task.cancel()
        results += await asyncio.gather(*self._followers, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result from error

    def expect_the_end(self) -> None:
        """From now on the server may go away at any moment."""
        self._ending = True

    @property
    def turns(self) -> int:
        """Acknowledged so far."""
        return sum(len(client.turns) for client in self.clients)

    async def until_turns(self, count: int, timeout_seconds: float = 120.0) -> None:
        """Wait until that many turns were acknowledged."""
        async with asyncio.timeout(timeout_seconds), self._progress:
            await self._progress.wait_for(lambda: self.turns >= count or self._failed)
        if self._failed:
            raise AssertionError("a client failed")  # leaving the block raises what it failed with

    # --- a client ---

    async def _act(self, client: Client) -> None:
        try:
            await self._operate(client)
        except BaseException:
            self._failed = True
            async with self._progress:
                self._progress.notify_all()
            raise

    async def _operate(self, client: Client) -> None:
        kinds, weights = list(self._weights), list(self._weights.values())
        count = 0
        while not self._ending and (self._operations is None or count < self._operations):
            kind = client.random.choices(kinds, weights)[0]
            count += 1
            try:
                await getattr(self, f"_{kind}")(client)
                self.done[kind] += 1
            except Refused as refusal:
                status = refusal.response.status
                if status not in _EXPECTED.get(kind, set()) and not (self._ending and status == 503):
                    raise
                self.refused[f"{kind} {status}"] += 1
            except (OSError, StreamClosed, TimeoutError):
                if not self._ending:
                    raise
                return

    def _text(self, client: Client) -> str:
        canary = self.checker.canary(client.session_id)
        pieces = client.random.choice((1, 3, 10, 40))
        mood = client.random.choices(("", "think", "fail"), (12, 2, 1))[0]
        return story(pieces, client.random.randint(0, self._pause_ms), f"{canary} once upon a time", mood)

    def _minimal(self, client: Client) -> bool:
        # A whole state is evidence; one of four answers gives enough of it, and reading it is what costs here.
        return client.random.random() < 0.75

    async def _say(self, client: Client, **options: Any) -> None:
        sent = await self.checker.send(client.session_id, self._text(client), minimal=self._minimal(client), **options)
        client.turns.append(sent.turn_id)
        async with self._progress:
            self._progress.notify_all()

    async def _chat(self, client: Client) -> None:
        await self._say(client, on_busy=client.random.choice(("queue", "reject")))

    async def _queue(self, client: Client) -> None:
        for _ in range(client.random.randint(1, 3)):
            await self._say(client)

    async def _interrupting(self, client: Client) -> None:
        await self._say(client, on_busy="interrupt")

    async def _interrupt(self, client: Client) -> None:
        await self.checker.interrupt(
            client.session_id, clear_queue=client.random.random() < 0.2, minimal=self._minimal(client)
        )

    async def _system(self, client: Client) -> None:
        note = f"note {self.checker.canary(client.session_id)}"
        await self.checker.system(client.session_id, note, minimal=self._minimal(client))

    async def _some_message(self, client: Client, *roles: str) -> str | None:
        state = await self.checker.state(client.session_id)
        ids = [m["id"] for m in state["messages"][-30:] if m["role"] in roles]
        return client.random.choice(ids) if ids else None

    async def _edit(self, client: Client) -> None:
        message_id = await self._some_message(client, "user")
        if message_id is not None:
            on_busy = client.random.choice(("reject", "interrupt", "queue"))
            sent = await self.checker.edit(client.session_id, message_id, self._text(client), on_busy=on_busy)
            client.turns.append(sent.turn_id)

    async def _regenerate(self, client: Client) -> None:
        message_id = await self._some_message(client, "assistant")
        if message_id is not None:
            on_busy = client.random.choice(("reject", "interrupt", "queue"))
            sent = await self.checker.regenerate(client.session_id, message_id, on_busy=on_busy)
            client.turns.append(sent.turn_id)

    async def _branch(self, client: Client) -> None:
        frames = self.checker.history(client.session_id).started
        message_id = client.random.choice(list(frames.values())) if frames else None
        if message_id is not None:
            await self.checker.branch(client.session_id, message_id)

    async def _withdraw(self, client: Client) -> None:
        state = await self.checker.state(client.session_id)
        turn_id = client.random.choice(state["queue"])["turn_id"] if state["queue"] else "no-such-turn"
        response = await self.checker.withdraw(client.session_id, turn_id)
        if response.status >= 300:
            raise Refused("DELETE /api/queue", response)

    async def _state(self, client: Client) -> None:
        await self.checker.state(client.session_id)

    async def _stream(self, client: Client) -> None:
        after: Position | None = None
        frames = self.checker.history(client.session_id).frames
        if frames and client.random.random() < 0.7:
            after = client.random.choice(list(frames))
        async with self.checker.follow(client.session_id, after=after) as stream:
            if after is None:
                for _ in range(client.random.randint(1, 5)):
                    await stream.next()
                    if not (stream.state and stream.state["is_processing"]):
                        break

    async def _command(self, client: Client) -> None:
        command = client.random.choice(("list_servers", "list_tools", "no_such_command"))
        response = await self.checker.command(client.session_id, command)
        if response.status >= 300:
            raise Refused("POST /api/mcp-command", response)

    # --- its follower ---

    async def _follow(self, client: Client) -> None:
        """Follow the session from beginning to end, now and then by a new connection that resumes."""
        session_id, hops = client.session_id, random.Random(f"hops/{client.session_id}")
        acting = next(t for t in self._tasks if t.get_name() == f"client/{session_id}")
        after: Position | None = None
        last: Position | None = None
        state: Any = None
        while True:
            stream: Stream | None = None
            try:
                async with self.checker.follow(session_id, after=after) as stream:
                    if after is not None:
                        stream.take_state(session_id, state)
                    hop_after = hops.randint(20, 200) if self._hopping else sys.maxsize
                    while len(stream.events) < hop_after:
                        if acting.done():
                            if last is None:
                                # What was acknowledged last may not have come through the stream yet.
                                last = Position.parse((await self.checker.state(session_id))["position"])
                            if _idle(stream.state) and stream.position is not None and stream.position >= last:
                                return
                        await _next_or_done(stream, acting)
                    after, state = stream.position, stream.state
            except (OSError, StreamClosed, TimeoutError) as error:
                if not self._ending:
                    raise
                # Where a question beside the stream found nobody, the stream was not read to its end.
                if isinstance(error, StreamClosed) and stream is not None and not _said_goodbye(stream):
                    self.without_goodbye.append(session_id)
                return
            except Refused as refusal:
                if self._ending and refusal.response.status == 503:
                    return
                raise


def _said_goodbye(stream: Stream) -> bool:
    return bool(stream.events) and stream.events[-1].type == "goodbye" and not stream.broken


def _idle(state: Any) -> bool:
    return state is not None and not state["is_processing"] and not state["queue"]


async def _next_or_done(stream: Any, acting: asyncio.Task[None]) -> None:
    """Read the next event, or find out that the client has stopped and nothing more will come."""
    reading = asyncio.ensure_future(stream.next(timeout_seconds=None))
    try:
        if acting.done():
            await asyncio.wait({reading}, timeout=30.0)
        else:
            await asyncio.wait({reading, acting}, return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            reading.result()
    finally:
        if not reading.done():
            reading.cancel()
            await asyncio.wait({reading})
