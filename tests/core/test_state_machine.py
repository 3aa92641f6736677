"""The short form of the state machine; `make campaign NAME=state-machine` is the long one."""

from __future__ import annotations

from tests.core import state_machine


def test_sessions_and_turns_behave_as_the_plain_model_says() -> None:
    """A hundred lives of forty steps, the same ones every time."""
    state_machine.run(examples=100, steps=40)
