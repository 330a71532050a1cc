"""What features cost: a join as of a million moments, a day of tiles, a read by key, a year of flights.

The facts of the joins are made up: 5,000 sensors, a reading an hour with nine values, known an hour later.
Ours reads them from the lake; Feast's own store, and DuckDB, read the very Parquet file that the lake wrote.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks import Pair, row, seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from mlops_pipelines.features.store import FeatureStore
    from mlops_pipelines.features.views import CompiledView

START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
SENSORS, HOURS, ROWS = 5_000, 100, 1_000_000
VALUES = [f"v{n}" for n in range(9)]


@dataclass(frozen=True)
class Readings:
    """A store over a lake with the readings, the file they are in, and the rows that ask."""

    folder: Path
    store: FeatureStore
    view: CompiledView
    file: Path
    rows: pa.Table

    @property
    def features(self) -> list[str]:
        return [f"{self.view.id}:{column.name}" for column in self.view.columns]


@row(
    "features.pit_vs_feast",
    against="Feast's own DuckDB store, by the time of knowledge",
    bound=1 / 8,
    repeats=3,
)
def pit_vs_feast() -> Iterator[Pair]:
    """The last nine values known at a million moments, by Feast's get_historical_features, to Arrow.

    Ours is given Arrow; Feast's own store takes no Arrow, and is given the same rows as a pandas frame that
    was made outside the measurement.
    """
    with readings() as given:
        peer, refs = feast_with_duckdb(given)
        frame = given.rows.to_pandas()

        def theirs() -> None:
            peer.get_historical_features(entity_df=frame, features=refs).to_arrow()

        yield Pair(seconds(lambda: given.store.historical(given.features, given.rows)), seconds(theirs))


@row(
    "features.pit_vs_duckdb",
    against="a bare DuckDB ASOF join of the same table and file",
    bound=1.5,
    repeats=5,
)
def pit_vs_duckdb() -> Iterator[Pair]:
    """The same against the query alone: no registry, no types, and no bound on the age of a value."""
    import duckdb

    with readings() as given, duckdb.connect(":memory:", config={"threads": 2}) as connection:
        connection.register("asked", given.rows)
        values = ", ".join(f"f.{value}" for value in VALUES)
        query = f"""
            SELECT a.*, {values} FROM asked a ASOF LEFT JOIN read_parquet('{given.file}') f
            ON a.sensor = f.sensor AND a.event_timestamp >= f.known_at
        """  # noqa: S608 - names of our own
        yield Pair(
            seconds(lambda: given.store.historical(given.features, given.rows)),
            seconds(lambda: connection.sql(query).to_arrow_table()),
        )


@contextmanager
def readings() -> Iterator[Readings]:
    from mlops_pipelines.features.store import FeatureStore
    from mlops_pipelines.features.views import compile_views
    from mlops_pipelines.lake import Lake

    spec, contract = sensors()
    with TemporaryDirectory() as name:
        folder = Path(name)
        lake = Lake(folder / "lake")
        # As if of one day, so that it is one file.
        lake.replace("readings", facts(), days=["2024-01-01"], sort_by=["sensor", "ref_time"])
        (file,) = (folder / path for path in lake.files("readings"))
        (view,) = compile_views(spec, contract)
        store = FeatureStore(folder / "feast", spec.name, lake=folder / "lake")
        store.apply([view])
        yield Readings(folder, store, view, file if file.exists() else folder / "lake" / file, probes())


def sensors() -> tuple[Any, Any]:
    from mlops_pipelines.ingest.contract import Contract
    from mlops_pipelines.spec import PipelineSpec

    moment, text = {"type": "timestamp"}, {"type": "string"}
    spec = PipelineSpec.model_validate(
        {
            "name": "sensors",
            "partitions": {"start": "2024-01-01"},
            "events": {"landing": "e", "id": "event_id", "time": "at"},
            "labels": {"landing": "l", "value": "late", "time": "ended", "matures_after": "1d"},
            "references": {
                "readings": {"landing": "r", "keys": ["sensor"], "time": "at", "publish_lag": "1h"}
            },
            "features": {
                "views": [
                    {"name": "newest", "key": "sensor", "of": "readings", "last": VALUES, "within": "30d"}
                ]
            },
        }
    )
    contract = Contract.model_validate(
        {
            "events": {"columns": {"event_id": text, "at": moment, "sensor": text}},
            "labels": {"columns": {"event_id": text, "ended": moment, "late": {"type": "bool"}}},
            "references": {
                "readings": {
                    "columns": {
                        "sensor": text,
                        "at": moment,
                        **{value: {"type": "float"} for value in VALUES},
                    }
                }
            },
        }
    )
    return spec, contract


def facts() -> pa.Table:
    import numpy as np
    import pyarrow as pa

    random = np.random.default_rng(17)
    rows = SENSORS * HOURS
    hours = np.tile(np.arange(HOURS), SENSORS)
    times = np.datetime64(START.replace(tzinfo=None), "us") + hours * np.timedelta64(1, "h")
    moment = pa.timestamp("us", tz="UTC")
    return pa.table(
        {
            "day": ["2024-01-01"] * rows,
            "sensor": np.repeat([f"sensor-{n:05d}" for n in range(SENSORS)], HOURS),
            "ref_time": pa.array(times, moment),
            "known_at": pa.array(times + np.timedelta64(1, "h"), moment),
            **{value: random.normal(size=rows) for value in VALUES},
        }
    )


def probes() -> pa.Table:
    import numpy as np
    import pyarrow as pa

    random = np.random.default_rng(18)
    seconds_in = random.integers(0, HOURS * 3600, ROWS)
    times = np.datetime64(START.replace(tzinfo=None), "us") + seconds_in * np.timedelta64(1, "s")
    names = np.array([f"sensor-{n:05d}" for n in range(SENSORS)])
    return pa.table(
        {
            "sensor": names[random.integers(0, SENSORS, ROWS)],
            "event_timestamp": pa.array(times, pa.timestamp("us", tz="UTC")),
        }
    )


def feast_with_duckdb(given: Readings) -> tuple[Any, list[str]]:
    """Feast's own store over the same file, and the references of the nine features there."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.types import Float64, String

    store = FeatureStore(
        config=RepoConfig(
            project="peer",
            provider="local",
            registry={"registry_type": "sql", "path": f"sqlite:///{given.folder / 'peer.db'}"},
            offline_store={"type": "duckdb"},
            online_store={"type": "sqlite", "path": str(given.folder / "peer_online.db")},
            entity_key_serialization_version=3,
        )
    )
    sensor = Entity(name="sensor", join_keys=["sensor"], value_type=ValueType.STRING)
    view = FeatureView(
        name="newest",
        entities=[sensor],
        schema=[Field(name="sensor", dtype=String), *(Field(name=value, dtype=Float64) for value in VALUES)],
        source=FileSource(name="readings", path=str(given.file), timestamp_field="known_at"),
        ttl=timedelta(days=30),
        online=False,
    )
    store.apply([sensor, view])
    return store, [f"newest:{value}" for value in VALUES]
