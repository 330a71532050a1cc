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


@dataclass(frozen=True)
class Work:
    """Days (YYYY-MM-DD, UTC) that a stage works on, begun before anything is read.

    made_by: of its code and all that it depends on but the day's own facts; "" where that is not known, and
    each day is made that is asked for. revisions: how often each had been reopened.
    """

    place: PipelineHome
    stage: Stage
    made_by: str
    revisions: Mapping[str, int]

    @classmethod
    def on(cls, place: PipelineHome, stage: Stage, days: Collection[str], made_by: str) -> Work:
        revisions = place.ledger.revisions(place.name, stage, days) if made_by else {}
        return cls(place, stage, made_by, revisions)

    def right(
        self, days: Collection[str], as_they_stand: Callable[[Sequence[str]], list[Written]]
    ) -> list[Written]:
        """Those of `days` that would be made as they stand: by the same, not reopened since, not altered.

        as_they_stand: reads days of the table, each with its content hash.
        """
        if not self.made_by:
            return []
        made = self.place.ledger.days_made(self.place.name, self.stage, days)
        closed = sorted(day for day, one in made.items() if one.revision == self.revisions[day])
        found = as_they_stand(closed) if closed else []
        return [one for one in found if made[one.day].made_by == self._hash(one)]

    def record(self, written: Sequence[Written]) -> None:
        """Record days as they were made."""
        if self.made_by:
            made_by = {one.day: self._hash(one) for one in written if one.day in self.revisions}
            self.place.ledger.record_made_days(self.place.name, self.stage, self.revisions, made_by)

    def _hash(self, one: Written) -> str:
        return hash_of([self.made_by, one.content_hash])
