"""Rejected rows are kept whole, with their reasons."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime

import pyarrow as pa
import pytest

from mlops_pipelines.ingest.quarantine import (
    Reason,
    RejectedRow,
    RejectShare,
    quarantine_canonical,
    quarantine_table,
    reason_counts,
    row_json,
)

AT = datetime(2013, 1, 5, 10, 30, tzinfo=UTC)


def test_a_rejected_row_is_kept_with_its_reasons() -> None:
    reason = Reason("range", "is at least 1", "distance", "-3")
    rejected = [RejectedRow(7, '{"distance": -3}', (reason,), AT), RejectedRow(9, "{}", (reason,))]
    table = quarantine_table(rejected, stream="events", file_digest="ab", arrival_day=date(2013, 1, 5))
    first, second = table.to_pylist()
    assert first | {"reasons": json.loads(first["reasons"])} == {
        "day": "2013-01-05",
        "stream": "events",
        "file_digest": "ab",
        "file_row": 7,
        "reasons": [{"code": "range", "rule": "is at least 1", "column": "distance", "value": "-3"}],
        "row": '{"distance": -3}',
        "arrived_at": AT,
    }
    assert second["arrived_at"] == datetime(2013, 1, 5, tzinfo=UTC)


def test_rows_of_any_kind_become_json() -> None:
    row = {
        "t": AT,
        "f": float("nan"),
        "b": b"\xff",
        "l": [AT, {"a": float("inf")}],
        "n": None,
        "s": "é",
    }
    assert json.loads(row_json(row)) == {
        "t": "2013-01-05T10:30:00+00:00",
        "f": None,
        "b": "b'\\xff'",
        "l": ["2013-01-05T10:30:00+00:00", {"a": "inf"}],
        "n": None,
        "s": "é",
    }


def test_canonical_rows_go_back_to_the_row_of_their_file() -> None:
    times = pa.array([AT], pa.timestamp("us", tz="UTC"))
    rows = pa.table(
        {
            "day": ["2013-02-01"],
            "event_id": ["a"],
            "arrived_at": times,
            "known_at": times,
            "file_digest": ["ab"],
            "file_row": pa.array([3], pa.int64()),
        }
    )
    (found,) = quarantine_canonical(
        rows,
        Reason("conflict", "is the same", "event_id"),
        stream="events",
        landed={"ticket": "event_id", "arrived_at": "arrived_at", "new since": "new since"},
    ).to_pylist()
    assert (found["day"], found["file_digest"], found["file_row"]) == ("2013-01-05", "ab", 3)
    assert json.loads(found["row"]) == {"ticket": "a", "arrived_at": "2013-01-05T10:30:00+00:00"}


def test_no_rows_make_an_empty_table_of_the_same_columns() -> None:
    empty = quarantine_table([], stream="events", file_digest="ab", arrival_day=date(2013, 1, 5))
    one = quarantine_table(
        [RejectedRow(0, "{}", ())], stream="events", file_digest="ab", arrival_day=date(2013, 1, 5)
    )
    assert empty.num_rows == 0
    assert empty.schema == one.schema


def test_reasons_are_counted_most_frequent_first() -> None:
    low = Reason("range", "is at least 1", "distance", "-3")
    line = Reason("unparsed", "is a row", None, "2 fields")
    rows = [RejectedRow(0, "{}", (low,)), RejectedRow(1, "{}", (low, line))]
    table = quarantine_table(rows, stream="events", file_digest="ab", arrival_day=date(2013, 1, 5))
    assert reason_counts(table) == {"distance: is at least 1": 2, "is a row": 1}


@pytest.mark.parametrize(
    ("rejected", "usual", "has_jumped"),
    [(10, (1000, 0), False), (11, (1000, 0), True), (30, (1000, 100), False), (31, (1000, 100), True),
     (100, (0, 0), False)],
)  # fmt: skip
def test_rejects_have_jumped_beyond_twice_the_usual_and_ten(
    rejected: int, usual: tuple[int, int], has_jumped: bool
) -> None:
    assert RejectShare(100, rejected, *usual).has_jumped is has_jumped
