"""Lists of sessions, search, the tree of messages, accounts, tokens used. store/schema.py tells of the columns."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from chatserver.store.schema import SEARCH_DDL

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    lists()
    tree()
    accounts()
    usage()
    search()


def lists() -> None:
    """Lists by owner, and when a session is looked at for having expired."""
    op.add_column("sessions", sa.Column("look_at", sa.Double(), nullable=False, server_default="0"))
    op.add_column("sessions", sa.Column("number", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("sessions", sa.Column("indexed_seq", sa.Integer(), nullable=False, server_default="-1"))
    op.execute("UPDATE sessions SET look_at = expires_at")
    op.execute(
        "UPDATE sessions SET number = numbered.number FROM"
        " (SELECT tenant, session_id, row_number() OVER () AS number FROM sessions) AS numbered"
        " WHERE sessions.tenant = numbered.tenant AND sessions.session_id = numbered.session_id"
    )
    op.create_table(
        "session_numbers",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.execute("INSERT INTO session_numbers SELECT 1, count(*) FROM sessions")
    op.create_index("sessions_by_look", "sessions", ["look_at"])
    op.drop_index("sessions_by_owner", "sessions")
    op.drop_index("sessions_by_project", "sessions")
    looked_at = ["updated_at", "session_id", "is_active", "expires_at", "message_count", "number"]
    for name, columns in (
        ("sessions_by_owner", [*looked_at, "indexed_seq"]),
        ("sessions_by_owner_and_project", ["project_id", *looked_at]),
    ):
        op.create_index(
            name,
            "sessions",
            ["tenant", "owner", *columns],
            sqlite_where=sa.text("owner IS NOT NULL"),
            postgresql_where=sa.text("owner IS NOT NULL"),
        )


def tree() -> None:
    """The tree of messages."""
    op.add_column("messages", sa.Column("sibling_of", sa.Text()))
    op.create_index(
        "messages_by_sibling",
        "messages",
        ["tenant", "session_id", "sibling_of", "seq"],
        sqlite_where=sa.text("sibling_of IS NOT NULL"),
        postgresql_where=sa.text("sibling_of IS NOT NULL"),
    )


def accounts() -> None:
    """Users, and tokens that ended before their time."""
    op.create_table(
        "users",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("username", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("disabled_at", sa.Double()),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "user_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("users_by_name", "users", ["tenant", "username"], unique=True)

    op.create_table(
        "revocations",
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("token_id", sa.Text()),
        sa.Column("generation", sa.Integer()),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
        sqlite_with_rowid=False,
    )
    op.create_index("revocations_by_token", "revocations", ["tenant", "token_id"], unique=True)
    op.create_index("revocations_by_expiry", "revocations", ["expires_at"])


def usage() -> None:
    """Tokens by day."""
    op.create_table(
        "usage_days",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("turns", sa.BigInteger(), nullable=False),
        sa.Column("estimated_turns", sa.BigInteger(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "owner", "day", "project_id", "model"),
        sqlite_with_rowid=False,
    )
    op.create_index("usage_days_by_day", "usage_days", ["day"])


def search() -> None:
    """Full-text search; what is stored is indexed when its owner searches, like what comes later."""
    op.execute(SEARCH_DDL)
