"""How far scores move when the inputs are a little worse than those the model was judged on. Seeded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
    """One disturbance. mean_change, p95_change: of the score, absolute. roc_auc: with it; None where the rows
    are of one outcome."""

    name: str
    mean_change: float
    p95_change: float
    roc_auc: float | None


@dataclass(frozen=True)
class Robustness:
    """rows: that were disturbed, spread over the holdout. roc_auc: of them as they are."""

    rows: int
    roc_auc: float | None
    disturbed: tuple[Robust, ...]


def robustness(
    model: TrainedModel, table: pa.Table, *, seed: int, metric: Callable[[Floats, Floats], float | None]
) -> Robustness:
    """Scores of some rows as they are, with values missing, with noise, and without each kind of features.

    table: labelled examples. metric: of labels and scores, such as ROC AUC.
    """
    import numpy as np

    picked = np.unique(np.linspace(0, table.num_rows - 1, min(ROWS, table.num_rows)).astype(np.int64))
    rows = table.take(picked)
    labels, matrix = rows["label"].to_numpy().astype(np.float64), model.matrix(rows)
    given = model.score(matrix)
    disturbed = []
    for name, changed in _disturbances(model, matrix, np.random.default_rng(seed)):
        scores = model.score(changed)
        moved = np.abs(scores - given)
        disturbed.append(
            Robust(name, float(moved.mean()), float(np.quantile(moved, 0.95)), metric(labels, scores))
        )
    return Robustness(len(picked), metric(labels, given), tuple(disturbed))


def _disturbances(
    model: TrainedModel, matrix: Floats, chance: np.random.Generator
) -> Iterator[tuple[str, Floats]]:
    import numpy as np

    for share in _MISSING:
        yield (
            f"{share:.0%} of the values missing",
            np.where(chance.random(matrix.shape) < share, np.nan, matrix),
        )
    numeric = np.array([feature.kind != "category" for feature in model.features])
    spread = np.zeros(matrix.shape[1])
    known = [column for column in np.flatnonzero(numeric) if np.isfinite(matrix[:, column]).any()]
    spread[known] = np.nanstd(matrix[:, known], axis=0)
    yield (
        f"noise of {_NOISE:.0%} of each number's spread",
        matrix + chance.normal(size=matrix.shape) * spread * _NOISE,
    )
    for kind, columns in (("number", numeric), ("category", ~numeric)):
        if columns.any() and not columns.all():
            yield f"every {kind} missing", np.where(columns, np.nan, matrix)
