"""The tree of messages. What the columns are for stands in store/schema.py."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("messages", sa.Column("sibling_of", sa.Text()))
    op.create_index(
        "messages_by_sibling",
        "messages",
        ["tenant", "session_id", "sibling_of", "seq"],
        sqlite_where=sa.text("sibling_of IS NOT NULL"),
        postgresql_where=sa.text("sibling_of IS NOT NULL"),
    )
