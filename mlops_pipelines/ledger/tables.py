"""The ledger's tables. Times are stored as UTC and come back timezone-aware."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from mlops_pipelines.errors import TerminalError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Dialect
    from sqlalchemy.types import TypeEngine

SCHEMA_VERSION = 11

metadata = sa.MetaData()


class _SqliteTime(sqlite.DATETIME):
    """What SQLite keeps as text, which somebody may have altered to be no moment."""

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        parse = super().result_processor(dialect, coltype)
        if parse is None:
            return None

        def parsed(value: Any) -> Any:
            try:
                return parse(value)
            except (TypeError, ValueError) as error:
                raise TerminalError(
                    f"The ledger has {value!r} where a moment is.",
                    expected="a ledger that nobody has altered",
                    remedy="mlops restore, from a backup of before",
                ) from error

        return parsed


class UtcTime(sa.TypeDecorator[datetime]):
    """A moment. A naive datetime is refused: it could mean any time zone."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "sqlite":
            return _SqliteTime()  # type: ignore[no-untyped-call]
        return self.impl_instance

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone; the ledger takes aware datetimes")
        value = value.astimezone(UTC)
        # SQLite keeps text: without an offset it sorts by time.
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        moment: datetime = value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _recorded_at() -> sa.Column[datetime]:
    """Wall-clock time of the row, for a person who looks; nothing is decided on it."""
    return sa.Column("recorded_at", UtcTime, nullable=False, server_default=sa.func.current_timestamp())


def _one_of(column: str, *values: str) -> sa.CheckConstraint:
    allowed = ", ".join(f"'{value}'" for value in values)
    return sa.CheckConstraint(f"{column} IN ({allowed})", name=f"{column}_is_known")


# BIGINT primary keys do not count up by themselves on SQLite; INTEGER ones are 64 bits wide there.
_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")

# home: whose ledger this is, where it is on a server; NULL in a file, which is its home's.
ledger_schema = sa.Table(
    "ledger_schema",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("home", sa.String),
)

home_clock = sa.Table(
    "home_clock",
    metadata,
    sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1"), primary_key=True),
    sa.Column("watermark", UtcTime),
    sa.Column("target", UtcTime),
    sa.Column("pipeline", sa.String),  # whose replay moves it
)

pipelines = sa.Table(
    "pipelines",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    # Why nothing is retrained, as a person said it; NULL while it may be.
    sa.Column("paused", sa.String),
    # The budget's token bucket; a fraction such as 7/3 as text, so that no rounding piles up.
    sa.Column("budget_spent", sa.String, nullable=False, server_default="0"),
    sa.Column("budget_as_of", UtcTime),
)

landed_files = sa.Table(
    "landed_files",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("pipeline", sa.String, nullable=False),
    sa.Column("stream", sa.String, nullable=False),
    sa.Column("path", sa.String, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("modified_at", UtcTime, nullable=False),
    sa.Column("arrival_day", sa.String, nullable=False),
    sa.Column("status", sa.String, nullable=False, server_default="pending"),
    sa.Column("digest", sa.String),
    sa.Column("rows", sa.BigInteger),
    sa.Column("accepted", sa.BigInteger),
    sa.Column("quarantined", sa.BigInteger),
    sa.Column("duplicates", sa.BigInteger),
    sa.Column("detail", sa.String),
    sa.Column("finished_at", UtcTime),
    _recorded_at(),
    _one_of("status", "pending", "taken", "rejected"),
    sa.UniqueConstraint("pipeline", "stream", "path", "size", "modified_at"),
    sa.Index("landed_files_by_status", "pipeline", "status", "arrival_day", "path"),
    sa.Index("landed_files_by_day", "pipeline", "stream", "arrival_day"),
    sa.Index("landed_files_by_digest", "pipeline", "stream", "digest"),
)

# A day is open while it was reopened more often than closed; counting up, instead of deleting the row,
# keeps a close from hiding a reopening that came while the day was being worked on.
reopened_days = sa.Table(
    "reopened_days",
    metadata,
    sa.Column("pipeline", sa.String, primary_key=True),
    sa.Column("stage", sa.String, primary_key=True),
    sa.Column("day", sa.String, primary_key=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("closed_revision", sa.Integer, nullable=False, server_default="0"),
    sa.Column("reopened_at", UtcTime, nullable=False),
    _one_of("stage", "tiles", "labels", "score", "features", "drift", "monitor", "mature", "feedback"),
    sa.Index(
        "days_still_open",
        "pipeline",
        "stage",
        "day",
        sqlite_where=sa.text("revision > closed_revision"),
        postgresql_where=sa.text("revision > closed_revision"),
    ),
)

# By what a stage made a day last. The record of an older code may be missing: the day is made once more.
made_days = sa.Table(
    "made_days",
    metadata,
    sa.Column("pipeline", sa.String, primary_key=True),
    sa.Column("stage", sa.String, primary_key=True),
    sa.Column("day", sa.String, primary_key=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("made_by", sa.String, nullable=False),
)

feature_sets = sa.Table(
    "feature_sets",
    metadata,
    sa.Column("seq", _ID, primary_key=True),
    sa.Column("pipeline", sa.String, nullable=False),
    sa.Column("version", sa.String, nullable=False),
    sa.Column("definition", sa.Text, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    _recorded_at(),
    _one_of("state", "in_use", "retired"),
    sa.UniqueConstraint("pipeline", "version"),
)

# Views whose tiles are all there: made for all that is known, and by every run since.
kept_tiles = sa.Table(
    "kept_tiles",
    metadata,
    sa.Column("pipeline", sa.String, primary_key=True),
    sa.Column("view", sa.String, primary_key=True),
    _recorded_at(),
)

retrains = sa.Table(
    "retrains",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("pipeline", sa.String, nullable=False),
    sa.Column("seq", sa.Integer, nullable=False),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("watermark", UtcTime, nullable=False),
    sa.Column("token", sa.String, nullable=False),
    sa.Column("run_id", sa.String, nullable=False),
    sa.Column("started_at", UtcTime, nullable=False),
    sa.Column("losses", sa.Integer, nullable=False, server_default="0"),
    sa.Column("data_mark", sa.String, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("dataset_version", sa.String),
    sa.Column("feature_set", sa.String),  # the set its training rows were made by
    sa.Column("matured_rows", sa.BigInteger),
    sa.Column("cutoff", UtcTime),
    sa.Column("model_hash", sa.String),
    sa.Column("mlflow_version", sa.String),
    sa.Column("mlflow_run_id", sa.String),
    sa.Column("judged_model_hash", sa.String),
    sa.Column("outcome", sa.String),
    sa.Column("finished_at", UtcTime),
    _recorded_at(),
    _one_of(
        "status",
        *(
            "running",
            "lost",
            "promoted",
            "rejected",
            "failed",
            "nothing",
            "waiting",
            "expired",
            "rolled_back",
        ),
    ),
    sa.CheckConstraint("(status IN ('running', 'lost')) = (finished_at IS NULL)", name="finished_has_time"),
    sa.UniqueConstraint("pipeline", "seq"),
    sa.Index("retrains_by_status", "pipeline", "status", "seq"),
    sa.Index("retrains_by_data_mark", "pipeline", "data_mark"),
    sa.Index("retrains_by_run", "run_id"),
    # The backstop of the admission transaction: whatever the code does, never two in flight.
    sa.Index(
        "one_retrain_in_flight",
        "pipeline",
        unique=True,
        sqlite_where=sa.text("status IN ('running', 'lost')"),
        postgresql_where=sa.text("status IN ('running', 'lost')"),
    ),
)

triggers = sa.Table(
    "triggers",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("pipeline", sa.String, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("key", sa.String, nullable=False),
    sa.Column("evidence", sa.JSON, nullable=False),
    sa.Column("urgent", sa.Boolean, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("status", sa.String, nullable=False, server_default="pending"),
    sa.Column("retrain_id", sa.String, sa.ForeignKey("retrains.id")),
    sa.Column("ended_at", UtcTime),
    sa.Column("reason", sa.String),
    _recorded_at(),
    _one_of("status", "pending", "served", "folded", "expired"),
    sa.CheckConstraint("(status = 'pending') = (ended_at IS NULL)", name="ended_has_time"),
    sa.CheckConstraint(
        "(status IN ('served', 'folded')) = (retrain_id IS NOT NULL)", name="answered_has_retrain"
    ),
    sa.UniqueConstraint("pipeline", "key"),
    sa.Index("triggers_by_status", "pipeline", "status", "created_at"),
    sa.Index("triggers_by_retrain", "retrain_id"),
    # In the order in which the policy takes those that wait, and those that do not wait for the cooldown.
    sa.Index(
        "triggers_that_wait",
        *("pipeline", "created_at", "kind", "key"),
        sqlite_where=sa.text("status = 'pending'"),
        postgresql_where=sa.text("status = 'pending'"),
    ),
    sa.Index(
        "triggers_that_press",
        "pipeline",
        sqlite_where=sa.text("status = 'pending' AND urgent"),
        postgresql_where=sa.text("status = 'pending' AND urgent"),
    ),
)

# Verdicts belong to a model, not only to a retrain: a later attempt that trains another model cannot be
# promoted on the verdicts of the first.
verdicts = sa.Table(
    "verdicts",
    metadata,
    sa.Column("retrain_id", sa.String, sa.ForeignKey("retrains.id"), primary_key=True),
    sa.Column("model_hash", sa.String, primary_key=True),
    sa.Column("gate", sa.String, primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("outcome", sa.String, nullable=False),
    sa.Column("figure", sa.Float),
    sa.Column("bound", sa.Float),
    sa.Column("interval_low", sa.Float),
    sa.Column("interval_high", sa.Float),
    sa.Column("sentence", sa.String, nullable=False),
    sa.Column("at", UtcTime, nullable=False),
    _recorded_at(),
    _one_of("outcome", "pass", "fail", "warn", "not_applicable"),
)

# The key is the compare-and-swap: of two promotions to the same sequence one is refused.
promotions = sa.Table(
    "promotions",
    metadata,
    sa.Column("pipeline", sa.String, primary_key=True),
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("retrain_id", sa.String, sa.ForeignKey("retrains.id"), nullable=False),
    sa.Column("model_hash", sa.String, nullable=False),
    sa.Column("mlflow_version", sa.String, nullable=False),
    sa.Column("previous", sa.String),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("by", sa.String, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
    _recorded_at(),
    _one_of("kind", "gates", "approval", "adoption", "rollback"),
    sa.Index("promotions_by_retrain", "retrain_id"),
    # A retrain's candidate is promoted once; it comes back by a rollback, or an adoption.
    sa.Index(
        "one_promotion_a_retrain",
        "retrain_id",
        unique=True,
        sqlite_where=sa.text("kind IN ('gates', 'approval')"),
        postgresql_where=sa.text("kind IN ('gates', 'approval')"),
    ),
)

# A candidate that passed its gates and waits for people. sequence: that of the champion it was compared with.
waits = sa.Table(
    "waits",
    metadata,
    sa.Column("retrain_id", sa.String, sa.ForeignKey("retrains.id"), primary_key=True),
    sa.Column("pipeline", sa.String, nullable=False),
    sa.Column("model_hash", sa.String, nullable=False),
    sa.Column("mlflow_version", sa.String, nullable=False),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("approvals", sa.Integer, nullable=False),
    sa.Column("asked_at", UtcTime, nullable=False),
    sa.Column("expires_at", UtcTime, nullable=False),
    _recorded_at(),
    sa.Index("waits_by_pipeline", "pipeline"),
)

approvals = sa.Table(
    "approvals",
    metadata,
    sa.Column("retrain_id", sa.String, sa.ForeignKey("waits.retrain_id"), primary_key=True),
    sa.Column("by", sa.String, primary_key=True),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
    _recorded_at(),
)

# The audit: what was decided on models, each record chained to the one before it and signed.
records = sa.Table(
    "records",
    metadata,
    sa.Column("pipeline", sa.String, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("hash", sa.String, nullable=False),
    sa.Column("key", sa.String, nullable=False),
    sa.Column("signature", sa.String, nullable=False),
    _recorded_at(),
)

# What `mlops gc` took away, so that whoever asks for it later hears when and why it is gone. Of predictions
# and reports, cut by whole days, the name is the first day that was kept.
freed = sa.Table(
    "freed",
    metadata,
    sa.Column("pipeline", sa.String, primary_key=True),
    sa.Column("kind", sa.String, primary_key=True),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("at", UtcTime, nullable=False),
    _recorded_at(),
    _one_of("kind", "predictions", "reports", "model", "dataset", "landed"),
)

# One row a cause, however often it comes back; at most one open of a kind and subject. body: as JSON, what
# nobody searches by.
incidents = sa.Table(
    "incidents",
    metadata,
    sa.Column("pipeline", sa.String, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("subject", sa.String, nullable=False),
    sa.Column("severity", sa.String, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
    sa.Column("opened_at", UtcTime, nullable=False),
    sa.Column("changed_at", UtcTime, nullable=False),
    sa.Column("resolved_at", UtcTime),
    sa.Column("reopened", sa.Integer, nullable=False, server_default="0"),
    _recorded_at(),
    _one_of("severity", "info", "warning", "critical"),
    sa.Index("incidents_by_end", "pipeline", "resolved_at"),
    sa.Index(
        "one_open_incident_a_cause",
        *("pipeline", "kind", "subject"),
        unique=True,
        sqlite_where=sa.text("resolved_at IS NULL"),
        postgresql_where=sa.text("resolved_at IS NULL"),
    ),
)

# What is to be told of an incident, once for each sink. due_at: wall clock, when it is tried next; NULL when
# it is over: delivered, or given up.
deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("pipeline", sa.String, nullable=False),
    sa.Column("incident", sa.Integer, nullable=False),
    sa.Column("sink", sa.String, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("due_at", UtcTime),
    sa.Column("delivered_at", UtcTime),
    sa.Column("problem", sa.String),
    _recorded_at(),
    sa.ForeignKeyConstraint(["pipeline", "incident"], ["incidents.pipeline", "incidents.number"]),
    sa.Index(
        "deliveries_that_wait",
        *("pipeline", "due_at"),
        sqlite_where=sa.text("due_at IS NOT NULL"),
        postgresql_where=sa.text("due_at IS NOT NULL"),
    ),
)

# When incidents were looked for last, by the home's clock, and what there was to look at.
looks = sa.Table(
    "looks",
    metadata,
    sa.Column("pipeline", sa.String, primary_key=True),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("seen", sa.String, nullable=False),
    sa.Column("wall_at", UtcTime, nullable=False),
)
