"""How often drift is cried wolf, and how soon a real shift is seen: on partitions of every size."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from mlops_pipelines.features.views import FeatureColumn
from mlops_pipelines.monitoring.drift import drift_of, persistent
from mlops_pipelines.monitoring.reference import Reference, build_reference
from mlops_pipelines.spec import DriftTrigger

if TYPE_CHECKING:
    from collections.abc import Callable

BANDS = DriftTrigger()
NUMBERS, CATEGORIES = [f"n{i}" for i in range(14)], [f"c{i}" for i in range(6)]
FEATURES = (
    *(FeatureColumn(name, "number") for name in NUMBERS),
    *(FeatureColumn(name, "category") for name in CATEGORIES),
)
# As models weigh them: the second of twenty counts half as much as the first, the third a third.
# Numbers and categories take turns.
IMPORTANCE = {
    name: 1 / (1 + place)
    for place, name in enumerate(sorted(NUMBERS + CATEGORIES, key=lambda one: one[::-1]))
}
WORDS = np.array([f"w{i}" for i in range(12)])
SHARES = np.array([0.3, 0.2, 0.15, 0.1, 0.08, 0.06, 0.04, 0.03, 0.02, 0.01, 0.006, 0.004])


@cache
def shift_of_index(index: float) -> float:
    """By how much the mean of standard normal numbers has to move for this index over their deciles."""
    edges = norm.ppf(np.arange(1, 10) / 10)

    def difference(shift: float) -> float:
        moved = np.diff([0.0, *norm.cdf(edges - shift), 1.0])
        return float(((moved - 0.1) * np.log(moved / 0.1)).sum()) - index

    return float(brentq(difference, 0.0, 3.0))


def partition(rng: np.random.Generator, rows: int, *, moved: str = "") -> pa.Table:
    """Rows of one distribution, with missing values and skewed numbers; of one feature moved by PSI 0.3."""
    columns = {name: rng.standard_normal(rows) for name in NUMBERS}
    if moved:
        columns[moved] += shift_of_index(0.3)
    for name in NUMBERS[::3]:
        columns[name] = np.exp(columns[name])
    for name in NUMBERS[::4]:
        columns[name][rng.random(rows) < 0.05] = np.nan
    codes = {name: rng.choice(len(WORDS), rows, p=SHARES) for name in CATEGORIES}
    return pa.table(
        {**columns, **{name: pa.DictionaryArray.from_arrays(pa.array(c), WORDS) for name, c in codes.items()}}
    )


def reference_of(rng: np.random.Generator, days: int, rows: int) -> Reference:
    table = partition(rng, days * rows)
    day = np.repeat([f"2024-{1 + d // 28:02d}-{1 + d % 28:02d}" for d in range(days)], rows)
    table = table.append_column("day", pa.array(day))
    return build_reference(table, FEATURES, rng.random(days * rows), IMPORTANCE)


def size(rng: np.random.Generator) -> int:
    """Rows of a partition: 500 to 50,000, each order of magnitude as often."""
    rows: float = 500 * 100 ** rng.random()
    return round(rows)


@pytest.mark.proof
def test_stationary_partitions_of_any_size_raise_hardly_a_trigger(
    full: bool, sample_size: Callable[[str, int], None]
) -> None:
    rng, partitions = np.random.default_rng(2013), 2_000 if full else 40
    reference = reference_of(rng, 60, 1_000)
    levels = [drift_of(reference, partition(rng, size(rng)), BANDS).level for _ in range(partitions)]
    triggers = sum(
        persistent(levels[: n + 1], BANDS.persists) and not persistent(levels[:n], BANDS.persists)
        for n in range(partitions)
    )
    sample_size("stationary partitions", partitions)
    sample_size("of these watched", levels.count("watch"))
    sample_size("of these alarmed", levels.count("alarm"))
    sample_size("drift triggers of them", triggers)
    assert triggers <= 2


@pytest.mark.proof
@pytest.mark.parametrize("matters", [True, False], ids=["important", "unimportant"])
def test_a_shift_is_seen_within_two_partitions_if_the_feature_matters(
    matters: bool, full: bool, sample_size: Callable[[str, int], None]
) -> None:
    seeds, seen = 100 if full else 4, 0
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        reference = reference_of(rng, 40, 500)
        numbers = [one for one in reference.features if one.name in NUMBERS]
        # The last of those that have at least their even share of the importance, or the last of all.
        even = [one for one in numbers if one.importance >= 1 / len(FEATURES)]
        moved = min(even if matters else numbers, key=lambda one: one.importance)
        before = [drift_of(reference, partition(rng, size(rng)), BANDS).level for _ in range(3)]
        after = [
            drift_of(reference, partition(rng, size(rng), moved=moved.name), BANDS).level for _ in range(2)
        ]
        assert not persistent(before, BANDS.persists)
        seen += persistent([*before, *after], BANDS.persists)
    sample_size("seeds", seeds)
    sample_size("of these seen within two partitions", seen)
    assert seen >= 0.95 * seeds if matters else seen == 0
