"""Quality of the probabilities of classes, for many weightings of the days at once, as in `metrics`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_pipelines.metrics import EPSILON, calibration_gaps, finite, ranked
from mlops_pipelines.outcomes import METRICS

if TYPE_CHECKING:
    from collections.abc import Collection

    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.intp]


def measure(
    labels: Indices,
    scores: Floats,
    day_of_row: Indices,
    weights: Floats,
    names: Collection[str] = METRICS["category"],
) -> dict[str, Floats]:
    """Each metric under each weighting of the days, shape (weightings,); NaN where it is undefined.

    labels: position of the class, shape (rows,), rows >= 1. scores: probabilities, shape (rows, classes).
    The rest as in `metrics.measure`. log_loss: nats. brier: sum over the classes of the squared error, 0 to
    2 (Brier 1950). *_skill: 1 - loss / loss of the rows' own shares of the classes. accuracy: of the most
    likely class. macro_f1: mean over the classes that are there or were predicted. roc_auc: one class
    against the rest, mean over the classes that some rows are of and some are not.
    expected_calibration_error: of the most likely class, over ten bins of equal frequency.
    """
    import numpy as np

    days, classes = weights.shape[1], scores.shape[1]

    def summed(values: Floats) -> Floats:
        sums: Floats = weights @ np.bincount(day_of_row, weights=values, minlength=days)
        return sums

    def counted(which: Indices, of: Floats | None = None) -> Floats:
        cells = np.bincount(day_of_row * classes + which, weights=of, minlength=days * classes)
        counts: Floats = weights @ cells.reshape(days, classes).astype(np.float64)
        return counts

    losses, chosen = row_losses(labels, scores), scores.argmax(axis=1)
    right = (chosen == labels).astype(np.float64)
    there, told, hits = counted(labels), counted(chosen), counted(labels, right)
    rows = there.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = there / rows[:, None]
        base = base_losses(shares)
        log_loss, brier = summed(losses["log_loss"]) / rows, summed(losses["brier"]) / rows
        figures = {
            "log_loss": log_loss,
            "log_loss_skill": finite(1 - log_loss / base["log_loss"]),
            "brier": brier,
            "brier_skill": finite(1 - brier / base["brier"]),
            "accuracy": hits.sum(axis=1) / rows,
            "macro_f1": _mean_where(2 * hits / (there + told), there + told > 0),
            "expected_calibration_error": calibration_gaps(right, scores.max(axis=1), day_of_row, weights)
            / rows,
        }
    if "roc_auc" in names:
        areas = np.stack(
            [_area(labels == one, scores[:, one], day_of_row, weights) for one in range(classes)]
        )
        figures["roc_auc"] = _mean_where(areas.T, np.isfinite(areas.T))
    return {name: figures[name] for name in METRICS["category"] if name in names}


def row_losses(labels: Indices, scores: Floats) -> dict[str, Floats]:
    """`log_loss` (nats) and `brier` of each row, shape (rows,)."""
    import numpy as np

    rows = np.arange(len(labels))
    happened = scores[rows, labels]
    # Of the class that it was, the error is 1 - p and not p.
    brier = np.square(scores).sum(axis=1) - np.square(happened) + np.square(1 - happened)
    return {"log_loss": -np.log(np.clip(happened, EPSILON, 1)), "brier": brier}


def base_losses(shares: Floats) -> dict[str, Floats]:
    """Mean `log_loss` and `brier` of giving each row the shares of the classes themselves.

    shares: shape (weightings, classes), adding up to 1 over the classes.
    """
    import numpy as np

    surprise = np.where(shares > 0, shares * np.log(np.where(shares > 0, shares, 1)), 0)
    return {"log_loss": -surprise.sum(axis=1), "brier": 1 - np.square(shares).sum(axis=1)}


def _area(positive: NDArray[np.bool_], scores: Floats, day_of_row: Indices, weights: Floats) -> Floats:
    import numpy as np

    return ranked(positive.astype(np.int8), scores, day_of_row, weights)["roc_auc"]


def _mean_where(values: Floats, which: NDArray[np.bool_]) -> Floats:
    """Mean over the classes for which it holds, shape (weightings,); NaN where it holds for none."""
    import numpy as np

    total = np.where(which, values, 0.0).sum(axis=1)
    number = which.sum(axis=1)
    means: Floats = np.divide(total, number, out=np.full(len(values), np.nan), where=number > 0)
    return means
