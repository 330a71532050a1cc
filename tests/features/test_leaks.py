"""No vector holds what became known after its decision.

Two worlds that differ in such facts only give the same vectors, bit by bit: of events, outcomes and
observations, over windows of every aggregate, and as last values. A reference without a time is left out:
it is always known. So are rows that contradict an event that stands: of these one is chosen, by who came
first, and the others are in no table.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlops_pipelines.features.sets import feature_set

from .landed import Landed, Orders, pipeline, rows_of, said_once
from .world import (
    CONTRACT,
    HOUR,
    Order,
    Outcome,
    Shop,
    Weather,
    World,
    at,
    bits,
    examples_of,
    make_spec,
    order,
    outcome,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import DrawFn, SearchStrategy

ALL = ["mean", "sum", "count", "min", "max", "std", "distinct", "last"]
VIEWS: list[dict[str, Any]] = [
    {"name": "lane", "key": ["shop", "lane"], "of": "labels", "windows": ["2h", "1d"],
     "aggregate": {"delay": ALL, "late": ["mean", "count"]}},
    {"name": "shop", "key": "shop", "of": "events", "windows": ["6h"],
     "aggregate": {"weight": ALL, "kind": ["distinct"]}, "last": ["kind"], "within": "5h"},
    {"name": "sky", "key": "shop", "of": "weather", "windows": ["3h"],
     "aggregate": {"wind": ALL}, "last": ["sky"], "within": "4h"},
]  # fmt: skip
SPEC = make_spec(VIEWS)
FEATURES = [column.name for column in feature_set(SPEC, CONTRACT).columns]
MOMENT = timedelta(microseconds=1)
SHOPS = [Shop("a"), Shop("b")]


@dataclass(frozen=True)
class Twins:
    """Two worlds that agree on all that is known at a moment, `now`.

    shared: that, with orders that are decided at that very moment. one, other: what becomes known afterwards
    in either of them; an outcome of an order that does may have landed before.
    """

    now: datetime
    shared: World
    one: World
    other: World

    @property
    def asking(self) -> set[str]:
        return {o.id for o in self.shared.orders if o.decided <= self.now}


def together(*parts: World) -> World:
    return World(
        [o for part in parts for o in part.orders],
        [x for part in parts for x in part.outcomes],
        [w for part in parts for w in part.weather],
        SHOPS,
    )


def hours(*choices: float) -> SearchStrategy[timedelta]:
    return st.sampled_from([choice * HOUR for choice in choices])


IN_TIME = st.one_of(st.just(timedelta(0)), st.just(-MOMENT), hours(-20, -6.25, -3, -1, -0.5))
AFTERWARDS = st.one_of(st.just(MOMENT), hours(0.25, 0.5, 1, 12))
AGO = hours(25, 12, 5, 3.5, 3, 2, 1.5, 1, 0.5, 0)
VALUE = st.sampled_from([None, 0.0, -7.5, 3.25])


@st.composite
def orders(draw: DrawFn, now: datetime, prefix: str, known: SearchStrategy[timedelta]) -> list[Order]:
    found = []
    for n in range(draw(st.integers(0, 4))):
        known_at = now + draw(known)
        time = min(now - draw(AGO), known_at)
        found.append(
            Order(
                f"{prefix}{n}", time, time, known_at,
                shop=draw(st.sampled_from("ab")), lane=draw(st.sampled_from([1, 2])),
                kind=draw(st.sampled_from(["x", "y"])), weight=draw(st.sampled_from([None, 0, 5, 7])),
            )
        )  # fmt: skip
    return found


@st.composite
def outcomes(draw: DrawFn, now: datetime, of: list[Order], known: SearchStrategy[timedelta]) -> list[Outcome]:
    found = []
    for _ in range(draw(st.integers(0, 4)) if of else 0):
        o = draw(st.sampled_from(of))
        known_at = now + draw(known)
        time = min(o.time + draw(hours(0, 1, 3)), known_at)
        found.append(Outcome(o.id, time, known_at, draw(st.integers(0, 1)), draw(VALUE)))
    return found


@st.composite
def weather(draw: DrawFn, now: datetime, known: SearchStrategy[timedelta]) -> list[Weather]:
    found = []
    for _ in range(draw(st.integers(0, 3))):
        known_at = now + draw(known)
        # Published an hour after its own time at the earliest.
        time = min(now - draw(hours(4, 3, 2.5, 2, 1)), known_at - HOUR)
        station, sky = draw(st.sampled_from("ab")), draw(st.sampled_from(["clear", "rain"]))
        found.append(Weather(station, time, known_at, draw(VALUE), sky))
    return found


@st.composite
def twins(draw: DrawFn) -> Twins:
    now = draw(st.sampled_from([at(30), at(30.5)]))
    asking = [Order(f"asks-{shop}{lane}", now, now, now, shop, lane) for shop in "ab" for lane in (1, 2)]
    shared = asking + draw(orders(now, "s", IN_TIME))

    def afterwards() -> World:
        new = draw(orders(now, "new", AFTERWARDS))
        # What lands before its order is known afterwards, too.
        either = st.one_of(IN_TIME, AFTERWARDS)
        told = draw(outcomes(now, new, either)) + draw(outcomes(now, shared, AFTERWARDS))
        return World(new, told, draw(weather(now, AFTERWARDS)))

    known = World(shared, draw(outcomes(now, shared, IN_TIME)), draw(weather(now, IN_TIME)))
    return Twins(now, known, afterwards(), afterwards())


def vectors_of(examples: dict[str, dict[str, Any]], ids: set[str]) -> dict[str, dict[str, Any]]:
    """The features of these orders, to be compared bit by bit."""
    return {id_: {name: bits(examples[id_][name]) for name in FEATURES} for id_ in sorted(ids)}


@pytest.mark.proof
@settings(max_examples=max(25, settings().max_examples // 3))
@given(twins())
def test_facts_that_become_known_after_a_decision_change_no_vector(pair: Twins) -> None:
    with TemporaryDirectory() as folder:
        one, other = (
            vectors_of(examples_of(Path(folder) / name, together(pair.shared, later), SPEC), pair.asking)
            for name, later in (("one", pair.one), ("other", pair.other))
        )
    assert one == other


# An outcome, soon corrected, that lands before its order is known.
LANDS_FIRST = World(
    [order("new0", 20, known=at(31))],
    [outcome("new0", 21, delay=3.25), outcome("new0", 22, 28, delay=-7.5)],
)


@pytest.mark.proof
@settings(max_examples=max(5, settings().max_examples // 10))
@given(twins(), st.randoms(use_true_random=False))
@example(Twins(at(30), World([order("asks", 30)]), LANDS_FIRST, World()), None)
def test_what_arrives_after_a_decision_changes_no_vector_that_is_made_again(
    empty: Path, pair: Twins, random: Any
) -> None:
    """Vectors are made of what had arrived; again when the rest had; and in a home where other things did."""
    loaded = pipeline(VIEWS)
    one, other = (rows_of(said_once(together(pair.shared, more))) for more in (pair.one, pair.other))

    def arrived(row: dict[str, Any]) -> bool:
        return bool(row.get("arrived_at", pair.now) <= pair.now)

    with TemporaryDirectory() as folder:
        home = Orders(empty, Path(folder) / "one", loaded)
        home.take_in(files(one, arrived))
        made = vectors_of(home.vectors(), pair.asking)
        for file in shuffled(files(one, lambda row: not arrived(row)), random):
            home.take_in([file])
        again = vectors_of(home.vectors(), pair.asking)
        home = Orders(empty, Path(folder) / "other", loaded)
        for file in shuffled(files(other, lambda _: True), random):
            home.take_in([file])
        elsewhere = vectors_of(home.vectors(), pair.asking)
    assert again == made
    assert elsewhere == made


def files(rows: dict[str, list[dict[str, Any]]], which: Callable[[dict[str, Any]], bool]) -> list[Landed]:
    """A file of each stream that has such rows."""
    chosen = [(stream, [row for row in said if which(row)]) for stream, said in rows.items()]
    return [(stream, said) for stream, said in chosen if said]


def shuffled(files: list[Landed], random: Any) -> list[Landed]:
    return files if random is None else random.sample(files, len(files))


def known_at(hour: float) -> dict[str, World]:
    """By view: two facts, of values below and above all others, that become known then."""
    new = [("low", 28.0, -9), ("high", 28.2, 99)]
    return {
        "lane": World(outcomes=[outcome(f"{n}", t, hour, late=1, delay=float(v)) for n, t, v in new]),
        "shop": World([order(f"{n} too", t, known=at(hour), weight=v, kind=n) for n, t, v in new]),
        "sky": World(weather=[Weather("a", at(t), at(hour), float(v), n) for n, t, v in new]),
    }


@pytest.mark.parametrize("view", ["lane", "shop", "sky"])
def test_every_feature_sees_what_is_known_in_time_and_none_what_is_known_a_microsecond_late(
    tmp_path: Path, view: str
) -> None:
    base = World(
        [order(name, 20) for name in ("low", "high")]
        + [order(f"o{n}", 25 + n, weight=4 * n) for n in range(3)]
        + [order("asks", 30)],
        [outcome(f"o{n}", 27 + n / 2, 28.5, late=n % 2, delay=2.0 * n) for n in range(3)],
        [Weather("a", at(27 + n / 4), at(28.5), 2.0 * n) for n in range(3)],
    )

    def vector(name: str, more: World) -> dict[str, Any]:
        return vectors_of(examples_of(tmp_path / name, together(base, more), SPEC), {"asks"})["asks"]

    without = vector("without", World())
    late = 30 + MOMENT / HOUR
    assert at(late) == at(30) + MOMENT
    assert vector("late", known_at(late)[view]) == without
    seen = vector("in time", known_at(29.5)[view])
    changed = {name for name in FEATURES if seen[name] != without[name]}
    assert changed == {name for name in FEATURES if name.startswith(f"{view}_")}
