"""Quality of scores against outcomes, with intervals that respect that rows of one day move together.

Every metric is computed for many weightings of the days at once: all ones for the figure itself, and for
its interval the counts with which a bootstrap drew each day (Davison and Hinkley 1997, ch. 3.8).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, get_args

from mlops_pipelines.spec import Metric

if TYPE_CHECKING:
    from collections.abc import Collection

    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.intp]

METRICS: tuple[str, ...] = get_args(Metric)
CALIBRATION_BINS = 10
# Enough that the ends of a 95 % interval move by a few hundredths of its width from seed to seed.
REPLICATES = 200
CONFIDENCE = 0.95
# Scores are kept this far from 0 and 1 in a logarithm, as scikit-learn does for float64.
EPSILON = 2.220446049250313e-16
# Rows times weightings that are ranked together: arrays that fit the processor's cache.
_CELLS_AT_ONCE = 50_000
_RANKED = ("roc_auc", "average_precision")


@dataclass(frozen=True)
class Estimate:
    """A figure and its two-sided interval; the interval is None where there are too few days for one."""

    value: float
    lower: float | None
    upper: float | None


def resampled_days(days: int, *, replicates: int, seed: int) -> Floats:
    """How often each replicate of a bootstrap of whole days drew each day, shape (replicates, days)."""
    import numpy as np

    drawn = np.random.default_rng(seed).multinomial(days, np.full(days, 1 / days), size=replicates)
    return drawn.astype(np.float64)


def measure(
    labels: NDArray[np.integer],
    scores: Floats,
    day_of_row: Indices,
    weights: Floats,
    names: Collection[str] = METRICS,
) -> dict[str, Floats]:
    """Each metric under each weighting of the days, shape (weightings,); NaN where it is undefined.

    labels: 0 or 1; scores: probabilities; day_of_row: column of `weights`; shape (rows,) each, rows >= 1.
    weights: shape (weightings, days), >= 0.
    log_loss, brier: mean loss, nats and squared error. *_skill: 1 - loss / loss of the rows' own base rate
    (Murphy 1988). roc_auc: ties count half. average_precision: the step sum, without interpolation.
    expected_calibration_error: over ten bins of equal frequency (Nixon et al. 2019).
    """
    figures = _day_sums(labels, scores, day_of_row, weights)
    if any(name in names for name in _RANKED):
        figures |= ranked(labels, scores, day_of_row, weights)
    return {name: figures[name] for name in METRICS if name in names}


def estimates(
    labels: NDArray[np.integer],
    scores: Floats,
    day_of_row: Indices,
    draws: Floats,
    names: Collection[str] = METRICS,
) -> dict[str, Estimate | None]:
    """Each metric with its 95 % interval; None for a metric these rows do not define.

    draws: of `resampled_days`, shape (replicates, days); the rest as in `measure`.
    """
    import numpy as np

    weights = np.vstack([np.ones(draws.shape[1]), draws])
    measured = measure(labels, scores, day_of_row, weights, names)
    days = int(np.unique(day_of_row).size)
    return {name: estimate(figures, days) for name, figures in measured.items()}


def estimate(figures: Floats, days: int) -> Estimate | None:
    """The first of `figures` with a 95 % interval from the others; None if it is not finite."""
    import numpy as np

    if not np.isfinite(figures[0]):
        return None
    lower, upper = interval(figures[1:], days, confidence=(1 + CONFIDENCE) / 2) or (None, None)
    return Estimate(float(figures[0]), lower, upper)


def interval(replicates: Floats, days: int, *, confidence: float) -> tuple[float, float] | None:
    """Lower and upper bound, each one-sided at `confidence`: the expanded percentile interval.

    The percentiles of a bootstrap of few blocks lie too close together; they are taken further out, by the
    ratio of Student's to the normal quantile and sqrt(n / (n - 1)) (Hesterberg 2015, sec. 5.3).
    replicates: shape (replicates,), NaN where undefined. days: blocks resampled. None for fewer than two
    days, or when most replicates are undefined.
    """
    import numpy as np
    from scipy.special import stdtrit

    defined = replicates[np.isfinite(replicates)]
    if days < 2 or 2 * defined.size < replicates.size:
        return None
    further_out = (days / (days - 1)) ** 0.5 * float(stdtrit(days - 1, confidence))
    level = NormalDist().cdf(further_out)
    lower, upper = np.quantile(defined, [1 - level, level])
    return float(lower), float(upper)


def row_losses(labels: NDArray[np.integer], scores: Floats) -> dict[str, Floats]:
    """`log_loss` (nats) and `brier` of each row, shape (rows,)."""
    import numpy as np

    safe = np.clip(scores, EPSILON, 1 - EPSILON)
    return {
        "log_loss": -np.where(labels == 1, np.log(safe), np.log1p(-safe)),
        "brier": np.square(scores - labels),
    }


def calibration_bins(scores: Floats) -> Indices:
    """Bin of each row, 0 to 9, of about equal frequency; equal scores share a bin. Shape (rows,)."""
    import numpy as np

    edges = np.quantile(scores, np.arange(1, CALIBRATION_BINS) / CALIBRATION_BINS)
    return np.searchsorted(edges, scores, side="right")


def calibration_gaps(
    labels: NDArray[np.number], scores: Floats, day_of_row: Indices, weights: Floats
) -> Floats:
    """By how many rows scores and labels differ in each bin, added up, under each weighting of the days."""
    import numpy as np

    days = weights.shape[1]
    cells = np.bincount(
        day_of_row * CALIBRATION_BINS + calibration_bins(scores),
        weights=scores - labels,
        minlength=days * CALIBRATION_BINS,
    )
    gaps: Floats = np.abs(weights @ cells.reshape(days, CALIBRATION_BINS)).sum(axis=1)
    return gaps


def _day_sums(
    labels: NDArray[np.integer], scores: Floats, day_of_row: Indices, weights: Floats
) -> dict[str, Floats]:
    """The metrics that need no more than sums over each day."""
    import numpy as np

    days = weights.shape[1]

    def summed(values: Floats | None) -> Floats:
        sums: Floats = weights @ np.bincount(day_of_row, weights=values, minlength=days)
        return sums

    losses = row_losses(labels, scores)
    # 0 / 0 where a replicate drew no row, or rows of one outcome only: undefined, which NaN says.
    with np.errstate(divide="ignore", invalid="ignore"):
        rows = summed(None)
        rate = summed(labels.astype(np.float64)) / rows
        log_loss, brier = summed(losses["log_loss"]) / rows, summed(losses["brier"]) / rows
        surprise = -rate * np.log(rate) - (1 - rate) * np.log1p(-rate)
        return {
            "log_loss": log_loss,
            "log_loss_skill": finite(1 - log_loss / surprise),
            "brier": brier,
            "brier_skill": finite(1 - brier / (rate * (1 - rate))),
            "expected_calibration_error": calibration_gaps(labels, scores, day_of_row, weights) / rows,
        }


def ranked(
    labels: NDArray[np.integer], scores: Floats, day_of_row: Indices, weights: Floats
) -> dict[str, Floats]:
    """`roc_auc` and `average_precision`, as in `measure`; the rows are sorted once for all weightings."""
    import numpy as np

    order = np.argsort(-scores, kind="stable")
    positive, day = labels[order] == 1, day_of_row[order]
    last_of_tie = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    at_once = max(_CELLS_AT_ONCE // labels.size, 1)
    parts = [
        _areas(weights[start : start + at_once, day], positive, last_of_tie)
        for start in range(0, len(weights), at_once)
    ]
    areas, precisions = np.concatenate(parts, axis=1)
    return {"roc_auc": areas, "average_precision": precisions}


def _areas(row_weights: Floats, positive: NDArray[np.bool_], last_of_tie: Indices) -> Floats:
    """ROC AUC and average precision of each weighting, shape (2, weightings).

    row_weights: shape (weightings, rows), rows from the highest score down.
    """
    import numpy as np

    seen = np.cumsum(row_weights, axis=1)[:, last_of_tie]
    found = np.cumsum(row_weights * positive, axis=1)[:, last_of_tie]
    found_here, seen_here = found.copy(), seen.copy()
    found_here[:, 1:] -= found[:, :-1]
    seen_here[:, 1:] -= seen[:, :-1]
    precision = np.divide(found, seen, out=np.zeros_like(found), where=seen > 0)
    positives, negatives = found[:, -1], seen[:, -1] - found[:, -1]
    # Sums, not `@`: on vectors this long BLAS starts threads, which wait for each other on busy cores.
    ordered = np.sum((seen_here - found_here) * (found - found_here / 2), axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.stack(
            [ordered / (positives * negatives), np.sum(found_here * precision, axis=1) / positives]
        )


def finite(figures: Floats) -> Floats:
    """The figures, NaN in the place of an infinite one."""
    import numpy as np

    return np.where(np.isfinite(figures), figures, np.nan)
