"""A trainer of the pipeline's own: held to the rule of LightGBM, and told from it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.evaluation import evaluate, importance
from mlops_pipelines.evaluation_page import as_markdown
from mlops_pipelines.registry import Registry
from mlops_pipelines.spec import Gates
from mlops_pipelines.trainers import problem_of, source_hash
from mlops_pipelines.training import (
    PERMUTED,
    Candidate,
    Incumbent,
    TrainedModel,
    fit_candidate,
    train,
    train_again,
)
from mlops_pipelines.tuning import tune
from tests.synthetic_examples import FEATURES, examples, training

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from mlops_pipelines.spec import Training

OWN = "tests.own_trainers"


def own(name: str = "Logistic", **settings: object) -> Training:
    return training(trainer=f"{OWN}:{name}", params={"steps": 50}, **settings)


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return examples(days=12, rows_per_day=60)


@pytest.fixture(scope="module")
def candidate(table: pa.Table) -> Candidate:
    return fit_candidate(table, FEATURES, own())


def test_its_model_is_text_that_scores_alike_in_any_order_and_alone(
    table: pa.Table, candidate: Candidate
) -> None:
    model = TrainedModel.from_files(candidate.refit.to_files())
    assert model == candidate.refit
    assert set(model.to_files()) == {"model.txt", "encoding.json"}
    assert json.loads(model.text)["features"] == [feature.name for feature in FEATURES]
    scores = model.predict(table)
    assert [model.predict_one(row) for row in table.slice(0, 20).to_pylist()] == pytest.approx(
        scores[:20], abs=0
    )
    assert model.params == {"steps": 50, "seed": 17, "num_threads": 1}


def test_it_is_trained_again_to_the_same_hash_which_covers_its_name(
    table: pa.Table, candidate: Candidate
) -> None:
    assert train_again(table, candidate.refit).hash == candidate.refit.hash
    assert train_again(table, candidate.twin).hash == candidate.twin.hash
    assert replace(candidate.refit, trainer=f"{OWN}:Odds").hash != candidate.refit.hash
    assert replace(candidate.refit, trainer=None).hash != candidate.refit.hash


def test_importance_is_what_permuting_a_feature_changes(table: pa.Table, candidate: Candidate) -> None:
    weights = importance(candidate.refit, table)
    assert weights == importance(candidate.refit, table)
    assert next(iter(weights)) == "wind"
    assert weights["noise"] < 0.2 * weights["wind"]


def test_it_is_evaluated_beside_lightgbm_and_the_report_says_what_its_importance_is(
    table: pa.Table, candidate: Candidate
) -> None:
    champion = fit_candidate(table, FEATURES, training())
    report = evaluate(candidate, Incumbent(champion.refit, champion.twin, "1"), gates=Gates())
    skill = report.metrics["log_loss_skill"]
    assert skill is not None
    assert skill.value > 0.05
    assert report.comparison is not None
    assert report.importance_unit == PERMUTED
    assert PERMUTED in as_markdown(report)


def test_its_parameters_are_searched_like_others(table: pa.Table) -> None:
    asked = own(tune={"space": {"steps": {"low": 1, "high": 60}}, "trials": 4, "folds": 2})
    found = tune(table, FEATURES, asked)
    assert all(isinstance(one.params["steps"], int) for one in found.trials)
    assert train(table, FEATURES, found.training).params["steps"] == found.best.params["steps"]


def test_it_is_stored_as_text_and_read_back(tmp_path: Path, candidate: Candidate) -> None:
    def opened() -> Registry:
        return Registry(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "artifacts")

    made = opened().log_candidate("own", "r-1", candidate, "3f2a", {})
    stored = [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]
    assert {"MLmodel", "model.txt", "encoding.json", "facts.json"} == {path.name for path in stored}
    assert all(path.read_bytes().decode() for path in stored)
    model = opened().load("own", made.version)
    assert (model.refit, model.twin) == (candidate.refit, candidate.twin)
    assert opened().check_stored("own", made.version) is None
    [text] = [path for path in stored if path.name == "model.txt" and path.parent.name != "twin"]
    text.write_text(text.read_text() + " ")
    assert opened().check_stored("own", made.version) == "changed: model.txt"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Mute", "gave NoneType.\nExpected: the model as text"),
        ("Failing", "failed: ValueError: no such luck"),
        ("Incomplete", "has no load"),
        ("Needy", "cannot be made: TypeError"),
        ("Nowhere", "has no class Nowhere"),
    ],
)
def test_a_trainer_that_gives_no_model_is_told(table: pa.Table, name: str, said: str) -> None:
    with pytest.raises(TerminalError) as told:
        train(table, FEATURES, own(name))
    assert said in str(told.value)
    assert f"{OWN}:{name}" in str(told.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Unreadable", "cannot read its model: ValueError: what is this?"),
        ("Odds", "no probabilities"),
        ("Thrifty", "gave scores of shape (719,) for 720 rows"),
    ],
)
def test_a_model_that_gives_no_scores_is_told(table: pa.Table, name: str, said: str) -> None:
    model = train(table, FEATURES, own(name))
    with pytest.raises(TerminalError) as told:
        model.predict(table)
    assert said in str(told.value)


@pytest.mark.parametrize(
    ("trainer", "said"),
    [
        (f"{OWN}:Logistc", "has no class Logistc; did you mean Logistic"),
        ("tests.nowhere:Logistic", "there is no module tests.nowhere"),
        ("json:JSONDecoder", "has no class JSONDecoder"),
        ("nothing.at.all:X", "there is no module nothing.at.all"),
    ],
)
def test_a_trainer_that_is_not_there_is_said_without_running_it(trainer: str, said: str) -> None:
    assert said in str(problem_of(trainer))
    assert source_hash(trainer) is None


def test_a_trainer_that_is_there_has_no_problem() -> None:
    assert problem_of(f"{OWN}:Logistic") is None
    assert source_hash(f"{OWN}:Logistic") == source_hash(f"{OWN}:Mute")


def test_scores_are_one_a_row_also_of_none(table: pa.Table, candidate: Candidate) -> None:
    assert np.array_equal(candidate.refit.predict(table.slice(0, 0)), np.empty(0))
