"""Which of LightGBM's parameters a pipeline may set, and within which bounds.

Names and bounds: https://lightgbm.readthedocs.io/en/latest/Parameters.html. Each parameter has one
spelling here, so that equal settings have equal hashes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from mlops_pipelines.spec_wording import alternatives, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True)
class Whole:
    """A whole number in [low, high]."""

    low: int
    high: int = 2**31 - 1

    @property
    def wanted(self) -> str:
        return f"a whole number from {self.low} to {self.high}"

    def admits(self, value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high


@dataclass(frozen=True)
class Real:
    """A finite number in [low, high], or in (low, high] where it is `above` low."""

    low: float = 0.0
    high: float = inf
    above: bool = False

    @property
    def wanted(self) -> str:
        start = "above" if self.above else "of at least"
        end = f", at most {self.high:g}" if self.high < inf else ""
        return f"a number {start} {self.low:g}{end}"

    def admits(self, value: object) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        return self.low <= value <= self.high and value < inf and not (self.above and value == self.low)


@dataclass(frozen=True)
class Choice:
    """One of these values."""

    values: tuple[str | bool, ...]

    @property
    def wanted(self) -> str:
        return "one of " + ", ".join(str(choice).lower() for choice in self.values)

    def admits(self, value: object) -> bool:
        # 1 equals True, and is not written true.
        return any(type(value) is type(choice) and value == choice for choice in self.values)


_SHARE = Real(0, 1, above=True)

# What changes how the trees grow. Left out: what changes the meaning of the scores (scale_pos_weight,
# is_unbalance, sigmoid), names files, needs other hardware, or is fed by what a pipeline does not give.
ALLOWED: Mapping[str, Whole | Real | Choice] = {
    "n_estimators": Whole(1, 100_000),
    "learning_rate": Real(0, 1, above=True),
    "num_leaves": Whole(2, 131_072),
    "max_depth": Whole(-1, 64),
    "min_data_in_leaf": Whole(0),
    "min_sum_hessian_in_leaf": Real(),
    "min_gain_to_split": Real(),
    "bagging_fraction": _SHARE,
    "bagging_freq": Whole(0),
    "feature_fraction": _SHARE,
    "feature_fraction_bynode": _SHARE,
    "lambda_l1": Real(),
    "lambda_l2": Real(),
    "max_delta_step": Real(),
    "path_smooth": Real(),
    "extra_trees": Choice((True, False)),
    "data_sample_strategy": Choice(("bagging", "goss")),
    "top_rate": Real(0, 1),
    "other_rate": Real(0, 1),
    "boosting": Choice(("gbdt", "dart")),
    "drop_rate": Real(0, 1),
    "skip_drop": Real(0, 1),
    "max_drop": Whole(-1),
    "max_bin": Whole(2, 65_535),
    "min_data_in_bin": Whole(1),
    "bin_construct_sample_cnt": Whole(1),
    "max_cat_threshold": Whole(1),
    "max_cat_to_onehot": Whole(1),
    "min_data_per_group": Whole(1),
    "cat_l2": Real(),
    "cat_smooth": Real(),
}

_OURS = "the pipeline sets it, so that training is repeatable"
_ELSEWHERE: Mapping[str, str] = {
    "seed": "write training.seed",
    "num_threads": "write training.threads",
    "objective": "labels.kind says what the label is, and that what is learned",
    "metric": "the gates name their metrics",
    "deterministic": _OURS,
    "force_row_wise": _OURS,
    "force_col_wise": _OURS,
    "bagging_seed": "write training.seed",
    "feature_fraction_seed": "write training.seed",
    "data_random_seed": "write training.seed",
    "extra_seed": "write training.seed",
    "drop_seed": "write training.seed",
    "objective_seed": "write training.seed",
    "early_stopping_round": "the number of trees is n_estimators",
    "verbosity": "the pipeline sets it",
    "scale_pos_weight": "it would move the scores away from probabilities",
    "is_unbalance": "it would move the scores away from probabilities",
    "device_type": "models are trained on the processor, where they are repeatable",
}
# LightGBM's other spellings of the names above that are in common use.
_SPELLINGS: Mapping[str, str] = {
    "num_iterations": "n_estimators",
    "num_boost_round": "n_estimators",
    "num_trees": "n_estimators",
    "num_round": "n_estimators",
    "n_iter": "n_estimators",
    "eta": "learning_rate",
    "max_leaves": "num_leaves",
    "min_child_samples": "min_data_in_leaf",
    "min_child_weight": "min_sum_hessian_in_leaf",
    "min_split_gain": "min_gain_to_split",
    "subsample": "bagging_fraction",
    "subsample_freq": "bagging_freq",
    "subsample_for_bin": "bin_construct_sample_cnt",
    "colsample_bytree": "feature_fraction",
    "colsample_bynode": "feature_fraction_bynode",
    "reg_alpha": "lambda_l1",
    "reg_lambda": "lambda_l2",
    "max_bins": "max_bin",
    "boosting_type": "boosting",
    "random_state": "seed",
    "random_seed": "seed",
    "n_jobs": "num_threads",
    "nthread": "num_threads",
    "app": "objective",
    "application": "objective",
    "metrics": "metric",
    "early_stopping_rounds": "early_stopping_round",
    "verbose": "verbosity",
    "device": "device_type",
}


def is_known(name: str) -> bool:
    """Whether it is a name, or another spelling of one, of which `refusals` can say more than that."""
    return name in ALLOWED or name in _ELSEWHERE or name in _SPELLINGS


def refusals(params: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Name and reason of each parameter that may not be set, or not to this value."""
    for name, value in params.items():
        spelled = _SPELLINGS.get(name, name)
        if spelled in _ELSEWHERE:
            yield name, f"{name} may not be set: {_ELSEWHERE[spelled]}"
        elif spelled != name:
            yield name, f"{name} is another spelling of {spelled}; write {spelled}"
        elif name not in ALLOWED:
            yield name, f"{name} is not a parameter that may be set{alternatives(name, list(ALLOWED))}"
        elif not ALLOWED[name].admits(value):
            yield name, f"{shown(value)} is not allowed for {name} (allowed: {ALLOWED[name].wanted})"
    yield from _contradictions(params)


def _contradictions(params: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    # LightGBM takes these and ignores them.
    if "bagging_fraction" in params and not params.get("bagging_freq"):
        yield "bagging_fraction", "bagging_fraction has no effect without a bagging_freq of at least 1"
    if params.get("data_sample_strategy") != "goss":
        for name in ("top_rate", "other_rate"):
            if name in params:
                yield name, f"{name} has no effect without data_sample_strategy: goss"
    if params.get("boosting") != "dart":
        for name in ("drop_rate", "skip_drop", "max_drop"):
            if name in params:
                yield name, f"{name} has no effect without boosting: dart"
