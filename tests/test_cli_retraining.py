"""What people see of the guard over retrains, and how they use it: through the command."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from mlops_pipelines import retraining
from mlops_pipelines.spec import Policy
from tests.loop import advance, at, copy_of, mlops, retrain, small_home, varied

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_pipelines.home import PipelineHome


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of nine days with a champion."""
    home = tmp_path_factory.mktemp("lived")
    place = small_home(home)
    advance(place, at(10))
    retrain(place, "first")
    return home


@pytest.fixture
def place(lived: Path, tmp_path: Path) -> PipelineHome:
    return varied(copy_of(lived, tmp_path / "home"), policy=Policy(cooldown=timedelta(days=3)))


def explained(place: PipelineHome) -> dict[str, object]:
    told: dict[str, object] = json.loads(mlops(place, "policy", "explain", place.name, "--json").output)
    return told


def test_a_person_asks_for_a_retrain_and_the_policy_says_when(place: PipelineHome) -> None:
    asked = mlops(place, "retrain", place.name, "--reason", "new fares")
    assert (asked.exit_code, "held until 2013-01-13 00:00 UTC: cooldown of 3d" in asked.output) == (0, True)
    again = json.loads(mlops(place, "retrain", place.name, "--reason", "new fares", "--json").output)
    assert (again["appended"], again["would_admit"]) == (False, False)
    [waiting] = place.ledger.triggers(place.name, "pending")
    assert (waiting.kind, waiting.evidence["reason"]) == ("manual", "new fares")
    assert "of the operating system" in waiting.evidence["by"]
    told = mlops(place, "triggers", place.name, "--status", "pending").output
    assert "manual       waits" in told
    assert "reason new fares" in told


def test_what_was_asked_for_is_served_once_the_policy_admits_it(place: PipelineHome) -> None:
    mlops(place, "retrain", place.name, "--reason", "new fares")
    advance(place, at(13))
    assert explained(place)["admitted"]
    admitted = retraining.admit(place, run_id="r")
    assert admitted.retrain
    told = json.loads(mlops(place, "triggers", place.name, "--json").output)["triggers"]
    assert [(one["kind"], one["status"], one["retrain"]) for one in told][-1] == (
        "manual",
        "served",
        admitted.retrain.id,
    )
    found = explained(place)
    assert (found["held_by"], found["in_flight"]) == ("in_flight", admitted.retrain.id)


def test_why_nothing_happens_is_said_with_what_would_ask(place: PipelineHome) -> None:
    found = explained(place)
    assert (found["admitted"], found["held_by"], found["pending"]) == (False, "nothing_pending", None)
    text = mlops(place, "policy", "explain", place.name).output
    assert text.startswith(f"{place.name} at 2013-01-10 00:00 UTC: nothing to do: no trigger is pending\n")
    kinds = {one["kind"]: one["sentence"] for one in found["reasons"]}  # type: ignore[attr-defined]
    assert "labels matured since" in kinds["labels"]


def test_a_paused_pipeline_is_held_until_somebody_resumes_it(place: PipelineHome) -> None:
    later = varied(place, policy=Policy(cooldown=timedelta(0)))
    mlops(later, "retrain", place.name, "--reason", "new fares")
    advance(later, at(11))
    paused = mlops(later, "pause", place.name, "--reason", "feed is rebuilt")
    assert (paused.exit_code, paused.output) == (0, f"Retraining of {place.name} is paused.\n")
    again = mlops(later, "pause", place.name, "--reason", "again", "--json").output
    assert json.loads(again) == {"pipeline": place.name, "paused": True, "changed": False}
    found = explained(later)
    assert (found["held_by"], str(found["sentence"]).endswith("feed is rebuilt")) == ("paused", True)
    mlops(later, "resume", place.name, "--reason", "feed is back")
    assert explained(later)["admitted"]


@pytest.mark.parametrize("command", [("retrain",), ("pause",), ("resume",)])
def test_nobody_does_so_without_a_reason(place: PipelineHome, command: tuple[str, ...]) -> None:
    refused = mlops(place, *command, place.name)
    assert (refused.exit_code, "--reason" in refused.output) == (2, True)
