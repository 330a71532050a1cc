"""Verdicts of the gates, and promotions: the history of champions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa

from mlops_pipelines.audit import GATES, NOBODY, failed_gates
from mlops_pipelines.errors import TerminalError, UserError
from mlops_pipelines.ledger.retrains import (
    FIRST,
    UNFINISHED,
    Retrains,
    authority,
    end,
    latest_of,
    locked_row,
    promoted_hash,
    row_of,
)
from mlops_pipelines.ledger.store import insert_new, lock
from mlops_pipelines.ledger.tables import pipelines, promotions, retrains, verdicts, waits
from mlops_pipelines.ledger.triggers import expire_about_champion
from mlops_pipelines.ledger.verdicts import (
    RecordedVerdict,
    candidate_facts,
    verdict_values,
    verdicts_on,
)
from mlops_pipelines.policy import format_moment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.engine import Connection

    from mlops_pipelines.audit import Kind
    from mlops_pipelines.ledger.store import AnyRow

PromotionKind = Literal["gates", "approval", "adoption", "rollback"]


class PromotionConflictError(TerminalError):
    """Another promotion came first: the champion is not the one this candidate was compared with."""


class FrozenError(UserError):
    """A person has frozen the champion of the pipeline."""


@dataclass(frozen=True)
class Promotion:
    """A change of champion.

    sequence: from 1, without gaps. previous: MLflow version of the champion before; None for the first.
    at: the home's clock, UTC; the model serves decisions from then on. retrain_id: what made the model.
    kind: by which authority; by: whose; reason: a sentence.
    """

    pipeline: str
    sequence: int
    mlflow_version: str
    model_hash: str
    retrain_id: str
    at: datetime
    previous: str | None
    kind: PromotionKind
    by: str
    reason: str


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
                values = {**key, **verdict_values(verdict, position), "at": at}
                if insert_new(connection, verdicts, values) and promoted:
                    raise TerminalError(
                        f"Retrain {retrain_id} was promoted without a verdict of {verdict['gate']}; none can "
                        "be added now."
                    )
            connection.execute(
                retrains.update().where(retrains.c.id == retrain_id).values(judged_model_hash=row.model_hash)
            )

    def judged(self, retrain_id: str) -> bool:
        """Whether the gates have judged the retrain's latest candidate."""
        with self._reading() as connection:
            row = row_of(connection, retrain_id)
            return row.model_hash is not None and row.judged_model_hash == row.model_hash

    def verdicts(self, retrain_id: str) -> list[RecordedVerdict]:
        """Verdicts on the retrain's latest candidate, in the order they were given."""
        with self._reading() as connection:
            return verdicts_on(connection, row_of(connection, retrain_id))

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
        about: Mapping[str, Any] | None = None,
    ) -> Promotion:
        """Make the retrain's candidate champion. Repeated for the same retrain and model, the same row.

        expected_sequence: sequence of the champion the candidate was compared with, 0 if there was none.
        at: the home's clock, UTC. about: what the record says of the candidate besides what the ledger knows.
        Raises StaleTokenError; PromotionConflictError; FrozenError; TerminalError if the candidate is not
        the recorded one, was not judged, or a verdict is a fail.
        """
        with self._writing() as connection:
            row = locked_row(connection, retrain_id)
            standing = connection.execute(
                sa.select(promotions).where(
                    promotions.c.retrain_id == retrain_id, promotions.c.kind.in_(FIRST)
                )
            ).one_or_none()
            if standing is not None and (row.status, row.token) == ("promoted", token):
                return _promotion(standing)
            row = authority(connection, retrain_id, token)
            if row.pipeline != pipeline:
                raise TerminalError(f"Retrain {retrain_id} belongs to {row.pipeline}, not to {pipeline}.")
            if standing is not None and standing.model_hash == model_hash:
                return _promotion(standing)
            self._check_proven(connection, row, model_hash)
            self._check_not_frozen(connection, pipeline)
            return self._crown(
                connection, row, "gates", expected_sequence, mlflow_version,
                by=GATES, reason=row.reason, at=at, about=about,
            )  # fmt: skip

    def roll_back(
        self,
        pipeline: str,
        *,
        expected_sequence: int,
        to: str | None = None,
        by: str,
        reason: str,
        at: datetime,
    ) -> Promotion:
        """Make a model champion again that was champion before; also while the champion is frozen.

        to: MLflow version; by default the one that the champion took the place of when it was first promoted.
        expected_sequence: of the champion that is to go. The retrain that made it counts as rolled back.
        Raises PromotionConflictError; UserError if there is nothing to go back to, or it never was champion.
        """
        with self._writing() as connection:
            lock(connection, pipeline)
            champion, back_to = _to_go_back_to(connection, pipeline, to, expected_sequence, at)
            row = locked_row(connection, back_to.retrain_id)
            self._check_proven(connection, row, back_to.model_hash, decided=True)
            sentence = f"rolled back to version {back_to.mlflow_version} by {by}: {reason}"
            end(connection, champion.retrain_id, "rolled_back", sentence, at)
            end(connection, back_to.retrain_id, "promoted", f"champion again: {sentence}", at, anew=False)
            return self._crown(
                connection, row, "rollback", expected_sequence, back_to.mlflow_version,
                by=by, reason=reason, at=at,
            )  # fmt: skip

    def adopt(
        self,
        pipeline: str,
        *,
        expected_sequence: int,
        version: str,
        model_hash: str,
        by: str,
        reason: str,
        at: datetime,
    ) -> Promotion:
        """Make a version champion whose gates passed, whatever became of its retrain since.

        model_hash: of what the registry has under this version.
        Raises PromotionConflictError; FrozenError; UserError if no retrain made it, it is champion already or
        not decided yet; TerminalError if a verdict is a fail, or it was not judged.
        """
        with self._writing() as connection:
            lock(connection, pipeline)
            champion = champion_of(connection, pipeline, None)
            if champion is not None and champion.mlflow_version == version:
                raise UserError(f"Version {version} is the champion of {pipeline} already.")
            check_sequence(champion, pipeline, expected_sequence, at)
            row = _made(connection, pipeline, version)
            if row.status in (*UNFINISHED, "waiting"):
                raise UserError(
                    f"Version {version} of {pipeline} is not decided yet: retrain {row.id} is {row.status}.",
                    expected="a version whose retrain has ended",
                    remedy=f"mlops approve {pipeline} {version} --reason WHY"
                    if row.status == "waiting"
                    else f"mlops status {pipeline}",
                )
            self._check_proven(connection, row, model_hash, decided=True)
            self._check_not_frozen(connection, pipeline)
            end(connection, row.id, "promoted", f"adopted by {by}: {reason}", at, anew=False)
            return self._crown(
                connection, row, "adoption", expected_sequence, version,
                by=by, reason=reason, at=at,
            )  # fmt: skip

    def back_to(
        self, pipeline: str, to: str | None = None, *, expected_sequence: int, at: datetime
    ) -> Promotion:
        """The promotion whose model `roll_back` would make champion again; what it raises, too."""
        with self._reading() as connection:
            return _to_go_back_to(connection, pipeline, to, expected_sequence, at)[1]

    def freeze(self, pipeline: str, on: bool, *, by: str, reason: str, at: datetime) -> bool:
        """Let no candidate become champion, or let them again; whether that changed anything."""
        with self._writing() as connection:
            lock(connection, pipeline)
            if (self._frozen(connection, pipeline) is not None) == on:
                return False
            facts = {"frozen": f"{by}: {reason}" if on else None}
            kind: Kind = "freeze" if on else "unfreeze"
            self._append(connection, pipeline, kind, facts, by=by, why=reason, at=at)
            return True

    def frozen(self, pipeline: str) -> str | None:
        """Who froze the champion, and why; None if it is not frozen."""
        with self._reading() as connection:
            return self._frozen(connection, pipeline)

    def _check_not_frozen(self, connection: Connection, pipeline: str) -> None:
        """Raises FrozenError if a person has frozen the champion."""
        if said := self._frozen(connection, pipeline):
            raise FrozenError(
                f"The champion of {pipeline} is frozen by {said}.",
                remedy=f"mlops unfreeze {pipeline} --reason WHY",
            )

    def _check_proven(
        self, connection: Connection, row: AnyRow, model_hash: str, *, decided: bool = False
    ) -> None:
        """Raises TerminalError unless this is the retrain's candidate, it was judged, and no verdict fails
        it, also none of those that were recorded before.

        decided: it was decided on before. Then there is a record of it, or its retrain failed afterwards; it
        is none that somebody made unreadable.
        """
        if row.model_hash != model_hash:
            raise TerminalError(
                f"The candidate {model_hash} is not the one retrain {row.id} recorded, {row.model_hash}."
            )
        if row.judged_model_hash != model_hash:
            raise TerminalError(f"The candidate of retrain {row.id} has not been judged by its gates.")
        failed = [v.gate for v in verdicts_on(connection, row) if v.outcome == "fail"]
        if failed:
            raise TerminalError(
                f"The candidate of retrain {row.id} failed {', '.join(failed)} and cannot be promoted.",
                expected="a candidate that passed its gates",
                remedy=f"mlops promotions {row.pipeline}",
            )
        before = [*self._about(connection, row)]
        if decided and not before:
            self._check_whole(connection, row.pipeline)
        for one in before:
            if one.content["model_hash"] == model_hash and (failed := failed_gates(one.content)):
                raise TerminalError(
                    f"The candidate of retrain {row.id} failed {', '.join(failed)}, as record {one.number} "
                    "says, and cannot be promoted.",
                    expected="the verdicts of the ledger as they were recorded",
                    remedy=f"mlops promotions {row.pipeline} --verify",
                )

    def _crown(
        self,
        connection: Connection,
        retrain: AnyRow,
        kind: PromotionKind,
        expected_sequence: int,
        mlflow_version: str,
        *,
        by: str,
        reason: str,
        at: datetime,
        about: Mapping[str, Any] | None = None,
    ) -> Promotion:
        """The next champion and its record; candidates that were compared with another one wait in vain."""
        pipeline = retrain.pipeline
        champion = champion_of(connection, pipeline, None)
        check_sequence(champion, pipeline, expected_sequence, at)
        promotion = Promotion(
            pipeline=pipeline,
            sequence=expected_sequence + 1,
            mlflow_version=mlflow_version,
            model_hash=retrain.model_hash,
            retrain_id=retrain.id,
            at=at,
            previous=None if champion is None else champion.mlflow_version,
            kind=kind,
            by=by,
            reason=reason,
        )
        connection.execute(promotions.insert().values(**vars(promotion)))
        told = about and {**candidate_facts(connection, retrain), **about}
        facts = {
            **(told or self._known(connection, retrain)),
            "authority": kind,
            "sequence": promotion.sequence,
            "replaced": promotion.previous,
        }
        recorded = kind if kind in ("rollback", "adoption") else "promotion"
        self._append(connection, pipeline, recorded, facts, by=by, why=reason, at=at)
        expire_about_champion(
            connection, pipeline, f"version {mlflow_version} became champion number {promotion.sequence}", at
        )
        for waiting in connection.execute(waiting_of(pipeline)).all():
            if waiting.retrain_id != retrain.id:
                why = (
                    f"version {mlflow_version} became champion number {promotion.sequence}, with which this "
                    "candidate was not compared"
                )
                self._expire(connection, waiting, why, at)
        return promotion

    def _expire(self, connection: Connection, waiting: AnyRow, why: str, at: datetime) -> None:
        row = locked_row(connection, waiting.retrain_id)
        facts = self._known(connection, row)
        self._append(connection, row.pipeline, "expiry", facts, by=NOBODY, why=why, at=at)
        # Its retrain ended when it began to wait: another moment would hold up the next one.
        end(connection, row.id, "expired", f"not approved: {why}", at, anew=False)

    def has_promoted(self, retrain_id: str) -> bool:
        """Whether a retrain's candidate became champion by itself, whatever became of it since."""
        with self._reading() as connection:
            return promoted_hash(connection, retrain_id) is not None

    def promotions(self, pipeline: str) -> list[Promotion]:
        """All promotions of a pipeline, in order."""
        with self._reading() as connection:
            return promotions_of(connection, pipeline)

    def promotion_of(
        self, pipeline: str, *, version: str | None = None, model_hash: str | None = None
    ) -> Promotion | None:
        """The latest promotion of a version, or of a model; None if it never was champion."""
        query = sa.select(promotions).where(promotions.c.pipeline == pipeline)
        if version is not None:
            query = query.where(promotions.c.mlflow_version == version)
        if model_hash is not None:
            query = query.where(promotions.c.model_hash == model_hash)
        with self._reading() as connection:
            row = connection.execute(query.order_by(promotions.c.sequence.desc()).limit(1)).one_or_none()
            return None if row is None else _promotion(row)

    def decided(self) -> list[str]:
        """Pipelines of which anything was asked or decided."""
        with self._reading() as connection:
            return [*connection.execute(sa.select(pipelines.c.name).order_by(pipelines.c.name)).scalars()]

    def champion(self, pipeline: str, at: datetime | None = None) -> Promotion | None:
        """The champion, or the one that served at `at` (UTC); None if there was none."""
        with self._reading() as connection:
            return champion_of(connection, pipeline, at)


def promotions_of(connection: Connection, pipeline: str) -> list[Promotion]:
    query = sa.select(promotions).where(promotions.c.pipeline == pipeline)
    return [_promotion(row) for row in connection.execute(query.order_by(promotions.c.sequence))]


def waiting_of(pipeline: str) -> sa.Select[tuple[Any, ...]]:
    """The candidates of a pipeline that people decide on, in the order of their retrains."""
    return (
        sa.select(waits)
        .join(retrains, retrains.c.id == waits.c.retrain_id)
        .where(waits.c.pipeline == pipeline, retrains.c.status == "waiting")
        .order_by(retrains.c.seq)
    )


def _to_go_back_to(
    connection: Connection, pipeline: str, to: str | None, expected_sequence: int, at: datetime
) -> tuple[Promotion, Promotion]:
    """The champion that goes, and the promotion whose model is to be champion again."""
    champion = champion_of(connection, pipeline, None)
    if champion is None:
        raise UserError(f"{pipeline} has no champion to roll back.", remedy=f"mlops promotions {pipeline}")
    check_sequence(champion, pipeline, expected_sequence, at)
    if to is None:
        to = _first(connection, pipeline, champion.mlflow_version).previous
        if to is None:
            raise UserError(
                f"Version {champion.mlflow_version} is the first champion of {pipeline}: there is none to "
                "go back to.",
                remedy=f"mlops status {pipeline}",
            )
    if to == champion.mlflow_version:
        raise UserError(f"Version {to} is the champion of {pipeline} already.")
    return champion, _first(connection, pipeline, to)


def _first(connection: Connection, pipeline: str, version: str) -> Promotion:
    """The promotion by which a version became champion first. Raises UserError if it never did.

    Of models that had the same number, as after a registry was put back, the last one is meant.
    """
    mine = sa.select(promotions).where(promotions.c.pipeline == pipeline)
    found = [
        _promotion(row)
        for row in connection.execute(
            mine.where(promotions.c.mlflow_version == version).order_by(promotions.c.sequence)
        )
    ]
    if found:
        return next(one for one in found if one.model_hash == found[-1].model_hash)
    champion, *others = [
        one.mlflow_version for one in connection.execute(mine.order_by(promotions.c.sequence.desc()))
    ]
    known = sorted({*others} - {champion}, key=int)
    raise UserError(
        f"Version {version} of {pipeline} never was champion.",
        expected=f"a version that was: {', '.join(known) or 'there is none'}",
        remedy=f"mlops promotions {pipeline}",
    )


def _made(connection: Connection, pipeline: str, version: str) -> AnyRow:
    """The retrain whose candidate has this version."""
    row = latest_of(connection, pipeline, version)
    if row is None:
        raise UserError(
            f"No retrain of {pipeline} has made version {version}: it has passed no gates.",
            expected="a version that a retrain made",
            remedy=f"mlops status {pipeline}",
        )
    return row


def check_sequence(champion: Promotion | None, pipeline: str, expected: int, at: datetime) -> None:
    """Raises PromotionConflictError unless this is the champion that was expected."""
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


def champion_of(connection: Connection, pipeline: str, at: datetime | None) -> Promotion | None:
    """The champion now, or at a moment (UTC)."""
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
        kind=row.kind,
        by=row.by,
        reason=row.reason,
    )
