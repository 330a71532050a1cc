"""Verdicts of the gates, and promotions: the history of champions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.ledger.retrains import Retrains, authority, locked_row, promoted_hash
from mlops_pipelines.ledger.store import insert_new
from mlops_pipelines.ledger.tables import promotions, retrains, verdicts
from mlops_pipelines.policy import format_moment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.engine import Connection

    from mlops_pipelines.ledger.store import AnyRow

VerdictOutcome = Literal["pass", "fail", "not_applicable"]
VERDICT_OUTCOMES: tuple[VerdictOutcome, ...] = ("pass", "fail", "not_applicable")


class PromotionConflictError(TerminalError):
    """Another promotion came first: the champion is not the one this candidate was compared with."""


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


@dataclass(frozen=True)
class Promotion:
    """A change of champion.

    sequence: from 1, without gaps. previous: MLflow version of the champion before; None for the first.
    at: the home's clock, UTC; the model serves decisions from then on.
    """

    pipeline: str
    sequence: int
    mlflow_version: str
    model_hash: str
    retrain_id: str
    at: datetime
    previous: str | None


class Promotions(Retrains):
    """A candidate becomes champion with a live token, its own verdicts and the expected sequence."""

    def record_verdicts(
        self, retrain_id: str, token: str, given: Sequence[Mapping[str, Any]], at: datetime
    ) -> None:
        """Record the verdicts on the retrain's candidate; a gate's first verdict on a model stands.

        given: all gates that are declared, each with gate, outcome, figure, bound, interval (low, high)
        and sentence. No gate declared: an empty sequence, which also says that the candidate was judged.
        Raises StaleTokenError; TerminalError if no candidate is recorded, or a further gate comes after the
        promotion.
        """
        with self._writing() as connection:
            row = authority(connection, retrain_id, token)
            if row.model_hash is None:
                raise TerminalError(f"Retrain {retrain_id} has no candidate to judge yet.")
            promoted = promoted_hash(connection, retrain_id) is not None
            for position, verdict in enumerate(given):
                key = {"retrain_id": retrain_id, "model_hash": row.model_hash, "gate": verdict["gate"]}
                values = {**key, **_verdict_values(verdict, position), "at": at}
                if insert_new(connection, verdicts, values) and promoted:
                    raise TerminalError(
                        f"Retrain {retrain_id} was promoted without a verdict of {verdict['gate']}; none can "
                        "be added now."
                    )
            connection.execute(
                retrains.update().where(retrains.c.id == retrain_id).values(judged_model_hash=row.model_hash)
            )

    def verdicts(self, retrain_id: str) -> list[RecordedVerdict]:
        """Verdicts on the retrain's latest candidate, in the order they were given."""
        with self._reading() as connection:
            return _verdicts(connection, retrain_id)

    def promote(
        self,
        pipeline: str,
        *,
        retrain_id: str,
        token: str,
        expected_sequence: int,
        model_hash: str,
        mlflow_version: str,
        at: datetime,
    ) -> Promotion:
        """Make the retrain's candidate champion. Repeated for the same retrain and model, the same row.

        expected_sequence: sequence of the champion the candidate was compared with, 0 if there was none.
        at: the home's clock, UTC.
        Raises StaleTokenError; PromotionConflictError; TerminalError if the candidate is not the recorded
        one, was not judged, or a verdict is a fail.
        """
        with self._writing() as connection:
            row = locked_row(connection, retrain_id)
            standing = connection.execute(
                sa.select(promotions).where(promotions.c.retrain_id == retrain_id)
            ).one_or_none()
            if standing is not None and (row.status, row.token) == ("promoted", token):
                return _promotion(standing)
            row = authority(connection, retrain_id, token)
            if row.pipeline != pipeline:
                raise TerminalError(f"Retrain {retrain_id} belongs to {row.pipeline}, not to {pipeline}.")
            if standing is not None and standing.model_hash == model_hash:
                return _promotion(standing)
            _check_proven(connection, row, model_hash)
            champion = _champion(connection, pipeline, None)
            _check_sequence(champion, pipeline, expected_sequence, at)
            promotion = Promotion(
                pipeline=pipeline,
                sequence=expected_sequence + 1,
                mlflow_version=mlflow_version,
                model_hash=model_hash,
                retrain_id=retrain_id,
                at=at,
                previous=None if champion is None else champion.mlflow_version,
            )
            connection.execute(promotions.insert().values(**vars(promotion)))
            return promotion

    def promotions(self, pipeline: str) -> list[Promotion]:
        """All promotions of a pipeline, in order."""
        query = sa.select(promotions).where(promotions.c.pipeline == pipeline)
        with self._reading() as connection:
            return [_promotion(row) for row in connection.execute(query.order_by(promotions.c.sequence))]

    def champion(self, pipeline: str, at: datetime | None = None) -> Promotion | None:
        """The champion, or the one that served at `at` (UTC); None if there was none."""
        with self._reading() as connection:
            return _champion(connection, pipeline, at)


def _verdict_values(verdict: Mapping[str, Any], position: int) -> dict[str, Any]:
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


def _check_proven(connection: Connection, row: AnyRow, model_hash: str) -> None:
    if row.model_hash != model_hash:
        raise TerminalError(
            f"The candidate {model_hash} is not the one retrain {row.id} recorded, {row.model_hash}."
        )
    if row.judged_model_hash != model_hash:
        raise TerminalError(f"The candidate of retrain {row.id} has not been judged by its gates.")
    failed = [v.gate for v in _verdicts(connection, row.id) if v.outcome == "fail"]
    if failed:
        raise TerminalError(
            f"The candidate of retrain {row.id} failed {', '.join(failed)} and cannot be promoted."
        )


def _check_sequence(champion: Promotion | None, pipeline: str, expected: int, at: datetime) -> None:
    sequence = 0 if champion is None else champion.sequence
    if sequence != expected:
        raise PromotionConflictError(
            f"The champion of {pipeline} has sequence {sequence}.",
            expected=f"{expected}, the one the candidate was compared with",
            remedy="retrain, so that the candidate is compared with the champion of now",
        )
    if champion is not None and at < champion.at:
        raise TerminalError(
            f"The champion of {pipeline} serves since {format_moment(champion.at)}; a promotion of "
            f"{format_moment(at)} would change who served in between."
        )


def _verdicts(connection: Connection, retrain_id: str) -> list[RecordedVerdict]:
    query = (
        sa.select(verdicts)
        .join(
            retrains,
            sa.and_(retrains.c.id == verdicts.c.retrain_id, retrains.c.model_hash == verdicts.c.model_hash),
        )
        .where(verdicts.c.retrain_id == retrain_id)
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


def _champion(connection: Connection, pipeline: str, at: datetime | None) -> Promotion | None:
    query = sa.select(promotions).where(promotions.c.pipeline == pipeline)
    if at is not None:
        query = query.where(promotions.c.at <= at)
    row = connection.execute(query.order_by(promotions.c.sequence.desc()).limit(1)).one_or_none()
    return None if row is None else _promotion(row)


def _promotion(row: AnyRow) -> Promotion:
    return Promotion(
        pipeline=row.pipeline,
        sequence=row.sequence,
        mlflow_version=row.mlflow_version,
        model_hash=row.model_hash,
        retrain_id=row.retrain_id,
        at=row.at,
        previous=row.previous,
    )
