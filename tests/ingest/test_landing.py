"""Landed files: which are seen, and what is read from them."""

from __future__ import annotations

import gzip
import hashlib
import os
import tracemalloc
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_pipelines.errors import UserError
from mlops_pipelines.ingest.landing import (
    LandedTable,
    MisplacedFileError,
    UnreadableFileError,
    list_files,
    read_file,
    read_landed,
)
from mlops_pipelines.ledger.landing import FileFact
from tests.ingest.files import PACKERS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def landed(folder: Path, name: str, content: bytes = b"x") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def as_listed(folder: Path, path: str) -> FileFact:
    facts = os.lstat(folder / path) if not (folder / path).exists() else os.stat(folder / path)
    modified = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=facts.st_mtime_ns // 1000)
    return FileFact(path, facts.st_size, modified, "2013-01-01")


def read(folder: Path, name: str, content: bytes) -> LandedTable:
    return read_file(landed(folder, name, content))


def test_files_are_listed_by_day_and_path(tmp_path: Path) -> None:
    for name in ("2013-01-02/b.csv", "2013-01-02/a.csv", "2013-01-01/part/c.csv"):
        landed(tmp_path, name)
    assert [fact.path for fact in list_files(tmp_path)] == [
        "2013-01-01/part/c.csv",
        "2013-01-02/a.csv",
        "2013-01-02/b.csv",
    ]
    assert [fact.arrival_day for fact in list_files(tmp_path)] == ["2013-01-01", "2013-01-02", "2013-01-02"]


def test_only_days_since_are_listed(tmp_path: Path) -> None:
    for day in (1, 2, 3):
        landed(tmp_path, f"2013-01-0{day}/a.csv")
    found = list_files(tmp_path, since_day=date(2013, 1, 2))
    assert [fact.arrival_day for fact in found] == ["2013-01-02", "2013-01-03"]


def test_a_fact_says_size_and_modification_time(tmp_path: Path) -> None:
    path = landed(tmp_path, "2013-01-01/a.csv", b"12345")
    os.utime(path, ns=(0, 1_357_000_000_123_456_789))
    (fact,) = list_files(tmp_path)
    assert fact.size == 5
    assert fact.modified_at == datetime(2013, 1, 1, 0, 26, 40, 123456, tzinfo=UTC)


def test_unfinished_files_and_folders_are_left_out(tmp_path: Path) -> None:
    for name in ("2013-01-01/.a.csv.12", "2013-01-01/_a.csv", "_unfinished/a.csv", ".tmp/a.csv", "_notes"):
        landed(tmp_path, name)
    assert list_files(tmp_path) == []


@pytest.mark.parametrize("name", ["a.csv", "2013-13-01/a.csv", "20130101/a.csv", "january/a/b.csv"])
def test_what_lies_in_no_day_folder_is_listed_on_the_day_of_its_modification_and_refused(
    tmp_path: Path, name: str
) -> None:
    os.utime(landed(tmp_path, name), (0, 1_357_000_000))
    (fact,) = list_files(tmp_path)
    assert (fact.path, fact.arrival_day) == (name, "2013-01-01")
    assert list_files(tmp_path, date(2013, 1, 2)) == []
    with pytest.raises(MisplacedFileError, match=r"(?s)lies in no folder.*Try: land it under .*/2013-01-05"):
        read_landed(tmp_path, fact)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no landing folder"):
        list_files(tmp_path / "events")


def test_links_out_of_the_zone_are_refused(tmp_path: Path) -> None:
    outside = landed(tmp_path, "secret/a.csv")
    zone = tmp_path / "events"
    landed(zone, "2013-01-01/b.csv")
    (zone / "2013-01-01" / "a.csv").symlink_to(outside)
    (zone / "2013-01-02").symlink_to(outside.parent)
    listed = [fact.path for fact in list_files(zone)]
    assert sorted(listed) == ["2013-01-01/a.csv", "2013-01-01/b.csv", "2013-01-02"]
    with pytest.raises(MisplacedFileError, match=r"leads out of the landing folder, to .*secret/a.csv"):
        read_landed(zone, as_listed(zone, "2013-01-01/a.csv"))
    for path in ("2013-01-02", "2013-01-02/a.csv"):
        with pytest.raises(MisplacedFileError, match="leads out"):
            read_landed(zone, as_listed(zone, path))


@pytest.mark.parametrize("target", ["../2013-01-01", "nowhere", "round"])
def test_links_to_folders_or_nothing_are_refused(tmp_path: Path, target: str) -> None:
    landed(tmp_path, "2013-01-01/b.csv")
    (tmp_path / "2013-01-01" / "round").symlink_to(target)
    assert [fact.path for fact in list_files(tmp_path)] == ["2013-01-01/b.csv", "2013-01-01/round"]
    with pytest.raises(MisplacedFileError, match="is no file"):
        read_landed(tmp_path, as_listed(tmp_path, "2013-01-01/round"))


def test_names_that_are_not_utf8_are_written_out(tmp_path: Path) -> None:
    landed(tmp_path, os.fsdecode(b"2013-01-01/caf\xe9.csv"))
    assert [fact.path for fact in list_files(tmp_path)] == ["2013-01-01/caf\\xe9.csv"]


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    landed(tmp_path, "2013-01-01/b.csv")
    os.mkfifo(tmp_path / "2013-01-01" / "a.csv")
    with pytest.raises(MisplacedFileError, match="is no file"):
        read_landed(tmp_path, as_listed(tmp_path, "2013-01-01/a.csv"))


def test_a_link_within_the_zone_is_a_file(tmp_path: Path) -> None:
    target = landed(tmp_path, "2013-01-01/b.csv")
    (tmp_path / "2013-01-01" / "a.csv").symlink_to(target)
    assert len(list_files(tmp_path)) == 2
    assert read_landed(tmp_path, as_listed(tmp_path, "2013-01-01/a.csv")).digest == read_file(target).digest


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    table = pa.table({"a": [1, None], "t": pa.array([0, 1], pa.timestamp("ms", tz="UTC"))})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    found = read_file(path)
    assert found.table == table
    assert found.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert list(found.file_rows) == [0, 1]
    assert found.rows == 2


PACKED = [("", bytes), *PACKERS.items()]


@pytest.mark.parametrize(("suffix", "pack"), PACKED)
def test_csv_columns_are_texts_and_empty_fields_missing(
    tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]
) -> None:
    content = '\ufeffa,b\r\n1,x\r\n,"y, ""z""\nmore"\r\n\r\n3,é\r\n'.encode()
    found = read(tmp_path, f"a.csv{suffix}", pack(content))
    assert found.table.to_pylist() == [
        {"a": "1", "b": "x"},
        {"a": None, "b": 'y, "z"\nmore'},
        {"a": "3", "b": "é"},
    ]


@pytest.mark.parametrize(("suffix", "pack"), PACKED)
def test_a_file_that_is_too_large_unpacked_is_refused(
    tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]
) -> None:
    path = landed(tmp_path, f"a.csv{suffix}", pack(b"a\n" + b"1\n" * 5_000))
    assert read_file(path, most_bytes=10_002).rows == 5_000
    with pytest.raises(UnreadableFileError, match=r"10KB are allowed \(`file_size_halts`") as caught:
        read_file(path, most_bytes=10_000)
    assert caught.value.digest == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(("suffix", "pack"), PACKED[1:])
def test_a_bomb_is_not_unpacked(tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]) -> None:
    path = landed(tmp_path, f"a.csv{suffix}", pack(bytes(200_000_000)))
    tracemalloc.start()
    with pytest.raises(UnreadableFileError, match="unpacked, it has more"):
        read_file(path, most_bytes=1_000_000)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(("suffix", "pack"), PACKED[1:])
def test_packed_files_that_are_cut_short_are_refused(
    tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]
) -> None:
    content = b"a\n" + b"".join(b"%d\n" % n for n in range(20_000))
    with pytest.raises(UnreadableFileError, match="cannot be read"):
        read(tmp_path, f"a.csv{suffix}", pack(content)[:-20])


def test_csv_lines_of_another_length_are_kept_aside(tmp_path: Path) -> None:
    found = read(tmp_path, "a.csv", b"a,b\n1,2\n3\n4,5,6\n7,8\n")
    assert found.table.num_rows == 2
    assert list(found.file_rows) == [0, 3]
    assert [(row.file_row, row.text) for row in found.unparsed] == [(1, "3"), (2, "4,5,6")]
    assert found.rows == 4


def test_json_lines_are_read_as_text_formats_are(tmp_path: Path) -> None:
    content = b'{"a": 1, "b": "x"}\n\n{"b": true, "c": [1, {"d": null}]}\n'
    found = read(tmp_path, "a.jsonl", content)
    assert found.table.to_pylist() == [
        {"a": "1", "b": "x", "c": None},
        {"a": None, "b": "true", "c": '[1, {"d": null}]'},
    ]
    assert found.nested == {"c": (1,)}


def test_lines_that_are_no_json_objects_are_kept_aside(tmp_path: Path) -> None:
    lines = [b'{"a": 1}', b"{a: 1}", b"[1]", b'{"a": 1, "a": 2}', b'{"a": NaN}', b'{"a": 2}']
    found = read(tmp_path, "a.jsonl", b"\n".join(lines))
    assert list(found.file_rows) == [0, 5]
    assert [row.file_row for row in found.unparsed] == [1, 2, 3, 4]
    assert all(row.text == lines[row.file_row].decode() for row in found.unparsed)


def test_lines_that_are_nested_too_deeply_leave_the_others_alone(tmp_path: Path) -> None:
    """At some depths a value can be read and not be written again."""
    depths = range(1, 1200)
    lines = "".join(f'{{"a": {"[" * depth}{"]" * depth}}}\n{{"a": 1}}\n' for depth in depths)
    found = read(tmp_path, "a.jsonl", lines.encode())
    values = found.table["a"].to_pylist()
    assert found.rows == 2 * len(depths)
    assert values.count("1") == len(depths)
    assert found.nested["a"] == tuple(place for place, value in enumerate(values) if value != "1")
    assert {row.file_row % 2 for row in found.unparsed} == {0}


def test_an_empty_json_file_has_no_rows(tmp_path: Path) -> None:
    assert read(tmp_path, "a.jsonl", b"").rows == 0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.parquet", b"a,b\n1,2\n"),
        ("a.parquet", b""),
        ("a.parquet", b"PAR1" + b"\0" * 100 + b"PAR1"),
        ("a.csv", b""),
        ("a.csv", b"a,a\n1,2\n"),
        ("a.csv", b"a,b\n\xff\xfe,1\n"),
        ("a.csv", b'a,b\n"1,2\n'),
        ("a.csv.gz", b"a,b\n1,2\n"),
        ("a.csv.gz", gzip.compress(b"a,b\n1,2\n", mtime=0)[:-9]),
        ("a.jsonl", b"PAR1\nPAR1"),
        ("a.jsonl", b"\x80"),
        ("a.xlsx", b"anything"),
        ("parquet", b"anything"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    with pytest.raises(UnreadableFileError, match="cannot be read") as caught:
        read(tmp_path, name, content)
    assert caught.value.digest == hashlib.sha256(content).hexdigest()
    assert str(tmp_path / name) in caught.value.message


def test_parquet_cut_short_is_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.parquet"
    pq.write_table(pa.table({"a": list(range(1000))}), whole)
    content = whole.read_bytes()
    for cut in (1, len(content) // 2, len(content) - 1):
        with pytest.raises(UnreadableFileError):
            read(tmp_path, "cut.parquet", content[:cut])


def test_text_that_is_not_utf8_within_parquet_is_refused(tmp_path: Path) -> None:
    broken = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe"))
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": broken}), path)
    with pytest.raises(UnreadableFileError, match="UTF8"):
        read_file(path)
