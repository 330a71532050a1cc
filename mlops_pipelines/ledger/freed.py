"""What is older than its retention and was freed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import sqlalchemy as sa

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.ledger.store import Store, insert_new
from mlops_pipelines.ledger.tables import freed

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

FreedKind = Literal["predictions", "reports", "model", "dataset", "landed"]


@dataclass(frozen=True)
class Freed:
    """Something that is gone. at: the home's clock, UTC.

    name: a version of a model or training set, a landed file's digest; of predictions and reports the first
    day (YYYY-MM-DD) that was kept.
    """

    kind: FreedKind
    name: str
    at: datetime

    def error(self, pipeline: str) -> TerminalError:
        """What asking for it comes to."""
        what = {
            "predictions": f"Predictions of {pipeline} of days before {self.name} were",
            "reports": f"Reports of {pipeline} of days before {self.name} were",
            "model": f"The model version {self.name} of {pipeline} was",
            "dataset": f"The training set {self.name} of {pipeline} was",
            "landed": f"The landed file {self.name[:12]} of {pipeline} was",
        }[self.kind]
        return TerminalError(
            f"{what} older than the retention, and freed on {self.at:%Y-%m-%d}.",
            remedy="mlops restore, from a backup that has it",
        )


class FreedThings(Store):
    """What `mlops gc` took away."""

    def record_freed(self, pipeline: str, kind: FreedKind, names: Iterable[str], at: datetime) -> None:
        """Record that these are older than the retention. Repeated, the first record stands."""
        with self._writing() as connection:
            for name in names:
                insert_new(connection, freed, {"pipeline": pipeline, "kind": kind, "name": name, "at": at})

    def freed(self, pipeline: str, kind: FreedKind, name: str) -> Freed | None:
        """What the ledger has of a model, a training set or a landed file that was freed; None if it has
        nothing."""
        query = sa.select(freed.c.kind, freed.c.name, freed.c.at).where(
            freed.c.pipeline == pipeline, freed.c.kind == kind, freed.c.name == name
        )
        with self._reading() as connection:
            row = connection.execute(query).one_or_none()
            return None if row is None else Freed(*row)

    def all_freed(self, pipeline: str, kind: FreedKind, begins: str = "") -> list[Freed]:
        """What was freed of models, training sets or landed files whose names begin so, by name."""
        query = (
            sa.select(freed.c.kind, freed.c.name, freed.c.at)
            .where(
                freed.c.pipeline == pipeline,
                freed.c.kind == kind,
                freed.c.name.startswith(begins, autoescape=True),
            )
            .order_by(freed.c.name)
        )
        with self._reading() as connection:
            return [Freed(*row) for row in connection.execute(query)]

    def not_freed(self, pipeline: str, days: Iterable[str]) -> list[str]:
        """Of days (YYYY-MM-DD), those whose predictions were not freed, in their order."""
        freed = self.freed_before(pipeline)
        return [day for day in days if freed is None or day >= freed.name]

    def freed_before(self, pipeline: str, kind: FreedKind = "predictions") -> Freed | None:
        """The latest day that all earlier predictions, or reports, were freed before; None if none were."""
        query = (
            sa.select(freed.c.kind, freed.c.name, freed.c.at)
            .where(freed.c.pipeline == pipeline, freed.c.kind == kind)
            .order_by(freed.c.name.desc())
            .limit(1)
        )
        with self._reading() as connection:
            row = connection.execute(query).one_or_none()
            return None if row is None else Freed(*row)
