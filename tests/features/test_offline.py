"""Feast's get_historical_features gives the vectors that examples have."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mlops_pipelines.errors import UserError
from mlops_pipelines.features.point_in_time import compute_examples
from mlops_pipelines.features.sets import feature_set
from mlops_pipelines.features.store import FeatureStore
from mlops_pipelines.features.views import CompiledView, compile_views
from mlops_pipelines.lake import Lake

from .world import CONTRACT, at, days_between, make_spec, outcome, random_world, write, write_tiles

if TYPE_CHECKING:
    from pathlib import Path

SPEC = make_spec()
COMPILED = compile_views(SPEC, CONTRACT)
LANE = COMPILED[0]
FEATURES = [f"{view.id}:{column.name}" for view in COMPILED for column in view.columns]
NAMES = [column.name for view in COMPILED for column in view.columns]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureStore, Lake, pa.Table]:
    """A store, its lake and the examples of all events there."""
    folder = tmp_path_factory.mktemp("made")
    lake = Lake(folder / "lake")
    write(lake, random_world(8, hours=60, size=90))
    versions = write_tiles(lake, SPEC, days_between(at(0), at(140)))
    store = FeatureStore(folder / "feast", SPEC.name, lake=folder / "lake")
    store.apply(COMPILED)
    return store, lake, compute_examples(feature_set(SPEC, CONTRACT), lake, lake.read("events"), versions)


def asked(lake: Lake) -> pa.Table:
    events = lake.read("events")
    columns = ["event_id", "shop", "lane"]
    return events.select(columns).append_column("event_timestamp", events["decision_time"])


def test_vectors_are_those_of_the_examples_in_the_order_of_the_rows(
    made: tuple[FeatureStore, Lake, pa.Table],
) -> None:
    store, lake, examples = made
    rows = asked(lake)
    found = store.historical(FEATURES, rows)
    assert found.column_names == [*rows.column_names, *NAMES]
    assert found["event_id"].equals(examples["event_id"])
    assert found.select(NAMES).equals(examples.select(NAMES))
    backwards = list(range(rows.num_rows))[::-1]
    assert (
        store.historical(FEATURES, rows.take(backwards))
        .select(NAMES)
        .equals(examples.take(backwards).select(NAMES))
    )


def test_rows_that_share_key_and_time_are_kept(made: tuple[FeatureStore, Lake, pa.Table]) -> None:
    store, lake, _ = made
    rows = asked(lake).slice(0, 3).drop_columns(["event_id"])
    twice = pa.concat_tables([rows, rows])
    found = store.historical(FEATURES[:2], twice)
    assert found.num_rows == 6
    assert found.slice(0, 3).equals(found.slice(3, 3))


def test_a_pandas_frame_gives_the_same(made: tuple[FeatureStore, Lake, pa.Table]) -> None:
    store, lake, examples = made
    frame = asked(lake).to_pandas().drop(columns=["lane"])
    sky = [f"{COMPILED[2].id}:{column.name}" for column in COMPILED[2].columns]
    found = store.historical(sky, frame, full_names=True)
    for ref in sky:
        assert found[ref.replace(":", "__")].equals(examples[ref.partition(":")[2]])


def test_what_becomes_known_later_changes_nothing_before(tmp_path: Path) -> None:
    world = random_world(9, hours=40, size=60)
    lake = Lake(tmp_path / "lake")
    write(lake, world)
    write_tiles(lake, SPEC, days_between(at(0), at(140)))
    store = FeatureStore(tmp_path / "feast", SPEC.name, lake=tmp_path / "lake")
    store.apply(COMPILED)
    rows = asked(lake)
    before = store.historical(FEATURES, rows)
    late = [outcome(o.id, 0.1, 300.0, late=1, delay=9.0) for o in world.orders[:40]]
    write(lake, replace(world, outcomes=[*world.outcomes, *late]))
    write_tiles(lake, SPEC, days_between(at(0), at(340)))
    assert store.historical(FEATURES, rows).equals(before)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"lane": ["1"]}, "The column lane is string"),
        ({"shop": [1]}, "The column shop is int64"),
        ({"event_timestamp": ["now"]}, "The column event_timestamp is string"),
        ({"event_timestamp": pa.nulls(1, pa.timestamp("us", tz="UTC"))}, "has rows without a value"),
    ],
)
def test_what_cannot_be_looked_up_is_refused(
    made: tuple[FeatureStore, Lake, pa.Table], change: dict[str, Any], problem: str
) -> None:
    store, lake, _ = made
    row = asked(lake).filter(pc.is_valid(asked(lake)["lane"])).slice(0, 1)
    columns = {name: row[name] for name in row.column_names} | change
    with pytest.raises(UserError, match=problem):
        store.historical(FEATURES[:1], pa.table(columns))
    with pytest.raises(UserError, match="There is no column lane"):
        store.historical(FEATURES[:1], row.drop_columns(["lane"]))


def test_a_view_survives_as_text() -> None:
    for view in COMPILED:
        assert CompiledView.from_json(view.to_json()) == view
