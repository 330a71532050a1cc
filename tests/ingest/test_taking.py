"""Landed files become rows of the lake, each once, in whatever order and however often they come."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_pipelines.home import Home, PipelineHome
from mlops_pipelines.ingest import taking
from mlops_pipelines.pipelines.flight_delays.source import Flights
from tests.small_flights import loaded

if TYPE_CHECKING:
    from pathlib import Path

FIRST = datetime(2013, 1, 1, tzinfo=UTC)
THIRD = datetime(2013, 1, 3, tzinfo=UTC)


@pytest.fixture
def place(tmp_path: Path) -> PipelineHome:
    place = Home.create(tmp_path).pipeline(loaded())
    place.prepare()
    return place


def land(place: PipelineHome, since: datetime, until: datetime) -> None:
    Flights().write(place.landing_root, since, until)
    taking.register_landed(place)


def land_table(place: PipelineHome, stream: str, name: str, table: pa.Table, day: str = "2013-01-02") -> Path:
    folder = place.landing(stream) / day
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / name)
    taking.register_landed(place)
    return folder / name


def hashes(place: PipelineHome, table: str) -> dict[str, str]:
    return place.lake.hashes(table, sort_by=["event_id"], unhashed=taking.PROVENANCE)


def test_every_landed_row_is_accounted_for(place: PipelineHome) -> None:
    land(place, FIRST, THIRD)
    taken = taking.take_events(place, ["2013-01-01", "2013-01-02"])
    assert taken.rows == sum(place.lake.row_counts("events").values()) > 1000
    assert taken.adds_up
    assert place.ledger.file_counts(place.name)["events"].pending == 0


def test_taking_in_again_changes_nothing(place: PipelineHome) -> None:
    land(place, FIRST, THIRD)
    taking.take_events(place, [])
    before, version = hashes(place, "events"), place.lake.version("events")
    again = taking.take_events(place, ["2013-01-01"])
    assert (again.rows, again.accepted) == (0, 0)
    assert not any(one.changed for one in again.written)
    assert hashes(place, "events") == before
    assert place.lake.version("events") == version


def test_rows_that_land_twice_count_once(place: PipelineHome) -> None:
    land(place, FIRST, THIRD)
    taking.take_events(place, [])
    before = hashes(place, "events")
    land_table(place, "events", "again.parquet", Flights().rows("events", FIRST, THIRD))
    again = taking.take_events(place, [])
    assert again.duplicates == again.rows > 0
    assert hashes(place, "events") == before


def test_a_row_that_breaks_the_contract_is_kept_whole_and_the_rest_goes_on(place: PipelineHome) -> None:
    rows = Flights().rows("events", FIRST, THIRD)
    wrong = rows.set_column(
        rows.schema.get_field_index("distance"),
        "distance",
        pa.array([-1, *rows["distance"].to_pylist()[1:]], rows.schema.field("distance").type),
    )
    land_table(place, "events", "some.parquet", wrong)
    taken = taking.take_events(place, [])
    assert (taken.quarantined, taken.accepted) == (1, rows.num_rows - 1)
    assert taken.adds_up
    assert "distance" in place.lake.read("quarantine")["reasons"][0].as_py()


def test_a_file_that_is_not_what_its_name_says_is_refused_and_the_others_go_on(place: PipelineHome) -> None:
    land(place, FIRST, THIRD)
    folder = place.landing("events") / "2013-01-02"
    (folder / "broken.parquet").write_bytes(b"PAR1 but no more")
    taking.register_landed(place)
    assert taking.backlog(place, THIRD).due
    taken = taking.take_events(place, [])
    assert len(taken.refused) == 1
    assert "broken.parquet" in taken.refused[0]
    assert taken.accepted > 1000
    assert place.ledger.refused_files(place.name) == list(taken.refused)
    assert (folder / "broken.parquet").exists()


def test_a_label_waits_for_its_event(place: PipelineHome) -> None:
    events = Flights().rows("events", FIRST, THIRD)
    labels = Flights().rows("labels", FIRST, THIRD)
    land_table(place, "events", "one.parquet", events.slice(0, 1))
    taking.take_events(place, [])
    land_table(place, "labels", "all.parquet", labels)
    taking.take_labels(place, [])
    waiting = place.lake.read("labels_unmatched").num_rows
    assert waiting >= labels.num_rows - 1
    land_table(place, "events", "rest.parquet", events.slice(1))
    taking.take_events(place, [])
    taken = taking.take_labels(place, [])
    assert place.lake.read("labels_unmatched").num_rows == 0
    assert sum(place.lake.row_counts("labels").values()) == labels.num_rows
    assert any(one.changed for one in taken.written)


def test_a_late_row_reopens_only_its_own_day(place: PipelineHome) -> None:
    rows = Flights().rows("events", FIRST, THIRD)
    land_table(place, "events", "some.parquet", rows.slice(1))
    taking.take_events(place, [])
    for stage in ("tiles", "score"):
        place.ledger.close_days(place.name, place.ledger.reopened_days(place.name, stage), stage)
    before = hashes(place, "events")
    land_table(place, "events", "late.parquet", rows.slice(0, 1), day="2013-01-03")
    taken = taking.take_events(place, ["2013-01-03"])
    changed = [one.day for one in taken.written if one.changed]
    assert changed == ["2013-01-01"]
    assert list(place.ledger.reopened_days(place.name, "score")) == ["2013-01-01"]
    after = hashes(place, "events")
    assert {day for day in after if after[day] != before.get(day)} == {"2013-01-01"}


def test_a_backlog_asks_for_just_the_days_that_landed(place: PipelineHome) -> None:
    assert not taking.backlog(place, THIRD).due
    land(place, datetime(2013, 1, 2, tzinfo=UTC), THIRD)
    waiting = taking.backlog(place, THIRD)
    assert waiting.due
    assert {"2013-01-02"} <= set(waiting.days) <= {"2013-01-01", "2013-01-02"}


def test_events_taken_in_move_the_watermark_of_a_replayed_home_forward_only(place: PipelineHome) -> None:
    place.ledger.begin_advance(datetime(2013, 1, 2, tzinfo=UTC))
    place.ledger.finish_advance()
    land(place, FIRST, THIRD)
    taking.take_events(place, [])
    moved = place.ledger.watermark()
    assert moved is not None
    assert datetime(2013, 1, 2, tzinfo=UTC) < moved < THIRD
