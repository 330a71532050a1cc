"""Policies tried on history: what the loop does itself, and what it would do by other policies."""

from __future__ import annotations

import json
from datetime import date, time, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from mlops_pipelines import backtest as library
from mlops_pipelines.errors import UserError
from mlops_pipelines.spec import (
    Breaker,
    Budget,
    DriftTrigger,
    Gates,
    LabelsTrigger,
    Policy,
    PredictionDriftTrigger,
    ScheduleTrigger,
    Triggers,
)
from mlops_pipelines.status import status_of
from tests.loop import advance, at, mlops, retrain, small_home, varied
from tests.small_flights import loaded

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_pipelines.home import PipelineHome

FIRST, LAST = date(2013, 1, 8), date(2013, 1, 11)
DAYS = ("--from", FIRST.isoformat(), "--to", LAST.isoformat())
EVERY_TWO_DAYS = """
triggers: {schedule: {every: 2d}}
policy: {cooldown: 0s, budget: {retrains: 100, per: 1d}, breaker: {after: 100}}
"""


EAGER = Policy(
    cooldown=timedelta(0), budget=Budget(retrains=100, per=timedelta(days=1)), breaker=Breaker(after=100)
)


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> PipelineHome:
    """A home that retrained on the 8th and on the 10th."""
    place = varied(small_home(tmp_path_factory.mktemp("lived")), gates=Gates())
    for day in (8, 10):
        advance(place, at(day))
        assert retrain(place, f"on-{day}").promotion
    advance(place, at(14))
    return place


@pytest.fixture(scope="module")
def tried(lived: PipelineHome, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the command prints of a policy that does what the loop did, of a calendar and of none."""
    folder = tmp_path_factory.mktemp("policies")
    policy = folder / "as_it_was.yaml"
    policy.write_text(EVERY_TWO_DAYS)
    picture = folder / "picture.png"
    names = [argument for one in (str(policy), "weekly", "never") for argument in ("--policy", one)]
    done = mlops(lived, "backtest", lived.name, *names, *DAYS, "--picture", str(picture), "--json")
    assert done.exit_code == 0, done.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    return json.loads(done.stdout)


def test_a_policy_that_does_what_the_loop_did_makes_the_same_models(lived: PipelineHome, tried: Any) -> None:
    as_it_was = tried["policies"][0]
    made = [one.model_hash for one in lived.ledger.retrains(lived.name)]
    assert [one["model_hash"] for one in as_it_was["history"]] == made
    assert [one["at"][:10] for one in as_it_was["history"]] == ["2013-01-08", "2013-01-10"]
    assert (as_it_was["policy"], as_it_was["retrains"], as_it_was["promoted"]) == ("as_it_was", 1, 1)


def test_a_policy_that_does_what_the_loop_did_scores_as_it_did(lived: PipelineHome, tried: Any) -> None:
    as_it_was = tried["policies"][0]
    real = status_of(lived, FIRST, LAST)["prequential"]
    assert tried["rows"] == real["rows"]
    for name in ("log_loss", "roc_auc", "average_precision"):
        assert as_it_was[name] == pytest.approx(real[name], rel=1e-12)


def test_policies_begin_with_the_same_model_and_are_compared_on_the_same_rows(tried: Any) -> None:
    first, weekly, never = tried["policies"]
    assert {one["history"][0]["model_hash"] for one in tried["policies"]} == {
        first["history"][0]["model_hash"]
    }
    assert (weekly["retrains"], never["retrains"]) == (0, 0)
    assert weekly["log_loss"] == never["log_loss"]
    assert never["differences"]["log_loss"]["value"] == pytest.approx(never["log_loss"] - first["log_loss"])
    low, high = never["differences"]["log_loss"]["interval"]
    assert low < never["differences"]["log_loss"]["value"] < high
    assert first["staleness_days"] < never["staleness_days"]
    assert first["compute_seconds"] > never["compute_seconds"] > 0


def test_what_was_made_before_is_not_made_again(lived: PipelineHome, tried: Any) -> None:
    folder = lived.path / library.FOLDER
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(before) == 4, "two models and two reports"
    again = mlops(lived, "backtest", lived.name, "--policy", "never", *DAYS)
    assert again.exit_code == 0, again.output
    assert "retrains              0\n" in again.output
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert "2013-01-08  bootstrap: promoted" in again.stderr
    assert tried["policies"][2]["history"]


def test_the_pipelines_own_policy_asks_by_its_own_triggers(lived: PipelineHome) -> None:
    place = varied(lived, triggers=Triggers(labels=LabelsTrigger(at_least=2500)))
    found = library.backtest(place, [library.policy_of("default", place.spec)], FIRST, LAST)
    [only] = found.policies
    # Some 900 labels mature each day.
    assert [(one.at.day, one.kinds) for one in only.all_retrains] == [(8, ("bootstrap",)), (11, ("labels",))]


@pytest.mark.parametrize(
    "trigger",
    [
        LabelsTrigger(at_least=900),
        DriftTrigger(alarm=1e-9, watch=1e-10, persists=(1, 1)),
        PredictionDriftTrigger(alarm=1e-9, persists=(1, 1)),
        ScheduleTrigger(every=timedelta(days=2)),
    ],
    ids=["labels", "drift", "prediction_drift", "schedule"],
)
def test_each_kind_of_trigger_asks(
    lived: PipelineHome, trigger: object, request: pytest.FixtureRequest
) -> None:
    kind = request.node.callspec.id
    tried = library.Tried("eager", Triggers.model_validate({kind: trigger}), EAGER)
    [only] = library.backtest(lived, [tried], FIRST, LAST).policies
    assert {one.kinds for one in only.retrains} == {(kind,)}


def test_quiet_hours_hold_nothing_and_that_is_said(lived: PipelineHome) -> None:
    night = EAGER.model_copy(update={"quiet_hours": (time(22), time(6))})
    every = Triggers(schedule=ScheduleTrigger(every=timedelta(days=2)))
    told: list[str] = []
    tried = library.Tried("nightly", every, night)
    [only] = library.backtest(lived, [tried], FIRST, LAST, told=told.append).policies
    assert len(only.retrains) == 1
    assert "nightly  policy.quiet_hours holds nothing in a backtest, whose steps are days" in told


def test_where_nothing_was_retrained_it_says_so_and_not_that_gates_stopped_it(lived: PipelineHome) -> None:
    place = varied(lived, training=lived.spec.training.model_copy(update={"min_rows": 10**9}))
    with pytest.raises(UserError, match="nothing was retrained"):
        library.backtest(place, [library.policy_of("never", place.spec)], FIRST, LAST)


def test_a_file_says_what_it_changes_of_the_policy_and_the_rest_stays(
    lived: PipelineHome, tmp_path: Path
) -> None:
    own = Policy.model_validate({"budget": {"retrains": 2, "per": "30d"}, "quiet_hours": "22:00-06:00"})
    path = tmp_path / "slower.yaml"
    path.write_text("policy: {cooldown: 4d, budget: {retrains: 1}}")
    found = library.policy_of(str(path), varied(lived, policy=own, triggers=Triggers()).spec)
    assert found.policy == own.model_copy(
        update={"cooldown": timedelta(days=4), "budget": Budget(retrains=1, per=timedelta(days=30))}
    )


def test_a_picture_that_cannot_be_written_is_refused_before_the_work(
    lived: PipelineHome, tmp_path: Path
) -> None:
    done = mlops(lived, "backtest", lived.name, *DAYS, "--picture", str(tmp_path / "no" / "picture.png"))
    assert (done.exit_code, f"There is no folder {tmp_path / 'no'}" in done.output) == (2, True)


def test_an_edited_trainer_makes_its_models_anew(
    lived: PipelineHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"trainer": "tests.own_trainers:Logistic", "params": {"steps": 20}}
    place = varied(lived, training=lived.spec.training.model_copy(update=own))
    keys = []
    for source in ("before", "after"):
        monkeypatch.setattr(library, "source_hash", {own["trainer"]: source}.get)
        keys.append(library._Past(place, FIRST, LAST).learned(at(10)).key)
    assert keys[0] != keys[1]


def test_a_candidate_that_its_gates_stop_does_not_serve(lived: PipelineHome, tmp_path: Path) -> None:
    policy = tmp_path / "every_two_days.yaml"
    policy.write_text(EVERY_TWO_DAYS)
    place = varied(lived, gates=loaded().spec.gates)
    tried = [library.policy_of(str(policy), place.spec), library.policy_of("never", place.spec)]
    stopped, never = library.backtest(place, tried, FIRST, LAST).policies
    assert [one.outcome for one in stopped.all_retrains] == ["promoted", "rejected: champion"]
    assert stopped.promoted == 0
    assert stopped.figures == never.figures


def test_days_by_which_settings_were_chosen_stand_apart(lived: PipelineHome) -> None:
    tuned = ("--tuned-on", "2013-01-08", "2013-01-09", "--from", "2013-01-10", "--to", "2013-01-11")
    done = mlops(lived, "backtest", lived.name, "--policy", "never", *tuned)
    assert done.exit_code == 0, done.output
    lines = [line for line in done.output.splitlines() if "rows of 2 days" in line]
    assert [line.partition(":")[0] for line in lines] == [
        "Tuned on, and looked at",
        "Reported, and not looked at before",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--policy", "sometimes", *DAYS], "There is no policy 'sometimes', and no such file."),
        (["--tuned-on", "2013-01-01", "2013-01-08", *DAYS], "that end before those reported"),
        (["--from", "2013-01-11", "--to", "2013-01-08"], "before they begin"),
        (["--from", "2013-01-08", "--to", "2013-06-30"], "mlops replay small_flights --until 2013-07-0"),
        (["--policy", "labels", *DAYS], "declares no triggers.labels"),
    ],
)
def test_what_cannot_be_tried_is_said_with_what_helps(
    lived: PipelineHome, arguments: list[str], said: str
) -> None:
    done = mlops(varied(lived, triggers=Triggers()), "backtest", lived.name, *arguments)
    assert done.exit_code == 2
    assert said in done.output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "triggers: {schedule: {every: 1d}}\npolicy: {cooldown: 3d, budget: {retrains: 100, per: 1d}}",
            "triggers.schedule.every: 1d is shorter than the cooldown (allowed: 3d or more)",
        ),
        (
            "triggers: {schedule: {every: 4d}}",
            "every: 4d asks for more than 6 retrains in 30d, the budget (allowed: 5d or more)",
        ),
        ("policy: {cooldown: soon}", "eager.yaml:1"),
        ("triggers: {labels: }", "nothing is declared here"),
        ("training: {}", "training is not"),
        ("[]", "a mapping with triggers and policy is needed"),
    ],
)
def test_a_file_that_is_no_policy_is_refused_with_its_line(
    lived: PipelineHome, tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "eager.yaml"
    path.write_text(text)
    done = mlops(lived, "backtest", lived.name, "--policy", str(path), *DAYS)
    assert done.exit_code == 2
    assert said in done.output
