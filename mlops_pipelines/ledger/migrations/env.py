"""Run by Alembic: migrates the connection that it is given, in the transaction that is open on it."""

from __future__ import annotations

from alembic import context

from mlops_pipelines.ledger.store import REVISIONS

context.configure(connection=context.config.attributes["connection"], version_table=REVISIONS)
context.run_migrations()
