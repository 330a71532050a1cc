"""Searching for parameters: seeded trials, validated on later days than they learned from (Optuna).

The holdout is never looked at. What is found stands with the model's parameters, so that training it again
needs no search.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from mlops_pipelines.errors import TerminalError
from mlops_pipelines.outcomes import IN_UNITS, LOSSES, kind_of, spelled
from mlops_pipelines.scored import Scored
from mlops_pipelines.spec import format_duration
from mlops_pipelines.training import check_rows, in_order, of_days, split_holdout, train

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    import optuna
    import pyarrow as pa

    from mlops_pipelines.features.views import FeatureColumn
    from mlops_pipelines.spec import Search, Training, Tune

    Fold = tuple[pa.Table, pa.Table]

# A trial whose mean loss after a fold is above the median of the earlier ones ends there, from this one on.
_UNPRUNED_TRIALS = 5


@dataclass(frozen=True)
class Trial:
    """One set of parameters that was tried. number: from 1 on.

    metric: the loss, as `outcomes.LOSSES` of the label has it first; losses: its mean over the folds so far,
    after each of them. pruned: whether it ended early,
    because others were better by then. started: wall clock, UTC.
    """

    number: int
    params: Mapping[str, str | int | float | bool]
    losses: tuple[float, ...]
    pruned: bool
    started: datetime
    seconds: float
    metric: str = "log_loss"


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    training: with the best parameters. cut: whether time was over before all trials had begun.
    """

    training: Training
    trials: tuple[Trial, ...]
    best: Trial
    cut: bool

    @property
    def sentence(self) -> str:
        """How the search went."""
        asked = self.training.tune
        pruned = sum(trial.pruned for trial in self.trials)
        over = f"; no further one began after {format_duration(asked.within)}" if asked and self.cut else ""
        of = f" of {asked.trials}" if asked and self.cut else ""
        chosen = ", ".join(f"{name} {_rounded(value)}" for name, value in self.best.params.items())
        metric = self.best.metric
        return (
            f"{len(self.trials)}{of} trials, {pruned} of them ended early{over}; the best is number "
            f"{self.best.number} with a {metric.replace('_', ' ')} of {_told(self.best.losses[-1], metric)}: "
            f"{chosen}"
        )


def tune(
    table: pa.Table,
    features: Sequence[FeatureColumn],
    training: Training,
    *,
    told: Callable[[str], None] = lambda what: None,
) -> Tuned:
    """The best parameters of `training.tune`, searched on the days before the holdout.

    table: as in `training.fit_candidate`. told: is called after each trial. The parameters of the YAML are
    the first trial, as far as they are within the ranges. The same rows, seed and number of finished trials
    give the same parameters. Raises TerminalError for too few rows or days, or what `train` raises.
    """
    import optuna

    asked = _tune_of(training)
    check_rows(table, training)
    folds = _folds(in_order(table), training, asked.folds)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        direction="minimize",
        sampler=optuna.samplers.TPESampler(seed=training.seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_UNPRUNED_TRIALS, n_warmup_steps=0),
    )
    metric = LOSSES[kind_of(table["label"].type)][0]
    study.enqueue_trial(_within(asked.space, training.params))

    def objective(trial: optuna.Trial) -> float:
        params = {name: _suggested(trial, name, search) for name, search in sorted(asked.space.items())}
        return _validated(trial, folds, features, _with_params(training, params))

    def say(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        best = f"best {metric.replace('_', ' ')} {_told(study.best_value, metric)}"
        told(f"trial {trial.number + 1} of {asked.trials}, {best}")

    study.optimize(objective, n_trials=asked.trials, timeout=asked.within.total_seconds(), callbacks=[say])
    trials = tuple(_trial_of(one, metric) for one in study.trials if one.datetime_start is not None)
    best = trials[study.best_trial.number]
    return Tuned(_with_params(training, best.params), trials, best, cut=len(trials) < asked.trials)


def split_folds(days: Sequence[str], folds: int) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Days to learn from and days to validate on, for each fold: the latter follow the former.

    days: distinct, ascending. They are cut into one block more than there are folds, and each fold learns
    from one block more than the one before it. Raises TerminalError for fewer days than blocks.

    >>> split_folds(["01", "02", "03", "04"], 2)
    [(('01',), ('02',)), (('01', '02'), ('03', '04'))]
    """
    if len(days) <= folds:
        raise TerminalError(
            f"There are {len(days)} days before the holdout to search for parameters on.",
            expected=f"at least {folds + 1}, for {folds} folds (training.tune.folds)",
        )
    ends = [len(days) * block // (folds + 1) for block in range(1, folds + 2)]
    return [(tuple(days[:end]), tuple(days[end:after])) for end, after in pairwise(ends)]


def _rounded(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _told(loss: float, metric: str) -> str:
    return spelled(loss, in_units=metric in IN_UNITS)


def _tune_of(training: Training) -> Tune:
    if training.tune is None:
        raise TerminalError("There is nothing to search.", expected="training.tune in the pipeline's YAML")
    return training.tune


def _folds(table: pa.Table, training: Training, count: int) -> list[Fold]:
    learned, _ = split_holdout(table["day"].unique().to_pylist(), training)
    return [(of_days(table, days), of_days(table, later)) for days, later in split_folds(learned, count)]


def _validated(
    trial: optuna.Trial, folds: Sequence[Fold], features: Sequence[FeatureColumn], training: Training
) -> float:
    """Mean loss over the folds. Raises optuna.TrialPruned where others are better after some of them."""
    import numpy as np
    import optuna

    losses: list[float] = []
    for number, (rows, later) in enumerate(folds):
        model = train(rows, features, training)
        scored = Scored.at_once(later["label"], model.predict(later), model.outcome)
        losses.append(float(scored.losses[LOSSES[model.outcome.kind][0]].mean()))
        trial.report(float(np.mean(losses)), number)
        if number + 1 < len(folds) and trial.should_prune():
            raise optuna.TrialPruned
    return float(np.mean(losses))


def _suggested(trial: optuna.Trial, name: str, search: Search) -> Any:
    if search.choices is not None:
        return trial.suggest_categorical(name, search.choices)
    low, high = search.values
    if _is_whole(name, search):
        return trial.suggest_int(name, int(low), int(high), log=search.log)
    return trial.suggest_float(name, float(low), float(high), log=search.log)


def _is_whole(name: str, search: Search) -> bool:
    """Whether its range is one of whole numbers: `learning_rate: {low: 0, high: 1}` is not."""
    from mlops_pipelines.lightgbm_params import ALLOWED, Real

    return not isinstance(ALLOWED.get(name), Real) and all(isinstance(end, int) for end in search.values)


def _within(space: Mapping[str, Search], params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that are within their ranges."""
    return {
        name: params[name]
        for name, search in space.items()
        if name in params and _admits(name, search, params[name])
    }


def _admits(name: str, search: Search, value: Any) -> bool:
    if search.choices is not None:
        return value in search.choices
    low, high = search.values
    kind = int if _is_whole(name, search) else int | float
    return isinstance(value, kind) and float(low) <= value <= float(high)


def _with_params(training: Training, params: Mapping[str, Any]) -> Training:
    return training.model_copy(update={"params": {**training.params, **params}})


def _trial_of(trial: optuna.trial.FrozenTrial, metric: str) -> Trial:
    import optuna

    seconds = trial.duration.total_seconds() if trial.duration else 0.0
    started = trial.datetime_start
    if started is None:
        raise TerminalError(f"Trial {trial.number} never began.")
    return Trial(
        trial.number + 1,
        trial.params,
        tuple(trial.intermediate_values[step] for step in sorted(trial.intermediate_values)),
        trial.state == optuna.trial.TrialState.PRUNED,
        started.astimezone(UTC),
        seconds,
        metric,
    )
