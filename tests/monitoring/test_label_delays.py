"""When labels come: delays, and how many are there by which age."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from mlops_pipelines.monitoring.label_delays import AGES, curve, delays_by_day

NOW = datetime(2024, 3, 20, tzinfo=UTC)
MOMENT = pa.timestamp("us", tz="UTC")


def events(*hours: float) -> pa.Table:
    """An event at each of these hours of March 2024."""
    times = [datetime(2024, 3, 1, tzinfo=UTC) + timedelta(hours=hour) for hour in hours]
    return pa.table(
        {
            "day": [f"{time:%Y-%m-%d}" for time in times],
            "event_id": [f"e{n}" for n in range(len(times))],
            "event_time": pa.array(times, MOMENT),
        }
    )


def labels(*known: tuple[str, float]) -> pa.Table:
    """Labels by event, known at these hours of March 2024."""
    times = [datetime(2024, 3, 1, tzinfo=UTC) + timedelta(hours=hour) for _, hour in known]
    return pa.table(
        {
            "event_id": pa.array([event for event, _ in known], pa.string()),
            "label": pa.nulls(len(known), pa.bool_()),
            "label_time": pa.nulls(len(known), MOMENT),
            "known_at": pa.array(times, MOMENT),
        }
    )


def test_a_delay_is_counted_from_the_event_to_its_first_label() -> None:
    first, second = delays_by_day(
        events(0, 1, 2, 24), labels(("e0", 2), ("e1", 6), ("e1", 4), ("other", 3), ("e0", 30)), NOW
    )
    assert (first.day, first.median) == ("2024-03-01", 2.5)
    assert first.known_by[: AGES.index(6)] == (0, 1, 2, 2)
    assert (second.day, second.median, second.p99, set(second.known_by)) == ("2024-03-02", None, None, {0})


def test_labels_before_their_events_have_no_delay_and_later_ones_are_not_known_yet() -> None:
    [day] = delays_by_day(events(5, 6), labels(("e0", 1), ("e1", 24 * 60)), NOW)
    assert (day.median, day.known_by[0]) == (0.0, 1)


def test_no_events_and_no_labels_have_no_delays() -> None:
    assert delays_by_day(events(), labels(), NOW) == []
    [day] = delays_by_day(events(1), labels(), NOW)
    assert day.median is None
    assert curve([]) == curve([{"rows": 0, "known_by": "[]"}]) == curve([{"rows": 3, "known_by": None}]) == {}


def test_the_curve_ends_where_nothing_more_comes() -> None:
    found = delays_by_day(events(0, 0, 0, 0), labels(("e0", 1), ("e1", 3), ("e2", 5)), NOW)
    assert curve([{"rows": 4, **day.row} for day in found]) == {
        "1 h": 0.25, "2 h": 0.25, "3 h": 0.5, "4 h": 0.5, "6 h": 0.75,
    }  # fmt: skip


@given(st.lists(st.tuples(st.floats(0, 200), st.one_of(st.none(), st.floats(0, 200))), max_size=30))
def test_shares_grow_with_age_and_never_exceed_what_has_a_label(
    rows: list[tuple[float, float | None]],
) -> None:
    made = events(*(hour for hour, _ in rows))
    known = labels(*((f"e{n}", hour + delay) for n, (hour, delay) in enumerate(rows) if delay is not None))
    late = NOW + timedelta(days=60)
    by_age = curve(
        [
            {"rows": made["day"].to_pylist().count(day.day), **day.row}
            for day in delays_by_day(made, known, late)
        ]
    )
    shares = [*by_age.values()]
    assert shares == sorted(shares)
    assert all(share <= sum(delay is not None for _, delay in rows) / len(rows) for share in shares)
