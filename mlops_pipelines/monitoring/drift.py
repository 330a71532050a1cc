"""Whether a day still looks like the rows the champion was trained on.

A day is compared feature by feature with the histograms of the training set (`reference.Reference`) by the
population stability index. An index counts only where neither noise nor an ordinary day explains it:

- *noise*: two samples of one distribution differ. Their index is about chi-square distributed with B - 1
  degrees of freedom, times 1/n + 1/m (Yurdakul 2018, Statistical Properties of Population Stability Index,
  ch. 2), so a small day differs a lot and means nothing. Noise explains what it would exceed in any of the
  features on one day in 10,000;
- *an ordinary day*: rows of one day are alike. The weather is one weather, and the mean lateness of the last
  30 days is nearly one number, which falls into one bin and gives an index of 5 on any day. So the
  reference keeps, for each feature, the index that 99 % of the training set's own days stay below, each
  compared with the other days, and by how much more the features together go astray on 1 % of them. What
  such a feature does within its range is not seen from one day; whether it matters is judged on outcomes
  (`performance`).

An index that they do not explain counts less what ordinary days give, and by how much the feature matters: in
full from the even share of importance on, below it in proportion. The day's figure is the greatest of these,
so that one shifted feature is not diluted by many others, and that one without effect on the scores is none.

Values that the training set did not have count as drift of their own (`Break`): more missing ones, numbers
out of its range, new categories.

Beside each index stand a test and the size of its effect, which decide nothing: with enough rows every
difference is significant. Kolmogorov-Smirnov for numbers, at the stored edges, so that its p-value errs
upwards; chi-square for categories; p-values corrected by Benjamini and Hochberg (1995) over the features.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from mlops_pipelines.errors import TerminalError

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
# A day on which noise alone is taken for drift of any feature is one in so many.
_NOISE = 1e-4
# How much further than chi-square the index reaches, by bins a row, and at most; simulated for 10 bins.
_TAIL, _MOST_TAIL = 2.5, 0.2
# Share of a day's rows, beyond that of the training set's worst day, from which values of a new kind are a
# break.
BREAK = 0.05
# Days of a training set from which its range, and its categories, say what is usual.
RANGE_DAYS = 28
# So unlikely a number of them by chance, whatever the day's size: a row or two show nothing.
_BREAK_CHANCE = 1e-6


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


def noise_limit(bins: int, n: float | Floats, m: float | Floats, features: int) -> Any:
    """Index that two samples of one distribution exceed once in 10,000 days of so many features; n, m: rows.

    The point of chi-square with B - 1 degrees of freedom times 1/n + 1/m, and somewhat more where a bin has
    few rows: there the index has a longer tail. Float or shape of n and m.
    """
    import numpy as np
    from scipy.special import chdtri

    if bins == 1:
        return 0.0 * (n + m)
    tail = 1 + np.minimum(_TAIL * bins / n, _MOST_TAIL)
    return float(chdtri(bins - 1, _NOISE / features)) * (1 / n + 1 / m) * tail


@dataclass(frozen=True)
class FeatureDrift:
    """How far one feature is from the training set.

    importance: share of the model's mean absolute contributions. weight: by how much it counts, 0 to 1. psi:
    the index as it is, in nats. noise, ordinary: how much of it noise, and how much an ordinary day explains.
    missing, missing_before: share of rows without a value, now and in the training set. test: `ks` or `chi2`.
    strange: share of values out of the training set's range, or of none of its categories; None of a training
    set that says neither. effect: greatest difference of the distribution functions, or Cramér's V; 0 to 1.
    p: of the test, as it is. p_adjusted: corrected over the features. None where there are no values to test.
    """

    name: str
    importance: float
    weight: float
    psi: float
    noise: float
    ordinary: float
    missing: float
    missing_before: float
    test: Literal["ks", "chi2"]
    effect: float | None
    p: float | None
    p_adjusted: float | None = None
    strange: float | None = None

    @property
    def explained(self) -> float:
        """Index up to which noise and ordinary days explain it, in nats."""
        return self.noise + self.ordinary

    @property
    def excess(self) -> float:
        """The index less that of ordinary days, in nats; 0 where these and noise explain it."""
        return self.psi - self.ordinary if self.psi > self.explained else 0.0

    @property
    def contribution(self) -> float:
        """What the feature says of the day, in nats."""
        return self.weight * self.excess


@dataclass(frozen=True)
class Break:
    """Values of a kind that the training set did not have.

    kind: `missing`, `range` or `category`. share: of the day's rows. usual: the largest share on a day of the
    training set. weight: by how much the feature counts.
    """

    feature: str
    kind: Literal["missing", "range", "category"]
    share: float
    usual: float
    weight: float

    @property
    def sentence(self) -> str:
        """The finding in words."""
        what = {
            "missing": "without a value",
            "range": "far out of the training set's range",
            "category": "of categories that the training set did not have",
        }[self.kind]
        return f"{self.feature}: {self.share:.1%} of the rows {what}, on its days at most {self.usual:.1%}"


@dataclass(frozen=True)
class DriftReport:
    """How far some rows, usually a day's, are from the training set.

    rows, reference_rows, reference_days: sizes of the two samples. features: largest contribution first,
    then largest excess. breaks: those that weigh most first. score: the same as of a feature for the model's
    own scores, which weigh nothing (None if there are none). overall: greatest contribution in nats; None
    without rows. sentence: the outcome in words.
    """

    rows: int
    reference_rows: int
    reference_days: int
    features: tuple[FeatureDrift, ...]
    breaks: tuple[Break, ...]
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

    A break counts as the alarm of its feature.

    table: examples of a whole day, one column a feature: the first hours of a day are not an ordinary day.
    scores: the champion's scores of (some of) these rows; of categories the most likely classes.
    Without rows there is nothing to judge: overall is None, the level `none`.
    Raises TerminalError if the table lacks a feature's column.
    """
    if table.num_rows == 0:
        return DriftReport(
            0, reference.rows, reference.days, (), (), None, None, "none", "no rows, nothing to compare"
        )
    drifts, breaks = [], []
    for feature in reference.features:
        column = column_of(table, feature.name)
        counts = feature.bins.histogram(column)
        drift = _feature_drift(feature, counts, reference)
        strange = feature.strange(column) if reference.days >= RANGE_DAYS else None
        if strange is not None:
            drift = replace(drift, strange=strange / table.num_rows)
        drifts.append(drift)
        breaks += _breaks(feature, drift, table.num_rows, reference.rows)
    drifts = sorted(_corrected(drifts), key=lambda drift: (-drift.contribution, -drift.excess, drift.name))
    breaks.sort(key=lambda one: (-one.weight, -one.share, one.feature))
    score = None
    if scores is not None and len(scores):
        score = _feature_drift(reference.score, reference.score.bins.histogram(scores), reference)
    overall = drifts[0].contribution if drifts else 0.0
    broken = breaks[0].weight * trigger.alarm if breaks else 0.0
    level = level_of(max(overall, broken), trigger)
    return DriftReport(
        table.num_rows,
        reference.rows,
        reference.days,
        tuple(drifts),
        tuple(breaks),
        score,
        overall,
        level,
        _sentence(level, drifts, breaks, trigger),
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


def column_of(table: pa.Table, name: str) -> pa.ChunkedArray:
    """The table's column of a feature. Raises TerminalError if it is not there."""
    if name not in table.column_names:
        raise TerminalError(
            f"The table has no column {name}.",
            expected="a column for every feature of the model",
            remedy="recompute the examples with the model's feature views, or retrain on today's",
        )
    return table[name]


def _shares(counts: NDArray[np.integer], floor: float) -> Floats:
    import numpy as np

    totals = counts.sum(axis=-1, keepdims=True)
    shares: Floats = np.maximum(counts / totals, np.maximum(floor, 0.5 / totals))
    return shares


def _feature_drift(
    feature: FeatureReference, counts: NDArray[np.int64], reference: Reference
) -> FeatureDrift:
    import numpy as np

    before = np.array(feature.counts)
    features = len(reference.features)
    bins, n, m = len(before), float(counts.sum()), float(before.sum())
    effect, p = (_ks if feature.bins.kind == "number" else _chi_square)(before, counts)
    return FeatureDrift(
        feature.name,
        feature.importance,
        min(1.0, feature.importance * features),
        float(stability_indices(before, counts, share_floor(reference.rows_a_day))),
        float(noise_limit(bins, n, m, features)),
        reference.together * feature.ordinary,
        float(counts[-1] / n),
        float(before[-1] / m),
        "ks" if feature.bins.kind == "number" else "chi2",
        effect,
        p,
    )


def _ks(before: NDArray[np.int64], now: NDArray[np.int64]) -> tuple[float | None, float | None]:
    """Two-sample Kolmogorov-Smirnov over the bins that have values: its statistic and p-value."""
    import numpy as np
    from scipy.special import kolmogorov

    n, m = now[:-1].sum(), before[:-1].sum()
    if not n or not m:
        return None, None
    statistic = float(np.abs(np.cumsum(now[:-1]) / n - np.cumsum(before[:-1]) / m).max())
    return statistic, float(kolmogorov(statistic * np.sqrt(n * m / (n + m))))


def _chi_square(before: NDArray[np.int64], now: NDArray[np.int64]) -> tuple[float | None, float | None]:
    """Homogeneity of two histograms, missing values included: Cramér's V and the p-value of chi-square."""
    import numpy as np
    from scipy.special import chdtrc

    observed = np.vstack([before, now]).astype(np.float64)
    observed = observed[:, observed.sum(axis=0) > 0]
    free = observed.shape[1] - 1
    if not free:
        return 0.0, 1.0
    expected = observed.sum(axis=1, keepdims=True) * observed.sum(axis=0) / observed.sum()
    statistic = float(((observed - expected) ** 2 / expected).sum())
    return (statistic / observed.sum()) ** 0.5, float(chdtrc(free, statistic))


def _corrected(drifts: Sequence[FeatureDrift]) -> list[FeatureDrift]:
    """With p-values corrected by Benjamini and Hochberg over the features that were tested."""
    from scipy.stats import false_discovery_control

    tested = [drift.p for drift in drifts if drift.p is not None]
    adjusted = iter(false_discovery_control(tested).tolist() if tested else [])
    return [
        drift if drift.p is None else replace(drift, p_adjusted=float(next(adjusted))) for drift in drifts
    ]


def _breaks(feature: FeatureReference, drift: FeatureDrift, rows: int, learned_from: int) -> list[Break]:
    """What the day has that the training set's days did not."""
    from scipy.special import bdtrc

    found = []
    kind: Literal["range", "category"] = "range" if feature.bins.kind == "number" else "category"
    if feature.missing_most is not None:
        found.append(Break(feature.name, "missing", drift.missing, feature.missing_most, drift.weight))
    if drift.strange is not None:
        found.append(Break(feature.name, kind, drift.strange, feature.strange_most, drift.weight))
    # Of what never came in m rows, one in m may still come.
    least = 1 / learned_from
    return [
        one
        for one in found
        if one.share >= one.usual + _margin(one.usual)
        and bdtrc(round(one.share * rows) - 1, rows, max(one.usual, least)) < _BREAK_CHANCE
    ]


def _margin(usual: float) -> float:
    """By how much a share has to exceed that of the worst ordinary day: as much again, where there is room.

    Rows of a day are alike, and the next worst day is soon there.
    """
    return max(BREAK, min(usual, (1 - usual) / 2))


def _sentence(
    level: Level, drifts: Sequence[FeatureDrift], breaks: Sequence[Break], trigger: DriftTrigger
) -> str:
    # Where a break decides, an index that counts for nothing beside it would read as if it did.
    broke = bool(breaks) and breaks[0].weight * trigger.alarm > drifts[0].contribution
    least = trigger.watch if broke else 0.0
    indices = [
        f"{one.name} has an unexplained, weighted PSI of {one.contribution:.3f}"
        for one in drifts[:3]
        if one.contribution > least
    ]
    broken = [one.sentence for one in breaks[:3]]
    found = [*broken, *indices] if broke else [*indices, *broken]
    band = {
        "none": f"nothing reaches {trigger.watch:g}, where the watch begins",
        "watch": f"watched from {trigger.watch:g}",
        "alarm": f"alarm from {trigger.alarm:g}",
    }[level]
    if broke and level != "none":
        band = f"{level}: what breaks counts by how much the feature matters"
    return "; ".join([*found, band])
