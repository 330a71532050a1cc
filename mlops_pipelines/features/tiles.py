"""Hour tiles: what became known about a key in one hour, in a form that adds up to the same bits.

A tile covers knowledge time [hour, hour + 1h). It keeps, of each aggregated column, the count of values
that are not null, their sum and the sum of their squares as whole numbers, their least and their greatest,
and the different ones. Sums of whole numbers do not depend on the order of adding, so a window is the same
bits however its tiles were made. Fractions are summed as multiples of 2**-20, about one millionth.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.features.expressions import sql_session
from mlops_pipelines.features.facts import (
    KNOWN_AT,
    first_versions,
    key_columns,
    known_facts,
    pinned,
    value_column,
)
from mlops_pipelines.features.views import tile_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa

    from mlops_pipelines.features.views import CompiledView, Partial
    from mlops_pipelines.lake import Lake

# Fractions are summed as multiples of 1 / FIXED_POINT: a power of two, so that scaling back is exact.
FIXED_POINT = 2**20
# Sums of squares need more than 64 bits: they are kept in two parts, high * SQUARES + low.
SQUARES = 2**62
_DAY = timedelta(days=1)
_DAYS_READ = 92


def tile_schema(view: CompiledView) -> pa.Schema:
    """Columns of the tiles: `day` (of the hour), the keys, `hour`, and of each aggregated column its
    COLUMN__count, COLUMN__sum, COLUMN__squares_high, COLUMN__squares_low, COLUMN__distinct (a JSON list of
    texts), COLUMN__min and COLUMN__max, as far as the view needs them."""
    import pyarrow as pa

    fields = [pa.field("day", pa.string())]
    for key, type_ in zip(view.keys, view.key_types, strict=True):
        fields.append(pa.field(key, pa.int64() if type_ == "int" else pa.string()))
    fields.append(pa.field("hour", pa.timestamp("us", tz="UTC")))
    for partial in view.partials:
        fields.append(pa.field(f"{partial.column}__count", pa.int64()))
        fields += [pa.field(f"{partial.column}__sum", pa.int64())] * partial.summed
        fields += [pa.field(f"{partial.column}__squares_high", pa.int64())] * partial.squared
        fields += [pa.field(f"{partial.column}__squares_low", pa.int64())] * partial.squared
        fields += [pa.field(f"{partial.column}__distinct", pa.string())] * partial.distinct
        fields += [pa.field(f"{partial.column}__min", pa.float64())] * partial.minimum
        fields += [pa.field(f"{partial.column}__max", pa.float64())] * partial.maximum
    return pa.schema(fields)


def read_tiles(
    view: CompiledView,
    lake: Lake,
    versions: Mapping[str, int | None],
    since: datetime,
    until: datetime,
) -> pa.Table:
    """The view's tiles whose hour lies in [since, until), without `day`, in any order."""
    schema = tile_schema(view)
    version = pinned(versions, tile_table(view))
    names = [name for name in schema.names if name != "day"]
    if version is None or since >= until:
        return schema.empty_table().select(names)
    return lake.read(tile_table(view), columns=names, version=version, where=("hour", since, until))


def compute_tiles(
    view: CompiledView, lake: Lake, days: Sequence[str], versions: Mapping[str, int | None]
) -> pa.Table:
    """The view's tiles of these days of knowledge time (YYYY-MM-DD), sorted by key and hour.

    versions: version of each table read (the view's source; for labels also events); None where there is
    no such table. A fact without a key is in no tile; a view without aggregates has no tiles.
    Raises TerminalError for a value too large to be summed exactly, and for a label without its event.
    """
    import pyarrow as pa

    columns = [partial.column for partial in view.partials]
    if not columns:
        return tile_schema(view).empty_table()
    parts = []
    for since, until in _spans(days):
        facts = known_facts(view, lake, versions, columns=columns, since=since, until=until)
        facts = first_versions(view, lake, versions, facts, since)
        parts.append(_aggregate(view, facts))
    return pa.concat_tables([tile_schema(view).empty_table(), *parts])


def _spans(days: Sequence[str]) -> Iterator[tuple[datetime, datetime]]:
    """Spans of consecutive days, first moment to first moment after; none so long that memory is."""
    starts = sorted({datetime.fromisoformat(day).replace(tzinfo=UTC) for day in days})
    if not starts:
        return
    breaks = [i for i, (a, b) in enumerate(pairwise(starts), start=1) if b - a != _DAY or not i % _DAYS_READ]
    for low, high in pairwise([0, *breaks, len(starts)]):
        yield starts[low], starts[high - 1] + _DAY


def _aggregate(view: CompiledView, facts: pa.Table) -> pa.Table:
    import duckdb

    keys = [f'"{key}"' for key in key_columns(view)]
    named = [f'{key} AS "{name}"' for key, name in zip(keys, view.keys, strict=True)]
    measures = [measure for partial in view.partials for measure in _measures(partial)]
    query = f"""
        SELECT strftime(hour, '%Y-%m-%d') AS day, {", ".join(named)}, hour, {", ".join(measures)}
        FROM (SELECT *, date_trunc('hour', {KNOWN_AT}) AS hour FROM facts)
        WHERE {" AND ".join(f"{key} IS NOT NULL" for key in keys)}
        GROUP BY {", ".join(keys)}, hour
        ORDER BY {", ".join(keys)}, hour
    """  # noqa: S608 - the names are columns of the contract, checked when it was loaded
    with sql_session() as connection:
        connection.register("facts", facts)
        try:
            tiles = connection.sql(query).to_arrow_table()
        except (duckdb.ConversionException, duckdb.OutOfRangeException) as error:
            raise TerminalError(
                f"Feature view {view.name}: a column cannot be summed exactly: {error}",
                expected="finite values whose sum over an hour is below 2**63 (fractions: 2**43); for std, "
                "squares whose sum stays below 2**125 (fractions: 2**85)",
                remedy="bound the column in the contract (min, max), or scale it",
            ) from error
    return tiles.cast(tile_schema(view))


def _measures(partial: Partial) -> Iterator[str]:
    column = f'"{value_column(partial.column)}"'
    # What is no finite number is missing. Adding zero makes -0.0 a 0.0: which is the least is else open.
    number = {
        "float": f"(CASE WHEN isfinite({column}) THEN {column} + 0.0 END)",
        "bool": f"CAST({column} AS BIGINT)",
    }.get(partial.type, column)
    exact = f"CAST(round({number} * {FIXED_POINT}) AS HUGEINT)" if partial.type == "float" else number
    yield f'count({number}) AS "{partial.column}__count"'
    if partial.summed:
        yield f'CAST(sum({exact}) AS BIGINT) AS "{partial.column}__sum"'
    if partial.squared:
        squares = f"sum(CAST({exact} AS HUGEINT) * CAST({exact} AS HUGEINT))"
        yield f'CAST({squares} // {SQUARES} AS BIGINT) AS "{partial.column}__squares_high"'
        yield f'CAST({squares} % {SQUARES} AS BIGINT) AS "{partial.column}__squares_low"'
    if partial.distinct:
        text = f"CAST({number} AS VARCHAR)"
        different = f"list_sort(list(DISTINCT {text}) FILTER ({text} IS NOT NULL))"
        yield f'CAST(to_json({different}) AS VARCHAR) AS "{partial.column}__distinct"'
    if partial.minimum:
        yield f'CAST(min({number}) AS DOUBLE) AS "{partial.column}__min"'
    if partial.maximum:
        yield f'CAST(max({number}) AS DOUBLE) AS "{partial.column}__max"'
