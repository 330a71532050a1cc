"""A replay ends the same wherever it was killed, and whatever the size of its steps."""

from __future__ import annotations

import shutil
from datetime import date, timedelta
from signal import SIGINT, SIGKILL
from typing import TYPE_CHECKING, Any

import pytest

from mlops_pipelines.home import Home
from tests.loop import copy_of
from tests.replays import Kill, fingerprint, replay
from tests.small_flights import NAME

if TYPE_CHECKING:
    from pathlib import Path

UNTIL = date(2013, 1, 14)
STEP = timedelta(days=7)
LEDGER = "mlops_pipelines.ledger:Ledger"
LAKE = "mlops_pipelines.lake:Lake"
REGISTRY = "mlops_pipelines.registry:Registry"
DATASETS = "mlops_pipelines.datasets:DatasetRegistry"
SOURCE = "mlops_pipelines.pipelines.flight_delays.source:Flights"

# Every durable step of the loop, before or after it; the first three also run in the fast suite.
KILLS = [
    Kill(LAKE, "_commit", nth=7),
    Kill(REGISTRY, "set_alias", nth=1),
    Kill(LEDGER, "record_verdicts", nth=1, after=True),
    Kill(LEDGER, "begin_advance", nth=2, after=True),
    Kill(SOURCE, "write", nth=2, after=True),
    Kill(LEDGER, "finish_advance", nth=2, after=True),
    Kill(LEDGER, "register_files", nth=6, after=True),
    Kill(LEDGER, "reopen_days", nth=3, after=True),
    Kill(LAKE, "_commit", nth=1, after=True),
    Kill(LAKE, "_commit", nth=12, after=True),
    Kill(LAKE, "_commit", nth=20),
    Kill(LEDGER, "finish_files", nth=3),
    Kill(LEDGER, "finish_files", nth=8, after=True),
    Kill(LEDGER, "close_days", nth=2),
    Kill(LEDGER, "close_days", nth=5),
    Kill(LEDGER, "close_days", nth=12, after=True),
    Kill(LEDGER, "close_days", nth=13),
    Kill(LEDGER, "close_days", nth=13, after=True),
    Kill(LEDGER, "append_trigger", nth=1, after=True),
    Kill(LEDGER, "append_trigger", nth=2),
    Kill(LEDGER, "append_trigger", nth=3, after=True),
    Kill(LEDGER, "admit", nth=1, after=True),
    Kill(DATASETS, "_git", nth=12),
    Kill(DATASETS, "_git", nth=13),
    Kill(LEDGER, "record_training_set", nth=1),
    Kill(REGISTRY, "_register", nth=1),
    Kill(REGISTRY, "log_candidate", nth=1, after=True),
    Kill(LEDGER, "record_candidate", nth=1, after=True),
    Kill(REGISTRY, "log_evaluation", nth=1),
    Kill(LEDGER, "promote", nth=1),
    Kill(LEDGER, "promote", nth=1, after=True),
    Kill(REGISTRY, "set_alias", nth=3, after=True),
    Kill(LEDGER, "finish_retrain", nth=1),
    Kill(LEDGER, "finish_retrain", nth=1, after=True),
]
FAST = 1


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose stores are made, which takes seconds, and whose first step is not: to be copied."""
    home = tmp_path_factory.mktemp("begun") / "home"
    assert replay(home, UNTIL, STEP, Kill(LEDGER, "begin_advance")) == -9
    assert Home.open(home).registry.alias(NAME, "champion") is None
    return home


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("undisturbed")
    assert replay(home, UNTIL, STEP) == 0
    return fingerprint(home)


def test_a_replay_promotes_and_scores(undisturbed: dict[str, Any]) -> None:
    assert len(undisturbed["promotions"]) >= 2
    assert undisturbed["predictions"]
    assert all(status == "promoted" for _, status, *_ in undisturbed["retrains"])


@pytest.mark.proof
def test_a_replay_killed_anywhere_ends_like_an_undisturbed_one(
    undisturbed: dict[str, Any], begun: Path, tmp_path: Path, full: bool, sample_size: Any
) -> None:
    kills = KILLS if full else KILLS[:FAST]
    sample_size("points at which a replay was killed", len(kills))
    traces = []
    for number, kill in enumerate(kills):
        home = copy_of(begun, tmp_path / str(number)).home.path
        assert replay(home, UNTIL, STEP, kill) == -9, f"{kill} was never reached"
        assert replay(home, UNTIL, STEP) == 0, f"the replay after {kill} failed"
        found = fingerprint(home)
        traces += [f"{kill}: {part}" for part in undisturbed if found[part] != undisturbed[part]]
        shutil.rmtree(home)
    assert not traces


def test_no_interruption_is_charged_to_the_retrain_that_it_hits(
    undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    for by, code in [(SIGINT, 130), (SIGKILL, -9), (SIGINT, 130), (SIGKILL, -9)]:
        assert replay(tmp_path, UNTIL, STEP, Kill(LEDGER, "record_candidate", by=by)) == code
    assert replay(tmp_path, UNTIL, STEP) == 0
    assert fingerprint(tmp_path) == undisturbed


@pytest.mark.proof
def test_steps_of_a_day_give_the_examples_of_steps_of_a_week(
    undisturbed: dict[str, Any], tmp_path: Path, full: bool, sample_size: Any
) -> None:
    until = UNTIL if full else date(2013, 1, 4)
    sample_size("days replayed one by one", (until - date(2013, 1, 1)).days + 1)
    assert replay(tmp_path, until, timedelta(days=1)) == 0
    daily = fingerprint(tmp_path)["examples"]
    assert daily
    assert daily == {day: one for day, one in undisturbed["examples"].items() if day in daily}
