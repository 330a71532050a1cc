"""Matured days are audited once, again when their labels are others; what is explored stands in the log."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import pyarrow.compute as pc
import pytest

from assets import monitoring
from assets.stage import Stage
from mlops_pipelines import status
from mlops_pipelines.monitoring import feedback_report, reports
from mlops_pipelines.monitoring.feedback import is_explored
from mlops_pipelines.monitoring.feedback_report import FEEDBACK, days_to_audit, report_feedback
from mlops_pipelines.pipelines.flight_delays.source import Flights
from mlops_pipelines.resources import HomeResource
from mlops_pipelines.spec import Exploration, SlicesGate
from tests import parcels
from tests.loop import (
    advance,
    at,
    check_reproduced,
    copy_of,
    land,
    retrain,
    serve,
    serving_home,
    small_home,
    varied,
)

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_pipelines.home import PipelineHome

# At the first moment of the 12th the days up to the 9th have matured (36 hours).
MATURED = ["2013-01-08", "2013-01-09"]
# Of flights that landed early on the 9th, most of them of the 8th.
UNKNOWN = Flights().rows("labels", at(9), at(10)).slice(0, 40)["event_id"]


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of eleven days whose champion is from the 8th; some labels never landed."""
    home = tmp_path_factory.mktemp("lived")
    place = serving_home(home)
    advance(
        place,
        at(12),
        keep=lambda rows: rows.filter(pc.invert(pc.is_in(rows["event_id"], UNKNOWN))),
        of="labels",
    )
    reports.report_performance(place, [])
    return home


@pytest.fixture
def place(lived: Path, tmp_path: Path) -> PipelineHome:
    """A copy of that home."""
    return copy_of(lived, tmp_path / "home")


def counted(place: PipelineHome, day: str) -> tuple[int, int]:
    """Rows of a day that were counted, and how many of these have a label."""
    rows = place.lake.read(FEEDBACK, days=[day])
    of_scores = rows.filter(pc.equal(rows["part"], "score"))
    return pc.sum(of_scores["rows"]).as_py(), pc.sum(of_scores["labelled"]).as_py()


def in_the_log(place: PipelineHome, day: str) -> tuple[int, int]:
    """Predictions of a day, and how many of their events have a label."""
    events = place.lake.read("predictions", days=[day])["event_id"]
    known = place.lake.read("labels", days=[day])["event_id"].unique()
    return len(events), pc.sum(pc.is_in(events, value_set=known)).as_py()


def test_days_wait_for_the_audit_once_they_have_matured(place: PipelineHome) -> None:
    assert [day for day in days_to_audit(place, at(12)) if day >= MATURED[0]] == MATURED
    report_feedback(place, [])
    assert days_to_audit(place, at(12)) == []


def test_every_scored_row_of_a_matured_day_is_counted(place: PipelineHome) -> None:
    made = report_feedback(place, [])
    assert [*made.by_day] == MATURED
    for day in MATURED:
        assert counted(place, day) == in_the_log(place, day)
    assert made.audited is not None
    assert made.audited.audit.verdict == "open"
    assert (made.audited.champion.mlflow_version, made.audited.audit.explored) == ("1", 0)
    assert made.audited.audit.rows == sum(in_the_log(place, day)[0] for day in MATURED)


def test_each_slice_of_the_gates_is_counted(place: PipelineHome) -> None:
    slices = SlicesGate.model_validate({"by": ["carrier", "origin"]})
    gates = place.spec.gates.model_copy(update={"slices": slices})
    made = report_feedback(varied(place, gates=gates), MATURED)
    assert made.audited is not None
    assert {one.name for one in made.audited.audit.slices} == {"carrier", "origin"}
    events = place.lake.read("events", days=MATURED[1:])
    jfk = pc.sum(pc.equal(events["origin"], "JFK")).as_py()
    [found] = [one for one in made.by_day[MATURED[1]] if (one.name, one.bucket) == ("origin", "JFK")]
    assert found.rows == jfk


def test_a_day_that_has_not_matured_is_not_audited(place: PipelineHome) -> None:
    made = report_feedback(place, ["2013-01-10", "2013-01-11"])
    assert {"2013-01-10", "2013-01-11"}.isdisjoint(made.by_day)


def test_a_home_without_a_champion_has_nothing_to_audit(tmp_path: Path) -> None:
    place = small_home(tmp_path)
    assert report_feedback(place, []).audited is None
    advance(place, at(5))
    reports.report_performance(place, [])
    made = report_feedback(place, ["2013-01-02"])
    assert (made.written, made.by_day, made.audited) == ([], {}, None)


def test_late_labels_have_their_day_audited_again(place: PipelineHome) -> None:
    report_feedback(place, [], made_by="v1")
    before = {day: counted(place, day) for day in MATURED}
    labels = Flights().rows("labels", at(9), at(10))
    late = labels.filter(pc.is_in(labels["event_id"], UNKNOWN))
    moved = pc.add(late["arrived_at"], timedelta(days=2))
    position = late.schema.get_field_index("arrived_at")
    land(place, "labels", "late", late.set_column(position, "arrived_at", moved))
    serve(place)
    assert days_to_audit(place, at(12)) == [], "their quality has to be judged first"
    reports.report_performance(place, [])
    touched = [day for day in days_to_audit(place, at(12)) if day in MATURED]
    assert touched
    again = report_feedback(place, MATURED, made_by="v1")
    assert again.right == [day for day in MATURED if day not in touched]
    for day in MATURED:
        (rows, labelled), (rows_before, labelled_before) = counted(place, day), before[day]
        assert (rows, labelled) == in_the_log(place, day)
        assert rows == rows_before
        assert (labelled > labelled_before) == (day in touched)


def run(place: PipelineHome, day: str, *assets: str) -> dg.ExecuteInProcessResult:
    chosen = [one for one in monitoring.build(Stage(place.loaded)) if one.key.path[-1] in assets]
    resources = {"home": HomeResource(path=str(place.home.path))}
    with dg.DagsterInstance.ephemeral() as instance:
        return dg.materialize(chosen, instance=instance, resources=resources, partition_key=day)


def test_a_run_makes_the_report_and_the_next_one_leaves_it_alone(place: PipelineHome) -> None:
    first, again = (run(place, MATURED[0], "performance_report", "feedback_report") for _ in range(2))
    node = f"{place.name}__feedback_report"
    told: list[dict[str, Any]] = []
    for done in (first, again):
        made = {one.partition: one.metadata for one in done.asset_materializations_for_node(node)}
        told.append({name: one.value for name, one in made[MATURED[0]].items()})
    assert [one["recomputed"] for one in told] == [True, False]
    assert told[0]["content_hash"] == told[1]["content_hash"]
    assert (told[0]["rows"], told[0]["labelled"]) == in_the_log(place, MATURED[0])
    assert "| v1 |" in told[0]["run_training_sets"]
    [check] = [
        one for one in first.get_asset_check_evaluations() if one.check_name == monitoring.CHECK_FEEDBACK
    ]
    assert check.passed
    assert check.metadata["model"].value == "v1"
    assert check.metadata["verdict"].value == "open"


def test_labels_of_flagged_events_alone_fail_the_check(tmp_path: Path, lived: Path) -> None:
    place = copy_of(lived, tmp_path / "home")
    flagged = place.lake.read("predictions")
    bound = pc.quantile(flagged["score"], 0.8)[0]
    flagged = flagged.filter(pc.greater(flagged["score"], bound))["event_id"].unique()
    labels = place.lake.read("labels", days=MATURED)
    kept = labels.filter(pc.is_in(labels["event_id"], value_set=flagged))
    place.lake.replace("labels", kept, days=MATURED, sort_by=["event_id"])
    done = run(place, MATURED[0], "feedback_report")
    [check] = done.get_asset_check_evaluations()
    assert done.success
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.metadata["verdict"].value in ("selective", "collapsing")


# Exploration


def explored_of(place: PipelineHome, days: list[str]) -> dict[str, bool | None]:
    rows = place.lake.read("predictions", days=days)
    return dict(zip(rows["event_id"].to_pylist(), rows["explored"].to_pylist(), strict=True))


def test_predictions_say_what_is_explored_only_where_it_is_declared(place: PipelineHome) -> None:
    assert "explored" not in place.lake.read("predictions").column_names
    assert all("explored" not in one for one in status.newest_predictions(place, 5))
    exploring = varied(place, exploration=Exploration(share=0.2))
    advance(exploring, at(15))
    reports.report_performance(exploring, [])
    found = explored_of(exploring, ["2013-01-13"])
    assert [*found.values()] == is_explored(found, 0.2, place.name)
    assert set(explored_of(exploring, MATURED).values()) == {None}, "they were scored before"
    assert all("explored" in one for one in status.newest_predictions(exploring, 5))
    made = report_feedback(exploring, MATURED)
    at_random = {
        day: sum(one.rows for one in buckets if one.part == "exploration")
        for day, buckets in made.by_day.items()
    }
    assert at_random[MATURED[0]] == 0
    assert at_random["2013-01-12"] == sum(map(bool, explored_of(exploring, ["2013-01-12"]).values())) > 0
    assert made.audited is not None
    assert 0 < made.audited.audit.explored <= sum(at_random.values())
    check_reproduced(exploring)


@pytest.mark.parametrize("kind", parcels.VALUES)
@pytest.mark.parametrize("explores", [True, False], ids=["explores", "does not"])
def test_labels_of_every_kind_are_audited(kind: str, explores: bool, tmp_path: Path) -> None:
    place = parcels.new_place(tmp_path, kind, **({"exploration": {"share": 0.3}} if explores else {}))
    parcels.advance(place, 10)
    assert retrain(place, "first").promotion
    parcels.advance(place, 20)
    assert ("explored" in place.lake.read("predictions").column_names) == explores
    reports.report_performance(place, [])
    made = report_feedback(place, [])
    days = [*made.by_day]
    assert days == [f"2024-01-{day:02d}" for day in range(11, 20)]
    for day in days:
        assert counted(place, day) == in_the_log(place, day)
    assert made.audited is not None
    assert made.audited.audit.verdict == "open"
    assert made.audited.audit.rows == sum(in_the_log(place, day)[0] for day in days)
    assert (made.audited.audit.explored > 0) == explores
    assert [one["model"] for one in feedback_report.entropies(place)] == ["v1"]
