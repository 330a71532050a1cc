"""Whether groups are treated alike: differences between them, by Fairlearn (Bird et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_pipelines.metrics import Estimate, estimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mlops_pipelines.spec import FairnessGate

    Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Group:
    """Rows of one value of a column. decided: share decided as positive. found: of the positives (true
    positive rate); accused: of the negatives (false positive rate); None without any. note: why it is not
    judged."""

    value: str
    rows: int
    decided: float
    found: float | None
    accused: float | None
    note: str = ""


@dataclass(frozen=True)
class Fairness:
    """Of the groups of one column. demographic_parity: largest difference of `decided` between two groups.
    equalized_odds: the larger of those of `found` and `accused`, each between the groups that have it. None
    with fewer than two judged groups. The intervals are of the two groups that are furthest apart."""

    column: str
    groups: tuple[Group, ...]
    demographic_parity: Estimate | None
    equalized_odds: Estimate | None


def fairness(
    column: str,
    values: NDArray[np.str_],
    labels: NDArray[np.integer],
    decided: NDArray[np.bool_],
    min_rows: int,
    *,
    day_of_row: NDArray[np.intp],
    draws: Floats,
) -> Fairness:
    """The groups of a column and how far apart they are.

    values, labels, decided, day_of_row: shape (rows,). draws: of `metrics.resampled_days`, for the intervals.
    Groups of fewer than min_rows rows are listed and not compared; one without positives, or without
    negatives, only by what it has.
    """
    import numpy as np

    groups = tuple(
        _group(str(name), labels[values == name], decided[values == name], min_rows)
        for name in np.unique(values)
    )
    judged = np.isin(values, [group.value for group in groups if not group.note])

    def difference(among: NDArray[np.bool_]) -> Estimate | None:
        return _difference(values[among], decided[among], day_of_row[among], draws)

    rates = [difference(judged & (labels == 1)), difference(judged & (labels == 0))]
    odds = max((rate for rate in rates if rate is not None), key=lambda rate: rate.value, default=None)
    return Fairness(column, groups, difference(judged), odds)


def _difference(
    values: NDArray[np.str_], decided: NDArray[np.bool_], day_of_row: NDArray[np.intp], draws: Floats
) -> Estimate | None:
    """Largest difference of the share of rows that are decided as positive; None with fewer than two groups.

    Fairlearn's own bootstrap draws rows, which would take the rows of one day for independent: the interval
    is drawn by days here.
    """
    import numpy as np
    from fairlearn.metrics import demographic_parity_difference

    names, group = np.unique(values, return_inverse=True)
    if names.size < 2:
        return None
    # Of the positives alone this is the difference of true positive rates; of the negatives, of false ones.
    figure = demographic_parity_difference(y_true=decided, y_pred=decided, sensitive_features=values)
    apart = np.argsort([decided[group == one].mean() for one in range(names.size)])
    days, difference = draws.shape[1], np.zeros(len(draws))
    for one, sign in ((apart[-1], 1), (apart[0], -1)):
        inside = group == one
        rows = draws @ np.bincount(day_of_row[inside], minlength=days)
        positive = draws @ np.bincount(day_of_row[inside], weights=decided[inside], minlength=days)
        # A draw may hold no row of a group: undefined, which NaN says.
        difference += sign * np.divide(positive, rows, out=np.full_like(rows, np.nan), where=rows > 0)
    return estimate(np.append(figure, difference), int(np.unique(day_of_row).size))


def worst(every: Sequence[Fairness], gate: FairnessGate) -> list[tuple[str, str, Estimate, float]]:
    """What is judged: column, measure, difference and bound; the furthest beyond its bound first."""
    found = [
        (one.column, name, difference, bound)
        for one in every
        for name, difference, bound in (
            ("demographic parity", one.demographic_parity, gate.demographic_parity),
            ("equalized odds", one.equalized_odds, gate.equalized_odds),
        )
        if difference is not None and bound is not None
    ]
    return sorted(found, key=lambda each: (each[3] - each[2].value, each[0], each[1]))


def _group(value: str, labels: NDArray[np.integer], decided: NDArray[np.bool_], min_rows: int) -> Group:
    rows, positives = int(labels.size), int(labels.sum())
    return Group(
        value,
        rows,
        float(decided.mean()),
        float(decided[labels == 1].mean()) if positives else None,
        float(decided[labels == 0].mean()) if positives < rows else None,
        f"fewer than {min_rows} rows" if rows < min_rows else "",
    )
