"""Objectives: what a day is worth, what is left of the error budget, and when somebody has to look."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import binom

from mlops_pipelines import retraining, slos
from mlops_pipelines.component import build_definitions
from mlops_pipelines.lake import Lake
from mlops_pipelines.monitoring.feature_health import report_features
from mlops_pipelines.monitoring.reports import report_performance
from mlops_pipelines.pipelines.flight_delays.source import Flights
from mlops_pipelines.slos import (
    RULES,
    Rule,
    SloDay,
    SloStanding,
    budget_left,
    burn_rate,
    factor,
    fresh_decisions,
    good_day,
    slo_days,
    standing,
    standings,
)
from mlops_pipelines.spec import Slos
from tests.loop import advance, at, copy_of, land, serve, serving_home, small_home, varied
from tests.small_flights import loaded

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_pipelines.home import PipelineHome

WINDOW = timedelta(days=28)
SEVERITY = {None: 0, "warning": 1, "critical": 2}
OBJECTIVES = st.sampled_from([0.5, 0.7, 0.9, 0.95, 0.99, 0.999])
WINDOWS = st.sampled_from([timedelta(days=days) for days in (14, 28, 90)])
# Good and bad events of a day.
COUNTS = st.tuples(st.integers(0, 2000), st.integers(0, 200))
DAYS = st.lists(COUNTS, max_size=14)


def days_of(counts: list[tuple[int, int]]) -> list[SloDay]:
    """Days that follow each other, each with so many good and bad events."""
    first = date(2013, 1, 1)
    return [
        SloDay((first + timedelta(days=place)).isoformat(), good, good + bad)
        for place, (good, bad) in enumerate(counts)
    ]


def stood(counts: list[tuple[int, int]], objective: float = 0.99, window: timedelta = WINDOW) -> SloStanding:
    return standing("availability", objective, window, days_of(counts), "events got a prediction")


@given(DAYS, OBJECTIVES, WINDOWS, st.data())
def test_more_bad_events_never_end_an_alert_and_never_give_budget_back(
    counts: list[tuple[int, int]], objective: float, window: timedelta, data: st.DataObject
) -> None:
    worse = [
        (good - turned, bad + turned)
        for good, bad in counts
        for turned in [data.draw(st.integers(0, good), label="turned bad")]
    ]
    before, after = stood(counts, objective, window), stood(worse, objective, window)
    assert SEVERITY[after.alert] >= SEVERITY[before.alert]
    if before.budget_left is not None and after.budget_left is not None:
        assert after.budget_left <= before.budget_left


@given(DAYS, OBJECTIVES, WINDOWS)
def test_what_is_all_good_leaves_the_whole_budget_and_raises_nothing(
    counts: list[tuple[int, int]], objective: float, window: timedelta
) -> None:
    found = stood([(good, 0) for good, _ in counts], objective, window)
    assert found.alert is None
    assert found.budget_left in (None, 1.0)
    assert set(found.burn.values()) <= {0.0}


@given(DAYS, OBJECTIVES, st.randoms(use_true_random=False))
def test_the_budget_left_is_at_most_all_of_it_and_the_order_of_days_says_nothing(
    counts: list[tuple[int, int]], objective: float, random: Any
) -> None:
    assume(any(good + bad for good, bad in counts))
    days = days_of(counts)
    left = budget_left(objective, days)
    assert -math.inf < left <= 1
    assert left == pytest.approx(1 - burn_rate(objective, days))
    shuffled = days[:]
    random.shuffle(shuffled)
    assert budget_left(objective, shuffled) == left
    assert standing("availability", objective, WINDOW, shuffled, "") == standing(
        "availability", objective, WINDOW, days, ""
    )


@given(DAYS, OBJECTIVES, st.data())
def test_days_without_events_neither_spend_nor_earn(
    counts: list[tuple[int, int]], objective: float, data: st.DataObject
) -> None:
    days = days_of(counts)
    kept = [one for one in days if one.total or data.draw(st.booleans())]
    assert standing("freshness", objective, WINDOW, days, "") == standing(
        "freshness", objective, WINDOW, kept, ""
    )


@given(st.integers(1, 3000), st.integers(1, 60), OBJECTIVES)
def test_chance_is_told_as_a_binomial_test_tells_it(total: int, bad: int, objective: float) -> None:
    assume(bad <= total)
    by_chance = float(binom.sf(bad - 1, total, 1 - objective))
    for rule in RULES:
        assume(abs(by_chance - rule.chance) > 1e-9)
        days = [SloDay("2013-01-01", total - bad, total)]
        assert slos._beyond_chance(objective, days, rule) == (by_chance <= rule.chance)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.alert)
def test_at_the_rate_of_an_alert_half_of_the_budget_goes_within_its_span(rule: Rule) -> None:
    # Of each day so many events that the share is exact.
    objective, events = 0.97, 280_000
    bad = round(factor(rule, WINDOW) * (1 - objective) * events)
    burning = [(events - bad, bad)] * rule.long
    assert budget_left(objective, days_of([*[(events, 0)] * (28 - rule.long), *burning])) == pytest.approx(
        0.5, abs=1e-4
    )
    assert SEVERITY[stood(burning, objective).alert] >= SEVERITY[rule.alert]
    fewer = [(events - bad + 1000, bad - 1000)] * rule.long
    assert SEVERITY[stood(fewer, objective).alert] < SEVERITY[rule.alert]


@pytest.mark.parametrize(
    ("counts", "objective", "alert"),
    [
        # One bad event of a few is chance; ten of ten are not, nor is one of each few days.
        ([(1000, 0), (1000, 0), (4, 1)], 0.999, None),
        ([(9, 1)], 0.99, None),
        ([(1, 1)], 0.95, None),
        ([(0, 10)], 0.99, "critical"),
        ([(4, 1), (4, 1), (4, 1)], 0.99, "critical"),
        # An outage of one day is told the day after, and not any more when a day went by without one.
        ([(900, 0), (900, 0), (0, 900)], 0.999, "critical"),
        ([(900, 0), (0, 900), (900, 0)], 0.999, "warning"),
        ([(0, 900), (900, 0), (900, 0), (900, 0)], 0.999, None),
        # A slow fire is a warning.
        ([(975, 25)] * 7, 0.99, "warning"),
        ([(985, 15)] * 7, 0.99, None),
        # Of days that are good or bad, two of three may be weather.
        ([(1, 0), (0, 1), (0, 1)], 0.9, "warning"),
        ([(0, 1), (0, 1), (0, 1)], 0.9, "critical"),
        ([(1, 0), (1, 0), (0, 1)], 0.9, None),
        # All bad, and an objective that lets half be bad.
        ([(0, 500)] * 3, 0.5, "critical"),
        ([], 0.9, None),
    ],
)
def test_an_alert_is_raised_by_what_is_fast_sure_and_goes_on(
    counts: list[tuple[int, int]], objective: float, alert: str | None
) -> None:
    assert stood(counts, objective).alert == alert


@pytest.mark.parametrize(
    ("good", "total"), [(-1, 5), (6, 5), (math.nan, 5), (3, math.nan), (3, math.inf), (1, -1)]
)
def test_what_is_no_count_is_refused(good: Any, total: Any) -> None:
    with pytest.raises(ValueError, match="are no counts"):
        SloDay("2013-01-01", good, total)


def of_view(view: str, rows: int, stale: float | None) -> dict[str, Any]:
    return {"view": view, "rows": rows, "stale": stale}


def test_a_decision_is_fresh_if_every_view_was() -> None:
    sources = {"a": "labels", "b": "labels", "c": "weather"}
    views = [of_view("a", 100, 0.02), of_view("b", 100, 0.10), of_view("c", 100, 0.05)]
    # Views of the labels age together, those of the weather by themselves.
    assert fresh_decisions("2013-01-01", views, sources) == SloDay("2013-01-01", 85, 100)
    all_stale = [of_view("a", 100, 1.0), of_view("c", 100, 1.0)]
    assert fresh_decisions("2013-01-01", all_stale, sources) == SloDay("2013-01-01", 0, 100)
    assert fresh_decisions("2013-01-01", [], sources) is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 200)), min_size=1, max_size=6))
def test_no_decision_counts_as_fresh_that_was_not(stale: list[tuple[str, int]]) -> None:
    views = [of_view(f"{place}", 200, bad / 200) for place, (_, bad) in enumerate(stale)]
    sources = {f"{place}": source for place, (source, _) in enumerate(stale)}
    found = fresh_decisions("2013-01-01", views, sources)
    assert found is not None
    # At worst, different tables were stale at different decisions.
    worst = {source: max(bad for of, bad in stale if of == source) for source, _ in stale}
    assert found.bad == min(sum(worst.values()), 200)


@pytest.mark.parametrize("stale", [None, math.nan, -0.1, 1.1])
def test_a_day_with_a_figure_that_is_missing_is_unknown(stale: float | None) -> None:
    views = [of_view("a", 100, 0.0), of_view("b", 100, stale)]
    assert fresh_decisions("2013-01-01", views, {}) is None


@pytest.mark.parametrize(
    ("value", "matured", "good"),
    [(0.1, True, 1), (0.0, True, 1), (-0.1, True, 0), (None, True, None), (math.nan, True, None),
     (math.inf, True, None), (0.1, False, None)],
)  # fmt: skip
def test_a_matured_day_is_good_at_the_floor_and_unknown_without_a_figure(
    value: float | None, matured: bool, good: int | None
) -> None:
    found = good_day({"day": "2013-01-01", "matured": matured, "r2": value}, "r2", 0.0)
    assert found == (None if good is None else SloDay("2013-01-01", good, 1))


ALL: dict[str, Any] = {"freshness": {}, "availability": {}, "label_maturity": {}, "quality": {}}


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of twelve days whose champion is from the 8th, with its reports."""
    home = tmp_path_factory.mktemp("lived")
    place = serving_home(home)
    advance(place, at(13))
    report_features(place, [])
    report_performance(place, [])
    return home


@pytest.fixture
def place(lived: Path, tmp_path: Path) -> PipelineHome:
    return objectives(copy_of(lived, tmp_path / "home"), ALL)


def objectives(place: PipelineHome, declared: dict[str, Any]) -> PipelineHome:
    """The same pipeline with objectives."""
    return varied(place, slos=Slos.model_validate(declared))


def days(first: int, last: int) -> list[str]:
    return [f"2013-01-{day:02}" for day in range(first, last + 1)]


def test_each_objective_is_of_the_days_that_it_can_be_judged_on(place: PipelineHome) -> None:
    found = slo_days(place, at(13))
    counted = {name: [one.day for one in ones] for name, ones in found.items()}
    assert counted["availability"] == days(9, 12), "the day on which the champion came does not count"
    assert counted["freshness"] == days(1, 12)
    assert counted["label_maturity"] == days(1, 10), "36 hours after the 11th it is noon of the 13th"
    assert counted["quality"] == days(8, 10)
    assert retraining.matured_through(place, at(13)).isoformat() == "2013-01-10"
    rows = place.lake.row_counts("events")
    assert found["availability"] == [SloDay(day, rows[day], rows[day]) for day in days(9, 12)]


def test_the_window_bounds_the_days(place: PipelineHome) -> None:
    short = objectives(place, {**ALL, "window": "4d"})
    counted = {name: [one.day for one in ones] for name, ones in slo_days(short, at(13)).items()}
    assert counted["freshness"] == counted["availability"] == days(9, 12)
    assert counted["label_maturity"] == days(7, 10)


def test_what_is_not_declared_is_not_looked_at(place: PipelineHome) -> None:
    assert standings(varied(place, slos=None), at(13)) == []
    assert [one.name for one in standings(objectives(place, {"quality": {}}), at(13))] == ["quality"]


def test_a_home_in_which_nothing_has_happened_says_so(tmp_path: Path) -> None:
    found = standings(objectives(small_home(tmp_path), ALL), at(1))
    assert [one.name for one in found] == [*ALL]
    assert {(one.total, one.budget_left, one.alert) for one in found} == {(0, None, None)}
    assert all("nothing was counted yet" in one.sentence for one in found)


def test_events_that_nobody_scored_spend_the_budget(place: PipelineHome) -> None:
    scored = place.lake.read("predictions", days=["2013-01-12"])
    kept = scored.slice(0, scored.num_rows // 2)
    place.lake.replace(
        "predictions", kept, days=["2013-01-12"], sort_by=["decided_at", "event_id"],
        unhashed=["scored_at", "model_version", "examples_version"],
    )  # fmt: skip
    found = {one.name: one for one in standings(place, at(13))}["availability"]
    assert (found.alert, found.last_day) == ("critical", "2013-01-12")
    assert found.total - found.good == scored.num_rows - kept.num_rows
    assert "critical: the last 3 days spent it" in found.sentence


def test_a_label_counts_if_it_came_in_time_and_a_correction_does_not_count_again(tmp_path: Path) -> None:
    place = objectives(small_home(tmp_path / "home"), {"label_maturity": {}})
    of_the_2nd = Flights().rows("events", at(2), at(3))["event_id"]

    def hold_back(rows: pa.Table) -> pa.Table:
        mine = pc.is_in(rows["event_id"], of_the_2nd)
        return pa.concat_tables([rows.filter(pc.invert(mine)), rows.filter(mine).slice(20)])

    advance(place, at(6), hold_back, of="labels")
    labels = Flights().rows("labels", at(1), at(6))
    late = labels.filter(pc.is_in(labels["event_id"], of_the_2nd)).slice(0, 20)
    arrived = late.schema.get_field_index("arrived_at")
    late = late.set_column(arrived, "arrived_at", pa.array([at(6)] * late.num_rows, late["arrived_at"].type))
    before = {one.day: one for one in slos.label_days(place, date(2013, 1, 1), date(2013, 1, 4))}
    land(place, "labels", "late", late)
    advance(place, at(7))
    after = {one.day: one for one in slos.label_days(place, date(2013, 1, 1), date(2013, 1, 4))}
    assert after["2013-01-01"] == before["2013-01-01"]
    assert (before["2013-01-02"].late, after["2013-01-02"].late) == (0, late.num_rows)
    assert after["2013-01-02"].in_time == before["2013-01-02"].in_time
    assert after["2013-01-02"].missing == before["2013-01-02"].missing - late.num_rows
    # What nobody ever hears of, cancelled flights, is missing.
    events, known = place.lake.row_counts("events"), place.lake.read("labels", columns=["event_id", "day"])
    for day, one in after.items():
        mine = known.filter(pc.equal(known["day"], day))
        assert one.events == events[day]
        assert one.in_time + one.late == len(pc.unique(mine["event_id"]))


def test_without_labels_every_one_is_missing(tmp_path: Path) -> None:
    place = objectives(small_home(tmp_path / "home"), {"label_maturity": {}})
    advance(place, at(4), lambda rows: rows.slice(0, 0), of="labels")
    [found] = standings(place, at(4))
    events = place.lake.row_counts("events")
    assert (found.good, found.total) == (0, events["2013-01-01"])
    assert (found.alert, found.burn["1d"]) == ("critical", pytest.approx(20))


def test_a_day_that_is_as_it_was_is_not_read_again(
    place: PipelineHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = standings(place, at(13))
    read: list[tuple[str, Any]] = []
    reading = Lake.read

    def noted(lake: Lake, name: str, **options: Any) -> pa.Table:
        read.append((name, options.get("days")))
        return reading(lake, name, **options)

    monkeypatch.setattr(Lake, "read", noted)
    assert standings(place, at(13)) == first
    assert {name for name, _ in read} == {"feature_report", "performance_report"}
    serve(place)
    read.clear()
    assert standings(objectives(place, {"availability": {}, "label_maturity": {}}), at(13)) == [
        one for one in first if one.name in ("availability", "label_maturity")
    ]
    assert read == []


def test_objectives_change_nothing_that_is_made() -> None:
    """No code version rests on them: no day is made again, and no model is another one."""

    def versions(declared: Slos | None) -> dict[str, str | None]:
        spec = loaded().spec.model_copy(update={"slos": declared})
        made = build_definitions(replace(loaded(), spec=spec))
        return {one.key.to_string(): one.code_version for one in made.resolve_all_asset_specs()}

    assert versions(Slos.model_validate(ALL)) == versions(None)
    assert any(versions(None).values())


def test_stale_features_and_worthless_days_are_told(place: PipelineHome) -> None:
    report = place.lake.read("feature_report")
    stale = pc.if_else(pc.is_valid(report["stale"]), 0.5, report["stale"])
    report = report.set_column(report.schema.get_field_index("stale"), "stale", stale)
    place.lake.replace("feature_report", report, days=days(1, 12), sort_by=["view", "version", "feature"])
    demanding = objectives(place, {"freshness": {}, "quality": {"floor": 0.99}})
    found = {one.name: one for one in standings(demanding, at(13))}
    assert (found["freshness"].good, found["freshness"].alert) == (0, "critical"), (
        "labels and weather, half each"
    )
    assert (found["quality"].good, found["quality"].total, found["quality"].alert) == (0, 3, "critical")
    assert "0% of 3 matured days were at or above 0.99 in log_loss_skill" in found["quality"].sentence
