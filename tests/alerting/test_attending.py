"""What a pipeline's monitors find, from the data to the message."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mlops_pipelines.alerting import attending
from mlops_pipelines.alerting.attending import UNLOOKED, as_they_stand, attend, deliver
from mlops_pipelines.alerting.monitors import STOPPED_AFTER, CheckedParity, FailedRun, look
from mlops_pipelines.alerting.notices import MASKED
from mlops_pipelines.clock import FixedClock
from mlops_pipelines.errors import TerminalError, TransientError
from mlops_pipelines.home import PipelineHome
from mlops_pipelines.ingest import taking
from mlops_pipelines.ledger import Look
from mlops_pipelines.monitoring import feature_health, feedback_report, reports
from mlops_pipelines.monitoring.feedback import Audit, Counted
from mlops_pipelines.pipelines.flight_delays.source import Flights
from mlops_pipelines.spec import Alerts, DriftTrigger, Sink, Triggers
from tests.alerting.injected import emptied, renamed
from tests.loop import (
    advance,
    at,
    copy_of,
    land,
    mlops,
    move,
    serving_home,
    small_home,
    take_all,
    varied,
)

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_pipelines.alerting.lifecycle import Change

WALL = FixedClock(datetime(2026, 1, 1, tzinfo=UTC))
FAILED = FailedRun(
    "run1", "monitor", WALL.now(), "2013-01-09", "drift_report", "The disk is full.", "df -h", None
)


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of ten days whose champion is from the 8th, all measured."""
    home = tmp_path_factory.mktemp("lived")
    place = serving_home(home)
    advance(place, at(10))
    measure(place)
    return home


@pytest.fixture
def place(lived: Path, tmp_path: Path) -> PipelineHome:
    return copy_of(lived, tmp_path / "home")


def measure(place: PipelineHome) -> None:
    for report in (
        feature_health.report_features,
        reports.report_drift,
        reports.report_performance,
        feedback_report.report_feedback,
    ):
        report(place, [])


def told(place: PipelineHome, *failed: FailedRun, parity: CheckedParity | None = None) -> list[Change]:
    changes = attend(place, failed, parity, WALL.now())
    assert deliver(place, WALL) == []
    return changes


def lines(place: PipelineHome) -> list[dict[str, Any]]:
    path = place.home.path / "alerts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_home_that_is_well_has_no_incident(place: PipelineHome) -> None:
    assert told(place) == []
    look_at = place.ledger.last_look(place.name)
    assert look_at
    assert (look_at.at, look_at.wall_at) == (at(10), WALL.now())
    assert not (place.home.path / "alerts.jsonl").exists()
    assert (
        "has no incident that is open, and no run has failed" in mlops(place, "incidents", place.name).output
    )


def test_a_null_burst_is_one_incident_until_the_next_day_is_right(place: PipelineHome) -> None:
    advance(place, at(11), keep=lambda rows: emptied(rows) if "tailnum" in rows.column_names else rows)
    measure(place)
    [opened] = told(place)
    one = opened.incident
    assert (opened.event, one.kind, one.subject) == ("opened", "inputs_broken", "events.tailnum")
    assert one.evidence["features"] == sorted(one.evidence["features"])
    assert len(one.evidence["features"]) > 5
    assert told(place) == []
    [line] = lines(place)
    assert (line["event"], line["triage"], line["severity"]) == ("opened", "data", "warning")
    advance(place, at(12))
    measure(place)
    assert [change.event for change in told(place)] == ["resolved"]
    assert [line["event"] for line in lines(place)] == ["opened", "resolved"]


def test_a_day_is_measured_whose_foremost_features_have_no_value(
    place: PipelineHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "PAGE_FEATURES", 3)
    advance(place, at(11), keep=lambda rows: emptied(rows) if "tailnum" in rows.column_names else rows)
    made = reports.report_drift(place, [])
    assert made.page
    assert not {*made.page.indices} & {"plane_manufacturer_last", "plane_seats_last", "plane_year_last"}


def test_refused_files_are_an_incident_until_they_are_mended(place: PipelineHome) -> None:
    rows = Flights().rows("events", at(10), at(11))
    move(place, at(11))
    land(place, "events", "events.parquet", renamed(rows))
    taking.register_landed(place)
    take_all(place)
    [opened] = told(place)
    one = opened.incident
    assert (one.kind, one.subject, one.severity, one.triage) == (
        "refused_files",
        "events",
        "critical",
        "data",
    )
    land(place, "events", "events.parquet", rows)
    taking.register_landed(place)
    take_all(place)
    assert [change.event for change in told(place)] == ["resolved"]


def test_a_failed_run_and_what_it_left_are_one_incident(place: PipelineHome) -> None:
    advance(place, at(11))
    move(place, at(14))
    changes = told(place, FAILED)
    [run] = [one.incident for one in changes if one.incident.kind == "run_failed"]
    assert run.severity == "warning"
    assert run.subject == "drift_report"
    assert any("monitor has left" in symptom for symptom in run.symptoms)
    assert "stage_stopped" not in {one.incident.kind for one in changes}
    # Without the failure the monitor itself has stopped.
    found = {one.kind for one in as_they_stand(place, [], None)}
    assert "stage_stopped" in found
    assert "run_failed" not in found
    # Nothing is put down by whoever only asks.
    assert "run_failed" in {one.kind for one in place.ledger.incidents(place.name)}


def test_what_was_resolved_long_ago_is_told_to_whoever_asks_for_all(place: PipelineHome) -> None:
    [opened] = told(place, parity=CheckedParity(holds=False, sentence="3 vectors differ"))
    move(place, at(13))
    advance(place, at(14))
    told(place)
    move(place, at(28) + timedelta(days=60))
    assert opened.incident.id not in {one.id for one in as_they_stand(place, [], None)}
    [found] = [one for one in as_they_stand(place, [], None, past=True) if one.id == opened.incident.id]
    assert found.resolved_at
    assert found.id in mlops(place, "incidents", place.name, "--all").output


def sensitive(place: PipelineHome, column: str) -> PipelineHome:
    """The pipeline with a column of its events marked as sensitive."""
    rules = place.contract.events
    columns = rules.columns | {column: rules.columns[column].model_copy(update={"sensitive": True})}
    contract = place.contract.model_copy(update={"events": rules.model_copy(update={"columns": columns})})
    return PipelineHome(place.home, replace(place.loaded, contract=contract))


def test_what_is_told_of_a_sensitive_column_is_masked_on_its_way_out(place: PipelineHome) -> None:
    place = sensitive(place, "tailnum")
    advance(place, at(11), keep=lambda rows: emptied(rows) if "tailnum" in rows.column_names else rows)
    measure(place)
    [opened] = told(place)
    seen = replace(opened.incident, title="N123AA is new", evidence={"example": "N123AA", "rows": 4})
    notice = attending._notice(place, "opened", seen, at(11))
    assert (notice.title, notice.evidence) == (f"{MASKED} is new", {"example": MASKED, "rows": 4})


@pytest.mark.parametrize("hidden", [True, False])
def test_an_audit_names_classes_only_of_labels_that_may_be_told(
    place: PipelineHome, monkeypatch: pytest.MonkeyPatch, hidden: bool
) -> None:
    champion = place.ledger.champion(place.name)
    assert champion
    blank = Counted("score", "", "0", 1000, 10)
    audit = Audit("selective", "1% of Alice's got a label", 1000, 10, blank, blank, 0.9, 0.9, 0, ())
    monkeypatch.setattr(feedback_report, "audit_of", lambda _: feedback_report.Audited(champion, audit))
    if hidden:
        rules = place.contract.labels
        name = place.spec.labels.value
        columns = rules.columns | {name: rules.columns[name].model_copy(update={"sensitive": True})}
        contract = place.contract.model_copy(update={"labels": rules.model_copy(update={"columns": columns})})
        place = PipelineHome(place.home, replace(place.loaded, contract=contract))
    [one] = [one for one in look(place, at(10)).findings if one.kind == "feedback"]
    assert ("Alice" in one.title) is not hidden


@pytest.mark.parametrize("skew", [0.9, 0.0])
def test_skew_beyond_what_is_asked_for_is_told_by_its_source(place: PipelineHome, skew: float) -> None:
    day = place.lake.days("feature_report")[-1]
    rows = place.lake.read("feature_report", days=[day]).to_pylist()
    for row in rows:
        row["skew"] = skew if row["feature"].startswith("origin_weather") else 0.0
    table = reports.table_of(rows, feature_health.COLUMNS)
    place.lake.replace("feature_report", table, days=[day], sort_by=["view", "version", "feature"])
    found = [one for one in look(place, at(10)).findings if one.kind == "skew"]
    assert [(one.subject, one.evidence["worst"]) for one in found] == ([("weather", 0.9)] if skew else [])


@pytest.mark.parametrize(
    ("kind", "made_by", "found"),
    [
        ("quality", ("performance", "quality_drop_of"), {"below_floor": True, "value": -0.2}),
        ("score_drift", ("prediction_drift", "persistent_score_drift"), {}),
    ],
)
def test_what_asks_for_a_retrain_is_told_as_well(
    place: PipelineHome,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    made_by: tuple[str, str],
    found: Any,
) -> None:
    trigger, asked = made_by
    triggers = Triggers.model_validate({"performance": {"drop": 0.05}, "prediction_drift": {}})
    place = varied(place, triggers=triggers)
    evidence = {"days": ["2013-01-09"], "finding": "it moved", **found}
    monkeypatch.setattr(reports, asked, lambda *_: evidence)
    [one] = [one for one in look(place, at(10)).findings if one.kind == kind]
    assert "it moved" in one.title
    assert one.severity == ("critical" if found else "warning")
    monkeypatch.setattr(reports, asked, lambda *_: None)
    assert kind not in {one.kind for one in look(place, at(10)).findings}
    without = varied(place, triggers=triggers.model_copy(update={trigger: None}))
    monkeypatch.setattr(reports, asked, lambda *_: evidence)
    assert kind not in {one.kind for one in look(without, at(10)).findings}


@pytest.mark.parametrize(
    ("broken", "strange", "fault"),
    [
        ("range", 0.5, False),
        ("range", 0.95, True),
        ("missing", 0.0, True),
        ("category", 0.1, True),
        ("", 1.0, False),
    ],
)
def test_a_season_that_leaves_the_range_is_no_fault_of_the_data(
    place: PipelineHome, broken: str, strange: float, fault: bool
) -> None:
    day = place.lake.days("drift_report")[-1]
    rows = place.lake.read("drift_report", days=[day]).to_pylist()
    for row in rows:
        mine = row["feature"] == "distance"
        row |= {"broken": broken if mine else "", "strange": strange, "breaks": "it broke" if mine else ""}
    table = reports.table_of(rows, reports.DRIFT_COLUMNS)
    place.lake.replace("drift_report", table, days=[day], sort_by=["feature"])
    found = [one for one in look(place, at(10)).findings if one.kind == "inputs_broken"]
    assert bool(found) is fault


def test_broken_parity_is_critical(place: PipelineHome) -> None:
    [opened] = told(place, parity=CheckedParity(holds=False, sentence="3 vectors differ"))
    assert (opened.incident.kind, opened.incident.severity) == ("parity", "critical")


@pytest.mark.parametrize("error", [TerminalError("The reference is gone."), KeyError("weight")])
def test_a_monitor_that_cannot_look_is_a_finding_and_resolves_nothing(
    place: PipelineHome, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def gone(*_: object) -> None:
        raise error

    monkeypatch.setattr(reports, "drift_lately", gone)
    found = look(place, at(10))
    assert set(found.unlooked) == {"drift"}
    [one] = found.findings
    assert (one.kind, one.subject, one.evidence) == ("stage_stopped", "monitors", {"kinds": ["drift"]})
    assert "weight" not in one.title
    told(place)
    last = place.ledger.last_look(place.name)
    assert last == Look(at(10), WALL.now(), f"{UNLOOKED}{WALL.now().isoformat()}")


def test_a_ledger_that_is_busy_is_no_incident_and_looked_at_again(
    place: PipelineHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object) -> None:
        raise TransientError("The ledger is busy.")

    monkeypatch.setattr(reports, "drift_lately", busy)
    found = look(place, at(10))
    assert (set(found.unlooked), found.findings) == ({"drift"}, ())
    # It is one when it has not passed by itself.
    assert attend(place, [], None, WALL.now()) == []
    assert attend(place, [], None, WALL.now() + STOPPED_AFTER) == []
    [change] = attend(place, [], None, WALL.now() + STOPPED_AFTER + timedelta(minutes=1))
    assert (change.incident.kind, change.incident.subject) == ("stage_stopped", "monitors")
    monkeypatch.undo()
    [over] = attend(place, [], None, WALL.now() + 2 * STOPPED_AFTER)
    assert (over.event, over.incident.id) == ("resolved", change.incident.id)


def test_a_replay_wakes_nobody(place: PipelineHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", "http://127.0.0.1:9/none")
    sinks = (Sink.model_validate({"webhook": {"url_env": "HOOK"}}), Sink(file="alerts.jsonl"))
    of = varied(place, alerts=Alerts(sinks=sinks))
    [_] = told(of, parity=CheckedParity(holds=False, sentence="3 vectors differ"))
    assert place.ledger.claim_deliveries(place.name, WALL.now() + timedelta(days=1), timedelta(0), 9) == []
    assert len(lines(place)) == 1


def test_a_sink_that_is_away_is_tried_again_and_holds_up_no_other(
    place: PipelineHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place.home.path / "alerts.jsonl").mkdir()
    attend(place, [FAILED], None, WALL.now())
    [problem] = deliver(place, WALL)
    assert "alerts.jsonl" in problem
    assert "alerts.jsonl" in place.ledger.undelivered(place.name)["file alerts.jsonl"]


def test_no_events_for_long_are_one_incident(place: PipelineHome) -> None:
    """Of two arrivals nothing is usual but a week: twice as long is not."""
    move(place, at(25))
    measure(place)
    [events] = [one.incident for one in told(place)]
    assert (events.kind, events.severity) == ("events_missing", "critical")
    assert events.evidence == {"newest": "2013-01-08", "gap_days": 17, "usual_gap_days": 7}
    assert any(symptom.startswith("No label has arrived") for symptom in events.symptoms)


def test_labels_that_never_come_are_an_incident(tmp_path: Path) -> None:
    new = small_home(tmp_path)
    advance(new, at(5), keep=lambda rows: rows.slice(0, 0), of="labels")
    [one] = [one for one in look(new, at(5)).findings if one.kind == "labels_missing"]
    assert (one.severity, one.title.rpartition("; ")[2]) == ("critical", "none ever came")


def test_labels_of_a_day_that_stay_away_are_told_for_a_week(place: PipelineHome) -> None:
    advance(place, at(11), keep=lambda rows: rows.slice(0, rows.num_rows // 8), of="labels")
    for day in (12, 13, 14, 15):
        advance(place, at(day))
    for now in (13, 15):
        [one] = [one for one in look(place, at(now)).findings if one.kind == "labels_missing"]
        assert one.title.startswith("22% of the events of 2013-01-10 have a label")
    assert not [one for one in look(place, at(20)).findings if "2013-01-10" in one.title]


def test_corrections_do_not_stand_for_labels_that_are_missing(place: PipelineHome) -> None:
    def corrected(rows: pa.Table) -> pa.Table:
        few = rows.slice(0, 2 * rows.num_rows // 5)
        later = pc.add(few["arrived_at"], pa.scalar(timedelta(minutes=5)))
        at_column = few.schema.get_field_index("arrived_at")
        again = few.set_column(at_column, few.schema.field(at_column), later)
        late = pc.invert(few["late"])
        return pa.concat_tables([few, again.set_column(2, few.schema.field(2), late)])

    advance(place, at(11), keep=corrected, of="labels")
    advance(place, at(12))
    advance(place, at(13))
    assert place.lake.row_counts("labels")["2013-01-10"] > 0.5 * place.lake.row_counts("events")["2013-01-10"]
    [one] = [one for one in look(place, at(13)).findings if one.kind == "labels_missing"]
    assert one.evidence["labels"] < 0.45 * one.evidence["events"]


def test_drift_is_told_by_a_day_that_drifted(place: PipelineHome) -> None:
    champion = place.ledger.champion(place.name)
    assert champion
    days = [
        {"day": f"2013-01-0{n}", "level": level, "sentence": f"the {n}th"}
        for n, level in enumerate(("alarm", "alarm", "none"), start=1)
    ]
    found = reports.persistent_drift(champion, DriftTrigger(), days)
    assert found
    assert (found["finding"], found["days"]) == ("the 2th", ["2013-01-01", "2013-01-02"])


def test_what_an_error_of_a_library_says_is_not_told(place: PipelineHome) -> None:
    theirs = replace(FAILED, cause="Could not convert 'Alice Smith' to DOUBLE", ours=False)
    [run] = [one.incident for one in told(place, theirs)]
    assert "Alice" not in json.dumps(run.to_json())


def test_events_that_are_not_scored_stop_the_loop(place: PipelineHome) -> None:
    """Whatever says that their day is done."""
    assert "2013-01-09" in place.lake.row_counts("predictions")
    place.lake.remove_days("predictions", ["2013-01-09"], {})
    found = [one for one in look(place, at(12)).findings if one.kind == "stage_stopped"]
    assert ("score", ["decisions: 1 days"]) in [(one.subject, one.evidence["waiting"]) for one in found]


def test_an_empty_home_is_looked_at(tmp_path: Path) -> None:
    new = small_home(tmp_path)
    assert look(new, at(1)).findings == ()
