"""Incidents, and what is still to be told of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mlops_pipelines.alerting.lifecycle import Change, Incident
from mlops_pipelines.ledger.store import Store, insert_into, insert_new, lock
from mlops_pipelines.ledger.tables import deliveries, incidents, looks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime, timedelta

    from sqlalchemy.engine import Connection

    from mlops_pipelines.ledger.store import AnyRow

# The schema that has them. On the one before, no incident is looked for.
INCIDENTS_SINCE = 11
_IN_BODY = ("title", "first", "last", "remedy", "evidence", "symptoms", "ending")


@dataclass(frozen=True)
class Delivery:
    """What is to be told to a sink. body: the notice, as JSON. attempts: how often it was tried before."""

    id: int
    pipeline: str
    incident: int
    sink: str
    body: str
    attempts: int


@dataclass(frozen=True)
class Look:
    """When incidents were looked for last. at: the home's clock; wall_at: the wall clock; UTC. seen: what
    there was to look at, as its own text."""

    at: datetime
    wall_at: datetime
    seen: str


class Incidents(Store):
    """One row a cause; every change of it is told to each sink at least once."""

    @property
    def keeps_incidents(self) -> bool:
        """Whether its schema has them."""
        return self._schema_version >= INCIDENTS_SINCE

    def last_incident(self, pipeline: str) -> int:
        """The greatest number that was given; 0 before any."""
        if not self.keeps_incidents:
            return 0
        with self._reading() as connection:
            return _last_number(connection, pipeline)

    def incidents(self, pipeline: str, *, since: datetime | None = None) -> list[Incident]:
        """Incidents that are open, and those resolved since a moment (UTC), by number.

        since: None for the open ones alone.
        """
        if not self.keeps_incidents:
            return []
        with self._reading() as connection:
            return _known(connection, pipeline, since)

    def settle_incidents(
        self,
        pipeline: str,
        decide: Callable[[Sequence[Incident], int], Sequence[Change]],
        *,
        since: datetime,
        told_to: Callable[[Change], Mapping[str, str]],
        look: Look,
    ) -> list[Change]:
        """Decide in one transaction what becomes of the incidents, and put down what is to be told of it.

        decide: given those open or resolved since `since`, and the greatest number there is. told_to: of a
        change, by sink, what it is told. Nothing happens on a ledger that has no incidents yet.
        """
        if not self.keeps_incidents:
            return []
        with self._writing() as connection:
            lock(connection, pipeline)
            known = _known(connection, pipeline, since)
            made = list(decide(known, _last_number(connection, pipeline)))
            for change in made:
                _store(connection, change.incident)
            for change in made:
                for sink, body in told_to(change).items():
                    row = {"pipeline": pipeline, "incident": change.incident.number, "sink": sink,
                           "body": body, "due_at": look.wall_at}  # fmt: skip
                    connection.execute(deliveries.insert().values(**row))
            _note(connection, pipeline, look)
        return made

    def looked(self, pipeline: str, look: Look) -> None:
        """Put down that somebody looked, and found nothing that had moved."""
        if not self.keeps_incidents:
            return
        with self._writing() as connection:
            _note(connection, pipeline, look)

    def last_look(self, pipeline: str) -> Look | None:
        """When incidents were looked for last; None before that."""
        if not self.keeps_incidents:
            return None
        query = sa.select(looks.c.at, looks.c.wall_at, looks.c.seen).where(looks.c.pipeline == pipeline)
        with self._reading() as connection:
            row = connection.execute(query).one_or_none()
        return Look(*row) if row else None

    def claim_deliveries(self, pipeline: str, now: datetime, lease: timedelta, limit: int) -> list[Delivery]:
        """What is due, oldest first, taken so that nobody else tries it until the lease is over.

        now: the wall clock, UTC.
        """
        if not self.keeps_incidents:
            return []
        sooner = deliveries.alias()
        held_up = sa.exists().where(
            sooner.c.pipeline == pipeline,
            sooner.c.incident == deliveries.c.incident,
            sooner.c.sink == deliveries.c.sink,
            sooner.c.id < deliveries.c.id,
            sooner.c.due_at > now,
        )
        # In their order: that it is over is told after that it began.
        due = (deliveries.c.pipeline == pipeline) & (deliveries.c.due_at <= now) & ~held_up
        with self._reading() as connection:
            if connection.execute(sa.select(deliveries.c.id).where(due).limit(1)).first() is None:
                return []
        query = sa.select(deliveries).where(due).order_by(deliveries.c.id).limit(limit)
        with self._writing() as connection:
            rows = connection.execute(query.with_for_update(skip_locked=True)).all()
            mine = deliveries.c.id.in_([row.id for row in rows])
            connection.execute(deliveries.update().where(mine).values(due_at=now + lease))
        return [
            Delivery(row.id, row.pipeline, row.incident, row.sink, row.body, row.attempts) for row in rows
        ]

    def record_delivery(
        self, one: Delivery, *, delivered_at: datetime | None, problem: str = "", due_at: datetime | None
    ) -> None:
        """What became of an attempt. due_at: when it is tried again; None for never. Wall clock, UTC."""
        values = {"attempts": one.attempts + 1, "delivered_at": delivered_at, "due_at": due_at,
                  "problem": problem or None}  # fmt: skip
        with self._writing() as connection:
            connection.execute(deliveries.update().where(deliveries.c.id == one.id).values(**values))

    def undelivered(self, pipeline: str) -> dict[str, str]:
        """What was wrong with the last attempt at what a sink did not get, by sink; given up or not. Of the
        last hundred messages."""
        if not self.keeps_incidents:
            return {}
        query = (
            sa.select(deliveries.c.sink, deliveries.c.problem)
            .where(deliveries.c.pipeline == pipeline)
            .order_by(deliveries.c.id.desc())
            .limit(100)
        )
        with self._reading() as connection:
            newest = connection.execute(query).all()
        # One that arrived has no problem any more.
        return {row.sink: row.problem for row in reversed(newest) if row.problem}


def _known(connection: Connection, pipeline: str, since: datetime | None) -> list[Incident]:
    columns = incidents.c
    wanted: sa.ColumnElement[bool] = columns.resolved_at.is_(None)
    if since is not None:
        wanted |= columns.resolved_at >= since
    query = sa.select(incidents).where(columns.pipeline == pipeline, wanted).order_by(columns.number)
    return [_incident(row) for row in connection.execute(query)]


def _incident(row: AnyRow) -> Incident:
    body: dict[str, Any] = {**row.body, "symptoms": tuple(row.body["symptoms"])}
    return Incident(
        pipeline=row.pipeline,
        number=row.number,
        kind=row.kind,
        subject=row.subject,
        severity=row.severity,
        opened_at=row.opened_at,
        changed_at=row.changed_at,
        resolved_at=row.resolved_at,
        reopened=row.reopened,
        parts=frozenset(body.pop("parts")),
        **body,
    )


def _note(connection: Connection, pipeline: str, look: Look) -> None:
    newer = {"at": look.at, "seen": look.seen, "wall_at": look.wall_at}
    insert = insert_into(connection, looks).values(pipeline=pipeline, **newer)
    connection.execute(insert.on_conflict_do_update(index_elements=["pipeline"], set_=newer))


def _last_number(connection: Connection, pipeline: str) -> int:
    query = sa.select(sa.func.max(incidents.c.number)).where(incidents.c.pipeline == pipeline)
    return int(connection.execute(query).scalar_one() or 0)


def _store(connection: Connection, one: Incident) -> None:
    row = asdict(one)
    body = {**{name: row.pop(name) for name in _IN_BODY}, "parts": sorted(row.pop("parts"))}
    values = {**row, "body": body}
    if not insert_new(connection, incidents, values):
        at = (incidents.c.pipeline == one.pipeline) & (incidents.c.number == one.number)
        connection.execute(incidents.update().where(at).values(**values))
