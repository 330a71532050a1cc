"""Bad input of every kind: what becomes of it, and that all that lies beside it is taken in."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mlops_pipelines.clock import FixedClock
from mlops_pipelines.home import Home, PipelineHome
from mlops_pipelines.ingest import taking
from mlops_pipelines.ingest.contract import Contract
from mlops_pipelines.ledger.landing import FileFact
from mlops_pipelines.spec import PipelineSpec
from mlops_pipelines.spec_loading import LoadedSpec
from tests.ingest.files import Row, as_csv, as_jsonl, columns_of, gz, packed, parquet, written, zstd

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

NOON = datetime(2013, 1, 2, 12, tzinfo=UTC)
DAY = timedelta(days=1)
FOLDER = "2013-01-02"
MS = pa.timestamp("ms")
MB = 10**6
# A file has so many rows: enough for shares to mean something.
ROWS = 12

FORMATS = ("parquet", "csv", "jsonl", "csv.gz", "jsonl.gz", "csv.zst", "jsonl.zst")
TEXTS = FORMATS[1:]
CSVS = tuple(name for name in TEXTS if name.startswith("csv"))
JSONS = tuple(name for name in TEXTS if name.startswith("jsonl"))


def loaded(**changes: Any) -> LoadedSpec:
    """A pipeline without an end, whose contract has rules of values and files. changes: of the contract."""
    spec = PipelineSpec.model_validate(
        {
            "name": "orders",
            "partitions": {"start": "2013-01-01"},
            "lateness": "36525d",
            "events": {"landing": "landing/events", "time": "at", "arrived": "arrived_at"},
            "labels": {
                "landing": "landing/labels", "value": "late", "time": "ended_at", "matures_after": "1d",
                "publish_lag": "36h",
            },
            "references": {
                "weather": {
                    "landing": "landing/weather", "keys": ["place"], "time": "at", "publish_lag": "36h"
                }
            },
            "features": {},
        }
    )  # fmt: skip
    contract = {
        "events": {
            "columns": {
                "event_id": {"type": "string", "pattern": r"[a-z]+\d+"},
                "at": {"type": "timestamp"},
                "arrived_at": {"type": "timestamp"},
                "n": {"type": "int"},
                "x": {"type": "float", "nullable": True, "batch": {"missing_at_most": 0.5}},
                "kind": {"type": "string", "one_of": ["a", "b"]},
                "channel": {
                    "type": "string",
                    "one_of": ["web", "shop"],
                    "batch": {"others_at_most": 0.25},
                },
                "level": {"type": "float", "batch": {"distinct_at_least": 0.2, "std": {"min": 0.1}}},
                "note": {"type": "string", "nullable": True},
            }
        },
        "labels": {
            "columns": {
                "event_id": {"type": "string"},
                "ended_at": {"type": "timestamp"},
                "late": {"type": "bool"},
            }
        },
        "references": {
            "weather": {
                "columns": {
                    "place": {"type": "string"},
                    "at": {"type": "timestamp"},
                    "temp": {"type": "float"},
                }
            }
        },
        "reject_share_halts": 0.5,
        "file_size_halts": "60MB",
        **changes,
    }
    return LoadedSpec(spec, Contract.model_validate(contract), Path("orders/defs.yaml"))


PIPELINE = loaded()


def new_home(path: Path, pipeline: LoadedSpec = PIPELINE) -> PipelineHome:
    place = Home.create(path).pipeline(pipeline)
    place.prepare()
    return place


@pytest.fixture
def place(tmp_path: Path) -> PipelineHome:
    return new_home(tmp_path)


def rows(
    prefix: str = "bad", changes: Mapping[int, Row] | None = None, every: Row | None = None
) -> list[Row]:
    """Rows that keep the contract but for what is changed in some of them, by place, or in every one."""
    return [
        {
            "event_id": f"{prefix}{i}",
            "at": NOON + i * timedelta(minutes=1),
            "arrived_at": NOON + timedelta(hours=1),
            "n": i,
            "x": i + 0.5,
            "kind": "ab"[i % 2],
            "channel": "web",
            "level": float(i),
            "note": None,
        }
        | (every or {})
        | (changes or {}).get(i, {})
        for i in range(ROWS)
    ]


# --- the table -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bad:
    """A file, and what is to be found of it.

    content: given the prefix of the ids of its rows. quarantined: reason codes by place in the file.
    refused: words of the refusal of the whole file. holds: values of accepted rows by place, as they stand
    in the table. landed: its rows; unless it is refused, all that are not quarantined are accepted.
    """

    file: str
    content: Callable[[str], bytes]
    quarantined: Mapping[int, str] = field(default_factory=dict)
    refused: str = ""
    holds: Mapping[int, Row] = field(default_factory=dict)
    landed: int = ROWS

    def ids(self, prefix: str) -> set[str]:
        """Those of the rows that are accepted."""
        accepted = set() if self.refused else set(range(self.landed)) - self.quarantined.keys()
        return {f"{prefix}{place}" for place in accepted}


def changed(
    kinds: Collection[str],
    changes: Mapping[int, Row],
    codes: Mapping[int, str] | None = None,
    *,
    refused: str = "",
    holds: Mapping[int, Row] | None = None,
    every: Row | None = None,
    types: Mapping[str, pa.DataType] | None = None,
) -> list[Bad]:
    """A file of each kind with some of its rows, or every one, changed."""

    def bad(name: str) -> Bad:
        def content(prefix: str) -> bytes:
            return written(name, rows(prefix, changes, every), types)

        return Bad(name, content, codes or {}, refused, holds or {})

    return [bad(f"bad.{kind}") for kind in kinds]


def of_rows(kinds: Collection[str], change: Callable[[Row], Row], refused: str = "") -> list[Bad]:
    """A file of each kind whose rows have other columns."""

    def bad(name: str) -> Bad:
        return Bad(name, lambda prefix: written(name, [change(row) for row in rows(prefix)]), refused=refused)

    return [bad(f"bad.{kind}") for kind in kinds]


def of_extra(values: pa.Array) -> Bad:
    """A Parquet file with a column that the contract does not name, these values over and over, and a row
    that is quarantined."""
    times = pa.array([place % len(values) for place in range(ROWS)])

    def content(prefix: str) -> bytes:
        table = pa.table(columns_of(rows(prefix, {6: {"kind": "c"}}), {}))
        return parquet(table.append_column("more", values.take(times)))

    return Bad("bad.parquet", content, {6: "set"})


def of_lines(
    kinds: Collection[str], change: Callable[[str], str], code: str = "", refused: str = ""
) -> list[Bad]:
    """A text file of each kind whose row 6 has another line, for which it, or the file, is rejected."""

    def bad(kind: str) -> Bad:
        is_csv = kind.startswith("csv")

        def content(prefix: str) -> bytes:
            lines = (as_csv if is_csv else as_jsonl)(rows(prefix)).splitlines()
            lines[6 + is_csv] = change(lines[6 + is_csv])
            return packed(kind, "\n".join(lines).encode())

        return Bad(f"bad.{kind}", content, {6: code} if code else {}, refused)

    return [bad(kind) for kind in kinds]


def of_text(
    kinds: Collection[str], change: Callable[[str], bytes], refused: str = "", landed: int = ROWS
) -> list[Bad]:
    """A text file of each kind, changed as a whole."""

    def bad(kind: str) -> Bad:
        def content(prefix: str) -> bytes:
            return packed(kind, change((as_csv if kind.startswith("csv") else as_jsonl)(rows(prefix))))

        return Bad(f"bad.{kind}", content, refused=refused, landed=landed)

    return [bad(kind) for kind in kinds]


def of_table(change: Callable[[pa.Table], pa.Table], refused: str = "", landed: int = ROWS) -> Bad:
    """A Parquet file whose table is changed."""
    return Bad(
        "bad.parquet",
        lambda prefix: parquet(change(pa.table(columns_of(rows(prefix), {})))),
        refused=refused,
        landed=landed,
    )


def cut(kinds: Collection[str], keep: float, refused: str) -> list[Bad]:
    """A file of each kind that ends too early."""

    def bad(name: str) -> Bad:
        def content(prefix: str) -> bytes:
            whole = written(name, rows(prefix))
            return whole[: int(len(whole) * keep)]

        return Bad(name, content, refused=refused)

    return [bad(f"bad.{kind}") for kind in kinds]


def raw(kinds: Collection[str], content: bytes, refused: str = "", landed: int = 0) -> list[Bad]:
    return [Bad(f"bad.{kind}", lambda _: content, refused=refused, landed=landed) for kind in kinds]


def named(name: str) -> Bad:
    """A good file of a name that is none."""
    return Bad(name, lambda prefix: written(name, rows(prefix)))


def with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)


def without(name: str) -> Callable[[Row], Row]:
    return lambda row: {other: row[other] for other in row if other != name}


def replacing(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return change


SIX = {6: "type"}
BOTH = {6: "type", 7: "type"}
AT_SIX = {6: {"event_time": NOON + timedelta(minutes=6)}}
FAR_OFF = [datetime(year, 6, 1, tzinfo=UTC) for year in (3000, 9999)]
US = pa.timestamp("us")
YEAR_148108 = 2**62
TWICE = pa.StructArray.from_arrays([pa.array([1]), pa.array([YEAR_148108], US)], names=["a", "a"])
DEEP = "[" * 100_000 + "]" * 100_000
LONG = "z" * 50 * MB

CASES: dict[str, list[Bad]] = {
    "cut short": [
        *(bad for keep in (0.1, 0.5, 0.99) for bad in cut(["parquet"], keep, "cannot be read")),
        *cut(["csv.gz", "jsonl.gz", "csv.zst", "jsonl.zst"], 0.5, "cannot be read"),
    ],
    "invalid JSON in the middle": [
        *of_lines(JSONS, lambda line: line[:30], "unparsed"),
        *of_lines(JSONS, lambda line: "[1, 2]", "unparsed"),
        *of_lines(["jsonl"], replacing('"n"', '"x"'), "unparsed"),
    ],
    "a line of another length": [
        *of_lines(CSVS, lambda line: f"{line},7", "unparsed"),
        *of_lines(CSVS, lambda line: line[:20], "unparsed"),
        *of_lines(["csv"], lambda line: f'"{line}', refused="cannot be read: unexpected end of data"),
    ],
    "wrong encoding": [
        *of_text(TEXTS, lambda text: text.replace("web", "wéb").encode("latin-1"), "cannot be read: 'utf-8'"),
        *of_text(TEXTS, lambda text: text.encode("utf-16"), "cannot be read: 'utf-8'"),
        *of_text(["csv"], lambda text: text.encode("utf-16-le"), "has no column event_id"),
        *of_text(["jsonl"], lambda text: text.encode("utf-16-le"), "no line is a JSON object"),
        *of_text(TEXTS, lambda text: text.encode("utf-8-sig")),
        *of_lines(["jsonl"], replacing('"web"', '"\\ud800"'), "unparsed"),
        of_table(
            lambda table: with_column(table, "note", pa.array([b"\xff\xfe"] * ROWS)),
            "note is binary, not string",
        ),
    ],
    "a missing column": [
        *of_rows(["parquet", *CSVS], without("n"), "has no column n"),
        *of_rows(JSONS, without("n"), "n is present fails in 12 rows"),
        *of_rows(JSONS, without("note")),
        *of_lines(["jsonl"], replacing('"n": 6, ', ""), "missing"),
    ],
    "extra columns": of_rows(FORMATS, lambda row: row | {"more": 1, "file_row": 7, "day": "x"}),
    "extra values that Python cannot hold": [
        of_extra(pa.array([1], pa.timestamp("us", tz="Mars/Base"))),
        of_extra(pa.array([1], pa.timestamp("us", tz="+25:00"))),
        of_extra(pa.array([YEAR_148108], US)),
        of_extra(pa.array([[YEAR_148108, None, 0]], pa.list_(US))),
        of_extra(pa.array([[YEAR_148108]], pa.list_(US, 1))),
        of_extra(pa.array([(YEAR_148108, 1)], pa.struct([("t", US), ("n", pa.int64())]))),
        of_extra(pa.array([[("k", YEAR_148108)]], pa.map_(pa.string(), US))),
        of_extra(pa.array([YEAR_148108], US).dictionary_encode()),
        of_extra(pa.array([2**62], pa.duration("s"))),
        of_extra(TWICE),
        of_extra(pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), TWICE)),
    ],
    "a renamed column": of_rows(
        ["parquet", *CSVS],
        lambda row: {name.replace("note", "Note"): row[name] for name in row},
        "has no column note",
    ),
    "reordered columns": of_rows(FORMATS, lambda row: dict(reversed(row.items()))),
    "a column twice": [
        *of_text(["csv", "csv.gz"], lambda text: text.replace("level", "n", 1).encode(), "one column n"),
        of_table(lambda table: table.append_column("n", table["n"]), "more than one column n"),
    ],
    "whole numbers as text": [
        *changed(FORMATS, {i: {"n": str(i)} for i in range(ROWS)}, holds={6: {"n": 6}}),
        *changed(TEXTS, {6: {"n": "+6.0"}}, holds={6: {"n": 6}}),
    ],
    "a decimal comma": [
        *changed(TEXTS, {6: {"n": "12,5"}, 7: {"x": "12,5"}}, BOTH),
        *changed(["parquet"], {i: {"n": "12,5" if i == 6 else "1"} for i in range(ROWS)}, SIX),
    ],
    "NaN": [
        *changed(CSVS, {6: {"x": "NaN"}, 7: {"level": "nan"}}, BOTH),
        *changed(JSONS, {6: {"x": math.nan}}, {6: "unparsed"}),
        *changed(
            ["parquet"], {6: {"x": math.nan}, 7: {"level": math.nan}}, {7: "missing"}, holds={6: {"x": None}}
        ),
    ],
    "infinity": [
        *changed(CSVS, {6: {"x": "inf"}, 7: {"x": "-Infinity"}}, BOTH),
        *changed(JSONS, {6: {"x": math.inf}, 7: {"x": -math.inf}}, {6: "unparsed", 7: "unparsed"}),
        *changed(["parquet"], {6: {"x": math.inf}, 7: {"x": -math.inf}}, BOTH),
        *of_lines(TEXTS, replacing("6.5", "1e999"), "type"),
    ],
    "minus zero": [
        *changed(FORMATS, {6: {"x": -0.0}}, holds={6: {"x": 0.0}}),
        *changed(TEXTS, {6: {"n": "-0"}}, holds={6: {"n": 0}}),
    ],
    "two to the power of 63": [
        *changed(TEXTS, {6: {"n": 2**63}, 7: {"n": 2**63 - 1}}, SIX, holds={7: {"n": 2**63 - 1}}),
        *changed(["parquet"], {6: {"n": 2**63}}, SIX, types={"n": pa.uint64()}),
        *changed(["parquet"], {6: {"n": 2.0**63}}, SIX, types={"n": pa.float64()}),
        *changed(TEXTS, {6: {"x": 2**63}}, holds={6: {"x": 2.0**63}}),
        *of_lines(["jsonl"], replacing('"n": 6', f'"n": 1{5000 * "0"}'), "unparsed"),
    ],
    "a burst of nulls": [
        *changed(FORMATS, {i: {"x": None} for i in range(6)}),
        *changed(FORMATS, {i: {"x": None} for i in range(7)}, refused="50.00% of x is missing, found 58.33%"),
        *changed(FORMATS, {}, every={"n": None}, refused="12 of 12 rows break the contract: n is present"),
    ],
    "a new category": [
        *changed(FORMATS, {6: {"kind": "c"}}, {6: "set"}),
        *changed(FORMATS, {i: {"channel": "app"} for i in range(3)}, holds={0: {"channel": "app"}}),
        *changed(
            FORMATS,
            {i: {"channel": "app"} for i in range(4)},
            refused="at most 25.00% of channel is none of web, shop, found 33.33%",
        ),
    ],
    "a burst of one value": changed(
        FORMATS,
        {},
        every={"level": 7.0},
        refused="20.00% of level is distinct, found 0.08333; the std of level is at least 0.1, found 0",
    ),
    "times without a zone": [
        *changed(TEXTS, {6: {"at": "2013-01-02T12:06:00"}}, holds=AT_SIX),
        *changed(["parquet"], {}, types={"at": pa.timestamp("us")}, holds=AT_SIX),
    ],
    "times with an offset": [
        *changed(TEXTS, {6: {"at": "2013-01-02 17:06+05:00"}}, holds=AT_SIX),
        *changed(["parquet"], {}, types={"at": pa.timestamp("us", tz="Asia/Tokyo")}, holds=AT_SIX),
    ],
    "times in milliseconds": [
        *changed(TEXTS, {6: {"at": 1_357_000_000_000}, 7: {"at": "1357000000000"}}, BOTH),
        *changed(["parquet"], {}, types={"at": pa.timestamp("ms")}, holds=AT_SIX),
        of_table(
            lambda table: with_column(table, "at", table["at"].cast(pa.int64())), "at is int64, not timestamp"
        ),
    ],
    "the far future": [
        *changed(FORMATS, {6: {"at": FAR_OFF[0]}, 7: {"at": FAR_OFF[1]}}, {6: "partition", 7: "partition"}),
        *changed(FORMATS, {6: {"at": NOON + timedelta(days=366)}}),
        *changed(TEXTS, {6: {"at": "9999-12-31T23:59:59.999999"}, 7: {"at": "12013-01-02T12:06Z"}}, BOTH),
        *changed(["parquet"], {6: {"at": 2**60}}, SIX, every={"at": 1_357_000_000_000}, types={"at": MS}),
    ],
    "before the first partition": changed(
        FORMATS,
        {6: {"at": datetime(2012, 12, 31, 23, 59, tzinfo=UTC)}, 7: {"at": datetime(1, 1, 1, tzinfo=UTC)}},
        {6: "partition", 7: "partition"},
    ),
    "empty": [
        *raw(["parquet"], b"", refused="cannot be read"),
        *(bad for kind in CSVS for bad in raw([kind], packed(kind, b""), refused="it has no header line")),
        *(bad for kind in JSONS for bad in raw([kind], packed(kind, b""))),
        *raw(["csv.gz", "csv.zst", "jsonl.gz", "jsonl.zst"], b"", refused="cannot be read: it is empty"),
    ],
    "header only": of_text(CSVS, lambda text: text.splitlines()[0].encode(), landed=0),
    "no rows": [
        of_table(lambda table: table.slice(0, 0), landed=0),
        of_table(lambda table: table.slice(0, 0).drop_columns("n"), landed=0),
        *raw(["jsonl"], b"\n \n\n"),
    ],
    "a text of 50 MB": [
        *changed(["parquet", "csv"], {6: {"note": LONG}}, holds={6: {"note": LONG}}),
        *changed(["jsonl.zst"], {6: {"kind": LONG}}, {6: "set"}),
    ],
    "larger than the bound": raw(
        ["parquet", "csv", "jsonl.gz"], bytes(60 * MB + 1), refused="60,000,001 bytes, and 60MB are allowed"
    ),
    "a bomb": [
        *raw(["csv.gz"], gz(bytes(300 * MB)), refused="unpacked, it has more, and 60MB are allowed"),
        *raw(["jsonl.zst"], zstd(bytes(300 * MB)), refused="unpacked, it has more, and 60MB are allowed"),
    ],
    "nested values": [
        *changed(JSONS, {6: {"n": {"v": 6}}, 7: {"x": [7.5]}}, BOTH),
        *changed(JSONS, {6: {"event_id": {"id": "x"}}, 7: {"note": ["a"]}}, BOTH),
        *changed(["parquet"], {}, every={"n": {"v": 6}}, refused="n is struct<v: int64>, not int"),
        *of_lines(["jsonl"], replacing('"web"', DEEP), "unparsed"),
        *of_lines(["jsonl"], lambda line: DEEP, "unparsed"),
    ],
    "an odd name": [
        *map(
            named,
            ["two words and  blanks .csv", "a\nnew line.jsonl", "naïve – 名前 🚀.parquet", "cafe\u0301.csv",
             "%2e%2e%2fsecret.csv", "C:\\..\\secret.csv", "day=2013-01-01/part-0.parquet",
             "'; DROP TABLE landed_files; --.csv"],
        ),
        Bad("bad.xlsx", lambda _: b"anything", refused="its name does not say what it is"),
        Bad("a\nnew line.csv", lambda _: b"", refused="it has no header line"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_named_and_all_beside_it_is_taken_in(place: PipelineHome, name: str) -> None:
    beside = land_beside(place)
    landed: list[tuple[str, Bad, str]] = []
    for number, bad in enumerate(CASES[name]):
        prefix = f"bad{chr(ord('a') + number // 26)}{chr(ord('a') + number % 26)}"
        content = bad.content(prefix)
        land(place, f"{prefix}/{bad.file}", content)
        landed.append((prefix, bad, hashlib.sha256(content).hexdigest()))
    taken = take(place)
    assert ids_in(place, "good") == beside
    events = {row["event_id"]: row for row in place.lake.read("events").to_pylist()}
    rows_of = {file.digest: file.rows for file in taken.files}
    for prefix, bad, digest in landed:
        assert ids_in(place, prefix) == bad.ids(prefix), bad.file
        wanted = {place: {code} for place, code in bad.quarantined.items()}
        assert reasons(place, digest) == wanted, bad.file
        assert rows_of[digest] == (0 if bad.refused else bad.landed)
        for row, values in bad.holds.items():
            assert {name: events[f"{prefix}{row}"][name] for name in values} == values
    refused = [(f"{prefix}/{bad.file}", bad.refused) for prefix, bad, _ in landed if bad.refused]
    assert_refused(place, taken, refused)


def fact_of(place: PipelineHome, path: str) -> FileFact:
    """The file as a listing would tell of it."""
    facts = (place.landing("events") / path).stat()
    modified = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=facts.st_mtime_ns // 1000)
    return FileFact(path, facts.st_size, modified, FOLDER)


def land(place: PipelineHome, name: str, content: bytes, day: str = FOLDER) -> Path:
    """A file in the landing folder of the events."""
    path = place.landing("events") / day / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def land_beside(place: PipelineHome) -> set[str]:
    """Good files of every format, before and behind by name. The ids of their rows."""
    for n, kind in enumerate(FORMATS):
        name = f"{'!z'[n % 2]}{n}.{kind}"
        land(place, name, written(name, rows(f"good{'abcdefgh'[n]}")))
    return {row["event_id"] for n in range(len(FORMATS)) for row in rows(f"good{'abcdefgh'[n]}")}


def take(place: PipelineHome) -> taking.Taken:
    """What a tick and a run do. Every file that waits is finished, and its rows are accounted for."""
    taking.register_landed(place)
    taken = taking.take_events(place, [])
    assert place.ledger.pending_files(place.name) == []
    assert_adds_up(place, taken)
    return taken


def assert_adds_up(place: PipelineHome, taken: taking.Taken) -> None:
    """accepted + quarantined + duplicates = landed rows, by what is in the tables."""
    assert taken.adds_up
    events, quarantine = (
        Counter(place.lake.read(name)["file_digest"].to_pylist()) if place.lake.exists(name) else Counter()
        for name in ("events", "quarantine")
    )
    digests = {file.digest for file in taken.files if file.status == "taken"}
    for file in taken.files:
        if file.status == "rejected" and file.digest not in digests:
            assert (events[file.digest], quarantine[file.digest]) == (0, 0)
        elif file.status == "taken" and file.duplicates == 0:
            assert (file.accepted, file.quarantined) == (events[file.digest], quarantine[file.digest])


def assert_refused(place: PipelineHome, taken: taking.Taken, files: Sequence[tuple[str, str]]) -> None:
    """The files, in order of their names, were refused with these words; no other was. The ledger says so."""
    assert len(taken.refused) == len(files), taken.refused
    assert sorted(file.why for file in place.ledger.refused_files(place.name)) == sorted(taken.refused)
    for path, words in files:
        (text,) = [text for text in taken.refused if f"/{path}" in text]
        assert words in text


def ids_in(place: PipelineHome, prefix: str) -> set[str]:
    found = place.lake.read("events", columns=["event_id"])["event_id"].to_pylist()
    assert len(found) == len(set(found))
    return {event for event in found if event.startswith(prefix)}


def reasons(place: PipelineHome, digest: str) -> dict[int, set[str]]:
    """Reason codes in the quarantine by place in the file."""
    if not place.lake.exists("quarantine"):
        return {}
    kept = place.lake.read("quarantine")
    kept = kept.filter(pc.equal(kept["file_digest"], digest))
    return {row["file_row"]: {one["code"] for one in json.loads(row["reasons"])} for row in kept.to_pylist()}


def test_minus_zero_says_what_zero_says(place: PipelineHome) -> None:
    land(place, "a.parquet", written("a.parquet", rows("bad", {6: {"x": -0.0}})))
    take(place)
    before = place.lake.hashes("events", sort_by=["event_id"], unhashed=taking.PROVENANCE)
    land(place, "b.csv", written("b.csv", rows("bad", {6: {"x": 0}})))
    assert take(place).duplicates == ROWS
    assert place.lake.hashes("events", sort_by=["event_id"], unhashed=taking.PROVENANCE) == before


# --- names and links that lead elsewhere --------------------------------------------------------------


def test_a_path_that_climbs_out_of_the_zone_is_refused(place: PipelineHome) -> None:
    beside = land_beside(place)
    secret = place.home.path / "secret.csv"
    secret.write_bytes(written("secret.csv", rows("bad")))
    path = f"{FOLDER}/../../../../../secret.csv"
    assert (place.landing("events") / path).resolve() == secret
    place.ledger.register_files(place.name, "events", [fact_of(place, path)])
    taken = take(place)
    assert ids_in(place, "") == beside
    assert_refused(place, taken, [("../secret.csv", f"it leads out of the landing folder, to {secret}")])


def test_links_are_read_within_the_zone_only(place: PipelineHome) -> None:
    beside = land_beside(place)
    zone = place.landing("events") / FOLDER
    outside = place.home.path / "outside"
    outside.mkdir()
    (outside / "secret.csv").write_bytes(written("secret.csv", rows("bad")))
    (zone / "out.csv").symlink_to(outside / "secret.csv")
    (zone / "folder").symlink_to(outside)
    (zone / "round").symlink_to("round")
    (zone / "nowhere.csv").symlink_to("gone.csv")
    (zone / "copy.csv").symlink_to("!2.jsonl")
    (zone / "same.jsonl").symlink_to("!2.jsonl")
    taken = take(place)
    assert ids_in(place, "") == beside
    assert taken.duplicates == ROWS
    wanted = [
        ("out.csv", "it leads out of the landing folder, to"),
        ("folder", "it leads out of the landing folder, to"),
        ("round", "it is no file, but a folder, a pipe or a link to one"),
        ("nowhere.csv", "it is no file, but a folder, a pipe or a link to one"),
        ("copy.csv", "copy.csv has no column event_id"),
    ]
    assert_refused(place, taken, wanted)


def test_a_name_that_is_not_utf8_is_refused(place: PipelineHome) -> None:
    beside = land_beside(place)
    land(place, os.fsdecode(b"caf\xe9.csv"), written("a.csv", rows("bad")))
    taken = take(place)
    assert ids_in(place, "") == beside
    assert_refused(place, taken, [("caf\\xe9.csv", "has vanished from")])


# --- what this user may not read ------------------------------------------------------------------------


@contextmanager
def as_an_ordinary_user(home: Path) -> Iterator[None]:
    """The superuser may read everything, so that he is somebody else in here, to whom the home belongs."""
    if os.geteuid() != 0:
        yield
        return
    for path in [home, *home.rglob("*")]:
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


NOBODY = 65534


def test_what_this_user_may_not_read_is_refused(tmp_path: Path) -> None:
    # What is imported on demand is imported before the user is changed.
    warm = new_home(tmp_path)
    land(warm, "warm.csv", written("warm.csv", rows("warm", {6: {"kind": "c"}})))
    take(warm)
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        place = new_home(Path(folder) / "home")
        beside = land_beside(place)
        land(place, "bad.csv", written("bad.csv", rows("bad"))).chmod(0)
        shut = [land(place, f"{name}/bad.csv", b"x").parent for name in ("locked", "unsearchable")]
        shut += [land(place, "bad.csv", b"x", day="2013-01-03").parent]
        with as_an_ordinary_user(Path(folder) / "home"):
            for path, mode in zip(shut, (0, 0o444, 0), strict=True):
                path.chmod(mode)
            taken = take(place)
            assert ids_in(place, "") == beside
            wanted = [
                ("bad.csv", "bad.csv cannot be read: this user may not read it"),
                ("locked", "it is no file, but a folder"),
                ("unsearchable", "it is no file, but a folder"),
                ("2013-01-03", "it is no file, but a folder"),
            ]
            assert_refused(place, taken, wanted)
            place.home.ledger.close()
        for path in shut:
            path.chmod(0o755)
        assert taking.register_landed(place) == len(shut)


# --- files that do not stay as they are -----------------------------------------------------------------


def test_a_file_that_changes_is_refused_and_taken_when_it_has_stopped(place: PipelineHome) -> None:
    beside = land_beside(place)
    path = land(place, "bad.csv", written("bad.csv", rows("bad")[:6]))
    taking.register_landed(place)
    path.write_bytes(written("bad.csv", rows("bad")))
    taken = taking.take_events(place, [])
    assert ids_in(place, "") == beside
    assert_refused(place, taken, [("bad.csv", "it has changed since it was listed")])
    assert take(place).accepted == ROWS
    assert ids_in(place, "") == beside | {f"bad{n}" for n in range(ROWS)}
    assert place.ledger.refused_files(place.name) == []


def test_a_file_that_grows_while_it_is_read_is_refused_and_taken_when_it_has_stopped(
    place: PipelineHome,
) -> None:
    beside = land_beside(place)
    line = as_jsonl(rows("bad")[:1]).replace("bad0", "bad%d").replace('"level": 0.0', '"level": %d')
    path = land(place, "bad.jsonl", "".join(line % (n, n) for n in range(20_000)).encode())
    grown, stop = threading.Event(), threading.Event()
    last = 20_000

    def grow() -> None:
        nonlocal last
        with path.open("a") as file:
            while not stop.is_set():
                text = line % (last, last)
                file.write(text[:50])  # half a line is there in between
                file.flush()
                file.write(text[50:])
                file.flush()
                last += 1
                grown.set()

    taking.register_landed(place)
    producer = threading.Thread(target=grow)
    producer.start()
    grown.wait()
    taken = taking.take_events(place, [])
    stop.set()
    producer.join()
    assert ids_in(place, "") == beside
    assert_refused(place, taken, [("bad.jsonl", "it has changed since it was listed")])
    assert take(place).accepted == last
    assert ids_in(place, "bad") == {f"bad{n}" for n in range(last)}


def test_a_file_that_is_replaced_is_taken_as_it_is_then(place: PipelineHome) -> None:
    beside = land_beside(place)
    path = land(place, "bad.csv", written("bad.csv", rows("bad", {6: {"n": "x"}})))
    taking.register_landed(place)
    unfinished = path.with_name(".bad.csv")
    unfinished.write_bytes(written("bad.csv", rows("bad")))
    unfinished.replace(path)
    taken = take(place)
    assert len(taken.refused) == 1
    assert ids_in(place, "") == beside | {f"bad{n}" for n in range(ROWS)}


@pytest.mark.parametrize("gone", ["the file", "its folder", "a folder that is a file now"])
def test_a_file_that_vanishes_is_refused(place: PipelineHome, gone: str) -> None:
    beside = land_beside(place)
    path = land(place, "sub/bad.csv", written("bad.csv", rows("bad")))
    taking.register_landed(place)
    path.unlink()
    if gone != "the file":
        path.parent.rmdir()
    if gone == "a folder that is a file now":
        path.parent.write_bytes(b"")
    taken = taking.take_events(place, [])
    assert ids_in(place, "") == beside
    assert_refused(place, taken, [("sub/bad.csv", "sub/bad.csv has vanished from")])


# --- clocks ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HomeAt(Home):
    """A home whose clock stands at a moment."""

    at: datetime = NOON

    @property
    def clock(self) -> FixedClock:
        return FixedClock(self.at)


def at(place: PipelineHome, moment: datetime) -> PipelineHome:
    """The same pipeline at another moment of a home that the wall clock rules."""
    return HomeAt(place.home.path, moment).pipeline(place.loaded)


def land_one(place: PipelineHome, name: str, day: datetime, modified: datetime | None = None) -> set[str]:
    """A good file in the folder of a day. The ids of its rows."""
    path = land(place, f"{name}.csv", written("a.csv", rows(name)), day=f"{day:%Y-%m-%d}")
    if modified:
        os.utime(path, (modified.timestamp(), modified.timestamp()))
    return {f"{name}{n}" for n in range(ROWS)}


def test_a_clock_that_runs_backwards_loses_nothing_and_takes_nothing_twice(place: PipelineHome) -> None:
    landed: set[str] = set()
    # The days on which ticks find the clock, and those of the folders that producers write to meanwhile.
    days = [(20, [20]), (21, [21, 20]), (10, [10, 9]), (11, [11, 21]), (3, [3]), (22, [22, 19]), (2, [2])]
    for tick, (day, folders) in enumerate(days):
        now = NOON + day * DAY
        here = at(place, now)
        for number, folder in enumerate(folders):
            name = f"{'abcdefghi'[tick]}{'xy'[number]}"
            # The producer's clock is not ours either.
            landed |= land_one(here, name, NOON + folder * DAY, now + (tick - 3) * 100 * DAY)
        taken = take(here)
        assert (taken.accepted, taken.rows) == (ROWS * len(folders), ROWS * len(folders))
        assert taking.register_landed(here) == 0
        assert ids_in(here, "") == landed
    assert taking.register_landed(place, everything=True) == 0
    assert place.lake.read("events").num_rows == len(landed)


def test_files_and_folders_of_the_future_hide_nothing_and_wait_for_nothing(place: PipelineHome) -> None:
    today = datetime.now(UTC)  # the home's clock is the wall clock
    future = today + 40 * 365 * DAY
    landed = land_one(place, "a", future) | land_one(place, "b", today, future)
    assert taking.backlog(place, today).days <= (f"{today:%Y-%m-%d}",)
    assert take(place).accepted == 2 * ROWS
    landed |= land_one(place, "c", today) | land_one(place, "d", today - DAY) | land_one(place, "e", future)
    assert take(place).accepted == 3 * ROWS
    assert ids_in(place, "") == landed
    assert place.ledger.watermark() is None


@pytest.mark.parametrize("stream", ["labels", "weather"])
def test_a_time_at_the_end_of_all_years_stops_no_stream(place: PipelineHome, stream: str) -> None:
    """Its row can be known only after its publish lag, when no calendar has a day for that."""
    last = "9999-12-30T23:59:59.999999Z"
    land_beside(place)
    take(place)
    fields = {
        "labels": {"event_id": "gooda1", "ended_at": last, "late": True},
        "weather": {"place": "JFK", "at": last, "temp": 1.0},
    }[stream]
    time = {"labels": "ended_at", "weather": "at"}[stream]
    good = fields | {time: NOON.isoformat()}
    folder = place.landing(stream) / FOLDER
    folder.mkdir(parents=True)
    (folder / "bad.jsonl").write_text(as_jsonl([fields, good]))
    taking.register_landed(place)
    taken = taking.take_labels(place, []) if stream == "labels" else taking.take_reference(place, stream, [])
    assert (taken.accepted, taken.refused) == (2, ())
    # So far from its event a label waits for another.
    tables = ["labels", "labels_unmatched"] if stream == "labels" else [stream]
    known = [moment for table in tables for moment in place.lake.read(table)["known_at"].to_pylist()]
    assert len(known) == 2
    assert max(known) + DAY > datetime.fromisoformat(last)  # where the tiles of that day end


# --- no room ----------------------------------------------------------------------------------------------


@pytest.mark.proof
@pytest.mark.parametrize("how", ["room", "size"])
def test_a_full_disk_loses_nothing_wherever_it_fills_up(
    tmp_path: Path, how: str, full: bool, sample_size: Callable[[str, int], None]
) -> None:
    """The kernel itself refuses: a small disk in a namespace of ours, and else files beyond a size."""
    step = {"room": 4096 if full else 32_768, "size": 2048 if full else 40_000}[how]
    command = [sys.executable, "-m", "tests.ingest.full_disk", str(tmp_path / "disk"), how, str(step)]
    if how == "room":
        (tmp_path / "disk").mkdir()
        mount = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=16m none "$0" && exec "$@"']
        mount.append(str(tmp_path / "disk"))
        if shutil.which("unshare") is None or subprocess.run([*mount, "true"], check=False).returncode:
            pytest.skip("this machine lets nobody mount a disk of his own")
        command = mount + command
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    refused = json.loads(done.stdout)
    sample_size("points at which the disk was full", sum(refused.values()))
    assert refused["nothing"] == 2
    assert refused["The ledger"] > 0
    assert refused["The table events"] > 0
