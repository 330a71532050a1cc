"""Vectors as of each decision."""

from __future__ import annotations

import json
import math
import random
import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.features.point_in_time import compute_examples
from mlops_pipelines.features.sets import feature_set
from mlops_pipelines.features.views import compile_views, tile_table
from mlops_pipelines.lake import Lake, content_hash

from .world import (
    CONTRACT,
    START,
    STARTS,
    VIEWS,
    Outcome,
    Shop,
    Weather,
    World,
    at,
    bits,
    by_id,
    day_of,
    days_between,
    examples_of,
    expected_vector,
    make_spec,
    moved,
    order,
    outcome,
    random_world,
    versions_of,
    write,
    write_tiles,
)

if TYPE_CHECKING:
    from mlops_pipelines.lake import Where
    from mlops_pipelines.spec import PipelineSpec

SPEC = make_spec()
FEATURES = [column.name for column in feature_set(SPEC, CONTRACT).columns]
LANE, SHOP, SKY, PLACE = VIEWS
# A seed drives many choices at once: shrinking it finds nothing simpler, and a world takes a second.
WORLDS = settings(max_examples=max(5, settings().max_examples // 10), deadline=None, phases=[Phase.generate])


def vector_of(example: dict[str, Any]) -> dict[str, Any]:
    return {name: bits(example[name]) for name in FEATURES}


def examples_with(root: Path, world: World, *views: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return examples_of(root, world, make_spec(views))


# Against what is true


@pytest.mark.proof
@WORLDS
@given(
    seed=st.integers(0, 10**6),
    hours=st.sampled_from([5, 30, 90]),
    start=st.sampled_from(STARTS),
)
def test_vectors_are_what_was_known_at_the_decision(seed: int, hours: int, start: datetime) -> None:
    world = moved(random_world(seed, hours, size=70), start)
    with TemporaryDirectory() as folder:
        examples = examples_of(Path(folder), world, SPEC, start)
    assert len(examples) == len(world.orders)
    for o in world.orders:
        expected = {name: bits(value) for name, value in expected_vector(world, o).items()}
        assert vector_of(examples[o.id]) == expected, o


@pytest.mark.proof
@WORLDS
@given(seed=st.integers(0, 10**6), cuts=st.sets(st.integers(1, 4)))
def test_any_split_of_the_days_into_runs_gives_the_same_bits(seed: int, cuts: set[int]) -> None:
    """Each run sees what was known by its end, and computes the orders decided in its days."""
    world = random_world(seed, hours=90, size=60)
    with TemporaryDirectory() as folder:
        whole = _examples_in_runs(Path(folder) / "whole", world, [5])
        parts = _examples_in_runs(Path(folder) / "parts", world, [*sorted(cuts), 5])
    sort_by, unhashed = ["event_id"], ["made_of"]
    assert content_hash(parts, sort_by=sort_by, unhashed=unhashed) == content_hash(
        whole, sort_by=sort_by, unhashed=unhashed
    )


def _examples_in_runs(root: Path, world: World, ends: list[int]) -> pa.Table:
    """ends: the day, counted from the start, before which each run ends."""
    # Orders arrive when they are placed: one that came after its decision could not be computed in its run.
    world = replace(world, orders=[replace(o, known=o.time) for o in world.orders])
    lake, parts, first = Lake(root), [], 0
    for end in ends:
        write(lake, world.known_before(START + timedelta(days=end)))
        days = [day_of(START + timedelta(days=day)) for day in range(first, end)]
        versions = write_tiles(lake, SPEC, days)
        if lake.exists("events"):
            events = lake.read("events", where=("decision_time", at(24 * first), at(24 * end)))
            parts.append(compute_examples(feature_set(SPEC, CONTRACT), lake, events, versions))
        first = end
    return pa.concat_tables(parts)


def test_vectors_do_not_depend_on_the_other_events_or_on_their_order(tmp_path: Path) -> None:
    world = random_world(11, hours=50, size=80)
    whole = examples_of(tmp_path, world, SPEC)
    lake = Lake(tmp_path)
    versions = versions_of(lake, compile_views(SPEC, CONTRACT))
    events = lake.read("events")
    rows = random.Random(1).sample(range(events.num_rows), 20)  # noqa: S311
    some = compute_examples(feature_set(SPEC, CONTRACT), lake, events.take(rows), versions)
    assert some["event_id"].to_pylist() == [events["event_id"][row].as_py() for row in rows]
    for id_, example in by_id(some).items():
        assert vector_of(example) == vector_of(whole[id_])


# Windows


def test_a_window_ends_at_the_last_full_hour_and_begins_whole_hours_before(tmp_path: Path) -> None:
    known = [0.99, 1.0, 2.5, 2.999, 3.0, 3.2]
    orders = [order(f"o{i}", 0.0) for i in range(len(known))]
    outcomes = [outcome(o.id, 0.5, k) for o, k in zip(orders, known, strict=True)]
    asking = [order("early", 3.0), order("late", 3.99), order("next", 4.0)]
    view = LANE | {"aggregate": {"late": ["count"]}, "windows": ["2h", "3h"]}
    examples = examples_with(tmp_path, World([*orders, *asking], outcomes), view)
    counts = {
        o.id: (examples[o.id]["lane_late_count_2h"], examples[o.id]["lane_late_count_3h"]) for o in asking
    }
    assert counts == {"early": (3.0, 4.0), "late": (3.0, 4.0), "next": (4.0, 5.0)}


def test_missing_is_null_and_no_fact_counts_zero(tmp_path: Path) -> None:
    orders = [
        order("nothing", 1.0),
        replace(order("no key", 5.0), lane=None),
        replace(order("only null", 5.0), lane=7),
        replace(order("known", 1.0), lane=7),
    ]
    world = World(orders, [outcome("known", 1.0, delay=None)])
    view = LANE | {"aggregate": {"delay": ["count", "sum", "mean", "min", "max"]}, "windows": ["4h"]}
    examples = examples_with(tmp_path, world, view)
    names = [f"lane_delay_{a}_4h" for a in ("count", "sum", "mean", "min", "max")]
    assert [examples["nothing"][n] for n in names] == [0.0, None, None, None, None]
    assert [examples["only null"][n] for n in names] == [0.0, None, None, None, None]
    assert [examples["no key"][n] for n in names] == [None] * 5


def test_a_key_that_fell_idle_reads_empty_windows(tmp_path: Path) -> None:
    world = World([order("o", 0.0), order("later", 30.0)], [outcome("o", 1.0)])
    later = examples_with(tmp_path, world, LANE)["later"]
    assert (later["lane_late_count_1d"], later["lane_late_mean_1d"], later["lane_delay_last"]) == (
        0.0,
        None,
        None,
    )


def test_whole_numbers_beyond_64_bits_in_all_are_summed_exactly(tmp_path: Path) -> None:
    weights = [9 * 10**18, 9 * 10**18 + 2048, 10**18, -(4 * 10**18)]
    orders = [replace(order(f"o{i}", float(i)), weight=w) for i, w in enumerate(weights)]
    view = SHOP | {"aggregate": {"weight": ["sum", "mean"]}, "windows": ["1h", "2h", "4h"], "last": ["kind"]}
    example = examples_with(tmp_path, World([*orders, order("asks", 4.0)]), view)["asks"]
    assert example["shop_weight_sum_1h"] == -4e18
    assert example["shop_weight_sum_2h"] == -3e18
    assert example["shop_weight_sum_4h"] == float(15 * 10**18 + 2048)
    assert example["shop_weight_mean_4h"] == float(15 * 10**18 + 2048) / 4


def test_tiles_are_read_from_the_longest_window_before_the_first_event_on(tmp_path: Path) -> None:
    class Watched(Lake):
        asked: dict[str, Where | None] = {}  # noqa: RUF012

        def read(self, name: str, **options: Any) -> pa.Table:
            self.asked[name] = options.get("where")
            return super().read(name, **options)

    examples_of(tmp_path, random_world(2, hours=90, size=60), SPEC)
    lake = Watched(tmp_path)
    views = {view.name: view for view in compile_views(SPEC, CONTRACT)}
    events = lake.read("events", where=("decision_time", at(50.5), at(60)))
    decided = sorted(events["decision_time"].to_pylist())
    compute_examples(feature_set(SPEC, CONTRACT), lake, events, versions_of(lake, list(views.values())))
    first, last = (moment.replace(minute=0, second=0, microsecond=0) for moment in (decided[0], decided[-1]))
    assert lake.asked[tile_table(views["lane"])] == ("hour", first - timedelta(hours=24), last)
    assert lake.asked[tile_table(views["sky"])] == ("hour", first - timedelta(hours=3), last)
    _, since, until = lake.asked["weather"] or (None, None, None)
    assert since == decided[0] - timedelta(hours=2)
    assert until == decided[-1] + timedelta(microseconds=1)


@pytest.mark.parametrize("start", STARTS)
def test_windows_are_as_long_over_a_leap_day_and_a_change_of_clocks_as_anywhere(
    tmp_path: Path, start: datetime
) -> None:
    """An outcome an hour: each window has as many as it has hours."""
    orders = [order(f"o{hour}", float(hour)) for hour in range(80)]
    world = moved(
        World([*orders, order("asks", 79.5)], [outcome(o.id, 0.5, n) for n, o in enumerate(orders)]), start
    )
    view = LANE | {"aggregate": {"late": ["count"]}, "windows": ["5h", "1d", "2d", "3d"]}
    asks = examples_of(tmp_path, world, make_spec([view]), start)["asks"]
    assert [asks[f"lane_late_count_{window}"] for window in view["windows"]] == [5, 24, 48, 72]


@pytest.mark.parametrize(
    ("time", "minutes", "weekday"),
    [
        ("2013-03-10T06:59:59", 119, 7),
        ("2013-03-10T07:00:00", 180, 7),
        ("2013-11-03T05:30:00", 90, 7),
        ("2013-11-03T06:30:00", 90, 7),
        ("2013-11-04T04:59:00", 1439, 7),
        ("2012-03-01T04:59:00", 1439, 3),
        ("2013-03-01T05:00:00", 0, 5),
    ],
)
def test_clock_times_skip_an_hour_in_spring_and_repeat_one_in_autumn(
    tmp_path: Path, time: str, minutes: float, weekday: float
) -> None:
    start = datetime.fromisoformat(time).replace(tzinfo=UTC)
    example = examples_of(tmp_path, moved(World([order("o", 0.0)]), start), make_spec([]), start)["o"]
    assert (example["local"], example["weekday"]) == (minutes, weekday)


# Last values


def sky_last(root: Path, weather: list[Weather], asking: float) -> Any:
    world = World([order("asks", asking)], weather=weather)
    return examples_with(root, world, SKY)["asks"]["sky_wind_last"]


def test_a_last_value_is_the_newest_observation_known_not_the_one_known_last(tmp_path: Path) -> None:
    weather = [
        Weather("a", at(9), at(10), 9.0),
        Weather("a", at(8.5), at(10.5), 8.5),
        Weather("a", at(10), at(11.0001), 10.0),
        Weather("b", at(10), at(10), 99.0),
    ]
    assert sky_last(tmp_path / "now", weather, 11.0) == 9.0
    assert sky_last(tmp_path / "later", weather, 11.25) == 10.0


def test_a_last_value_known_at_the_very_decision_counts(tmp_path: Path) -> None:
    assert sky_last(tmp_path, [Weather("a", at(9), at(10), 9.0)], 10.0) == 9.0


def test_a_last_value_may_be_as_old_as_within_and_no_older(tmp_path: Path) -> None:
    weather = [Weather("a", at(9), at(10), 9.0)]
    assert sky_last(tmp_path / "old", weather, 11.0) == 9.0
    assert sky_last(tmp_path / "too old", weather, 11.0001) is None


def test_a_restated_observation_replaces_the_first(tmp_path: Path) -> None:
    weather = [Weather("a", at(9), at(10), 9.0), Weather("a", at(9), at(10.5), 7.0)]
    assert sky_last(tmp_path / "before", weather, 10.25) == 9.0
    assert sky_last(tmp_path / "after", weather, 10.5) == 7.0


def test_the_last_row_counts_even_where_it_lacks_the_value(tmp_path: Path) -> None:
    weather = [Weather("a", at(9), at(10), 9.0), Weather("a", at(10), at(10.5), None, "r")]
    world = World([order("asks", 10.5)], weather=weather)
    example = examples_with(tmp_path, world, SKY)["asks"]
    assert (example["sky_wind_last"], example["sky_sky_last"]) == (None, "r")


@pytest.mark.parametrize(
    ("asking", "expected"), [(4.0, 1.0), (4.5, 2.0), (5.0, 3.0), (5.5, 3.0), (6.0, 2.0), (27.75, None)]
)
def test_a_corrected_outcome_is_the_one_current_at_the_decision(
    tmp_path: Path, asking: float, expected: float | None
) -> None:
    """o's outcome is corrected twice: it takes p's place as the newest, and then gives it back."""
    outcomes = [
        outcome("o", 2.0, 3.0, delay=1.0),
        outcome("p", 3.5, 4.25, delay=2.0),
        outcome("o", 4.0, 5.0, delay=3.0),
        outcome("o", 1.0, 6.0, delay=4.0),
    ]
    orders = [order("o", 0.0), order("p", 0.0), order("asks", asking)]
    example = examples_with(tmp_path, World(orders, outcomes), LANE)["asks"]
    assert example["lane_delay_last"] == expected


def test_outcomes_that_were_all_corrected_take_memory_by_their_number_and_not_by_their_square(
    tmp_path: Path,
) -> None:
    """The first version of each was current at every moment but one that is asked for."""
    size = 1500
    orders = [order(f"o{i}", 0.0) for i in range(size)]
    asking = [order("late", 6.0), *(order(f"asks{i}", 4.0) for i in range(size))]
    outcomes = [outcome(o.id, 1.0, known, delay=known) for o in orders for known in (2.0, 5.0)]
    lake, spec = Lake(tmp_path), make_spec([LANE])
    write(lake, World([*orders, *asking], outcomes))
    versions = write_tiles(lake, spec, [day_of(START)])
    events = lake.read("events")
    tracemalloc.start()
    try:
        examples = compute_examples(feature_set(spec, CONTRACT), lake, events, versions)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert {one["lane_delay_last"] for id_, one in by_id(examples).items() if id_[0] == "a"} == {2.0}
    assert peak < 5_000_000


def test_an_event_is_not_its_own_last_event(tmp_path: Path) -> None:
    orders = [
        replace(order("then elsewhere", 0.5), shop="b", weight=9),
        replace(order("first", 1.0), weight=1),
        replace(order("second", 2.0), weight=2),
        replace(order("twin a", 3.0), weight=3),
        replace(order("twin b", 3.0), weight=4),
        replace(order("slow", 1.5, decided=at(4.0)), weight=5),
    ]
    examples = examples_with(tmp_path, World(orders), SHOP)
    last = {id_: example["shop_weight_last"] for id_, example in examples.items()}
    assert last == {
        "then elsewhere": None,
        "first": None,
        "second": 5.0,
        "twin a": 4.0,
        "twin b": 3.0,
        "slow": 4.0,
    }


def test_a_static_reference_is_looked_up_whenever_it_came(tmp_path: Path) -> None:
    world = World([order("o", 1.0), replace(order("p", 1.0), shop="?")], shops=[Shop("a", 4, "t")])
    examples = examples_with(tmp_path, world, PLACE)
    assert (examples["o"]["place_size_last"], examples["o"]["place_town_last"]) == (4.0, "t")
    assert (examples["p"]["place_size_last"], examples["p"]["place_town_last"]) == (None, None)


def test_a_static_reference_with_two_rows_for_a_key_is_refused(tmp_path: Path) -> None:
    world = World([order("o", 1.0)], shops=[Shop("a", 4), Shop("a", 5)])
    with pytest.raises(TerminalError, match="keys with more than one row"):
        examples_with(tmp_path, world, PLACE)


# Expressions, and the table itself


def test_expressions_are_computed_in_utc_as_numbers_and_strings(tmp_path: Path) -> None:
    expressions = {
        "hour": "hour(placed_at)",
        "local": "hour(timezone('America/New_York', placed_at))",
        "quick": "express",
        "per": "weight / nullif(lane - 1, 0)",
        "infinite": "weight / (lane - 1)",
        "text": "kind || '-' || lane",
        "half": "weight * 0.5",
        "wait": "date_diff('minute', event_time, decision_time)",
    }
    spec = make_spec([], from_event=expressions)
    world = World([order("o", 20.5, decided=at(21.0)), replace(order("p", 1.0), kind=None, express=None)])
    examples = examples_of(tmp_path, world, spec)
    assert [examples["o"][name] for name in expressions] == [20.0, 15.0, 0.0, None, None, "x-1", 1.5, 30.0]
    assert [examples["p"][name] for name in expressions] == [1.0, 20.0, None, None, None, None, 1.5, 0.0]
    assert [column.kind for column in feature_set(spec, CONTRACT).columns] == [
        *["number"] * 5,
        "category",
        *["number"] * 2,
    ]


def test_an_expression_that_fails_on_a_row_is_named(tmp_path: Path) -> None:
    spec = make_spec([], from_event={"n": "CAST(kind AS INTEGER)"})
    with pytest.raises(TerminalError, match="Could not convert string 'x'"):
        examples_of(tmp_path, World([order("o", 1.0)]), spec)


def test_examples_have_fixed_columns_whatever_there_is_to_see(tmp_path: Path) -> None:
    spec = make_spec()
    full = Lake(tmp_path / "full")
    write(full, random_world(4, hours=20, size=30))
    versions = write_tiles(full, spec, days_between(at(0), at(60)))
    events = full.read("events")
    table = compute_examples(feature_set(spec, CONTRACT), full, events, versions)
    nothing = compute_examples(feature_set(spec, CONTRACT), full, events.slice(0, 0), versions)
    bare = compute_examples(feature_set(spec, CONTRACT), full, events, dict.fromkeys(versions))
    assert table.column_names == [
        "day", "event_id", "event_time", "decision_time", *FEATURES, "view_versions", "made_of",
    ]  # fmt: skip
    assert table.schema == nothing.schema == bare.schema
    kinds = {column.name: column.kind for column in feature_set(spec, CONTRACT).columns}
    for name, kind in kinds.items():
        assert table.schema.field(name).type == (pa.float64() if kind == "number" else pa.string())
    assert json.loads(table["made_of"][0].as_py()) == versions
    assert json.loads(table["view_versions"][0].as_py()) == feature_set(spec, CONTRACT).view_versions


def test_no_vector_holds_what_is_no_number(tmp_path: Path) -> None:
    world = World(
        [order("o", 0.0), order("asks", 3.0)],
        [outcome("o", 1.0, delay=float("nan"))],
        [Weather("a", at(1), at(2), math.inf)],
    )
    example = examples_of(tmp_path, world, SPEC)["asks"]
    assert (example["lane_delay_last"], example["sky_wind_last"], example["sky_wind_max_3h"]) == (None,) * 3


def test_an_unpinned_table_is_refused(tmp_path: Path) -> None:
    spec: PipelineSpec = make_spec([SKY])
    lake = Lake(tmp_path)
    write(lake, World([order("o", 1.0)]))
    with pytest.raises(TerminalError, match="No version of the table feature_tiles/sky__"):
        compute_examples(
            feature_set(spec, CONTRACT), lake, lake.read("events"), {"events": 0, "weather": None}
        )


def test_a_later_fact_changes_no_earlier_vector(tmp_path: Path) -> None:
    world = random_world(9, hours=40, size=60)
    before = examples_of(tmp_path / "before", world, SPEC)
    moment = max(o.decided for o in world.orders) + timedelta(seconds=1)
    late: list[Outcome] = [replace(x, known=moment, late=1 - x.late) for x in world.outcomes]
    more = replace(world, outcomes=[*world.outcomes, *dict.fromkeys(late)])
    after = examples_of(tmp_path / "after", more, SPEC)
    assert {id_: vector_of(e) for id_, e in after.items()} == {id_: vector_of(e) for id_, e in before.items()}
    assert isinstance(moment, datetime)


def test_a_deviation_is_exact_however_far_from_zero_the_values_lie(tmp_path: Path) -> None:
    orders = [order(f"o{n}", 0.25 * n, weight=10**15 + n) for n in range(3)]
    examples = examples_with(tmp_path, World([*orders, order("asks", 2.0)]), SHOP)
    assert examples["asks"]["shop_weight_std_6h"] == 1.0


def test_the_deviation_of_one_value_is_missing_and_no_different_values_are_none(tmp_path: Path) -> None:
    world = World([order("o", 0.0, kind=None), order("asks", 1.0), order("elsewhere", 1.0, shop="b")])
    examples = examples_with(tmp_path, world, SHOP)
    assert examples["asks"]["shop_weight_std_6h"] is None
    assert examples["asks"]["shop_kind_distinct_6h"] == 0.0
    assert examples["elsewhere"]["shop_kind_distinct_6h"] == 0.0
    assert examples["elsewhere"]["shop_weight_std_6h"] is None
