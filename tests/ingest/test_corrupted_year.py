"""The year of flights as bad producers would land it: what is good of it is in, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from mlops_pipelines.home import Home, PipelineHome
from mlops_pipelines.ingest import taking
from mlops_pipelines.pipelines.flight_delays.source import Flights
from tests.ingest.files import Row, as_csv, as_jsonl, as_text, packed, parquet
from tests.small_flights import loaded

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STREAMS = ("events", "labels", "weather", "planes")
KINDS = ("parquet", "csv", "jsonl", "csv.gz", "jsonl.gz", "csv.zst", "jsonl.zst")
BATCHES = 12
CORRUPTED, REPEATED = 0.02, 0.01  # of the rows
# The rows of a stream are told apart by these; they say what they say, whenever they come.
KEYS = {
    "events": ["event_id"],
    "labels": ["event_id"],
    "weather": ["origin", "observed_at"],
    "planes": ["tailnum"],
}
TIMES = {"events": "scheduled_arrival", "labels": "landed_at", "weather": "observed_at"}
NUMBERS = {"events": "distance", "labels": "arr_delay", "weather": "temp", "planes": "seats"}
WHOLE = NUMBERS | {"weather": "wind_dir"}
DEEP = "[" * 50_000 + "]" * 50_000


# --- ways in which a row goes wrong ----------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """A way to corrupt a row, and the reason code that it has to be given.

    columns: by stream, the column that gets the value, or changes by it. line: what becomes of the row's
    line in a text file. kind: of the files it is possible in, "" for all.
    """

    name: str
    code: str
    columns: dict[str, str] = field(default_factory=dict)
    value: Any = None
    line: Callable[[str], str] | None = None
    kind: str = ""

    def fits(self, stream: str, kind: str) -> bool:
        return (self.line is not None or stream in self.columns) and kind.startswith(self.kind)


def second_key(line: str) -> str:
    name = next(iter(json.loads(line)))
    return f'{line[:-1]}, "{name}": 1}}'


WAYS = [
    Way("a decimal comma", "type", NUMBERS, "12,5"),
    Way("NaN as text", "type", NUMBERS, "NaN"),
    Way("infinite", "type", NUMBERS, "-inf"),
    Way("no number", "type", NUMBERS, "many"),
    Way("two to the power of 63", "type", WHOLE, str(2**63)),
    Way("a fraction", "type", WHOLE, "12.5"),
    Way("no flag", "type", {"labels": "late"}, "yes"),
    Way("no time", "type", TIMES, "yesterday"),
    Way("milliseconds", "type", TIMES, "1357000000000"),
    Way("the last moment of all years", "type", TIMES, "9999-12-31T23:59:59.999999+00:00"),
    Way("a value missing", "missing", {"events": "carrier", "labels": "landed_at", "weather": "origin",
                                       "planes": "engine"}),
    Way("below the range", "range", NUMBERS, -9999),
    Way("above the range", "range", NUMBERS, 99_999),
    Way("a new category", "set", {"events": "origin", "weather": "origin"}, "XXX"),
    Way("another pattern", "pattern", {"events": "carrier", "planes": "tailnum"}, "n 1!"),
    Way("the far future", "partition", {"events": "scheduled_departure"}, datetime(9999, 6, 1, tzinfo=UTC)),
    Way("before the first day", "partition", {"events": "scheduled_departure"},
        datetime(2012, 12, 31, 23, tzinfo=UTC)),
    Way("nested", "type", NUMBERS, {"value": 1}, kind="jsonl"),
    Way("in a list", "type", NUMBERS, [1], kind="jsonl"),
    Way("half a line", "unparsed", line=lambda line: line[: len(line) // 2], kind="jsonl"),
    Way("a line that is a list", "unparsed", line=lambda line: f"[{line}]", kind="jsonl"),
    Way("a constant of no JSON", "unparsed", line=lambda line: f'{line[:-1]}, "y": NaN}}', kind="jsonl"),
    Way("a key twice", "unparsed", line=second_key, kind="jsonl"),
    Way("nested too deeply", "unparsed", line=lambda line: f'{line[:-1]}, "y": {DEEP}}}', kind="jsonl"),
    Way("half a character", "unparsed", line=lambda line: f'{line[:-1]}, "y": "\\ud800"}}', kind="jsonl"),
    Way("a field too many", "unparsed", line=lambda line: f"{line},1", kind="csv"),
    Way("a field too few", "unparsed", line=lambda line: line.rpartition(",")[0], kind="csv"),
]  # fmt: skip


# The year has one row that is wrong as it is: a wind of 1,048 mph.
FAULT = Way("a fault of the station", "range")


def is_fault(stream: str, row: Row) -> bool:
    return stream == "weather" and (row["wind_speed"] or 0) > 260


# --- files -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Landed:
    """A file as it was landed. corrupted: the way by place in it. repeats: rows that were landed before."""

    stream: str
    rows: int = 0
    corrupted: dict[int, Way] = field(default_factory=dict)
    repeats: int = 0
    refused: bool = False


def content_of(kind: str, rows: list[Row], schema: pa.Schema, lines: dict[int, Way]) -> bytes:
    """The rows as a file of that kind, some of them with other lines."""
    if kind == "parquet":
        return parquet(pa.table({name: column_of(name, rows, schema) for name in rows[0]}))
    is_csv = kind.startswith("csv")
    text = (as_csv if is_csv else as_jsonl)(rows).splitlines()
    for place, way in lines.items():
        assert way.line is not None
        text[place + is_csv] = way.line(text[place + is_csv])
    return packed(kind, "\n".join(text).encode())


def column_of(name: str, rows: list[Row], schema: pa.Schema) -> pa.Array:
    """The values as the schema has them, or all as texts if one cannot be."""
    values = [row[name] for row in rows]
    kind = schema.field(name).type if name in schema.names else pa.string()
    if pa.types.is_string(kind) or not any(isinstance(value, str) for value in values):
        return pa.array(values, kind)
    return pa.array([None if value is None else str(as_text(value)) for value in values], pa.string())


def varied(rows: list[Row], number: int, kind: str) -> list[Row]:
    """The rows as they may be written as well: more columns in another order, times of another zone."""
    if number % 3 == 1:
        return [{"more": "1", **dict(reversed(row.items()))} for row in rows]
    if number % 3 == 2 and kind != "parquet":
        return [{name: elsewhere(value) for name, value in row.items()} for row in rows]
    return rows


def elsewhere(value: Any) -> Any:
    if not isinstance(value, datetime):
        return value
    return value.replace(tzinfo=None) if value.minute % 2 else (value + 5 * HOUR).isoformat()[:-6] + "+05:00"


HOUR = timedelta(hours=1)
BROKEN: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("cut.parquet", lambda whole: whole[: len(whole) // 2]),
    ("cut.jsonl.gz", lambda whole: whole[: len(whole) // 2]),
    ("cut.csv.zst", lambda whole: whole[: len(whole) // 2]),
    ("encoding.csv", lambda whole: whole.decode().encode("utf-16")),
    ("column.csv", lambda whole: whole.replace(b"arrived_at", b"arrived", 1)),
    ("empty.csv", lambda whole: b""),
    ("ending.xlsx", lambda whole: whole),
]


class Producers:
    """They land day after day, and remember what they did wrong."""

    def __init__(self, place: PipelineHome, seed: int):
        self.place = place
        self.random = Random(seed)  # noqa: S311 - no secret
        self.files: dict[tuple[str, str], Landed] = {}  # by stream and path
        self.good: dict[str, list[Row]] = {stream: [] for stream in STREAMS}
        self.turns = dict.fromkeys(STREAMS, 0)
        self.number = 0

    def land(self, stream: str, day: datetime) -> None:
        """What arrives on a day, and what goes wrong with it."""
        table = Flights().rows(stream, day, day + 24 * HOUR)
        if not table.num_rows:
            return
        self.number += 1
        kind = KINDS[self.number % len(KINDS)]
        rows, corrupted, repeats = self._spoilt(stream, kind, table.to_pylist())
        lines = {place: way for place, way in corrupted.items() if way.line}
        content = content_of(kind, varied(rows, self.number, kind), table.schema, lines)
        self._write(stream, day, f"day.{kind}", content, Landed(stream, len(rows), corrupted, repeats))
        if self.number % 9 == 0:
            copied = Landed(stream, len(rows), repeats=len(rows))
            self._write(stream, day + 24 * HOUR, f"again {day:%d}.{kind}", content, copied)
        if self.number % 11 == 0:
            name, spoil = BROKEN[self.number // 11 % len(BROKEN)]
            whole = content_of(
                name.partition(".")[2].replace("xlsx", "csv"), table.to_pylist(), table.schema, {}
            )
            self._write(stream, day, name, spoil(whole), Landed(stream, refused=True))

    def _spoilt(self, stream: str, kind: str, rows: list[Row]) -> tuple[list[Row], dict[int, Way], int]:
        corrupted = {place: self._way(stream, kind) for place in range(len(rows)) if self._happens(CORRUPTED)}
        corrupted |= {place: FAULT for place, row in enumerate(rows) if is_fault(stream, row)}
        good = [row for place, row in enumerate(rows) if place not in corrupted]
        self.good[stream] += good
        earlier = self.good[stream][-5_000:]
        repeats = [
            # What is sent again arrives again.
            row | {"arrived_at": row["arrived_at"] + HOUR}
            for row in (self.random.choice(earlier) for _ in rows if earlier and self._happens(REPEATED))
        ]
        spoilt = [
            row | {way.columns[stream]: way.value} if (way := corrupted.get(place)) and way.columns else row
            for place, row in enumerate(rows)
        ]
        return [*spoilt, *repeats], corrupted, len(repeats)

    def _way(self, stream: str, kind: str) -> Way:
        """The next way that is possible here: each has its turn."""
        for turn in count(self.turns[stream]):
            way = WAYS[turn % len(WAYS)]
            if way.fits(stream, kind):
                self.turns[stream] = turn + 1
                return way
        raise AssertionError

    def _happens(self, share: float) -> bool:
        return self.random.random() < share

    def _write(self, stream: str, day: datetime, name: str, content: bytes, landed: Landed) -> None:
        path = f"{day:%Y-%m-%d}/{name}"
        file = self.place.landing(stream) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        self.files[stream, path] = landed


# --- the proof -------------------------------------------------------------------------------------


@pytest.mark.proof
def test_of_a_year_with_corrupted_rows_all_good_ones_are_in_and_no_other(
    tmp_path: Path, full: bool, sample_size: Callable[[str, int], None]
) -> None:
    place = Home.create(tmp_path).pipeline(loaded())
    place.prepare()
    producers = Producers(place, seed=2013)
    first, end = Flights().span()
    days = (end - first).days if full else 9
    batches = BATCHES if full else 3
    finished: dict[str, list[Any]] = {stream: [] for stream in STREAMS}
    paths: dict[int, tuple[str, str]] = {}
    for day in range(days):
        for stream in STREAMS:
            producers.land(stream, first + day * 24 * HOUR)
        if (day + 1) * batches // days > day * batches // days:
            taking.register_landed(place)
            paths |= {file.id: (file.stream, file.path) for file in place.ledger.pending_files(place.name)}
            for stream in STREAMS:
                finished[stream] += take(place, stream).files
    assert place.ledger.pending_files(place.name) == []
    assert {paths[file.id] for stream in STREAMS for file in finished[stream]} == producers.files.keys()
    for stream in STREAMS:
        assert_files_add_up(place, producers, stream, finished[stream], paths)
        assert_only_good_rows_are_in(place, producers, stream)
    assert_rejected_as_corrupted(place, producers, paths, finished)
    tried = Counter(way.name for file in producers.files.values() for way in file.corrupted.values())
    assert tried.keys() - {FAULT.name} == {way.name for way in WAYS}
    sample_size("files", len(producers.files))
    sample_size("landed rows", sum(file.rows for file in producers.files.values()))
    sample_size("files refused", sum(file.refused for file in producers.files.values()))
    sample_size("repeated rows", sum(file.repeats for file in producers.files.values()))
    sample_size("corrupted rows", tried.total())
    sample_size("ways of corruption", len(tried))
    sample_size("rows of the rarest way", min(tried[way.name] for way in WAYS))


def take(place: PipelineHome, stream: str) -> taking.Taken:
    takes = {"events": taking.take_events, "labels": taking.take_labels}
    taken = takes[stream](place, []) if stream in takes else taking.take_reference(place, stream, [])
    assert taken.adds_up
    return taken


def tables_of(place: PipelineHome, stream: str) -> pa.Table:
    """The rows of a stream that were taken in, labels whose event was corrupted among them."""
    names = [stream, "labels_unmatched"] if stream == "labels" else [stream]
    return pa.concat_tables([place.lake.read(name) for name in names], promote_options="default")


def assert_files_add_up(
    place: PipelineHome,
    producers: Producers,
    stream: str,
    finished: list[Any],
    paths: dict[int, tuple[str, str]],
) -> None:
    """Of every file: what the ledger says, what was landed, and what stands in the tables."""
    accepted = Counter(tables_of(place, stream)["file_digest"].to_pylist())
    rejected = Counter(
        row["file_digest"]
        for row in place.lake.read("quarantine", columns=["stream", "file_digest"]).to_pylist()
        if row["stream"] == stream
    )
    for file in finished:
        landed = producers.files[paths[file.id]]
        content = (place.landing(stream) / paths[file.id][1]).read_bytes()
        assert (file.status == "rejected") == landed.refused, (paths[file.id], file.detail)
        assert file.digest == hashlib.sha256(content).hexdigest()
        assert file.rows == landed.rows
        assert (file.quarantined, file.duplicates) == (len(landed.corrupted), landed.repeats), paths[file.id]
        assert file.accepted == landed.rows - len(landed.corrupted) - landed.repeats
        if file.rows > file.duplicates:  # a copy's rows stand under the digest of what it is a copy of
            assert (accepted[file.digest], rejected[file.digest]) == (file.accepted, file.quarantined)
    counts = place.ledger.file_counts(place.name)[stream]
    assert (counts.accepted, counts.quarantined) == (accepted.total(), rejected.total())
    assert counts.rows == counts.accepted + counts.quarantined + counts.duplicates
    assert counts.rows == sum(file.rows for file in producers.files.values() if file.stream == stream)


def assert_only_good_rows_are_in(place: PipelineHome, producers: Producers, stream: str) -> None:
    """The rows that nothing was done to, value by value."""
    found = tables_of(place, stream)
    names = list(place.contract.columns_of(stream))
    schema = pa.schema([found.schema.field(name) for name in names])
    order = [(name, "ascending") for name in KEYS[stream]]
    wanted = pa.Table.from_pylist(producers.good[stream], schema=schema).sort_by(order)
    assert found.select(names).sort_by(order).equals(wanted)


def assert_rejected_as_corrupted(
    place: PipelineHome,
    producers: Producers,
    paths: dict[int, tuple[str, str]],
    finished: dict[str, list[Any]],
) -> None:
    """Each corrupted row, and no other, is in the quarantine for what is wrong with it."""
    digests = {paths[file.id]: file.digest for stream in STREAMS for file in finished[stream]}
    wanted = {
        (stream, digests[stream, path], row): {way.code}
        for (stream, path), file in producers.files.items()
        for row, way in file.corrupted.items()
    }
    found = {
        (row["stream"], row["file_digest"], row["file_row"]): {
            one["code"] for one in json.loads(row["reasons"])
        }
        for row in place.lake.read("quarantine").to_pylist()
    }
    assert found == wanted
