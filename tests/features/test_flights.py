"""The flights of some days, through the pipeline's own definition."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from mlops_pipelines.lake import Lake, content_hash
from mlops_pipelines.pipelines.flight_delays.source import Flights
from tests.flight_delays.examples import FEATURES, days_of, examples_in_steps, taken_in

if TYPE_CHECKING:
    from pathlib import Path

START = datetime(2013, 3, 5, tzinfo=UTC)
DAYS = days_of(START, 8)


def test_flights_have_the_same_vectors_day_by_day_and_all_at_once(tmp_path: Path) -> None:
    landing = tmp_path / "landing"
    Flights().write(landing, START, START + timedelta(days=len(DAYS)))
    tables = []
    for name, steps in (("days", [[day] for day in DAYS]), ("once", [DAYS])):
        lake = Lake(tmp_path / name)
        taken_in(lake, landing)
        tables.append(examples_in_steps(lake, steps))
    by_day, at_once = tables
    unhashed = ["made_of"]
    assert content_hash(by_day, sort_by=["event_id"], unhashed=unhashed) == content_hash(
        at_once, sort_by=["event_id"], unhashed=unhashed
    )
    assert at_once.num_rows > 7000
    # On the eighth day all that flies has been seen before: every feature has values.
    last = at_once.filter(pc.equal(at_once["day"], DAYS[-1]))
    for column in FEATURES:
        assert last[column.name].null_count < last.num_rows, column.name
