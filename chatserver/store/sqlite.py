"""A SQLite database: opened with care, configured, and its errors in chatserver's words.

Invariants: an existing file is never replaced, and a new one appears under its name only when it is complete, so an
empty or cut file is always damage and refused. One process at a time (lock.py). Every commit is on disk when it
returns: WAL with synchronous=FULL syncs the log at each commit (https://sqlite.org/pragma.html#pragma_synchronous).

It knows neither statements nor operations.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from chatserver.errors import (
    ChatServerError,
    Conflict,
    NotFound,
    StartupError,
    StoreCorrupt,
    StoreFull,
    StoreUnavailable,
)
from chatserver.store.lock import locked
from chatserver.store.migrate import is_current, migrate
from chatserver.store.soundness import text_of
from chatserver.store.statements import sqlite_statements
from chatserver.store.transaction import Transaction

# Pages held in memory by the writer, which walks the same indexes again and again; SQLite's own 2 MiB is too little
# from some 100,000 sessions on. A reader takes a message here and there.
WRITER_CACHE_KIB = 32 << 10
READER_CACHE_KIB = 4 << 10
# The log is copied into the database when it has this many pages (16 MiB). SQLite's 1,000 would have a busy server do
# it several times a second, and a page that is written often would be copied each time.
CHECKPOINT_PAGES = 4000
# What a log that grew beyond (a reader stood in the way) is cut back to.
LOG_BYTES = 64 << 20
# A database up to this size is checked whole when it is opened: some 20 ms. A larger one would make the start wait;
# it tells of its damage when the damaged page is read.
CHECKED_BYTES = 16 << 20
# What a start needs on the disk at the least: the shared memory of the write-ahead log takes it in one piece.
ROOM_BYTES = 32 << 10

_MAGIC = b"SQLite format 3\0"


@dataclass(frozen=True, slots=True)
class Location:
    """Where a database is: `path` resolved, or None for one in memory; `busy_seconds` to wait for a lock."""

    path: Path | None
    busy_seconds: float


class Database:
    """An open connection; one thread's. `writer.Transactions` drives it."""

    __slots__ = ("_begin", "_connection", "transaction")

    def __init__(self, connection: sqlite3.Connection, *, begin: str) -> None:
        self._connection = connection
        self._begin = begin
        self.transaction = Transaction(connection, sqlite_statements())

    def begin(self) -> None:
        self._connection.execute(self._begin)

    def commit(self) -> None:
        self._connection.execute("COMMIT")

    def rollback(self) -> None:
        if self._connection.in_transaction:  # a full disk has rolled back by itself
            with suppress(sqlite3.Error):  # the next BEGIN fails for the same reason, and tells it
                self._connection.execute("ROLLBACK")

    def is_current(self) -> bool:
        """Whether the schema is this version's."""
        return is_current(self._connection)

    def reads_on(self, error: Exception) -> bool:
        """Text that is not UTF-8, which only a damaged disk or another program leaves here, is read with U+FFFD in it
        from now on. Not before: decoding in Python costs every row a few microseconds.
        """
        is_text = type(error) is sqlite3.OperationalError and str(error).startswith("Could not decode to UTF-8")
        if not is_text or self._connection.text_factory is text_of:
            return False
        self._connection.text_factory = text_of
        return True

    def translate(self, error: Exception) -> Exception:
        return translate(error)


@contextmanager
def writing(location: Location) -> Iterator[Database]:
    """Open for reading and writing: lock, make or check, migrate.

    Raises:
        StartupError: with the path and the reason.
    """
    with ExitStack() as stack:
        path = location.path
        if path is None:
            connection = stack.enter_context(closing(_connect(":memory:", location)))
            migrate(connection)
        else:
            _make_folder(path.parent)
            stack.enter_context(locked(path))
            try:
                if not os.path.lexists(path):
                    _create(path, location)
                _check_head(path)
                connection = stack.enter_context(closing(_connect(_uri(path, "rw"), location)))
                current = _check(connection, path)  # before anything of it is changed
                _configure(connection, WRITER_CACHE_KIB)
                if not current:
                    migrate(connection)
            except (OSError, sqlite3.Error) as error:
                raise StartupError(f"{path} cannot be opened: {_reason(error, path)}") from error
            except StartupError as error:
                raise StartupError(f"{path}: {error.detail}", code=error.narrow_code) from error
        yield Database(connection, begin="BEGIN IMMEDIATE")


@contextmanager
def reading(location: Location) -> Iterator[Database]:
    """Open for reading what `writing` holds open.

    Raises:
        StartupError: with the path and the reason.
    """
    assert location.path is not None  # noqa: S101 - a database in memory belongs to its one connection
    try:
        connection = _connect(_uri(location.path, "ro"), location)
    except sqlite3.Error as error:
        raise StartupError(f"{location.path} cannot be opened for reading: {_reason(error, location.path)}") from error
    with closing(connection):
        connection.execute(f"PRAGMA cache_size = -{READER_CACHE_KIB}")
        yield Database(connection, begin="BEGIN")


@contextmanager
def beside(location: Location) -> Iterator[Database]:
    """Open for reading and writing what another process holds open by `writing`.

    For what that process does not keep in memory, or looks at again: accounts. SQLite's own locks keep the writes of
    both apart.

    Raises:
        StartupError: with the path and the reason.
    """
    path = location.path
    assert path is not None  # noqa: S101 - a database in memory is one process's alone
    try:
        with closing(_connect(_uri(path, "rw"), location)) as connection:
            if not is_current(connection):
                raise StartupError(f"{path}: the running server is of another version")
            _configure(connection, READER_CACHE_KIB)
            yield Database(connection, begin="BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        raise StartupError(f"{path} cannot be opened: {_reason(error, path)}") from error


@contextmanager
def reading_alone(location: Location) -> Iterator[Database]:
    """Open for reading whatever is or is not going on there: no lock is taken, nothing is made or migrated.

    Raises:
        StartupError: with the path and the reason.
    """
    path = location.path
    assert path is not None  # noqa: S101 - a database in memory belongs to its one connection
    with ExitStack() as stack:
        try:
            _check_head(path, "rb")
            database = stack.enter_context(reading(location))
            current = database.is_current()
        except (OSError, sqlite3.Error) as error:
            raise StartupError(f"{path} cannot be read: {_reason(error, path)}") from error
        except StartupError as error:
            raise StartupError(f"{path}: {error.detail}", code=error.narrow_code) from error
        if not current:
            raise StartupError(f"{path} is of an older version: start the server once, which brings it up to date")
        yield database


def translate(error: Exception) -> Exception:
    """SQLite's error as one of chatserver's; any other as it is.

    The texts name neither path nor statement: they are shown to callers.
    """
    if not isinstance(error, sqlite3.Error):
        return error
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    told: ChatServerError
    match code & 0xFF:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            told = StoreUnavailable("the database is locked by another process")
        case sqlite3.SQLITE_FULL:
            told = StoreFull()
        case sqlite3.SQLITE_IOERR if code == sqlite3.SQLITE_IOERR_SHMSIZE:
            told = StoreFull()  # no space for the log's index
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            told = StoreCorrupt()
        case sqlite3.SQLITE_CONSTRAINT if code == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
            told = NotFound("what it belongs to is not stored (any more)")
        case sqlite3.SQLITE_CONSTRAINT if code in _TAKEN:
            told = Conflict("it is stored already")
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            told = StoreUnavailable("the database cannot be read or written")
        case sqlite3.SQLITE_NOMEM | sqlite3.SQLITE_PROTOCOL | sqlite3.SQLITE_INTERRUPT:
            told = StoreUnavailable()
        case _:
            return error  # a statement that is wrong: ours to mend, not the caller's to try again
    told.__cause__ = error
    return told


_TAKEN = frozenset({sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_UNIQUE})


# --- opening ---


def _uri(path: Path, mode: str) -> str:
    return f"file:{quote(str(path))}?mode={mode}"


def _connect(name: str, location: Location) -> sqlite3.Connection:
    connection = sqlite3.connect(name, timeout=location.busy_seconds, isolation_level=None, uri=name != ":memory:")
    for pragma in (
        "foreign_keys = ON",
        "secure_delete = ON",  # what a person deletes is overwritten, whatever the library was built with
        "cell_size_check = ON",  # damage is told as such, and not as a crash
        "trusted_schema = OFF",
        "temp_store = MEMORY",
    ):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _configure(connection: sqlite3.Connection, cache_kib: int) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StartupError(f"the file system does not support SQLite's write-ahead log (it stays in mode {mode!r})")
    for pragma in (
        "synchronous = FULL",
        f"cache_size = -{cache_kib}",
        f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
        f"journal_size_limit = {LOG_BYTES}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        reason = "there is a file of that name" if isinstance(error, FileExistsError) else error.strerror
        raise StartupError(f"the folder {folder} cannot be made: {reason}") from error


def _create(path: Path, location: Location) -> None:
    """Make a new database under another name and rename it when it is complete."""
    log = path.with_name(path.name + "-wal")
    if log.exists():
        # SQLite would delete it, and with it what was committed to the database that should stand beside it.
        raise StartupError(f"the file is missing, but its log {log.name} is there; put it back, or move the log away")
    new = path.with_name(path.name + ".new")
    for leftover in (new, *(new.with_name(new.name + ending) for ending in ("-wal", "-shm", "-journal"))):
        leftover.unlink(missing_ok=True)
    os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    with closing(_connect(_uri(new, "rw"), location)) as connection:
        _configure(connection, WRITER_CACHE_KIB)
        migrate(connection)
    new.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)  # the name is part of what has to survive
    finally:
        os.close(folder)


def _check_head(path: Path, mode: str = "r+b") -> None:
    """Refuse what is no database before SQLite touches it: it would take an empty file for a new database.

    Args:
        mode: opened for writing by who writes: of a file that may only be read, SQLite would write the log and never
            get it into the file.
    """
    with path.open(mode) as file:
        head = file.read(len(_MAGIC))
    if not head:
        raise StartupError("the file is empty; put the database back, or move the file away to start anew")
    if head != _MAGIC:
        raise StartupError("the file is not a SQLite database")


def _check(connection: sqlite3.Connection, path: Path) -> bool:
    """Refuse what is damaged (a small database is read whole), not ours or locked; whether its schema is current."""
    current = is_current(connection)
    if path.stat().st_size <= CHECKED_BYTES:
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise StartupError(f"the database is damaged: {found}")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("ROLLBACK")
    return current


def _reason(error: Exception, path: Path) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_BUSY:
            return "it is locked by another process"
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return f"it is damaged ({error})"
        case sqlite3.SQLITE_READONLY:
            return "it cannot be written"
        case sqlite3.SQLITE_IOERR if _is_full(path.parent):  # its shared memory is the first thing that has no room
            return "the disk is full"
        case _:
            return str(error)


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < ROOM_BYTES
    except OSError:
        return False
