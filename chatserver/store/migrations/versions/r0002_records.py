"""Lists of sessions, and the tree of messages. What the columns are for stands in store/schema.py."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    lists()
    tree()


def lists() -> None:
    """Lists by owner, and when a session is looked at for having expired."""
    op.add_column("sessions", sa.Column("look_at", sa.Double(), nullable=False, server_default="0"))
    op.execute("UPDATE sessions SET look_at = expires_at")
    op.create_index("sessions_by_look", "sessions", ["look_at"])
    op.drop_index("sessions_by_owner", "sessions")
    op.drop_index("sessions_by_project", "sessions")
    for name, order in (
        ("sessions_by_owner", ["updated_at", "session_id"]),
        ("sessions_by_owner_and_project", ["project_id", "updated_at", "session_id"]),
    ):
        op.create_index(
            name,
            "sessions",
            ["tenant", "owner", *order, "is_active", "expires_at", "message_count"],
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
