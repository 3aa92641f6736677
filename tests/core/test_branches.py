"""The tree of messages: edits, regenerations, the choice of a branch, forks, ratings, and paging back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chatserver.branches import MAX_CARRIED, MAX_SIBLINGS
from chatserver.errors import Conflict, Draining, NotFound, StoreUnavailable
from chatserver.events import Position
from chatserver.state import WINDOW_MESSAGES
from tests.core.readers import FakeSink, Reader
from tests.core.virtual import advance, settle, virtual
from tests.core.world import NOBODY, World, state_of, visitor, world

Json = dict[str, Any]


async def answer(w: World, text: str) -> None:
    """Let the running turn say that and end."""
    w.puppet.last.say(text)
    w.puppet.last.end()
    await settle()


async def exchange(w: World, session_id: str = "s", question: str = "q", reply: str = "a") -> None:
    """One turn, from beginning to end."""
    await w.chat(session_id, question)
    await settle()
    await answer(w, reply)


async def conversation(w: World, turns: int, session_id: str = "s") -> list[Json]:
    """Turns `q0`, `a0`, `q1`, …; the messages."""
    for n in range(turns):
        await exchange(w, session_id, f"q{n}", f"a{n}")
    messages: list[Json] = (await w.state(session_id))["messages"]
    return messages


def texts(state: Json) -> list[str]:
    return [m["content"] for m in state["messages"]]


async def check_stored(w: World, state: Json, session_id: str = "s") -> None:
    """What a fresh process would show is what the reader has."""
    stored = await w.stored(session_id)
    assert stored is not None
    assert {**stored, "position": None} == {**state, "position": None}


# --- editing ---


@virtual
async def test_an_edited_message_begins_a_branch_that_is_answered() -> None:
    """Tabs get a snapshot of the shortened branch, then what a turn tells; the agent sees the new branch only."""
    async with world() as w:
        q0, a0, q1, _ = await conversation(w, 2)
        reader = await w.reader("s")
        turn_id = await w.edit("s", q1["id"], "q1, better")
        await settle()
        assert reader.snapshots == 2
        assert reader.types == ["message.created", "message.created", "session.updated", "turn.started"]
        assert texts(reader.state) == ["q0", "a0", "q1, better", ""]
        assert [m.content for m in w.puppet.last.turn.history] == ["q0", "a0"]
        assert (w.puppet.last.turn.turn_id, w.puppet.last.turn.message) == (turn_id, "q1, better")
        await answer(w, "a1, better")
        *_, edited, _ = reader.state["messages"]
        assert edited["parent_id"] == a0["id"]
        assert edited["siblings"] == [q1["id"], edited["id"]]
        assert reader.state["message_count"] == 6
        assert reader.state["messages"][0] == q0
        await check_stored(w, reader.state)


@virtual
async def test_the_first_message_can_be_edited() -> None:
    """It has no parent; the branch begins with nothing."""
    async with world() as w:
        q0, *_ = await conversation(w, 2)
        reader = await w.reader("s")
        await w.edit("s", q0["id"], "another beginning")
        await settle()
        assert w.puppet.last.turn.history == ()
        await answer(w, "well")
        assert texts(reader.state) == ["another beginning", "well"]
        assert reader.state["messages"][0]["parent_id"] is None
        await check_stored(w, reader.state)


@virtual
async def test_an_edit_is_taken_once_however_often_it_comes() -> None:
    """By its client_message_id: while its turn runs and afterwards, it gives that turn."""
    async with world() as w:
        q0, _ = await conversation(w, 1)
        turn_id = await w.edit("s", q0["id"], "better", client_message_id="c")
        await settle()
        assert await w.edit("s", q0["id"], "better", client_message_id="c") == turn_id
        await answer(w, "yes")
        assert await w.edit("s", q0["id"], "better", client_message_id="c") == turn_id
        state = await w.state("s")
        assert (texts(state), state["message_count"]) == (["better", "yes"], 4)
        assert state["messages"][0]["metadata"] == {"client_message_id": "c"}


@virtual
async def test_the_last_edit_that_is_possible_can_be_repeated_too() -> None:
    """What it did the first time must not refuse it the second."""
    async with world() as w:
        q0, _ = await conversation(w, 1)
        for n in range(1, MAX_SIBLINGS):
            turn_id = await w.edit("s", q0["id"], str(n), client_message_id=f"c{n}")
            await settle()
            await answer(w, "yes")
        assert await w.edit("s", q0["id"], str(n), client_message_id=f"c{n}") == turn_id
        with pytest.raises(Conflict):
            await w.edit("s", q0["id"], "one more", client_message_id="another")


@virtual
async def test_only_messages_of_the_session_that_a_user_wrote_can_be_edited() -> None:
    """Nothing changes otherwise, and nothing is told."""
    async with world() as w:
        _, a0 = await conversation(w, 1)
        other = (await conversation(w, 1, "other"))[0]
        reader = await w.reader("s")
        for message_id, code in (
            (a0["id"], "not_a_user_message"),
            (other["id"], "message_not_found"),
            ("no-such-message", "message_not_found"),
        ):
            with pytest.raises((Conflict, NotFound)) as refused:
                await w.edit("s", message_id, "better")
            assert refused.value.narrow_code == code
        assert (reader.types, reader.snapshots) == ([], 1)
        await check_stored(w, reader.state)


# --- regenerating ---


@virtual
async def test_a_regenerated_answer_is_a_sibling_of_the_first() -> None:
    """The same message is answered with the same history, and by another model where one is named."""
    async with world() as w:
        w.models.entries["other"] = w.models.entries["puppet"]
        *_, q1, a1 = await conversation(w, 2)
        reader = await w.reader("s")
        await w.regenerate("s", a1["id"], model="other")
        await settle()
        assert reader.types[-3:] == ["message.created", "session.updated", "turn.started"]
        turn = w.puppet.last.turn
        assert (turn.message, [m.content for m in turn.history]) == ("q1", ["q0", "a0"])
        await answer(w, "a1, better")
        assert texts(reader.state) == ["q0", "a0", "q1", "a1, better"]
        *_, question, again = reader.state["messages"]
        assert question == q1
        assert again["siblings"] == [a1["id"], again["id"]]
        assert (reader.state["message_count"], reader.state["model"]) == (5, "other")
        await check_stored(w, reader.state)
        # What lies behind the first answer now belongs to its branch.
        await w.regenerate("s", (await w.state("s"))["messages"][1]["id"])
        await settle()
        await answer(w, "a0, better")
        assert texts(reader.state) == ["q0", "a0, better"]


@virtual
async def test_only_answers_to_a_message_can_be_made_anew() -> None:
    """Neither questions, nor what the system says, nor answers that answer nothing."""
    async with world() as w:
        q0, _ = await conversation(w, 1)
        await w.system("s", "look")
        async with w.service.open(NOBODY, "s", create="no") as live:
            await w.turns.add_message(live, "assistant", "out of the blue", live.record.expires_at, {})
        *_, system, blue = (await w.state("s"))["messages"]
        for message in (q0, system, blue):
            with pytest.raises(Conflict) as refused:
                await w.regenerate("s", message["id"])
            assert refused.value.narrow_code == "not_an_answer"
        with pytest.raises(NotFound):
            await w.regenerate("s", "no-such-message")


@virtual
async def test_a_message_has_so_many_versions_and_no_more() -> None:
    """Every id is in every snapshot."""
    async with world() as w:
        q0, a0 = await conversation(w, 1)
        for _ in range(MAX_SIBLINGS - 1):
            await w.regenerate("s", a0["id"])
            await settle()
            await answer(w, "x")
        with pytest.raises(Conflict) as refused:
            await w.regenerate("s", a0["id"])
        assert refused.value.narrow_code == "too_many_siblings"
        assert len((await w.state("s"))["messages"][1]["siblings"]) == MAX_SIBLINGS
        await w.edit("s", q0["id"], "another question")
        await settle()
        await answer(w, "fine")


# --- system messages of the branch that is left ---


@virtual
@pytest.mark.parametrize("how", ["edit", "regenerate"])
async def test_a_system_message_is_read_by_the_next_turn_even_where_that_begins_a_branch(how: str) -> None:
    """It was acknowledged: the new answer's agent has it, tabs and later turns do, and a new process does."""
    async with world() as w:
        q0, a0 = await conversation(w, 1)
        await w.system("s", "network switched")
        told = (await w.state("s"))["messages"][-1]
        reader = await w.reader("s")
        again = w.edit("s", q0["id"], "q0") if how == "edit" else w.regenerate("s", a0["id"])
        await again
        await settle()
        turn = w.puppet.last.turn
        assert (turn.message, [m.content for m in turn.history]) == ("q0", ["network switched"])
        await answer(w, "better")
        assert texts(reader.state) == ["q0", "better", "network switched"]
        copy = reader.state["messages"][-1]
        assert (copy["metadata"], copy["created_at"]) == ({"copy_of": told["id"]}, told["created_at"])
        assert copy["id"] != told["id"]
        assert reader.state["message_count"] == (6 if how == "edit" else 5)
        await check_stored(w, reader.state)
        await w.kill()
        await w.start()
        reader = await w.reader("s")
        await exchange(w, "s", "q1", "a1")
        assert [m.content for m in w.puppet.last.turn.history] == ["q0", "better", "network switched"]
        await check_stored(w, reader.state)


@virtual
async def test_a_system_message_told_during_the_turn_that_is_stopped_is_not_lost() -> None:
    """Nor is it when the answer is made anew once more, from either of the answers: it stands there once."""
    async with world() as w:
        await w.chat("s", "q")
        await settle()
        first = (await w.state("s"))["messages"][-1]
        await w.system("s", "signed")
        for _ in range(3):
            await w.regenerate("s", first["id"], on_busy="interrupt")
            await settle()
            assert [m.content for m in w.puppet.last.turn.history] == ["signed"]
            await answer(w, "a")
            state = await w.state("s")
            assert texts(state) == ["q", "a", "signed"]
            await check_stored(w, state)


@virtual
async def test_a_branch_that_has_a_system_message_is_not_told_it_again() -> None:
    """What stands before the fork stays where it is, and a copy counts as its original."""
    async with world() as w:
        await w.system("s", "early")
        await exchange(w, "s", "q0", "a0")
        _, _, a0 = (await w.state("s"))["messages"]
        await w.system("s", "late")
        await exchange(w, "s", "q1", "a1")
        q1 = (await w.state("s"))["messages"][-2]
        await w.regenerate("s", a0["id"])
        await settle()
        await answer(w, "b0")
        assert texts(await w.state("s")) == ["early", "q0", "b0", "late"]
        await w.edit("s", q1["id"], "q1, better")
        await settle()
        assert [m.content for m in w.puppet.last.turn.history] == ["early", "q0", "a0", "late"]
        await answer(w, "b1")
        assert texts(await w.state("s")) == ["early", "q0", "a0", "late", "q1, better", "b1"]


@virtual
async def test_so_many_system_messages_are_taken_along_and_no_more() -> None:
    """The newest, in their order."""
    async with world() as w:
        _, a0 = await conversation(w, 1)
        for n in range(MAX_CARRIED + 1):
            await w.system("s", str(n))
        await w.regenerate("s", a0["id"])
        await settle()
        await answer(w, "better")
        state = await w.state("s")
        assert texts(state) == ["q0", "better", *map(str, range(1, MAX_CARRIED + 1))]
        await check_stored(w, state)


# --- while something runs ---


@virtual
async def test_while_a_turn_runs_changes_of_the_tree_are_refused() -> None:
    """Unless an edit or a regeneration says otherwise; the running answer is not disturbed."""
    async with world() as w:
        q0, a0 = await conversation(w, 1)
        await w.chat("s", "q1")
        await settle()
        before = await w.state("s")
        for work in (
            w.edit("s", q0["id"], "better"),
            w.regenerate("s", a0["id"]),
            w.regenerate("s", before["messages"][-1]["id"]),
            w.choose_branch("s", a0["id"]),
            w.rate("s", before["messages"][-1]["id"], "up"),
            w.fork("s", before["messages"][-1]["id"]),
        ):
            with pytest.raises(Conflict) as refused:
                await work
            assert refused.value.narrow_code == "busy"
        assert await w.state("s") == before
        await answer(w, "a1")
        assert texts(await w.state("s")) == ["q0", "a0", "q1", "a1"]


@virtual
async def test_a_streaming_answer_can_be_stopped_and_made_anew() -> None:
    """Its part stays as an interrupted sibling."""
    async with world() as w:
        reader = await w.reader("s")
        first = await w.chat("s", "q")
        await settle()
        w.puppet.last.say("half an ans")
        await settle()
        half = reader.state["messages"][-1]
        second = await w.regenerate("s", half["id"], on_busy="interrupt")
        await settle()
        assert [(e["turn_id"], e["outcome"]) for e in reader.events if e["type"] == "turn.ended"] == [
            (first, "interrupted")
        ]
        assert reader.state["active_turn_id"] == second
        assert w.puppet.last.turn.history == ()
        await answer(w, "whole")
        assert texts(reader.state) == ["q", "whole"]
        await w.choose_branch("s", half["id"])
        await settle()
        kept = reader.state["messages"][-1]
        assert (kept["content"], kept["status"]) == ("half an ans", "interrupted")
        await check_stored(w, reader.state)


@virtual
async def test_an_edit_may_wait_and_what_waits_behind_it_follows_it() -> None:
    """Queued messages are answered on the branch that is the active one when their turn comes."""
    async with world() as w:
        q0, _ = await conversation(w, 1)
        reader = await w.reader("s")
        await w.chat("s", "q1")
        await w.edit("s", q0["id"], "better", on_busy="queue")
        await w.chat("s", "q2")
        await settle()
        assert [q["message"]["content"] for q in reader.state["queue"]] == ["better", "q2"]
        await answer(w, "a1")
        assert texts(reader.state) == ["better", ""]
        await answer(w, "b")
        await answer(w, "a2")
        assert texts(reader.state) == ["better", "b", "q2", "a2"]
        assert [m.content for m in w.puppet.last.turn.history] == ["better", "b"]
        await check_stored(w, reader.state)


@virtual
async def test_a_queued_edit_and_regeneration_survive_a_crash() -> None:
    """The next process takes them up where they belong."""
    async with world() as w:
        q0, a0 = await conversation(w, 1)
        await w.chat("s", "q1")
        await w.edit("s", q0["id"], "better", on_busy="queue")
        await w.regenerate("s", a0["id"], on_busy="queue")
        await settle()
        await w.kill()
        await w.start()
        await advance(1)
        reader = await w.reader("s")
        assert texts(reader.state) == ["better", ""]
        await answer(w, "b")
        assert texts(reader.state) == ["q0", ""]
        await answer(w, "a0, again")
        assert reader.state["messages"][1]["siblings"] == [a0["id"], reader.state["messages"][1]["id"]]
        assert reader.state["message_count"] == 7
        await check_stored(w, reader.state)


@virtual
async def test_a_queued_regeneration_can_be_withdrawn() -> None:
    """The message that it would have answered stays, and so does its answer."""
    async with world() as w:
        _, a0 = await conversation(w, 1)
        reader = await w.reader("s")
        await w.chat("s", "q1")
        turn_id = await w.regenerate("s", a0["id"], on_busy="queue")
        await settle()
        await w.withdraw("s", turn_id)
        await answer(w, "a1")
        assert (texts(reader.state), reader.state["queue"]) == (["q0", "a0", "q1", "a1"], [])
        await check_stored(w, reader.state)


@virtual
async def test_a_crash_in_the_middle_of_a_regeneration_leaves_an_interrupted_sibling() -> None:
    """On the active branch; the first answer is one choice away."""
    async with world(checkpoint_interval_seconds=0.5) as w:
        _, a0 = await conversation(w, 1)
        await w.regenerate("s", a0["id"])
        await settle()
        w.puppet.last.say("half")
        await advance(1)
        await w.kill()
        await w.start()
        reader = await w.reader("s")
        again = reader.state["messages"][-1]
        assert (again["content"], again["status"]) == ("half", "interrupted")
        assert again["siblings"] == [a0["id"], again["id"]]
        await w.choose_branch("s", a0["id"])
        assert texts(reader.state) == ["q0", "a0"]


@virtual
async def test_a_crash_between_the_commit_and_its_event_loses_nothing() -> None:
    """Nobody was told of the new branch; who comes back finds it in the snapshot."""
    async with world() as w:
        q0, _ = await conversation(w, 1)
        reader = await w.reader("s")
        gate = w.store.gate("start_turn", after=True)
        editing = asyncio.get_running_loop().create_task(w.edit("s", q0["id"], "better"))
        await gate.reached.wait()
        assert texts(reader.state) == ["q0", "a0"]
        await w.kill()
        with pytest.raises((Draining, asyncio.CancelledError)):
            await editing
        await w.start()
        live = await w.touch("s")
        again = Reader(histories=w.histories)
        w.readers.append(again)
        again.resume_from("s", reader.state, Position.parse(reader.state["position"]))
        again.follow(live, "s", Position.parse(reader.state["position"]))
        await settle()
        assert again.snapshots == 1
        assert texts(again.state) == ["better", ""]
        assert again.state["messages"][-1]["status"] == "interrupted"


# --- choosing ---


@virtual
async def test_a_branch_is_chosen_by_any_message_on_it() -> None:
    """To its newest end; what is on the active branch already changes nothing."""
    async with world() as w:
        q0, a0, q1, a1 = await conversation(w, 2)
        await w.edit("s", q1["id"], "q1'")
        await settle()
        await answer(w, "a1'")
        reader = await w.reader("s")
        for message, expected in (
            (q1, ["q0", "a0", "q1", "a1"]),
            (a1, ["q0", "a0", "q1", "a1"]),
            (q0, ["q0", "a0", "q1", "a1"]),
            (a0, ["q0", "a0", "q1", "a1"]),
        ):
            await w.choose_branch("s", message["id"])
            await settle()
            assert texts(reader.state) == expected
        assert (reader.snapshots, reader.types) == (2, [])
        assert [m["siblings"] for m in reader.state["messages"]][:2] == [[], []]
        await check_stored(w, reader.state)
        await w.chat("s", "q2")
        await settle()
        assert [m.content for m in w.puppet.last.turn.history] == ["q0", "a0", "q1", "a1"]
        await answer(w, "a2")
        await w.choose_branch("s", reader.state["messages"][2]["siblings"][1])
        assert texts(reader.state) == ["q0", "a0", "q1'", "a1'"]
        await w.choose_branch("s", q1["id"])
        assert texts(reader.state) == ["q0", "a0", "q1", "a1", "q2", "a2"]
        with pytest.raises(NotFound):
            await w.choose_branch("s", "no-such-message")


@virtual
async def test_who_resumes_from_before_a_change_of_branch_gets_a_snapshot() -> None:
    """Who resumes at its snapshot gets what followed it, and a slow reader comes out right too."""
    async with world() as w:
        q0, _ = await conversation(w, 1)
        reader = await w.reader("s")
        slow = await w.reader("s", sink=FakeSink(fast=False, high_water=10))
        before = state_of(await w.touch("s"))
        await w.edit("s", q0["id"], "better")
        await settle()
        at_branch = Position(Position.parse(reader.state["position"]).fence, 0)
        live = await w.touch("s")
        assert live.frames_after(Position.parse(before["position"])) is None
        frames = live.frames_after(at_branch)
        assert frames is not None
        assert [f.split(b"\n")[0] for f in frames] == [b"id: %d-%d" % (at_branch.fence, n) for n in (1, 2, 3, 4)]
        returning = Reader(histories=w.histories)
        w.readers.append(returning)
        returning.resume_from("s", before, Position.parse(before["position"]))
        returning.follow(live, "s", Position.parse(before["position"]))
        await answer(w, "yes")
        slow.sink.speed_up()
        await settle()
        assert returning.state == reader.state == slow.state
        assert texts(reader.state) == ["better", "yes"]


@virtual
async def test_a_branch_longer_than_the_window_is_cut_like_a_fresh_snapshot() -> None:
    """An edit far up, and the way back."""
    async with world() as w:
        await conversation(w, WINDOW_MESSAGES // 2 + 10)
        reader = await w.reader("s")
        assert (len(reader.state["messages"]), reader.state["has_more"]) == (WINDOW_MESSAGES, True)
        newest = reader.state["messages"][-1]
        at = reader.state["messages"][-10]
        await w.edit("s", at["id"], "better")
        await settle()
        await answer(w, "yes")
        assert len(reader.state["messages"]) == WINDOW_MESSAGES
        await check_stored(w, reader.state)
        first, _ = await w.page("s", reader.state["messages"][0]["id"], 1000)
        assert first[0] == "q0"
        (await w.touch("s")).log.clear()
        oldest = (await w.page("s", None, 1000))[0]
        assert oldest[-2:] == ["better", "yes"]
        await w.choose_branch("s", newest["id"])
        assert reader.state["messages"][-1] == newest
        await check_stored(w, reader.state)


@virtual
async def test_a_choice_that_the_store_refuses_changes_nothing() -> None:
    """Whichever step of it fails; nothing is told."""
    async with world() as w:
        q0, _ = await conversation(w, 1)
        await w.edit("s", q0["id"], "better")
        await settle()
        await answer(w, "yes")
        reader = await w.reader("s")
        before = reader.state["position"]
        for method in ("leaf_behind", "messages", "choose_leaf"):
            w.store.break_(method)
            with pytest.raises(StoreUnavailable):
                await w.choose_branch("s", q0["id"])
            w.store.mend()
        assert (reader.state["position"], texts(reader.state)) == (before, ["better", "yes"])
        await w.choose_branch("s", q0["id"])
        assert texts(reader.state) == ["q0", "a0"]


# --- forks, ratings, pages ---


@virtual
async def test_a_fork_is_a_session_of_its_own() -> None:
    """Of the same owner, project and model; it holds the branch up to the message, and either goes on by itself."""
    alice = visitor("alice")
    async with world() as w:
        await w.chat("s", "q0", alice, model="puppet", project_id="work")
        await settle()
        await answer(w, "a0")
        await w.chat("s", "q1", alice)
        await settle()
        await answer(w, "a1")
        state = await w.state("s", alice)
        forked = await w.fork("s", state["messages"][1]["id"], alice, title="another way")
        assert texts(forked) == ["q0", "a0"]
        assert (forked["title"], forked["project_id"], forked["model"]) == ("another way", "work", "puppet")
        assert forked["message_count"] == 2
        record = await w.record(forked["session_id"], alice)
        assert record is not None
        assert record.owner == alice.principal.owner
        await w.chat(forked["session_id"], "on", alice)
        await settle()
        await answer(w, "yes")
        assert texts(await w.state(forked["session_id"], alice)) == ["q0", "a0", "on", "yes"]
        assert await w.state("s", alice) == state
        with pytest.raises(NotFound):
            await w.fork("s", "no-such-message", alice)


@virtual
async def test_a_fork_works_beside_a_running_answer() -> None:
    """From a message before it."""
    async with world() as w:
        _, a0 = await conversation(w, 1)
        await w.chat("s", "q1")
        await settle()
        assert texts(await w.fork("s", a0["id"])) == ["q0", "a0"]
        await answer(w, "a1")


@virtual
async def test_a_rating_is_kept_told_and_taken_back() -> None:
    """In the message's metadata, beside what else is there; saying it again says nothing."""
    async with world() as w:
        q0, a0 = await conversation(w, 1)
        reader = await w.reader("s")
        await w.rate("s", a0["id"], "up", "so helpful")
        await settle()
        assert reader.types == ["message.updated"]
        assert reader.state["messages"][1]["metadata"] == {"feedback": {"rating": "up", "comment": "so helpful"}}
        await check_stored(w, reader.state)
        await w.rate("s", a0["id"], "up", "so helpful")
        assert reader.types == ["message.updated"]
        await w.chat("s", "q1")
        await settle()
        await w.rate("s", a0["id"], "down")  # beside a running turn
        await w.rate("s", a0["id"], None)
        await answer(w, "a1")
        assert reader.state["messages"][1]["metadata"] == {}
        await check_stored(w, reader.state)
        with pytest.raises(Conflict):
            await w.rate("s", q0["id"], "up")
        with pytest.raises(NotFound):
            await w.rate("s", "no-such-message", "up")


@virtual
async def test_an_answer_on_another_branch_can_be_rated() -> None:
    """It is there when the branch is chosen."""
    async with world() as w:
        _, a0 = await conversation(w, 1)
        await w.regenerate("s", a0["id"])
        await settle()
        await answer(w, "again")
        reader = await w.reader("s")
        await w.rate("s", a0["id"], "down")
        assert texts(reader.state) == ["q0", "again"]
        await w.choose_branch("s", a0["id"])
        assert reader.state["messages"][1]["metadata"] == {"feedback": {"rating": "down"}}


@virtual
async def test_pages_lead_back_to_the_first_message() -> None:
    """On the branch of the message they go back from; a running answer is shown as it stands now."""
    async with world() as w:
        messages = await conversation(w, 3)
        await w.edit("s", messages[2]["id"], "other")
        await settle()
        w.puppet.last.say("so far")
        await settle()
        assert await w.page("s", None, 2) == (["other", "so far"], True)
        assert await w.page("s", None, 10) == (["q0", "a0", "other", "so far"], False)
        assert await w.page("s", messages[5]["id"], 2) == (["a1", "q2"], True)
        assert await w.page("s", messages[3]["id"], 3) == (["q0", "a0", "q1"], False)
        assert await w.page("s", messages[0]["id"], 3) == ([], False)
        with pytest.raises(NotFound):
            await w.page("s", "no-such-message", 1)
        assert await w.page("s", None, 1) == (["so far"], True)
        await w.touch("new")
        assert await w.page("new", None, 10) == ([], False)
