"""How far scores move when the inputs are a little worse than those the model was judged on. Seeded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_pipelines.outcomes import SLICED
from mlops_pipelines.scored import Scored
from mlops_pipelines.training import spread

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from mlops_pipelines.training import TrainedModel

    Floats = NDArray[np.float64]

ROWS = 5_000
_MISSING = (0.1, 0.3)
_NOISE = 0.05


@dataclass(frozen=True)
class Robust:
    """One disturbance. mean_change, p95_change: of the score, absolute; of categories how much of the
    probability goes to other classes. figure: with it; None where the rows do not define it. common: what
    happens to inputs on many days, and a gate looks at."""

    name: str
    mean_change: float
    p95_change: float
    figure: float | None
    common: bool


@dataclass(frozen=True)
class Robustness:
    """rows: that were disturbed, spread over the holdout. metric: what is told of them; figure: as they
    are."""

    rows: int
    metric: str
    figure: float | None
    disturbed: tuple[Robust, ...]


def robustness(model: TrainedModel, table: pa.Table, *, seed: int) -> Robustness:
    """Scores of some rows as they are, with values missing, with noise, and without each kind of features.

    table: labelled examples.
    """
    import numpy as np

    rows = spread(table, ROWS)
    matrix = model.matrix(rows)
    given = model.score(matrix)

    def figure(scores: Floats) -> float | None:
        return Scored.at_once(rows["label"], scores, model.outcome).main_figure

    disturbed = []
    for name, common, changed in _disturbances(model, matrix, np.random.default_rng(seed)):
        scores = model.score(changed)
        moved = np.abs(scores - given)
        if model.outcome.shape:
            moved = moved.sum(axis=1) / 2
        p95 = float(np.quantile(moved, 0.95))
        disturbed.append(Robust(name, float(moved.mean()), p95, figure(scores), common))
    return Robustness(rows.num_rows, SLICED[model.outcome.kind][0], figure(given), tuple(disturbed))


def _disturbances(
    model: TrainedModel, matrix: Floats, chance: np.random.Generator
) -> Iterator[tuple[str, bool, Floats]]:
    """Name, whether it is common, and the matrix with it."""
    import numpy as np

    for share in _MISSING:
        yield (
            f"{share:.0%} of the values missing",
            share == _MISSING[0],
            np.where(chance.random(matrix.shape) < share, np.nan, matrix),
        )
    numeric = np.array([feature.kind != "category" for feature in model.features])
    spread = np.zeros(matrix.shape[1])
    known = [column for column in np.flatnonzero(numeric) if np.isfinite(matrix[:, column]).any()]
    spread[known] = np.nanstd(matrix[:, known], axis=0)
    yield (
        f"noise of {_NOISE:.0%} of each number's spread",
        True,
        matrix + chance.normal(size=matrix.shape) * spread * _NOISE,
    )
    for kind, columns in (("number", numeric), ("category", ~numeric)):
        if columns.any() and not columns.all():
            yield f"every {kind} missing", False, np.where(columns, np.nan, matrix)
