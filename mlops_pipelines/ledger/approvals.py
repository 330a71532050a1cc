"""Approvals: a candidate that passed its gates waits for people, for a while."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mlops_pipelines.audit import GATES, Fault, parsed
from mlops_pipelines.errors import TerminalError, UserError
from mlops_pipelines.identity import way_of
from mlops_pipelines.ledger.promotions import (
    Promotions,
    champion_of,
    check_sequence,
    promotions_of,
    waiting_of,
)
from mlops_pipelines.ledger.records import all_records
from mlops_pipelines.ledger.retrains import (
    authority,
    end,
    latest_of,
    locked_row,
    promoted_hash,
    row_of,
)
from mlops_pipelines.ledger.store import lock
from mlops_pipelines.ledger.tables import approvals, retrains, waits
from mlops_pipelines.ledger.verdicts import candidate_facts
from mlops_pipelines.policy import format_moment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy.engine import Connection

    from mlops_pipelines.audit import Record
    from mlops_pipelines.ledger.promotions import Promotion
    from mlops_pipelines.ledger.store import AnyRow

_ENDED = {
    "promoted": "was approved, and became champion",
    "rejected": "was rejected",
    "expired": "waited in vain",
    "rolled_back": "was approved, became champion and was rolled back",
}


@dataclass(frozen=True)
class Approval:
    """One person's. by: the authenticated identity. at: the home's clock, UTC."""

    by: str
    at: datetime
    reason: str


@dataclass(frozen=True)
class Wait:
    """A candidate that waits for people.

    sequence: of the champion it was compared with. approvals: how many it needs, each by another person;
    given: those it has. asked_at, expires_at: the home's clock, UTC.
    """

    pipeline: str
    retrain_id: str
    mlflow_version: str
    model_hash: str
    sequence: int
    approvals: int
    given: tuple[Approval, ...]
    asked_at: datetime
    expires_at: datetime


class Approvals(Promotions):
    """Asked for with a live token; given, or refused, to one version, until it expires."""

    def ask_for_approval(
        self,
        pipeline: str,
        *,
        retrain_id: str,
        token: str,
        expected_sequence: int,
        model_hash: str,
        mlflow_version: str,
        needed: int,
        reason: str,
        at: datetime,
        expires_at: datetime,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """End the retrain; its candidate waits. The last attempt may repeat the call.

        needed: approvals by different people. reason: why it waits. The rest as in `promote`, and so are the
        errors, but FrozenError; TerminalError also if the candidate has become champion already.
        """
        with self._writing() as connection:
            row = locked_row(connection, retrain_id)
            if (row.status, row.token) == ("waiting", token):
                return
            row = authority(connection, retrain_id, token)
            if promoted_hash(connection, retrain_id) is not None:
                raise TerminalError(f"Retrain {retrain_id} has been promoted: nobody has to approve it.")
            self._check_proven(connection, row, model_hash)
            check_sequence(champion_of(connection, pipeline, None), pipeline, expected_sequence, at)
            values = {
                "retrain_id": retrain_id,
                "pipeline": pipeline,
                "model_hash": model_hash,
                "mlflow_version": mlflow_version,
                "sequence": expected_sequence,
                "approvals": needed,
                "asked_at": at,
                "expires_at": expires_at,
            }
            connection.execute(waits.insert().values(**values))
            facts = {
                **candidate_facts(connection, row),
                **(about or {}),
                "compared_with": expected_sequence,
                "approvals": needed,
                "expires_at": expires_at.isoformat(),
            }
            self._append(connection, pipeline, "wait", facts, by=GATES, why=reason, at=at)
            end(connection, retrain_id, "waiting", f"waits for approval: {reason}", at)

    def waiting(self, pipeline: str) -> list[Wait]:
        """Candidates that wait, in the order of their retrains; also those that expired unnoticed."""
        with self._reading() as connection:
            return [_wait(connection, row) for row in connection.execute(waiting_of(pipeline)).all()]

    def expire_waits(self, pipeline: str, at: datetime) -> list[str]:
        """End what waited too long; their MLflow versions. at: the home's clock, UTC."""
        with self._writing() as connection:
            lock(connection, pipeline)
            late = []
            for row in connection.execute(waiting_of(pipeline)).all():
                until = self._until(connection, row)
                if until <= at:
                    self._expire(connection, row, f"nobody decided until {format_moment(until)}", at)
                    late.append(row.mlflow_version)
            return late

    def approve(
        self, pipeline: str, version: str, *, model_hash: str, by: str, reason: str, at: datetime
    ) -> Promotion | Wait:
        """One person's approval: the promotion, or, where more of them are needed, what still waits.

        model_hash: of what the registry has under this version, as the caller has checked. by: the
        authenticated identity.
        Raises UserError if the version does not wait, has expired, or this person has approved it already,
        or may have in another way; FrozenError; PromotionConflictError; TerminalError if the model is not the
        one that was judged, or what waits is not what was recorded.
        """
        self.expire_waits(pipeline, at)
        with self._writing() as connection:
            lock(connection, pipeline)
            waiting = _waiting(connection, pipeline, version)
            row = locked_row(connection, waiting.retrain_id)
            _check_unaltered(waiting, model_hash)
            self._check_proven(connection, row, model_hash)
            self._check_recorded(connection, waiting, row)
            self._check_not_frozen(connection, pipeline)
            given = _given(connection, waiting.retrain_id)
            if any(one.by == by for one in given):
                raise UserError(
                    f"{by} has approved version {version} already.",
                    expected=f"{waiting.approvals} different people",
                    remedy=f"let another person say: mlops approve {pipeline} {version} --reason WHY",
                )
            _check_same_way(waiting, given, by)
            connection.execute(
                approvals.insert().values(retrain_id=waiting.retrain_id, by=by, at=at, reason=reason)
            )
            facts = {**self._known(connection, row), "compared_with": waiting.sequence}
            self._append(connection, pipeline, "approval", facts, by=by, why=reason, at=at)
            if len(given) + 1 < waiting.approvals:
                return _wait(connection, waiting)
            everybody = ", ".join([*(one.by for one in given), by])
            promotion = self._crown(
                connection, row, "approval", waiting.sequence, waiting.mlflow_version,
                by=everybody, reason=reason, at=at,
            )  # fmt: skip
            end(connection, row.id, "promoted", f"approved by {everybody}: {reason}", at, anew=False)
            return promotion

    def reject(self, pipeline: str, version: str, *, by: str, reason: str, at: datetime) -> None:
        """One person's refusal, which ends the wait. Raises UserError if the version does not wait."""
        self.expire_waits(pipeline, at)
        with self._writing() as connection:
            lock(connection, pipeline)
            waiting = _waiting(connection, pipeline, version)
            row = locked_row(connection, waiting.retrain_id)
            facts = self._known(connection, row)
            self._append(connection, pipeline, "rejection", facts, by=by, why=reason, at=at)
            end(connection, row.id, "rejected", f"rejected by {by}: {reason}", at)

    def _until(self, connection: Connection, waiting: AnyRow) -> datetime:
        """When a wait ends, as its record says."""
        try:
            for one in self._about(connection, locked_row(connection, waiting.retrain_id)):
                if one.content["kind"] == "wait":
                    return datetime.fromisoformat(one.content["expires_at"])
        except TerminalError:
            # Its records were altered: nobody can approve it, but it can be rejected, and it ends.
            pass
        until: datetime = waiting.expires_at
        return until

    def history(self, pipeline: str) -> tuple[list[Record], list[Promotion], list[Fault]]:
        """All records of a pipeline and all its promotions, in order, and what the ledger's other tables say
        otherwise than the records; as of one moment."""
        with self._reading() as connection:
            found = all_records(connection, pipeline)
            return found, promotions_of(connection, pipeline), [*self._unlike(connection, pipeline, found)]

    def _unlike(self, connection: Connection, pipeline: str, found: Sequence[Record]) -> Iterator[Fault]:
        """What is judged and who waits, where that is not what the records say."""
        newest = {}
        for one in found:
            content = parsed(one)
            if "verdicts" in content:
                newest[str(content.get("retrain_id"))] = (one.number, content)
        for retrain_id, (number, content) in newest.items():
            row = connection.execute(sa.select(retrains).where(retrains.c.id == retrain_id)).one_or_none()
            known = {} if row is None else candidate_facts(connection, row)
            if not known or {name: content.get(name) for name in known} != known:
                yield Fault(number, f"what the ledger has of {retrain_id} is not what record {number} says")
        for waiting in connection.execute(waiting_of(pipeline)).all():
            try:
                self._check_recorded(connection, waiting, row_of(connection, waiting.retrain_id))
            except TerminalError as error:
                number, _ = newest.get(waiting.retrain_id, (len(found) + 1, None))
                yield Fault(number, error.message.rstrip("."))

    def _check_recorded(self, connection: Connection, waiting: AnyRow, row: AnyRow) -> None:
        """Raises TerminalError unless a wait, and who has approved it, are as the signed records say."""
        version, wait, number, given = waiting.mlflow_version, None, None, set()
        for one in self._about(connection, row):
            said = one.content
            if said["kind"] == "wait":
                wait, number = said, one.number
            elif said["kind"] == "approval":
                given.add((said["by"], said["at"], said["why"]))
            else:
                raise _altered(
                    waiting, f"Version {version} does not wait any more, as record {one.number} says"
                )
        expected = {
            "mlflow_version": version,
            "model_hash": waiting.model_hash,
            "compared_with": waiting.sequence,
            "approvals": waiting.approvals,
        }
        if (
            wait is None
            or {name: wait.get(name) for name in expected} != expected
            or datetime.fromisoformat(wait["expires_at"]) != waiting.expires_at
        ):
            raise _altered(
                waiting,
                f"The ledger's wait of version {version} is not the one of record {number}"
                if number
                else f"The ledger's wait of version {version} has no record",
            )
        if {(one.by, one.at.isoformat(), one.reason) for one in _given(connection, row.id)} != given:
            raise _altered(
                waiting, f"The approvals of version {version} in the ledger are not those of its records"
            )


def _altered(waiting: AnyRow, what: str) -> TerminalError:
    return TerminalError(
        f"{what}.",
        expected="a ledger that nobody has altered",
        remedy=f"mlops promotions {waiting.pipeline} --verify; "
        f"mlops reject {waiting.pipeline} {waiting.mlflow_version} --reason WHY",
    )


def _check_same_way(waiting: AnyRow, given: Sequence[Approval], by: str) -> None:
    """Raises UserError where somebody who approves may be one who has, authenticated in another way."""
    if waiting.approvals > 1 and given and way_of(given[0].by) != way_of(by):
        raise UserError(
            f"{by} and {given[0].by} may be one person: they are known in different ways.",
            expected=f"approvals that come in one way, as the first did ({way_of(given[0].by) or 'unknown'})",
            remedy="let another person approve in that way (MLOPS_IDENTITY_TOKEN), or mlops reject "
            f"{waiting.pipeline} {waiting.mlflow_version} --reason WHY",
        )


def _waiting(connection: Connection, pipeline: str, version: str) -> AnyRow:
    """The candidate of this version, if it waits."""
    row = connection.execute(waiting_of(pipeline).where(waits.c.mlflow_version == version)).one_or_none()
    if row is not None:
        return row
    waiting = ", ".join(one.mlflow_version for one in connection.execute(waiting_of(pipeline)))
    known = latest_of(connection, pipeline, version)
    became = _ENDED.get(known.status, f"is {known.status}") if known else "was made by no retrain"
    said = f" ({known.outcome})" if known and known.outcome else ""
    raise UserError(
        f"Version {version} of {pipeline} does not wait for approval: it {became}{said}.",
        expected=f"a version that waits: {waiting or 'there is none'}",
        remedy=f"mlops promotions {pipeline}",
    )


def _check_unaltered(waiting: AnyRow, model_hash: str) -> None:
    if waiting.model_hash != model_hash:
        raise TerminalError(
            f"Version {waiting.mlflow_version} of {waiting.pipeline} hashes to {model_hash[:12]}.",
            expected=f"{waiting.model_hash[:12]}, which is what passed the gates",
            remedy=f"mlops reject {waiting.pipeline} {waiting.mlflow_version} --reason WHY",
        )


def _given(connection: Connection, retrain_id: str) -> tuple[Approval, ...]:
    query = sa.select(approvals).where(approvals.c.retrain_id == retrain_id)
    rows = connection.execute(query.order_by(approvals.c.at, approvals.c.by))
    return tuple(Approval(row.by, row.at, row.reason) for row in rows)


def _wait(connection: Connection, row: AnyRow) -> Wait:
    return Wait(
        pipeline=row.pipeline,
        retrain_id=row.retrain_id,
        mlflow_version=row.mlflow_version,
        model_hash=row.model_hash,
        sequence=row.sequence,
        approvals=row.approvals,
        given=_given(connection, row.retrain_id),
        asked_at=row.asked_at,
        expires_at=row.expires_at,
    )
