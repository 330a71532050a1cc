"""A search is repeatable, looks only forward in time, never at the holdout, and ends when it has to."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.training import fit_candidate, of_days, split_holdout, train_again
from mlops_pipelines.tuning import Tuned, split_folds, tune
from tests.synthetic_examples import FEATURES, examples, training

if TYPE_CHECKING:
    from mlops_pipelines.spec import Training

SPACE = {
    "num_leaves": {"low": 2, "high": 63, "log": True},
    "learning_rate": {"low": 0.001, "high": 1},
    "boosting": {"choices": ["gbdt", "dart"]},
}


def searching(**settings: object) -> Training:
    return training(tune={"space": SPACE, "trials": 12, "folds": 3, **settings})


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return examples(days=16, rows_per_day=60)


@pytest.fixture(scope="module")
def tuned(table: pa.Table) -> Tuned:
    return tune(table, FEATURES, searching())


def holdout_flipped(table: pa.Table) -> pa.Table:
    """The same rows, of which those of the holdout have the other label."""
    _, held = split_holdout(table["day"].unique().to_pylist(), training())
    inside = pc.is_in(table["day"], value_set=pa.array(held))
    flipped = pc.if_else(inside, pc.subtract(pa.scalar(1, pa.int8()), table["label"]), table["label"])
    return table.set_column(table.column_names.index("label"), "label", flipped)


def best_params(found: Tuned) -> dict[str, object]:
    return dict(found.training.params)


@given(days=st.integers(2, 60), folds=st.integers(1, 10))
def test_each_fold_learns_from_more_days_and_is_validated_on_those_that_follow(days: int, folds: int) -> None:
    names = [f"{day:03}" for day in range(days)]
    if days <= folds:
        with pytest.raises(TerminalError, match=r"training\.tune\.folds"):
            split_folds(names, folds)
        return
    parts = split_folds(names, folds)
    assert len(parts) == folds
    seen = 0
    for learned, later in parts:
        assert [*learned, *later] == names[: len(learned) + len(later)]
        assert len(learned) > seen
        assert later
        seen = len(learned)
    assert [*parts[-1][0], *parts[-1][1]] == names


def test_the_same_rows_seed_and_trials_find_the_same_parameters(table: pa.Table, tuned: Tuned) -> None:
    again = tune(table.take(list(reversed(range(table.num_rows)))), FEATURES, searching())
    assert best_params(again) == best_params(tuned)
    assert [(one.params, one.losses, one.pruned) for one in again.trials] == [
        (one.params, one.losses, one.pruned) for one in tuned.trials
    ]
    other = tune(table, FEATURES, searching().model_copy(update={"seed": 18}))
    assert [one.params for one in other.trials] != [one.params for one in tuned.trials]


def test_the_holdout_is_never_looked_at(table: pa.Table, tuned: Tuned) -> None:
    found = tune(holdout_flipped(table), FEATURES, searching())
    assert [one.losses for one in found.trials] == [one.losses for one in tuned.trials]


def test_the_parameters_of_the_yaml_are_the_first_trial_and_none_better_is_left(tuned: Tuned) -> None:
    assert [one.number for one in tuned.trials] == list(range(1, 13))
    first = tuned.trials[0]
    assert (first.params["num_leaves"], first.params["learning_rate"]) == (7, 0.2)
    finished = [one for one in tuned.trials if not one.pruned]
    assert tuned.best == min(finished, key=lambda one: one.losses[-1])
    assert tuned.training.params == {**training().params, **tuned.best.params}


def test_parameters_outside_the_ranges_are_not_tried(table: pa.Table) -> None:
    space = {"num_leaves": {"low": 31, "high": 63}}
    found = tune(table, FEATURES, searching(space=space, trials=3))
    assert all(31 <= one.params["num_leaves"] <= 63 for one in found.trials)  # type: ignore[operator]


def test_a_whole_range_of_a_parameter_that_is_not_whole_is_searched_between(table: pa.Table) -> None:
    found = tune(table, FEATURES, searching(space={"lambda_l2": {"low": 0, "high": 1}}, trials=3))
    assert any(0 < one.params["lambda_l2"] < 1 for one in found.trials)  # type: ignore[operator]


def test_what_is_behind_after_a_fold_ends_there(tuned: Tuned) -> None:
    pruned = [one for one in tuned.trials if one.pruned]
    assert pruned
    assert all(1 <= len(one.losses) < 3 for one in pruned)
    assert not any(one.pruned for one in tuned.trials[:5])
    assert f"12 trials, {len(pruned)} of them ended early; the best is number" in tuned.sentence


def test_a_model_of_the_found_parameters_is_trained_again_without_a_search(
    table: pa.Table, tuned: Tuned
) -> None:
    made = fit_candidate(table, FEATURES, tuned.training)
    assert made.refit.params["num_leaves"] == tuned.best.params["num_leaves"]
    assert made.twin.params == made.refit.params
    assert train_again(table, made.refit).hash == made.refit.hash


def test_time_that_is_over_ends_the_search_with_what_was_found_and_says_so(
    table: pa.Table, tuned: Tuned
) -> None:
    hasty = searching(trials=50)
    assert hasty.tune is not None
    brief = hasty.tune.model_copy(update={"within": timedelta(milliseconds=1)})
    hasty = hasty.model_copy(update={"tune": brief})
    found = tune(table, FEATURES, hasty)
    assert found.cut
    [only] = found.trials
    assert (only.params, only.losses) == (tuned.trials[0].params, tuned.trials[0].losses)
    assert "1 of 50 trials" in found.sentence
    assert "no further one began after" in found.sentence


def test_it_says_how_it_goes(table: pa.Table) -> None:
    said: list[str] = []
    tune(table, FEATURES, searching(trials=2), told=said.append)
    assert [line.partition(",")[0] for line in said] == ["trial 1 of 2", "trial 2 of 2"]


def test_too_few_days_or_rows_are_told(table: pa.Table) -> None:
    rows = of_days(table, sorted(table["day"].unique().to_pylist())[:4])
    with pytest.raises(TerminalError, match="3 days before the holdout"):
        tune(rows, FEATURES, searching(folds=3))
    with pytest.raises(TerminalError, match=r"training\.min_rows"):
        tune(rows, FEATURES, searching().model_copy(update={"min_rows": 5000}))
