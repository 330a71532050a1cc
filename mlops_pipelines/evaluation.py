"""Judging evidence: what a candidate scored on days it never saw, beside the champion on the same rows.

The holdout is scored by the candidate's twin, which was trained on the days before it. Everything random is
seeded; only the latency depends on the moment, which is why a report is made once and then read back.
"""

from __future__ import annotations

import hashlib
import json
import time

# pydantic reads the annotations of a report at run time.
from collections.abc import Mapping  # noqa: TC003
from dataclasses import dataclass
from datetime import datetime  # noqa: TC003
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal

from mlops_pipelines import markdown
from mlops_pipelines.errors import TerminalError
from mlops_pipelines.explanation import Explained, Stability, by_group, ranked, stability
from mlops_pipelines.fairness import Fairness, fairness
from mlops_pipelines.metrics import (
    METRICS,
    REPLICATES,
    Estimate,
    calibration_bins,
    estimate,
    estimates,
    measure,
    resampled_days,
    row_losses,
)
from mlops_pipelines.robustness import Robustness, robustness
from mlops_pipelines.spec import Decision
from mlops_pipelines.training import SHAP

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray
    from pydantic import TypeAdapter

    from mlops_pipelines.spec import Gates, SlicesGate
    from mlops_pipelines.training import Candidate, Incumbent, TrainedModel

    Floats = NDArray[np.float64]
    Labels = NDArray[np.int8]
    Indices = NDArray[np.intp]
    Draw = Callable[[int], Floats]

THRESHOLDS = tuple(step / 10 for step in range(1, 10))
# TreeSHAP takes up to 1 ms a row; the mean over this many is within a few per cent of that over all.
IMPORTANCE_ROWS = 1_000
# Rows of a Markdown table; the JSON holds them all.
SHOWN_ROWS = 12
# Groups of fewer of these are not explained by themselves.
EXPLAINED_ROWS = 30
LATENCY_ROWS = 200
LATENCY_ROUNDS = 5


@dataclass(frozen=True)
class CalibrationBin:
    """One of ten bins of equal frequency: mean score, observed share of 1, rows."""

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
    flagged: Estimate
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
    """One group of the holdout. figure: None where it was not judged; `note` says why."""

    column: str
    value: str
    rows: int
    positives: int
    figure: Estimate | None
    note: str = ""


@dataclass(frozen=True)
class Slices:
    """Groups of the holdout, one metric each; `groups` by column and value."""

    metric: str
    min_rows: int
    groups: tuple[Slice, ...]


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
    """How alike refit and twin score the holdout. correlation: Pearson's; None where a score is constant."""

    mean_absolute_difference: float
    correlation: float | None


@dataclass(frozen=True)
class Latency:
    """Milliseconds to score one row, encoding included, on the machine of the evaluation.

    Time on the processor, best of several rounds: how long a row waits for a processor that is busy with
    something else says nothing about the model. load_ms: to read the model from its files.
    """

    p50_ms: float
    p99_ms: float
    rows: int
    rounds: int
    load_ms: float


@dataclass(frozen=True)
class EvaluationReport:
    """All figures of one candidate on its holdout; figures are None where the rows do not define them.

    model_hash, twin_hash: of the refit (what would be promoted) and of the twin (what was scored here).
    cutoff, twin_cutoff: greatest decision time each was trained on, UTC. metrics, calibration, thresholds,
    slices, decided, fairness, robustness: of the twin on the holdout. importance: of each feature to the
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
    prevalence: float
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
    decided: Decided
    fairness: tuple[Fairness, ...] | None
    explained: tuple[Explained, ...]
    stability: Stability | None
    robustness: Robustness
    data: TrainedOn | None
    importance_unit: str = SHAP

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


def evaluate(
    candidate: Candidate,
    incumbent: Incumbent | None,
    *,
    gates: Gates,
    slicing: pa.Table | None = None,
    decision: Decision | None = None,
    sensitive: Sequence[str] = (),
    data: TrainedOn | None = None,
    seed: int = 17,
    replicates: int = REPLICATES,
) -> EvaluationReport:
    """The candidate's figures on its holdout, with 95 % intervals from a bootstrap of whole days.

    incumbent: the champion, or None where there is none yet. gates: which slices, and how many days the
    incumbent must have left unseen. slicing: event_id and the columns of `sliced_by`, for at least the
    holdout's events; by default those columns are looked for in the holdout. sensitive: columns that
    `gates.fairness` looks at where it names none. data: what the candidate was trained on.
    Raises TerminalError if a column to slice by is missing.
    """
    holdout, refit, twin = candidate.holdout, candidate.refit, candidate.twin
    scored = _Scored.of(holdout, twin.predict(holdout))
    draw = partial(resampled_days, replicates=replicates, seed=seed)
    draws = draw(len(scored.days))
    recall, precision = _curve(scored)
    decision = decision or Decision()
    names = [feature.name for feature in refit.features]
    explained_rows = _spread(holdout, IMPORTANCE_ROWS)
    contributions = refit.contributions(explained_rows)
    weights = ranked(contributions, names)
    return EvaluationReport(
        model_hash=refit.hash,
        twin_hash=twin.hash,
        cutoff=refit.cutoff,
        twin_cutoff=twin.cutoff,
        training_rows=refit.rows,
        twin_rows=twin.rows,
        model_bytes=refit.size_bytes,
        rows=holdout.num_rows,
        days=len(scored.days),
        first_day=scored.days[0],
        last_day=scored.days[-1],
        prevalence=float(scored.labels.mean()),
        seed=seed,
        replicates=replicates,
        metrics=scored.estimates(draws),
        calibration=_calibration(scored),
        thresholds=tuple(_threshold(scored, score) for score in THRESHOLDS),
        slices=_slices(gates.slices, holdout, slicing, scored, draws) if gates.slices else None,
        comparison=_comparison(incumbent, holdout, scored.scores, gates, draw) if incumbent else None,
        agreement=_agreement(refit.predict(holdout), scored.scores),
        importance=weights,
        latency=latency(refit, holdout),
        recall=recall,
        precision=precision,
        decided=_decided(scored, decision, draws),
        fairness=_fairness(
            gates, sensitive, holdout=holdout, slicing=slicing, scored=scored, decision=decision
        ),
        explained=_explained(gates, explained_rows, slicing, contributions, names),
        stability=_stability(incumbent, holdout, weights),
        robustness=robustness(twin, holdout, seed=seed, metric=_roc_auc),
        data=data,
        importance_unit=refit.importance_unit,
    )


def importance(model: TrainedModel, table: pa.Table, *, rows: int = IMPORTANCE_ROWS) -> dict[str, float]:
    """Mean absolute contribution of each feature, log odds, falling; over `rows` rows spread over the table.

    It is what the model's `importance_unit` says.
    """
    return ranked(model.contributions(_spread(table, rows)), [feature.name for feature in model.features])


def sliced_by(gates: Gates, sensitive: Sequence[str]) -> tuple[str, ...]:
    """Event columns whose groups an evaluation looks at."""
    slices = gates.slices.by if gates.slices else ()
    return tuple(dict.fromkeys((*slices, *_fairness_by(gates, sensitive))))


def _fairness_by(gates: Gates, sensitive: Sequence[str]) -> tuple[str, ...]:
    if gates.fairness is None:
        return ()
    return tuple(sensitive) if gates.fairness.by is None else gates.fairness.by


def _spread(table: pa.Table, rows: int) -> pa.Table:
    """So many rows, spread evenly over the table."""
    import numpy as np

    picked = np.linspace(0, table.num_rows - 1, min(rows, table.num_rows)).astype(np.int64)
    return table.take(np.unique(picked))


def latency(model: TrainedModel, table: pa.Table) -> Latency:
    """Median and 99th percentile of scoring one row: the best of several rounds."""
    import numpy as np

    picked = np.linspace(0, table.num_rows - 1, LATENCY_ROWS).astype(np.int64)
    rows = table.select([feature.name for feature in model.features]).take(picked).to_pylist()
    model.predict_one(rows[0])
    percentiles = []
    for _ in range(LATENCY_ROUNDS):
        taken = []
        for row in rows:
            started = time.thread_time()
            model.predict_one(row)
            taken.append(time.thread_time() - started)
        percentiles.append(np.percentile(taken, [50, 99]) * 1000)
    p50, p99 = np.min(percentiles, axis=0)
    return Latency(float(p50), float(p99), LATENCY_ROWS, LATENCY_ROUNDS, _load_ms(model, rows[0]))


def _load_ms(model: TrainedModel, row: Mapping[str, Any]) -> float:
    """From the texts of its files to the first score, milliseconds on the processor: the best of some."""
    files, taken = model.to_files(), []
    for _ in range(LATENCY_ROUNDS):
        started = time.thread_time()
        type(model).from_files(files).predict_one(row)
        taken.append(time.thread_time() - started)
    return min(taken) * 1000


def pictures(report: EvaluationReport) -> dict[str, bytes]:
    """PNG by name: `precision_recall` (where a row is positive), `calibration`, `importance`.

    Drawn from the report alone.
    """
    from mlops_pipelines import figures

    curves = {"candidate": (report.recall, report.precision)}
    if report.comparison and report.comparison.recall:
        name = f"champion v{report.comparison.version}, {report.comparison.rows:,} rows"
        curves[name] = (report.comparison.recall, report.comparison.precision)
    bins = report.calibration
    curve = figures.precision_recall(curves, prevalence=report.prevalence) if report.recall else None
    return {
        **({"precision_recall": curve} if curve else {}),
        "calibration": figures.calibration(
            [b.predicted for b in bins], [b.observed for b in bins], [b.rows for b in bins]
        ),
        "importance": figures.bars(report.importance, title="Importance", unit=report.importance_unit),
    }


def as_markdown(report: EvaluationReport) -> str:
    """The report as Markdown tables: metrics, comparison, slices, thresholds, features."""
    parts = [
        f"{report.rows:,} rows of {report.days} days, {report.first_day} to {report.last_day}; "
        f"{report.prevalence:.1%} are positive. Trained on {report.twin_rows:,} rows before them; "
        f"the refit on {report.training_rows:,} rows differs from it by "
        f"{report.agreement.mean_absolute_difference:.4f} a score on average. Intervals: 95 %, whole days "
        "resampled.",
        metric_table(report),
        comparison_sentence(report.comparison) if report.comparison else "",
        _decided_sentence(report.decided),
        slice_table(report.slices) if report.slices else "",
        fairness_table(report.fairness) if report.fairness else "",
        _threshold_table(report.thresholds),
        _importance_table(report),
        stability_sentence(report.stability) if report.stability else "",
        _explained_table(report.explained) if report.explained else "",
        _robustness_table(report.robustness),
        f"One row is scored in {report.latency.p50_ms:.2f} ms (median), {report.latency.p99_ms:.2f} (p99); "
        f"the model is {report.model_bytes / 1000:,.0f} kB of text, read in {report.latency.load_ms:.0f} ms.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


@dataclass(frozen=True)
class _Scored:
    """Rows with their outcomes and scores. day_of_row: position in `days`, which are distinct, ascending."""

    labels: Labels
    scores: Floats
    days: list[str]
    day_of_row: Indices

    @classmethod
    def of(cls, table: pa.Table, scores: Floats) -> _Scored:
        return cls(_labels(table), scores, *_days(table))

    def estimates(self, draws: Floats, metrics: Collection[str] = METRICS) -> dict[str, Estimate | None]:
        return estimates(self.labels, self.scores, self.day_of_row, draws, metrics)

    def measure(self, weights: Floats) -> dict[str, Floats]:
        return measure(self.labels, self.scores, self.day_of_row, weights)

    def where(self, inside: Indices) -> _Scored:
        return _Scored(self.labels[inside], self.scores[inside], self.days, self.day_of_row[inside])

    def loss_sums(self) -> list[dict[str, float]]:
        """The losses of each day, summed."""
        import numpy as np

        losses = row_losses(self.labels, self.scores)
        sums = {name: np.bincount(self.day_of_row, weights=values) for name, values in losses.items()}
        return [{name: float(values[day]) for name, values in sums.items()} for day in range(len(self.days))]


def _comparison(
    incumbent: Incumbent, holdout: pa.Table, scores: Floats, gates: Gates, draw: Draw
) -> Comparison:
    against, reason = _who_stands(incumbent, holdout, gates.champion.min_days if gates.champion else 1)
    model = incumbent.refit if against == "refit" else incumbent.twin
    unseen = _decided_after(holdout, model.cutoff)
    rows = holdout.filter(unseen)
    if rows.num_rows == 0:
        return Comparison(incumbent.version, against, reason, 0, (), dict.fromkeys(METRICS))
    theirs = _Scored.of(rows, model.predict(_as_fed(incumbent, rows)))
    ours = _Scored.of(rows, scores[unseen.to_numpy()])
    return _compared(ours, theirs, incumbent.version, against, reason, draw=draw)


def side_by_side(first: Incumbent, second: Incumbent, rows: pa.Table, *, seed: int = 17) -> Comparison:
    """The twins of two models on those of the rows that neither was trained on; the first minus the second.

    rows: labelled examples of a training set. A model of other vectors than theirs brings its own.
    Raises TerminalError if it has none of an event.
    """
    unseen = rows.filter(_decided_after(rows, max(first.twin.cutoff, second.twin.cutoff)))
    draw = partial(resampled_days, replicates=REPLICATES, seed=seed)
    if unseen.num_rows == 0:
        reason = "no row of the later training set was decided after what both twins learned from"
        return Comparison(second.version, "twin", reason, 0, (), dict.fromkeys(METRICS))
    ours, theirs = (_Scored.of(unseen, one.twin.predict(_as_fed(one, unseen))) for one in (first, second))
    reason = f"the twins of both have left {len(ours.days)} days unseen"
    return _compared(ours, theirs, second.version, "twin", reason, draw=draw)


def _compared(
    ours: _Scored,
    theirs: _Scored,
    version: str,
    against: Literal["refit", "twin"],
    reason: str,
    *,
    draw: Draw,
) -> Comparison:
    """Both on the same rows."""
    import numpy as np

    weights = np.vstack([np.ones(len(ours.days)), draw(len(ours.days))])
    recall, precision = _curve(theirs)
    return Comparison(
        version=version,
        against=against,
        reason=reason,
        rows=ours.labels.size,
        days=_day_losses(ours, theirs),
        metrics=_paired(ours.measure(weights), theirs.measure(weights), len(ours.days)),
        recall=recall,
        precision=precision,
    )


def _as_fed(incumbent: Incumbent, rows: pa.Table) -> pa.Table:
    """The rows' events, in their order, as the incumbent is fed them."""
    import pyarrow.compute as pc

    if incumbent.vectors is None:
        return rows
    known = incumbent.vectors["event_id"].combine_chunks()
    places = pc.index_in(rows["event_id"].cast(known.type), value_set=known)
    if places.null_count:
        raise TerminalError(
            f"{places.null_count} events of the holdout have no vector by the features of version "
            f"{incumbent.version}.",
            expected="one of every event, by each feature set in use",
            remedy="materialize feature_tiles and examples of the holdout's days, then retrain",
        )
    return incumbent.vectors.take(places)


def _who_stands(
    incumbent: Incumbent, holdout: pa.Table, min_days: int
) -> tuple[Literal["refit", "twin"], str]:
    """Which of the incumbent's models is compared, and why."""

    def days_unseen(model: TrainedModel) -> int:
        return len(_days(holdout.filter(_decided_after(holdout, model.cutoff)))[0])

    by_refit, by_twin = days_unseen(incumbent.refit), days_unseen(incumbent.twin)
    if by_refit >= min_days or by_refit >= by_twin:
        return "refit", f"the champion has left {by_refit} days of the holdout unseen"
    return "twin", (
        f"the champion has left only {by_refit} days of the holdout unseen (at least {min_days} are asked "
        f"for), so its unrefitted twin stands for it, which has left {by_twin}"
    )


def _paired(ours: Mapping[str, Floats], theirs: Mapping[str, Floats], days: int) -> dict[str, Paired | None]:
    paired: dict[str, Paired | None] = {}
    for name in ours:
        difference = estimate(ours[name] - theirs[name], days)
        if difference is None:
            paired[name] = None
        else:
            paired[name] = Paired(float(ours[name][0]), float(theirs[name][0]), difference)
    return paired


def day_losses(rows: pa.Table, ours: Floats, theirs: Floats) -> tuple[DayLoss, ...]:
    """Losses by day of two models' scores of the same rows, the first's as the candidate's.

    rows: day and label of each.
    """
    if rows.num_rows == 0:
        return ()
    return _day_losses(_Scored.of(rows, ours), _Scored.of(rows, theirs))


def _day_losses(ours: _Scored, theirs: _Scored) -> tuple[DayLoss, ...]:
    import numpy as np

    columns = zip(ours.days, np.bincount(ours.day_of_row), ours.loss_sums(), theirs.loss_sums(), strict=True)
    return tuple(DayLoss(day, int(rows), candidate, incumbent) for day, rows, candidate, incumbent in columns)


def _slices(
    gate: SlicesGate, holdout: pa.Table, slicing: pa.Table | None, scored: _Scored, draws: Floats
) -> Slices:
    import numpy as np

    groups = []
    for column in gate.by:
        names, group_of_row = np.unique(_slice_values(holdout, slicing, column), return_inverse=True)
        for group, name in enumerate(names):
            rows = scored.where(np.flatnonzero(group_of_row == group))
            groups.append(_slice(gate, column, str(name), rows, draws))
    return Slices(gate.metric, gate.min_rows, tuple(groups))


def _slice(gate: SlicesGate, column: str, value: str, scored: _Scored, draws: Floats) -> Slice:
    rows, positives = int(scored.labels.size), int(scored.labels.sum())
    if rows < gate.min_rows:
        return Slice(column, value, rows, positives, None, f"fewer than {gate.min_rows} rows")
    if positives in {0, rows}:
        return Slice(column, value, rows, positives, None, "one outcome only")
    return Slice(column, value, rows, positives, scored.estimates(draws, (gate.metric,))[gate.metric])


def _slice_values(holdout: pa.Table, slicing: pa.Table | None, column: str) -> NDArray[np.str_]:
    """The column's value for each row of the holdout, as text; `missing` where it is null."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    table = holdout if slicing is None else slicing
    if column not in table.column_names:
        raise TerminalError(
            f"Slices are asked for by {column}, which is not among {table.column_names}.",
            expected="the columns of gates.slices.by beside the holdout",
        )
    values = table[column].cast(pa.string()).fill_null("missing")
    if slicing is not None:
        at = pc.index_in(
            holdout["event_id"].cast(pa.string()), value_set=slicing["event_id"].cast(pa.string())
        )
        if at.null_count:
            raise TerminalError(f"{at.null_count} rows of the holdout have no value of {column} to slice by.")
        values = values.take(at)
    return np.array(values.to_pylist(), dtype=np.str_)


def _decided(scored: _Scored, decision: Decision, draws: Floats) -> Decided:
    import numpy as np

    flagged = scored.scores >= decision.at_least
    positive = scored.labels == 1
    weights = np.vstack([np.ones(draws.shape[1]), draws])

    def summed(rows: NDArray[np.bool_]) -> Floats:
        return weights @ np.bincount(scored.day_of_row[rows], minlength=draws.shape[1]).astype(np.float64)

    true_positive, false_positive = summed(flagged & positive), summed(flagged & ~positive)
    false_negative, true_negative = summed(~flagged & positive), summed(~flagged & ~positive)
    rows = true_positive + false_positive + false_negative + true_negative
    cost = None
    if decision.cost is not None:
        declared = decision.cost
        cost = (
            declared.true_positive * true_positive
            + declared.false_positive * false_positive
            + declared.false_negative * false_negative
            + declared.true_negative * true_negative
        ) / np.where(rows > 0, rows, np.nan)

    def share(of: Floats, among: Floats) -> Estimate | None:
        return estimate(of / np.where(among > 0, among, np.nan), len(scored.days))

    flagged_share = share(true_positive + false_positive, rows)
    assert flagged_share is not None  # noqa: S101 - there are rows
    return Decided(
        decision.at_least,
        flagged_share,
        share(true_positive, true_positive + false_positive),
        share(true_positive, true_positive + false_negative),
        share(false_positive, false_positive + true_negative),
        None if cost is None else estimate(cost, len(scored.days)),
    )


def _fairness(
    gates: Gates,
    sensitive: Sequence[str],
    *,
    holdout: pa.Table,
    slicing: pa.Table | None,
    scored: _Scored,
    decision: Decision,
) -> tuple[Fairness, ...] | None:
    if gates.fairness is None:
        return None
    decided = scored.scores >= decision.at_least
    return tuple(
        fairness(
            column, _slice_values(holdout, slicing, column), scored.labels, decided, gates.fairness.min_rows
        )
        for column in _fairness_by(gates, sensitive)
    )


def _explained(
    gates: Gates, rows: pa.Table, slicing: pa.Table | None, contributions: Floats, names: Sequence[str]
) -> tuple[Explained, ...]:
    """Of the groups of the slices that have rows enough among those that were explained."""
    by = gates.slices.by if gates.slices else ()
    return tuple(
        one
        for column in by
        for one in by_group(
            contributions, names, column, _slice_values(rows, slicing, column), EXPLAINED_ROWS
        )
    )


def _stability(
    incumbent: Incumbent | None, holdout: pa.Table, weights: Mapping[str, float]
) -> Stability | None:
    if incumbent is None:
        return None
    theirs = importance(incumbent.refit, _as_fed(incumbent, holdout))
    return stability(weights, theirs, incumbent.version)


def _roc_auc(labels: Floats, scores: Floats) -> float | None:
    import numpy as np

    one_day = np.zeros(labels.size, dtype=np.intp)
    figure = measure(labels.astype(np.int8), scores, one_day, np.ones((1, 1)), ("roc_auc",))["roc_auc"][0]
    return float(figure) if np.isfinite(figure) else None


def _calibration(scored: _Scored) -> tuple[CalibrationBin, ...]:
    import numpy as np

    bins = calibration_bins(scored.scores)
    return tuple(
        CalibrationBin(
            float(scored.scores[inside].mean()), float(scored.labels[inside].mean()), int(inside.sum())
        )
        for inside in (bins == number for number in np.unique(bins))
    )


def _threshold(scored: _Scored, score: float) -> Threshold:
    flagged = scored.scores >= score
    alarms, hits = int(flagged.sum()), int(scored.labels[flagged].sum())
    rows, positives = int(scored.labels.size), int(scored.labels.sum())
    return Threshold(
        score=score,
        flagged=alarms / rows,
        precision=hits / alarms if alarms else None,
        recall=hits / positives if positives else None,
        false_positive_rate=(alarms - hits) / (rows - positives) if rows > positives else None,
    )


def _agreement(refit: Floats, twin: Floats) -> Agreement:
    import numpy as np

    correlation = float(np.corrcoef(refit, twin)[0, 1]) if min(np.ptp(refit), np.ptp(twin)) > 0 else None
    return Agreement(float(np.abs(refit - twin).mean()), correlation)


def _curve(scored: _Scored) -> tuple[tuple[float, ...], tuple[float, ...]]:
    from mlops_pipelines.figures import precision_recall_points

    if not scored.labels.any():
        return (), ()
    recall, precision = precision_recall_points(scored.labels, scored.scores)
    return tuple(recall), tuple(precision)


def _labels(table: pa.Table) -> Labels:
    import pyarrow as pa

    labels: Labels = table["label"].cast(pa.int8()).to_numpy()
    return labels


def _days(table: pa.Table) -> tuple[list[str], Indices]:
    """The distinct days, ascending, and the position among them of each row's."""
    import numpy as np
    import pyarrow as pa

    days, day_of_row = np.unique(
        np.asarray(table["day"].cast(pa.string()).to_pylist(), dtype="U10"), return_inverse=True
    )
    return [str(day) for day in days], day_of_row


def _decided_after(table: pa.Table, cutoff: datetime) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.greater(table["decision_time"], pa.scalar(cutoff, pa.timestamp("us", tz="UTC")))


def said(figure: Estimate | None) -> str:
    """A figure with its interval, as text."""
    if figure is None:
        return "undefined"
    if figure.lower is None or figure.upper is None:
        return f"{figure.value:.4f}"
    return f"{figure.value:.4f} ({figure.lower:.4f} to {figure.upper:.4f})"


def metric_rows(report: EvaluationReport, name: str) -> list[list[str]]:
    """Head and rows of a table of the metrics, beside the champion's where there is one.

    name: what to call the model.
    """
    comparison = report.comparison
    head, rows = ["metric", name], [[metric, said(figure)] for metric, figure in report.metrics.items()]
    if comparison is not None:
        head += ["same rows", f"champion v{comparison.version}", "difference"]
        rows = [[*row, *_beside(comparison.metrics.get(row[0]))] for row in rows]
    return [head, *rows]


def metric_table(report: EvaluationReport) -> str:
    """Markdown of `metric_rows`."""
    head, *rows = metric_rows(report, "candidate")
    return markdown.table(head, rows)


def comparison_sentence(comparison: Comparison) -> str:
    """On which rows candidate and champion were compared, and why on those."""
    return (
        f"Compared on {comparison.rows:,} rows of {len(comparison.days)} days: {comparison.reason}."
        if comparison.days
        else f"No row could be compared: {comparison.reason}."
    )


def slice_table(slices: Slices) -> str:
    """Markdown table of the judged slices, the worst first, and the names of the others."""
    judged = sorted(
        ((g, g.figure) for g in slices.groups if g.figure), key=lambda each: (each[1].value, each[0].column)
    )
    rows = [
        [f"{g.column} = {g.value}", f"{g.rows:,}", f"{g.positives / g.rows:.1%}", said(figure)]
        for g, figure in judged[:SHOWN_ROWS]
    ]
    table = markdown.table(["slice, worst first", "rows", "positive", slices.metric], rows) if rows else ""
    unjudged = [g for g in slices.groups if not g.figure]
    names = ", ".join(f"{g.column} = {g.value} ({g.rows}, {g.note})" for g in unjudged[:SHOWN_ROWS])
    more = f" and {len(unjudged) - SHOWN_ROWS} more" if len(unjudged) > SHOWN_ROWS else ""
    return "\n\n".join(part for part in (table, f"Not judged: {names}{more}." if unjudged else "") if part)


def _beside(paired: Paired | None) -> list[str]:
    if paired is None:
        return ["undefined"] * 3
    return [f"{paired.candidate:.4f}", f"{paired.incumbent:.4f}", said(paired.difference)]


def _threshold_table(thresholds: Sequence[Threshold]) -> str:
    rows = [
        [
            f"{t.score:.1f}",
            f"{t.flagged:.1%}",
            *(
                "" if share is None else f"{share:.3f}"
                for share in (t.precision, t.recall, t.false_positive_rate)
            ),
        ]
        for t in thresholds
    ]
    return markdown.table(["score from", "flagged", "precision", "recall", "false positive rate"], rows)


def _decided_sentence(decided: Decided) -> str:
    cost = f" A decision costs {said(decided.cost)} on average." if decided.cost else ""
    return (
        f"At the pipeline's threshold, {decided.score:g}, {said(decided.flagged)} of the rows are decided as "
        f"positive: precision {said(decided.precision)}, recall {said(decided.recall)}, false positive rate "
        f"{said(decided.false_positive_rate)}.{cost}"
    )


def fairness_table(every: Sequence[Fairness]) -> str:
    """Markdown table of the differences between groups, and of the groups."""

    def share(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}"

    differences = markdown.table(
        ["groups by", "judged", "demographic parity difference", "equalized odds difference"],
        [
            [
                one.column,
                f"{sum(not group.note for group in one.groups)} of {len(one.groups)}",
                share(one.demographic_parity) or "not judged",
                share(one.equalized_odds) or "not judged",
            ]
            for one in every
        ],
    )
    groups = [
        [
            f"{one.column} = {group.value}", f"{group.rows:,}", share(group.decided), share(group.found),
            share(group.accused), group.note,
        ]
        for one in every
        for group in sorted(one.groups, key=lambda group: (bool(group.note), -group.rows))[:SHOWN_ROWS]
    ]  # fmt: skip
    head = ["group", "rows", "decided as positive", "true positive rate", "false positive rate", "note"]
    return f"{differences}\n\n{markdown.table(head, groups)}"


def stability_sentence(stability: Stability) -> str:
    """How far the ranking of the features is the champion's."""
    if stability.correlation is None:
        return f"Fewer than three features are shared with champion v{stability.version}."
    moved = "; ".join(f"{name} from {before} to {now}" for name, before, now in stability.moved)
    return (
        f"Ranked beside champion v{stability.version}, over {stability.features} features: correlation "
        f"{stability.correlation:.2f} (Spearman). Moved furthest: {moved or 'none'}."
    )


def _explained_table(every: Sequence[Explained]) -> str:
    rows = [
        [
            f"{one.column} = {one.value}",
            f"{one.rows:,}",
            ", ".join(f"{name} {value:.3f}" for name, value in list(one.importance.items())[:3]),
        ]
        for one in every[:SHOWN_ROWS]
    ]
    return markdown.table(["group", "rows explained", "what weighs most"], rows)


def _robustness_table(robust: Robustness) -> str:
    def area(value: float | None) -> str:
        return "undefined" if value is None else f"{value:.4f}"

    rows = [
        ["as they are", "", "", area(robust.roc_auc)],
        *(
            [one.name, f"{one.mean_change:.4f}", f"{one.p95_change:.4f}", area(one.roc_auc)]
            for one in robust.disturbed
        ),
    ]
    return markdown.table(
        [f"inputs of {robust.rows:,} rows", "mean change of a score", "p95", "roc_auc"], rows
    )


def _importance_table(report: EvaluationReport) -> str:
    rows = [[name, f"{value:.4f}"] for name, value in list(report.importance.items())[:SHOWN_ROWS]]
    return markdown.table(["feature", report.importance_unit], rows)


@cache
def _adapter() -> TypeAdapter[EvaluationReport]:
    from pydantic import TypeAdapter

    return TypeAdapter(EvaluationReport)
