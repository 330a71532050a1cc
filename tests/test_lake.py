"""The lake on real Delta tables, with real processes beside each other."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_pipelines import lake as lake_module
from mlops_pipelines.errors import TerminalError, TransientError
from mlops_pipelines.lake import Lake, content_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

A, B, C = "2013-01-01", "2013-01-02", "2013-01-03"
MORNING = datetime(2013, 1, 1, 6, tzinfo=UTC)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "a home 100% ü" / "lake")


def rows(day: str, values: Sequence[int], **columns: Sequence[Any]) -> pa.Table:
    ids = [f"{day}/{i}" for i in range(len(values))]
    return pa.table(
        {
            "day": pa.array([day] * len(values), pa.string()),
            "id": pa.array(ids, pa.string()),
            "n": pa.array(values, pa.int64()),
            **columns,
        }
    )


def both(*tables: pa.Table) -> pa.Table:
    return pa.concat_tables(tables, promote_options="default")


def numbers(table: pa.Table) -> list[tuple[str, int]]:
    return list(zip(table["day"].to_pylist(), table["n"].to_pylist(), strict=True))


# --- what is written is what is read


def test_a_table_reads_back_in_plain_types_whatever_encoding_went_in(lake: Lake) -> None:
    at = [MORNING, MORNING + timedelta(microseconds=1)]
    written = pa.table(
        {
            "day": pa.array([A, A]).dictionary_encode(),
            "id": pa.array(["y", "x"], pa.large_string()),
            "view": pa.array(["é", None], pa.string_view()),
            "at": pa.array(at, pa.timestamp("ns", tz="America/New_York")),
            "small": pa.array([1, None], pa.int8()),
            "flag": pa.array([True, None]),
            "value": pa.array([0.5, float("nan")]),
            "digest": pa.array([b"\0\1", None], pa.large_binary()),
        }
    )
    lake.replace("t", written, days=[A], sort_by=["id"])
    read = lake.read("t")
    assert read.schema.types == [
        pa.string(),
        pa.string(),
        pa.string(),
        pa.timestamp("us", tz="UTC"),
        pa.int8(),
        pa.bool_(),
        pa.float64(),
        pa.binary(),
    ]
    assert read["id"].to_pylist() == ["x", "y"]
    assert read["view"].to_pylist() == [None, "é"]
    assert read["at"].to_pylist() == at[::-1]
    assert read["digest"].to_pylist() == [None, b"\0\1"]
    assert content_hash(read, sort_by=["id"]) == content_hash(written, sort_by=["id"])


def test_columns_come_in_the_order_asked_for_and_rows_in_the_order_of_days(lake: Lake) -> None:
    lake.replace("t", both(rows(B, [3]), rows(A, [2, 1])), days=[A, B], sort_by=["n"])
    read = lake.read("t", columns=["n", "day"])
    assert read.column_names == ["n", "day"]
    assert numbers(read) == [(A, 1), (A, 2), (B, 3)]
    assert numbers(lake.read("t", days=[B, C])) == [(B, 3)]
    assert lake.days("t") == [A, B]


def test_rows_are_counted_by_day_without_reading_them(lake: Lake) -> None:
    assert lake.row_counts("t") == {}
    lake.replace("t", both(rows(A, [1, 2]), rows(B, [3])), days=[A, B], sort_by=["id"])
    lake.replace("t", rows(B, []), days=[B], sort_by=["id"])
    for file in lake.files("t"):
        Path(file).unlink()
    assert lake.row_counts("t") == {A: 2}
    assert lake.row_counts("t", version=0) == {A: 2, B: 1}


def test_other_delta_readers_and_duckdb_see_the_same_rows(lake: Lake) -> None:
    lake.replace("features/x", rows(A, [1, 2]), days=[A], sort_by=["id"])
    lake.replace("features/x", rows(B, [3], extra=[1.5]), days=[B], sort_by=["id"])
    delta = DeltaTable(lake.root / "features/x").to_pyarrow_table()
    assert sorted(zip(delta["n"].to_pylist(), delta["extra"].to_pylist(), strict=True), key=str) == [
        (1, None),
        (2, None),
        (3, 1.5),
    ]
    found = duckdb.execute(
        "SELECT day, n, extra FROM read_parquet($files, hive_partitioning=true,"
        " hive_types={'day': VARCHAR}, union_by_name=true) ORDER BY n",
        {"files": lake.files("features/x")},
    ).fetchall()
    assert found == [(A, 1, None), (A, 2, None), (B, 3, 1.5)]


def test_a_file_that_was_altered_behind_the_lakes_back_is_read_again(lake: Lake) -> None:
    """Though its rows were read a moment ago, and size and time of the last write are as they were."""
    lake.replace("numbers", rows("2024-01-01", range(1000)), days=["2024-01-01"], sort_by=["n"])
    assert lake.read("numbers").num_rows == 1000
    [path] = (lake.root / "numbers").rglob("*.parquet")
    seen, content = path.stat(), bytearray(path.read_bytes())
    content[4:200] = bytes(196)
    path.write_bytes(content)
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    with pytest.raises(TerminalError, match="mlops restore"):
        lake.read("numbers")


def test_a_missing_table_says_so(lake: Lake) -> None:
    assert not lake.exists("t")
    assert lake.version("t") is None
    assert lake.files("t") == []
    assert lake.days("t") == []
    for ask in (
        lambda: lake.read("t"),
        lambda: lake.hashes("t", sort_by=["id"]),
        lambda: lake.commits("t"),
    ):
        with pytest.raises(TerminalError, match="no table t"):
            ask()


@pytest.mark.parametrize("name", ["", "../x", "a/b/c", "A", "a b", "/a", "a/", "_x", "a" * 200, "a\n"])
def test_a_name_that_could_leave_the_lake_is_refused(lake: Lake, name: str) -> None:
    with pytest.raises(TerminalError, match="no table name"):
        lake.exists(name)


@pytest.mark.parametrize("day", ["2013-1-1", "20130101", "2013-02-30", "x' OR 'x' = 'x", "", "2013-W01-1"])
def test_what_is_no_day_is_refused(lake: Lake, day: str) -> None:
    with pytest.raises(TerminalError, match="is no day"):
        lake.replace("t", rows(A, [1]), days=[day], sort_by=["id"])


def test_unknown_columns_and_versions_are_named(lake: Lake) -> None:
    lake.replace("t", rows(A, [1]), days=[A], sort_by=["id"])
    with pytest.raises(TerminalError, match="no column nope"):
        lake.read("t", columns=["n", "nope"])
    with pytest.raises(TerminalError, match="no column nope"):
        lake.files("t", where=("nope", 1, 2))
    with pytest.raises(TerminalError, match="no version 7"):
        lake.read("t", version=7)


# --- updates


def test_an_update_touches_its_own_days_only_and_says_what_it_did(lake: Lake) -> None:
    lake.replace("t", both(rows(A, [1]), rows(B, [2])), days=[A, B], sort_by=["id"])
    first, second = lake.replace("t", both(rows(A, [1]), rows(B, [5, 6])), days=[B, A], sort_by=["id"])
    assert (first.day, first.rows, first.changed) == (A, 1, False)
    assert (second.day, second.rows, second.changed, second.version) == (B, 2, True, 1)
    assert numbers(lake.read("t")) == [(A, 1), (B, 5), (B, 6)]
    assert [len(lake.files("t", days=[d])) for d in (A, B)] == [1, 1]


def test_equal_content_makes_no_commit(lake: Lake) -> None:
    lake.replace("t", rows(A, [1, 2, 3]), days=[A], sort_by=["id"])
    turned = rows(A, [1, 2, 3]).take([2, 0, 1]).select(["n", "day", "id"])
    [again] = lake.replace("t", turned, days=[A], sort_by=["id"])
    assert not again.changed
    assert again.version == lake.version("t") == 0


def test_columns_of_provenance_do_not_make_content_new(lake: Lake) -> None:
    lake.replace("t", rows(A, [1], made_of=["v1"]), days=[A], sort_by=["id"], unhashed=["made_of"])
    [again] = lake.replace("t", rows(A, [1], made_of=["v2"]), days=[A], sort_by=["id"], unhashed=["made_of"])
    assert not again.changed
    assert lake.read("t")["made_of"].to_pylist() == ["v1"]
    [other] = lake.replace("t", rows(A, [2], made_of=["v2"]), days=[A], sort_by=["id"], unhashed=["made_of"])
    assert other.changed
    assert lake.read("t")["made_of"].to_pylist() == ["v2"]


def test_a_day_can_be_emptied_and_filled_again(lake: Lake) -> None:
    [full] = lake.replace("t", rows(A, [1]), days=[A], sort_by=["id"])
    [empty] = lake.replace("t", rows(A, []), days=[A], sort_by=["id"])
    assert empty.changed
    assert empty.rows == 0
    assert lake.days("t") == []
    assert lake.read("t").num_rows == 0
    assert not lake.replace("t", rows(A, []), days=[A, B], sort_by=["id"])[0].changed
    [back] = lake.replace("t", rows(A, [1]), days=[A], sort_by=["id"])
    assert back.content_hash == full.content_hash


def test_a_first_update_without_rows_makes_an_empty_table(lake: Lake) -> None:
    [written] = lake.replace("t", rows(A, []), days=[A], sort_by=["id"])
    assert (written.rows, written.changed, written.version) == (0, False, 0)
    assert lake.exists("t")
    assert lake.read("t").column_names == ["day", "id", "n"]
    assert lake.read("t", where=("n", 1, 2)).num_rows == 0
    lake.replace("t", rows(A, [1]), days=[A], sort_by=["id"])
    assert numbers(lake.read("t")) == [(A, 1)]


def test_a_change_sees_the_rows_of_its_days_and_none_before_the_table_is(lake: Lake) -> None:
    seen: list[pa.Table | None] = []

    def change(current: pa.Table | None) -> pa.Table:
        seen.append(current)
        return both(rows(A, [1]), rows(B, [2]))

    lake.update("t", [A, B], change, sort_by=["id"])
    lake.update("t", [B], lambda t: seen.append(t) or t, sort_by=["id"])
    assert seen[0] is None
    assert numbers(seen[1]) == [(B, 2)]


def test_a_row_of_another_day_is_refused(lake: Lake) -> None:
    with pytest.raises(TerminalError, match=f"Rows of {B} were given"):
        lake.replace("t", both(rows(A, [1]), rows(B, [2])), days=[A], sort_by=["id"])
    assert not lake.exists("t")


def test_a_null_day_and_a_missing_day_column_are_refused(lake: Lake) -> None:
    nameless = pa.table({"day": pa.array([None], pa.string()), "id": ["x"]})
    with pytest.raises(TerminalError, match="Rows of None"):
        lake.replace("t", nameless, days=[A], sort_by=["id"])
    with pytest.raises(TerminalError, match="no column day"):
        lake.replace("t", nameless.drop_columns("day"), days=[A], sort_by=["id"])


def test_an_added_column_is_null_in_the_days_before_and_leaves_their_hash(lake: Lake) -> None:
    [before] = lake.replace("t", rows(A, [1]), days=[A], sort_by=["id"])
    lake.replace("t", rows(B, [2], extra=["e"]), days=[B], sort_by=["id"])
    assert lake.read("t")["extra"].to_pylist() == [None, "e"]
    assert lake.read("t", version=0).column_names == ["day", "id", "n"]
    assert lake.hashes("t", sort_by=["id"])[A] == before.content_hash
    assert not lake.update("t", [A], lambda t: t, sort_by=["id"])[0].changed
    [without] = lake.replace("t", rows(B, [2]), days=[B], sort_by=["id"])
    assert without.changed
    assert lake.read("t", days=[B])["extra"].to_pylist() == [None]


def test_an_added_column_that_is_null_throughout_is_known_from_then_on(lake: Lake) -> None:
    lake.replace("t", rows(A, [1]), days=[A], sort_by=["id"])
    wider = rows(A, [1], extra=pa.array([None], pa.float64()))
    assert [w.changed for w in lake.replace("t", wider, days=[A], sort_by=["id"])] == [False]
    assert lake.read("t").column_names == ["day", "id", "n", "extra"]
    version = lake.version("t")
    lake.replace("t", wider, days=[A], sort_by=["id"])
    assert lake.version("t") == version


def test_a_column_of_another_type_is_refused(lake: Lake) -> None:
    lake.replace("t", rows(A, [1]), days=[A], sort_by=["id"])
    with pytest.raises(TerminalError, match="column n for the table t is double"):
        lake.replace(
            "t", rows(A, [1]).drop_columns("n").append_column("n", [[1.0]]), days=[A], sort_by=["id"]
        )


@pytest.mark.parametrize(
    "values",
    [
        pa.array([None], pa.null()),
        pa.array([[1]]),
        pa.array([MORNING.replace(tzinfo=None)]),
        pa.array([1], pa.uint64()),
    ],
)
def test_a_type_the_lake_does_not_store_is_refused(lake: Lake, values: pa.Array) -> None:
    with pytest.raises(TerminalError, match="does not store the column x"):
        lake.replace("t", rows(A, [1], x=values), days=[A], sort_by=["id"])


def test_a_timestamp_finer_than_a_microsecond_is_refused(lake: Lake) -> None:
    fine = pa.array([1], pa.int64()).cast(pa.timestamp("ns", tz="UTC"))
    with pytest.raises(TerminalError, match="does not fit"):
        lake.replace("t", rows(A, [1], x=fine), days=[A], sort_by=["id"])


def test_a_column_of_nulls_without_a_type_takes_the_tables(lake: Lake) -> None:
    lake.replace("t", rows(A, [1], x=["a"]), days=[A], sort_by=["id"])
    lake.replace("t", rows(A, [1], x=pa.array([None], pa.null())), days=[A], sort_by=["id"])
    assert lake.read("t").schema.field("x").type == pa.string()


def test_append_new_keeps_what_is_there(lake: Lake) -> None:
    lake.append_new("t", rows(A, [1, 2]), key=["id"], sort_by=["id"])
    more = both(rows(A, [9, 9, 3]), rows(B, [4]))
    written = lake.append_new("t", more, key=["id"], sort_by=["id"])
    assert numbers(lake.read("t")) == [(A, 1), (A, 2), (A, 3), (B, 4)]
    assert [(w.day, w.rows, w.changed) for w in written] == [(A, 3, True), (B, 1, True)]
    assert not any(w.changed for w in lake.append_new("t", more, key=["id"], sort_by=["id"]))
    assert lake.append_new("t", rows(A, []), key=["id"], sort_by=["id"]) == []


def test_append_new_tells_about_other_days_too(lake: Lake) -> None:
    assert lake.append_new("t", rows(A, []), key=["id"], sort_by=["id"], days=[A]) == []
    assert not lake.exists("t")
    lake.append_new("t", rows(A, [1, 2]), key=["id"], sort_by=["id"])
    written = lake.append_new("t", rows(B, [4]), key=["id"], sort_by=["id"], days=[C, A])
    assert [(w.day, w.rows, w.changed) for w in written] == [(A, 2, False), (B, 1, True), (C, 0, False)]
    written = lake.append_new("t", rows(A, []), key=["id"], sort_by=["id"], days=[B])
    assert [(w.day, w.rows, w.changed) for w in written] == [(B, 1, False)]


def test_append_new_refuses_keys_that_are_null_or_double(lake: Lake) -> None:
    double = both(rows(A, [1]), rows(A, [2]))
    with pytest.raises(TerminalError, match="have the same day, id"):
        lake.append_new("t", double, key=["id"], sort_by=["id"])
    nameless = rows(A, [1]).set_column(1, "id", pa.array([None], pa.string()))
    with pytest.raises(TerminalError, match="null in their key id"):
        lake.append_new("t", nameless, key=["id"], sort_by=["id"])


def test_the_commit_names_hashes_and_provenance(lake: Lake) -> None:
    lake.replace("t", rows(A, [1]), days=[A], sort_by=["id"])
    written = lake.replace(
        "t", both(rows(A, [1]), rows(B, [2])), days=[A, B], sort_by=["id"], provenance={"files": ["f1"]}
    )
    first, newest = lake.commits("t")
    assert (newest.version, first.version) == (1, 0)
    assert newest.hashes == {B: written[1].content_hash}
    assert newest.provenance == {"files": ["f1"]}
    assert lake.hashes("t", sort_by=["id"]) == {w.day: w.content_hash for w in written}
    assert lake.hashes("t", sort_by=["id"], version=0) == {A: written[0].content_hash}


# --- versions


def test_every_version_stays_readable(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lake_module, "_CHECKPOINT_EVERY", 5)
    for n in range(23):
        lake.replace("t", rows(A if n % 2 else B, [n]), days=[A if n % 2 else B], sort_by=["id"])
    checkpoints = list((lake.root / "t" / "_delta_log").glob("*.checkpoint.parquet"))
    assert checkpoints
    for n in range(23):
        assert max(lake.read("t", version=n)["n"].to_pylist()) == n
        assert len(lake.files("t", version=n)) == min(n + 1, 2)


def test_a_table_made_again_in_the_same_place_is_seen_afresh(lake: Lake) -> None:
    for n in range(3):
        lake.replace("t", rows(A, [n]), days=[A], sort_by=["id"])
    shutil.rmtree(lake.root)
    assert not lake.exists("t")
    lake.replace("t", rows(B, [7]), days=[B], sort_by=["id"])
    assert numbers(lake.read("t")) == [(B, 7)]
    assert lake.version("t") == 0


# --- pruning


def at_hours(day: str, hours: Sequence[float]) -> pa.Table:
    start = datetime.fromisoformat(day).replace(tzinfo=UTC)
    times = pa.array([start + timedelta(hours=h) for h in hours], pa.timestamp("us", tz="UTC"))
    return rows(day, range(len(hours)), known_at=times)


def test_where_opens_only_files_whose_bounds_can_hold_a_row(lake: Lake) -> None:
    for day in (A, B, C):
        lake.replace("t", at_hours(day, [1, 30]), days=[day], sort_by=["id"])
    lo, hi = MORNING + timedelta(days=1), MORNING + timedelta(days=1, hours=12)
    kept = lake.files("t", where=("known_at", lo, hi))
    assert sorted(Path(f).parent.name for f in kept) == [f"day={A}", f"day={B}"]
    for gone in set(lake.files("t")) - set(kept):
        Path(gone).unlink()
    assert numbers(lake.read("t", where=("known_at", lo, hi))) == [(A, 1)]
    assert numbers(lake.read("t", where=("known_at", None, MORNING))) == [(A, 0)]


def test_where_on_whole_numbers_and_text_and_open_ends(lake: Lake) -> None:
    lake.replace("t", both(rows(A, [1, 5]), rows(B, [9])), days=[A, B], sort_by=["id"])
    assert numbers(lake.read("t", where=("n", 5, 9))) == [(A, 5)]
    assert numbers(lake.read("t", where=("n", 5, None))) == [(A, 5), (B, 9)]
    assert numbers(lake.read("t", where=("id", f"{A}/1", f"{B}/0"))) == [(A, 5)]
    assert lake.files("t", where=("n", 100, None)) == []


def test_where_never_keeps_a_null(lake: Lake) -> None:
    nulls = pa.array([None, 2], pa.int64())
    lake.replace("t", rows(A, [1, 2], m=nulls), days=[A], sort_by=["id"])
    lake.replace("t", rows(B, [3], m=pa.array([None], pa.int64())), days=[B], sort_by=["id"])
    assert numbers(lake.read("t", where=("m", None, None))) == [(A, 2)]


def test_where_refuses_a_bound_without_a_time_zone(lake: Lake) -> None:
    lake.replace("t", at_hours(A, [1]), days=[A], sort_by=["id"])
    with pytest.raises(TerminalError, match="no time zone"):
        lake.read("t", where=("known_at", datetime(2013, 1, 1), None))  # noqa: DTZ001
    eastern = MORNING.astimezone(timezone(timedelta(hours=-5)))
    assert lake.read("t", where=("known_at", None, eastern)).num_rows == 1


@settings(max_examples=25, deadline=None)
@given(
    offsets=st.lists(st.integers(-5_000, 5_000), min_size=1, max_size=4),
    lo=st.integers(-5_000, 5_000),
    width=st.integers(0, 3_000),
)
def test_where_is_exact_to_the_microsecond(
    tmp_path_factory: pytest.TempPathFactory, offsets: list[int], lo: int, width: int
) -> None:
    lake = Lake(tmp_path_factory.mktemp("lake"))
    moments = [MORNING + timedelta(microseconds=o) for o in offsets]
    times = pa.array(moments, pa.timestamp("us", tz="UTC"))
    lake.replace("t", rows(A, offsets, at=times), days=[A], sort_by=["id"])
    bounds = [MORNING + timedelta(microseconds=lo + w) for w in (0, width)]
    read = lake.read("t", where=("at", bounds[0], bounds[1]))
    assert sorted(read["n"].to_pylist()) == sorted(o for o in offsets if lo <= o < lo + width)


# --- content hash

CELLS = {
    "i": (pa.int64(), st.integers(-3, 3)),
    "f": (pa.float64(), st.sampled_from([0.0, -0.0, 1.5, float("nan"), float("inf")])),
    "s": (pa.string(), st.sampled_from(["", "a", "ab", "b", "é\0"])),
    "b": (pa.bool_(), st.booleans()),
    "t": (pa.timestamp("us", tz="UTC"), st.sampled_from([MORNING, MORNING + timedelta(microseconds=1)])),
}
Row = tuple[Any, ...]
some_rows = st.lists(st.tuples(*(st.none() | cell for _, cell in CELLS.values())), max_size=6)


def table_of(values: list[Row]) -> pa.Table:
    columns = zip(*values, strict=True) if values else [[] for _ in CELLS]
    return pa.table(
        {n: pa.array(list(c), kind) for (n, (kind, _)), c in zip(CELLS.items(), columns, strict=True)}
    )


def multiset(values: list[Row]) -> list[str]:
    """What the hash stands for, in another way: rows as text, sorted, -0.0 and 0.0 as one."""
    return sorted(repr(tuple(0.0 if v == 0 and isinstance(v, float) else v for v in row)) for row in values)


@settings(max_examples=50, deadline=None)
@given(values=some_rows, data=st.data())
def test_the_hash_does_not_depend_on_order_chunks_or_encoding(values: list[Row], data: st.DataObject) -> None:
    expected = content_hash(table_of(values), sort_by=["s"])
    order = data.draw(st.permutations(values))
    cut = data.draw(st.integers(0, len(values)))
    chunked = pa.concat_tables([table_of(order[:cut]), table_of(order[cut:])])
    chunked = chunked.select(data.draw(st.permutations(list(CELLS))))
    text = data.draw(
        st.sampled_from([pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
    )
    chunked = chunked.set_column(
        chunked.column_names.index("s"), "s", chunked["s"].cast(pa.string()).cast(text)
    )
    assert content_hash(chunked, sort_by=["s"]) == expected
    assert (
        content_hash(chunked.append_column("x", pa.nulls(len(values), pa.int64())), sort_by=["s"]) == expected
    )
    provenance = pa.array(range(len(values)), pa.int64())
    assert (
        content_hash(chunked.append_column("p", provenance), sort_by=["s", "p"], unhashed=["p"]) == expected
    )


@settings(max_examples=100, deadline=None)
@given(one=some_rows, other=some_rows)
def test_the_hash_is_equal_exactly_for_equal_rows(one: list[Row], other: list[Row]) -> None:
    same = content_hash(table_of(one), sort_by=["i"]) == content_hash(table_of(other), sort_by=["i"])
    assert same == (multiset(one) == multiset(other))


def test_the_hash_tells_names_types_and_split_strings_apart() -> None:
    tables = [
        pa.table({"a": [1]}),
        pa.table({"b": [1]}),
        pa.table({"a": pa.array([1], pa.int32())}),
        pa.table({"a": [True]}),
        pa.table({"a": ["1"]}),
        pa.table({"a": ["ab", "c"]}),
        pa.table({"a": ["a", "bc"]}),
        pa.table({"a": ["abc", ""]}),
        pa.table({"a": ["abc", None]}),
        pa.table({"a": [1, 1]}),
    ]
    assert len({content_hash(t, sort_by=["b"] if "b" in t.column_names else ["a"]) for t in tables}) == len(
        tables
    )


def test_the_hash_is_the_same_in_every_release() -> None:
    # Hashes are kept in commits, manifests and signatures: this one may change with _HASH_FORMAT only.
    table = pa.table(
        {
            "day": [A, A],
            "x": [0.5, None],
            "s": ["a", "b"],
            "at": pa.array([MORNING, None], pa.timestamp("us", tz="UTC")),
        }
    )
    assert (
        content_hash(table, sort_by=["s"])
        == "8d04549e77a9a26dacf20660f93b616f1e53e7fbaeff4864496aaea08abb27ac"
    )


# --- several writers


def test_an_update_that_was_overtaken_is_computed_again(lake: Lake) -> None:
    lake.replace("t", rows(A, [1]), days=[A], sort_by=["id"])
    rival = Lake(lake.root)
    calls = 0

    def add_ten(current: pa.Table | None) -> pa.Table:
        nonlocal calls
        calls += 1
        assert current is not None
        if calls == 1:
            rival.replace("t", rows(A, [100]), days=[A], sort_by=["id"])
        return rows(A, [n + 10 for n in current["n"].to_pylist()])

    [written] = lake.update("t", [A], add_ten, sort_by=["id"])
    assert calls == 2
    assert numbers(lake.read("t")) == [(A, 110)]
    assert (written.version, lake.version("t")) == (2, 2)


def test_a_day_that_was_read_and_not_written_is_watched_as_well(lake: Lake) -> None:
    lake.replace("t", both(rows(A, [1]), rows(B, [2])), days=[A, B], sort_by=["id"])
    rival = Lake(lake.root)

    def sum_into_a(current: pa.Table | None) -> pa.Table:
        assert current is not None
        held = dict(numbers(current))
        if held[B] == 2:
            rival.replace("t", rows(B, [50]), days=[B], sort_by=["id"])
        return both(rows(A, [held[B]]), rows(B, [held[B]]))

    lake.update("t", [A, B], sum_into_a, sort_by=["id"])
    assert numbers(lake.read("t")) == [(A, 50), (B, 50)]


def test_the_making_of_a_table_can_be_overtaken_too(lake: Lake) -> None:
    rival = Lake(lake.root)

    def change(current: pa.Table | None) -> pa.Table:
        if current is None:
            rival.replace("t", rows(A, [1]), days=[A], sort_by=["id"])
            return rows(A, [2])
        return rows(A, [*current["n"].to_pylist(), 2])

    lake.update("t", [A], change, sort_by=["id"])
    assert numbers(lake.read("t")) == [(A, 1), (A, 2)]


def test_a_writer_that_is_always_overtaken_gives_up_as_transient(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lake_module, "_FIRST_PAUSE", 0.0)
    rival = Lake(lake.root)
    rounds = iter(range(1000))

    def change(current: pa.Table | None) -> pa.Table:
        rival.replace("t", rows(A, [next(rounds)]), days=[A], sort_by=["id"])
        return rows(A, [-1])

    with pytest.raises(TransientError, match="10 times"):
        lake.update("t", [A], change, sort_by=["id"])
    assert lake.read("t")["n"].to_pylist() == [9]


def _append_one_by_one(root: str, writer: int, count: int, gate: Any) -> None:
    lake = Lake(Path(root))
    gate.wait()
    for i in range(count):

        def add(current: pa.Table | None, row: int = i) -> pa.Table:
            mine = pa.table(
                {"day": [A], "id": [f"{writer}-{row}"], "seen": [0 if current is None else len(current)]}
            )
            return mine if current is None else pa.concat_tables([current, mine])

        while True:
            try:
                lake.update("t", [A], add, sort_by=["id"])
                break
            except TransientError:
                continue


def _run_together(target: Callable[..., None], arguments: Sequence[tuple[Any, ...]]) -> None:
    spawn = multiprocessing.get_context("spawn")
    gate = spawn.Barrier(len(arguments))
    started = [spawn.Process(target=target, args=(*a, gate)) for a in arguments]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
        assert process.exitcode == 0


def test_processes_that_write_the_same_day_lose_nothing(tmp_path: Path) -> None:
    writers, count = 3, 4
    _run_together(_append_one_by_one, [(str(tmp_path), w, count) for w in range(writers)])
    lake = Lake(tmp_path)
    read = lake.read("t")
    assert sorted(read["id"].to_pylist()) == sorted(f"{w}-{i}" for w in range(writers) for i in range(count))
    # Each row was added to exactly the rows of the version before: the commits are one sequence.
    assert sorted(read["seen"].to_pylist()) == list(range(writers * count))
    assert lake.version("t") == writers * count - 1


def _rewrite_for_ever(root: str) -> None:
    lake = Lake(Path(root))
    n = lake.read("t")["n"].to_pylist()[0] if lake.exists("t") else 0
    while True:
        n += 1
        lake.replace("t", both(rows(A, [n] * 500), rows(B, [n] * 500)), days=[A, B], sort_by=["id"])


def test_a_killed_writer_leaves_whole_versions_only(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    spawn = multiprocessing.get_context("spawn")
    for pause in (0.0, 0.021):
        before = lake.version("t") or 0
        writer = spawn.Process(target=_rewrite_for_ever, args=(str(tmp_path),))
        writer.start()
        while (lake.version("t") or 0) < before + 4:
            assert writer.is_alive()
            time.sleep(0.002)
        time.sleep(pause)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        version = lake.version("t")
        assert version is not None
        for v in range(before, version + 1):
            held = set(numbers(lake.read("t", days=[A, B], version=v)))
            assert len({n for _, n in held}) == 1
            assert {d for d, _ in held} == {A, B}
        [written] = lake.replace("t", rows(C, [version]), days=[C], sort_by=["id"])
        assert written.version == version + 1


# --- cost of loading


def test_importing_the_lake_loads_no_heavy_library() -> None:
    code = (
        "import sys, mlops_pipelines.lake\n"
        "print([m for m in ('pyarrow', 'deltalake', 'numpy', 'pandas') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_table_without_rows_spans_no_time(lake: Lake) -> None:
    moments = pa.array([datetime(2024, 1, 2, tzinfo=UTC)], pa.timestamp("us", tz="UTC"))
    rows = pa.table({"day": ["2024-01-02"], "at": moments})
    assert lake.span("t", "at") is None
    lake.replace("t", rows, days=["2024-01-02"], sort_by=["at"])
    assert lake.span("t", "at") == (moments[0].as_py(), moments[0].as_py())
    lake.replace("t", rows.slice(0, 0), days=["2024-01-02"], sort_by=["at"])
    assert lake.span("t", "at") is None


# --- what was written, and whether it still is


def test_each_day_is_told_with_the_commit_that_last_wrote_it(lake: Lake) -> None:
    lake.replace("t", rows(A, [1, 2]), days=[A], sort_by=["id"], provenance={"run": 1})
    lake.replace("t", rows(B, [3]), days=[B], sort_by=["id"], provenance={"run": 2})
    lake.replace("t", rows(A, [4]), days=[A], sort_by=["id"], provenance={"run": 3})
    found = lake.written_by("t", [A, B, C])
    assert {day: (one.version, one.provenance["run"]) for day, one in found.items()} == {A: (2, 3), B: (1, 2)}
    assert lake.written_by("t", [A], version=1)[A].provenance == {"run": 1}


def test_an_altered_byte_of_a_file_is_told(lake: Lake) -> None:
    lake.replace("t", rows(A, [1, 2]), days=[A], sort_by=["id"])
    lake.replace("t", rows(B, [3]), days=[B], sort_by=["id"])
    assert lake.altered("t", [A, B, C]) == {}
    [path] = map(Path, lake.files("t", days=[B]))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    wrong = lake.altered("t", [A, B])
    assert (list(wrong), "has SHA-256" in wrong[B].why) == ([B], True)
    assert wrong[B].recorded != wrong[B].found == hashlib.sha256(content).hexdigest()
    path.unlink()
    assert "cannot be read" in lake.altered("t", [A, B])[B].why


# --- what is kept


def test_each_file_says_the_versions_that_hold_it(lake: Lake) -> None:
    for value in (1, 2):
        lake.replace("t", rows(A, [value]), days=[A], sort_by=["id"])
    lake.replace("t", rows(B, [3]), days=[B], sort_by=["id"])
    assert [(one.day, one.since, one.until) for one in lake.stored("t")] == [
        (A, 0, 1),
        (A, 1, None),
        (B, 2, None),
    ]
    assert all(one.bytes == one.path.stat().st_size for one in lake.stored("t"))
    assert [commit.version for commit in lake.commits("t")] == [0, 1, 2]
    assert lake.tables() == ["t"]


def test_a_removed_day_is_in_the_older_versions_still(lake: Lake) -> None:
    lake.replace("t", both(rows(A, [1]), rows(B, [2])), days=[A, B], sort_by=["id"])
    assert lake.remove_days("t", [A, C], {"why": "old"}) == 1
    assert lake.remove_days("t", [A, C], {"why": "old"}) == 0
    assert numbers(lake.read("t")) == [(B, 2)]
    assert numbers(lake.read("t", version=0)) == [(A, 1), (B, 2)]
    assert lake.commits("t")[-1].provenance == {"why": "old"}
    # And it can be written anew.
    [written] = lake.replace("t", rows(A, [1]), days=[A], sort_by=["id"])
    assert (written.changed, written.rows_before) == (True, 0)


def test_a_version_whose_files_were_freed_says_so(lake: Lake) -> None:
    for value in (1, 2):
        lake.replace("t", rows(A, [value]), days=[A], sort_by=["id"])
    lake.stored("t")[0].path.unlink()
    assert [one.since for one in lake.stored("t")] == [1]
    with pytest.raises(TerminalError, match=r"Files of version 0 of the table t are gone.*\n.*mlops gc"):
        lake.read("t", version=0)
    assert numbers(lake.read("t")) == [(A, 2)]


def test_a_file_that_no_version_holds_is_left_behind_once_it_is_old(lake: Lake) -> None:
    lake.replace("t", rows(A, [1]), days=[A], sort_by=["id"])
    orphan = lake.root / "t" / f"day={A}" / "part-of-a-killed-writer.parquet"
    orphan.write_bytes(b"half")
    now = datetime.fromtimestamp(orphan.stat().st_mtime, UTC)
    assert lake.left_behind("t", now - timedelta(hours=1)) == []
    [found] = lake.left_behind("t", now + timedelta(hours=1))
    assert (found.path, found.day, found.bytes) == (orphan, A, 4)
