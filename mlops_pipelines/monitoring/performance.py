"""How good the champion is on events whose outcome is known, and whether it has become worse.

All figures are of scores given before the outcome was known. Those that decide are skills, which compare
with the rows' own base rate: the base rate itself moves with the season.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from mlops_pipelines.features.coding import codes_of, microseconds, shared_codes
from mlops_pipelines.metrics import interval, measure, resampled_days

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from mlops_pipelines.spec import PerformanceTrigger

    Floats = NDArray[np.float64]
    Labels = NDArray[np.integer]

FIGURES = ("log_loss", "log_loss_skill", "brier", "brier_skill", "roc_auc", "average_precision")
# One-sided: when nothing has changed, at most one judgement in twenty says that it has.
_CONFIDENCE = 0.95
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
    where one cannot be computed, and then `reasons` says why.
    """

    rows: int
    positives: int
    prevalence: float | None
    figures: Mapping[str, float | None]
    reasons: Mapping[str, str] = field(default_factory=dict)


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

    rows, positives: scored events with a label. log_loss, brier: sums of their losses.
    matured: whether no label of the day is waited for any more.
    """

    day: str
    rows: int
    positives: int
    log_loss: float
    brier: float
    matured: bool


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
        log_loss, brier = (found.rows * (found.figures[name] or 0.0) for name in ("log_loss", "brier"))
        return DaySums(self.day, found.rows, found.positives, log_loss, brier, self.maturity.matured)


@dataclass(frozen=True)
class Drop:
    """Quality that has surely fallen by more than is borne.

    metric: the skill. value: over the matured days; upper: what it is at most, at one-sided 95 %.
    champion: what the champion had on its holdout. bound: the drop that is borne. since, until: YYYY-MM-DD.
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


def performance_of(scores: Floats, labels: Labels) -> Performance:
    """Quality of the scores.

    scores: probabilities in [0, 1], shape (rows,). labels: 0 or 1, same shape.
    """
    import numpy as np

    rows, positives = len(labels), int(labels.sum())
    if rows == 0:
        reasons = dict.fromkeys(FIGURES, "no scored event has a label yet")
        return Performance(0, 0, None, dict.fromkeys(FIGURES), reasons)
    measured = measure(labels, scores, np.zeros(rows, dtype=np.intp), np.ones((1, 1)), FIGURES)
    figures = {name: float(measured[name][0]) for name in FIGURES}
    missing = f"all {rows} labels are {int(positives == rows)}"
    return Performance(
        rows,
        positives,
        positives / rows,
        {name: figure if np.isfinite(figure) else None for name, figure in figures.items()},
        {name: missing for name, figure in figures.items() if not np.isfinite(figure)},
    )


def prequential(scores: Floats, labels: Labels) -> dict[str, float | int | None]:
    """`average_precision`, `roc_auc`, `log_loss` and `rows` of scores given before their labels were known.

    scores, labels: of the rows that `prequential_rows` keeps. A figure that cannot be computed is None.
    """
    found = performance_of(scores, labels)
    names = ("average_precision", "roc_auc", "log_loss")
    return {**{name: found.figures[name] for name in names}, "rows": found.rows}


def scored_labels(predictions: pa.Table, labels: pa.Table, as_of: datetime) -> pa.Table:
    """The predictions whose label is known as of `as_of`, in their order.

    predictions: or any rows with an event_id. labels: event_id, label, label_time, known_at, all versions.
    Adds `label` (int8): the version with the greatest known_at <= as_of, ties broken by label_time, then by
    the label; and `label_known_at`: when the first version became known.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    labels = labels.filter(pc.less_equal(labels["known_at"], pa.scalar(as_of.astimezone(UTC))))
    wanted, having = shared_codes([predictions["event_id"]], [labels["event_id"]])
    known, value = microseconds(labels["known_at"]), labels["label"].to_numpy()
    order = np.lexsort((value, microseconds(labels["label_time"]), known, having))
    codes = having[order]
    ends = np.searchsorted(codes, wanted, side="right")
    starts = np.searchsorted(codes, wanted, side="left")
    found = ends > starts
    last, first = order[ends[found] - 1], order[starts[found]]
    return (
        predictions.filter(pa.array(found))
        .append_column("label", pa.array(value[last], pa.int8()))
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


def performance_by_day(scored: pa.Table, maturities: Sequence[DayMaturity]) -> list[DayPerformance]:
    """Quality of each day of `maturities`, in their order; a day without scored labels has no figures.

    scored: day, score, label. Its other days are left out.
    """
    import numpy as np

    days, numbers = _days(scored)
    place = {day: number for number, day in enumerate(days)}
    scores, labels = scored["score"].to_numpy(), scored["label"].to_numpy()
    found = []
    for one in maturities:
        rows = np.flatnonzero(numbers == place.get(one.day, -1))
        found.append(DayPerformance(one.day, one, performance_of(scores[rows], labels[rows])))
    return found


def quality_drop(days: Sequence[DaySums], champion: float, trigger: PerformanceTrigger) -> Drop | None:
    """The drop of the champion's skill beyond what is borne, if it is sure; else None.

    days: of events the champion itself scored, any order, each day once; the last `trigger.over` of them
    count. champion: its skill on its holdout.
    Sure is a drop when at least half of the `over` days are matured and have rows, and the one-sided 95 %
    bound of their skill, from a bootstrap of whole days, is still below champion - drop: rows of one day
    share their weather, so the days are what there is to count. None too where the skill is not defined.
    """
    matured = _matured(days, trigger.over)
    if 2 * timedelta(days=len(matured)) < trigger.over or len(matured) < 2:
        return None
    value, upper = _skill(matured, trigger.metric)
    if upper is None or upper >= champion - trigger.drop:
        return None
    rows = sum(day.rows for day in matured)
    since, until = matured[0].day, matured[-1].day
    return Drop(trigger.metric, value, upper, champion, trigger.drop, len(matured), rows, since, until)


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

    losses = [day.log_loss if metric == "log_loss_skill" else day.brier for day in days]
    sums = np.array([[day.rows for day in days], [day.positives for day in days], losses], dtype=np.float64)
    draws = resampled_days(len(days), replicates=_REPLICATES, seed=_SEED)
    rows, positives, loss = sums @ np.vstack([np.ones(len(days)), draws]).T
    rate = positives / rows
    # 0 / 0 where a replicate drew rows of one outcome only: undefined, which NaN says.
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = -rate * np.log(rate) - (1 - rate) * np.log1p(-rate)
        base = surprise if metric == "log_loss_skill" else rate * (1 - rate)
        skills = np.where(base > 0, 1 - loss / rows / base, np.nan)
    bounds = interval(skills[1:], len(days), confidence=_CONFIDENCE)
    return float(skills[0]), bounds[1] if bounds and np.isfinite(skills[0]) else None


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
