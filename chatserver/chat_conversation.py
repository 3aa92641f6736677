"""Conversation: a session as the terminal client knows it; its own small reading of docs/stream.md.

It keeps what a terminal shows and nothing more: an older message that it does not know is not looked for. Pure: no I/O,
no clock. It accepts events of types that it does not know.
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


class Conversation:
    """What is known of the session. `messages` by id, in order; `approvals` by id."""

    def __init__(self) -> None:
        self.messages: dict[str, Json] = {}
        self.approvals: dict[str, Json] = {}
        self.queued: set[str] = set()
        self.active_turn_id: str | None = None
        self.answer_id: str | None = None
        self.model: str | None = None
        self.title = ""
        self.deleted = False

    @property
    def busy(self) -> bool:
        """Whether a turn runs or waits."""
        return self.active_turn_id is not None or bool(self.queued)

    def apply(self, event: Json) -> None:
        """Fold one event in."""
        match event.get("type"):
            case "snapshot":
                self._replace(event["state"])
            case "message.created" | "message.updated":
                message = event["message"]
                self.messages[message["id"]] = {**message, "tool_calls": list(message["tool_calls"])}
            case "turn.queued":
                self.queued.add(event["turn_id"])
            case "turn.started":
                self.queued.discard(event["turn_id"])
                self.active_turn_id, self.answer_id = event["turn_id"], event["message_id"]
            case "text.delta":
                self._append(event, "content")
            case "reasoning.delta":
                self._append(event, "reasoning")
            case "tool.called":
                if message := self.messages.get(event["message_id"]):
                    message["tool_calls"].append(event["call"])
            case "tool.returned":
                for call in self.messages.get(event["message_id"], {}).get("tool_calls", []):
                    if call["id"] == event["call_id"]:
                        call["result"] = event["result"]
            case "approval.requested":
                self.approvals[event["approval"]["id"]] = event["approval"]
            case "approval.resolved":
                self.approvals.pop(event["approval_id"], None)
            case "turn.ended":
                self._end(event)
            case "session.updated":
                self.model = event["session"].get("model", self.model)
                self.title = event["session"].get("title", self.title)
            case "session.deleted":
                self.deleted = True

    def _replace(self, state: Json) -> None:
        self.messages = {m["id"]: {**m, "tool_calls": list(m["tool_calls"])} for m in state["messages"]}
        self.approvals = {a["id"]: a for a in state["pending_approvals"]}
        self.queued = {q["turn_id"] for q in state["queue"]}
        self.active_turn_id = state["active_turn_id"]
        running = [i for i, m in self.messages.items() if m["status"] == "streaming"]
        self.answer_id = running[-1] if running else None
        self.model, self.title = state["model"], state["title"]

    def _append(self, event: Json, field: str) -> None:
        if message := self.messages.get(event["message_id"]):
            message[field] += event["text"]

    def _end(self, event: Json) -> None:
        self.queued.discard(event["turn_id"])
        if event["turn_id"] == self.active_turn_id:
            self.active_turn_id = self.answer_id = None
        message = self.messages.get(event["message_id"])
        if message is not None and message["role"] == "assistant":
            message["status"] = event["outcome"]
