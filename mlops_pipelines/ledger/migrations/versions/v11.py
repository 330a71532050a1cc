"""Incidents, and a stage more that days wait for. Expands: version 10 works beside it, looks for no incident
and audits no feedback."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "11", "10"

_STAGES = "'tiles', 'labels', 'score', 'features', 'drift', 'monitor', 'mature', 'feedback'"


def upgrade() -> None:
    """Three tables, and the check on the stages; SQLite makes the table anew for it."""
    still_open = sa.text("revision > closed_revision")
    op.drop_index("days_still_open", "reopened_days")
    with op.batch_alter_table("reopened_days") as table:
        table.drop_constraint("stage_is_known", type_="check")
        table.create_check_constraint("stage_is_known", sa.text(f"stage IN ({_STAGES})"))
    _partial("days_still_open", "reopened_days", ["pipeline", "stage", "day"], still_open)
    op.create_table(
        "incidents",
        sa.Column("pipeline", sa.String, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("severity", sa.String, nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
        _moment("opened_at", nullable=False),
        _moment("changed_at", nullable=False),
        _moment("resolved_at"),
        sa.Column("reopened", sa.Integer, nullable=False, server_default="0"),
        _recorded_at(),
        sa.CheckConstraint("severity IN ('info', 'warning', 'critical')", name="severity_is_known"),
    )
    op.create_index("incidents_by_end", "incidents", ["pipeline", "resolved_at"])
    is_open = sa.text("resolved_at IS NULL")
    _partial("one_open_incident_a_cause", "incidents", ["pipeline", "kind", "subject"], is_open, unique=True)
    op.create_table(
        "deliveries",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("pipeline", sa.String, nullable=False),
        sa.Column("incident", sa.Integer, nullable=False),
        sa.Column("sink", sa.String, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        _moment("due_at"),
        _moment("delivered_at"),
        sa.Column("problem", sa.String),
        _recorded_at(),
        sa.ForeignKeyConstraint(["pipeline", "incident"], ["incidents.pipeline", "incidents.number"]),
    )
    _partial("deliveries_that_wait", "deliveries", ["pipeline", "due_at"], sa.text("due_at IS NOT NULL"))
    op.create_table(
        "looks",
        sa.Column("pipeline", sa.String, primary_key=True),
        _moment("at", nullable=False),
        sa.Column("seen", sa.String, nullable=False),
        _moment("wall_at", nullable=False),
    )


def _moment(name: str, *, nullable: bool = True) -> "sa.Column[object]":
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _recorded_at() -> "sa.Column[object]":
    now = sa.func.current_timestamp()
    return sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False, server_default=now)


def _partial(
    name: str, table: str, columns: list[str], where: sa.TextClause, *, unique: bool = False
) -> None:
    op.create_index(name, table, columns, unique=unique, sqlite_where=where, postgresql_where=where)
