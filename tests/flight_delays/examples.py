"""Flights as the shipped pipeline sees them, taken into a lake without a run: examples and their labels."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
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
from mlops_pipelines.lake import Lake
from mlops_pipelines.monitoring.performance import scored_labels
from mlops_pipelines.pipelines.flight_delays.source import Flights
from mlops_pipelines.spec_loading import load_pipeline

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LOADED = load_pipeline("flight_delays")
FEATURES = feature_set(LOADED.spec, LOADED.contract).columns
FIRST = datetime(2013, 1, 1, tzinfo=UTC)


def days_of(first: datetime, days: int) -> list[str]:
    """YYYY-MM-DD of so many days."""
    return [(first + timedelta(days=day)).strftime("%Y-%m-%d") for day in range(days)]


def taken_in(lake: Lake, landing: Path) -> None:
    """All that landed, as one file a stream."""
    spec = LOADED.spec
    events = canonical_events(*_landed(landing / "events"), spec)
    labels, _ = match_labels(canonical_labels(*_landed(landing / "labels"), spec), events, spec)
    tables = {"events": events, "labels": labels}
    for name, reference in spec.references.items():
        tables[name] = canonical_reference(*_landed(landing / name), reference)
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


def labelled_examples(folder: Path, days: int) -> pa.Table:
    """The examples of the year's first days that have a label, as a training set has them."""
    Flights().write(folder / "landing", FIRST, FIRST + timedelta(days=days))
    lake = Lake(folder / "lake")
    taken_in(lake, folder / "landing")
    examples = examples_in_steps(lake, [days_of(FIRST, days)])
    return scored_labels(examples, lake.read("labels"), FIRST + timedelta(days=days))


def _landed(folder: Path) -> tuple[pa.Table, FileOrigin]:
    table = pa.concat_tables([pq.read_table(path) for path in sorted(folder.rglob("*.parquet"))])
    rows = pa.array(range(table.num_rows), pa.int64())
    return table.append_column("file_row", rows), FileOrigin("digest", FIRST)
