"""Runs that failed, as `mlops incidents` tells them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from mlops_pipelines import scoring
from mlops_pipelines.component import build_definitions
from mlops_pipelines.errors import TerminalError
from mlops_pipelines.failed_runs import checked_parity
from mlops_pipelines.resources import HomeResource
from tests.loop import mlops, small_home
from tests.small_flights import loaded

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_pipelines.home import PipelineHome

DAY = "2013-01-05"


@pytest.fixture
def place(tmp_path: Path) -> PipelineHome:
    return small_home(tmp_path)


def run(place: PipelineHome, job: str) -> bool:
    """Whether a run of a job on the home's own instance succeeded."""
    definitions = build_definitions(loaded(), HomeResource(path=str(place.home.path)))
    with dg.DagsterInstance.from_config(str(place.home.dagster)) as instance:
        done = definitions.resolve_job_def(f"{place.name}_{job}").execute_in_process(
            instance=instance, partition_key=DAY, raise_on_error=False
        )
    return done.success


def told(place: PipelineHome, *arguments: str) -> list[dict[str, Any]]:
    done = mlops(place, "incidents", place.name, *arguments, "--json")
    assert done.exit_code == 0, done.output
    found: list[dict[str, Any]] = json.loads(done.output)["failed_runs"]
    return found


def test_a_failed_run_is_told_with_its_cause_until_the_job_succeeds(
    place: PipelineHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no run has failed" in mlops(place, "incidents", place.name).output

    def broken(*_: object, **__: object) -> None:
        raise TerminalError("The disk is full.", expected="room", remedy="df -h")

    with monkeypatch.context() as patched:
        patched.setattr(scoring, "make_tiles", broken)
        assert not run(place, "score")
    [incident] = told(place)
    assert (incident["job"], incident["days"], incident["step"]) == (
        "score",
        DAY,
        "small_flights__feature_tiles",
    )
    assert (incident["cause"], incident["remedy"]) == ("The disk is full. Expected: room", "df -h")
    assert incident["over_by"] is None
    said = mlops(place, "incidents", place.name).output
    assert "small_flights__feature_tiles: The disk is full. Expected: room\n  Try: df -h\n" in said
    assert run(place, "score")
    assert told(place) == []
    [over] = told(place, "--all")
    assert over["over_by"]
    assert "over since run" in mlops(place, "incidents", place.name, "--all").output


def test_a_run_whose_process_was_lost_is_told_too(place: PipelineHome) -> None:
    definitions = build_definitions(loaded(), HomeResource(path=str(place.home.path)))
    job = definitions.resolve_job_def(f"{place.name}_retrain")
    with dg.DagsterInstance.from_config(str(place.home.dagster)) as instance:
        lost = instance.create_run_for_job(job)
        instance.report_run_failed(lost, "the run worker was killed")
    [incident] = told(place)
    assert (incident["job"], incident["step"], incident["cause"]) == (
        "retrain",
        "",
        "the run worker was killed",
    )
    assert lost.run_id in incident["remedy"]


def test_parity_that_is_only_planned_is_not_taken_for_checked(place: PipelineHome) -> None:
    definitions = build_definitions(loaded(), HomeResource(path=str(place.home.path)))
    job = definitions.resolve_job_def(f"{place.name}_monitor")
    with dg.DagsterInstance.from_config(str(place.home.dagster)) as instance:
        key = dg.AssetCheckKey(dg.AssetKey([place.name, "feature_report"]), "parity")
        instance.create_run_for_job(job)
        assert instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
        assert checked_parity(place, instance) is None


def test_a_home_whose_project_was_moved_says_how_it_gets_its_settings_back(
    place: PipelineHome, tmp_path: Path
) -> None:
    link = place.home.dagster / "dagster.yaml"
    link.unlink()
    link.symlink_to(tmp_path / "moved" / "dagster.yaml")
    done = mlops(place, "incidents", place.name)
    assert done.exit_code == 2
    assert "moved/dagster.yaml does not exist" in done.output
    assert "Try: mlops dev" in done.output
    place.home.link_settings()
    assert mlops(place, "incidents", place.name).exit_code == 0


def from_value(_: object) -> None:
    raise ValueError("could not convert 'Alice Smith'")


@pytest.mark.parametrize("wrapped", [True, False], ids=["quoted by the library", "as it was raised"])
def test_what_somebody_else_code_says_stays_on_this_machine(
    place: PipelineHome, monkeypatch: pytest.MonkeyPatch, wrapped: bool
) -> None:
    def broken(*_: object, **__: object) -> None:
        try:
            from_value(None)
        except ValueError as error:
            if not wrapped:
                raise
            raise TerminalError(f"The trainer failed: {error}") from error

    with monkeypatch.context() as patched:
        patched.setattr(scoring, "make_tiles", broken)
        assert not run(place, "score")
    told_here = json.loads(mlops(place, "incidents", place.name, "--json").output)
    assert "Alice Smith" in told_here["failed_runs"][0]["cause"]
    assert told_here["incidents"]
    assert "Alice" not in json.dumps(told_here["incidents"])
