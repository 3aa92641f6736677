"""Branches: the tree that a session's messages form, and which branch of it is the active one.

Invariants: messages stay where they are; an edit or a regeneration puts a sibling beside one, and the branch through it
becomes the active one. A change of branch is committed before it is told, with the session's lock held and no turn
running, and told as a numbered `snapshot`.

It starts no turn (turn_life.py); who may ask is session_service.py's to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from chatserver import events as ev
from chatserver.errors import Conflict, NotFound
from chatserver.live_session import LiveSession
from chatserver.message import Message
from chatserver.session_changes import check_there
from chatserver.session_manager import SessionManager
from chatserver.state import WINDOW_MESSAGES
from chatserver.store.base import SessionKey, SessionRecord, Store, StoredTurn
from chatserver.turn_ends import TurnEnds
from chatserver.under_way import UnderWay

# A person leafs through a few versions of a message; every one of their ids is in every snapshot.
MAX_SIBLINGS = 100
# Copied in one transaction, in which no other write gets its turn: some 100 ms, for many messages or for long ones.
FORK_MESSAGES = 10_000
FORK_BYTES = 8 << 20
# System messages that a new branch takes over: what still holds is among the newest, and each edit copies them again.
MAX_CARRIED = 20


@dataclass(frozen=True, slots=True)
class Stretch:
    """Messages that follow each other, oldest first; `has_more` says that the branch has older ones."""

    messages: tuple[Message, ...]
    has_more: bool


@dataclass(frozen=True, slots=True)
class Place:
    """Where a turn enters the tree.

    `user_message` has its parent and siblings; `beside` are the siblings that the answer gets. `branch` is the active
    branch before it, None where it stays what it is; `edits` and `regenerates` are as in `StartTurn`. `left` are the
    system messages that only the branch being left has, oldest first: what they say holds on the new one too.
    """

    user_message: Message
    beside: tuple[str, ...] = ()
    branch: Stretch | None = None
    edits: str | None = None
    regenerates: str | None = None
    left: tuple[Message, ...] = ()


class Branches:
    """See the module.

    Args:
        page_bytes: of the messages that are read together.
    """

    def __init__(
        self, store: Store, manager: SessionManager, under_way: UnderWay, ends: TurnEnds, page_bytes: int
    ) -> None:
        self._page_bytes = page_bytes
        self._store = store
        self._manager = manager
        self._under_way = under_way
        self._ends = ends

    # --- where a turn enters ---

    async def place_of(self, live: LiveSession, turn: StoredTurn) -> Place:
        """Where that turn enters now; the lock is held. Raises: NotFound, what the store raises."""
        if (edits := turn.options.get("edits")) is not None:
            target = await self._find(live, edits)
            siblings = (*_siblings_of(target), turn.message.id)
            user_message = replace(turn.message, parent_id=target.parent_id, siblings=siblings)
            branch, left = await self._fork_at(live, target.parent_id)
            return Place(user_message, branch=branch, edits=edits, left=left)
        if (regenerates := turn.options.get("regenerates")) is not None:
            target = await self._find(live, regenerates)
            branch, left = await self._fork_at(live, target.parent_id)
            return Place(branch.messages[-1], _siblings_of(target), branch, regenerates=regenerates, left=left)
        return Place(replace(turn.message, parent_id=live.state.leaf_id()))

    async def _fork_at(self, live: LiveSession, parent_id: str | None) -> tuple[Stretch, tuple[Message, ...]]:
        """The branch that ends there, and the system messages that the active one has besides."""
        branch = await self._stretch(live.key, parent_id)
        told = await self._told_on(live, live.state.leaf_id())
        known = {_origin_of(m) for m in await self._told_on(live, parent_id)} if told else set()
        return branch, tuple(m for m in told if _origin_of(m) not in known)

    async def _told_on(self, live: LiveSession, leaf_id: str | None) -> tuple[Message, ...]:
        if leaf_id is None:
            return ()
        return await self._store.system_messages(live.key, leaf_id=leaf_id, limit=MAX_CARRIED)

    async def check_editable(self, live: LiveSession, message_id: str) -> None:
        """Whether a message can come in the place of that one.

        Raises: NotFound (`message_not_found`), Conflict (`not_a_user_message`, `too_many_siblings`).
        """
        message = await self._find(live, message_id)
        if message.role != "user":
            raise Conflict("only a user's message can be edited", code="not_a_user_message")
        _check_family(message)

    async def question_of(self, live: LiveSession, message_id: str) -> Message:
        """The user's message that an answer answers, where that can be answered anew.

        Raises: NotFound (`message_not_found`), Conflict (`not_an_answer`, `too_many_siblings`).
        """
        answer = await self._find(live, message_id)
        if answer.role == "assistant" and answer.parent_id is not None:
            question = await self._find(live, answer.parent_id)
            if question.role == "user":
                _check_family(answer)
                return question
        raise Conflict("only an answer to a user's message can be made anew", code="not_an_answer")

    # --- choosing, copying, rating ---

    async def choose(self, live: LiveSession, message_id: str) -> None:
        """Make the branch through that message the active one, to its newest end; nothing where it is that already.

        Raises: NotFound (`message_not_found`), Conflict (`busy`: a turn is running), what the store raises.
        """
        await self._under_way.protect(live, self._choose(live, message_id), "choose-branch")

    async def _choose(self, live: LiveSession, message_id: str) -> None:
        async with live.lock:
            check_there(live)
            if live.run is not None:
                raise Conflict("a turn is running in this session", code="busy")
            await self._ends.settle(live)
            leaf_id = await self._store.leaf_behind(live.key, message_id)
            if leaf_id is None:
                raise _no_message(message_id)
            if leaf_id == live.state.leaf_id():
                return
            branch = await self._stretch(live.key, leaf_id)
            live.record = await self._store.choose_leaf(live.key, leaf_id)
            live.begin_fence(live.record.fence)
            live.change_branch(branch.messages, branch.has_more)
            self._manager.remeasure(live)

    async def fork(self, live: LiveSession, message_id: str, create: SessionRecord) -> None:
        """Store a new session with a copy of the branch up to that message.

        Raises: NotFound (`message_not_found`), Conflict (`busy`: an answer in it is running), TooLarge
            (`branch_too_long`), what the store raises.
        """
        await self._under_way.protect(live, self._fork(live, message_id, create), "fork")

    async def _fork(self, live: LiveSession, message_id: str, create: SessionRecord) -> None:
        async with live.lock:
            check_there(live)
            await self._ends.settle(live)
            await self._find(live, message_id)
            await self._store.fork_session(live.key, message_id, create, FORK_MESSAGES, FORK_BYTES)

    async def rate(self, live: LiveSession, message_id: str, feedback: Mapping[str, Any] | None) -> Message:
        """Keep what a person thinks of an answer, as `feedback` of its metadata; None takes it away.

        Raises: NotFound (`message_not_found`), Conflict (`not_an_answer`; `busy` while it is running), what the store
            raises.
        """
        return await self._under_way.protect(live, self._rate(live, message_id, feedback), "rate")

    async def _rate(self, live: LiveSession, message_id: str, feedback: Mapping[str, Any] | None) -> Message:
        async with live.lock:
            check_there(live)
            await self._ends.settle(live)
            message = live.state.message(message_id) or await self._find(live, message_id)
            if message.role != "assistant":
                raise Conflict("only an answer can be rated", code="not_an_answer")
            if message.status == "streaming":
                raise Conflict("the answer is still running", code="busy")
            metadata = {name: value for name, value in message.metadata.items() if name != "feedback"}
            if feedback is not None:
                metadata["feedback"] = dict(feedback)
            if metadata == message.metadata:
                return message
            running = live.run is not None
            record = await self._store.annotate_message(live.key, message_id, metadata, new_fence=not running)
            live.record = record
            live.past = None
            if live.run is None:
                live.begin_fence(record.fence)
            rated = replace(message, metadata=metadata)
            live.append(ev.MessageUpdated(live.key.session_id, rated))
            return rated

    # --- reading ---

    async def page(self, live: LiveSession, before: str | None, limit: int) -> Stretch:
        """Up to `limit` messages before that one on its branch; the newest of the active branch where it is None.

        Raises: NotFound (`message_not_found`), what the store raises.
        """
        leaf_id = live.state.leaf_id() if before is None else (await self._find(live, before)).parent_id
        page = await self._stretch(live.key, leaf_id, limit)
        # A running answer grows here, and only later in the store.
        current = {m.id: m for m in live.state.current_messages()}
        return replace(page, messages=tuple(current.get(m.id, m) for m in page.messages))

    async def _stretch(self, key: SessionKey, leaf_id: str | None, limit: int = WINDOW_MESSAGES) -> Stretch:
        if leaf_id is None:
            return Stretch((), has_more=False)
        messages = await self._store.messages(key, leaf_id=leaf_id, limit=limit, max_bytes=self._page_bytes)
        return Stretch(messages, has_more=messages[0].parent_id is not None)

    async def _find(self, live: LiveSession, message_id: str) -> Message:
        message = await self._store.message(live.key, message_id)
        if message is None:
            raise _no_message(message_id)
        return message


def carried_copy(message: Message, message_id: str, parent_id: str) -> Message:
    """A system message as it stands on the branch that takes it over: it was said when it was."""
    metadata = {**message.metadata, "copy_of": _origin_of(message)}
    return replace(message, id=message_id, parent_id=parent_id, metadata=metadata, siblings=())


def _origin_of(message: Message) -> str:
    return str(message.metadata.get("copy_of", message.id))


def _siblings_of(message: Message) -> tuple[str, ...]:
    return message.siblings or (message.id,)


def _check_family(message: Message) -> None:
    if len(message.siblings) >= MAX_SIBLINGS:
        raise Conflict(f"there are {MAX_SIBLINGS} versions of this message already", code="too_many_siblings")


def _no_message(message_id: str) -> NotFound:
    return NotFound(f"there is no message {message_id!r} in this session", code="message_not_found")
