"""Aggregates over windows, from tiles: differences of exact running totals, one division at the end."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from mlops_pipelines.features.coding import HOUR_US, floor_hour, microseconds, moment, shared_codes
from mlops_pipelines.features.expressions import sql_session
from mlops_pipelines.features.tiles import FIXED_POINT, SQUARES, read_tiles

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from mlops_pipelines.features.point_in_time import Probes
    from mlops_pipelines.features.views import CompiledView, Partial, WindowFeature
    from mlops_pipelines.lake import Lake

_HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class _Placed:
    """Tiles sorted by key and hour, with what places the probes among them.

    places: one whole number a tile for its key and hour. ends: the same for each last full hour that is asked
    for, sorted, each once: the tiles of its w hours are those with end - w <= place < end. asks: for each
    probe the position of its end. keyless: probes without a key.
    """

    tiles: pa.Table
    places: NDArray[np.int64]
    ends: NDArray[np.int64]
    asks: NDArray[np.int64]
    keyless: NDArray[np.bool_]

    def before(self, window: timedelta) -> NDArray[np.int64]:
        """How many tiles lie before the window of each end."""
        import numpy as np

        return np.searchsorted(self.places, self.ends - window // _HOUR)

    def told(self, values: NDArray[np.float64], known: NDArray[np.bool_]) -> pa.Array:
        """What each probe gets of one value an end; null where it is not known, and without a key."""
        import pyarrow as pa

        return pa.array(values[self.asks], pa.float64(), mask=self.keyless | ~known[self.asks])


@dataclass(frozen=True)
class _Totals:
    """Running totals of one column along the tiles. scale: what the sums are multiples of, inverted.

    squares: of the squares, their high and their low parts.
    """

    counts: NDArray[Any]
    sums: NDArray[Any] | None
    squares: tuple[NDArray[Any], NDArray[Any]] | None
    scale: int


def window_values(
    view: CompiledView, lake: Lake, probes: Probes, versions: Mapping[str, int | None]
) -> dict[str, pa.Array]:
    """The view's aggregates for each probe: over [floor_hour(at) - window, floor_hour(at)).

    At least one probe. float64; null without a value in the window, but for counts, and without a key. std is
    that of a sample: null for a single value.
    """
    placed = _place(view, lake, probes, versions)
    totals = {partial.column: _totals(partial, placed.tiles) for partial in view.partials}
    low = {window: placed.before(window) for window in {feature.window for feature in view.windowed}}
    high = placed.before(timedelta(0))
    return {
        feature.name: _distinct(feature, placed)
        if feature.aggregate == "distinct"
        else _aggregate(feature, placed, totals[feature.column], low[feature.window], high)
        for feature in view.windowed
    }


def _place(view: CompiledView, lake: Lake, probes: Probes, versions: Mapping[str, int | None]) -> _Placed:
    import numpy as np
    import pyarrow as pa

    hours = floor_hour(probes.at)
    first, last = int(hours.min()) - view.longest_window // _HOUR, int(hours.max())
    tiles = read_tiles(view, lake, versions, moment(first * HOUR_US), moment(last * HOUR_US))
    tile_codes, codes = shared_codes([tiles[key] for key in view.keys], probes.keys)
    # Every key has a stretch of its own that holds all hours read: no window reaches into the next key's.
    stretch = last - first + 1
    places = tile_codes * stretch + (floor_hour(microseconds(tiles["hour"])) - first)
    order = np.argsort(places, kind="stable")
    # Many probes ask for the same, and what is sorted is found sooner.
    ends, asks = np.unique(codes * stretch + (hours - first), return_inverse=True)
    return _Placed(tiles.take(pa.array(order)), places[order], ends, asks, codes < 0)


def _totals(partial: Partial, tiles: pa.Table) -> _Totals:
    return _Totals(
        counts=_running(tiles[f"{partial.column}__count"]),
        sums=_running(tiles[f"{partial.column}__sum"]) if partial.summed else None,
        squares=(
            _running(tiles[f"{partial.column}__squares_high"]),
            _running(tiles[f"{partial.column}__squares_low"]),
        )
        if partial.squared
        else None,
        scale=FIXED_POINT if partial.type == "float" else 1,
    )


def _running(column: pa.ChunkedArray) -> NDArray[Any]:
    """Running totals of whole numbers, beginning with 0: differences of them are exact."""
    import numpy as np

    numbers = column.fill_null(0).to_numpy()
    # Python's whole numbers have no upper end; they are needed only where 64 bits may not suffice.
    small = np.abs(numbers.astype(np.float64)).sum() < 2.0**62
    return np.concatenate([[0], np.cumsum(numbers if small else numbers.astype(object))])


def _aggregate(
    feature: WindowFeature,
    placed: _Placed,
    totals: _Totals,
    low: NDArray[np.int64],
    high: NDArray[np.int64],
) -> pa.Array:
    import numpy as np

    if feature.aggregate == "std":
        return placed.told(*_deviations(totals, low, high))
    count = (totals.counts[high] - totals.counts[low]).astype(np.float64)
    if feature.aggregate == "count":
        return placed.told(count, np.ones_like(count, dtype=bool))
    if totals.sums is not None and feature.aggregate in ("sum", "mean"):
        values = (totals.sums[high] - totals.sums[low]).astype(np.float64) / totals.scale
        if feature.aggregate == "mean":
            values = values / np.maximum(count, 1.0)
    else:
        column = placed.tiles[f"{feature.column}__{feature.aggregate}"]
        values = _extremes(column, low, high, least=feature.aggregate == "min")
    return placed.told(values, count > 0)


def _deviations(
    totals: _Totals, low: NDArray[np.int64], high: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Standard deviation of each window's values, and whether there are two or more.

    n * sum of squares - (sum)**2 is a small difference of large numbers: it is taken in whole ones.
    """
    import numpy as np

    counts, sums, highs, lows = (
        (total[high] - total[low]).astype(object)
        for total in (totals.counts, totals.sums, *(totals.squares or ()))
        if total is not None
    )
    known = counts >= 2
    counts = np.where(known, counts, 2)
    spread = counts * (highs * SQUARES + lows) - sums * sums
    variances = np.where(known, spread, 0) / (counts * (counts - 1) * totals.scale**2)
    deviations: NDArray[np.float64] = np.sqrt(variances.astype(np.float64))
    return deviations, known.astype(bool)


def _distinct(feature: WindowFeature, placed: _Placed) -> pa.Array:
    """How many different values each window has. DuckDB keeps a tree for it: no window is gone through."""
    import numpy as np
    import pyarrow as pa

    values = pa.table({"place": placed.places, "listed": placed.tiles[f"{feature.column}__distinct"]})
    hours = feature.window // _HOUR
    query = f"""
        SELECT place, different FROM (
            SELECT place, asks, count(DISTINCT value) OVER (
                ORDER BY place RANGE BETWEEN {hours} PRECEDING AND 1 PRECEDING
            ) AS different
            FROM (
                SELECT place, unnest(from_json(listed, '["VARCHAR"]')) AS value, false AS asks FROM held
                UNION ALL SELECT place, NULL, true FROM asked
            )
        ) WHERE asks ORDER BY place
    """  # noqa: S608 - a whole number
    with sql_session() as connection:
        connection.register("held", values)
        connection.register("asked", pa.table({"place": placed.ends}))
        found = connection.sql(query).to_arrow_table()["different"].to_numpy()
    return placed.told(found.astype(np.float64), np.ones_like(found, dtype=bool))


def _extremes(
    column: pa.ChunkedArray, low: NDArray[np.int64], high: NDArray[np.int64], *, least: bool
) -> NDArray[np.float64]:
    """Least or greatest of each window; anything where the window is empty."""
    import numpy as np

    nothing = np.inf if least else -np.inf
    # One element more, since a window may end behind the last tile.
    values = np.append(column.fill_null(nothing).to_numpy(), nothing)
    edges = np.column_stack([low, high]).ravel()
    extremes: NDArray[np.float64] = (np.minimum if least else np.maximum).reduceat(values, edges)[::2]
    return extremes
