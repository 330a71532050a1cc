"""Rows with their outcomes and a model's scores, of whatever kind of label: all figures are of these."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mlops_pipelines import category_metrics, metrics, number_metrics
from mlops_pipelines.metrics import Estimate, estimate
from mlops_pipelines.outcomes import BINARY, METRICS, SLICED, Outcome, aligned

if TYPE_CHECKING:
    from collections.abc import Collection

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Scored:
    """Rows with their outcomes and scores.

    labels: 0 or 1; numbers; of categories the position among the outcome's classes, which are those of the
    model and after them those of the rows that it did not know. scores: shape (rows,), or (rows, classes),
    0 for what the model did not know. day_of_row: position in `days`, which are distinct, ascending.
    """

    labels: NDArray[Any]
    scores: Floats
    days: list[str]
    day_of_row: Indices
    outcome: Outcome = BINARY

    @classmethod
    def of(cls, table: pa.Table, scores: Floats, outcome: Outcome = BINARY) -> Scored:
        """table: day and label of each row. scores: what a model of this outcome says of them."""
        return cls.on_days(table["label"], scores, outcome, *days_of(table))

    @classmethod
    def at_once(cls, labels: pa.ChunkedArray | pa.Array, scores: Floats, outcome: Outcome = BINARY) -> Scored:
        """The rows as if they were of one day."""
        import numpy as np

        return cls.on_days(labels, scores, outcome, [""], np.zeros(len(labels), dtype=np.intp))

    @classmethod
    def on_days(
        cls,
        labels: pa.ChunkedArray | pa.Array,
        scores: Floats,
        outcome: Outcome,
        days: list[str],
        day_of_row: Indices,
    ) -> Scored:
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        if outcome.kind == "binary":
            return cls(labels.cast(pa.int8()).to_numpy(), scores, days, day_of_row, outcome)
        if outcome.kind == "number":
            return cls(labels.cast(pa.float64()).to_numpy(), scores, days, day_of_row, outcome)
        labels = labels.cast(pa.string())
        there = {*outcome.classes}
        classes = (*outcome.classes, *sorted(one for one in labels.unique().to_pylist() if one not in there))
        codes = pc.index_in(labels, value_set=pa.array(classes, pa.string())).to_numpy().astype(np.intp)
        full = scores if classes == outcome.classes else aligned(scores, outcome.classes, classes)
        return cls(codes, full, days, day_of_row, replace(outcome, classes=classes))

    def estimates(self, draws: Floats, names: Collection[str] | None = None) -> dict[str, Estimate | None]:
        """Each metric with its 95 % interval; None for a metric these rows do not define.

        draws: of `metrics.resampled_days`. names: by default all of the kind.
        """
        import numpy as np

        weights = np.vstack([np.ones(draws.shape[1]), draws])
        days = int(np.unique(self.day_of_row).size)
        return {name: estimate(found, days) for name, found in self.measure(weights, names).items()}

    def measure(self, weights: Floats, names: Collection[str] | None = None) -> dict[str, Floats]:
        """Each metric under each weighting of the days, as in `metrics.measure`."""
        kind = self.outcome.kind
        asked = METRICS[kind] if names is None else names
        rows = (self.day_of_row, weights, asked)
        if kind == "number":
            return number_metrics.measure(self.labels, self.scores, *rows, mean=self.outcome.mean)
        if kind == "category":
            return category_metrics.measure(self.labels, self.scores, *rows)
        return metrics.measure(self.labels, self.scores, *rows)

    def figures(self, names: Collection[str] | None = None) -> dict[str, float | None]:
        """Each metric of all rows; None for one that they do not define."""
        import numpy as np

        measured = self.measure(np.ones((1, len(self.days))), names)
        return {name: float(one[0]) if np.isfinite(one[0]) else None for name, one in measured.items()}

    @property
    def losses(self) -> dict[str, Floats]:
        """Losses of each row by name, shape (rows,)."""
        if self.outcome.kind == "number":
            return number_metrics.row_losses(self.labels, self.scores)
        if self.outcome.kind == "category":
            return category_metrics.row_losses(self.labels, self.scores)
        return metrics.row_losses(self.labels, self.scores)

    def loss_sums(self) -> list[dict[str, float]]:
        """The losses of each day, summed."""
        import numpy as np

        sums = {
            name: np.bincount(self.day_of_row, weights=values, minlength=len(self.days))
            for name, values in self.losses.items()
        }
        return [{name: float(values[day]) for name, values in sums.items()} for day in range(len(self.days))]

    @property
    def main_figure(self) -> float | None:
        """The figure that tells a worse model from a better one: `SLICED` of the kind, the first."""
        name = SLICED[self.outcome.kind][0]
        return self.figures((name,))[name]

    def where(self, inside: Indices) -> Scored:
        """Some of the rows."""
        return replace(
            self, labels=self.labels[inside], scores=self.scores[inside], day_of_row=self.day_of_row[inside]
        )

    @cached_property
    def as_binary(self) -> tuple[NDArray[Any], Floats]:
        """Labels and scores that calibration holds together, shape (rows,) each.

        Of categories: whether the most likely class was right, and how likely it was.
        """
        import numpy as np

        if self.outcome.kind != "category":
            return self.labels, self.scores
        return (self.scores.argmax(axis=1) == self.labels).astype(np.int8), self.scores.max(axis=1)

    @property
    def one_outcome(self) -> bool:
        """Whether all rows are of one outcome; numbers never count as such."""
        import numpy as np

        return self.outcome.kind != "number" and np.unique(self.labels).size < 2


def days_of(table: pa.Table) -> tuple[list[str], Indices]:
    """The distinct days, ascending, and the position among them of each row's."""
    import numpy as np
    import pyarrow as pa

    days, day_of_row = np.unique(
        np.asarray(table["day"].cast(pa.string()).to_pylist(), dtype="U10"), return_inverse=True
    )
    return [str(day) for day in days], day_of_row
