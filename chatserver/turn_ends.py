"""TurnEnds: a turn's terminal state, committed before it is told, once.

Invariants: each turn has exactly one `turn.ended`, whatever fails. A store that can't take a terminal state is tried
for `TERMINAL_RETRY_SECONDS`; then the turn ends as failed, its text stays in memory (`unsaved`) and must be committed
before the session goes on.

It decides no outcome (run.py) and starts nothing (turn_queue.py).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from structlog.typing import FilteringBoundLogger

from chatserver import events as ev
from chatserver.clock import Clock
from chatserver.counts import TurnCounts
from chatserver.errors import NotFound, StoreCorrupt, StoreFull, Unavailable
from chatserver.live_session import LiveSession
from chatserver.message import Message, Outcome, TurnError
from chatserver.run import Run
from chatserver.session_manager import SessionManager
from chatserver.store.base import FinishTurn, Store
from chatserver.usage import usage_at_end

# A disk that is full for longer than this is not waited for with the tab still saying "generating".
TERMINAL_RETRY_SECONDS = 5.0


class TurnEnds:
    """See the module. `unsaved` are the sessions whose last turn's end is told and not stored; `counts` is of turns
    from start to end."""

    def __init__(self, clock: Clock, store: Store, manager: SessionManager, log: FilteringBoundLogger) -> None:
        self._clock = clock
        self._store = store
        self._manager = manager
        self._log = log
        self.unsaved: set[LiveSession] = set()
        self.counts = TurnCounts()

    async def end(self, run: Run, outcome: Outcome) -> None:
        """Commit the terminal state, then tell it; the lock is held."""
        live, error = run.live, run.error
        if live.removed:
            return
        current = live.state.message(run.answer_id) or run.answer
        usage = usage_at_end(run.usage, run.told_after, run.user_message.content, current, outcome)
        metadata = current.metadata if error is None else {**current.metadata, "error": error}
        answer = replace(current, status=outcome, usage=usage, metadata=metadata)
        finish = FinishTurn(live.key, run.turn_id, answer, outcome, usage, self._clock.now())
        if not await self._commit(finish):
            outcome = "failed"
            error = {"code": "store_unavailable", "title": "The answer could not be saved"}
            answer = replace(answer, status="failed", metadata={**answer.metadata, "error": error})
            live.unsaved = replace(finish, answer=answer, outcome=outcome)
            self.unsaved.add(live)
        if error is not None:
            live.append(ev.MessageUpdated(run.session_id, replace(answer, status="streaming", usage=None), run.turn_id))
        live.append(ev.TurnEnded(run.session_id, run.turn_id, run.answer_id, outcome, usage, error))
        self._count(answer, outcome, error)
        self._manager.remeasure(live)

    def _count(self, answer: Message, outcome: Outcome, error: TurnError | None) -> None:
        counts = self.counts
        counts.ended[outcome] += 1
        counts.written += len(answer.content)
        if error is not None:
            counts.failures.count(error["code"])
        if answer.usage is not None and answer.model is not None:
            counts.spent(answer.model, answer.usage)

    async def _commit(self, finish: FinishTurn) -> bool:
        """Commit a terminal state, trying again while the store is away; False when it stays away."""
        delay, deadline = 0.05, self._clock.monotonic() + TERMINAL_RETRY_SECONDS
        while True:
            try:
                await self._store.finish_turn(finish)
                return True
            except NotFound:
                return True  # deleted under it: there is nothing to end
            except (Unavailable, StoreFull, StoreCorrupt) as error:
                if self._clock.monotonic() + delay > deadline:
                    self._log.error("turn_end_not_saved", code=error.narrow_code, turn_id=finish.turn_id)
                    return False
                await self._clock.sleep(delay)
                delay = min(delay * 2, 1.0)
            except Exception as error:  # the turn's border: a store's bug must not leave a turn that never ends
                self._log.error("turn_end_not_saved", turn_id=finish.turn_id, exc_info=error)
                return False

    async def settle(self, live: LiveSession) -> None:
        """Commit a terminal state that could not be committed before; raises what the store raises."""
        if live.unsaved is not None:
            with suppress(NotFound):  # deleted under it: there is nothing to end
                await self._store.finish_turn(live.unsaved)
            self.forget(live)

    def forget(self, live: LiveSession) -> None:
        """Nothing of the session's last turn is left to be saved."""
        live.unsaved = None
        self.unsaved.discard(live)
