"""Features that are SQL expressions over the event's own columns, computed by DuckDB."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from mlops_pipelines.errors import TerminalError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import duckdb
    import pyarrow as pa

    from mlops_pipelines.features.sets import Expression


@contextmanager
def sql_session() -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB session with tables of its own: time zone UTC, two threads, no access to files or network."""
    session = _database().cursor()
    try:
        yield session
    finally:
        session.close()


@cache
def _database() -> duckdb.DuckDBPyConnection:
    """The process's DuckDB, in memory, its settings locked. Opening one takes longer than most queries."""
    import duckdb

    database = duckdb.connect(
        ":memory:",
        config={
            "threads": 2,
            "enable_external_access": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            # Otherwise a name in a query could reach a Python variable.
            "python_enable_replacements": False,
        },
    )
    database.execute("SET GLOBAL TimeZone = 'UTC'")
    database.execute("SET lock_configuration = true")
    return database


def computed(
    rows: pa.Table, judged: Mapping[str, str], *, what: str, change: str, sensitive: bool
) -> pa.Table:
    """Expressions over the columns of the rows, by name, in the order of the rows.

    judged: SQL that `judge_expressions` let pass. Raises TerminalError for one that fails on a row; what:
    they are of, and change: what would mend it. sensitive: whether the rows have values that are shown
    nowhere, as DuckDB would.
    """
    import duckdb

    selected = ", ".join(f'{expression} AS "{name}"' for name, expression in judged.items())
    with sql_session() as connection:
        connection.register("landed", rows)
        try:
            return connection.sql(f"SELECT {selected} FROM landed").to_arrow_table()  # noqa: S608 - judged
        except duckdb.Error as error:
            raise TerminalError(
                f"{what} cannot be computed: {type(error).__name__ if sensitive else error}",
                expected="expressions that have a value, or null, for every row",
                remedy=f"change {change}; try_cast and nullif turn what fails into null",
            ) from (None if sensitive else error)


def evaluate_expressions(
    expressions: Mapping[str, Expression], events: pa.Table, *, sensitive: bool
) -> dict[str, pa.ChunkedArray]:
    """Values of the features under `from_event`, rows in the order of `events`.

    Numbers are float64, categories strings; what is no finite number is null. Raises TerminalError for
    an expression that fails on a row. sensitive: as `computed` takes it.
    """
    if not expressions:
        return {}
    columns = {"event_id", *(column for one in expressions.values() for column in one.columns)}
    result = computed(
        events.select(sorted(columns)),
        {name: _typed(one) for name, one in expressions.items()},
        what="The features under from_event",
        change="the expression",
        sensitive=sensitive,
    )
    return {name: result[name] for name in expressions}


def _typed(expression: Expression) -> str:
    if expression.kind == "category":
        return f"CAST(({expression.sql}) AS VARCHAR)"
    number = f"CAST(({expression.sql}) AS DOUBLE)"
    return f"CASE WHEN isfinite({number}) THEN {number} END"
