"""A made-up pipeline of sensors whose readings, events and outcomes grow by the same number every day.

What is benchmarked reads it from a home: the tables are written as the loop writes them, a commit a day.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from mlops_pipelines.features.store import FeatureStore
    from mlops_pipelines.features.views import CompiledView
    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.ingest.contract import Contract
    from mlops_pipelines.spec import PipelineSpec

START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
VALUES = [f"v{n}" for n in range(9)]
NEWEST: dict[str, Any] = {
    "name": "newest", "key": "sensor", "of": "readings", "last": VALUES, "within": "30d",
}  # fmt: skip
# 30 features.
LATENESS: dict[str, Any] = {
    "name": "lateness", "key": "sensor", "of": "labels",
    "aggregate": {"late": ["mean", "count"], "delay": ["mean", "min", "max"]},
    "windows": ["6h", "1d", "3d", "7d", "14d", "30d"],
}  # fmt: skip
EVENTS_OF_A_SENSOR = 5  # a day
OUTCOME_AFTER = 2 * HOUR


def definition(view: Mapping[str, Any]) -> tuple[PipelineSpec, Contract]:
    """The pipeline with one view."""
    from mlops_pipelines.ingest.contract import Contract
    from mlops_pipelines.spec import PipelineSpec

    moment, text, number = {"type": "timestamp"}, {"type": "string"}, {"type": "float"}
    spec = PipelineSpec.model_validate(
        {
            "name": "sensors",
            "partitions": {"start": f"{START:%Y-%m-%d}"},
            "events": {"landing": "e", "id": "event_id", "time": "at"},
            "labels": {"landing": "l", "value": "late", "time": "ended", "matures_after": "1d"},
            "references": {
                "readings": {"landing": "r", "keys": ["sensor"], "time": "at", "publish_lag": "1h"}
            },
            "features": {"views": [view]},
        }
    )
    contract = Contract.model_validate(
        {
            "events": {"columns": {"event_id": text, "at": moment, "sensor": text}},
            "labels": {
                "columns": {"event_id": text, "ended": moment, "late": {"type": "bool"}, "delay": number}
            },
            "references": {
                "readings": {"columns": {"sensor": text, "at": moment, **dict.fromkeys(VALUES, number)}}
            },
        }
    )
    return spec, contract


def compiled(view: Mapping[str, Any]) -> CompiledView:
    """The one view, resolved."""
    from mlops_pipelines.features.views import compile_views

    (only,) = compile_views(*definition(view))
    return only


def name(number: int) -> str:
    return f"sensor-{number:05d}"


def names(sensors: int) -> list[str]:
    """Of so many sensors, in order."""
    return [name(number) for number in range(sensors)]


def moments(times: Any) -> pa.Array:
    """Times of numpy, UTC, as the tables have them."""
    import pyarrow as pa

    return pa.array(times, pa.timestamp("us", tz="UTC"))


def home(folder: Path) -> PipelineHome:
    """The pipeline's place in the home at `folder`, made if there is none."""
    from mlops_pipelines.home import Home
    from mlops_pipelines.spec_loading import LoadedSpec

    spec, contract = definition(LATENESS)
    return Home.create(folder).pipeline(LoadedSpec(spec, contract, Path("defs.yaml")))


def grow(place: PipelineHome, sensors: int, days: int) -> None:
    """Facts and tiles of so many days, each day a commit of its own."""
    import pyarrow.compute as pc

    from mlops_pipelines.features.facts import newest_versions
    from mlops_pipelines.features.tiles import compute_tiles
    from mlops_pipelines.features.views import tile_table

    lake, view = place.lake, compiled(LATENESS)
    add_facts(place, sensors, 0)
    make_tiles(place, day_of(0))
    for number in range(1, days):
        add_facts(place, sensors, number)
    tiles = compute_tiles(view, lake, [day_of(n) for n in range(1, days)], newest_versions(lake, [view]))
    for number in range(1, days):
        of_day = tiles.filter(pc.equal(tiles["day"], day_of(number)))
        lake.replace(tile_table(view), of_day, days=[day_of(number)], sort_by=["hour", *view.keys])


def add_facts(place: PipelineHome, sensors: int, number: int) -> None:
    """What is taken in on a day, into the tables."""
    for name, rows in facts_of(number, sensors).items():
        place.lake.replace(name, rows, days=[day_of(number)], sort_by=["event_id"])


def make_tiles(place: PipelineHome, day: str) -> None:
    """The tiles of a day in the lake, as the loop makes them."""
    from mlops_pipelines import scoring
    from mlops_pipelines.features.in_use import sets_in_use

    written, _ = scoring.write_tiles(place, sets_in_use(place), [day])
    assert any(one.changed for one in written)


def days_done(place: PipelineHome) -> int:
    """How many days have tiles."""
    from mlops_pipelines.features.views import tile_table

    return len(place.lake.days(tile_table(compiled(LATENESS))))


def examples_of(place: PipelineHome, events: pa.Table) -> pa.Table:
    """The examples of these events, rows of the table, computed only."""
    from mlops_pipelines.features.facts import newest_versions
    from mlops_pipelines.features.in_use import vectors

    return vectors(place, place.features, events, newest_versions(place.lake, place.features.views))


def store(folder: Path) -> FeatureStore:
    """A store of the home at `folder`, in a file, with the view registered."""
    from mlops_pipelines.features.store import FeatureStore

    store = FeatureStore(folder / "feast", "sensors")
    store.apply([compiled(LATENESS)])
    return store


def write_hour(place: PipelineHome, store: FeatureStore, hour: int) -> int:
    """Brings the store to so many hours after the last day with tiles; returns keys written."""
    from mlops_pipelines.features.facts import newest_versions
    from mlops_pipelines.features.online import bring_to
    from mlops_pipelines.features.store import Snapshot

    view, as_of = compiled(LATENESS), START + days_done(place) * DAY + hour * HOUR
    return bring_to(Snapshot(as_of, newest_versions(place.lake, [view])), view, place.lake, store)


def day_of(number: int) -> str:
    """YYYY-MM-DD of the day of that number, from 0."""
    return f"{START + number * DAY:%Y-%m-%d}"


def facts_of(number: int, sensors: int) -> dict[str, pa.Table]:
    """The events of a day and their outcomes, known two hours later, as the tables have them."""
    import numpy as np
    import pyarrow as pa

    random = np.random.default_rng(number)
    size = sensors * EVENTS_OF_A_SENSOR
    day = day_of(number)
    seconds = np.sort(random.integers(0, 86_400, size)) * np.timedelta64(1, "s")
    times = np.datetime64(day, "us") + seconds
    shared = {"day": [day] * size, "event_id": [f"{day}-{n:06d}" for n in range(size)]}
    happened, known = moments(times), moments(times + np.timedelta64(OUTCOME_AFTER))
    events = {
        "event_time": happened,
        "decision_time": happened,
        "known_at": happened,
        "sensor": random.permutation(names(sensors) * EVENTS_OF_A_SENSOR),
    }
    labels = {
        "label": pa.array(random.random(size) < 0.3).cast(pa.int8()),
        "label_time": known,
        "known_at": known,
        "delay": random.normal(size=size),
    }
    return {"events": pa.table(shared | events), "labels": pa.table(shared | labels)}
