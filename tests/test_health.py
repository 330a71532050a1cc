"""The loop by clock: what lies behind, by how much, and whether that is normal."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_pipelines.alerting.attending import attend
from mlops_pipelines.clock import usual_step
from mlops_pipelines.health import LoopClock, health_of, ranking, render, spelled
from mlops_pipelines.home import Home
from mlops_pipelines.lake import Lake
from mlops_pipelines.monitoring.feature_health import report_features
from mlops_pipelines.monitoring.reports import report_drift, report_performance
from mlops_pipelines.pipelines.flight_delays.source import Flights
from mlops_pipelines.spec import Slos
from tests.loop import (
    advance,
    ask,
    at,
    copy_of,
    land,
    mlops,
    move,
    serve,
    serving_home,
    small_home,
    varied,
)
from tests.small_flights import loaded

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from mlops_pipelines.home import PipelineHome

NOW = datetime(2024, 5, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SPANS = st.timedeltas(timedelta(0), timedelta(days=40))
CLOCKS = st.lists(st.tuples(st.one_of(st.none(), SPANS), st.one_of(st.none(), SPANS)), max_size=8)


def clocks_of(spans: list[tuple[timedelta | None, timedelta | None]]) -> list[LoopClock]:
    """Clocks that lie so far behind, each with what is normal for it."""
    return [
        LoopClock(f"{place}", None if behind is None else NOW - behind, normal, "")
        for place, (behind, normal) in enumerate(spans)
    ]


@given(CLOCKS)
def test_a_clock_is_late_beyond_what_is_normal_for_it(
    spans: list[tuple[timedelta | None, timedelta | None]],
) -> None:
    found = ranking(clocks_of(spans), NOW)
    paced = {
        f"{place}": (one, normal) for place, (one, normal) in enumerate(spans) if one is not None and normal
    }
    assert set(found.late) == {name for name, (one, normal) in paced.items() if one > normal}
    assert (found.oldest is None) == (found.slowest is None) == (not paced)
    if found.oldest and found.slowest:
        assert paced[found.oldest][0] == max(one for one, _ in paced.values())
        shares = {name: one / normal for name, (one, normal) in paced.items()}
        assert shares[found.slowest] == max(shares.values())
        assert not found.late or found.slowest in found.late


def test_a_clock_never_lies_ahead() -> None:
    assert LoopClock("events", NOW + DAY, DAY, "").behind(NOW) == timedelta(0)


@pytest.mark.parametrize(
    ("days", "step"),
    [
        ([], 1),
        (["2024-05-01"], 1),
        (["2024-05-01", "2024-05-20"], 1),
        (["2024-05-01", "2024-05-02", "2024-05-09", "2024-05-10"], 1),
        # Two weekends.
        (["2024-05-02", "2024-05-03", "2024-05-06", "2024-05-07", "2024-05-10", "2024-05-13"], 3),
    ],
)
def test_the_usual_step_is_a_habit_and_no_single_outage(days: list[str], step: int) -> None:
    assert usual_step(days) == step * DAY


@pytest.mark.parametrize(
    ("span", "said"),
    [
        (None, "–"),
        (timedelta(0), "0s"),
        (timedelta(seconds=59), "59s"),
        (timedelta(seconds=119), "1m"),
        (timedelta(hours=1), "1h"),
        (timedelta(hours=25), "1d 1h"),
        (timedelta(days=2, minutes=59), "2d"),
        (timedelta(hours=5, minutes=10), "5h 10m"),
    ],
)
def test_a_duration_is_told_in_its_largest_units(span: timedelta | None, said: str) -> None:
    assert spelled(span) == said


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of twelve days whose champion is from the 8th, with its reports."""
    home = tmp_path_factory.mktemp("lived")
    place = serving_home(home)
    advance(place, at(13))
    monitor(place)
    return home


@pytest.fixture
def place(lived: Path, tmp_path: Path) -> PipelineHome:
    return copy_of(lived, tmp_path / "home")


def monitor(place: PipelineHome) -> None:
    report_features(place, [])
    report_drift(place, [])
    report_performance(place, [])


def told(place: PipelineHome, code: int = 0) -> dict[str, Any]:
    done = mlops(place, "health", place.name, "--json")
    assert done.exit_code == code, done.output
    found: dict[str, Any] = json.loads(done.output)
    return found


def test_a_home_in_which_nothing_has_happened_is_healthy_and_says_so(tmp_path: Path) -> None:
    place = small_home(tmp_path)
    done = mlops(place, "health", place.name)
    assert done.exit_code == 0, done.output
    assert "no clock is late" in done.output
    for said in ("none has been taken in yet", "no view has facts yet", "there is no champion yet",
                 "there are no events to have any", "nothing waits to be taken in", ": none"):  # fmt: skip
        assert said in done.output
    found = told(place)
    assert {one["at"] for one in found["clocks"].values()} == {None}
    assert (found["oldest"], found["champion"], found["cost"]["runs"]) == (None, None, {})


def test_events_without_a_champion_wait_for_none_of_its_clocks(tmp_path: Path) -> None:
    place = small_home(tmp_path)
    advance(place, at(3))
    report_features(place, [])
    report_performance(place, [])
    clocks = told(place)["clocks"]
    assert clocks["predictions"]["at"] is None
    assert "drift_report" not in clocks
    assert clocks["events"]["behind_seconds"] < DAY.total_seconds()


def test_each_clock_says_how_far_it_came_and_what_is_normal(place: PipelineHome) -> None:
    found = told(place)
    assert found["healthy"], found
    clocks = found["clocks"]
    rows = place.lake.read("predictions", columns=["decided_at"])["decided_at"]
    behind = (at(13) - max(rows.to_pylist())).total_seconds()
    # Statistics know times to the millisecond.
    assert clocks["predictions"]["behind_seconds"] == pytest.approx(behind, abs=0.002)
    known = max(place.lake.read("labels", columns=["known_at"])["known_at"].to_pylist())
    assert clocks["labels"]["behind_seconds"] == pytest.approx((at(13) - known).total_seconds(), abs=0.002)
    assert clocks["labels"]["normal_seconds"] == timedelta(days=1, hours=36).total_seconds()
    assert "matured through 2013-01-10" in clocks["labels"]["said"]
    assert clocks["drift_report"]["at"] == at(13).isoformat()
    assert clocks["performance_report"]["at"] == at(11).isoformat(), "the last matured day is the 10th"
    champion = place.ledger.champion(place.name)
    assert champion is not None
    assert found["champion"]["since"] == champion.at.isoformat()
    cutoff = place.ledger.retrain(champion.retrain_id).cutoff
    assert cutoff is not None
    assert found["champion"]["learned_through"] == cutoff.isoformat()
    assert found["unscored"] == 0
    assert found["oldest"] == "performance_report"
    said = mlops(place, "health", place.name).output
    assert f"v{champion.mlflow_version}, learned from labels through" in said
    assert "oldest, slowest; the last day is 2013-01-10" in said


def test_a_step_that_stands_still_is_late_and_the_exit_code_says_so(place: PipelineHome) -> None:
    advance(place, at(15))
    late = told(place, code=1)
    assert late["late"] == ["feature_report", "drift_report", "performance_report"], "nobody has monitored"
    monitor(place)
    assert told(place)["healthy"]
    # The producers stop, then the clock goes on.
    move(place, at(20))
    stopped = told(place, code=1)
    assert {"events", "features", "predictions", "labels"} <= set(stopped["late"])
    assert "late" in mlops(place, "health", place.name).output.splitlines()[0]


def test_what_was_never_begun_is_late_from_when_it_could_have_begun(tmp_path: Path) -> None:
    place = small_home(tmp_path)
    advance(place, at(2))
    clock = told(place)["clocks"]["feature_report"]
    assert (clock["late"], clock["said"]) == (False, "there is none yet")
    advance(place, at(5))
    assert "feature_report" in told(place, code=1)["late"]


def test_files_that_wait_and_events_that_nobody_scored_are_counted(place: PipelineHome) -> None:
    rows = Flights().rows("events", at(13), at(14))
    land(place, "events", "waits", rows)
    [file] = (place.landing_root / "events" / "2013-01-13").glob("waits.parquet")
    os.utime(file, (at(13).timestamp(), at(13).timestamp()))
    found = told(place)
    assert found["files_waiting"] == 1
    assert found["clocks"]["waiting"]["said"] == "files: 1 of events"
    move(place, at(14))
    assert "waiting" in told(place, code=1)["late"]
    serve(place)
    scored = place.lake.read("predictions", days=["2013-01-12"])
    place.lake.replace(
        "predictions", scored.slice(7), days=["2013-01-12"], sort_by=["decided_at", "event_id"],
        unhashed=["scored_at", "model_version", "examples_version"],
    )  # fmt: skip
    found = told(place, code=1)
    assert (found["unscored"], found["files_waiting"]) == (7, 0)
    assert "7 accepted events of closed days are unscored" in found["clocks"]["predictions"]["said"]


def test_a_landing_folder_that_is_gone_is_no_healthy_loop(place: PipelineHome) -> None:
    shutil.rmtree(place.path / "landing" / "weather")
    done = mlops(place, "health", place.name)
    assert done.exit_code == 1
    assert "landing/weather" in done.output


def test_a_retrain_in_flight_and_what_waits_are_told(place: PipelineHome) -> None:
    from mlops_pipelines import retraining

    ask(place, "why not")
    waiting = told(place)
    assert waiting["triggers_pending"] == {"manual": 1}
    assert "triggers that wait: 1 manual" in waiting["clocks"]["model"]["said"]
    admission = retraining.admit(place, run_id="r")
    assert admission.retrain is not None
    found = told(place)
    assert found["retrain_in_flight"] == admission.retrain.id
    assert found["clocks"]["retrain"]["said"] == f"{admission.retrain.id} is running"


def test_objectives_are_told_with_it(place: PipelineHome) -> None:
    declared = varied(place, slos=Slos.model_validate({"availability": {}, "quality": {"floor": -1.0}}))
    found = health_of(declared, with_cost=False)
    assert [one.name for one in found.slos] == ["availability", "quality"]
    text = render(found)
    assert "objectives\n  availability: 100% of " in text
    assert "runs that ended" not in text, "nobody asked Dagster"


def test_rows_are_read_of_the_newest_days_alone(place: PipelineHome, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, tuple[str, ...]]] = []
    reading = Lake.read

    def noted(lake: Lake, name: str, **options: Any) -> pa.Table:
        read.append((name, tuple(options["days"])))
        return reading(lake, name, **options)

    monkeypatch.setattr(Lake, "read", noted)
    health_of(place, with_cost=False)
    oldest = min(day for _, days in read for day in days)
    assert date.fromisoformat(oldest) >= date(2013, 1, 4), "a week of matured days"
    assert {name for name, _ in read} <= {"events", "labels", "feature_report", "performance_report"}


def test_a_home_that_lives_by_the_wall_clock_is_looked_at_too(tmp_path: Path) -> None:
    place = Home.create(tmp_path).pipeline(loaded())
    place.prepare()
    assert told(place)["healthy"]


def test_in_an_outage_no_report_is_late_for_days_without_events(place: PipelineHome) -> None:
    move(place, at(28))
    monitor(place)
    late = health_of(place, with_cost=False).ranking.late
    assert {"events", "labels"} <= {*late}
    assert not [name for name in late if name.endswith("_report")]


def test_the_first_line_says_what_is_open(place: PipelineHome) -> None:
    move(place, at(28))
    attend(place, [], None, NOW)
    head = mlops(place, "health", place.name).output.splitlines()[0]
    assert "; open incidents: 1 critical" in head
