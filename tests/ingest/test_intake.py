"""From accepted rows to the canonical tables, whatever the order in which files come."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.ingest.intake import (
    FileOrigin,
    Merged,
    canonical_events,
    canonical_labels,
    canonical_reference,
    match_labels,
    merge_events,
    merge_labels,
    merge_reference,
    split_by_partitions,
)
from mlops_pipelines.spec import PipelineSpec

T0 = datetime(2013, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
US = pa.timestamp("us", tz="UTC")
ORIGIN = FileOrigin("digest", T0 + 30 * HOUR)


def spec(**parts: Any) -> PipelineSpec:
    return PipelineSpec.model_validate(
        {
            "name": "small",
            "partitions": {"start": "2013-01-01", "end": "2013-01-03"},
            "events": {"landing": "landing/events", "time": "at", "arrived": "arrived_at"},
            "labels": {
                "landing": "landing/labels",
                "value": "late",
                "time": "ended_at",
                "arrived": "arrived_at",
                "matures_after": "1d",
            },
            "references": {
                "weather": {
                    "landing": "landing/weather",
                    "keys": ["place"],
                    "time": "at",
                    "arrived": "arrived_at",
                    "publish_lag": "2h",
                },
                "planes": {"landing": "landing/planes", "keys": ["tail"], "arrived": "arrived_at"},
            },
            "features": {},
            **parts,
        }
    )


SPEC = spec()
WEATHER, PLANES = SPEC.references["weather"], SPEC.references["planes"]


def accepted(rows: list[dict[str, Any]], **types: pa.DataType) -> pa.Table:
    """Rows as `judge` accepts them."""
    return pa.Table.from_pylist(
        [{**row, "file_row": place} for place, row in enumerate(rows)],
        schema=pa.schema({**types, "file_row": pa.int64()}),
    )


def some_events(*rows: dict[str, Any]) -> pa.Table:
    return accepted(list(rows), event_id=pa.string(), at=US, size=pa.int64(), arrived_at=US)


def some_labels(*rows: dict[str, Any]) -> pa.Table:
    return accepted(list(rows), event_id=pa.string(), ended_at=US, late=pa.bool_(), arrived_at=US)


# --- canonical tables -----------------------------------------------------------------------------


def test_an_event_is_known_from_the_later_of_its_time_and_its_arrival() -> None:
    early = {"event_id": "a", "at": T0, "size": 1, "arrived_at": T0 - HOUR}
    late = {"event_id": "b", "at": T0, "size": 2, "arrived_at": T0 + 20 * HOUR}
    first, second = canonical_events(some_events(early, late), ORIGIN, SPEC).to_pylist()
    assert first == {
        "day": "2013-01-01",
        "event_id": "a",
        "event_time": T0,
        "decision_time": T0,
        "arrived_at": T0 - HOUR,
        "known_at": T0,
        "at": T0,
        "size": 1,
        "file_digest": "digest",
        "file_row": 0,
    }
    assert (second["day"], second["known_at"]) == ("2013-01-01", T0 + 20 * HOUR)


def test_roles_are_played_by_the_columns_the_pipeline_names() -> None:
    events = {"landing": "x", "id": "order_no", "time": "at", "decide_at": "due"}
    table = accepted([{"order_no": 7, "at": T0, "due": T0 + HOUR}], order_no=pa.int64(), at=US, due=US)
    (row,) = canonical_events(table, ORIGIN, spec(events=events)).to_pylist()
    assert row["event_id"] == "7"
    assert row["decision_time"] == row["due"] == T0 + HOUR
    assert row["arrived_at"] == ORIGIN.modified_at
    assert "order_no" not in row


def test_a_label_is_known_after_its_publish_lag() -> None:
    labels = SPEC.labels.model_dump(mode="json") | {"publish_lag": "3h"}
    row = {"event_id": "a", "ended_at": T0, "late": True, "arrived_at": T0 + HOUR}
    table = canonical_labels(some_labels(row), ORIGIN, spec(labels=labels))
    assert table["label"].type == pa.int8()
    assert table["label"].to_pylist() == [1]
    assert table["label_time"].to_pylist() == [T0]
    assert table["known_at"].to_pylist() == [T0 + 3 * HOUR]


def test_reference_rows_are_known_after_their_publish_lag() -> None:
    rows = [{"place": "EWR", "at": T0 + 11 * HOUR, "arrived_at": T0}]
    (row,) = canonical_reference(
        accepted(rows, place=pa.string(), at=US, arrived_at=US), ORIGIN, WEATHER
    ).to_pylist()
    assert (row["day"], row["ref_time"], row["known_at"]) == ("2013-01-01", T0 + 11 * HOUR, T0 + 13 * HOUR)


def test_static_reference_rows_have_no_time() -> None:
    rows = [{"tail": "N1", "arrived_at": T0}]
    (row,) = canonical_reference(accepted(rows, tail=pa.string(), arrived_at=US), ORIGIN, PLANES).to_pylist()
    assert (row["day"], row["ref_time"], row["known_at"]) == ("static", None, None)


def test_an_accepted_row_without_its_id_or_time_is_an_error() -> None:
    with pytest.raises(TerminalError, match="no event_id"):
        canonical_events(some_events({"at": T0, "arrived_at": T0}), ORIGIN, SPEC)
    with pytest.raises(TerminalError, match="no late"):
        canonical_labels(some_labels({"event_id": "a", "ended_at": T0, "arrived_at": T0}), ORIGIN, SPEC)


def test_a_label_that_is_neither_0_nor_1_is_an_error() -> None:
    rows = [{"event_id": "a", "ended_at": T0, "late": 2, "arrived_at": T0}]
    table = accepted(rows, event_id=pa.string(), ended_at=US, late=pa.int64(), arrived_at=US)
    with pytest.raises(TerminalError, match="neither 0 nor 1"):
        canonical_labels(table, ORIGIN, SPEC)


def test_a_column_with_the_name_of_another_role_is_an_error() -> None:
    rows = [{"event_id": "a", "at": T0, "event_time": T0, "arrived_at": T0}]
    table = accepted(rows, event_id=pa.string(), at=US, event_time=US, arrived_at=US)
    with pytest.raises(TerminalError, match="event_time"):
        canonical_events(table, ORIGIN, SPEC)


def test_tables_without_rows_have_the_same_columns() -> None:
    event = {"event_id": "a", "at": T0, "size": 1, "arrived_at": T0}
    label = {"event_id": "a", "ended_at": T0, "late": True, "arrived_at": T0}
    assert canonical_events(some_events(), ORIGIN, SPEC).schema == events_of(event).schema
    none, one = some_labels(), some_labels(label)
    assert canonical_labels(none, ORIGIN, SPEC).schema == canonical_labels(one, ORIGIN, SPEC).schema
    inside, outside, _ = split_by_partitions(canonical_events(some_events(), ORIGIN, SPEC), SPEC.partitions)
    assert merge_events(None, inside, SPEC).table.num_rows == outside.num_rows == 0


def test_events_outside_the_partitions_are_split_off() -> None:
    moments = [datetime(2012, 12, 31, 23, 59, tzinfo=UTC), T0, datetime(2013, 1, 3, tzinfo=UTC)]
    table = events_of(*({"event_id": str(at), "at": at, "size": 1, "arrived_at": at} for at in moments))
    inside, outside, reason = split_by_partitions(table, SPEC.partitions)
    assert inside["event_time"].to_pylist() == [T0]
    assert outside.num_rows == 2
    assert reason.rule == "is from 2013-01-01 to before 2013-01-03"


def test_without_a_last_partition_an_event_may_be_announced_366_days_ahead() -> None:
    open_ended = spec(partitions={"start": "2013-01-01"}).partitions
    times = [T0 + timedelta(days=366), T0 + timedelta(days=366, microseconds=1)]
    table = events_of(*({"event_id": str(at), "at": at, "size": 1, "arrived_at": T0} for at in times))
    inside, outside, reason = split_by_partitions(table, open_ended)
    assert (inside["event_time"].to_pylist(), outside["event_time"].to_pylist()) == (times[:1], times[1:])
    assert reason.code == "partition"
    assert reason.rule == "is from 2013-01-01 on, and at most 366 days after its arrival"


# --- merging --------------------------------------------------------------------------------------


def events_of(*rows: dict[str, Any], digest: str = "digest") -> pa.Table:
    return canonical_events(some_events(*rows), FileOrigin(digest, T0), SPEC)


def test_the_same_event_twice_is_a_duplicate_and_the_first_arrival_stands() -> None:
    row = {"event_id": "a", "at": T0, "size": 1, "arrived_at": T0}
    again = row | {"arrived_at": T0 + HOUR}
    for first, second in ((row, again), (again, row)):
        table = merge_events(None, events_of(first, digest="1"), SPEC).table
        merged = merge_events(table, events_of(second, digest="2"), SPEC)
        assert merged.table["arrived_at"].to_pylist() == [T0]
        assert merged.conflicts.num_rows == 0
        assert merged.accepted + merged.duplicates == 1


def test_of_contradicting_events_the_first_arrival_stands_and_the_other_is_set_aside() -> None:
    row = {"event_id": "a", "at": T0, "size": 1, "arrived_at": T0}
    other = row | {"size": 2, "arrived_at": T0 + HOUR}
    for first, second in ((row, other), (other, row)):
        table = merge_events(None, events_of(first, digest="1"), SPEC).table
        merged = merge_events(table, events_of(second, digest="2"), SPEC)
        assert merged.table["size"].to_pylist() == [1]
        assert merged.conflicts["size"].to_pylist() == [2]
        assert merged.accepted + merged.conflicting == 1


def test_an_event_that_moves_to_another_day_is_a_conflict_not_a_second_event() -> None:
    row = {"event_id": "a", "at": T0, "size": 1, "arrived_at": T0}
    moved = row | {"at": T0 + 24 * HOUR, "arrived_at": T0 + HOUR}
    merged = merge_events(events_of(row, digest="1"), events_of(moved, digest="2"), SPEC)
    assert merged.table["day"].to_pylist() == ["2013-01-01"]
    assert merged.conflicting == 1


def test_new_rows_are_counted_by_their_file() -> None:
    row = {"event_id": "a", "at": T0, "size": 1, "arrived_at": T0}
    standing = events_of(row, digest="0")
    new = [
        events_of(row | {"event_id": "b"}, row, digest="1"),
        events_of(row | {"size": 2, "arrived_at": T0 + HOUR}, row | {"arrived_at": T0 + HOUR}, digest="2"),
    ]
    merged = merge_events(standing, pa.concat_tables(new), SPEC)
    assert merged.accepted_of == {"1": 1}
    assert merged.duplicates_of == {"1": 1, "2": 1}
    assert merged.conflicting_of == {"2": 1}


def test_a_contract_that_grows_leaves_old_rows_as_they_are() -> None:
    row = {"event_id": "a", "at": T0, "size": 1, "arrived_at": T0}
    old = events_of(row, digest="1").drop_columns(["size"])
    unsaid = events_of(row | {"size": None}, digest="2")
    assert merge_events(old, unsaid, SPEC).duplicates == 1
    again = merge_events(old, events_of(row, digest="1"), SPEC)
    assert again.table["size"].to_pylist() == [1]
    assert again.accepted == 1


def test_a_column_that_changes_its_type_is_an_error() -> None:
    row = {"event_id": "a", "at": T0, "size": 1, "arrived_at": T0}
    current = events_of(row)
    current = current.set_column(current.column_names.index("size"), "size", pa.array([1.0]))
    with pytest.raises(TerminalError, match="size is double in the table and int64"):
        merge_events(current, events_of(row | {"event_id": "b"}), SPEC)


def test_texts_may_be_held_in_any_way() -> None:
    row = {"event_id": "a", "at": T0, "size": 1, "arrived_at": T0}
    current = events_of(row, digest="1")
    for name in ("day", "event_id", "file_digest"):
        place = current.column_names.index(name)
        current = current.set_column(place, name, current[name].cast(pa.large_string()))
    merged = merge_events(current, events_of(row | {"arrived_at": T0 + HOUR}, digest="2"), SPEC)
    assert merged.duplicates == 1


def test_what_stood_and_what_became_known_later_are_told_apart() -> None:
    row = {"event_id": "a", "ended_at": T0, "late": True, "arrived_at": T0 + 2 * HOUR}
    corrected = row | {"late": False, "arrived_at": T0 + 3 * HOUR}
    other = row | {"event_id": "b"}
    standing = labels_of(row, corrected, other, other | {"late": False}, digest="1")
    again = merge_labels(standing, labels_of(row | {"arrived_at": T0 + 4 * HOUR}, digest="2"), SPEC)
    assert (again.overtaken.num_rows, again.later.num_rows, again.duplicates) == (0, 0, 1)
    before = merge_labels(standing, labels_of(corrected | {"arrived_at": T0 + HOUR}, digest="2"), SPEC)
    assert before.overtaken["known_at"].to_pylist() == [T0 + 3 * HOUR]
    assert before.replacing["known_at"].to_pylist() == [T0 + 2 * HOUR, T0 + HOUR]
    assert before.later["known_at"].to_pylist() == [T0 + 2 * HOUR]
    assert set(before.shared["event_id"].to_pylist()) == {"a"}


def labels_of(*rows: dict[str, Any], digest: str = "digest") -> pa.Table:
    return canonical_labels(some_labels(*rows), FileOrigin(digest, T0), SPEC)


def test_a_corrected_label_stands_beside_the_first_one() -> None:
    row = {"event_id": "a", "ended_at": T0, "late": True, "arrived_at": T0}
    corrected = row | {"late": False, "arrived_at": T0 + HOUR}
    merged = merge_labels(labels_of(row, digest="1"), labels_of(corrected, digest="2"), SPEC)
    assert merged.table["label"].to_pylist() == [1, 0]
    assert merged.accepted == 1


def test_a_repeated_label_does_not_overrule_its_correction() -> None:
    row = {"event_id": "a", "ended_at": T0, "late": True, "arrived_at": T0}
    corrected = row | {"late": False, "arrived_at": T0 + HOUR}
    repeated = row | {"arrived_at": T0 + 2 * HOUR}
    merged = merge_labels(labels_of(row, corrected, digest="1"), labels_of(repeated, digest="2"), SPEC)
    assert merged.duplicates == 1
    last = max(merged.table.to_pylist(), key=lambda label: label["known_at"])
    assert last["label"] == 0


def test_of_a_static_reference_one_row_a_key_stands() -> None:
    rows = [{"tail": "N1", "seats": 5, "arrived_at": T0}, {"tail": "N1", "seats": 6, "arrived_at": T0 + HOUR}]
    table = accepted(rows, tail=pa.string(), seats=pa.int64(), arrived_at=US)
    merged = merge_reference(None, canonical_reference(table, ORIGIN, PLANES), PLANES)
    assert merged.table["seats"].to_pylist() == [5]
    assert merged.conflicting == 1


def test_of_a_timed_reference_revisions_stand_side_by_side() -> None:
    row = {"place": "EWR", "at": T0, "wind": 1.0, "arrived_at": T0}
    rows = [row, row | {"wind": 2.0, "arrived_at": T0 + HOUR}, row | {"at": T0 + HOUR}, row]
    table = accepted(rows, place=pa.string(), at=US, wind=pa.float64(), arrived_at=US)
    merged = merge_reference(None, canonical_reference(table, ORIGIN, WEATHER), WEATHER)
    assert merged.table["wind"].to_pylist() == [1.0, 2.0, 1.0]
    assert (merged.accepted, merged.duplicates, merged.conflicting) == (3, 1, 0)


def happened(*events: tuple[str, datetime], known_after: timedelta = timedelta(0)) -> pa.Table:
    """Events by id and time."""
    days = [time.date().isoformat() for _, time in events]
    columns = {"event_id": pa.string(), "day": pa.string(), "event_time": US, "known_at": US}
    times = [time for _, time in events]
    values = [[event_id for event_id, _ in events], days, times, [time + known_after for time in times]]
    return pa.table({name: pa.array(v, columns[name]) for name, v in zip(columns, values, strict=True)})


def test_labels_get_the_day_of_their_event_or_wait() -> None:
    row = {"ended_at": T0 + 20 * HOUR, "late": True, "arrived_at": T0 + 20 * HOUR}
    labels = labels_of({"event_id": "b", **row}, {"event_id": "x", **row}, {"event_id": "a", **row})
    matched, unmatched = match_labels(labels, happened(("a", T0), ("b", T0 - 24 * HOUR)), SPEC)
    found = dict(zip(matched["event_id"].to_pylist(), matched["day"].to_pylist(), strict=True))
    assert found == {"b": "2012-12-31", "a": "2013-01-01"}
    assert unmatched.select(["event_id", "day"]).to_pylist() == [{"event_id": "x", "day": "2013-01-02"}]
    again, still = match_labels(unmatched, happened(("x", T0)), SPEC)
    assert (again["day"].to_pylist(), still.num_rows) == (["2013-01-01"], 0)
    assert again.schema == matched.schema == unmatched.schema


def test_a_label_is_known_no_earlier_than_its_event() -> None:
    row = {"event_id": "x", "late": True}
    labels = labels_of(
        *({**row, "ended_at": T0 + at * HOUR, "arrived_at": T0 + 2 * HOUR} for at in (0, 2, 4)),
    )

    def known(labels: pa.Table, events: pa.Table) -> list[float]:
        return [(at - T0) / HOUR for at in match_labels(labels, events, SPEC)[0]["known_at"].to_pylist()]

    assert known(labels, happened(("x", T0), known_after=3 * HOUR)) == [3, 3, 4]
    matched, _ = match_labels(labels, happened(("x", T0), known_after=9 * HOUR), SPEC)
    assert matched["known_at"].to_pylist() == [T0 + 9 * HOUR] * 3
    # It is worked out anew from what the label itself says, not from when its event was known before.
    assert known(matched, happened(("x", T0), known_after=HOUR)) == [2, 2, 4]
    _, waiting = match_labels(matched, happened(), SPEC)
    assert waiting.equals(match_labels(labels, happened(), SPEC)[1])


def test_a_label_of_an_event_that_is_announced_ahead_is_known_once_it_happens() -> None:
    event = {"event_id": "x", "at": T0 + 5 * HOUR, "size": 1, "arrived_at": T0}
    label = {"event_id": "x", "ended_at": T0 + HOUR, "late": True, "arrived_at": T0 + HOUR}
    matched, _ = match_labels(labels_of(label), events_of(event), SPEC)
    assert matched["known_at"].to_pylist() == [T0 + 5 * HOUR]


@pytest.mark.parametrize(
    ("after", "day"),
    [
        (timedelta(days=-1, microseconds=-1), None),
        (timedelta(days=-1), "2013-01-01"),
        (timedelta(0), "2013-01-01"),
        (timedelta(days=29, microseconds=-1), "2013-01-01"),
        (timedelta(days=29), "2013-01-31"),
        (timedelta(days=30), "2013-01-31"),
        (timedelta(days=59), None),
    ],
)
def test_a_label_is_of_the_event_of_its_id_that_it_is_near(after: timedelta, day: str | None) -> None:
    """Two events may have one id if they are so far apart as ids are unique: 30 days."""
    label = {"event_id": "x", "ended_at": T0 + after, "late": True, "arrived_at": T0 + 2000 * HOUR}
    events = happened(("x", T0), ("x", T0 + timedelta(days=30)), ("y", T0 + after))
    for order in (events, events.take([2, 1, 0])):
        matched, unmatched = match_labels(labels_of(label), order, SPEC)
        assert matched["day"].to_pylist() == [day] * matched.num_rows
        assert (matched.num_rows, unmatched.num_rows) == ((0, 1) if day is None else (1, 0))


def test_labels_wait_where_there_are_no_events() -> None:
    labels = labels_of({"event_id": "x", "ended_at": T0, "late": True, "arrived_at": T0})
    matched, unmatched = match_labels(labels, happened(), SPEC)
    assert (matched.num_rows, unmatched.num_rows) == (0, 1)


# --- any order, any number of times ---------------------------------------------------------------

EVENT = st.fixed_dictionaries(
    {
        "event_id": st.sampled_from(["a", "b", "c"]),
        "at": st.sampled_from([T0, T0 + 24 * HOUR]),
        "size": st.sampled_from([None, 1, 2]),
        "arrived_at": st.sampled_from([T0, T0 + HOUR]),
    }
)
LABEL = st.fixed_dictionaries(
    {
        "event_id": st.sampled_from(["a", "b"]),
        "ended_at": st.sampled_from([T0, T0 + HOUR]),
        "late": st.booleans(),
        "arrived_at": st.sampled_from([T0, T0 + HOUR, T0 + 2 * HOUR]),
    }
)


def lists_of(row: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[list[list[dict[str, Any]]]]:
    return st.lists(st.lists(row, max_size=4), min_size=1, max_size=4)


def in_turn(files: list[pa.Table], merge: Any) -> pa.Table:
    current = None
    for file in files:
        merged: Merged = merge(current, file, SPEC)
        assert merged.accepted + merged.duplicates + merged.conflicting == file.num_rows
        current = merged.table
    assert current is not None
    return current


def said(table: pa.Table) -> list[str]:
    """What the rows say and when they came; of rows that say the same at the same moment any may stand."""
    return sorted(repr(row) for row in table.drop_columns(["file_digest", "file_row"]).to_pylist())


def test_a_row_that_comes_again_changes_nothing_whatever_its_file_is_called() -> None:
    row = {"event_id": "a", "at": T0, "size": 1, "arrived_at": T0}
    first = merge_events(None, events_of(row, digest="b"), SPEC).table
    again = merge_events(first, events_of(row, digest="a"), SPEC)
    assert (again.table, again.accepted, again.duplicates) == (first, 0, 1)


@given(lists_of(EVENT), st.randoms(use_true_random=False))
def test_events_are_the_same_in_any_order_of_files(files: list[list[dict[str, Any]]], random: Any) -> None:
    tables = [events_of(*rows, digest=str(n)) for n, rows in enumerate(files)]
    found = in_turn(tables, merge_events)
    shuffled = random.sample(tables, k=len(tables))
    assert said(in_turn(shuffled, merge_events)) == said(found)
    assert said(in_turn([*shuffled, *tables], merge_events)) == said(found)
    assert said(merge_events(None, pa.concat_tables(tables), SPEC).table) == said(found)
    ids = found["event_id"].to_pylist()
    assert sorted(ids) == sorted({row["event_id"] for rows in files for row in rows})
    arrivals = {row["event_id"]: row["arrived_at"] for row in found.to_pylist()}
    assert all(arrivals[row["event_id"]] <= row["arrived_at"] for rows in files for row in rows)


@given(lists_of(LABEL), st.randoms(use_true_random=False))
def test_labels_are_the_same_in_any_order_of_files(files: list[list[dict[str, Any]]], random: Any) -> None:
    tables = [labels_of(*rows, digest=str(n)) for n, rows in enumerate(files)]
    found = in_turn(tables, merge_labels)
    shuffled = random.sample(tables, k=len(tables))
    assert said(in_turn(shuffled, merge_labels)) == said(found)
    assert said(in_turn([*shuffled, *tables], merge_labels)) == said(found)
    assert said(merge_labels(None, pa.concat_tables(tables), SPEC).table) == said(found)
    first: dict[tuple[Any, ...], datetime] = {}
    for row in (row for rows in files for row in rows):
        content = (row["event_id"], row["ended_at"], row["late"])
        first[content] = min(row["arrived_at"], first.get(content, row["arrived_at"]))
    columns = ("event_id", "label_time", "late", "arrived_at")
    kept = sorted(zip(*(found[name].to_pylist() for name in columns), strict=True))
    assert kept == sorted((*content, arrived) for content, arrived in first.items())


@given(lists_of(EVENT))
def test_a_file_taken_in_again_counts_as_it_did(files: list[list[dict[str, Any]]]) -> None:
    tables = [events_of(*rows, digest=str(n)) for n, rows in enumerate(files)]
    before = in_turn(tables[:-1], merge_events) if tables[1:] else None
    once = merge_events(before, tables[-1], SPEC)
    again = merge_events(once.table, tables[-1], SPEC)
    assert again.table == once.table
    assert (again.accepted, again.duplicates, again.conflicting) == (
        once.accepted,
        once.duplicates,
        once.conflicting,
    )
