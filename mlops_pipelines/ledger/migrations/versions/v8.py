"""The schema that migrations begin with."""

revision, down_revision = "8", None


def upgrade() -> None:
    """Made as a whole, with a new ledger."""
