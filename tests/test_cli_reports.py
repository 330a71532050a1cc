"""What the daily reports say, as people and machines ask."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from mlops_pipelines.cli_reports import served_by
from mlops_pipelines.monitoring.feedback_report import report_feedback
from mlops_pipelines.monitoring.reports import report_drift, report_performance
from tests.loop import advance, at, mlops, serving_home, small_home

if TYPE_CHECKING:
    from mlops_pipelines.home import PipelineHome


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> PipelineHome:
    """A home of twelve days whose champion is from the 8th, with its reports."""
    place = serving_home(tmp_path_factory.mktemp("lived"))
    advance(place, at(13))
    report_drift(place, [])
    report_performance(place, [])
    report_feedback(place, [])
    return place


def test_drift_of_the_last_day_is_told_with_what_decides_first(place: PipelineHome) -> None:
    rows = json.loads(mlops(place, "report", "drift", place.name, "--json").output)
    overall, first, *_ = rows
    assert {row["day"] for row in rows} == {"2013-01-12"}
    assert overall["feature"] == "*"
    counted = [row for row in rows[1:] if not row["broken"]]
    assert max(counted, key=lambda row: row["weight"] * row["excess"]) in (first, counted[0])
    told = mlops(place, "report", "drift", place.name, "--features", "1").output
    assert overall["sentence"] in told
    assert told.splitlines()[-1] == f"… and {len(rows) - 2} more: --features {len(rows) - 1}"


def test_drift_of_an_earlier_day_can_be_asked_for(place: PipelineHome) -> None:
    rows = json.loads(mlops(place, "report", "drift", place.name, "--day", "2013-01-09", "--json").output)
    assert {row["day"] for row in rows} == {"2013-01-09"}


def test_a_day_without_report_is_an_error_that_says_which_days_there_are(place: PipelineHome) -> None:
    done = mlops(place, "report", "drift", place.name, "--day", "2013-01-02")
    assert done.exit_code == 2
    assert "has no drift_report of 2013-01-02" in done.output
    assert "2013-01-08 to 2013-01-12" in done.output


def test_performance_is_told_by_day_with_the_estimate_where_labels_wait(place: PipelineHome) -> None:
    rows = json.loads(mlops(place, "report", "performance", place.name, "--json").output)
    assert [row["matured"] for row in rows if row["day"] >= "2013-01-10"] == [True, False, False]
    head, *days = mlops(place, "report", "performance", place.name, "--days", "3").output.splitlines()
    assert "log_loss_skill" in head
    assert [(line.split()[0], line.split()[4]) for line in days] == [
        ("2013-01-10", "yes"), ("2013-01-11", "no"), ("2013-01-12", "no")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("predictions", "said"),
    [({}, "–"), ({"3": 0}, "–"), ({"3": 20}, "v3"), ({"3": 30, "4": 90}, "v3 25%, v4 75%")],
)
def test_versions_that_share_a_day_are_told_with_their_shares(predictions: dict[str, int], said: str) -> None:
    rows = [{"model_version": version, "predictions": count} for version, count in predictions.items()]
    assert served_by(rows) == said


def test_the_audit_of_labels_is_told(place: PipelineHome) -> None:
    told = mlops(place, "report", "feedback", place.name).output
    found = json.loads(mlops(place, "report", "feedback", place.name, "--json").output)
    assert found["verdict"] in told
    assert found["sentence"] in told


@pytest.mark.parametrize("name", ["drift", "performance", "feedback"])
def test_before_there_is_a_report_it_is_said_who_makes_it(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = small_home(tmp_path_factory.mktemp("new"))
    done = mlops(place, "report", name, place.name)
    assert (done.exit_code, "the job monitor does that" in done.output) == (0, True)
    assert json.loads(mlops(place, "report", name, place.name, "--json").output) in ([], None)
