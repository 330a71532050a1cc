"""Days of a table that are right already: they are verified and left alone, and not made again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_pipelines.spec_loading import hash_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.lake import Written
    from mlops_pipelines.ledger.landing import Stage


# Run tag: `true` makes days again that are right already.
FORCE = "mlops/force"


@dataclass(frozen=True)
class Work:
    """What a stage does about some days (YYYY-MM-DD, UTC), begun before anything is read.

    made_by: hash of its code and all that it depends on but the day's own facts; "" where that is not known.
    revisions: how often each day had been reopened. rows: of tables that each day is made from and is not
    reopened for. days: to be made, in order. right: the others, as they stand.
    """

    place: PipelineHome
    stage: Stage
    made_by: str
    revisions: Mapping[str, int]
    rows: Sequence[Mapping[str, int]]
    days: Sequence[str]
    right: Sequence[Written]

    @classmethod
    def on(
        cls,
        place: PipelineHome,
        stage: Stage,
        asked: Collection[str],
        waiting: Collection[str],
        as_they_stand: Callable[[Sequence[str]], list[Written]],
        *,
        made_by: str,
        force: bool,
        of: Sequence[str] = (),
    ) -> Work:
        """Those of `asked` are right that would be made as they stand: by the same, not reopened since, not
        altered. Without `made_by` none is, nor where all are forced.

        waiting: days that were reopened. as_they_stand: reads days of the table, each with its content hash.
        of: tables whose days have to have as many rows as they had.
        """
        days = {*asked, *waiting}
        if not made_by:
            return cls(place, stage, made_by, {}, [], sorted(days), [])
        rows = [place.lake.row_counts(table) for table in of]
        revisions = place.ledger.revisions(place.name, stage, days)
        right: list[Written] = []
        if not force:
            made = place.ledger.days_made(place.name, stage, {*asked} - {*waiting})
            closed = sorted(day for day, one in made.items() if one.revision == revisions[day])
            found = as_they_stand(closed) if closed else []
            right = [one for one in found if made[one.day].made_by == _hash(made_by, rows, one)]
        days -= {one.day for one in right}
        return cls(place, stage, made_by, revisions, rows, sorted(days), right)

    @property
    def left_alone(self) -> list[str]:
        """Days that are right."""
        return [one.day for one in self.right]

    def record(self, written: Sequence[Written]) -> None:
        """Record days as they were made."""
        if self.made_by:
            made_by = {
                one.day: _hash(self.made_by, self.rows, one) for one in written if one.day in self.revisions
            }
            self.place.ledger.record_made_days(self.place.name, self.stage, self.revisions, made_by)

    def together(self, written: Sequence[Written]) -> list[Written]:
        """What was made and what was left alone, in order of the days."""
        return sorted([*written, *self.right], key=lambda one: one.day)


def _hash(made_by: str, rows: Sequence[Mapping[str, int]], one: Written) -> str:
    return hash_of([made_by, [table.get(one.day, 0) for table in rows], one.content_hash])
