"""What a model was trained on, as histograms: what later days are compared with.

Kept with the model as JSON, a few kilobytes: bins and counts of every feature, what an ordinary day of the
training set looks like, and how much each feature matters to the model.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.monitoring.drift import chance_mean, share_floor, stability_indices

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from mlops_pipelines.features.views import FeatureColumn

    Floats = NDArray[np.float64]
    Counts = NDArray[np.int64]

# No feature can have this name: theirs have no blanks.
SCORE = "model score"
# Ten equal-frequency bins are what the usual bands of the index were made for.
_BINS = 10
# A rarer category has a bin of its own in no day: it is pooled with the others that are.
_CATEGORY_FLOOR = 0.01
# The index of one day in a hundred counts as unusual.
_ORDINARY = 0.99
_FORMAT = 1


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

        return np.bincount(self.numbers_of(column), minlength=self.size)

    def histogram_of(self, table: pa.Table, name: str) -> Counts:
        """Rows by bin of the table's column. Raises TerminalError if it is not there."""
        return self.histogram(_column(table, name))


@dataclass(frozen=True)
class FeatureReference:
    """One feature in the training set.

    counts: rows by bin, shape (bins.size,). importance: share of the model's mean absolute contributions.
    ordinary: population stability index, beyond the mean of chance, that 99 % of the training set's own
    days stay below when each is compared with the other days; nats.
    """

    name: str
    bins: Bins
    counts: tuple[int, ...]
    importance: float
    ordinary: float


@dataclass(frozen=True)
class Reference:
    """The training set of a model: every feature, and the model's scores of its own training rows.

    rows, days: of the training set. rows_a_day: of its median day. The importances add up to 1; the
    score's is 0.
    """

    features: tuple[FeatureReference, ...]
    score: FeatureReference
    rows: int
    days: int
    rows_a_day: float

    def to_json(self) -> str:
        """The reference as JSON text, the same text for the same reference."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, sort_keys=True, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Reference:
        """The reference that `to_json` wrote. Raises TerminalError for any other text."""
        try:
            stored = json.loads(text)
            if stored["format"] != _FORMAT:
                raise TerminalError(
                    f"The drift reference has the format {stored['format']}.",
                    expected=f"format {_FORMAT}, which this version writes",
                    remedy="read it with the version of the library that trained the model, or retrain",
                )
            features = tuple(_feature_from(feature) for feature in stored["features"])
            score = _feature_from(stored["score"])
            return Reference(features, score, stored["rows"], stored["days"], stored["rows_a_day"])
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
    described = tuple(
        _feature_reference(
            feature.name, feature.kind, _column(table, feature.name), days, weights[feature.name]
        )
        for feature in features
    )
    kind: Literal["number", "category"] = "number" if isinstance(scores, np.ndarray) else "category"
    score = _feature_reference(SCORE, kind, scores, days, 0.0)
    return Reference(described, score, table.num_rows, len(rows_by_day), float(np.median(rows_by_day)))


def _feature_reference(
    name: str,
    kind: Literal["number", "category"],
    column: pa.ChunkedArray | Floats,
    days: Counts,
    importance: float,
) -> FeatureReference:
    import numpy as np

    bins = (
        Bins(kind, edges=_edges(column)) if kind == "number" else Bins(kind, categories=_categories(column))
    )
    cells = days * bins.size + bins.numbers_of(column)
    by_day = np.bincount(cells, minlength=(int(days.max()) + 1) * bins.size).reshape(-1, bins.size)
    counts = tuple(by_day.sum(axis=0).tolist())
    return FeatureReference(name, bins, counts, importance, _ordinary(by_day))


def _ordinary(by_day: Counts) -> float:
    """99 % point over the days of the index of each day against all others, beyond the mean of chance.

    by_day: counts, shape (days, bins). 0 for a single day, which has no other to be compared with.
    """
    import numpy as np

    if len(by_day) == 1:
        return 0.0
    rows, others = by_day.sum(axis=1), by_day.sum(axis=0) - by_day
    indices = stability_indices(others, by_day, share_floor(float(np.median(rows))))
    beyond = indices - chance_mean(by_day.shape[1], rows, others.sum(axis=1))
    return float(np.quantile(np.maximum(beyond, 0), _ORDINARY))


def _edges(column: pa.ChunkedArray | Floats) -> tuple[float, ...]:
    """Inner edges of equal-frequency bins, ascending; fewer where many rows share a value."""
    import numpy as np

    values = _floats(column)
    values = values[np.isfinite(values)]
    if not values.size:
        return ()
    shares = np.arange(1, _BINS) / _BINS
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

    encoded = _strings(_column(table, "day")).combine_chunks().dictionary_encode()
    numbers: Counts = encoded.indices.to_numpy().astype(np.int64)
    return numbers


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise TerminalError(
            f"The table has no column {name}.",
            expected="a column for every feature of the model",
            remedy="recompute the examples with the model's feature views, or retrain on today's",
        )
    return table[name]


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

    return column if column.type == pa.string() else column.cast(pa.string())


def _feature_from(stored: Mapping[str, Any]) -> FeatureReference:
    bins = stored["bins"]
    return FeatureReference(
        stored["name"],
        Bins(bins["kind"], tuple(bins["edges"]), tuple(bins["categories"])),
        tuple(stored["counts"]),
        stored["importance"],
        stored["ordinary"],
    )
