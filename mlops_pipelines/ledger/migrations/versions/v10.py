"""By what each day of a derived table was made. Expands: version 9 works beside it, and keeps no record."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "10", "9"


def upgrade() -> None:
    """One table."""
    op.create_table(
        "made_days",
        sa.Column("pipeline", sa.String, primary_key=True),
        sa.Column("stage", sa.String, primary_key=True),
        sa.Column("day", sa.String, primary_key=True),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("made_by", sa.String, nullable=False),
    )
