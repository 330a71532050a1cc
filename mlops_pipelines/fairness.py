"""Whether groups are treated alike: differences between them, by Fairlearn (Bird et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mlops_pipelines.spec import FairnessGate


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
    with fewer than two judged groups."""

    column: str
    groups: tuple[Group, ...]
    demographic_parity: float | None
    equalized_odds: float | None


def fairness(
    column: str,
    values: NDArray[np.str_],
    labels: NDArray[np.integer],
    decided: NDArray[np.bool_],
    min_rows: int,
) -> Fairness:
    """The groups of a column and how far apart they are. values, labels, decided: shape (rows,).

    Groups of fewer than min_rows rows are listed and not compared; one without positives, or without
    negatives, only by what it has.
    """
    import numpy as np

    groups = tuple(
        _group(str(name), labels[values == name], decided[values == name], min_rows)
        for name in np.unique(values)
    )
    judged = [group for group in groups if not group.note]

    def difference(measure: str, of: list[Group]) -> float | None:
        import fairlearn.metrics

        if len(of) < 2:
            return None
        inside = np.isin(values, [group.value for group in of])
        given = {"y_pred": decided[inside], "sensitive_features": values[inside]}
        return float(getattr(fairlearn.metrics, f"{measure}_difference")(y_true=labels[inside], **given))

    rates = (
        difference("true_positive_rate", [group for group in judged if group.found is not None]),
        difference("false_positive_rate", [group for group in judged if group.accused is not None]),
    )
    odds = max((rate for rate in rates if rate is not None), default=None)
    return Fairness(column, groups, difference("demographic_parity", judged), odds)


def worst(every: Sequence[Fairness], gate: FairnessGate) -> list[tuple[str, str, float, float]]:
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
    return sorted(found, key=lambda each: (each[3] - each[2], each[0], each[1]))


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
