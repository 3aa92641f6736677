"""Sessions, messages, turns and their chunks. What the columns are for stands in store/schema.py."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "sessions",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text()),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("model", sa.Text()),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("metadata", sa.Text()),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("message_count", sa.Integer(), nullable=False),
        sa.Column("last_message_at", sa.Double()),
        sa.Column("leaf_id", sa.Text()),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "session_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("sessions_by_owner", "sessions", ["tenant", "owner", "updated_at"])
    op.create_index("sessions_by_project", "sessions", ["tenant", "project_id", "updated_at"])

    op.create_table(
        "deleted_sessions",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("found_at", sa.Double()),
        sa.PrimaryKeyConstraint("tenant", "session_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("deleted_sessions_by_found", "deleted_sessions", ["found_at"])

    op.create_table(
        "messages",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("parent_id", sa.Text()),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("model", sa.Text()),
        sa.Column("created_at", sa.Text(), nullable=False),
        sa.Column("reasoning", sa.Text(), nullable=False),
        sa.Column("tool_calls", sa.Text()),
        sa.Column("usage", sa.Text()),
        sa.Column("metadata", sa.Text()),
        sa.PrimaryKeyConstraint("tenant", "session_id", "message_id"),
        sa.ForeignKeyConstraint(
            ["tenant", "session_id"],
            ["sessions.tenant", "sessions.session_id"],
            name="messages_session",
            ondelete="CASCADE",
        ),
    )

    op.create_table(
        "turns",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("turn_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("client_message_id", sa.Text()),
        sa.Column("place", sa.Integer()),
        sa.Column("message", sa.Text()),
        sa.Column("options", sa.Text()),
        sa.Column("answer_id", sa.Text()),
        sa.Column("fence", sa.BigInteger()),
        sa.Column("started_at", sa.Double()),
        sa.Column("ended_at", sa.Double()),
        sa.PrimaryKeyConstraint("tenant", "session_id", "turn_id"),
        sa.ForeignKeyConstraint(
            ["tenant", "session_id"],
            ["sessions.tenant", "sessions.session_id"],
            name="turns_session",
            ondelete="CASCADE",
        ),
        sqlite_with_rowid=False,
    )
    for name, columns, unique, where in (
        ("turns_by_client_message", ["client_message_id"], True, "client_message_id IS NOT NULL"),
        ("turns_running", [], True, "state = 'running'"),
        ("turns_queued", ["place"], False, "state = 'queued'"),
    ):
        op.create_index(
            name,
            "turns",
            ["tenant", "session_id", *columns],
            unique=unique,
            sqlite_where=sa.text(where),
            postgresql_where=sa.text(where),
        )

    op.create_table(
        "turn_chunks",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("turn_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "session_id", "turn_id", "seq"),
        sa.ForeignKeyConstraint(
            ["tenant", "session_id", "turn_id"],
            ["turns.tenant", "turns.session_id", "turns.turn_id"],
            name="turn_chunks_turn",
            ondelete="CASCADE",
        ),
    )

    op.create_table(
        "readiness",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
