"""Rows against the contract: which are taken in, which are rejected and why, and when a file is refused.

Arrow reads each value as its declared type; Great Expectations judges the declared rules. Several files
of a stream are judged together, because a validation costs about as much for one row as for 10,000.
"""

from __future__ import annotations

import re
import warnings
from bisect import bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.ingest.quarantine import Reason, ReasonCode, RejectedRow, row_json, shown
from mlops_pipelines.ingest.values import is_text, plain_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    import pandas as pd
    import pyarrow as pa
    from great_expectations.core import ExpectationValidationResult
    from great_expectations.core.batch_definition import BatchDefinition
    from great_expectations.execution_engine.pandas_execution_engine import PandasExecutionEngine
    from great_expectations.expectations.expectation import ColumnMapExpectation
    from great_expectations.validator.metric_configuration import MetricConfiguration
    from great_expectations.validator.validation_graph import MetricEdge
    from numpy.typing import NDArray

    from mlops_pipelines.ingest.contract import (
        Bounds,
        ColumnBatch,
        ColumnRule,
        ColumnType,
        Contract,
        StreamRules,
    )
    from mlops_pipelines.ingest.landing import LandedTable

_REASONS_NAMED = 3  # in the message about a refused file
# From so many rows on, telling different values apart costs less than judging each row.
_LONG = 20_000


@dataclass(frozen=True)
class Judged:
    """A file whose rows could be told apart.

    accepted: the contract's columns in its order and types (times in UTC, microseconds), and file_row.
    extra_columns: columns of the file that the contract does not name; they are not in `accepted`.
    """

    accepted: pa.Table
    rejected: tuple[RejectedRow, ...]
    extra_columns: tuple[str, ...]


class BadBatchError(TerminalError):
    """A file that is refused as a whole: none of its rows is taken in."""


def judge(
    files: Sequence[LandedTable],
    contract: Contract,
    stream: str,
    *,
    arrived: str | None = None,
    landed_at: Sequence[datetime] = (),
) -> list[Judged | BadBatchError]:
    """The verdict on each file of one stream, in the order given.

    arrived: column whose value goes with a rejected row as its arrival, where it can be read. landed_at:
    when each file landed, UTC; without it, how fresh a file is is not judged.
    A wrong value, or a row whose values do not go together, rejects its row. A file is bad if a column is
    missing or cannot hold its declared type, if it breaks a rule that halts or one of its values together,
    or if more rows are rejected than the contract allows: see `reject_share_halts` and
    `reject_rows_allowed`.
    Raises TerminalError if Great Expectations cannot judge.
    """
    rules = contract.rules_of(stream)
    read = [_read_columns(file, rules.columns) for file in files]
    good = [columns for columns in read if isinstance(columns, _Columns)]
    reasons = iter(_reasons(good, rules))
    moments: Sequence[datetime | None] = landed_at or [None] * len(files)
    return [
        columns
        if isinstance(columns, BadBatchError)
        else _halted(file, columns, next_reasons := next(reasons), rules, moment)
        or _verdict(file, columns, next_reasons, contract, stream=stream, arrived=arrived)
        for file, columns, moment in zip(files, read, moments, strict=True)
    ]


# --- reading values as their declared types -------------------------------------------------------


@dataclass(frozen=True)
class _Columns:
    """The declared columns of a file, typed; a value that could not be read is null and listed.

    unread: by column, the position and text of each value that is not of the declared type.
    """

    table: pa.Table
    unread: dict[str, dict[int, str]]
    extra: tuple[str, ...]


class _NoReadingError(Exception):
    """The column's physical type has no strict reading as the declared one."""


def _read_columns(file: LandedTable, rules: Mapping[str, ColumnRule]) -> _Columns | BadBatchError:
    import pyarrow as pa

    # JSON names the columns that a row has: one that no row has is missing in each.
    missing = [name for name in rules if name not in file.table.column_names]
    if missing and file.table.num_rows and not _is_jsonl(file):
        return _bad_columns(file, f"has no column {', '.join(missing)}", rules)
    arrays: dict[str, pa.Array] = {}
    unread: dict[str, dict[int, str]] = {}
    unfit = []
    for name, rule in rules.items():
        if name in missing:
            arrays[name], unread[name] = pa.nulls(file.table.num_rows, _arrow_type(rule.type)), {}
            continue
        try:
            arrays[name], wrong = _read_as(file.table[name].combine_chunks(), rule.type)
            if name in file.nested:
                arrays[name], wrong = _without(arrays[name], wrong, file.nested[name])
            unread[name] = {position: shown(plain_value(file.table[name][position])) for position in wrong}
        except _NoReadingError as error:
            unfit.append(f"{name} is {error}, not {rule.type}")
    if unfit:
        return _bad_columns(file, f"has columns of another type: {'; '.join(unfit)}", rules)
    extra = tuple(name for name in file.table.column_names if name not in rules)
    return _Columns(pa.table(arrays), unread, extra)


def _is_jsonl(file: LandedTable) -> bool:
    return file.path.name.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst"))


def _without(column: pa.Array, wrong: list[int], nested: Sequence[int]) -> tuple[pa.Array, list[int]]:
    """The column without what is no single value, whatever it would read as."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    inner = np.zeros(len(column), dtype=bool)
    inner[list(nested)] = True
    kept = pc.if_else(pa.array(inner), pa.scalar(None, column.type), column)
    return kept, sorted({*wrong, *nested})


def _bad_columns(file: LandedTable, what: str, rules: Mapping[str, ColumnRule]) -> BadBatchError:
    return BadBatchError(
        f"{file.path} {what}",
        expected=", ".join(f"{name} ({rule.type})" for name, rule in rules.items()),
        remedy="land the file again with these columns, or change the contract",
    )


def _arrow_type(wanted: ColumnType) -> pa.DataType:
    import pyarrow as pa

    return {
        "string": pa.string(),
        "int": pa.int64(),
        "float": pa.float64(),
        "bool": pa.bool_(),
        "timestamp": pa.timestamp("us", tz="UTC"),
    }[wanted]


def readable_as(column: pa.Array, wanted: ColumnType) -> pa.Array | None:
    """The column as that type of the contract; None if a value of it is of another."""
    try:
        read, wrong = _read_as(column, wanted)
    except _NoReadingError:
        return None
    return None if wrong else read


def _read_as(column: pa.Array, wanted: ColumnType) -> tuple[pa.Array, list[int]]:
    """The column as the wanted type, and the positions of values that are not of it (null in the column)."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_null(kind):
        return pa.nulls(len(column), _arrow_type(wanted)), []
    if is_text(kind):
        return _from_text(column, wanted)
    if wanted == "timestamp" and pa.types.is_timestamp(kind):
        return _from_time(column)
    if wanted == "bool" and pa.types.is_boolean(kind):
        return column, []
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if numeric and wanted in ("int", "float", "bool"):
        return _from_number(column, wanted)
    raise _NoReadingError(str(kind))


def _from_text(column: pa.Array, wanted: ColumnType) -> tuple[pa.Array, list[int]]:
    import pyarrow as pa

    if wanted == "string":
        return column.cast(pa.string()), []
    reader = _TEXT_READERS[wanted]
    values = [None if text is None else reader(text) for text in column.to_pylist()]
    present = column.is_valid().to_pylist()
    wrong = [i for i, value in enumerate(values) if value is None and present[i]]
    return pa.array(values, _arrow_type(wanted)), wrong


_INT = re.compile(r"[+-]?\d{1,19}(\.0+)?", re.ASCII)
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d.*", re.ASCII)
_BOOL = re.compile(r"(true|1(?:\.0+)?)|false|-?0(?:\.0+)?", re.ASCII | re.IGNORECASE)


def _int(text: str) -> int | None:
    if not _INT.fullmatch(text):
        return None
    value = int(text.partition(".")[0])
    return value if -(2**63) <= value < 2**63 else None


def _float(text: str) -> float | None:
    value = float(text) if _FLOAT.fullmatch(text) else float("inf")
    return value if abs(value) != float("inf") else None


def _bool(text: str) -> bool | None:
    found = _BOOL.fullmatch(text)
    return found and found[1] is not None


def _time(text: str) -> datetime | None:
    if not _TIME.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment if moment < _YEARS[1] else None


_TEXT_READERS: dict[ColumnType, Callable[[str], Any]] = {
    "int": _int,
    "float": _float,
    "bool": _bool,
    "timestamp": _time,
}


def _from_number(column: pa.Array, wanted: ColumnType) -> tuple[pa.Array, list[int]]:
    """Whole numbers may come as floats, and flags as 0 and 1; NaN is a missing value."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_signed_integer(column.type) and wanted == "int":
        return column.cast(pa.int64()), []
    if pa.types.is_integer(column.type) and wanted == "int":
        column = column.cast(pa.uint64())
        return _keep(column, pc.less(column, pa.scalar(2**63, pa.uint64())), pa.int64())
    numbers = column.cast(pa.float64(), safe=False)
    numbers = pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)
    if wanted == "float":
        return _keep(numbers, pc.is_finite(numbers), pa.float64())
    if wanted == "bool":
        return _keep(numbers, pc.or_(pc.equal(numbers, 0.0), pc.equal(numbers, 1.0)), pa.bool_())
    # Beyond 2^53 a float no longer tells neighbouring whole numbers apart.
    whole = pc.and_(pc.equal(numbers, pc.round(numbers)), pc.less_equal(pc.abs(numbers), 2.0**53))
    return _keep(numbers, whole, pa.int64())


def _from_time(column: pa.Array) -> tuple[pa.Array, list[int]]:
    """Times in UTC; below the microsecond they are cut."""
    import pyarrow as pa
    import pyarrow.compute as pc

    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[column.type.unit]
    first, last = (int(moment.timestamp()) for moment in _YEARS)
    ticks = column.cast(pa.int64())
    # Arrow holds years that Python and the partitions' names cannot.
    lowest = max(first * per_second, -(2**63))
    highest = min(last * per_second, 2**63 - 1)
    sensible = pc.and_(pc.greater_equal(ticks, lowest), pc.less(ticks, highest))
    return _keep(column, sensible, pa.timestamp("us", tz="UTC"))


_YEARS = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)


def _keep(column: pa.Array, good: pa.Array, kind: pa.DataType) -> tuple[pa.Array, list[int]]:
    import pyarrow as pa
    import pyarrow.compute as pc

    kept = pc.if_else(good, column, pa.scalar(None, column.type))
    return kept.cast(kind, safe=False), _where(pc.invert(good))


def _where(mask: pa.Array) -> list[int]:
    import pyarrow.compute as pc

    positions: list[int] = pc.indices_nonzero(pc.fill_null(mask, False)).to_pylist()
    return positions


# --- the rules ------------------------------------------------------------------------------------

_Broken = dict[int, list[Reason]]  # by position of the row


@dataclass(frozen=True)
class _Declared:
    """One declared rule of one column."""

    column: str
    code: ReasonCode
    words: str


def _reasons(files: Sequence[_Columns], stream: StreamRules) -> list[_Broken]:
    """Per file, what each rejected row is rejected for."""
    import pyarrow as pa

    rules = stream.columns
    found: list[_Broken] = [defaultdict(list) for _ in files]
    for file, broken in zip(files, found, strict=True):
        for name, values in file.unread.items():
            for position, value in values.items():
                broken[position].append(Reason("type", f"is {rules[name].type}", name, value))
    starts = list(accumulate((file.table.num_rows for file in files), initial=0))
    if not starts[-1]:
        return found
    table = pa.concat_tables([file.table for file in files])
    for rule, positions in _broken_rules(table, rules):
        for position in positions:
            which = bisect_right(starts, position) - 1
            row = position - starts[which]
            if rule.code != "missing":
                value = shown(table[rule.column][position].as_py())
                found[which][row].append(Reason(rule.code, rule.words, rule.column, value))
            elif row not in files[which].unread[rule.column]:
                found[which][row].append(Reason(rule.code, rule.words, rule.column))
    for name, position in _broken_rows(table, stream):
        which = bisect_right(starts, position) - 1
        words = f"keeps {name}: {stream.rows[name].holds}"
        found[which][position - starts[which]].append(Reason("rule", words))
    return found


def _broken_rows(table: pa.Table, stream: StreamRules) -> Iterator[tuple[str, int]]:
    """Each rule of a row's values together that is broken, and the position of the row."""
    if not stream.rows:
        return
    from mlops_pipelines.features.expressions import computed

    # An unknown value passes; a rule that cannot be computed for a row, which TRY makes null, does not.
    rules = {
        name: f"TRY(COALESCE(CAST(({rule.holds}) AS BOOLEAN), TRUE)) IS NOT TRUE"
        for name, rule in stream.rows.items()
    }
    sensitive = any(rule.sensitive for rule in stream.columns.values())
    what, change = "The rules of the rows", "the contract"
    broken = computed(table, rules, what=what, change=change, sensitive=sensitive)
    for name in stream.rows:
        yield from ((name, position) for position in _where(broken[name].combine_chunks()))


def _broken_rules(table: pa.Table, rules: Mapping[str, ColumnRule]) -> list[tuple[_Declared, list[int]]]:
    """Each broken rule, with the positions of the rows that break it."""
    # Arrow counts nulls as it reads: only a column that has some needs to be asked about them.
    with_nulls = frozenset(name for name in rules if table[name].null_count)
    declared = _declared(tuple(rules.items()), with_nulls)
    columns = {name: _values_of(table[name]) for name in sorted({rule.column for rule in declared})}
    broken = {
        rule: _broken_exactly(columns[rule.column], rule.code, rules[rule.column])
        for rule in declared
        if rule.code in ("range", "set") and _is_wide(rules[rule.column])
    }
    others = [rule for rule in declared if rule not in broken]
    for length in sorted({len(columns[rule.column].values) for rule in others}):
        here = tuple(rule for rule in others if len(columns[rule.column].values) == length)
        broken |= _broken_values({rule.column: columns[rule.column] for rule in here}, here, rules)
    return [(rule, broken[rule]) for rule in declared if rule in broken]


@dataclass(frozen=True)
class _Values:
    """The values of a column. of_row: which of them each row has, None where each has its own."""

    values: pa.ChunkedArray
    of_row: NDArray[np.integer] | None

    def rows(self, places: list[int]) -> list[int]:
        """Positions of the rows that have the values at these places."""
        import numpy as np

        if self.of_row is None:
            return places
        chosen = np.zeros(len(self.values), dtype=bool)
        chosen[places] = True
        rows: list[int] = np.flatnonzero(chosen[self.of_row]).tolist()
        return rows


def _values_of(column: pa.ChunkedArray) -> _Values:
    """The values to judge: of a long column with few different ones, each of them once.

    A rule is about a value alone, so all rows that have it share its verdict.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if len(column) < _LONG or not (pa.types.is_string(column.type) or pa.types.is_integer(column.type)):
        return _Values(column, None)
    coded = pc.dictionary_encode(column.combine_chunks(), null_encoding="encode")
    if len(coded.dictionary) > len(column) // 2:
        return _Values(column, None)
    return _Values(pa.chunked_array([coded.dictionary]), coded.indices.to_numpy())


def _broken_values(
    columns: Mapping[str, _Values], declared: tuple[_Declared, ...], rules: Mapping[str, ColumnRule]
) -> dict[_Declared, list[int]]:
    """The broken ones of the rules of some columns of equal length, with the rows that break them."""
    import pyarrow as pa

    frame = pa.table({name: column.values for name, column in columns.items()}).to_pandas()
    asked = _asked(declared, tuple((name, rules[name]) for name in columns))
    broken = zip(declared, _unexpected(asked, frame), strict=True)
    return {rule: columns[rule.column].rows(places) for rule, places in broken if places}


def _is_wide(rule: ColumnRule) -> bool:
    """Whether it compares whole numbers that, as floats, are the same as their neighbours."""
    numbers = (rule.min, rule.max, *rule.one_of)
    return rule.type == "int" and any(isinstance(one, int | float) and abs(one) >= 2**53 for one in numbers)


def _broken_exactly(column: _Values, code: ReasonCode, rule: ColumnRule) -> list[int]:
    """The rows whose whole number breaks a rule. Great Expectations has its bounds as floats."""
    members = frozenset(rule.one_of)

    def passes(value: Any) -> bool:
        if code == "set":
            return value in members
        return (rule.min is None or rule.min <= value) and (rule.max is None or value <= rule.max)

    values = column.values.to_pylist()
    return column.rows([place for place, one in enumerate(values) if not (one is None or passes(one))])


@cache
def _declared(rules: tuple[tuple[str, ColumnRule], ...], with_nulls: frozenset[str]) -> tuple[_Declared, ...]:
    return tuple(
        _Declared(name, code, words)
        for name, rule in rules
        for code, words in _rules_of(rule, has_nulls=name in with_nulls)
    )


def _rules_of(rule: ColumnRule, *, has_nulls: bool) -> Iterator[tuple[ReasonCode, str]]:
    if has_nulls and not rule.nullable:
        yield "missing", "is present"
    bounds = [
        f"{words} {bound.isoformat() if isinstance(bound, datetime) else bound}"
        for words, bound in (("at least", rule.min), ("at most", rule.max))
        if bound is not None
    ]
    if bounds:
        yield "range", f"is {' and '.join(bounds)}"
    if rule.one_of and (rule.batch is None or rule.batch.others_at_most is None):
        yield "set", f"is one of {', '.join(map(str, rule.one_of))}"
    if rule.pattern is not None:
        yield "pattern", f"matches {rule.pattern}"


# --- Great Expectations ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Asked:
    """What Great Expectations is asked about a frame, and what it has to look at for it."""

    positions: tuple[MetricConfiguration, ...]
    edges: tuple[MetricEdge, ...]


# Positions of rows, and not a count of them: what breaks nothing costs about the same.
_WANTED: dict[str, Any] = {"result_format": "COMPLETE", "catch_exceptions": False}
_FRAME = "rows"  # the frame's name in there


@cache
def _asked(declared: tuple[_Declared, ...], rules: tuple[tuple[str, ColumnRule], ...]) -> _Asked:
    """The positions of the rows that break each rule, as its expectation has them.

    Worked out once per process for the same rules: a `Validator` does it for each frame, and that costs five
    times as much as judging some thousand rows.
    """
    engine = _engine()
    from great_expectations.validator.validation_graph import ValidationGraph

    by_column, graph, positions = dict(rules), ValidationGraph(engine), []
    for rule in declared:
        expectation = _expectation(rule, by_column[rule.column])
        needed = expectation.get_validation_dependencies(engine, _WANTED).metric_configurations
        positions.append(needed[f"{expectation.map_metric}.unexpected_index_list"])
        graph.build_metric_dependency_graph(positions[-1], _WANTED)
    return _Asked(tuple(positions), tuple(graph.edges))


def _unexpected(asked: _Asked, frame: pd.DataFrame) -> list[list[int]]:
    """The positions asked for, in their order."""
    engine = _engine(frame)
    from great_expectations.exceptions.exceptions import GreatExpectationsError
    from great_expectations.validator.validation_graph import ValidationGraph

    graph = ValidationGraph(engine, [*asked.edges])
    try:
        found, _ = graph.resolve(_WANTED, show_progress_bars=False)
    except GreatExpectationsError as error:
        raise TerminalError(f"Great Expectations could not judge: {error}") from error
    return [found[one.id] for one in asked.positions]


def _engine(frame: pd.DataFrame | None = None) -> PandasExecutionEngine:
    """Great Expectations' own, with a frame."""
    _import_great_expectations()
    from great_expectations.execution_engine.pandas_execution_engine import PandasExecutionEngine

    return PandasExecutionEngine(batch_data_dict={} if frame is None else {_FRAME: frame})


@cache
def _import_great_expectations() -> None:
    """The import takes 6 s and more: paid once per process, and only where there is something to judge."""
    with warnings.catch_warnings():
        # great_expectations 1.24 imports sre_constants, which Python 3.11 deprecates.
        warnings.simplefilter("ignore", DeprecationWarning)
        import great_expectations  # noqa: F401


def _expectation(declared: _Declared, rule: ColumnRule) -> ColumnMapExpectation:
    from great_expectations.expectations.core.expect_column_values_to_be_between import (
        ExpectColumnValuesToBeBetween,
    )
    from great_expectations.expectations.core.expect_column_values_to_be_in_set import (
        ExpectColumnValuesToBeInSet,
    )
    from great_expectations.expectations.core.expect_column_values_to_match_regex import (
        ExpectColumnValuesToMatchRegex,
    )
    from great_expectations.expectations.core.expect_column_values_to_not_be_null import (
        ExpectColumnValuesToNotBeNull,
    )

    of: dict[str, Any] = {"column": declared.column, "batch_id": _FRAME}
    match declared.code:
        case "missing":
            return ExpectColumnValuesToNotBeNull(**of)
        case "range":
            return ExpectColumnValuesToBeBetween(**of, min_value=rule.min, max_value=rule.max)
        case "set":
            return ExpectColumnValuesToBeInSet(**of, value_set=list(rule.one_of))
        case "pattern":
            return ExpectColumnValuesToMatchRegex(**of, regex=rule.whole_pattern)
    raise AssertionError(f"no expectation for {declared.code}")


# --- a file as a whole ------------------------------------------------------------------------------


@cache
def _batch_definition() -> BatchDefinition[Any]:
    _import_great_expectations()
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    context.enable_analytics(False)
    asset = context.data_sources.add_pandas("landed").add_dataframe_asset("rows")
    return asset.add_batch_definition_whole_dataframe("files")


def _place(result: ExpectationValidationResult) -> int:
    configuration = result.expectation_config
    if configuration is None or configuration.meta is None:
        raise TerminalError(f"Great Expectations returned a result without its rule: {result}")
    return int(configuration.meta["place"])


def _halted(
    file: LandedTable, columns: _Columns, broken: _Broken, stream: StreamRules, landed_at: datetime | None
) -> BadBatchError | None:
    """The refusal of a file for what halts it, if anything does."""
    halting = {name for name, rule in stream.columns.items() if rule.on_fail == "halt"}
    words = {f"keeps {name}: {rule.holds}" for name, rule in stream.rows.items() if rule.on_fail == "halt"}
    found = Counter(
        f"{f'{one.column} ' if one.column else ''}{one.rule} fails"
        for reasons in broken.values()
        for one in reasons
        if one.column in halting or one.rule in words
    )
    problems = [f"{what} in {rows:,} rows" for what, rows in found.most_common(_REASONS_NAMED)]
    problems += _file_problems(file, columns.table, stream, landed_at)
    if not problems:
        return None
    return BadBatchError(
        f"{file.path} breaks rules that halt: {'; '.join(problems)}",
        remedy="land the file again, corrected, or change the contract; no row of it was taken in",
    )


def _file_problems(
    file: LandedTable, table: pa.Table, stream: StreamRules, landed_at: datetime | None
) -> Iterator[str]:
    """Which rules of a file as a whole are broken, and what was found instead."""
    rows = stream.file and stream.file.rows
    if rows and not _within(file.rows, rows):
        yield f"the file has {_between(rows)} rows, found {file.rows}"
    # What has no mean or no newest row breaks no rule about it.
    declared = [rule for rule in _file_rules(stream, landed_at) if _values(table, rule) >= rule.needs]
    if not declared:
        return
    definition = _batch_definition()  # imports Great Expectations as it has to be
    import great_expectations as gx
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    used = sorted({rule.of["column"] for rule in declared})
    exact = any(_is_wide(stream.columns[name]) for name in used)
    frame = table.select(used).to_pandas(integer_object_nulls=exact)
    batch = definition.get_batch(batch_parameters={"dataframe": frame})
    expectations = [
        ExpectationConfiguration(type=rule.kind, kwargs=dict(rule.of), meta={"place": place}).to_domain_obj()
        for place, rule in enumerate(declared)
    ]
    suite = gx.ExpectationSuite(name="file", expectations=expectations)
    results = batch.validate(suite, result_format="BASIC").results
    for result in results:
        rule = declared[_place(result)]
        if not result.success and (found := _found(rule, result)):
            yield rule.words if rule.sensitive else f"{rule.words}, found {found}"


def _values(table: pa.Table, rule: _FileRule) -> int:
    """Values that the rule's figure is made of."""
    return int(table.num_rows - table[rule.of["column"]].null_count)


def _is_above(count: int, of: int, share: float) -> bool:
    """Whether so many are a larger share. 29 of 100 are 0.29: both are the float next to it."""
    return of > 0 and count / of > share


def _found(rule: _FileRule, result: ExpectationValidationResult) -> str:
    """What Great Expectations found instead, "" if that is within the share that may break the rule.

    Raises TerminalError if it could not judge.
    """
    found = result.result
    if "observed_value" in found:
        value = found["observed_value"]
        return f"{value:.4g}" if isinstance(value, float) else str(value)
    if "unexpected_count" in found:
        count, of = found["unexpected_count"], found["element_count"] - found.get("missing_count", 0)
        return f"{count / of:.2%}" if _is_above(count, of, rule.at_most) else ""
    said = str(result.exception_info)
    raise TerminalError(f"Great Expectations could not judge a file: {said}") from ValueError(said)


@dataclass(frozen=True)
class _FileRule:
    """A rule of a file in words, and the expectation that it is: its type and arguments.

    needs: so many values there must be for the file to have the figure. at_most: the share of values that may
    break it. sensitive: whether the figure would tell a value that is shown nowhere.
    """

    words: str
    kind: str
    of: Mapping[str, Any]
    needs: int = 0
    at_most: float = 0.0
    sensitive: bool = False


def _file_rules(stream: StreamRules, landed_at: datetime | None) -> Iterator[_FileRule]:
    for name, rule in stream.columns.items():
        if rule.batch:
            yield from _column_rules(name, rule, rule.batch)
    whole = stream.file
    if whole and whole.fresh and landed_at:
        column, oldest = whole.fresh.column, landed_at - whole.fresh.within
        words = f"the latest {column} is at least {oldest.isoformat()}"
        of = {"column": column, "min_value": oldest}
        sensitive = stream.columns[column].sensitive
        yield _FileRule(words, "expect_column_max_to_be_between", of, needs=1, sensitive=sensitive)


def _column_rules(name: str, rule: ColumnRule, batch: ColumnBatch) -> Iterator[_FileRule]:
    if batch.missing_at_most is not None:
        words = f"at most {batch.missing_at_most:.2%} of {name} is missing"
        of: dict[str, Any] = {"column": name}
        yield _FileRule(words, "expect_column_values_to_not_be_null", of, at_most=batch.missing_at_most)
    if batch.others_at_most is not None:
        listed = ", ".join(map(str, rule.one_of))
        words = f"at most {batch.others_at_most:.2%} of {name} is none of {listed}"
        of = {"column": name, "value_set": list(rule.one_of)}
        yield _FileRule(words, "expect_column_values_to_be_in_set", of, at_most=batch.others_at_most)
    if batch.distinct_at_least is not None:
        words = f"at least {batch.distinct_at_least:.2%} of {name} is distinct"
        of = {"column": name, "min_value": batch.distinct_at_least}
        yield _FileRule(words, "expect_column_proportion_of_unique_values_to_be_between", of, needs=1)
    figures = {"mean": ("mean", batch.mean), "median": ("median", batch.median), "stdev": ("std", batch.std)}
    for kind, (figure, bounds) in figures.items():
        if bounds is not None:
            words = f"the {figure} of {name} is {_between(bounds)}"
            of = {"column": name, "min_value": bounds.min, "max_value": bounds.max}
            needs = 2 if kind == "stdev" else 1
            expectation = f"expect_column_{kind}_to_be_between"
            yield _FileRule(words, expectation, of, needs, sensitive=rule.sensitive)


def _within(figure: float, bounds: Bounds) -> bool:
    return (bounds.min is None or bounds.min <= figure) and (bounds.max is None or figure <= bounds.max)


def _between(bounds: Bounds) -> str:
    limits = (("at least", bounds.min), ("at most", bounds.max))
    return " and ".join(f"{words} {bound:g}" for words, bound in limits if bound is not None)


# --- the verdict ----------------------------------------------------------------------------------


def _verdict(
    file: LandedTable,
    columns: _Columns,
    broken: _Broken,
    contract: Contract,
    *,
    stream: str,
    arrived: str | None,
) -> Judged | BadBatchError:
    import numpy as np
    import pyarrow as pa

    rejected = (*_rejected(file, columns, broken, arrived), *_unparsed(file))
    few = len(rejected) <= contract.reject_rows_allowed
    if not few and _is_above(len(rejected), file.rows, contract.reject_share_halts):
        return _too_many(file, rejected, contract, stream)
    places = pa.array(file.file_rows, pa.int64())
    accepted = columns.table.append_column("file_row", places)
    if broken:
        keep = np.ones(accepted.num_rows, dtype=bool)
        keep[list(broken)] = False
        accepted = accepted.filter(pa.array(keep))
    return Judged(accepted, tuple(sorted(rejected, key=lambda row: row.file_row)), columns.extra)


def _rejected(
    file: LandedTable, columns: _Columns, broken: _Broken, arrived: str | None
) -> Iterator[RejectedRow]:
    for position in sorted(broken):
        row = row_json(file.row(position))
        at = columns.table[arrived][position].as_py() if arrived else None
        yield RejectedRow(file.file_rows[position], row, tuple(broken[position]), at)


def _unparsed(file: LandedTable) -> Iterator[RejectedRow]:
    for row in file.unparsed:
        reason = Reason("unparsed", "is a row", value=row.problem)
        yield RejectedRow(row.file_row, row_json({"text": row.text}), (reason,))


def _too_many(
    file: LandedTable, rejected: Sequence[RejectedRow], contract: Contract, stream: str
) -> BadBatchError:
    """The refusal, naming what is wrong most often."""
    hidden = contract.sensitive_columns(stream)
    # A line that is no row may hold anything, and so may what is said of it.
    silent = {*hidden, None} if hidden else hidden
    reasons = [one for row in rejected for one in row.reasons]
    counts = Counter((one.column, one.rule) for one in reasons)
    examples = {
        (one.column, one.rule): f", such as {one.value!r}"
        for one in reasons
        if one.value is not None and one.column not in silent
    }
    worst = [
        f"{f'{column} ' if column else ''}{rule} fails in {count:,} rows{examples.get((column, rule), '')}"
        for (column, rule), count in counts.most_common(_REASONS_NAMED)
    ]
    return BadBatchError(
        f"{file.path}: {len(rejected):,} of {file.rows:,} rows break the contract: {'; '.join(worst)}",
        expected=f"at most {contract.reject_share_halts:.0%} of the rows, or {contract.reject_rows_allowed}",
        remedy="land the file again, corrected, or change the contract; no row of it was taken in",
    )
