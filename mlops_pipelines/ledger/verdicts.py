"""Verdicts of the gates on candidates, as rows of the ledger."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.ledger.tables import verdicts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from sqlalchemy.engine import Connection

    from mlops_pipelines.ledger.store import AnyRow

VerdictOutcome = Literal["pass", "fail", "warn", "not_applicable"]
VERDICT_OUTCOMES: tuple[VerdictOutcome, ...] = ("pass", "fail", "warn", "not_applicable")


@dataclass(frozen=True)
class RecordedVerdict:
    """A gate's outcome for one model. at: the home's clock, UTC."""

    retrain_id: str
    model_hash: str
    gate: str
    outcome: VerdictOutcome
    figure: float | None
    bound: float | None
    interval: tuple[float, float] | None
    sentence: str
    at: datetime


def verdicts_on(connection: Connection, retrain: AnyRow) -> list[RecordedVerdict]:
    """Verdicts on a retrain's latest candidate, in the order they were given."""
    query = (
        sa.select(verdicts)
        .where(verdicts.c.retrain_id == retrain.id, verdicts.c.model_hash == retrain.model_hash)
        .order_by(verdicts.c.position, verdicts.c.gate)
    )
    return [
        RecordedVerdict(
            retrain_id=row.retrain_id,
            model_hash=row.model_hash,
            gate=row.gate,
            outcome=row.outcome,
            figure=row.figure,
            bound=row.bound,
            interval=None if row.interval_low is None else (row.interval_low, row.interval_high),
            sentence=row.sentence,
            at=row.at,
        )
        for row in connection.execute(query)
    ]


def candidate_facts(connection: Connection, retrain: AnyRow) -> dict[str, Any]:
    """What the ledger knows of a retrain's candidate, as JSON gives it back. Figures as they were judged."""
    return {
        "retrain_id": retrain.id,
        "mlflow_version": retrain.mlflow_version,
        "model_hash": retrain.model_hash,
        "dataset_version": retrain.dataset_version,
        "verdicts": [
            {"gate": one.gate, "outcome": one.outcome, "figure": one.figure, "bound": one.bound,
             "interval": one.interval and list(one.interval), "sentence": one.sentence}
            for one in verdicts_on(connection, retrain)
        ],
    }  # fmt: skip


def verdict_values(verdict: Mapping[str, Any], position: int) -> dict[str, Any]:
    """The columns of a verdict, as a gate gave it. Raises TerminalError for an outcome that is none."""
    if verdict["outcome"] not in VERDICT_OUTCOMES:
        raise TerminalError(
            f"{verdict['outcome']!r} is no outcome of a gate.", expected=", ".join(VERDICT_OUTCOMES)
        )
    low, high = verdict["interval"] or (None, None)
    return {
        "position": position,
        "outcome": verdict["outcome"],
        "figure": _number(verdict["figure"]),
        "bound": _number(verdict["bound"]),
        "interval_low": _number(low),
        "interval_high": _number(high),
        "sentence": verdict["sentence"],
    }


def _number(value: float | None) -> float | None:
    """A plain float; None for NaN, which SQLite cannot hold and which says the same."""
    return None if value is None or math.isnan(value) else float(value)
