"""Run by Alembic: migrates over the connection that migrate.py hands in, inside its transaction."""

from __future__ import annotations

from alembic import context

from chatserver.store.schema import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,  # SQLite changes a column by rebuilding its table
)
context.run_migrations()
