"""Landed files become rows of the lake, each once, in whatever order and however often they come."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import permutations
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from mlops_pipelines.home import Home, PipelineHome
from mlops_pipelines.ingest import rejects, taking
from mlops_pipelines.ledger.landing import FinishedFile
from mlops_pipelines.pipelines.flight_delays.source import Flights
from tests.loop import varied
from tests.small_flights import loaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mlops_pipelines.ledger.landing import Stage

FIRST = datetime(2013, 1, 1, tzinfo=UTC)
SECOND = datetime(2013, 1, 2, tzinfo=UTC)
THIRD = datetime(2013, 1, 3, tzinfo=UTC)
DAY = timedelta(days=1)


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


def table_hashes(place: PipelineHome) -> dict[str, dict[str, str]]:
    """Content hashes of every table of the intake that is there."""
    orders = {"events": ["event_id"], "labels": ["event_id"], "labels_unmatched": ["event_id"],
              "quarantine": ["file_digest", "file_row"]}  # fmt: skip
    return {
        name: place.lake.hashes(name, sort_by=order, unhashed=taking.PROVENANCE)
        for name, order in orders.items()
        if place.lake.exists(name)
    }


def at(place: PipelineHome, moment: datetime) -> None:
    """Let the home be a replayed one whose clock stands at a moment."""
    place.ledger.begin_advance(moment)
    place.ledger.finish_advance()


def changed(rows: pa.Table, column: str, first: Any) -> pa.Table:
    """The rows with another value in the first one's column."""
    index = rows.schema.get_field_index(column)
    values = pa.array([first, *rows[column].to_pylist()[1:]], rows.schema.field(column).type)
    return rows.set_column(index, column, values)


def later(rows: pa.Table, *, hours: int) -> pa.Table:
    """The rows as they would have arrived so many hours later."""
    arrived = pc.add(rows["arrived_at"], pa.scalar(timedelta(hours=hours), pa.duration("us")))
    return rows.set_column(rows.schema.get_field_index("arrived_at"), "arrived_at", arrived)


@contextmanager
def nothing_is_finished(place: PipelineHome) -> Iterator[None]:
    """The disk fails at the last step of taking in: tables are committed, their files stay pending."""
    with closing(sqlite3.connect(place.home.path / "ledger.db")) as database:
        stop = "BEGIN SELECT RAISE(ABORT, 'the disk is gone'); END"
        database.execute(f"CREATE TRIGGER stop BEFORE UPDATE ON landed_files {stop}")
        with pytest.raises(IntegrityError, match="the disk is gone"):
            yield
        database.execute("DROP TRIGGER stop")


def counts(taken: taking.Taken) -> list[tuple[int, int, int, int]]:
    """Rows, accepted, quarantined and duplicates of each file."""
    return [(file.rows, file.accepted, file.quarantined, file.duplicates) for file in taken.files]


# --- registering -----------------------------------------------------------------------------------


def test_a_file_in_a_folder_older_than_the_overlap_is_found_by_the_nightly_listing(
    place: PipelineHome,
) -> None:
    at(place, datetime(2013, 1, 11, tzinfo=UTC))
    rows = Flights().rows("events", FIRST, SECOND)
    land_table(place, "events", "new.parquet", rows.slice(0, 1), day="2013-01-10")
    land_table(place, "events", "late.parquet", rows.slice(1, 1), day="2013-01-08")
    assert len(place.ledger.pending_files(place.name)) == 2
    land_table(place, "events", "very late.parquet", rows.slice(2, 1), day="2013-01-02")
    assert len(place.ledger.pending_files(place.name)) == 2
    assert taking.register_landed(place, everything=True) == 1
    assert taking.register_landed(place, everything=True) == 0


def test_a_mistyped_folder_of_the_far_future_hides_nothing(place: PipelineHome) -> None:
    at(place, THIRD)
    rows = Flights().rows("events", FIRST, SECOND)
    land_table(place, "events", "mistyped.parquet", rows.slice(0, 1), day="2099-01-01")
    land_table(place, "events", "next.parquet", rows.slice(1, 1), day="2013-01-03")
    assert [file.path for file in place.ledger.pending_files(place.name)] == [
        "2013-01-03/next.parquet",
        "2099-01-01/mistyped.parquet",
    ]
    assert max(taking.backlog(place, THIRD).days) == "2013-01-03"


def test_only_the_streams_that_are_named_are_listed(place: PipelineHome) -> None:
    Flights().write(place.landing_root, FIRST, SECOND)
    assert taking.register_landed(place, ["labels"]) == 1
    assert {file.stream for file in place.ledger.pending_files(place.name)} == {"labels"}


def test_a_tick_that_finds_nothing_new_writes_nothing(place: PipelineHome) -> None:
    land(place, FIRST, THIRD)
    seen: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    sa.event.listen(place.ledger._engine, "before_cursor_execute", note)
    assert taking.register_landed(place) == 0
    assert not [text for text in seen if text.startswith(("BEGIN IMMEDIATE", "INSERT", "UPDATE"))]
    assert [text for text in seen if text.startswith("SELECT")]


@pytest.mark.parametrize("content", [b"PAR1 but no more", b"PAR1" + bytes(20) + b"\x09\0\0\0PAR1", b""])
def test_a_file_that_cannot_be_counted_is_due_and_refused_by_the_run(
    place: PipelineHome, content: bytes
) -> None:
    file = land_table(place, "events", "broken.parquet", pa.table({"a": [1]}))
    file.write_bytes(content)
    assert taking.backlog(place, THIRD).due
    assert taking.register_landed(place) == 1
    assert taking.take_events(place, []).refused[0].startswith(str(file))


def test_a_file_that_vanished_is_due_and_refused_by_the_run(place: PipelineHome) -> None:
    file = land_table(place, "events", "gone.parquet", pa.table({"a": [1]}))
    file.unlink()
    assert taking.backlog(place, THIRD).due
    assert "gone.parquet has vanished" in taking.take_events(place, []).refused[0]
    assert not taking.backlog(place, THIRD).due


def test_what_lies_beside_the_day_folders_is_refused_by_the_run_and_stops_nothing(
    place: PipelineHome,
) -> None:
    land(place, FIRST, SECOND)
    (place.landing("events") / "notes.txt").write_text("remember the milk")
    assert taking.register_landed(place) == 1
    taken = taking.take_events(place, [])
    assert taken.accepted == Flights().rows("events", FIRST, SECOND).num_rows
    assert [text for text in taken.refused if "notes.txt is not taken in: it lies in no folder" in text]
    assert taking.register_landed(place) == 0
    assert taking.register_landed(place, everything=True) == 0
    assert not place.ledger.pending_files(place.name, ["events"])


def test_a_stray_hides_no_folder(place: PipelineHome) -> None:
    (place.landing("events") / "notes.txt").write_text("remember the milk")
    for week in (1, 8):
        for day in range(week, week + 7):
            folder = place.landing("events") / f"2013-01-{day:02}"
            folder.mkdir()
            (folder / "a.csv").write_text("x")
        at(place, datetime(2013, 1, week + 7, tzinfo=UTC))
        assert taking.register_landed(place) == (8 if week == 1 else 7)


def test_a_stray_that_grows_is_refused_once(place: PipelineHome) -> None:
    log = place.landing("events") / "producer.log"
    for line in range(3):
        log.write_text("started\n" * (line + 1))
        assert taking.register_landed(place) == (line == 0)


# --- taking in -------------------------------------------------------------------------------------


def test_every_landed_row_is_accounted_for(place: PipelineHome) -> None:
    land(place, FIRST, THIRD)
    taken = taking.take_events(place, ["2013-01-01", "2013-01-02"])
    assert taken.rows == sum(place.lake.row_counts("events").values()) > 1000
    assert taken.adds_up
    assert place.ledger.file_counts(place.name)["events"].pending == 0


def test_what_is_taken_in_names_the_contract_that_it_passed(place: PipelineHome) -> None:
    land(place, FIRST, SECOND)
    taking.take_events(place, [])
    commit = place.lake.commits("events")[-1]
    assert commit.provenance["contract"] == taking.contract_version(place.loaded, "events")
    assert taking.contract_version(place.loaded, "labels") != commit.provenance["contract"]


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
    land_table(place, "events", "some.parquet", changed(rows, "distance", -1))
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
    assert [file.why for file in place.ledger.refused_files(place.name)] == list(taken.refused)
    assert (folder / "broken.parquet").exists()


def test_a_sum_that_does_not_come_out_is_said() -> None:
    def taken(*files: FinishedFile) -> taking.Taken:
        return taking.Taken("events", files, [])

    whole = FinishedFile(1, "taken", "a", rows=3, accepted=1, quarantined=1, duplicates=1)
    lost, doubled = replace(whole, accepted=0), replace(whole, accepted=2)
    assert taken(whole, whole).adds_up
    assert not taken(whole, lost).adds_up
    assert not taken(lost, doubled).adds_up
    assert taken(whole, lost).sum_sentence == "1 accepted + 2 quarantined + 2 duplicates, of 6 landed rows"


def test_a_row_that_another_contradicts_counts_as_quarantined(place: PipelineHome) -> None:
    rows = Flights().rows("events", FIRST, SECOND).slice(0, 10)
    land_table(place, "events", "first.parquet", rows)
    taking.take_events(place, [])
    land_table(place, "events", "again.parquet", later(changed(rows, "distance", 1), hours=1))
    taken = taking.take_events(place, ["2013-01-01"])
    assert counts(taken) == [(10, 0, 1, 9)]
    assert taken.adds_up
    assert [(one.day, one.rows, one.changed) for one in taken.quarantine] == [("2013-01-01", 1, True)]


def test_rows_of_a_reference_add_up(place: PipelineHome) -> None:
    planes = Flights().rows("planes", FIRST, THIRD).slice(0, 5)
    land_table(place, "planes", "register.parquet", changed(planes, "seats", 0))
    first = taking.take_reference(place, "planes", [])
    assert counts(first) == [(5, 4, 1, 0)]
    land_table(place, "planes", "corrected.parquet", changed(planes, "seats", 77))
    second = taking.take_reference(place, "planes", [])
    assert counts(second) == [(5, 1, 0, 4)]
    land_table(place, "planes", "contradicted.parquet", later(changed(planes, "seats", 78), hours=1))
    third = taking.take_reference(place, "planes", [])
    assert counts(third) == [(5, 0, 1, 4)]
    assert first.adds_up
    assert second.adds_up
    assert third.adds_up


# --- copies ----------------------------------------------------------------------------------------


def test_of_two_files_of_the_same_bytes_one_is_taken(place: PipelineHome) -> None:
    rows = changed(Flights().rows("events", FIRST, SECOND).slice(0, 10), "distance", -1)
    land_table(place, "events", "a.parquet", rows)
    land_table(place, "events", "b.parquet", rows)
    taken = taking.take_events(place, [])
    assert counts(taken) == [(10, 9, 1, 0), (10, 0, 0, 10)]
    land_table(place, "events", "c.parquet", rows)
    assert counts(taking.take_events(place, [])) == [(10, 0, 0, 10)]
    assert place.lake.read("quarantine").num_rows == 1
    assert place.ledger.pending_files(place.name) == []


def test_a_copy_of_a_refused_file_is_refused(place: PipelineHome) -> None:
    for name in ("a.parquet", "b.parquet"):
        land_table(place, "events", name, pa.table({"nonsense": [1, 2]}))
    taken = taking.take_events(place, [])
    assert [file.status for file in taken.files] == ["rejected", "rejected"]
    assert "b.parquet" in taken.refused[1]
    land_table(place, "events", "c.parquet", pa.table({"nonsense": [1, 2]}))
    assert "c.parquet" in taking.take_events(place, []).refused[0]


def test_a_file_whose_run_died_before_it_was_finished_counts_as_it_would_have(place: PipelineHome) -> None:
    events = changed(Flights().rows("events", FIRST, SECOND), "distance", -1)
    land_table(place, "events", "some.parquet", events.slice(0, 200))
    land_table(place, "labels", "some.parquet", Flights().rows("labels", FIRST, SECOND))
    with nothing_is_finished(place):
        taking.take_events(place, [])
    with nothing_is_finished(place):
        taking.take_labels(place, [])
    before = table_hashes(place)
    land_table(place, "events", "copy.parquet", events.slice(0, 200))
    assert counts(taking.take_events(place, [])) == [(200, 199, 1, 0), (200, 0, 0, 200)]
    (labels,) = counts(taking.take_labels(place, []))
    assert labels == (labels[0], labels[0], 0, 0)
    assert table_hashes(place) == before


def test_of_copies_that_a_run_that_died_and_the_next_one_find_the_same_one_counts(
    place: PipelineHome,
) -> None:
    rows = changed(Flights().rows("events", FIRST, SECOND).slice(0, 10), "distance", -1)
    land_table(place, "events", "late.parquet", rows, day="2013-01-03")
    with nothing_is_finished(place):
        taking.take_events(place, [])
    land_table(place, "events", "early.parquet", rows, day="2013-01-02")
    assert counts(taking.take_events(place, [])) == [(10, 9, 1, 0), (10, 0, 0, 10)]
    assert place.lake.read("quarantine")["day"].to_pylist() == ["2013-01-03"]


# --- labels and their events -----------------------------------------------------------------------


def test_a_label_waits_for_its_event(place: PipelineHome) -> None:
    events = Flights().rows("events", FIRST, THIRD)
    labels = Flights().rows("labels", FIRST, THIRD)
    land_table(place, "events", "one.parquet", events.slice(0, 1))
    taking.take_events(place, [])
    land_table(place, "labels", "all.parquet", labels)
    first = taking.take_labels(place, [])
    waiting = place.lake.read("labels_unmatched").num_rows
    assert waiting >= labels.num_rows - 1
    assert counts(first) == [(labels.num_rows, labels.num_rows, 0, 0)]
    land_table(place, "events", "rest.parquet", events.slice(1))
    taking.take_events(place, [])
    assert list(place.ledger.reopened_days(place.name, "labels")) == ["2013-01-01", "2013-01-02"]
    assert {"2013-01-01", "2013-01-02"} <= set(taking.days_with_new_labels(place))
    taken = taking.take_labels(place, [])
    assert place.lake.read("labels_unmatched").num_rows == 0
    assert sum(place.lake.row_counts("labels").values()) == labels.num_rows
    assert any(one.changed for one in taken.written)
    assert not place.ledger.reopened_days(place.name, "labels")


def test_labels_that_land_before_any_event_wait(place: PipelineHome) -> None:
    labels = Flights().rows("labels", FIRST, SECOND)
    land_table(place, "labels", "all.parquet", labels)
    taken = taking.take_labels(place, ["2013-01-01"])
    assert counts(taken) == [(labels.num_rows, labels.num_rows, 0, 0)]
    assert place.lake.read("labels_unmatched").num_rows == labels.num_rows
    assert taking.days_with_new_labels(place) == []


def test_a_label_that_lands_twice_is_a_duplicate_whether_it_waits_or_not(place: PipelineHome) -> None:
    land_table(place, "events", "some.parquet", Flights().rows("events", FIRST, SECOND).slice(0, 300))
    taking.take_events(place, [])
    labels = Flights().rows("labels", FIRST, SECOND)
    land_table(place, "labels", "all.parquet", labels)
    taking.take_labels(place, [])
    assert place.lake.read("labels_unmatched").num_rows > 0
    assert sum(place.lake.row_counts("labels").values()) > 0
    before = table_hashes(place)
    land_table(place, "labels", "all but one.parquet", labels.slice(1), day="2013-01-03")
    taken = taking.take_labels(place, [])
    assert counts(taken) == [(labels.num_rows - 1, 0, 0, labels.num_rows - 1)]
    assert table_hashes(place) == before


def test_a_label_without_an_event_costs_later_runs_nothing(place: PipelineHome) -> None:
    """Events of old days are gone from the disk: whoever would read them, fails."""
    until = datetime(2013, 1, 12, tzinfo=UTC)
    land_table(place, "events", "all.parquet", Flights().rows("events", FIRST, until))
    taking.take_events(place, [])
    labels = Flights().rows("labels", FIRST, until)
    land_table(place, "labels", "orphan.parquet", changed(labels.slice(0, 1), "event_id", "of no event"))
    taking.take_labels(place, [])
    for path in place.lake.files("events", days=["2013-01-02"]):
        (place.path / path).unlink()
    last = labels.slice(labels.num_rows - 10)
    land_table(place, "labels", "last.parquet", last, day="2013-01-12")
    assert counts(taking.take_labels(place, [])) == [(10, 10, 0, 0)]
    assert place.lake.read("labels_unmatched")["event_id"].to_pylist() == ["of no event"]


def one_with_its_label() -> tuple[pa.Table, pa.Table]:
    """An event of the first day, and its label, which is known before midnight."""
    events, labels = Flights().rows("events", FIRST, SECOND), Flights().rows("labels", FIRST, SECOND)
    label = labels.slice(0, 1)
    return events.filter(pc.equal(events["event_id"], label["event_id"][0])), label


def known(place: PipelineHome, table: str) -> datetime:
    """When the table's only row became known."""
    (moment,) = place.lake.read(table, columns=["known_at"])["known_at"].to_pylist()
    assert isinstance(moment, datetime)
    return moment


def reopened(place: PipelineHome, stage: Stage) -> set[str]:
    """Days that are open for a stage, which are closed by this."""
    days = place.ledger.reopened_days(place.name, stage)
    place.ledger.close_days(place.name, days, stage)
    return {*days}


def test_a_label_that_landed_before_its_event_is_known_once_its_event_is(place: PipelineHome) -> None:
    event, label = one_with_its_label()
    land_table(place, "labels", "early.parquet", label)
    taking.take_labels(place, [])
    own = known(place, "labels_unmatched")
    assert own < SECOND
    assert reopened(place, "tiles") == set()
    land_table(place, "events", "late.parquet", later(event, hours=48))
    taking.take_events(place, [])
    taking.take_labels(place, [])
    assert known(place, "labels") == known(place, "events") == event["arrived_at"][0].as_py() + 2 * DAY > own
    assert place.lake.read("labels")["arrived_at"].to_pylist() == label["arrived_at"].to_pylist()
    assert reopened(place, "tiles") == {"2013-01-03"}


@pytest.mark.parametrize("dest", [None, "XXX"], ids=["says the same", "says something else"])
def test_a_label_is_known_anew_when_another_row_of_its_event_takes_the_place_of_the_first(
    place: PipelineHome, dest: str | None
) -> None:
    event, label = one_with_its_label()
    land_table(place, "events", "late.parquet", later(event, hours=48))
    land_table(place, "labels", "label.parquet", label)
    taking.take_events(place, [])
    taking.take_labels(place, [])
    assert reopened(place, "tiles") == {"2013-01-03"}
    assert reopened(place, "labels") == set()
    land_table(place, "events", "first.parquet", changed(event, "dest", dest) if dest else event)
    taking.take_events(place, [])
    assert reopened(place, "tiles") == {"2013-01-01", "2013-01-03"}
    assert {*place.ledger.reopened_days(place.name, "labels")} == {"2013-01-01"}
    taking.take_labels(place, [])
    assert known(place, "labels") == max(label["arrived_at"][0].as_py(), label["landed_at"][0].as_py())
    assert reopened(place, "tiles") == {"2013-01-01", "2013-01-03"}


def test_tiles_are_made_anew_of_labels_whose_event_says_something_else_by_now(place: PipelineHome) -> None:
    """Labels are counted under keys of their events. When both became known, has not changed."""
    event, label = one_with_its_label()
    land_table(place, "events", "event.parquet", event)
    land_table(place, "labels", "label.parquet", later(label, hours=24))
    taking.take_events(place, [])
    taking.take_labels(place, [])
    assert reopened(place, "tiles") == {"2013-01-01", "2013-01-02"}
    land_table(place, "events", "before.parquet", later(changed(event, "dest", "XXX"), hours=-1))
    taking.take_events(place, [])
    assert reopened(place, "tiles") == {"2013-01-01", "2013-01-02"}


@pytest.mark.parametrize("stream", ["labels", "weather"])
def test_tiles_are_made_anew_of_a_version_that_is_not_the_first_any_more(
    place: PipelineHome, stream: str
) -> None:
    """What was corrected lands after its correction, and what was said first after it was said again."""
    event, label = one_with_its_label()
    if stream == "labels":
        row, value, take = label, "arr_delay", taking.take_labels
        land_table(place, "events", "event.parquet", event)
        taking.take_events(place, [])
    else:
        row, value = Flights().rows("weather", FIRST, SECOND).slice(0, 1), "temp"
        take = partial(taking.take_reference, name="weather")
    reopened(place, "tiles")
    corrected = later(changed(row, value, 7), hours=48)
    land_table(place, stream, "correction.parquet", corrected)
    take(place, days=[])
    assert reopened(place, "tiles") == {"2013-01-03"}
    land_table(place, stream, "again.parquet", later(row, hours=24))
    take(place, days=[])
    assert reopened(place, "tiles") == {"2013-01-02", "2013-01-03"}
    land_table(place, stream, "first.parquet", row)
    take(place, days=[])
    assert reopened(place, "tiles") == {"2013-01-01", "2013-01-02", "2013-01-03"}
    land_table(place, stream, "once more.parquet", later(row, hours=72))
    take(place, days=[])
    assert reopened(place, "tiles") == {"2013-01-04"}


def test_a_run_whose_event_moves_while_others_match_its_label_leaves_none_behind(
    place: PipelineHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between what a run reads of the events and what it writes of the labels, two others do all of it."""
    event, label = one_with_its_label()
    land_table(place, "events", "event.parquet", event)
    taking.take_events(place, [])
    land_table(place, "labels", "label.parquet", label)
    land_table(place, "events", "moved.parquet", later(shifted(event, days=1), hours=-48))
    reopen, overtaken = taking._reopen_for_labels, []

    def overtake(*given: Any) -> None:
        reopen(*given)
        if not overtaken:
            overtaken.append(True)
            taking.take_events(place, [])
            taking.take_labels(place, [])

    monkeypatch.setattr(taking, "_reopen_for_labels", overtake)
    taking.take_labels(place, [])
    assert place.lake.read("events")["day"].to_pylist() == ["2013-01-02"]
    assert place.lake.read("labels")["day"].to_pylist() == ["2013-01-02"]


@pytest.mark.proof
def test_streams_may_land_in_any_order(
    tmp_path: Path, full: bool, sample_size: Callable[[str, int], None]
) -> None:
    events = Flights().rows("events", FIRST, THIRD)
    chosen = events.take(list(range(0, events.num_rows, 40)))
    labels = Flights().rows("labels", FIRST, datetime(2013, 1, 4, tzinfo=UTC))
    labels = labels.filter(pc.is_in(labels["event_id"], value_set=chosen["event_id"].combine_chunks()))
    half = chosen.num_rows // 2
    pieces = {
        "a": ("events", changed(chosen.slice(0, half), "distance", -1)),
        "b": ("events", chosen.slice(half)),
        "c": ("labels", changed(labels.slice(half // 2), "event_id", "of no event")),
        "d": ("labels", labels.slice(0, 2 * half)),
    }
    found = {}
    orders = list(permutations(pieces))[:: 1 if full else 4]
    for order in orders:
        home = Home.create(tmp_path / "".join(order)).pipeline(loaded())
        home.prepare()
        for name in order:
            stream, rows = pieces[name]
            land_table(home, stream, f"{name}.parquet", rows)
            take = taking.take_events if stream == "events" else taking.take_labels
            assert take(home, []).adds_up
        if home.ledger.reopened_days(home.name, "labels"):
            taking.take_labels(home, [])
        found[order] = table_hashes(home)
    sample_size("orders", len(orders))
    assert len(found[orders[0]]) == 4
    assert {order: tables for order, tables in found.items() if tables != found[orders[0]]} == {}


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


def test_a_row_from_the_future_moves_no_clock_beyond_the_folder_it_landed_in(place: PipelineHome) -> None:
    at(place, SECOND)
    rows = Flights().rows("events", FIRST, SECOND).slice(0, 5)
    poison = changed(rows, "arrived_at", datetime(2099, 1, 1, tzinfo=UTC))
    land_table(place, "events", "some.parquet", poison, day="2013-01-02")
    taking.take_events(varied(place, lateness=timedelta(days=36525)), [])
    moved = place.ledger.watermark()
    assert moved is not None
    assert SECOND < moved < THIRD
    assert moved - SECOND > timedelta(hours=23)


def test_the_clock_is_not_left_behind_by_a_run_that_died(place: PipelineHome) -> None:
    at(place, FIRST)
    land(place, FIRST, SECOND)
    with nothing_is_finished(place):
        taking.take_events(place, [])
    moved = place.ledger.watermark()
    assert moved is not None
    assert FIRST < moved < SECOND


# --- ids, late rows, queues ------------------------------------------------------------------------


def test_an_id_that_comes_again_on_another_day_is_a_conflict_of_which_both_rows_are_shown(
    place: PipelineHome,
) -> None:
    rows = Flights().rows("events", FIRST, SECOND).slice(0, 2)
    land_table(place, "events", "first.parquet", rows)
    taking.take_events(place, [])
    before = hashes(place, "events")
    (time,) = {place.spec.events.time}
    moved = changed(later(rows, hours=1), time, rows[time][0].as_py() + timedelta(days=1)).slice(0, 1)
    land_table(place, "events", "again.parquet", moved)
    taken = taking.take_events(place, [])
    assert counts(taken) == [(1, 0, 1, 0)]
    assert hashes(place, "events") == before
    (rejected,) = rejects.waiting_rows(place).to_pylist()
    (stands,) = rejects.standing_rows(place, [rejected])
    assert stands is not None
    assert stands[time] == rows[time][0].as_py().isoformat()
    assert json.loads(rejected["row"])[time] == moved[time][0].as_py().isoformat()


def test_an_event_that_was_produced_before_the_one_that_stands_takes_its_place_on_another_day(
    place: PipelineHome,
) -> None:
    land(place, FIRST, SECOND)
    taking.take_events(place, [])
    taking.take_labels(place, [])
    labelled = place.lake.read("labels")
    event_id = labelled["event_id"][0].as_py()
    rows = Flights().rows("events", FIRST, SECOND)
    row = rows.filter(pc.equal(rows["event_id"], event_id))
    time = place.spec.events.time
    earlier = changed(row, "arrived_at", row["arrived_at"][0].as_py() - timedelta(hours=1))
    earlier = changed(earlier, time, row[time][0].as_py() + timedelta(days=1))
    land_table(place, "events", "earlier.parquet", earlier)
    taking.take_events(place, [])
    assert {*place.ledger.reopened_days(place.name, "labels")} == {"2013-01-01"}
    taking.take_labels(place, [])
    for table in ("events", "labels"):
        held = place.lake.read(table)
        assert held.filter(pc.equal(held["event_id"], event_id))["day"].to_pylist() == ["2013-01-02"]
    assert place.lake.read("labels").num_rows == labelled.num_rows
    assert rejects.waiting_rows(place, "events").num_rows == 1


@pytest.mark.parametrize(
    ("stream", "own_time"),
    [("events", "scheduled_departure"), ("labels", "landed_at"), ("weather", "observed_at")],
)
def test_what_arrives_beyond_the_lateness_bound_is_quarantined(
    place: PipelineHome, stream: str, own_time: str
) -> None:
    place = varied(place, lateness=timedelta(days=5))
    rows = Flights().rows(stream, FIRST, THIRD).slice(0, 3)
    late = changed(rows, "arrived_at", rows[own_time][0].as_py() + timedelta(days=5, seconds=1))
    land_table(place, stream, "late.parquet", late)
    taking.take_events(place, [])
    taken = {
        "events": lambda: taking.take_events(place, []),
        "labels": lambda: taking.take_labels(place, []),
    }.get(stream, lambda: taking.take_reference(place, stream, []))
    taken()
    (rejected,) = rejects.waiting_rows(place, stream).to_pylist()
    (reason,) = json.loads(rejected["reasons"])
    assert (reason["code"], reason["rule"]) == ("late", "is at most 5d before the row arrives")
    assert (reason["column"], reason["value"]) == (own_time, rows[own_time][0].as_py().isoformat())
    (file,) = place.ledger.file_counts(place.name).values()
    assert (file.rows, file.accepted, file.quarantined) == (3, 2, 1)


def test_a_run_takes_in_no_more_rows_than_it_may_and_the_next_takes_the_rest(place: PipelineHome) -> None:
    rows = Flights().rows("events", FIRST, SECOND).slice(0, 9)
    for number in range(3):
        land_table(place, "events", f"{number}.parquet", rows.slice(3 * number, 3))
    backlog = place.spec.triggers.backlog.model_copy(update={"at_most": 4})
    bounded = varied(place, triggers=place.spec.triggers.model_copy(update={"backlog": backlog}))
    assert counts(taking.take_events(bounded, [])) == [(3, 3, 0, 0), (3, 3, 0, 0)]
    assert taking.backlog(bounded, THIRD).due
    assert counts(taking.take_events(bounded, [])) == [(3, 3, 0, 0)]
    assert taking.take_events(bounded, []).files == []


def test_how_much_waits_and_how_far_the_events_lie_behind_is_said(place: PipelineHome) -> None:
    assert taking.backlog(place, THIRD).queues == {}
    assert taking.event_lag(place, THIRD) is None
    rows = Flights().rows("events", FIRST, SECOND).slice(0, 3)
    file = land_table(place, "events", "a.parquet", rows, day="2013-01-01")
    (queue,) = taking.backlog(place, THIRD).queues.values()
    assert (queue.files, queue.bytes) == (1, file.stat().st_size)
    assert queue.oldest // timedelta(hours=1) == 24
    taking.take_events(place, [])
    newest = pc.max(rows[place.spec.events.time]).as_py()
    assert taking.event_lag(place, THIRD) == THIRD - newest
    # Events that are announced ahead do not count.
    times = sorted(place.lake.read("events")["event_time"].to_pylist())
    assert taking.event_lag(place, times[-2]) == times[-2] - max(t for t in times if t <= times[-2])
    assert taking.event_lag(place, times[0]) == timedelta(0)


def test_a_jump_of_the_share_of_rejects_is_seen(place: PipelineHome) -> None:
    rows = Flights().rows("events", FIRST, SECOND).slice(0, 40)
    land_table(place, "events", "usual.parquet", rows, day="2013-01-01")
    first = taking.take_events(place, []).reject_share
    assert not first.has_jumped
    assert "no files came before" in first.sentence
    late = Flights().rows("events", FIRST, SECOND).slice(40, 40)
    far = pa.array([datetime(2014, 1, 1, tzinfo=UTC)] * 11 + late["arrived_at"].to_pylist()[11:])
    late = late.set_column(
        late.schema.get_field_index("arrived_at"),
        "arrived_at",
        far.cast(late.schema.field("arrived_at").type),
    )
    land_table(place, "events", "late.parquet", late)
    share = taking.take_events(place, []).reject_share
    assert share.has_jumped
    assert share.sentence == "11 of 40 rows were rejected, where 0.0 would have been usual."


# --- ids that come again, and runs that died -------------------------------------------------------


def shifted(rows: pa.Table, *, days: int = 0, hours: int = 0) -> pa.Table:
    """The rows some days later, and so many hours later than that as they arrive."""
    for name, by in (("scheduled_departure", timedelta(days)), ("arrived_at", timedelta(days, hours=hours))):
        index = rows.schema.get_field_index(name)
        rows = rows.set_column(index, name, pc.add(rows[name], pa.scalar(by, pa.duration("us"))))
    return rows


def told(place: PipelineHome, event_id: str) -> list[tuple[str, str]]:
    """Day and destination of the events with an id."""
    rows = place.lake.read("events")
    return [
        (row["day"], row["dest"])
        for row in rows.filter(pc.equal(rows["event_id"], event_id)).sort_by("day").to_pylist()
    ]


def test_what_a_dead_run_put_into_the_quarantine_is_settled_by_the_next(
    place: PipelineHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row was to be displaced; the run died before, and now another file says what that row says."""
    stood = Flights().rows("events", FIRST, SECOND).slice(0, 1)
    (event_id,) = stood["event_id"].to_pylist()
    earlier = shifted(changed(stood, "dest", "XXX"), hours=-1)
    land_table(place, "events", "stood.parquet", stood)
    taking.take_events(place, [])
    land_table(place, "events", "earlier.parquet", earlier)

    class DiedError(BaseException):
        pass

    def die(*_: Any, **__: Any) -> None:
        raise DiedError

    with monkeypatch.context() as dying:
        dying.setattr(taking, "_events_moved", die)
        with pytest.raises(DiedError):
            taking.take_events(place, [])
    assert rejects.waiting_rows(place).num_rows == 1
    land_table(place, "events", "first of all.parquet", shifted(stood, hours=-2))
    taking.take_events(place, [])
    assert told(place, event_id) == [("2013-01-01", *stood["dest"].to_pylist())]
    (waits,) = rejects.waiting_rows(place).to_pylist()
    assert json.loads(waits["row"])["dest"] == "XXX"


def test_a_row_that_contradicts_none_that_stands_any_more_stands(place: PipelineHome) -> None:
    """Ids are unique within 30 days: the second contradicts the first and the third; the first goes."""
    third = Flights().rows("events", FIRST, SECOND).slice(0, 1)
    (event_id,) = third["event_id"].to_pylist()
    first, second, third = (
        shifted(third, hours=hours, days=days) for hours, days in ((0, 1), (-480, 21), (-960, 41))
    )
    before = shifted(changed(first, "dest", "XXX"), hours=12, days=-1)
    files = {"first": first, "second": second, "third": third, "before": before}
    for name in ("second", "third", "first", "before"):
        land_table(place, "events", f"{name}.parquet", files[name])
        taking.take_events(place, [])
    dest = first["dest"][0].as_py()
    assert told(place, event_id) == [("2013-01-01", "XXX"), ("2013-02-11", dest)]
