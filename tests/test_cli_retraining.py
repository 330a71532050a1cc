"""What people see of the guard over retrains, and how they use it: through the command."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from mlops_pipelines import retraining
from mlops_pipelines.lake import Lake
from mlops_pipelines.spec import Gates, Policy
from tests.loop import advance, at, carry_through, copy_of, mlops, retrain, small_home, varied
from tests.small_flights import loaded

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
    told = [(one.content["kind"], one.content["why"]) for one in later.ledger.records(place.name)][-2:]
    assert told == [("pause", "feed is rebuilt"), ("resume", "feed is back")]
    assert mlops(later, "promotions", place.name, "--verify").exit_code == 0


def test_a_pause_is_seen_where_nothing_waits(place: PipelineHome) -> None:
    mlops(place, "pause", place.name, "--reason", "feed is rebuilt")
    found = explained(place)
    assert (found["held_by"], found["mode"]) == ("nothing_pending", "act")
    assert str(found["paused"]).endswith("feed is rebuilt")
    assert "feed is rebuilt" in mlops(place, "policy", "explain", place.name).output
    assert "feed is rebuilt" in mlops(place, "status", place.name).output
    observing = varied(place, policy=Policy(mode="observe"))
    assert explained(observing)["mode"] == "observe"
    text = mlops(observing, "policy", "explain", place.name).output
    assert "policy.mode is observe: nothing starts" in text


def test_what_a_retrain_has_answered_can_be_asked_for_again_in_the_same_moment(place: PipelineHome) -> None:
    later = varied(place, policy=Policy(cooldown=timedelta(0)))
    advance(later, at(11))
    said = ("retrain", place.name, "--reason", "new fares")
    assert mlops(later, *said).output.startswith("Asked for; ")
    assert mlops(later, *said).output.startswith("Asked for before, in this same moment; ")
    carry_through(later, "first")
    assert mlops(later, *said).output.startswith("Asked for; ")


def test_a_gate_that_was_mended_can_be_tried_on_the_same_data(place: PipelineHome) -> None:
    later = varied(place, policy=Policy(cooldown=timedelta(0)), gates=Gates())
    advance(later, at(11))
    mlops(later, "retrain", place.name, "--reason", "new fares")
    carry_through(later, "first")
    mlops(later, "retrain", place.name, "--reason", "once more")
    assert explained(later)["held_by"] == "nothing_new"
    assert explained(varied(later, gates=loaded().spec.gates))["admitted"]


def lost(place: PipelineHome, monkeypatch: pytest.MonkeyPatch, *, assembled: bool) -> PipelineHome:
    """A place whose retrain was lost, while another trigger waits and no event seems to have a vector."""
    later = varied(place, policy=Policy(cooldown=timedelta(0)))
    advance(later, at(11))
    mlops(later, "retrain", place.name, "--reason", "new fares")
    begun = retraining.admit(later, run_id="dies").retrain
    assert begun
    if assembled:
        retraining.assemble(later, begun)
    later.ledger.mark_lost("dies", later.clock.now())
    mlops(later, "retrain", place.name, "--reason", "and more")
    counted = Lake.row_counts

    def lacking(lake: Lake, name: str, **how: int | None) -> dict[str, int]:
        return {} if name == later.features.examples else counted(lake, name, **how)

    monkeypatch.setattr(Lake, "row_counts", lacking)
    return later


def test_a_lost_retrain_that_has_its_training_set_waits_for_no_vectors(
    place: PipelineHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = lost(place, monkeypatch, assembled=True)
    assert "is taken up again" in str(explained(later)["sentence"])
    assert retraining.admit(later, run_id="next").retrain == later.ledger.in_flight(place.name)


def test_a_lost_retrain_without_a_training_set_waits_for_vectors(
    place: PipelineHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = lost(place, monkeypatch, assembled=False)
    assert "have no vector yet" in str(explained(later)["sentence"])
    assert retraining.admit(later, run_id="next").retrain is None


@pytest.mark.parametrize("command", ["retrain", "pause", "resume", "freeze"])
def test_an_empty_reason_is_none(place: PipelineHome, command: str) -> None:
    refused = mlops(place, command, place.name, "--reason", "  ")
    assert (refused.exit_code, "The reason is empty" in refused.output) == (2, True)


@pytest.mark.parametrize("command", [("retrain",), ("pause",), ("resume",)])
def test_nobody_does_so_without_a_reason(place: PipelineHome, command: tuple[str, ...]) -> None:
    refused = mlops(place, *command, place.name)
    assert (refused.exit_code, "--reason" in refused.output) == (2, True)
