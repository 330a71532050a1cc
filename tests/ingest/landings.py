"""A landing zone in which everything happens that producers do, small, and what is made of it.

It lands in waves. Whatever is done to the processes that take it in, `outcome` has to be the same.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, get_args

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import sqlalchemy as sa

from mlops_pipelines.home import Home, PipelineHome
from mlops_pipelines.ingest import taking
from mlops_pipelines.ledger.landing import Stage
from mlops_pipelines.ledger.tables import landed_files
from mlops_pipelines.pipelines.flight_delays.source import Flights
from tests.small_flights import loaded

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sqlalchemy.engine import Connection

FIRST = datetime(2013, 1, 1, tzinfo=UTC)
DAYS = ("2013-01-01", "2013-01-02", "2013-01-03")
WAVES = (1, 2)
STREAMS = ("events", "weather", "planes", "labels")
LOOKED_AT = "looked-at.json"
# By table: the order of its rows.
TABLES = {
    "events": ["event_id"],
    "labels": ["event_id", "known_at", "label_time", "label"],
    "labels_unmatched": ["event_id", "known_at"],
    "weather": ["origin", "ref_time", "arrived_at"],
    "planes": ["tailnum", "arrived_at"],
    "quarantine": ["file_digest", "file_row"],
}


def new_home(path: Path) -> None:
    """A home whose clock stands at the first moment of the data, with nothing landed."""
    place = Home.create(path).pipeline(loaded())
    place.prepare()
    place.ledger.begin_advance(FIRST, place.name)
    place.ledger.finish_advance()
    place.ledger.close()


def copy_of(home: Path, to: Path) -> Path:
    shutil.copytree(home, to)
    return to


# --- what lands ------------------------------------------------------------------------------------


def write_waves(folder: Path) -> None:
    """The files of each wave, as folder/WAVE/STREAM/DAY/FILE, with the modification times they land with."""
    events = [_of_day("events", day) for day in range(3)]
    labels = [_labels_of(day.slice(0, 10)) for day in events]
    _write_events(folder, events)
    _write_labels(folder, events, labels)
    _write_references(folder)
    for number, path in enumerate(sorted(file for file in folder.rglob("*") if file.is_file())):
        moment = FIRST.timestamp() + number
        os.utime(path, (moment, moment))


def _write_events(folder: Path, events: Sequence[pa.Table]) -> None:
    one, two, three = events
    # One is known a day after its label; what says the same, and came first, lands in the second wave.
    slow = moved(one.slice(8, 1), hours=40)
    first = changed(pa.concat_tables([one.slice(0, 8), slow, one.slice(9, 1)]), "distance", -1)
    _parquet(folder / "1/events" / DAYS[0] / "first.parquet", first)
    second = pa.concat_tables([two.slice(0, 10), one.slice(4, 3)])
    _parquet(folder / "1/events" / DAYS[1] / "second.parquet", second)
    _parquet(folder / "1/events" / DAYS[1] / "second again.parquet", second)
    _text(folder / "1/events" / DAYS[1] / "broken.parquet", b"PAR1 but no more")
    _text(folder / "1/events/notes.txt", b"remember the milk")
    # What stands is contradicted by what came an hour later, and by what had come an hour before.
    later = moved(changed(one.slice(2, 1), "distance", 1), hours=1)
    before = moved(changed(one.slice(3, 1), "distance", 2), hours=-1)
    # Of the same id on another day: one that came later than what stands, and one that came before it.
    elsewhere = moved(two.slice(1, 1), hours=24, columns=["scheduled_departure", "arrived_at"])
    instead = moved(moved(one.slice(7, 1), hours=24, columns=["scheduled_departure"]), hours=-1)
    third = pa.concat_tables([three.slice(0, 10), later, before, elsewhere, instead, one.slice(8, 1)])
    _parquet(folder / "2/events" / DAYS[2] / "third.parquet", changed(third, "distance", -1))
    late = pa.concat_tables([moved(one.slice(10, 4), hours=40), three.slice(5, 2)])
    _text(folder / "2/events" / DAYS[2] / "late.jsonl.gz", _packed(late))
    _parquet(folder / "2/events" / DAYS[2] / "first again.parquet", first)
    _parquet(folder / "2/events" / DAYS[2] / "refused.parquet", pa.table({"nonsense": [1, 2]}))


def _write_labels(folder: Path, events: Sequence[pa.Table], labels: Sequence[pa.Table]) -> None:
    one, two, three = labels
    orphan = changed(two.slice(0, 1), "event_id", "of no event")
    # Those of the third day land before their events.
    early = pa.concat_tables([one.slice(0, 8), three.slice(0, 4), orphan])
    _parquet(folder / "1/labels" / DAYS[1] / "early.parquet", changed(early, "arr_delay", 99999))
    again = pa.concat_tables([one.slice(2, 3), three.slice(2, 1), two.slice(0, 3)])
    _parquet(folder / "1/labels" / DAYS[1] / "again.parquet", again)
    corrected = moved(changed(one.slice(1, 1), "arr_delay", 7), hours=1)
    rest = pa.concat_tables([two.slice(3, 5), corrected, moved(orphan, hours=2), three.slice(4, 3)])
    _parquet(folder / "2/labels" / DAYS[2] / "rest.parquet", changed(rest, "arr_delay", 99999))
    _parquet(folder / "2/labels" / DAYS[2] / "early again.parquet", changed(early, "arr_delay", 99999))
    # Their events are the late rows, which become known a day after them.
    late = _labels_of(events[0].slice(10, 4))
    _text(folder / "1/labels" / DAYS[2] / "late.jsonl.gz", _packed(late))


def _write_references(folder: Path) -> None:
    weather = [_of_day("weather", day) for day in range(3)]
    _parquet(folder / "1/weather" / DAYS[0] / "first.parquet", changed(weather[0].slice(0, 8), "temp", 999))
    corrected = moved(changed(weather[0].slice(1, 1), "temp", 50), hours=2)
    repeated = moved(weather[0].slice(3, 2), hours=1)
    rest = pa.concat_tables([weather[1].slice(0, 5), repeated, corrected])
    _parquet(folder / "2/weather" / DAYS[1] / "rest.parquet", rest)
    _parquet(folder / "2/weather" / DAYS[2] / "last.parquet", weather[2].slice(0, 5))
    planes = Flights().rows("planes", FIRST, FIRST + timedelta(days=1)).slice(0, 10)
    _parquet(folder / "1/planes" / DAYS[0] / "register.parquet", changed(planes.slice(0, 6), "seats", 0))
    contradicted = moved(changed(planes.slice(1, 1), "seats", 77), hours=1)
    displaces = moved(changed(planes.slice(2, 1), "seats", 78), hours=-1)
    repeated = moved(planes.slice(4, 1), hours=1)
    more = pa.concat_tables([planes.slice(5, 5), repeated, contradicted, displaces])
    _parquet(folder / "2/planes" / DAYS[1] / "more.parquet", more)


def changed(rows: pa.Table, column: str, first: Any) -> pa.Table:
    """The rows with another value in the first one's column."""
    index = rows.schema.get_field_index(column)
    values = pa.array([first, *rows[column].to_pylist()[1:]], rows.schema.field(column).type)
    return rows.set_column(index, column, values)


def moved(rows: pa.Table, *, hours: int, columns: Sequence[str] = ("arrived_at",)) -> pa.Table:
    """The rows as if they had come earlier or later."""
    for name in columns:
        times = pc.add(rows[name], pa.scalar(timedelta(hours=hours), pa.duration("us")))
        rows = rows.set_column(rows.schema.get_field_index(name), name, times)
    return rows


def _of_day(stream: str, day: int) -> pa.Table:
    since = FIRST + timedelta(days=day)
    # Not from midnight on: the flights of the evening before arrive then.
    return Flights().rows(stream, since + timedelta(hours=11), since + timedelta(hours=15)).slice(0, 20)


def _labels_of(events: pa.Table) -> pa.Table:
    labels = Flights().rows("labels", FIRST, FIRST + timedelta(days=5))
    return labels.filter(pc.is_in(labels["event_id"], value_set=events["event_id"].combine_chunks()))


def _parquet(path: Path, rows: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, path)


def _text(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _packed(rows: pa.Table) -> bytes:
    """The rows as packed JSON, with a line among them that is no row."""
    lines = [json.dumps(row, default=datetime.isoformat) for row in rows.to_pylist()]
    return gzip.compress("\n".join([*lines, "{no row"]).encode(), mtime=0)


# --- what is done with it --------------------------------------------------------------------------


def intake(
    place: PipelineHome, waves: Path, which: Sequence[int] = WAVES, streams: Sequence[str] = STREAMS
) -> None:
    """Land each wave and take it in, stream by stream. Done again, it goes on from wherever it died."""
    for wave in which:
        land(place, waves / str(wave), streams)
        take(place, streams)


def land(place: PipelineHome, wave: Path, streams: Sequence[str] = STREAMS) -> None:
    """Put the files of a wave into the landing zone, each whole, unless it is there."""
    for stream in streams:
        for file in sorted((wave / stream).rglob("*.*")):
            target = place.landing(stream) / file.relative_to(wave / stream)
            if file.is_file() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                unfinished = target.with_name(f".{target.name}.{os.getpid()}")
                shutil.copy2(file, unfinished)
                unfinished.replace(target)


def take(place: PipelineHome, streams: Sequence[str] = STREAMS) -> None:
    """Register what has landed and take it in, as the runs do."""
    taking.register_landed(place, [stream for stream in streams if stream in place.streams])
    for stream in streams:
        if stream == "events":
            taking.take_events(place, [])
        elif stream == "labels":
            taking.take_labels(place, [])
        elif stream == "tiles":
            look(place)
        else:
            taking.take_reference(place, stream, [])


def look(place: PipelineHome) -> None:
    """Look at the reopened days of events, as any stage does, and note what each of them held."""
    days = place.ledger.reopened_days(place.name, "tiles")
    seen = {}
    if place.lake.exists("events"):
        seen = place.lake.hashes("events", sort_by=TABLES["events"], days=[*days], unhashed=taking.PROVENANCE)
    (place.path / LOOKED_AT).write_text(json.dumps(seen))
    place.ledger.close_days(place.name, days, "tiles")


# --- what came of it -------------------------------------------------------------------------------


def outcome(home: Path) -> dict[str, Any]:
    """Hashes of every day of every table, and what the ledger says; nothing of it depends on who did it."""
    place = Home.open(home).pipeline(loaded())
    found: dict[str, Any] = {}
    for name, order in TABLES.items():
        if place.lake.exists(name):
            found[f"origins: {name}"] = place.lake.hashes(name, sort_by=order)
            unhashed = () if name == "quarantine" else taking.PROVENANCE
            found[name] = place.lake.hashes(name, sort_by=order, unhashed=unhashed)
    with place.ledger._reading() as connection:
        files = _files(connection)
    found["finished"] = [file[:5] for file in files]
    found["credit"] = [file[:2] + file[5:] for file in files]
    for stage in get_args(Stage):
        found[f"reopened: {stage}"] = sorted(place.ledger.reopened_days(place.name, stage))
    if (place.path / LOOKED_AT).exists():
        found["looked at"] = json.loads((place.path / LOOKED_AT).read_text())
    found["watermark"] = place.ledger.watermark()
    place.ledger.close()
    return found


def _files(connection: Connection) -> list[tuple[Any, ...]]:
    columns = landed_files.c
    query = sa.select(
        columns.stream, columns.path, columns.status, columns.digest, columns.rows, columns.accepted,
        columns.quarantined, columns.duplicates,
    )  # fmt: skip
    return sorted(tuple(row) for row in connection.execute(query))
