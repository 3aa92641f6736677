"""The embedded agent: answers from the docs index, calls tools on request, and needs neither key nor network.

Invariants: every answer that quotes says that no language model wrote it; every passage names its source; an answer is
bounded (`PAGE_SECTIONS`, `PAGE_CHARS`) however large the documentation is. It keeps nothing between turns: `more` is
worked out from the history, so a restart or another process changes nothing.

It does not search (docs_index.py) and does not run tools (the turn's `tools` do, with approvals and limits).
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Protocol

from chatserver.agents.base import AgentEvent, AgentTurn
from chatserver.agents.docs_commands import HELP, call_tool, list_tools
from chatserver.agents.docs_sections import Section
from chatserver.message import Message

# One answer: what a person reads at once. `more` gives the next page.
PAGE_SECTIONS = 3
PAGE_CHARS = 2_400
# Pages of one question. Further down, passages share a word with the question and no more.
_PAGES = 4
_TOPICS = 8
# A piece is a few words; a long answer has larger ones, so that no answer takes longer than _PIECES pauses.
_PIECE_CHARS = 24
_PIECES = 100

_TRAILER = r"[\s!.,?…]*"
_GREETING = re.compile(
    r"(hi|hello|hey|hiya|howdy|greetings|moin|hola|salut|hallo|good (day|morning|afternoon|evening))"
    rf"(,? (there|all|everyone|everybody|chatserver))?{_TRAILER}"
)
_ABOUT = re.compile(
    r"(help( me)?|what can (you|i) (do|ask|say)( here)?|what do you do|(who|what) are you|how can you help( me)?)"
    rf"{_TRAILER}"
)
_THANKS = re.compile(
    rf"(ok(ay)?,? )?(thanks?|thank you|thx|cheers|great|perfect|bye|goodbye)( (a lot|you|so much))?{_TRAILER}"
)
_MORE = re.compile(rf"((show (me )?)?(some )?more|go on|continue|next){_TRAILER}")
_COMMAND = re.compile(r"/(tools|tool|help)(?=\s|$)\s*(.*)", re.DOTALL)


class Docs(Protocol):
    """What the agent asks of an index; DocsIndex is one."""

    async def search(self, query: str, limit: int) -> list[Section]: ...

    async def topics(self, limit: int) -> list[str]: ...


class DocsAgent:
    """Answers with the passages of the documentation that fit the question.

    Args:
        docs: where it looks.
        has_language_model: whether other models are configured; decides how an answer says that none wrote it.
        piece_seconds: pause after each piece of an answer; 0 for none.
        sleep: waits that long.
    """

    def __init__(
        self,
        docs: Docs,
        *,
        has_language_model: bool,
        piece_seconds: float,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._docs = docs
        self._notice = (
            "_Quoted from the documentation; no language model took part._"
            if has_language_model
            else "_No language model is configured: this is quoted from the documentation._"
        )
        self._piece_seconds = piece_seconds
        self._sleep = sleep

    async def run(self, turn: AgentTurn) -> AsyncIterator[AgentEvent]:
        """Answer `turn`. Cancelling stops it between two pieces, or the tool call that it waits for.

        Raises:
            AgentError: a tool call went over the turn's limits.
        """
        if command := _COMMAND.fullmatch(turn.message.strip()):
            answer = await self._command(command[1], command[2], turn)
        else:
            answer = await self._answer(turn.message, turn.history)
        for piece in pieces(answer):
            yield piece
            if self._piece_seconds:
                await self._sleep(self._piece_seconds)

    async def close(self) -> None:
        """Nothing is held; the index belongs to whoever made it."""

    async def _command(self, name: str, arguments: str, turn: AgentTurn) -> str:
        match name:
            case "tools":
                return await list_tools(turn.tools)
            case "tool":
                return await call_tool(turn.tools, arguments)
            case _:
                return await self._about()

    async def _about(self) -> str:
        return f"{self._notice}\n\n{HELP}\n\n{await self._suggestions()}"

    async def _answer(self, message: str, history: Sequence[Message]) -> str:
        said = message.strip().lower()
        if _GREETING.fullmatch(said):
            return f"Hello! I look things up in the documentation. {self._notice}\n\n{await self._suggestions()}"
        if _ABOUT.fullmatch(said):
            return await self._about()
        if _THANKS.fullmatch(said):
            return "You are welcome. Ask on whenever you like."
        question, page = _question(message, history)
        sections = await self._docs.search(question, PAGE_SECTIONS * _PAGES)
        pages = list(_paged(sections))
        if not sections:
            return f"{self._notice}\n\nNothing in it fits these words. {await self._suggestions()}"
        if page >= len(pages):
            return "That was all that the documentation has on this. " + await self._suggestions()
        parts = [self._notice, *map(_quoted, pages[page])]
        if rest := [section for later in pages[page + 1 :] for section in later]:
            also = ", ".join(f"{section.title} (`{section.address}`)" for section in rest[:PAGE_SECTIONS])
            parts.append(f"See also: {also}. Write `more` to read on.")
        return "\n\n".join(parts)

    async def _suggestions(self) -> str:
        topics = await self._docs.topics(_TOPICS)
        if not topics:
            return "The documentation folder holds no Markdown; `--docs DIR` names another one, `/help` lists commands."
        return f"Topics to ask about: {', '.join(topics)}. `/help` lists commands."


def _question(message: str, history: Sequence[Message]) -> tuple[str, int]:
    """What is asked, and which page of the answer is wanted: each `more` after a question asks for the next."""
    said = (message, *(m.content for m in reversed(history) if m.role == "user"))
    for page, words in enumerate(said):
        if not _MORE.fullmatch(words.strip().lower()):
            return words, page
    return message, 0


def _paged(sections: Sequence[Section]) -> Iterator[list[Section]]:
    """Sections in pages of at most `PAGE_SECTIONS` and about `PAGE_CHARS`; one alone may be longer."""
    page: list[Section] = []
    for section in sections:
        full = len(page) == PAGE_SECTIONS or sum(len(s.text) for s in page) + len(section.text) > PAGE_CHARS
        if page and full:
            yield page
            page = []
        page.append(section)
    if page:
        yield page


def _quoted(section: Section) -> str:
    text = section.text
    if text.count("```") % 2:  # a section cut inside a fence
        text += "\n```"
    return f"### {section.title}\n\n{text}\n\nSource: {section.trail} (`{section.address}`)"


def pieces(text: str) -> Iterator[str]:
    """`text` in readable pieces that join to it: whole words, with the space after them."""
    size = max(_PIECE_CHARS, len(text) // _PIECES)
    start = 0
    for space in re.finditer(r"\s+", text):
        if space.end() - start >= size:
            yield text[start : space.end()]
            start = space.end()
    if start < len(text):
        yield text[start:]
