"""By what each day of a derived table was made, so that a day that is right is not made again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from mlops_pipelines.ledger.store import Store, insert_into
from mlops_pipelines.ledger.tables import made_days, reopened_days

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from mlops_pipelines.ledger.landing import Stage


# The schema that has the record. On the one before, every day that is asked for is made.
MADE_DAYS_SINCE = 10


@dataclass(frozen=True)
class MadeDay:
    """A day (YYYY-MM-DD) as a stage made it last. revision: how often it had been reopened by then.

    made_by: hash of the definition it was made by, and of its content.
    """

    day: str
    revision: int
    made_by: str


class MadeDays(Store):
    """What was made of days that are open and closed again."""

    def revisions(self, pipeline: str, stage: Stage, days: Collection[str]) -> dict[str, int]:
        """How often each of these days was reopened for a stage."""
        if not days:
            return {}
        columns = reopened_days.c
        query = sa.select(columns.day, columns.revision).where(
            columns.pipeline == pipeline,
            columns.stage == stage,
            columns.day.between(min(days), max(days)),
        )
        with self._reading() as connection:
            found = dict(connection.execute(query).all())
        return {day: found.get(day, 0) for day in sorted(set(days))}

    def days_made(self, pipeline: str, stage: Stage, days: Collection[str]) -> dict[str, MadeDay]:
        """Those of these days that a stage has made, each as it did so last."""
        if not days or self._schema_version < MADE_DAYS_SINCE:
            return {}
        columns = made_days.c
        query = sa.select(columns.day, columns.revision, columns.made_by).where(
            columns.pipeline == pipeline,
            columns.stage == stage,
            columns.day.between(min(days), max(days)),
        )
        wanted = set(days)
        with self._reading() as connection:
            return {row.day: MadeDay(*row) for row in connection.execute(query) if row.day in wanted}

    def record_made_days(
        self, pipeline: str, stage: Stage, revisions: Mapping[str, int], made_by: Mapping[str, str]
    ) -> None:
        """Record by what days were made, each at the revision that it had before it was worked on."""
        if not made_by or self._schema_version < MADE_DAYS_SINCE:
            return
        rows = [
            {"pipeline": pipeline, "stage": stage, "day": day, "revision": revisions[day], "made_by": one}
            for day, one in made_by.items()
        ]
        with self._writing() as connection:
            insert = insert_into(connection, made_days)
            newest = {name: insert.excluded[name] for name in ("revision", "made_by")}
            key = [column.name for column in made_days.primary_key.columns]
            connection.execute(insert.on_conflict_do_update(index_elements=key, set_=newest), rows)
