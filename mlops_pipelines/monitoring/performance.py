"""How good the champion is on events whose outcome is known, and whether it has become worse.

All figures are of scores given before the outcome was known. Those that decide are skills, which compare
with the rows' own base rate: the base rate itself moves with the season.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from mlops_pipelines.category_metrics import base_losses
from mlops_pipelines.features.coding import codes_of, microseconds, shared_codes
from mlops_pipelines.metrics import interval, resampled_days
from mlops_pipelines.monitoring.estimates import expected_losses
from mlops_pipelines.outcomes import BINARY, LOGGED_IN, METRICS, from_log
from mlops_pipelines.scored import Scored

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from mlops_pipelines.outcomes import Outcome
    from mlops_pipelines.spec import Kind, PerformanceTrigger

    Floats = NDArray[np.float64]
    Labels = NDArray[Any]

# A day has too few rows for bins.
FIGURES_OF: Mapping[Kind, tuple[str, ...]] = {
    kind: tuple(name for name in names if name != "expected_calibration_error")
    for kind, names in METRICS.items()
}
FIGURES = FIGURES_OF["binary"]
# Over scores of several models: skill against what each of them learned from says little of all.
PREQUENTIAL: Mapping[Kind, tuple[str, ...]] = {
    "binary": ("average_precision", "roc_auc", "log_loss"),
    "number": ("rmse", "mae"),
    "category": ("accuracy", "roc_auc", "log_loss"),
}
# One-sided: when nothing has changed, at most one judgement in twenty says that it has.
_CONFIDENCE = 0.95
# Part of a fall of skill that the scores themselves do not expect, from which it is one of quality.
UNEXPECTED = 0.5
# The 95 % bound of so many replicates moves by a few thousandths of a skill's spread from seed to seed.
_REPLICATES = 2000
_SEED = 17
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Performance:
    """Quality of some scores against their outcomes.

    rows, positives: counts. prevalence: share of positives. figures: mean log loss (nats), mean Brier loss,
    both skills (1 - loss / loss of the rows' own base rate), ROC AUC and average precision, by name; None
    where one cannot be computed, and then `reasons` says why. Of numbers and categories, those of
    `FIGURES_OF`, and neither positives nor prevalence. base_mse: of numbers, mean squared error of predicting
    the mean that the model learned from. counts: of categories, rows by class. surprise: mean log loss less
    what the scores expect of themselves, nats; None of numbers.
    """

    rows: int
    positives: int | None
    prevalence: float | None
    figures: Mapping[str, float | None]
    reasons: Mapping[str, str] = field(default_factory=dict)
    base_mse: float | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    surprise: float | None = None


@dataclass(frozen=True)
class DayMaturity:
    """How complete the outcomes of one day's events are.

    labelled: events whose label is known. overdue: events without one, past the time a label may take.
    """

    day: str
    events: int
    labelled: int
    overdue: int

    @property
    def share(self) -> float:
        """Share of the events whose label is known or past due."""
        return (self.labelled + self.overdue) / self.events

    @property
    def matured(self) -> bool:
        """Whether no label is waited for any more."""
        return self.labelled + self.overdue == self.events


@dataclass(frozen=True)
class DaySums:
    """What a day adds to a figure over several days.

    rows, positives: scored events with a label. log_loss, brier, mse: sums of their losses. base_mse: sum of
    the squared errors of the mean that was learned from. counts: rows by class. What a kind of label does
    not have is 0 or empty. matured: whether no label of the day is waited for any more. surprise: by how much
    the log losses are more than the scores expect; None where they expect nothing.
    """

    day: str
    rows: int
    positives: int
    log_loss: float
    brier: float
    matured: bool
    mse: float = 0.0
    base_mse: float = 0.0
    counts: Mapping[str, int] = field(default_factory=dict)
    surprise: float | None = None


@dataclass(frozen=True)
class DayPerformance:
    """Quality on one day of events, and how complete its outcomes are."""

    day: str
    maturity: DayMaturity
    performance: Performance

    @property
    def sums(self) -> DaySums:
        """The day's part of a figure over several days."""
        found = self.performance
        log_loss, brier, mse = (
            found.rows * (found.figures.get(name) or 0.0) for name in ("log_loss", "brier", "mse")
        )
        return DaySums(
            self.day, found.rows, found.positives or 0, log_loss, brier, self.maturity.matured,
            mse, found.rows * (found.base_mse or 0.0), found.counts,
            None if found.surprise is None else found.rows * found.surprise,
        )  # fmt: skip


@dataclass(frozen=True)
class Drop:
    """Quality that has surely fallen by more than is borne.

    metric: the skill. value: over the matured days; upper: what it is at most, at one-sided 95 %.
    champion: what the champion had on its holdout. bound: the drop that is borne. since, until: YYYY-MM-DD.
    worst: the days on which alone it was below what is borne.
    """

    metric: str
    value: float
    upper: float
    champion: float
    bound: float
    days: int
    rows: int
    since: str
    until: str
    worst: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The finding in words."""
        return (
            f"{self.metric} is {self.value:.3f}, at most {self.upper:.3f}, on {self.rows} rows of "
            f"{self.days} matured days from {self.since} to {self.until}; the champion's holdout had "
            f"{self.champion:.3f}, and a drop of {self.bound:g} is borne"
        )


class Promoted(Protocol):
    """A promotion: which model version became champion, and when (UTC)."""

    @property
    def at(self) -> datetime: ...
    @property
    def mlflow_version(self) -> str: ...


def performance_of(scores: Floats, labels: Labels, outcome: Outcome = BINARY) -> Performance:
    """Quality of the scores.

    scores: what a model of this outcome says, shape (rows,) or (rows, classes); of a binary label
    probabilities. labels: 0 or 1, numbers or texts, shape (rows,).
    """
    import numpy as np
    import pyarrow as pa

    names, rows, binary = FIGURES_OF[outcome.kind], len(labels), outcome.kind == "binary"
    if rows == 0:
        reasons = dict.fromkeys(names, "no scored event has a label yet")
        return Performance(0, 0 if binary else None, None, dict.fromkeys(names), reasons)
    scored = Scored.at_once(pa.array(labels), scores, outcome)
    figures = scored.figures(names)
    missing = f"all {rows} labels are {labels[0]}" if len(np.unique(labels)) == 1 else "it is undefined"
    positives = int(labels.sum()) if binary else None
    found = Performance(
        rows,
        positives,
        None if positives is None else positives / rows,
        figures,
        {name: missing for name, figure in figures.items() if figure is None},
    )
    if outcome.kind != "number":
        surprises = scored.losses["log_loss"] - expected_losses(scored.scores)
        found = replace(found, surprise=float(surprises.mean()))
    if outcome.kind == "number":
        mean = np.full(rows, outcome.mean)
        return replace(
            found, base_mse=Scored.at_once(pa.array(labels), mean, outcome).figures(("mse",))["mse"]
        )
    if outcome.kind == "category":
        counts = np.bincount(scored.labels, minlength=len(scored.outcome.classes)).tolist()
        there = {name: n for name, n in zip(scored.outcome.classes, counts, strict=True) if n}
        return replace(found, counts=there)
    return found


def prequential(scores: Floats, labels: Labels, outcome: Outcome = BINARY) -> dict[str, float | int | None]:
    """The figures of `PREQUENTIAL` and `rows` of scores given before their labels were known.

    scores, labels: of the rows that `prequential_rows` keeps. A figure that cannot be computed is None.
    """
    found = performance_of(scores, labels, outcome)
    return {**{name: found.figures[name] for name in PREQUENTIAL[outcome.kind]}, "rows": found.rows}


def scored_labels(predictions: pa.Table, labels: pa.Table, as_of: datetime) -> pa.Table:
    """The predictions whose label is known as of `as_of`, in their order.

    predictions: or any rows with an event_id. labels: event_id, label, label_time, known_at, all versions.
    Adds `label`, of the labels' type: the version with the greatest known_at <= as_of, ties broken by
    label_time, then by the label; and `label_known_at`: when the first version became known.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    labels = labels.filter(pc.less_equal(labels["known_at"], pa.scalar(as_of.astimezone(UTC))))
    wanted, having = shared_codes([predictions["event_id"]], [labels["event_id"]])
    known = microseconds(labels["known_at"])
    ranks = pc.rank(labels["label"], tiebreaker="dense").to_numpy()
    order = np.lexsort((ranks, microseconds(labels["label_time"]), known, having))
    codes = having[order]
    ends = np.searchsorted(codes, wanted, side="right")
    starts = np.searchsorted(codes, wanted, side="left")
    found = ends > starts
    last, first = order[ends[found] - 1], order[starts[found]]
    return (
        predictions.filter(pa.array(found))
        .append_column("label", labels["label"].take(pa.array(last)))
        .append_column("label_known_at", pa.array(known[first], pa.timestamp("us", tz="UTC")))
    )


def prequential_rows(scored: pa.Table, promotions: Sequence[Promoted]) -> pa.Table:
    """The rows that count as prequential: scored before the label was known, by the champion of then.

    scored: of `scored_labels`. promotions: all of the pipeline, oldest first. Kept is a row whose
    model_version is that of the last promotion before decided_at, and whose label_known_at is after it.
    """
    import numpy as np
    import pyarrow as pa

    since = np.array([(promotion.at - _EPOCH) // _MICROSECOND for promotion in promotions], dtype=np.int64)
    versions = np.array(["", *(promotion.mlflow_version for promotion in promotions)])
    decided = microseconds(scored["decided_at"])
    champion = versions[np.searchsorted(since, decided, side="left")]
    model = scored["model_version"].cast(pa.string()).to_numpy(zero_copy_only=False).astype(str)
    kept = (champion == model) & (microseconds(scored["label_known_at"]) > decided)
    return scored.filter(pa.array(kept))


def maturity(
    events: pa.Table, labels: pa.Table, now: datetime, matures_after: timedelta
) -> list[DayMaturity]:
    """How complete the outcomes of each day's events are at `now`, by day.

    events: day, event_id, event_time. labels: event_id, known_at. matures_after: counted from event_time.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    known = labels.filter(pc.less_equal(labels["known_at"], pa.scalar(now.astimezone(UTC))))
    wanted, having = shared_codes([events["event_id"]], [known["event_id"]])
    labelled = np.isin(wanted, having)
    due = pc.less_equal(events["event_time"], pa.scalar(now.astimezone(UTC) - matures_after)).to_numpy()
    overdue = ~labelled & due
    days, numbers = _days(events)
    counts = [np.bincount(numbers, weights=rows, minlength=len(days)) for rows in (None, labelled, overdue)]
    return [DayMaturity(day, *(int(count[number]) for count in counts)) for number, day in enumerate(days)]


def performance_by_day(
    scored: pa.Table, maturities: Sequence[DayMaturity], outcome: Outcome = BINARY
) -> list[DayPerformance]:
    """Quality of each day of `maturities`, in their order; a day without scored labels has no figures.

    scored: day, label and the log's column of scores, all of one model of this outcome. Its other days are
    left out.
    """
    import numpy as np

    days, numbers = _days(scored)
    place = {day: number for number, day in enumerate(days)}
    labels = scored["label"].to_numpy()
    logged, scores = from_log(outcome.kind, scored[LOGGED_IN[outcome.kind]])
    said = replace(logged, mean=outcome.mean)
    found = []
    for one in maturities:
        rows = np.flatnonzero(numbers == place.get(one.day, -1))
        found.append(DayPerformance(one.day, one, performance_of(scores[rows], labels[rows], said)))
    return found


def quality_drop(days: Sequence[DaySums], champion: float, trigger: PerformanceTrigger) -> Drop | None:
    """The drop of the champion's skill beyond what is borne, if it is sure; else None.

    days: of events the champion itself scored, any order, each day once; the last `trigger.over` of them
    count. champion: its skill on its holdout.
    Sure is a drop when at least half of the `over` days are matured and have rows, and the one-sided 95 %
    bound of their skill, from a bootstrap of whole days, is still below champion - drop: rows of one day
    share their weather, so the days are what there is to count. None too where the skill is not defined.

    In a dull season there is little to know, and skill falls although scores mean what they say. So at least
    half of the fall has to be loss beyond what the scores expect of themselves, which is sure to be there.
    """
    matured = _matured(days, trigger.over)
    if 2 * timedelta(days=len(matured)) < trigger.over or len(matured) < 2:
        return None
    value, upper = _skill(matured, trigger.metric)
    if upper is None or upper >= champion - trigger.drop:
        return None
    if not _unexpected(matured, champion - value):
        return None
    rows = sum(day.rows for day in matured)
    since, until = matured[0].day, matured[-1].day
    worst = _days_below(matured, trigger.metric, champion - trigger.drop)
    return Drop(trigger.metric, value, upper, champion, trigger.drop, len(matured), rows, since, until, worst)


def _matured(days: Sequence[DaySums], over: timedelta) -> list[DaySums]:
    """Matured days with rows among the last `over` days, oldest first."""
    if not days:
        return []
    first = date.fromisoformat(max(day.day for day in days)) - over + timedelta(days=1)
    kept = [day for day in days if day.matured and day.rows and date.fromisoformat(day.day) >= first]
    return sorted(kept, key=lambda day: day.day)


def _skill(days: Sequence[DaySums], metric: str) -> tuple[float, float | None]:
    """Skill over the days, and its one-sided 95 % upper bound (None where either is undefined)."""
    import numpy as np

    sums = np.array([[day.rows for day in days], [_loss(day, metric) for day in days]])
    draws = resampled_days(len(days), replicates=_REPLICATES, seed=_SEED)
    weights = np.vstack([np.ones(len(days)), draws])
    rows, loss = sums @ weights.T
    # 0 / 0 where a replicate drew rows of one outcome only: undefined, which NaN says.
    with np.errstate(divide="ignore", invalid="ignore"):
        base = _base(days, metric, weights, rows)
        skills = np.where(base > 0, 1 - loss / rows / base, np.nan)
    bounds = interval(skills[1:], len(days), confidence=_CONFIDENCE)
    return float(skills[0]), bounds[1] if bounds and np.isfinite(skills[0]) else None


def _unexpected(days: Sequence[DaySums], fall: float) -> bool:
    """Whether losses beyond what the scores expect make up half of a fall of skill, and are no chance.

    Of scores that expect nothing, always.
    """
    import numpy as np

    known = [day.surprise for day in days if day.surprise is not None]
    if len(known) < len(days):
        return True
    sums = np.array([[day.rows for day in days], known], dtype=np.float64)
    draws = resampled_days(len(days), replicates=_REPLICATES, seed=_SEED)
    rows, surprise = sums @ np.vstack([np.ones(len(days)), draws]).T
    bounds = interval(surprise[1:] / rows[1:], len(days), confidence=_CONFIDENCE)
    base = float(_base(days, "log_loss_skill", np.ones((1, len(days))), rows[:1])[0])
    lost = surprise[0] / rows[0] / base
    return bounds is not None and bounds[0] > 0 and bool(lost >= UNEXPECTED * fall)


def _days_below(days: Sequence[DaySums], metric: str, bound: float) -> tuple[str, ...]:
    """The days whose skill is below a bound, against what shows no skill over all of them."""
    import numpy as np

    rows = float(sum(day.rows for day in days))
    base = float(_base(days, metric, np.ones((1, len(days))), np.array([rows]))[0])
    return tuple(day.day for day in days if 1 - _loss(day, metric) / day.rows / base < bound)


def _loss(day: DaySums, metric: str) -> float:
    """The day's sum of the loss that a skill is made of."""
    losses = {"log_loss_skill": "log_loss", "brier_skill": "brier", "r2": "mse"}
    return float(getattr(day, losses[metric]))


def _base(days: Sequence[DaySums], metric: str, weights: Floats, rows: Floats) -> Floats:
    """Mean loss of what shows no skill, under each weighting of the days. rows: under each of them."""
    import numpy as np

    if metric == "r2":
        base: Floats = weights @ np.array([day.base_mse for day in days]) / rows
        return base
    if classes := sorted({name for day in days for name in day.counts}):
        counts = np.array([[day.counts.get(name, 0) for name in classes] for day in days], dtype=np.float64)
        return base_losses(weights @ counts / rows[:, None])[metric.removesuffix("_skill")]
    rate = weights @ np.array([day.positives for day in days], dtype=np.float64) / rows
    surprise = -rate * np.log(rate) - (1 - rate) * np.log1p(-rate)
    return surprise if metric == "log_loss_skill" else rate * (1 - rate)


def _days(table: pa.Table) -> tuple[list[str], NDArray[np.int64]]:
    """The table's days in order, and the position of each row's day among them."""
    import numpy as np
    import pyarrow as pa

    codes = codes_of([table["day"]])
    _, first, numbers = np.unique(codes, return_index=True, return_inverse=True)
    days = table["day"].cast(pa.string()).take(pa.array(first)).to_pylist()
    order = np.argsort(np.array(days, dtype=str), kind="stable")
    rank = np.empty(len(days), dtype=np.int64)
    rank[order] = np.arange(len(days))
    return [days[position] for position in order], rank[numbers]
