"""`--agent package.module:name`: what loads, what is refused and how, and what an agent may yield."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chatserver.agents.base import AgentEvent
from chatserver.agents.python_agent import PythonAgent, load_python_agent
from chatserver.errors import AgentError, StartupError
from chatserver.message import ToolResult
from tests.agents.plain_turn import TableTools, said, turn

Load = Callable[[str, str], PythonAgent]


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    """Writes source to a module of its own in the working directory, and loads a name of it."""
    path, modules = list(sys.path), set(sys.modules)
    count = 0

    def write_and_load(source: str, name: str) -> PythonAgent:
        nonlocal count
        count += 1
        (tmp_path / f"agent_under_test_{count}.py").write_text(source)
        return load_python_agent(f"agent_under_test_{count}:{name}", working_directory=tmp_path)

    yield write_and_load
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("agent_under_test"):
            del sys.modules[name]


async def events(agent: PythonAgent, message: str = "hello", **kwargs: object) -> list[AgentEvent]:
    return [event async for event in agent.run(turn(message, **kwargs))]  # type: ignore[arg-type]  # passed on


FUNCTION = """
async def reply(turn):
    yield "You said: "
    yield turn.message
"""


async def test_an_async_generator_function_answers(load: Load) -> None:
    """The shortest agent is three lines."""
    agent = load(FUNCTION, "reply")

    assert await events(agent) == ["You said: ", "hello"]
    assert agent.name == "reply"


KINDS = """
import functools

class Parrot:
    closed = False
    async def run(self, turn):
        yield turn.message
    async def close(self):
        self.closed = True

class Delegating:
    def run(self, turn):
        return Parrot().run(turn)

class Callable:
    async def __call__(self, turn):
        yield turn.message

def decorator(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)
    return wrapper

@decorator
async def decorated(turn):
    yield turn.message

async def two(prefix, turn):
    yield turn.message

partial = functools.partial(two, "x")
parrot = Parrot()
call = Callable()
class Box:
    inner = parrot
"""


@pytest.mark.parametrize(
    "name", ["parrot", "Parrot", "Delegating", "call", "decorated", "partial", "Box.inner", "parrot.run"]
)
async def test_every_kind_of_agent_loads(load: Load, name: str) -> None:
    """An object with `run`, its class, a callable object, a decorated or partial function, an attribute of those."""
    agent = load(KINDS, name)

    assert await events(agent) == ["hello"]


async def test_the_agents_own_close_is_called(load: Load) -> None:
    """What it opened for all turns it can close with the server."""
    agent = load(KINDS, "parrot")
    await agent.close()

    parrot = sys.modules[next(name for name in sys.modules if name.startswith("agent_under_test"))].parrot
    assert parrot.closed


async def test_an_agent_without_close_is_closed_without_error(load: Load) -> None:
    """A function holds nothing."""
    await load(FUNCTION, "reply").close()


REFUSED = """
async def coroutine(turn):
    return "no"

def generator(turn):
    yield "no"

def plain(turn):
    return "no"

async def no_argument():
    yield "no"

async def two_arguments(turn, other):
    yield "no"

class NoRun: pass

class NeedsArgument:
    def __init__(self, x): pass
    async def run(self, turn): yield ""

class CoroutineRun:
    async def run(self, turn): return "no"

text = "no"
number = 5
"""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("coroutine", "is async but never yields"),
        ("generator", "is a generator but not async"),
        ("plain", "is not an async generator function"),
        ("no_argument", "must take one argument"),
        ("two_arguments", "must take one argument"),
        ("NoRun", "the class has no `run`"),
        ("NeedsArgument", "cannot be made without arguments: TypeError"),
        ("CoroutineRun", "is async but never yields"),
        ("text", "is an object of type str"),
        ("number", "is an object of type int"),
        ("missing", "has no 'missing'"),
        ("text.missing", "str has no 'missing'"),
    ],
)
def test_what_is_no_agent_is_refused_at_start_with_what_it_is(load: Load, name: str, says: str) -> None:
    """Not by the first person who asks it something."""
    with pytest.raises(StartupError) as refused:
        load(REFUSED, name)
    assert says in refused.value.detail


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import module_that_is_missing", "needs the module 'module_that_is_missing'"),
        ("1 / 0", "does not load: ZeroDivisionError: division by zero"),
        ("def broken(:", "does not load: SyntaxError"),
        ("raise SystemExit(3)", "does not load: SystemExit: 3"),
    ],
)
def test_a_module_that_does_not_load_says_why_and_where(load: Load, source: str, says: str) -> None:
    """An operator reads one line, not a traceback."""
    with pytest.raises(StartupError) as refused:
        load(source, "reply")
    assert says in refused.value.detail


@pytest.mark.parametrize("target", ["", "module", "module:", ":name", "a b:c", "module:name:more", "path/to.py:name"])
def test_a_malformed_target_is_refused(target: str) -> None:
    """The form is told."""
    with pytest.raises(StartupError, match=r"package\.module:name"):
        load_python_agent(target)


def test_a_module_that_is_not_there_is_named(tmp_path: Path) -> None:
    """And where it was looked for."""
    with pytest.raises(StartupError, match="no module 'nowhere_to_be_found'"):
        load_python_agent("nowhere_to_be_found.agent:reply", working_directory=tmp_path)


RETURNS = """
class Returns:
    def run(self, turn):
        return "a string"

class ReturnsCoroutine:
    def run(self, turn):
        async def later(): pass
        return later()
"""


@pytest.mark.parametrize(("name", "kind"), [("Returns", "str"), ("ReturnsCoroutine", "coroutine")])
async def test_what_gives_no_iterator_fails_the_turn_and_names_its_type(load: Load, name: str, kind: str) -> None:
    """Its author reads what is wrong in the failed message. What an iterator may yield is the turn's to check."""
    with pytest.raises(AgentError) as failed:
        await events(load(RETURNS, name))
    assert failed.value.narrow_code == "agent_bad_event"
    assert f"returned an object of type {kind}" in failed.value.detail


RAISES = """
cleaned = []

async def raises(turn):
    yield "half"
    raise ValueError("its own")

async def holds(turn):
    try:
        while True:
            yield "more"
    finally:
        cleaned.append(True)
"""


async def test_an_agents_exception_passes_through(load: Load) -> None:
    """The turn marks it failed; hiding it here would hide it from the log."""
    run = load(RAISES, "raises").run(turn("x"))

    assert await anext(run) == "half"
    with pytest.raises(ValueError, match="its own"):
        await anext(run)


async def test_an_agent_left_half_way_is_closed_at_once(load: Load) -> None:
    """What it holds in `try/finally` is freed by the interrupt, not by the garbage collector."""
    agent = load(RAISES, "holds")
    run = agent.run(turn("x"))
    assert await anext(run) == "more"
    await run.aclose()  # type: ignore[attr-defined]  # an async generator

    module = sys.modules[next(name for name in sys.modules if name.startswith("agent_under_test"))]
    assert module.cleaned == [True]


WAITS = """
import asyncio
freed = asyncio.Event()
started = asyncio.Event()

async def waits(turn):
    try:
        started.set()
        await asyncio.Event().wait()
        yield "never"
    finally:
        freed.set()
"""


async def test_cancelling_reaches_the_agent_where_it_waits(load: Load) -> None:
    """An interrupt must not wait for the model that the agent waits for."""
    agent = load(WAITS, "waits")
    module = sys.modules[next(name for name in sys.modules if name.startswith("agent_under_test"))]
    task = asyncio.get_running_loop().create_task(events(agent))
    await asyncio.wait_for(module.started.wait(), 60)

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert module.freed.is_set()


TURN = """
async def reply(turn):
    yield f"{turn.session_id} {turn.model.id} {turn.principal.tenant} {[m.content for m in turn.history]} "
    result = await turn.tools.call("time", "now", {"zone": "UTC"})
    yield result.content
"""


async def test_a_turn_gives_history_principal_and_tools(load: Load) -> None:
    """What the documentation promises an agent (spec §13) is there."""
    tools = TableTools({("time", "now"): ToolResult("noon", False)})

    answer = "".join(map(str, await events(load(TURN, "reply"), history=[said("user", "before")], tools=tools)))

    assert answer == "session-1 docs public ['before'] noon"
    assert tools.calls == [("time", "now", {"zone": "UTC"})]


def test_the_model_id_is_plain_ascii(load: Load) -> None:
    """Sessions name the agent as their model; ids of models are 1 to 64 of A-Z a-z 0-9 . _ -."""
    source = "async def répondre(turn):\n    yield ''\nasync def _private(turn):\n    yield ''\n"

    assert load(source, "répondre").name == "rpondre"
    assert load(source, "_private").name == "private"
