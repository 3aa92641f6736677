"""What an agent is given of a conversation: as much as its model's window can hold, and every system message (spec G5).

A live session holds the newest 200 messages, which nearly always is the whole conversation, or more than any window;
then nothing is read here. What was read for one turn is kept for the next, until the session rests or leaves memory: a
thousand messages take 8 ms to read. Fitting what is given into the window is the agent's own work (agents/context.py).
"""

from __future__ import annotations

from chatserver.agents.base import ModelSettings
from chatserver.agents.context import TOKENS_PER_MESSAGE
from chatserver.live_session import LiveSession, Past
from chatserver.message import Message, memory_of
from chatserver.store.base import SessionKey, Store
from chatserver.usage import BYTES_PER_TOKEN, estimate_tokens

# Read at first beyond the live window, and doubled each time.
FIRST_PAGE = 400
# Whatever the window: who answers has no use for more, and they are held in memory while the answer runs.
MAX_MESSAGES = 10_000
# Of the system messages before that: they are read at every turn, and leave the less room for the conversation.
MAX_SYSTEM_MESSAGES = 100


async def full_history(
    store: Store, live: LiveSession, recent: tuple[Message, ...], older_id: str | None, model: ModelSettings
) -> tuple[Message, ...]:
    """`recent` with what stands before it on its branch, as far as the model can hold it, oldest first.

    Args:
        recent: the newest messages of a branch.
        older_id: the message before them; None where there is none, and nothing is read.
    Raises: what the store raises. Cancelling is safe.
    """
    if older_id is None:
        return recent
    past = live.past
    continued = (
        _continued(past, recent, older_id) if past is not None and past.read_for == model.context_tokens else None
    )
    if continued is not None:
        live.past = continued
        return continued.messages
    # Whoever changes a message or the branch meanwhile takes this away: what is being read may be what it was before.
    reading = live.past = Past((), 0, 0, model.context_tokens)
    messages = await _read(store, live.key, recent, older_id, model)
    if live.past is reading:
        older = len(messages) - len(recent)
        live.past = Past(messages, older, memory_of(messages[:older]), model.context_tokens)
    return messages


def _continued(past: Past, recent: tuple[Message, ...], older_id: str) -> Past | None:
    """What was given before with what came since; None where it has to be read anew."""
    for at in range(max(past.older - 1, 0), len(past.messages)):
        if past.messages[at].id == older_id:
            left = past.messages[past.older : at + 1]  # the window since
            grown = past.grown + len(left)
            if grown > FIRST_PAGE:  # it may hold much that the model has no room for any more
                return None
            size = past.size_bytes + memory_of(left)
            return Past((*past.messages[: at + 1], *recent), at + 1, size, past.read_for, grown)
    return None


async def _read(
    store: Store, key: SessionKey, recent: tuple[Message, ...], older_id: str | None, model: ModelSettings
) -> tuple[Message, ...]:
    history, limit = recent, FIRST_PAGE
    room = model.context_tokens - sum(map(_least_tokens, recent))
    while room > 0 and older_id is not None and len(history) < MAX_MESSAGES:
        # Not much more than there is room for: a page of long answers could be hundreds of megabytes.
        older = await store.messages(key, leaf_id=older_id, limit=limit, max_bytes=room * BYTES_PER_TOKEN)
        room -= sum(map(_least_tokens, older))
        history, older_id = older + history, older[0].parent_id
        limit *= 2
    if older_id is not None:
        history = await store.system_messages(key, leaf_id=older_id, limit=MAX_SYSTEM_MESSAGES) + history
    return history


def _least_tokens(message: Message) -> int:
    """What it takes at least: tool calls come on top of it."""
    return TOKENS_PER_MESSAGE + estimate_tokens(message.content)
