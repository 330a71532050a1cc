"""What a model goes by: which features carry its scores, for all rows and for groups of them."""

from __future__ import annotations

# pydantic reads the annotations of a report at run time.
from collections.abc import Mapping  # noqa: TC003
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# Features told of each group.
_TOLD = 5


@dataclass(frozen=True)
class Explained:
    """What weighs most in one group. importance: mean absolute contribution by feature, falling, the first
    five of them."""

    column: str
    value: str
    rows: int
    importance: Mapping[str, float]


@dataclass(frozen=True)
class Stability:
    """The ranking of the features beside the champion's.

    correlation: Spearman's, over `features` that both have; None with fewer than three. moved: by feature its
    rank with the champion and now, those that moved furthest first.
    """

    version: str
    features: int
    correlation: float | None
    moved: tuple[tuple[str, int, int], ...]


def ranked(contributions: Floats, names: Sequence[str]) -> dict[str, float]:
    """Mean absolute contribution by feature, falling. contributions: shape (rows, features)."""
    import numpy as np

    means = np.abs(contributions).mean(axis=0)
    named = {name: float(mean) for name, mean in zip(names, means, strict=True)}
    return dict(sorted(named.items(), key=lambda item: (-item[1], item[0])))


def by_group(
    contributions: Floats, names: Sequence[str], column: str, values: NDArray[np.str_], min_rows: int
) -> tuple[Explained, ...]:
    """What weighs most in each group of a column that has rows enough. values: shape (rows,)."""
    import numpy as np

    found = []
    for value in np.unique(values):
        inside = values == value
        if inside.sum() >= min_rows:
            most = list(ranked(contributions[inside], names).items())[:_TOLD]
            found.append(Explained(column, str(value), int(inside.sum()), dict(most)))
    return tuple(found)


def heaviest(importance: Mapping[str, float]) -> tuple[str, float] | None:
    """The feature that carries the largest share of the importance, and its share; None if nothing weighs."""
    total = sum(importance.values())
    if not total > 0:
        return None
    name = max(importance, key=lambda each: (importance[each], each))
    return name, importance[name] / total


def stability(ours: Mapping[str, float], theirs: Mapping[str, float], version: str) -> Stability:
    """The ranking by `ours` beside that by `theirs`, over the features that both have."""
    import math

    from scipy.stats import spearmanr

    shared = [name for name in ours if name in theirs]
    correlation = None
    if len(shared) > 2:
        value = float(spearmanr([ours[name] for name in shared], [theirs[name] for name in shared])[0])
        correlation = value if math.isfinite(value) else None
    before = {name: rank for rank, name in enumerate(sorted(shared, key=lambda n: (-theirs[n], n)), start=1)}
    now = {name: rank for rank, name in enumerate(sorted(shared, key=lambda n: (-ours[n], n)), start=1)}
    moved = sorted(shared, key=lambda name: (-abs(before[name] - now[name]), now[name]))
    return Stability(
        version,
        len(shared),
        correlation,
        tuple((name, before[name], now[name]) for name in moved[:_TOLD] if before[name] != now[name]),
    )
