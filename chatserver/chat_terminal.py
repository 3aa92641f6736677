"""The terminal client: a person's conversation, streamed as Markdown, with a prompt between the answers.

One task follows the stream and keeps the Conversation; the main one shows it and asks. Finished paragraphs of a running
answer are printed for good and only the last one is drawn again, so an answer may be longer than the screen.

Ctrl-C stops the running answer; when nothing runs, or the server does not answer the stop, it ends the client. What is
typed while an answer runs waits in the terminal for the next prompt.
"""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markdown import Markdown
from rich.text import Text

from chatserver.chat_client import ClientError, SessionClient
from chatserver.chat_conversation import Conversation
from chatserver.chat_input import LineInput
from chatserver.chat_text import plain
from chatserver.events import START, Position
from chatserver.tasks import Supervisor

PROMPT = "> "
# Drawn this often at most: a person reads no faster, and Markdown is parsed each time.
FRAME_SECONDS = 0.08
# Of a session that is opened again, as much as fits a few screens.
SHOWN_MESSAGES = 10
# Of a tool's arguments and result, what tells what happened.
SHOWN_CHARS = 300

HELP = """\
A line is sent to the agent; \\ at its end continues it on the next line. Ctrl-C stops an answer.
  /model [NAME]   lists the models, or switches from the next message on
  /tools          lists the session's tools
  /system TEXT    adds a system message
  /quit           ends (so does Ctrl-D); a running answer goes on at the server
Everything else, such as /tool of the embedded agent, is sent as it is."""


class Terminal:
    """See the module.

    Args:
        client: open, of the session.
        console: where to draw.
        lines: where a person's lines come from.
    """

    def __init__(self, client: SessionClient, console: Console, lines: LineInput) -> None:
        self._client = client
        self._console = console
        self._lines = lines
        self._conversation = Conversation()
        self._changed = asyncio.Event()
        self._supervisor = Supervisor("chat", self._crashed)
        self._model: str | None = None
        self._trouble: str | None = None
        self._failed: BaseException | None = None
        self._stopping = False
        self._leaving = False
        self._shown: set[str] = set()
        self._position = START
        lines.on_line = self._changed.set

    async def run(self) -> int:
        """Converse until the person leaves; gives the exit status. Cancelling is safe."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupted)
        try:
            self._supervisor.start(self._follow(), "stream")
            await self._wait_for_change()
            if self._failed is None:
                self._say(f"Session {self._client.session_id} at {self._client.base_url}. /help lists commands.")
                self._show_history()
            while not (self._leaving or self._failed or self._conversation.deleted):
                if self._conversation.busy:
                    await self._watch()
                else:
                    await self._prompt()
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            await self._supervisor.close()
        if self._failed is not None:
            self._say(self._told(self._failed), style="red")
        elif self._conversation.deleted:
            self._say("The session was deleted.", style="red")
        return 1 if self._failed is not None else 0

    # --- the stream ---

    async def _follow(self) -> None:
        async for received in self._client.events():
            self._conversation.apply(received.event)
            self._position = received.position or self._position
            self._changed.set()
        self._changed.set()

    def _crashed(self, task: str, error: BaseException) -> None:
        if task.endswith("/stream"):
            self._failed = error
        elif isinstance(error, ClientError):
            self._say(self._told(error), style="red")
        else:
            self._failed = error
        self._stopping = False
        self._changed.set()

    def trouble(self, reason: str | None) -> None:
        """The connection was interrupted, or goes on (None)."""
        self._trouble = reason
        self._changed.set()

    async def _wait_for_change(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    def _interrupted(self) -> None:
        """Ctrl-C."""
        if self._conversation.busy and not self._stopping:
            self._stopping = True
            self._supervisor.start(self._stop(), "interrupt")
        else:
            self._leaving = True
        self._changed.set()

    async def _stop(self) -> None:
        try:
            await self._client.interrupt()
        finally:
            self._stopping = False
            self._changed.set()

    # --- asking ---

    async def _prompt(self) -> None:
        """Wait for a line and carry it out, or for something to happen in the session."""
        self._show_new()
        line = self._lines.ask(PROMPT)
        while not line.done() and not (self._leaving or self._failed or self._conversation.busy):
            if self._conversation.deleted:
                return
            await self._wait_for_change()
            if self._unseen():
                with self._lines.above():
                    self._show_new()
        if line.done():
            await self._carry_out(self._lines.take())

    async def _carry_out(self, line: str | None) -> None:
        if line is None:
            self._leaving = True
            return
        text = line.strip()
        command, _, rest = text.partition(" ")
        try:
            match command:
                case "":
                    pass
                case "/quit" | "/exit":
                    self._leaving = True
                case "/help":
                    self._say(HELP)
                case "/model":
                    await self._choose_model(rest.strip())
                case "/tools":
                    await self._list_tools()
                case "/system":
                    if rest.strip():
                        await self._reached(await self._client.system(rest.strip()))
                case _:
                    await self._send(text)
        except ClientError as error:
            self._say(self._told(error), style="red")

    async def _send(self, text: str) -> None:
        """Send a message. The next prompt must not come before its answer, so the stream has to tell of it first."""
        sent = await self._client.send(text, model=self._model)
        self._model = None
        own = [q["message_id"] for q in sent["queue"] if q["turn_id"] == sent["turn_id"]]
        own += [m["id"] for m in sent["messages"] if m["role"] == "user"][-1:]
        self._shown.update(own)  # it stands in the terminal as it was typed
        await self._reached(sent)

    async def _reached(self, state: dict[str, Any]) -> None:
        """Wait until the stream has told everything that is in `state`."""
        position = Position.parse(state["position"])
        while self._position < position and not (self._leaving or self._failed or self._conversation.deleted):
            await self._wait_for_change()

    async def _choose_model(self, name: str) -> None:
        catalogue = await self._client.models()
        known = [model["id"] for model in catalogue["models"]]
        if not name:
            current = self._model or self._conversation.model or catalogue["default_model"]
            for model in known:
                self._say(f"{'* ' if model == current else '  '}{model}")
        elif name in known:
            self._model = name
            self._say(f"{name} answers from the next message on.")
        else:
            self._say(f"There is no model {name!r}; there are: {', '.join(known)}.", style="red")

    async def _list_tools(self) -> None:
        answer = await self._client.command("list_tools")
        if not answer["success"]:
            self._say(str(answer["message"]), style="red")
            return
        for tool in answer["data"]:
            self._say(f"  {tool['server']}.{tool['name']}: {' '.join(str(tool['description']).split())[:SHOWN_CHARS]}")
        if not answer["data"]:
            self._say("The session has no tools.")

    async def _decide(self, approval: dict[str, Any]) -> None:
        """Ask a person about a tool call, until somebody has decided."""
        called = f"{approval['server']}.{approval['name']} {approval['arguments']}"
        self._say(f"The agent wants to call {called[: 4 * SHOWN_CHARS]}", style="yellow")
        while approval["id"] in self._conversation.approvals and not (self._leaving or self._failed):
            line = self._lines.ask("Allow it? [y/n] ")
            if not line.done():
                await self._wait_for_change()
                continue
            answer = (self._lines.take() or "n").strip().lower()
            if answer in ("y", "yes", "n", "no"):
                command = "approve" if answer.startswith("y") else "deny"
                try:
                    await self._client.command(command, {"approval_id": approval["id"]})
                except ClientError as error:  # somebody else, or the clock, was quicker
                    self._say(self._told(error), style="red")
                self._conversation.approvals.pop(approval["id"], None)

    # --- showing ---

    def _say(self, text: str, style: str = "dim") -> None:
        self._console.print(Text(plain(text), style=style))

    @staticmethod
    def _told(error: BaseException) -> str:
        if isinstance(error, ClientError):
            return f"{error.detail} ({error.narrow_code})"
        return f"The client failed: {type(error).__name__}: {error}"

    def _show_history(self) -> None:
        """The last messages of a session that exists already, without the running answer."""
        finished = [m for m in self._conversation.messages.values() if m["status"] != "streaming"]
        self._shown.update(m["id"] for m in finished[:-SHOWN_MESSAGES])
        self._show_new()

    def _unseen(self) -> list[dict[str, Any]]:
        """Messages that are complete and were not shown: those of other tabs, of the system, and quick answers."""
        messages = self._conversation.messages.values()
        return [m for m in messages if m["id"] not in self._shown and m["status"] != "streaming"]

    def _show_new(self) -> None:
        for message in self._unseen():
            self._shown.add(message["id"])
            if message["role"] == "assistant":
                AnswerView(message).print_rest(self._console)
            else:
                mark = PROMPT if message["role"] == "user" else "[system] "
                self._console.print(Text(f"{mark}{plain(message['content'])}", style="bold"))

    async def _watch(self) -> None:
        """Show the running answer until nothing runs and nothing waits."""
        with self._lines.hidden(), self._live() as live:
            view: AnswerView | None = None
            while self._conversation.busy and not (self._leaving or self._failed or self._conversation.deleted):
                view = self._view(view)
                live.update(self._drawn(view), refresh=True)
                if waiting := next(iter(self._conversation.approvals.values()), None):
                    live.update(Text(""), refresh=True)
                    live.stop()
                    self._lines.restore()
                    await self._decide(waiting)
                    live.start()
                    continue
                await self._wait_for_change()
                await asyncio.sleep(FRAME_SECONDS)
            live.update(Text(""))
            self._view(view)

    def _live(self) -> Live:
        # It must not stand between the prompt's thread and the terminal.
        return Live(
            console=self._console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )

    def _view(self, view: AnswerView | None) -> AnswerView | None:
        """Print what is new and final; gives the view of the running answer."""
        conversation = self._conversation
        if view is not None:
            view.message = conversation.messages.get(view.message_id, view.message)
            if view.message_id != conversation.answer_id:
                view.print_rest(self._console)
                view = None
        self._show_new()
        running = conversation.messages.get(conversation.answer_id or "")
        if view is None and running is not None:
            view = AnswerView(running)
            self._shown.add(view.message_id)
        if view is not None:
            view.print_finished(self._console)
        return view

    def _drawn(self, view: AnswerView | None) -> RenderableType:
        parts = [view.tail()] if view is not None else []
        if self._trouble is not None:
            parts.append(Text(f"{plain(self._trouble)}; trying again", style="yellow"))
        elif self._stopping:
            parts.append(Text("stopping …", style="dim"))
        return Group(*parts)


class AnswerView:
    """One answer as it is shown: what of it was printed for good, and the rest."""

    def __init__(self, message: dict[str, Any]) -> None:
        self.message_id: str = message["id"]
        self.message = message
        self._printed = 0
        self._calls_told = 0
        self._results_told = 0

    def print_finished(self, console: Console) -> None:
        """Print the paragraphs and tool calls that will not change any more."""
        end = finished_until(self.message["content"], self._printed)
        calls = self.message["tool_calls"][self._calls_told :]
        if calls:  # what was said before a call stands before it
            end = len(self.message["content"])
        self._print_until(console, end)
        for call in calls:
            console.print(Text(plain(f"⚙ {call['server']}.{call['name']} {_short(call['arguments'])}"), style="cyan"))
        self._calls_told += len(calls)
        for call in self.message["tool_calls"][self._results_told : self._calls_told]:
            if call["result"] is None:
                break
            style = "red" if call["result"]["is_error"] else "dim"
            console.print(Text(plain(f"  → {_short(call['result']['content'])}"), style=style))
            self._results_told += 1

    def print_rest(self, console: Console) -> None:
        """Print what is left of an answer that has ended, and how it ended where that was not well."""
        self.print_finished(console)
        self._print_until(console, len(self.message["content"]))
        if self.message["status"] == "interrupted":
            console.print(Text("(stopped)", style="yellow"))
        elif self.message["status"] == "failed":
            error = self.message["metadata"].get("error") or {}
            console.print(Text(plain(f"(failed: {error.get('title')} [{error.get('code')}])"), style="red"))

    def _print_until(self, console: Console, end: int) -> None:
        text = self.message["content"][self._printed : end]
        if text.strip():
            console.print(self._paragraphs(text))
        self._printed = max(self._printed, end)

    def _paragraphs(self, text: str) -> RenderableType:
        """`text` as Markdown, with the blank line that parts it from what was printed before."""
        markdown = Markdown(plain(text))
        return Group(Text(""), markdown) if self._printed else markdown

    def tail(self) -> RenderableType:
        """What is drawn again and again: the unfinished paragraph, or the reasoning before the first word."""
        text = self.message["content"][self._printed :]
        if text.strip():
            return self._paragraphs(text)
        reasoning = plain(self.message["reasoning"])[-SHOWN_CHARS:] if not self.message["content"] else ""
        return Text(reasoning or "…", style="dim italic")


def finished_until(text: str, start: int) -> int:
    """Up to where `text` is finished paragraphs, from `start` on: the last blank line outside a code fence."""
    finished, at, fence = start, start, ""
    for line in text[start:].splitlines(keepends=True):
        at += len(line)
        mark = line.lstrip()[:3]
        if mark in ("```", "~~~") and fence in ("", mark):
            fence = "" if fence else mark
        elif not line.strip() and line.endswith("\n") and not fence:
            finished = at
    return finished


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]} …"
