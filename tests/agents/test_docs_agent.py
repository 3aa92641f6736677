"""The embedded agent, on a real index over a small folder."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatserver.agents.base import ToolSpec
from chatserver.agents.docs_agent import PAGE_CHARS, PAGE_SECTIONS, DocsAgent, pieces
from chatserver.agents.docs_folder import Limits
from chatserver.agents.docs_index import DocsIndex
from chatserver.agents.docs_tool import SEARCH_DOCS, search_docs
from chatserver.clock import SystemClock
from chatserver.errors import ToolError
from chatserver.message import Message, ToolResult
from tests.agents.plain_turn import TableTools, said, turn

TIME = ToolSpec("time", "get_current_time", "Tells the time.\nIn a zone.", {"required": ["timezone"]})
NOON = {("time", "get_current_time"): ToolResult('{"time": "12:00"}', False)}


@pytest.fixture
async def index(tmp_path: Path) -> AsyncIterator[DocsIndex]:
    """Thirteen sections on streams, one on something else."""
    parts = [f"## Streams, part {n}\n\nStream text {n}. {'And so on. ' * 40}\n" for n in range(12)]
    (tmp_path / "stream.md").write_text("# Streams\n\nA stream carries events.\n\n" + "\n".join(parts))
    (tmp_path / "pets.md").write_text("# Pets\n\n## Cats\n\nA cat sleeps.\n\n```sh\nwake cat\n```\n")
    limits = Limits(max_files=10, max_file_bytes=1 << 20, max_bytes=1 << 20)
    index = DocsIndex(tmp_path, limits, refresh_seconds=5, clock=SystemClock())
    yield index
    await index.close()


async def no_sleep(seconds: float) -> None:
    raise AssertionError("a pause of 0 s is no pause")


def agent(index: DocsIndex, *, has_language_model: bool = False) -> DocsAgent:
    return DocsAgent(index, has_language_model=has_language_model, piece_seconds=0, sleep=no_sleep)


async def answer(
    index: DocsIndex,
    message: str,
    *,
    history: list[Message] | None = None,
    tools: TableTools | None = None,
    has_language_model: bool = False,
) -> str:
    """The whole text of one answer."""
    run = agent(index, has_language_model=has_language_model).run(turn(message, history=history or [], tools=tools))
    return "".join([str(piece) async for piece in run])


async def test_an_answer_quotes_the_passage_with_its_source(index: DocsIndex) -> None:
    """A person sees what the documentation says and where it says it, code included."""
    text = await answer(index, "How does a cat sleep?")

    assert "### Cats\n\nA cat sleeps.\n\n```sh\nwake cat\n```" in text
    assert "Source: Pets > Cats (`pets.md#cats`)" in text


async def test_an_answer_says_once_that_no_language_model_is_configured(index: DocsIndex) -> None:
    """Plainly, and not in every line."""
    text = await answer(index, "cats")

    assert text.count("No language model is configured") == 1


async def test_beside_a_language_model_it_does_not_say_that_there_is_none(index: DocsIndex) -> None:
    """As another model's fallback it would otherwise tell an untruth."""
    text = await answer(index, "cats", has_language_model=True)

    assert "no language model took part" in text
    assert "is configured" not in text


async def test_a_broad_question_gets_a_bounded_answer_and_more_goes_on(index: DocsIndex) -> None:
    """Each `more` brings other passages, until it says that that was all; nothing is remembered but the history."""
    first = await answer(index, "streams")
    seen = re.findall(r"^Source: .*$", first, re.MULTILINE)
    assert 1 <= len(seen) <= PAGE_SECTIONS
    assert len(first) < 2 * PAGE_CHARS
    assert "Write `more` to read on." in first

    history = [said("user", "streams"), said("assistant", first)]
    for _ in range(12):
        text = await answer(index, "more please" if len(history) == 4 else "more", history=history)
        if "That was all" in text:
            break
        if "Nothing in it fits" not in text:
            sources = re.findall(r"^Source: .*$", text, re.MULTILINE)
            assert not set(sources) & set(seen)
            seen += sources
            history += [said("user", "more"), said("assistant", text)]
        else:
            history += [said("user", "more")]
    else:
        pytest.fail("`more` never came to an end")
    assert len(seen) > PAGE_SECTIONS


async def test_a_section_longer_than_an_answer_stands_alone(tmp_path: Path, index: DocsIndex) -> None:
    """It is shown whole rather than not at all."""
    (tmp_path / "long.md").write_text("# Whales\n\n" + "A whale is long. " * 160)

    text = await answer(index, "whale")

    assert text.count("Source:") == 1
    assert text.count("A whale is long.") == 160


@pytest.mark.parametrize("greeting", ["hi", "Hello!", "hey there", "Good morning.", "Hallo"])
async def test_a_greeting_is_answered_with_what_can_be_asked(index: DocsIndex, greeting: str) -> None:
    """The first thing people type is no question."""
    text = await answer(index, greeting)

    assert text.startswith("Hello!")
    assert "Pets, Streams" in text


@pytest.mark.parametrize("asked", ["help", "What can you do?", "who are you", "What can I ask here?"])
async def test_who_asks_for_help_is_told_what_can_be_asked_and_commanded(index: DocsIndex, asked: str) -> None:
    """As by the command, which nobody knows before."""
    text = await answer(index, asked)

    assert "/tools" in text
    assert "Pets, Streams" in text


@pytest.mark.parametrize("thanks", ["thanks", "Thank you so much!", "ok, thanks"])
async def test_thanks_are_not_looked_up(index: DocsIndex, thanks: str) -> None:
    """Passages that contain `thank` would be an odd reply."""
    assert "Source:" not in await answer(index, thanks)


async def test_words_that_stand_nowhere_get_topics_instead(index: DocsIndex) -> None:
    """A dead end names ways on."""
    text = await answer(index, "zyzzyva")

    assert "Nothing in it fits" in text
    assert "Topics to ask about: Pets, Streams." in text


async def test_an_empty_folder_says_so(tmp_path: Path, index: DocsIndex) -> None:
    """Without Markdown there is nothing to suggest but another folder."""
    (tmp_path / "pets.md").unlink()
    (tmp_path / "stream.md").unlink()

    assert "holds no Markdown" in await answer(index, "hello")


async def test_tool_command_calls_the_tool_and_shows_its_result(index: DocsIndex) -> None:
    """The embedded agent can use MCP tools where a person names one (spec G2)."""
    tools = TableTools(NOON, [TIME])

    text = await answer(index, '/tool time.get_current_time {"timezone": "UTC"}', tools=tools)

    assert tools.calls == [("time", "get_current_time", {"timezone": "UTC"})]
    assert text == '`time.get_current_time` answered:\n\n```json\n{"time": "12:00"}\n```'


@pytest.mark.parametrize(
    ("line", "call"),
    [
        ("/tool time.get_current_time", ("time", "get_current_time", {})),
        ("/tool time.get_current_time{}", ("time", "get_current_time", {})),
        ('/tool time.get_current_time\n{"a":\n1}', ("time", "get_current_time", {"a": 1})),
        ("/tool get_current_time {}", ("time", "get_current_time", {})),
        ("/tool other.dotted.name {}", ("other", "dotted.name", {})),
    ],
)
async def test_tool_command_is_read_as_people_write_it(index: DocsIndex, line: str, call: object) -> None:
    """Without arguments, without a space, over lines, without the server where only one has the tool."""
    tools = TableTools(NOON, [TIME])

    await answer(index, line, tools=tools)

    assert tools.calls == [call]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/tool", "Write `/tool server.name"),
        ("/tool time.get_current_time {", "not JSON"),
        ("/tool time.get_current_time [1]", "must be a JSON object"),
        ("/tool time.get_current_time " + "[" * 10_000, "not JSON"),
        ('/tool time.get_current_time {"a": NaN}', "not JSON"),
        ('/tool time.get_current_time {"a": "\ud800"}', "not JSON"),
        ("/tool nowhere {}", "There is no tool `nowhere`"),
    ],
)
async def test_wrong_tool_command_is_answered_and_calls_nothing(index: DocsIndex, line: str, said: str) -> None:
    """A person who mistypes reads how to write it; the turn does not fail."""
    tools = TableTools(NOON, [TIME])

    assert said in await answer(index, line, tools=tools)
    assert tools.calls == []


async def test_a_tool_that_two_servers_have_must_be_named_with_its_server(index: DocsIndex) -> None:
    """Guessing would call the wrong one."""
    tools = TableTools(specs=[TIME, ToolSpec("clock", TIME.name, "", {})])

    text = await answer(index, "/tool get_current_time {}", tools=tools)

    assert "`time.get_current_time`, `clock.get_current_time`" in text


async def test_failed_tool_is_shown_as_failed(index: DocsIndex) -> None:
    """An error result is the tool's own words, marked as a failure."""
    tools = TableTools({("time", "get_current_time"): ToolResult("no such zone", True)})

    assert (await answer(index, "/tool time.get_current_time {}", tools=tools)).startswith(
        "`time.get_current_time` failed:\n\n```\nno such zone"
    )


async def test_a_tool_cannot_break_out_of_its_block(index: DocsIndex) -> None:
    """What a tool returns is shown, never rendered."""
    tools = TableTools({("time", "get_current_time"): ToolResult("x\n```\n# not a heading\n````", False)})

    text = await answer(index, "/tool time.get_current_time {}", tools=tools)

    assert "`````\nx\n```\n# not a heading\n````\n`````" in text


async def test_tools_command_lists_every_server(index: DocsIndex) -> None:
    """With what a tool needs, and its first words."""
    text = await answer(index, "/tools", tools=TableTools(NOON, [TIME]))

    assert "**time**" in text
    assert "- `time.get_current_time` (needs `timezone`): Tells the time. In a zone." in text
    assert "No tools" in await answer(index, "/tools")


async def test_help_lists_the_commands(index: DocsIndex) -> None:
    """Everything the agent understands is told by the agent."""
    text = await answer(index, "/help")

    assert all(word in text for word in ("/tools", "/tool server.name", "more", "Pets"))


async def test_a_route_is_a_question_and_no_command(index: DocsIndex) -> None:
    """`/api/chat` and `/toolbox` begin like a command and are none."""
    for question in ("/api/stream", "/toolbox stream"):
        assert "Source:" in await answer(index, question)


async def test_an_answer_comes_in_pieces_with_a_pause_after_each(index: DocsIndex) -> None:
    """It looks alive, and no answer takes longer than a hundred pauses or so."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    slow = DocsAgent(index, has_language_model=False, piece_seconds=0.008, sleep=sleep)
    received = [str(piece) async for piece in slow.run(turn("streams"))]

    assert len(received) > 20
    assert pauses == [0.008] * len(received)
    assert len(received) <= 110


async def test_an_interrupt_stops_between_two_pieces(index: DocsIndex) -> None:
    """The turn is cancelled where it waits, and nothing more is said."""
    paused = asyncio.Event()

    async def sleep(seconds: float) -> None:
        paused.set()
        await asyncio.Event().wait()

    slow = DocsAgent(index, has_language_model=False, piece_seconds=0.008, sleep=sleep)
    received: list[object] = []

    async def run() -> None:
        async for piece in slow.run(turn("streams")):
            received.append(piece)

    task = asyncio.get_running_loop().create_task(run())
    await asyncio.wait_for(paused.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(received) == 1


@given(st.text(max_size=3000))
def test_pieces_join_to_the_text(text: str) -> None:
    """No character is lost or doubled on the way."""
    assert "".join(pieces(text)) == text


async def test_search_docs_gives_a_model_passages_with_sources(index: DocsIndex) -> None:
    """What a model calls is the same search, as text."""
    call = search_docs(index)

    text = await call({"query": "cat"})

    assert text == "# Pets > Cats\nSource: pets.md#cats\n\nA cat sleeps.\n\n```sh\nwake cat\n```"
    assert (await call({"query": "stream", "limit": 2})).count("Source: ") == 2
    assert "The documentation is about: Pets, Streams." in await call({"query": "zyzzyva"})


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"query": ""},
        {"query": 1},
        {"query": "a", "limit": 0},
        {"query": "a", "limit": True},
        {"query": "a", "x": 1},
    ],
)
async def test_search_docs_refuses_wrong_arguments(index: DocsIndex, arguments: dict[str, object]) -> None:
    """A model is told what to mend."""
    with pytest.raises(ToolError) as refused:
        await search_docs(index)(arguments)
    assert refused.value.narrow_code == "bad_arguments"


def test_search_docs_describes_itself_as_harmless() -> None:
    """With `approval = writes` it must run without asking a person."""
    assert SEARCH_DOCS.read_only
    assert SEARCH_DOCS.input_schema["required"] == ["query"]
