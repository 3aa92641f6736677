"""The tables, and what each of their indexes is for.

Invariants: `REVISION` is the newest migration, and running all migrations on nothing gives exactly these tables
(tests/store/test_migrations.py). Columns hold only what every driver binds by itself (text, numbers, bytes, booleans),
because statements run without SQLAlchemy's type processing (statements.py): JSON is orjson's text.

It holds no statements and opens nothing.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Double,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    event,
    literal_column,
)

# The revision of migrations/versions/ that this code works with. Kept here so that opening a current database needs
# neither Alembic nor a look into that folder.
REVISION = "0003"

# Written into the SQL instead of bound: SQLite uses a partial index only where the query repeats its condition.
QUEUED: ColumnElement[str] = literal_column("'queued'")
RUNNING: ColumnElement[str] = literal_column("'running'")
WITHDRAWN: ColumnElement[str] = literal_column("'withdrawn'")

# Instead of an owner (`kind:id`), in `usage_days`.
WHOLE_TENANT: ColumnElement[str] = literal_column("'*'")

METADATA = MetaData()

# WITHOUT ROWID where rows are small and always found by their key: one tree instead of two.
sessions = Table(
    "sessions",
    METADATA,
    Column("tenant", Text, nullable=False),
    Column("session_id", Text, nullable=False),
    Column("project_id", Text, nullable=False),
    Column("owner", Text),
    Column("title", Text, nullable=False),
    Column("model", Text),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("description", Text, nullable=False),
    Column("metadata", Text),
    Column("is_active", Boolean, nullable=False),
    Column("message_count", Integer, nullable=False),
    Column("last_message_at", Double),
    Column("leaf_id", Text),
    Column("fence", BigInteger, nullable=False),
    # When the session is looked at for having expired: `expires_at` as it was at its creation or the last look. Each
    # turn pushes `expires_at`; an index of that would be written as often.
    Column("look_at", Double, nullable=False, server_default="0"),
    # What the full-text index calls the session (search.py); never used twice.
    Column("number", BigInteger, nullable=False, server_default="0"),
    # Its messages up to this `seq` are in the full-text index; 0: its title alone; -1: nothing.
    Column("indexed_seq", Integer, nullable=False, server_default="-1"),
    # Whether it has a title of its own, by a person or by auto-naming: then auto-naming leaves it alone, whatever the
    # title looks like.
    Column("is_named", Boolean, nullable=False, server_default="0"),
    # Of a session that is deleted while its messages are still being removed (removal.py): who owned it, empty for
    # nobody. It has no owner then, and is there for nothing else. Null for all others.
    Column("buried_owner", Text),
    PrimaryKeyConstraint("tenant", "session_id"),
    Index("sessions_by_look", "look_at"),
    sqlite_with_rowid=False,
)
ROW_COLUMNS = tuple(c.name for c in sessions.c if c.name not in ("look_at", "buried_owner"))
_buried = sessions.c.buried_owner.is_not(None)
Index("sessions_buried", sessions.c.tenant, sessions.c.session_id, sqlite_where=_buried, postgresql_where=_buried)

# A person's sessions, newest first, all and by project (spec P2, U2), with what lists and sums look at, so that they
# read the index alone. A session without an owner is in no list, and costs them nothing.
_owned = sessions.c.owner.is_not(None)
_looked_at = ("updated_at", "session_id", "is_active", "expires_at", "message_count", "number")
for _name, _columns in (
    ("sessions_by_owner", (*_looked_at, "indexed_seq")),
    ("sessions_by_owner_and_project", ("project_id", *_looked_at)),
):
    Index(
        _name,
        *(sessions.c[column] for column in ("tenant", "owner", *_columns)),
        sqlite_where=_owned,
        postgresql_where=_owned,
    )

# The last fence of a deleted session, so that one made again under the same id goes on from there: a tab that missed
# the deletion holds event ids of the old one, and must never be given the new one's events as their continuation.
deleted_sessions = Table(
    "deleted_sessions",
    METADATA,
    Column("tenant", Text, nullable=False),
    Column("session_id", Text, nullable=False),
    Column("fence", BigInteger, nullable=False),
    # When a start or a purge first found the row; it is dropped some time after that (recovery.py).
    Column("found_at", Double),
    PrimaryKeyConstraint("tenant", "session_id"),
    Index("deleted_sessions_by_found", "found_at"),
    sqlite_with_rowid=False,
)

# With rowid: a row may hold a megabyte, which a tree keyed by text would keep in its inner pages. Full-text search
# needs the rowid too.
messages = Table(
    "messages",
    METADATA,
    Column("tenant", Text, nullable=False),
    Column("session_id", Text, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("parent_id", Text),
    Column("seq", Integer, nullable=False),  # the session's first message is 1, over all branches
    Column("role", Text, nullable=False),
    Column("content", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("model", Text),
    Column("created_at", Text, nullable=False),  # RFC 3339, as shown
    Column("reasoning", Text, nullable=False),
    Column("tool_calls", Text),
    Column("usage", Text),
    Column("metadata", Text),
    # The oldest of the messages that have the same parent; null where there is only one, which is nearly always.
    Column("sibling_of", Text),
    PrimaryKeyConstraint("tenant", "session_id", "message_id"),
    ForeignKeyConstraint(
        ["tenant", "session_id"],
        ["sessions.tenant", "sessions.session_id"],
        ondelete="CASCADE",
        name="messages_session",
    ),
)

# Partial: a message that has no siblings, as nearly all have none, costs nothing here. An index over all parents would
# be two more pages to write for every turn.
Index(
    "messages_by_sibling",
    messages.c.tenant,
    messages.c.session_id,
    messages.c.sibling_of,
    messages.c.seq,
    sqlite_where=messages.c.sibling_of.is_not(None),
    postgresql_where=messages.c.sibling_of.is_not(None),
)

turns = Table(
    "turns",
    METADATA,
    Column("tenant", Text, nullable=False),
    Column("session_id", Text, nullable=False),
    Column("turn_id", Text, nullable=False),
    # queued -> running -> completed | interrupted | failed; queued -> withdrawn
    Column("state", Text, nullable=False),
    Column("client_message_id", Text),
    Column("place", Integer),  # orders the queue; gaps and negative numbers are normal; null unless queued
    Column("message", Text),  # the user's message while it is queued
    Column("options", Text),
    Column("answer_id", Text),
    Column("fence", BigInteger),
    Column("started_at", Double),
    Column("ended_at", Double),
    PrimaryKeyConstraint("tenant", "session_id", "turn_id"),
    ForeignKeyConstraint(
        ["tenant", "session_id"], ["sessions.tenant", "sessions.session_id"], ondelete="CASCADE", name="turns_session"
    ),
    sqlite_with_rowid=False,
)
# Partial, so that each holds only what it is for: a start finds what runs and what waits without reading the millions
# of turns that ended.
Index(
    "turns_by_client_message",
    turns.c.tenant,
    turns.c.session_id,
    turns.c.client_message_id,
    unique=True,
    sqlite_where=turns.c.client_message_id.is_not(None),
    postgresql_where=turns.c.client_message_id.is_not(None),
)
Index(
    "turns_running",
    turns.c.tenant,
    turns.c.session_id,
    unique=True,
    sqlite_where=turns.c.state == RUNNING,
    postgresql_where=turns.c.state == RUNNING,
)
Index(
    "turns_queued",
    turns.c.tenant,
    turns.c.session_id,
    turns.c.place,
    sqlite_where=turns.c.state == QUEUED,
    postgresql_where=turns.c.state == QUEUED,
)

turn_chunks = Table(
    "turn_chunks",
    METADATA,
    Column("tenant", Text, nullable=False),
    Column("session_id", Text, nullable=False),
    Column("turn_id", Text, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
    PrimaryKeyConstraint("tenant", "session_id", "turn_id", "seq"),
    ForeignKeyConstraint(
        ["tenant", "session_id", "turn_id"],
        ["turns.tenant", "turns.session_id", "turns.turn_id"],
        ondelete="CASCADE",
        name="turn_chunks_turn",
    ),
)

# Those who have a password here; ids of an external issuer's users stand only in `sessions.owner`.
users = Table(
    "users",
    METADATA,
    Column("tenant", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("username", Text, nullable=False),  # in its normal form
    Column("password_hash", Text, nullable=False),
    Column("scopes", Text, nullable=False),  # separated by spaces
    Column("created_at", Double, nullable=False),
    Column("disabled_at", Double),
    Column("generation", Integer, nullable=False),  # of the user's tokens; older ones are over
    PrimaryKeyConstraint("tenant", "user_id"),
    Index("users_by_name", "tenant", "username", unique=True),
    sqlite_with_rowid=False,
)

# Tokens that ended before their time: one by its id, or all of a user's before a generation. Read whole at a start,
# then by what is newer than the last `seq` seen; rows are dropped when the tokens would be over anyway.
revocations = Table(
    "revocations",
    METADATA,
    Column("seq", BigInteger, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("token_id", Text),
    Column("generation", Integer),
    Column("expires_at", Double, nullable=False),
    PrimaryKeyConstraint("seq"),
    Index("revocations_by_token", "tenant", "token_id", unique=True),
    Index("revocations_by_expiry", "expires_at"),
    sqlite_with_rowid=False,
)

# Tokens by day, so that quotas and reports are cheap and outlive the sessions. For each day a tenant has one row more,
# of all its owners together: `owner` is `*` then, project and model are empty. `owner` is empty for what is nobody's.
usage_days = Table(
    "usage_days",
    METADATA,
    Column("tenant", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("day", Integer, nullable=False),  # since the epoch, UTC's
    Column("project_id", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("turns", BigInteger, nullable=False),
    Column("estimated_turns", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    PrimaryKeyConstraint("tenant", "owner", "day", "project_id", "model"),
    # Of which old days are forgotten.
    Index("usage_days_by_day", "day"),
    sqlite_with_rowid=False,
)

# One row that readiness counts up: only a real write tells whether a write is possible.
readiness = Table(
    "readiness",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("count", BigInteger, nullable=False),
)

# One row: the last number that a session got.
session_numbers = Table(
    "session_numbers",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("last", BigInteger, nullable=False),
)

# Of the number of a document in the full-text index, for the message's `seq`: those beyond the 16,777,215th of a
# session are not found.
SEQ_BITS = 24
# The words of titles and messages (search.py). FTS5 knows neither columns' types nor constraints, so it is no Table.
# `detail=none`: which documents a word is in, not where. `ascii` splits at spaces and ASCII punctuation, of which
# words.py leaves none.
SEARCH_DDL = "CREATE VIRTUAL TABLE search USING fts5(words, content='', detail='none', columnsize=0, tokenize='ascii')"


@event.listens_for(METADATA, "after_create")
def _create_search(_target: MetaData, connection: Connection, **_options: object) -> None:
    connection.exec_driver_sql(SEARCH_DDL)
