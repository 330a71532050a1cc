"""Quality of predicted numbers, for many weightings of the days at once, as in `metrics`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_pipelines.metrics import finite
from mlops_pipelines.outcomes import METRICS

if TYPE_CHECKING:
    from collections.abc import Collection

    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.intp]


def measure(
    labels: Floats,
    scores: Floats,
    day_of_row: Indices,
    weights: Floats,
    names: Collection[str] = METRICS["number"],
    *,
    mean: float,
) -> dict[str, Floats]:
    """Each metric under each weighting of the days, shape (weightings,); NaN where it is undefined.

    labels, scores: in the unit of the label; the rest as in `metrics.measure`. mean: of the labels that the
    model was trained on. rmse, mae: in the unit of the label; mse in its square. r2: 1 - mse / mse of
    predicting that mean for each row (Campbell and Thompson 2008), so 0 is no skill and 1 is perfect.
    """
    import numpy as np

    losses = row_losses(labels, scores)

    def averaged(values: Floats) -> Floats:
        days = weights.shape[1]
        rows = weights @ np.bincount(day_of_row, minlength=days)
        sums: Floats = weights @ np.bincount(day_of_row, weights=values, minlength=days)
        return sums / rows

    # 0 / 0 where a replicate drew no row, or rows that all are that mean: undefined, which NaN says.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        mse, mae = averaged(losses["mse"]), averaged(losses["mae"])
        figures = {
            "rmse": np.sqrt(mse),
            "mse": mse,
            "mae": mae,
            "r2": finite(1 - mse / averaged(np.square(labels - mean))),
        }
    return {name: figures[name] for name in METRICS["number"] if name in names}


def row_losses(labels: Floats, scores: Floats) -> dict[str, Floats]:
    """`mse` (squared error) and `mae` (absolute error) of each row, shape (rows,)."""
    import numpy as np

    with np.errstate(over="ignore"):
        return {"mse": np.square(scores - labels), "mae": np.abs(scores - labels)}
