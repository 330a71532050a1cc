"""The online store gives what an event decided at its moment would see."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from shutil import copytree
from typing import TYPE_CHECKING, Any

import feast
import pyarrow as pa
import pytest
import redis
import yaml
from feast.repo_operations import apply_total

from mlops_pipelines.errors import TerminalError, TransientError, UserError
from mlops_pipelines.features import online as online_values
from mlops_pipelines.features.online import Tiles, online_rows, read_features
from mlops_pipelines.features.point_in_time import compute_examples
from mlops_pipelines.features.sets import feature_set
from mlops_pipelines.features.store import FeatureStore, Held, Snapshot
from mlops_pipelines.features.views import compile_views
from mlops_pipelines.lake import Lake
from tests.redis_server import free_port, redis_server

from .world import (
    CONTRACT,
    VIEWS,
    World,
    at,
    by_id,
    days_between,
    make_spec,
    order,
    outcome,
    random_world,
    versions_of,
    write,
    write_tiles,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

from mlops_pipelines.features.views import CompiledView

SPEC = make_spec()
COMPILED = compile_views(SPEC, CONTRACT)
LANE, SHOP, SKY, PLACE = COMPILED
KEYS = pa.table({"shop": ["a", "a", "b", "b", "never", None], "lane": [1, 2, 1, 2, 1, 1]})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with tiles and a feature store with the views registered, to be copied: making one is slow."""
    folder = tmp_path_factory.mktemp("made")
    lake = Lake(folder / "lake")
    write(lake, random_world(21, hours=60, size=90))
    write_tiles(lake, SPEC, days_between(at(0), at(140)))
    FeatureStore(folder / "feast", SPEC.name).apply(COMPILED)
    return folder


@pytest.fixture
def lake(made: Path, tmp_path: Path) -> Lake:
    return Lake(copytree(made / "lake", tmp_path / "lake"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(params=["sqlite", "redis"])
def online(request: pytest.FixtureRequest) -> str | None:
    """Where the values are: None for a file, or the URL of an empty Redis server."""
    if request.param == "sqlite":
        return None
    url: str = request.getfixturevalue("server")
    redis.Redis.from_url(url).flushall()
    return url


@pytest.fixture
def store(made: Path, tmp_path: Path, online: str | None) -> FeatureStore:
    return FeatureStore(copytree(made / "feast", tmp_path / "feast"), SPEC.name, online)


@pytest.fixture
def new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


def bring_to(store: FeatureStore, lake: Lake, view: CompiledView, as_of: datetime) -> int:
    return online_values.bring_to(Snapshot(as_of, versions_of(lake, COMPILED)), view, lake, store)


def put(store: FeatureStore, view: CompiledView, rows: pa.Table, as_of: datetime) -> int:
    """Values that were made of no table."""
    return store.write_online(view, rows, Snapshot(as_of, {}), store.held(view))


def seen_by_events(lake: Lake, view: CompiledView, keys: pa.Table, as_of: datetime) -> pa.Table:
    """The view's columns of the examples of events, one a key, decided at that moment."""
    moments = pa.array([as_of] * keys.num_rows, pa.timestamp("us", tz="UTC"))
    nulls = {name: pa.nulls(keys.num_rows, pa.string()) for name in ("kind", "weight", "express")}
    events = pa.table(
        {
            "day": ["?"] * keys.num_rows,
            "event_id": [f"?{i}" for i in range(keys.num_rows)],
            **dict.fromkeys(["event_time", "decision_time", "placed_at", "decided_at"], moments),
            "shop": keys["shop"],
            "lane": keys["lane"],
            **nulls,
        }
    )
    examples = compute_examples(feature_set(SPEC, CONTRACT), lake, events, versions_of(lake, COMPILED))
    return examples.select([column.name for column in view.columns])


@pytest.mark.parametrize("view", COMPILED, ids=lambda view: view.name)
def test_values_are_those_an_event_decided_at_the_moment_would_get(
    lake: Lake, store: FeatureStore, view: CompiledView
) -> None:
    features = [column.name for column in view.columns]
    for hours in (
        7,
        7.3,
        7.9,
        8,
        30.5,
        33,
        59.9,
        120.2,
    ):  # from a first write, in short and long steps, until all is idle
        bring_to(store, lake, view, at(hours))
        read = store.read_online(view, KEYS)
        assert read.column_names == [*view.keys, *features]
        assert read.select(features).equals(seen_by_events(lake, view, KEYS, at(hours)))
        assert store.written_as_of(view) == at(hours)


def test_only_keys_that_may_have_changed_are_written(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    orders = [replace(order(f"o{shop}", 0.0), shop=shop) for shop in "abc"]
    outcomes = [outcome("oa", 1.0), outcome("ob", 26.0), outcome("oc", 50.0)]
    write(lake, World(orders, outcomes))
    write_tiles(lake, SPEC, days_between(at(0), at(60)))
    (windows,) = compile_views(make_spec([VIEWS[0] | {"aggregate": {"late": ["count"]}}]), CONTRACT)
    write_tiles(lake, make_spec([VIEWS[0] | {"aggregate": {"late": ["count"]}}]), days_between(at(0), at(60)))
    versions = versions_of(lake, [*COMPILED, windows])

    def written(as_of: float, since: float | None) -> list[str]:
        over = Held() if since is None else Held(Snapshot(at(since), versions))
        made_of = Snapshot(at(as_of), versions)
        rows, others = (online_rows(view, lake, made_of, over) for view in (windows, LANE))
        keys: list[str] = rows["shop"].to_pylist()
        assert others["shop"].to_pylist() == keys
        return keys

    assert written(2.0, None) == ["a"]
    assert written(25.0, 2.0) == ["a"]
    assert written(30.0, 25.0) == ["a", "b"]
    assert written(31.0, 30.0) == ["b"]
    assert written(51.0, 31.0) == ["b", "c"]


@pytest.mark.parametrize("beside", ["nobody", "who died", "who came between", "the day before"])
def test_values_that_are_there_already_are_not_written_again(
    lake: Lake, store: FeatureStore, beside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless somebody else may have written others meanwhile, and once a day."""
    batches: list[int] = []
    write_batch = store._feast.provider.online_write_batch

    def counted(*args: Any) -> None:
        batches.append(len(args[2]))
        write_batch(*args)
        if beside == "who died" and len(batches) == 2:
            raise ZeroDivisionError

    monkeypatch.setattr(store._feast.provider, "online_write_batch", counted)
    now = 50 if beside == "the day before" else 31
    bring_to(store, lake, LANE, at(now - 3))
    if beside == "who died":
        with pytest.raises(ZeroDivisionError):
            bring_to(store, lake, LANE, at(now - 2))
    made_of, held = Snapshot(at(now), versions_of(lake, COMPILED)), store.held(LANE)
    rows = online_rows(LANE, lake, made_of, held)
    which = online_values.changed(rows, LANE, lake, made_of, held)
    if beside == "who came between":
        bring_to(store, lake, LANE, at(now - 1))
    assert store.write_online(LANE, rows, made_of, held, which) == rows.num_rows
    assert (batches[-1] < rows.num_rows) == (beside == "nobody")
    assert batches[-1] > 0
    features = [column.name for column in LANE.columns]
    assert store.read_online(LANE, KEYS).select(features).equals(seen_by_events(lake, LANE, KEYS, at(now)))


def test_an_emptied_window_is_written_as_empty(lake: Lake, store: FeatureStore) -> None:
    key = KEYS.slice(0, 1)
    bring_to(store, lake, LANE, at(30))
    assert store.read_online(LANE, key)["lane_late_count_1d"][0].as_py() > 0
    bring_to(store, lake, LANE, at(139))
    emptied = store.read_online(LANE, key).to_pylist()[0]
    assert (emptied["lane_late_count_1d"], emptied["lane_late_mean_1d"]) == (0.0, None)


@pytest.mark.parametrize("how", ["ended", "died", "came between"])
def test_the_only_fact_of_a_key_taken_back_is_taken_out(
    lake: Lake, store: FeatureStore, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the write that had it ended, died, or came between another's computing and writing."""
    world = random_world(21, hours=60, size=90)
    only = order("only", 20.0, shop="zz")
    more = World([*world.orders, only], [*world.outcomes, outcome("only", 25.0)], world.weather, world.shops)
    zz = pa.table({"shop": ["zz"], "lane": [1]})

    def facts(those: World) -> None:
        write(lake, those)
        write_tiles(lake, SPEC, days_between(at(0), at(140)))

    def counted() -> float:
        value: float = store.read_online(LANE, zz)["lane_late_count_1d"][0].as_py()
        return value

    bring_to(store, lake, LANE, at(24))
    before = Snapshot(at(31), versions_of(lake, COMPILED)), store.held(LANE)
    rows = online_rows(LANE, lake, *before)
    facts(more)
    with monkeypatch.context() as patched:
        if how == "died":
            written = store._feast.provider.online_write_batch
            patched.setattr(
                store._feast.provider, "online_write_batch", lambda *args: (written(*args), 1 / 0)
            )
        with suppress(ZeroDivisionError):
            bring_to(store, lake, LANE, at(30))
    assert counted() == 1.0
    if how == "came between":
        store.write_online(LANE, rows, *before)
    facts(world)
    assert bring_to(store, lake, LANE, at(32)) > 0
    assert counted() == 0.0
    assert store.held(LANE) == Held(Snapshot(at(32), versions_of(lake, COMPILED)))


def test_of_the_same_moment_an_older_writer_never_overwrites_newer_tables(
    lake: Lake, store: FeatureStore
) -> None:
    older = Snapshot(at(30), versions_of(lake, COMPILED)), store.held(LANE)
    rows = online_rows(LANE, lake, *older)
    write(lake, random_world(22, hours=60, size=90))
    write_tiles(lake, SPEC, days_between(at(0), at(140)))
    assert bring_to(store, lake, LANE, at(30)) > 0
    newer = store.read_online(LANE, KEYS)
    assert store.write_online(LANE, rows, *older) == 0
    assert store.read_online(LANE, KEYS).equals(newer)


def test_a_view_whose_source_is_empty_reads_empty(tmp_path: Path, store: FeatureStore) -> None:
    lake, world = Lake(tmp_path / "without"), random_world(21, hours=60, size=90)
    write(lake, World(world.orders))
    write_tiles(lake, SPEC, days_between(at(0), at(140)))
    for view in (LANE, SKY, PLACE):
        assert bring_to(store, lake, view, at(30)) == 0
        read = store.read_online(view, KEYS).select([column.name for column in view.columns])
        assert read.equals(seen_by_events(lake, view, KEYS, at(30)))


def test_a_redis_database_has_the_values_of_one_home(
    lake: Lake, made: Path, tmp_path: Path, server: str
) -> None:
    redis.Redis.from_url(server).flushall()
    ours, theirs = (
        FeatureStore(copytree(made / "feast", tmp_path / name), SPEC.name, server) for name in "ab"
    )
    bring_to(theirs, lake, LANE, at(10))
    for use in (lambda: bring_to(ours, lake, LANE, at(30)), lambda: ours.read_online(LANE, KEYS)):
        with pytest.raises(TerminalError, match="another home wrote"):
            use()
    assert theirs.written_as_of(LANE) == at(10)


def test_a_reader_is_told_the_moment_of_the_values_it_gets(
    lake: Lake, store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring_to(store, lake, LANE, at(30))
    read = store.read_online

    def and_written_at_once(view: CompiledView, keys: pa.Table) -> pa.Table:
        values = read(view, keys)
        bring_to(store, lake, LANE, at(33))
        return values

    monkeypatch.setattr(store, "read_online", and_written_at_once)
    found = read_features(LANE, KEYS, store)
    values = found.values.select([column.name for column in LANE.columns])
    assert values.equals(seen_by_events(lake, LANE, KEYS, found.as_of))


def test_a_static_reference_is_written_again_when_it_changes(lake: Lake, store: FeatureStore) -> None:
    assert [bring_to(store, lake, PLACE, at(hours)) > 0 for hours in (10, 11)] == [True, False]
    world = random_world(22, hours=60, size=90)
    write(lake, replace(world, shops=world.shops[:1]))
    (left,) = world.shops[:1]
    assert bring_to(store, lake, PLACE, at(12)) > 1
    read = store.read_online(PLACE, pa.table({"shop": ["a", "b"]})).drop_columns("shop").to_pylist()
    assert [any(row.values()) for row in read] == [left.shop == "a", left.shop == "b"]


def test_an_earlier_hour_never_overwrites_a_later_one(lake: Lake, store: FeatureStore) -> None:
    bring_to(store, lake, LANE, at(30))
    latest = store.read_online(LANE, KEYS)
    earlier = Snapshot(at(20), versions_of(lake, COMPILED))
    rows = online_rows(LANE, lake, earlier, Held())
    assert rows.num_rows > 0
    assert store.write_online(LANE, rows, earlier, Held()) == 0
    assert store.read_online(LANE, KEYS).equals(latest)
    assert store.written_as_of(LANE) == at(30)


def test_the_same_hour_is_written_again_after_its_tiles_changed(lake: Lake, store: FeatureStore) -> None:
    bring_to(store, lake, LANE, at(30))
    changed = random_world(22, hours=60, size=90)
    write(lake, changed)
    write_tiles(lake, SPEC, days_between(at(0), at(140)))
    assert bring_to(store, lake, LANE, at(30)) > 0
    features = [column.name for column in LANE.columns]
    read = store.read_online(LANE, KEYS).select(features)
    assert read.equals(seen_by_events(lake, LANE, KEYS, at(30)))


def test_a_killed_write_keeps_earlier_hours_out_and_is_made_good_by_the_next(
    lake: Lake, store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, online: str | None
) -> None:
    bring_to(store, lake, LANE, at(10))
    before = store.read_online(LANE, KEYS)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(store._feast.provider, "online_write_batch", killed)
        with pytest.raises(KeyboardInterrupt):
            bring_to(store, lake, LANE, at(30))
    after = FeatureStore(tmp_path / "feast", SPEC.name, online)
    assert after.written_as_of(LANE) == at(10)
    assert bring_to(after, lake, LANE, at(20)) == 0
    assert after.read_online(LANE, KEYS).equals(before)
    bring_to(after, lake, LANE, at(33))
    features = [column.name for column in LANE.columns]
    assert after.read_online(LANE, KEYS).select(features).equals(seen_by_events(lake, LANE, KEYS, at(33)))


def test_a_view_is_registered_once_and_a_changed_one_beside_it(
    tmp_path: Path, lake: Lake, online: str | None
) -> None:
    store = FeatureStore(tmp_path / "feast", SPEC.name, online)
    assert store.apply(COMPILED)
    assert not store.apply(COMPILED)
    (changed,) = compile_views(make_spec([VIEWS[0] | {"windows": ["3h"]}]), CONTRACT)
    assert store.apply([changed])
    registered = {view.name for view in store._feast.list_feature_views()}
    assert registered == {view.id for view in (*COMPILED, changed)}
    bring_to(store, lake, LANE, at(30))
    with pytest.raises(TerminalError, match="has no values of the view lane"):
        store.read_online(changed, KEYS)


def test_a_view_that_another_process_registered_is_found(
    lake: Lake, tmp_path: Path, online: str | None
) -> None:
    ours, theirs = (FeatureStore(tmp_path / "feast", SPEC.name, online) for _ in range(2))
    theirs.apply([LANE])
    bring_to(theirs, lake, LANE, at(30))
    expected = theirs.read_online(LANE, KEYS)
    assert ours.read_online(LANE, KEYS).equals(expected)
    theirs.apply([SHOP])
    bring_to(theirs, lake, SHOP, at(30))
    assert ours.read_online(SHOP, KEYS).equals(theirs.read_online(SHOP, KEYS))


def test_pipelines_share_the_store_and_nothing_else(
    lake: Lake, tmp_path: Path, store: FeatureStore, online: str | None
) -> None:
    other = FeatureStore(tmp_path / "feast", "other", online)
    bring_to(store, lake, LANE, at(30))
    other.apply([LANE])
    assert other.written_as_of(LANE) is None
    with pytest.raises(TerminalError, match="online store of other has no values"):
        other.read_online(LANE, KEYS)
    assert {path.name for path in (tmp_path / "feast").iterdir()} >= {"registry.db"}


def test_what_is_not_registered_is_not_written(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "feast", SPEC.name)
    with pytest.raises(TerminalError, match="is not registered in the project orders"):
        put(store, LANE, pa.table({}), at(3))


@pytest.mark.usefixtures("new_york")
def test_the_machines_time_zone_does_not_matter(store: FeatureStore) -> None:
    """Around the hour that New York's clocks skip, which a UTC time taken for local would fall into."""
    (view,) = compile_views(make_spec([VIEWS[0]]), CONTRACT)
    first = datetime(2024, 3, 10, 1, tzinfo=UTC)
    values = {column.name: [1.0] for column in view.columns}
    for hour in range(8):
        as_of = first + timedelta(hours=hour)
        rows = pa.table({"shop": ["a"], "lane": [1], **values | {"lane_late_count_2h": [float(hour)]}})
        assert put(store, view, rows, as_of) == 1
        assert store.written_as_of(view) == as_of
        assert put(store, view, rows, as_of - timedelta(hours=1)) == 0
        read = store.read_online(view, KEYS.slice(0, 1))
        assert read["lane_late_count_2h"].to_pylist() == [float(hour)]


@pytest.mark.usefixtures("new_york")
def test_vectors_do_not_depend_on_the_machines_time_zone(lake: Lake) -> None:
    versions = versions_of(lake, COMPILED)
    here = by_id(compute_examples(feature_set(SPEC, CONTRACT), lake, lake.read("events"), versions))
    assert {e["hour"] == e["event_time"].hour for e in here.values()} == {True}
    assert write_tiles(lake, SPEC, days_between(at(0), at(140))) == versions


def test_the_same_hour_written_again_replaces_its_values(store: FeatureStore) -> None:
    """Tiles that were corrected arrive; Feast's Redis store alone would skip them."""
    rows = {"shop": ["a"], "lane": [1], **{column.name: [1.0] for column in LANE.columns}}
    for value in (1.0, 2.0):
        corrected = pa.table(rows | {"lane_late_count_2h": [value]})
        assert put(store, LANE, corrected, at(30)) == 1
        read = store.read_online(LANE, KEYS.slice(0, 1))
        assert read["lane_late_count_2h"].to_pylist() == [value]
    assert put(store, LANE, pa.table(rows), at(29)) == 0, "an earlier hour never does"
    assert store.read_online(LANE, KEYS.slice(0, 1))["lane_late_count_2h"].to_pylist() == [2.0]


def test_keys_may_hold_quotes_and_any_letter(store: FeatureStore) -> None:
    shops = ["o'brien", 'say "x"', "läden 店", "; drop table", ""]
    values = {column.name: [float(n) for n in range(len(shops))] for column in LANE.columns}
    put(store, LANE, pa.table({"shop": shops, "lane": [1] * len(shops), **values}), at(30))
    read = store.read_online(LANE, pa.table({"shop": shops[::-1], "lane": [1] * len(shops)}))
    assert read["lane_late_mean_2h"].to_pylist() == [4.0, 3.0, 2.0, 1.0, 0.0]


def test_a_redis_server_that_lost_its_values_is_not_read_as_one_without_facts(
    lake: Lake, made: Path, tmp_path: Path, server: str
) -> None:
    store = FeatureStore(copytree(made / "feast", tmp_path / "feast"), SPEC.name, server)
    redis.Redis.from_url(server).flushall()
    bring_to(store, lake, LANE, at(30))
    redis.Redis.from_url(server).flushall()
    with pytest.raises(TerminalError, match="has no values of the view lane"):
        store.read_online(LANE, KEYS)
    bring_to(store, lake, LANE, at(30))
    features = [column.name for column in LANE.columns]
    assert store.read_online(LANE, KEYS).select(features).equals(seen_by_events(lake, LANE, KEYS, at(30)))


def test_a_redis_server_that_is_away_may_be_asked_again(lake: Lake, made: Path, tmp_path: Path) -> None:
    port = free_port()
    url = f"redis://:s3cret@127.0.0.1:{port}/0"
    store = FeatureStore(copytree(made / "feast", tmp_path / "feast"), SPEC.name, url)
    for use in (
        lambda: store.read_online(LANE, KEYS),
        lambda: put(store, LANE, pa.table({}), at(3)),
    ):
        with pytest.raises(
            TransientError, match=f"127.0.0.1:{port}, cannot be reached: Connection ref"
        ) as away:
            use()
        assert "s3cret" not in str(away.value)


def test_a_reader_is_not_held_up_by_a_write_under_way(
    store: FeatureStore, tmp_path: Path, online: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many keys that SQLite has begun to write its file before the transaction ends."""
    keys = {"shop": [f"shop {n}" for n in range(3000)], "lane": [1] * 3000}
    rows = pa.table(keys | {column.name: [1.0] * 3000 for column in LANE.columns})
    put(store, LANE, rows, at(30))
    reader = FeatureStore(tmp_path / "feast", SPEC.name, online)
    write, seen = store._feast.provider.online_write_batch, []

    def and_read(config: Any, table: Any, data: list[Any], progress: Any) -> None:
        def then_read() -> Iterator[Any]:
            yield from data
            seen.append(reader.read_online(LANE, pa.table({"shop": ["shop 7"], "lane": [1]})))

        write(config, table, then_read(), progress)

    monkeypatch.setattr(store._feast.provider, "online_write_batch", and_read)
    put(store, LANE, rows.set_column(2, rows.column_names[2], pa.array([2.0] * 3000)), at(31))
    (during,) = seen
    assert during[2].to_pylist() == [1.0]
    assert reader.read_online(LANE, during.select(["shop", "lane"]))[2].to_pylist() == [2.0]


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379", "http://localhost", "redis://", "redis://:a,b@localhost/0",
        "redis://localhost/0?ssl=true", "redis://localhost/first", "redis://localhost/0/1",
        "redis://localhost/0#1", "redis://localhost:port/0",
    ],
)  # fmt: skip
def test_what_is_no_url_of_a_redis_server_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError) as refused:
        FeatureStore(tmp_path, SPEC.name, url)
    assert "a,b" not in str(refused.value)
    assert refused.value.expected or refused.value.remedy


def test_a_database_that_the_redis_server_has_not_is_refused(made: Path, tmp_path: Path, server: str) -> None:
    url = server.removesuffix("/0") + "/99"
    store = FeatureStore(copytree(made / "feast", tmp_path / "feast"), SPEC.name, url)
    with pytest.raises(UserError, match="has no database 99"):
        store.read_online(LANE, KEYS)


def test_a_redis_host_that_is_not_known_is_said_to_be_none(made: Path, tmp_path: Path) -> None:
    url = "redis://no-such-host.invalid:6379/0"
    store = FeatureStore(copytree(made / "feast", tmp_path / "feast"), SPEC.name, url)
    with pytest.raises(TransientError, match=r"invalid:6379, cannot be reached: (Name|No address|Temporary)"):
        store.read_online(LANE, KEYS)


def test_a_reader_falls_back_to_tiles_only_if_told_to_and_says_so(
    lake: Lake, store: FeatureStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bring_to(store, lake, LANE, at(33))
    here = read_features(LANE, KEYS, store)
    assert (here.source, here.as_of) == ("online", at(33))
    away = FeatureStore(tmp_path / "feast", SPEC.name, f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(TransientError):
        read_features(LANE, KEYS, away)
    instead = read_features(LANE, KEYS, away, Tiles(lake, versions_of(lake, COMPILED), at(33)))
    assert (instead.source, instead.as_of) == ("tiles", at(33))
    assert instead.values.equals(here.values)
    (said,) = caplog.messages
    as_of = f"{at(33):%Y-%m-%d %H:%M:%S} UTC"
    assert said.startswith(f"Values of {LANE.id} are computed from tiles as of {as_of}: The Redis server of ")
    assert said.endswith("cannot be reached: Connection refused.")


def test_a_reader_that_falls_back_finds_the_values_that_were_never_written(
    lake: Lake, store: FeatureStore, tmp_path: Path
) -> None:
    bring_to(store, lake, LANE, at(33))
    empty = FeatureStore(tmp_path / "empty", SPEC.name)
    with pytest.raises(TerminalError, match="has no values of the view lane"):
        read_features(LANE, KEYS, empty)
    instead = read_features(LANE, KEYS, empty, Tiles(lake, versions_of(lake, COMPILED), at(33)))
    assert instead.source == "tiles"
    assert instead.values.equals(store.read_online(LANE, KEYS))


def test_feasts_own_command_line_opens_on_the_registry_and_finds_no_password(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "feast", "orders", "redis://user:hidden@127.0.0.1:1/0")
    store.apply(COMPILED)
    repo = tmp_path / "feast" / "orders"
    opened = feast.FeatureStore(repo_path=str(repo))
    assert {view.name for view in opened.list_feature_views()} == {view.id for view in COMPILED}
    assert "hidden" not in (repo / "feature_store.yaml").read_text()


def test_feasts_own_api_reads_what_was_written(lake: Lake, tmp_path: Path, online: str | None) -> None:
    """From a Redis server by a copy of the file, with the address, as the page on the online store says."""
    store = FeatureStore(tmp_path / "feast", "orders", online, lake=lake.root)
    store.apply(COMPILED)
    bring_to(store, lake, LANE, at(30))
    settings = yaml.safe_load((tmp_path / "feast" / "orders" / "feature_store.yaml").read_text())
    if online:
        address = online.removeprefix("redis://").replace("/", ",db=")
        settings["online_store"] = {"type": "redis", "connection_string": address}
    copied = tmp_path / "copy.yaml"
    copied.write_text(yaml.safe_dump(settings))
    opened = feast.FeatureStore(fs_yaml_file=copied)
    name = LANE.columns[0].name
    keys = KEYS.select(list(LANE.keys)).drop_null()
    answer = opened.get_online_features([f"{LANE.id}:{name}"], keys.to_pydict()).to_dict()[name]
    found = store.read_online(LANE, keys)[name].to_pylist()
    assert [mine for mine, theirs in zip(found, answer, strict=True) if theirs is not None] == [
        theirs for theirs in answer if theirs is not None
    ]
    assert any(value is not None for value in answer)


def test_views_that_feast_apply_deleted_are_registered_and_written_again(
    lake: Lake, store: FeatureStore, tmp_path: Path, online: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.apply(COMPILED)
    bring_to(store, lake, LANE, at(30))
    expected = store.read_online(LANE, KEYS)
    repo = tmp_path / "feast" / SPEC.name
    monkeypatch.chdir(repo)
    apply_total(feast.FeatureStore(repo_path=str(repo)).config, repo, skip_source_validation=False)
    after = FeatureStore(tmp_path / "feast", SPEC.name, online)
    with pytest.raises(TerminalError, match=r"no values of the view lane.*\n.*orders/feature_tiles"):
        after.read_online(LANE, KEYS)
    with pytest.raises(TerminalError, match="is not registered"):
        put(after, LANE, pa.table({}), at(31))
    assert after.apply(COMPILED)
    assert after.written_as_of(LANE) is None
    with pytest.raises(TerminalError, match="no values of the view lane"):
        after.read_online(LANE, KEYS)
    assert bring_to(after, lake, LANE, at(30)) > 0
    assert after.read_online(LANE, KEYS).equals(expected)
    assert not after.apply(COMPILED)
