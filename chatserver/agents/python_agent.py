"""`--agent package.module:name`: somebody's Python as an agent.

What loads: an async generator function of one argument, an object with such a `run`, or a class of such objects that
is made without arguments. All else is refused at start, with what to write instead: an agent that cannot work must
not be found out by the first person who asks it something.

What the agent yields is checked by the turn, which does it for every agent (pump.py). Its own exceptions pass through;
the turn makes them a failed turn.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

from chatserver.agents.base import AgentEvent, AgentTurn
from chatserver.errors import AgentError, StartupError

_TARGET = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*(?:\.[^\W\d]\w*)*)")
_HOW = "write `async def reply(turn):` with `yield` in it, or a class with such a `run` method"


class PythonAgent:
    """An Agent around a loaded function or object.

    Args:
        name: what sessions name it by, as a model.
        start: called with a turn, gives its async iterator.
        owner: what `close` belongs to, where there is one.
    """

    def __init__(self, name: str, start: Callable[[AgentTurn], Any], owner: object) -> None:
        self.name = name
        self._start = start
        self._owner = owner

    def run(self, turn: AgentTurn) -> AsyncIterator[AgentEvent]:
        """The agent's own iterator for `turn`: the turn checks what it yields and closes it, so that nothing stands
        between the two on a token's way.

        Raises:
            AgentError: code `agent_bad_event`, where it gave none. What the agent's function raises.
        """
        events = self._start(turn)
        if not hasattr(events, "__aiter__"):
            if inspect.iscoroutine(events):
                events.close()  # else Python warns that it was never awaited, far from here
            raise AgentError(
                f"The agent returned {_kind(events)} instead of an async iterator: {_HOW}.", code="agent_bad_event"
            )
        return cast("AsyncIterator[AgentEvent]", events)

    async def close(self) -> None:
        """Call the agent's own `close()`, plain or async, where it has one."""
        close = getattr(self._owner, "close", None)
        if callable(close) and inspect.isawaitable(waiting := close()):
            await waiting


def _kind(thing: object) -> str:
    return "None" if thing is None else f"an object of type {type(thing).__qualname__}"


def load_python_agent(target: str, *, working_directory: Path | None = None) -> PythonAgent:
    """Import `package.module:name` and make an agent of what it names. Blocks while it imports.

    Args:
        target: module and name; the name may have dots (`module:object.attribute`).
        working_directory: put in front of `sys.path`, so that `--agent my_agent:reply` finds ./my_agent.py however
            the server was started; None takes the present one.
    Raises:
        StartupError: with what is wrong with the target, the module or the kind of what it names.
    """
    found = _TARGET.fullmatch(target)
    if found is None:
        raise StartupError(f"--agent {target!r} is not of the form package.module:name.")
    module_name, path = found[1], found[2]
    folder = str(working_directory or Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    thing = _attribute(_module(module_name, target, folder), path, target)
    if inspect.isclass(thing):
        thing = _instance(thing, target)
    return PythonAgent(_model_id(path), _starter(thing, target), thing)


def _module(name: str, target: str, folder: str) -> object:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise StartupError(f"--agent {target!r}: there is no module {error.name!r} in {folder!r}.") from error
        raise StartupError(f"--agent {target!r}: {name} needs the module {error.name!r}, which is missing.") from error
    except (Exception, SystemExit) as error:  # border: somebody's module, which may do anything while it loads
        raise StartupError(f"--agent {target!r}: {name} does not load: {_failure(error)}.") from error


def _attribute(thing: object, path: str, target: str) -> Any:
    for name in path.split("."):
        try:
            thing = getattr(thing, name)
        except AttributeError as error:
            owner = getattr(thing, "__name__", type(thing).__name__)
            raise StartupError(f"--agent {target!r}: {owner} has no {name!r}.") from error
    return thing


def _instance(cls: type, target: str) -> object:
    if not hasattr(cls, "run"):
        raise StartupError(f"--agent {target!r}: the class has no `run`: {_HOW}.")
    try:
        return cls()
    except Exception as error:  # border: somebody's constructor
        raise StartupError(
            f"--agent {target!r}: the class cannot be made without arguments: {_failure(error)}. "
            "Make the object in the module and name that."
        ) from error


def _starter(thing: Any, target: str) -> Callable[[AgentTurn], Any]:
    """What starts a turn: `thing` itself or its `run`, after everything that can be known of it was checked."""
    run = getattr(thing, "run", None)
    start = run if callable(run) else thing
    if not callable(start):
        raise StartupError(f"--agent {target!r} is {_kind(thing)}, not an agent: {_HOW}.")
    # Decorators that keep __wrapped__ hide a generator function behind a plain one.
    inner = inspect.unwrap(start)
    if inspect.iscoroutinefunction(inner):
        raise StartupError(f"--agent {target!r} is async but never yields: {_HOW}.")
    if inspect.isgeneratorfunction(inner):
        raise StartupError(f"--agent {target!r} is a generator but not async: {_HOW}.")
    # A plain `run` may return an async iterator (the Agent protocol); a plain function is more likely a mistake.
    if start is not run and not any(map(inspect.isasyncgenfunction, (inner, type(inner).__call__))):
        raise StartupError(f"--agent {target!r} is not an async generator function: {_HOW}.")
    try:
        inspect.signature(start).bind(None)
    except TypeError as error:
        raise StartupError(f"--agent {target!r} must take one argument, the turn: {error}.") from error
    except ValueError:
        pass  # no signature to be had (written in C): the first turn will tell
    return start  # type: ignore[no-any-return]  # checked to be callable; what it gives is checked at each turn


def _model_id(path: str) -> str:
    """The agent's name as a model id, which is ASCII: `reply`, `Agents.main`; `agent` where nothing is left."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "", path).lstrip("._-")
    return plain[:64] or "agent"


def _failure(error: BaseException) -> str:
    """Type, words and place of an exception, for the operator's one line."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    words = str(error).strip()
    return f"{type(error).__name__}{': ' if words else ''}{words}{place}"
