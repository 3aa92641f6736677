"""`echo question | chatserver chat`: one message, its answer as plain text, and a status.

The answer goes to standard output as it comes, everything else to standard error. Nobody is there to be asked, so tool
calls that need a person are denied.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, TextIO

from chatserver.chat_client import ClientError, SessionClient
from chatserver.chat_conversation import Conversation
from chatserver.chat_text import plain
from chatserver.events import Position


class Answer:
    """Writes what is new of one answer's text, each part once."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._written = 0
        self._last = ""

    def show(self, content: str) -> None:
        """Write what `content` has beyond what was written."""
        new = plain(content[self._written :])
        self._written = len(content)
        if new:
            self._output.write(new)
            self._output.flush()
            self._last = new[-1]

    def end(self) -> None:
        """End the last line."""
        if self._last not in ("", "\n"):
            self._output.write("\n")
            self._output.flush()


async def ask_once(
    client: SessionClient, message: str, output: TextIO = sys.stdout, errors: TextIO = sys.stderr
) -> int:
    """Send `message` and write its answer; gives the exit status.

    Returns: 0 when the answer is complete; 1 when it failed, was stopped, or the server refused or went away.
    Cancelling stops the answer at the server too.
    """
    if not message.strip():
        print("chatserver chat: there is nothing to send", file=errors)
        return 1
    answer = Answer(output)
    try:
        sent = await client.send(message)
        try:
            outcome = await _follow(client, sent, answer, errors)
        except asyncio.CancelledError:
            # Ctrl-C: whoever stops waiting for the answer does not want it made.
            await client.interrupt()
            raise
    except ClientError as error:
        answer.end()
        print(f"chatserver chat: {plain(error.detail)} ({error.narrow_code})", file=errors)
        return 1
    answer.end()
    if outcome["outcome"] != "completed":
        failed = outcome.get("error") or {"code": "interrupted", "title": "The answer was stopped"}
        print(f"chatserver chat: {plain(failed['title'])} ({plain(failed['code'])})", file=errors)
        return 1
    return 0


async def _follow(client: SessionClient, sent: dict[str, Any], answer: Answer, errors: TextIO) -> dict[str, Any]:
    """Show the answer of the turn that `sent` started; gives its end as `turn.ended` has it."""
    turn_id = sent["turn_id"]
    conversation = Conversation()
    conversation.apply({"type": "snapshot", "state": sent})
    answer_id = conversation.answer_id if conversation.active_turn_id == turn_id else None
    asked: set[str] = set()
    async for received in client.events(Position.parse(sent["position"])):
        event = received.event
        conversation.apply(event)
        if conversation.active_turn_id == turn_id:
            answer_id = conversation.answer_id or answer_id
        message = conversation.messages.get(answer_id or "")
        if message is not None:
            answer.show(message["content"])
        if event.get("type") == "turn.ended" and event.get("turn_id") == turn_id:
            return event
        if event.get("type") == "snapshot" and turn_id not in {conversation.active_turn_id, *conversation.queued}:
            return _ended_meanwhile(conversation, answer, answer_id)
        for approval_id, approval in conversation.approvals.items():
            if approval_id not in asked:
                asked.add(approval_id)
                called = plain(f"{approval['server']}.{approval['name']}")
                print(f"chatserver chat: {called} needs an approval and is denied", file=errors)
                await client.command("deny", {"approval_id": approval_id})
    raise ClientError("the session was deleted", code="session_deleted")


def _ended_meanwhile(conversation: Conversation, answer: Answer, answer_id: str | None) -> dict[str, Any]:
    """The end of a turn that ended while the stream was interrupted, as its message tells it."""
    message = conversation.messages.get(answer_id or "")
    if message is None:  # it also began meanwhile; it is the newest answer, unless others went on
        answers = [m for m in conversation.messages.values() if m["role"] == "assistant"]
        message = answers[-1] if answers else {"content": "", "status": "interrupted", "metadata": {}}
        answer.show(message["content"])
    return {"outcome": message["status"], "error": message["metadata"].get("error")}
