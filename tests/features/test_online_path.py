"""Flights lived through hour by hour: what is read online for a decision is what its example gets.

The online store holds values as of the moment that it was last written for. A window ends at the full hour at
or before a decision: its value is that of the logged example, in whatever minute a flight is decided. A last
value is as of the last write, while an example sees what became known up to its own minute, and a store that
was written before cannot know that. So the last values of flights decided at the moment of a write are
compared with the logged example, and those of all flights with the example they would have, had they been
decided when the store was written. How many last values changed in between is counted, and told.

Each vector is read twice at its moment: by the reader that serves it, and by Feast's `get_online_features`.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import feast
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mlops_pipelines import scoring
from mlops_pipelines.clock import FixedClock
from mlops_pipelines.features.facts import newest_versions
from mlops_pipelines.features.point_in_time import compute_examples
from mlops_pipelines.features.store import FeatureStore, Held, Snapshot
from mlops_pipelines.features.views import compile_views
from mlops_pipelines.home import Home, PipelineHome
from mlops_pipelines.ingest import rejects
from mlops_pipelines.ingest.contract import Contract
from mlops_pipelines.pipelines.flight_delays.source import Flights
from mlops_pipelines.spec_loading import load_pipeline
from tests.loop import FIRST, land, move, take_all
from tests.redis_server import redis_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path

    from mlops_pipelines.features.views import CompiledView
    from mlops_pipelines.spec_loading import LoadedSpec

STORES = ("sqlite", "redis")
HOUR = timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)
FIRST_FLIGHT = 10  # leaves in this hour of the first day
# One hour in so many has two writers at once, a second run within it, a run whose clock is behind: no
# divisors of a day, so that each comes at all hours of it.
RACE, AGAIN, BEHIND = 23, 19, 17
BEHIND_BY = 3 * HOUR
LATE, CORRECTED = 0.1, 0.05  # of the rows
WHOLE_HOURS = 0.2  # of those
LATEST_HOURS = {"labels": 30, "weather": 6}

Write = tuple["CompiledView", pa.Table, Snapshot, Held, "pa.BooleanArray | None"]


# --- what arrives ----------------------------------------------------------------------------------


class Producers:
    """The flights of one aircraft in so many, the aircraft, the labels, and the weather.

    Some labels and some weather come late, and some are corrected later. late, corrected: how many.
    """

    def __init__(self, until: datetime, one_in: int) -> None:
        flights = Flights().rows("events", FIRST, until)
        aircraft = pc.fill_null(flights["tailnum"], "").dictionary_encode().combine_chunks().indices
        flights = flights.filter(pa.array(aircraft.to_numpy() % one_in == 0))
        self.late: dict[str, int] = {}
        self.corrected: dict[str, int] = {}
        self._rows = {"events": flights}
        for stream, key in {"planes": "tailnum", "labels": "event_id", "weather": "origin"}.items():
            rows = Flights().rows(stream, FIRST, until)
            rows = rows.filter(pc.is_in(rows[key], value_set=flights[key].combine_chunks()))
            self._rows[stream] = self._disturbed(stream, rows) if stream in LATEST_HOURS else rows

    def rows(self, stream: str, since: datetime, until: datetime) -> pa.Table:
        """Rows of a stream that arrive in (since, until]."""
        arrived = self._rows[stream]["arrived_at"]
        after = pc.greater(arrived, pa.scalar(since, arrived.type))
        by = pc.less_equal(arrived, pa.scalar(until, arrived.type))
        return self._rows[stream].filter(pc.and_(after, by))

    def decided(self, since: datetime, until: datetime) -> pa.Table:
        """Flights that are decided in [since, until): those that will have arrived an instant before."""
        return self.rows("events", since - MICROSECOND, until - MICROSECOND)

    def _disturbed(self, stream: str, rows: pa.Table) -> pa.Table:
        chance = np.random.default_rng(2013)
        late = chance.random(rows.num_rows) < LATE
        rows = delayed(stream, rows, late, chance)
        other = corrected(stream, rows.filter(pa.array(chance.random(rows.num_rows) < CORRECTED)))
        self.late[stream], self.corrected[stream] = int(late.sum()), other.num_rows
        other = delayed(stream, other, np.ones(other.num_rows, dtype=bool), chance)
        return pa.concat_tables([rows, other]).sort_by("arrived_at")


def delayed(stream: str, rows: pa.Table, late: np.ndarray[Any, Any], chance: np.random.Generator) -> pa.Table:
    """The rows, of which those that are late arrive some hours later: some of them whole ones."""
    minutes = chance.integers(1, LATEST_HOURS[stream] * 60, rows.num_rows)
    minutes = np.where(chance.random(rows.num_rows) < WHOLE_HOURS, (minutes // 60 + 1) * 60, minutes)
    times = rows["arrived_at"]
    after = pa.array(np.where(late, minutes, 0) * 60_000_000).cast(pa.duration("us"))
    place = rows.schema.get_field_index("arrived_at")
    return rows.set_column(place, "arrived_at", pc.add(times, after).cast(times.type))


def corrected(stream: str, rows: pa.Table) -> pa.Table:
    """Rows about the same things that say something else."""
    if stream == "labels":
        late = pc.invert(rows["late"])
        changes = {"late": late, "arr_delay": pc.if_else(late, pa.scalar(60), pa.scalar(0))}
    else:
        changes = {"temp": pc.add(rows["temp"], 1.5), "visib": pc.divide(rows["visib"], 2.0)}
    for name, values in changes.items():
        index = rows.schema.get_field_index(name)
        rows = rows.set_column(index, name, values.cast(rows.schema.field(index).type))
    return rows


# --- who writes ------------------------------------------------------------------------------------


class Unguarded(FeatureStore):
    """A store whose writer never learns that a later moment was begun."""

    def _overtaken(self, made_of: Snapshot, held: Held) -> bool:
        return False


@dataclass
class Together:
    """Stores that get the same writes, in the place of one: what is computed once serves all of them.

    noted: what was written, by its moment.
    """

    stores: Mapping[str, FeatureStore]
    noted: defaultdict[datetime, list[Write]] = field(default_factory=lambda: defaultdict(list))

    def apply(self, views: Sequence[CompiledView]) -> bool:
        applied = [store.apply(views) for store in self.stores.values()]
        return any(applied)

    def held(self, view: CompiledView) -> Held:
        """What either holds: a slow writer has come as far as one of them."""
        held = [store.held(view) for store in self.stores.values()]
        others = {(one.as_of, str(one.versions)): one for each in held for one in each.all}
        written = held[0].written
        return Held(written, tuple(one for one in others.values() if one != written))

    def write_online(self, *write: *Write) -> int:
        self.noted[write[2].as_of].append(write)
        return max([store.write_online(*write) for store in self.stores.values()])


@dataclass(frozen=True)
class At(PipelineHome):
    """The place as a run sees it whose clock stands at a moment."""

    at: datetime

    @property
    def clock(self) -> FixedClock:
        return FixedClock(self.at)


@dataclass(frozen=True)
class Where:
    """Stores in files and on a Redis server, of the same views."""

    kind: type[FeatureStore]
    folder: Path
    project: str
    url: str

    def open(self) -> dict[str, FeatureStore]:
        return {
            "sqlite": self.kind(self.folder / "files", self.project),
            "redis": self.kind(self.folder / "redis", self.project, self.url),
        }


class SlowWriter:
    """A process that writes what was computed an hour ago."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_write_slowly, args=(theirs,))
        self._process.start()
        theirs.close()  # so that a writer that died is not waited for

    def begin(self, where: Where, writes: Sequence[Write]) -> None:
        self._ours.send((where, writes))

    def finish(self) -> int:
        """Keys written, over all stores."""
        keys: int = self._ours.recv()
        return keys

    def end(self) -> None:
        self._ours.send(None)
        self._process.join()


def _write_slowly(asked: Connection) -> None:
    opened: dict[Where, dict[str, FeatureStore]] = {}
    while (given := asked.recv()) is not None:
        where, writes = given
        stores = opened.get(where) or opened.setdefault(where, where.open())
        asked.send(sum(store.write_online(*write) for write in writes for store in stores.values()))


# --- living through it -----------------------------------------------------------------------------


@dataclass
class Lived:
    """Hours that were lived through, on stores that got the same writes.

    read: by store, the vectors of flights in the order of decisions. unread: flights that were decided
    before every view had a value. by_feast, not_as_feast: values of those vectors that Feast's own reader was
    asked for, those it gave otherwise. keyless: vectors it was not asked for. stale: writes of an earlier
    hour that came after those of a later one. raced: runs that another writer was at work beside.
    """

    place: PipelineHome
    producers: Producers
    stores: Mapping[str, FeatureStore]
    read: dict[str, list[pa.Table]]
    unread: Counter[str] = field(default_factory=Counter)
    feasts: dict[str, feast.FeatureStore] = field(default_factory=dict)
    by_feast: Counter[str] = field(default_factory=Counter)
    not_as_feast: Counter[str] = field(default_factory=Counter)
    keyless: Counter[str] = field(default_factory=Counter)
    hours: int = 0
    stale: int = 0
    raced: int = 0


def views_of(place: PipelineHome) -> Sequence[CompiledView]:
    return compile_views(place.spec, place.contract)


def live(
    folder: Path,
    url: str,
    slow: SlowWriter,
    hours: int,
    one_in: int,
    *,
    kind: type[FeatureStore] = FeatureStore,
) -> Lived:
    """A new home whose clock is moved hour by hour, and writers that come too late. Examples come last."""
    place = Home.create(folder / "home").pipeline(load_pipeline("flight_delays"))
    place.prepare()
    end = FIRST + hours * HOUR
    where = Where(kind, folder / "feasts", place.name, url)
    writers = Writers(where, Together(where.open()), Together(where.open()), slow)
    stores = writers.usual.stores
    lived = Lived(place, Producers(end, one_in), stores, {name: [] for name in stores})
    full_hours = [FIRST + n * HOUR for n in range(FIRST_FLIGHT, hours)]
    moments = sorted([*full_hours, *(hour + HOUR / 2 for hour in full_hours[::AGAIN])])
    since = FIRST - HOUR
    for now, until in pairwise([*moments, end]):
        arrive(lived, since, now)
        writers.write(lived, now)
        read(lived, now, until)
        since = now
    arrive(lived, since, end)
    scoring.make_tiles(with_store(place, writers.usual), [])
    scoring.make_examples(place, place.lake.days("events"))
    return lived


def arrive(lived: Lived, since: datetime, now: datetime) -> None:
    """What arrived up to this very moment is landed and taken in."""
    move(lived.place, now)
    for stream in lived.place.streams:
        rows = lived.producers.rows(stream, since, now)
        if rows.num_rows:
            land(lived.place, stream, f"{now:%d-%H%M}", rows)
    take_all(lived.place)


def with_store(place: PipelineHome, store: Together, at: datetime | None = None) -> PipelineHome:
    """The same place with other stores; at: as a run sees it whose clock is behind."""
    found = At(place.home, place.loaded, at or place.clock.now())
    found.__dict__["store"] = store
    return found


@dataclass
class Writers:
    """The run that comes every hour, one whose clock is behind, and one that writes an hour later."""

    where: Where
    usual: Together
    behind: Together
    slow: SlowWriter

    def write(self, lived: Lived, now: datetime) -> None:
        hour = now.replace(minute=0)
        number = (hour - FIRST) // HOUR
        earlier = self.usual.noted.pop(hour - HOUR, []) if now == hour else []
        at_once = bool(earlier) and number % RACE == 0
        lived.hours += now == hour
        lived.raced += at_once
        if at_once:
            self.slow.begin(self.where, earlier)
        scoring.make_tiles(with_store(lived.place, self.usual), [])
        if at_once:
            self.slow.finish()
        if earlier:
            self.slow.begin(self.where, earlier)
            self.slow.finish()
            lived.stale += len(earlier)
            if number % BEHIND == 0:
                scoring.make_tiles(with_store(lived.place, self.behind, now - BEHIND_BY), [])
                lived.stale += len(self.behind.noted.pop(now - BEHIND_BY))


def read(lived: Lived, now: datetime, until: datetime) -> None:
    """The vector of each flight decided in [now, until), from every store."""
    flights = lived.producers.decided(now, until)
    views = views_of(lived.place)
    for name, store in lived.stores.items():
        if not all(store.written_as_of(view) for view in views):
            lived.unread[name] += flights.num_rows
        elif flights.num_rows:
            as_of = pa.array([now] * flights.num_rows, pa.timestamp("us", tz="UTC"))
            values = {"event_id": flights["event_id"], "as_of": as_of}
            for view in views:
                found = store.read_online(view, flights)
                values |= {column.name: found[column.name] for column in view.columns}
            lived.read[name].append(pa.table(values))
            read_by_feast(lived, name, flights, lived.read[name][-1])


def read_by_feast(lived: Lived, name: str, flights: pa.Table, vectors: pa.Table) -> None:
    """The vectors of the flights once more, by Feast's own reader, counted beside what was read.

    But for what Feast cannot know: it is asked about no flight without a key, and where there is no fact it
    has no count, which is 0.
    """
    views = views_of(lived.place)
    keys = flights.select(list(dict.fromkeys(key for view in views for key in view.keys)))
    keyed = pa.array(np.logical_and.reduce([column.is_valid().to_numpy() for column in keys.columns]))
    keys, vectors = keys.filter(keyed), vectors.filter(keyed)
    lived.keyless[name] += flights.num_rows - keys.num_rows
    if not keys.num_rows:
        return
    if name not in lived.feasts:  # opened now: it looks into the registry once, and by now that has the views
        lived.feasts[name] = feast.FeatureStore(config=lived.stores[name]._feast.config)
    features = [f"{view.id}:{column.name}" for view in views for column in view.columns]
    answer = lived.feasts[name].get_online_features(features, keys.to_pydict()).to_dict()
    counts = frozenset[str]().union(*(view.counts for view in views))
    names = [column.name for view in views for column in view.columns]
    gave = {one: pa.chunked_array([answer[one]], vectors.schema.field(one).type) for one in names}
    gave |= {one: gave[one].fill_null(0.0) for one in counts}
    lived.by_feast[name] += keys.num_rows * len(names)
    lived.not_as_feast[name] += differing(pa.table(gave), vectors, names)


# --- the proof -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    """Vectors that were read beside those of the examples.

    at_the_write: those decided at the moment of a write. differ: values that are not the same bits. moved:
    last values that changed between the write and the decision.
    """

    vectors: int
    at_the_write: int
    values: int
    differ: int
    moved: int


def compared(lived: Lived, store: str) -> Compared:
    """Windows beside the logged examples, last values beside those of the write, as said at the top."""
    place = lived.place
    online = pa.concat_tables(lived.read[store]).sort_by("event_id")
    logged, at_write = (
        table.filter(pc.is_in(table["event_id"], value_set=online["event_id"].combine_chunks())).sort_by(
            "event_id"
        )
        for table in (place.lake.read(place.features.examples), decided_at_the_write(place, online))
    )
    assert logged["event_id"].equals(online["event_id"])
    windows = [one.name for view in views_of(place) for one in view.windowed]
    last = [one.name for view in views_of(place) for one in view.last]
    at_the_write = pc.equal(logged["decision_time"], at_write["decision_time"])
    differ = (
        differing(online, logged, windows)
        + differing(online, at_write, last)
        + differing(online.filter(at_the_write), logged.filter(at_the_write), last)
    )
    return Compared(
        vectors=online.num_rows,
        at_the_write=pc.sum(at_the_write).as_py(),
        values=online.num_rows * (len(windows) + len(last)),
        differ=differ,
        moved=differing(online, logged, last),
    )


def decided_at_the_write(place: PipelineHome, online: pa.Table) -> pa.Table:
    """The vectors that the flights would have, had each been decided when what was read was written."""
    events = place.lake.read("events", columns=["event_id"])["event_id"]
    rows = pc.index_in(events, value_set=online["event_id"].combine_chunks())
    as_of = online["as_of"].take(rows.fill_null(0)).cast(pa.int64())
    return decided(place, np.asarray(as_of))


def decided(place: PipelineHome, at: np.ndarray[Any, Any]) -> pa.Table:
    """The vectors of all flights, decided at other moments, in microseconds since 1970 UTC."""
    events = place.lake.read("events")
    index = events.schema.get_field_index("decision_time")
    field_ = events.schema.field(index)
    events = events.set_column(index, field_, pa.array(at).cast(field_.type))
    versions = newest_versions(place.lake, place.features.views)
    return compute_examples(place.features, place.lake, events, versions)


def differing(one: pa.Table, other: pa.Table, names: Sequence[str]) -> int:
    """How many values are not the same bits, or not both missing."""
    return sum(int((bits(one[name]) != bits(other[name])).sum()) for name in names)


def bits(values: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """Numbers as their bits, texts as they are. No number is NaN: it stands for what is missing."""
    if not pa.types.is_floating(values.type):
        return np.array(values.to_pylist(), dtype=object)
    return values.to_numpy().astype(np.float64).view(np.int64)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Redis server, without a database."""
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url.removesuffix("/0")


@pytest.fixture(scope="module")
def slow() -> Iterator[SlowWriter]:
    """One for all: it takes its seconds to begin."""
    writer = SlowWriter()
    yield writer
    writer.end()


@pytest.fixture(scope="module")
def month(full: bool, server: str, slow: SlowWriter, tmp_path_factory: pytest.TempPathFactory) -> Lived:
    """January, hour by hour; in the fast suite two days of it with one aircraft in six."""
    folder, url = tmp_path_factory.mktemp("month"), f"{server}/0"
    return live(folder, url, slow, 31 * 24, 1) if full else live(folder, url, slow, 2 * 24, 6)


@pytest.fixture(scope="module")
def unguarded(server: str, slow: SlowWriter, tmp_path_factory: pytest.TempPathFactory) -> Lived:
    """A day of stores whose writers have no guard."""
    return live(tmp_path_factory.mktemp("unguarded"), f"{server}/1", slow, 24, 6, kind=Unguarded)


@pytest.mark.proof
@pytest.mark.parametrize("store", STORES)
def test_what_is_read_at_each_decision_is_what_its_example_gets(
    month: Lived, store: str, sample_size: Callable[[str, int], None]
) -> None:
    found = compared(month, store)
    assert found.differ == 0
    assert found.moved > 0, "the bound of what is promised was never reached"
    assert month.by_feast[store] > 0
    assert month.not_as_feast[store] == 0
    sample_size("hours", month.hours)
    sample_size("vectors read", found.vectors)
    sample_size("vectors of flights decided at the moment of a write", found.at_the_write)
    sample_size("flights decided before every view had a value", month.unread[store])
    sample_size("values compared", found.values)
    sample_size("values that differ", found.differ)
    sample_size("values read by Feast's get_online_features too", month.by_feast[store])
    sample_size("values that it gave otherwise", month.not_as_feast[store])
    sample_size("vectors without a key that it was not asked for", month.keyless[store])
    sample_size("last values that changed between the write and the decision", found.moved)
    sample_size("writes for an earlier hour after a later one", month.stale)
    sample_size("runs with two writers at once", month.raced)
    for stream in month.producers.late:
        sample_size(f"rows of {stream} that came late", month.producers.late[stream])
        sample_size(f"rows of {stream} that were corrected", month.producers.corrected[stream])


@pytest.mark.parametrize("store", STORES)
def test_without_the_writers_guard_it_is_not(unguarded: Lived, store: str) -> None:
    assert compared(unguarded, store).differ > 0


@pytest.mark.parametrize("store", STORES)
def test_rows_that_a_mended_contract_lets_in_arrive_at_the_same_moment(
    server: str, tmp_path: Path, store: str
) -> None:
    """Their tiles are those of earlier hours: written again, the moment has other values."""
    loaded = load_pipeline("flight_delays")
    now = FIRST + 20 * HOUR + HOUR / 3
    stores = Together(
        {store: Where(FeatureStore, tmp_path / "feasts", loaded.spec.name, f"{server}/2").open()[store]}
    )
    home = Home.create(tmp_path / "home")
    place = home.pipeline(strict(loaded))
    place.prepare()
    arrive(Lived(place, Producers(now, 6), stores.stores, {}), FIRST - HOUR, now)
    scoring.make_tiles(with_store(place, stores), [])
    before = current(place, stores.stores[store])
    mended = PipelineHome(home, loaded)
    assert rejects.replay(mended, rejects.waiting_rows(mended, "labels")).accepted > 5
    scoring.make_tiles(with_store(mended, stores), [])
    after = current(mended, stores.stores[store])
    moment = int(now.timestamp()) * 1_000_000
    expected = decided(mended, np.full(after.num_rows, moment))
    assert differing(after, expected, after.column_names) == 0
    assert differing(after, before, after.column_names) > 0


def strict(loaded: LoadedSpec) -> LoadedSpec:
    """The pipeline with labels that are refused if the flight is more than twenty minutes late."""
    rules = loaded.contract.model_dump()
    rules["labels"]["columns"]["arr_delay"]["max"] = 20
    return replace(loaded, contract=Contract.model_validate(rules | {"reject_share_halts": 1.0}))


def current(place: PipelineHome, store: FeatureStore) -> pa.Table:
    """What the store holds for the keys of all flights, in their order."""
    flights = place.lake.read("events")
    found = [store.read_online(view, flights).drop_columns(list(view.keys)) for view in views_of(place)]
    return pa.table({name: table[name] for table in found for name in table.column_names})
