"""Whether a day still looks like the rows the champion was trained on.

A day is compared feature by feature with the histograms of the training set (`reference.Reference`) by the
population stability index. Of each index only the part counts that neither chance nor an ordinary day
explains:

- *chance*: two samples of one distribution differ. Their index is about chi-square distributed with B - 1
  degrees of freedom, times 1/n + 1/m (Yurdakul 2018, Statistical Properties of Population Stability Index,
  ch. 2), so a small day differs a lot and means nothing;
- *an ordinary day*: rows of one day are alike. The weather is one weather, and the mean lateness of the last
  30 days is nearly one number, which falls into one bin and gives an index of 5 on any day. So the
  reference keeps, for each feature, the index that 99 % of the training set's own days stay below, each
  compared with the other days. What such a feature does within its range is not seen from one day;
  whether it matters is judged on outcomes (`performance`).

What is left is averaged with the features' importance as weights: one figure a day, so that a model with
many features does not alarm more often than one with few. The bands (0.10 and 0.25 by default) are on this
figure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from mlops_pipelines.monitoring.reference import FeatureReference, Reference
    from mlops_pipelines.spec import DriftTrigger

    Floats = NDArray[np.float64]

Level = Literal["none", "watch", "alarm"]

# An empty bin would make the index infinite.
_SHARE_FLOOR = 1e-4
# 99 % point of the standard normal distribution: chance explains what 99 of 100 days of chance stay below.
_Z_99 = 2.3263478740408408


def population_stability_index(expected: NDArray[np.integer], actual: NDArray[np.integer]) -> float:
    """Population stability index of two histograms over the same bins.

    expected, actual: counts, shape (bins,), same order. Empty bins are floored at 1e-4 of the total or at
    half a row, whichever is more: a small sample cannot tell that a bin is empty.
    Returns nats, >= 0: below 0.10 stable, from 0.25 shifted (Siddiqi 2006, Credit Risk Scorecards, ch. 9).
    Raises ValueError if the shapes differ or a histogram is empty.
    """
    import numpy as np

    expected, actual = np.asarray(expected), np.asarray(actual)
    if expected.shape != actual.shape or expected.ndim != 1:
        raise ValueError(f"histograms of one length, not of shapes {expected.shape} and {actual.shape}")
    if expected.sum() <= 0 or actual.sum() <= 0:
        raise ValueError("an empty histogram cannot be compared")
    return float(stability_indices(expected, actual))


def stability_indices(
    expected: NDArray[np.integer], actual: NDArray[np.integer], floor: float = _SHARE_FLOOR
) -> Floats:
    """Population stability indices of many pairs of histograms at once.

    expected, actual: counts, shape (..., bins), none of them empty. floor: smallest share of a bin, if half
    a row is not more. Returns nats, shape (...).
    """
    import numpy as np

    p, q = _shares(expected, floor), _shares(actual, floor)
    indices: Floats = ((q - p) * np.log(q / p)).sum(axis=-1)
    return indices


def share_floor(rows_a_day: float) -> float:
    """Smallest share of a bin when days of a training set with so many rows a day are the measure.

    Half a row of such a day: a day of ten times the rows shows no more of an empty bin than they did, and
    its index stays comparable with theirs.
    """
    return max(_SHARE_FLOOR, 0.5 / rows_a_day)


def chance_mean(bins: int, n: float | Floats, m: float | Floats) -> float | Floats:
    """Mean index of two samples of n and m rows from one distribution: (B - 1)(1/n + 1/m)."""
    return (bins - 1) * (1 / n + 1 / m)


def chance_limit(bins: int, n: float, m: float) -> float:
    """Index that 99 % of pairs of samples of n and m rows from one distribution stay below.

    The 99 % point of chi-square with B - 1 degrees of freedom (Wilson and Hilferty 1931) times 1/n + 1/m.
    """
    free = bins - 1
    if free == 0:
        return 0.0
    spread = 2 / (9 * free)
    return float(free * (1 - spread + _Z_99 * spread**0.5) ** 3 * (1 / n + 1 / m))


@dataclass(frozen=True)
class FeatureDrift:
    """How far one feature is from the training set.

    importance: share of the model's mean absolute contributions. psi: the index as it is, in nats.
    explained: how much of it chance or an ordinary day explains. excess: the rest, >= 0.
    missing, missing_before: share of rows without a value, now and in the training set.
    """

    name: str
    importance: float
    psi: float
    explained: float
    missing: float
    missing_before: float

    @property
    def excess(self) -> float:
        """Index beyond what chance or an ordinary day explains, in nats."""
        return max(0.0, self.psi - self.explained)

    @property
    def contribution(self) -> float:
        """What the feature adds to the overall figure, in nats."""
        return self.importance * self.excess


@dataclass(frozen=True)
class DriftReport:
    """How far some rows, usually a day's, are from the training set.

    rows, reference_rows, reference_days: sizes of the two samples. features: largest contribution first,
    then largest excess. score: the same for the model's own scores, which weigh nothing (None if there are
    none). overall: importance-weighted excess in nats; None without rows. sentence: the outcome in words.
    """

    rows: int
    reference_rows: int
    reference_days: int
    features: tuple[FeatureDrift, ...]
    score: FeatureDrift | None
    overall: float | None
    level: Level
    sentence: str


def drift_of(
    reference: Reference,
    table: pa.Table,
    trigger: DriftTrigger,
    scores: Floats | pa.ChunkedArray | None = None,
) -> DriftReport:
    """Drift of the table's rows from the reference, and its level by the trigger's bands.

    table: examples of a whole day, one column a feature: the first hours of a day are not an ordinary day.
    scores: the champion's scores of (some of) these rows; of categories the most likely classes.
    Without rows there is nothing to judge: overall is None, the level `none`.
    Raises TerminalError if the table lacks a feature's column.
    """
    if table.num_rows == 0:
        return DriftReport(
            0, reference.rows, reference.days, (), None, None, "none", "no rows, nothing to compare"
        )
    floor = share_floor(reference.rows_a_day)
    drifts = [
        _feature_drift(feature, feature.bins.histogram_of(table, feature.name), floor)
        for feature in reference.features
    ]
    drifts.sort(key=lambda drift: (-drift.contribution, -drift.excess, drift.name))
    score = None
    if scores is not None and len(scores):
        score = _feature_drift(reference.score, reference.score.bins.histogram(scores), floor)
    overall = sum(drift.contribution for drift in drifts)
    level = level_of(overall, trigger)
    return DriftReport(
        table.num_rows,
        reference.rows,
        reference.days,
        tuple(drifts),
        score,
        overall,
        level,
        _sentence(overall, level, drifts, trigger),
    )


def level_of(overall: float, trigger: DriftTrigger) -> Level:
    """Band that an overall figure falls into."""
    if overall >= trigger.alarm:
        return "alarm"
    return "watch" if overall >= trigger.watch else "none"


def persistent(levels: Sequence[Level], persists: tuple[int, int]) -> bool:
    """Whether at least m of the last n levels are alarms.

    levels: one a partition, oldest first, all against one champion and of partitions after its training
    set: what an earlier champion saw says nothing about this one. persists: (m, n), 1 <= m <= n.
    """
    m, n = persists
    return sum(level == "alarm" for level in levels[-n:]) >= m


def _shares(counts: NDArray[np.integer], floor: float) -> Floats:
    import numpy as np

    totals = counts.sum(axis=-1, keepdims=True)
    shares: Floats = np.maximum(counts / totals, np.maximum(floor, 0.5 / totals))
    return shares


def _feature_drift(feature: FeatureReference, counts: NDArray[np.int64], floor: float) -> FeatureDrift:
    import numpy as np

    before = np.array(feature.counts)
    bins, n, m = len(before), float(counts.sum()), float(before.sum())
    usual = float(chance_mean(bins, n, m)) + feature.ordinary
    return FeatureDrift(
        feature.name,
        feature.importance,
        float(stability_indices(before, counts, floor)),
        max(usual, chance_limit(bins, n, m)),
        float(counts[-1] / n),
        float(before[-1] / m),
    )


def _sentence(overall: float, level: Level, drifts: Sequence[FeatureDrift], trigger: DriftTrigger) -> str:
    band = {
        "none": f"below {trigger.watch:g}, where the watch begins",
        "watch": f"from {trigger.watch:g}: watched",
        "alarm": f"from {trigger.alarm:g}: alarm",
    }[level]
    said = f"unexplained PSI {overall:.3f} over all features, {band}"
    leading = [f"{drift.name} {drift.contribution:.3f}" for drift in drifts[:3] if drift.contribution > 0]
    return f"{said}; most of it from {', '.join(leading)}" if leading else said
