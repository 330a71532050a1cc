"""Closed days are measured once, days with new outcomes are judged again, and what persists asks once."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pyarrow.compute as pc
import pytest

from mlops_pipelines import retraining, triggering
from mlops_pipelines.errors import TerminalError
from mlops_pipelines.features.sets import feature_set
from mlops_pipelines.monitoring import reports
from mlops_pipelines.pipelines.flight_delays.source import Flights
from mlops_pipelines.spec import Gates, PerformanceTrigger
from tests import parcels
from tests.loop import advance, at, copy_of, land, retrain, serve, serving_home, varied

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from mlops_pipelines.home import PipelineHome
    from mlops_pipelines.ledger import Promotion

LATE = Flights().rows("events", at(9), at(10)).slice(0, 5)["event_id"]


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of ten days whose champion is from the 8th; some events of the 9th never landed."""
    home = tmp_path_factory.mktemp("lived")
    place = serving_home(home)
    advance(place, at(11), keep=lambda rows: rows.filter(pc.invert(pc.is_in(rows["event_id"], LATE))))
    return home


@pytest.fixture
def place(lived: Path, tmp_path: Path) -> PipelineHome:
    """A copy of that home."""
    return copy_of(lived, tmp_path / "home")


def champion_of(place: PipelineHome) -> Promotion:
    champion = place.ledger.champion(place.name)
    assert champion is not None
    return champion


def level(place: PipelineHome, day: str) -> str:
    """The finding of a day as a whole."""
    rows = place.lake.read("drift_report", days=[day], columns=["feature", "level"])
    return str(rows.filter(pc.equal(rows["feature"], reports.OVERALL))["level"][0].as_py())


SCORED = ["2013-01-08", "2013-01-09", "2013-01-10"]


def test_only_closed_days_wait_to_be_measured(place: PipelineHome) -> None:
    assert reports.days_to_measure(place, at(10)) == SCORED[:2]
    assert reports.days_to_measure(place, at(11)) == SCORED


def test_a_measured_day_waits_no_more_until_late_events_reopen_it(place: PipelineHome) -> None:
    reports.report_drift(place, SCORED)
    assert reports.days_to_measure(place, at(11)) == []
    rows = Flights().rows("events", at(9), at(10))
    land(place, "events", "late", rows.filter(pc.is_in(rows["event_id"], LATE)))
    serve(place)
    assert reports.days_to_measure(place, at(11)) == ["2013-01-09"]


def test_measuring_again_changes_nothing(place: PipelineHome) -> None:
    first = reports.report_drift(place, SCORED)
    version = place.lake.version("drift_report")
    again = reports.report_drift(place, SCORED)
    assert [one.content_hash for one in again.written] == [one.content_hash for one in first.written]
    assert place.lake.version("drift_report") == version


def test_each_feature_of_a_scored_day_is_measured_and_an_unscored_day_is_not(place: PipelineHome) -> None:
    reports.report_drift(place, ["2013-01-05", *SCORED])
    rows = place.lake.read("drift_report")
    assert sorted(set(rows["day"].to_pylist())) == SCORED
    measured = set(rows.filter(pc.equal(rows["day"], SCORED[0]))["feature"].to_pylist())
    features = {feature.name for feature in feature_set(place.spec, place.contract).columns}
    assert measured >= features | {reports.OVERALL}


def test_drift_that_persists_asks_once_for_each_champion(tmp_path: Path) -> None:
    def heavier(events: pa.Table) -> pa.Table:
        position = events.schema.get_field_index("weight")
        return events.set_column(position, "weight", pc.add(events["weight"], 2))

    # Days that differ by chance alone: a week of January is no measure for the week after it.
    place = parcels.new_place(tmp_path, "binary")
    parcels.advance(place, 10)
    assert retrain(place, "first").promotion
    parcels.advance(place, 14)
    parcels.advance(place, 15, changed=heavier)
    reports.report_drift(place, [])
    assert [level(place, f"2024-01-{day}") for day in range(11, 15)] == ["none"] * 4
    assert level(place, "2024-01-15") == "alarm"
    assert triggering.append(place, place.clock.now(), "drift") == [], "one day is no drift that persists"
    parcels.advance(place, 16, changed=heavier)
    reports.report_drift(place, [])
    assert len(triggering.append(place, place.clock.now(), "drift")) == 1
    assert triggering.append(place, place.clock.now(), "drift") == []
    (trigger,) = place.ledger.triggers(place.name, "pending")
    assert trigger.evidence["days"] == ["2024-01-15", "2024-01-16"]


def test_days_before_the_champion_are_reported_as_unscored(place: PipelineHome) -> None:
    made = reports.report_performance(place, ["2013-01-03", "2013-01-08"])
    (before,), (after,) = made.models["2013-01-03"], made.models["2013-01-08"]
    assert (before["model"], before["note"]) == ("–", "no champion has scored this day")
    assert after["model"] == f"v{champion_of(place).mlflow_version}"
    assert after["labelled scores"] == made.figures["2013-01-08"]["labelled"] > 0
    figures = made.figures["2013-01-03"]
    assert (figures["labelled"], figures["matured"], figures["overdue"]) == (0, True, 16)
    # Flights of that day landed within hours.
    assert 1 < figures["delay_median"] < figures["delay_p99"] < 12
    assert {*made.pictures} == {"skill_by_day", "labels_by_age"}


def test_a_judged_day_is_judged_again_when_it_has_matured(place: PipelineHome) -> None:
    reports.report_performance(place, SCORED)
    waiting = reports.days_to_judge(place, at(11))
    assert waiting == []
    assert reports.days_to_judge(place, at(14)) == ["2013-01-09", "2013-01-10"]


def test_new_labels_reopen_their_day_alone(place: PipelineHome) -> None:
    reports.report_performance(place, [f"2013-01-{day:02}" for day in range(1, 11)])
    labels = Flights().rows("labels", at(9), at(10)).slice(0, 1)
    position = labels.schema.get_field_index("arrived_at")
    moved = labels.set_column(position, "arrived_at", pc.add(labels["arrived_at"], timedelta(days=1)))
    moved = moved.set_column(labels.schema.get_field_index("late"), "late", pc.invert(labels["late"]))
    land(place, "labels", "correction", moved)
    serve(place)
    events = place.lake.read("events", columns=["event_id", "day"])
    day = events.filter(pc.equal(events["event_id"], moved["event_id"][0]))["day"][0].as_py()
    assert reports.days_to_judge(place, at(11)) == [day]


def test_quality_that_held_asks_for_nothing(place: PipelineHome) -> None:
    advance(place, at(18))
    reports.report_performance(place, [])
    assert triggering.append(watching(place), at(18), "performance") == []


def test_a_sure_fall_in_quality_asks_once_and_again_only_for_days_that_no_candidate_has_seen(
    place: PipelineHome,
) -> None:
    watched = watching(place)
    advance(place, at(15))
    worthless(place)
    assert len(triggering.append(watched, at(15), "performance")) == 1
    assert triggering.append(watched, at(15), "performance") == []
    assert retrain(strict(place), "second").promotion is None
    assert triggering.append(watched, at(15), "performance") == []
    advance(place, at(22))
    worthless(place)
    assert len(triggering.append(watched, at(22), "performance")) == 1


def watching(place: PipelineHome) -> PipelineHome:
    """The same pipeline with a trigger on quality."""
    triggers = place.spec.triggers.model_copy(
        update={"performance": PerformanceTrigger.model_validate({"drop": 0.1, "over": "6d"})}
    )
    return varied(place, triggers=triggers)


def strict(place: PipelineHome) -> PipelineHome:
    """The same pipeline with a gate that nothing passes."""
    return varied(
        place, gates=Gates.model_validate({"skill": {"metric": "log_loss_skill", "at_least": 0.99}})
    )


def worthless(place: PipelineHome) -> None:
    """Judge what there is, then let the reports say that every score was worth nothing."""
    reports.report_performance(place, [])
    rows = place.lake.read("performance_report")
    loss = pc.if_else(pc.is_valid(rows["log_loss"]), 1.0, rows["log_loss"])
    bad = rows.set_column(rows.schema.get_field_index("log_loss"), "log_loss", loss)
    surprise = pc.subtract(loss, rows["expected"])
    bad = bad.set_column(bad.schema.get_field_index("surprise"), "surprise", surprise)
    place.lake.replace(
        "performance_report", bad, days=sorted(set(bad["day"].to_pylist())), sort_by=["model_hash"]
    )


def test_an_estimate_rests_on_days_that_had_matured_when_its_day_closed(place: PipelineHome) -> None:
    advance(place, at(15))
    reports.report_performance(place, [])
    rows = place.lake.read("performance_report", columns=["day", "estimate_days"]).to_pylist()
    rests_on = {row["day"]: row["estimate_days"] for row in rows}
    # A day has matured 36 hours after its end; those before the 8th have no scores.
    assert [rests_on[f"2013-01-{day:02}"] for day in (8, 9, 10, 11, 12)] == [0, 0, 1, 2, 3]


def test_no_page_is_drawn_of_a_few_rows(place: PipelineHome, monkeypatch: pytest.MonkeyPatch) -> None:
    # The 13th is a Sunday, for which one is drawn.
    advance(place, at(14))
    assert reports.report_drift(place, []).page
    monkeypatch.setattr(reports, "PAGE_ROWS", 10_000)
    assert reports.report_drift(place, ["2013-01-13"], force=True).page is None


def test_a_day_whose_figures_are_no_numbers_judges_no_other() -> None:
    day = {"matured": True, "surprise": 0.1, "slope_gap": 0.2}
    assert reports._is_judged(day)
    for figure in ("surprise", "slope_gap"):
        assert not reports._is_judged(day | {figure: float("nan")})
        assert not reports._is_judged(day | {figure: None})


def test_a_reference_that_is_gone_is_told_as_such(
    place: PipelineHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = retraining.model_of
    monkeypatch.setattr(retraining, "model_of", lambda *of: replace(found(*of), files={}))
    with pytest.raises(
        TerminalError, match=r"has no drift_reference\.json in the registry any more"
    ) as error:
        reports.report_drift(place, [])
    assert "mlops restore" in str(error.value)
