"""Triggers: reasons to retrain, appended by sensors, ended by admissions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa

from mlops_pipelines.ledger.store import Store, insert_new, lock
from mlops_pipelines.ledger.tables import promotions, retrains, triggers
from mlops_pipelines.policy import Pending, PendingTrigger

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from sqlalchemy.engine import Connection

    from mlops_pipelines.ledger.store import AnyRow

TriggerStatus = Literal["pending", "served", "folded", "expired"]
# Of those that wait so many are counted by kind; what there are more is not counted for a sentence.
MOST_COUNTED = 1000
# Kinds of triggers that say something of the champion, or that there is none: with another one they end.
ABOUT_CHAMPION = ("bootstrap", "performance", "concept_drift", "drift", "prediction_drift")
TRIGGER_STATUSES: tuple[TriggerStatus, ...] = ("pending", "served", "folded", "expired")


@dataclass(frozen=True)
class Trigger:
    """A reason to retrain and what became of it.

    created_at, ended_at: the home's clock, UTC. retrain_id: the retrain that served it or folded it in.
    reason: why it ended, a sentence.
    """

    id: int
    kind: str
    key: str
    evidence: dict[str, Any]
    urgent: bool
    created_at: datetime
    status: TriggerStatus
    retrain_id: str | None
    ended_at: datetime | None
    reason: str | None


@dataclass(frozen=True)
class Seen:
    """Where a pipeline stood when evidence for triggers was looked at.

    retrain: id of its latest retrain, `first` before there is one. in_flight: whether that one goes on.
    champion: sequence of the champion, 0 before there is one.
    """

    retrain: str
    in_flight: bool
    champion: int


class Triggers(Store):
    """A trigger is appended once, under a key made of content, and ends once."""

    def append_trigger(
        self,
        pipeline: str,
        kind: str,
        key: str,
        evidence: Mapping[str, Any],
        at: datetime,
        *,
        urgent: bool = False,
        seen: Seen | None = None,
    ) -> bool:
        """Append a trigger unless the pipeline has one with this key. Whether it was appended.

        evidence: what JSON can hold. at: the home's clock, UTC. seen: by `stands`, before the evidence was
        looked at; where a retrain has answered it since, or it is about a champion that has gone, nothing is
        appended.
        """
        row = {
            "pipeline": pipeline,
            "kind": kind,
            "key": key,
            "evidence": dict(evidence),
            "urgent": urgent,
            "created_at": at,
        }
        with self._writing() as connection:
            if seen is not None:
                lock(connection, pipeline)
                if seen != _stands(connection, pipeline):
                    return False
            return insert_new(connection, triggers, row)

    def stands(self, pipeline: str) -> Seen:
        """Where the pipeline stands, before evidence is looked at."""
        with self._reading() as connection:
            return _stands(connection, pipeline)

    def has_trigger(self, pipeline: str, key: str) -> bool:
        """Whether the pipeline has had a trigger with this key."""
        query = sa.select(triggers.c.id).where(triggers.c.pipeline == pipeline, triggers.c.key == key)
        with self._reading() as connection:
            return connection.execute(query).first() is not None

    def triggers(
        self, pipeline: str, status: TriggerStatus | None = None, limit: int | None = None
    ) -> list[Trigger]:
        """Triggers in the order they came; with `limit` the latest ones."""
        query = sa.select(triggers).where(triggers.c.pipeline == pipeline)
        if status is not None:
            query = query.where(triggers.c.status == status)
        query = query.order_by(triggers.c.created_at.desc(), triggers.c.id.desc()).limit(limit)
        with self._reading() as connection:
            return [_trigger(row) for row in connection.execute(query)][::-1]

    def pending(self, pipeline: str) -> Pending | None:
        """The triggers that still wait, taken together, as the policy takes them; None if none waits."""
        with self._reading() as connection:
            return pending_of(connection, pipeline)

    def has_pending(self, pipeline: str) -> bool:
        """Whether a trigger still waits."""
        query = sa.select(triggers.c.id).where(triggers.c.pipeline == pipeline, sa.text("status = 'pending'"))
        with self._reading() as connection:
            return connection.execute(query.limit(1)).first() is not None

    def triggers_of(self, retrain_id: str) -> list[Trigger]:
        """The triggers that a retrain answers, the served one first."""
        query = (
            sa.select(triggers)
            .where(triggers.c.retrain_id == retrain_id)
            .order_by(triggers.c.status == "folded", triggers.c.created_at, triggers.c.kind, triggers.c.key)
        )
        with self._reading() as connection:
            return [_trigger(row) for row in connection.execute(query)]


def expire_about_champion(connection: Connection, pipeline: str, reason: str, at: datetime) -> None:
    """End pending triggers about a champion that is none any more, or for the first one. at: the home's
    clock, UTC."""
    connection.execute(
        triggers.update()
        .where(
            triggers.c.pipeline == pipeline,
            sa.text("status = 'pending'"),
            triggers.c.kind.in_(ABOUT_CHAMPION),
        )
        .values(status="expired", reason=reason, ended_at=at)
    )


def _stands(connection: Connection, pipeline: str) -> Seen:
    of = retrains.c
    latest = connection.execute(
        sa.select(of.id, of.finished_at).where(of.pipeline == pipeline).order_by(of.seq.desc()).limit(1)
    ).one_or_none()
    champion = sa.select(sa.func.max(promotions.c.sequence)).where(promotions.c.pipeline == pipeline)
    return Seen(
        latest.id if latest else "first",
        latest is not None and latest.finished_at is None,
        connection.execute(champion).scalar_one_or_none() or 0,
    )


def pending_of(connection: Connection, pipeline: str) -> Pending | None:
    """The triggers that still wait, taken together: three statements, and the same work for any number."""
    columns = triggers.c
    # As the indexes say it, or SQLite would not take them.
    waits = sa.and_(columns.pipeline == pipeline, sa.text("status = 'pending'"))
    order = (columns.created_at, columns.kind, columns.key)
    first = connection.execute(
        sa.select(columns.id, columns.kind, columns.key, columns.created_at, columns.urgent)
        .where(waits)
        .order_by(*order)
        .limit(1)
    ).one_or_none()
    if first is None:
        return None
    oldest = sa.select(columns.kind).where(waits).order_by(*order).limit(MOST_COUNTED + 1).subquery()
    by_kind = sa.select(oldest.c.kind, sa.func.count()).group_by(oldest.c.kind)
    counted = {str(kind): int(number) for kind, number in connection.execute(by_kind)}
    pressing = sa.select(columns.id).where(waits, sa.text("urgent")).limit(1)
    return Pending(
        PendingTrigger(*first),
        counted,
        urgent=connection.execute(pressing).first() is not None,
        more=sum(counted.values()) > MOST_COUNTED,
    )


def _trigger(row: AnyRow) -> Trigger:
    return Trigger(
        row.id,
        row.kind,
        row.key,
        row.evidence,
        row.urgent,
        row.created_at,
        row.status,
        row.retrain_id,
        row.ended_at,
        row.reason,
    )
