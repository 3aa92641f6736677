"""Checkpoints of running answers (spec D2): every half second, all that run in one transaction."""

from __future__ import annotations

from tests.core.virtual import advance, settle, virtual
from tests.core.world import world


@virtual
async def test_all_running_answers_are_checkpointed_together_every_half_second() -> None:
    """What was said half a second before a crash is there after it, however many answers run."""
    async with world() as w:
        sessions = [f"s-{n}" for n in range(20)]
        puppets = []
        for session_id in sessions:
            await w.chat(session_id, "go")
            await settle()
            puppets.append(w.puppet.last)
        await advance(1)
        made = w.store.calls.count("checkpoint")
        for puppet in puppets:
            puppet.say("said in time")
        await advance(0.5)
        assert w.store.calls.count("checkpoint") == made + 1
        for puppet in puppets:
            puppet.say(", and too late")
        await w.kill()
        await w.start()
        for session_id in sessions:
            answer = (await w.state(session_id))["messages"][-1]
            assert (answer["content"], answer["status"]) == ("said in time", "interrupted")
