"""Whether a session is named, and whether it is being removed. store/schema.py tells of the columns."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    names()
    removal()
    search()


def names() -> None:
    """Who gave a title was not kept: the default one is taken for nobody's."""
    op.add_column("sessions", sa.Column("is_named", sa.Boolean(), nullable=False, server_default="0"))
    op.execute("UPDATE sessions SET is_named = (title <> 'New Chat')")


def removal() -> None:
    """Sessions that are deleted a little at a time."""
    op.add_column("sessions", sa.Column("buried_owner", sa.Text()))
    op.create_index(
        "sessions_buried",
        "sessions",
        ["tenant", "session_id"],
        sqlite_where=sa.text("buried_owner IS NOT NULL"),
        postgresql_where=sa.text("buried_owner IS NOT NULL"),
    )


def search() -> None:
    """Words are split in another way: what is indexed is forgotten, and indexed again when its owner searches."""
    op.execute("INSERT INTO search (search) VALUES ('delete-all')")
    op.execute("UPDATE sessions SET indexed_seq = -1")
