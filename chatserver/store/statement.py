"""Statement: one of SQL, with the parameters that it binds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

from sqlalchemy import ClauseElement, Dialect


class Statement:
    """SQL text and the order in which its parameters are bound, made when first used: all of them at once would be a
    third of what opening a store costs.

    Two threads may make the same one at the same time; they make the same thing.
    """

    __slots__ = ("_dialect", "_executable", "bind", "sql")

    sql: str
    bind: Callable[[Mapping[str, Any]], tuple[Any, ...]]

    def __init__(self, executable: ClauseElement, dialect: Dialect) -> None:
        self._executable = executable
        self._dialect = dialect

    def __getattr__(self, name: str) -> Any:
        """Reached only while `sql` and `bind` are not set."""
        if name not in ("sql", "bind"):
            raise AttributeError(name)
        compiled = self._executable.compile(dialect=self._dialect)
        constants = [name for name, value in compiled.params.items() if value is not None]
        assert not constants, f"{constants} would have to be bound: write them into the SQL"  # noqa: S101 - our mistake
        names: list[str] = list(getattr(compiled, "positiontup", None) or ())
        match names:
            case []:
                self.bind = _nothing
            case [one]:
                self.bind = lambda params: (params[one],)
            case _:
                self.bind = itemgetter(*names)
        self.sql = str(compiled)
        return getattr(self, name)


def _nothing(_params: Mapping[str, Any]) -> tuple[Any, ...]:
    return ()
