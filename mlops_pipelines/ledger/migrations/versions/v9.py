"""Indexes in the order in which the policy takes triggers that wait. Expands: version 8 works beside it."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "9", "8"


def upgrade() -> None:
    """Two indexes on what waits, and on what does not wait for the cooldown."""
    waiting, pressing = sa.text("status = 'pending'"), sa.text("status = 'pending' AND urgent")
    op.create_index(
        "triggers_that_wait",
        "triggers",
        ["pipeline", "created_at", "kind", "key"],
        sqlite_where=waiting,
        postgresql_where=waiting,
    )
    op.create_index(
        "triggers_that_press", "triggers", ["pipeline"], sqlite_where=pressing, postgresql_where=pressing
    )
