"""The docs index: what it finds, what hostile words cannot do to it, and that it follows the folder."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatserver.agents.docs_folder import Limits
from chatserver.agents.docs_index import DocsIndex, Report, match_expression
from chatserver.clock import SystemClock
from chatserver.errors import StartupError, Unavailable

ROOMY = Limits(max_files=1000, max_file_bytes=1 << 20, max_bytes=32 << 20)
OWN_DOCS = Path(__file__).parents[2] / "docs"

FILES = {
    "stream.md": "# The stream\n\nEvents come as they happen.\n\n## Resuming\n\nSend the last id to resume a stream.\n",
    "config.md": "# Configuration\n\n## max_body_bytes\n\nA body.\n\n## Other\n\nThe body of it; over it 413.\n",
    "names.md": "# Café\n\nÜber die Straße.\n\n## 会话\n\n服务器会恢复会话。\n",
}


class StepClock(SystemClock):
    """Monotonic time that a test moves."""

    def __init__(self) -> None:
        self.time = 0.0

    def monotonic(self) -> float:
        return self.time


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
async def open_index() -> AsyncIterator[Callable[..., DocsIndex]]:
    """Makes indexes and closes them."""
    async with AsyncExitStack() as stack:

        def make(folder: Path, *, clock: SystemClock | None = None, reports: list[Report] | None = None) -> DocsIndex:
            seen = [] if reports is None else reports
            index = DocsIndex(folder, ROOMY, refresh_seconds=5, clock=clock or SystemClock(), on_report=seen.append)
            stack.push_async_callback(index.close)
            return index

        yield make


@pytest.mark.parametrize(
    ("query", "address"),
    [
        ("How do I resume?", "stream.md#resuming"),
        ("resuming streams", "stream.md#resuming"),
        ("what is max_body_bytes", "config.md#max_body_bytes"),
        ("cafe", "names.md#café"),
        ("STRASSE straße", "names.md#café"),
        ("恢复", "names.md#会话"),
        ("如何恢复会话", "names.md#会话"),
        ("resum", "stream.md#resuming"),
    ],
)
async def test_a_question_finds_its_section(
    folder: Path, open_index: Callable[..., DocsIndex], query: str, address: str
) -> None:
    """By its words in other forms, by a setting's name, without accents, in a script without spaces, half written."""
    found = await open_index(folder).search(query, 5)

    assert found[0].address == address


async def test_a_word_in_the_heading_counts_more_than_one_in_the_text(
    tmp_path: Path, open_index: Callable[..., DocsIndex]
) -> None:
    """The section about a thing comes before one that mentions it."""
    (tmp_path / "a.md").write_text(
        "# Other things\n\nTimeouts, timeouts and timeouts.\n\n# Timeouts\n\nHow long one waits.\n"
    )

    assert (await open_index(tmp_path).search("timeouts", 2))[0].title == "Timeouts"


async def test_a_heading_that_is_the_question_comes_first(tmp_path: Path, open_index: Callable[..., DocsIndex]) -> None:
    """Shorter headings with the same word would otherwise win."""
    (tmp_path / "a.md").write_text(
        "# session.deleted\n\nGone.\n\n# What is a session?\n\nA conversation, its record and more.\n"
    )

    assert (await open_index(tmp_path).search("What is a session?", 2))[0].title == "What is a session?"


async def test_a_row_is_found_by_its_name_and_by_nothing_else(
    tmp_path: Path, open_index: Callable[..., DocsIndex]
) -> None:
    """A short row about `queue_limit` must not come before the section that explains queues."""
    table = "| setting | meaning |\n|---|---|\n| `queue_limit` | Queue. |\n"
    (tmp_path / "a.md").write_text(f"# Queues\n\nHow a queue works, at length.\n\n# Settings\n\n{table}")
    index = open_index(tmp_path)

    assert (await index.search("what is queue_limit", 3))[0].name == "queue_limit"
    assert not any(section.name for section in await index.search("queue limit", 3))


async def test_a_word_that_is_found_is_not_taken_for_a_beginning(
    tmp_path: Path, open_index: Callable[..., DocsIndex]
) -> None:
    """The tokenizer makes `cor` of `cors`, and `corrupt` begins with that."""
    (tmp_path / "a.md").write_text("# Corrupt\n\nA corrupt database.\n\n# Origins\n\nCORS allows origins.\n")
    index = open_index(tmp_path)

    assert [section.title for section in await index.search("cors", 3)] == ["Origins"]
    assert [section.title for section in await index.search("databa", 3)] == ["Corrupt"]


async def test_nothing_is_found_for_nothing(folder: Path, open_index: Callable[..., DocsIndex]) -> None:
    """No words, or words that stand nowhere, are an empty answer and no error."""
    index = open_index(folder)

    for query in ("", " \n", "?!…", '"', "\0", "zyzzyva quux"):
        assert await index.search(query, 5) == []
    assert await index.search("stream", 0) == []


@given(st.text(max_size=80) | st.text(alphabet=st.sampled_from("\"*:^()-+{}\\\0 'NEARORANDNOT\ud800a"), max_size=60))
def test_no_words_reach_fts5_as_syntax(query: str) -> None:
    """Every expression is quoted words joined by OR, whatever a person types."""
    expression = match_expression(query)

    if expression is not None:
        for term in expression.split(" OR "):
            assert term.rstrip("*").startswith('"')
            assert term.rstrip("*").endswith('"')
            assert '"' not in term.rstrip("*")[1:-1]
            assert "\0" not in term
        expression.encode()


HOSTILE = [
    'a" OR title:b',
    "title : stream",
    "NEAR(a b, 2)",
    "a AND NOT b OR",
    "^stream",
    "stream*",
    "{title text}: x",
    "-stream",
    "\0stream",
    'stream\0"',
    "\ud800stream",
    "'; DROP TABLE sections; --",
    "(" * 5000,
    "\u0301stream",
    "a" * 5000,
    "word " * 5000,
]


async def test_hostile_queries_run_and_leave_the_index_whole(
    folder: Path, open_index: Callable[..., DocsIndex]
) -> None:
    """FTS5 raises no syntax error, and the next search works."""
    index = open_index(folder)

    for query in HOSTILE:
        await index.search(query, 5)
    assert await index.search("resume", 5)


async def test_a_pasted_page_is_a_bounded_query() -> None:
    """A message of 32,000 characters must not become a query of thousands of terms."""
    expression = match_expression(" ".join(f"word{n}" for n in range(5000)))

    assert expression is not None
    assert expression.count(" OR ") < 24


async def test_common_words_alone_are_still_looked_for(folder: Path, open_index: Callable[..., DocsIndex]) -> None:
    """Dropping them is for long questions; a question of nothing else has only them."""
    assert await open_index(folder).search("over it", 5)


async def test_changed_files_are_found_after_the_refresh_time_and_not_before(
    folder: Path, open_index: Callable[..., DocsIndex]
) -> None:
    """An edit shows without a restart; the folder is not looked at for every question."""
    clock, reports = StepClock(), []
    index = open_index(folder, clock=clock, reports=reports)
    assert await index.search("giraffe", 5) == []
    (folder / "animals.md").write_text("# Giraffe\n\nTall.\n")
    (folder / "stream.md").unlink()

    clock.time = 4.9
    assert await index.search("giraffe", 5) == []
    clock.time = 5.0
    assert [s.address for s in await index.search("giraffe", 5)] == ["animals.md#giraffe"]
    assert await index.search("resuming", 5) == []
    assert [(report.files, report.sections) for report in reports] == [(3, 6), (3, 5)]


async def test_a_folder_that_goes_away_keeps_being_answered_from(
    folder: Path, open_index: Callable[..., DocsIndex]
) -> None:
    """A mount that is away for a moment, or a folder being replaced, takes nothing from the users."""
    clock, reports = StepClock(), []
    index = open_index(folder, clock=clock, reports=reports)
    await index.open()
    away = folder.with_name("away")
    await asyncio.to_thread(folder.rename, away)

    clock.time = 6
    assert await index.search("resuming", 5)
    assert reports[-1].error == "No such file or directory"

    await asyncio.to_thread(away.rename, folder)
    clock.time = 12
    assert await index.search("resuming", 5)
    assert reports[-1].error is None


async def test_a_folder_that_was_never_there_refuses_the_start(
    tmp_path: Path, open_index: Callable[..., DocsIndex]
) -> None:
    """The error names the path and the reason."""
    with pytest.raises(StartupError, match=r"nowhere.*No such file"):
        await open_index(tmp_path / "nowhere").open()


async def test_searching_keeps_the_loop_free(tmp_path: Path, open_index: Callable[..., DocsIndex]) -> None:
    """While an index of thousands of sections is built, the loop goes on turning."""
    for n in range(100):
        (tmp_path / f"{n}.md").write_text("\n".join(f"# Title {n} {k}\n\n{'some words ' * 40}\n" for k in range(40)))
    index = open_index(tmp_path)
    opening = asyncio.get_running_loop().create_task(index.open())

    turns = 0
    while not opening.done():
        await asyncio.sleep(0)
        turns += 1

    assert (await opening).sections == 4000
    assert turns > 100


async def test_topics_are_the_files_titles(folder: Path, open_index: Callable[..., DocsIndex]) -> None:
    """In the folder's order, as many as asked for."""
    index = open_index(folder)

    assert await index.topics(10) == ["Configuration", "Café", "The stream"]
    assert await index.topics(1) == ["Configuration"]


async def test_closing_frees_the_thread_and_is_idempotent(folder: Path, open_index: Callable[..., DocsIndex]) -> None:
    """Nothing is left behind, and a search afterwards says why it cannot run."""
    index = open_index(folder)
    await index.search("stream", 1)
    assert any(thread.name.startswith("docs-index") for thread in threading.enumerate())

    await index.close()
    await index.close()

    assert not any(thread.name.startswith("docs-index") for thread in threading.enumerate())
    with pytest.raises(Unavailable):
        await index.search("stream", 1)


async def test_own_docs_are_indexed_within_a_second(open_index: Callable[..., DocsIndex]) -> None:
    """A start must not wait for its documentation; measured in processor time, since the machine is shared."""
    index = open_index(OWN_DOCS)
    before = time.process_time()
    report = await index.open()

    assert report.sections > 0
    assert report.skipped == ()
    assert time.process_time() - before < 1.0


QUESTIONS = {
    "What is a session?": "concepts.md#what-is-a-session",
    "how do I stop an answer": "concepts.md#what-does-stopping-an-answer-do",
    "how do I resume the stream after a dropped connection": "stream.md#how-do-i-resume-a-stream",
    "max_message_chars": "configuration.md#sessions",
    "what happens if the disk is full": "operations.md#what-happens-when-the-disk-is-full",
    "backup": "operations.md#how-do-i-make-a-backup",
    "nginx": "operations.md#how-do-i-run-it-behind-nginx-or-another-proxy",
    "how do I add a tool": "quickstart.md#how-do-i-add-tools",
    "GET /api/state": "http-api.md#get-apistate",
    "can I use postgres": "faq.md#can-i-use-postgresql",
    "how long does a session live": "concepts.md#how-long-does-a-session-live-and-when-does-it-expire",
    "write an agent in python": "quickstart.md#how-do-i-use-my-own-python-code-as-the-agent",
    "turn_not_queued": "errors.md#which-codes-can-a-request-be-answered-with",
    "is it safe on the internet": "security.md#is-a-fresh-server-safe-on-the-internet",
    "heartbeat": "stream.md#how-do-i-notice-a-dead-connection",
    "after kill -9": "operations.md#what-happens-when-the-server-crashes",
    # What somebody new asks first: a user, a developer, an operator.
    "What is chatserver?": "faq.md#what-is-chatserver",
    "How do I install it?": "quickstart.md#how-do-i-install-and-start-chatserver",
    "How do I start the server?": "operations.md#how-do-i-start-the-server",
    "How do I connect a model?": "agents.md#how-do-i-connect-a-language-model",
    "How do I use OpenAI?": "quickstart.md#how-do-i-use-a-language-model",
    "How do I use Ollama?": "agents.md#how-do-i-use-ollama-llamacpp-or-vllm",
    "Where do I put my API key?": "agents.md#how-do-i-give-a-model-its-api-key",
    "How does a stream resume?": "stream.md#how-do-i-resume-a-stream",
    "How does streaming work?": "stream.md#the-stream",
    "Which events are there?": "stream.md#which-events-are-there",
    "How do I stop an answer?": "concepts.md#what-does-stopping-an-answer-do",
    "How do I edit a message?": "page.md#how-do-i-edit-a-message-or-get-another-answer",
    "How do I regenerate an answer?": "concepts.md#how-do-editing-and-regenerating-work",
    "What is a tenant?": "concepts.md#what-is-a-tenant",
    "What is a turn?": "concepts.md#what-is-a-turn",
    "What is a project?": "concepts.md#what-is-a-project",
    "What is an agent?": "concepts.md#what-is-an-agent-and-what-is-a-model",
    "How do I send a message with curl?": "quickstart.md#how-do-i-talk-to-it-with-curl",
    "How do I delete a session?": "projects.md#how-do-i-delete-a-session",
    "How do I rename a session?": "projects.md#how-do-i-rename-or-archive-a-session",
    "How do I search my sessions?": "projects.md#how-do-i-search",
    "How do I export my sessions?": "backup.md#how-do-i-export-sessions",
    "How do I import sessions?": "backup.md#how-do-i-import-sessions",
    "How do I back up the server?": "backup.md#how-do-i-back-up-the-whole-server",
    "How do I make an account?": "accounts.md#how-do-i-make-an-account",
    "How do I log in?": "accounts.md#how-do-i-log-in",
    "How do I log in with a program?": "accounts.md#how-do-i-log-in",
    "How do I change my password?": "accounts.md#how-do-i-change-my-password",
    "Who can read my messages?": "faq.md#can-somebody-else-read-my-messages",
    "How do I require a login?": "accounts.md#how-do-i-require-a-login-so-that-only-users-get-in",
    "How do I limit tokens per user?": "limits.md#how-do-i-limit-the-tokens-of-a-person-or-a-tenant",
    "Why do I get 429?": "faq.md#why-do-i-get-429-when-i-open-many-sessions",
    "Which limits are there?": "limits.md#which-other-limits-are-there",
    "How do I add an MCP server?": "mcp.md#how-do-i-add-a-tool-server",
    "How do I approve a tool call?": "mcp.md#how-do-i-make-a-person-approve-tool-calls",
    "How do I write my own agent?": "quickstart.md#how-do-i-use-my-own-python-code-as-the-agent",
    "How do I use my own documentation?": "docs-agent.md#how-do-i-use-my-own-documentation",
    "How do I change the port?": "faq.md#how-do-i-change-the-port",
    "How do I configure it?": "configuration.md#how-do-i-configure-chatserver-and-where-do-settings-come-from",
    "How do I run it behind nginx?": "operations.md#how-do-i-run-it-behind-nginx-or-another-proxy",
    "How do I use HTTPS?": "operations.md#how-do-i-offer-https",
    "Is there a Docker image?": "faq.md#is-there-a-docker-image",
    "How do I monitor it?": "operations.md#how-do-i-monitor-the-server-with-prometheus",
    "Where are the logs?": "operations.md#how-do-i-read-the-log",
    "Where is my data stored?": "faq.md#where-are-my-conversations-stored",
    "How many users can it serve?": "operations.md#how-many-users-can-one-server-serve",
    "Does it scale?": "scaling.md#how-does-chatserver-scale-today",
    "Can I run several servers?": "scaling.md#can-i-run-it-on-several-machines-or-as-several-processes",
    "How do I update chatserver?": "operations.md#how-do-i-update-chatserver",
    "What happens when the server crashes?": "operations.md#what-happens-when-the-server-crashes",
    "Is it secure?": "security.md#security",
    "Does it call home?": "security.md#does-chatserver-call-home",
    "Is there an API description?": "faq.md#is-there-a-description-of-the-api-in-openapi",
    "How do I embed it in my own page?": "page.md#how-do-i-embed-the-chat-in-my-own-page-with-chatmanager",
    "How do I allow CORS?": "http-api.md#how-do-i-allow-cors-for-a-page-of-another-origin",
    "What is the licence?": "faq.md#under-which-licence-is-chatserver",
}


# As they are typed: in few words, with slips, by their own names for things.
TYPED = {
    "do i need nodejs installed": "quickstart.md#how-do-i-install-and-start-chatserver",
    "wich python do i need": "faq.md#which-python-do-i-need",
    "how to run on a differnt port": "faq.md#how-do-i-change-the-port",
    "address already in use": "faq.md#why-is-the-address-or-port-already-in-use",
    "can i run it in docker": "faq.md#is-there-a-docker-image",
    "how do i connect lm studio": "agents.md#how-do-i-connect-a-language-model",
    "where do i put my api key": "agents.md#how-do-i-give-a-model-its-api-key",
    "the model forgets what I said earlier": "faq.md#why-does-the-model-forget-what-i-said-earlier",
    "why is the answer cut off": "faq.md#why-is-an-answer-cut-off",
    "change temperature": "faq.md#how-do-i-change-the-temperature-or-the-system-prompt-of-a-model",
    "use langchain": "python-agents.md#python-agents",
    "my agent blocks everything": "python-agents.md#why-does-the-whole-server-hang-while-my-agent-works",
    "no module named my_agent": "python-agents.md#why-does-chatserver-refuse-to-start-with-my-agent",
    "add mcp server github": "mcp.md#how-do-i-add-a-tool-server",
    "approve tool calls before they run": "mcp.md#how-do-i-make-a-person-approve-tool-calls",
    "how do i get the answer as json without streaming": "faq.md#how-do-i-get-an-answer-without-streaming",
    "eventsource example javascript": "stream.md#how-do-i-write-a-client-in-javascript",
    "python client example": "stream.md#how-do-i-write-a-client-in-python",
    "websocket support?": "faq.md#does-it-speak-websocket",
    "stream disconnects after 60 seconds behind nginx": "operations.md#how-do-i-run-it-behind-nginx-or-another-proxy",
    "cors error in browser": "http-api.md#how-do-i-allow-cors-for-a-page-of-another-origin",
    "embed chat widget in my website": "page.md#how-do-i-embed-the-chat-in-my-own-page-with-chatmanager",
    "run as a service on boot": "operations.md#how-do-i-run-it-under-systemd",
    "restore a backup": "operations.md#how-do-i-make-a-backup",
    "move to another machine": "backup.md#how-do-i-move-to-another-machine",
    "upgrade to new version": "operations.md#how-do-i-update-chatserver",
    "create admin user": "accounts.md#how-does-the-operator-make-change-and-shut-out-users",
    "only my company may use it": "accounts.md#how-do-i-require-a-login-so-that-only-users-get-in",
    "login with google / oidc": "accounts.md#how-do-i-accept-the-logins-of-my-own-identity-provider",
    "chats disappeared": "projects.md#why-is-my-list-empty",
    "search old conversations": "projects.md#how-do-i-search",
    "export chat to markdown": "faq.md#how-do-i-export-one-chat-as-markdown-or-json",
    "how many tokens did i use": "limits.md#how-do-i-see-how-many-tokens-were-used",
    "how much ram": "operations.md#how-much-memory-does-it-need",
    "is my data sent anywhere": "security.md#does-chatserver-call-home",
    "dark mode": "page.md#is-there-a-dark-mode",
    "upload a file / image": "faq.md#can-i-upload-files-or-images",
    "stop generating": "concepts.md#what-does-stopping-an-answer-do",
    "no space left on device": "operations.md#what-happens-when-the-disk-is-full",
    "database is locked": "operations.md#what-do-i-do-when-the-database-is-locked",
    "wie ändere ich den port": "faq.md#how-do-i-change-the-port",
    "wie starte ich den server": "operations.md#how-do-i-start-the-server",
}


async def test_own_docs_answer_what_people_type(open_index: Callable[..., DocsIndex]) -> None:
    """The right section is one of the first two, which are what an answer begins with."""
    index = open_index(OWN_DOCS)

    found = {typed: [section.address for section in await index.search(typed, 2)] for typed in TYPED}

    assert {typed: addresses for typed, addresses in found.items() if TYPED[typed] not in addresses} == {}


async def test_own_docs_answer_the_questions_people_ask(open_index: Callable[..., DocsIndex]) -> None:
    """The right section is the first one, for words as people write them."""
    index = open_index(OWN_DOCS)

    found = {question: await index.search(question, 3) for question in QUESTIONS}

    assert {question: sections[0].address for question, sections in found.items()} == QUESTIONS


async def test_a_file_that_cannot_be_read_costs_no_other(folder: Path, open_index: Callable[..., DocsIndex]) -> None:
    """It is named with its reason, and the others answer."""
    os.symlink("/etc/hostname", folder / "leak.md")

    report = await open_index(folder).open()

    assert report.skipped == (("leak.md", "is a link to outside the folder"),)
    assert report.files == 3
