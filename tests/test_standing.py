"""Days that are right already are verified and left alone; others, and forced ones, are made again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mlops_pipelines import scoring
from mlops_pipelines.backfilling import made
from mlops_pipelines.component import build_definitions
from mlops_pipelines.lake import Lake
from mlops_pipelines.monitoring import feature_health, feedback_report, reports
from mlops_pipelines.pipelines.flight_delays.source import Flights
from mlops_pipelines.resources import HomeResource
from mlops_pipelines.standing import FORCE
from tests.loop import advance, at, copy_of, land, mlops, move, serve, serving_home, take_all
from tests.small_flights import loaded

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlops_pipelines.home import PipelineHome

    Step = Callable[..., Any]

LATE = Flights().rows("events", at(9), at(10)).slice(0, 5)["event_id"]
DAYS = ["2013-01-08", "2013-01-09", "2013-01-10"]
STEPS: dict[str, Step] = {
    "feature_tiles": scoring.make_tiles,
    "feature_report": feature_health.report_features,
    "drift_report": reports.report_drift,
    "performance_report": reports.report_performance,
    "feedback_report": feedback_report.report_feedback,
}
by_step = pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of twelve days whose champion is from the 8th; some events of the 9th never landed. All has
    been made and measured once."""
    home = tmp_path_factory.mktemp("lived")
    place = serving_home(home)
    advance(place, at(13), keep=lambda rows: rows.filter(pc.invert(pc.is_in(rows["event_id"], LATE))))
    for step in STEPS.values():
        step(place, DAYS, made_by="v1")
    return home


@pytest.fixture
def place(lived: Path, tmp_path: Path) -> PipelineHome:
    return copy_of(lived, tmp_path / "home")


@by_step
def test_a_day_that_is_right_is_left_alone_and_told_as_it_stands(place: PipelineHome, step: Step) -> None:
    again = step(place, DAYS, made_by="v1")
    assert again.right == DAYS
    assert [one.day for one in again.written] == DAYS
    assert not any(one.changed for one in again.written)
    assert all(one.rows and one.head for one in again.written)
    forced = step(place, DAYS, made_by="v1", force=True)
    assert forced.right == []
    assert [one.content_hash for one in forced.written] == [one.content_hash for one in again.written]


@pytest.mark.parametrize("name", ["drift_report", "performance_report", "feature_report", "feedback_report"])
def test_a_report_of_a_day_left_alone_says_all_that_it_said(place: PipelineHome, name: str) -> None:
    forced = STEPS[name](place, DAYS, made_by="v1", force=True)
    again = STEPS[name](place, DAYS, made_by="v1")
    assert again.right == DAYS
    for told in ("days", "features", "figures", "models", "by_day", "skew_sentence", "stale_sentence"):
        assert getattr(again, told, None) == getattr(forced, told, None)


@by_step
def test_another_definition_makes_a_day_again(place: PipelineHome, step: Step) -> None:
    assert step(place, DAYS, made_by="v2").right == []
    assert step(place, DAYS, made_by="v2").right == DAYS
    assert step(place, DAYS, made_by="v1").right == []


@by_step
def test_without_a_version_everything_that_is_asked_for_is_made(place: PipelineHome, step: Step) -> None:
    assert step(place, DAYS).right == []


@by_step
def test_days_that_late_facts_touched_are_made_again_and_others_are_not(
    place: PipelineHome, step: Step
) -> None:
    late = Flights().rows("events", at(9), at(10))
    land(place, "events", "late", late.filter(pc.is_in(late["event_id"], LATE)))
    serve(place)
    again = step(place, DAYS, made_by="v1")
    # A fresh store has what is late everywhere.
    everywhere = step is feature_health.report_features
    assert again.right == ([] if everywhere else ["2013-01-08", "2013-01-10"])
    assert step(place, DAYS, made_by="v1").right == DAYS


def test_a_day_that_somebody_altered_or_took_away_is_made_again(place: PipelineHome) -> None:
    table = place.lake.read(reports.DRIFT, days=[DAYS[0]])
    altered = table.set_column(
        table.schema.get_field_index("psi"), "psi", pa.nulls(table.num_rows, pa.float64())
    )
    before = place.lake.as_it_stands(
        reports.DRIFT, DAYS, sort_by=reports.DRIFT_ORDER, unhashed=reports.UNHASHED
    )
    place.lake.replace(
        reports.DRIFT, altered, days=DAYS[:1], sort_by=reports.DRIFT_ORDER, unhashed=reports.UNHASHED
    )
    place.lake.remove_days(reports.DRIFT, DAYS[1:2], {})
    again = reports.report_drift(place, DAYS, made_by="v1")
    assert again.right == DAYS[2:]
    assert [one.content_hash for one in again.written] == [one.content_hash for one in before]


def test_a_day_with_an_event_that_nobody_scores_is_reported_again(place: PipelineHome) -> None:
    event = Flights().rows("events", at(9), at(10)).slice(0, 1)
    strange = event.set_column(
        event.column_names.index("event_id"), "event_id", pa.array(["2013-01-08_9E9999_JFK"])
    )
    land(place, "events", "strange", strange)
    take_all(place)
    assert "2013-01-09" not in place.ledger.reopened_days(place.name, "monitor")
    again = reports.report_performance(place, DAYS, made_by="v1")
    assert again.right == [DAYS[0], DAYS[2]]
    assert reports.report_performance(place, DAYS, made_by="v1").right == DAYS


def test_a_day_reopened_while_it_was_made_is_not_right(
    place: PipelineHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_days = Lake.replace

    def overtaken(*arguments: Any, **named: Any) -> Any:
        place.ledger.reopen_days(place.name, DAYS[:1], "drift", place.clock.now())
        return replace_days(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Lake, "replace", overtaken)
        reports.report_drift(place, DAYS, made_by="v2")
    assert reports.report_drift(place, DAYS, made_by="v2").right == DAYS[1:]


def test_a_day_that_was_overwritten_by_what_had_been_read_before_is_not_right(
    place: PipelineHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_days = Lake.replace

    def overtaken(*arguments: Any, **named: Any) -> Any:
        """Another run finds the day reopened, makes it, and closes it."""
        monkeypatch.setattr(Lake, "replace", replace_days)
        place.ledger.reopen_days(place.name, DAYS[:1], "drift", place.clock.now())
        reports.report_drift(place, DAYS, made_by="v2")
        return replace_days(*arguments, **named)

    monkeypatch.setattr(Lake, "replace", overtaken)
    reports.report_drift(place, DAYS, made_by="v2")
    assert not place.ledger.reopened_days(place.name, "drift")
    assert reports.report_drift(place, DAYS, made_by="v2").right == DAYS[1:]


def test_a_backfill_of_what_is_right_recomputes_nothing_and_asks_for_no_retrain(place: PipelineHome) -> None:
    first, again, forced = (_backfill(place, force=force) for force in (None, None, "true"))
    assert set(again["made_again"].values()) == {0}
    assert {name for name, days in forced["made_again"].items() if days == len(DAYS)} == {*STEPS}
    assert set(again["changed"].values()) == set(forced["changed"].values()) == {0}
    for said in ("hashes", "versions", "triggers", "watermark", "predictions"):
        assert first[said] == again[said] == forced[said]


def _backfill(place: PipelineHome, force: str | None) -> dict[str, Any]:
    """A run of the job `backfill`: what it made, and what it left behind."""
    definitions = build_definitions(loaded(), HomeResource(path=str(place.home.path)))
    tags = {"dagster/asset_partition_range_start": DAYS[0], "dagster/asset_partition_range_end": DAYS[-1]}
    with dg.DagsterInstance.from_config(str(place.home.dagster)) as instance:
        done = definitions.resolve_job_def(f"{place.name}_backfill").execute_in_process(
            instance=instance, tags=tags | ({FORCE: force} if force else {}), raise_on_error=False
        )
        if not done.success:
            return {"failed": [event.step_key for event in done.all_events if event.is_step_failure]}
        told = {
            (one.asset_key.path[-1], one.partition): one
            for event in done.get_asset_materialization_events()
            if (one := event.step_materialization_data.materialization)
        }
    found = made(place, done.run_id)
    return {
        "made_again": {one.asset: one.made_again for one in found},
        "changed": {one.asset: one.changed for one in found},
        "hashes": {
            name: one.metadata["content_hash"].value for name, one in told.items() if name[0] != "quarantine"
        },
        "versions": {name: (one.tags or {}).get("dagster/data_version") for name, one in told.items()},
        "triggers": place.ledger.counts(place.name),
        "watermark": place.clock.now(),
        "predictions": place.lake.version("predictions"),
    }


def test_a_tag_that_is_neither_yes_nor_no_fails_the_step(place: PipelineHome) -> None:
    assert "small_flights__feature_tiles" in _backfill(place, force="maybe")["failed"]


@pytest.mark.parametrize(
    ("first", "last"),
    [("2012-12-31", "2013-01-03"), ("2013-01-05", "2013-01-04"), ("2013-01-05", "2014-02-01")],
)
def test_days_that_are_none_of_the_pipeline_are_refused(place: PipelineHome, first: str, last: str) -> None:
    move(place, at(20))
    done = mlops(place, "backfill", place.name, "--from", first, "--to", last)
    assert done.exit_code == 2
    assert f"{first} to {last} are no days of {place.name}" in done.output
