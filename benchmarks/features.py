"""What features cost: a join as of a million moments, a day of tiles, a read by key, a year of flights.

The facts of the joins are made up: 5,000 sensors, a reading an hour with nine values, known an hour later.
Ours reads them from the lake; Feast's own store, and DuckDB where it reads any, the very Parquet file that
the lake wrote.
What grows is made up too (`benchmarks.sensors`): homes with tiles of so many days for so many sensors.
"""

from __future__ import annotations

import atexit
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks import Measure, Pair, row, seconds, sensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    import pyarrow as pa

    from mlops_pipelines.features.store import FeatureStore
    from mlops_pipelines.features.views import CompiledView
    from mlops_pipelines.home import PipelineHome

ROOT = Path(__file__).resolve().parent.parent
SENSORS, HOURS, ROWS = 5_000, 100, 1_000_000
FEW_SENSORS, FEW_DAYS = 200, 36
EVENTS_ASKED = 1_000
READS, KEYS_A_READ = 2_000, 3
FLIGHTS = 336_776


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
    against="a bare DuckDB ASOF join of the same rows, its facts in Arrow already",
    bound=1.5,
    repeats=7,
)
def pit_vs_duckdb() -> Iterator[Pair]:
    """The same against the query alone: no file, no registry, no types, no bound on the age of a value."""
    import pyarrow.parquet as pq

    with readings() as given:
        facts = pq.read_table(given.file)
        yield from against_duckdb(given, "facts", facts=facts)


@row(
    "features.pit_vs_duckdb_file",
    against="the same join, which reads the file that ours reads",
    repeats=7,
)
def pit_vs_duckdb_file() -> Iterator[Pair]:
    """The same, where the query too has to read its facts."""
    with readings() as given:
        yield from against_duckdb(given, f"read_parquet('{given.file}')")


@row(
    "features.day_growth",
    against="the tiles of day 30 of such a history, ours being of day 380",
    bound=1.3,
    repeats=7,
)
def day_growth() -> Iterator[Pair]:
    """A new day's tiles in the lake, as the loop makes them, after 29 and after 379 days.

    Half of the time goes into opening three tables, and depends on how many commits have come since the last
    checkpoint, which every 50th brings: here as many. One measurement is the faster of two days, since
    whatever else the machine does can only make one slower.
    """
    with home_with(FEW_SENSORS, 379) as late, home_with(FEW_SENSORS, 29) as early:
        ours, theirs = next_day(late, FEW_SENSORS), next_day(early, FEW_SENSORS)
        yield Pair(lambda: min(ours(), ours()), lambda: min(theirs(), theirs()))


@row("features.year", against="the aggregates alone, by DuckDB, from the same files", at_most=10.0, repeats=3)
def year() -> Iterator[Pair]:
    """The features of a year of flights: the tiles of every view, and the examples of 336,776 events.

    Computing alone: the tiles are written in between, since examples read them, and that is not counted.
    DuckDB's windows end with the second and not with the hour; it makes no last values, and no features of
    an event's own row.
    """
    place = flights()
    yield Pair(lambda: compute_year(place), seconds(lambda: windows_by_duckdb(place)))


@row("features.year_stored", against="the same without writing what it makes", repeats=3)
def year_stored() -> Iterator[Pair]:
    """The same with its commits: 366 files of examples, and as many of each view's tiles."""
    place = flights()
    yield Pair(lambda: make_year(place), lambda: compute_year(place))


@row("features.online_sqlite", against="sqlite3 alone, same rows; both p99", unit="ms", at_most=1.0)
def online_sqlite() -> Iterator[Pair]:
    """The 99th percentile of 2,000 reads, one by one, of 3 keys and 30 features; 5,000 keys are there."""
    with values_in_sqlite() as values:
        yield values.reads(0.99)


@row("features.online_sqlite_p50", against="sqlite3 alone, same rows; both p50", unit="ms")
def online_sqlite_p50() -> Iterator[Pair]:
    """The median of such reads."""
    with values_in_sqlite() as values:
        yield values.reads(0.5)


@row("features.online_redis", against="redis alone, same rows; both p99", unit="ms", at_most=1.5)
def online_redis() -> Iterator[Pair]:
    """The same from a Redis server on this machine. Alone: its client, three HMGET at once."""
    with values_in_redis() as values:
        yield values.reads(0.99)


@row("features.online_redis_p50", against="redis alone, same rows; both p50", unit="ms")
def online_redis_p50() -> Iterator[Pair]:
    """The median of such reads."""
    with values_in_redis() as values:
        yield values.reads(0.5)


@row("features.online_write", against="sqlite3 alone, same rows", unit="us a key", repeats=3)
def online_write() -> Iterator[Pair]:
    """5,000 keys of 30 features, written over those of the hour before in one transaction."""
    from mlops_pipelines.features.store import Held, Snapshot

    with (
        stored_values(None) as (folder, store, view, rows),
        closing(sqlite3.connect(folder / "online.db")) as file,
    ):
        table = table_in(file)
        held = file.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608 - a name of Feast's own
        marks = ", ".join("?" * len(held[0]))
        hours = count(1)

        def ours() -> None:
            made_of = Snapshot(sensors.START + next(hours) * sensors.HOUR, {})
            assert store.write_online(view, rows, made_of, Held()) == SENSORS

        def alone() -> None:
            with file:
                file.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", held)  # noqa: S608

        a_key = 1e6 / SENSORS
        yield Pair(lambda: a_key * seconds(ours)(), lambda: a_key * seconds(alone)())


# --- readings ---------------------------------------------------------------------------------------


@contextmanager
def readings() -> Iterator[Readings]:
    from mlops_pipelines.features.store import FeatureStore
    from mlops_pipelines.lake import Lake

    with TemporaryDirectory() as name:
        folder = Path(name)
        lake = Lake(folder / "lake")
        # As if of one day, so that it is one file.
        lake.replace("readings", facts(), days=["2024-01-01"], sort_by=["sensor", "ref_time"])
        (file,) = (folder / path for path in lake.files("readings"))
        view = sensors.compiled(sensors.NEWEST)
        store = FeatureStore(folder / "feast", "sensors", lake=folder / "lake")
        store.apply([view])
        yield Readings(folder, store, view, file if file.exists() else folder / "lake" / file, probes())


def against_duckdb(given: Readings, source: str, **tables: pa.Table) -> Iterator[Pair]:
    """Ours, and the query alone. source: what it joins with, such as one of `tables`, which it may name."""
    import duckdb

    with duckdb.connect(":memory:", config={"threads": 2}) as connection:
        for name, table in {"asked": given.rows, **tables}.items():
            connection.register(name, table)
        values = ", ".join(f"f.{value}" for value in sensors.VALUES)
        query = f"""
            SELECT a.*, {values} FROM asked a ASOF LEFT JOIN {source} f
            ON a.sensor = f.sensor AND a.event_timestamp >= f.known_at
        """  # noqa: S608 - names of our own
        yield Pair(
            seconds(lambda: given.store.historical(given.features, given.rows)),
            seconds(lambda: connection.sql(query).to_arrow_table()),
        )


def facts() -> pa.Table:
    import numpy as np
    import pyarrow as pa

    random = np.random.default_rng(17)
    rows = SENSORS * HOURS
    hours = np.tile(np.arange(HOURS), SENSORS)
    times = np.datetime64(sensors.START.replace(tzinfo=None), "us") + hours * np.timedelta64(1, "h")
    moment = pa.timestamp("us", tz="UTC")
    return pa.table(
        {
            "day": ["2024-01-01"] * rows,
            "sensor": np.repeat(sensors.names(SENSORS), HOURS),
            "ref_time": pa.array(times, moment),
            "known_at": pa.array(times + np.timedelta64(1, "h"), moment),
            **{value: random.normal(size=rows) for value in sensors.VALUES},
        }
    )


def probes() -> pa.Table:
    import numpy as np
    import pyarrow as pa

    random = np.random.default_rng(18)
    seconds_in = random.integers(0, HOURS * 3600, ROWS)
    times = np.datetime64(sensors.START.replace(tzinfo=None), "us") + seconds_in * np.timedelta64(1, "s")
    names = np.array(sensors.names(SENSORS))
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
        schema=[
            Field(name="sensor", dtype=String),
            *(Field(name=value, dtype=Float64) for value in sensors.VALUES),
        ],
        source=FileSource(name="readings", path=str(given.file), timestamp_field="known_at"),
        ttl=timedelta(days=30),
        online=False,
    )
    store.apply([sensor, view])
    return store, [f"newest:{value}" for value in sensors.VALUES]


# --- growth -----------------------------------------------------------------------------------------


def declare_growth(
    what: str, cost: Callable[[Path, int], AbstractContextManager[Measure]], unit: str
) -> None:
    """Two rows that only inform: what it costs with ten times the keys, and with ten times the history.

    cost: what to measure on a home of so many sensors. Each has as many facts a day, however many there are.
    """
    sizes = {"keys": (10 * FEW_SENSORS, FEW_DAYS), "history": (FEW_SENSORS, 10 * FEW_DAYS)}
    for larger, size in sizes.items():

        @row(f"features.{larger}_x10.{what}", against=f"a tenth of the {larger}", unit=unit, repeats=3)
        def growth(size: tuple[int, int] = size) -> Iterator[Pair]:
            with (
                home_with(*size) as large,
                home_with(FEW_SENSORS, FEW_DAYS) as small,
                cost(large, size[0]) as ours,
                cost(small, FEW_SENSORS) as theirs,
            ):
                yield Pair(ours, theirs)


@contextmanager
def home_with(many: int, days: int) -> Iterator[Path]:
    """A home of its own with the tiles of so many days for so many sensors."""
    with TemporaryDirectory() as folder:
        yield Path(shutil.copytree(grown(many, days), Path(folder) / "home", symlinks=True))


@cache
def grown(many: int, days: int) -> Path:
    """Such a home, made once in a process."""
    folder = folder_of_the_process()
    sensors.grow(sensors.home(folder), many, days)
    return folder


def folder_of_the_process() -> Path:
    """A folder that is gone when the process ends."""
    folder = TemporaryDirectory()
    atexit.register(folder.cleanup)
    return Path(folder.name)


def next_day(home: Path, many: int) -> Measure:
    """Takes in the next day's facts; how long its tiles take in a process of its own, s."""
    place = sensors.home(home)
    code = "import sys; from benchmarks import features; print(features.seconds_of_tiles(*sys.argv[1:]))"

    def measure() -> float:
        number = sensors.days_done(place)
        sensors.add_facts(place, many, number)
        command = [sys.executable, "-c", code, str(home), sensors.day_of(number)]
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        return float(done.stdout)

    return measure


def seconds_of_tiles(home: str, day: str) -> float:
    """Makes the tiles of a day in the lake, in a process that has done every import."""
    with TemporaryDirectory() as warm_up:
        sensors.grow(sensors.home(Path(warm_up)), 1, 1)
    place = sensors.home(Path(home))
    return seconds(lambda: sensors.make_tiles(place, day))()


@contextmanager
def a_day_of_tiles(home: Path, many: int) -> Iterator[Measure]:
    yield next_day(home, many)


@contextmanager
def a_thousand_examples(home: Path, _: int) -> Iterator[Measure]:
    """The examples of a thousand events of the last day with tiles."""
    place = sensors.home(home)
    events = place.lake.read("events", days=[sensors.day_of(sensors.days_done(place) - 1)])
    asked = events.take(list(range(0, events.num_rows, events.num_rows // EVENTS_ASKED)))

    def work() -> None:
        assert sensors.examples_of(place, asked).num_rows == EVENTS_ASKED

    yield seconds(work)


@contextmanager
def an_hour_online(home: Path, _: int) -> Iterator[Measure]:
    """Bringing every key with a fact in the last 30 days to the next hour."""
    place, store = sensors.home(home), sensors.store(home)
    hours = count(1)

    def work() -> None:
        assert sensors.write_hour(place, store, next(hours)) >= FEW_SENSORS

    yield seconds(work)


@contextmanager
def a_read_online(home: Path, many: int) -> Iterator[Measure]:
    """The median of reads of 3 keys and 30 features, ms."""
    store, view = sensors.store(home), sensors.compiled(sensors.LATENESS)
    sensors.write_hour(sensors.home(home), store, 1)
    asked = [keys for keys, _ in three_keys(many)]
    yield quantile_of(lambda keys: store.read_online(view, keys), asked, 0.5)


# --- reads by key -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Values:
    """The values of 5,000 keys in a store. alone: reads those of some keys without it, by their names."""

    store: FeatureStore
    view: CompiledView
    rows: pa.Table
    alone: Callable[[list[str]], object]

    def reads(self, quantile: float) -> Pair:
        asked = three_keys(SENSORS)
        return Pair(
            quantile_of(
                lambda keys: self.store.read_online(self.view, keys), [a for a, _ in asked], quantile
            ),
            quantile_of(self.alone, [b for _, b in asked], quantile),
        )


def quantile_of(read: Callable[[Any], object], asked: list[Any], quantile: float) -> Measure:
    """A quantile of how long it takes to read each of what is asked, ms."""

    def measure() -> float:
        import numpy as np

        return 1000 * float(np.quantile([seconds(partial(read, one))() for one in asked], quantile))

    return measure


def three_keys(many: int) -> list[tuple[pa.Table, list[str]]]:
    """What 2,000 reads ask for: three of so many sensors, as a table of keys and as names."""
    import numpy as np
    import pyarrow as pa

    drawn = np.random.default_rng(19).integers(0, many, (READS, KEYS_A_READ))
    names = [[sensors.name(number) for number in three] for three in drawn]
    return [(pa.table({"sensor": three}), three) for three in names]


@contextmanager
def stored_values(online: str | None) -> Iterator[tuple[Path, FeatureStore, CompiledView, pa.Table]]:
    """A store with made-up values as of the first hour, in a folder of its own."""
    import numpy as np
    import pyarrow as pa

    from mlops_pipelines.features.store import FeatureStore, Held, Snapshot

    random = np.random.default_rng(20)
    view = sensors.compiled(sensors.LATENESS)
    values = {column.name: random.normal(size=SENSORS) for column in view.columns}
    rows = pa.table({"sensor": sensors.names(SENSORS), **values})
    with TemporaryDirectory() as folder:
        store = FeatureStore(Path(folder), "sensors", online)
        store.apply([view])
        store.write_online(view, rows, Snapshot(sensors.START, {}), Held())
        yield Path(folder), store, view, rows


@contextmanager
def values_in_sqlite() -> Iterator[Values]:

    with (
        stored_values(None) as (folder, store, view, rows),
        closing(sqlite3.connect(folder / "online.db")) as file,
    ):
        table = table_in(file)
        every_key = f"SELECT DISTINCT entity_key FROM {table}"  # noqa: S608 - a name of Feast's own
        places = by_sensor(key for (key,) in file.execute(every_key))
        marks = ", ".join("?" * KEYS_A_READ)
        query = f"SELECT feature_name, value FROM {table} WHERE entity_key IN ({marks})"  # noqa: S608 - the same

        def alone(names: list[str]) -> None:
            found = file.execute(query, [places[name] for name in names]).fetchall()
            assert len(found) == len(set(names)) * len(view.columns)

        yield Values(store, view, rows, alone)


def table_in(file: sqlite3.Connection) -> str:
    """The quoted name of the one table that Feast keeps values in."""
    ((name,),) = file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    return f'"{name}"'


@contextmanager
def values_in_redis() -> Iterator[Values]:
    import redis

    from tests.redis_server import redis_server

    with (
        TemporaryDirectory() as folder,
        redis_server(Path(folder)) as url,
        stored_values(url) as (_, store, view, rows),
    ):
        client: Any = redis.Redis.from_url(url)
        places = by_sensor(client.keys())
        fields = client.hkeys(places[sensors.name(0)])

        def alone(names: list[str]) -> None:
            with client.pipeline(transaction=False) as together:
                for name in names:
                    together.hmget(places[name], fields)
                assert len(together.execute()) == len(names)

        yield Values(store, view, rows, alone)


def by_sensor(keys: Iterable[bytes]) -> dict[str, bytes]:
    """The keys that Feast made of the sensors' names, by these."""
    named = ((re.search(rb"sensor-\d{5}", key), key) for key in keys)
    return {found[0].decode(): key for found, key in named if found}


# --- a year of flights ------------------------------------------------------------------------------


@cache
def flights() -> PipelineHome:
    """A home that has taken in all flights of 2013, as they landed; made once in a process."""
    import click

    from mlops_pipelines.home import Home
    from mlops_pipelines.ingest import taking
    from mlops_pipelines.pipelines.flight_delays.source import Flights
    from mlops_pipelines.spec_loading import load_pipeline

    place = Home.create(folder_of_the_process()).pipeline(load_pipeline("flight_delays"))
    place.prepare()
    since, until = Flights().span()
    Flights().write(place.landing_root, since, until)
    place.ledger.begin_advance(until)
    place.ledger.finish_advance()

    def take_in() -> None:
        taking.register_landed(place, everything=True)
        while any(queue.files for queue in taking.backlog(place, until).queues.values()):
            taking.take_events(place, [])
            for name in place.spec.references:
                taking.take_reference(place, name, [])
            taking.take_labels(place, [])

    click.echo(f"a year of flights was taken in: {seconds(take_in)():.0f} s", err=True)
    return place


def compute_year(place: PipelineHome) -> float:
    """Computes all tiles and all examples of the flights; s, without the commits of tiles in between."""
    from mlops_pipelines import scoring
    from mlops_pipelines.features.facts import newest_versions
    from mlops_pipelines.features.in_use import vectors
    from mlops_pipelines.features.tiles import compute_tiles
    from mlops_pipelines.features.views import tile_table

    forget(place)
    lake, features = place.lake, place.features
    days = sorted({*lake.days("events"), *scoring.known_days(place, "labels")})
    spent, rows = 0.0, 0
    for view in features.windowed:
        begin = time.perf_counter()
        tiles = compute_tiles(view, lake, days, newest_versions(lake, [view]))
        spent += time.perf_counter() - begin
        lake.replace(tile_table(view), tiles, days=days, sort_by=["hour", *view.keys])
    versions = newest_versions(lake, features.views)
    begin = time.perf_counter()
    for start in range(0, len(days), scoring.DAYS_AT_ONCE):
        events = lake.read("events", days=days[start : start + scoring.DAYS_AT_ONCE])
        rows += vectors(place, features, events, versions).num_rows
    assert rows == FLIGHTS
    return spent + time.perf_counter() - begin


def make_year(place: PipelineHome) -> float:
    """Makes all tiles and all examples as the loop does, s."""
    from mlops_pipelines import scoring
    from mlops_pipelines.features.in_use import sets_in_use

    forget(place)
    days = sorted({*place.lake.days("events"), *scoring.known_days(place, "labels")})

    def work() -> None:
        scoring.write_tiles(place, sets_in_use(place), days)
        scoring.make_examples(place, days)

    return seconds(work)()


def forget(place: PipelineHome) -> None:
    """The home without tiles and examples."""
    for made in ("feature_tiles", "examples"):
        shutil.rmtree(place.lake.root / made, ignore_errors=True)


def windows_by_duckdb(place: PipelineHome) -> None:
    """Every aggregate of every flight, as one window each of a view's facts and the events that ask."""
    import duckdb

    functions = {"mean": "avg", "count": "count"}
    with duckdb.connect(":memory:", config={"threads": 2}) as connection:
        for table in ("events", "labels"):
            connection.register(table, connection.read_parquet(place.lake.files(table), union_by_name=True))
        for view in place.features.windowed:
            keys = ", ".join(view.keys)
            aggregates = ", ".join(
                f"{functions[one.aggregate]}({one.column}) OVER (PARTITION BY {keys} ORDER BY moment "
                f"RANGE BETWEEN INTERVAL {one.window // sensors.HOUR} HOURS PRECEDING AND CURRENT ROW)"
                for one in view.windowed
            )
            query = f"""
                SELECT * FROM (
                    SELECT event_id, {aggregates} FROM (
                        SELECT NULL AS event_id, {keys}, l.known_at AS moment, label, arr_delay
                        FROM labels l JOIN events USING (event_id)
                        UNION ALL SELECT event_id, {keys}, decision_time, NULL, NULL FROM events
                    )
                ) WHERE event_id IS NOT NULL
            """  # noqa: S608 - names of our own
            assert connection.sql(query).to_arrow_table().num_rows == FLIGHTS


for what, cost, unit in (
    ("day_of_tiles", a_day_of_tiles, "s"),
    ("thousand_examples", a_thousand_examples, "s"),
    ("hour_online", an_hour_online, "s"),
    ("read_online", a_read_online, "ms"),
):
    declare_growth(what, cost, unit)
