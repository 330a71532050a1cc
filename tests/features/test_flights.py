"""The flights of some days, through the pipeline's own definition."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlops_pipelines.features.point_in_time import compute_examples
from mlops_pipelines.features.sets import feature_set
from mlops_pipelines.features.tiles import compute_tiles
from mlops_pipelines.features.views import compile_views, tile_table
from mlops_pipelines.ingest.intake import (
    FileOrigin,
    canonical_events,
    canonical_labels,
    canonical_reference,
    match_labels,
)
from mlops_pipelines.lake import Lake, content_hash
from mlops_pipelines.pipelines.flight_delays.source import Flights
from mlops_pipelines.spec_loading import load_pipeline

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

START = datetime(2013, 3, 5, tzinfo=UTC)
DAYS = [(START + timedelta(days=day)).strftime("%Y-%m-%d") for day in range(8)]
LOADED = load_pipeline("flight_delays")


def landed(folder: Path) -> tuple[pa.Table, FileOrigin]:
    table = pa.concat_tables([pq.read_table(path) for path in sorted(folder.rglob("*.parquet"))])
    rows = pa.array(range(table.num_rows), pa.int64())
    return table.append_column("file_row", rows), FileOrigin("digest", START)


def taken_in(lake: Lake, landing: Path) -> None:
    spec = LOADED.spec
    events = canonical_events(*landed(landing / "events"), spec)
    labels, _ = match_labels(canonical_labels(*landed(landing / "labels"), spec), events, spec)
    tables = {"events": events, "labels": labels}
    for name, reference in spec.references.items():
        tables[name] = canonical_reference(*landed(landing / name), reference)
    for name, table in tables.items():
        days = sorted(set(table["day"].to_pylist()))
        lake.replace(name, table, days=days, sort_by=["arrived_at", "file_row"])


def examples_in_steps(lake: Lake, steps: Sequence[Sequence[str]]) -> pa.Table:
    """The lake holds all facts from the start: knowledge times alone keep the later ones out."""
    spec, contract = LOADED.spec, LOADED.contract
    views = compile_views(spec, contract)
    sources = {name: lake.version(name) for name in ("events", "labels", *spec.references)}
    parts = []
    for days in steps:
        versions = dict(sources)
        for view in views:
            if view.windowed:
                tiles = compute_tiles(view, lake, days, sources)
                lake.replace(tile_table(view), tiles, days=days, sort_by=["hour", *view.keys])
                versions[tile_table(view)] = lake.version(tile_table(view))
        parts.append(
            compute_examples(feature_set(spec, contract), lake, lake.read("events", days=days), versions)
        )
    return pa.concat_tables(parts)


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
    for column in feature_set(LOADED.spec, LOADED.contract).columns:
        assert last[column.name].null_count < last.num_rows, column.name
