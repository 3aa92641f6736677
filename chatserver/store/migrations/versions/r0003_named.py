"""Whether a session has a title of its own. store/schema.py tells of the columns."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Who gave a title was not kept: the default one is taken for nobody's."""
    op.add_column("sessions", sa.Column("is_named", sa.Boolean(), nullable=False, server_default="0"))
    op.execute("UPDATE sessions SET is_named = (title <> 'New Chat')")
