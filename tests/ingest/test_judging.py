"""What the contract makes of landed rows, as Great Expectations judges it."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_pipelines.ingest.contract import Contract
from mlops_pipelines.ingest.judging import BadBatchError, Judged, judge
from mlops_pipelines.ingest.landing import LandedTable, UnparsedRow, read_file, rows_again

T0 = datetime(2013, 1, 1, tzinfo=UTC)
US = pa.timestamp("us", tz="UTC")


def contract(columns: dict[str, Any], **bounds: Any) -> Contract:
    some = {"columns": {"event_id": {"type": "string"}}}
    return Contract.model_validate({"events": {"columns": columns}, "labels": some, **bounds})


def landed(table: pa.Table, name: str = "a.parquet", unparsed: tuple[UnparsedRow, ...] = ()) -> LandedTable:
    return LandedTable(Path(name), "digest", table, range(table.num_rows), unparsed)


def judged(table: pa.Table, columns: dict[str, Any], **bounds: Any) -> Judged:
    bounds = {"reject_share_halts": 1.0, **bounds}
    (verdict,) = judge([landed(table)], contract(columns, **bounds), "events")
    assert isinstance(verdict, Judged), verdict
    return verdict


def refusal(table: pa.Table, columns: dict[str, Any], **bounds: Any) -> BadBatchError:
    (verdict,) = judge([landed(table)], contract(columns, **bounds), "events")
    assert isinstance(verdict, BadBatchError)
    return verdict


def reasons(verdict: Judged) -> list[tuple[int, str, str | None, str | None]]:
    return [
        (row.file_row, one.code, one.column, one.value) for row in verdict.rejected for one in row.reasons
    ]


def test_nothing_is_imported_where_there_is_nothing_to_judge() -> None:
    code = """
import sys, pyarrow as pa
from pathlib import Path
from mlops_pipelines.ingest.contract import Contract
from mlops_pipelines.ingest.judging import judge
from mlops_pipelines.ingest.landing import LandedTable
rules = {"columns": {"a": {"type": "int"}, "b": {"type": "int", "min": 3}}}
plain = {"columns": {"a": {"type": "int"}}}
contract = Contract.model_validate({"events": rules, "labels": plain})
no_rows = LandedTable(Path("a.parquet"), "d", pa.table({"a": pa.nulls(0), "b": pa.nulls(0)}), range(0))
no_rules = LandedTable(Path("a.parquet"), "d", pa.table({"a": [1, 2]}), range(2))
judge([], contract, "events")
judge([no_rows], contract, "events")
judge([no_rules], contract, "labels")
assert "great_expectations" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_long_file_is_judged_as_its_parts_are() -> None:
    """Of a long file's values each is judged once, where few are different; of its parts' all are."""
    rows, part = 40_000, 5_000
    numbers = [2**53 + 1 if n % 997 == 0 else n % 700 for n in range(rows)]
    table = pa.table(
        {
            "id": [f"x{n}" if n % 1009 else f"y{n}" for n in range(rows)],
            "kind": [None if n % 4001 == 0 else "abcdefgh"[n % 8] for n in range(rows)],
            "code": [None if n % 3 else "A1" if n % 5001 else "A1\n" for n in range(rows)],
            "n": pa.array(numbers, pa.int64()),
            "few": pa.array([None if n % 7 == 0 else n % 3001 for n in range(rows)], pa.int64()),
            "share": [n / rows for n in range(rows)],
            "at": pa.array([T0 + timedelta(minutes=n) for n in range(rows)], US),
        }
    )
    columns = {
        "id": {"type": "string", "pattern": "x[0-9]+"},
        "kind": {"type": "string", "one_of": list("abcdefg")},
        "code": {"type": "string", "nullable": True, "pattern": "[A-Z][0-9]"},
        "n": {"type": "int", "min": 1, "max": 2**53},
        "few": {"type": "int", "nullable": True, "max": 2999},
        "share": {"type": "float", "max": 0.9999},
        "at": {"type": "timestamp", "min": T0 + timedelta(minutes=3)},
    }
    whole = judged(table, columns)
    parts = [(start, judged(table.slice(start, part), columns)) for start in range(0, rows, part)]
    assert {one.column for row in whole.rejected for one in row.reasons} == columns.keys()
    assert {"missing", "range", "set", "pattern"} == {code for _, code, _, _ in reasons(whole)}
    assert reasons(whole) == [
        (start + row, *reason) for start, verdict in parts for row, *reason in reasons(verdict)
    ]
    accepted = pa.concat_tables([verdict.accepted for _, verdict in parts])
    assert whole.accepted.drop_columns("file_row").equals(accepted.drop_columns("file_row"))


def test_each_broken_rule_rejects_its_row_and_is_a_reason() -> None:
    table = pa.table(
        {
            "id": ["a1", "b2", "c3", "d4", "xx\n", None],
            "n": [1, 7, 3, 9, 2, 3],
            "where": ["EWR", "JFK", "LAX", "EWR", "EWR", "EWR"],
            "at": pa.array([T0, T0, T0, T0 - timedelta(days=1), T0, T0], US),
            "note": [None, "x", None, None, None, None],
        }
    )
    verdict = judged(
        table,
        {
            "id": {"type": "string", "pattern": "[a-z]\\d"},
            "n": {"type": "int", "min": 1, "max": 5},
            "where": {"type": "string", "one_of": ["EWR", "JFK"]},
            "at": {"type": "timestamp", "min": T0},
            "note": {"type": "string", "nullable": True},
        },
    )
    assert reasons(verdict) == [
        (1, "range", "n", "7"),
        (2, "set", "where", "LAX"),
        (3, "range", "n", "9"),
        (3, "range", "at", "2012-12-31T00:00:00+00:00"),
        (4, "pattern", "id", "xx\n"),
        (5, "missing", "id", None),
    ]
    assert verdict.accepted["file_row"].to_pylist() == [0]
    assert verdict.rejected[0].reasons[0].rule == "is at least 1 and at most 5"


def test_a_rejected_row_is_kept_whole_as_it_landed() -> None:
    table = pa.table({"n": ["1", "x"], "more": [T0, T0], "arrived_at": pa.array([T0, T0], US)})
    columns = {"n": {"type": "int"}, "arrived_at": {"type": "timestamp"}}
    (verdict,) = judge([landed(table)], contract(columns), "events", arrived="arrived_at")
    assert isinstance(verdict, Judged)
    (row,) = verdict.rejected
    assert json.loads(row.row) == {"n": "x", "more": T0.isoformat(), "arrived_at": T0.isoformat()}
    assert row.arrived_at == T0
    assert reasons(verdict) == [(1, "type", "n", "x")]


def test_an_unreadable_arrival_is_no_arrival() -> None:
    table = pa.table({"arrived_at": ["2013-01-01T00:00Z", "yesterday"]})
    rules = contract({"arrived_at": {"type": "timestamp"}})
    (verdict,) = judge([landed(table)], rules, "events", arrived="arrived_at")
    assert isinstance(verdict, Judged)
    assert [row.arrived_at for row in verdict.rejected] == [None]


def test_lines_that_are_no_rows_are_rejected_too() -> None:
    unparsed = (UnparsedRow(1, "{oops", "not JSON"),)
    file = LandedTable(Path("a.jsonl"), "d", pa.table({"a": ["1", "2"]}), (0, 2), unparsed)
    (verdict,) = judge([file], contract({"a": {"type": "int"}}), "events")
    assert isinstance(verdict, Judged)
    assert reasons(verdict) == [(1, "unparsed", None, "not JSON")]
    assert json.loads(verdict.rejected[0].row) == {"text": "{oops"}
    assert verdict.accepted.to_pylist() == [{"a": 1, "file_row": 0}, {"a": 2, "file_row": 2}]


def test_columns_the_contract_does_not_name_are_reported() -> None:
    verdict = judged(pa.table({"b": [1], "a": [1], "c": [1]}), {"a": {"type": "int"}})
    assert verdict.extra_columns == ("b", "c")
    assert verdict.accepted.column_names == ["a", "file_row"]


def test_missing_columns_refuse_the_file_and_are_all_named() -> None:
    error = refusal(pa.table({"a": [1]}), {name: {"type": "int"} for name in "abc"})
    assert error.message == "a.parquet has no column b, c"
    assert error.remedy is not None


@pytest.mark.parametrize(
    ("values", "declared"),
    [
        (pa.array([1, 2]), "string"),
        (pa.array([1, 2]), "timestamp"),
        (pa.array([True]), "int"),
        (pa.array([True]), "float"),
        (pa.array([T0], US), "int"),
        (pa.array([[1]]), "int"),
        (pa.array([b"a"]), "string"),
        (pa.array([T0.date()]), "timestamp"),
    ],
)
def test_a_column_of_another_type_refuses_the_file(values: pa.Array, declared: str) -> None:
    error = refusal(pa.table({"a": values}), {"a": {"type": declared}})
    assert f"a is {values.type}, not {declared}" in error.message


def test_what_is_no_single_value_is_rejected_whatever_the_type(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": {"b": 1}, "n": 1}\n{"a": "x", "n": [2]}\n{"a": "[1]", "n": 3}\n')
    rules = contract({"a": {"type": "string"}, "n": {"type": "int"}}, reject_rows_allowed=5)
    (judged,) = judge([read_file(path)], rules, "events")
    assert isinstance(judged, Judged)
    assert judged.accepted.select(["a", "n"]).to_pylist() == [{"a": "[1]", "n": 3}]
    told = [(row.file_row, one.column, one.value) for row in judged.rejected for one in row.reasons]
    assert told == [(0, "a", '{"b": 1}'), (1, "n", "[2]")]


def test_more_rejects_than_allowed_refuse_the_file() -> None:
    columns = {"a": {"type": "int", "min": 0}}
    table = pa.table({"a": [-1] * 20 + [1] * 80})
    bounds = {"reject_rows_allowed": 10, "reject_share_halts": 0.20}
    assert len(judged(table, columns, **bounds).rejected) == 20
    error = refusal(table, columns, **bounds | {"reject_share_halts": 0.19})
    assert "20 of 100 rows" in error.message
    assert "a is at least 0 fails in 20 rows, such as '-1'" in error.message


@pytest.mark.parametrize("rejects", [7, 29, 57, 58])
def test_the_share_of_rejects_is_kept_exactly(rejects: int) -> None:
    columns = {"a": {"type": "int", "min": 0}}
    bounds = {"reject_rows_allowed": 0, "reject_share_halts": rejects / 100}
    table = pa.table({"a": [-1] * rejects + [1] * (100 - rejects)})
    assert len(judged(table, columns, **bounds).rejected) == rejects
    refusal(pa.table({"a": [-1] * (rejects + 1) + [1] * (99 - rejects)}), columns, **bounds)


def test_the_share_of_rejects_is_one_of_all_rows_with_those_that_are_none() -> None:
    columns = {"a": {"type": "int"}}
    rules = contract(columns, reject_rows_allowed=0, reject_share_halts=0.2)
    unparsed = tuple(UnparsedRow(place, "?", "no row") for place in range(80, 101))
    table = pa.table({"a": [1] * 80})
    (kept,) = judge([landed(table, unparsed=unparsed[:20])], rules, "events")
    assert isinstance(kept, Judged)
    (refused,) = judge([landed(table, unparsed=unparsed)], rules, "events")
    assert isinstance(refused, BadBatchError)
    assert "21 of 101 rows" in refused.message


def test_a_refusal_tells_no_value_of_a_sensitive_column() -> None:
    unparsed = (UnparsedRow(1, '{"Doe": 1, "Doe": 2}', "it has more than one column Doe"),)
    file = landed(pa.table({"a": ["-4711"], "b": ["x"]}), unparsed=unparsed)
    rule = {"type": "int", "min": 0}
    for sensitive, told in ((False, ["-4711", "'x'", "Doe"]), (True, ["'x'"])):
        columns = {"a": rule | {"sensitive": sensitive}, "b": rule}
        (refused,) = judge([file], contract(columns, reject_rows_allowed=0), "events")
        text = str(refused)
        assert "a is at least 0 fails in 1 rows" in text
        assert [value for value in ("-4711", "'x'", "Doe") if value in text] == told


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_a_column_that_no_row_of_json_lines_names_is_missing_in_all(name: str) -> None:
    columns = {"a": {"type": "int"}, "x": {"type": "int", "nullable": True}, "t": {"type": "timestamp"}}
    nullable = {"t": {"type": "timestamp", "nullable": True}}
    table = pa.table({"a": ["1", "2"]})
    with_x = pa.table({"a": ["1"], "x": ["3"], "t": ["2013-01-01T00:00Z"]})
    files = [landed(table, name), landed(with_x, name)]
    lacking, whole = judge(files, contract(columns), "events")
    assert isinstance(lacking, Judged)
    assert isinstance(whole, Judged)
    assert reasons(lacking) == [(0, "missing", "t", None), (1, "missing", "t", None)]
    assert whole.accepted["x"].to_pylist() == [3]
    kept, _ = judge(files, contract(columns | nullable), "events")
    assert isinstance(kept, Judged)
    assert kept.accepted.select(["a", "x", "t"]).to_pylist() == [
        {"a": n, "x": None, "t": None} for n in (1, 2)
    ]


WIDE = 2**53


@pytest.mark.parametrize(
    ("rule", "wrong"),
    [
        ({"max": WIDE}, [WIDE + 1, 2**63 - 1]),
        ({"max": WIDE + 1}, [2**63 - 1]),
        ({"min": -WIDE}, [-WIDE - 1, -(2**63)]),
        ({"min": -WIDE - 1, "max": 2**63}, [-(2**63)]),
        ({"min": 2**63}, [3, WIDE, WIDE + 1, 2**63 - 1, -WIDE, -WIDE - 1, -(2**63)]),
        ({"one_of": [3, WIDE, -WIDE - 1, 2**70]}, [WIDE + 1, 2**63 - 1, -WIDE, -(2**63)]),
        ({"max": WIDE - 1}, [WIDE, WIDE + 1, 2**63 - 1]),
    ],
)
@pytest.mark.parametrize("rows", [1, 4000])
def test_whole_numbers_are_judged_exactly(rule: dict[str, Any], wrong: list[int], rows: int) -> None:
    values = [3, WIDE, WIDE + 1, 2**63 - 1, -WIDE, -WIDE - 1, -(2**63), None]
    table = pa.table({"a": pa.array(values * rows, pa.int64())})
    verdict = judged(table, {"a": {"type": "int", "nullable": True, **rule}})
    assert [value for _, _, _, value in reasons(verdict)] == [str(value) for value in wrong] * rows


def test_a_few_rejects_never_refuse_a_file() -> None:
    columns = {"a": {"type": "int", "min": 0}}
    bounds = {"reject_rows_allowed": 3, "reject_share_halts": 0.0}
    assert len(judged(pa.table({"a": [-1] * 3}), columns, **bounds).rejected) == 3
    refusal(pa.table({"a": [-1] * 4}), columns, **bounds)


def test_files_are_judged_each_for_itself() -> None:
    columns = {"a": {"type": "int", "min": 0}}
    rules = contract(columns, reject_rows_allowed=1)
    files = [
        landed(pa.table({"a": [1, -1]})),
        landed(pa.table({"b": [1]})),
        landed(pa.table({"a": pa.nulls(0)})),
        landed(pa.table({"a": [-1, -1, -1]})),
        landed(pa.table({"a": ["5", "x"]})),
        landed(pa.table({"a": [5, None]})),
    ]
    kinds = judge(files, rules, "events")
    assert [isinstance(verdict, Judged) for verdict in kinds] == [True, False, True, False, True, True]
    assert reasons(kinds[0]) == [(1, "range", "a", "-1")]  # type: ignore[arg-type]
    assert reasons(kinds[4]) == [(1, "type", "a", "x")]  # type: ignore[arg-type]
    assert reasons(kinds[5]) == [(1, "missing", "a", None)]  # type: ignore[arg-type]
    assert [judge([file], rules, "events")[0] for file in files if file is files[4]] == [kinds[4]]


READINGS: list[tuple[str, pa.Array, list[Any]]] = [
    ("int", pa.array([1, None], pa.int8()), [1, None]),
    ("int", pa.array([1, 2**63], pa.uint64()), [1, "type"]),
    ("int", pa.array([1.0, 1.5, float("nan"), 2.0**60, float("inf")]), [1, "type", None, "type", "type"]),
    ("int", pa.array([Decimal("3"), None], pa.decimal128(38, 0)), [3, None]),
    ("int", pa.array(["7", "-7.0", "7.5", "1e3", "", " 7", "9" * 19, "٣"]), [7, -7, *["type"] * 6]),
    ("float", pa.array([1.5, float("nan"), float("-inf")]), [1.5, None, "type"]),
    ("float", pa.array([1, 2**53]), [1.0, 2.0**53]),
    ("float", pa.array(["1.5", ".5", "-1e3", "nan", "1_0", "1e999"]), [1.5, 0.5, -1000.0, *["type"] * 3]),
    ("bool", pa.array([True, None]), [True, None]),
    ("bool", pa.array([0, 1, 2]), [False, True, "type"]),
    ("bool", pa.array(["true", "False", "1", "yes"]), [True, False, True, "type"]),
    (
        "bool",
        pa.array(["1.0", "0.0", "-0.0", "1.00", "1.5", "2.0"]),
        [True, *[False] * 2, True, *["type"] * 2],
    ),
    ("string", pa.array(["a", "a", None]).dictionary_encode(), ["a", "a", None]),
    ("string", pa.array(["a"], pa.large_string()), ["a"]),
    ("string", pa.nulls(1), [None]),
    ("timestamp", pa.array([T0, None], pa.timestamp("s")), [T0, None]),
    ("timestamp", pa.array([T0], pa.timestamp("ms", tz="America/New_York")), [T0]),
    ("timestamp", pa.array([1_999], pa.timestamp("ns")), [datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC)]),
    ("timestamp", pa.array([2**62, -(2**62)], pa.timestamp("s")), ["type", "type"]),
    (
        "timestamp",
        pa.array(
            ["2013-01-01T00:00:00Z", "2012-12-31 19:00-05:00", "2013-01-01 00:00", "2013-01-01", "9999-99"]
        ),
        [T0, T0, T0, "type", "type"],
    ),
    ("timestamp", pa.array(["0001-01-01T00:00+14:00"]), ["type"]),
]


@pytest.mark.parametrize(("declared", "values", "wanted"), READINGS)
def test_values_are_read_strictly(declared: str, values: pa.Array, wanted: list[Any]) -> None:
    verdict = judged(pa.table({"a": values}), {"a": {"type": declared, "nullable": True}})
    found: list[Any] = [None] * len(values)
    for row in verdict.accepted.to_pylist():
        found[row["file_row"]] = row["a"]
    for place, code, _, _ in reasons(verdict):
        found[place] = code
    assert found == wanted


@pytest.mark.parametrize(
    ("declared", "values"),
    [
        ("bool", pa.array([0.0, -0.0, 1.0, 0.5, None])),
        ("bool", pa.array([Decimal("1.00"), Decimal("0.00"), Decimal("0.10")])),
        ("bool", pa.array([0, 1, 2])),
        ("int", pa.array([3.0, -0.0, 3.5, 2.0**53, 2.0**60, 1e300, float("inf"), float("-inf")])),
        ("int", pa.array([2**63, 2**63 - 1], pa.uint64())),
        ("float", pa.array([1.5, 1e300, -0.0, float("inf"), float("-inf"), None])),
        ("float", pa.array([1, 2**53 + 1])),
        ("timestamp", pa.array([1_999, None], pa.timestamp("ns"))),
        ("timestamp", pa.array([1], pa.timestamp("us", tz="Mars/Base"))),
        ("timestamp", pa.array([2**62, -(2**62)], pa.timestamp("s"))),
    ],
)
def test_a_row_that_was_kept_reads_as_it_did_when_it_landed(declared: str, values: pa.Array) -> None:
    columns = {"a": {"type": declared, "nullable": True}}
    rejecting = {**columns, "no": {"type": "int", "min": 1}}
    table = pa.table({"a": values, "no": [0] * len(values)})
    kept = {row.file_row: row.row for row in judged(table, rejecting).rejected}
    again = rows_again(Path("a.parquet"), "digest", kept, list(columns))
    (verdict,) = judge([again], contract(columns, reject_share_halts=1.0), "events")
    assert isinstance(verdict, Judged)
    first = judged(table, columns)
    assert verdict.accepted.equals(first.accepted)
    assert [row[:3] for row in reasons(verdict)] == [row[:3] for row in reasons(first)]


VALUES = st.fixed_dictionaries(
    {
        "n": st.none() | st.integers(-3, 8),
        "x": st.none() | st.floats(-3, 3) | st.just(float("nan")),
        "s": st.none() | st.sampled_from(["EWR", "JFK", "ewr", "EWR ", ""]),
    }
)
RULES: dict[str, Any] = {
    "n": {"type": "int", "min": 0, "max": 5},
    "x": {"type": "float", "nullable": True, "max": 1.5},
    "s": {"type": "string", "pattern": "[A-Z]{3}"},
}


def passes(row: dict[str, Any]) -> bool:
    """An independent reading of RULES."""
    n, x, s = row["n"], row["x"], row["s"]
    return (
        n is not None
        and 0 <= n <= 5
        and (x is None or math.isnan(x) or x <= 1.5)
        and s is not None
        and re.fullmatch("[A-Z]{3}", s) is not None
    )


@given(st.lists(st.lists(VALUES, max_size=6), min_size=1, max_size=3))
def test_exactly_the_rows_that_satisfy_the_contract_are_accepted(files: list[list[dict[str, Any]]]) -> None:
    schema = pa.schema({"n": pa.int64(), "x": pa.float64(), "s": pa.string()})
    tables = [pa.Table.from_pylist(rows, schema=schema) for rows in files]
    verdicts = judge([landed(table) for table in tables], contract(RULES), "events")
    for rows, verdict in zip(files, verdicts, strict=True):
        assert isinstance(verdict, Judged)
        wanted = [place for place, row in enumerate(rows) if passes(row)]
        assert verdict.accepted["file_row"].to_pylist() == wanted
        rejected = [row.file_row for row in verdict.rejected]
        assert sorted([*wanted, *rejected]) == list(range(len(rows)))
        assert all(row.reasons for row in verdict.rejected)
