"""Which of LightGBM's parameters may be set."""

from __future__ import annotations

from math import inf, nan

import pytest
from lightgbm.basic import _ConfigAliases

from mlops_pipelines.lightgbm_params import _ELSEWHERE, _SPELLINGS, ALLOWED, Choice, Real, Whole, refusals

ALIASES: dict[str, list[str]] = _ConfigAliases._get_all_param_aliases()


def canonical(name: str) -> str:
    return "num_iterations" if name == "n_estimators" else name


@pytest.mark.parametrize("name", [*ALLOWED, *_ELSEWHERE])
def test_every_name_is_lightgbms_own(name: str) -> None:
    assert canonical(name) in ALIASES


@pytest.mark.parametrize(("spelling", "name"), _SPELLINGS.items())
def test_every_other_spelling_is_lightgbms_own(spelling: str, name: str) -> None:
    assert spelling in ALIASES[canonical(name)]


@pytest.mark.parametrize("alias", sorted({alias for name in _ELSEWHERE for alias in ALIASES[name]}))
def test_what_the_pipeline_sets_cannot_be_set_under_another_name(alias: str) -> None:
    assert [name for name, _ in refusals({alias: 1})] == [alias]


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"seed": 3}, "seed may not be set: write training.seed"),
        ({"random_state": 3}, "random_state may not be set: write training.seed"),
        ({"n_jobs": 3}, "n_jobs may not be set: write training.threads"),
        ({"objective": "regression"}, "objective may not be set: labels.kind says"),
        ({"deterministic": False}, "deterministic may not be set: the pipeline sets it"),
        ({"subsample": 0.5}, "subsample is another spelling of bagging_fraction; write bagging_fraction"),
        (
            {"num_leafs": 31},
            "num_leafs is not a parameter that may be set; did you mean num_leaves? (allowed: n_est",
        ),
        ({"num_leaves": 1}, "1 is not allowed for num_leaves (allowed: a whole number from 2 to 131072)"),
        ({"num_leaves": 31.0}, "31.0 is not allowed for num_leaves"),
        ({"num_leaves": True}, "True is not allowed for num_leaves"),
        ({"learning_rate": 0}, "0 is not allowed for learning_rate (allowed: a number above 0, at most 1)"),
        ({"learning_rate": "0.1"}, "'0.1' is not allowed for learning_rate"),
        ({"lambda_l2": inf}, "inf is not allowed for lambda_l2 (allowed: a number of at least 0)"),
        ({"lambda_l2": nan}, "nan is not allowed for lambda_l2"),
        ({"boosting": "rf"}, "'rf' is not allowed for boosting (allowed: one of gbdt, dart)"),
        ({"extra_trees": 1}, "1 is not allowed for extra_trees (allowed: one of true, false)"),
        ({"bagging_fraction": 0.5}, "bagging_fraction has no effect without a bagging_freq"),
        ({"top_rate": 0.2}, "top_rate has no effect without data_sample_strategy: goss"),
        ({"drop_rate": 0.2}, "drop_rate has no effect without boosting: dart"),
    ],
)
def test_a_parameter_that_may_not_be_set_is_refused_with_what_may(
    params: dict[str, object], reason: str
) -> None:
    [(name, text)] = refusals(params)
    assert name in params
    assert reason in text


def test_parameters_within_their_bounds_pass() -> None:
    usual = {"num_leaves": 31, "learning_rate": 0.05, "n_estimators": 150, "max_depth": -1, "lambda_l2": 3}
    assert list(refusals(usual)) == []
    assert list(refusals({"bagging_fraction": 0.5, "bagging_freq": 1, "extra_trees": True})) == []


def lowest(rule: Whole | Real | Choice) -> float | str:
    if isinstance(rule, Choice):
        return rule.values[-1]
    return 0.01 if isinstance(rule, Real) and rule.above else rule.low


@pytest.mark.filterwarnings("ignore::UserWarning")  # LightGBM's, about settings that override each other
@pytest.mark.parametrize("name", ALLOWED)
def test_lightgbm_trains_with_the_lowest_value_that_passes(name: str) -> None:
    import lightgbm
    import numpy as np

    value = lowest(ALLOWED[name])
    wanted = {"bagging_freq": 1} if name == "bagging_fraction" else {}
    settings = {name: value, **wanted, "objective": "binary", "verbosity": -1, "num_threads": 1}
    trees = int(settings.pop("n_estimators", 2))
    generator = np.random.default_rng(17)
    data = lightgbm.Dataset(generator.random((300, 3)), generator.integers(0, 2, 300), params=settings)
    assert lightgbm.train(settings, data, num_boost_round=trees).num_trees() >= 0
