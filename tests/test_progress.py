"""What is said of a replay, and the figures of a status, from a home of a few days."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from mlops_pipelines.monitoring.performance import maturity
from mlops_pipelines.progress import _line, _summarize
from mlops_pipelines.replay import Replayed
from mlops_pipelines.status import status_of
from tests.loop import advance, ask, at, small_home

if TYPE_CHECKING:
    from mlops_pipelines.home import PipelineHome


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> PipelineHome:
    """Four days of flights, labelled or past due up to the second."""
    made = small_home(
        tmp_path_factory.mktemp("a home with a long name, so that a line that names it is too long")
    )
    advance(made, at(5))
    return made


def test_maturity_is_that_of_all_events_whatever_days_are_read(place: PipelineHome) -> None:
    events = place.lake.read("events", columns=["day", "event_id", "event_time"])
    labels = place.lake.read("labels", columns=["event_id", "known_at"])
    days = maturity(events, labels, place.clock.now(), place.spec.labels.matures_after)
    share = sum(day.labelled + day.overdue for day in days) / events.num_rows
    assert 0.5 < share < 1
    assert status_of(place)["labels"]["maturity"] == pytest.approx(share)
    place.ledger.begin_advance(at(9))
    place.ledger.finish_advance()
    assert status_of(place)["labels"]["maturity"] == 1


def test_the_line_of_a_step_counts_retrains_and_names_the_last(place: PipelineHome) -> None:
    assert "retrains  0" in _line(place, place.clock.now())
    ask(place, "a reason")
    place.ledger.admit(
        place.name, now=place.clock.now(), policy=place.spec.policy, run_id="run", data_mark="d"
    )
    line = _line(place, place.clock.now())
    assert "retrains  1" in line
    assert line.endswith("last: manual → running")


def test_a_gate_that_warned_is_told(place: PipelineHome) -> None:
    now = place.clock.now()
    if place.ledger.in_flight(place.name) is None:
        ask(place, "another reason")
        place.ledger.admit(place.name, now=now, policy=place.spec.policy, run_id="run", data_mark="d")
    retrain = place.ledger.in_flight(place.name)
    assert retrain
    verdict = {"gate": "champion", "outcome": "warn", "figure": 0.1, "bound": 0.0, "interval": None,
               "sentence": "too little to judge by"}  # fmt: skip
    place.ledger.record_candidate(
        retrain.id, retrain.token, dataset_version="d", model_hash="h", mlflow_version="1",
        mlflow_run_id="m", cutoff=now, matured_rows=1,
    )  # fmt: skip
    place.ledger.record_verdicts(retrain.id, retrain.token, [verdict], now)
    said = io.StringIO()
    _summarize(place, Replayed(at(1), at(5), new_events=1, runs=1), Console(file=said), as_json=False)
    assert "warn  champion" in said.getvalue()


def test_no_line_of_the_summary_is_wrapped(place: PipelineHome) -> None:
    said = io.StringIO()
    _summarize(
        place, Replayed(at(1), at(5), new_events=3000, runs=4), Console(file=said, width=40), as_json=False
    )
    last = said.getvalue().splitlines()[-1]
    assert last.startswith("3,000 new events, 4 runs; the clock of ")
    assert last.endswith(f"{place.home.path} stands at 2013-01-05 00:00 UTC.")
