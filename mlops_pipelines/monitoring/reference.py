"""What a model was trained on, as histograms: what later days are compared with.

Kept with the model as JSON, a few kilobytes: bins and counts of every feature, what an ordinary day of the
training set looks like, and how much each feature matters to the model.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.features.views import FeatureColumn
from mlops_pipelines.monitoring.drift import column_of, noise_limit, share_floor, stability_indices

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Counts = NDArray[np.int64]

# No feature can have this name: theirs have no blanks.
SCORE = "model score"
# Ten equal-frequency bins are what the usual bands of the index were made for.
_BINS = 10
# A rarer category has a bin of its own in no day: it is pooled with the others that are.
_CATEGORY_FLOOR = 0.01
# One day in a hundred counts as unusual.
_ORDINARY = 0.99
# A column of more categories has new ones every day.
_MOST_KNOWN = 1_000
# Share of a range by which a number lies far out of it.
_MARGIN = 0.1
# A day of fewer rows, as a share of the median day, says nothing of what is usual.
_SMALL_DAY = 0.1
_FORMAT = 2
# Format 1 knew neither the range nor the known categories, nor how far features go astray together.
_READABLE = (1, _FORMAT)


@dataclass(frozen=True)
class Bins:
    """How a column's values fall into bins; the last bin holds the rows without a value.

    number: bin i holds edges[i-1] < value <= edges[i], the one after the last edge what is above.
    category: bin i holds categories[i], the one after the last category every other value.
    """

    kind: Literal["number", "category"]
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Number of bins."""
        return len(self.edges) + len(self.categories) + 2

    def numbers_of(self, column: pa.ChunkedArray | Floats) -> Counts:
        """Bin number of every row, shape (rows,). Null and NaN are missing."""
        import numpy as np

        if self.kind == "category":
            return _category_bins(self.categories, column)
        values = _floats(column)
        numbers = np.searchsorted(np.array(self.edges), values, side="left")
        return np.where(np.isnan(values), self.size - 1, numbers).astype(np.int64)

    def histogram(self, column: pa.ChunkedArray | Floats) -> Counts:
        """Rows by bin, shape (size,)."""
        import numpy as np

        if self.kind == "category":
            return np.bincount(self.numbers_of(column), minlength=self.size)
        values = _floats(column)
        # Counting what is not above each edge passes over the values faster than finding each one's bin.
        not_above = [np.count_nonzero(values <= edge) for edge in self.edges]
        missing = np.count_nonzero(np.isnan(values))
        ends = np.array([0, *not_above, len(values) - missing], dtype=np.int64)
        return np.append(np.diff(ends), missing)


@dataclass(frozen=True)
class FeatureReference:
    """One feature in the training set.

    counts: rows by bin, shape (bins.size,). importance: share of the model's mean absolute contributions.
    ordinary: population stability index that 99 % of the training set's own days do not exceed when each is
    compared with the other days, those of noise counted as 0; nats. missing_most: largest share of rows
    without a value on one of these days. low, high: smallest and greatest finite number; known: all
    categories. None where there were none, or too many to list. strange_most: largest share of rows on one
    day that lie far out of the range, or are of no category, of the other days.
    """

    name: str
    bins: Bins
    counts: tuple[int, ...]
    importance: float
    ordinary: float
    missing_most: float | None = None
    low: float | None = None
    high: float | None = None
    known: tuple[str, ...] | None = None
    strange_most: float = 0.0

    def strange(self, column: pa.ChunkedArray | Floats) -> int | None:
        """Rows with a number far out of the training set's range, or of a category that it did not have; None
        where that is not known. Far is a tenth of the range: seasons go a little beyond it all the time."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        if self.known is not None:
            values = _strings(column)
            seen = pc.is_in(values, value_set=pa.array(self.known, pa.string()))
            return int(pc.sum(pc.and_(pc.is_valid(values), pc.invert(seen))).as_py() or 0)
        if self.low is None or self.high is None:
            return None
        numbers, margin = _floats(column), _MARGIN * (self.high - self.low)
        below, above = numbers < self.low - margin, numbers > self.high + margin
        return int(np.count_nonzero(below) + np.count_nonzero(above))


@dataclass(frozen=True)
class Reference:
    """The training set of a model: every feature, and the model's scores of its own training rows.

    rows, days: of the training set. rows_a_day: of its median day. The importances add up to 1; the
    score's is 0. together: multiple of their `ordinary` that all features stay below on 99 % of the days, at
    least 1: of many features one is far out on most days.
    """

    features: tuple[FeatureReference, ...]
    score: FeatureReference
    rows: int
    days: int
    rows_a_day: float
    together: float = 1.0

    def to_json(self) -> str:
        """The reference as JSON text, the same text for the same reference."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, sort_keys=True, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Reference:
        """The reference that `to_json` wrote. Raises TerminalError for any other text."""
        try:
            stored = json.loads(text)
            if stored["format"] not in _READABLE:
                raise TerminalError(
                    f"The drift reference has the format {stored['format']}.",
                    expected=f"format {_FORMAT}, which this version writes, or the one before",
                    remedy="read it with the version of the library that trained the model, or retrain",
                )
            features = tuple(_feature_from(feature) for feature in stored["features"])
            score = _feature_from(stored["score"])
            sizes = stored["rows"], stored["days"], stored["rows_a_day"]
            return Reference(features, score, *sizes, stored.get("together", 1.0))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise TerminalError(
                f"This is not a drift reference: {error!r}.",
                expected="the JSON that was stored with the model",
                remedy="retrain the model",
            ) from error


def build_reference(
    table: pa.Table,
    features: Sequence[FeatureColumn],
    scores: Floats | pa.Array,
    importance: Mapping[str, float],
) -> Reference:
    """Reference of a model: its training rows in bins.

    table: the training rows, one column a feature and `day` (YYYY-MM-DD). scores: the model's of the same
    rows, shape (rows,); of categories the most likely classes. importance: mean absolute contribution by
    feature, any positive scale; a model in which nothing matters gives all features the same weight.
    Raises TerminalError if a column is missing, ValueError if there are no rows, or no scores or no
    importance for each of them.
    """
    import numpy as np

    if table.num_rows == 0 or len(scores) != table.num_rows:
        raise ValueError(f"{table.num_rows} training rows and {len(scores)} scores")
    days = _day_numbers(table)
    rows_by_day = np.bincount(days)
    weights = _weights([feature.name for feature in features], importance)
    described, beyond = [], []
    for feature in features:
        found, of_days = _described(feature, column_of(table, feature.name), days, len(features))
        described.append(replace(found, importance=weights[feature.name]))
        beyond.append(of_days)
    kind: Literal["number", "category"] = "number" if isinstance(scores, np.ndarray) else "category"
    score, _ = _described(FeatureColumn(SCORE, kind), scores, days, len(features))
    return Reference(
        tuple(described),
        score,
        table.num_rows,
        len(rows_by_day),
        float(np.median(rows_by_day)),
        _together([feature.ordinary for feature in described], np.array(beyond)),
    )


def _described(
    feature: FeatureColumn, column: pa.ChunkedArray | Floats, days: Counts, features: int
) -> tuple[FeatureReference, Floats]:
    """The feature in the training set, of no importance; and its index beyond noise by day, shape (days,)."""
    import numpy as np

    number = feature.kind == "number"
    bins = (
        Bins("number", edges=_edges(column)) if number else Bins("category", categories=_categories(column))
    )
    cells = days * bins.size + bins.numbers_of(column)
    by_day = np.bincount(cells, minlength=(int(days.max()) + 1) * bins.size).reshape(-1, bins.size)
    beyond = _beyond_noise(by_day, features)
    rows = by_day.sum(axis=1)
    # What a day of a few rows has most of is no habit.
    tells = rows >= _SMALL_DAY * np.median(rows)
    found = FeatureReference(
        feature.name,
        bins,
        tuple(by_day.sum(axis=0).tolist()),
        0.0,
        float(np.quantile(beyond, _ORDINARY)),
        float((by_day[:, -1] / rows)[tells].max()),
    )
    return (_with_range if number else _with_known)(found, column, days, tells), beyond


def _beyond_noise(by_day: Counts, features: int) -> Floats:
    """Index of each day against all others, 0 where noise may give it at this size; shape (days,).

    by_day: counts, shape (days, bins). 0 for a single day, which has no other to be compared with.
    """
    import numpy as np

    if len(by_day) == 1:
        return np.zeros(1)
    rows, others = by_day.sum(axis=1), by_day.sum(axis=0) - by_day
    indices = stability_indices(others, by_day, share_floor(float(np.median(rows))))
    noise = noise_limit(by_day.shape[1], rows, others.sum(axis=1), features)
    beyond: Floats = np.where(indices > noise, indices, 0.0)
    return beyond


def _together(ordinary: Sequence[float], beyond: Floats) -> float:
    """Multiple of their ordinary indices that all features stay below on 99 % of the days; at least 1.

    ordinary: by feature. beyond: by feature and day.
    """
    import numpy as np

    limits = np.array(ordinary)
    if not limits.any():
        return 1.0
    multiples = beyond[limits > 0] / limits[limits > 0, None]
    return max(1.0, float(np.quantile(multiples.max(axis=0), _ORDINARY)))


def _with_range(
    found: FeatureReference, column: pa.ChunkedArray | Floats, days: Counts, tells: NDArray[np.bool_]
) -> FeatureReference:
    """With the range of its numbers, and how much of a day lies out of the range of the other days.

    tells: by day, whether it is large enough to say how much is usual.
    """
    import numpy as np

    values = _floats(column)
    finite = np.isfinite(values)
    if not finite.any():
        return found
    values, days = values[finite], days[finite]
    strange = 0.0
    # Only the days of the smallest and of the greatest number can have rows beyond all the others.
    for signed in (values, -values):
        outermost = days == days[signed.argmin()]
        others = signed[~outermost]
        if others.size and tells[days[signed.argmin()]]:
            far = others.min() - _MARGIN * (others.max() - others.min())
            strange = max(strange, float((signed[outermost] < far).mean()))
    return replace(found, low=float(values.min()), high=float(values.max()), strange_most=strange)


def _with_known(
    found: FeatureReference, column: pa.ChunkedArray | Floats, days: Counts, tells: NDArray[np.bool_]
) -> FeatureReference:
    """With all of its categories, and how much of a day is of categories that no other day had.

    tells: by day, whether it is large enough to say how much is usual.
    """
    import numpy as np
    import pyarrow.compute as pc

    encoded = _strings(column).combine_chunks().dictionary_encode()
    known = encoded.dictionary.to_pylist()
    if len(known) > _MOST_KNOWN:
        return found
    there = encoded.is_valid().to_numpy(zero_copy_only=False)
    codes, of_day = pc.fill_null(encoded.indices, 0).to_numpy()[there].astype(np.int64), days[there]
    last = int(days.max()) + 1
    cells, rows = np.unique(codes * last + of_day, return_counts=True)
    on_days = np.bincount(cells // last, minlength=len(known))
    alone = on_days[cells // last] == 1
    strange = np.bincount(cells[alone] % last, weights=rows[alone], minlength=last) / np.bincount(days)
    return replace(found, known=tuple(sorted(known)), strange_most=float(strange[tells].max()))


def _edges(column: pa.ChunkedArray | Floats) -> tuple[float, ...]:
    """Inner edges of equal-frequency bins, ascending; fewer where many rows share a value."""
    import numpy as np

    values = _floats(column)
    values = values[np.isfinite(values)]
    if not values.size:
        return ()
    shares = np.arange(1, _BINS) / _BINS
    if values.min() == values.max():
        # What is less than the only value is as new as what is more.
        return (float(np.nextafter(values[0], -np.inf)), float(values[0]))
    # Values that occur, not ones between them: an edge is in a bin together with all rows that share it.
    return tuple(np.unique(np.quantile(values, shares, method="inverted_cdf")).tolist())


def _categories(column: pa.ChunkedArray | Floats) -> tuple[str, ...]:
    """Categories that at least 1 % of the rows have, sorted."""
    import pyarrow.compute as pc

    counted = pc.value_counts(_strings(column))
    floor = max(1.0, _CATEGORY_FLOOR * len(column))
    return tuple(
        sorted(
            entry["values"]
            for entry in counted.to_pylist()
            if entry["values"] is not None and entry["counts"] >= floor
        )
    )


def _category_bins(categories: tuple[str, ...], column: pa.ChunkedArray | Floats) -> Counts:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    values = _strings(column)
    found = pc.fill_null(pc.index_in(values, value_set=pa.array(categories, pa.string())), len(categories))
    numbers: Counts = found.to_numpy().astype(np.int64)
    numbers[values.is_null().to_numpy()] = len(categories) + 1
    return numbers


def _weights(names: Sequence[str], importance: Mapping[str, float]) -> dict[str, float]:
    """Importances that add up to 1."""
    unusable = [name for name in names if not 0 <= importance.get(name, math.nan) < math.inf]
    if unusable:
        raise ValueError(f"an importance >= 0 for every feature; there is none for {', '.join(unusable)}")
    total = sum(importance[name] for name in names)
    return {name: importance[name] / total if total else 1 / len(names) for name in names}


def _day_numbers(table: pa.Table) -> Counts:
    """Number of each row's day, from 0 without gaps, shape (rows,)."""
    import numpy as np

    encoded = _strings(column_of(table, "day")).combine_chunks().dictionary_encode()
    numbers: Counts = encoded.indices.to_numpy().astype(np.int64)
    return numbers


def _floats(column: pa.ChunkedArray | Floats) -> Floats:
    """The values as float64, NaN where there is none."""
    import numpy as np
    import pyarrow as pa

    if isinstance(column, np.ndarray):
        return column.astype(np.float64, copy=False)
    floats: Floats = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return floats


def _strings(column: Any) -> pa.ChunkedArray:
    """The values as plain strings, however they were encoded."""
    import pyarrow as pa

    strings = column if column.type == pa.string() else column.cast(pa.string())
    return pa.chunked_array([strings]) if isinstance(strings, pa.Array) else strings


def _feature_from(stored: Mapping[str, Any]) -> FeatureReference:
    bins = stored["bins"]
    return FeatureReference(
        stored["name"],
        Bins(bins["kind"], tuple(bins["edges"]), tuple(bins["categories"])),
        tuple(stored["counts"]),
        stored["importance"],
        stored["ordinary"],
        stored.get("missing_most"),
        stored.get("low"),
        stored.get("high"),
        None if stored.get("known") is None else tuple(stored["known"]),
        stored.get("strange_most", 0.0),
    )
