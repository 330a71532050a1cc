"""What runs took, from Dagster's own store: by job and by retrain, of the span that is asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from mlops_pipelines.component import build_definitions
from mlops_pipelines.cost import Cost, cost_of
from mlops_pipelines.dagster_events import opened
from mlops_pipelines.resources import HomeResource
from tests.loop import advance, ask, at, small_home
from tests.small_flights import loaded

if TYPE_CHECKING:
    from mlops_pipelines.home import PipelineHome

DAY = "2013-01-05"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> PipelineHome:
    """A home with two runs that scored, one that retrained and one that was not admitted to."""
    place = small_home(tmp_path_factory.mktemp("home"))
    advance(place, at(10))
    ask(place, "cost")
    for job, day in (("score", DAY), ("score", DAY), ("retrain", None), ("retrain", None)):
        run(place, job, day)
    return place


def run(place: PipelineHome, job: str, day: str | None) -> None:
    definitions = build_definitions(loaded(), HomeResource(path=str(place.home.path)))
    with opened(place.home) as instance:
        done = definitions.resolve_job_def(f"{place.name}_{job}").execute_in_process(
            instance=instance, partition_key=day
        )
    assert done.success


def records(place: PipelineHome) -> list[dg.RunRecord]:
    with opened(place.home) as instance:
        return [*instance.get_run_records()]


def test_runs_are_added_up_by_job_and_by_retrain(place: PipelineHome) -> None:
    found = cost_of(place)
    took = {
        one.dagster_run.run_id: (one.dagster_run.job_name, (one.end_time or 0) - (one.start_time or 0))
        for one in records(place)
    }
    assert found.runs == {"score": 2, "retrain": 2}
    for job, seconds in found.seconds.items():
        mine = [time for name, time in took.values() if name == f"{place.name}_{job}"]
        assert seconds == pytest.approx(sum(mine))
        assert min(mine) > 0
    assert found.total == pytest.approx(sum(time for _, time in took.values()))
    # The run that was not admitted made nothing, and is of no retrain.
    [retrain] = place.ledger.retrains(place.name)
    assert found.retrains == {retrain.id: pytest.approx(took[retrain.run_id][1])}


def test_what_is_on_its_way_or_never_started_is_not_counted(place: PipelineHome) -> None:
    before = cost_of(place)
    definitions = build_definitions(loaded(), HomeResource(path=str(place.home.path)))
    with opened(place.home) as instance:
        job = definitions.resolve_job_def(f"{place.name}_monitor")
        instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
        instance.report_run_failed(instance.create_run_for_job(job), "it was never started")
    after = cost_of(place)
    assert (after.runs, after.seconds) == (before.runs, before.seconds)


def test_only_the_span_is_looked_at(place: PipelineHome, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    looked_up = dg.DagsterInstance.get_run_records

    def noted(*arguments: Any, **options: Any) -> Any:
        found = looked_up(*arguments, **options)
        read.append(len(found))
        return found

    monkeypatch.setattr(dg.DagsterInstance, "get_run_records", noted)
    ended = max(one.end_time or 0 for one in records(place) if one.start_time)
    read.clear()
    later = datetime.fromtimestamp(ended, UTC) + timedelta(days=7, minutes=5)
    assert cost_of(place, now=later) == Cost(later - timedelta(days=7))
    assert sum(read) == 0
    last = datetime.fromtimestamp(ended, UTC) + timedelta(hours=1)
    only = cost_of(place, timedelta(hours=1, milliseconds=1), now=last)
    assert only.runs == {"retrain": 1}, "ended just within the hour; the others before it"
