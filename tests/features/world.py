"""A small world of orders, their outcomes, weather and shops, on a real lake; and what is true in it.

`expected_vector` says what an order's features are by looking at every fact, one order at a time: no
tiles, no sorting, no sums in floating point.
"""

from __future__ import annotations

import math
import random
import struct
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pyarrow as pa

from mlops_pipelines.features.point_in_time import compute_examples
from mlops_pipelines.features.sets import feature_set
from mlops_pipelines.features.tiles import compute_tiles
from mlops_pipelines.features.views import CompiledView, compile_views, tile_table
from mlops_pipelines.ingest.contract import Contract
from mlops_pipelines.lake import Lake
from mlops_pipelines.spec import PipelineSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

START = datetime(2024, 3, 4, tzinfo=UTC)
# Where worlds start: an ordinary week, shortly before a 29th of February, and before clocks in New York go
# forward, and back.
STARTS = [
    START,
    *(datetime(year, 2, 28, 20, tzinfo=UTC) for year in (2012, 2016)),
    *(datetime(2013, month, day, 4, tzinfo=UTC) for month, day in ((3, 10), (11, 3))),
]
NEW_YORK = ZoneInfo("America/New_York")
HOUR = timedelta(hours=1)
MOMENT = pa.timestamp("us", tz="UTC")

VIEWS: list[dict[str, Any]] = [
    {
        "name": "lane", "key": ["shop", "lane"], "of": "labels",
        "aggregate": {"late": ["mean", "count"],
                      "delay": ["sum", "mean", "min", "max", "std", "distinct", "last"]},
        "windows": ["2h", "1d"],
    },
    {"name": "shop", "key": "shop", "of": "events",
     "aggregate": {"weight": ["sum", "count", "std"], "kind": ["distinct"]},
     "windows": ["6h"], "last": ["weight", "kind"], "within": "5h"},
    {"name": "sky", "key": "shop", "of": "weather", "aggregate": {"wind": ["mean", "max"]},
     "windows": ["3h"], "last": ["wind", "sky"], "within": "2h"},
    {"name": "place", "key": "shop", "of": "shops", "last": ["size", "town"]},
]  # fmt: skip


def make_spec(
    views: Sequence[Mapping[str, Any]] = VIEWS,
    from_event: Mapping[str, str] | None = None,
    **changes: Any,
) -> PipelineSpec:
    local = "timezone('America/New_York', placed_at)"
    expressions = {
        "hour": "extract(hour from placed_at)",
        "local": f"60 * hour({local}) + minute({local})",
        "weekday": f"isodow({local})",
        "kind": "kind",
    }
    return PipelineSpec.model_validate(
        {
            "name": "orders",
            "partitions": {"start": "2024-03-04"},
            "events": {
                "landing": "landing/events",
                "id": "order_no",
                "time": "placed_at",
                "decide_at": "decided_at",
            },
            "labels": {"landing": "l", "value": "late", "time": "delivered_at", "matures_after": "36h"},
            "references": {
                "weather": {"landing": "w", "keys": ["station"], "time": "observed_at", "publish_lag": "1h"},
                "shops": {"landing": "s", "keys": ["shop"]},
            },
            "features": {"from_event": expressions if from_event is None else from_event, "views": views},
        }
        | changes
    )


def _columns(**types: str) -> dict[str, Any]:
    return {"columns": {name: {"type": type_, "nullable": True} for name, type_ in types.items()}}


CONTRACT = Contract.model_validate(
    {
        "events": _columns(
            order_no="string", placed_at="timestamp", decided_at="timestamp", shop="string", lane="int",
            kind="string", weight="int", express="bool",
        ),
        "labels": _columns(order_no="string", late="bool", delivered_at="timestamp", delay="float"),
        "references": {
            "weather": _columns(station="string", observed_at="timestamp", wind="float", sky="string"),
            "shops": _columns(shop="string", size="int", town="string"),
        },
    }
)  # fmt: skip


@dataclass(frozen=True)
class Order:
    id: str
    time: datetime
    decided: datetime
    known: datetime
    shop: str | None = "a"
    lane: int | None = 1
    kind: str | None = "x"
    weight: int | None = 3
    express: bool | None = False


@dataclass(frozen=True)
class Outcome:
    id: str
    time: datetime
    known: datetime
    late: int = 0
    delay: float | None = 1.0


@dataclass(frozen=True)
class Weather:
    station: str
    time: datetime
    known: datetime
    wind: float | None = 1.0
    sky: str | None = "clear"


@dataclass(frozen=True)
class Shop:
    shop: str
    size: int | None = 1
    town: str | None = "t"


@dataclass(frozen=True)
class World:
    """Every fact that ever becomes known. `known` of an outcome: when it would be by itself."""

    orders: list[Order] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    weather: list[Weather] = field(default_factory=list)
    shops: list[Shop] = field(default_factory=list)

    @cached_property
    def told(self) -> list[Outcome]:
        """The outcomes as they are known: of an order that is there, and not before the order itself."""
        known = {o.id: o.known for o in self.orders}
        return [replace(x, known=max(x.known, known[x.id])) for x in self.outcomes if x.id in known]

    def known_before(self, moment: datetime) -> World:
        return World(
            [o for o in self.orders if o.known < moment],
            [x for x in self.told if x.known < moment],
            [w for w in self.weather if w.known < moment],
            self.shops,
        )


def at(hours: float) -> datetime:
    """That many hours after the start of the world."""
    return START + timedelta(microseconds=round(hours * 3_600_000_000))


def order(id_: str, hours: float, **changes: Any) -> Order:
    """An order decided, and known, when it was placed."""
    return replace(Order(id_, at(hours), at(hours), at(hours)), **changes)


def outcome(id_: str, hours: float, known: float | None = None, **changes: Any) -> Outcome:
    return replace(Outcome(id_, at(hours), at(hours if known is None else known)), **changes)


def day_of(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d")


def write(lake: Lake, world: World) -> None:
    """The world as the intake would have left it."""
    day_by_id = {o.id: day_of(o.time) for o in world.orders}
    _replace(lake, "events", ("event_id",), {
        "day": [day_of(o.time) for o in world.orders],
        "event_id": [o.id for o in world.orders],
        "event_time": [o.time for o in world.orders],
        "decision_time": [o.decided for o in world.orders],
        "known_at": [o.known for o in world.orders],
        "placed_at": [o.time for o in world.orders],
        "decided_at": [o.decided for o in world.orders],
        "shop": [o.shop for o in world.orders],
        "lane": [o.lane for o in world.orders],
        "kind": [o.kind for o in world.orders],
        "weight": [o.weight for o in world.orders],
        "express": [o.express for o in world.orders],
    })  # fmt: skip
    _replace(lake, "labels", ("event_id", "known_at", "label_time", "label", "delay"), {
        "day": [day_by_id[x.id] for x in world.told],
        "event_id": [x.id for x in world.told],
        "label": [x.late for x in world.told],
        "label_time": [x.time for x in world.told],
        "known_at": [x.known for x in world.told],
        "delay": [x.delay for x in world.told],
    })  # fmt: skip
    _replace(lake, "weather", ("station", "ref_time", "known_at", "wind", "sky"), {
        "day": [day_of(w.time) for w in world.weather],
        "station": [w.station for w in world.weather],
        "ref_time": [w.time for w in world.weather],
        "known_at": [w.known for w in world.weather],
        "wind": [w.wind for w in world.weather],
        "sky": [w.sky for w in world.weather],
    })  # fmt: skip
    _replace(lake, "shops", ("shop",), {
        "day": ["static" for _ in world.shops],
        "shop": [s.shop for s in world.shops],
        "size": [s.size for s in world.shops],
        "town": [s.town for s in world.shops],
    })  # fmt: skip


_TYPES = {
    "event_time": MOMENT, "decision_time": MOMENT, "known_at": MOMENT, "placed_at": MOMENT,
    "decided_at": MOMENT, "label_time": MOMENT, "ref_time": MOMENT,
    "lane": pa.int64(), "weight": pa.int64(), "size": pa.int64(), "express": pa.bool_(), "label": pa.int8(),
    "delay": pa.float64(), "wind": pa.float64(),
}  # fmt: skip


def _replace(lake: Lake, name: str, sort_by: Sequence[str], columns: Mapping[str, list[Any]]) -> None:
    if columns["day"]:
        table = pa.table({k: pa.array(v, _TYPES.get(k, pa.string())) for k, v in columns.items()})
        lake.replace(name, table, days=sorted(set(columns["day"])), sort_by=sort_by)


def versions_of(lake: Lake, views: Sequence[CompiledView]) -> dict[str, int | None]:
    tables = ["events", "labels", "weather", "shops", *(tile_table(v) for v in views if v.windowed)]
    return {table: lake.version(table) for table in tables}


def days_between(first: datetime, last: datetime) -> list[str]:
    count = (last.date() - first.date()).days + 1
    return [day_of(first + timedelta(days=i)) for i in range(count)]


def write_tiles(lake: Lake, spec: PipelineSpec, days: Sequence[str]) -> dict[str, int | None]:
    """The tiles of these days in the lake; returns the versions of all tables afterwards."""
    views = compile_views(spec, CONTRACT)
    versions = versions_of(lake, views)
    for view in views:
        if view.windowed:
            tiles = compute_tiles(view, lake, days, versions)
            lake.replace(tile_table(view), tiles, days=days, sort_by=["hour", *view.keys])
    return versions_of(lake, views)


def examples_of(
    root: Path, world: World, spec: PipelineSpec, first: datetime = START, last: datetime | None = None
) -> dict[str, dict[str, Any]]:
    """Examples of all orders by id, from a lake that holds the whole world."""
    lake = Lake(root)
    write(lake, world)
    times = [first, *(o.known for o in world.orders), *(x.known for x in world.told)]
    times += [o.decided for o in world.orders] + [w.known for w in world.weather]
    versions = write_tiles(lake, spec, days_between(min(times), last or max(times)))
    return by_id(compute_examples(feature_set(spec, CONTRACT), lake, lake.read("events"), versions))


def by_id(examples: pa.Table) -> dict[str, dict[str, Any]]:
    rows: list[dict[str, Any]] = examples.to_pylist()
    return {row["event_id"]: row for row in rows}


def random_world(seed: int, hours: int, size: int) -> World:
    """Facts with everything that goes wrong: late arrivals, corrections, gaps, ties, nulls, full hours."""
    rng = random.Random(seed)  # noqa: S311 - a world, not a secret

    def moment() -> float:
        return float(rng.choice([rng.uniform(0, hours), rng.randrange(hours)]))

    def lag() -> float:
        return rng.choice([0.0, 0.0, 1.0, rng.uniform(0, 3), rng.uniform(0, 30)])

    def value() -> float | None:
        return rng.choice([None, 0.1, -0.0, 0.0, rng.uniform(-50, 50), 1e6 * rng.random()])

    orders = []
    for i in range(size):
        placed = moment()
        decided = placed + rng.choice([0.0, 0.0, rng.uniform(0, 4)])
        orders.append(
            Order(
                f"o{i:03d}", at(placed), at(decided), at(placed + lag()),
                shop=rng.choice(["a", "a", "b", None]), lane=rng.choice([1, 1, 2, None]),
                kind=rng.choice(["x", "y", None]), weight=rng.choice([None, 0, 3, 10**15]),
            )
        )  # fmt: skip
    outcomes = []
    for placed_order in rng.sample(orders, round(size * 0.8)):
        time = placed_order.time + timedelta(hours=rng.choice([0.5, 1.0, rng.uniform(0, 6)]))
        known = time + timedelta(hours=lag())
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            outcomes.append(Outcome(placed_order.id, time, known, rng.randrange(2), value()))
            time += timedelta(hours=rng.choice([0.0, 0.0, -0.5, 1.0]))
            known = max(known, time) + timedelta(hours=rng.choice([0.0, 0.25, rng.uniform(0, 20)]))
    weather = []
    for _ in range(size // 2):
        observed = rng.randrange(hours)
        weather.append(
            Weather(
                rng.choice("ab"),
                at(observed),
                at(observed + 1 + lag()),
                value(),
                rng.choice(["r", "s", None]),
            )
        )
    shops = [Shop("a", 3, "t"), Shop("b", None, "u")]
    return World(orders, list(dict.fromkeys(outcomes)), list(dict.fromkeys(weather)), shops)


def moved(world: World, start: datetime) -> World:
    """The world as it would be if it had started then."""
    by = start - START

    def later(facts: list[Any], *names: str) -> list[Any]:
        return [replace(fact, **{name: getattr(fact, name) + by for name in names}) for fact in facts]

    return World(
        later(world.orders, "time", "decided", "known"),
        later(world.outcomes, "time", "known"),
        later(world.weather, "time", "known"),
        world.shops,
    )


def bits(value: Any) -> Any:
    """A value that equals another only if both are the same bits; 0.0 is -0.0, as the lake's hash has it."""
    return struct.pack("d", value + 0.0) if isinstance(value, float) else value


# What is true


def floor_hour(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


def expected_vector(world: World, o: Order) -> dict[str, Any]:
    """The features of VIEWS and the default expressions, for one order."""
    local = o.time.astimezone(NEW_YORK)
    vector: dict[str, Any] = {
        "hour": float(o.time.hour),
        "local": float(60 * local.hour + local.minute),
        "weekday": float(local.isoweekday()),
        "kind": o.kind,
    }
    return vector | _lane(world, o) | _shop(world, o) | _sky(world, o) | _place(world, o)


def _lane(world: World, o: Order) -> dict[str, Any]:
    d, end = o.decided, floor_hour(o.decided)
    key_of = {x.id: (x.shop, x.lane) for x in world.orders}
    mine = [x for x in sorted(world.told, key=_current_order) if key_of[x.id] == (o.shop, o.lane)]
    first: dict[str, Outcome] = {}
    current: dict[str, Outcome] = {}
    for x in mine:
        # Of versions that became known together, the one that is current afterwards.
        if x.id not in first or first[x.id].known == x.known:
            first[x.id] = x
        if x.known <= d:
            current[x.id] = x
    vector: dict[str, Any] = {}
    for window, hours in (("2h", 2), ("1d", 24)):
        seen = [x for x in first.values() if end - hours * HOUR <= floor_hour(x.known) < end]
        measures = {
            **_measures("late", [x.late for x in seen], ["mean", "count"]),
            **_measures("delay", [x.delay for x in seen], ["sum", "mean", "min", "max", "std", "distinct"]),
        }
        vector |= {f"lane_{feature}_{window}": value for feature, value in measures.items()}
    newest = max(current.values(), key=lambda x: (x.time, x.known, x.id), default=None)
    fresh = newest is not None and newest.time >= d - 24 * HOUR
    vector["lane_delay_last"] = newest.delay if newest is not None and fresh else None
    return vector if None not in (o.shop, o.lane) else dict.fromkeys(vector)


def _shop(world: World, o: Order) -> dict[str, Any]:
    d, end = o.decided, floor_hour(o.decided)
    here = [x for x in world.orders if x.shop == o.shop]
    seen = [x for x in here if end - 6 * HOUR <= floor_hour(x.known) < end]
    measures = _measures("weight", [x.weight for x in seen], ["sum", "count", "std"])
    measures["kind_distinct"] = float(len({x.kind for x in seen} - {None}))
    vector: dict[str, Any] = {f"shop_{f}_6h": value for f, value in measures.items()}
    known = [x for x in here if x.known <= d and x.id != o.id]
    last = max(known, key=lambda x: (x.time, x.known, x.id), default=None)
    weight = kind = None
    if last is not None and last.time >= d - 5 * HOUR:
        weight, kind = last.weight, last.kind
    vector |= {"shop_weight_last": None if weight is None else float(weight), "shop_kind_last": kind}
    return vector if o.shop is not None else dict.fromkeys(vector)


def _sky(world: World, o: Order) -> dict[str, Any]:
    d, end = o.decided, floor_hour(o.decided)
    here = [w for w in world.weather if w.station == o.shop]
    first: dict[datetime, Weather] = {}
    for w in sorted(here, key=_weather_order):
        if w.time not in first or first[w.time].known == w.known:
            first[w.time] = w
    winds = [w.wind for w in first.values() if end - 3 * HOUR <= floor_hour(w.known) < end]
    vector: dict[str, Any] = {f"sky_{f}_3h": v for f, v in _measures("wind", winds, ["mean", "max"]).items()}
    last = max((w for w in here if w.known <= d), key=_sky_order, default=None)
    if last is not None and last.time < d - 2 * HOUR:
        last = None
    return vector | {"sky_wind_last": last and last.wind, "sky_sky_last": last and last.sky}


def _place(world: World, o: Order) -> dict[str, Any]:
    row = next((s for s in world.shops if s.shop == o.shop), None)
    size = None if row is None or row.size is None else float(row.size)
    return {"place_size_last": size, "place_town_last": row and row.town}


def _current_order(x: Outcome) -> tuple[Any, ...]:
    return (x.known, x.time, *_last_null(x.late), *_last_null(x.delay))


def _weather_order(w: Weather) -> tuple[Any, ...]:
    return (w.known, *_last_null(w.wind))


def _sky_order(w: Weather) -> tuple[Any, ...]:
    return (w.time, w.known, *_last_null(w.sky, ""), *_last_null(w.wind))


def _last_null(value: Any, null: Any = 0) -> tuple[bool, Any]:
    """Sorts nulls behind every value."""
    return (value is None, null if value is None else value)


def _deviation(values: list[Fraction]) -> float | None:
    """Of a sample."""
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _mean(values: list[Fraction]) -> float | None:
    return float(sum(values)) / len(values) if values else None


def _fixed(value: float) -> Fraction:
    """The multiple of 2**-20 nearest to a value, halves away from zero."""
    scaled = abs(Fraction(value)) * 2**20
    whole = Fraction((2 * scaled + 1).__floor__() // 2)
    return (whole if value >= 0 else -whole) / 2**20


def _measures(column: str, values: Sequence[float | None], wanted: list[str]) -> dict[str, float | None]:
    present = [v for v in values if v is not None]
    exact = [_fixed(v) for v in present]
    answers: dict[str, float | None] = {
        "count": float(len(present)),
        "sum": float(sum(exact)) if exact else None,
        "mean": _mean(exact),
        "min": float(min(present)) + 0.0 if present else None,
        "max": float(max(present)) + 0.0 if present else None,
        "std": _deviation(exact),
        "distinct": float(len(set(present))),
    }
    return {f"{column}_{aggregate}": answers[aggregate] for aggregate in wanted}
