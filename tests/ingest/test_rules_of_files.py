"""Rules of a row's values together, of a file's values together, and rules that halt."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.features.expressions import computed
from mlops_pipelines.ingest.contract import Contract
from mlops_pipelines.ingest.judging import BadBatchError, Judged, judge
from mlops_pipelines.ingest.landing import LandedTable, UnparsedRow

NOON = datetime(2013, 1, 1, 12, tzinfo=UTC)
TIMES = pa.timestamp("us", tz="UTC")


def contract(columns: dict[str, Any], **rules: Any) -> Contract:
    return Contract.model_validate(
        {
            "events": {"columns": columns, **rules},
            "labels": {"columns": {"late": {"type": "bool"}}},
            "reject_share_halts": 1.0,
        }
    )


def verdict(rules: Contract, landed_at: datetime | None = None, **columns: Any) -> Judged | BadBatchError:
    table = pa.table(columns)
    file = LandedTable(Path("a.parquet"), "digest", table, range(table.num_rows))
    (found,) = judge([file], rules, "events", landed_at=[landed_at] if landed_at else ())
    return found


def refusal(*arguments: Any, **columns: Any) -> str:
    found = verdict(*arguments, **columns)
    assert isinstance(found, BadBatchError)
    return str(found)


def accepted(*arguments: Any, **columns: Any) -> Judged:
    found = verdict(*arguments, **columns)
    assert isinstance(found, Judged), str(found)
    return found


INT, FLOAT, TEXT = {"type": "int"}, {"type": "float"}, {"type": "string"}


def test_a_row_whose_values_do_not_go_together_is_rejected_and_an_unknown_one_passes() -> None:
    nullable = INT | {"nullable": True}
    rules = contract({"a": nullable, "b": nullable}, rows={"grows": {"holds": "b > a"}})
    found = accepted(rules, a=[1, 2, None], b=[2, 2, 1])
    assert found.accepted["a"].to_pylist() == [1, None]
    (row,) = found.rejected
    assert (row.file_row, row.reasons[0].code, row.reasons[0].rule) == (1, "rule", "keeps grows: b > a")


@pytest.mark.parametrize(
    ("column", "holds", "values"),
    [
        (TEXT, "cast(x as integer) > 0", ["7", "JANE DOE", "8"]),
        (INT, "10 % x >= 0", [7, 0, 8]),
        (TEXT, "regexp_matches('a', x) or x = 'b'", ["a", "[", "b"]),
    ],
)
def test_a_row_for_which_its_rule_cannot_be_computed_is_rejected(
    column: dict[str, Any], holds: str, values: list[Any]
) -> None:
    nullable = column | {"nullable": True, "sensitive": True}
    found = accepted(contract({"x": nullable}, rows={"fine": {"holds": holds}}), x=[*values, None])
    assert found.accepted["x"].to_pylist() == [values[0], values[2], None]
    (row,) = found.rejected
    assert (row.file_row, row.reasons[0].rule) == (1, f"keeps fine: {holds}")


def test_what_duckdb_says_of_a_row_is_not_passed_on_where_a_column_is_sensitive() -> None:
    rows, broken = pa.table({"place": ["JANE DOE"]}), {"n": "CAST(place AS INTEGER)"}
    with pytest.raises(TerminalError, match="JANE DOE"):
        computed(rows, broken, what="A rule", change="it", sensitive=False)
    with pytest.raises(TerminalError, match="cannot be computed: ConversionException") as error:
        computed(rows, broken, what="A rule", change="it", sensitive=True)
    assert "JANE DOE" not in str(error.value)


def test_a_rule_takes_no_time_zone_from_a_column() -> None:
    columns = {"place": TEXT, "made": {"type": "timestamp"}}
    with pytest.raises(ValueError, match="takes a time zone from a column"):
        contract(columns, rows={"fine": {"holds": "timezone(place, made) is not null"}})


def test_rules_of_rows_hold_for_each_file_of_a_batch() -> None:
    rules = contract({"a": INT}, rows={"small": {"holds": "a < 3"}})
    files = [
        LandedTable(Path(name), name, pa.table({"a": values}), range(len(values)))
        for name, values in (("x", [1, 5]), ("y", [5, 1, 2]))
    ]
    found = judge(files, rules, "events")
    rows = [[row.file_row for row in one.rejected] for one in found if isinstance(one, Judged)]
    assert rows == [[1], [0]]


@pytest.mark.parametrize(
    ("columns", "rows"),
    [
        ({"a": INT | {"min": 0, "on_fail": "halt"}}, {}),
        ({"a": INT}, {"positive": {"holds": "a >= 0", "on_fail": "halt"}}),
    ],
)
def test_one_row_that_breaks_a_rule_that_halts_refuses_the_file(
    columns: dict[str, Any], rows: dict[str, Any]
) -> None:
    rules = contract(columns, rows=rows)
    assert "breaks rules that halt" in refusal(rules, a=[1] * 500 + [-1])
    assert accepted(rules, a=[1] * 500).accepted.num_rows == 500


def test_a_value_of_another_type_halts_where_the_column_halts() -> None:
    rules = contract({"a": INT | {"on_fail": "halt"}})
    assert "a is int fails in 1 rows" in refusal(rules, a=["1", "x"])


@pytest.mark.parametrize(
    ("rule", "values", "problem"),
    [
        (FLOAT | {"nullable": True, "batch": {"missing_at_most": 0.1}}, [1.0] * 8 + [None] * 2,
         "at most 10.00% of x is missing, found 20.00%"),
        (TEXT | {"one_of": ["a"], "batch": {"others_at_most": 0.1}}, ["a"] * 8 + ["new"] * 2,
         "at most 10.00% of x is none of a, found 20.00%"),
        (INT | {"batch": {"distinct_at_least": 0.5}}, [7] * 9 + [1],
         "at least 50.00% of x is distinct, found 0.2"),
        (INT | {"batch": {"mean": {"max": 5}}}, [1, 2, 30], "the mean of x is at most 5, found 11"),
        (INT | {"batch": {"median": {"min": 5, "max": 9}}}, [1, 2, 30],
         "the median of x is at least 5 and at most 9, found 2"),
        (FLOAT | {"batch": {"std": {"min": 0.1}}}, [1.0, 1.0, 1.0], "the std of x is at least 0.1, found 0"),
    ],
)  # fmt: skip
def test_values_that_break_a_rule_together_refuse_the_file(
    rule: dict[str, Any], values: list[Any], problem: str
) -> None:
    rules = contract({"x": rule})
    assert problem in refusal(rules, x=values)
    fine = {"string": ["a", "a"], "int": [6, 7], "float": [6.0, 7.0]}[rule["type"]]
    if "mean" not in str(rule):
        assert accepted(rules, x=fine).accepted.num_rows == 2


def test_a_few_values_that_are_not_listed_pass_with_their_rows() -> None:
    rules = contract({"x": TEXT | {"one_of": ["a"], "batch": {"others_at_most": 0.5}}})
    found = accepted(rules, x=["a", "a", "new"])
    assert (found.accepted.num_rows, found.rejected) == (3, ())


def test_a_file_of_too_few_or_too_many_rows_is_refused() -> None:
    rules = contract({"x": INT}, file={"rows": {"min": 2, "max": 3}})
    assert "the file has at least 2 and at most 3 rows, found 1" in refusal(rules, x=[1])
    assert "found 4" in refusal(rules, x=[1] * 4)
    assert accepted(rules, x=[1, 2]).accepted.num_rows == 2


def test_lines_that_are_no_rows_are_rows_of_the_file() -> None:
    rules = contract({"x": INT}, file={"rows": {"min": 2, "max": 3}})
    table = pa.table({"x": [1, 2]})
    two, one = (tuple(UnparsedRow(place, "?", "no row") for place in range(2, 2 + n)) for n in (2, 1))
    (many,) = judge([LandedTable(Path("a.csv"), "d", table, range(2), two)], rules, "events")
    assert isinstance(many, BadBatchError)
    assert "the file has at least 2 and at most 3 rows, found 4" in str(many)
    (enough,) = judge([LandedTable(Path("a.csv"), "d", table.slice(1), (1,), one)], rules, "events")
    assert isinstance(enough, Judged)


@pytest.mark.parametrize("share", [0.07, 0.29, 0.57, 0.58, 0.7])
def test_a_share_is_kept_exactly(share: float) -> None:
    count = round(share * 100)
    missing = contract({"x": FLOAT | {"nullable": True, "batch": {"missing_at_most": share}}})
    others = contract({"x": TEXT | {"one_of": ["a"], "batch": {"others_at_most": share}}})
    distinct = contract({"x": INT | {"batch": {"distinct_at_least": share}}})
    assert accepted(missing, x=[None] * count + [1.0] * (100 - count)).accepted.num_rows == 100
    assert accepted(others, x=["new"] * count + ["a"] * (100 - count)).accepted.num_rows == 100
    assert accepted(distinct, x=[min(n, count - 1) for n in range(100)]).accepted.num_rows == 100
    refusal(missing, x=[None] * (count + 1) + [1.0] * (99 - count))
    refusal(others, x=["new"] * (count + 1) + ["a"] * (99 - count))
    refusal(distinct, x=[min(n, count - 2) for n in range(100)])


def test_missing_values_are_no_others() -> None:
    rules = contract({"x": TEXT | {"nullable": True, "one_of": ["a"], "batch": {"others_at_most": 0.5}}})
    assert accepted(rules, x=["a", "new", *[None] * 8]).accepted.num_rows == 10
    assert accepted(rules, x=pa.nulls(10, pa.string())).accepted.num_rows == 10
    assert "found 66.67%" in refusal(rules, x=["a", "new", "new", *[None] * 8])


def test_whole_numbers_are_told_apart_however_large_they_are() -> None:
    rule = INT | {"nullable": True, "one_of": [2**53], "batch": {"others_at_most": 0.0}}
    assert accepted(contract({"x": rule}), x=[2**53, None]).accepted.num_rows == 2
    assert "found 50.00%" in refusal(contract({"x": rule}), x=[2**53, 2**53 + 1, None])


def test_the_figure_that_is_found_in_a_sensitive_column_is_not_told() -> None:
    income = FLOAT | {"sensitive": True}
    figures = {name: {"max": 10} for name in ("mean", "median", "std")}
    said = refusal(contract({"inc": income | {"batch": figures}}), inc=[84_321.0, 12_345.0])
    assert said.count("is at most 10") == 3
    assert "found" not in said
    born = {"born": {"type": "timestamp", "sensitive": True}}
    fresh = contract(born, file={"fresh": {"column": "born", "within": "2h"}})
    said = refusal(fresh, NOON, born=pa.array([datetime(1985, 8, 17, tzinfo=UTC)], TIMES))
    assert "the latest born is at least" in said
    assert "1985" not in said
    share = contract({"inc": income | {"nullable": True, "batch": {"missing_at_most": 0.1}}})
    assert "found 50.00%" in refusal(share, inc=[1.0, None])


def test_a_file_whose_newest_row_is_old_is_refused_when_it_is_known_when_it_landed() -> None:
    rules = contract({"at": {"type": "timestamp"}}, file={"fresh": {"column": "at", "within": "2h"}})
    times = pa.array([NOON, NOON - timedelta(days=3)], TIMES)
    assert accepted(rules, NOON + timedelta(hours=2), at=times).accepted.num_rows == 2
    late = refusal(rules, NOON + timedelta(hours=3), at=times)
    assert "the latest at is at least 2013-01-01T13:00:00+00:00" in late
    assert accepted(rules, at=times).accepted.num_rows == 2


@pytest.mark.parametrize(
    ("columns", "rules", "problem"),
    [
        ({"x": INT}, {"rows": {"r": {"holds": "y > 1"}}}, "y is not a column"),
        ({"x": INT}, {"rows": {"r": {"holds": "now()"}}}, "not a function"),
        ({"x": TEXT}, {"rows": {"r": {"holds": "x"}}}, "is no condition"),
        ({"x": INT}, {"file": {"fresh": {"column": "x", "within": "1d"}}}, "no timestamp column"),
        ({"x": INT}, {"file": {"rows": {}}}, "give min, max or both"),
        ({"x": INT | {"batch": {"mean": {"min": 2, "max": 1}}}}, {}, "above max"),
        ({"x": TEXT | {"batch": {"mean": {"min": 2}}}}, {}, "for int and float"),
        ({"x": TEXT | {"batch": {"others_at_most": 0.1}}}, {}, "one_of, which is missing"),
        ({"x": INT | {"batch": {"missing_at_most": 0.1}}}, {}, "nullable"),
    ],
)
def test_rules_that_cannot_be_judged_are_refused(
    columns: dict[str, Any], rules: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValidationError, match=problem):
        contract(columns, **rules)
