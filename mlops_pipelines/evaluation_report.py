"""What an evaluation found: all figures of one candidate on its holdout, kept as JSON with its run."""

from __future__ import annotations

import hashlib
import json

# pydantic reads the annotations of a report at run time.
from collections.abc import Mapping  # noqa: TC003
from dataclasses import dataclass
from datetime import datetime  # noqa: TC003
from functools import cache
from typing import TYPE_CHECKING, Literal

from mlops_pipelines.explanation import Explained, Stability  # noqa: TC001
from mlops_pipelines.fairness import Fairness  # noqa: TC001
from mlops_pipelines.metrics import Estimate  # noqa: TC001
from mlops_pipelines.robustness import Robustness  # noqa: TC001
from mlops_pipelines.spec import Kind  # noqa: TC001
from mlops_pipelines.training import SHAP

if TYPE_CHECKING:
    from pydantic import TypeAdapter


@dataclass(frozen=True)
class CalibrationBin:
    """One of ten bins of equal frequency: mean score, observed share of 1, rows.

    Of a number: mean prediction and mean label. Of a category: mean probability of the most likely class, and
    the share of rows of which it was right.
    """

    predicted: float
    observed: float
    rows: int


@dataclass(frozen=True)
class Threshold:
    """What acting on scores >= `score` would mean; None where there is nothing to divide by."""

    score: float
    flagged: float
    precision: float | None
    recall: float | None
    false_positive_rate: float | None


@dataclass(frozen=True)
class Decided:
    """What acting on the scores means at the pipeline's own threshold. cost: of a decision, on average; None
    where no cost is declared. The rates are None where there is nothing to divide by."""

    score: float
    flagged: Estimate | None
    precision: Estimate | None
    recall: Estimate | None
    false_positive_rate: Estimate | None
    cost: Estimate | None


@dataclass(frozen=True)
class TrainedOn:
    """The training set. fault: what is wrong with its signature or its bytes. matured_through, last_day:
    YYYY-MM-DD. labelled: share of its window's events that have a label; None where that is not known."""

    version: str
    fault: str | None
    matured_through: str
    last_day: str
    labelled: float | None


@dataclass(frozen=True)
class Slice:
    """One group of the holdout. positives: None where nothing is positive, as of a number.

    figure: None where it was not judged; `note` says why.
    """

    column: str
    value: str
    rows: int
    positives: int | None
    figure: Estimate | None
    note: str = ""


@dataclass(frozen=True)
class Slices:
    """Groups of the holdout, one metric each; `groups` by column and value."""

    metric: str
    min_rows: int
    groups: tuple[Slice, ...]


@dataclass(frozen=True)
class OfClass:
    """One class of a category: rows of the holdout that are of it, and those that it was predicted for.

    precision, recall, f1: of predicting it where it is the most likely; roc_auc: of its probability, against
    all other classes. None where there is nothing to divide by. learned: whether the twin had seen it.
    """

    value: str
    rows: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None
    roc_auc: float | None
    learned: bool


@dataclass(frozen=True)
class Spread:
    """How the labels of a number are spread over the holdout, and its errors: score minus label.

    learned_mean: of the labels that the twin learned from, against which its skill is measured. error: mean
    error; error_p05, error_p95: what one error in twenty is below, and above.
    """

    mean: float
    std: float
    low: float
    high: float
    learned_mean: float
    error: float
    error_p05: float
    error_p95: float


@dataclass(frozen=True)
class DayLoss:
    """Sums of the losses of both models over the compared rows of one day."""

    day: str
    rows: int
    candidate: Mapping[str, float]
    incumbent: Mapping[str, float]


@dataclass(frozen=True)
class Paired:
    """A metric of both models on the same rows. difference: candidate minus incumbent, with its interval."""

    candidate: float
    incumbent: float
    difference: Estimate


@dataclass(frozen=True)
class Comparison:
    """The candidate's twin against the incumbent, on rows neither has been trained on.

    against: `refit`, the champion itself, on rows decided after its cut-off; or `twin`, its own unrefitted
    twin, where those rows are of too few days. days: empty where no row can be compared.
    """

    version: str
    against: Literal["refit", "twin"]
    reason: str
    rows: int
    days: tuple[DayLoss, ...]
    metrics: Mapping[str, Paired | None]
    recall: tuple[float, ...] = ()
    precision: tuple[float, ...] = ()


@dataclass(frozen=True)
class Agreement:
    """How alike refit and twin score the holdout; of categories, over the probabilities of all classes.

    correlation: Pearson's; None where a score is constant. concordance: Lin's (1989), which a difference in
    level or spread lowers as well; None where both scores are constant.
    """

    mean_absolute_difference: float
    correlation: float | None
    concordance: float | None


@dataclass(frozen=True)
class Latency:
    """Milliseconds to score one row, encoding included, on the machine of the evaluation.

    Time on the processor, best of several rounds: how long a row waits for a processor that is busy with
    something else says nothing about the model. clock_ms: the median by the clock, which sees what a model
    waits for, or gives to other threads. load_ms: to read the model from its files.
    """

    p50_ms: float
    p99_ms: float
    clock_ms: float
    rows: int
    rounds: int
    load_ms: float


@dataclass(frozen=True)
class EvaluationReport:
    """All figures of one candidate on its holdout; figures are None where the rows do not define them.

    model_hash, twin_hash: of the refit (what would be promoted) and of the twin (what was scored here).
    cutoff, twin_cutoff: greatest decision time each was trained on, UTC. metrics, calibration, thresholds,
    slices, decided, fairness, robustness, classes, spread: of the twin on the holdout. Only of a binary label
    are there prevalence, thresholds, decided, fairness, recall and precision; classes of a category alone,
    spread of a number alone. importance: of each feature to the
    refit, falling; importance_unit: what it is; explained: what weighs most in the groups of `slices`;
    stability: its ranking beside the champion's. data: None where it is not known what was trained on.
    """

    model_hash: str
    twin_hash: str
    cutoff: datetime
    twin_cutoff: datetime
    training_rows: int
    twin_rows: int
    model_bytes: int
    rows: int
    days: int
    first_day: str
    last_day: str
    prevalence: float | None
    seed: int
    replicates: int
    metrics: Mapping[str, Estimate | None]
    calibration: tuple[CalibrationBin, ...]
    thresholds: tuple[Threshold, ...]
    slices: Slices | None
    comparison: Comparison | None
    agreement: Agreement
    importance: Mapping[str, float]
    latency: Latency
    recall: tuple[float, ...]
    precision: tuple[float, ...]
    decided: Decided | None
    fairness: tuple[Fairness, ...] | None
    explained: tuple[Explained, ...]
    stability: Stability | None
    robustness: Robustness
    data: TrainedOn | None
    importance_unit: str = SHAP
    kind: Kind = "binary"
    classes: tuple[OfClass, ...] = ()
    spread: Spread | None = None

    @property
    def content_hash(self) -> str:
        """SHA-256 of all but the latency: the same models on the same rows give the same hash."""
        content = {**json.loads(self.to_json()), "latency": None}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        """The report as JSON; `from_json` reads it back equal."""
        return _adapter().dump_json(self, indent=1).decode()

    @classmethod
    def from_json(cls, text: str) -> EvaluationReport:
        """The report that `to_json` wrote. Raises pydantic.ValidationError for anything else."""
        return _adapter().validate_json(text)


@cache
def _adapter() -> TypeAdapter[EvaluationReport]:
    from pydantic import TypeAdapter

    return TypeAdapter(EvaluationReport)
