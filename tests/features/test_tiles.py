"""Hour tiles of knowledge time."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.features.tiles import compute_tiles, tile_schema
from mlops_pipelines.features.views import compile_views
from mlops_pipelines.lake import Lake, content_hash

from .world import (
    CONTRACT,
    VIEWS,
    Outcome,
    Weather,
    World,
    at,
    days_between,
    make_spec,
    order,
    outcome,
    random_world,
    versions_of,
    write,
)

if TYPE_CHECKING:
    from pathlib import Path

ALL_DAYS = ["2024-03-04", "2024-03-05", "2024-03-06"]
LANE, SHOP, SKY = compile_views(make_spec(VIEWS[:3]), CONTRACT)


def tiles_of(root: Path, world: World, view: Any = LANE, days: list[str] | None = None) -> pa.Table:
    lake = Lake(root)
    write(lake, world)
    return compute_tiles(view, lake, ALL_DAYS if days is None else days, versions_of(lake, [view]))


def test_a_tile_holds_what_became_known_from_its_hour_until_the_next(tmp_path: Path) -> None:
    orders = [order(f"o{i}", 0.0) for i in range(4)]
    known = [1.0, 1.5, 2.0 - 1e-9 / 3.6, 2.0]
    outcomes = [outcome(o.id, 0.5, k, late=1, delay=3.0) for o, k in zip(orders, known, strict=True)]
    tiles = tiles_of(tmp_path, World(orders, outcomes)).to_pylist()
    assert [(t["hour"], t["label__count"], t["label__sum"]) for t in tiles] == [(at(1), 3, 3), (at(2), 1, 1)]
    assert tiles[0] == {
        "day": "2024-03-04", "shop": "a", "lane": 1, "hour": at(1), "label__count": 3, "label__sum": 3,
        "delay__count": 3, "delay__sum": 9 * 2**20, "delay__min": 3.0, "delay__max": 3.0,
        "delay__squares_high": 0, "delay__squares_low": 27 * 2**40, "delay__distinct": '["3.0"]',
    }  # fmt: skip


def test_a_correction_is_counted_once_and_where_it_was_first_known(tmp_path: Path) -> None:
    orders = [order("o", 0.0)]
    versions = [
        outcome("o", 1.0, 1.0, late=1, delay=5.0),
        outcome("o", 1.0, 1.25, late=0, delay=6.0),
        outcome("o", 1.0, 30.0, late=0, delay=7.0),
    ]
    (tile,) = tiles_of(tmp_path, World(orders, versions)).to_pylist()
    assert (tile["hour"], tile["label__sum"], tile["delay__max"]) == (at(1), 1, 5.0)
    assert tiles_of(tmp_path, World(orders, versions), days=["2024-03-05"]).num_rows == 0


def test_of_versions_known_at_once_the_one_that_stays_counts(tmp_path: Path) -> None:
    versions = [
        outcome("o", 1.0, 2.0, late=1, delay=5.0),
        outcome("o", 1.5, 2.0, late=0, delay=9.0),
        outcome("o", 1.5, 2.0, late=1, delay=6.0),
        outcome("o", 1.5, 2.0, late=1, delay=4.0),
    ]
    for root, shuffled in (("one", versions), ("two", versions[::-1])):
        (tile,) = tiles_of(tmp_path / root, World([order("o", 0.0)], shuffled)).to_pylist()
        assert (tile["label__count"], tile["delay__max"]) == (1, 6.0)


def test_a_repeated_observation_is_counted_once(tmp_path: Path) -> None:
    weather = [
        Weather("a", at(1), at(2), 3.0),
        Weather("a", at(1), at(26), 8.0),
        Weather("b", at(1), at(2), 4.0),
        Weather("a", at(2), at(3), None),
    ]
    tiles = tiles_of(tmp_path, World(weather=weather), SKY).to_pylist()
    assert [(t["shop"], t["hour"], t["wind__count"], t["wind__max"]) for t in tiles] == [
        ("a", at(2), 1, 3.0),
        ("a", at(3), 0, None),
        ("b", at(2), 1, 4.0),
    ]


def test_a_fact_without_a_key_is_in_no_tile(tmp_path: Path) -> None:
    orders = [replace(order("o", 0.0), shop=None), replace(order("p", 0.0), lane=None)]
    world = World(orders, [outcome(o.id, 1.0) for o in orders])
    assert tiles_of(tmp_path, world).num_rows == 0


def test_what_is_no_number_is_missing_and_zero_has_one_sign(tmp_path: Path) -> None:
    orders = [order(f"o{i}", 0.0) for i in range(5)]
    delays = [float("nan"), float("inf"), float("-inf"), None, -0.0]
    outcomes = [outcome(o.id, 1.0, delay=d) for o, d in zip(orders, delays, strict=True)]
    (tile,) = tiles_of(tmp_path, World(orders, outcomes)).to_pylist()
    assert (tile["label__count"], tile["delay__count"], tile["delay__sum"]) == (5, 1, 0)
    assert str(tile["delay__min"]) == str(tile["delay__max"]) == "0.0"


def test_sums_do_not_depend_on_the_order_of_the_rows_or_on_threads(tmp_path: Path) -> None:
    rng = random.Random(5)  # noqa: S311
    orders = [order(f"o{i:04d}", 0.0) for i in range(3000)]
    outcomes = [outcome(o.id, 1.0 + i % 7, delay=rng.gauss(0, 1e4)) for i, o in enumerate(orders)]
    tiles = tiles_of(tmp_path / "one", World(orders, outcomes))
    shuffled = rng.sample(range(3000), 3000)
    renamed = {f"o{i:04d}": f"o{j:04d}" for i, j in enumerate(shuffled)}
    again = World(orders, [replace(x, id=renamed[x.id]) for x in outcomes])
    cpus = pa.cpu_count()
    pa.set_cpu_count(1)
    try:
        assert tiles_of(tmp_path / "two", again).equals(tiles)
    finally:
        pa.set_cpu_count(cpus)


def test_days_may_be_any_and_in_any_order(tmp_path: Path) -> None:
    world = random_world(3, hours=90, size=80)
    days = days_between(at(0), at(160))
    lake = Lake(tmp_path)
    write(lake, world)
    for view in (LANE, SHOP, SKY):
        versions = versions_of(lake, [view])
        whole = compute_tiles(view, lake, days, versions)
        for picked in ([days[2], days[0]], days[1:2], []):
            part = compute_tiles(view, lake, picked, versions)
            wanted = whole.filter(pa.array([day in picked for day in whole["day"].to_pylist()]))
            order_by = ["hour", *view.keys]
            assert content_hash(part, sort_by=order_by) == content_hash(wanted, sort_by=order_by)


def test_a_value_too_large_to_sum_exactly_is_refused(tmp_path: Path) -> None:
    world = World([order("o", 0.0)], [outcome("o", 1.0, delay=1e16)])
    with pytest.raises(TerminalError, match="cannot be summed exactly"):
        tiles_of(tmp_path, world)


def test_a_label_without_its_event_is_refused(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    write(lake, World([order("o", 0.0)], [outcome("o", 1.0)]))
    versions = versions_of(lake, [LANE])
    write(lake, World([order("o", 0.0), order("p", 0.0)], [outcome("o", 1.0), outcome("p", 1.0)]))
    newer = {**versions_of(lake, [LANE]), "events": versions["events"]}
    with pytest.raises(TerminalError, match=r"1 labels have no event .* such as p"):
        compute_tiles(LANE, lake, ALL_DAYS, newer)


def test_every_table_read_must_be_pinned_and_may_be_missing(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    with pytest.raises(TerminalError, match="No version of the table labels was pinned"):
        compute_tiles(LANE, lake, ALL_DAYS, {})
    tiles = compute_tiles(LANE, lake, ALL_DAYS, {"labels": None, "events": None})
    assert tiles.num_rows == 0
    assert tiles.schema == tile_schema(LANE)


def test_tiles_are_those_of_the_pinned_versions(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    world = World([order("o", 0.0), order("p", 0.0)], [outcome("o", 1.0)])
    write(lake, world)
    versions = versions_of(lake, [LANE])
    before = compute_tiles(LANE, lake, ALL_DAYS, versions)
    write(lake, replace(world, outcomes=[*world.outcomes, Outcome("p", at(1), at(1))]))
    assert compute_tiles(LANE, lake, ALL_DAYS, versions).equals(before)
    assert compute_tiles(LANE, lake, ALL_DAYS, versions_of(lake, [LANE]))["label__sum"].to_pylist() == [0]
